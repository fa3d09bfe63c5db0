"""rmse, mae, r2, pearson and spearman with intervals. numpy and scipy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hfxfer.metrics._regression import constant
from hfxfer.metrics._regression import correlation
from hfxfer.metrics._regression import mean_ranks
from hfxfer.metrics._resampling import UNDEFINED
from hfxfer.metrics._resampling import Atoms
from hfxfer.metrics._resampling import Estimate
from hfxfer.metrics._resampling import bca
from hfxfer.metrics._resampling import draw
from hfxfer.metrics._resampling import gamma_limits
from hfxfer.metrics._resampling import mean_interval
from hfxfer.metrics._resampling import resample
from hfxfer.metrics._resampling import wilson

# Resampled counts that are ranked at once: 40,000 int32 and what is made of them stay in a core's own cache.
RANKED_COUNTS = 40_000

# Columns of the statistics of a row: 1, |error| and its powers, then the moments of y and x about their means.
ONE, ERROR, SQUARE, FOURTH, Y, X, YY, XX, XY = range(9)


def value_estimates(
    references: np.ndarray, predictions: np.ndarray, num_resamples: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    """All five. references, predictions: (N,) float64. Limits of rmse are roots of those of the mean square."""
    if len(references) == 0:
        return dict.fromkeys(("rmse", "mae", "r2", "pearson", "spearman"), UNDEFINED)
    error = np.abs(references - predictions)
    y, x = references - references.mean(), predictions - predictions.mean()
    statistics = np.stack([np.ones_like(y), error, error**2, error**4, y, x, y * y, x * x, x * y], axis=1)
    drawn = resample(Atoms(lambda block: statistics[block], np.ones(len(y), np.int64)), num_resamples, rng)
    scale = float(references.std() or np.abs(references).max() or 1.0)
    square = mean_interval(drawn, SQUARE, FOURTH, scale**2)
    return {
        "rmse": Estimate(*np.sqrt(square[:3]).tolist(), square.method),
        "mae": mean_interval(drawn, ERROR, SQUARE, scale),
        "r2": UNDEFINED if constant(references) else _explained(drawn),
        "pearson": _pearson(drawn, correlation(references, predictions)),
        "spearman": _spearman(references, predictions, num_resamples, rng),
    }


def _explained(drawn) -> Estimate:
    """r2. Where the resamples do not vary, 1 - r2 is bounded as a mean square error is: see `mean_interval`."""

    def r2(sums):
        with np.errstate(all="ignore"):
            total = sums[:, YY] - sums[:, Y] ** 2 / sums[:, ONE]
            return np.where(total > 1e-12 * drawn.total[YY], 1 - sums[:, SQUARE] / total, np.nan)

    value, num_rows = drawn.value(r2), drawn.atoms.num_rows
    if 1 - value <= 1e-12:
        return Estimate(value, 1 - float(wilson(0.0, num_rows)[1]), 1.0, "wilson")
    low, high = bca(value, r2(drawn.sums), drawn.jackknife(r2), drawn.atoms.counts)
    if high - low < 1e-12:
        best, worst = gamma_limits(1 - value, num_rows)
        return Estimate(value, 1 - worst, 1 - best, "gamma")
    return Estimate(value, low, high, "bca")


def _pearson(drawn, value: float | None) -> Estimate:
    num_rows = drawn.atoms.num_rows

    def moments(sums):
        with np.errstate(all="ignore"):
            y, x = sums[:, Y] / sums[:, ONE], sums[:, X] / sums[:, ONE]
            yy, xx = sums[:, YY] / sums[:, ONE] - y * y, sums[:, XX] / sums[:, ONE] - x * x
            varied = (yy > 1e-12 * drawn.total[YY] / num_rows) & (xx > 1e-12 * drawn.total[XX] / num_rows)
            return np.where(varied, (sums[:, XY] / sums[:, ONE] - x * y) / np.sqrt(yy * xx), np.nan)

    if value is None:
        return UNDEFINED
    return _correlation_limits(value, moments(drawn.sums), drawn.jackknife(moments), drawn.atoms.counts)


def _correlation_limits(value: float, replicates: np.ndarray, influence: np.ndarray, counts: np.ndarray) -> Estimate:
    """BCa; a faultless correlation gets Wilson's limits of (1 + r) / 2, taken as a share of agreeing rows."""
    low, high = bca(value, replicates, influence, counts)
    if abs(value) > 1 - 1e-12 or high - low < 1e-12:
        low, high = (2 * float(limit) - 1 for limit in wilson(np.clip((1 + value) / 2, 0, 1), counts.sum()))
        return Estimate(value, low, high, "wilson")
    return Estimate(value, low, high, "bca")


def _spearman(references: np.ndarray, predictions: np.ndarray, num_resamples: int, rng) -> Estimate:
    """Each resample is ranked anew: with the ranks of the sample the limits at 0.95 are 7 % short in coverage."""
    x, y = mean_ranks(references), mean_ranks(predictions)
    value = correlation(x, y)
    if value is None:
        return UNDEFINED
    replicates = rank_correlations(x, [y], num_resamples, rng)[0]
    return _correlation_limits(value, replicates, _spearman_influence(x, y), np.ones(len(x)))


def rank_correlations(
    references: np.ndarray, sides: Sequence[np.ndarray], num_resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """(sides, B) Spearman's correlation of each side, (N,), with the references in resamples; NaN where undefined."""
    num_rows = len(references)
    ranking = _ranking(references, sides)
    # Drawing goes on in one stream, however many are drawn at once: as many as stay in the processor's cache.
    step = max(1, RANKED_COUNTS // num_rows)
    blocks = []
    for start in range(0, num_resamples, step):
        weights = draw(np.full(min(step, num_resamples - start), num_rows), np.ones(num_rows, np.int64), rng)
        blocks.append(_weighted_rank_correlations(weights, ranking))
    return np.concatenate(blocks, axis=1)


def _ranking(references: np.ndarray, sides: Sequence[np.ndarray]) -> list[tuple]:
    """For the references and each side: (rows by rank, where each group of ties begins in them or None without ties, and
    the group of each row, rows in the order of the references' ranks)."""
    by_reference, ranking = np.argsort(references, kind="stable"), []
    for values in (references, *sides):
        _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
        starts = None if len(sizes) == len(values) else np.cumsum(sizes) - sizes
        ranking.append((np.argsort(group, kind="stable"), starts, group[by_reference]))
    return ranking


def _weighted_rank_correlations(weights: np.ndarray, ranking: list[tuple]) -> np.ndarray:
    """(sides, B) when row i occurs weights[b, i] times. weights: (B, N) whole numbers.

    In whole numbers, with 2 rank - N for the rank: its weighted mean is 0, and the weighted sum of its square is
    (N^3 - sum of W^3) / 3 over the groups of W tied rows each.
    """
    weights = weights.astype(np.int32)
    total = weights.sum(axis=1, dtype=np.int32)[:, None]
    ranks, squares = [], []
    untied = _square_sum(weights)
    for order, starts, group in ranking:
        tied = np.take(weights, order, axis=1)
        if not ranks:
            by_reference = tied
        if starts is not None:
            tied = np.add.reduceat(tied, starts, axis=1)
        rank = np.cumsum(tied, axis=1, dtype=np.int32)
        rank += rank
        rank -= tied
        rank -= total
        ranks.append(rank if starts is None and not ranks else np.take(rank, group, axis=1))
        squares.append(untied if starts is None else _square_sum(tied))
    weighted = np.multiply(by_reference, ranks[0], dtype=np.float64)
    with np.errstate(all="ignore"):
        return np.stack([
            np.where((squares[0] > 0) & (square > 0), np.einsum("bi,bi->b", weighted, rank) / np.sqrt(squares[0] * square), np.nan)
            for rank, square in zip(ranks[1:], squares[1:])
        ])


def _square_sum(tied: np.ndarray) -> np.ndarray:
    """(B,) the weighted sum of (2 rank - N)^2. tied: (B, groups) weights of each group of ties."""
    return (tied.sum(axis=1, dtype=np.float64) ** 3 - np.einsum("bg,bg,bg->b", tied, tied, tied, dtype=np.float64)) / 3


def _spearman_influence(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N,) influence up to scale and sign, as acceleration needs: F(x) G(y) + E[X > x] G(Y) + F(X) E[Y > y]."""
    x, y = x / len(x), y / len(y)

    def mean_above(key, values):
        order = np.argsort(key, kind="stable")
        above = np.empty(len(key))
        above[order] = (values[order].sum() - np.cumsum(values[order])) / len(key)
        return above

    return -(x * y + mean_above(x, y) + mean_above(y, x))
