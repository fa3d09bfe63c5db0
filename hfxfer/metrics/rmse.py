"""Root of the mean squared error, in the unit of the values."""

import evaluate
import sklearn.metrics

from hfxfer.metrics._features import features

INPUTS = """
predictions: predicted value of each row.
references: true value of each row.
sample_weight: optional weight of each row.
Returns {"rmse": float, or None without rows}.
"""


class Rmse(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=INPUTS,
            features=features("values"),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions, references, sample_weight=None):
        if len(references) == 0:
            return {"rmse": None}
        score = sklearn.metrics.root_mean_squared_error(references, predictions, sample_weight=sample_weight)
        return {"rmse": float(score)}
