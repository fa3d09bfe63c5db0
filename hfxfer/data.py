"""User data → `Rows`: columns recognised, every row checked once, labels named, missing splits cut. The front door.

`load_rows` for training, `load_split` for evaluation on other data, `load_inputs` (hfxfer/inputs.py) for prediction,
`detect_task` for `task: auto`. Targets come out in one form: a label's name; a list of names; a float; a list of tags.

Missing splits are cut from train: first test (`test_size` of the rows), then validation (`validation_size` of what
is left). Exact duplicates stay in one split. How each split came to be stands in `Rows.report`, the Run's data.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfxfer import datareport, rowcheck, splits
from hfxfer.columns import Column, class_names, fits, match_columns
from hfxfer.errors import DataError
from hfxfer.labels import Cells, Target, is_unlabelled, label_reader, recognise_target
from hfxfer.sources import read_source
from hfxfer.tables import Source, Table, chained, hint_ignored, split_name, whole

__all__ = ["Column", "Rows", "Source", "Split", "Target", "detect_task", "load_rows", "load_split", "read_source"]

GROUP = "_group"  # The column of a store that holds the values of `split_by`.
CANONICAL = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Store:
    """All rows that were read, column by column under their roles; splits point into it."""

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
        return [
            {**{role: cells[i] for role, cells in self.store.columns.items() if role != GROUP}, "row_id": self.store.row_ids[i]}
            for i in chosen
        ]

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


def detect_task(source: Any, tasks: dict[str, dict[str, Column]], settings: Any) -> str:
    """The one task whose roles fit the columns. Raises DataError where none or several do."""
    source = read_source(source, settings)
    table = source.splits.get("train") or next(iter(source.splits.values()))
    said = dict(settings.columns or {})
    fitting = [name for name, roles in tasks.items() if fits(table, roles, said)]
    if len(fitting) == 1:
        return fitting[0]
    columns = ", ".join(table.columns)
    if fitting:
        raise DataError(f"{source.name} fits several tasks: {', '.join(fitting)}. Columns: {columns}. "
                        f"Choose one: --task {fitting[0]}")
    wants = "; ".join(f"{name} wants {', '.join(role for role, column in roles.items() if column.required)}"
                      for name, roles in tasks.items())
    raise DataError(f"{source.name} fits no task. Columns: {columns}. {wants}. Choose the task and say which column "
                    f"holds what: --task {next(iter(tasks))} --columns ROLE=COLUMN")


def load_rows(source: Any, roles: dict[str, Column], settings: Any) -> Rows:
    """Read, recognise, check, name the labels, cut the missing splits. Raises DataError, before any long work if it can.

    source: a path, Hub id, Python object or an already read `Source`. settings: a Recipe.
    """
    source = read_source(source, settings)
    train = _train_table(source)
    columns = match_columns(train, roles, dict(settings.columns or {}), source.name)
    _check_split_by(train, settings.split_by, source.name)
    hint_ignored((name for name in source.splits if name not in CANONICAL), "splits of other names")
    parts = [_part(name, source.splits[name], roles, columns, settings.split_by)
             for name in CANONICAL if name in source.splits]
    labelled = [part for part in parts if part.is_labelled]
    target = _recognise(labelled, roles, settings.problem_type)
    _check_parts(parts, labelled, roles, target)
    bad_rows = datareport.judge_bad_rows(parts, source.name, settings)
    store = _store(parts)
    given = _given_splits(parts, store)
    made, origins = _cut_missing(given, target, settings, labelled[0].target_role)
    unlabelled = {part.name: given[part.name] for part in parts if not part.is_labelled}
    report = datareport.build(source, columns, target, settings, (made, unlabelled, origins), bad_rows)
    datareport.say(report)
    return Rows(made["train"], made["validation"], made["test"], target, columns, report, unlabelled,
                source.name, report["fingerprint"], source.revision)


def load_split(source: Any, split: str, roles: dict[str, Column], settings: Any, target: Target) -> Split:
    """One labelled split of other data, for `evaluate`. Its labels must be among the target's.

    A source without splits is taken whole. Raises DataError for an unknown split or label, or a split without labels.
    """
    source = read_source(source, settings)
    name = (split_name(split) or split) if source.named else "train"
    if name not in source.splits:
        raise DataError(f"{source.name} has no split {split!r}. Splits: {', '.join(source.splits)}. "
                        f"Choose one: --split {next(iter(source.splits))}")
    table = source.splits[name]
    columns = match_columns(table, roles, dict(settings.columns or {}), source.name)
    part = _part(split if source.named else "all", table, roles, columns, None)
    if not part.is_labelled:
        raise DataError(f"split {split!r} of {source.name} has no labels: column {part.target_column!r} is "
                        "empty or -1 in every row. Evaluate on a split with labels, or use `hfxfer predict`")
    _check_parts([part], [part], roles, target)
    datareport.judge_bad_rows([part], source.name, settings)
    return _given_splits([part], _store([part]))[part.name]


def _train_table(source: Source) -> Table:
    if "train" in source.splits:
        return source.splits["train"]
    raise DataError(f"{source.name} has no train split, only {', '.join(source.splits)}. Name one of them train "
                    "(also training), or give its folder or file alone")


def _check_split_by(table: Table, split_by: str | None, source: str) -> None:
    if split_by and split_by not in table.columns:
        raise DataError(f"column {split_by!r} (--split_by) not found in {source}. Columns: {', '.join(table.columns)}")


def _part(name: str, table: Table, roles: dict[str, Column], columns: dict[str, str], split_by: str | None) -> Part:
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
        if roles[role].kind == "image":
            cells[role] = _resolved(cells[role], table)
    labelled = target_role is None or not is_unlabelled(_target_cells(table, cells[target_role], columns[target_role]))
    if split_by:
        cells[GROUP] = whole(table.columns[split_by]) if split_by in table.columns else [None] * table.num_rows
    return Part(name, table, cells, target_role, columns.get(target_role, ""), labelled, faults=dict(table.faults))


def _target_cells(table: Table, values: Sequence[Any], column: str) -> Cells:
    return Cells(list(values), class_names(table.features.get(column)), table.place, table.typed)


def _resolved(cells: Sequence[Any], table: Table) -> Sequence[Any]:
    """Relative picture paths, made to start at the table's own folder."""
    folder = table.folder
    first = next((cell for cell in cells if cell is not None), None)
    if folder is None or not isinstance(first, str):
        return cells

    def resolve(cell: Any) -> Any:
        if not isinstance(cell, str) or not cell.strip():
            return cell
        path = folder / cell.strip()
        if not path.exists() and "\\" in cell:  # Written on Windows.
            path = folder / cell.strip().replace("\\", "/")
        return str(path) if path.exists() or not Path(cell).exists() else cell
    return [resolve(cell) for cell in whole(cells)]


def _recognise(labelled: list[Part], roles: dict[str, Column], problem_type: str) -> Target:
    if not labelled or labelled[0].name != "train":
        raise DataError("the train split has no labels: the label is empty or -1 in every row. "
                        "Fill the column, or say which one holds the label: --columns label=NAME")
    role = labelled[0].target_role
    if role is None:
        return Target("other", ())
    return recognise_target(roles[role].kind, [_own_cells(part) for part in labelled], problem_type, role)


def _own_cells(part: Part) -> Cells:
    return _target_cells(part.table, part.columns[part.target_role], part.target_column)


def _check_parts(parts: list[Part], labelled: list[Part], roles: dict[str, Column], target: Target) -> None:
    """Fill in content ids, targets and faults of every part."""
    for part in parts:
        inputs = {role: cells for role, cells in part.columns.items() if role in roles and not roles[role].target}
        part.contents, faults = rowcheck.check_inputs(inputs, roles)
        part.faults = {**faults, **part.faults}
    if labelled[0].target_role is None:
        return
    known = set(target.labels) or None
    tokens_role = next((role for role, column in roles.items() if column.kind == "tokens"), None)
    for part, read in zip(labelled, label_reader(target, [_own_cells(part) for part in labelled])):
        tokens = part.columns[tokens_role] if tokens_role and target.problem_type == "tags" else None
        targets, faults = rowcheck.check_targets(part.columns[part.target_role], read, known, tokens)
        part.columns[part.target_role] = targets
        part.faults = {**faults, **part.faults}


def _store(parts: list[Part]) -> Store:
    columns = {role: chained([part.columns[role] for part in parts]) for role in parts[0].columns}
    row_ids: list[str] = []
    for part in parts:
        good = part.good
        own = dict(zip(good, rowcheck.with_repeats_numbered([part.contents[i] for i in good])))
        row_ids += [own.get(i, "") for i in range(part.num_rows)]
    return Store(columns, row_ids, [part.table.place(i) for part in parts for i in range(part.num_rows)],
                 parts[0].target_role)


def _given_splits(parts: list[Part], store: Store) -> dict[str, Split]:
    given, start = {}, 0
    for part in parts:
        given[part.name] = Split(part.name, store, tuple(start + i for i in part.good), part.is_labelled)
        start += part.num_rows
    return given


def _cut_missing(given: dict[str, Split], target: Target, settings: Any, target_role: str | None,
                 ) -> tuple[dict[str, Split], dict[str, dict]]:
    """The three splits, and how each came to be. Unlabelled ones count as missing."""
    made = {name: split for name, split in given.items() if split.is_labelled}
    origins: dict[str, dict] = {name: {"origin": "given"} for name in made}
    for name, size in (("test", settings.test_size), ("validation", settings.validation_size)):
        if name in made:
            continue
        train = made["train"]
        values = train.column(target_role) if target_role else [None] * train.num_rows
        contents = [rowcheck.content_of(row_id) for row_id in train.row_ids]
        by = train.column(GROUP) if settings.split_by else None
        chosen = splits.cut(splits.group_keys(contents, by), splits.strata_of(target, values), size, settings.seed)
        taken = set(chosen)
        made[name] = train.select(chosen, name)
        made["train"] = train.select(i for i in range(train.num_rows) if i not in taken)
        origins[name] = {"origin": "cut from train", "size": size, "seed": settings.seed,
                         "stratified_by": splits.STRATIFIED_BY.get(target.problem_type), "split_by": settings.split_by}
        origins["train"] = {"origin": "what was left"}
    return made, origins


def inputs_split(tables: list[Table], roles: dict[str, Column]) -> tuple[Split, list[str]]:
    """Tables whose columns stand under their roles already → one unlabelled split, and the fault of each bad row."""
    parts = []
    for table in tables:
        cells = {role: _resolved(table.columns[role], table) if column.kind == "image" else table.columns[role]
                 for role, column in roles.items()}
        parts.append(Part("inputs", table, cells, None, "", False, faults=dict(table.faults)))
    for part in parts:
        part.contents, faults = rowcheck.check_inputs(part.columns, roles)
        part.faults = {**faults, **part.faults}
    columns = {role: chained([part.columns[role] for part in parts]) for role in roles}
    contents = [content for part in parts for content in part.contents]
    places = [part.table.place(i) for part in parts for i in range(part.num_rows)]
    store = Store(columns, rowcheck.with_repeats_numbered(contents), places, None)
    faults = [f"{part.table.place(i)}: {reason}" for part in parts for i, reason in sorted(part.faults.items())]
    return Split("inputs", store, tuple(range(len(contents))), False), faults


def __getattr__(name: str) -> Any:
    """`load_inputs` lives in hfxfer/inputs.py, which imports this module."""
    if name == "load_inputs":
        from hfxfer.inputs import load_inputs

        return load_inputs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
