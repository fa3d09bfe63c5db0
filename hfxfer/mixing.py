"""A training batch: the task's own, then mixup and cutmix, torchvision's, with draws that depend on (seed, epoch, first row) alone."""

from __future__ import annotations

from typing import Any

from hfxfer.batches import seeded
from hfxfer.errors import RecipeError
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import MULTI_LABEL, SINGLE_LABEL, Problem, Task


class Mixing:
    """Mixes the pictures of a training batch, each with the one before it, and their labels.

    mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019), each by its alpha; with both, one of them a batch by chance.
    Raises RecipeError where there are no pictures or no classes.
    """

    def __init__(self, recipe: Recipe, task: Task, problem: Problem):
        from torchvision.transforms import v2

        given = {name: getattr(recipe, name) for name in ("mixup", "cutmix") if getattr(recipe, name)}
        asked = " and ".join(f"{name} is {value:g}" for name, value in given.items())
        if all(column.kind != "image" for column in task.columns.values()):
            raise RecipeError(f"{asked}, which mixes pictures, and {task.name} has none. Leave it out")
        if problem.problem_type not in (SINGLE_LABEL, MULTI_LABEL):
            raise RecipeError(f"{asked}, which mixes classes, and problem_type is {problem.problem_type}. Leave it out")
        self.seed = recipe.seed
        kinds = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
        ways = [kinds[name](alpha=value, num_classes=len(problem.labels)) for name, value in given.items()]
        self.mix = ways[0] if len(ways) == 1 else v2.RandomChoice(ways)

    def __call__(self, batch: dict[str, Any], items: list[dict]) -> dict[str, Any]:
        """labels: (N,) indices or (N, labels) 0/1, (N, labels) shares after. Batches that are not for training stay as they are."""
        drawn = items[0].get("_drawn")
        if drawn is None or "labels" not in batch:
            return batch
        with seeded(self.seed, drawn[0], "/".join(["mixed", *map(str, drawn[1:])])):
            pixels, labels = self.mix(batch["pixel_values"], batch["labels"])
        return {**batch, "pixel_values": pixels, "labels": labels}


def mixing(recipe: Recipe, task: Task, problem: Problem) -> Mixing | None:
    """What the recipe's mixup and cutmix ask for; None where both are 0. Raises RecipeError."""
    return Mixing(recipe, task, problem) if recipe.mixup or recipe.cutmix else None


class Collator:
    """The task's collate, with mixup and cutmix in training, without the keys that the model does not take."""

    def __init__(self, task: Task, processor: Any, mixing: Mixing | None = None):
        self.task, self.processor, self.mixing = task, processor, mixing

    def __call__(self, items: list[dict]) -> dict[str, Any]:
        batch = self.task.collate(items, self.processor)
        batch = self.mixing(batch, items) if self.mixing else batch
        return {key: value for key, value in batch.items() if not key.startswith("_")}
