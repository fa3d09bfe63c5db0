"""Which of the user's columns plays which role: by what the user says, by name and type, by type alone.

An input (image, text, tokens, tags) is recognised by a common name whose cells have the right type, else by being
the only column of that type. A label is recognised by name or by being a `ClassLabel`: any type can be a label.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hfxfer import images
from hfxfer.errors import DataError
from hfxfer.tables import Table

LOOKED_AT = 200
"""Cells of a column that are looked at to tell its type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What one role of a task's rows is.

    kind: "image", "text", "label", "tokens", "tags"; any other kind is passed through untouched.
    names: common column names, best first; compared without regard to letter case.
    """

    kind: str
    names: tuple[str, ...]
    target: bool = False
    required: bool = True


def match_columns(table: Table, roles: dict[str, Column], said: dict[str, str], source: str) -> dict[str, str]:
    """Role → column name, over `said` (the user's words) first. Raises DataError, with the flag that mends it."""
    check_said(table, roles, said, source)
    matched = dict(said)
    inputs_first = sorted(roles.items(), key=lambda item: item[1].target)
    for find in (_by_name, _by_type):
        for role, column in inputs_first:
            if role not in matched and (found := find(table, column, matched)):
                matched[role] = found
    missing = [role for role, column in roles.items() if column.required and role not in matched]
    for role in missing:
        _check_type(table, role, roles[role], source)
    if missing:
        raise DataError(_not_found(table, roles, missing, matched, source))
    return {role: matched[role] for role in roles if role in matched}


def fits(table: Table, roles: dict[str, Column], said: dict[str, str]) -> bool:
    """True where every required role finds a column, and what the user said names only roles and columns there are."""
    try:
        match_columns(table, roles, said, "")
    except DataError:
        return False
    return True


def check_said(table: Table, roles: dict[str, Column], said: dict[str, str], source: str) -> None:
    """Raises DataError where the user names a role or a column that is not there."""
    for role, name in said.items():
        if role not in roles:
            raise DataError(f"columns: there is no role {role!r}. Roles of this task: {', '.join(roles)}. "
                            f"Write --columns {next(iter(roles))}={name}")
        if name not in table.columns:
            raise DataError(f"column {name!r} (--columns {role}={name}) not found in {source}. "
                            f"Columns: {', '.join(table.columns)}")


def _check_type(table: Table, role: str, column: Column, source: str) -> None:
    """Raises DataError where a column of a common name is there and only its type is wrong."""
    name = next((name for name in column.names if name in table.columns), None)
    if name and not _has_kind(table, name, column.kind, some=True):
        i, cell = next((i, cell) for i, cell in enumerate(table.columns[name]) if not is_missing(cell))
        wants = {"image": "pictures (paths need an ending like .jpg)", "tokens": "lists of words",
                 "tags": "lists of tags", "text": "texts"}
        raise DataError(f"column {name!r} of {source} holds no {wants[column.kind]}: {cell!r:.60} "
                        f"({table.place(i)}). Change it, or say which column holds the {role}: --columns {role}=NAME")


def _not_found(table: Table, roles: dict[str, Column], missing: list[str], matched: dict, source: str) -> str:
    names = ", ".join(repr(role) for role in missing)
    left = [name for name in table.columns if name not in matched.values()]
    flags, holds = [], []
    for role in missing:
        fitting = [name for name in left if _has_kind(table, name, roles[role].kind)] or left or ["NAME"]
        if roles[role].kind == "text" and fitting != ["NAME"]:
            fitting.sort(key=lambda name: -_length(table, name))
        flags.append(f"{role}={fitting[-1] if roles[role].target else fitting[0]}")
        left = [name for name in left if name != flags[-1].split("=", 1)[1]]
        holds.append(f"the {role}")
    return (f"column{'s' if len(missing) > 1 else ''} {names} not found in {source}. "
            f"Columns: {', '.join(table.columns)}. Say which one holds {' and '.join(holds)}: "
            f"--columns {' '.join(flags)}")


def _by_name(table: Table, column: Column, matched: dict[str, str]) -> str | None:
    lowered = {name.lower(): name for name in reversed(table.columns)}
    for common in column.names:
        name = common if common in table.columns else lowered.get(common.lower())
        if name and name not in matched.values() and _has_kind(table, name, column.kind, some=True):
            return name
    return None


def _by_type(table: Table, column: Column, matched: dict[str, str]) -> str | None:
    if not column.required or column.kind not in ("image", "text", "tokens", "tags", "label"):
        return None
    free = [name for name in table.columns if name not in matched.values()]
    if column.kind == "label":
        found = [name for name in free if class_names(table.features.get(name)) is not None]
    else:
        found = [name for name in free if _has_kind(table, name, column.kind)]
    return found[0] if len(found) == 1 else None


def _has_kind(table: Table, name: str, kind: str, some: bool = False) -> bool:
    """True where the cells looked at are of the kind. some: one such cell is enough, and so is a column left empty.

    A column with the right name is taken although some of its cells are wrong: the row check names those.
    """
    feature = table.features.get(name)
    if isinstance(feature, dict) and feature.get("_type") == "Image":
        return kind == "image"
    if kind not in ("image", "text", "tokens", "tags"):
        return True
    if kind == "text" and class_names(feature) is not None:
        return False
    cells = [cell for cell in islice(table.columns[name], LOOKED_AT) if not is_missing(cell)]
    if kind == "text" and cells and all(_is_path(cell) for cell in cells):
        return False
    right = [_CELLS[kind](cell) for cell in cells]
    return any(right) or not cells if some else all(right) and bool(cells)


def _is_path(cell: Any) -> bool:
    return images.is_image_name(cell) and len(str(cell).split()) == 1


def _is_tokens(cell: Any) -> bool:
    words = as_list(cell)
    return words is not None and all(isinstance(word, str) for word in words)


def _is_tags(cell: Any) -> bool:
    words = as_list(cell)
    return words is not None and all(isinstance(word, str | int) for word in words)


_CELLS: dict[str, Callable[[Any], bool]] = {
    "image": lambda cell: images.is_image(cell) or images.is_image_name(cell),
    "text": lambda cell: isinstance(cell, str),
    "tokens": _is_tokens,
    "tags": _is_tags,
}


def _length(table: Table, name: str) -> int:
    """Characters in the cells looked at: a text is longer than an id."""
    return sum(len(str(cell)) for cell in islice(table.columns[name], LOOKED_AT))


def class_names(feature: Any) -> list[str] | None:
    """The names of a ClassLabel, or of a list of them, in the JSON form of `datasets.Features`."""
    if isinstance(feature, list):
        return class_names(feature[0]) if feature else None
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        return list(feature.get("names") or [])
    return class_names(feature.get("feature")) if feature.get("_type") in ("List", "LargeList", "Sequence") else None


def is_missing(cell: Any) -> bool:
    """None, NaN, or text without a character."""
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or (isinstance(cell, float) and cell != cell)


def as_list(cell: Any) -> list | None:
    """A list cell as a list, also when a table without types wrote it as text (JSON or Python); None for no list."""
    if isinstance(cell, str):
        text = cell.strip()
        return _list_from_text(text) if text.startswith("[") and text.endswith("]") else None
    if isinstance(cell, list | tuple | set):
        return list(cell)
    if type(cell).__module__ == "numpy" and getattr(cell, "ndim", 0) == 1:
        return cell.tolist()
    return None


def _list_from_text(text: str) -> list | None:
    import ast

    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list):
            return value
    return None


def plain(cell: Any) -> Any:
    """A numpy scalar as a Python one."""
    return cell.item() if type(cell).__module__ == "numpy" and getattr(cell, "ndim", 1) == 0 else cell
