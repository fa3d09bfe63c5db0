"""Rows under their roles, and splits as values over them.

A `Part` is one source split on its way: cells by role, then content ids, targets and faults. `stored` turns parts into
one `Store`, and each `Split` is positions into it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfxfer import rowcheck
from hfxfer.columns import Column, as_list, class_names, is_missing
from hfxfer.errors import DataError
from hfxfer.labels import Cells, Target, is_unlabelled, label_reader
from hfxfer.tables import Table, chained, whole

GROUP = "_group"
"""The column of a store that holds the values of `split_by`; never part of a row."""


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """All rows that were read, column by column under their roles; splits point into it. Equal only to itself."""

    columns: dict[str, Sequence[Any]]
    row_ids: list[str]
    places: list[str]
    target_role: str | None


@dataclass(frozen=True, slots=True)
class Split:
    """Some rows of one store: a value that folds, repeats and seeds can make more of with `select`."""

    name: str
    store: Store = field(repr=False)
    positions: tuple[int, ...] = field(repr=False)
    is_labelled: bool = True

    @property
    def num_rows(self) -> int:
        return len(self.positions)

    @property
    def row_ids(self) -> list[str]:
        return [self.store.row_ids[i] for i in self.positions]

    @property
    def places(self) -> list[str]:
        """Where each row stands in the source: "train.csv:12", "train/cat/3.jpg"."""
        return [self.store.places[i] for i in self.positions]

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(role for role in self.store.columns if role != GROUP)

    def column(self, role: str) -> list[Any]:
        cells = self.store.columns[role]
        return [cells[i] for i in self.positions]

    def take(self, positions: Iterable[int]) -> list[dict[str, Any]]:
        """Rows by position in this split, as dictionaries by role, with "row_id"."""
        chosen = [self.positions[i] for i in positions]
        columns = {role: self.store.columns[role] for role in self.roles}
        return [{role: cells[i] for role, cells in columns.items()} | {"row_id": self.store.row_ids[i]} for i in chosen]

    def select(self, positions: Iterable[int], name: str | None = None) -> Split:
        """Some of this split's rows, as a split."""
        chosen = tuple(self.positions[i] for i in positions)
        return Split(name or self.name, self.store, chosen, self.is_labelled)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.take([position])[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(self.num_rows))


@dataclass(frozen=True, slots=True)
class Rows:
    """The user's data, ready to be encoded.

    columns: role → the user's column. report: what the Run keeps as data.json. unlabelled: splits without targets.
    """

    train: Split
    validation: Split
    test: Split
    target: Target
    columns: dict[str, str]
    report: dict[str, Any]
    unlabelled: dict[str, Split]
    source: str
    fingerprint: str
    revision: str | None = None

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(slots=True)
class Part:
    """One source split on its way: cells by role, then ids, targets and faults by position."""

    name: str
    table: Table
    columns: dict[str, Sequence[Any]]
    target_role: str | None
    target_column: str
    is_labelled: bool
    contents: list[str] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return self.table.num_rows

    @property
    def good(self) -> list[int]:
        return [i for i in range(self.num_rows) if i not in self.faults]


def make_part(name: str, table: Table, roles: dict[str, Column], columns: dict[str, str], split_by: str | None) -> Part:
    """The split's cells under their roles. A split without the target column is unlabelled."""
    if table.num_rows == 0:
        raise DataError(f"split {name} has no rows. Remove it, or fill it")
    target_role = next((role for role, column in roles.items() if column.target), None)
    cells: dict[str, Sequence[Any]] = {}
    for role, column in columns.items():
        if column in table.columns:
            kept = table.columns[column]
            cells[role] = kept if roles[role].kind == "image" else whole(kept)
        elif role == target_role:
            cells[role] = [None] * table.num_rows
        else:
            raise DataError(f"split {name} has no column {column!r}, which train has. Columns: "
                            f"{', '.join(table.columns)}. Give every split the same columns")
        cells[role] = in_one_form(cells[role], roles[role], table)
    labelled = target_role is None or not is_unlabelled(_target_cells(table, cells[target_role], columns[target_role]))
    if split_by:
        cells[GROUP] = whole(table.columns[split_by]) if split_by in table.columns else [None] * table.num_rows
    return Part(name, table, cells, target_role, columns.get(target_role, ""), labelled, faults=dict(table.faults))


def _target_cells(table: Table, values: Sequence[Any], column: str) -> Cells:
    return Cells(list(values), class_names(table.features.get(column)), table.place, table.typed)


def in_one_form(cells: Sequence[Any], column: Column, table: Table) -> Sequence[Any]:
    """Pictures as full paths, lists written as text as lists, a missing text of an optional role as "".

    What cannot be brought into the form stays as it is: the row check names it.
    """
    if column.kind == "image":
        return _resolved(cells, table.folder)
    if column.kind == "tokens":
        return [cell if (words := as_list(cell)) is None else words for cell in cells]
    if column.kind == "text" and not column.required:
        return ["" if is_missing(cell) else cell for cell in cells]
    return cells


def _resolved(cells: Sequence[Any], folder: Path | None) -> Sequence[Any]:
    """Relative picture paths, made to start at the table's own folder."""
    if not isinstance(next((cell for cell in cells if cell is not None), None), str | os.PathLike):
        return cells

    def resolve(cell: Any) -> Any:
        if not isinstance(cell, str | os.PathLike) or is_missing(cell):
            return cell
        given = os.fspath(cell).strip()
        path = Path(folder or "", given)
        if not path.exists() and "\\" in given:  # Written on Windows.
            path = Path(folder or "", given.replace("\\", "/"))
        return str(path) if path.exists() or not Path(given).exists() else given
    return [resolve(cell) for cell in whole(cells)]


def own_cells(part: Part) -> Cells:
    return _target_cells(part.table, part.columns[part.target_role], part.target_column)


def check_parts(parts: list[Part], labelled: list[Part], roles: dict[str, Column], target: Target) -> None:
    """Fill in content ids, targets and faults of every part."""
    for part in parts:
        inputs = {role: cells for role, cells in part.columns.items() if role in roles and not roles[role].target}
        part.contents, faults = rowcheck.check_inputs(inputs, roles)
        faults = {i: rowcheck.without_place(fault, part.table.place(i)) for i, fault in faults.items()}
        part.faults = {**faults, **part.faults}
    if labelled[0].target_role is None:
        return
    known = set(target.labels) or None
    tokens_role = next((role for role, column in roles.items() if column.kind == "tokens"), None)
    for part, read in zip(labelled, label_reader(target, [own_cells(part) for part in labelled])):
        tokens = part.columns[tokens_role] if tokens_role and target.problem_type == "tags" else None
        targets, faults = rowcheck.check_targets(part.columns[part.target_role], read, known, tokens)
        part.columns[part.target_role] = targets
        part.faults = {**faults, **part.faults}


def stored(parts: list[Part]) -> Store:
    columns = {role: chained([part.columns[role] for part in parts]) for role in parts[0].columns}
    row_ids: list[str] = []
    for part in parts:
        good = part.good
        own = dict(zip(good, rowcheck.with_repeats_numbered([part.contents[i] for i in good])))
        row_ids += [own.get(i, "") for i in range(part.num_rows)]
    return Store(columns, row_ids, [part.table.place(i) for part in parts for i in range(part.num_rows)],
                 parts[0].target_role)


def as_splits(parts: list[Part], store: Store) -> dict[str, Split]:
    given, start = {}, 0
    for part in parts:
        given[part.name] = Split(part.name, store, tuple(start + i for i in part.good), part.is_labelled)
        start += part.num_rows
    return given


def inputs_split(tables: list[Table], roles: dict[str, Column]) -> tuple[Split, list[str]]:
    """Tables whose columns stand under their roles already → one unlabelled split, and the fault of each bad row."""
    columns = {role: chained([in_one_form(table.columns[role], column, table) for table in tables])
               for role, column in roles.items()}
    places = [table.place(i) for table in tables for i in range(table.num_rows)]
    contents, faults = rowcheck.check_inputs(columns, roles)
    start = 0
    for table in tables:
        faults |= {start + i: fault for i, fault in table.faults.items()}
        start += table.num_rows
    store = Store(columns, rowcheck.with_repeats_numbered(contents), places, None)
    listed = [f"{places[i]}: {rowcheck.without_place(fault, places[i])}" for i, fault in sorted(faults.items())]
    return Split("inputs", store, tuple(range(len(places))), False), listed
