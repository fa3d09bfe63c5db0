"""Probabilities of many rows, kept on disk, written in any order and read by row or as one array."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np


class ProbabilityStore:
    """(classes,) or (tokens, classes) float32 for each of `num_rows` rows, 4 bytes a value in a file without a name.

    folder: where the file lies; the system's folder for temporary files by default.
    """

    def __init__(self, num_rows: int, folder: str | Path | None = None):
        self.num_rows = num_rows
        self.num_classes = 0
        self.is_ragged = False
        self._file = tempfile.TemporaryFile(dir=folder)
        self._places: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._end = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, position: int, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values, dtype=np.float32)
        self.is_ragged, self.num_classes = values.ndim > 1, values.shape[-1]
        self._count += 1
        # Rows of one size lie at their own place, so that all of them are one array.
        start = self._end if self.is_ragged else position * values.nbytes
        self._file.seek(start)
        self._file.write(values.tobytes())
        if self.is_ragged:
            self._places[position] = (start, values.shape)
            self._end = start + values.nbytes

    def row(self, position: int) -> np.ndarray:
        start, shape = self._places[position] if self.is_ragged else (position * self.num_classes * 4, (self.num_classes,))
        self._file.flush()
        self._file.seek(start)
        return np.frombuffer(self._file.read(4 * int(np.prod(shape))), dtype=np.float32).reshape(shape)

    def array(self) -> np.ndarray:
        """(rows, classes), a read-only memory map; only for rows of one size."""
        self._file.flush()
        return np.memmap(self._file, np.float32, "r", shape=(self.num_rows, self.num_classes))
