"""Expected calibration error: |accuracy - confidence| over 15 bins of equal width. Source: Guo et al. 2017.

Single label: confidence is the top probability. Multi-label: every entry is one confidence of its label being present.
"""

import evaluate
import numpy as np

from hfxfer.metrics._calibration import calibration_error
from hfxfer.metrics._calibration import confidence_and_correct
from hfxfer.metrics._features import features
from hfxfer.metrics._probabilities import check_probabilities

INPUTS = """
predictions: one probability a class for each row, in [0, 1].
references: true class index of each row; with config_name="multilabel" one 0/1 a label.
sample_weight: optional weight of each row.
Returns {"ece": float, or None without rows}.
"""


class Ece(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=INPUTS,
            features=features("probabilities", self.config_name),
            reference_urls=["https://arxiv.org/abs/1706.04599"],
        )

    def _compute(self, predictions, references, sample_weight=None):
        probabilities = check_probabilities(predictions)
        confidence, correct = confidence_and_correct(np.asarray(references), probabilities)
        return {"ece": calibration_error(confidence, correct, sample_weight)}
