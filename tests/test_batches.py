"""Order and augmentation as functions of (seed, epoch, row)."""

import random

import numpy as np
import torch
from tiny_models import digits, timm_checkpoint

from hfxfer import data, models, tasks
from hfxfer.batches import EpochBatches, Items, seeded
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import Problem


def flat(batches):
    return [index for batch in batches for _, index in batch]


def test_every_item_comes_once_an_epoch_in_an_order_of_seed_and_epoch():
    batches = EpochBatches(10, 4, seed=1)
    first = list(batches)
    assert [len(batch) for batch in first] == [4, 4, 2] and len(batches) == 3
    assert sorted(flat(first)) == list(range(10))
    assert {epoch for batch in first for epoch, _ in batch} == {0}
    batches.set_epoch(1)
    assert flat(batches) != flat(first)
    again = EpochBatches(10, 4, seed=1)
    again.set_epoch(1)
    assert list(again) == list(batches)
    assert flat(EpochBatches(10, 4, seed=2)) != flat(first)


def test_drop_last_leaves_out_the_short_batch():
    batches = EpochBatches(10, 4, seed=1, drop_last=True)
    assert [len(batch) for batch in batches] == [4, 4] and len(batches) == 2


def test_without_shuffle_the_order_is_that_of_the_rows():
    assert flat(EpochBatches(5, 2, seed=3, shuffle=False)) == [0, 1, 2, 3, 4]


def test_batches_hold_items_of_like_length():
    lengths = list(np.random.default_rng(0).integers(1, 200, 512))
    spread = [max(lengths[i] for _, i in batch) - min(lengths[i] for _, i in batch) for batch in EpochBatches(512, 8, seed=0, lengths=lengths)]
    unordered = [max(lengths[i] for _, i in batch) - min(lengths[i] for _, i in batch) for batch in EpochBatches(512, 8, seed=0)]
    assert np.mean(spread) < np.mean(unordered) / 5
    assert sorted(flat(EpochBatches(512, 8, seed=0, lengths=lengths))) == list(range(512))


def test_grouped_batches_keep_a_short_last_batch_last():
    batches = list(EpochBatches(21, 4, seed=0, lengths=list(range(21)), group=2))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 1]


def test_seeded_draws_are_the_same_and_leave_the_generators_alone():
    def draw():
        return random.random(), np.random.rand(), float(torch.rand(()))

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = draw()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    with seeded(1, 0, "row"):
        inside = draw()
    assert draw() == expected
    with seeded(1, 0, "row"):
        assert draw() == inside
    for other in ((2, 0, "row"), (1, 1, "row"), (1, 0, "other")):
        with seeded(*other):
            assert draw() != inside


def test_augmentation_is_the_same_in_every_worker(tmp_path):
    task = tasks.get("image-classification")
    recipe = Recipe(model="m", data="d", augment="rand")
    rows = data.load_rows({"train": [{"image": picture, "label": str(label)} for picture, label in digits((0, 1), 6)]}, task.columns, recipe, cut=False)
    processor = models.load(task, Recipe(model=str(timm_checkpoint(tmp_path)), data="d"), Problem("single_label_classification", ("0", "1"))).processor
    items = Items(task, rows.train, processor, Problem("single_label_classification", ("0", "1")), recipe, training=True)
    keys = [[(3, index) for index in range(4)]]
    loaded = [torch.stack([item["pixel_values"] for item in batch])
              for workers in (0, 2) for batch in torch.utils.data.DataLoader(items, batch_sampler=keys, num_workers=workers, collate_fn=list)]
    assert torch.equal(*loaded)
    assert not torch.equal(items[(0, 1)]["pixel_values"], items[(1, 1)]["pixel_values"])
