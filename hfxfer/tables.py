"""`Source` and `Table`, and what fills a table: one file or one Python object.

CSV and TSV cells stay text ("001", "NA" and "null" included); nothing is guessed here. A table says where each
row stands and which rows could not be read.
"""

from __future__ import annotations

import csv
import io
import json
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from hfxfer.console import Progress, hint
from hfxfer.errors import DataError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "eval"),
    "test": ("test", "testing"),
}


LINE = re.compile("[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
"""What `str.splitlines` parts a text into, one after the other."""


@dataclass(slots=True)
class Table:
    """One source split as it was read.

    columns: every column, whole and in order; large ones (pictures) stay on disk and read a cell when asked.
    features: what the source itself says of a column, in the JSON form of `datasets.Features`.
    place(i): where row i stands, for messages: "train.csv:12" or "train/cat/3.jpg".
    typed: False where every cell is text because the format knows no types (CSV, TSV).
    """

    columns: dict[str, Sequence[Any]]
    place: Callable[[int], str]
    features: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    faults: dict[int, str] = field(default_factory=dict)
    typed: bool = True

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0


@dataclass(slots=True)
class Source:
    """What was read. `splits` has the names train, validation, test, or others as the source calls them.

    named: False where the source has no splits and all rows stand under train.
    """

    name: str
    splits: dict[str, Table]
    named: bool = True
    revision: str | None = None
    config: str | None = None
    empty_folders: list[str] = field(default_factory=list)


def split_name(name: str) -> str | None:
    """"Val" → "validation"; None for a name that is no split's."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


class LazyColumn(Sequence):
    """A column that stays where it is: `cell(i)` reads one value, `whole()` all of them as a list."""

    def cell(self, index: int) -> Any:
        raise NotImplementedError

    def whole(self) -> list:
        return [self.cell(i) for i in range(len(self))]

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self.cell(i) for i in range(*index.indices(len(self)))]
        return self.cell(range(len(self))[index])


class DatasetColumn(LazyColumn):
    """One column of a `datasets.Dataset`."""

    def __init__(self, dataset: Any, name: str):
        self.dataset, self.name = dataset.select_columns([name]), name

    def __len__(self) -> int:
        return len(self.dataset)

    def cell(self, index: int) -> Any:
        return self.dataset[index][self.name]

    def whole(self) -> list:
        return list(self.dataset[:][self.name])


class ArrowColumn(LazyColumn):
    """One column of a `pyarrow.Table`."""

    def __init__(self, cells: Any):
        self.cells = cells

    def __len__(self) -> int:
        return len(self.cells)

    def cell(self, index: int) -> Any:
        return self.cells[index].as_py()

    def whole(self) -> list:
        return self.cells.to_pylist()


class ChainedColumn(LazyColumn):
    """Columns one after the other."""

    def __init__(self, columns: list[Sequence[Any]]):
        self.columns, self.starts = columns, [0, *accumulate(len(column) for column in columns)]

    def __len__(self) -> int:
        return self.starts[-1]

    def cell(self, index: int) -> Any:
        part = bisect_right(self.starts, index) - 1
        return self.columns[part][index - self.starts[part]]

    def whole(self) -> list:
        return [value for column in self.columns for value in whole(column)]


def read_table(path: Path) -> Table:
    """Read one CSV, TSV, JSON, JSONL or Parquet file. Raises DataError where it is empty or cannot be read."""
    suffix = path.suffix.lower()
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path.name} is empty (0 bytes)")
        if suffix == ".parquet":
            table = _read_parquet(path)
        elif suffix in (".csv", ".tsv"):
            table = _read_csv(path)
        elif suffix in (".json", ".jsonl", ".ndjson"):
            table = _read_json(path)
        else:
            raise DataError(f"{path.name}: cannot read {suffix or 'a file without an ending'}. Allowed: {' '.join(SUFFIXES)}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if table.num_rows == 0:
        raise DataError(f"{path.name} has a header but no rows" if table.columns else f"{path.name} has no rows")
    table.folder = path.parent
    return table


def read_text(path: Path) -> str:
    """The file as text: UTF-8 with or without a byte order mark, or UTF-16 with one. Raises DataError."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path.name} is not UTF-8 text: byte 0x{content[error.start]:02x} in line {line}. Save it as UTF-8, "
            f"for instance: iconv -f latin1 -t utf-8 {path.name} > utf8-{path.name}"
        ) from error
    if "\0" in text:
        raise DataError(f"{path.name} is not a text file: it holds zero bytes. Save it as UTF-8 text")
    return text


def shape(path: Path) -> tuple[int, int]:
    """Rows and columns of a CSV, TSV, JSONL or text file (a row a line), counted without keeping them. Raises DataError.

    A row need not fill its columns, so a small file may be a huge table: 1 MB of short rows under 1 MB of header has 10¹⁰ cells.
    """
    text = read_text(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        rows = _csv_rows(path, text)
        header = _csv_header(rows)
        return sum(1 for _ in rows), len(header)
    if path.suffix.lower() != ".jsonl":
        return sum(not found.group().isspace() for found in LINE.finditer(text)), 1
    num_rows, names = 0, set()
    for num_rows, line in enumerate(filter(str.strip, io.StringIO(text, newline="\n")), start=1):
        names |= set(_object(line) or ())
    return num_rows, len(names)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(line that it begins in, cells) of each line that is not empty."""
    if not text.strip():
        raise DataError(f"{path.name} is empty: it has no header and no rows")
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text), skipinitialspace=False)
    start = 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path.name}:{reader.line_num} is not CSV: {error}") from error


def _csv_header(rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    return next(([name.strip() for name in cells] for _, cells in rows if any(cells)), [])


def _read_csv(path: Path) -> Table:
    numbered = _csv_rows(path, read_text(path))
    header = _csv_header(numbered)
    _check_header(header, path)
    rows, lines, faults = [], [], {}
    for start, cells in numbered:
        if len(cells) != len(header):
            faults[len(rows)] = f"{len(cells)} cells where the header has {len(header)} (a quote not closed?)"
            cells = (cells + [""] * len(header))[: len(header)]
        rows.append(cells)
        lines.append(start)
    columns = {name: [cells[i] for cells in rows] for i, name in enumerate(header) if name}
    return Table(columns, lambda i: f"{path.name}:{lines[i]}", faults=faults, typed=False)


def _delimiter(path: Path, text: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    header = text.lstrip("\r\n").splitlines()[0]
    unquoted = "".join(part for i, part in enumerate(header.split('"')) if i % 2 == 0)
    return max(",;\t|", key=unquoted.count)


def _check_header(header: list[str], path: Path) -> None:
    twice = sorted(name for name, number in Counter(header).items() if name and number > 1)
    if twice:
        raise DataError(f"{path.name}: the header names {', '.join(map(repr, twice))} twice. Rename one of them")


def _read_json(path: Path) -> Table:
    text = read_text(path)
    if path.suffix.lower() == ".json":
        try:
            return _from_json_value(_parsed(text), path)
        except json.JSONDecodeError as error:
            if _object(text.lstrip().split("\n", 1)[0]) is None:
                raise DataError(f"{path.name}:{error.lineno} is not JSON: {error.msg}") from error
    rows, lines, faults = [], [], {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _parsed(line)
            fault = None if isinstance(row, dict) else "not a JSON object"
        except json.JSONDecodeError as error:
            row, fault = None, f"not JSON: {error.msg}"
        if fault:
            if not rows:
                raise DataError(f"{path.name}:{number} is {fault}. Each line must be an object: {{\"text\": …}}")
            faults[len(rows)] = fault
        rows.append({} if fault else row)
        lines.append(number)
    return Table(_columns_of(rows), lambda i: f"{path.name}:{lines[i]}", faults=faults)


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = _parsed(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
        raise json.JSONDecodeError(said, text, 0) from error


def _from_json_value(value: Any, path: Path) -> Table:
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, dict) and value and all(isinstance(cells, list) for cells in value.values()):
        lengths = {name: len(cells) for name, cells in value.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{path.name}: the columns differ in length: {lengths}")
        return Table(value, lambda i: f"{path.name} row {i + 1}")
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return Table(_columns_of(value), lambda i: f"{path.name} row {i + 1}")
    raise DataError(f"{path.name} holds no table. Allowed: a list of objects, an object of equally long lists, "
                    'or one object a line')


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path.name} is not a Parquet file: {str(error).splitlines()[0]}") from error
    told = (table.schema.metadata or {}).get(b"huggingface")
    features = json.loads(told).get("info", {}).get("features", {}) if told else {}
    columns = {name: ArrowColumn(table.column(name)) for name in table.column_names
               if not name.startswith("__index_level_")}
    return Table(columns, lambda i: f"{path.name} row {i + 1}", features=features or {})


def from_rows(rows: Iterable[dict], what: str, total: int | None = None) -> Table:
    """A table from dictionaries; progress is shown while they are drawn (an `IterableDataset` may be long)."""
    taken: list[dict] = []
    with Progress(total, "rows read") as bar:
        for row in rows:
            if not isinstance(row, dict):
                raise DataError(f"{what}: row {len(taken)} is a {type(row).__name__}; each row must be a dict")
            taken.append(row)
            bar.advance()
    return Table(_columns_of(taken), lambda i: f"{what} row {i}")


def from_dataset(dataset: Any, what: str) -> Table:
    """A table over a `datasets.Dataset`; pictures and sounds stay encoded and are read when asked for."""
    dataset = undecoded(dataset.with_format(None))
    return Table({name: DatasetColumn(dataset, name) for name in dataset.column_names}, lambda i: f"{what} row {i}",
                 features=dataset.features.to_dict())


def undecoded(dataset: Any) -> Any:
    """The dataset with its pictures and sounds as {"bytes", "path"}: decoding all would cost memory and packages."""
    for name, feature in (dataset.features or {}).items():
        if type(feature).__name__ in ("Image", "Audio", "Video"):
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset


def from_frame(frame: Any, what: str) -> Table:
    """A table from a pandas DataFrame; its missing values become None."""
    columns = {}
    for name in frame.columns:
        missing = frame[name].isna().tolist()
        columns[str(name)] = [None if gone else cell for cell, gone in zip(frame[name].tolist(), missing)]
    return Table(columns, lambda i: f"{what} row {i}")


def _columns_of(rows: list[dict]) -> dict[str, list]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def joined(parts: list[Table], what: str) -> Table:
    """Shards of one split, one after the other. Raises DataError where their columns differ."""
    if len(parts) == 1:
        return parts[0]
    names = list(parts[0].columns)
    for part in parts[1:]:
        if set(part.columns) != set(names):
            raise DataError(f"{what}: the files differ in columns: {', '.join(names)} in {parts[0].place(0)}, "
                            f"{', '.join(part.columns)} in {part.place(0)}. Give them the same columns")
    starts, total = [], 0
    for part in parts:
        starts.append(total)
        total += part.num_rows
    columns = {name: chained([part.columns[name] for part in parts]) for name in names}
    faults = {start + i: fault for start, part in zip(starts, parts) for i, fault in part.faults.items()}
    places = [part.place(i) for part in parts for i in range(part.num_rows)]
    return Table(columns, places.__getitem__, parts[0].features, parts[0].folder, faults,
                 all(part.typed for part in parts))


def whole(column: Sequence[Any]) -> list:
    """The column as a list in memory."""
    return column.whole() if isinstance(column, LazyColumn) else list(column)


def chained(columns: list[Sequence[Any]]) -> Sequence[Any]:
    """Columns one after the other; lazy where one of them is."""
    if not any(isinstance(column, LazyColumn) for column in columns):
        return [cell for column in columns for cell in column]
    return ChainedColumn(columns)


def hint_ignored(names: Iterable[str], why: str) -> None:
    """One line about files or splits that are there and are not used."""
    names = sorted(names)
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        hint(f"not used ({why}): {', '.join(names[:5])}{more}")
