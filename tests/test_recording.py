"""What a training leaves beside its model: a trainer's log as history, across stages."""

from importlib.metadata import version

import datasets
import pytest
from tiny_models import bert_checkpoint, text_rows
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from hfxfer import TransferTrainer, recording
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


class Interruption(TrainerCallback):
    """Ends the training after 3 steps, as a script's own callback may."""

    def on_step_end(self, args, state, control, **unused):
        control.should_training_stop = state.global_step == 3


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """ended(settings of TrainingArguments, settings of the trainer) → the end event of 6 steps of an evaluation and a save each, in words."""
    folder = tmp_path_factory.mktemp("ended")
    base = bert_checkpoint(folder / "bert")

    def train(settings, **given):
        args = TrainingArguments(**{"output_dir": str(folder / "out"), "max_steps": 6, "per_device_train_batch_size": 4, "eval_strategy": "steps",
                                    "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "learning_rate": 1e-12,
                                    "report_to": "none", "disable_tqdm": True, "use_cpu": True, "log_level": "error", **settings})
        made = TransferTrainer(**{"model": str(base), "args": args, "train_dataset": datasets.Dataset.from_list(text_rows(12)),
                                  "eval_dataset": datasets.Dataset.from_list(text_rows(4)), "task": "text-classification", **given})
        made.train()
        made.evaluate()
        return recording.end_event(made, 1.0)
    return train


def test_the_best_checkpoint_was_kept_only_where_it_was_asked_for(ended):
    chosen = {"metric_for_best_model": "accuracy"}
    loaded, last = ended({**chosen, "load_best_model_at_end": True}), ended(chosen)
    assert loaded["best_step"] and last["best_step"] is None and last["best_metric"] == loaded["best_metric"]
    assert [(event["ended_early"], event["stopped_early"], event["frozen_parameters"]) for event in (loaded, last)] == [(False, False, 0)] * 2


def test_only_early_stopping_stops_because_validation_no_longer_improved(ended):
    chosen = {"metric_for_best_model": "accuracy", "load_best_model_at_end": True}
    others = ended(chosen, callbacks=[Interruption(), EarlyStoppingCallback(5)])
    patience = ended(chosen, callbacks=[EarlyStoppingCallback(2)])
    assert (others["step"], others["ended_early"], others["stopped_early"]) == (3, True, False)
    assert (patience["step"], patience["ended_early"], patience["stopped_early"]) == (3, True, True)


def test_a_metric_that_is_no_number_is_no_best_one_and_frozen_weights_are_counted(ended):
    event = ended({"metric_for_best_model": "share", "max_steps": 1}, compute_metrics=lambda _: {"share": float("-inf")}, freeze=1)
    assert event["best_metric"] is None and event["frozen_parameters"] > 0
