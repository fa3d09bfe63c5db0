"""What is trained, stage after stage: a method is a list of stages, and a stage says which parameters move and for how long.

head: the architecture's own head on a frozen body. full: everything. lp-ft: head, then everything from there (Kumar et al.
2022, Fine-Tuning can Distort Pretrained Features). gradual: block after block from the top (Howard and Ruder 2018, ULMFiT).
lora: low-rank adapters beside frozen weights (Hu et al. 2021).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from hfxfer import console, machine
from hfxfer.blocks import blocks, frozen_names
from hfxfer.errors import ModelError, RecipeError
from hfxfer.models import forget, head_names
from hfxfer.recipe import Recipe

HEAD_LEARNING_RATE = 5e-3
"""AdamW's peak rate for a new head on a frozen body, alone (head) or before something else (lp-ft, gradual)."""

FEW_PER_CLASS = 8
SMALL_SET = 50
LARGE_MODEL = 300e6
LARGE_FOR_A_CPU = 100e6
MOST_UNFREEZINGS = 4
"""Stages into which gradual divides the blocks by itself: each costs an evaluation and a start."""

PEFT_TASKS = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
"""How names of transformers' classes end, and what peft calls these tasks."""

LISTS = (torch.nn.ModuleList, torch.nn.ModuleDict)


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
        return "head", (f"{num_rows} training rows, {per_class:.3g} a class: fewer than {SMALL_SET}, or than {FEW_PER_CLASS} a class, teach a head "
                        "but not a body")
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
    num_classes = len(problem.labels) if problem else getattr(getattr(model, "config", None), "num_labels", 1)
    method, rule = "full", "the number of training rows is not known: everything is trained"
    if not has_known_head(model):
        rule = f"which part of {type(model).__name__} is its head is not known: everything is trained"
    elif recipe.freeze is not None:
        rule = "freeze says what stands still: everything else is trained"
    elif hasattr(train, "__len__"):
        method, rule = choose(len(train), num_classes, num_parameters, images, machine.has_accelerator())
    console.talk(f"method {method}: {rule}")
    return replace(recipe, method=method)


def has_known_head(model: Any) -> bool:
    """True for the models of transformers, and timm's inside them."""
    return hasattr(model, "timm_model") or hasattr(model, "base_model_prefix")


def stages(recipe: Recipe, model: Any, num_train_epochs: float) -> tuple[Stage, ...]:
    """The stages of the recipe's method for this model. Raises RecipeError; ModelError for a model whose head is not known."""
    method = recipe.method
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if method == "full" and recipe.freeze is None:
        return (Stage(frozenset(trainable), num_train_epochs),)
    if not has_known_head(model):
        raise ModelError(f"method is {method}, and {type(model).__name__} is no model of transformers or timm, so which part is its head is not "
                         "known. Use method='full', or a model of theirs")
    if recipe.freeze is not None:
        if method in ("head", "lora"):
            raise RecipeError(f"freeze is set and method is {method}, which keeps the whole body frozen anyway. "
                              "Leave it out, or use method full, lp-ft or gradual")
        trainable -= frozen_names(model, recipe.freeze)
    everything, heads = frozenset(trainable), frozenset(head_names(model) & trainable)
    if method == "full":
        return (Stage(everything, num_train_epochs),)
    if not heads:
        raise RecipeError(f"method is {method}, which trains the head, and all of it is frozen (freeze, or requires_grad). "
                          "Leave the head out there, or use method full")
    if method == "head":
        return (Stage(heads, num_train_epochs, cached=True),)
    if method == "lora":
        _check_adapters(recipe, model)
        return (Stage(heads, num_train_epochs, adapters=True),)
    first = Stage(heads, recipe.head_epochs, name="stage-1-head", learning_rate=HEAD_LEARNING_RATE, cached=True)
    if method == "lp-ft":
        return (first, Stage(everything, num_train_epochs, first_epoch=math.ceil(recipe.head_epochs)))
    return _gradual(model, recipe, num_train_epochs, first, everything)


def _check_adapters(recipe: Recipe, model: Any) -> None:
    if not adapter_targets(model):
        raise RecipeError(f"method is lora, and the body of {type(model).__name__} has no layer that takes an adapter (linear, or a 1 × 1 "
                          "convolution without stride). Use method full, lp-ft or head")
    why = why_no_adapter(model) if recipe.keep_adapter else None
    if why:
        console.warn(f"{why}. Leave out keep_adapter: model/ holds the merged weights either way")


def of_init(model_init: Callable[..., Any], recipe: Recipe, num_train_epochs: float) -> Callable[..., Any]:
    """The same function, its models frozen as the method says. Keeps the number of arguments, which Trainer looks at."""
    @functools.wraps(model_init)
    def made(*trial: Any) -> Any:
        model = model_init(*trial)
        forget(model)
        if recipe.method == "auto":
            raise RecipeError("model_init is given and method is auto, which may choose stages. Say which: method='full' or 'head'")
        planned = stages(recipe, model, num_train_epochs)
        if len(planned) > 1 or planned[0].adapters:
            raise RecipeError(f"model_init is given and method is {recipe.method}, which has stages. Give model=, or method='full' or 'head'")
        train_only(model, planned[0].trained, still_norms(model, recipe.batch_norm))
        return model

    return made


def hint_unused(recipe: Recipe) -> None:
    """Say that a setting has no effect with this method. For what a person asked for, not for each rung of a ladder."""
    if recipe.keep_adapter and recipe.method != "lora":
        console.hint(f"keep_adapter has no effect with method {recipe.method}: only lora makes an adapter")


def why_no_adapter(model: Any) -> str | None:
    """Why plain peft could not load an adapter saved alone for this model; None where it can."""
    name, modules = type(model).__name__, head_modules(model)
    if getattr(model.config, "tf_padding", False):
        return f"no adapter is saved alone: {name} reads off a convolution how to pad, and peft's adapters do not say it"
    outside = sorted(name for name in head_names(model) if not name.startswith(tuple(f"{module}." for module in modules)))
    if outside:
        return f"no adapter is saved alone: {outside[0]} of the head of {name} is in no module of its own, which peft's format wants"
    # peft replaces whatever has a name with such an ending, and looks for its weights in the adapter's file (0.21).
    endings = (*modules, *(("classifier", "score") if peft_task(model) else ()))
    more = next((each for each, _ in model.named_modules() if each.endswith(endings) and each not in modules), None)
    return f"no adapter is saved alone: peft would take {more} of {name} for a part of the head" if more else None


def peft_task(model: Any) -> str | None:
    """peft's name for the model's task; None where it has none, as for pictures."""
    return next((name for ending, name in PEFT_TASKS.items() if type(model).__name__.endswith(ending)), None)


def head_modules(model: Any) -> list[str]:
    """The largest modules that hold parameters of the head and no others: peft's modules_to_save, which cannot be lists."""
    names, heads = {name for name, _ in model.named_parameters()}, head_names(model)
    alone, found = _paths(heads) - _paths(names - heads), []
    for name, module in model.named_modules():
        if name in alone and not name.startswith(tuple(f"{each}." for each in found)) and not isinstance(module, LISTS):
            found.append(name)
    return found


def _gradual(model: Any, recipe: Recipe, num_train_epochs: float, first: Stage, everything: frozenset[str]) -> tuple[Stage, ...]:
    """The head first; then one more part of the body at each of the unfreezing epochs, on one learning-rate schedule."""
    parts = [frozenset(block.parameters) & everything for block in reversed(blocks(model))]
    parts = [part for part in parts if part]
    if not parts:
        raise RecipeError("method is gradual, which unfreezes the body, and freeze keeps all of it frozen. Leave out freeze, or use method head")
    epochs, parts = _unfreezings(recipe, num_train_epochs, parts)
    if epochs[0] > 0:
        epochs, parts = [0.0, *epochs], [frozenset(), *parts]
    found, trained, begun = [first], first.trained, math.ceil(first.epochs)
    for number, (start, end, part) in enumerate(zip(epochs, [*epochs[1:], num_train_epochs], parts), start=2):
        trained = trained | part
        last = number == len(parts) + 1
        found.append(Stage(trained, end - start, name="" if last else f"stage-{number}-unfrozen", cached=trained == first.trained, chooses=last,
                           first_epoch=begun, schedule=(start, num_train_epochs)))
        begun += math.ceil(end - start)
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


def train_only(model: Any, trained: Iterable[str], still_norms: Iterable[Any] = ()) -> None:
    """Freeze every other parameter; what has none that moves stands still whole: batch-norm statistics and dropout, too.

    still_norms: batch norms whose statistics stand still although their weights may move. Trainer calls `model.train()` before each step; a hook puts these modules back into evaluation mode.
    """
    thaw(model)
    trained = set(trained)
    frozen = [parameter for name, parameter in model.named_parameters() if parameter.requires_grad and name not in trained]
    still = [*still_norms]
    if not frozen and not still:
        return
    for parameter in frozen:
        parameter.requires_grad_(False)
    if frozen:
        still += _standing_still(model, trained)

    model._hfxfer_frozen = (model.register_forward_pre_hook(KeepStill(still)), frozen, still)


class KeepStill:
    """The hook that keeps modules in evaluation mode."""

    copied_with_model = True

    def __init__(self, still: list[Any]):
        self.still = still

    def __call__(self, root: Any, _inputs: Any) -> None:
        if "train" not in root.__dict__:  # Else `switching_only_what_moves` does it once.
            for module in self.still:
                module.training = False


def still_norms(model: Any, batch_norm: str) -> list[Any]:
    """The batch norms that keep the checkpoint's statistics while they are trained.

    batch_norm: `trained`: none; `frozen`: all; `auto`: those whose statistics were learned. A small batch's own are noise.
    Measured with mobilenetv2_100, full, 3 epochs, one seed, test accuracy with the checkpoint's statistics and with the batches': trashnet
    0.781 and 0.728, sign_digits 0.982 and 0.937, pets3 0.966 and 0.966.
    """
    norms = [module for module in model.modules()
             if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None]
    if batch_norm == "auto":
        return [norm for norm in norms if bool(norm.running_mean.any()) or not bool((norm.running_var == 1).all())]
    return norms if batch_norm == "frozen" else []


@contextmanager
def switching_only_what_moves(model: Any) -> Iterator[None]:
    """Inside, `model.train()` and `model.eval()` leave alone what stands still: with a body of hundreds of modules 2 ms a step."""
    still = {id(module) for module in model.__dict__.get("_hfxfer_frozen", (None, (), ()))[2]}
    moving = [module for module in model.modules() if id(module) not in still]
    model.eval()

    def train(mode: bool = True) -> Any:
        for module in moving:
            module.training = mode
        return model

    model.train = train
    try:
        yield
    finally:
        del model.train


def thaw(model: Any) -> None:
    """Undo `train_only`, so that another stage or trainer may train what this one froze."""
    handle, frozen, _ = model.__dict__.pop("_hfxfer_frozen", (None, (), ()))
    if handle is not None:
        handle.remove()
    for parameter in frozen:
        parameter.requires_grad_(True)


def _standing_still(model: Any, trained: set[str]) -> list[Any]:
    """Modules of the body in which, or around which, nothing is trained.

    A module without parameters (dropout) goes with the smallest module around it that has some.
    """
    names, heads = {name for name, _ in model.named_parameters()}, head_names(model)
    moving, of_head, of_body = {"", *_paths(trained)}, _paths(heads), _paths(names - heads)
    with_parameters, owners = of_head | of_body, {name.rpartition(".")[0] for name in names}
    last = max((number for number, (name, _) in enumerate(model.named_modules()) if name in of_body - of_head), default=-1)

    def nearest(name: str) -> str:
        while name and name not in with_parameters:
            name = name.rpartition(".")[0]
        return name

    still, before = [], True
    for number, (name, module) in enumerate(model.named_modules()):
        if name in with_parameters:
            frozen = name not in moving
            before = frozen if name in owners else before
        else:
            around = nearest(name)
            # Beside body and head alike: the body's where a frozen layer stands before it and one of the body after it; else the head's.
            frozen = around not in moving or around in of_head & of_body and before and number < last
        if name and frozen and name not in of_head:
            still.append(module)
    return still


def _paths(names: Iterable[str]) -> set[str]:
    """The modules that hold these parameters, and those around them."""
    return {name[:at] for name in names for at, letter in enumerate(name) if letter == "."}


def trainable_parameters(model: Any) -> tuple[int, int]:
    """(trained, all) parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def adapter_targets(model: Any) -> list[str]:
    """Names of the body's layers that take adapters: every linear layer and every 1 × 1 convolution without groups or stride."""
    from transformers.pytorch_utils import Conv1D

    heads = {name.rpartition(".")[0] for name in head_names(model)}
    # Torch's own attention reads the weights of its projection, past any adapter.
    attention = {f"{name}.out_proj" for name, module in model.named_modules() if isinstance(module, torch.nn.MultiheadAttention)}
    return [name for name, module in model.named_modules()
            if name not in heads | attention and not any(name.startswith(f"{head}.") for head in heads)
            and (isinstance(module, (torch.nn.Linear, Conv1D)) or _is_pointwise(module))]


def _is_pointwise(module: Any) -> bool:
    # A convolution that standardises its weights before it uses them (BiT, NF networks) is another with an adapter merged into these.
    if not isinstance(module, torch.nn.Conv2d) or type(module).forward is not torch.nn.Conv2d.forward:
        return False
    return module.groups == 1 and set((*module.kernel_size, *module.stride)) == {1}
