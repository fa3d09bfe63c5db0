"""ladder(): rung after rung on tiny real models, until one is no gain."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import bert_checkpoint, digits_folder, timm_checkpoint, write_jsonl

import hfxfer
from hfxfer import cli, fitting, methods
from hfxfer.errors import RecipeError, RunError, WorkError
from hfxfer.trainer import TransferTrainer

# So short a head's stage (one step) is as good as none, so that lp-ft is a gain.
CLIMB = {"head_epochs": 0.1, "num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "plan": "none"}
WORDS = {"good": ("good", "happy", "cheerful", "lovely", "wonderful"), "bad": ("bad", "sad", "gloomy", "dreadful", "terrible")}


def rows(num_rows, seed):
    draw = np.random.default_rng(seed)
    labels = [("good", "bad")[row % 2] for row in range(num_rows)]
    return [{"text": f"{' '.join(draw.choice(WORDS[label], 2))} {row}", "label": label} for row, label in enumerate(labels)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("climbing")
    bert_checkpoint(folder / "bert")
    timm_checkpoint(folder / "net")
    digits_folder(folder / "digits", train=4, validation=2, test=2)
    for name, num_rows in (("train", 64), ("validation", 40), ("test", 30)):
        write_jsonl(folder / "texts" / f"{name}.jsonl", rows(num_rows, seed=num_rows))
    return folder


@pytest.fixture(scope="module")
def settings(place):
    return {"model": str(place / "bert"), "data": str(place / "texts"), **CLIMB}


@pytest.fixture(scope="module")
def climbed(place, settings):
    """(the Run, the splits that were scored with whole models, in order)."""
    scored, evaluate = [], fitting.evaluate_split
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "evaluate_split", lambda predictor, split, *rest: scored.append(split.name) or evaluate(predictor, split, *rest))
        run = hfxfer.ladder(**settings, output_dir=str(place / "run"))
    return run, scored


@pytest.fixture
def run(climbed):
    return climbed[0]


@pytest.fixture
def without_pictures(monkeypatch):
    """Drawing takes longer than climbing; what is drawn is tested with `climbed`."""
    for name in ("learning_curve", "confusion_matrix", "ladder"):
        monkeypatch.setattr(f"hfxfer.figures.{name}", lambda *given: None)


def report_of(run):
    return json.loads((run.folder / "ladder.json").read_text())


def same_weights(first, second):
    first, second = (load_file(run.model_dir / "model.safetensors") for run in (first, second))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_it_climbs_as_long_as_a_rung_is_a_gain_and_keeps_the_last_that_was(run):
    report = report_of(run)
    assert [rung["method"] for rung in report["rungs"]] == ["head", "lp-ft", "lora"]
    gains = [rung["gain"] for rung in report["rungs"][1:]]
    assert [(gain["over"], gain["metric"], gain["num_rows"]) for gain in gains] == [("head", "accuracy", 40), ("lp-ft", "accuracy", 40)]
    assert gains[0]["low"] > 0 > gains[1]["low"] and gains[0]["established"]
    assert report["chosen"] == "lp-ft" == run.recipe().method
    assert report["reason"].startswith("lora ") and ": stopping here, lp-ft is chosen: it trains " in report["reason"]


def test_the_chosen_rung_is_calibrated_on_validation(run):
    temperature = run.history()[-1]["temperature"]
    assert hfxfer.load(run).predictor.problem.temperature == temperature
    assert {"ece", "ece_uncalibrated"} <= {score["metric"] for score in run.scores()["scores"]}


def test_the_report_holds_every_number(run):
    report = report_of(run)
    assert set(report) == {"version", "settings", "budget", "fingerprint", "metric", "validation_rows", "rungs", "passed_over", "chosen", "reason", "test"}
    head, lp_ft, lora = report["rungs"]
    total = sum(value.numel() for value in load_file(run.model_dir / "model.safetensors").values())
    # BERT's head: pooler 32 × 32 + 32, classifier 32 × 2 + 2. Adapters of rank 8 in both layers: query, key, value and output
    # 8 × (32 + 32) each, intermediate and output 8 × (32 + 64) each.
    assert head["trained_parameters"] == 1122 and lp_ft["trained_parameters"] == total
    assert lora["trained_parameters"] == 1122 + 2 * (4 * 512 + 2 * 768)
    assert head["trained_megabytes"] == pytest.approx(1122 * 4 / 1e6) and head["model_megabytes"] == pytest.approx(total * 4 / 1e6, rel=0.1)
    assert (head["num_train_epochs"], lp_ft["num_train_epochs"]) == (0.1, 3.0)
    assert {score["split"] for rung in report["rungs"] for score in rung["scores"]} == {"validation"}
    assert all(rung["seconds"] > 0 and not rung["resumed"] for rung in report["rungs"])
    assert report["test"]["split"] == "test" and report["test"]["num_rows"] == 30
    assert report["test"]["value"] == run.score("accuracy").value


def test_the_test_split_is_scored_once_for_the_chosen_rung(climbed, place):
    run, scored = climbed
    assert scored == ["test"]
    assert {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.name in ("scores.json", "predictions.parquet")} == {
        "model/scores.json", "predictions.parquet"}
    assert run.predictions().num_rows == 30
    history = [line for path in run.folder.rglob("history.jsonl") for line in path.read_text().splitlines()]
    assert history and not any("test" in line for line in history)


def test_the_run_is_like_one_of_train_and_the_rungs_leave_what_is_small(run):
    assert {path.name for path in run.folder.iterdir()} == {
        "model", "recipe.yaml", "data.json", "base.json", "history.jsonl", "environment.json", "predictions.parquet", "examples", "checkpoints",
        "ladder.json", "rungs"}
    assert {path.name for path in (run.model_dir / "figures").iterdir()} == {"learning_curve.png", "confusion_matrix.png", "ladder.png"}
    for method in ("head", "lp-ft", "lora"):
        left = {path.name for path in (run.folder / "rungs" / method).iterdir()}
        assert left == {"history.jsonl", "recipe.yaml", "rung.json", "validation.parquet"}
    assert "rungs" not in "".join(path.read_text() for path in run.checkpoints_dir.rglob("trainer_state.json"))
    assert all(complete for _, complete in run.checkpoints()) and list(run.checkpoints())
    assert hfxfer.load(run).predict("happy good")[0]["label"] in ("good", "bad")


@pytest.mark.usefixtures("without_pictures")
def test_the_recipe_trains_the_chosen_model_again(run, place):
    again = hfxfer.train(hfxfer.Recipe.from_yaml(run.folder / "recipe.yaml", {"output_dir": str(place / "again")}))
    assert same_weights(run, again)
    assert again.score("accuracy").value == run.score("accuracy").value


@pytest.mark.usefixtures("without_pictures")
def test_a_killed_ladder_goes_on_where_it_was(run, place, settings, monkeypatch):
    step = TransferTrainer.training_step

    def stopping(self, *given, **named):
        if self.recipe.method == "lp-ft" and self.stage.name == "" and self.state.global_step == 12:
            raise KeyboardInterrupt
        return step(self, *given, **named)

    folder = place / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(TransferTrainer, "training_step", stopping)
        with pytest.raises(KeyboardInterrupt) as interrupted:
            hfxfer.ladder(**settings, output_dir=str(folder), budget="1h")
    killed = hfxfer.Run(folder)
    assert str(interrupted.value).endswith(f"Continue with: hfxfer ladder {folder / 'recipe.yaml'} --resume")
    assert (folder / "rungs" / "head" / "rung.json").is_file() and not killed.is_finished()
    with pytest.raises(RunError, match="the run in .*killed is not finished. Continue it: hfxfer ladder .*recipe.yaml --resume"):
        killed.scores()
    with pytest.raises(RunError, match="seed is 7, was 42"):
        hfxfer.ladder(hfxfer.Recipe.from_yaml(folder / "recipe.yaml", {"seed": 7}), resume=True)
    before = (folder / "rungs" / "head" / "rung.json").stat().st_mtime_ns
    resumed = hfxfer.ladder(hfxfer.Recipe.from_yaml(folder / "recipe.yaml"), resume=True)
    assert (folder / "rungs" / "head" / "rung.json").stat().st_mtime_ns == before
    assert same_weights(run, resumed)
    found = report_of(resumed)
    assert found["budget"] == "1h" and [rung["resumed"] for rung in found["rungs"]] == [False, True, False]
    assert found["rungs"][1]["scores"] == report_of(run)["rungs"][1]["scores"]


@pytest.mark.usefixtures("without_pictures")
def test_a_ladder_killed_while_it_made_its_run_is_only_finished(run, place, settings):
    folder = place / "last step"
    shutil.copytree(run.folder, folder)
    (folder / "model" / "scores.json").unlink()
    # As where the budget had ended it: what was decided stays so, whatever there may be time for now.
    shutil.rmtree(folder / "rungs" / "lora")
    report = {**report_of(run), "rungs": report_of(run)["rungs"][:2], "reason": "the budget is used up"}
    (folder / "ladder.json").write_text(json.dumps({**report, "test": None}))
    finished = hfxfer.ladder(**settings, output_dir=str(folder), resume=True)
    assert report_of(finished) == report and same_weights(run, finished) and not (folder / "rungs" / "lora").exists()
    assert hfxfer.ladder(**settings, output_dir=str(folder), resume=True).scores() == run.scores()


@pytest.mark.usefixtures("without_pictures")
def test_a_rung_that_does_not_fit_the_budget_is_not_begun(place, settings):
    run = hfxfer.ladder(**{**settings, "num_train_epochs": 4000}, output_dir=str(place / "short"), budget="8s")
    report = report_of(run)
    assert [rung["method"] for rung in report["rungs"]] == ["head"] and report["budget"] == "8s"
    assert report["reason"].startswith("lp-ft is not begun: it would take about ") and " of the budget of 8 s are left: " in report["reason"]
    assert report["reason"].endswith("minutes") and ": stopping here, head is chosen: it trains 1,122 parameters in " in report["reason"]
    assert not (run.folder / "rungs" / "lp-ft").exists() and run.recipe().method == "head"
    # Another climb in its place trains anew.
    again = hfxfer.ladder(**{**settings, "num_train_epochs": 4000, "head_epochs": 0.2}, output_dir=str(run.folder), budget="8s", overwrite=True)
    assert report_of(again)["rungs"][0]["num_train_epochs"] == 0.2


@pytest.mark.usefixtures("without_pictures")
def test_a_body_without_layers_for_adapters_passes_lora_over(place, monkeypatch):
    monkeypatch.setattr(methods, "adapter_targets", lambda model: [])
    monkeypatch.setattr("hfxfer.climbing.is_gain", lambda found: True)
    run = hfxfer.ladder(model=str(place / "net"), data=str(place / "digits"), output_dir=str(place / "pictures"), head_epochs=1, num_train_epochs=1,
                        plan="none")
    report = report_of(run)
    assert [rung["method"] for rung in report["rungs"]] == ["head", "lp-ft", "full"] and report["chosen"] == "full"
    assert report["passed_over"] == {"lora": "lora is passed over: TimmWrapperForImageClassification has no layer that takes adapters"}
    assert ": that is the last rung, full is chosen: it trains " in report["reason"]


def test_what_ladder_cannot_do_is_refused_before_any_work(place, settings):
    folder = place / "refused"
    for wrong, words in (
            ({"method": "head"}, "method is head, but ladder tries head, lp-ft, lora, full one after the other. Leave it out, or say --method auto"),
            ({"freeze": 1}, "freeze is set, and the rungs head and lora keep the whole body frozen. Leave it out, or use hfxfer train"),
            ({"budget": "soon"}, "budget is 'soon'; allowed: a number with s, m or h, such as 90s, 20m or 1h")):
        with pytest.raises(RecipeError) as refused:
            hfxfer.ladder(**{**settings, **wrong}, output_dir=str(folder))
        assert str(refused.value) == words
    assert not folder.exists()


def test_folders_of_other_runs_are_left_alone(run, place, settings):
    with pytest.raises(RunError, match="holds another run"):
        hfxfer.ladder(**settings, output_dir=str(run.folder))
    plain = hfxfer.Run(place / "again")
    with pytest.raises(RunError, match="was not begun by ladder. Continue it with: hfxfer train .*again.recipe.yaml --resume"):
        hfxfer.ladder(**settings, output_dir=str(plain.folder), resume=True)


@pytest.mark.usefixtures("without_pictures")
def test_a_failure_between_rungs_says_how_to_go_on(place, settings, monkeypatch):
    def unreadable(*given):
        raise RunError("the disk is gone")

    monkeypatch.setattr("hfxfer.rungs.Rung.validation", unreadable)
    with pytest.raises(WorkError, match="the disk is gone"):
        hfxfer.ladder(**{**settings, "num_train_epochs": 1}, output_dir=str(place / "failed"))
    assert hfxfer.Run(place / "failed").continuing_command.startswith("hfxfer ladder ")

TWO_PROCESSES = """
import json, sys
import hfxfer
from hfxfer import cli, figures
from hfxfer.trainer import TransferTrainer

settings, place = json.loads(sys.argv[1]), sys.argv[2]
for name in ("learning_curve", "confusion_matrix", "ladder"):
    setattr(figures, name, lambda *given: None)
flags = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
code = cli.main(["ladder", *flags, "--output_dir", place + "/two", "--format", "json"])
step = TransferTrainer.training_step

def stopping(self, *given, **named):
    if self.recipe.method == "lp-ft" and self.stage.name == "" and self.state.global_step == 12:
        raise KeyboardInterrupt
    return step(self, *given, **named)

TransferTrainer.training_step = stopping
try:
    hfxfer.ladder(**settings, output_dir=place + "/two killed")
except KeyboardInterrupt:
    code += 10
TransferTrainer.training_step = step
hfxfer.ladder(**settings, output_dir=place + "/two killed", resume=True)
sys.exit(0 if code == 10 else 1)
"""


def test_two_processes_climb_one_ladder_and_go_on_together(place, settings):
    """With half the batch in each: the updates of one process but for the draws of dropout."""
    (place / "two.py").write_text(TWO_PROCESSES)
    halved = {**settings, "per_device_train_batch_size": 4}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(place / "two.py"), json.dumps(halved),
                           str(place)], capture_output=True, text=True, timeout=400, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    run, resumed = hfxfer.Run(place / "two"), hfxfer.Run(place / "two killed")
    report = report_of(run)
    assert found["ladder"] == report and found["scores"] == run.scores()
    assert [rung["method"] for rung in report["rungs"]] == ["head", "lp-ft", "lora"] and report["chosen"] == "lp-ft"
    assert report["rungs"][1]["gain"]["low"] > 0 > report["rungs"][2]["gain"]["low"]
    assert report["test"]["num_rows"] == 30 == run.predictions().num_rows and run.read_json("environment.json")["processes"] == 2
    # 64 rows, 4 on each of 2 devices: 8 steps an epoch. The head's stage is one step.
    assert run.history()[-1]["step"] == 24 and [event["type"] for event in run.history()].count("plan") == 1
    assert {path.name for path in run.folder.iterdir()} == {path.name for path in resumed.folder.iterdir()}
    assert done.stderr.count("rung 1 of 4: head") == 2, "told once a climb, and not climbed again by the one that goes on"
    assert same_weights(run, resumed)
    assert [rung["resumed"] for rung in report_of(resumed)["rungs"]] == [False, True, False]
    assert [rung["scores"] for rung in report_of(resumed)["rungs"]] == [rung["scores"] for rung in report["rungs"]]


def call(*argv):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = cli.main([str(word) for word in argv])
    return code, out.getvalue()


def test_the_command_shows_the_table_and_one_object(run):
    again = [word for name, value in CLIMB.items() for word in (f"--{name}", value)]
    source = report_of(run)["settings"]
    argv = ["ladder", "--model", source["model"], "--data", source["data"], "--output_dir", run.folder, *again, "--resume"]
    code, out = call(*argv)
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith("rung   accuracy on 40 validation rows  minutes  trained parameters  trained MB  model MB")
    assert [line.split()[0] for line in lines[1:4]] == ["head", "lp-ft", "lora"] and lines[2].endswith("  chosen")
    assert lines[4] == report_of(run)["reason"] and lines[5].startswith("accuracy ") and lines[5].endswith("test, 30 rows")
    code, out = call(*argv, "--format", "json")
    found = json.loads(out)
    assert code == 0 and set(found) == {"run", "model", "ladder", "scores"} and found["ladder"] == report_of(run)
