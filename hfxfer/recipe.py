"""Recipe: every setting of a run, declared once.

One spelling everywhere: the flag `--learning_rate 3e-4`, the YAML key `learning_rate: 3e-4` and the field
`Recipe(learning_rate=3e-4)` are the same thing. Any other field of `transformers.TrainingArguments` is
accepted under its own name and kept in `Recipe.training_arguments`. All faults are reported at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hfxfer.errors import RecipeError

VERSION = 1

Auto = Literal["auto"]

REFUSED = {
    "hub_token": "a token is never a setting (it would be stored): set HF_TOKEN or run: hf auth login",
    "remove_unused_columns": "hfxfer owns it: columns are chosen by role, with --columns ROLE=COLUMN",
    "label_names": "hfxfer owns it: name the column that holds the target, with --columns label=COLUMN",
    "resume_from_checkpoint": "use --resume, which finds the last complete checkpoint of --output_dir",
    "push_to_hub": "it would publish optimizer state and training_args.bin; when the run is done, "
    "upload its model/ folder: hf upload NAME/REPO RUN/model",
}


def setting(default: Any = dataclasses.MISSING, *, help: str, unit: str = "", ge: float | None = None,
            gt: float | None = None, le: float | None = None, factory: Any = dataclasses.MISSING) -> Any:
    """One declared setting: its help text, unit and range (ge: at least, gt: above, le: at most)."""
    metadata = {"help": help, "unit": unit, "ge": ge, "gt": gt, "le": le}
    return field(default=default, default_factory=factory, metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What a run is made of. Immutable; `dataclasses.replace` makes a changed copy.

    Raises RecipeError, naming every fault, from `from_settings`, `from_yaml` and `check`.
    """

    model: str = setting(help="Checkpoint to start from: a Hub id (timm/NAME for timm), a local folder, or a weights file")
    data: str = setting(help="Folder, CSV/TSV/JSON/JSONL/Parquet file, saved data set, Hub data set id, or example")
    output_dir: str = setting("runs/run", help="The Run folder to write")
    task: str = setting("auto", help="Hub task name (hfxfer tasks lists them); auto reads it off the columns")
    method: Literal["full", "head"] = setting(
        "full", help="full trains everything; head keeps the body frozen, batch-norm statistics and dropout too")

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
    max_length: int | Auto = setting("auto", ge=4, help="Longest text; auto is the checkpoint's own, at most 512", unit="tokens")
    stride: int = setting(64, ge=0, help="Overlap of windows over long token sequences", unit="tokens")

    training_arguments: dict[str, Any] = setting(
        factory=dict, help="Any other field of transformers.TrainingArguments, flat under its own name")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Recipe:
        """From flat settings, values as text (flags) or typed (YAML, Python)."""
        own = {name: hint for name, hint in typing.get_type_hints(cls).items() if name != "training_arguments"}
        settings = {**settings.get("training_arguments", {}), **settings}
        settings.pop("training_arguments", None)
        known, extra, faults = {}, {}, []
        for name, value in settings.items():
            if name in REFUSED:
                faults.append(f"{name} is not accepted: {REFUSED[name]}")
            elif name in own:
                _convert_into(known, name, value, own[name], faults)
            else:
                extra[name] = value
        if extra:
            extra = _training_arguments(extra, own, faults)
        faults += [f"{name} is missing: {_field(name).metadata['help']}. Say --{name} …"
                   for name in ("model", "data") if name not in settings]
        faults += _range_faults(known)
        if faults:
            raise RecipeError(_listed(faults))
        return cls(**known, training_arguments=extra)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """From a saved recipe. `overrides` win. Older versions are read, newer ones refused."""
        import yaml

        try:
            settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"cannot read the recipe {path}: {error}") from error
        if not isinstance(settings, dict):
            raise RecipeError(f"{path} is not a recipe: expected lines such as 'model: timm/resnet50.a1_in1k'")
        version = settings.pop("version", VERSION)
        if not isinstance(version, int) or version > VERSION:
            raise RecipeError(f"{path} has version {version}; this hfxfer reads versions up to {VERSION}. "
                              "Update it with: pip install -U hfxfer")
        return cls.from_settings({**settings, **(overrides or {})})

    def to_dict(self) -> dict[str, Any]:
        """Flat, in declared order, with `version` first."""
        settings = {name: getattr(self, name) for name in setting_names()}
        return {"version": VERSION, **settings, **self.training_arguments}

    def to_yaml(self) -> str:
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def check(self) -> Recipe:
        """Raise RecipeError unless every value is of its type and in its range; return self."""
        settings = self.to_dict()
        settings.pop("version")
        return type(self).from_settings(settings)

    def shareable(self) -> Recipe:
        """The recipe without any path: data and model by name."""
        names = {name: Path(getattr(self, name)).name for name in ("data", "model") if os.path.isabs(getattr(self, name))}
        hidden = {name: value for name, value in self.training_arguments.items()
                  if not (isinstance(value, str) and os.sep in value)}
        return dataclasses.replace(self, **names, output_dir="runs/run", training_arguments=hidden)


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
    unit = declared.metadata["unit"]
    return default, describe_type(hint) + describe_range(name) + (f", {unit}" if unit else ""), declared.metadata["help"]


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


def describe_range(name: str) -> str:
    """` ≥ 1`, ` > 0 and ≤ 0.9`, or nothing."""
    limits = _field(name).metadata
    parts = [f"{sign} {limits[key]}" for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤")) if limits[key] is not None]
    return f" {' and '.join(parts)}" if parts else ""


def describe_type(hint: Any) -> str:
    """`number or auto`, `text`, `full, head`: what a person may write."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return ", ".join(str(choice) for choice in typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(arg) for arg in typing.get_args(hint) if arg is not type(None))
    if origin is dict or hint is dict:
        return "name=value …"
    if origin is list or hint is list:
        return "values separated by spaces"
    return {bool: "true or false", int: "whole number", float: "number", str: "text"}.get(hint, "value")


def _convert_into(into: dict, name: str, value: Any, hint: Any, faults: list[str]) -> None:
    try:
        into[name] = convert(value, hint)
    except ValueError:
        allowed = describe_type(hint) + (describe_range(name) if name in Recipe.__dataclass_fields__ else "")
        faults.append(f"{name} is {_shown(value)}; allowed: {allowed}")


def convert(value: Any, hint: Any) -> Any:
    """`value` (text from a flag, or typed) as the type `hint`. Raises ValueError when it does not fit."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Annotated:
        return convert(value, args[0])
    if origin is Literal:
        if value in args and not isinstance(value, bool):
            return value
        raise ValueError(value)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, args)
    if hint is bool:
        return _convert_bool(value)
    if origin is dict or hint is dict:
        return _convert_dict(value, args)
    if origin in (list, tuple) or hint in (list, tuple):
        values = value if isinstance(value, (list, tuple)) else [value]
        return [convert(item, args[0] if args else str) for item in values]
    if isinstance(value, (list, tuple)):
        if len(value) != 1:
            raise ValueError(value)
        value = value[0]
    return _convert_plain(value, hint)


def _convert_plain(value: Any, hint: Any) -> Any:
    if hint in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError(value)
        number = float(value)
        if number != number:
            raise ValueError(value)
        if hint is float:
            return number
        if number != int(number):
            raise ValueError(value)
        return int(number)
    if hint is str:
        if not isinstance(value, (str, int, float, Path)) or isinstance(value, bool):
            raise ValueError(value)
        return str(value)
    return value


def _convert_union(value: Any, args: tuple) -> Any:
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
        if type(None) in args:
            return None
    # Literals and numbers before text, so that "auto" and "3" find their own type.
    order = sorted((a for a in args if a is not type(None)), key=lambda a: (a is str, typing.get_origin(a) is not Literal))
    for arg in order:
        try:
            return convert(value, arg)
        except (ValueError, TypeError, OverflowError):
            continue
    raise ValueError(value)


def _convert_bool(value: Any) -> bool:
    if isinstance(value, (list, tuple)) and len(value) <= 1:
        value = value[0] if value else True
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(value)


def _convert_dict(value: Any, args: tuple) -> dict:
    if isinstance(value, dict):
        return {str(key): convert(item, args[1]) if len(args) > 1 else item for key, item in value.items()}
    values = value if isinstance(value, (list, tuple)) else [value]
    pairs = [str(item).partition("=") for item in values]
    if not all(key and equals for key, equals, _ in pairs):
        raise ValueError(value)
    return {key: convert(item, args[1]) if len(args) > 1 else item for key, _, item in pairs}


def _range_faults(settings: dict[str, Any]) -> list[str]:
    faults = []
    for name, value in settings.items():
        limits = _field(name).metadata
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        low = (limits["ge"] is not None and value < limits["ge"]) or (limits["gt"] is not None and value <= limits["gt"])
        if low or (limits["le"] is not None and value > limits["le"]) or abs(value) == float("inf"):
            faults.append(f"{name} is {_shown(value)}; allowed:{describe_range(name) or ' a finite number'}")
    return faults


def _training_arguments(extra: dict[str, Any], own: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """Split `extra` into TrainingArguments fields (returned, typed) and unknown names (added to `faults`)."""
    from transformers import TrainingArguments

    declared = {f.name: f.type for f in dataclasses.fields(TrainingArguments) if f.init}
    known: dict[str, Any] = {}
    for name, value in extra.items():
        if name in declared:
            hint = declared[name]
            _convert_into(known, name, value, Any if isinstance(hint, str) else hint, faults)
            continue
        allowed = [known_name for known_name in {**own, **declared} if known_name not in REFUSED]
        near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.6)
        meant = f"did you mean {' or '.join(f'--{word}' for word in near)}?" if near else "hfxfer train --help lists the settings"
        faults.append(f"unknown setting {name}; {meant}")
    return known


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return repr(" ".join(str(item) for item in value)) if value else "empty"
    return repr(value)


def _listed(faults: list[str]) -> str:
    return faults[0] if len(faults) == 1 else "\n".join([f"{len(faults)} settings are wrong:", *(f"  - {f}" for f in faults)])
