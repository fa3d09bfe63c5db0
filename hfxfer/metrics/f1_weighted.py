"""Mean F1 over the classes, each weighted by its number of true rows. 0/0 counts as 0, as in scikit-learn."""

import evaluate

from hfxfer.metrics._classification import precision_recall_f1
from hfxfer.metrics._features import features

INPUTS = """
predictions: predicted class index of each row; with config_name="multilabel" one 0/1 a label.
references: true class index of each row; with config_name="multilabel" one 0/1 a label.
sample_weight: optional weight of each row.
Returns {"f1_weighted": float, or None where no row holds a label}.
"""


class F1Weighted(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=INPUTS,
            features=features("labels", self.config_name),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions, references, sample_weight=None):
        scores = precision_recall_f1(references, predictions, "weighted", sample_weight)
        return {"f1_weighted": scores[2]}
