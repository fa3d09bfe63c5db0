"""How fast each parameter moves: groups for the optimizer, with layer-wise learning rates and without decay where it hurts.

The rate of a parameter is learning_rate × layer_decay ** (blocks between it and the head): ELECTRA (Clark et al. 2020),
BEiT (Bao et al. 2021); for timm networks exactly the rates of timm.optim.param_groups_layer_decay.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hfxfer.blocks import distances
from hfxfer.models import head_names

TOKENS = ("cls_token", "dist_token", "distillation_token", "mask_token", "reg_token", "class_embedding", "pos_embed", "position_embeddings",
          "relative_position_bias_table")
"""Parameters of transformers' vision bodies that timm, too, keeps out of weight decay."""


def parameter_groups(model: Any, learning_rate: float, weight_decay: float, layer_decay: float = 1.0, head_lr_multiplier: float = 1.0,
                     body_decays: bool = True) -> list[dict[str, Any]]:
    """Groups `params`, `lr`, `weight_decay` of all parameters that require a gradient, each once; the head's rate first.

    No weight decay on norms, biases, 1-d parameters and what timm's no_weight_decay() names; none on the body without
    `body_decays` (L2-SP pulls it elsewhere).
    """
    model = unwrapped(model)
    heads, distance, spared = head_names(model), distances(model), undecayed(model)
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, parameter in sorted(model.named_parameters(), key=lambda item: distance[item[0]]):
        if parameter.requires_grad:
            rate = learning_rate * layer_decay ** distance[name] * (head_lr_multiplier if name in heads else 1.0)
            decays = name not in spared and (body_decays or name in heads)
            groups.setdefault((rate, weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


@contextmanager
def grouped(trainer: Any, model: Any) -> Iterator[None]:
    """Inside, Trainer.create_optimizer makes its optimizer of these groups.

    Left alone: an optimizer or groups of the caller's, optimizers that choose parameters themselves (GaLore, Apollo,
    LOMO, Muon …), an overridden get_decay_parameter_names, models that are not transformers', training without a task.
    """
    from transformers import Trainer
    from transformers.trainer_optimizer import is_optimizer_factory

    given = trainer.optimizer_cls_and_kwargs
    own = type(trainer).get_decay_parameter_names is Trainer.get_decay_parameter_names
    if trainer.task is None or trainer.optimizer is not None or not own or not has_known_body(model):
        yield
        return
    kind, settings = given or trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
    if not is_optimizer_factory(kind) and not {"params", "model", "optimizer_dict"} & set(settings):
        recipe, rate = trainer.recipe, settings.get("lr") or trainer.args.learning_rate
        groups = parameter_groups(model, rate, trainer.args.weight_decay, recipe.layer_decay, recipe.head_lr_multiplier,
                                  body_decays=not recipe.l2_sp)
        trainer.optimizer_cls_and_kwargs = kind, {**settings, "params": groups}
    try:
        yield
    finally:
        trainer.optimizer_cls_and_kwargs = given


def undecayed(model: Any) -> set[str]:
    """Names of the parameters that weight decay leaves alone."""
    import torch

    norms = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.RMSNorm, torch.nn.modules.batchnorm._NormBase)
    names = {f"{path}.{name}" for path, module in model.named_modules() if isinstance(module, norms)
             for name, _ in module.named_parameters(recurse=False)}
    network = getattr(model, "timm_model", None)
    own = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    for name, parameter in model.named_parameters():
        short = name.removeprefix("timm_model.")
        if parameter.ndim <= 1 or name.endswith(".bias") or short.rpartition(".")[2] in TOKENS or any(fnmatch.fnmatch(short, each) for each in own):
            names.add(name)
    return names


def unwrapped(model: Any) -> Any:
    """The model inside peft's wrapper, whose parameters carry their own names."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def has_known_body(model: Any) -> bool:
    """True for the models of transformers, and timm's inside them; wrappers that shard parameters are none."""
    from transformers import PreTrainedModel

    return isinstance(unwrapped(model), PreTrainedModel)
