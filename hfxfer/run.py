"""Run: the folder that a training leaves behind, and all that later stages read.

```
model/             exactly what is published: weights, config, processor, scores.json, figures/, recipe.yaml
recipe.yaml        complete: running it again gives the same Run      data.json  what was found in the data
base.json          the checkpoint it started from                     environment.json  versions and machine
history.jsonl      one event a line: log | eval | stage | end         predictions.parquet  the test split
examples/          up to 12 test rows                                 checkpoints/  what resuming needs
ladder.json        where `hfxfer ladder` made the Run: what each rung was worth, and rungs/ what each left behind
model.part/        a script's next model, while it is written
pushed.json        where it was pushed: for each model id and branch the last commit, the card in it, and the Space
```
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hfxfer.errors import RunError
from hfxfer.recipe import GIVEN_IN_PYTHON, Recipe

SCORES_VERSION = 1
COMPLETE = "complete.json"
OWN_FILES = ("model", "checkpoints", "examples", "recipe.yaml", "data.json", "base.json", "environment.json", "history.jsonl",
             "predictions.parquet", "ladder.json", "rungs", "pushed.json", "model.part")
"""All that a Run holds: what --overwrite removes. Whatever else lies in the folder is somebody's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One measured value with its 95 % interval and its context. `label` is None for the whole set."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    split: str
    num_rows: int
    seed: int
    label: str | None = None
    dataset: str | None = None
    revision: str | None = None
    interval_method: str | None = None


class Run:
    """A Run folder. Creating the object reads nothing; methods read the file they are named after."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._replaced = False

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def model_dir(self) -> Path:
        return self.folder / "model"

    @property
    def checkpoints_dir(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def figures_dir(self) -> Path:
        return self.model_dir / "figures"

    @property
    def predictions_path(self) -> Path:
        return self.folder / "predictions.parquet"

    @property
    def continuing_command(self) -> str:
        if self.is_scripts:
            return "run the script again"
        verb = "ladder" if (self.folder / "ladder.json").is_file() and not self.is_finished() else "train"
        if self.exists() and self.recipe().data == GIVEN_IN_PYTHON:
            return f"hfxfer.{verb}(hfxfer.Run({str(self.folder)!r}).recipe(), data=…, resume=True)  # in Python, with the same data"
        return f"hfxfer {verb} {shlex.quote(str(self.folder / 'recipe.yaml'))} --resume"

    @property
    def is_scripts(self) -> bool:
        """True where a script's trainer left it, whose code and data nobody else has."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return bool(json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))["script"])
        return False

    def exists(self) -> bool:
        """True where the folder holds a run, finished or not."""
        # A model folder holds a recipe, too: the shareable copy. A script may save its model beside the Run's files.
        return (self.folder / "recipe.yaml").is_file() and (self.model_dir.is_dir() or not (self.folder / "config.json").is_file())

    def is_finished(self) -> bool:
        return (self.model_dir / "scores.json").is_file()

    def owns(self, path: str | Path) -> bool:
        """True for a path among the files of this run."""
        inner = os.path.relpath(os.path.realpath(path), os.path.realpath(self.folder))
        return self.exists() and inner.split(os.sep)[0] in OWN_FILES

    def claim(self, *, overwrite: bool, resume: bool) -> None:
        """Refuse to write over anything. Raises RunError. With `overwrite` the old run goes when `create` is called:
        not before everything else has been checked."""
        if overwrite and resume:
            raise RunError("--resume and --overwrite exclude each other: continue the run, or replace it")
        self._must_be_writable()
        # Folders without a file in them are what a refused start may leave.
        occupied = any(path.is_file() or path.is_symlink() for path in self.folder.rglob("*"))
        if resume:
            if not self.exists():
                raise RunError(f"{self.folder} holds no run to resume (no recipe.yaml). Leave out --resume to start one")
        elif occupied and not self.exists():
            raise RunError(f"{self.folder} is not empty and holds no run. Choose another --output_dir")
        elif occupied and not overwrite:
            raise RunError(f"{self.folder} holds another run. Choose another --output_dir, continue it with --resume, "
                           "or replace it with --overwrite")
        self._replaced = occupied and overwrite

    def _must_be_writable(self) -> None:
        there = next(path for path in (self.folder.absolute(), *self.folder.absolute().parents) if path.exists())
        if there == self.folder.absolute() and not there.is_dir():
            raise RunError(f"{self.folder} is a file. Give a folder: --output_dir runs/NAME")
        if not there.is_dir():
            raise RunError(f"{self.folder} cannot be made: {there} is a file. Choose another --output_dir")
        if not os.access(there, os.W_OK | os.X_OK):
            raise RunError(f"{there} cannot be written to. Choose another --output_dir")

    def create(self) -> None:
        """Make the folders; the run that `claim` was told to overwrite goes now, what is not its own stays."""
        for name in OWN_FILES if self._replaced else ():
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self._replaced = False
        self.model_dir.mkdir(parents=True, exist_ok=True)
        self.checkpoints_dir.mkdir(exist_ok=True)

    def recipe(self) -> Recipe:
        self._must_exist()
        return Recipe.from_yaml(self.folder / "recipe.yaml")

    def write_recipe(self, recipe: Recipe) -> None:
        """Complete to the root, without any path to model/."""
        write_text(self.model_dir / "recipe.yaml", recipe.shareable().to_yaml())
        # Absolute, so that the recipe goes on from whatever folder it is called in.
        complete = replace(recipe, output_dir=os.path.abspath(recipe.output_dir))
        write_text(self.folder / "recipe.yaml", complete.to_yaml())

    def read_json(self, name: str) -> Any:
        """data.json, base.json or environment.json. Raises RunError where it is missing or broken."""
        self._must_exist()
        return _read_json(self.folder / name)

    def write_json(self, name: str, value: Any) -> None:
        write_text(self.folder / name, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))

    def pushes(self) -> list[dict[str, Any]]:
        """What pushed.json holds: a record for each model id and branch, the last push first; empty where there was none."""
        path = self.folder / "pushed.json"
        return _read_json(path, "Delete it; the next push writes it anew") if path.is_file() else []

    def scores(self) -> dict[str, Any]:
        """The object in model/scores.json."""
        self._must_exist()
        if not self.is_finished():
            raise RunError(f"the run in {self.folder} is not finished. Continue it: {self.continuing_command}")
        path = self.model_dir / "scores.json"
        found = _read_json(path)
        version = found.get("version") if isinstance(found, dict) else None
        if not isinstance(version, int):
            raise RunError(f"{path} holds no scores. The run is incomplete: train it again")
        if version > SCORES_VERSION:
            raise RunError(f"{path} has version {version}; this hfxfer reads versions up to {SCORES_VERSION}. "
                           "Update it with: pip install -U hfxfer")
        return found

    def score(self, metric: str, label: str | None = None) -> Score:
        """One score of the test split: of the whole set, or of one label."""
        found = [Score(**entry) for entry in self.scores()["scores"]]
        for score in found:
            if (score.metric, score.label) == (metric, label):
                return score
        same = [score.label for score in found if score.metric == metric]
        if not same:
            raise RunError(f"{self.folder} has no score {metric!r}; it has {', '.join(sorted({score.metric for score in found}))}")
        wanted = "the whole set" if label is None else f"label {label!r}"
        has = ", ".join("the whole set" if each is None else repr(each) for each in same)
        raise RunError(f"{self.folder} has no {metric} of {wanted}; it has it of {has}")

    def append_event(self, event: dict[str, Any]) -> None:
        with open(self.folder / "history.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """The events so far. A last line that a kill cut short is passed over."""
        path = self.folder / "history.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        lines = [line for line in lines if line]
        events = []
        for number, line in enumerate(lines, start=1):
            try:
                events.append(json.loads(line))
            except ValueError as error:
                if number < len(lines):
                    raise RunError(f"line {number} of {path} is no event: {error}") from error
        return events

    def forget_after(self, checkpoint: Path | None) -> None:
        """Drop the events that will come again when training goes on from this checkpoint; of all stages without one."""
        events = [event for event in self.history() if event["type"] != "end"]
        stage = "" if checkpoint is None or checkpoint.parent == self.checkpoints_dir else checkpoint.parent.name
        begins = [index for index, event in enumerate(events) if event["type"] == "stage" and event["name"] == stage]
        if checkpoint is None:
            events = []
        elif begins:
            last = events[begins[-1]]["step"] + int(checkpoint.name.rpartition("-")[2])
            following = [index for index, event in enumerate(events) if event["type"] == "stage" and index > begins[-1]]
            events = [event for event in events[:following[0] if following else None] if event.get("step", 0) <= last]
        write_text(self.folder / "history.jsonl", "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events))

    def predictions(self) -> Any:
        """predictions.parquet as a pyarrow Table."""
        import pyarrow.parquet

        self._must_exist()
        try:
            return pyarrow.parquet.read_table(self.predictions_path)
        except (OSError, pyarrow.ArrowException) as error:
            raise RunError(f"cannot read {self.predictions_path}: {error}. The run is incomplete: {self.continuing_command}") from error

    def checkpoints(self) -> Iterator[tuple[Path, bool]]:
        """Checkpoints, newest first (the last stage's, then those of the stages before it), each with whether it is complete."""
        stages = sorted(self.checkpoints_dir.glob("stage-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
        for folder in (self.checkpoints_dir, *stages):
            found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
            for path in sorted(found, key=lambda path: -int(path.name.rpartition("-")[2])):
                yield path, is_complete(path)

    def _must_exist(self) -> None:
        if not self.exists():
            raise RunError(f"{self.folder} is no Run folder (no recipe.yaml). hfxfer train --output_dir writes one")


def scores_object(scores: list[Score], *, task: str, problem_type: str, labels: tuple[str, ...], split: str,
                  confusion: list[list[int]] | None) -> dict[str, Any]:
    """What scores.json holds."""
    matrix = None if confusion is None else {"split": split, "counts": confusion}
    return {"version": SCORES_VERSION, "task": task, "problem_type": problem_type, "labels": list(labels),
            "scores": [asdict(score) for score in scores], "confusion_matrix": matrix}


def mark_complete(checkpoint: Path) -> None:
    """Write, last of all, the sizes of the checkpoint's files."""
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in sorted(checkpoint.rglob("*"))
             if path.is_file() and path.name != COMPLETE}
    write_text(checkpoint / COMPLETE, json.dumps(sizes))


def is_complete(checkpoint: Path) -> bool:
    """True where every file is there with the size it had when the checkpoint was finished."""
    try:
        sizes = dict(json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8")))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, TypeError):
        return False


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: to a temporary file beside it, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_json(path: Path, mend: str = "The run is incomplete: train it again") -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}. {mend}") from error
