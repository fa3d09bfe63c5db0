"""Share of the variance that the predictions explain; below 0 when the mean would do better."""

import evaluate
import sklearn.metrics

from hfxfer.metrics._features import features
from hfxfer.metrics._regression import constant

INPUTS = """
predictions: predicted value of each row.
references: true value of each row.
sample_weight: optional weight of each row.
Returns {"r2": float, or None where the references do not vary}.
"""


class R2(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=INPUTS,
            features=features("values"),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions, references, sample_weight=None):
        if constant(references):
            return {"r2": None}
        return {"r2": float(sklearn.metrics.r2_score(references, predictions, sample_weight=sample_weight))}
