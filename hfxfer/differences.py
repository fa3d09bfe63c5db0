"""The difference between two models' scores on the same rows, with its 95 % interval. numpy and scipy only.

difference is the second minus the first. `method` of a Difference says how its interval was made:

- mcnemar: accuracy (and f1_micro of one label a row, which equals it). The exact two-sided McNemar test gives the
  p-value; Bonett and Price (2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
  paired data", https://doi.org/10.3102/1076998611411915) the limits. The exact test is the stricter of the two (for all
  splits of up to 3,000 rows that differ), so where it does not reject (p ≥ 0.05) the interval is stretched to 0: it
  holds 0 exactly where p ≥ 0.05.
- paired bootstrap: BCa over rows (sentences for entities), both models scored on the same draws, as for the interval of
  one model (`hfxfer/metrics/_resampling.py`).
- few rows: fewer than 10 rows carry the difference, because no more differ or because some weigh far more than the rest
  (rare classes, large losses). A bootstrap then draws samples without any of them: with 4 rows that differ, all for one
  model, it finds a difference where the exact p-value is 0.125. Bonett and Price's limits instead, with two pseudo-rows, one
  each way, as heavy as those that carry it.
- bias-corrected: `ece`, which noise only ever raises, in each model by its own share. Not known how much: wide.
- no row differs: 0 [0, 0]. A Run compared with itself is that; two models that agree on these rows may differ on others.

But for accuracy, whose test is exact, an interval is also stretched to 0 where swapping the models' answers row by row
would give such a difference in more than one of 20 cases (by its normal approximation, with the two pseudo-rows), as
McNemar's test does for accuracy. Without that, log_loss, say, found a difference between equal models in 10 to 13 % of samples.

established: the interval excludes 0. It speaks of rows drawn like these, not of other training seeds, and of one metric:
of many that are compared, one in twenty is established by chance.

Simulated at 50 to 1,000 rows (tests/test_paired.py holds some of it): equal models are established to differ in 0 to 6 %
of samples, and intervals cover the true difference in 93 to 99 %, but for these, which are too short: roc_auc near 1 (0.98
against 0.99, 50 rows: 89 %) and ece of a calibrated model against a badly calibrated one (100 rows: 84 %, 1,000: 90 %).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special

from hfxfer.metrics import METRICS
from hfxfer.metrics._resampling import FEW_ERRORS, Resamples, Statistic, Z, bca

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """The second model's score minus the first's, with its 95 % interval; all None where either score is undefined.

    num_rows: rows (sentences) that both answered. p_value: of the exact McNemar test, None but for accuracy.
    """

    metric: str
    difference: float | None
    low: float | None
    high: float | None
    established: bool
    num_rows: int
    p_value: float | None = None
    method: str | None = None


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p-value: how often a fair coin would fall at least as unevenly on the rows that one alone has right."""
    return float(min(1.0, 2 * scipy.special.bdtr(min(first_only, second_only), first_only + second_only, 0.5)))


def share_difference(first_only: int, second_only: int, num_rows: int, differing: int | None = None, metric: str = "accuracy") -> Difference:
    """The difference of two shares of the same rows, from the rows that only the one or only the other has right.

    differing: rows with different answers; two wrong ones may differ, too.
    """
    value, p_value = (second_only - first_only) / num_rows, mcnemar(first_only, second_only)
    if differing == 0:
        return Difference(metric, 0.0, 0.0, 0.0, False, num_rows, p_value if metric == "accuracy" else None, "no row differs")
    low, high = _adjusted_limits(second_only - first_only, first_only + second_only + 2, num_rows)
    if p_value >= SIGNIFICANT:
        low, high = min(low, 0.0), max(high, 0.0)
    return _difference(metric, value, low, high, num_rows, "mcnemar", p_value=p_value if metric == "accuracy" else None)


def undefined(metric: str, num_rows: int) -> Difference:
    """Where either score is."""
    return Difference(metric, None, None, None, False, num_rows)


def bootstrapped(metric: str, drawn: Resamples, statistic: Statistic, differing: int) -> Difference:
    """The difference that `statistic` makes of the sums."""
    return limited(metric, drawn.value(statistic), statistic(drawn.sums), (drawn.jackknife(statistic), drawn.atoms.counts), differing)


def limited(metric: str, value: float, replicates: np.ndarray, jackknife: tuple[np.ndarray, np.ndarray], differing: int) -> Difference:
    """A difference from its bootstrap replicates (B,).

    jackknife: (K,) influence, up to its scale, and the rows that each value stands for. differing: rows where the models differ.
    """
    influence, counts = jackknife
    num_rows = int(counts.sum())
    if not np.isfinite(value):
        return undefined(metric, num_rows)
    if differing == 0:
        return Difference(metric, 0.0, 0.0, 0.0, False, num_rows, None, "no row differs")
    added = _added(value, replicates, influence, counts)
    squares, fourths = float(counts @ added**2), float(counts @ added**4)
    weight = fourths / squares if squares > 0 else 0.0
    carrying = squares / weight if weight > 0 else num_rows
    squares += 2 * weight
    if min(differing, carrying) < FEW_ERRORS:
        method, (low, high) = "few rows", _adjusted_limits(num_rows * value, squares, num_rows)
    else:
        with np.errstate(all="ignore"):
            method, (low, high) = "paired bootstrap", bca(value, replicates, influence, counts)
    if (num_rows * value) ** 2 <= Z**2 * squares:
        low, high = min(low, 0.0), max(high, 0.0)
    return _difference(metric, value, low, high, num_rows, method)


def _added(value: float, replicates: np.ndarray, influence: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(K,) what a row of each atom adds to the difference: the mean is the difference, and the spread that of the replicates."""
    kept = np.isfinite(influence)
    if not kept.any():
        return np.full(len(counts), value)
    gaps = np.nan_to_num(np.average(influence[kept], weights=counts[kept]) - influence)
    spread = counts @ gaps**2
    return value + gaps * (counts.sum() * float(np.nanstd(replicates)) / np.sqrt(spread) if spread > 0 else 0.0)


def calibration_difference(drawn: Resamples, statistic: Statistic, noise: list[tuple[float, float]], differing: int) -> Difference:
    """ece: noise raises it, in each model by its own share, which lies between the two values of `noise`."""
    found = bootstrapped("ece", drawn, statistic, differing)
    if found.difference is None or differing == 0:
        return found
    (least, most), (least_second, most_second) = noise
    half, value = Z * float(statistic(drawn.sums).std()), found.difference
    low, high = value + min(0.0, least - most_second) - half, value + max(0.0, most - least_second) + half
    return _difference("ece", value, min(low, found.low), max(high, found.high), found.num_rows, "bias-corrected")


def calibration_noise(gaps: np.ndarray, num_entries: int) -> tuple[float, float]:
    """(least, most) by which noise raises ece. gaps: (N, 15) of the rows.

    The mean size of a normal value exceeds the size of its mean. most: by as much as where the mean is 0 in every bin.
    least: where its square is that of the measured gap without the variance; noise in that makes it too little.
    """
    error = np.sqrt((gaps**2).sum(axis=0))
    error = error[error > 0]
    size = np.sqrt(np.maximum(gaps.sum(axis=0)[(gaps**2).sum(axis=0) > 0] ** 2 / error**2 - 1, 0))
    folded = np.sqrt(2 / np.pi) * np.exp(-(size**2) / 2) + size * (1 - 2 * scipy.special.ndtr(-size))
    return float(error @ (folded - size)) / num_entries, float(error.sum() * np.sqrt(2 / np.pi)) / num_entries


def _adjusted_limits(net: float, squares: float, num_rows: int) -> tuple[float, float]:
    """Bonett and Price: the mean of rows of sum `net` and two pseudo-rows, + and -, whose squares are in `squares`."""
    mean = net / (num_rows + 2)
    half = Z * float(np.sqrt(max(0.0, squares / (num_rows + 2) - mean**2) / (num_rows + 2)))
    return mean - half, mean + half


def _difference(metric: str, value: float, low: float, high: float, num_rows: int, method: str, p_value: float | None = None) -> Difference:
    """Limits within what the metric can differ by, around the value."""
    bounds = METRICS[metric]
    most = np.inf if bounds.low is None or bounds.high is None else bounds.high - bounds.low
    low, high = (float(np.clip(limit, -most, most)) for limit in (min(low, value), max(high, value)))
    return Difference(metric, float(value), low, high, bool(low > 0 or high < 0), num_rows, p_value, method)
