"""The execution plan: what it picks, what it leaves alone, and what of it is kept."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import bert_checkpoint, digits_folder, text_rows, timm_checkpoint

from hfxfer import data, machine, models, plan, tasks
from hfxfer.errors import RecipeError
from hfxfer.plan import Plan
from hfxfer.probe import Probe, untouched
from hfxfer.recipe import Recipe

CPU = torch.device("cpu")


class Prepared:
    """Digits and a network with batch norm, dropout and a new head; made anew for each test."""

    def __init__(self, folder, **settings):
        settings = {"num_train_epochs": 1.0, "method": "full", **settings}
        self.recipe = Recipe(model=str(timm_checkpoint(folder / "model")), data=str(digits_folder(folder / "data", train=8)), **settings)
        self.task = tasks.get("image-classification")
        self.rows = data.load_rows(data.read_source(self.recipe.data, self.recipe), self.task.columns, self.recipe)
        self.problem = self.task.problem(self.rows.target, self.rows.train)
        self.loaded = models.load(self.task, self.recipe, self.problem)

    def make(self, **settings):
        self.recipe = replace(self.recipe, **settings)
        return plan.make(self.recipe, self.task, self.problem, self.loaded, self.rows)

    def probe(self):
        return Probe(self.task, self.recipe, self.problem, self.loaded, CPU)


@pytest.fixture
def digits(tmp_path, monkeypatch):
    monkeypatch.setenv("HFXFER_CACHE", str(tmp_path / "cache"))
    return Prepared(tmp_path)


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_probe_leaves_weights_gradients_buffers_modes_and_generators_to_the_bit(digits):
    model = digits.loaded.model.train()
    model.timm_model.conv1.eval() if hasattr(model.timm_model, "conv1") else None
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = draws()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    with untouched(model):
        probe = digits.probe()
        probe.read(digits.rows.train)
        probe.step(probe.typical(8))
        model.to(memory_format=torch.channels_last)
        probe.step(probe.typical(8), "bf16")
        probe.loss(probe.typical(4), "fp32")
        assert not all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "batch norm moves inside"
    assert draws() == expected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(first.grad, torch.ones_like(first)) and all(each.grad is None for each in list(model.parameters())[1:])
    assert all(each.is_contiguous() for each in model.parameters())


def test_a_plan_survives_the_recipe_as_text():
    whole = Plan(allocator="keep", memory_format="channels_last", precision="bf16", optim="adamw_torch_fused", per_device_train_batch_size=16,
                 gradient_accumulation_steps=2, dataloader_num_workers=3, compile=True, threads=4)
    assert Plan.from_dict(whole.to_dict()) == whole
    recipe = Recipe.from_settings({"model": "m", "data": "d", "plan": whole.to_dict()})
    assert Plan.from_dict(recipe.plan) == whole and Recipe.from_settings(recipe.to_dict()) == recipe
    assert whole.training_arguments() == {"optim": "adamw_torch_fused", "gradient_accumulation_steps": 2, "dataloader_num_workers": 3, "torch_compile": True}


@pytest.mark.parametrize(("settings", "message"), [
    ({"memoryformat": "x"}, "plan has 'memoryformat'; allowed: auto, none, compile, or allocator=…, memory_format=…, precision=…, optim=…, "
     "per_device_train_batch_size=…, gradient_accumulation_steps=…, dataloader_num_workers=…, compile=…, threads=…"),
    ({"memory_format": "nhwc"}, "plan has memory_format=nhwc; allowed: channels_last, contiguous"),
    ({"threads": "0"}, "plan has threads=0; allowed: a whole number ≥ 1"),
    ({"dataloader_num_workers": "-1"}, "plan has dataloader_num_workers=-1; allowed: a whole number ≥ 0"),
])
def test_a_plan_that_cannot_be_is_refused(settings, message):
    with pytest.raises(RecipeError) as refused:
        plan.read(settings)
    assert str(refused.value) == message


def test_none_leaves_the_recipe_and_the_model_alone(digits):
    assert digits.make(plan="none") is digits.recipe
    assert all(each.is_contiguous() for each in digits.loaded.model.parameters())


def test_a_short_run_is_not_measured_and_gets_what_is_usual(digits, capsys):
    made = digits.make()
    assert made.plan == {"allocator": "keep" if machine.keep_memory() else "system", "memory_format": "channels_last", "precision": "fp32",
                         "optim": "adamw_torch_fused", "per_device_train_batch_size": "8", "gradient_accumulation_steps": "1",
                         "dataloader_num_workers": "0", "compile": "false", "threads": str(torch.get_num_threads())}
    assert (made.precision, made.per_device_train_batch_size) == ("fp32", 8)
    assert "; not measured: it would take more than " in capsys.readouterr().err
    assert not (plan.cache_folder() / "plans").exists() and digits.loaded.measured == {}


def test_a_long_run_is_measured_once(digits, capsys):
    made = digits.make(num_train_epochs=10_000.0)
    told = capsys.readouterr().err
    assert "plan: memory_format " in told and "plan: optim " in told and "times as fast as contiguous" in told
    assert set(digits.loaded.measured) >= {"memory_format", "optim"} and all(factor > 0 for factor in digits.loaded.measured.values())
    (kept,) = (plan.cache_folder() / "plans").iterdir()
    assert json.loads(kept.read_text())["plan"] == made.plan
    factors, digits.loaded.measured = digits.loaded.measured, {}
    assert digits.make().plan == made.plan and digits.loaded.measured == factors
    assert "as measured before on this machine" in capsys.readouterr().err


def test_what_the_user_says_is_never_measured_and_always_stands(digits, capsys):
    made = digits.make(num_train_epochs=10_000.0, precision="fp32", per_device_train_batch_size=4, plan={"memory_format": "contiguous", "allocator": "system"},
                       training_arguments={"optim": "adamw_torch", "dataloader_num_workers": 1, "gradient_accumulation_steps": 3})
    assert digits.loaded.measured == {}
    assert {name: made.plan[name] for name in ("memory_format", "allocator", "precision", "per_device_train_batch_size", "optim")} == {
        "memory_format": "contiguous", "allocator": "system", "precision": "fp32", "per_device_train_batch_size": "4", "optim": "adamw_torch"}
    assert (made.plan["dataloader_num_workers"], made.plan["gradient_accumulation_steps"]) == ("1", "3")
    assert "plan: memory_format" not in capsys.readouterr().err


def test_a_whole_plan_measures_nothing(digits, capsys, monkeypatch):
    made = digits.make()
    capsys.readouterr()
    monkeypatch.setattr(plan, "Probe", None)
    assert digits.make(plan=made.plan, precision=made.precision) == replace(digits.recipe, per_device_train_batch_size=8)
    assert capsys.readouterr().err.strip().endswith("as the recipe says")


def test_compile_is_only_on_request(digits):
    assert digits.make(plan="compile").plan["compile"] == "true"


@pytest.mark.parametrize("content", ["", "{", '{"plan": {"threads": "0"}, "factors": {}}', '{"plan": 3}', "[]"])
def test_a_damaged_cache_is_no_cache(tmp_path, content):
    (tmp_path / "plan.json").write_text(content)
    assert plan._read_cache(tmp_path / "plan.json") is None


def test_bf16_is_refused_where_its_loss_disagrees(digits, monkeypatch, capsys):
    monkeypatch.setattr(machine, "has_bf16", lambda device_type: True)
    monkeypatch.setattr(Probe, "loss", lambda self, batch, precision: 1.0 if precision == "fp32" else 1.03)
    assert digits.make(num_train_epochs=10_000.0).precision == "fp32"
    assert "but the loss is 1.03, 1 in fp32" in capsys.readouterr().err


def test_a_channels_last_model_is_saved_as_any_other(digits, tmp_path):
    model = digits.loaded.model.eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = model(pixels).logits
    Plan(memory_format="channels_last").apply(model)
    assert not all(each.is_contiguous() for each in model.parameters())
    models.save(model, digits.loaded.processor, tmp_path / "saved")
    again, _ = models.load_trained(str(tmp_path / "saved"), digits.task)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    torch.testing.assert_close(again(pixels).logits, expected, rtol=0, atol=1e-5)


def test_transformers_own_convolutions_are_saved_contiguous(tmp_path):
    from transformers import MobileNetV1Config, MobileNetV1ForImageClassification

    model = MobileNetV1ForImageClassification(MobileNetV1Config(depth_multiplier=0.25, min_depth=4, image_size=32, num_labels=2))
    Plan(memory_format="channels_last").apply(model)
    model.save_pretrained(tmp_path)
    again = MobileNetV1ForImageClassification.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) and b.is_contiguous() for a, b in zip(model.parameters(), again.parameters()))


def test_texts_are_probed_by_their_lengths(tmp_path, monkeypatch):
    monkeypatch.setenv("HFXFER_CACHE", str(tmp_path / "cache"))
    task = tasks.get("text-classification")
    recipe = Recipe(model=str(bert_checkpoint(tmp_path / "bert")), data="d", method="full", num_train_epochs=1.0, max_length=32)
    rows = data.load_rows({"train": text_rows(30)}, task.columns, recipe, cut=False)
    problem = task.problem(rows.target, rows.train)
    probe = Probe(task, recipe, problem, models.load(task, recipe, problem), CPU)
    probe.read(rows.train)
    assert probe.length() == 16
    assert probe.longest(2)["input_ids"].shape[1] == max(len(item["input_ids"]) for item in probe._items)
    assert probe.workers(0.001, 8) == 0 and probe.fitting_size(8, "fp32") == 8


def test_the_usual_batch_grows_with_the_rows():
    assert [plan.usual_batch(rows) for rows in (1, 100, 300, 3257, 8000, 10_000)] == [8, 8, 16, 16, 16, 32]
