"""What is trained: everything (`full`), or only the architecture's own head (`head`)."""

from __future__ import annotations

from typing import Any

from hfxfer.errors import RecipeError
from hfxfer.models import head_names

METHODS = ("full", "head")


def apply(method: str, model: Any) -> None:
    """Freeze what `method` leaves alone. Call before the optimizer is made and the model is wrapped."""
    if method not in METHODS:
        raise RecipeError(f"method is {method!r}; allowed: {', '.join(METHODS)}")
    thaw_body(model)
    if method == "head":
        freeze_body(model)


def freeze_body(model: Any) -> None:
    """Keep every parameter outside the head as it is, and the body's batch-norm statistics and dropout too.

    Trainer calls `model.train()` before each step; a hook puts the body back into evaluation mode, so that
    running statistics do not move and dropout in the body stays off.
    """
    heads = head_names(model)
    frozen = [parameter for name, parameter in model.named_parameters() if name not in heads and parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    inside = {name.rpartition(".")[0] for name in heads}
    body = [module for name, module in model.named_modules() if name and not _touches(name, inside, model)]

    def keep_still(root: Any, _inputs: Any) -> None:
        for module in body:
            module.training = False

    model._hfxfer_frozen = (model.register_forward_pre_hook(keep_still), frozen)


def thaw_body(model: Any) -> None:
    """Undo `freeze_body`, so that a second trainer may train what a first one froze."""
    handle, frozen = model.__dict__.pop("_hfxfer_frozen", (None, ()))
    if handle is not None:
        handle.remove()
    for parameter in frozen:
        parameter.requires_grad_(True)


def _touches(name: str, heads: set[str], model: Any) -> bool:
    """True for a head's own modules and, in transformers, for the dropout that stands between body and head."""
    if any(name == head or name.startswith(f"{head}.") for head in heads):
        return True
    return not hasattr(model, "timm_model") and name != model.base_model_prefix and not name.startswith(f"{model.base_model_prefix}.")


def trainable_parameters(model: Any) -> tuple[int, int]:
    """(trained, all) parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
