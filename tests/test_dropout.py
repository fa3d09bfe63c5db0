"""Stochastic depth reaches the network, is saved with it, and is told of where there is none. Dropout: tests/test_models.py."""

import json

import pytest
import timm
import torch
from tiny_models import bert_checkpoint, timm_checkpoint
from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessor

from hfxfer import models, tasks
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import Problem

IMAGE, TEXT = tasks.get("image-classification"), tasks.get("text-classification")
TWO = Problem("single_label_classification", ("cat", "dog"))


def load(folder, task=IMAGE, **settings):
    return models.load(task, Recipe(model=str(folder), data="d", **settings), TWO).model


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return timm_checkpoint(tmp_path_factory.mktemp("vit"), architecture="test_vit")


def rates(model, kind):
    return [module.drop_prob for module in model.modules() if isinstance(module, kind)]


def test_timm_networks_get_it_rising_to_the_top(vit):
    model = load(vit, drop_path=0.3)
    assert max(rates(model, timm.layers.DropPath)) == pytest.approx(0.3)
    assert model.config.model_args["drop_path_rate"] == 0.3
    assert rates(load(vit), timm.layers.DropPath) == []


def test_the_weights_are_the_same_with_it(vit):
    plain, with_it = load(vit).state_dict(), load(vit, drop_path=0.3).state_dict()
    assert all(torch.equal(value, with_it[name]) for name, value in plain.items())


def test_a_checkpoints_own_is_kept_by_auto_and_turned_off_by_0(tmp_path):
    folder = timm_checkpoint(tmp_path, architecture="test_vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_args": {"drop_path_rate": 0.2}}))
    assert max(rates(load(folder), timm.layers.DropPath)) == pytest.approx(0.2)
    assert rates(load(folder, drop_path=0.0), timm.layers.DropPath) == []


def test_transformers_networks_get_it_through_their_config(tmp_path):
    from transformers.models.swin.modeling_swin import SwinDropPath

    SwinForImageClassification(SwinConfig(embed_dim=4, depths=[1, 2], num_heads=[2, 2], window_size=2, image_size=32)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model = load(tmp_path, drop_path=0.3)
    assert model.config.drop_path_rate == 0.3 and max(rates(model, SwinDropPath)) == pytest.approx(0.3)


def test_what_has_none_is_told(tmp_path, capsys):
    load(bert_checkpoint(tmp_path / "bert"), TEXT, drop_path=0.1)
    assert "warning: --drop_path 0.1 has no effect: Bert has no such setting" in capsys.readouterr().err
    model = load(timm_checkpoint(tmp_path / "net", architecture="inception_v3", size=96), drop_path=0.1)
    assert "warning: --drop_path 0.1 has no effect: inception_v3 has no such setting" in capsys.readouterr().err
    assert "drop_path_rate" not in model.config.model_args
