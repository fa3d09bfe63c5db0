"""The cache of features: what it is keyed by, what is reused, and what is computed again."""

import contextlib
import json
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_models import bert_checkpoint, digits, text_rows, timm_checkpoint

from hfxfer import data, models, tasks
from hfxfer.boundary import find
from hfxfer.evaluation import Predictor
from hfxfer.features import body_digest, cache_key, fill, picture_key
from hfxfer.recipe import Recipe
from hfxfer.shards import FeatureStore


class Case:
    """A loaded model with rows, and a store to fill."""

    def __init__(self, folder, task, checkpoint, rows, **settings):
        self.recipe = Recipe(model=str(checkpoint), data="given", **settings)
        self.task = tasks.get(task)
        self.rows = data.load_rows({"train": rows}, self.task.columns, self.recipe, cut=False)
        self.problem = self.task.problem(self.rows.target, self.rows.train)
        loaded = models.load(self.task, self.recipe, self.problem)
        self.recipe = models.settle_lengths(self.recipe, loaded.processor, loaded.model.config)
        self.model, self.processor, self.folder = loaded.model.eval(), loaded.processor, folder
        self.batch = self.task.collate(self.encoded(range(4)), self.processor)
        self.boundary = find(self.model, self.batch)

    def encoded(self, positions):
        return self.task.encode(self.rows.train.take(positions), self.processor, self.problem, self.recipe, training=False)

    def key(self, precision="fp32"):
        return cache_key(self.model, self.processor, self.boundary, precision)

    def fill(self, split=None, training=True):
        store = FeatureStore(self.folder / self.key(), 1e9)
        predictor = Predictor(self.task, self.model, self.processor, self.problem, self.recipe)
        fill(store, self.boundary, predictor, split or self.rows.train, training=training, autocast=contextlib.nullcontext)
        return store

    def shards(self):
        return {path: path.stat().st_size for path in self.folder.rglob("*.bin")}


def pictures(folder, num=20, **settings):
    rows = [{"image": picture, "label": f"digit {label}"} for picture, label in digits((0, 1), num)]
    return Case(folder / "cache", "image-classification", timm_checkpoint(folder / "net"), rows, **settings)


def texts(folder, num=40, **settings):
    return Case(folder / "cache", "text-classification", bert_checkpoint(folder / "bert"), text_rows(num), **settings)


def test_features_are_what_the_body_gives_for_each_row(tmp_path):
    case = pictures(tmp_path)
    store = case.fill()
    with torch.no_grad():
        expected = case.model.timm_model.forward_head(case.model.timm_model.forward_features(
            torch.stack([item["pixel_values"] for item in case.encoded(range(40))])), pre_logits=True)
    found = torch.stack([torch.from_numpy(store[picture_key(row_id, None, case.recipe)].copy()) for row_id in case.rows.train.row_ids])
    assert torch.allclose(found[:, 0], expected, atol=1e-5)


def test_convolutions_are_as_they_were_after_it(tmp_path):
    case = pictures(tmp_path)
    before = [(parameter.data_ptr(), parameter.stride()) for parameter in case.model.parameters()]
    case.fill()
    assert [(parameter.data_ptr(), parameter.stride()) for parameter in case.model.parameters()] == before


@pytest.mark.parametrize("make", [pictures, texts])
def test_nothing_is_computed_twice(tmp_path, make, monkeypatch):
    case = make(tmp_path)
    case.fill()
    before = case.shards()
    monkeypatch.setattr(case.model, "forward", lambda **unused: pytest.fail("the body was run"))
    case.fill()
    case.fill(case.rows.train.select([3, 1, 8], "fold"))
    assert case.shards() == before


def test_another_split_computes_only_what_is_new(tmp_path):
    case = pictures(tmp_path)
    case.fill(case.rows.train.select(range(10)))
    store = case.fill()
    indexes = [json.loads(path.read_text())["rows"] for path in case.folder.rglob("*.json")]
    keys = [key for rows in indexes for key in rows]
    assert len(keys) == len(set(keys)) == 40 and all(key in store for key in keys)


def test_the_key_does_not_depend_on_the_head(tmp_path):
    first = pictures(tmp_path)
    rows = [{"image": picture, "label": label} for picture, label in digits((0, 1, 2), 4)]
    other = Case(tmp_path / "cache", "image-classification", tmp_path / "net", rows, seed=7)
    assert first.model.config.num_labels != other.model.config.num_labels and first.key() == other.key()
    with torch.no_grad():
        first.model.timm_model.fc.weight.add_(1)
    assert first.key() == other.key()


def test_the_key_depends_on_weights_buffers_transform_precision_and_threads(tmp_path, monkeypatch):
    case = pictures(tmp_path)
    keys = [case.key(), case.key("bf16")]
    first = next(parameter for name, parameter in case.model.named_parameters() if "conv1" in name)
    with torch.no_grad():
        first.view(-1)[0].add_(1e-6)
    keys.append(case.key())
    next(buffer for name, buffer in case.model.named_buffers() if name.endswith("running_mean")).add_(1e-6)
    keys.append(case.key())
    case.processor.data_config["mean"] = (0.4, 0.5, 0.5)
    keys.append(case.key())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 17)
    keys.append(case.key())
    assert len(set(keys)) == 6


def test_the_key_of_a_text_depends_on_its_ids(tmp_path):
    """One cache for every length: a text that is cut elsewhere is another row."""
    case = texts(tmp_path)
    case.fill()
    before = len(case.shards())
    shorter = texts(tmp_path, max_length=6)
    assert shorter.key() == case.key()
    shorter.fill()
    assert len(case.shards()) > before


def test_the_digest_tells_shapes_and_kinds_apart():
    class Net(torch.nn.Module):
        base_model_prefix = "body"

        def __init__(self, value):
            super().__init__()
            self.body = torch.nn.Module()
            self.body.weight = torch.nn.Parameter(value)

    values = torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.bfloat16)
    assert len({body_digest(Net(value)) for value in values}) == 4


def test_each_view_is_augmented_otherwise_and_always_alike(tmp_path):
    case = pictures(tmp_path, num=5, feature_views=3)
    store = case.fill()
    row_id = case.rows.train.row_ids[0]
    views = [store[picture_key(row_id, view, case.recipe)].copy() for view in range(3)]
    assert not any((first == second).all() for first, second in ((views[0], views[1]), (views[0], views[2]), (views[1], views[2])))
    assert picture_key(row_id, None, case.recipe) not in store
    again = pictures(tmp_path / "again", num=5, feature_views=3).fill()
    assert all((again[picture_key(row_id, view, case.recipe)] == views[view]).all() for view in range(3))


def test_views_that_several_threads_make_are_those_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr("hfxfer.features.pictures_at_once", lambda processor: 2)
    one, several = pictures(tmp_path / "one", num=5, feature_views=2), pictures(tmp_path / "several", num=5, feature_views=2)
    encode = type(one.task).encode

    def slowly(self, rows, *given, **named):
        torch.rand(1), time.sleep(0.005)  # Who draws meanwhile changes what comes next.
        return encode(self, rows, *given, **named)

    monkeypatch.setattr(type(one.task), "encode", slowly)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = one.fill()
        torch.set_num_threads(2)
        found = several.fill()
    finally:
        torch.set_num_threads(before)
    keys = [picture_key(row_id, view, one.recipe) for row_id in one.rows.train.row_ids for view in range(2)]
    assert len(keys) == 20 and all((found[key] == expected[key]).all() for key in keys)


@pytest.mark.parametrize("make", [pictures, texts])
def test_a_fill_that_is_cut_short_goes_on_with_the_same_values(tmp_path, make, monkeypatch):
    whole = make(tmp_path / "whole")
    expected = whole.fill()
    case = make(tmp_path / "cut")
    add, calls = FeatureStore.add, []

    def killed(self, features):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        add(self, features)

    monkeypatch.setattr("hfxfer.features.ROWS_AT_ONCE", 8)
    monkeypatch.setattr("hfxfer.features.pictures_at_once", lambda processor: 8)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FeatureStore, "add", killed)
        case.fill()
    assert len(case.shards()) == 1
    found = case.fill()
    fresh = make(tmp_path / "fresh").fill()
    keys = [key for path in case.folder.rglob("*.json") for key in json.loads(path.read_text())["rows"]]
    assert len(keys) == 40 and all((found[key] == fresh[key]).all() for key in keys)
    assert all(abs(found[key] - expected[key]).max() < 1e-5 for key in keys)


def test_two_processes_that_fill_at_once_leave_a_whole_cache(tmp_path):
    case = pictures(tmp_path)
    fork = multiprocessing.get_context("fork")
    together = fork.Barrier(2)

    def run():
        together.wait()
        with ThreadPoolExecutor(1) as pool:  # OpenMP waits for ever in the thread that was forked, where that had a team before.
            store = pool.submit(case.fill).result()
        os._exit(0 if all(picture_key(row_id, None, case.recipe) in store for row_id in case.rows.train.row_ids) else 1)

    both = [fork.Process(target=run) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    before = case.shards()
    store = case.fill()
    assert case.shards() == before
    alone = pictures(tmp_path / "alone").fill()
    for row_id in case.rows.train.row_ids:
        assert (store[picture_key(row_id, None, case.recipe)] == alone[picture_key(row_id, None, case.recipe)]).all()
