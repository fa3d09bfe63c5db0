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
from hfxfer.metrics._probability_file import Probabilities
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
    statistics = row_statistics(references, probabilities)
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

    return {
        "roc_auc": UNDEFINED if area is None else bounded_interval(drawn, area_of, harmonic_rows(smaller)),
        "log_loss": mean_interval(drawn, LOSS, SQUARED_LOSS, np.log(2 if multi_label else max(2, probabilities.num_classes))),
        "ece": calibration_interval(drawn, num_entries),
    }


def row_statistics(references: np.ndarray, probabilities: Probabilities) -> np.ndarray:
    """(N, 3 + 15): loss, its square, room for the ROC influence, and the calibration gap summed in each bin."""
    statistics = np.zeros((len(references), GAPS.stop))
    for start, block in probabilities.blocks_of_rows():
        rows = slice(start, start + len(block))
        chance = check_probabilities(block)
        known = np.asarray(references[rows])
        statistics[rows, LOSS] = row_losses(known, chance)
        confidence, correct = confidence_and_correct(known, chance)
        confidence, correct = (entries.reshape(len(block), -1) for entries in (confidence, correct))
        place = bins_of(confidence) + np.arange(len(block))[:, None] * NUM_BINS
        gaps = np.bincount(place.ravel(), (correct - confidence).ravel(), len(block) * NUM_BINS)
        statistics[rows, GAPS] = gaps.reshape(-1, NUM_BINS)
    statistics[:, SQUARED_LOSS] = statistics[:, LOSS] ** 2
    return statistics


def calibration_interval(drawn: Resamples, num_entries: int) -> Estimate:
    """Expected calibration error, which noise only ever raises: every resample adds about as much as the sample had.

    So the limits are value - bias -+ 1.96 standard deviations of the resamples, bias = their mean - value, stretched to
    hold the value. A lower limit of 0 means that calibration may be perfect. num_entries: confidences a row.
    """
    num_entries = num_entries * drawn.atoms.num_rows
    value = float(np.abs(drawn.total[GAPS]).sum() / num_entries)
    replicates = np.abs(drawn.sums[:, GAPS]).sum(axis=1) / num_entries
    middle, spread = 2 * value - replicates.mean(), replicates.std()
    if spread <= 1e-9:
        return wilson_estimate(min(value, 1.0), drawn.atoms.num_rows)
    return Estimate(value, max(0.0, middle - Z * spread), min(1.0, max(value, middle + Z * spread)), "bias-corrected")
