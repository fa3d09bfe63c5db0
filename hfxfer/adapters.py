"""LoRA through peft: adapters put into a model in place, merged into its plain weights when they are trained, and saved alone where wanted."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hfxfer import console, methods
from hfxfer.recipe import Recipe

FOLDER = "adapter"
"""Of the adapter alone, inside a model folder: not beside config.json, where transformers would take it for the model."""

PREFIX = "base_model.model."
"""What peft's PeftModel puts before the names of the model that it wraps (0.21)."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """Trained adapters, as they were before they were merged.

    config: peft's LoraConfig. tensors: by peft's names in a file, on the CPU. base_is_plain: False where the weights beside which
    they were trained already held an earlier training's.
    """

    config: Any
    tensors: dict[str, Any]
    base_is_plain: bool

    def save(self, model: Any, folder: Path, base: dict[str, Any], recipe: Recipe) -> None:
        """Write adapter_config.json and adapter_model.safetensors, as PeftModel.save_pretrained does, with the head that `model` has now.

        base: id and revision of the checkpoint, which `PeftModel.from_pretrained` wants beside the folder. A path is written as its name.
        """
        from safetensors.torch import save_file

        config, task_type, modules = copy.copy(self.config), methods.peft_task(model), methods.head_modules(model)
        config.base_model_name_or_path = replace(recipe, model=base["id"]).shareable().model if base["id"] else None
        config.revision, config.task_type, config.modules_to_save, config.inference_mode = base["revision"], task_type, modules, True
        heads = {f"{PREFIX}{module}.{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
                 for module in modules for name, value in model.get_submodule(module).state_dict().items()}
        # What AutoPeftModel needs where no task type says it.
        mapping = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
        folder.mkdir(parents=True, exist_ok=True)
        save_file({**self.tensors, **heads}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(folder), auto_mapping_dict=None if task_type else mapping)


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


def merge(model: Any) -> Adapter | None:
    """Fold the adapters into the weights and take them out, in place: a plain model again. Returns them as they were; None without any."""
    if not has_adapters(model):
        return None
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapter = _taken(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
    model.__dict__.pop("peft_config", None)
    model._hfxfer_merged = True
    return adapter


def keep(trainer: Any, folder: Path, base: dict[str, Any] | None = None) -> None:
    """Where keep_adapter is set, write the adapter alone into the model folder. base: as of base.json; without it, what the config remembers."""
    model, recipe = trainer.accelerator.unwrap_model(trainer.model), trainer.recipe
    if not recipe.keep_adapter or trainer.in_checkpoint or not trainer.args.should_save:
        return
    adapter = _taken(model) if has_adapters(model) else trainer.adapter
    if adapter is None or methods.why_no_adapter(model):
        return
    if not adapter.base_is_plain:
        console.warn("the adapter is not saved alone: it was trained beside weights that hold an earlier training's adapter. "
                     "Make a new TransferTrainer from the checkpoint, or leave out keep_adapter")
        return
    if base is None:
        revision = getattr(model.config, "_commit_hash", None) or recipe.revision
        base = {"id": model.config.name_or_path, "revision": revision}
    adapter.save(model, folder / FOLDER, base, recipe)


def _taken(model: Any) -> Adapter:
    """The model's adapters, which stay in it."""
    from peft import get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = copy.copy(next(iter(model.peft_config.values())))
    # Sorted and in full: peft keeps a set of the shortest endings that fit, in another order each time (0.21).
    config.target_modules = sorted(name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer))
    # Without save_embedding_layers=False it would ask the Hub for the checkpoint's vocabulary.
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {f"{PREFIX}{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in found.items()}
    return Adapter(config, tensors, not model.__dict__.get("_hfxfer_merged"))


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
