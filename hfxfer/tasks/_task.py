"""Task: what one task must say, and nothing more.

A task holds no state, opens no network connection and loads no model. It turns rows into items
(`encode`), items into a batch (`collate`), a batch into outputs (`forward`), outputs into predictions in
the user's terms (`decode`) and predictions into scores (`score`). Rows and items are plain dicts:

- a row has the task's roles as keys, and `row_id`;
- an item has what the model's `forward` takes, plus keys beginning with "_", which never reach the model.
  `_row` is the position, in the rows given to `encode`, of the row that the item came from. One row may give
  several items (overlapping windows); `decode` gives back one prediction a row.

Items are dicts in a list rather than a dict of lists because one row may become several items, and
because targets may be ragged (boxes, spans).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hfxfer.data import Column, Split, Target

if TYPE_CHECKING:
    import numpy as np

    from hfxfer.recipe import Recipe
    from hfxfer.run import Score

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is to be learned: type, label names in order, and for regression the training targets' scale.

    While it trains, a regression model predicts (value - target_mean) / target_scale; the two are folded
    into its last layer when it is saved.
    temperature: by which the logits were divided after training; None where they were not calibrated. threshold: the least
    probability of a label that is answered, of several. half_width: of a number's 90 % interval; None where it is not known.
    """

    problem_type: str
    labels: tuple[str, ...] = ()
    target_mean: float = 0.0
    target_scale: float = 1.0
    temperature: float | None = None
    threshold: float = 0.5
    half_width: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one row, in the user's terms, and the probabilities behind it.

    answer: a label, a list of labels, a number, a list of tags (one a token), a list of boxes …
    probabilities: float32, (labels,) or (tokens, labels); None where there are none.
    """

    answer: Any
    probabilities: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """References and answers of N rows, in the rows' order; `probabilities` reads rows and columns from disk."""

    references: Sequence[Any]
    answers: Sequence[Any]
    probabilities: Any = None


class Task:
    """The contract. Subclass it in a file named like the task."""

    name: ClassVar[str]
    summary: ClassVar[str]
    columns: ClassVar[dict[str, Column]]
    auto_model: ClassVar[str]
    auto_processor: ClassVar[str]
    encode_on_access: ClassVar[bool] = False
    """True where items are large or augmented: each row is encoded when it is read, not once at the start."""

    @property
    def target(self) -> str:
        """The role that holds the target."""
        return next(role for role, column in self.columns.items() if column.target)

    def problem(self, target: Target, train: Split | None) -> Problem:
        """What is to be learned, from what the data module found and the labelled training rows."""
        return Problem(target.problem_type, target.labels)

    def primary_metric(self, problem: Problem) -> str:
        """The metric that chooses the checkpoint."""
        raise NotImplementedError

    def greater_is_better(self, problem: Problem) -> bool:
        from hfxfer.metrics import METRICS

        return METRICS[self.primary_metric(problem)].greater_is_better

    def encode(self, rows: list[dict], processor: Any, problem: Problem, recipe: Recipe, training: bool) -> list[dict]:
        """Rows to items. Targets are encoded where the rows have them.

        With `training`, augmentation may draw from Python's, NumPy's and torch's generators: the caller has
        seeded them from (seed, epoch, row_id).
        """
        raise NotImplementedError

    def draws(self, recipe: Any) -> bool:
        """False where `encode` with `training` gives the same for a row in every epoch."""
        return True

    def collate(self, items: list[dict], processor: Any) -> dict[str, Any]:
        """Items to one batch. Keys beginning with "_" may hold anything; other values need not be tensors either."""
        raise NotImplementedError

    def forward(self, model: Any, batch: dict[str, Any], recipe: Recipe) -> Any:
        """The model's outputs, `loss` among them where the batch has targets."""
        return model(**{key: value for key, value in batch.items() if not key.startswith("_")})

    def decode(self, outputs: Any, batch: dict[str, Any], processor: Any, problem: Problem) -> list[Prediction]:
        """One prediction for each row in the batch, in the order of `_row`."""
        raise NotImplementedError

    def logits(self, outputs: Any, batch: dict[str, Any], problem: Problem) -> list[np.ndarray] | None:
        """(labels,) or (tokens, labels) float32 for each row in the batch, NaN where nothing was said; None: nothing to calibrate."""
        return None

    def record(self, prediction: Prediction, row: dict, problem: Problem) -> dict[str, Any]:
        """What `predict` shows for one row, without the input."""
        raise NotImplementedError

    def describe_input(self, row: dict) -> str:
        """The input as one string, for tables."""
        raise NotImplementedError

    def score(self, outcomes: Outcomes, problem: Problem, intervals: bool, seed: int) -> list[Score]:
        """All metrics; with `intervals`, each with its 95 % interval, else low and high mean nothing (training needs values only)."""
        raise NotImplementedError

    def confusion(self, outcomes: Outcomes, problem: Problem) -> list[list[int]] | None:
        """Counts, row = reference and column = prediction, or None where there is no such thing."""
        return None

    def item_length(self, item: dict) -> int | None:
        """What items are grouped by, so that a batch holds items of like size; None where all are alike."""
        return None

    def example_rows(self, num_rows: int, seed: int = 0) -> list[dict]:
        """Small real or made rows for tests, docs and `--data example`: roles as keys."""
        raise NotImplementedError
