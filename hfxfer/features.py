"""Features of a frozen body: computed once, kept memory-mapped on disk, shared by every run that would compute the same.

A folder of the cache is named by everything that the features depend on: the body's weights, its configuration, the
preprocessing, the precision, the number of threads, the versions of the libraries. In it lie shards that are written once
and never changed (`shards.py`). A row is found by the content part of its `row_id`, so that other splits, folds and tools find it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from hfxfer import console, machine
from hfxfer.batches import encode_all, seeded
from hfxfer.boundary import Boundary
from hfxfer.data import Split
from hfxfer.evaluation import Predictor, folded, rank_and_world
from hfxfer.models import head_names
from hfxfer.parallel import TOKENS_AT_ONCE, computed, is_on_cpu, pictures_at_once, threads_to_decode
from hfxfer.recipe import Recipe
from hfxfer.rowcheck import content_of
from hfxfer.shards import FeatureStore
from hfxfer.tasks._task import Problem, Task

FORMAT = 5
ROWS_AT_ONCE = 64
"""The most rows of a batch. Always whole: the values of a row may depend, in the last bits, on the batch that it was computed in."""

DRAWING = threading.Lock()
"""Augmented views are drawn from the process's one generator, by one thread at a time."""

OF_THE_HEAD = ("id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "transformers_version", "architectures", "label_names",
               "label_descriptions", "num_classes", "classifier_dropout")
"""Entries of a config that say nothing about the body."""


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


def cache_key(model: Any, processor: Any, boundary: Boundary, precision: str) -> str:
    """A name for everything but the row that features depend on."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in OF_THE_HEAD}
    depends = {"format": FORMAT, "weights": body_digest(model), "config": config, "boundary": boundary.describe(), "precision": precision,
               "matmul": torch.get_float32_matmul_precision(), "transform": _transform(processor), "threads": torch.get_num_threads(),
               "device": str(next(model.parameters()).device.type), "channels_last": _is_channels_last(model),
               "versions": {name: version(name) for name in ("torch", "torchvision", "transformers", "timm", "pillow")}}
    return hashlib.blake2b(json.dumps(depends, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _is_channels_last(model: Any) -> bool:
    """True where convolutions compute in this memory format, whose sums differ in the last bits. On a CPU they always do here."""
    return any(value.dim() == 4 and value.device.type != "cpu" and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
               for value in model.parameters())


def _transform(processor: Any) -> Any:
    """What is done to a picture; what a tokenizer does is in its ids, which are part of an item's own key."""
    if hasattr(processor, "data_config"):
        return processor.data_config
    return processor.to_dict() if hasattr(processor, "image_processor_type") or not hasattr(processor, "model_max_length") else "ids"


class OnFeatures:
    """A task whose inputs are cached features; targets, decoding and scores are the task's own (`inner`).

    views: of each training picture, among which the epoch chooses; 1 is the plain picture.
    """

    encode_on_access = False

    def __init__(self, inner: Task, boundary: Boundary, store: FeatureStore, recipe: Recipe, views: int = 1):
        self.inner, self.boundary, self.store, self.recipe, self.views = inner, boundary, store, recipe, views
        self._encoded: dict[tuple[str, str], list[dict]] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # While it is unpickled.
            raise AttributeError(name)
        return getattr(self.inner, name)

    def encode(self, rows: list[dict], processor: Any, problem: Problem, recipe: Recipe, training: bool) -> list[dict]:
        if self.inner.encode_on_access:
            return [self._picture(index, row, problem) for index, row in enumerate(rows)]
        # Each evaluation asks for the same items again.
        keys = [(content_of(row["row_id"]), repr(row.get(self.inner.target))) for row in rows]
        new = list({key: row for key, row in zip(keys, rows) if key not in self._encoded}.items())
        for item in self.inner.encode([row for _, row in new], processor, problem, recipe, training=False) if new else ():
            key, row = new[item["_row"]]
            self._encoded.setdefault(key, []).append(self._text(row["row_id"], item))
        return [{**item, "_row": index} for index, key in enumerate(keys) for item in self._encoded[key]]

    def _text(self, row_id: str, item: dict) -> dict:
        item["_features"] = self.store[item_key(row_id, item)]
        # As long as it was: batches are then the same with and without the cache.
        item["_length"] = self.inner.item_length(item)
        kept = self.boundary.kept_positions(item["attention_mask"])
        if kept is not None:
            item.update({name: [item[name][at] for at in kept] for name in ("input_ids", "attention_mask")})
        item.pop("token_type_ids", None)
        return item

    def _picture(self, index: int, row: dict, problem: Problem) -> dict:
        keys = [picture_key(row["row_id"], view if self.views > 1 else None, self.recipe) for view in range(self.views)]
        item: dict[str, Any] = {"_row": index, "_features": [self.store[key] for key in keys]}
        if row.get(self.inner.target) is not None:
            item["labels"] = self.inner.encode_target(row, problem)
        return item

    def collate(self, items: list[dict], processor: Any) -> dict[str, Any]:
        if self.inner.encode_on_access:
            chosen = [item["_features"][item.get("_epoch", 0) % len(item["_features"])] for item in items]
            stacked = torch.from_numpy(np.stack(chosen))
            return self.inner.collate([{**item, "pixel_values": value} for item, value in zip(items, stacked)], processor)
        # Where all are equally long, a tokenizer would pad nothing, and take as long as the head.
        padding = processor if self.boundary.kind == "all" else _NothingToPad
        batch = self.inner.collate([{name: value for name, value in item.items() if name != "_features"} for item in items], padding)
        mask = batch["attention_mask"].bool()
        features = np.concatenate([item["_features"] for item in items])
        embedded = torch.zeros(*mask.shape, features.shape[-1])
        embedded[mask] = torch.from_numpy(features)
        return {**batch, "inputs_embeds": embedded}

    def item_length(self, item: dict) -> int | None:
        return item.get("_length")


class _NothingToPad:
    """A tokenizer's `pad` for items of one length."""

    @staticmethod
    def pad(items: list[dict], return_tensors: str) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([item[name] for item in items]) for name in items[0]}


def picture_key(row_id: str, view: int | None, recipe: Recipe) -> str:
    """view: None for the plain picture."""
    return content_of(row_id) if view is None else f"{content_of(row_id)}/{recipe.augment}/{recipe.seed}/{view}"


def item_key(row_id: str, item: dict) -> str:
    """Of one item of a text: its ids decide, so that windows, lengths and tokenizers are told apart."""
    ids = json.dumps([item.get(name) for name in ("input_ids", "attention_mask", "token_type_ids")])
    return f"{content_of(row_id)}/{hashlib.blake2b(ids.encode(), digest_size=8).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Job:
    """One batch: the keys of its rows, and what makes their items, part by part."""

    keys: list[str]
    parts: list[Callable[[], list[dict]]]


def fill(store: FeatureStore, boundary: Boundary, predictor: Predictor, split: Split, *, training: bool, autocast: Any) -> None:
    """Compute what the store lacks of a split. Of several processes each takes every n-th batch."""
    rank, world = rank_and_world()
    jobs = _jobs(predictor, split, training)
    _compute(store, boundary, predictor, jobs[rank::world], split, autocast)
    if world > 1:
        torch.distributed.barrier()
        store.refresh()
    # What another process could only keep in its memory or on its own disk, or what somebody has deleted since.
    _compute(store, boundary, predictor, jobs, split, autocast)


def _compute(store: FeatureStore, boundary: Boundary, predictor: Predictor, jobs: list[Job], split: Split, autocast: Any) -> None:
    jobs = [job for job in jobs if any(key not in store for key in job.keys)]
    if not jobs:
        return
    model = predictor.model
    device, was_training = next(model.parameters()).device, model.training

    def features(mine: Any, _job: Job, items: list[dict]) -> list[torch.Tensor]:
        batch = {key: value.to(device) if hasattr(value, "to") else value
                 for key, value in predictor.task.collate(items, predictor.processor).items()}
        with autocast():
            return boundary.features(mine, batch)

    model.eval()
    try:
        with console.Progress(sum(len(job.keys) for job in jobs), f"features of {split.name}", "items") as bar, _fast_convolutions(model), \
                folded(predictor, split), closing(computed(model, jobs, lambda job: job.parts, features)) as answers:
            for job, found in zip(jobs, answers):
                # The first that is written counts: a run that is cut short and goes on must read what it would have read.
                store.add({key: value.numpy() for key, value in zip(job.keys, found) if key not in store})
                bar.advance(len(job.keys))
    finally:
        model.train(was_training)
    store.refresh()


@contextmanager
def _fast_convolutions(model: Any) -> Iterator[None]:
    """Inside, convolutions in channels_last, in which they are fastest on a CPU; afterwards the model is as it was."""
    kernels = [(parameter, parameter.data) for parameter in model.parameters() if parameter.dim() == 4 and parameter.device.type == "cpu"]
    if kernels:
        machine.keep_memory()
    for parameter, given in kernels:
        parameter.data = given.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for parameter, given in kernels:
            parameter.data = given


def _jobs(predictor: Predictor, split: Split, training: bool) -> list[Job]:
    """Batches, always the same whatever is cached."""
    task, recipe, row_ids = predictor.task, predictor.recipe, split.row_ids
    on_cpu = is_on_cpu(predictor.model)
    if not task.encode_on_access:
        return _text_jobs(task, encode_all(task, split, predictor.processor, predictor.problem, recipe), row_ids, on_cpu)
    several = training and recipe.feature_views > 1
    size = pictures_at_once(predictor.processor) if on_cpu else ROWS_AT_ONCE
    jobs = []
    for view in range(recipe.feature_views) if several else (None,):
        for at in range(0, len(row_ids), size):
            positions = list(range(at, min(at + size, len(row_ids))))
            step = -(-len(positions) // (1 if several else threads_to_decode()))
            parts = [positions[first:first + step] for first in range(0, len(positions), step)]
            jobs.append(Job([picture_key(row_ids[position], view, recipe) for position in positions],
                            [lambda part=part, view=view: _pictures(predictor, split.take(part), view) for part in parts]))
    return jobs


def _text_jobs(task: Task, items: list[dict], row_ids: list[str], on_cpu: bool) -> list[Job]:
    """The longest first: a batch is padded to its first item."""
    lengths = [task.item_length(item) or 0 for item in items]
    order = sorted(range(len(items)), key=lambda index: (-lengths[index], index))
    jobs, at = [], 0
    while at < len(order):
        size = min(ROWS_AT_ONCE, max(1, TOKENS_AT_ONCE // max(1, lengths[order[at]]))) if on_cpu else ROWS_AT_ONCE
        part = [items[index] for index in order[at:at + size]]
        jobs.append(Job([item_key(row_ids[item["_row"]], item) for item in part], [lambda part=part: part]))
        at += size
    return jobs


def _pictures(predictor: Predictor, rows: list[dict], view: int | None) -> list[dict]:
    task, recipe = predictor.task, predictor.recipe
    if view is None:
        return task.encode(rows, predictor.processor, predictor.problem, recipe, training=False)
    items = []
    for row in rows:
        # By content, not by row: the same picture has the same views in every split and run.
        with DRAWING, seeded(recipe.seed, view, content_of(row["row_id"])):
            items += task.encode([row], predictor.processor, predictor.problem, recipe, training=True)
    return items
