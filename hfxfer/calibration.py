"""calibrate: at the end of training, what the validation split says about how far answers can be believed.

- A temperature T for labels (Guo et al. 2017, https://arxiv.org/abs/1706.04599): logits / T minimise the negative log-likelihood. It is
  divided into the last layer's weights, so that every loader of the model gives the calibrated probabilities; the top label stays.
- A threshold for several labels a row, where the recipe says auto: the one with the highest micro F1.
- For numbers the half-width of a 90 % interval, by split-conformal prediction (Lei et al. 2018, https://arxiv.org/abs/1604.04173, section 2.2).

They stand in the model's config as hfxfer_temperature, hfxfer_threshold and hfxfer_half_width. Validation also chose the checkpoint, so it
is a little easier than new rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hfxfer import console, models
from hfxfer.data import Split
from hfxfer.evaluation import Predictor, evaluate_split, rank_and_world, run_batches
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Prediction, Problem, Task

TEMPERATURES = (0.05, 20.0)
FEWEST_ROWS = 20
COVERAGE = 0.9
PROBE_ROWS = 2
BLOCK_VALUES = 4_000_000


def with_threshold(problem: Problem, recipe: Recipe) -> Problem:
    """The problem with the recipe's threshold; 0.5 while it is still to be found."""
    if problem.problem_type != MULTI_LABEL:
        if recipe.threshold != 0.5:
            console.hint(f"threshold has no effect: it is for several labels a row, and problem_type is {problem.problem_type}")
        return problem
    return problem if recipe.threshold == "auto" else dataclasses.replace(problem, threshold=float(recipe.threshold))


def calibrate(predictor: Predictor, validation: Split) -> Problem:
    """Fit on validation, scale the model's last layer in place, write its config, and return the problem with what was found.

    Called in every process; the main one fits, and all end with the same weights. A model whose logits do not follow its last layer's
    weights (an activation after it, normalised or shared weights) keeps them, with a hint.
    """
    problem, recipe = predictor.problem, predictor.recipe
    scaled = recipe.calibrate and _can_be_calibrated(predictor, validation)
    if problem.problem_type == REGRESSION:
        found = _half_width(predictor, validation) if recipe.calibrate else {}
    elif scaled or problem.problem_type == MULTI_LABEL and recipe.threshold == "auto":
        found = _fitted(predictor, validation, scaled)
    else:
        found = {}
    problem = dataclasses.replace(problem, **_agreed(found))
    if problem.temperature not in (None, 1.0):
        scale(predictor.model, 1 / problem.temperature)
    models.remember(predictor.model.config, problem)
    return problem


def scale(model: Any, factor: float) -> None:
    """Multiply weights and biases of the layers that give the logits, in place; a tensor that two of them share, once."""
    with torch.no_grad():
        for tensor in _tensors(model):
            tensor.mul_(factor)


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The T in TEMPERATURES with the smallest negative log-likelihood; 1 where that gains no more than chance does.

    logits: (N, C). targets: (N,) class indices, or (N, C) of 0/1 for several labels a row.

    Where every row is right, the likelihood would raise confidence without end. So targets are those of Platt (1999, "Probabilistic
    outputs for support vector machines", section 2.2), after Laplace's rule: of N rows, all right, no more than a confidence of
    (N + 1) / (N + 2) can be concluded. 1 / (N + 2) of each row's target goes to the strongest other class; of several labels a row,
    1 becomes (P + 1) / (P + 2) and 0 becomes 1 / (Q + 2), with P entries that are 1 and Q that are 0. The gain counts where it is above
    one nat in all, what a parameter that says nothing must bring (Akaike's criterion), and where the rows as they are gain, too: the
    softened targets alone would take confidence from a model that has made no error.
    """
    from scipy.optimize import brentq

    losses = _binary if targets.ndim == 2 else _multinomial
    slope, loss = losses(logits, targets, True)
    # The loss is convex in the inverse temperature, so its slope has one root at most.
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    inverse = low if slope(low) >= 0 else high if slope(high) <= 0 else brentq(slope, low, high, xtol=1e-9, rtol=1e-9)
    if loss(1.0) - loss(inverse) <= 1:
        return 1.0
    _, plain = losses(logits, targets, False)
    return 1 / inverse if plain(inverse) < plain(1.0) else 1.0


def best_threshold(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The threshold (labels at or above it are answered) with the highest micro F1: half-way between the two probabilities beside it.

    probabilities: (N, C). targets: (N, C) of 0/1. Of equal ones the highest; 0.5 where no entry is 1.
    """
    chances, marks = probabilities.ravel().astype(np.float64), targets.ravel().astype(bool)
    if not marks.any():
        return 0.5
    order = np.argsort(-chances, kind="stable")
    chances, right = chances[order], np.cumsum(marks[order])
    f1 = 2 * right / (np.arange(1, len(chances) + 1) + right[-1])
    # A threshold cannot part equal probabilities.
    f1[:-1][chances[:-1] == chances[1:]] = -1
    at = int(f1.argmax())
    below = chances[at + 1] if at + 1 < len(chances) else 0.0
    return float((chances[at] + below) / 2)


def half_width(residuals: np.ndarray) -> float | None:
    """The ceil((n + 1) · 0.9)-th smallest absolute residual: a new row's lies within it with 90 % or more. None of fewer than 9."""
    place = math.ceil((len(residuals) + 1) * COVERAGE - 1e-9)
    return float(np.sort(np.abs(residuals))[place - 1]) if place <= len(residuals) else None


def _multinomial(logits: np.ndarray, targets: np.ndarray, softened: bool) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Slope and value of the summed loss as functions of the inverse temperature."""
    rows, share = np.arange(len(targets)), 1 / (len(targets) + 2) if softened else 0.0
    others = logits.astype(np.float64)
    others[rows, targets] = -np.inf
    wanted = (1 - share) * logits[rows, targets].astype(np.float64) + (share * others.max(1) if softened else 0.0)
    blocks = _slices(logits)

    def slope(inverse: float) -> float:
        total = 0.0
        for rows in blocks:
            block, top = _shifted(logits[rows])
            weight = np.exp(inverse * block)
            total += float(((weight * block).sum(1) / weight.sum(1) + top - wanted[rows]).sum())
        return total

    def loss(inverse: float) -> float:
        total = 0.0
        for rows in blocks:
            block, top = _shifted(logits[rows])
            total += float((np.log(np.exp(inverse * block).sum(1)) + inverse * (top - wanted[rows])).sum())
        return total

    return slope, loss


def _binary(logits: np.ndarray, targets: np.ndarray, softened: bool) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """The same of a binary loss for each entry."""
    from scipy.special import expit

    ones = int(targets.sum())
    high, low = ((ones + 1) / (ones + 2), 1 / (targets.size - ones + 2)) if softened else (1.0, 0.0)
    blocks = [(logits[rows].astype(np.float64), np.where(targets[rows], high, low)) for rows in _slices(logits)]

    def slope(inverse: float) -> float:
        return sum(float(((expit(inverse * block) - wanted) * block).sum()) for block, wanted in blocks)

    def loss(inverse: float) -> float:
        return sum(float((np.logaddexp(0, inverse * block) - inverse * wanted * block).sum()) for block, wanted in blocks)

    return slope, loss


def _slices(logits: np.ndarray) -> list[slice]:
    step = max(1, BLOCK_VALUES // logits.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits), step)]


def _shifted(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits with each row's largest at 0, and the largest."""
    block = block.astype(np.float64)
    top = block.max(1)
    return block - top[:, None], top


def _can_be_calibrated(predictor: Predictor, validation: Split) -> bool:
    """True where there are enough rows, and half the weights give half the logits."""
    kind = predictor.problem.problem_type
    if kind not in (SINGLE_LABEL, MULTI_LABEL, models.TAGS) or len(predictor.problem.labels) < 2:
        return False
    if validation.num_rows < FEWEST_ROWS:
        console.talk(f"not calibrated: {validation.num_rows} validation rows, and a temperature takes {FEWEST_ROWS} or more")
        return False
    before = _probe(predictor, validation)
    if before is None:
        return False
    kept = [tensor.detach().clone() for tensor in _tensors(predictor.model)]
    scale(predictor.model, 0.5)
    halved = _probe(predictor, validation)
    with torch.no_grad():
        for tensor, value in zip(_tensors(predictor.model), kept):
            tensor.copy_(value)
    if kept and np.allclose(2 * halved, before, rtol=0, atol=1e-3 * np.nanmax(np.abs(before)), equal_nan=True):
        return True
    console.hint(f"the probabilities are not calibrated: the logits of {type(predictor.model).__name__} do not follow the weights of its last layer. "
                 "Silence this with --calibrate false")
    return False


def _tensors(model: Any) -> list[Any]:
    """Weights and biases of the layers that give the logits, each once."""
    found = [tensor for layer in models.logit_layers(model) for tensor in (layer.weight, layer.bias) if tensor is not None]
    return list({id(tensor): tensor for tensor in found}.values())


def _probe(predictor: Predictor, validation: Split) -> np.ndarray | None:
    """The logits of the first rows, (N, C); None of a task that has none."""
    task, model = predictor.task, predictor.model
    items = task.encode(validation.take(list(range(PROBE_ROWS))), predictor.processor, predictor.problem, predictor.recipe, training=False)
    device, was_training = next(model.parameters()).device, model.training
    batch = {name: value.to(device) if hasattr(value, "to") else value for name, value in task.collate(items, predictor.processor).items()}
    model.eval()
    try:
        with torch.inference_mode():
            found = task.logits(task.forward(model, batch, predictor.recipe), batch, predictor.problem)
    finally:
        model.train(was_training)
    return None if found is None else np.concatenate([np.atleast_2d(row) for row in found])


class _Logits:
    """A task that answers with its logits."""

    def __init__(self, task: Task):
        self.task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def decode(self, outputs: Any, batch: dict[str, Any], processor: Any, problem: Problem) -> list[Prediction]:
        return [Prediction(row) for row in self.task.logits(outputs, batch, problem)]


def _fitted(predictor: Predictor, validation: Split, scaled: bool) -> dict[str, float]:
    """Temperature and threshold, in the main process; nothing in the others."""
    rows: list[Any] = [None] * validation.num_rows
    asking = dataclasses.replace(predictor, task=_Logits(predictor.task))
    for result in run_batches(asking, validation, predictor.recipe.per_device_eval_batch_size, "calibrating"):
        for position, prediction in zip(result.positions, result.predictions):
            rows[position] = prediction.answer
    if rank_and_world()[0]:
        return {}
    problem = predictor.problem
    targets = _targets(validation.column(predictor.task.target), problem)
    logits = np.concatenate([np.atleast_2d(row) for row in rows])
    said = ~np.isnan(logits[:, 0])
    logits, targets = logits[said], targets[said]
    found = {}
    if scaled:
        found["temperature"] = fit_temperature(logits, targets)
        console.talk(f"calibrated: temperature {found['temperature']:.3g}, by {validation.num_rows} validation rows")
    if problem.problem_type == MULTI_LABEL and predictor.recipe.threshold == "auto":
        chances = torch.from_numpy(logits).div(found.get("temperature", 1.0)).sigmoid().numpy()
        found["threshold"] = best_threshold(chances, targets)
        console.talk(f"threshold {found['threshold']:.3g}: the highest micro F1 of {validation.num_rows} validation rows")
    return found


def _targets(references: Any, problem: Problem) -> np.ndarray:
    """(N,) indices, of rows or words, or (N, C) of 0/1."""
    position = {name: index for index, name in enumerate(problem.labels)}
    if problem.problem_type == MULTI_LABEL:
        return np.array([[name in row for name in problem.labels] for row in map(set, references)], dtype=np.uint8)
    if problem.problem_type == models.TAGS:
        references = [tag for row in references for tag in row]
    return np.array([position[name] for name in references])


def _half_width(predictor: Predictor, validation: Split) -> dict[str, float]:
    outcomes, _ = evaluate_split(predictor, validation, predictor.recipe.per_device_eval_batch_size, what="calibrating")
    if rank_and_world()[0]:
        return {}
    found = half_width(np.asarray(outcomes.references, np.float64) - np.asarray(outcomes.answers, np.float64))
    if found is None:
        console.talk(f"no interval: {validation.num_rows} validation rows, and it takes 9 or more")
        return {}
    console.talk(f"90 % of values lie within {found:.4g} of the prediction, by {validation.num_rows} validation rows")
    return {"half_width": found}


def _agreed(found: dict[str, float]) -> dict[str, float]:
    """What the main process found, in every process."""
    if rank_and_world()[1] == 1:
        return found
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([found])[0]
