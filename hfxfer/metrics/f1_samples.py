"""Mean over the rows of the F1 between true and predicted labels. Multi-label. 0/0 counts as 0, as in scikit-learn."""

import evaluate

from hfxfer.metrics._classification import precision_recall_f1
from hfxfer.metrics._features import features

INPUTS = """
predictions: one 0/1 a label for each row.
references: one 0/1 a label for each row.
sample_weight: optional weight of each row.
Returns {"f1_samples": float, or None where no row holds a label}.
"""


class F1Samples(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=INPUTS,
            features=features("labels", "multilabel"),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions, references, sample_weight=None):
        scores = precision_recall_f1(references, predictions, "samples", sample_weight)
        return {"f1_samples": scores[2]}
