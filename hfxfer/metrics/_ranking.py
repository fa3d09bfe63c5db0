"""ROC-AUC over one column of probabilities."""

from __future__ import annotations

import numpy as np
import sklearn.metrics


def column_auc(positive: np.ndarray, scores: np.ndarray, sample_weight=None) -> float | None:
    """Area under the ROC curve, or None when all rows are positive or none is.

    positive: (N,) bool; scores: (N,) float.
    """
    if positive.all() or not positive.any():
        return None
    return float(sklearn.metrics.roc_auc_score(positive, scores, sample_weight=sample_weight))
