"""Area under the ROC curve, the mean over classes of one class against the rest.

A class without a true row, or without any other, is left out of the mean.
Two exclusive classes: the area of the second.
"""

import evaluate
import numpy as np

from hfxfer.metrics._features import features
from hfxfer.metrics._placements import ranked_columns
from hfxfer.metrics._probabilities import check_probabilities
from hfxfer.metrics._ranking import column_auc

INPUTS = """
predictions: one probability a class for each row, in [0, 1].
references: true class index of each row; with config_name="multilabel" one 0/1 a label.
sample_weight: optional weight of each row.
Returns {"roc_auc": float, or None where no class has both}.
"""


class RocAuc(evaluate.Metric):
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
        references = np.asarray(references)
        multi_label = references.ndim == 2
        areas = []
        for k in ranked_columns(probabilities.shape[1], multi_label):
            positive = references[:, k] == 1 if multi_label else references == k
            areas.append(column_auc(positive, probabilities[:, k], sample_weight))
        areas = [area for area in areas if area is not None]
        return {"roc_auc": float(np.mean(areas)) if areas else None}
