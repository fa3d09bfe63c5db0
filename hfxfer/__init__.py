"""hfxfer: transfer learning on Hugging Face checkpoints, from data to a scored, publishable model.

Public names are loaded on first use, so that `import hfxfer` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "train": "hfxfer.training",
    "ladder": "hfxfer.climbing",
    "compare": "hfxfer.comparison",
    "load": "hfxfer.serving",
    "evaluate": "hfxfer.serving",
    "FineTuned": "hfxfer.serving",
    "Recipe": "hfxfer.recipe",
    "Run": "hfxfer.run",
    "Score": "hfxfer.run",
    "TransferTrainer": "hfxfer.trainer",
    "Task": "hfxfer.tasks._task",
    "Prediction": "hfxfer.tasks._task",
    "Problem": "hfxfer.tasks._task",
    "Column": "hfxfer.data",
    "HfxferError": "hfxfer.errors",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        import_module("hfxfer.machine").settle()
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hfxfer' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
