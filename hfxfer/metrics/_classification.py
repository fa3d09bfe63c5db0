"""What the classification metrics share: scikit-learn's own defaults, with null where nothing is defined.

A macro mean runs over the classes that occur in references or predictions (multi-label: over every column),
and 0/0 counts as 0 in it: both are scikit-learn's defaults, so a score here equals a plain scikit-learn call.
The first rule also lets a faultless prediction score 1 on a split that lacks a class.
"""

from __future__ import annotations

import numpy as np
import sklearn.metrics


def precision_recall_f1(references, predictions, average: str, sample_weight=None) -> tuple:
    """(precision, recall, f1), each a float, or None where no row holds any label.

    references, predictions: (N,) class indices, or (N, C) of 0/1 for multi-label.
    average: macro | micro | weighted | samples.
    """
    references, predictions = np.asarray(references), np.asarray(predictions)
    if references.size == 0 or (references.ndim == 2 and not references.any() and not predictions.any()):
        return None, None, None
    scores = sklearn.metrics.precision_recall_fscore_support(
        references, predictions, average=average, sample_weight=sample_weight, zero_division=0
    )
    return tuple(float(score) for score in scores[:3])
