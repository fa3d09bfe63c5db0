"""compare: which of two Runs is better on the test rows that both scored, and whether that is established.

Reads the two Run folders and nothing else. How a difference and its interval are made is in `hfxfer/paired.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hfxfer import tasks
from hfxfer.errors import RunError
from hfxfer.metrics import METRICS, MULTI_LABEL, TOKENS
from hfxfer.paired import PROBLEM_TYPES, Difference, paired_differences
from hfxfer.run import Run
from hfxfer.tasks._task import Problem

SAME_ROWS = "Train both on the same data with the same seed, test_size, validation_size and split_by"


@dataclass(frozen=True, slots=True)
class Comparison:
    """first, second: the folders. values: metric → (first's score, second's). differences: second minus first."""

    first: str
    second: str
    primary_metric: str
    values: dict[str, tuple[float | None, float | None]]
    differences: tuple[Difference, ...]

    @property
    def primary(self) -> Difference:
        return next(each for each in self.differences if each.metric == self.primary_metric)

    @property
    def better(self) -> str | None:
        """The folder that is better by the primary metric, where that is established."""
        return _better(self, self.primary) if self.primary.established else None

    @property
    def sentence(self) -> str:
        """What may be said of the primary metric."""
        found, rows = self.primary, f"the same {self.primary.num_rows} rows"
        if found.difference is None:
            return f"not established: {found.metric} is undefined on {rows}"
        if found.method == "no row differs":
            return f"not established: {self.first} and {self.second} gave the same answers on {rows}"
        test = "" if found.p_value is None else f", exact McNemar p = {found.p_value:.2g}"
        lower = "" if METRICS[found.metric].greater_is_better else ", lower is better"
        measured = f"(difference {_limits(found)} on {rows}{test}{lower})"
        by = f"by {abs(found.difference):.4f} {found.metric}"
        if found.established:
            return f"established: {_better(self, found)} is better {by} {measured}"
        if found.difference == 0:
            return f"not established: {self.first} and {self.second} are equal in {found.metric} {measured}"
        return f"not established: {_better(self, found)} is ahead {by}, which chance may explain {measured}"

    def to_dict(self) -> dict[str, Any]:
        return {"first": self.first, "second": self.second, "primary_metric": self.primary_metric,
                "differences": [asdict(each) for each in self.differences], "sentence": self.sentence}

    def lines(self) -> list[str]:
        """One line a metric, then the sentence."""
        return [*(self._line(each) for each in self.differences), self.sentence]

    def _line(self, found: Difference) -> str:
        if found.difference is None:
            return f"{found.metric:<20} undefined"
        first, second = self.values[found.metric]
        said = f"established: {'second' if _better(self, found) == self.second else 'first'} is better" if found.established else "not established"
        test = "" if found.p_value is None else f", p = {found.p_value:.2g}"
        return f"{found.metric:<20} {first:.4f} → {second:.4f}   {_limits(found)}   {said}{test}"


def compare(first: str | Path | Run, second: str | Path | Run, *, seed: int = 42) -> Comparison:
    """Compare two finished Runs on their test rows, paired by row_id. seed: of the bootstrap.

    Raises RunError where one is no finished Run, or where task, labels, rows or references differ.
    """
    runs = [run if isinstance(run, Run) else Run(run) for run in (first, second)]
    scores = [run.scores() for run in runs]
    names = [str(run.folder) for run in runs]
    _must_be_alike(names, scores)
    tables = [_rows(run) for run in runs]
    order = _same_rows(names, tables)
    task, problem_type, labels = (scores[0][key] for key in ("task", "problem_type", "labels"))
    tables[1] = tables[1].take(order)
    references = _same_references(names, tables, problem_type)
    values = [{score["metric"]: score["value"] for score in found["scores"] if score["label"] is None} for found in scores]
    shared = [metric for metric in values[0] if metric in values[1]]
    probabilities = [None if problem_type == TOKENS else _matrix(table, found["labels"], labels) for table, found in zip(tables, scores)]
    answers = [table["prediction"].to_pylist() for table in tables]
    primary = tasks.get(task).primary_metric(Problem(problem_type, tuple(labels)))
    if primary not in shared or primary not in METRICS:
        raise RunError(f"the Runs share no score {primary!r}, by which {task} is judged; they share {', '.join(shared)}")
    differences = paired_differences(problem_type, labels, references, *answers, *probabilities, seed=seed, metrics=shared)
    both = {metric: (values[0][metric], values[1][metric]) for metric in shared}
    return Comparison(*names, primary, both, tuple(differences))


def _must_be_alike(names: list[str], scores: list[dict[str, Any]]) -> None:
    for key, what in (("task", "task"), ("problem_type", "problem type")):
        if scores[0][key] != scores[1][key]:
            raise RunError(f"{names[0]} has {what} {scores[0][key]} and {names[1]} has {scores[1][key]}. Compare Runs of the same {what}")
    if scores[0]["problem_type"] not in PROBLEM_TYPES:
        raise RunError(f"{names[0]} and {names[1]} have problem type {scores[0]['problem_type']}; compare knows {', '.join(PROBLEM_TYPES)}")
    own = [[label for label in mine["labels"] if label not in set(other["labels"])] for mine, other in (scores, scores[::-1])]
    if any(own):
        listed = "; ".join(f"only in {name}: {_some(labels)}" for name, labels in zip(names, own) if labels)
        raise RunError(f"the Runs have different labels: {listed}. {SAME_ROWS}")


def _rows(run: Run) -> Any:
    """row_id, reference, prediction and probabilities."""
    table = run.predictions().select(["row_id", "reference", "prediction", "probabilities"])
    if table.num_rows != len(set(table["row_id"].to_pylist())):
        raise RunError(f"{run.predictions_path} holds a row_id twice. The Run is damaged: train it again")
    return table


def _same_rows(names: list[str], tables: list[Any]) -> list[int]:
    """Where the rows of the first table stand in the second."""
    ids = [table["row_id"].to_pylist() for table in tables]
    place = {row_id: index for index, row_id in enumerate(ids[1])}
    own = [[row_id for row_id in mine if row_id not in other] for mine, other in ((ids[0], place), (ids[1], set(ids[0])))]
    if any(own):
        listed = ", ".join(f"{len(rows)} only in {name} (such as {rows[0]})" for name, rows in zip(names, own) if rows)
        raise RunError(f"the Runs were scored on different rows: {listed}, {len(ids[0]) - len(own[0])} in both. {SAME_ROWS}")
    return [place[row_id] for row_id in ids[0]]


def _same_references(names: list[str], tables: list[Any], problem_type: str) -> list[Any]:
    sides = [table["reference"].to_pylist() for table in tables]
    # The order of several labels means nothing.
    same = (lambda one, other: set(one) == set(other)) if problem_type == MULTI_LABEL else (lambda one, other: one == other)
    wrong = [index for index, pair in enumerate(zip(*sides)) if not same(*pair)]
    if wrong:
        row_id, (one, other) = tables[0]["row_id"][wrong[0]].as_py(), (side[wrong[0]] for side in sides)
        raise RunError(f"{len(wrong)} of {len(sides[0])} rows have different references: row {row_id} is {one!r} in {names[0]} and {other!r} "
                       f"in {names[1]}. Train both on the same labels")
    return sides[0]


def _matrix(table: Any, own: list[str], labels: list[str]) -> Any:
    """(N, labels) float32 probabilities, columns in the order of `labels`; None where there are none."""
    column = table["probabilities"].combine_chunks()
    if column.null_count or not len(column):
        return None
    found = column.flatten().to_numpy().reshape(len(column), -1)
    return found if own == labels else found[:, [own.index(label) for label in labels]]


def _better(comparison: Comparison, found: Difference) -> str:
    return comparison.second if (found.difference > 0) == METRICS[found.metric].greater_is_better else comparison.first


def _limits(found: Difference) -> str:
    return f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def _some(labels: list[str]) -> str:
    return ", ".join(labels[:5]) + (f", … ({len(labels)} labels)" if len(labels) > 5 else "")
