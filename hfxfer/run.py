"""Run: the folder that a training leaves behind, and all that later stages read.

```
model/             exactly what is published: weights, config, processor, scores.json, figures/, recipe.yaml
recipe.yaml        complete: running it again gives the same Run      data.json  what was found in the data
base.json          the checkpoint it started from                     environment.json  versions and machine
history.jsonl      one event a line: log | eval | stage | end         predictions.parquet  the test split
examples/          up to 12 test rows                                 checkpoints/  what resuming needs
```
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hfxfer.errors import RunError
from hfxfer.recipe import Recipe

SCORES_VERSION = 1
COMPLETE = "complete.json"


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
        return f"hfxfer train {self.folder / 'recipe.yaml'} --resume"

    def exists(self) -> bool:
        """True where the folder holds a run, finished or not."""
        return (self.folder / "recipe.yaml").is_file()

    def is_finished(self) -> bool:
        return (self.model_dir / "scores.json").is_file()

    def claim(self, *, overwrite: bool, resume: bool) -> None:
        """Refuse to write over anything. Raises RunError; removes an old run only with `overwrite`."""
        if self.folder.is_file():
            raise RunError(f"{self.folder} is a file. Give a folder: --output_dir runs/NAME")
        occupied = self.folder.is_dir() and any(self.folder.iterdir())
        if resume:
            if not self.exists():
                raise RunError(f"{self.folder} holds no run to resume (no recipe.yaml). Leave out --resume to start one")
        elif occupied and self.exists() and overwrite:
            shutil.rmtree(self.folder)
        elif occupied and self.exists():
            raise RunError(f"{self.folder} holds another run. Choose another --output_dir, continue it with --resume, "
                           "or replace it with --overwrite")
        elif occupied:
            raise RunError(f"{self.folder} is not empty and holds no run. Choose another --output_dir")

    def create(self) -> None:
        self.model_dir.mkdir(parents=True, exist_ok=True)
        self.checkpoints_dir.mkdir(exist_ok=True)

    def recipe(self) -> Recipe:
        self._must_exist()
        return Recipe.from_yaml(self.folder / "recipe.yaml")

    def write_recipe(self, recipe: Recipe) -> None:
        """Complete to the root, without any path to model/."""
        write_text(self.model_dir / "recipe.yaml", recipe.shareable().to_yaml())
        write_text(self.folder / "recipe.yaml", recipe.to_yaml())

    def read_json(self, name: str) -> Any:
        """data.json, base.json or environment.json. Raises RunError where it is missing or broken."""
        self._must_exist()
        return _read_json(self.folder / name)

    def write_json(self, name: str, value: Any) -> None:
        write_text(self.folder / name, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))

    def scores(self) -> dict[str, Any]:
        """The object in model/scores.json."""
        self._must_exist()
        if not self.is_finished():
            raise RunError(f"the run in {self.folder} is not finished. Continue it: {self.continuing_command}")
        return _read_json(self.model_dir / "scores.json")

    def score(self, metric: str, label: str | None = None) -> Score:
        """One score of the test split."""
        for entry in self.scores()["scores"]:
            if entry["metric"] == metric and entry["label"] == label:
                return Score(**entry)
        known = sorted({entry["metric"] for entry in self.scores()["scores"]})
        raise RunError(f"{self.folder} has no score {metric!r}; it has {', '.join(known)}")

    def append_event(self, event: dict[str, Any]) -> None:
        with open(self.folder / "history.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n")

    def history(self) -> list[dict[str, Any]]:
        path = self.folder / "history.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def forget_after(self, step: int) -> None:
        """Drop the events of steps that will be done again after a resume."""
        kept = [event for event in self.history() if event.get("step", 0) <= step and event["type"] != "end"]
        write_text(self.folder / "history.jsonl", "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in kept))

    def predictions(self) -> Any:
        """predictions.parquet as a pyarrow Table."""
        import pyarrow.parquet

        self._must_exist()
        return pyarrow.parquet.read_table(self.predictions_path)

    def checkpoints(self) -> Iterator[tuple[Path, bool]]:
        """Checkpoints, newest first, each with whether it is complete."""
        found = [path for path in self.checkpoints_dir.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
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
        sizes = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: to a temporary file beside it, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}. The run is incomplete: train it again") from error
