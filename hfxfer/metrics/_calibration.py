"""Expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599), 15 bins of equal width."""

from __future__ import annotations

import numpy as np

NUM_BINS = 15


def confidence_and_correct(references: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Single label: top probability (N,), and whether the top class is the reference.

    Multi-label, references (N, C): every entry's probability (N, C), and whether the label is present.
    """
    if references.ndim == 2:
        return probabilities, references.astype(bool)
    top = probabilities.argmax(axis=1)
    return probabilities[np.arange(len(top)), top], top == references


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """Bin k holds the confidences in (k/15, (k+1)/15]; 0 falls in the first bin."""
    return np.clip(np.ceil(np.asarray(confidence, np.float64) * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, sample_weight=None) -> float | None:
    """Mean over the entries of |share correct - mean confidence| in the entry's bin; None without entries."""
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if confidence.size == 0:
        return None
    weight = np.ones(len(confidence)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    weight = np.broadcast_to(weight.reshape(-1, *[1] * (confidence.ndim - 1)), confidence.shape)
    gap = np.bincount(bins_of(confidence).ravel(), ((correct - confidence) * weight).ravel(), NUM_BINS)
    return float(np.abs(gap).sum() / weight.sum())
