"""Mean recall over the classes that occur in the references. Single label."""

import evaluate
import numpy as np
import sklearn.metrics

from hfxfer.metrics._features import features

INPUTS = """
predictions: predicted class index of each row.
references: true class index of each row.
sample_weight: optional weight of each row.
Returns {"balanced_accuracy": float, or None without rows}.
"""


class BalancedAccuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=INPUTS,
            features=features("labels"),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions, references, sample_weight=None):
        if len(references) == 0:
            return {"balanced_accuracy": None}
        references = np.asarray(references)
        labels = np.unique(references)
        # recall_score and not balanced_accuracy_score, which warns about a class that is predicted and never true.
        score = sklearn.metrics.recall_score(
            references, predictions, labels=labels, average="macro", sample_weight=sample_weight, zero_division=0
        )
        return {"balanced_accuracy": float(score)}
