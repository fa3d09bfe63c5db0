"""Dropout before a new head and stochastic depth: set where a recipe asks for it, noticed where it keeps a head from learning."""

from __future__ import annotations

import re
from typing import Any

from hfxfer import console
from hfxfer.recipe import Recipe

UNABLE_TO_LEARN = 0.8
"""A dropout before the head above this leaves next to nothing to learn from (MobileNetV1's default is 0.999)."""

DROPOUT_REPLACEMENT = 0.2


def settle_timm(model_arguments: dict[str, Any], architecture: str, recipe: Recipe) -> None:
    """timm's dropout before the classifier and its stochastic depth, in place."""
    rate = model_arguments.get("drop_rate") or 0.0
    if recipe.classifier_dropout != "auto":
        model_arguments["drop_rate"] = recipe.classifier_dropout
    elif rate > UNABLE_TO_LEARN:
        _warn_of_dropout("drop_rate", rate)
        model_arguments["drop_rate"] = DROPOUT_REPLACEMENT
    if recipe.drop_path != "auto":
        _settle_timm_depth(model_arguments, architecture, recipe)


def _settle_timm_depth(model_arguments: dict[str, Any], architecture: str, recipe: Recipe) -> None:
    """timm's stochastic depth, in place, where the network takes it."""
    import timm
    import torch

    wanted = {**model_arguments, "drop_path_rate": recipe.drop_path}
    try:
        with torch.device("meta"):
            network = timm.create_model(architecture, pretrained=False, **{**wanted, "drop_path_rate": 0.5})
    except TypeError:
        network = torch.nn.Module()
    if any(isinstance(module, timm.layers.DropPath) for module in network.modules()):
        model_arguments.update(wanted)
    else:
        _warn_of_no_depth(recipe, architecture)


def settle_depth(config: Any, recipe: Recipe) -> None:
    """transformers' stochastic depth, in the config that a model is then made of."""
    if recipe.drop_path == "auto":
        return
    if isinstance(getattr(config, "drop_path_rate", None), (int, float)):
        config.drop_path_rate = recipe.drop_path
    else:
        _warn_of_no_depth(recipe, type(config).__name__.removesuffix("Config"))


def _warn_of_no_depth(recipe: Recipe, name: str) -> None:
    console.warn(f"--drop_path {recipe.drop_path:g} has no effect: {name} has no such setting")


def _warn_of_dropout(name: str, value: float) -> None:
    console.warn(f"the checkpoint's {name} is {value}: a new head would hardly learn. Using {DROPOUT_REPLACEMENT}; "
                 "silence this with --classifier_dropout")


def settle_transformers(model: Any, recipe: Recipe) -> None:
    """Notice a dropout before the head that keeps it from learning, or set the one that was asked for."""
    import torch

    if hasattr(model, "timm_model"):
        return
    names = [name for name in vars(model.config) if "dropout" in name and re.search("classif|cls|summary|final|head", name)]
    wanted = recipe.classifier_dropout
    if wanted != "auto" and not names:
        console.warn(f"--classifier_dropout {wanted} has no effect: {type(model).__name__} has no such setting")
    for name in names:
        value = getattr(model.config, name)
        if wanted == "auto" and not (isinstance(value, (int, float)) and value > UNABLE_TO_LEARN):
            continue
        if wanted == "auto":
            _warn_of_dropout(name, value)
        chosen = DROPOUT_REPLACEMENT if wanted == "auto" else wanted
        setattr(model.config, name, chosen)
        for module_name, module in model.named_modules():
            inside = module_name.startswith(f"{model.base_model_prefix}.") and "pooler" not in module_name
            if isinstance(module, torch.nn.Dropout) and not inside:
                module.p = chosen
