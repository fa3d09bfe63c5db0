"""Train a head on the cached features of a frozen body, in Trainer's own loop: what is put in place before, and back after."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hfxfer import console, methods
from hfxfer.batches import Items
from hfxfer.boundary import Boundary, find
from hfxfer.data import Split
from hfxfer.features import OnFeatures, cache_key, fill
from hfxfer.shards import FeatureStore, cache_folder

PROBE_ROWS = 64
PROBE_ITEMS = 8


class CachedItems(Items):
    """Items whose inputs are features; with several views, the epoch chooses."""

    def __getitem__(self, key: Any) -> dict:
        item = super().__getitem__(key)
        return {**item, "_epoch": key[0]} if isinstance(key, tuple) else item


class CachedFeatures:
    """The features of one trainer's frozen body, filled as they are asked for."""

    def __init__(self, trainer: Any, boundary: Boundary, store: FeatureStore):
        self.trainer, self.boundary, self.store, self.task = trainer, boundary, store, trainer.task
        self.filled: list[tuple[Split, bool]] = []

    def fill(self, split: Split, training: bool = False) -> None:
        """Compute what is not cached of a split's rows; with `training` their views."""
        training = training and self.trainer.recipe.feature_views > 1
        if any(split is each and training == kind for each, kind in self.filled):
            return
        trainer = self.trainer
        fill(self.store, self.boundary, trainer.predictor(self.task), split, training=training, autocast=trainer.autocast_smart_context_manager)
        self.filled.append((split, training))


@contextmanager
def on_features(trainer: Any) -> Iterator[None]:
    """Inside, the trainer's rows give features and its model runs only the head. Where that is not possible, nothing changes."""
    cached = _prepared(trainer)
    if cached is None:
        yield
        return
    items = trainer.train_dataset
    kept = {name: getattr(trainer, name) for name in ("task", "train_dataset", "data_collator", "args")}
    cached.fill(items.split, training=True)
    if isinstance(trainer.eval_dataset, Split):
        cached.fill(trainer.eval_dataset)
    trainer.task = OnFeatures(cached.task, cached.boundary, cached.store, trainer.recipe)
    in_training = OnFeatures(cached.task, cached.boundary, cached.store, trainer.recipe, views=trainer.recipe.feature_views)
    trainer.train_dataset = CachedItems(in_training, items.split, items.processor, items.problem, items.recipe, training=True)
    trainer.data_collator = type(kept["data_collator"])(trainer.task, trainer.processing_class)
    # Features need no processes that decode.
    trainer.args = copy.copy(trainer.args)
    trainer.args.dataloader_num_workers, trainer.args.dataloader_prefetch_factor, trainer.args.dataloader_persistent_workers = 0, None, False
    trainer.cached = cached
    try:
        with cached.boundary.replaying(trainer.model), methods.switching_only_what_moves(trainer.model):
            yield
    finally:
        trainer.cached = None
        for name, value in kept.items():
            setattr(trainer, name, value)


def _prepared(trainer: Any) -> CachedFeatures | None:
    """The cache for this trainer's body, or None, told where a person might wonder."""
    recipe, items = trainer.recipe, trainer.train_dataset
    if not isinstance(items, Items) or not recipe.feature_cache_gb:
        return None
    pictures = trainer.task.encode_on_access
    mixed = [name for name in ("mixup", "cutmix", "random_erasing") if getattr(recipe, name)]
    if mixed:
        console.hint(f"{mixed[0]} changes pictures, so features are not cached while only the head is trained")
        return None
    if recipe.feature_views > 1 and (not pictures or recipe.augment == "none"):
        console.hint("feature_views has no effect: " + ("texts are not augmented" if not pictures else "augment is none"))
    model = trainer.model
    batch = _probe(trainer, items)
    boundary = find(model, batch)
    if boundary is None:
        console.hint(f"the head of {type(model).__name__} cannot be run alone, so features are not cached: the frozen body is run in every epoch")
        return None
    rows = len(items) * (recipe.feature_views if pictures else 1) + (trainer.eval_dataset.num_rows if isinstance(trainer.eval_dataset, Split) else 0)
    needed = _bytes_an_item(boundary, model, batch) * rows
    if needed > recipe.feature_cache_gb * 1e9:
        console.hint(f"the features would take {needed / 1e9:.3g} GB, so they are not cached: the frozen body is run in every epoch. "
                     f"To cache them: --feature_cache_gb {needed / 1e9 * 1.5:.2g}")
        return None
    with trainer.autocast_smart_context_manager():
        precision = "fp32" if not torch.is_autocast_enabled(model.device.type) else str(torch.get_autocast_dtype(model.device.type))
    key = cache_key(model, trainer.processing_class, boundary, precision)
    return CachedFeatures(trainer, boundary, FeatureStore(cache_folder() / "features" / key, recipe.feature_cache_gb * 1e9))


def _probe(trainer: Any, items: Items) -> dict[str, Any]:
    """A small batch; of texts the shortest and the longest of the first rows, so that padding is seen for what it is."""
    task = trainer.task
    rows = items.split.take(list(range(min(PROBE_ITEMS if task.encode_on_access else PROBE_ROWS, items.split.num_rows))))
    found = task.encode(rows, items.processor, items.problem, items.recipe, training=False)
    found.sort(key=lambda item: task.item_length(item) or 0)
    chosen = found[:PROBE_ITEMS // 2] + found[PROBE_ITEMS // 2:][-PROBE_ITEMS // 2:]
    batch = task.collate(chosen, items.processor)
    return {name: value.to(trainer.args.device) if hasattr(value, "to") else value for name, value in batch.items()}


def _bytes_an_item(boundary: Boundary, model: Any, batch: dict[str, Any]) -> float:
    features = boundary.features(model, batch)
    return sum(value.numel() for value in features) * 4 / len(features)
