"""Rows to batches: what training reads, and in which order, as functions of (seed, epoch, row).

The sampler yields (epoch, index) pairs, so that a loader worker knows the epoch without shared state (a row that comes
again in the same epoch has its number, from 1, as a third part), and an item's augmentation is drawn from generators
seeded by (seed, epoch, row_id): a row is augmented the same way whatever the number of workers or processes, and after a
resume.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler, get_worker_info

from hfxfer import console, machine
from hfxfer.data import Split
from hfxfer.errors import RecipeError
from hfxfer.images import open_image
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import SINGLE_LABEL, Problem, Task

ENCODE_CHUNK = 1000
MEGABATCH = 50
"""Batches in the window within which items are sorted by length (as transformers' LengthGroupedSampler)."""


DECODED_SHARE = 0.25
"""Of the free memory, what pictures that were decoded once may take."""


def is_raw(dataset: Any) -> bool:
    """True for rows with a task's columns, False for items already encoded for the model."""
    if isinstance(dataset, Split):
        return True
    names = set(getattr(dataset, "column_names", None) or ())
    if not names or (getattr(dataset, "format", None) or {}).get("type") == "custom":
        try:
            names = set(dataset[0])
        except (TypeError, KeyError, IndexError, NotImplementedError):
            names = set(next(iter(dataset), {}))
    return not names & {"input_ids", "pixel_values", "input_values", "input_features", "inputs_embeds"}


class Items(Dataset):
    """The items of a split: encoded at the start, or on access (with augmentation if `training`) where the task says so.

    Pictures to train on are decoded once, and encoded once where nothing is drawn, as far as a share of the free memory goes; those
    beyond it at each access.
    """

    def __init__(self, task: Task, split: Split, processor: Any, problem: Problem, recipe: Recipe, training: bool):
        self.task, self.split, self.processor, self.problem, self.recipe = task, split, processor, problem, recipe
        self.training = training
        self._row_ids = split.row_ids
        self._items = None if task.encode_on_access else encode_all(task, split, processor, problem, recipe)
        # Now, so that what cannot be balanced is refused before any work.
        self.classes = self._classes() if training else None
        self._pictures = [role for role, column in task.columns.items() if column.kind == "image"] if task.encode_on_access and training else []
        self._draws = training and task.draws(recipe)
        self._decoded: dict[int, dict] = {}
        self._encoded: dict[int, dict] = {}
        self._room = int(DECODED_SHARE * machine.free_memory()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self._pictures else 0

    def __len__(self) -> int:
        return len(self._row_ids) if self._items is None else len(self._items)

    def __getitem__(self, key: int | tuple[int, ...]) -> dict:
        epoch, index, *again = key if isinstance(key, tuple) else (0, key)
        if self._items is not None:
            return self._items[index]
        if self._draws:
            with seeded(self.recipe.seed, epoch, "#".join([self._row_ids[index], *map(str, again)])):
                item = self._encode(self._row(index))
        else:
            item = self._same(index)
        # What a batch is mixed by.
        return {**item, "_drawn": key} if self.training and isinstance(key, tuple) else item

    def _encode(self, row: dict[str, Any]) -> dict:
        return self.task.encode([row], self.processor, self.problem, self.recipe, training=self.training)[0]

    def _same(self, index: int) -> dict:
        """The item of a row that is the same in every epoch; kept, if it is to come again."""
        if index in self._encoded:
            return self._encoded[index]
        item = self._encode(self.split.take([index])[0])
        size = sum(value.nbytes for value in item.values() if isinstance(value, torch.Tensor))
        if 0 < size <= self._room and get_worker_info() is None:  # What a loader's worker kept would be kept by each of them.
            self._encoded[index] = item
            self._room -= size
        return item

    def _row(self, index: int) -> dict[str, Any]:
        """The row, its pictures decoded (8-bit RGB in full size, just as encoding would open them) where they are kept."""
        if index in self._decoded:
            return self._decoded[index]
        row = self.split.take([index])[0]
        # A loader's worker is a process of its own: what it kept would be kept by each of them.
        if self._room <= 0 or get_worker_info() is not None:
            return row
        opened = {role: open_image(row[role]) for role in self._pictures if row.get(role) is not None}
        # Without what the file says about itself (its rotation, say), which has been applied.
        row |= {role: Image.frombytes("RGB", image.size, image.tobytes()) for role, image in opened.items()}
        size = sum(3 * image.width * image.height for image in opened.values())
        if size <= self._room:
            self._decoded[index] = row
            self._room -= size
        return row

    def _classes(self) -> list[str] | None:
        """Each item's class, which a balanced sampler goes by; None for a random one. Raises RecipeError where items have not just one."""
        if self.recipe.sampler == "random":
            return None
        if self.problem.problem_type != SINGLE_LABEL:
            raise RecipeError(f"sampler is {self.recipe.sampler!r}, which draws classes, and problem_type is {self.problem.problem_type}, whose rows "
                              "have not one class each. Leave it out")
        labels = self.split.column(self.task.target)
        return list(labels) if self._items is None else [labels[item["_row"]] for item in self._items]

    def lengths(self) -> list[int] | None:
        """What batches are grouped by, or None."""
        if not self._items or self.task.item_length(self._items[0]) is None:
            return None
        return [self.task.item_length(item) for item in self._items]

    def truncated_share(self) -> float:
        """Share of items that were cut at max_length."""
        return sum(item.get("_truncated", False) for item in self._items or ()) / max(1, len(self))


def encode_all(task: Task, split: Split, processor: Any, problem: Problem, recipe: Recipe) -> list[dict]:
    """Every item of the split without augmentation; `_row` is the row's position in the split."""
    items: list[dict] = []
    with console.Progress(split.num_rows, f"encoding {split.name}", "rows") as bar:
        for start in range(0, split.num_rows, ENCODE_CHUNK):
            positions = range(start, min(start + ENCODE_CHUNK, split.num_rows))
            for item in task.encode(split.take(list(positions)), processor, problem, recipe, training=False):
                item["_row"] += start
                items.append(item)
            bar.advance(len(positions))
    return items


class EpochBatches(Sampler):
    """Batches of (epoch, index), shuffled by (seed, epoch); grouped by length where lengths are given.

    With `classes`, one for each item, an epoch has as many items, and of every class equally many: a rare class's come
    again, (epoch, index, 1) the first time, after all of the class have come. `group` batches follow each other with
    like lengths: the processes of one step, or the parts of one update.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int, *, lengths: list[int] | None = None,
                 shuffle: bool = True, drop_last: bool = False, group: int = 1, classes: list[str] | None = None,
                 first_epoch: int = 0):
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self.lengths = None if lengths is None or not shuffle else np.asarray(lengths)
        self.shuffle, self.drop_last, self.group = shuffle, drop_last, group
        self.epoch = self.first_epoch = first_epoch
        self.members = None if classes is None else [np.flatnonzero(np.asarray(classes) == name) for name in sorted(set(classes))]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = self.first_epoch + epoch

    def __len__(self) -> int:
        return self.num_items // self.batch_size if self.drop_last else -(-self.num_items // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        draw = np.random.default_rng([self.seed, self.epoch])
        order = self._balanced(draw) if self.members else draw.permutation(self.num_items) if self.shuffle else np.arange(self.num_items)
        if self.lengths is not None:
            order = self._by_length(order, draw)
        times: Counter[int] = Counter()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = []
            for index in order[start:start + self.batch_size].tolist():
                batch.append((self.epoch, index, times[index]) if times[index] else (self.epoch, index))
                times[index] += 1
            yield batch

    def _balanced(self, draw: np.random.Generator) -> np.ndarray:
        shares = np.full(len(self.members), self.num_items // len(self.members))
        shares[draw.permutation(len(shares))[:self.num_items % len(shares)]] += 1
        drawn = [np.concatenate([draw.permutation(own) for _ in range(-(-share // len(own)))] or [own[:0]])[:share]
                 for own, share in zip(self.members, shares.tolist())]
        return draw.permutation(np.concatenate(drawn))

    def _by_length(self, order: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        step = self.batch_size * self.group
        window = step * MEGABATCH
        pieces = []
        for start in range(0, len(order), window):
            part = order[start:start + window]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            pieces += [part[at:at + step] for at in range(0, len(part), step)]
        whole = [piece for piece in pieces if len(piece) == step]
        rest = [piece for piece in pieces if len(piece) < step]
        return np.concatenate([*(whole[index] for index in draw.permutation(len(whole))), *rest])


@contextmanager
def seeded(seed: int, epoch: int, row_id: str) -> Iterator[None]:
    """Python's, NumPy's and torch's generators seeded by (seed, epoch, row_id) inside, untouched outside."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{row_id}".encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "little")
    with generators_kept():
        random.seed(value)
        np.random.seed(value % 2**32)
        torch.default_generator.manual_seed(value % 2**63)
        yield


@contextmanager
def generators_kept() -> Iterator[None]:
    """Whatever is drawn inside, Python's, NumPy's and the CPU's generators of torch are outside as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
