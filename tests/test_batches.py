"""Order and augmentation as functions of (seed, epoch, row)."""

import random
import shutil

import numpy as np
import pytest
import torch
from tiny_models import digits, digits_folder, timm_checkpoint

from hfxfer import data, models, tasks
from hfxfer.batches import EpochBatches, Items, seeded
from hfxfer.errors import DataError, RecipeError
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


# --- balanced --------------------------------------------------------------------------------------------------------

CLASSES = ["a"] * 12 + ["b"] * 3 + ["c"] * 6


def drawn(batches):
    return [index for batch in batches for _, index, *_ in batch]


def test_a_balanced_epoch_has_every_class_equally_often():
    batches = EpochBatches(21, 4, seed=1, classes=CLASSES)
    found = drawn(batches)
    assert len(found) == 21 and [len(batch) for batch in batches] == [4] * 5 + [1]
    assert sorted(CLASSES[index] for index in found) == ["a"] * 7 + ["b"] * 7 + ["c"] * 7
    # Of the rare class each row twice, one of them three times; of the common one seven different rows.
    assert sorted(found.count(index) for index in range(12, 15)) == [2, 2, 3]
    assert max(found.count(index) for index in range(12)) == 1


def test_a_balanced_order_is_of_seed_and_epoch():
    batches, again = (EpochBatches(21, 4, seed=1, classes=CLASSES) for _ in range(2))
    first = list(batches)
    assert list(again) == first
    batches.set_epoch(1)
    assert drawn(batches) != drawn(first) and list(again) == first


def test_what_does_not_divide_goes_to_classes_drawn_anew():
    batches = EpochBatches(20, 4, seed=1, classes=CLASSES[:20])
    counts = set()
    for epoch in range(8):
        batches.set_epoch(epoch)
        counts.add(tuple(sum(CLASSES[index] == name for index in drawn(batches)) for name in "abc"))
    assert counts == {(6, 7, 7), (7, 6, 7), (7, 7, 6)}


def test_a_row_that_comes_again_has_its_number_and_another_augmentation(tmp_path):
    keys = [key for batch in EpochBatches(21, 4, seed=1, classes=CLASSES) for key in batch]
    assert sorted(key[1:] for key in keys if key[1] == 12) in ([(12,), (12, 1)], [(12,), (12, 1), (12, 2)])
    items = image_items(tmp_path, sampler="balanced")
    first, second = items[(0, 1)]["pixel_values"], items[(0, 1, 1)]["pixel_values"]
    assert not torch.equal(first, second) and torch.equal(second, items[(0, 1, 1)]["pixel_values"])


def test_balanced_batches_hold_items_of_like_length():
    lengths = list(np.random.default_rng(0).integers(1, 200, 512))
    classes = ["a" if index % 5 else "b" for index in range(512)]
    batches = list(EpochBatches(512, 8, seed=0, lengths=lengths, classes=classes))
    assert np.mean([max(lengths[key[1]] for key in batch) - min(lengths[key[1]] for key in batch) for batch in batches]) < 20
    assert sum(classes[index] == "b" for index in drawn(batches)) == 256


def test_classes_are_those_of_the_items(tmp_path):
    assert image_items(tmp_path / "random").classes is None
    assert image_items(tmp_path / "balanced", sampler="balanced").classes == ["0"] * 6 + ["1"] * 6


def test_rows_without_one_class_each_are_refused(tmp_path):
    items = image_items(tmp_path, sampler="balanced")
    with pytest.raises(RecipeError) as caught:
        Items(items.task, items.split, items.processor, Problem("multi_label_classification", ("0", "1")), items.recipe, training=True)
    assert str(caught.value) == ("sampler is 'balanced', which draws classes, and problem_type is multi_label_classification, whose rows "
                                 "have not one class each. Leave it out")


def image_items(folder, **settings):
    task, problem = tasks.get("image-classification"), Problem("single_label_classification", ("0", "1"))
    recipe = Recipe(model=str(timm_checkpoint(folder)), data="d", **settings)
    rows = data.load_rows({"train": [{"image": picture, "label": str(label)} for picture, label in digits((0, 1), 6)]}, task.columns, recipe, cut=False)
    return Items(task, rows.train, models.load(task, recipe, problem).processor, problem, recipe, training=True)


def test_pictures_are_decoded_once_and_give_the_same_items(tmp_path, monkeypatch):
    task, recipe = tasks.get("image-classification"), Recipe(model="m", data="d", augment="light")
    folder = digits_folder(tmp_path / "data", (0, 1), train=3)
    rows = data.load_rows(data.read_source(str(folder), recipe), task.columns, recipe)
    processor = models.load(task, Recipe(model=str(timm_checkpoint(tmp_path / "model")), data="d"), task.problem(rows.target, rows.train)).processor

    def made():
        return Items(task, rows.train, processor, task.problem(rows.target, rows.train), recipe, training=True)

    def pixels(items, epoch):
        return torch.stack([items[(epoch, index)]["pixel_values"] for index in range(len(items))])

    kept, one, none = made(), made(), made()
    one._room, none._room = 3 * 32 * 32, 0
    for epoch in (0, 1):
        expected = pixels(none, epoch)
        assert torch.equal(pixels(kept, epoch), expected) and torch.equal(pixels(one, epoch), expected)
    assert (len(kept._decoded), len(one._decoded), len(none._decoded)) == (6, 1, 0)
    shutil.rmtree(folder)
    assert torch.equal(pixels(kept, 1), expected)
    with pytest.raises(DataError):
        pixels(none, 1)


def test_what_is_the_same_in_every_epoch_is_encoded_once(tmp_path, monkeypatch):
    items, erased = image_items(tmp_path / "a", augment="none"), image_items(tmp_path / "b", augment="none", random_erasing=0.9)
    encoded = []
    encode = type(items.task).encode
    monkeypatch.setattr(type(items.task), "encode", lambda self, rows, *given, **named: encoded.extend(rows) or encode(self, rows, *given, **named))
    first = [items[(0, index)] for index in range(12)]
    assert len(encoded) == 12
    again = [items[(1, index)] for index in range(12)]
    assert len(encoded) == 12 and [item["_drawn"] for item in again] == [(1, index) for index in range(12)]
    expected = [items.task.encode([row], items.processor, items.problem, items.recipe, training=False)[0] for row in items.split.take(list(range(12)))]
    for given in (first, again):
        assert all(torch.equal(item["pixel_values"], other["pixel_values"]) and item["labels"] == other["labels"] for item, other in zip(given, expected))
    assert not torch.equal(erased[(0, 0)]["pixel_values"], erased[(1, 0)]["pixel_values"])


def test_encoded_pictures_are_kept_only_while_there_is_room(tmp_path):
    items = image_items(tmp_path, augment="none")
    items._room = 2 * items[(0, 0)]["pixel_values"].nbytes
    expected = [items._encode(row)["pixel_values"] for row in items.split.take(list(range(12)))]
    for epoch in (0, 1):
        assert all(torch.equal(items[(epoch, index)]["pixel_values"], value) for index, value in enumerate(expected))
    assert len(items._encoded) == 3 and items._room == 0
