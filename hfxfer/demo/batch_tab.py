"""The Batch tab and /batch: many pictures, or a table of texts, a table of answers and files to download."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from hfxfer import inputs as sources
from hfxfer import tables, tables_out
from hfxfer.demo import answers, limits, words
from hfxfer.demo.refusals import refusal
from hfxfer.demo.events import BATCH_QUEUE
from hfxfer.demo.inputs import as_it_came, named, uploaded
from hfxfer.demo.served import CHUNK, Served
from hfxfer.errors import DataError

TABLES = (".csv", ".tsv", ".jsonl", ".txt")
"""What a table may be. Not pictures by name: a row would name a file of the server."""


def uploads(payload: Any) -> list[tuple[str, str]]:
    """(path, the name that the person gave it) of every upload."""
    found = payload.root if hasattr(payload, "root") else [payload] if payload else []
    return [(str(uploaded(each)), Path(each.orig_name or each.path).name) for each in found]


Files = as_it_came(gr.File, uploads)


class BatchTab:
    """Built inside a gr.Tab. `which`: the dropdown of models, or None with one model."""

    def __init__(self, models: dict[str, Served], which: gr.Dropdown | None, threshold: gr.Slider):
        self.models, which_one = models, [which] if which else []
        self.first = next(iter(models.values()))
        gr.Markdown(words.BATCH_HINT.format(most=limits.BATCH_ROWS, mb=limits.UPLOAD_MB))
        label = words.FILES if self.first.is_image else words.TABLE
        kinds = ["image"] if self.first.is_image else list(TABLES)
        self.files = Files(label=label, file_count="multiple", file_types=kinds, height=160)
        with gr.Row():
            run, stop = gr.Button(words.RUN_BATCH, variant="primary"), gr.Button(words.STOP)
        self.status = gr.Markdown(elem_id="batch-status")
        self.table = gr.Dataframe(headers=list(words.BATCH_COLUMNS), datatype="str", interactive=False, wrap=True, label=words.BATCH_TABLE,
                                  show_search="filter", max_height=420, type="array")
        with gr.Row():
            downloads = [gr.DownloadButton(said, interactive=False) for said in (words.DOWNLOAD_CSV, words.DOWNLOAD_PARQUET)]
        going = run.click(self.run, [self.files, threshold, *which_one], [self.status, self.table, *downloads], api_visibility="private",
                          show_progress="hidden", **BATCH_QUEUE)
        stop.click(None, None, None, cancels=[going], api_visibility="private")
        gr.Button(visible=False).click(named(self.batch, ["files", *(["model"] if which else [])]), [self.files, *which_one],
                                       gr.JSON(visible=False), api_name="batch", api_description=words.API_BATCH, **BATCH_QUEUE)

    def batch(self, files: list[tuple[str, str]] | None, which: str | None = None) -> Iterator[list[Any]]:
        """/batch: what /predict gives, a row each, with `input`; or {input, problem}. Grows while it works, so that who leaves frees its place."""
        served = self.models.get(which or "", self.first)
        found: list[Any] = []
        for made in self._records(served, rows_of(served, files)):
            for record in made:
                answer = None if "problem" in record else answers.answer(record, served.problem_type)
                found.append(record if answer is None else {"input": record["input"], **_as_object(answer)})
            yield found

    def run(self, files: list[tuple[str, str]] | None, threshold: float, which: str | None = None) -> Iterator[tuple]:
        """Status, table, CSV and Parquet, chunk after chunk; the files come at the end."""
        served = self.models.get(which or "", self.first)
        rows = rows_of(served, files)
        records: list[dict[str, Any]] = []
        lines: list[list[str]] = []
        waiting = gr.DownloadButton(interactive=False)
        for made in self._records(served, rows):
            records += made
            lines += [_line(record, served.problem_type, threshold) for record in made]
            yield words.BATCH_PROGRESS.format(done=len(records), total=len(rows)), lines, waiting, waiting
        unsure, bad = (sum(bool(line[column]) for line in lines) for column in (3, 4))
        said = words.BATCH_DONE.format(total=len(rows), unsure=unsure, bad=bad, threshold=answers.percent(threshold))
        written = _written(records)
        yield said, lines, *(gr.DownloadButton(value=path, interactive=True) for path in written)

    def _records(self, served: Served, rows: list[tuple[str, dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
        """The record of each row, with `input` as the person named it, or with its problem; at most CHUNK at once, and fewer of large pictures."""
        made: list[tuple[str, Any]] = []
        pixels = 0
        for place, (name, row) in enumerate(rows, start=1):
            try:
                made.append((name, _checked(served, row)))
                pixels += made[-1][1]["image"].width * made[-1][1]["image"].height if served.is_image else 0
            except gr.Error as error:
                made.append((name, error.message))
            if place == len(rows) or len(made) == CHUNK or pixels >= limits.PIXELS:
                good = [found for _, found in made if isinstance(found, dict)]
                answered = iter(served.predict(good) if good else [])
                records = [{"input": name, **next(answered)} if isinstance(found, dict) else {"input": name, "problem": found} for name, found in made]
                made, good, pixels = [], [], 0
                yield records


def rows_of(served: Served, files: list[tuple[str, str]] | None) -> list[tuple[str, dict[str, Any]]]:
    """(name, row) of every picture, or of every row of the tables. Raises gr.Error; a picture is looked at when its turn comes."""
    if not files:
        raise refusal(words.NO_FILES)
    for path, name in files:
        if limits.size(path) > limits.UPLOAD_MB * 10**6:
            raise refusal(words.FILE_TOO_BIG, name=name, most=limits.UPLOAD_MB)
    num_rows = len(files) if served.is_image else sum(_num_rows(path, name) for path, name in files)
    if num_rows > limits.BATCH_ROWS:
        raise refusal(words.TOO_MANY_ROWS, rows=num_rows, most=limits.BATCH_ROWS)
    if served.is_image:
        return [(name, {"image": path}) for path, name in files]
    return [found for path, name in files for found in _table(served, path, name)]


def _num_rows(path: str, name: str) -> int:
    """Counted before the table stands in memory. Raises gr.Error, also for too many columns."""
    if not name.lower().endswith(TABLES) or not path.lower().endswith(TABLES):
        raise refusal(words.NO_TABLE, name=name, allowed=" ".join(TABLES))
    with _refusing(path, name):
        num_rows, columns = tables.shape(Path(path))
    if columns > limits.BATCH_COLUMNS:
        raise refusal(words.TOO_MANY_COLUMNS, columns=columns, most=limits.BATCH_COLUMNS)
    return num_rows


def _table(served: Served, path: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    with _refusing(path, name):
        split = sources.load_inputs([Path(path)], served.model().columns)
    rows = split.take(range(split.num_rows))
    roles = [role for role, column in served.task.columns.items() if not column.target]
    return [(served.task.describe_input(row), {role: row[role] for role in roles if row.get(role) is not None}) for row in rows]


@contextlib.contextmanager
def _refusing(path: str, name: str) -> Iterator[None]:
    """Of a DataError its sentence helps, but neither the folder that uploads lie in nor a flag of the command line does."""
    try:
        yield
    except DataError as error:
        said = str(error).partition(" Say which one")[0].replace(path, name)
        raise refusal(words.TABLE_UNUSABLE, said=said) from error


def _checked(served: Served, row: dict[str, Any]) -> dict[str, Any]:
    """The row with its picture decoded, or its texts measured. Raises gr.Error. An empty second text stays, as it does for `hfxfer predict`."""
    if "image" in row:
        return {"image": limits.picture(row["image"])}
    for role, value in row.items():
        limits.text(" ".join(value) if isinstance(value, list) else value, required=served.task.columns[role].required)
    return row


def _as_object(answer: Any) -> dict[str, Any]:
    return {"entities": answer} if isinstance(answer, list) else answer


def _line(record: dict[str, Any], kind: str, threshold: float) -> list[str]:
    """BATCH_COLUMNS of one record."""
    if "problem" in record:
        return [record["input"], "", "", "", record["problem"]]
    return [record["input"], *answers.line(record, kind, threshold), ""]


def _written(records: list[dict[str, Any]]) -> list[str]:
    """The records of `hfxfer predict` as CSV and Parquet, with a column for problems where there are any."""
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")))
    fields = list(dict.fromkeys(name for record in records for name in record))
    whole = [{name: record.get(name) for name in fields} for record in records]
    paths = [str(folder / f"predictions{ending}") for ending in (".csv", ".parquet")]
    for path in paths:
        tables_out.write(whole, path)
    return paths
