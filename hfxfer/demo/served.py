"""A model as the app serves it: known at once by its config, loaded in a thread, computing for all who wait at once."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from hfxfer import checkpoints, console, fetching, machine, tasks
from hfxfer.demo import words
from hfxfer.demo.child import Child, Gone, wanted
from hfxfer.demo.refusals import reason, refusal
from hfxfer.demo.together import Compute, Together
from hfxfer.errors import HfxferError
from hfxfer.run import Run
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION, SINGLE_LABEL

CHUNK = 16
"""Rows that are computed at once: in between, others get their turn."""

READING = threading.BoundedSemaphore(2)
"""Inputs that are decoded and encoded at the same time: a picture of the largest size takes 120 MB until it is encoded."""


Asked = tuple[dict[str, Any], list[dict]]
"""A checked row and its items."""

LOADING = threading.Lock()
"""One model after another: a process is forked while no other model is imported or loaded."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Checked rows as the model takes them; of pictures the rows keep nothing. cut_at: the most tokens that are read, where a row has more."""

    rows: list[dict[str, Any]]
    items: list[dict]
    cut_at: int | None


class Served:
    """A Run, a model folder or a Hub id. Raises RunError or ModelError for one that cannot be served."""

    def __init__(self, source: str, revision: str | None = None):
        self.source = source
        run = Run(source)
        self.run = run if run.exists() else None
        if self.run:
            scores = run.scores()
            self.task, self.problem_type, self.labels = tasks.get(scores["task"]), scores["problem_type"], tuple(scores["labels"])
            self.folder: Path | None = run.model_dir
            self.at = fetching.Pinned()
            config = checkpoints.checkpoint_config(str(run.model_dir), None)
        else:
            self.at = fetching.pin(source, revision)
            config = checkpoints.checkpoint_config(source, self.at)
            self.task = tasks.get(checkpoints.trained_task(config, source))
            self.labels = _labels(config)
            self.problem_type = _problem_type(config, self.task, len(self.labels))
            self.folder = Path(source) if Path(source).is_dir() else None
        self.name = Path(source).resolve().name if self.folder else source
        """What people read: a Hub id as it is, of a path the last part."""
        self.threshold = float(config.get("hfxfer_threshold") or 0.5) if self.problem_type == MULTI_LABEL else 0.5
        """Where the app's threshold stands at first: of several labels the model's own."""
        self._model: Any = None
        self._failed = False
        self._folded = contextlib.ExitStack()
        weakref.finalize(self, self._folded.close)
        self._there, self._turn = threading.Event(), threading.Lock()
        self._together: Together | None = None

    @property
    def is_image(self) -> bool:
        return any(column.kind == "image" for column in self.task.columns.values())

    @property
    def is_tokens(self) -> bool:
        return any(column.kind == "tokens" for column in self.task.columns.values())

    @property
    def takes_pairs(self) -> bool:
        """True where a second text may come with the first, and training had one or is not known."""
        if "text_pair" not in self.task.columns:
            return False
        return self.run is None or "text_pair" in self.run.read_json("data.json")["columns"]

    def start(self) -> None:
        """Load the model in a thread of its own."""
        threading.Thread(target=self._load, name=f"loading {self.name}", daemon=True).start()

    def _load(self) -> None:
        from hfxfer.evaluation import encode_rows, folded_by
        from hfxfer.serving import load

        try:
            with LOADING:
                self._model = load(self.run or self.source, revision=self.at)
                self._model.predictor.model.eval()
                predictor, samples = self._model.predictor, _samples(self.task)
                if self.is_image:
                    self._folded.enter_context(folded_by(predictor, samples))
                trial = [(row, encode_rows(predictor, [row])) for row in samples]
                _computed(predictor, trial)  # What is imported or made by a first call is there before a process is forked.
                self._together = Together(_computing(predictor, self._turn, trial), CHUNK)
        except Exception as error:
            self._failed = True
            console.error(f"{self.source} could not be loaded: {error}")
        finally:
            self._there.set()

    @property
    def is_settled(self) -> bool:
        """True once loading has ended, well or not."""
        return self._there.is_set()

    @property
    def has_failed(self) -> bool:
        return self._failed

    def model(self) -> Any:
        """The FineTuned, waited for. Raises gr.Error where it could not be loaded."""
        self._there.wait()
        if self._failed:
            raise refusal(words.NOT_LOADED)
        return self._model

    @contextlib.contextmanager
    def alone(self) -> Iterator[Any]:
        """The FineTuned, with nobody else at it."""
        model = self.model()
        with self._turn:
            yield model

    def encoded(self, rows: list[dict[str, Any]]) -> Encoded:
        """Checked rows (roles as keys), ready for the model. Raises gr.Error."""
        from hfxfer.evaluation import encode_rows

        predictor = self.model().predictor
        with self._refusing():
            items = encode_rows(predictor, rows)
        kept = [{role: value for role, value in row.items() if role != "image"} for row in rows]
        cut = any(item.get("_truncated") for item in items)
        return Encoded(kept, items, int(predictor.recipe.max_length) if cut else None)

    def records(self, encoded: Encoded) -> list[dict[str, Any]]:
        """What `hfxfer predict` says of each row, without `input`; computed with whatever else waits. Raises gr.Error."""
        self.model()
        assert self._together is not None
        with self._refusing():
            return self._together.ask(list(zip(encoded.rows, _items_by_row(encoded))))

    def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """`records` of rows."""
        return self.records(self.encoded(rows))

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Only a sentence of the app's own goes out."""
        try:
            yield
        except HfxferError as error:
            # Its text may name files of the server.
            console.warn(f"an input was refused: {error}")
            raise refusal(words.UNUSABLE) from error
        except gr.Error:
            raise
        except Exception as error:
            console.error(f"predicting failed: {reason(error)}")
            raise refusal(words.FAILED) from error

    @property
    def is_calibrated(self) -> bool:
        """True where training fitted a temperature. Waits for the model."""
        return self.model().predictor.problem.temperature is not None


def _items_by_row(encoded: Encoded) -> list[list[dict]]:
    found: list[list[dict]] = [[] for _ in encoded.rows]
    for item in encoded.items:
        found[item["_row"]].append(item)
    return found


def _samples(task: Any) -> list[dict[str, Any]]:
    """Two rows that anybody might ask; pictures are noise."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    given = {"image": [Image.fromarray(picture) for picture in noise], "text": ["a", "b"], "tokens": [["a"], ["b"]]}
    asked = {role: given[column.kind] for role, column in task.columns.items() if column.required and column.kind in given}
    return [{role: values[number] for role, values in asked.items()} for number in range(2)]


def _computing(predictor: Any, turn: threading.Lock, trial: list[Asked]) -> list[Compute]:
    """What computes: processes where the machine can have them, else this one when it is its turn."""
    import torch

    compute = partial(_computed, predictor)

    def here(asked: list[Asked]) -> list[dict[str, Any]]:
        # In this thread: one core stays free for the app itself. Threads that wait for a busy core made a forward pass up to ten times slower.
        torch.set_num_threads(max(1, machine.num_cores() - 1))
        with turn:
            return compute(asked)

    def by(child: Child, asked: list[Asked]) -> list[dict[str, Any]]:
        if child.can_answer:
            return child.ask(asked)
        return here(asked)

    number, threads = wanted(predictor.model)
    children: list[Child] = []
    try:
        while len(children) < number:
            children.append(Child(compute, trial, threads))
    except (Gone, OSError) as error:
        console.warn(f"{len(children)} of {number} processes to predict in could be begun ({error}); many people at once will be answered more slowly")
    return [partial(by, child) for child in children] or [here]


def _computed(predictor: Any, asked: list[Asked]) -> list[dict[str, Any]]:
    from hfxfer.evaluation import predict_items

    items = [{**item, "_row": row} for row, (_, own) in enumerate(asked) for item in own]
    return predict_items(predictor, [row for row, _ in asked], items)


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    """Label names by a config in transformers' or timm's layout; where it has none, those that each gives by itself."""
    named = config.get("id2label")
    if named:
        return tuple(str(named[key]) for key in sorted(named, key=int))
    if not checkpoints.is_timm_config(config):
        return tuple(f"LABEL_{index}" for index in range(int(config.get("num_labels", 2))))
    return tuple(map(str, config.get("label_names") or range(int(config.get("num_classes", config.get("num_labels", 2))))))


def _problem_type(config: dict[str, Any], task: Any, num_labels: int) -> str:
    if any(column.kind == "tags" for column in task.columns.values()):
        return "tags"
    return config.get("problem_type") or (REGRESSION if num_labels == 1 else SINGLE_LABEL)
