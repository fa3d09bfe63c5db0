"""Inputs that people reported as wrong, with the right label: a folder that `hfxfer train --data` takes as it is.

    pictures   metadata.jsonl, a line each: {"file_name": "0a1b….png", "label": …}, beside the PNG files
    texts      flags.jsonl: {"text": …, "label": …}, with text_pair where there is one
    words      flags.jsonl: {"tokens": […], "tags": […]}
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
from pathlib import Path
from typing import Any

from hfxfer import console
from hfxfer.demo import words
from hfxfer.demo.refusals import refusal
from hfxfer.demo.served import Served
from hfxfer.errors import RecipeError
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION

MOST = 10_000
MOST_MB = 2_000
"""Of all reports: pictures are kept as PNG, at full size."""

OWN = re.compile(r"[0-9a-f]{32}\.png(\.part)?")
"""Names of the pictures that are kept; .part while one is written."""

FOLDER_HINT = "Give a new folder, or one that an earlier demo kept reports of this task in: --output_dir FOLDER, or HFXFER_FLAGS in the environment"

PICTURES, ROWS = "metadata.jsonl", "flags.jsonl"


class Flags:
    """The folder of reports for models like `served`. Raises RecipeError for one that holds something else."""

    def __init__(self, folder: str | Path, served: Served):
        self.folder, self.served = Path(folder), served
        self.path = self.folder / (PICTURES if served.is_image else ROWS)
        self._turn = threading.Lock()
        if self.folder.exists() and not self.folder.is_dir():
            raise RecipeError(f"reports cannot be kept in {folder}: it is a file. {FOLDER_HINT}")
        foreign = [path.name for path in self.folder.glob("*") if path != self.path and not (served.is_image and self._is_own(path))]
        if foreign:
            raise RecipeError(f"reports cannot be kept in {folder}: it holds other things ({', '.join(sorted(foreign)[:3])}). {FOLDER_HINT}")
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob("*.part"):
            left.unlink()
        self._bytes = sum(path.stat().st_size for path in self.folder.glob("*"))
        # Not splitlines(), which also parts a text at signs that JSON leaves as they are.
        self._known = set(self.path.read_text(encoding="utf-8").split("\n")) - {""} if self.path.is_file() else set()

    def _is_own(self, path: Path) -> bool:
        return bool(OWN.fullmatch(path.name)) or (path.suffix == ".png" and self.path.is_file())

    def keep(self, row: dict[str, Any], right: Any) -> str:
        """Store a checked row with what is right; a sentence for the person. Raises gr.Error."""
        target = self._target(row, right)
        with self._turn:
            if len(self._known) >= MOST:
                raise refusal(words.FLAGS_FULL, most=MOST)
            if self._bytes >= MOST_MB * 10**6:
                raise refusal(words.FLAGS_FULL_MB, most=MOST_MB)
            try:
                return self._kept(row, target)
            except OSError as error:
                console.error(f"a report could not be written into {self.folder}: {error}")
                raise refusal(words.NOT_KEPT) from error

    def _kept(self, row: dict[str, Any], target: dict[str, Any]) -> str:
        line = json.dumps({**self._stored(row), **target}, ensure_ascii=False, allow_nan=False)
        if line in self._known:
            return words.ALREADY_KEPT.format(number=len(self._known))
        before = self.path.stat().st_size if self.path.is_file() else 0
        try:
            with open(self.path, "a", encoding="utf-8", newline="\n") as file:
                file.write(line + "\n")
        except OSError:
            # Half a line would spoil the whole file for training.
            if self.path.is_file():
                os.truncate(self.path, before)
            raise
        self._bytes += self.path.stat().st_size - before
        self._known.add(line)
        return words.KEPT.format(number=len(self._known))

    def _stored(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row as JSON; a picture is written as PNG under the digest of its pixels, without what a camera noted in it."""
        if "image" not in row:
            return row
        path = self.folder / (hashlib.sha256(repr(row["image"].size).encode() + row["image"].tobytes()).hexdigest()[:32] + ".png")
        if not path.is_file():
            part = path.with_name(f"{path.name}.part")
            try:
                row["image"].save(part, "PNG")
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
            self._bytes += path.stat().st_size
        return {"file_name": path.name}

    def _target(self, row: dict[str, Any], right: Any) -> dict[str, Any]:
        """What is right under the role that training looks for, in the form that it takes. Raises gr.Error."""
        kind, labels = self.served.problem_type, self.served.labels
        if right is None or right == "" or right == []:
            raise refusal(words.NO_LABEL_CHOSEN)
        if kind == REGRESSION:
            try:
                number = float(right)
            except (TypeError, ValueError, OverflowError):
                number = math.nan
            if not math.isfinite(number):
                raise refusal(words.NO_NUMBER, value=str(right)[:80])
            return {"label": number}
        given = (right if isinstance(right, list) else str(right).split()) if kind == "tags" else right if kind == MULTI_LABEL else [right]
        for name in given if isinstance(given, list) else [given]:
            if name not in labels:
                raise refusal(words.UNKNOWN_LABEL, label=str(name)[:80], allowed=", ".join(labels[:20]))
        if kind == "tags":
            if len(given) != len(row["tokens"]):
                raise refusal(words.TAGS_DIFFER, words=len(row["tokens"]), tags=len(given))
            return {"tags": given}
        return {"label": [right] if kind == MULTI_LABEL and not isinstance(right, list) else right}
