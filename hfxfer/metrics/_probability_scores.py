"""log_loss, ece and roc_auc with intervals, from probabilities that are read in blocks. numpy and scipy only."""

from __future__ import annotations

import numpy as np

from hfxfer.metrics._calibration import NUM_BINS
from hfxfer.metrics._calibration import bins_of
from hfxfer.metrics._calibration import confidence_and_correct
from hfxfer.metrics._counts import harmonic_rows
from hfxfer.metrics._placements import mean_placements
from hfxfer.metrics._placements import ranked_columns
from hfxfer.metrics._probabilities import check_probabilities
from hfxfer.metrics._probabilities import row_losses
from hfxfer.metrics._probability_blocks import Probabilities
from hfxfer.metrics._resampling import UNDEFINED
from hfxfer.metrics._resampling import Atoms
from hfxfer.metrics._resampling import Estimate
from hfxfer.metrics._resampling import Resamples
from hfxfer.metrics._resampling import Z
from hfxfer.metrics._resampling import bounded_interval
from hfxfer.metrics._resampling import mean_interval
from hfxfer.metrics._resampling import resample
from hfxfer.metrics._resampling import wilson_estimate

# Columns of the statistics of a row.
LOSS, SQUARED_LOSS, AREA, GAPS = 0, 1, 2, slice(3, 3 + NUM_BINS)


def probability_estimates(
    references: np.ndarray, probabilities: Probabilities, num_resamples: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    """log_loss, ece, roc_auc. references: (N,) class indices, or (N, C) of 0/1 for multi-label."""
    if len(references) == 0:
        return dict.fromkeys(("roc_auc", "log_loss", "ece"), UNDEFINED)
    multi_label = references.ndim == 2
    statistics, noise = row_statistics(references, probabilities)
    columns = ranked_columns(probabilities.num_classes, multi_label)
    area, influence, smaller = mean_placements(
        probabilities, lambda k: np.asarray(references[:, k] == 1 if multi_label else references == k), columns
    )
    statistics[:, AREA] = influence
    drawn = resample(Atoms(lambda block: statistics[block], np.ones(len(statistics), np.int64)), num_resamples, rng)
    num_rows, num_entries = len(references), probabilities.num_classes if multi_label else 1

    def area_of(sums):
        # The rows left out by the jackknife count as its share of the influence, which sums to 0.
        return area + sums[:, AREA] / num_rows

    chance = np.log(2 if multi_label else max(2, probabilities.num_classes))
    return {
        "roc_auc": UNDEFINED if area is None else bounded_interval(drawn, area_of, fewest_rows=harmonic_rows(smaller)),
        "log_loss": mean_interval(drawn, LOSS, SQUARED_LOSS, chance),
        "ece": calibration_interval(drawn, statistics, noise, num_entries),
    }


def calibration_estimate(references: np.ndarray, probabilities: Probabilities, num_resamples: int, rng: np.random.Generator) -> Estimate:
    """ece alone."""
    if len(references) == 0:
        return UNDEFINED
    statistics, noise = row_statistics(references, probabilities)
    drawn = resample(Atoms(lambda block: statistics[block], np.ones(len(statistics), np.int64)), num_resamples, rng)
    return calibration_interval(drawn, statistics, noise, probabilities.num_classes if references.ndim == 2 else 1)


def row_statistics(references: np.ndarray, probabilities: Probabilities) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3 + 15): loss, its square, room for the ROC influence, and the calibration gap summed in each bin.

    Also (15,): the variance of those sums in a calibrated model, sum of p (1 - p).
    """
    statistics, noise = np.zeros((len(references), GAPS.stop)), np.zeros(NUM_BINS)
    for start, block in probabilities.blocks_of_rows():
        rows = slice(start, start + len(block))
        chance = check_probabilities(block)
        known = np.asarray(references[rows])
        statistics[rows, LOSS] = row_losses(known, chance)
        confidence, correct = confidence_and_correct(known, chance)
        confidence, correct = (entries.reshape(len(block), -1) for entries in (confidence, correct))
        bins = bins_of(confidence)
        place = bins + np.arange(len(block))[:, None] * NUM_BINS
        gaps = np.bincount(place.ravel(), (correct - confidence).ravel(), len(block) * NUM_BINS)
        statistics[rows, GAPS] = gaps.reshape(-1, NUM_BINS)
        noise += np.bincount(bins.ravel(), np.maximum(confidence * (1 - confidence), 0).ravel(), NUM_BINS)
    statistics[:, SQUARED_LOSS] = statistics[:, LOSS] ** 2
    return statistics, noise


def calibration_interval(drawn: Resamples, statistics: np.ndarray, noise: np.ndarray, num_entries: int) -> Estimate:
    """Expected calibration error, which noise only ever raises: in a calibrated model it is all noise.

    low: value - the noise of a calibrated model - 1.96 standard deviations of the resamples; 0 means that calibration
    may be perfect. high: value - the noise that the resamples add + 1.96 standard deviations, and at least the value.
    Both err on the wide side (98 to 100 % coverage). num_entries: confidences a row.
    """
    num_entries = num_entries * drawn.atoms.num_rows
    value = float(np.abs(drawn.total[GAPS]).sum() / num_entries)
    replicates = np.abs(drawn.sums[:, GAPS]).sum(axis=1) / num_entries
    spread = replicates.std()
    if spread <= 1e-9:
        return wilson_estimate(min(value, 1.0), drawn.atoms.num_rows)
    # A bin's gap of variance s^2 around 0 has a mean size of s sqrt(2 / pi).
    variances = np.maximum(noise, (statistics[:, GAPS] ** 2).sum(axis=0))
    of_noise = np.sqrt(variances * 2 / np.pi).sum() / num_entries
    high = 2 * value - replicates.mean() + Z * spread
    return Estimate(value, max(0.0, value - of_noise - Z * spread), min(1.0, max(value, high)), "bias-corrected")
