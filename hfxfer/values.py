"""One setting's value: text from a flag, or typed from YAML and Python → its declared type.

`convert` accepts the same spellings for hfxfer's own settings and for the fields of TrainingArguments, and returns only
what YAML can hold.
"""

from __future__ import annotations

import enum
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal

NOTHING = ("none", "null")


def convert(value: Any, hint: Any) -> Any:
    """`value` as the type `hint`. Raises ValueError when it does not fit."""
    if isinstance(value, enum.Enum):
        value = value.value
    elif getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # a number of NumPy or torch
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _plain(value)
    if origin is typing.Annotated:
        return convert(value, args[0])
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
        raise ValueError(value)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, args)
    if origin is dict or hint is dict:
        return _convert_dict(value, args[1] if len(args) > 1 else Any)
    if origin in (list, tuple) or hint in (list, tuple):
        return [convert(item, args[0] if args else str) for item in (value if isinstance(value, (list, tuple)) else [value])]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value).value
    return {bool: _bool, int: _int, float: _float, str: _text}.get(hint, _refuse)(value)


def describe_type(hint: Any, limits: str = "", unit: str = "") -> str:
    """`number > 0, or auto`, `text`, `full, head`: what a person may write. limits, unit: of a number."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(str(choice) for choice in args)
    if origin in (typing.Union, types.UnionType):
        parts = [describe_type(arg, limits, unit) for arg in _without_text(args) if arg is not type(None)]
        return (", or " if limits else " or ").join(parts)
    if origin is dict or hint is dict:
        return "name=value …"
    if origin is list or hint is list:
        return "values separated by spaces"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return ", ".join(str(member.value) for member in hint)
    if hint in (int, float):
        return ("whole number" if hint is int else "number") + (f" of {unit}" if unit else "") + limits
    return {bool: "true or false", str: "text"}.get(hint, "nothing that a recipe can hold")


def describe_limits(limits: dict[str, Any]) -> str:
    """` ≥ 1`, ` > 0 and ≤ 0.9`, or nothing. limits: ge, gt and le, where there are any."""
    parts = [f"{sign} {limits[key]}" for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤")) if limits.get(key) is not None]
    return f" {' and '.join(parts)}" if parts else ""


def is_outside(value: Any, limits: dict[str, Any]) -> bool:
    """True for a number beyond its limits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    ge, gt, le = (limits.get(key) for key in ("ge", "gt", "le"))
    return (ge is not None and value < ge) or (gt is not None and value <= gt) or (le is not None and value > le)


def shown(value: Any) -> str:
    """The value as an error message shows it."""
    if isinstance(value, (list, tuple)) and len(value) > 1:
        return repr(" ".join(str(item) for item in value))
    return "empty" if value in ("", [], ()) else repr(value)


def _bool(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value if isinstance(value, bool) else _refuse(value)


def _int(value: Any) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            value = float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else _refuse(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(value)
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(value) from error
    return number if math.isfinite(number) else _refuse(value)


def _text(value: Any) -> str:
    # A float is no text: YAML has already read the branch 1.10 as 1.1. Whole numbers, such as some commits, are kept.
    if isinstance(value, bool) or not isinstance(value, (str, int, Path)):
        raise ValueError(value)
    return str(value)


def _refuse(value: Any) -> Any:
    raise ValueError(value)


def _without_text(args: tuple) -> list[Any]:
    """transformers writes `SchedulerType | str` where only the enum's values are allowed."""
    choices = any(isinstance(arg, type) and issubclass(arg, enum.Enum) for arg in args)
    return [arg for arg in args if not (choices and arg is str)]


def _convert_union(value: Any, args: tuple) -> Any:
    if value is None or (isinstance(value, str) and value.lower() in NOTHING):
        if type(None) in args:
            return None
    # Literals and numbers before text, so that "auto" and "3" find their own type; one text is no list of one.
    order = sorted((arg for arg in _without_text(args) if arg is not type(None)),
                   key=lambda arg: (typing.get_origin(arg) is list, arg is str, typing.get_origin(arg) is not Literal))
    for arg in order:
        try:
            return convert(value, arg)
        except ValueError:
            continue
    raise ValueError(value)


def _convert_dict(value: Any, kind: Any) -> dict:
    """A dict; NAME=VALUE, one or a list of them; or JSON, which is what transformers' own command line takes."""
    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value)
    if isinstance(value, dict):
        return {str(name): convert(item, kind) for name, item in value.items()}
    pairs = [str(item).partition("=") for item in (value if isinstance(value, (list, tuple)) else [value])]
    names = [name for name, _, _ in pairs]
    if not all(name and item for name, _, item in pairs) or len(set(names)) < len(names):
        raise ValueError(value)
    return {name: _scalar(item) if kind is Any else convert(item, kind) for name, _, item in pairs}


def _scalar(text: str) -> Any:
    """Text whose type nobody declared: true, false, none, a number, or text."""
    if text.lower() in NOTHING:
        return None
    for kind in (_bool, _int, _float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _plain(value: Any) -> Any:
    """`value` as YAML can hold it: None, bool, number, text, and lists and dicts of these."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [convert(item, Any) for item in value]
    if isinstance(value, dict):
        return {str(name): convert(item, Any) for name, item in value.items()}
    # Not `value` itself: a subclass, such as NumPy's text, is nothing that YAML knows.
    kind = next((kind for kind in (bool, int, float, str) if isinstance(value, kind)), _refuse)
    return kind(value)
