"""Which of two models is better on the same rows: the difference of every metric with its 95 % interval. No files.

Rows are paired: what both models get right, or both wrong, says nothing of the difference, and a row that is hard for
both does not blur it. How the intervals are made is in `hfxfer/differences.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from hfxfer.differences import Difference, bootstrapped, calibration_difference, calibration_noise, limited, share_difference, undefined
from hfxfer.intervals import ENTITY_STATISTICS, NUM_RESAMPLES, cell_statistics, entity_sums, label_statistics
from hfxfer.metrics import METRICS, MULTI_LABEL, REGRESSION, SINGLE_LABEL, TOKENS
from hfxfer.metrics._counts import class_statistics
from hfxfer.metrics._entities import entity_counts
from hfxfer.metrics._placements import mean_placements, ranked_columns
from hfxfer.metrics._probability_blocks import ArrayProbabilities
from hfxfer.metrics._probability_scores import AREA, GAPS, LOSS, SQUARED_LOSS, row_statistics
from hfxfer.metrics._regression import constant, correlation, mean_ranks
from hfxfer.metrics._resampling import Atoms, resample
from hfxfer.metrics._value_scores import _spearman_influence, rank_correlations
from hfxfer.tasks.token_classification import _iob

PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION, TOKENS)


def paired_differences(problem_type: str, labels: Sequence[str], references: Sequence[Any], answers_a: Sequence[Any], answers_b: Sequence[Any],
                       probabilities_a: np.ndarray | None = None, probabilities_b: np.ndarray | None = None, *, seed: int = 42,
                       metrics: Sequence[str] | None = None, num_resamples: int = NUM_RESAMPLES) -> list[Difference]:
    """b minus a for each metric that the inputs allow, in the order of METRICS.

    references, answers: N rows in the same order and in the user's terms: a label, a list of labels, a number, a list of
    tags. probabilities: (N, labels) arrays or memory maps; without both, their metrics are left out; tags need none.
    metrics: only these. Raises ValueError where lengths or shapes do not fit, or the problem type is unknown.
    """
    _check(problem_type, labels, references, answers_a, answers_b)
    rng = np.random.default_rng(seed)
    both = (probabilities_a, probabilities_b)
    needed = [name for name, metric in METRICS.items() if problem_type in metric.problem_types and (metrics is None or name in metrics)]
    if problem_type not in (SINGLE_LABEL, MULTI_LABEL) or any(side is None for side in both):
        needed = [name for name in needed if METRICS[name].needs != "probabilities"]
    if len(references) == 0:
        return [undefined(name, 0) for name in needed]
    if problem_type == REGRESSION:
        found = _value_differences(*(np.asarray(side, np.float64) for side in (references, answers_a, answers_b)), needed, num_resamples, rng)
    elif problem_type == TOKENS:
        found = _entity_differences(references, answers_a, answers_b, num_resamples, rng)
    else:
        read = _indices if problem_type == SINGLE_LABEL else _marks
        sides = [read(side, labels) for side in (references, answers_a, answers_b)]
        differences = _single_label_differences if problem_type == SINGLE_LABEL else _multi_label_differences
        found = differences(sides, labels, [name for name in needed if METRICS[name].needs == "labels"], num_resamples, rng)
        if any(METRICS[name].needs == "probabilities" for name in needed):
            found |= _probability_differences(sides[0], both, len(labels), num_resamples, rng)
    return [found[name] for name in needed]


# --- one problem type each --------------------------------------------------------------------------------------------

def _single_label_differences(sides, labels, needed: Sequence[str], num_resamples: int, rng) -> dict[str, Difference]:
    """Atoms are the occupied cells of the table of true class × first answer × second answer. sides: three of (N,) indices."""
    references, first, second = sides
    num_rows, num_classes = len(references), len(labels)
    cells, counts = np.unique((references * num_classes + first) * num_classes + second, return_counts=True)
    pair, of_second = np.divmod(cells, num_classes)
    true, of_first = np.divmod(pair, num_classes)
    differing = int(counts[of_first != of_second].sum())

    halves = [cell_statistics(true, side, num_classes) for side in (of_first, of_second)]

    def statistics(block: slice):
        return scipy.sparse.hstack([half(block) for half in halves], format="csr")

    right = [counts[(side == true) & (other != true)].sum() for side, other in ((of_first, of_second), (of_second, of_first))]
    found = {name: share_difference(int(right[0]), int(right[1]), num_rows, differing, name) for name in ("accuracy", "f1_micro")}
    scores = {name: score for name, score in class_statistics(num_classes, multi_label=False).items() if name in needed and name not in found}
    drawn = resample(Atoms(statistics, counts), num_resamples, rng) if scores else None
    return found | {name: bootstrapped(name, drawn, _of_halves(score), differing) for name, score in scores.items()}


def _multi_label_differences(sides, labels, needed: Sequence[str], num_resamples: int, rng) -> dict[str, Difference]:
    """sides: three of (N, labels) of 0/1. accuracy: all labels of a row are right."""
    references, first, second = sides
    num_rows, num_classes = references.shape
    right = [(side == references).all(axis=1) for side in sides[1:]]
    differing = int((first != second).any(axis=1).sum())
    accuracy = share_difference(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()), num_rows, differing)

    halves = [label_statistics(references, side) for side in (first, second)]

    def statistics(block: slice):
        return np.concatenate([half(block) for half in halves], axis=1)

    def defined(score):
        # Where no row has a label, true or predicted, nothing is defined.
        return lambda sums: np.where(sums[:, 3 * num_classes + 2] > 0, score(sums), np.nan)

    scores = class_statistics(num_classes, multi_label=True) | {"f1_samples": lambda sums: sums[:, 3 * num_classes] / num_rows}
    scores = {name: score for name, score in scores.items() if name in needed}
    drawn = resample(Atoms(statistics, np.ones(num_rows, np.int64)), num_resamples, rng) if scores else None
    found = {name: bootstrapped(name, drawn, _of_halves(defined(score)), differing) for name, score in scores.items()}
    return found | {"accuracy": accuracy}


def _entity_differences(references, first, second, num_resamples: int, rng) -> dict[str, Difference]:
    """The unit that is drawn is the sentence."""
    true = [_iob(tags) for tags in references]
    sides = [[_iob(tags) for tags in side] for side in (first, second)]
    counts = [entity_sums([entity_counts(*pair) for pair in zip(true, side)]) for side in sides]
    kinds, times = np.unique(np.concatenate(counts, axis=1, dtype=np.float64), axis=0, return_counts=True)
    drawn = resample(Atoms(lambda block: kinds[block], times), num_resamples, rng)
    differing = sum(one != other for one, other in zip(*sides))

    def defined(score):
        # 0/0 is 0 as long as there is any entity, true or predicted, as in seqeval.
        return lambda sums: np.where(sums[:, 1] + sums[:, 2] > 0, score(sums), np.nan)

    return {f"entity_{name}": bootstrapped(f"entity_{name}", drawn, _of_halves(defined(score)), differing) for name, score in ENTITY_STATISTICS.items()}


# Where `row_statistics` holds the square of the loss, which nothing here needs: 1, so that the sum counts the rows.
COUNT = SQUARED_LOSS


def _probability_differences(references, both, num_classes: int, num_resamples: int, rng) -> dict[str, Difference]:
    """roc_auc to first order (DeLong et al. 1988), log_loss and ece. both: two of (N, C)."""
    multi_label, num_rows = references.ndim == 2, len(references)
    if any(np.shape(side) != (num_rows, num_classes) for side in both):
        raise ValueError(f"probabilities have shapes {np.shape(both[0])} and {np.shape(both[1])}; allowed: both ({num_rows}, {num_classes}).")
    sources, columns = [ArrayProbabilities(np.asanyarray(side)) for side in both], ranked_columns(num_classes, multi_label)
    ranked = [mean_placements(source, lambda k: np.asarray(references[:, k] == 1 if multi_label else references == k), columns) for source in sources]
    sides = [row_statistics(references, source)[0] for source in sources]
    differing = sum(int((one != other).any(axis=1).sum())
                    for (_, one), (_, other) in zip(*(source.blocks_of_rows() for source in sources)))
    for side, (area, influence, _) in zip(sides, ranked):
        side[:, AREA], side[:, COUNT] = influence + (area or 0.0), 1.0
    statistics = np.concatenate(sides, axis=1)
    drawn = resample(Atoms(lambda block: statistics[block], np.ones(num_rows, np.int64)), num_resamples, rng)
    num_entries = num_classes if multi_label else 1
    scores = {
        "roc_auc": lambda sums: sums[:, AREA] / sums[:, COUNT],
        "log_loss": lambda sums: sums[:, LOSS] / sums[:, COUNT],
        "ece": lambda sums: np.abs(sums[:, GAPS]).sum(axis=1) / sums[:, COUNT] / num_entries,
    }
    found = {name: bootstrapped(name, drawn, _of_halves(scores[name]), differing) for name in ("roc_auc", "log_loss")}
    if ranked[0][0] is None:
        found["roc_auc"] = undefined("roc_auc", num_rows)
    noise = [calibration_noise(side[:, GAPS], num_rows * num_entries) for side in sides]
    return found | {"ece": calibration_difference(drawn, _of_halves(scores["ece"]), noise, differing)}


# --- values -----------------------------------------------------------------------------------------------------------

# Columns of one model's half of the statistics: 1, |error|, its square, then the moments of standardised y and x.
ONE, ERROR, SQUARE, Y, X, YY, XX, XY = range(8)


def _value_differences(references, first, second, needed: Sequence[str], num_resamples: int, rng) -> dict[str, Difference]:
    """rmse, mae, r2, pearson, spearman. All (N,) float64."""
    y, num_rows = _standardised(references), len(references)

    def half(values):
        error, x = np.abs(references - values), _standardised(values)
        return np.stack([np.ones_like(y), error, error**2, y, x, y * y, x * x, x * y], axis=1)

    def spread(sums, linear, squared):
        moment = sums[:, squared] / sums[:, ONE] - (sums[:, linear] / sums[:, ONE]) ** 2
        return np.where(moment > 1e-12, moment, np.nan)

    def pearson(sums):
        product = sums[:, XY] / sums[:, ONE] - sums[:, X] * sums[:, Y] / sums[:, ONE] ** 2
        return product / np.sqrt(spread(sums, X, XX) * spread(sums, Y, YY))

    statistics = np.concatenate([half(side) for side in (first, second)], axis=1)
    drawn = resample(Atoms(lambda block: statistics[block], np.ones(num_rows, np.int64)), num_resamples, rng)
    scale = references.var() or 1.0
    scores = {
        "rmse": lambda sums: np.sqrt(sums[:, SQUARE] / sums[:, ONE]),
        "mae": lambda sums: sums[:, ERROR] / sums[:, ONE],
        "r2": lambda sums: 1 - sums[:, SQUARE] / sums[:, ONE] / (scale * spread(sums, Y, YY)),
        "pearson": pearson,
    }
    differing = int((first != second).sum())
    found = {name: bootstrapped(name, drawn, _of_halves(score), differing) for name, score in scores.items()}
    if "spearman" in needed:
        found["spearman"] = _rank_difference(references, first, second, num_resamples, rng)
    return found


def _rank_difference(references, first, second, num_resamples: int, rng) -> Difference:
    """spearman; each resample is ranked anew, as for the interval of one model."""
    num_rows = len(references)
    y, *sides = (mean_ranks(side) for side in (references, first, second))
    values = [correlation(y, side) for side in sides]
    if None in values:
        return undefined("spearman", num_rows)
    of_first, of_second = rank_correlations(y, sides, num_resamples, rng)
    influence = np.subtract(*(_spearman_influence(y, side) for side in reversed(sides)))
    return limited("spearman", values[1] - values[0], of_second - of_first, (influence, np.ones(num_rows)), int((first != second).sum()))


def _standardised(values: np.ndarray) -> np.ndarray:
    return np.zeros_like(values) if constant(values) else (values - values.mean()) / values.std()


def _of_halves(score: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The score of the right half of the sums minus that of the left half."""

    def statistic(sums):
        middle = sums.shape[1] // 2
        with np.errstate(all="ignore"):
            return score(sums[:, middle:]) - score(sums[:, :middle])

    return statistic


# --- from the user's terms to counts ----------------------------------------------------------------------------------

def _check(problem_type: str, labels: Sequence[str], references: Sequence[Any], answers_a: Sequence[Any], answers_b: Sequence[Any]) -> None:
    if problem_type not in PROBLEM_TYPES:
        raise ValueError(f"problem_type is {problem_type!r}; allowed: {', '.join(PROBLEM_TYPES)}.")
    if not len(references) == len(answers_a) == len(answers_b):
        raise ValueError(f"got {len(references)} references and {len(answers_a)} and {len(answers_b)} answers; allowed: as many of each.")
    if problem_type == REGRESSION and not all(np.isfinite(np.asarray(side, np.float64)).all() for side in (references, answers_a, answers_b)):
        raise ValueError("some references or answers are NaN or infinite; allowed: finite.")


def _indices(names: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """(N,) positions in labels."""
    position = {name: index for index, name in enumerate(labels)}
    return np.fromiter((position[name] for name in names), np.int64, len(names))


def _marks(rows: Sequence[Sequence[str]], labels: Sequence[str]) -> np.ndarray:
    """(N, labels) of 0/1."""
    position = {name: index for index, name in enumerate(labels)}
    marks = np.zeros((len(rows), len(labels)), np.uint8)
    for index, names in enumerate(rows):
        marks[index, [position[name] for name in names]] = 1
    return marks
