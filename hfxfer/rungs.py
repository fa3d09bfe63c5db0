"""The rungs of `hfxfer ladder`: what each leaves behind, whether it is a gain over the one below, and what is said of it.

A rung is trained as `hfxfer train` would train it, in rungs/<method>/ of the Run, but scored on validation alone.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from hfxfer.console import duration
from hfxfer.errors import RecipeError
from hfxfer.metrics import METRICS
from hfxfer.paired import Difference, paired_differences
from hfxfer.run import Run
from hfxfer.tasks._task import Problem

RUNGS = ("head", "lp-ft", "lora", "full")
"""From the one that trains least. Each has to earn its cost."""

BACKWARD = 3.0
"""A training step as a multiple of a forward pass: forward, gradients of activations, gradients of weights."""

BYTES_A_PARAMETER = 4
UNITS = {"s": 1, "m": 60, "h": 3600}


class Rung(Run):
    """A rung's folder. begin: called once before anything is written, when all checks have passed."""

    def __init__(self, root: Run, method: str, begin: Callable[[], None] | None = None):
        super().__init__(root.folder / "rungs" / method)
        self.root, self.method, self.begin = root, method, begin
        self.resumed = False

    @property
    def continuing_command(self) -> str:
        return self.root.continuing_command

    def create(self) -> None:
        if self.begin:
            self.begin()
        super().create()

    def is_trained(self) -> bool:
        """True where the rung is trained and scored."""
        return (self.folder / "rung.json").is_file()

    def result(self) -> dict[str, Any]:
        """What rung.json holds."""
        return self.read_json("rung.json")

    def validation(self) -> Any:
        """validation.parquet as a pyarrow Table, with the columns of predictions.parquet."""
        import pyarrow.parquet

        return pyarrow.parquet.read_table(self.folder / "validation.parquet")

    def drop(self) -> None:
        """Delete what is large; history, recipe, result and validation predictions stay."""
        for name in ("model", "checkpoints"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("data.json", "base.json", "environment.json"):
            (self.folder / name).unlink(missing_ok=True)


def difference(problem: Problem, metric: str, below: Any, above: Any, seed: int) -> Difference:
    """above's score minus below's on the same validation rows. below, above: tables of `Rung.validation`."""
    if not below["row_id"].equals(above["row_id"]):
        raise ValueError("the rungs were scored on different validation rows")
    sides = [None, None]
    if METRICS[metric].needs == "probabilities":
        sides = [table["probabilities"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1) for table in (below, above)]
    references, *answers = (column.to_pylist() for column in (below["reference"], below["prediction"], above["prediction"]))
    return paired_differences(problem.problem_type, problem.labels, references, *answers, *sides, seed=seed, metrics=[metric])[0]


def is_gain(found: Difference) -> bool:
    """True where the upper rung is established to be better."""
    return found.established and (found.difference > 0) == METRICS[found.metric].greater_is_better


def compared(above: str, below: str, found: Difference) -> str:
    """What the difference allows to say."""
    if found.difference is None:
        return f"{found.metric} is undefined on the {found.num_rows} validation rows, so {above} is not established to be better than {below}"
    if found.method == "no row differs":
        return f"{above} answers as {below} does on all {found.num_rows} validation rows"
    worse = "worse" if found.established and not is_gain(found) else "better"
    lower = "" if METRICS[found.metric].greater_is_better else ", lower is better"
    value, low, high = (_signed(found.metric, each) for each in (found.difference, found.low, found.high))
    return (f"{above} is {'' if found.established else 'not '}established to be {worse} than {below} "
            f"({value} {found.metric} [{low}, {high}] on {found.num_rows} validation rows{lower})")


def chosen(result: dict[str, Any]) -> str:
    return f"{result['method']} is chosen: it trains {result['trained_parameters']:,} parameters in {_minutes(result)} minutes"


def budget_seconds(text: str | None) -> float | None:
    """90s, 20m or 1h in seconds; None where there is no budget. Raises RecipeError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", str(text))
    if not found or not float(found[1]):
        raise RecipeError(f"budget is {text!r}; allowed: a number with s, m or h, such as 90s, 20m or 1h")
    return float(found[1]) * UNITS[found[2]]


def estimated_seconds(method: str, epochs: float, results: Sequence[dict[str, Any]], num_rows: tuple[int, int, int]) -> float:
    """What a rung will take with the test split's scoring after it, by the rungs before it. Rough.

    epochs: of the stage that trains the body. num_rows: of train, validation and test. A rung that trained the body tells what an
    epoch costs; else the validation rows, on which the whole model was run.
    """
    train, validation, test = num_rows
    forward = results[-1]["validation_seconds"] / max(1, validation)
    measured = [result["epoch_seconds"] for result in results if result["method"] != "head" and result["epoch_seconds"]]
    epoch = measured[-1] if measured else forward * (BACKWARD * train + validation)
    head = results[0]["seconds"] if method == "lp-ft" else 0.0
    return head + epochs * epoch + forward * (validation + test)


def over_budget(method: str, needed: float, left: float, budget: float) -> str | None:
    """Why a rung is not begun; None where it is. All in seconds."""
    if left <= 0:
        return f"{method} is not begun: the budget of {duration(budget)} is used up"
    if needed > left:
        return f"{method} is not begun: it would take about {duration(needed)}, and {duration(left)} of the budget of {duration(budget)} are left"
    return None


def table(report: dict[str, Any]) -> list[str]:
    """One line a rung, under a line of headings, then why it ended here."""
    metric, scores = report["metric"], [_interval(primary(result, report["metric"])) for result in report["rungs"]]
    heading = f"{metric} on {report['validation_rows']} validation rows"
    width = max(len(heading), *map(len, scores))
    lines = [f"{'rung':<6} {heading:<{width}} {'minutes':>8} {'trained parameters':>19} {'trained MB':>11} {'model MB':>9}"]
    for result, score in zip(report["rungs"], scores):
        mark = "  chosen" if result["method"] == report["chosen"] else ""
        lines.append(f"{result['method']:<6} {score:<{width}} {_minutes(result):>8} {result['trained_parameters']:>19,} "
                     f"{result['trained_megabytes']:>11.3g} {result['model_megabytes']:>9.3g}{mark}")
    return [*lines, report["reason"]]


def primary(result: dict[str, Any], metric: str) -> dict[str, Any]:
    """The score of the whole validation set by which rungs are compared."""
    return next(score for score in result["scores"] if score["metric"] == metric)


def _minutes(result: dict[str, Any]) -> str:
    minutes = result["seconds"] / 60
    # What an interrupted process had spent is not known.
    return ("≥ " if result["resumed"] else "") + (f"{minutes:.1f}" if minutes >= 0.1 else f"{minutes:.1g}")


def _interval(score: dict[str, Any]) -> str:
    if score["value"] is None:
        return "undefined"
    return f"{score['value']:.4f} [{score['low']:.4f}, {score['high']:.4f}]" if score["low"] is not None else f"{score['value']:.4f}"


def _signed(metric: str, value: float) -> str:
    return f"{value:+.3f}" if METRICS[metric].high is not None else f"{value:+.3g}"
