"""train(): a recipe in, a Run folder out, on tiny real things."""

import json

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import bert_checkpoint, digits, digits_folder, tag_rows, text_rows, timm_checkpoint, write_jsonl

import hfxfer
from hfxfer.errors import DataError, RecipeError, RunError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with tiny checkpoints and data, and one image Run that many tests look at."""
    folder = tmp_path_factory.mktemp("training")
    timm_checkpoint(folder / "net")
    bert_checkpoint(folder / "bert")
    digits_folder(folder / "digits")
    write_jsonl(folder / "texts.jsonl", text_rows(80))
    write_jsonl(folder / "tags.jsonl", tag_rows(60))
    return folder


@pytest.fixture(scope="module")
def run(place):
    return hfxfer.train(model=str(place / "net"), data=str(place / "digits"), output_dir=str(place / "run"), num_train_epochs=3,
                        learning_rate=5e-3, per_device_train_batch_size=8, augment="none")


def weights(run):
    return load_file(run.model_dir / "model.safetensors")


def same_weights(first, second):
    first, second = weights(first), weights(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_folder_holds_what_is_promised_and_model_holds_nothing_private(run, place):
    assert {path.name for path in run.folder.iterdir()} == {"model", "recipe.yaml", "data.json", "base.json", "history.jsonl",
                                                            "environment.json", "predictions.parquet", "examples", "checkpoints"}
    assert {path.name for path in run.model_dir.iterdir()} == {"config.json", "model.safetensors", "scores.json", "figures", "recipe.yaml"}
    shared = "".join(path.read_text() for path in run.model_dir.iterdir() if path.suffix in (".json", ".yaml"))
    assert str(place) not in shared
    assert {event["type"] for event in run.history()} == {"stage", "plan", "log", "eval", "end"}
    assert len(list((run.folder / "examples").glob("*.png"))) == 12


def test_scores_are_those_of_the_stored_predictions(run):
    table = run.predictions().to_pydict()
    right = np.mean([a == b for a, b in zip(table["reference"], table["prediction"])])
    score = run.score("accuracy")
    assert score.value == pytest.approx(right) and score.num_rows == 30 and score.split == "test" and score.dataset == "digits"
    assert score.low < score.value < score.high or score.value == 1.0 > score.low
    counts = np.array(run.scores()["confusion_matrix"]["counts"])
    assert counts.sum() == 30 and counts.trace() == round(right * 30)
    best = [max(zip(row, run.scores()["labels"]))[1] for row in table["probabilities"]]
    assert best == table["prediction"]
    assert {entry["label"] for entry in run.scores()["scores"]} == {None, "digit 0", "digit 1", "digit 2"}


def test_no_number_in_scores_is_nan(run):
    json.loads((run.model_dir / "scores.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_predict_evaluate_transformers_and_timm_agree(run, place):
    import timm
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    files = sorted((place / "digits" / "test" / "digit 1").iterdir())
    records = hfxfer.load(run).predict([str(file) for file in files])
    plain = AutoModelForImageClassification.from_pretrained(run.model_dir).eval()
    other = timm.create_model(f"local-dir:{run.model_dir}", pretrained=True).eval()
    pixels = AutoImageProcessor.from_pretrained(run.model_dir)(images=[Image.open(file) for file in files], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits, of_timm = plain(pixels).logits, other(pixels)
    assert torch.allclose(logits, of_timm, atol=1e-5)
    found = torch.tensor([[record[f"score_digit {index}"] for index in range(3)] for record in records])
    assert torch.allclose(found, logits.softmax(-1), atol=1e-5)
    stored = {row["input"]: row["probabilities"] for row in run.predictions().to_pylist()}
    assert torch.allclose(found, torch.tensor([stored[str(file)] for file in files]), atol=1e-5)


def test_evaluate_gives_the_scores_again_and_never_changes_the_run(run, place):
    def contents():
        return {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}

    before = contents()
    found = hfxfer.evaluate(run, str(place / "digits"), split="test")
    assert contents() == before
    for then, now in zip(run.scores()["scores"], found["scores"]):
        assert then["metric"] == now["metric"] and then["value"] == pytest.approx(now["value"], abs=1e-6)
    assert {key: value for key, value in found.items() if key != "scores"} == {key: value for key, value in run.scores().items() if key != "scores"}


def test_evaluating_on_data_that_the_run_cut_takes_the_same_test_rows(place):
    run = hfxfer.train(model=str(place / "bert"), data=str(place / "texts.jsonl"), output_dir=str(place / "cut"), num_train_epochs=1)
    found = hfxfer.evaluate(run, str(place / "texts.jsonl"))
    assert found["scores"][0]["num_rows"] == run.score("accuracy").num_rows == 16


def test_the_saved_recipe_gives_bit_equal_weights(run, place):
    recipe = hfxfer.Recipe.from_yaml(run.folder / "recipe.yaml", {"output_dir": str(place / "again")})
    assert recipe.learning_rate == 5e-3 and recipe.task == "image-classification" and recipe.precision in ("fp32", "bf16")
    assert same_weights(run, hfxfer.train(recipe))


def test_a_killed_run_resumes_to_the_same_weights(place, monkeypatch):
    settings = dict(model=str(place / "bert"), data=str(place / "texts.jsonl"), num_train_epochs=3, per_device_train_batch_size=8)
    whole = hfxfer.train(**settings, output_dir=str(place / "whole"))
    from hfxfer.trainer import TransferTrainer

    step = TransferTrainer.training_step

    def stopping(self, *given, **named):
        if self.state.global_step == 20:
            raise KeyboardInterrupt
        return step(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(TransferTrainer, "training_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            hfxfer.train(**settings, output_dir=str(place / "killed"))
    killed = hfxfer.Run(place / "killed")
    with pytest.raises(RunError, match="not finished. Continue it: hfxfer train .*killed.recipe.yaml --resume"):
        killed.scores()
    newest = next(killed.checkpoints())[0]
    (newest / "optimizer.pt").write_bytes(b"cut short")
    resumed = hfxfer.train(hfxfer.Recipe.from_yaml(killed.folder / "recipe.yaml"), resume=True)
    assert same_weights(whole, resumed)
    steps = [event["step"] for event in resumed.history()]
    assert steps == sorted(steps) and [event["step"] for event in whole.history()] == steps


def test_a_run_killed_before_its_first_checkpoint_begins_anew_and_with_its_plan(place, monkeypatch):
    from hfxfer.trainer import TransferTrainer

    def killed(self, *given, **named):
        raise KeyboardInterrupt

    folder = place / "early"
    with monkeypatch.context() as patch:
        patch.setattr(TransferTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt, match="No checkpoint had been written yet"):
            hfxfer.train(model=str(place / "bert"), data=str(place / "texts.jsonl"), num_train_epochs=1, output_dir=str(folder))
    plan, stage = hfxfer.Run(folder).history()
    assert plan["type"] == "plan" and stage["type"] == "stage"
    # As where it had been measured, which is not done again.
    plan["factors"] = {"precision": 1.5}
    (folder / "history.jsonl").write_text(f"{json.dumps(plan)}\n{json.dumps(stage)}\n")
    resumed = hfxfer.train(hfxfer.Recipe.from_yaml(folder / "recipe.yaml"), resume=True)
    assert resumed.history()[:2] == [plan, stage]
    assert [event["type"] for event in resumed.history()].count("plan") == [event["type"] for event in resumed.history()].count("stage") == 1


def test_resuming_with_other_settings_is_refused(run, place):
    with pytest.raises(RunError, match="seed is 7, was 42"):
        hfxfer.train(hfxfer.Recipe.from_yaml(run.folder / "recipe.yaml", {"seed": 7}), resume=True)


def test_a_folder_with_a_run_is_left_alone(run, place):
    with pytest.raises(RunError, match="holds another run.*--resume.*--overwrite"):
        hfxfer.train(model=str(place / "net"), data=str(place / "digits"), output_dir=str(run.folder))


def test_tags_train_and_predict(place):
    run = hfxfer.train(model=str(place / "bert"), data=str(place / "tags.jsonl"), output_dir=str(place / "tagger"), num_train_epochs=8,
                       learning_rate=5e-3, per_device_train_batch_size=8)
    assert run.score("entity_f1").value > 0.9
    record, = hfxfer.load(run).predict([["ada", "smith", "lives", "in", "rome", ",", "3"]])
    assert [(entity["entity"], entity["word"]) for entity in record["entities"]] == [("PER", "ada smith"), ("LOC", "rome")]
    assert run.predictions().to_pylist()[0]["prediction"][:2] == ["B-PER", "I-PER"]


def test_numbers_train_in_the_users_units(place):
    rows = [{"text": f"the film {index} was {'good ' * (index % 5)}", "label": 1000.0 + 100.5 * (index % 5)} for index in range(80)]
    write_jsonl(place / "numbers.jsonl", rows)
    run = hfxfer.train(model=str(place / "bert"), data=str(place / "numbers.jsonl"), output_dir=str(place / "numbers"), num_train_epochs=12,
                       learning_rate=5e-3, per_device_train_batch_size=8)
    assert run.score("rmse").value < 130  # 142 is the spread of the numbers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(run.model_dir) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    with torch.no_grad():
        plain = model.eval()(**tokenizer("the film was good good", return_tensors="pt")).logits.item()
    assert hfxfer.load(run).predict("the film was good good")[0]["value"] == pytest.approx(plain, rel=1e-5)


def test_several_labels_train_and_predict(place):
    rows = [{"text": f"{'good ' * (index % 2)}{'bad ' * (index // 2 % 2)}day {index}", "label": ["good"] * (index % 2) + ["bad"] * (index // 2 % 2)}
            for index in range(80)]
    write_jsonl(place / "several.jsonl", rows)
    run = hfxfer.train(model=str(place / "bert"), data=str(place / "several.jsonl"), output_dir=str(place / "several"), num_train_epochs=8,
                       learning_rate=5e-3, per_device_train_batch_size=8)
    assert run.score("f1_micro").value > 0.7 and run.scores()["confusion_matrix"] is None
    record = hfxfer.load(run).predict("good bad day")[0]
    assert record["labels"] == [name for name in ("bad", "good") if record[f"score_{name}"] >= 0.5]


def test_python_data_sets_train(place):
    rows = datasets.Dataset.from_list([{"image": picture, "label": label} for picture, label in digits((0, 1), 20)])
    run = hfxfer.train(model=str(place / "net"), data=rows, output_dir=str(place / "python"), num_train_epochs=1, method="head")
    assert run.scores()["labels"] == ["0", "1"] and run.read_json("base.json")["id"] == str(place / "net")


def test_settings_that_training_arguments_refuse_are_a_recipe_error(place):
    with pytest.raises(RecipeError, match="metric_for_best_model is 'acuracy'; allowed: loss, accuracy"):
        hfxfer.train(model=str(place / "net"), data=str(place / "digits"), output_dir=str(place / "x"), metric_for_best_model="acuracy")
    with pytest.raises(RecipeError, match="TrainingArguments refuse"):
        hfxfer.train(model=str(place / "net"), data=str(place / "digits"), output_dir=str(place / "x"), eval_strategy="steps",
                     save_strategy="epoch")
    with pytest.raises(RecipeError, match="precision is 'fp16', which CPUs do not compute in"):
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU, which trains in fp16")
        hfxfer.train(model=str(place / "net"), data=str(place / "digits"), output_dir=str(place / "x"), precision="fp16")
    assert not (place / "x").exists()


def test_a_refused_run_leaves_no_folder(place):
    with pytest.raises(DataError):
        hfxfer.train(model=str(place / "net"), data=str(place / "nothing"), output_dir=str(place / "none"))
    assert not (place / "none").exists()


def test_a_run_that_had_stopped_early_is_only_finished_by_resuming(place):
    settings = dict(model=str(place / "bert"), data=str(place / "texts.jsonl"), num_train_epochs=20, early_stopping_patience=2,
                    learning_rate=1e-9, per_device_train_batch_size=8, metric_for_best_model="accuracy")
    run = hfxfer.train(**settings, output_dir=str(place / "stopped"))
    end = run.history()[-1]
    assert end["stopped_early"] and end["step"] < 20 * 8
    before = weights(run)
    (run.model_dir / "scores.json").unlink()
    resumed = hfxfer.train(hfxfer.Recipe.from_yaml(run.folder / "recipe.yaml"), resume=True)
    assert resumed.history()[-1]["step"] == end["step"]
    assert all(torch.equal(before[name], value) for name, value in weights(resumed).items())


def test_columns_named_in_training_are_found_again(place):
    rows = [{"headline": row["text"], "verdict": row["label"], "text": "something else"} for row in text_rows(60)]
    write_jsonl(place / "columns.jsonl", rows)
    run = hfxfer.train(model=str(place / "bert"), data=str(place / "columns.jsonl"), output_dir=str(place / "columns"), num_train_epochs=1,
                       columns={"text": "headline", "label": "verdict"})
    write_jsonl(place / "new.jsonl", [{"headline": "good day", "text": "bad film"}])
    assert hfxfer.load(run).predict(str(place / "new.jsonl"))[0]["input"] == "good day"
    assert hfxfer.evaluate(run, str(place / "columns.jsonl"))["scores"][0]["num_rows"] == run.score("accuracy").num_rows


def test_a_run_and_its_model_folder_answer_alike(place):
    """Also where max_length is short: the tokenizer in the folder knows it."""
    rows = [{"text": f"film {index} " + "very " * 30 + ("good" if index % 2 else "bad"), "label": ("bad", "good")[index % 2]} for index in range(60)]
    write_jsonl(place / "long.jsonl", rows)
    run = hfxfer.train(model=str(place / "bert"), data=str(place / "long.jsonl"), output_dir=str(place / "long"), num_train_epochs=1, max_length=12)
    text = "film " + "very " * 20 + "good"
    first, second = hfxfer.load(run).predict(text)[0], hfxfer.load(run.model_dir).predict(text)[0]
    assert first == second
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(run.model_dir).model_max_length == 12


@pytest.mark.parametrize("settings", [{"eval_strategy": "steps"}, {"save_strategy": "steps", "save_steps": 3}, {"eval_strategy": "steps", "eval_steps": 4},
                                      {"eval_strategy": "no"}, {"save_strategy": "no"}])
def test_strategies_follow_each_other(place, settings):
    from hfxfer.fitting import training_arguments
    from hfxfer.run import Run
    from hfxfer.tasks import get
    from hfxfer.tasks._task import Problem

    recipe = hfxfer.Recipe(model="m", data="d", learning_rate=0.1, num_train_epochs=1.0, per_device_train_batch_size=2, training_arguments=settings)
    args = training_arguments(recipe, Run(place / "nowhere"), get("text-classification"), Problem("single_label_classification", ("a", "b")))
    assert args.load_best_model_at_end == ("no" not in settings.values())
    if args.load_best_model_at_end:
        assert args.eval_strategy == args.save_strategy and args.eval_steps == args.save_steps


def test_label_smoothing_of_numbers_is_refused(place):
    with pytest.raises(RecipeError, match="label_smoothing_factor is 0.1 and problem_type is regression"):
        hfxfer.train(model=str(place / "bert"), data=datasets.Dataset.from_list([{"text": f"film {index}", "label": index + 0.5} for index in range(40)]),
                     output_dir=str(place / "smooth"), label_smoothing_factor=0.1)
    assert not (place / "smooth").exists()


def test_rows_that_go_bad_in_training_fail_in_work_and_an_interruption_says_how_to_go_on(place, monkeypatch):
    from hfxfer import fitting
    from hfxfer.errors import WorkError

    def spoilt(*given, **named):
        raise DataError("001.png: the file is empty")

    def interrupted(*given, **named):
        raise KeyboardInterrupt

    settings = dict(model=str(place / "net"), data=str(place / "digits"), num_train_epochs=1, method="head")
    monkeypatch.setattr(fitting, "evaluate_split", spoilt)
    with pytest.raises(WorkError, match="001.png: the file is empty"):
        hfxfer.train(**settings, output_dir=str(place / "spoilt"))
    monkeypatch.setattr(fitting, "evaluate_split", interrupted)
    with pytest.raises(KeyboardInterrupt, match="interrupted. Kept: .*checkpoint-.* Continue with: hfxfer train .*cut off.* --resume"):
        hfxfer.train(**settings, output_dir=str(place / "cut off"))


def test_the_command_that_continues_says_python_where_the_data_came_from_there(place):
    run = hfxfer.Run(place / "python")
    assert run.continuing_command == f"hfxfer.train(hfxfer.Run({str(run.folder)!r}).recipe(), data=…, resume=True)  # in Python, with the same data"
