"""What a training leaves beside its model: a trainer's log as history, across stages."""

from importlib.metadata import version

from transformers import TrainingArguments

from hfxfer import recording
from hfxfer.recording import logged_event, logged_events


def test_a_package_that_is_not_installed_has_no_version(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "PACKAGES", ("torch", "hfxfer-as-a-folder"))
    found = recording.environment(TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"))
    assert found["packages"] == {"torch": version("torch")} and found["device"] == "cpu"


def test_steps_and_epochs_go_on_from_stage_to_stage():
    log = [{"loss": 1.0, "epoch": 0.5, "step": 2, "stage": "head"}, {"eval_loss": 0.9, "epoch": 1.0, "step": 4, "stage": "head"},
           {"train_runtime": 3.0, "epoch": 1.0, "step": 4, "stage": "head"}, {"loss": 0.5, "epoch": 1.0, "step": 3}]
    parameters = {"head": 10, "": 100}
    assert list(logged_events(log, parameters.__getitem__)) == [
        {"type": "stage", "name": "head", "step": 0, "epoch": 0.0, "trained_parameters": 10},
        {"type": "log", "loss": 1.0, "epoch": 0.5, "step": 2}, {"type": "eval", "eval_loss": 0.9, "epoch": 1.0, "step": 4},
        {"type": "stage", "name": "", "step": 4, "epoch": 1.0, "trained_parameters": 100},
        {"type": "log", "loss": 0.5, "epoch": 2.0, "step": 7}]


def test_what_is_evaluated_after_the_training_is_no_part_of_it():
    log = [{"loss": 1.0, "epoch": 1.0, "step": 2, "stage": "head"}, {"train_runtime": 3.0, "epoch": 1.0, "step": 2, "stage": "head"},
           {"eval_loss": 7.0, "epoch": 1.0, "step": 2, "stage": "head"}, {"eval_loss": 0.5, "epoch": 1.0, "step": 2},
           {"train_runtime": 3.0, "epoch": 1.0, "step": 2}, {"eval_loss": 8.0, "epoch": 1.0, "step": 2}, {"test_loss": 9.0, "epoch": 1.0, "step": 2}]
    assert [(event["type"], event["step"], event.get("eval_loss")) for event in logged_events(log, len)] == [
        ("stage", 0, None), ("log", 2, None), ("stage", 2, None), ("eval", 4, 0.5)]


def test_what_is_no_number_is_left_out():
    assert logged_event({"loss": float("nan"), "grad_norm": float("inf"), "note": "x", "epoch": 1.0}, 3, {"step": 1, "epoch": 0.5}) == {
        "type": "log", "epoch": 1.5, "step": 4}
