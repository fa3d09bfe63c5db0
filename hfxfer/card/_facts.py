"""Facts: all that a card is made of, read from the Run folder once."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hfxfer import tasks
from hfxfer.errors import RecipeError
from hfxfer.metrics import METRICS
from hfxfer.recipe import Recipe
from hfxfer.run import Run
from hfxfer.tasks._task import Problem

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
NO_HUB_ID = ("example", "auto", "imagefolder", "audiofolder", "csv", "json", "parquet", "text", "arrow")
"""Names without a slash that are builders or hfxfer's own words."""

BEFORE = "ece_uncalibrated"
BOUNDED = ("precision", "recall", "f1", BEFORE)
"""Scores between 0 and 1 that are no metrics by themselves."""

MODEL = "MODEL"
"""What stands for the model's Hub id where none is given, as DATA and RUN stand for local paths."""


@dataclass(frozen=True)
class Facts:
    """What the files of one Run say. scores: the object in scores.json. ladder: ladder.json, or None where there was no ladder.

    space_id: of the Space that shows the model, or "".
    """

    run: Run
    model_id: str
    recipe: Recipe
    scores: dict[str, Any]
    data: dict[str, Any]
    base: dict[str, Any]
    environment: dict[str, Any]
    history: list[dict[str, Any]]
    config: dict[str, Any]
    ladder: dict[str, Any] | None
    figures: tuple[str, ...]
    space_id: str = ""

    @classmethod
    def read(cls, run: Run, model_id: str = "", space_id: str = "") -> Facts:
        """Raises RunError where the Run is not finished or a file is missing."""
        config = run.model_dir / "config.json"
        return cls(run, model_id, run.recipe(), run.scores(), run.read_json("data.json"), run.read_json("base.json"),
                   run.read_json("environment.json"), run.history(),
                   json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {},
                   run.read_json("ladder.json") if (run.folder / "ladder.json").is_file() else None,
                   tuple(sorted(path.name for path in run.figures_dir.glob("*.png"))),
                   space_id or next((each["space_id"] for each in run.pushes() if each["model_id"] == model_id and each.get("space_id")), ""))

    @property
    def task(self) -> str:
        return self.scores["task"]

    @property
    def problem_type(self) -> str:
        return self.scores["problem_type"]

    @property
    def labels(self) -> list[str]:
        return self.scores["labels"]

    @property
    def name(self) -> str:
        """Of the model: the last part of its Hub id, or the Run folder's name."""
        return self.model_id.rpartition("/")[2] or self.run.folder.resolve().name

    @property
    def repo(self) -> str:
        return self.model_id or MODEL

    @property
    def is_timm(self) -> bool:
        return self.config.get("model_type") == "timm_wrapper"

    @cached_property
    def base_id(self) -> str | None:
        """The Hub id of the checkpoint; None for a local folder or file."""
        return self.base["id"] if self.base.get("source") != "state dict" and is_hub_id(str(self.base["id"])) else None

    @property
    def base_name(self) -> str:
        """The checkpoint's Hub id, or the last part of its path."""
        return self.base_id or re.split(r"[\\/]", str(self.base["id"]).rstrip("/\\"))[-1]

    @cached_property
    def data_id(self) -> str | None:
        """The Hub id of the data set; None for anything else."""
        return self.recipe.data if is_hub_id(self.recipe.data) else None

    @property
    def data_name(self) -> str:
        return self.data_id or re.split(r"[\\/]", str(self.data["source"]).rstrip("/\\"))[-1]

    @property
    def whole(self) -> list[dict[str, Any]]:
        """Scores of the whole split that have a value; not that of the model before calibration, which nobody gets."""
        return [score for score in self.scores["scores"] if score["label"] is None and score["value"] is not None and score["metric"] != BEFORE]

    @property
    def by_label(self) -> dict[str, dict[str, dict[str, Any]]]:
        """label → metric → score."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for score in self.scores["scores"]:
            if score["label"] is not None:
                found.setdefault(score["label"], {})[score["metric"]] = score
        return found

    @property
    def split(self) -> str:
        """The one that was scored: test, but in a script, which has its own."""
        return next((score["split"] for score in self.scores["scores"]), "test")

    @property
    def from_script(self) -> bool:
        """True where a script called the trainer, with data and code that the Run does not know."""
        return bool(self.environment.get("script"))

    @property
    def was_trained(self) -> bool:
        """False of a model that a script published as it had loaded it."""
        return not self.from_script or bool(self.events("end") or self.events("save"))

    def scored_rows(self, label: str) -> int | None:
        """Rows with that label in the split that was scored; of entities, how many begin. None where it is not known."""
        counts = self.data["splits"].get(self.split, {}).get("classes", {})
        return counts.get(label, counts.get(f"B-{label}"))

    @cached_property
    def primary(self) -> dict[str, Any] | None:
        """The score that the task is judged by, or the first there is."""
        try:
            metric = tasks.get(self.task).primary_metric(Problem(self.problem_type, tuple(self.labels)))
        except (RecipeError, ImportError, NotImplementedError):  # a task of a package that is not installed here
            metric = ""
        return next((score for score in self.whole if score["metric"] == metric), self.whole[0] if self.whole else None)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.history if event["type"] == kind]


def is_hub_id(text: str) -> bool:
    """True for NAME and NAME/REPO. Local paths in a Run's recipe are absolute, so no folder is looked for."""
    return bool(HUB_ID.fullmatch(text)) and text not in NO_HUB_ID


def number(score: dict[str, Any], side: str = "value") -> str:
    """Bounded metrics with four decimals, others with four digits; undefined where there is no value."""
    value = score.get(side)
    if value is None:
        return "undefined"
    known = METRICS.get(score["metric"])
    bounded = score["metric"] in BOUNDED or (known is not None and known.high is not None)
    # Adding 0 takes the sign off a rounded -0.0.
    return f"{round(value, 4) + 0.0:.4f}" if bounded else f"{value:.4g}"


def interval(score: dict[str, Any]) -> str:
    return "" if score.get("low") is None or score.get("high") is None else f"{number(score, 'low')} to {number(score, 'high')}"


def with_interval(score: dict[str, Any]) -> str:
    """0.9667 [0.9400, 0.9817], as the command line shows it."""
    found = number(score)
    return found if not interval(score) or score.get("value") is None else f"{found} [{number(score, 'low')}, {number(score, 'high')}]"
