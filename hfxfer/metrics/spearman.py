"""Spearman's rank correlation of predictions and references; ties get their mean rank."""

import evaluate
import scipy.stats

from hfxfer.metrics._features import features
from hfxfer.metrics._regression import constant
from hfxfer.metrics._regression import correlation
from hfxfer.metrics._regression import mean_ranks

INPUTS = """
predictions: predicted value of each row.
references: true value of each row.
sample_weight: optional weight of each row.
Returns {"spearman": float, or None where a side does not vary}.
"""


class Spearman(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=INPUTS,
            features=features("values"),
            reference_urls=["https://docs.scipy.org/doc/scipy/reference/stats.html"],
        )

    def _compute(self, predictions, references, sample_weight=None):
        if sample_weight is not None or constant(references) or constant(predictions):
            references, predictions = mean_ranks(references, sample_weight), mean_ranks(predictions, sample_weight)
            return {"spearman": correlation(references, predictions, sample_weight)}
        return {"spearman": float(scipy.stats.spearmanr(references, predictions).statistic)}
