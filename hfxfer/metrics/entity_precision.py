"""Share of the predicted entities that are right in span and type (micro).

IOB2 tags, counted as seqeval does by default.
"""

import evaluate

from hfxfer.metrics._entities import entity_scores
from hfxfer.metrics._features import features

INPUTS = """
predictions: one list of IOB2 tags a sentence.
references: one list of IOB2 tags a sentence, of the same lengths.
sample_weight: optional weight of each sentence.
Returns {"entity_precision": float, or None where no entity is true or predicted}.
"""


class EntityPrecision(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=INPUTS,
            features=features("tags"),
            reference_urls=["https://github.com/chakki-works/seqeval"],
        )

    def _compute(self, predictions, references, sample_weight=None):
        scores = entity_scores(references, predictions, sample_weight)
        return {"entity_precision": scores[0]}
