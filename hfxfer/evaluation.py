"""The one inference path: `run_batches`, and on it `evaluate_split` and `predict_split`.

Evaluation during training, final scores, `hfxfer evaluate`, `hfxfer predict` and whatever serves the model
come through `run_batches`, in fp32 unless asked otherwise. With several processes each takes every
n-th of the same batches that one process would run, and the main process gets all predictions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hfxfer import console, folding, machine
from hfxfer.batches import encode_all
from hfxfer.data import Split
from hfxfer.errors import RecipeError, WorkError
from hfxfer.parallel import MOST_COPIES, TOKENS_AT_ONCE, computed, is_on_cpu, pictures_at_once, threads_to_decode
from hfxfer.probabilities import ProbabilityStore
from hfxfer.recipe import Recipe
from hfxfer.run import Score
from hfxfer.tasks._task import Outcomes, Prediction, Problem, Task

PARQUET_CHUNK = 10_000

FEWEST_TO_FOLD = 32
"""Pictures: two of them are run twice to see which convolutions and norms belong together."""


@dataclass(slots=True)
class Predictor:
    """Everything that inference needs. `precision`: fp32, bf16 or fp16 (autocast).

    loss_function: (outputs, labels) → mean loss, where the model's own is not the one that is trained on.
    """

    task: Task
    model: Any
    processor: Any
    problem: Problem
    recipe: Recipe
    precision: str = "fp32"
    loss_function: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """Predictions of some rows of a split: their positions, and the mean loss where targets were given."""

    positions: list[int]
    predictions: list[Prediction]
    loss: float | None


def run_batches(predictor: Predictor, split: Split, batch_size: int, what: str = "predicting") -> Iterator[Result]:
    """Predict every row of `split`. Yields in any order; in a run of several processes only the main one gets results."""
    jobs = _jobs(predictor, split, batch_size)
    rank, world = rank_and_world()
    mine = jobs[rank::world]
    was_training = predictor.model.training
    predictor.model.eval()
    try:
        with folded(predictor, split), console.Progress(split.num_rows, what) as bar, contextlib.closing(_results(predictor, split, mine)) as results:
            for _ in range(-(-len(jobs) // world)):
                for result in _gathered(next(results, None), world):
                    bar.advance(len(result.positions))
                    if rank == 0:
                        yield result
    finally:
        predictor.model.train(was_training)


def evaluate_split(predictor: Predictor, split: Split, batch_size: int, folder: str | Path | None = None,
                   what: str = "evaluating") -> tuple[Outcomes, float | None]:
    """Outcomes in the split's order, and the mean loss. Probabilities go to a temporary file in `folder`."""
    answers: list[Any] = [None] * split.num_rows
    came_back = 0
    probabilities = ProbabilityStore(split.num_rows, folder)
    losses = []
    for result in run_batches(predictor, split, batch_size, what):
        came_back += len(result.positions)
        for position, prediction in zip(result.positions, result.predictions):
            answers[position] = prediction.answer
            if prediction.probabilities is not None:
                probabilities.put(position, prediction.probabilities)
        if result.loss is not None:
            losses.append((result.loss, len(result.positions)))
    if came_back != split.num_rows and rank_and_world()[0] == 0:
        raise WorkError(f"{came_back} of {split.num_rows} rows came back from {rank_and_world()[1]} processes; no score was computed")
    loss = sum(value * rows for value, rows in losses) / sum(rows for _, rows in losses) if losses else None
    outcomes = Outcomes(split.column(predictor.task.target), answers, probabilities if len(probabilities) else None)
    return outcomes, loss


def score_outcomes(predictor: Predictor, outcomes: Outcomes, context: dict[str, Any]) -> list[Score]:
    """Scores with 95 % intervals. `context`: split, seed, dataset, revision."""
    measured = predictor.task.score(outcomes, predictor.problem, intervals=True, seed=context["seed"])
    return [Score(metric=score.metric, value=score.value, low=score.low, high=score.high, label=score.label,
                  num_rows=score.num_rows, interval_method=score.interval_method, **context) for score in measured]


def predict_split(predictor: Predictor, split: Split, batch_size: int) -> list[dict[str, Any]]:
    """One record a row, in the rows' order: `input` first, then what the task shows."""
    records: list[Any] = [None] * split.num_rows
    for result in run_batches(predictor, split, batch_size):
        for position, prediction, row in zip(result.positions, result.predictions, split.take(result.positions)):
            records[position] = {"input": predictor.task.describe_input(row),
                                 **predictor.task.record(prediction, row, predictor.problem)}
    return records


def encode_rows(predictor: Predictor, rows: list[dict[str, Any]]) -> list[dict]:
    """Items of rows that were checked before: for `predict_items`, in any thread, without the model."""
    return predictor.task.encode(rows, predictor.processor, predictor.problem, predictor.recipe, training=False)


def predict_items(predictor: Predictor, rows: list[dict[str, Any]], items: list[dict]) -> list[dict[str, Any]]:
    """What the task shows of each row, on the way of `run_batches`. items: of `encode_rows`, `_row` counting over all rows."""
    records: list[Any] = [None] * len(rows)
    for positions, batch in _by_length(predictor, items, _at_once(predictor, len(rows))):
        for position, prediction in zip(positions, _run_one(predictor, predictor.model, batch, positions).predictions):
            records[position] = predictor.task.record(prediction, rows[position], predictor.problem)
    return records


def write_predictions(path: Path, predictor: Predictor, split: Split, outcomes: Outcomes) -> None:
    """predictions.parquet: row_id, input, reference, prediction, probabilities; a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet

    answer = _answer_type(outcomes.references)
    store = outcomes.probabilities
    vector = pa.list_(pa.float32())
    schema = pa.schema([("row_id", pa.string()), ("input", pa.string()), ("reference", answer), ("prediction", answer),
                        ("probabilities", pa.list_(vector) if store is not None and store.is_ragged else vector)])
    temporary = path.with_name(f".{path.name}")
    row_ids = split.row_ids
    with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for start in range(0, split.num_rows, PARQUET_CHUNK):
            positions = list(range(start, min(start + PARQUET_CHUNK, split.num_rows)))
            rows = split.take(positions)
            writer.write_table(pa.Table.from_pydict({
                "row_id": [row_ids[position] for position in positions],
                "input": [predictor.task.describe_input(row) for row in rows],
                "reference": [outcomes.references[position] for position in positions],
                "prediction": [outcomes.answers[position] for position in positions],
                "probabilities": [None if store is None else store.row(position).tolist() for position in positions],
            }, schema=schema))
    temporary.replace(path)


def check_precision(precision: str, device_type: str) -> None:
    """Raise RecipeError where the device cannot compute in `precision`, and warn where it only emulates it."""
    if precision == "fp16" and device_type == "cpu":
        raise RecipeError("precision is 'fp16', which CPUs do not compute in; allowed here: fp32, bf16")
    if precision == "bf16" and device_type == "cpu" and not machine.has_bf16("cpu"):
        console.warn("precision is bf16, which this CPU only emulates: 10 to 30 times slower than fp32. Silence this with --precision fp32")


def _jobs(predictor: Predictor, split: Split, batch_size: int) -> Sequence[tuple[list[int], list[dict] | None]]:
    """(row positions, items, or None where they are made when their turn comes) of each batch, the same in every process."""
    if predictor.task.encode_on_access:
        return [(positions, None) for positions in _slices(split.num_rows, _at_once(predictor, batch_size))]
    return _by_length(predictor, encode_all(predictor.task, split, predictor.processor, predictor.problem, predictor.recipe), batch_size)


def _at_once(predictor: Predictor, batch_size: int) -> int:
    """Of pictures a CPU is given no more than its cache takes; of texts, whose length counts, see `_by_length`."""
    is_bounded = predictor.task.encode_on_access and is_on_cpu(predictor.model)
    return min(batch_size, pictures_at_once(predictor.processor)) if is_bounded else batch_size


def _by_length(predictor: Predictor, encoded: list[dict], batch_size: int) -> list[tuple[list[int], list[dict]]]:
    """(row positions, items) of each batch, long rows first, no more than a CPU's cache takes."""
    on_cpu = is_on_cpu(predictor.model)
    by_row: dict[int, list[dict]] = {}
    for item in encoded:
        by_row.setdefault(item["_row"], []).append(item)
    lengths = {row: max(predictor.task.item_length(item) or 0 for item in items) for row, items in by_row.items()}
    jobs: list[tuple[list[int], list[dict]]] = []
    room = 0
    for row in sorted(by_row, key=lambda row: (-lengths[row], row)):
        if len(by_row[row]) > room:
            jobs.append(([], []))
            # The longest comes first: the batch is padded to it.
            room = min(batch_size, max(1, TOKENS_AT_ONCE // max(1, lengths[row]))) if on_cpu else batch_size
        jobs[-1][0].append(row)
        jobs[-1][1].extend(by_row[row])
        room -= len(by_row[row])
    return jobs


def _slices(num_rows: int, batch_size: int) -> list[list[int]]:
    return [list(range(start, min(start + batch_size, num_rows))) for start in range(0, num_rows, batch_size)]


def _results(predictor: Predictor, split: Split, jobs: Sequence[tuple[list[int], list[dict] | None]]) -> Generator[Result, None, None]:
    def parts(job: tuple[list[int], list[dict] | None]) -> list[Callable[[], list[dict]]]:
        positions, items = job
        if items is not None:
            return [lambda: items]
        return [partial(_encode_part, predictor, split, positions, part) for part in _slices(len(positions), -(-len(positions) // threads_to_decode()))]

    return computed(predictor.model, jobs, parts, lambda model, job, items: _run_one(predictor, model, items, job[0]), most=min(MOST_COPIES, max(1, len(jobs))))


def _encode_part(predictor: Predictor, split: Split, positions: list[int], part: list[int]) -> list[dict]:
    """Items of the rows that stand at `part` in a batch's positions; `_row` counts from the batch's first."""
    rows = split.take([positions[at] for at in part])
    items = encode_rows(predictor, rows)
    for item in items:
        item["_row"] += part[0]
    return items


def _device(predictor: Predictor) -> Any:
    return next(predictor.model.parameters()).device


def _run_one(predictor: Predictor, model: Any, items: list[dict], positions: list[int]) -> Result:
    """model: the predictor's, or a copy of it. In any thread."""
    import torch

    batch = predictor.task.collate(items, predictor.processor)
    device = _device(predictor)
    batch = {key: value.to(device) if hasattr(value, "to") else value for key, value in batch.items()}
    with torch.inference_mode(), _autocast(predictor):
        outputs = predictor.task.forward(model, batch, predictor.recipe)
        loss = getattr(outputs, "loss", None)
        if predictor.loss_function is not None and "labels" in batch:
            loss = predictor.loss_function(outputs, batch["labels"])
        return Result(positions, predictor.task.decode(outputs, batch, predictor.processor, predictor.problem),
                      None if loss is None else float(loss))


def folded(predictor: Predictor, split: Split) -> Any:
    """A context in which convolutions do the work of their batch norms, where there are enough pictures to gain by it."""
    if not predictor.task.encode_on_access or predictor.precision == "fp16" or split.num_rows < FEWEST_TO_FOLD:
        return contextlib.nullcontext()  # fp16 has no room for weights that a small variance makes large.
    return folded_by(predictor, split.take([0, split.num_rows - 1]))


def folded_by(predictor: Predictor, rows: list[dict[str, Any]]) -> Any:
    """The same context, whatever is predicted in it. rows: two or more pictures that are looked at with and without."""
    def logits() -> Any:
        batch = {key: value.to(_device(predictor)) for key, value in predictor.task.collate(encode_rows(predictor, rows), predictor.processor).items()
                 if key == "pixel_values"}
        return predictor.task.forward(predictor.model, batch, predictor.recipe).logits

    return folding.folded(predictor.model, folding.pairs(predictor.model, logits))


def _autocast(predictor: Predictor) -> Any:
    if predictor.precision == "fp32":
        return contextlib.nullcontext()
    import torch

    return torch.autocast(_device(predictor).type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[predictor.precision])


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are."""
    import torch.distributed as dist

    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def _gathered(result: Result | None, world: int) -> list[Result]:
    if world == 1:
        return [result] if result is not None else []
    from accelerate.utils import gather_object

    return [found for found in gather_object([result]) if found is not None]


def _answer_type(references: Sequence[Any]) -> Any:
    """The Arrow type of references and predictions."""
    import pyarrow as pa

    first = next((value for value in references if value is not None), "")
    if isinstance(first, str):
        return pa.string()
    if isinstance(first, (float, int)):
        return pa.float64()
    return pa.list_(pa.string()) if not first or isinstance(first[0], str) else pa.array([first]).type
