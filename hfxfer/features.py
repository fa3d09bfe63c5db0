"""Features of a frozen body: computed once, kept memory-mapped on disk, shared by every run that would compute the same.

A folder of the cache is named by everything that the features depend on: the body's weights, its configuration, the
preprocessing, the precision, the number of threads, the versions of the libraries. In it lie shards that are written once
and never changed: two runs may write at the same time, and a shard whose size or checksum is wrong is deleted and its
rows are computed again. A row is found by the content part of its `row_id`, so that other splits, folds and tools find it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hfxfer import console
from hfxfer.batches import encode_all, seeded
from hfxfer.boundary import Boundary
from hfxfer.data import Split
from hfxfer.evaluation import rank_and_world
from hfxfer.models import head_names
from hfxfer.recipe import Recipe
from hfxfer.rowcheck import content_of
from hfxfer.run import write_text
from hfxfer.tasks._task import Problem, Task

FORMAT = 1
ROWS_AT_ONCE = 64
"""Rows of a batch. Always whole: the values of a row may depend, in the last bits, on the batch that it was computed in."""

OF_THE_HEAD = ("id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "transformers_version", "architectures", "label_names",
               "label_descriptions", "num_classes", "pad_token_id")
"""Entries of a config that say nothing about the body."""


def cache_folder() -> Path:
    """Where hfxfer keeps what can be computed again: $HFXFER_CACHE, or hfxfer in the user's cache folder."""
    chosen = os.environ.get("HFXFER_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hfxfer"


class FeatureStore:
    """The shards of one key. `limit` bounds the whole cache, in bytes."""

    def __init__(self, folder: Path, limit: float):
        self.folder, self.limit = folder, limit
        self._found: dict[str, np.ndarray] = {}
        self._read: set[str] = set()
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> np.ndarray:
        return self._found[key]

    def refresh(self) -> None:
        """Read the shards that are new, written by whatever process."""
        for index in sorted(self.folder.glob("*.json")):
            if index.name not in self._read:
                self._read.add(index.name)
                self._open(index)

    def _open(self, index: Path) -> None:
        data = index.with_suffix(".bin")
        try:
            described = json.loads(index.read_text(encoding="utf-8"))
            content = np.memmap(data, np.uint8, "r")
            if len(content) != described["size"] or zlib.crc32(content) != described["checksum"]:
                raise ValueError("the shard is not what was written")
            arrays = {}
            for key, (start, shape) in described["rows"].items():
                size = int(np.prod(shape)) * 4
                arrays[key] = content[start:start + size].view(np.float32).reshape(shape)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            console.warn(f"a part of the feature cache is damaged and is computed again: {data.name}")
            index.unlink(missing_ok=True)
            data.unlink(missing_ok=True)
            return
        self._found.update(arrays)

    def add(self, features: dict[str, np.ndarray]) -> None:
        """Write one shard: the data first, the index last, each whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        rows, at = {}, 0
        for key, value in features.items():
            rows[key] = (at, value.shape)
            at += value.nbytes
        content = b"".join(np.ascontiguousarray(value, dtype=np.float32).tobytes() for value in features.values())
        self._make_room(len(content))
        temporary = self.folder / f".{name}"
        temporary.write_bytes(content)
        os.replace(temporary, self.folder / f"{name}.bin")
        write_text(self.folder / f"{name}.json", json.dumps({"size": len(content), "checksum": zlib.crc32(content), "rows": rows}))

    def _make_room(self, size: int) -> None:
        """Delete what has not been used for the longest time, other keys only."""
        os.utime(self.folder)
        root = self.folder.parent
        sizes = {folder: sum(file.stat().st_size for file in _files(folder)) for folder in root.iterdir() if folder.is_dir()}
        others = sorted((folder for folder in sizes if folder != self.folder), key=_last_use)
        while others and sum(sizes.values()) + size > self.limit:
            oldest = others.pop(0)
            shutil.rmtree(oldest, ignore_errors=True)
            sizes.pop(oldest)


def _files(folder: Path) -> list[Path]:
    with suppress(OSError):  # Another process may be deleting it.
        return [file for file in folder.iterdir() if file.is_file()]
    return []


def _last_use(folder: Path) -> float:
    with suppress(OSError):
        return folder.stat().st_mtime
    return 0.0


def body_digest(model: Any) -> str:
    """Of every weight and buffer outside the head, by name."""
    heads = head_names(model)
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        if name not in heads:
            value = value.detach().cpu().contiguous()
            digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_key(model: Any, processor: Any, recipe: Recipe, boundary: Boundary, precision: str) -> str:
    """A name for everything but the row that features depend on."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in OF_THE_HEAD}
    depends = {"format": FORMAT, "weights": body_digest(model), "config": config, "boundary": boundary.describe(), "precision": precision,
               "transform": _transform(processor), "threads": torch.get_num_threads(), "device": str(next(model.parameters()).device.type),
               "versions": {name: version(name) for name in ("torch", "transformers", "timm", "pillow")}}
    return hashlib.blake2b(json.dumps(depends, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _transform(processor: Any) -> Any:
    """What is done to a picture; what a tokenizer does is in its ids, which are part of an item's own key."""
    if hasattr(processor, "data_config"):
        return processor.data_config
    return processor.to_dict() if hasattr(processor, "image_processor_type") or not hasattr(processor, "model_max_length") else "ids"


class OnFeatures:
    """A task whose inputs are cached features; targets, decoding and scores are the task's own (`inner`).

    With several views, an item's features are (views, …) and the epoch chooses.
    """

    encode_on_access = False

    def __init__(self, inner: Task, boundary: Boundary, store: FeatureStore, recipe: Recipe):
        self.inner, self.boundary, self.store, self.recipe = inner, boundary, store, recipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def encode(self, rows: list[dict], processor: Any, problem: Problem, recipe: Recipe, training: bool) -> list[dict]:
        if self.inner.encode_on_access:
            return [self._picture(index, row, problem, training) for index, row in enumerate(rows)]
        items = self.inner.encode(rows, processor, problem, recipe, training=False)
        for item in items:
            item["_features"] = self.store[item_key(rows[item["_row"]]["row_id"], item)]
            kept = self.boundary.kept_positions(item["attention_mask"])
            if kept is not None:
                item.update({name: [item[name][at] for at in kept] for name in ("input_ids", "attention_mask")})
            item.pop("token_type_ids", None)
        return items

    def _picture(self, index: int, row: dict, problem: Problem, training: bool) -> dict:
        views = self.recipe.feature_views if training else 1
        keys = [picture_key(row["row_id"], view if views > 1 else None, self.recipe) for view in range(views)]
        item: dict[str, Any] = {"_row": index, "_features": [self.store[key] for key in keys]}
        if row.get(self.inner.target) is not None:
            item["labels"] = self.inner.encode_target(row, problem)
        return item

    def collate(self, items: list[dict], processor: Any) -> dict[str, Any]:
        if self.inner.encode_on_access:
            chosen = [item["_features"][item.get("_epoch", 0) % len(item["_features"])] for item in items]
            return self.inner.collate([{**item, "pixel_values": torch.from_numpy(np.array(value))} for item, value in zip(items, chosen)], processor)
        features = [torch.from_numpy(np.array(item["_features"])) for item in items]
        batch = self.inner.collate([{name: value for name, value in item.items() if name != "_features"} for item in items], processor)
        mask = batch["attention_mask"].bool()
        embedded = torch.zeros(*mask.shape, features[0].shape[-1])
        embedded[mask] = torch.cat(features)
        return {**batch, "inputs_embeds": embedded}

    def item_length(self, item: dict) -> int | None:
        return self.inner.item_length(item) if self.boundary.kind == "all" and not self.inner.encode_on_access else None


def picture_key(row_id: str, view: int | None, recipe: Recipe) -> str:
    """view: None for the plain picture."""
    return content_of(row_id) if view is None else f"{content_of(row_id)}/{recipe.augment}/{recipe.seed}/{view}"


def item_key(row_id: str, item: dict) -> str:
    """Of one item of a text: its ids decide, so that windows, lengths and tokenizers are told apart."""
    ids = json.dumps([item.get(name) for name in ("input_ids", "attention_mask", "token_type_ids")])
    return f"{content_of(row_id)}/{hashlib.blake2b(ids.encode(), digest_size=8).hexdigest()}"


def fill(store: FeatureStore, task: Task, model: Any, processor: Any, problem: Problem, recipe: Recipe, boundary: Boundary,
         split: Split, *, training: bool, autocast: Any) -> None:
    """Compute what the store lacks of a split. Of several processes each takes every n-th batch."""
    rank, world = rank_and_world()
    jobs = [job for job in _jobs(task, processor, problem, recipe, split, training) if any(key not in store for key in job[0])]
    mine = jobs[rank::world]
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with console.Progress(sum(len(keys) for keys, _ in mine), f"features of {split.name}", "items") as bar, ThreadPoolExecutor(1) as pool:
            for keys, items in _ahead(pool, mine):
                batch = {key: value.to(device) if hasattr(value, "to") else value for key, value in task.collate(items, processor).items()}
                with autocast():
                    found = boundary.features(model, batch)
                store.add({key: value.numpy() for key, value in zip(keys, found)})
                bar.advance(len(keys))
    finally:
        model.train(was_training)
    if world > 1:
        torch.distributed.barrier()
    store.refresh()


def _jobs(task: Task, processor: Any, problem: Problem, recipe: Recipe, split: Split, training: bool) -> list[tuple[list[str], Any]]:
    """(keys, function that makes the items) of each batch, always the same whatever is cached."""
    row_ids = split.row_ids
    if not task.encode_on_access:
        items = encode_all(task, split, processor, problem, recipe)
        order = sorted(range(len(items)), key=lambda index: (-(task.item_length(items[index]) or 0), index))
        parts = [[items[index] for index in order[at:at + ROWS_AT_ONCE]] for at in range(0, len(order), ROWS_AT_ONCE)]
        return [([item_key(row_ids[item["_row"]], item) for item in part], lambda part=part: part) for part in parts]
    views: Iterable[int | None] = range(recipe.feature_views) if training and recipe.feature_views > 1 else (None,)
    jobs = []
    for view in views:
        for at in range(0, len(row_ids), ROWS_AT_ONCE):
            positions = list(range(at, min(at + ROWS_AT_ONCE, len(row_ids))))
            keys = [picture_key(row_ids[position], view, recipe) for position in positions]
            jobs.append((keys, lambda positions=positions, view=view: _pictures(task, split.take(positions), processor, problem, recipe, view)))
    return jobs


def _pictures(task: Task, rows: list[dict], processor: Any, problem: Problem, recipe: Recipe, view: int | None) -> list[dict]:
    if view is None:
        return task.encode(rows, processor, problem, recipe, training=False)
    items = []
    for row in rows:
        # By content, not by row: the same picture has the same views in every split and run.
        with seeded(recipe.seed, view, content_of(row["row_id"])):
            items += task.encode([row], processor, problem, recipe, training=True)
    return items


def _ahead(pool: ThreadPoolExecutor, jobs: list[tuple[list[str], Any]]) -> Iterator[tuple[list[str], list[dict]]]:
    """Make the next batch's items while the model works on this one."""
    coming = pool.submit(jobs[0][1]) if jobs else None
    for number, (keys, _) in enumerate(jobs):
        items = coming.result()
        coming = pool.submit(jobs[number + 1][1]) if number + 1 < len(jobs) else None
        yield keys, items
