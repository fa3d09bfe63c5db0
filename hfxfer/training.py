"""train: a Recipe in, a Run folder out; pushed where the recipe says so, after a check before the first training second."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from hfxfer import checkpoints, console, data, methods, models, tasks
from hfxfer.errors import RecipeError, RefusedError, RunError, WorkError
from hfxfer.preflight import Check
from hfxfer.recipe import GIVEN_IN_PYTHON, PUBLISHING, Recipe
from hfxfer.run import Run
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION, Problem, Task

EXAMPLE_ROWS = 60
RATES = {"head": methods.HEAD_LEARNING_RATE, "lora": 1e-3}


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """All that a training begins with. recipe: every `auto` is a value. began: time.monotonic() when reading began."""

    recipe: Recipe
    task: Task
    problem: Problem
    rows: data.Rows
    loaded: models.Loaded
    began: float


def train(recipe: Recipe | None = None, /, *, overwrite: bool = False, resume: bool = False, **settings: Any) -> Run:
    """Fine-tune, evaluate and save; the Run is the result. With push_to_hub everything is checked first, and the model is pushed at the end.

    Give a Recipe, or its fields by keyword; `data` may be a Dataset, DatasetDict or DataFrame here.
    Raises RefusedError (nothing was done) or WorkError (what was finished is kept).
    """
    run = fine_tune(recipe, overwrite=overwrite, resume=resume, **settings)
    if console.is_main_process() and run.recipe().push_to_hub:
        push(run)
    return run


def fine_tune(recipe: Recipe | None = None, /, *, overwrite: bool = False, resume: bool = False, confirm: Callable[[Check], None] | None = None,
              faults: tuple[str, ...] = (), **settings: Any) -> Run:
    """`train` up to the push. confirm: called before training where there will be one; raises where the answer is no. faults: known already."""
    recipe, source = given(recipe, settings)
    run = Run(recipe.output_dir)
    if recipe.push_to_hub:
        check = Check(recipe, must_reach=True, faults=list(faults))
        ready = examine(check, run, source, overwrite=overwrite, resume=resume)
        check.settle(confirm)
        for line in check.checked:
            console.talk(f"checked: {line}")
    else:
        if recipe.hub_model_id:
            console.hint(f"hub_model_id is {recipe.hub_model_id}, but without --push_to_hub nothing is pushed")
        _claim(run, overwrite, resume)
        ready = made_ready(recipe, source, run if resume else None)
    from hfxfer.fitting import fit

    return fit(run, ready.recipe, ready.task, ready.problem, ready.rows, ready.loaded, resume, ready.began)


def examine(check: Check, run: Run, source: Any, *, overwrite: bool = False, resume: bool = False) -> Prepared | None:
    """Find all that is wrong before a training into `run`, and what was looked at; None where the data or the model cannot be had."""
    ready = None
    check.ask()
    with check.trying():
        _claim(run, overwrite, resume)
    if check.recipe.data and check.recipe.model:
        with check.trying("reading the data and loading the model", "Change --data, --model or the settings"):
            ready = made_ready(check.recipe, source, run if resume and run.exists() else None)
    if ready:
        check.rehearse(ready.recipe, ready.task, ready.problem, ready.rows, ready.loaded)
    if not check.has_card:
        check.foresee()
    return ready


def push(run: Run) -> Any:
    """Push a finished Run as its recipe says; a hub.Pushed. Raises WorkError: the Run is whole, and `hfxfer push` goes on."""
    from hfxfer import hub

    recipe = run.recipe()
    try:
        return hub.push(run, hub_model_id=recipe.hub_model_id, private=recipe.hub_private_repo, revision=recipe.hub_revision or hub.MAIN)
    except RefusedError as error:
        raise WorkError(str(error)) from error


def _claim(run: Run, overwrite: bool, resume: bool) -> None:
    if console.is_main_process():
        run.claim(overwrite=overwrite, resume=resume)


def made_ready(recipe: Recipe, source: Any, begun: Run | None) -> Prepared:
    """Rows, model and the whole recipe. begun: the Run that is to go on."""
    task, rows, began = read_rows(recipe, source)
    recipe = with_saved_plan(recipe, begun.recipe()) if begun else recipe
    recipe, problem, loaded = prepare(dataclasses.replace(recipe, task=task.name), task, rows)
    if begun:
        must_match(recipe, begun.recipe(), begun)
    return Prepared(recipe, task, problem, rows, loaded, began)


def given(recipe: Recipe | None, settings: dict[str, Any]) -> tuple[Recipe, Any]:
    """The recipe with the settings over it, local paths made absolute, and where the data is: a path, a Hub id or an object."""
    settings = {**(recipe.to_dict() if recipe else {}), **settings}
    source = settings.get("data")
    in_python = source is not None and not isinstance(source, (str, Path))
    if in_python:
        settings["data"] = GIVEN_IN_PYTHON
    recipe = with_full_paths(Recipe.from_settings(settings))
    return recipe, source if in_python else recipe.data


def prepare(recipe: Recipe, task: Task, rows: data.Rows) -> tuple[Recipe, Problem, models.Loaded]:
    """The checkpoint with its head for these rows, and the recipe with every `auto` as a value."""
    problem = task.problem(rows.target, rows.train)
    loaded = models.load(task, recipe, problem)
    return *resolve(recipe, task, problem, rows, loaded), loaded


def read_rows(recipe: Recipe, source: Any) -> tuple[Task, data.Rows, float]:
    """The task (found by the columns when it is auto), the checked rows, and when the first of them was opened (time.monotonic())."""
    if isinstance(source, str) and source == "example":
        if recipe.task == "auto":
            raise RecipeError(f"data is 'example', which every task has: say which one, --task {' | '.join(tasks.names())}")
        source = tasks.get(recipe.task).example_rows(EXAMPLE_ROWS, recipe.seed)
    source = data.read_source(source, recipe)
    name = recipe.task
    if name == "auto":
        name = data.detect_task(source, {each: tasks.get(each).columns for each in tasks.names()}, recipe)
    task, opened = tasks.get(name), time.monotonic()

    def import_libraries() -> None:
        """They take seconds: what is wrong with columns and labels is told before, and what needs them comes after."""
        nonlocal opened
        checkpoints.check_torch_pair()
        import_module("hfxfer.fitting")
        if task.encode_on_access:
            import_module("timm")
        opened = time.monotonic()

    rows = data.load_rows(source, task.columns, recipe, before_rows=import_libraries)
    return task, rows, opened


def resolve(recipe: Recipe, task: Task, problem: Problem, rows: data.Rows, loaded: models.Loaded) -> tuple[Recipe, Problem]:
    """Every `auto` as a value, by method, task, body and number of rows, and the execution plan, which is applied to the model."""
    from hfxfer import plan

    if problem.problem_type == REGRESSION and any(layer.bias is None for layer in models.logit_layers(loaded.model)):
        # Without a bias in the last layer there is nothing to fold the mean into.
        problem = dataclasses.replace(problem, target_mean=0.0)
    if problem.problem_type == MULTI_LABEL and loaded.new_weights:
        models.start_at_label_rates(loaded.model, problem, rows.train.column(task.target))
    recipe = models.settle_lengths(recipe, loaded.processor, loaded.model.config)
    size = sum(parameter.numel() for parameter in loaded.model.parameters())
    chosen: dict[str, Any] = {}
    if recipe.method == "auto":
        recipe = methods.settle(recipe, problem, rows.train, loaded.model)
    if recipe.num_train_epochs == "auto":
        chosen["num_train_epochs"] = 10.0 if recipe.method == "head" else 5.0 if task.encode_on_access or recipe.method in ("gradual", "lora") else 3.0
    if recipe.learning_rate == "auto":
        chosen["learning_rate"] = _learning_rate(recipe.method, loaded.model, size)
    recipe = plan.make(dataclasses.replace(_with_precision(recipe), **chosen), task, problem, loaded, rows)
    if recipe.precision == "auto":
        chosen["precision"] = _precision()
    if recipe.per_device_train_batch_size == "auto":
        chosen["per_device_train_batch_size"] = plan.usual_batch(rows.train.num_rows)
    recipe = dataclasses.replace(recipe, **chosen)
    if chosen:
        console.talk("chosen: " + ", ".join(f"{name} {value:g}" if isinstance(value, (int, float)) else f"{name} {value}"
                                            for name, value in chosen.items()))
    return recipe, problem


def _learning_rate(method: str, model: Any, size: int) -> float:
    """AdamW peak rates: a head alone bears 5e-3, adapters 1e-3, a convolutional body 2e-4, a transformer less the larger it is.

    Measured with mobilenetv2_100 on 270 pictures of 3 pets, 3 epochs, one seed, 298 test pictures: accuracy 0.920 at
    1e-3, 0.943 at 5e-4, 0.963 at 2e-4. With MiniLM (22.7 M), 1 epoch by 32: tweet_emotion 0.757 at 1e-4, 0.781 at 2e-4; wnut17's
    entities, F1 on validation, 0 and 0.22. BERT's own rate (110 M) is 5e-5, BERT-large's (335 M) 1e-5 to 3e-5 (Devlin et al. 2019).
    """
    import torch

    if method in RATES:
        return RATES[method]
    if any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()):
        return 2e-4
    return float(f"{min(2e-4, max(1e-5, 5e-5 * 110e6 / size)):.1g}")


def _with_precision(recipe: Recipe) -> Recipe:
    """Where transformers' own bf16 or fp16 says it, under hfxfer's name."""
    asked = {name: recipe.training_arguments[name] for name in ("bf16", "fp16") if name in recipe.training_arguments}
    if recipe.precision != "auto" or not asked:
        return recipe
    return dataclasses.replace(recipe, precision=next((name for name, wanted in asked.items() if wanted), "fp32"))


def _precision() -> str:
    import torch

    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"


def with_full_paths(recipe: Recipe) -> Recipe:
    """Local data and model as absolute paths, so that the saved recipe runs from anywhere."""
    changed = {name: os.path.abspath(getattr(recipe, name)) for name in ("data", "model")
               if os.path.exists(getattr(recipe, name))}
    return dataclasses.replace(recipe, **changed)


def with_saved_plan(recipe: Recipe, saved: Recipe) -> Recipe:
    """A run goes on as it began: what is left to be measured, precision among it, is the saved recipe's."""
    if isinstance(recipe.plan, dict) or recipe.plan == "none":
        return recipe
    names = ["plan", *(name for name in ("precision", "per_device_train_batch_size") if getattr(recipe, name) == "auto")]
    return dataclasses.replace(recipe, **{name: getattr(saved, name) for name in names})


def must_match(recipe: Recipe, saved: Recipe, run: Run) -> None:
    """Resuming with other settings would give neither run; where the model goes may change. Raises RunError naming them."""
    now, then = recipe.to_dict(), saved.to_dict()
    ignored = {"output_dir", *PUBLISHING}
    differing = [f"{name} is {now.get(name)!r}, was {then.get(name)!r}" for name in {**then, **now}
                 if name not in ignored and now.get(name) != then.get(name)]
    if differing:
        raise RunError(f"--resume goes on with the same settings, but {'; '.join(differing)}. "
                       f"Continue with: {run.continuing_command}, or start another run")
