"""LoRA through peft: adapters put into a model in place, and merged into its plain weights when they are trained."""

from __future__ import annotations

import warnings
from typing import Any

from hfxfer import methods
from hfxfer.recipe import Recipe


def insert(model: Any, recipe: Recipe) -> frozenset[str]:
    """Put adapters beside the body's linear layers and plain convolutions, in place. Returns the names of their parameters."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    if has_adapters(model):
        return _names(model)
    alpha = 2 * recipe.lora_rank if recipe.lora_alpha == "auto" else recipe.lora_alpha
    config = LoraConfig(r=recipe.lora_rank, lora_alpha=alpha, target_modules=methods.adapter_targets(model))
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft corrects fan_in_fan_out for GPT-2's Conv1D, and says so (0.21).
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        # peft freezes all but the adapters; what is trained is for methods.train_only to say.
        parameter.requires_grad_(id(parameter) in trained or ".lora_" in name)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            # What some networks read off a convolution when they pad (MobileNetV1 in transformers).
            for name in ("stride", "kernel_size", "padding", "dilation"):
                if hasattr(module.get_base_layer(), name):
                    setattr(module, name, getattr(module.get_base_layer(), name))
    return _names(model)


def has_adapters(model: Any) -> bool:
    return bool(_names(model))


def merge(model: Any) -> None:
    """Fold the adapters into the weights and take them out, in place: a plain model again. Does nothing without adapters."""
    if not has_adapters(model):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
    model.__dict__.pop("peft_config", None)


def merged_state(model: Any) -> dict[str, Any]:
    """The plain model's state dict, with the adapters folded in; the model itself stays as it is."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    tuned = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    state = {name.replace(".base_layer.", "."): value for name, value in model.state_dict().items() if ".lora_" not in name}
    for name, module in tuned.items():
        for adapter in module.active_adapters:
            state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight(adapter)
    return state


def _names(model: Any) -> frozenset[str]:
    return frozenset(name for name, _ in model.named_parameters() if ".lora_" in name)
