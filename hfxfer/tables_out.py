"""Predictions as lines on the screen, or as a CSV, JSONL or Parquet file."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from hfxfer.errors import RecipeError

ENDINGS = (".csv", ".jsonl", ".parquet")


def check_ending(output: str) -> None:
    """Raise RecipeError unless the file's ending names a known form."""
    if Path(output).suffix.lower() not in ENDINGS:
        raise RecipeError(f"--output is {output!r}; allowed endings: {', '.join(ENDINGS)}")


def lines(records: list[dict[str, Any]]) -> list[str]:
    """CSV lines, a header first."""
    return _csv(records).removesuffix("\n").split("\n")


def write(records: list[dict[str, Any]], output: str) -> None:
    """One row a record; lists are JSON in CSV and Parquet columns of text. The file is there whole or not at all."""
    path = Path(output)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    ending = path.suffix.lower()
    try:
        if ending == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet

            pyarrow.parquet.write_table(pa.Table.from_pylist([_flat(record) for record in records]), temporary)
        elif ending == ".jsonl":
            temporary.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8", newline="")
        else:
            temporary.write_text(_csv(records), encoding="utf-8", newline="")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _csv(records: list[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(records[0]) if records else ["input"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(record) for record in records)
    return text.getvalue()


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value for name, value in record.items()}
