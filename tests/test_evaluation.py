"""The one inference path: order, files on disk, and rows that must all come back."""

import numpy as np
import pytest
import torch
from tiny_models import bert_checkpoint, text_rows

from hfxfer import data, evaluation, models, parallel, tasks
from hfxfer.errors import RecipeError, WorkError
from hfxfer.evaluation import Predictor, check_precision, evaluate_split, predict_split, run_batches, write_predictions
from hfxfer.probabilities import ProbabilityStore
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import Problem


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    task = tasks.get("text-classification")
    recipe = Recipe(model=str(bert_checkpoint(tmp_path_factory.mktemp("bert"))), data="d", max_length=32)
    rows = data.load_rows({"train": text_rows(30)}, task.columns, recipe, cut=False)
    problem = task.problem(rows.target, rows.train)
    loaded = models.load(task, recipe, problem)
    return Predictor(task, loaded.model, loaded.processor, problem, recipe), rows.train


def test_batches_are_sorted_by_length_and_answers_come_in_the_rows_order(prepared):
    predictor, split = prepared
    results = list(run_batches(predictor, split, 7))
    lengths = [max(len(split[position]["text"].split()) for position in result.positions) for result in results]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(position for result in results for position in result.positions) == list(range(30))
    records = predict_split(predictor, split, 7)
    assert [record["input"] for record in records] == split.column("text")


def test_the_size_of_batches_changes_nothing(prepared):
    predictor, split = prepared
    one, many = (predict_split(predictor, split, size) for size in (1, 30))
    for first, second in zip(one, many):
        assert first["label"] == second["label"] and first["score"] == pytest.approx(second["score"], abs=1e-6)


def test_training_mode_is_given_back(prepared):
    predictor, split = prepared
    predictor.model.train()
    evaluate_split(predictor, split, 8)
    assert predictor.model.training


def test_rows_that_do_not_come_back_are_an_error(prepared, monkeypatch):
    predictor, split = prepared
    every = evaluation.run_batches
    monkeypatch.setattr(evaluation, "run_batches", lambda *given: list(every(*given))[1:])
    with pytest.raises(WorkError, match=r"20 of 30 rows came back from 1 processes; no score was computed"):
        evaluate_split(predictor, split, 10)


def test_predictions_are_written_in_order_in_several_row_groups(prepared, tmp_path, monkeypatch):
    import pyarrow.parquet

    monkeypatch.setattr(evaluation, "PARQUET_CHUNK", 8)
    predictor, split = prepared
    outcomes, _ = evaluate_split(predictor, split, 8)
    write_predictions(tmp_path / "predictions.parquet", predictor, split, outcomes)
    table = pyarrow.parquet.read_table(tmp_path / "predictions.parquet").to_pydict()
    assert list(table) == ["row_id", "input", "reference", "prediction", "probabilities"]
    assert table["row_id"] == split.row_ids and table["reference"] == split.column("label")
    assert pyarrow.parquet.ParquetFile(tmp_path / "predictions.parquet").num_row_groups == 4
    assert list(tmp_path.iterdir()) == [tmp_path / "predictions.parquet"]


def test_a_store_takes_rows_in_any_order_and_keeps_them_on_disk(tmp_path):
    store = ProbabilityStore(3, tmp_path)
    for position in (2, 0, 1):
        store.put(position, np.full(4, position / 4))
    assert store.array().tolist() == [[0.0] * 4, [0.25] * 4, [0.5] * 4]
    assert isinstance(store.array(), np.memmap) and store.row(1).tolist() == [0.25] * 4


def test_a_store_takes_matrices_of_different_height(tmp_path):
    store = ProbabilityStore(2, tmp_path)
    store.put(1, np.ones((3, 2)))
    store.put(0, np.zeros((1, 2)))
    assert store.is_ragged and store.row(0).tolist() == [[0.0, 0.0]] and store.row(1).shape == (3, 2)


def test_precision_that_a_cpu_cannot_compute_in_is_refused():
    check_precision("bf16", "cpu")
    with pytest.raises(RecipeError, match="precision is 'fp16', which CPUs do not compute in; allowed here: fp32, bf16"):
        check_precision("fp16", "cpu")


@pytest.fixture
def of_pictures(tmp_path):
    """A predictor of digits 0 and 1 at 32 pixels, and 20 rows."""
    from tiny_models import digits, timm_checkpoint

    task = tasks.get("image-classification")
    recipe = Recipe(model=str(timm_checkpoint(tmp_path, classes=2)), data="d")
    pictures = digits((0, 1), 10)
    split = data.load_rows({"train": [{"image": picture, "label": str(label)} for picture, label in pictures]}, task.columns, recipe, cut=False).train
    loaded = models.load(task, recipe, task.problem(data.Target("single_label_classification", ("0", "1")), split))
    return Predictor(task, loaded.model, loaded.processor, Problem("single_label_classification", ("0", "1")), recipe), split


def test_a_cpu_is_given_few_pictures_at_once_by_their_size(of_pictures, monkeypatch):
    predictor, split = of_pictures
    assert [len(positions) for positions, _ in evaluation._jobs(predictor, split, 64)] == [20]
    assert [len(positions) for positions, _ in evaluation._jobs(predictor, split, 8)] == [8, 8, 4]
    side = parallel.input_size(predictor.processor)[1]
    monkeypatch.setattr(parallel, "PIXELS_AT_ONCE", 8 * side * side + 1)
    for threads, expected in ((1, [8, 8, 4]), (7, [8, 8, 4]), (8, [8, 8, 4]), (16, [16, 4])):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert [len(positions) for positions, _ in evaluation._jobs(predictor, split, 64)] == expected


def test_pictures_made_in_several_threads_are_what_the_processor_makes(of_pictures, monkeypatch):
    predictor, split = of_pictures
    given = {}
    forward = type(predictor.task).forward

    def seen(self, model, batch, recipe):
        given.update((bytes(value.numpy()), True) for value in batch["pixel_values"])
        return forward(self, model, batch, recipe)

    monkeypatch.setattr(type(predictor.task), "forward", seen)
    results = list(run_batches(predictor, split, 8))
    assert [result.positions for result in results] == [[*range(8)], [*range(8, 16)], [*range(16, 20)]]
    expected = predictor.processor(images=[row["image"] for row in split.take(list(range(20)))])["pixel_values"]
    assert set(given) == {bytes(value.numpy()) for value in expected}


def test_a_cpu_is_given_few_long_texts_at_once(prepared, monkeypatch):
    predictor, split = prepared
    monkeypatch.setattr(evaluation, "TOKENS_AT_ONCE", 64)
    for positions, items in evaluation._jobs(predictor, split, 30):
        longest = max(len(item["input_ids"]) for item in items)
        assert len(positions) == 1 or len(positions) * longest <= 64


def test_bf16_that_is_only_emulated_is_told(monkeypatch, capsys):
    monkeypatch.setattr(evaluation.machine, "has_bf16", lambda device_type: False)
    check_precision("bf16", "cpu")
    assert capsys.readouterr().err == ("warning: precision is bf16, which this CPU only emulates: 10 to 30 times slower than fp32. "
                                       "Silence this with --precision fp32\n")
