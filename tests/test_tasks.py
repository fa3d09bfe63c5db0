"""The contract, over every task and over a throw-away detection task that needs all that comes later."""

import types

import numpy as np
import pytest
import torch
import transformers
from tiny_models import bert_checkpoint, gpt2_checkpoint, timm_checkpoint

from hfxfer import data, models, tasks
from hfxfer.batches import Items
from hfxfer.errors import RecipeError
from hfxfer.evaluation import Predictor, evaluate_split, predict_split
from hfxfer.mixing import Collator
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import Outcomes, Prediction, Problem, Task
from hfxfer.tasks.token_classification import owned_words
from hfxfer.trainer import TransferTrainer


class Boxes(Task):
    """Detection in small: a target is a list of boxes, a batch holds a list of targets, a prediction any number of boxes."""

    name = "test-detection"
    summary = "a picture in, boxes out"
    columns = {"image": data.Column(kind="image", names=("image",)), "objects": data.Column(kind="objects", names=("objects",), target=True)}
    auto_model = auto_processor = ""
    encode_on_access = True

    def problem(self, target, train):
        return Problem("detection", ("bright",))

    def primary_metric(self, problem):
        return "mean_boxes"

    def greater_is_better(self, problem):
        return True

    def encode(self, rows, processor, problem, recipe, training):
        items = []
        for index, row in enumerate(rows):
            pixels = torch.from_numpy(np.asarray(row["image"], dtype=np.float32) / 255).permute(2, 0, 1)
            boxes = [box for box in row.get("objects") or ()]
            if training and torch.rand(()) < 0.5:
                pixels = pixels.flip(-1)
                boxes = [[8 - right, top, 8 - left, bottom] for left, top, right, bottom in boxes]
            items.append({"pixel_values": pixels, "labels": {"boxes": boxes}, "_row": index})
        return items

    def collate(self, items, processor):
        return {"pixel_values": torch.stack([item["pixel_values"] for item in items]), "labels": [item["labels"] for item in items],
                "_row": [item["_row"] for item in items]}

    def forward(self, model, batch, recipe):
        brightness = model(batch["pixel_values"].mean((1, 2, 3))[:, None])[:, 0]
        wanted = torch.tensor([float(len(labels["boxes"])) for labels in batch["labels"]])
        return types.SimpleNamespace(loss=torch.nn.functional.mse_loss(brightness, wanted), counts=brightness)

    def decode(self, outputs, batch, processor, problem):
        return [Prediction([{"box": [0.0, 0.0, 1.0, 1.0], "label": "bright"}] * max(0, round(count)))
                for count in outputs.counts.tolist()]

    def record(self, prediction, row, problem):
        return {"boxes": prediction.answer}

    def describe_input(self, row):
        return row["row_id"]

    def score(self, outcomes, problem, intervals, seed):
        value = float(np.mean([len(boxes) for boxes in outcomes.answers]))
        return [types.SimpleNamespace(metric="mean_boxes", value=value, low=value, high=value, label=None,
                                      num_rows=len(outcomes.answers), interval_method=None)]

    def example_rows(self, num_rows, seed=0):
        draw = np.random.default_rng(seed)
        return [{"image": draw.integers(0, 255, (8, 8, 3)).astype(np.uint8), "objects": [[0, 0, 2, 2]] * (index % 3)}
                for index in range(num_rows)]


class NoProcessor:
    """Detection here needs no preprocessing; Trainer saves what it is given."""

    def save_pretrained(self, folder):
        pass


CHECKPOINTS = {"image-classification": timm_checkpoint, "text-classification": bert_checkpoint, "token-classification": bert_checkpoint}


def prepared(name, folder):
    """(task, rows, loaded, recipe, problem) on the task's own example rows."""
    task = tasks.get(name)
    recipe = Recipe(model=str(CHECKPOINTS[name](folder)), data="example", task=name, augment="light", stride=4)
    rows = data.load_rows(data.read_source(task.example_rows(40), recipe), task.columns, recipe)
    problem = task.problem(rows.target, rows.train)
    loaded = models.load(task, recipe, problem)
    return task, rows, loaded, models.settle_lengths(recipe, loaded.processor, loaded.model.config), problem


@pytest.mark.parametrize("name", tasks.BUILT_IN)
def test_example_rows_have_the_roles_and_are_a_function_of_the_seed(name):
    task = tasks.get(name)
    rows = task.example_rows(7, seed=3)
    assert len(rows) == 7 and all({role for role, column in task.columns.items() if column.required} <= set(row) for row in rows)
    again = task.example_rows(7, seed=3)
    assert [row[task.target] for row in rows] == [row[task.target] for row in again]


@pytest.mark.parametrize("name", tasks.BUILT_IN)
def test_file_module_and_name_agree(name):
    assert tasks.BUILT_IN[name].rpartition(".")[2].replace("_", "-") == name == tasks.get(name).name


@pytest.mark.parametrize("name", tasks.BUILT_IN)
def test_rows_become_one_prediction_each_through_every_step(name, tmp_path):
    task, rows, loaded, recipe, problem = prepared(name, tmp_path)
    chosen = rows.train.take(range(3))
    items = task.encode(chosen, loaded.processor, problem, recipe, training=False)
    assert {item["_row"] for item in items} == {0, 1, 2}
    batch = task.collate(items, loaded.processor)
    with torch.no_grad():
        outputs = task.forward(loaded.model.eval(), batch, recipe)
    assert outputs.loss.ndim == 0 and torch.isfinite(outputs.loss)
    predictions = task.decode(outputs, batch, loaded.processor, problem)
    assert len(predictions) == 3
    for prediction, row in zip(predictions, chosen):
        assert np.allclose(prediction.probabilities.sum(-1), 1, atol=1e-5)
        assert isinstance(task.describe_input(row), str)
        assert task.record(prediction, row, problem)


@pytest.mark.parametrize("name", tasks.BUILT_IN)
def test_rows_without_targets_are_encoded_too(name, tmp_path):
    task, rows, loaded, recipe, problem = prepared(name, tmp_path)
    bare = [{role: value for role, value in row.items() if role != task.target} for row in rows.train.take(range(2))]
    batch = task.collate(task.encode(bare, loaded.processor, problem, recipe, training=False), loaded.processor)
    assert "labels" not in batch


@pytest.mark.parametrize("name", tasks.BUILT_IN)
def test_evaluation_with_encoding_has_no_chance_in_it(name, tmp_path):
    task, rows, loaded, recipe, problem = prepared(name, tmp_path)
    predictor = Predictor(task, loaded.model, loaded.processor, problem, recipe)
    first, loss = evaluate_split(predictor, rows.train, 4)
    again, same = evaluate_split(predictor, rows.train, 4)
    assert first.answers == again.answers and loss == same
    names = {score.metric for score in task.score(first, problem, intervals=False, seed=0)}
    assert task.primary_metric(problem) in names


def test_detection_trains_and_predicts_through_the_same_contract(tmp_path):
    from transformers import TrainingArguments

    task = Boxes()
    recipe = Recipe(model="m", data="example")
    rows = data.load_rows({"train": task.example_rows(12), "validation": task.example_rows(6, 1)}, task.columns, recipe, cut=False)
    items = Items(task, rows.train, None, task.problem(None, None), recipe, training=True)
    flipped = [items[(epoch, 2)]["labels"]["boxes"] for epoch in range(8)]
    assert sorted({str(boxes) for boxes in flipped}) == ["[[0, 0, 2, 2], [0, 0, 2, 2]]", "[[6, 0, 8, 2], [6, 0, 8, 2]]"]
    assert set(Collator(task, None)([items[(0, 0)]])) == {"pixel_values", "labels"}
    args = TrainingArguments(output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=5, learning_rate=0.1, use_cpu=True,
                             eval_strategy="epoch", report_to="none", disable_tqdm=True, metric_for_best_model="mean_boxes")
    trainer = TransferTrainer(model=torch.nn.Linear(1, 1), args=args, train_dataset=rows.train, eval_dataset=rows.validation, task=task,
                              recipe=recipe, problem=task.problem(None, None), processing_class=NoProcessor())
    before = trainer.model.weight.clone()
    trainer.train()
    assert not torch.equal(before, trainer.model.weight)
    assert trainer.state.log_history[-2]["eval_mean_boxes"] >= 0
    records = predict_split(Predictor(task, trainer.model, None, trainer.problem, recipe), rows.validation, 4)
    assert [set(record) for record in records] == [{"input", "boxes"}] * 6


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(RecipeError, match="Did you mean image-classification"):
        tasks.get("image-clasification")


def test_a_task_may_come_from_outside(tmp_path, monkeypatch):
    package = tmp_path / "outside_task-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-task\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[hfxfer.tasks]\ntest-outside = outside_task:Outside\n")
    (tmp_path / "outside_task.py").write_text("from hfxfer.tasks._task import Task\nclass Outside(Task):\n    name = 'test-outside'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "test-outside" in tasks.names()
    assert tasks.get("test-outside").name == "test-outside"


def test_words_are_spoken_for_once_in_the_window_with_most_context():
    # One text of sub-tokens 0 1 1 2 3 4 in windows of 4 that overlap by 2, with special tokens around.
    windows = [[None, 0, 1, 1, 2, None], [None, 1, 2, 3, 4, None]]
    assert owned_words(windows, stride=2) == [[-1, 0, 1, -1, -1, -1], [-1, -1, 2, 3, 4, -1]]


def test_one_window_speaks_for_every_word():
    assert owned_words([[None, 0, 0, 1, None]], stride=2) == [[-1, 0, -1, 1, -1]]


@pytest.mark.parametrize("length", [3, 10, 61, 200])
def test_no_token_is_lost_in_windows(length, tmp_path):
    task, rows, loaded, recipe, problem = prepared("token-classification", tmp_path)
    recipe = Recipe(model="m", data="d", max_length=20, stride=6)
    words = [f"{index} ada" .split()[index % 2] for index in range(length)]
    row = {"tokens": words, "tags": ["B-PER" if index % 5 == 0 else "O" for index in range(length)]}
    items = task.encode([row], loaded.processor, problem, recipe, training=False)
    spoken = sorted(word for item in items for word in item["_words"] if word >= 0)
    assert spoken == list(range(length))
    assert all(len(item["input_ids"]) <= 20 for item in items)
    labels = {word: label for item in items for word, label in zip(item["_words"], item["labels"]) if word >= 0}
    assert [problem.labels[labels[word]] for word in range(length)] == row["tags"]
    batch = task.collate(items, loaded.processor)
    with torch.no_grad():
        prediction, = task.decode(task.forward(loaded.model, batch, recipe), batch, loaded.processor, problem)
    assert len(prediction.answer) == length


def test_entities_are_given_with_their_place_in_the_joined_words():
    task = tasks.get("token-classification")
    row = {"tokens": ["ada", "smith", "in", "oslo"]}
    matrix = np.array([[0.1, 0.9, 0.0, 0.0], [0.2, 0.0, 0.8, 0.0], [1.0, 0.0, 0.0, 0.0], [0.3, 0.0, 0.0, 0.7]], dtype=np.float32)
    found = task.record(Prediction(["B-PER", "I-PER", "O", "B-LOC"], matrix), row, Problem("tags", ("O", "B-PER", "I-PER", "B-LOC")))
    assert [(entity["entity"], entity["word"], entity["start"], entity["end"]) for entity in found["entities"]] == [
        ("PER", "ada smith", 0, 9), ("LOC", "oslo", 13, 17)]
    assert [entity["score"] for entity in found["entities"]] == pytest.approx([0.85, 0.7])


def test_byte_level_bpe_sees_words_with_their_space(tmp_path):
    folder = gpt2_checkpoint(tmp_path)
    task = tasks.get("token-classification")
    problem = Problem("tags", ("O", "B-PER"))
    loaded = models.load(task, Recipe(model=str(folder), data="d"), problem)
    items = task.encode([{"tokens": ["ada", "in"], "tags": ["B-PER", "O"]}], loaded.processor, problem, Recipe(model="m", data="d", max_length=32, stride=4), False)
    spelt = loaded.processor.convert_ids_to_tokens(items[0]["input_ids"])
    assert spelt[0].startswith("Ġ")
    assert [label for label in items[0]["labels"] if label != -100] == [1, 0]


def test_pairs_lists_and_numbers_are_told_apart_and_decoded(tmp_path):
    task = tasks.get("text-classification")
    folder = bert_checkpoint(tmp_path)
    cases = {
        "multi_label_classification": ([["a", "b"], [], ["b"]], list),
        "regression": ([1.5, 2.5, 4.0], float),
        "single_label_classification": (["x", "y", "x"], str),
    }
    for problem_type, (labels, kind) in cases.items():
        recipe = Recipe(model=str(folder), data="d", max_length=32)
        pairs = [{"text": f"good day {index}", "text_pair": f"bad day {index}", "label": label} for index, label in enumerate(labels * 4)]
        rows = data.load_rows({"train": pairs}, task.columns, recipe, cut=False)
        problem = task.problem(rows.target, rows.train)
        assert problem.problem_type == problem_type
        loaded = models.load(task, recipe, problem)
        outcomes, loss = evaluate_split(Predictor(task, loaded.model, loaded.processor, problem, recipe), rows.train, 4)
        assert isinstance(outcomes.answers[0], kind) and loss > 0
        item = task.encode(rows.train.take([0]), loaded.processor, problem, recipe, False)[0]
        assert 1 in item["token_type_ids"]


def test_a_text_alone_is_encoded_the_same_beside_pairs(tmp_path):
    task = tasks.get("text-classification")
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert_checkpoint(tmp_path))
    settings = (tokenizer, Problem("single_label_classification", ("a", "b")), Recipe(model="m", data="d", max_length=8), False)
    rows = [{"text": "a good day"}, {"text": "bad", "text_pair": "good bad good bad good bad good"}, {"text": "bad", "text_pair": ""},
            {"text": "bad", "text_pair": None}]
    together = task.encode(rows, *settings)
    assert [item["_row"] for item in together] == [0, 1, 2, 3] and [item["_truncated"] for item in together] == [False, True, False, False]
    assert together == [{**task.encode([row], *settings)[0], "_row": place} for place, row in enumerate(rows)]
    assert together[2]["input_ids"] == together[3]["input_ids"] == tokenizer("bad")["input_ids"]
    assert 1 in together[1]["token_type_ids"] and [task.describe_input(row) for row in rows[2:]] == ["bad", "bad"]


def test_scores_of_hand_made_outcomes():
    task = tasks.get("text-classification")
    problem = Problem("single_label_classification", ("a", "b"))
    scores = task.score(Outcomes(["a", "a", "b", "b"], ["a", "b", "b", "b"]), problem, intervals=True, seed=0)
    accuracy = next(score for score in scores if score.metric == "accuracy")
    assert accuracy.value == 0.75
    assert (accuracy.low, accuracy.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)  # Wilson, 3 of 4
    assert task.confusion(Outcomes(["a", "a", "b", "b"], ["a", "b", "b", "b"]), problem) == [[1, 1], [0, 2]]


def test_parts_of_speech_are_counted_word_by_word():
    task = tasks.get("token-classification")
    problem = Problem("tags", ("NOUN", "VERB"))
    scores = {(score.metric, score.label): score.value for score in
              task.score(Outcomes([["NOUN", "NOUN", "VERB", "VERB"]], [["NOUN", "VERB", "VERB", "VERB"]]), problem, intervals=True, seed=0)}
    assert scores["entity_f1", None] == 0.75
    assert {label for _, label in scores} == {None, "NOUN", "VERB"}
    found = task.record(Prediction(["NOUN", "NOUN"], np.eye(2, dtype=np.float32)), {"tokens": ["ada", "day"]}, problem)
    assert [(entity["entity"], entity["word"]) for entity in found["entities"]] == [("NOUN", "ada"), ("NOUN", "day")]


def test_an_image_task_from_outside_may_use_timm(tmp_path):
    class Herbarium(type(tasks.get("image-classification"))):
        name = "herbarium"

    loaded = models.load(Herbarium(), Recipe(model=str(timm_checkpoint(tmp_path)), data="d"), Problem("single_label_classification", ("a", "b")))
    assert loaded.new_weights == ["timm_model.fc.bias", "timm_model.fc.weight"]
