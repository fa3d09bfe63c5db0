"""What the regression metrics share."""

from __future__ import annotations

import numpy as np


def constant(values) -> bool:
    """True when the values do not vary, or there are fewer than two: a correlation is then undefined."""
    values = np.asarray(values, np.float64)
    return len(values) < 2 or not bool((values != values[0]).any())


def correlation(references, predictions, sample_weight=None) -> float | None:
    """Pearson's r, weighted when weights are given; None when either side is constant."""
    if constant(references) or constant(predictions):
        return None
    x, y = (values - np.average(values, weights=sample_weight) for values in (references, predictions))
    weight = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    value = (weight * x) @ y / np.sqrt(((weight * x) @ x) * ((weight * y) @ y))
    return float(np.clip(value, -1, 1)) if np.isfinite(value) else None


def mean_ranks(values, sample_weight=None) -> np.ndarray:
    """(N,) ranks from 1, ties at their mean rank; a row of weight 2 counts as two rows."""
    values = np.asarray(values, np.float64)
    weight = np.ones(len(values)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    _, group = np.unique(values, return_inverse=True)
    of_group = np.bincount(group, weight)
    return (np.cumsum(of_group) - (of_group - 1) / 2)[group]
