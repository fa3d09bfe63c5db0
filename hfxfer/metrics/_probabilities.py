"""What the metrics on probabilities share; numpy only, since the fast path of `hfxfer.intervals` uses it too."""

from __future__ import annotations

import numpy as np

# scikit-learn's log_loss clips float64 probabilities by this much.
CLIP = np.finfo(np.float64).eps


def check_probabilities(probabilities) -> np.ndarray:
    """(N, C) float64, each entry in [0, 1]. Raises ValueError for anything else (logits, say)."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2:
        raise ValueError(
            f"probabilities have shape {probabilities.shape}; allowed: (rows, classes). Pass one probability a class."
        )
    if probabilities.size and not (probabilities.min() >= 0 and probabilities.max() <= 1 + 1e-3):
        raise ValueError(
            f"probabilities lie in [{probabilities.min():.4g}, {probabilities.max():.4g}]; allowed: [0, 1]. "
            "Apply a softmax (multi-label: a sigmoid) to logits first."
        )
    return probabilities


def row_losses(references: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N,) loss of each row in nats: cross-entropy, or for references (N, C) the mean binary one over the labels.

    Rows of a single-label task are first scaled to sum to 1, since a float32 softmax misses it by 1e-7.
    """
    if references.ndim == 2:
        chance = np.clip(probabilities, CLIP, 1 - CLIP)
        return -np.where(references.astype(bool), np.log(chance), np.log1p(-chance)).mean(axis=1)
    chance = probabilities[np.arange(len(references)), references] / probabilities.sum(axis=1)
    return -np.log(np.clip(chance, CLIP, 1 - CLIP))
