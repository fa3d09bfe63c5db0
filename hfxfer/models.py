"""load: a checkpoint and a task in, a model with the right head and its processor out.

Sources: a Hub id, a local folder in transformers' or timm's layout, or a bare state dict with
`architecture`. Every timm model becomes a `TimmWrapperForImageClassification`, so that what is saved loads in
transformers and in timm. A body whose weights did not match is an error; new weights are named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hfxfer import console, dropout, licences
from hfxfer.checkpoints import (card_metadata, check_torch_pair, check_words, checkpoint_config, explained, is_timm_config, quiet_libraries,
                                strictly_loaded)
from hfxfer.errors import ModelError
from hfxfer.fetching import Pinned, fetch_weights, pin
from hfxfer.network import patient
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION, Problem, Task

TAGS = "tags"
"""The problem type of one label for each word."""

FOUND = ("temperature", "threshold", "half_width")
"""What calibration finds, by its names in a Problem; in a model's config each begins with hfxfer_."""


@dataclass(slots=True)
class Loaded:
    """A model in fp32 with its processor. `base`: what base.json holds. `new_weights`: names of fresh parameters.

    measured: the factors by which the execution plan was chosen, filled by `plan.make`.
    """

    model: Any
    processor: Any
    base: dict[str, Any]
    new_weights: list[str] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)


def load(task: Task, recipe: Recipe, problem: Problem) -> Loaded:
    """The checkpoint `recipe.model` with a head for `problem`. Raises ModelError."""
    check_torch_pair()
    import torch

    torch.manual_seed(recipe.seed)
    with quiet_libraries():
        if recipe.architecture:
            loaded = _from_state_dict(recipe, problem)
        else:
            at = pin(recipe.model, recipe.revision)
            config = checkpoint_config(recipe.model, at)
            fetch_weights(recipe.model, at)
            with patient():
                loaded = (_from_timm if is_timm_config(config) else _from_transformers)(config, task, recipe, problem, at)
            loaded.base.update(licences.declared(card_metadata(recipe.model, at)))
    forget(loaded.model)
    dropout.settle_transformers(loaded.model, recipe)
    _settle_padding(loaded.model, loaded.processor, task)
    return loaded


def load_trained(source: str, task: Task, revision: str | Pinned | None = None, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """A fine-tuned model as it is, and its processor: a model folder or a Hub id. Raises ModelError."""
    check_torch_pair()
    import torch

    at = pin(source, revision)
    config = checkpoint_config(source, at)
    fetch_weights(source, at)
    common = {**at.settings, "trust_remote_code": trust_remote_code}
    with explained(source, task.name, at), quiet_libraries(), patient():
        if is_timm_config(config):
            model, info = _timm_from_pretrained(source, _timm_config(config), common)
            processor = _timm_processor(config)
        else:
            import transformers

            model, info = getattr(transformers, task.auto_model).from_pretrained(
                source, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, **common)
            processor = getattr(transformers, task.auto_processor).from_pretrained(source, **_processor_settings(task), **common)
            check_words(processor, source, at)
    new = _new_weights(model, info, source)
    if new:
        raise ModelError(f"{source} has no trained head for {task.name}: {', '.join(new[:3])} {'is' if len(new) == 1 else 'are'} not in its weights "
                         "file. It is a checkpoint to train from: hfxfer train --model")
    _settle_padding(model, processor, task)
    return model.eval(), processor


def problem_of(model: Any, task: Task) -> Problem:
    """What a fine-tuned model predicts, by its config."""
    config = model.config
    labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    if _tags_words(task):
        return Problem(TAGS, labels, **remembered(config))
    problem_type = config.problem_type or (REGRESSION if config.num_labels == 1 else "single_label_classification")
    return Problem(problem_type, () if problem_type == REGRESSION else labels, **remembered(config))


def remembered(config: Any) -> dict[str, float]:
    """What calibration wrote into a model's config, by its names in a Problem."""
    values = {name: getattr(config, f"hfxfer_{name}", None) for name in FOUND}
    return {name: float(value) for name, value in values.items() if type(value) in (int, float) and 0 < value < float("inf")}


def forget(model: Any) -> None:
    """Take out what calibration wrote into a model's config, where it has one: it is of the training before."""
    for name in FOUND:
        getattr(model, "config", model).__dict__.pop(f"hfxfer_{name}", None)


def remember(config: Any, problem: Problem) -> None:
    """Write into a model's config what calibration found; the threshold where there are several labels."""
    kept = {"temperature": problem.temperature, "half_width": problem.half_width,
            "threshold": problem.threshold if problem.problem_type == MULTI_LABEL else None}
    for name, value in kept.items():
        if value is not None:
            setattr(config, f"hfxfer_{name}", value)


def _from_transformers(config: dict, task: Task, recipe: Recipe, problem: Problem, at: Pinned) -> Loaded:
    import torch
    import transformers

    common = {**at.settings, "trust_remote_code": recipe.trust_remote_code}
    with explained(recipe.model, task.name, at):
        settings = transformers.AutoConfig.from_pretrained(recipe.model, **_head_settings(problem), **common)
        dropout.settle_depth(settings, recipe)
        same_head = _same_labels(config.get("id2label"), problem)
        model, info = getattr(transformers, task.auto_model).from_pretrained(
            recipe.model, config=settings, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, **common)
        processor = getattr(transformers, task.auto_processor).from_pretrained(recipe.model, **_processor_settings(task), **common)
        check_words(processor, recipe.model, at)
    new = _new_weights(model, info, recipe.model)
    if not same_head:
        new = _reset_head(model, new)
    base = {"id": recipe.model, "revision": at.commit, "source": "transformers", "architecture": type(model).__name__}
    return Loaded(model, processor, base, new)


def _from_timm(config: dict, task: Task, recipe: Recipe, problem: Problem, at: Pinned) -> Loaded:
    if task.auto_model != "AutoModelForImageClassification":
        raise ModelError(f"{recipe.model} is an image model; task {task.name} needs a checkpoint for it")
    same_head = _same_labels(dict(enumerate(config.get("label_names") or [])), problem)
    with explained(recipe.model, task.name, at):
        settings = _timm_config(config, **_head_settings(problem))
        dropout.settle_timm(settings.model_args, settings.architecture, recipe)
        model, info = _timm_from_pretrained(recipe.model, settings, at.settings)
    new = _new_weights(model, info, recipe.model)
    if not same_head:
        new = _reset_head(model, new)
    base = {"id": recipe.model, "revision": at.commit, "source": "timm", "architecture": config.get("architecture")}
    return Loaded(model, _timm_processor(config), base, new)


def _timm_config(config: dict[str, Any], **head: Any) -> Any:
    """A TimmWrapperConfig from either layout's config.json, in the form that timm reads back, too."""
    from transformers import TimmWrapperConfig

    # With a new head the old label names must go: TimmWrapperConfig would write them back on save (5.23).
    stale = {"model_type"} | ({"label_names", "label_descriptions", "num_classes"} if head else set())
    plain = {key: value for key, value in config.items() if key not in stale}
    arguments = dict(plain.get("model_args") or {})
    # timm's own export repeats num_classes here, and TimmWrapper would then pass it twice (transformers 5.23).
    arguments.pop("num_classes", None)
    settings = TimmWrapperConfig.from_dict({**plain, "pretrained_cfg": dict(plain.get("pretrained_cfg") or {})}, **head)
    # null, transformers' own default, is what timm cannot load (timm 1.0.31: 'NoneType' has no attribute 'get').
    settings.model_args = arguments
    return settings


def _timm_processor(config: dict[str, Any]) -> Any:
    from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

    return TimmWrapperImageProcessor(pretrained_cfg=dict(config.get("pretrained_cfg") or {}), architecture=config.get("architecture"))


def _timm_from_pretrained(source: str, settings: Any, common: dict[str, Any]) -> tuple[Any, dict]:
    import torch
    from transformers import TimmWrapperForImageClassification

    return TimmWrapperForImageClassification.from_pretrained(
        source, config=settings, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, **common)


def _from_state_dict(recipe: Recipe, problem: Problem) -> Loaded:
    """A bare .pth or .safetensors through timm's own converters (ResNet, VGG, DenseNet, Inception of torchvision)."""
    import timm
    from transformers import TimmWrapperForImageClassification

    if not Path(recipe.model).is_file():
        raise ModelError(f"weights file {recipe.model} does not exist. --architecture goes with a .pth or .safetensors file")
    try:
        timm.models.get_pretrained_cfg(recipe.architecture)
        known = timm.is_model(recipe.architecture)
    except RuntimeError:
        known = False
    if not known:
        near = timm.list_models(f"*{recipe.architecture.split('.')[0].split('_')[0]}*", pretrained=True)[:3]
        raise ModelError(f"timm has no architecture {recipe.architecture!r}. Give timm's full name, such as {', '.join(near) or 'resnet50.tv_in1k'}")
    body = strictly_loaded(recipe.model, recipe.architecture)
    pretrained = {key: value for key, value in body.pretrained_cfg.items() if key not in ("file", "num_classes", "state_dict") and value is not None}
    body.reset_classifier(len(problem.labels) or 1)
    arguments: dict[str, Any] = {}
    dropout.settle_timm(arguments, recipe.architecture, recipe)
    config = {"model_args": arguments, "architecture": recipe.architecture.split(".")[0], "pretrained_cfg": pretrained}
    model = TimmWrapperForImageClassification(_timm_config(config, **_head_settings(problem)))
    model.timm_model.load_state_dict(body.state_dict())
    base = {"id": Path(recipe.model).name, "revision": None, "source": "state dict", "architecture": recipe.architecture}
    return Loaded(model, _timm_processor(config), base, sorted(head_names(model)))


def head_names(model: Any) -> set[str]:
    """Names of the parameters of the architecture's own classification head: everything after the body.

    timm: its classifier, or both of a distilled network. transformers: what lies outside the base model, and the
    pooler; where no parameter carries the base model's name (CLIP), all but the child that gives the logits is body.
    """
    if hasattr(model, "timm_model"):
        own = {id(parameter) for module in _timm_classifiers(model) for parameter in module.parameters()}
        return {name for name, parameter in model.named_parameters() if id(parameter) in own}
    names = [name for name, _ in model.named_parameters()]
    prefix = f"{model.base_model_prefix}."
    if not any(name.startswith(prefix) for name in names):
        last = [name for name, module in model.named_modules() if _gives_logits(module)][-1:]
        return {name for name in names if last and name.split(".")[0] == last[0].split(".")[0]}
    return {name for name in names if not name.startswith(prefix) or ".pooler." in name}


def logit_layers(model: Any) -> list[Any]:
    """The Linear or 1 × 1 Conv2d modules that give the logits; a distilled network of timm has two."""
    if hasattr(model, "timm_model"):
        found = [[module for module in classifier.modules() if _gives_logits(module)] for classifier in _timm_classifiers(model)]
        return [modules[-1] for modules in found if modules]
    heads = head_names(model)
    return [module for name, module in model.named_modules() if _gives_logits(module) and f"{name}.weight" in heads][-1:]


def _gives_logits(module: Any) -> bool:
    import torch

    return isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))


def _timm_classifiers(model: Any) -> tuple[Any, ...]:
    classifier = model.timm_model.get_classifier()
    return tuple(classifier) if isinstance(classifier, (tuple, list)) else (classifier,)


def _tags_words(task: Task) -> bool:
    return task.auto_model == "AutoModelForTokenClassification"


def _processor_settings(task: Task) -> dict[str, Any]:
    """Byte-level BPE marks the space before a word; words given one by one need it added."""
    return {"add_prefix_space": True} if _tags_words(task) else {}


def start_at_label_rates(model: Any, problem: Problem, label_lists: Sequence[list[str]]) -> None:
    """Set a new multi-label head's biases to the log-odds of each label's share of the training rows.

    From 0.5 for every label, a small learning rate takes thousands of steps to reach rare labels' rates, and until
    then learns little else (Lin et al. 2017, Focal Loss, section 4.1).
    """
    import torch

    counts = torch.tensor([float(sum(name in row for row in label_lists)) for name in problem.labels])
    rates = (counts + 0.5) / (len(label_lists) + 1)
    with torch.no_grad():
        for layer in logit_layers(model):
            if layer.bias is not None:
                layer.bias.copy_(torch.logit(rates))


def _head_settings(problem: Problem) -> dict[str, Any]:
    labels = problem.labels or ("value",)
    settings = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)},
                "num_labels": len(labels)}
    if problem.problem_type.endswith("_classification") or problem.problem_type == REGRESSION:
        settings["problem_type"] = problem.problem_type
    return settings


def _same_labels(id2label: dict | None, problem: Problem) -> bool:
    """True where the checkpoint's head is already for these labels, so that it is kept."""
    return bool(id2label) and tuple(str(id2label[key]) for key in sorted(id2label, key=int)) == problem.labels


def _new_weights(model: Any, info: dict, source: str) -> list[str]:
    """Names of parameters that the checkpoint did not give. ModelError where the body is among them."""
    mismatched = {entry[0] if isinstance(entry, (tuple, list)) else entry for entry in info.get("mismatched_keys", ())}
    absent = set(info.get("missing_keys", ())) | mismatched
    parameters = {name for name, _ in model.named_parameters()}
    new = absent & parameters
    statistics = {name for name in absent if name.endswith(("running_mean", "running_var"))}
    # Layers in the file that the config does not have: what is left of the body would be another network.
    surplus = {name for name in info.get("unexpected_keys", ()) if re.search(r"(^|\.)(layers?|blocks?|h)\.\d+\.", name)}
    lost = sorted((new - head_names(model)) | statistics | surplus)
    if lost:
        raise ModelError(f"{len(lost)} of {len(parameters)} weights of the body of {source} did not match "
                         f"({', '.join(lost[:3])}{', …' if len(lost) > 3 else ''}): its weights file and config.json do not belong together")
    return sorted(new)


def _reset_head(model: Any, new: list[str]) -> list[str]:
    """Give the last layer fresh weights where the checkpoint's were for other labels of the same number."""
    import torch

    for layer in logit_layers(model):
        names = [name for name, parameter in model.named_parameters() if any(parameter is own for own in layer.parameters())]
        if set(names) & set(new):
            continue
        # As transformers does for a missing head; its own _init_weights leaves alone what it has loaded (5.23).
        torch.nn.init.normal_(layer.weight, std=getattr(model.config, "initializer_range", 0.02))
        if layer.bias is not None:
            torch.nn.init.zeros_(layer.bias)
        new = sorted({*new, *names})
    return new


def _settle_padding(model: Any, tokenizer: Any, task: Task) -> None:
    """Decoders often have no padding token; a classifier needs one, in tokenizer and config alike."""
    if not hasattr(tokenizer, "pad_token"):
        return
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token is None:
            tokenizer.add_special_tokens({"pad_token": "<pad>"})
            model.resize_token_embeddings(len(tokenizer))
        console.hint(f"the tokenizer has no padding token: using {tokenizer.pad_token!r}")
    if _tags_words(task):
        # Tags are padded on the right. Other tasks keep the tokenizer's side: XLNet reads its answer at the end.
        tokenizer.padding_side = "right"
    model.config.pad_token_id = tokenizer.pad_token_id


def settle_lengths(recipe: Recipe, processor: Any, model_config: Any) -> Recipe:
    """`max_length` as a number, where the processor is a tokenizer."""
    if not hasattr(processor, "model_max_length"):
        return recipe
    from hfxfer.tasks._text import maximal_length

    length = maximal_length(processor, model_config, recipe.max_length)
    return replace(recipe, max_length=length, stride=min(recipe.stride, length // 4))


def in_users_units(model: Any, problem: Problem) -> Problem:
    """Fold a regression's mean and scale into the last layer, in place, and return the problem as it then is."""
    if problem.problem_type != REGRESSION or (problem.target_mean, problem.target_scale) == (0.0, 1.0):
        return problem
    import torch

    with torch.no_grad():
        for layer in logit_layers(model):
            layer.weight.mul_(problem.target_scale)
            if layer.bias is not None:
                layer.bias.mul_(problem.target_scale).add_(problem.target_mean)
    return Problem(REGRESSION)


def save(model: Any, processor: Any, folder: Path) -> None:
    """Write a model folder that plain transformers (and timm) load."""
    with quiet_libraries():
        if hasattr(model, "timm_model"):
            save_timm(model, folder)
        else:
            model.save_pretrained(folder)
        processor.save_pretrained(folder)


def save_timm(model: Any, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """Weights under timm's own names: transformers keeps its prefix unless it stripped it when loading (5.23).

    state_dict: of the whole model, where other weights than its own are to be saved.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    if list(getattr(model.config, "label_names", ())) != list(model.config.id2label.values()):
        # A head for other labels than those of the file that it was loaded from: TimmWrapperConfig would write the file's back (5.23).
        for name in ("label_names", "label_descriptions"):
            model.config.__dict__.pop(name, None)
    model.config.save_pretrained(folder)
    found = model.timm_model.state_dict() if state_dict is None else state_dict
    weights = {name.removeprefix("timm_model."): value.detach().cpu().contiguous() for name, value in found.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
