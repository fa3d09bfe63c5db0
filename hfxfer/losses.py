"""What training minimises where it is not the model's own loss: class weights, soft targets, and the pull of L2-SP.

Only training: evaluation keeps the model's plain loss, so that runs with other weights stay comparable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import TrainerCallback

from hfxfer import console
from hfxfer.errors import RecipeError
from hfxfer.models import head_names
from hfxfer.rates import unwrapped
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION, Problem

IGNORED = -100
"""Trainer's and torch's label of positions without a loss."""


@dataclass(frozen=True, slots=True)
class TrainingLoss:
    """Logits and labels to one number, a sum over the labels divided by their count, as Trainer counts them.

    weights: (labels,) or None; of classes, or for several labels of the positive answers. smoothing: of single labels.
    """

    problem: Problem
    weights: torch.Tensor | None = None
    smoothing: float = 0.0

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor | int | None = None) -> torch.Tensor:
        """logits: (…, labels). labels: (…) indices, (N, labels) shares, or (N,) numbers. num_items: labels.ne(-100) of the whole update.

        The weights average 1 over the training rows, so the sum is divided by the number of labels, not by that of the
        weights in the batch: rare classes would else count less where they happen to be many.
        """
        logits = logits.float()
        weights = None if self.weights is None else self.weights.to(logits.device)
        count = labels.ne(IGNORED).sum() if num_items is None else num_items
        if torch.is_tensor(count):
            count = count.to(logits.device)
        if self.problem.problem_type == REGRESSION:
            return functional.mse_loss(logits.reshape(labels.shape), labels.float(), reduction="sum") / count
        if self.problem.problem_type == MULTI_LABEL:
            return functional.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=weights, reduction="sum") / count
        soft = labels.is_floating_point()
        logits, labels = logits.reshape(-1, logits.shape[-1]), labels if soft else labels.reshape(-1)
        total = functional.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=self.smoothing)
        return total / (count / logits.shape[-1] if soft else count)


def training_loss(trainer: Any) -> TrainingLoss | None:
    """The loss that the trainer's recipe asks for; None where the model's own is right. Raises RecipeError.

    Also where Trainer would take a model's mean for a share of the update: most classifiers of transformers take
    **kwargs and ignore num_items_in_batch, and their gradient would grow with accumulation and processes (5.23).
    """
    recipe, problem, args = trainer.recipe, trainer.problem, trainer.args
    weighted = recipe.class_weights != "none"
    asked = [f"{name} is {getattr(recipe, name)!r}" for name in ("class_weights", "mixup", "cutmix") if getattr(recipe, name) not in ("none", 0.0)]
    split = getattr(trainer.train_dataset, "split", None)
    if asked and split is None and trainer.train_dataset is not None:
        raise RecipeError(f"{' and '.join(asked)}, which needs raw rows; the training data is already encoded. Give raw rows, or leave it out")
    if asked and trainer.compute_loss_func is not None:
        raise RecipeError(f"{' and '.join(asked)}, and compute_loss_func is another loss. Leave out one of them")
    updates = args.gradient_accumulation_steps > 1 or args.world_size > 1
    miscounted = updates and trainer.model_accepts_loss_kwargs and problem is not None
    if split is None or trainer.compute_loss_func is not None or not (asked or miscounted):
        return None
    if weighted and recipe.sampler == "balanced":
        console.hint("class_weights and sampler balanced both make up for rare classes, together twice: in the loss, and by how often they are drawn. "
                     "Leave out one of them: class_weights none, or sampler random")
    weights = class_weights(recipe.class_weights, problem, split.column(trainer.task.target)) if weighted else None
    return TrainingLoss(problem, weights, args.label_smoothing_factor)


def loss_of_batch(trainer: Any, model: Any, batch: dict[str, Any], num_items: Any) -> tuple[torch.Tensor, Any]:
    """(loss, outputs) by trainer.training_loss, scaled as Trainer expects it of a model that takes num_items_in_batch."""
    outputs = trainer.task.forward(model, {name: value for name, value in batch.items() if name != "labels"}, trainer.recipe)
    loss = trainer.training_loss(outputs["logits"], batch["labels"], num_items)
    if num_items is not None and trainer.args.average_tokens_across_devices:
        # The count is of all processes; their gradients are averaged.
        loss = loss * (trainer.accelerator.num_processes if trainer.args.n_gpu <= 1 else trainer.args.n_gpu)
    return loss, outputs


def class_weights(wanted: str | dict[str, float], problem: Problem, targets: Sequence[Any]) -> torch.Tensor | None:
    """(labels,) float32 for `none`, `balanced` or {label: weight}. targets: a label, a list of labels or of tags a row.

    balanced: rows / (classes × rows of the class), scikit-learn's, over the classes that occur; for several labels the
    rows without one for each row with it (torch's pos_weight). Weights of classes are scaled to a mean of 1 over all
    labels given. Raises RecipeError.
    """
    if wanted == "none":
        return None
    if problem.problem_type == REGRESSION:
        raise RecipeError(f"class_weights is {wanted!r}, and the target is a number (regression), which has no classes. Leave it out")
    several = problem.problem_type == MULTI_LABEL
    counts = Counter(_flat(targets))
    found = torch.tensor([float(counts[name]) for name in problem.labels], dtype=torch.float64)
    if isinstance(wanted, dict):
        weights = torch.tensor([_weights_given(wanted, problem.labels).get(name, 1.0) for name in problem.labels], dtype=torch.float64)
    else:
        weights = (len(targets) - found if several else torch.ones_like(found)) / found.clamp(min=1)
    if not several:
        weights = weights * found.sum() / (weights * found).sum()
    if wanted == "balanced":
        # What never occurs, or always, has no ratio.
        weights[(found == 0) | (weights == 0)] = 1.0
    return weights.float()


def _weights_given(wanted: dict[str, float], labels: tuple[str, ...]) -> dict[str, float]:
    unknown = [name for name in wanted if name not in labels]
    if unknown:
        raise RecipeError(f"class_weights names {', '.join(map(repr, unknown[:3]))}, which no row has. Labels: "
                          f"{', '.join(labels[:20])}{', …' if len(labels) > 20 else ''}")
    low = {name: weight for name, weight in wanted.items() if not 0 < weight < float("inf")}
    if low:
        name, weight = next(iter(low.items()))
        raise RecipeError(f"class_weights gives {name!r} the weight {weight:g}; allowed: numbers above 0")
    return {name: float(weight) for name, weight in wanted.items()}


def _flat(targets: Iterable[Any]) -> Iterable[str]:
    for target in targets:
        if isinstance(target, str):
            yield target
        else:
            yield from target


class PullBack(TrainerCallback):
    """L2-SP (Li et al. 2018): alpha / 2 · ‖w - w0‖² on the body; the head has weight decay instead.

    Its gradient alpha · (w - w0) is added once an update, after clipping and the mean over processes: the loss that is
    reported stays that of the data. w0 are the weights when the trainer is made, so a resumed run is pulled to the same;
    they are kept of what moves alone, and a hint says so where that is nothing.
    """

    def __init__(self, trainer: Any):
        recipe = trainer.recipe
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise RecipeError(f"l2_sp is {recipe.l2_sp:g}, and FSDP or DeepSpeed split the weights that it compares. Leave out one of them")
        self.trainer, self.alpha = trainer, recipe.l2_sp
        model = unwrapped(trainer.model)
        # With model_init there is one stage, for which the model is frozen already.
        stages = getattr(trainer, "stages", ())
        moving = set().union(*(stage.trained for stage in stages)) or {name for name, value in model.named_parameters() if value.requires_grad}
        moving -= head_names(model)
        self.start = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if name in moving}
        if not self.start:
            console.hint(f"l2_sp is {recipe.l2_sp:g} and has no effect: with method {recipe.method}{'' if recipe.freeze is None else ' and this freeze'} "
                         "no pre-trained weight moves. Leave it out, or let the body train")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        scaler = self.trainer.accelerator.scaler
        # In fp16 gradients are scaled until they are clipped, or, without clipping, until the step itself.
        scale = scaler.get_scale() if scaler is not None and not args.max_grad_norm > 0 else 1.0
        with torch.no_grad():
            for name, parameter in unwrapped(self.trainer.model).named_parameters():
                if parameter.grad is not None and name in self.start:
                    start = self.start[name] = self.start[name].to(parameter.device)
                    parameter.grad.add_(parameter - start, alpha=self.alpha * scale)
