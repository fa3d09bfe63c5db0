"""What the target column is, its labels and their order, and each row's target in one form.

Order of labels: a ClassLabel's own; integers in numeric order (also when a CSV holds them as text, which stays as it
is: "001"); booleans "False", "True"; text sorted by code point. Over the union of all splits.

Problem type: lists → multi-label; floats that are not all whole → regression (also as text in CSV); else single
label. A CSV whose labels are partly numbers and partly words is refused until the user says what they are.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hfxfer.columns import as_list, is_missing, plain
from hfxfer.errors import DataError

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
TAGS, OTHER = "tags", "other"
INTEGER = re.compile(r"[+-]?\d+")
WHOLE = re.compile(r"[+-]?\d+\.0*")


@dataclass(frozen=True, slots=True)
class Target:
    """What the target column turned out to be.

    problem_type: single_label_classification, multi_label_classification, regression, tags or other.
    labels: names in the documented order, over the union of all splits; () for regression and other.
    """

    problem_type: str
    labels: tuple[str, ...]


@dataclass(slots=True)
class Cells:
    """The target column of one split: raw cells, and the names where it is a ClassLabel."""

    values: list
    names: list[str] | None
    place: Callable[[int], str]
    typed: bool = True


def is_unlabelled(cells: Cells) -> bool:
    """True where all of the split's targets are missing, −1 or empty lists."""
    return all(_is_no_label(plain(value)) for value in cells.values)


def _is_no_label(value: Any) -> bool:
    if is_missing(value) or value == -1 or (isinstance(value, str) and value.strip() in ("-1", "-1.0")):
        return True
    items = as_list(value)
    return items is not None and all(item == -1 for item in items)


def recognise_target(kind: str, parts: Sequence[Cells], problem_type: str, column: str) -> Target:
    """The target over all labelled splits. Raises DataError for mixed types, one class, or what is no label.

    parts: raw cells of each labelled split, train first. problem_type: "auto", or what the user says it is.
    """
    if kind == "tags":
        return Target(TAGS, _labels(parts, column, _tags))
    if kind != "label":
        return Target(OTHER, ())
    if problem_type == "auto":
        problem_type = _guess_problem_type(parts, column)
    if problem_type == REGRESSION:
        return Target(REGRESSION, ())
    labels = _labels(parts, column, _multi if problem_type == MULTI else _single)
    return Target(problem_type, labels)


def _guess_problem_type(parts: Sequence[Cells], column: str) -> str:
    values = [plain(value) for part in parts for value, _ in _counted(part.values) if not is_missing(value)]
    kinds = {_type_name(value): value for value in values}
    if len(kinds) > 1 and not kinds.keys() <= {"int", "float"}:
        raise DataError(_mixed(parts, column))
    if set(kinds) == {"list"}:
        return MULTI
    if any(part.names is not None for part in parts) or "bool" in kinds:
        return SINGLE
    if set(kinds) == {"str"} and not any(part.typed for part in parts):
        numbers = [as_number(text) for text in values]
        if None in numbers and any(number is not None for number in numbers):
            raise DataError(_mixed(parts, column))
        return SINGLE if None in numbers or all(number.is_integer() for number in numbers) else REGRESSION
    return REGRESSION if any(isinstance(value, float) and not value.is_integer() for value in values) else SINGLE


def _counted(values: list) -> Iterable[tuple[Any, int]]:
    """Each distinct cell with its count, so that a label of a million rows is read once; lists one by one."""
    try:
        return [(value, times) for (_, value), times in Counter((type(value), value) for value in values).items()]
    except TypeError:  # Lists are not hashable.
        return ((value, 1) for value in values)


def _type_name(value: Any) -> str:
    if as_list(value) is not None:
        return "list"
    return type(value).__name__


def _mixed(parts: Sequence[Cells], column: str) -> str:
    """The message for several types in one column, with the first cell of each."""
    seen: dict[str, str] = {}
    for part in parts:
        for i, value in enumerate(part.values):
            value = plain(value)
            if not is_missing(value):
                kind = _type_name(value)
                kind = "number" if kind == "str" and not part.typed and as_number(value) is not None else kind
                seen.setdefault(kind, f"{value!r} ({part.place(i)})")
    examples = ", ".join(f"{kind} {example}" for kind, example in seen.items())
    return (f"column {column!r} mixes types of labels: {examples}. Give every row the same type, or take them all as "
            f"names: --problem_type {SINGLE}")


def as_number(value: Any) -> float | None:
    """A finite number, also written as text; None for anything else."""
    if isinstance(value, str) and not re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def label_reader(target: Target, parts: Sequence[Cells]) -> list[Callable[[Any], Any]]:
    """One function a split: raw cell → the row's target (name, list of names, float), None where it has none.

    The function raises DataError for a cell that cannot be a target of this kind.
    """
    if target.problem_type == OTHER:
        return [lambda value: value for _ in parts]
    if target.problem_type == REGRESSION:
        return [_read_number for _ in parts]
    rule = {TAGS: _tags, MULTI: _multi, SINGLE: _single}[target.problem_type]
    return rule(parts)


def _read_number(value: Any) -> float | None:
    if is_missing(value):
        return None
    number = as_number(plain(value))
    if number is None:
        raise DataError(f"{value!r} is not a number")
    return number


def _single(parts: Sequence[Cells]) -> list[Callable]:
    return [_one_of(part.names, _whole_floats(parts)) for part in parts]


def _multi(parts: Sequence[Cells]) -> list[Callable]:
    switches, floats = _are_switches(parts), _whole_floats(parts)

    def reader(names: list[str] | None) -> Callable:
        one = _one_of(names, floats)

        def read(value: Any) -> list[str] | None:
            if is_missing(value):
                return None
            items = as_list(value)
            if items is None:
                items = [value]
            if switches:
                items = [i for i, on in enumerate(items) if on]
            return list(dict.fromkeys(_no_none(one(item), value) for item in items))
        return read
    return [reader(part.names) for part in parts]


def _tags(parts: Sequence[Cells]) -> list[Callable]:
    def reader(names: list[str] | None) -> Callable:
        one = _one_of(names, False)

        def read(value: Any) -> list[str] | None:
            if is_missing(value):
                return None
            items = as_list(value)
            if items is None:
                raise DataError(f"{value!r} is not a list of tags")
            return [_no_none(one(item), value) for item in items]
        return read
    return [reader(part.names) for part in parts]


def _no_none(label: str | None, value: Any) -> str:
    if label is None:
        raise DataError(f"a label is missing in {value!r}")
    return label


def _one_of(names: list[str] | None, whole_floats: bool) -> Callable[[Any], str | None]:
    """Raw value → label name. whole_floats: "1.0" (an integer column that had gaps) counts as 1."""
    def read(value: Any) -> str | None:
        value = plain(value)
        if is_missing(value):
            return None
        items = as_list(value)
        if items is not None and not isinstance(value, str):
            if len(items) != 1:
                raise DataError(f"{value!r} is a list of {len(items)} labels. Give one label a row, or "
                                f"--problem_type {MULTI}")
            value = plain(items[0])
        if names is not None and isinstance(value, int) and not isinstance(value, bool):
            if value == -1:
                return None
            if not 0 <= value < len(names):
                raise DataError(f"label {value} is not in 0…{len(names) - 1}, the names of the ClassLabel")
            return names[value]
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        text = str(value).strip()
        return str(int(float(text))) if whole_floats and WHOLE.fullmatch(text) else text
    return read


def _whole_floats(parts: Sequence[Cells]) -> bool:
    """True where an untyped table writes numbers as 1.0, 2.0: integers that went through a column with gaps."""
    if any(part.typed for part in parts):
        return False
    values = [value.strip() for part in parts for value in part.values if not is_missing(value)]
    return all(INTEGER.fullmatch(value) or WHOLE.fullmatch(value) for value in values)


def _are_switches(parts: Sequence[Cells]) -> bool:
    """True for lists of 0 and 1, one place a label, against lists of label ids: equal lengths, and repeats."""
    rows = [as_list(value) for part in parts for value in part.values if not is_missing(value)]
    if any(part.names for part in parts) or not rows or any(row is None for row in rows):
        return False
    lengths = {len(row) for row in rows}
    return (
        len(lengths) == 1
        and min(lengths) > 1
        and all(item in (0, 1) and not isinstance(item, str) for row in rows for item in row)
        and any(len(set(row)) < len(row) for row in rows)
    )


def _labels(parts: Sequence[Cells], column: str, rule: Callable) -> tuple[str, ...]:
    counts: Counter[str] = Counter()
    for part, read in zip(parts, rule(parts)):
        for value, times in _counted(part.values):
            try:
                label = read(value)
            except DataError:
                continue  # The row's own fault, listed with its place by the row check.
            for one in label if isinstance(label, list) else [] if label is None else [label]:
                counts[one] += times
    if rule is _multi and _are_switches(parts):
        first = next(as_list(value) for value in parts[0].values if not is_missing(value))
        counts.update({str(i): 0 for i in range(len(first))})
    given = [name for part in parts for name in part.names or ()]
    _check_labels(counts, column, rule)
    return tuple(dict.fromkeys(given)) + tuple(sorted(counts.keys() - set(given), key=label_order(counts)))


def label_order(labels: Any) -> Callable[[str], tuple]:
    """Sort key: numeric where every label is an integer or a number, else the text itself."""
    numbers = {label: as_number(label) for label in labels}
    if all(number is not None for number in numbers.values()):
        return lambda label: (numbers[label], label)
    return lambda label: (label,)


def _check_labels(counts: Counter, column: str, rule: Callable) -> None:
    num_rows = sum(counts.values())
    if len(counts) == 0:
        raise DataError(f"column {column!r} holds no label in any row. Fill it, or say which column holds the labels: "
                        "--columns label=NAME")
    if len(counts) == 1 and rule is _single:
        raise DataError(f"column {column!r} has one class only: {next(iter(counts))!r}. A classifier needs two or more")
    if len(counts) == 1 and rule is _tags:
        raise DataError(f"column {column!r} has one tag only: {next(iter(counts))!r}. There is no entity to learn")
    if rule is _single and num_rows >= 20 and len(counts) > num_rows / 2:
        examples = ", ".join(repr(label) for label in list(counts)[:3])
        numeric = all(as_number(label) is not None for label in counts)
        advice = f"--problem_type {REGRESSION}" if numeric else "--columns label=NAME"
        raise DataError(f"column {column!r} holds {len(counts)} different labels in {num_rows} rows ({examples}, …), "
                        f"which looks like {'a measured value' if numeric else 'free text or an id'}. Say what it is: "
                        f"{advice}")
