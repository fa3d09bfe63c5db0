"""Shards: whole or recomputed, bounded, and safe when two processes write."""

import json
import os
import time

import numpy as np
import pytest

from hfxfer import machine, shards
from hfxfer.errors import WorkError
from hfxfer.shards import FeatureStore


def store(folder, limit=1e9):
    return FeatureStore(folder / "features" / "key", limit)


def rows(*names, width=4):
    return {name: np.full((2, width), ord(name[0]), dtype=np.float32) for name in names}


def filled(folder, *names):
    found = store(folder)
    found.add(rows(*names))
    return next(found.folder.glob("*.bin"))


def test_rows_come_back_from_disk_in_their_shape(tmp_path):
    written = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 3), np.float32), "c": np.float32([7.5])}
    store(tmp_path).add(written)
    found = store(tmp_path)
    assert all(np.array_equal(found[key], value) and found[key].shape == value.shape for key, value in written.items())
    assert "d" not in found and not found["a"].flags.writeable


def test_what_another_process_wrote_is_seen_after_refresh(tmp_path):
    first, second = store(tmp_path), store(tmp_path)
    second.add(rows("a"))
    assert "a" not in first
    first.refresh()
    assert first["a"][0, 0] == ord("a")


@pytest.mark.parametrize("poison", ["truncated", "empty", "flipped", "longer", "no data", "garbage index", "empty index", "other index", "moved rows"])
def test_a_damaged_shard_is_told_deleted_and_not_read(tmp_path, capsys, poison):
    data = filled(tmp_path, "a", "b")
    index, content = data.with_suffix(".json"), data.read_bytes()
    described = json.loads(index.read_text())
    flipped = bytearray(content)
    flipped[5] ^= 1
    {"truncated": lambda: data.write_bytes(content[:-1]), "empty": lambda: data.write_bytes(b""), "flipped": lambda: data.write_bytes(flipped),
     "longer": lambda: data.write_bytes(content + b"1"), "no data": data.unlink, "garbage index": lambda: index.write_bytes(b"\xff{"),
     "empty index": lambda: index.write_text(""), "other index": lambda: index.write_text("[1]"),
     "moved rows": lambda: index.write_text(json.dumps({**described, "rows": {"a": described["rows"]["b"], "b": described["rows"]["a"]}}))}[poison]()
    found = store(tmp_path)
    assert "a" not in found and "b" not in found
    assert f"a part of the feature cache is damaged and is computed again: {data}" in capsys.readouterr().err
    assert not data.exists() and not index.exists()
    found.add(rows("a"))
    assert "a" in store(tmp_path)


def test_data_without_an_index_is_not_read_and_cleaned_up_later(tmp_path):
    data = filled(tmp_path, "a")
    data.with_suffix(".json").unlink()
    assert "a" not in store(tmp_path)
    os.utime(data, (time.time() - 7200,) * 2)
    store(tmp_path).add(rows("b"))
    assert not data.exists()


def test_the_first_that_was_written_counts(tmp_path):
    for value in (1.0, 2.0, 3.0):
        store(tmp_path).add({"a": np.float32([value])})
    assert store(tmp_path)["a"][0] == 1.0
    damaged = min(tmp_path.glob("*/*/*.bin"))
    damaged.write_bytes(b"12")
    assert store(tmp_path)["a"][0] == 2.0


def test_what_was_not_used_for_the_longest_time_makes_room(tmp_path):
    """Three keys of 3 shards of 320 bytes; the bound of 1,000 leaves room for three."""
    now = time.time()
    for age, key in ((300, "old"), (200, "newer"), (100, "newest")):
        found = FeatureStore(tmp_path / key, 1e9)
        found.add(rows("a", width=40))
        os.utime(next(found.folder.glob("*.bin")), (now - age,) * 2)
    assert "a" in FeatureStore(tmp_path / "old", 1e9)  # Used again just now.
    own = FeatureStore(tmp_path / "own", 1000)
    own.add(rows("a", width=40))
    assert [(tmp_path / key).exists() for key in ("old", "newer", "newest", "own")] == [True, False, True, True]


def test_the_bound_is_kept_by_holding_the_rest_in_memory(tmp_path, capsys):
    found = store(tmp_path, limit=1000)
    for name in "abcde":
        found.add(rows(name, width=40))
        found.refresh()
        assert name in found
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.bin")) == 960
    assert found["e"][0, 0] == ord("e")
    assert capsys.readouterr().err.count("it is bounded to 1e-06 GB, which this run alone fills: --feature_cache_gb): this run keeps them in memory") == 1


def test_a_folder_that_cannot_be_made_is_told_once_and_memory_takes_its_place(tmp_path, capsys):
    (tmp_path / "features").write_text("a file where the folder should be")
    found = store(tmp_path)
    found.add(rows("a"))
    found.add(rows("b"))
    assert found["a"][0, 0] == ord("a") and found["b"][0, 0] == ord("b")
    assert capsys.readouterr().err.count("this run keeps them in memory") == 1


def test_neither_disk_nor_memory_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "features").write_text("")
    monkeypatch.setattr(machine, "free_memory", lambda: 10)
    with pytest.raises(WorkError, match=r"features cannot be written to .*features \(.*\) and memory does not hold them. Free disk space, name another folder "
                                        r"in the environment variable HFXFER_CACHE, or do without a cache: --feature_cache_gb 0"):
        store(tmp_path).add(rows("a"))


def test_a_row_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(WorkError, match="a row's features are not in .* Start again with --resume"):
        store(tmp_path)["a"]


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("HFXFER_CACHE", str(tmp_path / "own"))
    assert shards.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("HFXFER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert shards.cache_folder() == tmp_path / "xdg" / "hfxfer"
