"""How far an answer above a threshold can be trusted: measured on the test rows that predictions.parquet holds.

One label: coverage (share of rows whose highest probability reaches the threshold) and accuracy among these. Several
labels: micro precision and recall of the labels given. Words: the same as one label, counted over the entities found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hfxfer.demo import words
from hfxfer.metrics._entities import entities
from hfxfer.metrics._resampling import wilson
from hfxfer.run import Run
from hfxfer.tasks._task import MULTI_LABEL, SINGLE_LABEL
from hfxfer.tasks.token_classification import _iob


@dataclass(frozen=True, slots=True)
class Measured:
    """confidence: (N,) of each thing that was or could be answered; right: (N,) bool, whether it is right.

    num_rows: test rows that they come from; wanted: right answers in all, which recall is a share of.
    """

    kind: str
    confidence: np.ndarray
    right: np.ndarray
    num_rows: int
    wanted: int

    def at(self, threshold: float) -> dict[str, float]:
        """num_rows, given, coverage, accuracy with its 95 % Wilson interval (low, high), recall. NaN where nothing reaches the threshold."""
        given = self.confidence >= threshold
        number, right = int(given.sum()), int(self.right[given].sum())
        accuracy = right / number if number else float("nan")
        low, high = (float(limit) for limit in wilson(accuracy, number)) if number else (float("nan"), float("nan"))
        return {"num_rows": self.num_rows, "given": number, "coverage": number / max(1, len(given)), "accuracy": accuracy, "low": low, "high": high,
                "recall": right / max(1, self.wanted)}

    def sentence(self, threshold: float) -> str:
        """The measured numbers at this threshold, in words."""
        found = self.at(threshold)
        named = {"threshold": percent(threshold), "rows": f"{self.num_rows:,}", "given": f"{found['given']:,}", "found": f"{len(self.confidence):,}"}
        said, silent = {SINGLE_LABEL: (words.MEASURED, words.NEVER_SURE), MULTI_LABEL: (words.MEASURED_LABELS, words.NO_LABELS_MEASURED),
                        "tags": (words.MEASURED_ENTITIES, words.NEVER_SURE_ENTITIES)}[self.kind]
        if not found["given"]:
            return silent.format(**named)
        return said.format(**named, coverage=percent(found["coverage"]), accuracy=percent(found["accuracy"]), precision=percent(found["accuracy"]),
                           recall=percent(found["recall"]), low=percent(found["low"]), high=percent(found["high"]))


def percent(share: float) -> str:
    """97 %; a share below 1 but not 1 is never rounded up to 100 %, nor one above 0 down to 0 %."""
    whole = round(100 * share)
    if (whole == 100 and share < 1) or (whole == 0 and share > 0):
        return f"{100 * share:.1f} %" if 0.0005 <= share < 0.9995 else ("> 99.9 %" if share > 0.5 else "< 0.1 %")
    return f"{whole} %"


def measured(run: Run | None, problem_type: str, labels: tuple[str, ...]) -> Measured | None:
    """From the Run's predictions.parquet; None where there is none, and for numbers. Raises RunError where it is broken."""
    if run is None or not run.predictions_path.is_file() or problem_type not in (SINGLE_LABEL, MULTI_LABEL, "tags"):
        return None
    table = run.predictions()
    if not table.num_rows or table["probabilities"].null_count:
        return None
    columns = {name: table[name].to_pylist() for name in ("reference", "prediction")}
    probabilities = table["probabilities"]
    if problem_type == "tags":
        return _of_tags(columns, probabilities.to_pylist())
    matrix = np.asarray(probabilities.combine_chunks().flatten().to_numpy(zero_copy_only=False), np.float32).reshape(table.num_rows, -1)
    if problem_type == SINGLE_LABEL:
        right = np.asarray([reference == answer for reference, answer in zip(columns["reference"], columns["prediction"])])
        return Measured(SINGLE_LABEL, matrix.max(1), right, table.num_rows, table.num_rows)
    marks = np.asarray([[name in row for name in labels] for row in map(set, columns["reference"])], bool)
    return Measured(MULTI_LABEL, matrix.ravel(), marks.ravel(), table.num_rows, int(marks.sum()))


def _of_tags(columns: dict[str, list], probabilities: list[Any]) -> Measured:
    confidence, right, wanted = [], [], 0
    for reference, answer, matrix in zip(columns["reference"], columns["prediction"], probabilities):
        true = set(entities(_iob(reference)))
        wanted += len(true)
        best = np.asarray(matrix, np.float32).max(1) if len(matrix) else np.empty(0)
        for span in entities(_iob(answer)):
            confidence.append(float(best[span[1]:span[2] + 1].mean()))
            right.append(span in true)
    return Measured("tags", np.asarray(confidence), np.asarray(right, bool), len(probabilities), wanted)
