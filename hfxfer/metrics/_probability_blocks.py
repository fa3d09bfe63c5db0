"""Probabilities of a whole split without a whole split in memory: an array or memory map, read in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

# float32 values held at once: 8 million are 32 MB.
BLOCK_VALUES = 8_000_000


class Probabilities(Protocol):
    """(num_rows, num_classes) float32, read in blocks of rows or of columns."""

    num_rows: int
    num_classes: int

    def blocks_of_rows(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, (rows, num_classes) float32) from top to bottom."""

    def blocks_of_columns(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first column, (num_rows, columns) float32) from left to right."""


class ArrayProbabilities:
    """The same reads on an array or a memory map. array: (rows, classes)."""

    def __init__(self, array: np.ndarray):
        if array.ndim != 2:
            raise ValueError(f"probabilities have shape {array.shape}; allowed: (rows, classes).")
        self.array = array
        self.num_rows, self.num_classes = array.shape

    def blocks_of_rows(self) -> Iterator[tuple[int, np.ndarray]]:
        step = max(1, BLOCK_VALUES // max(1, self.num_classes))
        for start in range(0, self.num_rows, step):
            yield start, np.asarray(self.array[start : start + step], np.float32)

    def blocks_of_columns(self) -> Iterator[tuple[int, np.ndarray]]:
        step = max(1, BLOCK_VALUES // max(1, self.num_rows))
        for start in range(0, self.num_classes, step):
            stop = min(start + step, self.num_classes)
            columns = np.empty((self.num_rows, stop - start), np.float32)
            for row, block in self.blocks_of_rows():
                columns[row : row + len(block)] = block[:, start:stop]
            yield start, columns


class Uncalibrated:
    """Probabilities as they were before their logits were divided by `temperature`, read in blocks of rows.

    multi_label: each entry is a probability by itself; else those of a row sum to 1.
    """

    def __init__(self, probabilities: Probabilities, temperature: float, multi_label: bool):
        self.probabilities, self.temperature, self.multi_label = probabilities, temperature, multi_label
        self.num_rows, self.num_classes = probabilities.num_rows, probabilities.num_classes

    def blocks_of_rows(self) -> Iterator[tuple[int, np.ndarray]]:
        for start, block in self.probabilities.blocks_of_rows():
            chance = block.astype(np.float64)
            weight = chance**self.temperature
            rest = (1 - chance) ** self.temperature if self.multi_label else weight.sum(axis=1, keepdims=True) - weight
            yield start, (weight / (weight + rest)).astype(np.float32)


def as_probabilities(source) -> Probabilities:
    """`source` itself if it can be read in blocks, else an (N, C) array wrapped."""
    return source if hasattr(source, "blocks_of_rows") else ArrayProbabilities(np.asarray(source))
