"""The metrics: one file each, every one an `evaluate` module that needs no network.

    hfxfer.metrics.load("f1_macro").compute(predictions=[0, 1], references=[0, 1])       # {"f1_macro": 1.0}
    evaluate.load("<folder of hfxfer>/metrics/f1_macro.py")                              # the same module

An undefined value (ROC-AUC of one class, say) is None, never NaN. Every metric takes `sample_weight`.
For multi-label rows of 0/1 pass config_name="multilabel", as with the metrics on the Hub.
Importing this package is quick: scikit-learn and evaluate are imported by `load`.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"
TOKENS = "tags"


@dataclass(frozen=True)
class Metric:
    """What is known about a metric before it is loaded.

    needs: what a prediction holds: labels | probabilities | values | tags.
    low, high: the bounds of the value; None where there is none.
    problem_types: names as in transformers' `config.problem_type`, and tags.
    """

    needs: str
    problem_types: tuple[str, ...]
    low: float | None = 0.0
    high: float | None = 1.0
    greater_is_better: bool = True


_BOTH = (SINGLE_LABEL, MULTI_LABEL)

METRICS: dict[str, Metric] = {
    "accuracy": Metric("labels", _BOTH),
    "balanced_accuracy": Metric("labels", (SINGLE_LABEL,)),
    "precision_macro": Metric("labels", _BOTH),
    "recall_macro": Metric("labels", _BOTH),
    "f1_macro": Metric("labels", _BOTH),
    "f1_micro": Metric("labels", _BOTH),
    "f1_weighted": Metric("labels", _BOTH),
    "f1_samples": Metric("labels", (MULTI_LABEL,)),
    "roc_auc": Metric("probabilities", _BOTH),
    "log_loss": Metric("probabilities", _BOTH, high=None, greater_is_better=False),
    "ece": Metric("probabilities", _BOTH, greater_is_better=False),
    "rmse": Metric("values", (REGRESSION,), high=None, greater_is_better=False),
    "mae": Metric("values", (REGRESSION,), high=None, greater_is_better=False),
    "r2": Metric("values", (REGRESSION,), low=None),
    "pearson": Metric("values", (REGRESSION,), low=-1.0),
    "spearman": Metric("values", (REGRESSION,), low=-1.0),
    "entity_precision": Metric("tags", (TOKENS,)),
    "entity_recall": Metric("tags", (TOKENS,)),
    "entity_f1": Metric("tags", (TOKENS,)),
}


def load(name: str, config_name: str | None = None, **settings):
    """The `evaluate.Metric` of that name; config_name="multilabel" for rows of 0/1; settings: of `evaluate.Metric`.

    Raises KeyError, with the names that exist, for an unknown one.
    """
    if name not in METRICS:
        raise KeyError(f"metric {name!r} does not exist. Metrics: {', '.join(METRICS)}")
    module = importlib.import_module(f"{__name__}.{name}")
    # The class that the file itself defines, found as `evaluate.load` finds it.
    (metric,) = (kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__)
    return metric(config_name=config_name, **settings)
