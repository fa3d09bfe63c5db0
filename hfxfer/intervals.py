"""Scores with 95 % intervals from what a model predicted: the fast path. No `evaluate`, no `datasets`.

Every value equals what the module of the same name in `hfxfer.metrics` gives. How an interval is made is in
`hfxfer/metrics/_resampling.py`; `interval_method` of a score says which was used:

- wilson: a proportion (accuracy; recall, precision and F1 of a class; F1 = 2 J / (1 + J) where J = right / (true or
  predicted) is a proportion), or any score in [0, 1] with fewer than 10 effective errors, or an error of exactly 0.
- bca: bootstrap over rows (sentences for entities). bca+t: joined with the studentised bootstrap, for mean errors.
- gamma: rows that all have the same error. bias-corrected: `ece`.

Measured coverage at 50 to 5,500 rows (tests/test_intervals_coverage.py holds some of it): 93 to 97 %, but for these.
Too low: errors with tails as heavy as Laplace's or t(5)'s (rmse 90 to 94 %; r2, pearson and spearman 91 to 94 %);
log loss where the classifier is nearly always right (accuracy 0.97 at 50 rows: 91 %), since the rare large losses are
not in the sample; f1_weighted over many rare labels (60 labels of 2 % in 1,000 rows: 86 % of 100 samples); roc_auc with
a class of 5 % (200 rows: 91 %). Wider than need be: scores above 0.95 at 50 rows (97 to 98 %), macro means with classes
of 5 rows (98 %), `ece` of a calibrated model (98 to 100 %; of a badly calibrated one 93 to 97 %).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

import numpy as np
import scipy.sparse

from hfxfer.metrics import METRICS
from hfxfer.metrics._counts import class_statistics
from hfxfer.metrics._counts import effective_rows
from hfxfer.metrics._counts import ratio
from hfxfer.metrics._entities import entity_counts
from hfxfer.metrics._probability_blocks import ArrayProbabilities
from hfxfer.metrics._probability_blocks import Probabilities
from hfxfer.metrics._probability_blocks import Uncalibrated
from hfxfer.metrics._probability_blocks import as_probabilities
from hfxfer.metrics._probability_scores import calibration_estimate
from hfxfer.metrics._probability_scores import probability_estimates
from hfxfer.metrics._resampling import UNDEFINED
from hfxfer.metrics._resampling import Atoms
from hfxfer.metrics._resampling import Estimate
from hfxfer.metrics._resampling import Statistic
from hfxfer.metrics._resampling import bounded_interval
from hfxfer.metrics._resampling import resample
from hfxfer.metrics._resampling import wilson_estimate
from hfxfer.metrics._value_scores import value_estimates

__all__ = [
    "ArrayProbabilities",
    "MultiLabel",
    "Probabilities",
    "Regression",
    "Score",
    "SingleLabel",
    "Tags",
    "confusion_counts",
    "score_multi_label",
    "score_regression",
    "score_single_label",
    "score_tags",
    "score_uncalibrated",
]

NUM_RESAMPLES = 2000
FEWEST_RESAMPLES = 2
"""What the formulas need at least: for callers who want the values alone, and not the limits."""


@dataclass(frozen=True)
class Score:
    """A value with its 95 % interval; all None where it is undefined.

    label: the class (entity type) that it is of, None for the whole set. num_rows: rows (sentences) of the whole set.
    """

    metric: str
    value: float | None
    low: float | None
    high: float | None
    label: str | None
    interval_method: str | None
    num_rows: int


@dataclass(frozen=True)
class SingleLabel:
    """references, predictions: (N,) class indices below num_classes.

    probabilities: (N, num_classes), an array, a memory map, or anything with `blocks_of_rows` and
    `blocks_of_columns`. None leaves out roc_auc, log_loss and ece.
    """

    references: np.ndarray
    predictions: np.ndarray
    num_classes: int
    probabilities: Probabilities | np.ndarray | None = None


@dataclass(frozen=True)
class MultiLabel:
    """references, predictions: (N, C) of 0/1, memory maps too. probabilities: (N, C) as in SingleLabel, or None."""

    references: np.ndarray
    predictions: np.ndarray
    probabilities: Probabilities | np.ndarray | None = None


@dataclass(frozen=True)
class Regression:
    """references, predictions: (N,) finite float64."""

    references: np.ndarray
    predictions: np.ndarray


@dataclass(frozen=True)
class Tags:
    """references, predictions: a list of IOB2 tags for each sentence."""

    references: Sequence[Sequence[str]]
    predictions: Sequence[Sequence[str]]


def score_single_label(
    outcomes: SingleLabel, labels: Sequence[str], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> list[Score]:
    """All scores of one class a row, then precision, recall and f1 of each class. labels: num_classes names."""
    references, predictions = _checked_indices(outcomes)
    num_rows, num_classes = len(references), outcomes.num_classes
    _check_lengths(len(labels), num_classes, "labels", "classes")
    rng = np.random.default_rng(seed)
    cells, counts = np.unique(references * num_classes + predictions, return_counts=True)
    sums = _class_sums(cells, counts, num_classes)
    right = float(sums[:num_classes].sum() / num_rows) if num_rows else 0.0
    estimates = {"accuracy": wilson_estimate(right, num_rows), "f1_micro": wilson_estimate(right, num_rows)}
    rows = effective_rows(sums, num_classes, num_rows)
    statistics = class_statistics(num_classes, multi_label=False)
    if num_rows:
        drawn = resample(Atoms(cell_statistics(*np.divmod(cells, num_classes), num_classes), counts), num_resamples, rng)
        estimates |= {name: bounded_interval(drawn, statistics[name], effective_rows=rows[name]) for name in rows}
    else:
        estimates |= dict.fromkeys(rows, UNDEFINED)
    if outcomes.probabilities is not None:
        probabilities = _checked_probabilities(outcomes.probabilities, num_rows, num_classes)
        estimates |= probability_estimates(references, probabilities, num_resamples, rng)
    return _scores(estimates, None, num_rows) + _class_scores(sums, labels, num_rows)


def score_multi_label(
    outcomes: MultiLabel, labels: Sequence[str], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> list[Score]:
    """All scores of any number of labels a row, then precision, recall and f1 of each label. labels: C names."""
    references, predictions = outcomes.references, outcomes.predictions
    if references.ndim != 2 or references.shape != predictions.shape:
        raise ValueError(
            f"references have shape {references.shape} and predictions {predictions.shape}; "
            "allowed: both (rows, labels)."
        )
    num_rows, num_classes = references.shape
    _check_lengths(len(labels), num_classes, "labels", "columns")
    rng = np.random.default_rng(seed)
    probabilities = outcomes.probabilities
    if probabilities is not None:
        probabilities = _checked_probabilities(probabilities, num_rows, num_classes)
    if num_rows == 0:
        names = [name for name, metric in METRICS.items() if "multi_label_classification" in metric.problem_types]
        kept = [name for name in names if probabilities is not None or METRICS[name].needs == "labels"]
        return _scores(dict.fromkeys(kept, UNDEFINED), None, 0) + _class_scores(np.zeros(3 * num_classes), labels, 0)
    drawn = resample(Atoms(label_statistics(references, predictions), np.ones(num_rows, np.int64)), num_resamples, rng)
    estimates = _multi_label_estimates(drawn, num_classes)
    if probabilities is not None:
        estimates |= probability_estimates(references, probabilities, num_resamples, rng)
    return _scores(estimates, None, num_rows) + _class_scores(drawn.total[: 3 * num_classes], labels, num_rows)


def score_uncalibrated(
    outcomes: SingleLabel | MultiLabel, temperature: float | None, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> list[Score]:
    """ece_uncalibrated: ece of the probabilities before their logits were divided by `temperature`; nothing where there is none."""
    if temperature is None or outcomes.probabilities is None:
        return []
    before = Uncalibrated(as_probabilities(outcomes.probabilities), temperature, isinstance(outcomes, MultiLabel))
    references = np.asarray(outcomes.references)
    found = calibration_estimate(references, before, num_resamples, np.random.default_rng(seed))
    (score,) = _scores({"ece": found}, None, len(references))
    return [replace(score, metric="ece_uncalibrated")]


def score_regression(
    outcomes: Regression, labels: Sequence[str] = (), *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> list[Score]:
    """rmse, mae, r2, pearson, spearman. labels: taken so that all four calls are alike, and not used."""
    references, predictions = (np.asarray(values, np.float64) for values in (outcomes.references, outcomes.predictions))
    _check_lengths(len(references), len(predictions), "references", "predictions")
    for name, values in (("references", references), ("predictions", predictions)):
        if not np.isfinite(values).all():
            bad = (~np.isfinite(values)).sum()
            raise ValueError(f"{bad} of {len(values)} {name} are NaN or infinite; allowed: finite.")
    estimates = value_estimates(references, predictions, num_resamples, np.random.default_rng(seed))
    return _scores(estimates, None, len(references))


def score_tags(
    outcomes: Tags, labels: Sequence[str] = (), *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> list[Score]:
    """entity_precision, entity_recall, entity_f1, then precision, recall and f1 of each entity type.

    labels: the tag names ("B-PER") or entity types; types that occur in no sentence get null scores.
    """
    _check_lengths(len(outcomes.references), len(outcomes.predictions), "references", "predictions")
    rng = np.random.default_rng(seed)
    sentences = [entity_counts(*pair) for pair in zip(outcomes.references, outcomes.predictions)]
    num_rows = len(sentences)
    types = {label.split("-", 1)[-1] for label in labels if label != "O"}
    types |= {kind for sentence in sentences for kind in sentence}
    estimates = _entity_estimates(entity_sums(sentences), num_resamples, rng, whole_set=True)
    scores = _scores({f"entity_{name}": estimate for name, estimate in estimates.items()}, None, num_rows)
    for kind in sorted(types):
        of_kind = np.array([sentence.get(kind, (0, 0, 0)) for sentence in sentences]).reshape(num_rows, 3)
        scores += _scores(_entity_estimates(of_kind, num_resamples, rng, whole_set=False), kind, num_rows)
    return scores


def confusion_counts(outcomes: SingleLabel | MultiLabel) -> np.ndarray:
    """Single label: (C, C) int64, row = true class, column = predicted. Multi-label: (C, 2, 2), one for each."""
    if isinstance(outcomes, SingleLabel):
        references, predictions = _checked_indices(outcomes)
        size = outcomes.num_classes
        return np.bincount(references * size + predictions, minlength=size * size).reshape(size, size)
    counts = np.zeros((outcomes.references.shape[1], 2, 2), np.int64)
    for start in range(0, len(outcomes.references), 4096):
        sides = (outcomes.references, outcomes.predictions)
        true, predicted = (np.asarray(side[start : start + 4096]) == 1 for side in sides)
        for row, column in np.ndindex(2, 2):
            counts[:, row, column] += ((true == row) & (predicted == column)).sum(axis=0)
    return counts


def _checked_indices(outcomes: SingleLabel) -> tuple[np.ndarray, np.ndarray]:
    sides = [np.asarray(side, np.int64) for side in (outcomes.references, outcomes.predictions)]
    _check_lengths(len(sides[0]), len(sides[1]), "references", "predictions")
    for side in sides:
        if side.size and not 0 <= side.min() <= side.max() < outcomes.num_classes:
            raise ValueError(f"class indices lie in {side.min()}…{side.max()}; allowed: 0…{outcomes.num_classes - 1}.")
    return sides[0], sides[1]


def _checked_probabilities(source, num_rows: int, num_classes: int) -> Probabilities:
    probabilities = as_probabilities(source)
    if (probabilities.num_rows, probabilities.num_classes) != (num_rows, num_classes):
        raise ValueError(
            f"probabilities have shape ({probabilities.num_rows}, {probabilities.num_classes}); "
            f"allowed: ({num_rows}, {num_classes})."
        )
    return probabilities


def _check_lengths(first: int, second: int, of_first: str, of_second: str) -> None:
    if first != second:
        raise ValueError(f"got {first} {of_first} and {second} {of_second}; allowed: as many of one as of the other.")


def _class_sums(cells: np.ndarray, counts: np.ndarray, num_classes: int) -> np.ndarray:
    """(3 C,) right, predicted and true rows of each class."""
    true, predicted = np.divmod(cells, num_classes)
    hit = true == predicted
    sides = ((true[hit], counts[hit]), (predicted, counts), (true, counts))
    return np.concatenate([np.bincount(side, weight, num_classes) for side, weight in sides])


def cell_statistics(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> Callable[[slice], scipy.sparse.csr_array]:
    """Atoms are the occupied cells of the confusion matrix, (K,) each; one is 1 in two or three of the 3 C columns."""

    def statistics(block: slice) -> scipy.sparse.csr_array:
        one, other = true[block], predicted[block]
        row, hit = np.arange(len(one)), one == other
        columns = np.concatenate([one[hit], other + num_classes, one + 2 * num_classes])
        rows = np.concatenate([row[hit], row, row])
        return scipy.sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(row), 3 * num_classes))

    return statistics


def label_statistics(references: np.ndarray, predictions: np.ndarray) -> Callable[[slice], np.ndarray]:
    """(rows, 3 C + 3): right, predicted, true, then F1 of the row, whether all is right, whether any label is there."""

    def statistics(block: slice) -> np.ndarray:
        true, predicted = (np.asarray(side[block]) == 1 for side in (references, predictions))
        right, both = (true & predicted), predicted.sum(axis=1) + true.sum(axis=1)
        of_row = [ratio(2 * right.sum(axis=1), both), (true == predicted).all(axis=1), both > 0]
        return np.concatenate([right, predicted, true, np.stack(of_row, axis=1)], axis=1, dtype=np.float64)

    return statistics


def _multi_label_estimates(drawn, num_classes: int) -> dict[str, Estimate]:
    num_rows, total = drawn.atoms.num_rows, drawn.total
    of_samples, all_right, occupied = (float(count) for count in total[3 * num_classes :])
    names = ["precision_macro", "recall_macro", "f1_macro", "f1_micro", "f1_weighted", "f1_samples"]
    estimates = {"accuracy": wilson_estimate(all_right / num_rows, num_rows)}
    if not occupied:
        return estimates | dict.fromkeys(names, UNDEFINED)
    # A label's misses and false alarms are separate rows here, so F1 knows more than its rows tell: a lower bound.
    rows = effective_rows(total, num_classes, num_rows) | {"f1_micro": occupied, "f1_samples": num_rows}
    kind = {name: "effective_rows" if name in ("precision_macro", "recall_macro") else "fewest_rows" for name in names}
    statistics = class_statistics(num_classes, multi_label=True)
    # A row left out by the jackknife lowers the number of rows too.
    statistics["f1_samples"] = lambda sums: sums[:, 3 * num_classes] / num_rows
    return estimates | {name: bounded_interval(drawn, statistics[name], **{kind[name]: rows[name]}) for name in names}


def entity_sums(sentences: Sequence[dict[str, tuple[int, int, int]]]) -> np.ndarray:
    """(sentences, 3) entities right, predicted and true, of all types. sentences: what `entity_counts` gives of each."""
    return np.array([np.sum([(0, 0, 0), *sentence.values()], axis=0) for sentence in sentences]).reshape(len(sentences), 3)


ENTITY_STATISTICS: dict[str, Statistic] = {
    "precision": lambda sums: ratio(sums[:, 0], sums[:, 1]),
    "recall": lambda sums: ratio(sums[:, 0], sums[:, 2]),
    "f1": lambda sums: ratio(2 * sums[:, 0], sums[:, 1] + sums[:, 2]),
}
"""Of sums (B, 3) of entities right, predicted and true."""


def _entity_estimates(counts: np.ndarray, num_resamples: int, rng, whole_set: bool) -> dict[str, Estimate]:
    """precision, recall, f1. counts: (sentences, 3) entities right, predicted and true.

    whole_set: 0/0 is 0, as in seqeval; else undefined.
    """
    right, predicted, true = counts.T
    below = {"precision": predicted, "recall": true, "f1": predicted + true}
    if not below["f1"].any():
        return dict.fromkeys(below, UNDEFINED)
    kinds, times = np.unique(counts, axis=0, return_counts=True)
    drawn = resample(Atoms(lambda block: kinds[block].astype(np.float64), times), num_resamples, rng)
    return {
        name: bounded_interval(drawn, ENTITY_STATISTICS[name], fewest_rows=max(1, (count > 0).sum()))
        if whole_set or count.any()
        else UNDEFINED
        for name, count in below.items()
    }


def _class_scores(sums: np.ndarray, labels: Sequence[str], num_rows: int) -> list[Score]:
    """precision, recall and f1 of each class with Wilson's interval; undefined where nothing is predicted, or true."""
    right, predicted, true = sums.reshape(3, -1)
    scores = []
    for index, label in enumerate(labels):
        hit, either = right[index], predicted[index] + true[index] - right[index]
        estimates = {
            "precision": wilson_estimate(hit / max(1, predicted[index]), predicted[index]),
            "recall": wilson_estimate(hit / max(1, true[index]), true[index]),
            "f1": _doubled(wilson_estimate(hit / max(1, either), either)),
        }
        scores += _scores(estimates, label, num_rows)
    return scores


def _doubled(share: Estimate) -> Estimate:
    """F1 = 2 J / (1 + J) of J = right / (true or predicted), which is a share of rows."""
    if share.value is None:
        return share
    return Estimate(*(2 * part / (1 + part) for part in share[:3]), share.method)


def _scores(estimates: dict[str, Estimate], label: str | None, num_rows: int) -> list[Score]:
    """In the order of METRICS; limits are within the metric's bounds and hold the value."""
    order = [*METRICS, "precision", "recall", "f1"]
    scores = []
    for name in sorted(estimates, key=order.index):
        value, low, high, method = estimates[name]
        if value is not None:
            least, most = (METRICS[name].low, METRICS[name].high) if name in METRICS else (0.0, 1.0)
            low = min(value, low if least is None else max(low, least))
            high = max(value, high if most is None else min(high, most))
            value, low, high = float(value), float(low), float(high)
        scores.append(Score(name, value, low, high, label, method, num_rows))
    return scores
