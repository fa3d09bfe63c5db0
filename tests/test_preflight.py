"""What a check leaves as it was, and what it finds in the model that would be published."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from tiny_models import bert_checkpoint, digits_folder, tag_rows, text_rows, timm_checkpoint, write_jsonl

from hfxfer import models, plan, training
from hfxfer.errors import RefusedError
from hfxfer.preflight import Check
from hfxfer.recipe import Recipe
from hfxfer.run import Run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    timm_checkpoint(folder / "net")
    bert_checkpoint(folder / "bert")
    digits_folder(folder / "digits", train=8, validation=5, test=5)
    write_jsonl(folder / "texts.jsonl", text_rows(40))
    write_jsonl(folder / "tags.jsonl", tag_rows(40))
    write_jsonl(folder / "numbers.jsonl", [{"text": f"film {index}", "label": 100.5 + index} for index in range(40)])
    write_jsonl(folder / "several.jsonl", [{"text": f"film {index}", "label": ["good", "bad"][:1 + index % 2]} for index in range(40)])
    return folder


DATA = {"pictures": ("net", "digits"), "texts": ("bert", "texts.jsonl"), "tags": ("bert", "tags.jsonl"), "numbers": ("bert", "numbers.jsonl"),
        "several": ("bert", "several.jsonl")}


def prepared(place, kind, **settings):
    model, rows = DATA[kind]
    recipe = Recipe.from_settings({"model": str(place / model), "data": str(place / rows), "output_dir": str(place / "run"), **settings})
    return training.made_ready(recipe, recipe.data, None)


def rehearsed(ready, **settings):
    check = Check(dataclasses.replace(ready.recipe, **settings))
    check.rehearse(ready.recipe, ready.task, ready.problem, ready.rows, ready.loaded)
    return check


def state_of(model):
    # save_pretrained writes the class's name into the config, as every later one does.
    config = {**model.config.to_dict(), "architectures": None}
    return ({name: (value.clone(), value.stride()) for name, value in model.state_dict().items()},
            {name: (parameter.requires_grad, parameter.grad) for name, parameter in model.named_parameters()},
            [module.training for module in model.modules()], config, torch.get_rng_state(), random.getstate(), np.random.get_state()[1])


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("plan", ["auto", "none"])
def test_model_and_generators_are_left_as_they_were(place, kind, plan):
    ready = prepared(place, kind, plan=plan)
    before = state_of(ready.loaded.model)
    check = rehearsed(ready)
    after = state_of(ready.loaded.model)
    assert check.faults == [] and len(check.checked) == 2 and not (place / "run").exists()
    for (was, was_strides), (now, now_strides) in zip(before[0].values(), after[0].values(), strict=True):
        assert torch.equal(was, now) and was_strides == now_strides
    assert before[1:4] == after[1:4] and torch.equal(before[4], after[4]) and before[5] == after[5] and (before[6] == after[6]).all()


def test_a_missing_licence_is_a_question_of_a_training_and_a_fault_of_a_push(place):
    ready = prepared(place, "texts")
    check = rehearsed(ready)
    assert check.faults == [] and check.questions[0].startswith("Under which licence may the model be used?")
    check = rehearsed(ready, hub_model_id="me/x")
    assert len(check.faults) == 1 and check.faults[0].startswith("license is missing: the base checkpoint says none; allowed: ")


def test_a_licence_of_ones_own_is_complete_with_name_and_link(place):
    ready = prepared(place, "texts")
    ready.loaded.base.update(license="other")
    check = rehearsed(ready)
    assert check.faults == [] and [each for each in check.questions if each.startswith("Before a push: license is other and license_name is missing; ")]
    check = rehearsed(ready, hub_model_id="me/x")
    assert len(check.faults) == 2 and check.faults[0] == (
        "license is other and license_name is missing; allowed: a name such as my-licence-1.0. Say which: --license_name NAME, "
        "or write it into the metadata of the card")
    said = {"license_name": "x-1", "license_link": "https://example.org/x"}
    ready = dataclasses.replace(ready, recipe=dataclasses.replace(ready.recipe, **said))
    assert rehearsed(ready, hub_model_id="me/x").faults == []
    ready.loaded.base.pop("license")
    ready = dataclasses.replace(ready, recipe=dataclasses.replace(ready.recipe, license="other"))
    assert rehearsed(ready, hub_model_id="me/x").faults == []


def test_what_should_not_be_seen_is_found_before_training(place, tmp_path):
    write_jsonl(tmp_path / "mails.jsonl", [{"text": f"film {index}", "label": ("ada@uni.ac.uk", "bob@uni.ac.uk")[index % 2]} for index in range(40)])
    ready = prepared(place, "texts", data=str(tmp_path / "mails.jsonl"), license="mit")
    assert rehearsed(ready).faults == []
    found = rehearsed(ready, hub_model_id="me/x").faults
    assert found and all(each.endswith(f"--allow {each.split(',')[0]}") for each in found)
    config = next(each for each in found if each.startswith("config.json"))
    assert config.endswith("e-mail ada@uni.ac.uk, in what would be published. Take it out of the data, or train without --push_to_hub and push "
                           "then with --allow config.json")


def test_a_loss_that_is_no_number_is_a_fault(place):
    ready = prepared(place, "texts")
    with torch.no_grad():
        models.logit_layers(ready.loaded.model)[0].weight.fill_(float("nan"))
    assert rehearsed(ready).faults == ["the loss of two training rows is nan in fp32. Choose --precision fp32, or another --model"]


def test_what_a_library_raises_is_a_fault_with_its_words(place):
    ready = prepared(place, "texts")
    ready.loaded.model.classifier = torch.nn.Linear(3, 2)
    fault, = rehearsed(ready).faults
    assert fault.startswith("a training step on two rows fails, and so would training: RuntimeError: ")
    assert fault.endswith("mat1 and mat2 shapes cannot be multiplied (2x32 and 3x2). Change --model or the settings")


def test_what_nobody_foresaw_is_a_fault_beside_the_others(place, monkeypatch, capsys):
    """On a CPU memory does not run out of itself: what a GPU raises in the probe of the plan is raised here."""
    def measured(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore of it")

    monkeypatch.setattr(plan, "make", measured)
    recipe = Recipe(model=str(place / "bert"), data=str(place / "texts.jsonl"), output_dir=str(place), license="mit")
    check = Check(recipe, faults=["seed is -1"])
    assert training.examine(check, Run(place), recipe.data) is None
    assert check.faults == [
        "seed is -1", f"{place} is not empty and holds no run. Choose another --output_dir",
        "reading the data and loading the model fails, and so would training: OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. "
        "Change --data, --model or the settings"]
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("HFXFER_DEBUG", "1")
    training.examine(check, Run(place), recipe.data)
    assert "in measured\n" in capsys.readouterr().err


def test_the_licence_is_asked_for_though_the_model_does_not_work(place):
    ready = prepared(place, "texts", hub_model_id="me/x")
    ready.loaded.model.classifier = torch.nn.Linear(3, 2)
    check = Check(ready.recipe)
    check.rehearse(ready.recipe, ready.task, ready.problem, ready.rows, ready.loaded)
    assert not check.has_card and len(check.faults) == 1
    check.foresee()
    assert len(check.faults) == 2 and check.faults[1].startswith("license is missing: ")


def test_settings_that_training_arguments_refuse_are_a_fault(place):
    assert rehearsed(prepared(place, "texts", metric_for_best_model="acuracy")).faults[0].startswith("metric_for_best_model is 'acuracy'; allowed: ")


def test_a_saved_model_with_other_logits_is_a_fault(place, monkeypatch):
    ready, save = prepared(place, "texts"), models.save

    def spoilt(model, processor, folder):
        save(model, processor, folder)
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        save_file({**weights, "classifier.bias": weights["classifier.bias"] + 0.5}, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(models, "save", spoilt)
    assert rehearsed(ready).faults == ["the model gives other logits once it is saved and loaded again: they differ by 0.5. Choose another --model"]


def test_without_the_network_a_check_says_so_and_a_push_is_refused(place):
    """In this process the network is switched off, as HF_HUB_OFFLINE=1 in the environment does."""
    recipe = Recipe(model="m", data="d", hub_model_id="me/x", push_to_hub=True)
    check = Check(recipe)
    check.ask()
    assert (check.faults, check.unasked) == ([], ["the Hub: HF_HUB_OFFLINE=1 is set"])
    check = Check(dataclasses.replace(recipe, hub_model_id=None, push_to_hub=False))
    check.ask()
    assert (check.faults, check.unasked) == (
        [], ["token and repository: no --hub_model_id", "the Hub's check of the card: HF_HUB_OFFLINE=1 is set"])
    check = Check(dataclasses.replace(recipe, hub_model_id="x"))
    check.ask()
    assert check.faults == ["--hub_model_id is 'x'; allowed: NAME/REPO of letters, digits, '-', '_' and '.', such as me/pets"]
    with pytest.raises(RefusedError) as raised:
        training.train(model=str(place / "bert"), data=str(place / "texts.jsonl"), output_dir=str(place / "run"), push_to_hub=True, hub_model_id="me/x",
                       license="mit")
    assert str(raised.value) == "HF_HUB_OFFLINE=1 is set, and a push needs the network. Unset it (and TRANSFORMERS_OFFLINE), and push again"
    assert not (place / "run").exists()


def test_all_faults_are_one_refusal():
    with pytest.raises(RefusedError, match="^2 faults:\n  - a\n  - b$"):
        Check(Recipe(model="m", data="d"), faults=["a", "b", "a"]).settle(lambda check: pytest.fail("asked"))
