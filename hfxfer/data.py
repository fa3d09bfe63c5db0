"""User data → `Rows`: columns recognised, every row checked once, labels named, missing splits cut. The front door.

`load_rows` for training, `load_split` for evaluation on other data, `load_inputs` (hfxfer/inputs.py) for prediction,
`detect_task` for `task: auto`. Targets come out in one form: a label's name; a list of names; a float; a list of tags.

Missing splits are cut from train: first test (`test_size` of the rows), then validation (`validation_size` of what
is left). Exact duplicates stay in one split. How each split came to be stands in `Rows.report`, the Run's data.json.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hfxfer import datareport, rowcheck, splits
from hfxfer.columns import Column, check_said, fits, match_columns
from hfxfer.console import hint
from hfxfer.errors import DataError
from hfxfer.inputs import load_inputs
from hfxfer.labels import Target, recognise_target
from hfxfer.rows import GROUP, Part, Rows, Split, as_splits, check_parts, make_part, own_cells, stored
from hfxfer.sources import read_source
from hfxfer.tables import Source, Table, hint_ignored, split_name

__all__ = ["Column", "Rows", "Source", "Split", "Target", "detect_task", "load_inputs", "load_rows", "load_split",
           "read_source"]

CANONICAL = ("train", "validation", "test")


def detect_task(source: Any, tasks: dict[str, dict[str, Column]], settings: Any) -> str:
    """The one task whose roles fit the columns. Raises DataError where none or several do."""
    source = read_source(source, settings)
    table = source.splits.get("train") or next(iter(source.splits.values()))
    said = dict(settings.columns or {})
    check_said(table, {role: column for roles in tasks.values() for role, column in roles.items()}, said, source.name)
    fitting = [name for name, roles in tasks.items() if fits(table, roles, said)]
    if len(fitting) == 1:
        return fitting[0]
    columns = ", ".join(table.columns)
    if fitting:
        raise DataError(f"{source.name} fits several tasks: {', '.join(fitting)}. Columns: {columns}. "
                        f"Choose one: --task {fitting[0]}")
    nearest = _nearest_task(table, tasks, said)
    if nearest:
        match_columns(table, tasks[nearest], said, source.name)  # Raises, and says which column is missing.
    wants = "; ".join(f"{name} wants {', '.join(role for role, column in roles.items() if column.required)}"
                      for name, roles in tasks.items())
    raise DataError(f"{source.name} fits no task. Columns: {columns}. {wants}. Choose the task and say which column "
                    f"holds what: --task {next(iter(tasks))} --columns ROLE=COLUMN")


def _nearest_task(table: Table, tasks: dict[str, dict[str, Column]], said: dict[str, str]) -> str | None:
    """The one task whose inputs fit while its target is not found; text tasks come last: any text column fits them."""
    near = {}
    for name, roles in tasks.items():
        inputs = {role: column for role, column in roles.items() if not column.target}
        if fits(table, inputs, {role: column for role, column in said.items() if role in inputs}) \
                and said.keys() <= roles.keys():
            near[name] = any(column.kind == "text" for column in inputs.values())
    first = [name for name, is_text in near.items() if not is_text] or list(near)
    return first[0] if len(first) == 1 else None


def load_rows(source: Any, roles: dict[str, Column], settings: Any, cut: bool = True, before_rows: Callable[[], None] | None = None) -> Rows:
    """Read, recognise, check, name the labels, cut the missing splits. Raises DataError.

    source: a path, Hub id, Python object or an already read `Source`. settings: a Recipe. cut: False leaves missing
    splits empty. before_rows: called when columns and labels are known, before every row is opened.
    """
    source = read_source(source, settings)
    rows = _loaded(source, roles, settings, cut, settings.output_dir, before_rows)
    if cut:
        datareport.check_train(rows.report, source.name)
    datareport.say(rows.report)
    return rows


def _loaded(source: Source, roles: dict[str, Column], settings: Any, cut: bool, output_dir: str | None = None,
            before_rows: Callable[[], None] | None = None) -> Rows:
    train = _train_table(source, cut)
    columns = match_columns(train, roles, dict(settings.columns or {}), source.name)
    _check_split_by(train, settings.split_by, source.name)
    hint_ignored((name for name in source.splits if name not in CANONICAL), "splits of other names")
    parts = [make_part(name, source.splits[name], roles, columns, settings.split_by)
             for name in CANONICAL if name in source.splits]
    labelled = [part for part in parts if part.is_labelled]
    target = _recognise(parts, labelled, roles, settings.problem_type)
    if before_rows:
        before_rows()
    check_parts(parts, labelled, roles, target)
    bad_rows = datareport.judge_bad_rows(parts, source.name, settings.on_bad_rows, output_dir)
    store = stored(parts)
    given = as_splits(parts, store)
    made, origins = _cut_missing(given, target, settings, labelled[0].target_role, cut)
    unlabelled = {part.name: given[part.name] for part in parts if not part.is_labelled}
    report = datareport.build(source, columns, target, settings, (made, unlabelled, origins), bad_rows)
    return Rows(made["train"], made["validation"], made["test"], target, columns, report, unlabelled,
                source.name, report["fingerprint"], source.revision)


def load_split(source: Any, split: str, roles: dict[str, Column], settings: Any, target: Target,
               report: dict | None = None) -> Split:
    """One labelled split, for `evaluate`. Its labels must be among the target's.

    report: the data.json of the Run, whose recipe `settings` then are. Where the source is the data the Run was
    trained on, and the split was cut from it, the same rows come out again and not those it was trained on.
    Any other source without splits is taken whole. Raises DataError for an unknown split or label, or no labels.
    """
    source = read_source(source, settings)
    again = _cut_again(source, split_name(split) or split, roles, settings, report) if report else None
    if again:
        return again
    name = (split_name(split) or split) if source.named else "train"
    if name not in source.splits:
        raise DataError(f"{source.name} has no split {split!r}. Splits: {', '.join(source.splits)}. "
                        f"Choose one: --split {next(iter(source.splits))}")
    table = source.splits[name]
    if not source.named:
        hint(f"{source.name} has no splits: all its {table.num_rows} rows are used")
    columns = match_columns(table, roles, dict(settings.columns or {}), source.name)
    part = make_part(split, table, roles, columns, None)
    if not part.is_labelled:
        raise DataError(f"split {split!r} of {source.name} has no labels: column {part.target_column!r} is "
                        "empty or -1 in every row. Evaluate on a split with labels, or use `hfxfer predict`")
    check_parts([part], [part], roles, target)
    datareport.judge_bad_rows([part], source.name, settings.on_bad_rows)
    return as_splits([part], stored([part]))[part.name]


def _cut_again(source: Source, split: str, roles: dict[str, Column], settings: Any, report: dict) -> Split | None:
    """The Run's own split, where the source has the same rows and targets; None where it is other data."""
    told = report["splits"].get(split)
    if told is None or told["origin"] == "given":
        return None
    expected = sum(entry["num_rows"] for entry in report["splits"].values()) + len(report["bad_rows"])
    there = sum(source.splits[name].num_rows for name in CANONICAL if name in source.splits)
    if there < expected or there > expected + sum(report["unlabelled"].values()):
        return None
    try:
        rows = _loaded(source, roles, settings, cut=True)
    except DataError:  # Other data with as many rows: its own fault is found by the usual way.
        return None
    return rows.splits[split] if rows.fingerprint == report["fingerprint"] else None


def _train_table(source: Source, cut: bool) -> Table:
    """The split that tells the columns. Only a caller that cuts nothing can do without train."""
    first = next((source.splits[name] for name in CANONICAL if name in source.splits), None)
    if "train" in source.splits or (first is not None and not cut):
        return first
    raise DataError(f"{source.name} has no train split, only {', '.join(source.splits)}. Name one of them train "
                    "(also training), or give its folder or file alone")


def _check_split_by(table: Table, split_by: str | None, source: str) -> None:
    if split_by and split_by not in table.columns:
        raise DataError(f"column {split_by!r} (--split_by) not found in {source}. Columns: {', '.join(table.columns)}")


def _recognise(parts: list[Part], labelled: list[Part], roles: dict[str, Column], problem_type: str) -> Target:
    if not parts[0].is_labelled:
        raise DataError(f"the {parts[0].name} split has no labels: the label is empty or -1 in every row. "
                        "Fill the column, or say which one holds the label: --columns label=NAME")
    role = labelled[0].target_role
    if role is None:
        return Target("other", ())
    return recognise_target(roles[role].kind, [own_cells(part) for part in labelled], problem_type, role)


def _cut_missing(given: dict[str, Split], target: Target, settings: Any, target_role: str | None, cut: bool,
                 ) -> tuple[dict[str, Split], dict[str, dict]]:
    """The three splits, and how each came to be. Unlabelled ones count as missing."""
    made = {name: split for name, split in given.items() if split.is_labelled}
    origins: dict[str, dict] = {name: {"origin": "given"} for name in made}
    if "train" not in made:
        made["train"], origins["train"] = next(iter(made.values())).select((), "train"), {"origin": "none"}
    for name, size in (("test", settings.test_size), ("validation", settings.validation_size)):
        if name in made:
            continue
        if not cut or size == 0:
            made[name], origins[name] = made["train"].select((), name), {"origin": "none"}
            continue
        made["train"], made[name] = _cut_one(made["train"], name, size, target, settings, target_role)
        origins[name] = {"origin": "cut from train", "size": size, "seed": settings.seed,
                         "stratified_by": splits.STRATIFIED_BY.get(target.problem_type), "split_by": settings.split_by}
        origins["train"] = {"origin": "what was left"}
    return made, origins


def _cut_one(train: Split, name: str, size: float, target: Target, settings: Any, target_role: str | None,
             ) -> tuple[Split, Split]:
    """(what is left of train, the new split)."""
    values = train.column(target_role) if target_role else [None] * train.num_rows
    contents = [rowcheck.content_of(row_id) for row_id in train.row_ids]
    groups = splits.group_keys(contents, train.column(GROUP) if settings.split_by else None)
    chosen = splits.cut(groups, splits.strata_of(target, values), size, settings.seed)
    if not chosen:
        raise DataError(f"{train.num_rows} rows ({len(set(groups))} different ones) are too few to cut {name} from train. Give more rows, or give a {name} "
                        "split")
    taken = set(chosen)
    return train.select(i for i in range(train.num_rows) if i not in taken), train.select(chosen, name)
