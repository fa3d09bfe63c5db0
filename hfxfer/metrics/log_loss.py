"""Mean negative natural logarithm of the probability of the true class.

Multi-label: the mean over the labels of the binary loss. Rows are scaled to sum to 1 (single label) and
clipped to [2.2e-16, 1 - 2.2e-16], as scikit-learn does for float64.
"""

import evaluate
import numpy as np
import sklearn.metrics

from hfxfer.metrics._features import features
from hfxfer.metrics._probabilities import check_probabilities

INPUTS = """
predictions: one probability a class for each row, in [0, 1].
references: true class index of each row; with config_name="multilabel" one 0/1 a label.
sample_weight: optional weight of each row.
Returns {"log_loss": float, or None without rows}.
"""


class LogLoss(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=INPUTS,
            features=features("probabilities", self.config_name),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions, references, sample_weight=None):
        probabilities = check_probabilities(predictions)
        if len(probabilities) == 0:
            return {"log_loss": None}
        references = np.asarray(references)
        if references.ndim == 2:
            settings = {"labels": [0, 1], "sample_weight": sample_weight}
            columns = zip(references.T, probabilities.T, strict=True)
            losses = [sklearn.metrics.log_loss(*column, **settings) for column in columns]
            return {"log_loss": float(np.mean(losses))}
        probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
        labels = np.arange(probabilities.shape[1])
        score = sklearn.metrics.log_loss(references, probabilities, labels=labels, sample_weight=sample_weight)
        return {"log_loss": float(score)}
