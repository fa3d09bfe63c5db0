"""Rows of numbers on disk, written by many runs and read by all: shards with checksums, a bound, and nothing that is ever changed."""

from __future__ import annotations

import json
import math
import os
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from hfxfer import console, machine
from hfxfer.errors import WorkError
from hfxfer.run import write_text

MEASURE_EVERY = 64
"""Shards after which the size of the whole cache is measured anew: other runs write, too."""

ABANDONED_AFTER = 3600.0
"""Seconds after which a file without an index is what a killed process left."""

MEMORY_SHARE = 0.5
"""Of the free memory: the most that is kept there when the disk takes no more."""


def cache_folder() -> Path:
    """Where hfxfer keeps what can be computed again: $HFXFER_CACHE, or hfxfer in the user's cache folder."""
    chosen = os.environ.get("HFXFER_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hfxfer"


class FeatureStore:
    """The shards of one key. `limit` bounds the whole cache, in bytes: what was not used for the longest time goes first.

    A shard is NAME.bin, rows of float32 one after the other, and NAME.json: {size, checksum, rows: {key: [start, shape]}}. Names
    begin with the time, so that of several shards that hold a row the first written is read, by whatever process.
    """

    def __init__(self, folder: Path, limit: float):
        self.folder, self.limit = folder, limit
        self._rows: dict[str, dict[str, tuple[int, tuple[int, ...]]]] = {}
        self._checksums: dict[str, tuple[int, int]] = {}
        self._contents: dict[str, np.ndarray] = {}
        self._where: dict[str, str] = {}
        self._seen: set[str] = set()
        self._total, self._added, self._in_memory = 0, 0, 0
        self.refresh()

    def __contains__(self, key: str) -> bool:
        """True where the row is there and its shard is whole: that is found out when the shard is first asked for."""
        while key in self._where:
            if self._opened(self._where[key]):
                return True
        return False

    def __getitem__(self, key: str) -> np.ndarray:
        """Read-only. Raises WorkError for a row that is not there (any more)."""
        if key not in self:
            raise WorkError(f"a row's features are not in {self.folder} (any more): is another process deleting there? Start again with --resume")
        name = self._where[key]
        start, shape = self._rows[name][key]
        return self._contents[name][start:start + 4 * math.prod(shape)].view(np.float32).reshape(shape)

    def refresh(self) -> None:
        """Read the indexes that are new, written by whatever process."""
        for index in sorted(self.folder.glob("*.json")):
            if index.stem not in self._seen:
                self._seen.add(index.stem)
                self._read(index)

    def _read(self, index: Path) -> None:
        try:
            described = json.loads(index.read_text(encoding="utf-8"))
            rows = {key: (int(start), tuple(map(int, shape))) for key, (start, shape) in described["rows"].items()}
            self._checksums[index.stem] = int(described["size"]), int(described["checksum"])
        except FileNotFoundError:
            return  # Another process made room.
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._drop(index.stem)
            return
        self._keep(index.stem, rows)

    def _keep(self, name: str, rows: dict[str, tuple[int, tuple[int, ...]]]) -> None:
        self._rows[name] = rows
        for key in rows:
            self._where.setdefault(key, name)

    def _opened(self, name: str) -> bool:
        """True where the shard is whole; else it is deleted and forgotten."""
        if name in self._contents:
            return True
        data = self._bin(name)
        try:
            content = np.memmap(data, np.uint8, "r")
        except (OSError, ValueError):  # An empty file cannot be mapped.
            content = np.empty(0, np.uint8)
        if _checksum(content, self._rows[name]) != self._checksums[name]:
            self._drop(name)
            return False
        with suppress(OSError):
            os.utime(data)
        self._contents[name] = content
        return True

    def _drop(self, name: str) -> None:
        """Forget a shard, and delete it; without a word where another process has just made room."""
        if self._bin(name).with_suffix(".json").exists():
            console.warn(f"a part of the feature cache is damaged and is computed again: {self._bin(name)}")
        _delete(self._bin(name))
        self._rows.pop(name, None)
        self._where = {}
        for each, rows in self._rows.items():
            self._keep(each, rows)

    def _bin(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def add(self, features: dict[str, np.ndarray]) -> None:
        """Write one shard: the data first, the index last, each whole or not at all. What the disk does not take is kept in memory."""
        rows, at = {}, 0
        for key, value in features.items():
            rows[key] = (at, tuple(value.shape))
            at += value.size * 4
        content = b"".join(np.ascontiguousarray(value, dtype=np.float32).tobytes() for value in features.values())
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        checksum = _checksum(content, rows)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._make_room(len(content)):
                raise OSError(f"it is bounded to {self.limit / 1e9:.3g} GB, which this run alone fills: --feature_cache_gb")
            temporary = self.folder / f".{name}"
            temporary.write_bytes(content)
            os.replace(temporary, self._bin(name))
            write_text(self._bin(name).with_suffix(".json"), json.dumps({"size": len(content), "checksum": checksum[1], "rows": rows}))
        except OSError as error:
            self._keep_in_memory(name, rows, content, error)

    def _keep_in_memory(self, name: str, rows: dict[str, tuple[int, tuple[int, ...]]], content: bytes, error: OSError) -> None:
        if not self._in_memory:
            console.warn(f"features cannot be written to {self.folder.parent} ({error.strerror or error}): this run keeps them in memory")
        for path in (self.folder / f".{name}", self._bin(name)):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self._in_memory += len(content)
        if self._in_memory > MEMORY_SHARE * (self._in_memory + machine.free_memory()):
            raise WorkError(f"features cannot be written to {self.folder.parent} ({error.strerror or error}) and memory does not hold them. "
                            "Free disk space, name another folder in the environment variable HFXFER_CACHE, or do without a cache: --feature_cache_gb 0")
        self._contents[name] = np.frombuffer(content, np.uint8)
        self._keep(name, rows)

    def _make_room(self, size: int) -> bool:
        """Delete the shards, of any key, that have not been used for the longest time. False where those of this run leave no room."""
        if self._added % MEASURE_EVERY == 0 or self._total + size > self.limit:
            found = sorted(_shards_on_disk(self.folder.parent), key=lambda shard: shard[0])
            self._total = sum(shard[1] for shard in found)
            for _, own, data in found:
                if self._total + size <= self.limit:
                    break
                if data.parent != self.folder or data.stem not in self._contents:
                    _delete(data)
                    self._total -= own
        self._added += 1
        self._total += size
        return self._total <= self.limit


def _checksum(content: Any, rows: dict[str, Any]) -> tuple[int, int]:
    """(bytes, sum over the rows' places and the content)."""
    return len(content), zlib.crc32(content, zlib.crc32(json.dumps(rows, sort_keys=True).encode()))


def _shards_on_disk(root: Path) -> Iterator[tuple[float, int, Path]]:
    """(last use, bytes, data file) of every shard of every key. What a killed process left half written is deleted."""
    for data in root.glob("*/*"):
        with suppress(OSError):  # Another process may be deleting it.
            at = data.stat()
            if data.suffix == ".bin" and data.with_suffix(".json").exists():
                yield at.st_mtime, at.st_size, data
            elif data.suffix != ".json" and time.time() - at.st_mtime > ABANDONED_AFTER:
                data.unlink()


def _delete(data: Path) -> None:
    """The index first: a shard without one is not read."""
    for path in (data.with_suffix(".json"), data):
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        data.parent.rmdir()
