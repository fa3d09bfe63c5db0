"""Stages: what each moves and what stays to the bit, what callbacks and logs see, and going on after a kill in any of them."""

import functools
import os
from contextlib import nullcontext
from pathlib import Path

import datasets
import pytest
import torch
from tiny_models import bert_checkpoint, digits, text_rows, timm_checkpoint
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback, TrainingArguments

from hfxfer import TransferTrainer
from hfxfer.blocks import blocks
from hfxfer.errors import RecipeError, RunError
from hfxfer.models import head_names
from hfxfer.stopping import EarlyStopping


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HFXFER_CACHE", str(tmp_path / "cache"))


def arguments(folder, **settings):
    return TrainingArguments(**{"output_dir": str(folder), "num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3,
                                "eval_strategy": "epoch", "save_strategy": "epoch", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
                                "logging_steps": 1, **settings})


@functools.cache
def pictures():
    """(20 to train on, 6 of them to evaluate on)."""
    rows = datasets.Dataset.from_list([{"image": picture, "label": f"digit {label}"} for picture, label in digits((0, 1), 10)])
    return rows, rows.select([0, 1, 2, 10, 11, 12])


@functools.cache
def checkpoint(name):
    """One for all tests, in the folder that goes when they end."""
    folder = Path(os.environ["HF_HOME"]) / "staging" / name
    return bert_checkpoint(folder) if name == "bert" else timm_checkpoint(folder, architecture=name)


def picture_trainer(folder, method, args=None, callbacks=None, **settings):
    rows, few = pictures()
    return TransferTrainer(model=str(checkpoint("test_efficientnet")), args=arguments(folder / "out", **(args or {})), train_dataset=rows,
                           eval_dataset=few, task="image-classification", method=method, callbacks=callbacks, **{"head_epochs": 2, **settings})


def text_trainer(folder, method, args=None, callbacks=None, **settings):
    rows = datasets.Dataset.from_list(text_rows(20))
    return TransferTrainer(model=str(checkpoint("bert")), args=arguments(folder / "out", **(args or {})), train_dataset=rows, eval_dataset=rows,
                           task="text-classification", method=method, callbacks=callbacks, **{"head_epochs": 2, **settings})


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def moved(first, second):
    return {name for name in first if not torch.equal(first[name], second[name])}


class Snapshots(TrainerCallback):
    """The whole state at the beginning and the end of each stage, and what the arguments then say."""

    def __init__(self):
        self.begins, self.ends, self.folders = [], [], []

    def on_train_begin(self, args, state, control, model, **unused):
        self.begins.append({name: value.clone() for name, value in model.state_dict().items()})
        self.folders.append((args.output_dir.rpartition("/")[2], args.num_train_epochs, state.max_steps))

    def on_train_end(self, args, state, control, model, **unused):
        self.ends.append({name: value.clone() for name, value in model.state_dict().items()})


@pytest.mark.parametrize("make", [picture_trainer, text_trainer])
def test_lp_ft_moves_the_head_alone_and_then_everything_from_there(tmp_path, make):
    """Kumar et al. 2022: the second stage begins with the first one's head."""
    seen = Snapshots()
    trainer = make(tmp_path, "lp-ft", callbacks=[seen])
    start, heads = weights(trainer), head_names(trainer.model)
    trainer.train()
    assert [folder for folder, *_ in seen.folders] == ["stage-1-head", "out"] and [epochs for _, epochs, _ in seen.folders] == [2, 2]
    assert moved(start, seen.ends[0]) == heads
    assert not moved(seen.ends[0], seen.begins[1])
    trained = {name for name, _ in trainer.model.named_parameters()}
    # A softmax does not feel what is added to every key, so its bias hardly moves, or not at all.
    assert trained - moved(seen.begins[1], weights(trainer)) <= {name for name in trained if name.endswith("key.bias")}


def test_gradual_moves_from_the_top_and_leaves_the_rest_to_the_bit(tmp_path):
    """Buffers of batch norms, too. Unfreezing at 0 and 1 of 2 epochs: the head, the top block, the one below it."""
    seen = Snapshots()
    trainer = picture_trainer(tmp_path, "gradual", callbacks=[seen], unfreeze_epochs=[0, 1])
    start, body = weights(trainer), blocks(trainer.model)
    trainer.train()
    assert [folder for folder, *_ in seen.folders] == ["stage-1-head", "stage-2-unfrozen", "out"]
    allowed = set(head_names(trainer.model))
    before = start
    for stage, block in enumerate([(), body[-1].parameters, body[-2].parameters]):
        allowed |= set(block)
        modules = {name.rpartition(".")[0] for name in allowed}
        changed = moved(before, seen.ends[stage])
        assert changed and all(name in allowed or name.rpartition(".")[0] in modules for name in changed)
        assert set(block) <= changed
        before = seen.ends[stage]
    stem = {name for name in start if not any(name.rpartition(".")[0] == each.rpartition(".")[0] for each in allowed)}
    assert any(name.endswith("running_mean") for name in stem) and not moved({name: start[name] for name in stem}, weights(trainer))


@pytest.mark.parametrize("method", ["full", "lp-ft", "gradual"])
@pytest.mark.parametrize("freeze", [1, ["*conv_stem*", "*blocks.0*", "*bn1*"]])
def test_what_freeze_names_never_moves(tmp_path, method, freeze):
    trainer = picture_trainer(tmp_path, method, freeze=freeze, args={"num_train_epochs": 1, "eval_strategy": "no", "save_strategy": "no"}, head_epochs=1)
    start = weights(trainer)
    frozen = {name for block in blocks(trainer.model)[:2] for name in block.parameters} if freeze == 1 else {
        name for name in start if any(part in name for part in ("conv_stem", "blocks.0", "bn1"))}
    trainer.train()
    changed = moved(start, weights(trainer))
    modules = {name.rpartition(".")[0] for name in frozen}
    assert frozen and not {name for name in changed if name.rpartition(".")[0] in modules}
    assert len(changed) > 10


def test_the_log_is_complete_and_says_which_stage(tmp_path):
    trainer = text_trainer(tmp_path, "gradual", unfreeze_epochs=[0, 1])
    trainer.train()
    log = trainer.state.log_history
    kinds = [(entry.get("stage"), "eval" if "eval_loss" in entry else "end" if "train_runtime" in entry else "step") for entry in log]
    # 20 rows by 8: 3 steps an epoch.
    first = ([("stage-1-head", "step")] * 3 + [("stage-1-head", "eval")]) * 2 + [("stage-1-head", "end")]
    second = [("stage-2-unfrozen", "step")] * 3 + [("stage-2-unfrozen", "eval"), ("stage-2-unfrozen", "end")]
    assert kinds == [*first, *second, *[(None, "step")] * 3, (None, "eval"), (None, "end")]


def test_gradual_runs_through_one_schedule(tmp_path):
    """Linear, without warm-up, over 2 epochs of 3 steps: the rates of a single training of 6 steps."""
    trainer = text_trainer(tmp_path, "gradual", unfreeze_epochs=[0, 1], args={"eval_strategy": "no", "save_strategy": "no", "lr_scheduler_type": "linear"})
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry and entry.get("stage") != "stage-1-head"]
    assert rates == pytest.approx([1e-3 * (6 - step) / 6 for step in range(6)])


@pytest.mark.parametrize("settings", [{"eval_strategy": "no"}, {"save_strategy": "no"}, {"max_steps": 4, "eval_strategy": "no"}])
@pytest.mark.parametrize("method", ["head", "lp-ft", "lora"])
def test_methods_train_without_evaluating_or_saving_and_for_a_number_of_steps(tmp_path, settings, method):
    trainer = text_trainer(tmp_path, method, args=settings)
    assert trainer.train().global_step == (4 if "max_steps" in settings else 6)
    assert trainer.args.max_steps == settings.get("max_steps", -1) and trainer.args.output_dir == str(tmp_path / "out")


@pytest.mark.parametrize("method", ["head", "lp-ft", "lora", "gradual"])
def test_a_second_call_of_train_goes_on_from_the_weights(tmp_path, method):
    trainer = text_trainer(tmp_path, method, args={"eval_strategy": "no", "save_strategy": "no", "num_train_epochs": 1})
    trainer.train()
    first = weights(trainer)
    seen = Snapshots()
    trainer.add_callback(seen)
    trainer.train()
    second = weights(trainer)
    assert first.keys() == second.keys() and set(head_names(trainer.model)) <= moved(first, second)
    assert not moved(first, {name: seen.begins[0][name.replace(".weight", ".base_layer.weight") if name.replace(
        ".weight", ".base_layer.weight") in seen.begins[0] else name] for name in first if not name.endswith("bias")} | {
            name: first[name] for name in first if name.endswith("bias")})
    body = moved(first, second) - head_names(trainer.model)
    assert bool(body) == (method != "head")


# --- going on -----------------------------------------------------------------------------------------------------------

class Stop(TrainerCallback):
    """As a kill after a step of a stage, which the folder of its checkpoints tells."""

    def __init__(self, place):
        self.place = place

    def on_step_end(self, args, state, control, **unused):
        if (os.path.basename(args.output_dir), state.global_step) == self.place:
            raise KeyboardInterrupt


def killed_and_whole(folder, make, kills, args, callbacks=list, **settings):
    """(a trainer that was killed at each place and went on each time, one that was not)."""
    whole = make(folder / "whole", args=args, callbacks=callbacks(), **settings)
    whole.train()
    for number, place in enumerate([*kills, None]):
        trainer = make(folder / "cut", args=args, callbacks=[*callbacks(), Stop(place)], **settings)
        torch.rand(3)  # Whatever was drawn meanwhile.
        with pytest.raises(KeyboardInterrupt) if place else nullcontext():
            trainer.train(resume_from_checkpoint=number > 0)
    return trainer, whole


STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
HEAD, UNFROZEN, LAST = "stage-1-head", "stage-2-unfrozen", "out"
KILLS = [("head", [(LAST, 5)], {}), ("head", [(LAST, 5)], {"feature_cache_gb": 0}), ("head", [(LAST, 5)], {"feature_views": 2, "augment": "rand"}),
         ("full", [(LAST, 5)], {"augment": "rand"}),
         # Also before a stage's first checkpoint, and again in a run that had gone on.
         ("lp-ft", [(HEAD, 3), (LAST, 1), (LAST, 5)], {"augment": "rand"}),
         ("lp-ft", [(LAST, 3)], {"ema_decay": 0.9, "mixup": 0.3, "sampler": "balanced"}),
         ("gradual", [(HEAD, 3), (UNFROZEN, 1), (LAST, 3)], {"unfreeze_epochs": [0, 0.7]}),
         ("lora", [(LAST, 5)], {"augment": "rand", "ema_decay": 0.9})]


@pytest.mark.parametrize(("method", "kills", "settings"), KILLS)
def test_a_kill_in_any_stage_and_going_on_give_the_weights_of_the_whole_run(tmp_path, method, kills, settings):
    resumed, whole = killed_and_whole(tmp_path, picture_trainer, kills, STEPS, method=method, **settings)
    assert not moved(weights(whole), weights(resumed))
    assert (whole.state.global_step, _evaluations(whole)) == (resumed.state.global_step, _evaluations(resumed))


def _evaluations(trainer):
    return [(entry["step"], entry["eval_loss"], entry.get("stage")) for entry in trainer.state.log_history if "eval_loss" in entry]


@pytest.mark.parametrize(("method", "kills"), [("lp-ft", [(LAST, 1), (LAST, 3)]), ("lora", [(LAST, 3)])])
def test_a_kill_with_dropout_and_the_best_checkpoint_chosen(tmp_path, method, kills):
    """Also before a stage's first checkpoint: it begins with the generators that it had."""
    args = {**STEPS, "load_best_model_at_end": True, "metric_for_best_model": "accuracy", "greater_is_better": True}
    resumed, whole = killed_and_whole(tmp_path, text_trainer, kills, args, callbacks=lambda: [EarlyStopping(2)], method=method)
    assert weights(resumed).keys() == weights(whole).keys() and not moved(weights(whole), weights(resumed))


def test_a_stage_that_is_finished_takes_no_step_more(tmp_path):
    """A last step in mid-epoch, which Trainer alone would go past: 1.5 epochs of 3 steps are 5."""
    trainer = text_trainer(tmp_path, "full", args={**STEPS, "num_train_epochs": 1.5})
    trainer.train()
    again = text_trainer(tmp_path, "full", args={**STEPS, "num_train_epochs": 1.5})
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 5 and not moved(weights(trainer), weights(again))


def test_a_checkpoint_cut_short_is_passed_over(tmp_path):
    text_trainer(tmp_path, "lp-ft").train()
    for path in (tmp_path / "out").glob("checkpoint-*"):
        (path / "optimizer.pt").write_bytes(b"cut")
    trainer = text_trainer(tmp_path, "lp-ft", callbacks=[seen := Snapshots()])
    trainer.train(resume_from_checkpoint=True)
    assert [folder for folder, *_ in seen.folders] == ["stage-1-head", "out"]


def test_nothing_to_go_on_from(tmp_path):
    with pytest.raises(RunError, match="there is no checkpoint in .*out to resume from. Train without resume_from_checkpoint"):
        text_trainer(tmp_path, "lp-ft").train(resume_from_checkpoint=True)


def test_going_on_from_a_given_checkpoint_of_an_earlier_stage(tmp_path):
    trainer = text_trainer(tmp_path, "lp-ft")
    trainer.train()
    again = text_trainer(tmp_path, "lp-ft")
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "stage-1-head" / "checkpoint-3"))
    assert not moved(weights(trainer), weights(again))


# --- what stages cannot go along with -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("method", "message"), [
    ("lp-ft", r"optimizers= is given and method is lp-ft, whose 2 stages each make their own. Leave optimizers out \(TrainingArguments' optim chooses the "
              r"kind\), or use method='full'"),
    ("lora", "optimizers= is given and method is lora, whose adapters are made when training begins, so that no optimizer has them. Leave")])
def test_a_callers_optimizer(tmp_path, method, message):
    folder = checkpoint("bert")
    names = {0: "bad", 1: "good"}
    model = AutoModelForSequenceClassification.from_pretrained(folder, id2label=names, label2id={name: index for index, name in names.items()})
    trainer = TransferTrainer(model=model, args=arguments(tmp_path / "out", eval_strategy="no"), train_dataset=datasets.Dataset.from_list(text_rows(8)),
                              processing_class=AutoTokenizer.from_pretrained(folder), task="text-classification", method=method,
                              optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None))
    with pytest.raises(RecipeError, match=message):
        trainer.train()


@pytest.mark.parametrize(("args", "message"), [
    ({"max_steps": 3}, "max_steps is 3 and method is gradual, whose stages are parts of num_train_epochs. Leave max_steps out, or use another method"),
    ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type is reduce_lr_on_plateau and method is gradual, which runs through one schedule in "
                                                    "several stages; that one cannot be entered in its midst. Allowed: linear, cosine,")])
def test_what_gradual_cannot_count_in(tmp_path, args, message):
    with pytest.raises(RecipeError, match=message):
        text_trainer(tmp_path, "gradual", args=args).train()
