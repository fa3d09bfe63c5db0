"""Probabilities of a whole split without a whole split in memory: written batch by batch to disk, read in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
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


class ProbabilityFile(ArrayProbabilities):
    """A raw float32 file, row by row: `append` the batches, then read. `close` when done; the file stays."""

    def __init__(self, path: str | Path, num_classes: int):
        self.path, self.num_classes, self.num_rows = Path(path), num_classes, 0
        self._file = open(self.path, "wb")  # noqa: SIM115 (kept open between batches)
        self._map: np.ndarray | None = None

    def append(self, probabilities: np.ndarray) -> None:
        """Add a batch, (rows, num_classes). Raises ValueError for another width."""
        probabilities = np.ascontiguousarray(probabilities, np.float32)
        if probabilities.ndim != 2 or probabilities.shape[1] != self.num_classes:
            raise ValueError(f"a batch has shape {probabilities.shape}; allowed: (rows, {self.num_classes}).")
        probabilities.tofile(self._file)
        self.num_rows += len(probabilities)
        self._map = None

    @property
    def array(self) -> np.ndarray:
        """The rows so far as a read-only memory map."""
        if self._map is None:
            if not self._file.closed:
                self._file.flush()
            shape = (self.num_rows, self.num_classes)
            empty = self.num_rows == 0  # which memmap refuses
            self._map = np.empty(shape, np.float32) if empty else np.memmap(self.path, np.float32, "r", shape=shape)
        return self._map

    def close(self) -> None:
        """No more batches; reading still works."""
        self._file.close()

    def __enter__(self) -> ProbabilityFile:
        return self

    def __exit__(self, *failure) -> None:
        self.close()


def as_probabilities(source) -> Probabilities:
    """`source` itself if it can be read in blocks, else an (N, C) array wrapped."""
    return source if hasattr(source, "blocks_of_rows") else ArrayProbabilities(np.asarray(source))
