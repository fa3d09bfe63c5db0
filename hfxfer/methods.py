"""What is trained, stage after stage: a method is a list of stages, and a stage says which parameters move and for how long.

head: the architecture's own head on a frozen body. full: everything. lp-ft: head, then everything from there (Kumar et al.
2022, Fine-Tuning can Distort Pretrained Features). gradual: block after block from the top (Howard and Ruder 2018, ULMFiT).
lora: low-rank adapters beside frozen weights (Hu et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from hfxfer import console
from hfxfer.blocks import blocks, frozen_names
from hfxfer.errors import RecipeError
from hfxfer.models import head_names
from hfxfer.recipe import Recipe

HEAD_LEARNING_RATE = 5e-3
"""AdamW's peak rate for a new head on a frozen body, alone (head) or before something else (lp-ft, gradual)."""

FEW_PER_CLASS = 8
SMALL_SET = 50
LARGE_MODEL = 300e6
LARGE_FOR_A_CPU = 100e6
MOST_UNFREEZINGS = 4
"""Stages into which gradual divides the blocks by itself: each costs an evaluation and a start."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of a training, with an optimizer of its own, wrapped anew for several processes.

    trained: names of parameters. name: of its folder of checkpoints; the last stage has none. cached: the body stands still, so
    its features are computed once. chooses: ends early, and with its best checkpoint. first_epoch: counted from the
    method's beginning, so that no stage repeats another's order. schedule: (epochs before, epochs in all) of the
    learning-rate schedule that the stage is a part of; None where it has its own.
    """

    trained: frozenset[str]
    epochs: float
    name: str = ""
    learning_rate: float | None = None
    cached: bool = False
    adapters: bool = False
    chooses: bool = True
    first_epoch: int = 0
    schedule: tuple[float, float] | None = None


def choose(num_rows: int, num_classes: int, num_parameters: int, is_image: bool, accelerator: bool) -> tuple[str, str]:
    """The method that `auto` takes, and the rule in words. num_classes: 1 for a regression."""
    per_class = num_rows / max(1, num_classes)
    size = f"{num_parameters / 1e6:.3g} M parameters"
    if num_rows < SMALL_SET or per_class < FEW_PER_CLASS:
        return "head", f"{num_rows} training rows, {per_class:.3g} a class: fewer than {SMALL_SET}, or than {FEW_PER_CLASS} a class, teach a head but not a body"
    if not accelerator and num_parameters > LARGE_FOR_A_CPU:
        return "head", f"{size} on a CPU: above {LARGE_FOR_A_CPU / 1e6:.0f} M only the head is trained, on cached features"
    if num_parameters > LARGE_MODEL:
        return "lora", f"{size}: above {LARGE_MODEL / 1e6:.0f} M adapters are trained instead of all weights"
    if is_image:
        return "lp-ft", f"pictures, {num_rows} training rows, {per_class:.3g} a class: first the head, then everything from there"
    return "full", f"text, {num_rows} training rows, {size}: everything is trained"


def settle(recipe: Recipe, problem: Any, train: Any, model: Any) -> Recipe:
    """The recipe with `method` auto as a value; the rule is told."""
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    images = getattr(model, "main_input_name", "") == "pixel_values"
    method, rule = choose(len(train) if hasattr(train, "__len__") else train.num_rows, len(problem.labels) if problem else 1, num_parameters, images,
                          torch.accelerator.is_available())
    console.talk(f"method {method}: {rule}")
    return replace(recipe, method=method)


def stages(recipe: Recipe, model: Any, num_train_epochs: float) -> tuple[Stage, ...]:
    """The stages of the recipe's method for this model. Raises RecipeError."""
    method = recipe.method
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if method == "full" and recipe.freeze is None:
        return (Stage(frozenset(trainable), num_train_epochs),)
    heads = frozenset(head_names(model) & trainable)
    if recipe.freeze is not None:
        if method in ("head", "lora"):
            raise RecipeError(f"freeze is set and method is {method}, which keeps the whole body frozen anyway. Leave it out, or use method full, lp-ft or gradual")
        trainable -= frozen_names(model, recipe.freeze)
    everything = frozenset(trainable)
    if method == "head":
        return (Stage(heads, num_train_epochs, cached=True),)
    if method == "full":
        return (Stage(everything, num_train_epochs),)
    if method == "lora":
        return (Stage(heads, num_train_epochs, adapters=True),)
    first = Stage(heads, recipe.head_epochs, name="stage-1-head", learning_rate=HEAD_LEARNING_RATE, cached=True)
    if method == "lp-ft":
        return (first, Stage(everything, num_train_epochs))
    return _gradual(model, recipe, num_train_epochs, first, everything)


def _gradual(model: Any, recipe: Recipe, num_train_epochs: float, first: Stage, everything: frozenset[str]) -> tuple[Stage, ...]:
    """The head first; then one more part of the body at each of the unfreezing epochs, on one learning-rate schedule."""
    parts = [frozenset(block.parameters) & everything for block in reversed(blocks(model))]
    epochs, parts = _unfreezings(recipe, num_train_epochs, [part for part in parts if part])
    if epochs[0] > 0:
        epochs, parts = [0.0, *epochs], [frozenset(), *parts]
    found, trained = [first], first.trained
    for number, (start, end, part) in enumerate(zip(epochs, [*epochs[1:], num_train_epochs], parts), start=2):
        trained = trained | part
        last = number == len(parts) + 1
        found.append(Stage(trained, end - start, name="" if last else f"stage-{number}-unfrozen", cached=trained == first.trained, chooses=last,
                           first_epoch=math.ceil(start), schedule=(start, num_train_epochs)))
    return tuple(found)


def _unfreezings(recipe: Recipe, num_train_epochs: float, parts: list[frozenset[str]]) -> tuple[list[float], list[frozenset[str]]]:
    """When each part of the body begins to train, and the parts, from the top."""
    if recipe.unfreeze_epochs == "auto":
        steps = min(MOST_UNFREEZINGS, len(parts))
        bounds = [round(len(parts) * index / steps) for index in range(steps + 1)]
        grouped = [frozenset().union(*parts[low:high]) for low, high in zip(bounds, bounds[1:])]
        return [num_train_epochs / 2 * index / steps for index in range(steps)], grouped
    wanted = list(recipe.unfreeze_epochs)
    if not wanted or wanted != sorted(set(wanted)) or wanted[0] < 0 or wanted[-1] >= num_train_epochs:
        raise RecipeError(f"unfreeze_epochs is {' '.join(f'{epoch:g}' for epoch in wanted) or 'empty'}; allowed: rising numbers from 0 to "
                          f"below num_train_epochs ({num_train_epochs:g})")
    if len(wanted) > len(parts):
        raise RecipeError(f"unfreeze_epochs has {len(wanted)} entries, but the body has {len(parts)} blocks. Give at most one entry a block")
    return wanted, parts[:len(wanted)]


def train_only(model: Any, trained: Iterable[str]) -> None:
    """Freeze every other parameter; what has none that moves stands still whole: batch-norm statistics and dropout, too.

    Trainer calls `model.train()` before each step; a hook puts these modules back into evaluation mode.
    """
    thaw(model)
    trained = set(trained)
    frozen = [parameter for name, parameter in model.named_parameters() if parameter.requires_grad and name not in trained]
    if not frozen:
        return
    for parameter in frozen:
        parameter.requires_grad_(False)
    still = _standing_still(model, trained)

    def keep_still(root: Any, _inputs: Any) -> None:
        for module in still:
            module.training = False

    model._hfxfer_frozen = (model.register_forward_pre_hook(keep_still), frozen)


def thaw(model: Any) -> None:
    """Undo `train_only`, so that another stage or trainer may train what this one froze."""
    handle, frozen = model.__dict__.pop("_hfxfer_frozen", (None, ()))
    if handle is not None:
        handle.remove()
    for parameter in frozen:
        parameter.requires_grad_(True)


def _standing_still(model: Any, trained: set[str]) -> list[Any]:
    """Modules of the body in which, or around which, nothing is trained.

    A module without parameters (dropout) goes with the smallest module around it that has some.
    """
    owners = {name.rpartition(".")[0] for name in trained}
    moving = {""} | {owner[:at] for owner in owners for at in [*(i for i, letter in enumerate(owner) if letter == "."), len(owner)]}
    inside = {name.rpartition(".")[0] for name in head_names(model)}
    with_parameters = {name for name, module in model.named_modules() if any(True for _ in module.parameters())}

    def nearest(name: str) -> str:
        while name and name not in with_parameters:
            name = name.rpartition(".")[0]
        return name

    return [module for name, module in model.named_modules()
            if name and nearest(name) not in moving and not _touches(name, inside, model)]


def _touches(name: str, heads: set[str], model: Any) -> bool:
    """True for a head's own modules and, in transformers, for the dropout that stands between body and head."""
    if any(name == head or name.startswith(f"{head}.") for head in heads):
        return True
    return not hasattr(model, "timm_model") and name != model.base_model_prefix and not name.startswith(f"{model.base_model_prefix}.")


def trainable_parameters(model: Any) -> tuple[int, int]:
    """(trained, all) parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def adapter_targets(model: Any) -> list[str]:
    """Names of the body's layers that take adapters: every linear layer and every 1 × 1 convolution without groups or stride."""
    from transformers.pytorch_utils import Conv1D

    heads = {name.rpartition(".")[0] for name in head_names(model)}
    return [name for name, module in model.named_modules()
            if name not in heads and not any(name.startswith(f"{head}.") for head in heads)
            and (isinstance(module, (torch.nn.Linear, Conv1D)) or _is_pointwise(module))]


def _is_pointwise(module: Any) -> bool:
    return isinstance(module, torch.nn.Conv2d) and module.groups == 1 and set((*module.kernel_size, *module.stride)) == {1}
