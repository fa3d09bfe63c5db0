"""F1 over all decisions together; single label: the same as accuracy."""

import evaluate

from hfxfer.metrics._classification import precision_recall_f1
from hfxfer.metrics._features import features

INPUTS = """
predictions: predicted class index of each row; with config_name="multilabel" one 0/1 a label.
references: true class index of each row; with config_name="multilabel" one 0/1 a label.
sample_weight: optional weight of each row.
Returns {"f1_micro": float, or None where no row holds a label}.
"""


class F1Micro(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=INPUTS,
            features=features("labels", self.config_name),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions, references, sample_weight=None):
        scores = precision_recall_f1(references, predictions, "micro", sample_weight)
        return {"f1_micro": scores[2]}
