"""Scores from counts: for each class how many rows are right, predicted and true. numpy only.

The counts lie side by side in one vector, [right | predicted | true], each as wide as there are classes, so that one
matmul sums them for many resamples. sums: (..., 3 C + anything). 0/0 counts as 0, as in scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where below is 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def _split(sums: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(sums[..., k * num_classes : (k + 1) * num_classes] for k in range(3))


def _mean(scores: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Mean over the counted classes; NaN where none is."""
    with np.errstate(all="ignore"):
        return (scores * counted).sum(-1) / counted.sum(-1)


def class_statistics(num_classes: int, multi_label: bool) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Metric -> function of sums (..., 3 C + anything) that gives (...,).

    A macro mean runs over the classes that are true or predicted in these very rows; multi-label: over all.
    """

    def macro(score):
        def statistic(sums):
            right, predicted, true = _split(sums, num_classes)
            return _mean(score(right, predicted, true), np.ones_like(true) if multi_label else predicted + true > 0)

        return statistic

    def f1(right, predicted, true):
        return ratio(2 * right, predicted + true)

    def balanced(sums):
        right, _, true = _split(sums, num_classes)
        return _mean(ratio(right, true), true > 0)

    def weighted(sums):
        right, predicted, true = _split(sums, num_classes)
        return ratio((f1(right, predicted, true) * true).sum(-1), true.sum(-1))

    def micro(sums):
        right, predicted, true = _split(sums, num_classes)
        return ratio(2 * right.sum(-1), predicted.sum(-1) + true.sum(-1))

    return {
        "balanced_accuracy": balanced,
        "precision_macro": macro(lambda right, predicted, true: ratio(right, predicted)),
        "recall_macro": macro(lambda right, predicted, true: ratio(right, true)),
        "f1_macro": macro(f1),
        "f1_micro": micro,
        "f1_weighted": weighted,
    }


def effective_rows(sums: np.ndarray, num_classes: int, num_rows: int) -> dict[str, float]:
    """How many rows carry each score, were all classes equally hard: a macro mean is as good as its rare classes.

    The variance of a mean of C shares with n_c rows each is p (1 - p) sum(1 / n_c) / C^2.
    """
    _, predicted, true = _split(sums, num_classes)
    return {
        "balanced_accuracy": harmonic_rows(true),
        "precision_macro": harmonic_rows(predicted),
        "recall_macro": harmonic_rows(true),
        "f1_macro": harmonic_rows((predicted + true) / 2),
        "f1_weighted": float(num_rows),
    }


def harmonic_rows(rows_of_class: np.ndarray) -> float:
    """C^2 / sum(1 / n_c) over the classes that have rows; 1 where none has."""
    rows = rows_of_class[rows_of_class > 0]
    return float(len(rows) ** 2 / (1 / rows).sum()) if len(rows) else 1.0
