"""Inputs for prediction → one `Split` without targets: files, folders, tables, texts and Python rows.

A text task reads a `.txt` file line by line, and a string that is no file is itself a text; a token task splits such
a line at white space. An image task takes picture files and folders, searched to the bottom. Tables of any kind go
through the same columns as in training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from hfxfer import images, sources, tables
from hfxfer.columns import Column, as_list, match_columns
from hfxfer.errors import DataError
from hfxfer.rows import Split, inputs_split
from hfxfer.tables import Table

LISTED = 20


def load_inputs(inputs: Any, roles: dict[str, Column], columns: dict[str, str] | None = None) -> Split:
    """Every input, opened once and in the order given. Raises DataError that lists those that cannot be used.

    inputs: paths and texts as strings; dicts keyed by role or column; PIL images or arrays; lists of words; a Dataset;
    a DataFrame; one of these alone. roles: the task's; targets are left aside. columns: role → column.
    """
    wanted = {role: column for role, column in roles.items() if not column.target}
    said = {role: name for role, name in (columns or {}).items() if role not in roles or role in wanted}
    if isinstance(inputs, str | os.PathLike | dict | bytes) or images.is_image(inputs):
        inputs = [inputs]
    if not isinstance(inputs, list | tuple):
        return _split_of([_under_roles(table, wanted, said) for table in _tables_of(inputs)], wanted)
    parts = [part for start, items in _runs(list(inputs))
             for part in _parts(start, items, wanted, said)]
    if not parts:
        raise DataError("nothing to predict on: no input was given. Give files, folders or texts")
    return _split_of(parts, wanted)


def _runs(items: list[Any]) -> Iterable[tuple[int, list[Any]]]:
    """Rows of one kind that stand side by side form one table; each path is a source of its own. (start, items)."""
    for kind, run in groupby(enumerate(items), key=lambda item: _kind(item[1])):
        numbered = list(run)
        if kind == "string":
            yield from ((i, [item]) for i, item in numbered)
        else:
            yield numbered[0][0], [item for _, item in numbered]


def _kind(item: Any) -> str:
    if isinstance(item, str | os.PathLike):
        return "string"
    return "row" if isinstance(item, dict) and not images.is_image(item) else "value"


def _parts(start: int, items: list[Any], roles: dict[str, Column], said: dict[str, str]) -> list[Table]:
    def place(i: int) -> str:
        return f"input {start + i}"

    kind = _kind(items[0])
    if kind == "string":
        return _from_string(items[0], place, roles, said)
    if kind == "row":
        table = _under_roles(tables.from_rows(items, "inputs"), roles, said)
        table.place = place
        return [table]
    return [Table({_main_role(roles): list(items)}, place)]


def _main_role(roles: dict[str, Column]) -> str:
    """The role of an input given alone. Raises DataError where a task needs several."""
    required = [role for role, column in roles.items() if column.required]
    if len(required) != 1:
        raise DataError(f"this task needs {', '.join(required)} in every row: give dicts or a table with them")
    return required[0]


def _from_string(item: Any, place: Callable[[int], str], roles: dict[str, Column], said: dict[str, str],
                 ) -> list[Table]:
    text, path = os.fspath(item), None
    try:
        path = Path(text).expanduser()
        exists = _may_be_a_path(item, text, roles) and path.exists()
    except (OSError, ValueError, RuntimeError):  # A long text is no valid file name.
        exists = False
    if exists and path.is_dir():
        return _from_folder(path, roles, said)
    if exists and path.suffix.lower() in tables.SUFFIXES:
        return [_under_roles(tables.read_table(path), roles, said)]
    role = _main_role(roles)
    kind = roles[role].kind
    if kind == "image" or (exists and kind not in ("text", "tokens")):
        return [Table({role: [text]}, lambda i: text)]
    if exists:
        return [_from_lines(path, role, kind)]
    if kind in ("text", "tokens") and not _names_a_file(text):
        return [Table({role: [text.split() if kind == "tokens" else text]}, place)]
    raise DataError(f"{text} does not exist. Give a file, a folder or, for a text task, a text. Looked in {Path.cwd()}")


def _may_be_a_path(item: Any, text: str, roles: dict[str, Column]) -> bool:
    """For a text task a bare word is a text, even where a file or folder has that name ("" is the current folder)."""
    if not isinstance(item, str) or any(column.kind == "image" for column in roles.values()):
        return bool(text.strip())
    return bool(text.strip()) and (os.sep in text or bool(Path(text).suffix))


def _names_a_file(text: str) -> bool:
    return len(text.split()) == 1 and text.lower().endswith((*tables.SUFFIXES, ".txt"))


def _from_lines(path: Path, role: str, kind: str) -> Table:
    lines = [(number, line) for number, line in enumerate(tables.read_text(path).splitlines(), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty. Write one text a line")
    texts = [line.split() if kind == "tokens" else line for _, line in lines]
    return Table({role: texts}, lambda i: f"{path.name}:{lines[i][0]}")


def _from_folder(folder: Path, roles: dict[str, Column], said: dict[str, str]) -> list[Table]:
    if sources.is_saved(folder):
        return [_under_roles(table, roles, said) for table in _tables_of(folder)]
    files = sources.list_files(folder)
    kinds = {column.kind for column in roles.values()}
    if "image" in kinds:
        pictures = [str(folder / file) for file in files if images.is_image_name(file)]
        if not pictures:
            raise DataError(f"{folder} holds no pictures. Picture files end in {' '.join(sorted(images.SUFFIXES))}")
        return [Table({_main_role(roles): pictures}, pictures.__getitem__)]
    readable = [folder / file for file in files if file.lower().endswith((*tables.SUFFIXES, ".txt"))]
    if not readable:
        raise DataError(f"{folder} holds nothing to predict on. Allowed: .txt {' '.join(tables.SUFFIXES)}")
    return [part for file in readable for part in _from_string(file, str, roles, said)]


def _tables_of(data: Any) -> list[Table]:
    return list(sources.read_source(data, None).splits.values())


def _under_roles(table: Table, roles: dict[str, Column], said: dict[str, str]) -> Table:
    """The table's input columns under their roles; the role's own name is taken before a look at types."""
    named = {role: role for role, column in roles.items()
             if role in table.columns and role not in said and not set(column.names) & set(table.columns)}
    matched = match_columns(table, roles, {**named, **said}, "the inputs")
    cells = {role: tables.whole(table.columns[name]) if roles[role].kind != "image" else table.columns[name]
             for role, name in matched.items()}
    for role in cells:
        if roles[role].kind == "tokens":
            cells[role] = [cell.split() if isinstance(cell, str) and as_list(cell) is None else cell
                           for cell in cells[role]]
    return Table(cells, table.place, {}, table.folder, table.faults, table.typed)


def _split_of(parts: list[Table], roles: dict[str, Column]) -> Split:
    """One split over all parts, with an optional role that only some have left empty in the others."""
    used = [role for role in roles if any(role in part.columns for part in parts)]
    for part in parts:
        for role in used:
            part.columns.setdefault(role, [None] * part.num_rows)
    split, faults = inputs_split(parts, {role: roles[role] for role in used})
    if faults:
        more = [f"  and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
        number = "1 input" if len(faults) == 1 else f"{len(faults)} inputs"
        raise DataError("\n".join([f"{number} of {split.num_rows} cannot be used:",
                                   *(f"  {fault}" for fault in faults[:LISTED]), *more,
                                   "Mend them, or leave them out"]))
    return split
