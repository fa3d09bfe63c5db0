"""Share of rows predicted rightly; multi-label: of rows with every label right."""

import evaluate
import numpy as np
import sklearn.metrics

from hfxfer.metrics._features import features

INPUTS = """
predictions: predicted class index of each row; with config_name="multilabel" one 0/1 a label.
references: true class index of each row; with config_name="multilabel" one 0/1 a label.
sample_weight: optional weight of each row.
Returns {"accuracy": float, or None without rows}.
"""


class Accuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=INPUTS,
            features=features("labels", self.config_name),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions, references, sample_weight=None):
        if len(references) == 0:
            return {"accuracy": None}
        references, predictions = np.asarray(references), np.asarray(predictions)
        score = sklearn.metrics.accuracy_score(references, predictions, sample_weight=sample_weight)
        return {"accuracy": float(score)}
