"""Recipe: every setting of a run, declared once.

One spelling everywhere: the flag `--learning_rate 3e-4`, the YAML key `learning_rate: 3e-4` and the field
`Recipe(learning_rate=3e-4)` are the same thing. Any other field of `transformers.TrainingArguments` is
accepted under its own name and kept in `Recipe.training_arguments`. All faults are reported at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hfxfer.errors import RecipeError
from hfxfer.values import convert, describe_limits, describe_type, is_outside, shown

VERSION = 1
GIVEN_IN_PYTHON = "given in Python"
"""What stands in a recipe for data that was no path and no Hub id."""

Auto = Literal["auto"]

NO_TOKEN = "a token is never a setting (it would be stored): set HF_TOKEN or run: hf auth login"
REFUSED = {
    "hub_token": NO_TOKEN,
    "token": NO_TOKEN,
    "remove_unused_columns": "hfxfer owns it: columns are chosen by role, with --columns ROLE=COLUMN",
    "label_names": "hfxfer owns it: name the column that holds the target, with --columns label=COLUMN",
    "resume_from_checkpoint": "use --resume, which finds the last complete checkpoint of --output_dir",
    "overwrite_output_dir": "use --overwrite, which replaces the run that is in --output_dir",
    "hub_always_push": "the model is pushed once, when it is done: --push_to_hub --hub_model_id NAME/REPO",
    "parallelism_config": "it is an object, which a recipe cannot hold: use hfxfer.TransferTrainer in a script",
}

_STATE = "It would publish optimizer state and training_args.bin, which nobody needs who loads the model"
_SAVES = "A recipe's run pushes once, the best model with its scores; hfxfer.TransferTrainer in a script pushes at every save"
WHY = {("hub_strategy", "every_save"): _SAVES, ("hub_strategy", "checkpoint"): _STATE, ("hub_strategy", "all_checkpoints"): _STATE}
"""(setting, value) that transformers has and hfxfer does not allow → the reason."""

PUBLISHING = ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_revision", "license", "license_name", "license_link",
              "language", "card_examples")
"""Settings that say where the model goes and what its author says of it, and nothing of how it is trained."""

MEANT = {"lr": "learning_rate", "epochs": "num_train_epochs", "batch_size": "per_device_train_batch_size", "dropout": "classifier_dropout",
         "warmup_ratio": "warmup_steps", "evaluation_strategy": "eval_strategy", "no_cuda": "use_cpu"}
"""Names that people try, and those of transformers 4, where the spelling alone does not lead to the right one."""

LIMITS: dict[str, dict[str, float]] = {
    "weight_decay": {"ge": 0}, "warmup_steps": {"ge": 0}, "gradient_accumulation_steps": {"ge": 1}, "max_grad_norm": {"ge": 0},
    "label_smoothing_factor": {"ge": 0, "le": 1}, "adam_beta1": {"ge": 0, "le": 1}, "adam_beta2": {"ge": 0, "le": 1},
    "adam_epsilon": {"gt": 0}, "logging_steps": {"gt": 0}, "save_steps": {"gt": 0}, "eval_steps": {"gt": 0}, "eval_delay": {"ge": 0},
    "max_steps": {"ge": -1}, "dataloader_num_workers": {"ge": 0},
}
"""Of fields of TrainingArguments, which does not check these itself and would fail in the midst of training."""

FILES = ("deepspeed", "fsdp_config", "accelerator_config")
"""Fields of TrainingArguments whose text is the name of a file."""

HINTS = {"report_to": str | list[str], **{name: dict | None for name in (
    "lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")}}
"""Where transformers' own hint takes more than what works: report_to none is a word, and these dicts are never files."""

TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


def setting(default: Any = dataclasses.MISSING, *, help: str, unit: str = "", ge: float | None = None,
            gt: float | None = None, le: float | None = None, factory: Any = dataclasses.MISSING) -> Any:
    """One declared setting: its help text, unit and range (ge: at least, gt: above, le: at most)."""
    metadata = {"help": help, "unit": unit, "ge": ge, "gt": gt, "le": le}
    return field(default=default, default_factory=factory, metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What a run is made of. Immutable; `dataclasses.replace` makes a changed copy.

    Raises RecipeError, naming every fault, from `from_settings` and `from_yaml`.
    """

    model: str = setting(help="Checkpoint to start from: a Hub id (timm/NAME for timm), a local folder, or a weights file")
    data: str = setting(help="Folder, CSV/TSV/JSON/JSONL/Parquet file, saved data set, Hub data set id, or example")
    output_dir: str = setting("runs/run", help="The Run folder to write")
    task: str = setting("auto", help="Hub task name (hfxfer tasks lists them); auto reads it off the columns")
    method: Literal["auto", "head", "full", "lp-ft", "gradual", "lora"] = setting(
        "auto", help="head: body frozen; full: all; lp-ft: head, then all; gradual: from the top; lora: low-rank adapters")
    freeze: int | list[str] | None = setting(
        None, ge=1, help="Keep frozen for good: the lowest N blocks (and what is below them), or parameters by glob patterns")
    head_epochs: float = setting(10.0, gt=0, help="lp-ft: passes of the head's stage; num_train_epochs counts the full stage", unit="epochs")
    unfreeze_epochs: list[float] | Auto = setting(
        "auto", help="gradual: when each further block from the top begins to train; auto spreads all over the first half")
    feature_views: int = setting(1, ge=1, help="Frozen body: augmented views of each training picture to cache; 1 is the plain picture")
    feature_cache_gb: float = setting(20.0, ge=0, help="Frozen body: most disk that cached features may take; 0 computes them each time", unit="GB")
    batch_norm: Literal["auto", "frozen", "trained"] = setting(
        "auto", help="Statistics of batch norms: frozen keeps the checkpoint's, trained follows the batches; auto keeps what was learned")
    layer_decay: float = setting(1.0, gt=0, le=1, help="Learning rate of each block as a share of the block above; 0.65 to 0.9 is usual")
    head_lr_multiplier: float = setting(1.0, gt=0, help="Learning rate of the head as a multiple of learning_rate")
    lora_rank: int = setting(8, ge=1, help="lora: rank of the adapters")
    lora_alpha: float | Auto = setting("auto", gt=0, help="lora: scale of the adapters; auto is twice the rank")
    keep_adapter: bool = setting(False, help="lora: also save the adapter alone, in model/adapter, in peft's format")

    revision: str | None = setting(None, help="Branch, tag or commit of the checkpoint on the Hub")
    architecture: str | None = setting(None, help="timm's full name for a bare weights file, such as resnet50.tv_in1k")
    trust_remote_code: bool = setting(False, help="Run code that comes with the checkpoint; never on by itself")
    classifier_dropout: float | Auto = setting(
        "auto", ge=0, le=0.9, help="Dropout before the new head; auto keeps the checkpoint's unless it forbids learning")

    columns: dict[str, str] = setting(factory=dict, help="Which column holds what: image=photo label=breed")
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = setting(
        "auto", help="What the target is; auto tells it by the data")
    data_config: str | None = setting(None, help="Configuration of a Hub data set")
    data_revision: str | None = setting(None, help="Branch, tag or commit of a Hub data set")
    split_by: str | None = setting(None, help="Column whose groups (speaker, patient) must stay in one split")
    test_size: float = setting(0.2, gt=0, le=0.9, help="Share cut from train for test when none is given")
    validation_size: float = setting(0.1, gt=0, le=0.9, help="Share cut from the remaining train for validation when none is given")
    on_bad_rows: Literal["error", "skip"] = setting("error", help="Stop at rows that cannot be used, or leave them out")

    learning_rate: float | Auto = setting("auto", gt=0, le=100, help="Peak learning rate; auto goes by method and task")
    num_train_epochs: float | Auto = setting("auto", gt=0, help="Passes over the training split", unit="epochs")
    per_device_train_batch_size: int | Auto = setting("auto", ge=1, help="Training batch on one device", unit="rows")
    per_device_eval_batch_size: int = setting(64, ge=1, help="Evaluation batch on one device", unit="rows")
    early_stopping_patience: int = setting(
        3, ge=0, help="Evaluations without a better score before training stops; 0 never stops early")
    seed: int = setting(42, ge=0, le=2**32 - 1, help="Of splits, order, augmentation and new weights")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", help="Of training; auto is bf16 on a GPU that has it, else fp32. Final scores are always fp32")
    augment: Literal["none", "light", "rand", "auto"] = setting(
        "light", help="Images: light crops and flips; rand adds RandAugment, auto AutoAugment")
    mixup: float = setting(0.0, ge=0, help="Images: alpha of mixup (Zhang et al. 2018); 0 is off, 0.2 usual")
    cutmix: float = setting(0.0, ge=0, help="Images: alpha of cutmix (Yun et al. 2019); 0 is off, 1 usual")
    random_erasing: float = setting(0.0, ge=0, le=1, help="Images: probability that a rectangle is erased")
    drop_path: float | Auto = setting("auto", ge=0, le=0.9, help="Stochastic depth; auto keeps the checkpoint's")
    l2_sp: float = setting(0.0, ge=0, help="Pull towards the pre-trained weights (Li et al. 2018); 0 is off, 0.01 usual")
    ema_decay: float = setting(0.0, ge=0, le=0.99999, help="Evaluate and save a moving average of the weights; 0 is off, 0.99 to 0.9999 usual")
    class_weights: Literal["none", "balanced"] | dict[str, float] = setting(
        "none", help="Weights of the classes in the loss: none, balanced (rare classes count more), or LABEL=WEIGHT …")
    sampler: Literal["random", "balanced"] = setting("random", help="balanced draws every class equally often")
    plan: Literal["auto", "none", "compile"] | dict[str, str] = setting(
        "auto", help="auto measures how to run on this machine; none does not; compile adds torch.compile; NAME=VALUE … pins choices")
    calibrate: bool = setting(True, help="train, ladder: fit a temperature (numbers: a 90 % interval) on validation and put it into the saved model")
    threshold: float | Auto = setting(0.5, gt=0, le=1, help="Several labels: least probability of an answered one; auto takes validation's best F1")
    max_length: int | Auto = setting("auto", ge=4, help="Longest text; auto is the checkpoint's own, at most 512", unit="tokens")
    stride: int = setting(64, ge=0, help="Overlap of windows over long token sequences", unit="tokens")

    push_to_hub: bool = setting(False, help="train: publish the model when it is done; checked, and asked for, before training begins")
    hub_model_id: str | None = setting(None, help="Where the model goes: NAME/REPO")
    hub_private_repo: bool = setting(False, help="Make a new repository private")
    hub_strategy: Literal["end"] = setting("end", help="One push, of the model with its scores")
    hub_revision: str | None = setting(None, help="Branch to push to, made where it is not there; none is main")
    license: str | None = setting(None, help="Licence of the model, such as apache-2.0; none is that of the checkpoint")
    license_name: str | None = setting(None, help="Of license other: what it is called, such as my-licence-1.0")
    license_link: str | None = setting(None, help="Of license other: LICENSE, a file beside the model, or the address of its text")
    language: str | None = setting(None, help="Of the texts, for the card: en, or several: en,fr")
    card_examples: bool = setting(False, help="Show some test rows in the card, which are your data")

    training_arguments: dict[str, Any] = setting(
        factory=dict, help="Any other field of transformers.TrainingArguments, flat under its own name")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Recipe:
        """From flat settings, values as text (flags) or typed (YAML, Python)."""
        known, extra, faults = _read(settings)
        if faults:
            raise RecipeError(listed(faults))
        return cls(**known, training_arguments=extra)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """From a saved recipe. `overrides` win. Older versions are read, newer ones refused."""
        return cls.from_settings(yaml_settings(path, overrides))

    def to_dict(self) -> dict[str, Any]:
        """Flat, in declared order, with `version` first."""
        settings = {name: getattr(self, name) for name in setting_names()}
        return {"version": VERSION, **settings, **self.training_arguments}

    def to_yaml(self) -> str:
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def shareable(self) -> Recipe:
        """The recipe without any path, data and model by name, without the plan of one machine, and publishing nothing."""
        names = {name: Path(getattr(self, name)).name for name in ("data", "model") if _is_path(getattr(self, name))}
        kept = {name: value for name, value in self.training_arguments.items()
                if not _holds_path(value) and not (name in FILES and isinstance(value, str))}
        defaults = {name: _field(name).default for name in ("output_dir", *PUBLISHING)}
        return dataclasses.replace(self, **names, **defaults, training_arguments=kept,
                                   plan="auto" if isinstance(self.plan, dict) else self.plan)


def yaml_settings(path: str | Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings in a recipe file, and `overrides` over them; values are not checked. Raises RecipeError."""
    import yaml

    try:
        settings = yaml.load(Path(path).read_text(encoding="utf-8"), _loader())
    except FileNotFoundError as error:
        raise RecipeError(f"the recipe {path} does not exist. Give a recipe.yaml, or start without one: --model M --data D") from error
    except IsADirectoryError as error:
        raise RecipeError(f"{path} is a folder, not a recipe. Give the file in it, such as {Path(path) / 'recipe.yaml'}") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    except yaml.YAMLError as error:
        # Without the line itself, which str(error) shows: it may hold what nobody should see.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise RecipeError(f"the recipe {path} is no YAML: {where}{problem or 'it holds characters that are no text'}") from error
    if not isinstance(settings, dict):
        raise RecipeError(f"{path} is not a recipe: expected lines such as 'model: timm/resnet50.a1_in1k'")
    version = settings.get("version")
    if isinstance(version, int) and version > VERSION:
        raise RecipeError(f"{path} has version {version}; this hfxfer reads versions up to {VERSION}. "
                          "Update it with: pip install -U hfxfer")
    faults: list[str] = []
    flat = {**_flat(settings, faults), **_flat(overrides or {}, faults)}
    if faults:
        raise RecipeError(listed(faults))
    return flat


def _loader() -> type:
    """YAML as flags are read: only true and false are booleans, 0012345 and 2024-01-01 are text, no key stands twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("bool", "int", "timestamp")]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}

        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            names = [key.value for key, _ in node.value]
            for key, _ in reversed(node.value):
                if names.count(key.value) > 1:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
    return Loader


def partly_read(settings: Mapping[str, Any]) -> tuple[Recipe, list[str]]:
    """(the recipe of those flat settings that are right, what is wrong with the others); model and data are empty where they are missing or wrong."""
    known, extra, faults = _read(settings)
    return Recipe(**{"model": "", "data": "", **known}, training_arguments=extra), faults


def languages(codes: str | None) -> list[str] | None:
    """The codes in "en" or "en,fr"; None where there is none."""
    return [code.strip() for code in (codes or "").split(",") if code.strip()] or None


def setting_faults(settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with flat settings, a line each."""
    return _read(settings)[2]


def listed(faults: Sequence[str]) -> str:
    """One message of all faults."""
    faults = list(dict.fromkeys(faults))
    return faults[0] if len(faults) == 1 else "\n".join([f"{len(faults)} settings are wrong:", *(f"  - {f}" for f in faults)])


def _field(name: str) -> dataclasses.Field:
    return Recipe.__dataclass_fields__[name]


def setting_names() -> list[str]:
    """The settings that hfxfer itself declares, in order."""
    return [f.name for f in dataclasses.fields(Recipe) if f.name != "training_arguments"]


def _described(name: str) -> tuple[str, str, str]:
    """(default, allowed, help) of one setting, as text."""
    declared, hint = _field(name), typing.get_type_hints(Recipe)[name]
    if declared.default is dataclasses.MISSING:
        default = "required" if declared.default_factory is dataclasses.MISSING else ""
    else:
        default = "" if declared.default is None else str(declared.default).lower() if declared.default is False else str(declared.default)
    return default, _allowed(name, hint), declared.metadata["help"]


def setting_help() -> list[tuple[str, str]]:
    """(name, what it is, what is allowed, its default) for the command line."""
    lines = []
    for name in setting_names():
        default, allowed, text = _described(name)
        lines.append((name, f"{text} [{allowed}{f'; default {default}' if default not in ('', 'required') else ''}]"))
    return lines


def settings_table() -> str:
    """The settings as a Markdown table, for the README."""
    rows = ["| setting | default | allowed | what it is |", "| --- | --- | --- | --- |"]
    return "\n".join(rows + [f"| `{name}` | {' | '.join(_described(name))} |" for name in setting_names()])


def _read(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """(hfxfer's own settings, fields of TrainingArguments, faults) of flat settings."""
    own = {name: hint for name, hint in typing.get_type_hints(Recipe).items() if name != "training_arguments"}
    known, extra, faults = {}, {}, []
    settings = _flat(settings, faults)
    version = settings.pop("version", None)
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or version > VERSION):
        faults.append(f"version is {shown(version)}; allowed: a whole number up to {VERSION}")
    for name, value in settings.items():
        if name in REFUSED:
            faults.append(f"{name} is not accepted: {REFUSED[name]}")
        elif TOKEN.search(str(value)):
            faults.append(f"{name} holds a Hub token: {NO_TOKEN}")
        elif name in own:
            _convert_into(known, name, value, own[name], faults)
        else:
            extra[name] = value
    extra = _training_arguments(extra, own, faults) if extra else {}
    faults += [f"{name} is missing: {_field(name).metadata['help']}. Say --{name} …" for name in ("model", "data") if name not in settings]
    faults += [f"{name} is true, but precision is {known['precision']}: say it once, with --precision" for name in ("bf16", "fp16")
               if extra.get(name) is True and known.get("precision", "auto") not in ("auto", name)]
    if known.get("push_to_hub") and not settings.get("hub_model_id"):
        faults.append("push_to_hub is true and hub_model_id is missing: say where to, with --hub_model_id NAME/REPO")
    return known, extra, list(dict.fromkeys(faults))


def _flat(settings: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Settings by name, those under `training_arguments` among them."""
    flat = {str(name): value for name, value in settings.items()}
    inner = flat.pop("training_arguments", {})
    if isinstance(inner, Mapping):
        return {**{str(name): value for name, value in inner.items()}, **flat}
    faults.append(f"training_arguments is {shown(inner)}; allowed: its fields, each under its own name, such as weight_decay 0.05")
    return flat


def _allowed(name: str, hint: Any) -> str:
    metadata = _field(name).metadata if name in Recipe.__dataclass_fields__ else LIMITS.get(name, {})
    return describe_type(hint, describe_limits(metadata), metadata.get("unit", ""))


def _convert_into(into: dict, name: str, value: Any, hint: Any, faults: list[str]) -> None:
    limits = _field(name).metadata if name in Recipe.__dataclass_fields__ else LIMITS.get(name, {})
    try:
        converted = convert(value, hint)
    except ValueError:
        converted = None
        fits = False
    else:
        fits = not is_outside(converted, limits) and not (converted == "" and name in ("model", "output_dir"))
    if fits:
        into[name] = converted
        return
    quotes = " (numbers in quotes)" if isinstance(value, float) and _allowed(name, hint) == "text" else ""
    why = WHY.get((name, str(getattr(value, "value", value))), "")
    faults.append(f"{name} is {shown(value)}; allowed: {_allowed(name, hint)}{quotes}{f'. {why}' if why else ''}")


def _training_arguments(extra: dict[str, Any], own: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """Split `extra` into TrainingArguments fields (returned, typed) and unknown names (added to `faults`)."""
    from transformers import TrainingArguments

    declared = {f.name: f.type for f in dataclasses.fields(TrainingArguments) if f.init}
    known: dict[str, Any] = {}
    for name, value in extra.items():
        if name in declared:
            hint = HINTS.get(name, declared[name])
            _convert_into(known, name, value, Any if isinstance(hint, str) else hint, faults)
            continue
        near = _nearest(name, [each for each in {**own, **declared} if each not in REFUSED])
        meant = f"did you mean {' or '.join(f'--{word}' for word in near)}?" if near else "hfxfer train --help lists the settings"
        faults.append(f"unknown setting {name}; {meant}")
    return known


def _nearest(name: str, allowed: list[str]) -> list[str]:
    name = name.strip("-").replace("-", "_").lower()
    if name in MEANT:
        return [MEANT[name]]
    return [name] if name in allowed else difflib.get_close_matches(name, allowed, n=3, cutoff=0.6)


def _is_path(text: str) -> bool:
    """True for what is or may be a path; NAME/REPO and URLs are none, unless a folder of that name is there."""
    if "://" in text:
        return text.startswith("file:")
    return os.path.isabs(text) or text.startswith((".", "~")) or "\\" in text or text.count("/") > 1 or os.path.exists(text)


def _holds_path(value: Any) -> bool:
    if isinstance(value, (list, tuple, dict)):
        return any(map(_holds_path, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and ("/" in value or "\\" in value)
