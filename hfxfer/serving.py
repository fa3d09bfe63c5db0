"""load: a fine-tuned model, ready to predict and to be scored, from a Run, a model folder or a Hub id."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from hfxfer import checkpoints, data, fetching, inputs, machine, models, tasks
from hfxfer.errors import RecipeError
from hfxfer.evaluation import Predictor, check_precision, evaluate_split, predict_split, score_outcomes
from hfxfer.recipe import Recipe
from hfxfer.run import Run, scores_object
from hfxfer.tasks._text import UNLIMITED


class FineTuned:
    """A fine-tuned model with its task. Computes in fp32 unless `precision` says otherwise."""

    def __init__(self, predictor: Predictor, source: str, run: Run | None = None):
        self.predictor, self.source, self.run = predictor, source, run

    @property
    def labels(self) -> tuple[str, ...]:
        return self.predictor.problem.labels

    @property
    def columns(self) -> dict[str, data.Column]:
        """The task's roles; the columns that the Run was trained on are the first names that each is looked for under."""
        roles = self.predictor.task.columns
        trained = self.run.read_json("data.json")["columns"] if self.run else {}
        return {role: dataclasses.replace(column, names=(trained[role], *column.names)) if role in trained else column
                for role, column in roles.items()}

    def predict(self, rows: Any, *, columns: dict[str, str] | None = None, batch_size: int = 32) -> list[dict[str, Any]]:
        """One record a row: `input`, then `label, score, score_<label>…`, `labels`, `value` or `entities`.

        rows: one or a list of paths, texts, PIL images or dicts by column; a Dataset; a DataFrame.
        """
        split = inputs.load_inputs(rows, self.columns, columns or {})
        return predict_split(self.predictor, split, batch_size)

    def evaluate(self, dataset: Any, *, split: str = "test", columns: dict[str, str] | None = None, batch_size: int = 64,
                 **settings: Any) -> dict[str, Any] | None:
        """Scores with 95 % intervals on a labelled split, as in scores.json; None in all but the main process.

        On the data that a Run was trained on, `split` is the one that the training cut; other data without splits is
        taken whole. settings: data_config, data_revision, on_bad_rows, seed.
        """
        predictor = self.predictor
        recipe = dataclasses.replace(predictor.recipe, data="given", output_dir=os.devnull, **settings)
        recipe = dataclasses.replace(recipe, columns=columns or {})
        target = data.Target(predictor.problem.problem_type, predictor.problem.labels)
        source = data.read_source(dataset, recipe)
        report = self.run.read_json("data.json") if self.run else None
        rows = data.load_split(source, split, self.columns, recipe, target, report=report)
        outcomes, _ = evaluate_split(predictor, rows, batch_size, what=f"evaluating {rows.name}")
        if int(os.environ.get("RANK", "0")):
            return None
        context = {"split": rows.name, "seed": recipe.seed, "dataset": source.name, "revision": source.revision}
        scores = score_outcomes(predictor, outcomes, context)
        confusion = predictor.task.confusion(outcomes, predictor.problem)
        return scores_object(scores, task=predictor.task.name, problem_type=predictor.problem.problem_type,
                             labels=predictor.problem.labels, split=rows.name, confusion=confusion)


def load(source: str | Path | Run, *, task: str | None = None, revision: str | fetching.Pinned | None = None, precision: str = "fp32",
         device: str | None = None, trust_remote_code: bool = False, **settings: Any) -> FineTuned:
    """A Run, its folder, any local model folder, or a Hub id. Raises ModelError or RunError.

    precision: fp32, bf16 or fp16. device: torch's name; the best there is by default. settings: max_length, stride.
    """
    import torch

    if precision not in ("fp32", "bf16", "fp16"):
        raise RecipeError(f"precision is {precision!r}; allowed: fp32, bf16, fp16")
    run = source if isinstance(source, Run) else Run(source)
    recipe = None
    if run.exists():
        run.scores()  # says so where the run is not finished
        recipe, source = run.recipe(), run.model_dir
    source = str(source)
    at = fetching.pin(source, revision)
    config = checkpoints.checkpoint_config(source, at)
    chosen = tasks.get(task or (recipe.task if recipe else checkpoints.trained_task(config, source)))
    model, processor = models.load_trained(source, chosen, at, trust_remote_code)
    where = device or _best_device()
    check_precision(precision, torch.device(where).type)
    # A fine-tuned tokenizer knows its length; 512 is only what training starts from.
    known = getattr(processor, "model_max_length", None)
    recipe = recipe or Recipe(model=source, data="", max_length=known if known and known < UNLIMITED else "auto")
    if settings:
        recipe = Recipe.from_settings({**recipe.to_dict(), "version": None, **settings})
    recipe = models.settle_lengths(recipe, processor, model.config)
    problem = models.problem_of(model, chosen)
    predictor = Predictor(chosen, _placed(model, where, precision), processor, problem, recipe, precision)
    return FineTuned(predictor, source, run if run.exists() else None)


def evaluate(source: str | Path | Run, dataset: Any, *, split: str = "test", precision: str = "fp32", **settings: Any) -> dict[str, Any] | None:
    """`load(source).evaluate(dataset)`: the object that scores.json holds."""
    return load(source, precision=precision).evaluate(dataset, split=split, **settings)


def _placed(model: Any, device: str, precision: str) -> Any:
    """The model on its device, in the memory format that its convolutions are fastest in: measured 1.3 to 1.9 times on a CPU."""
    import torch

    model = model.to(device)
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu:
        machine.keep_memory()
    convolves = any(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    return model.to(memory_format=torch.channels_last) if convolves and (on_cpu or precision != "fp32") else model


def _best_device() -> str:
    """The accelerator of this process, or the CPU; joins the process group of torchrun."""
    from accelerate import PartialState

    # Without cpu=True accelerate does not join torchrun's processes on a machine without accelerator (1.15).
    return str(PartialState(cpu=not machine.has_accelerator()).device)
