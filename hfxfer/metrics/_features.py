"""The columns that a metric reads, as `datasets.Features`."""

from __future__ import annotations

import datasets

CONFIG_NAMES = ("default", "multilabel")


def features(needs: str, config_name: str = "default") -> datasets.Features:
    """The features of `predictions` and `references`.

    needs: what a prediction holds: labels | probabilities | values | tags.
    config_name: "multilabel" when a row holds one 0/1 a label, as in the Hub's own metrics; else "default".
    """
    if config_name not in CONFIG_NAMES:
        raise ValueError(f"config_name is {config_name!r}; allowed: {', '.join(CONFIG_NAMES)}")
    one = datasets.Value("int64")
    label = datasets.Sequence(one) if config_name == "multilabel" else one
    columns = {
        "labels": (label, label),
        "probabilities": (datasets.Sequence(datasets.Value("float64")), label),
        "values": (datasets.Value("float64"), datasets.Value("float64")),
        "tags": (datasets.Sequence(datasets.Value("string")), datasets.Sequence(datasets.Value("string"))),
    }
    predictions, references = columns[needs]
    return datasets.Features({"predictions": predictions, "references": references})
