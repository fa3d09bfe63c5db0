"""fit: the training itself and the writing of the Run, once everything has been checked and chosen."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from hfxfer import adapters, calibration, checkpoints, console, data, methods, models, plan, recording
from hfxfer.errors import RecipeError, RefusedError, WorkError
from hfxfer.evaluation import Predictor, check_precision, evaluate_split, rank_and_world
from hfxfer.machine import has_accelerator
from hfxfer.metrics import METRICS
from hfxfer.recipe import Recipe
from hfxfer.run import Run
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION, Problem, Task
from hfxfer.stopping import EarlyStopping
from hfxfer.trainer import TransferTrainer


def fit(run: Run, recipe: Recipe, task: Task, problem: Problem, rows: data.Rows, loaded: models.Loaded, resume: bool, began: float,
        finish: Callable[..., None] | None = None) -> Run:
    """Train, keep the best checkpoint, score the test split in fp32, write every file of the Run. began: time.monotonic() when reading began.

    finish: what comes after the training in place of saving and scoring, called with what `_finish` is.
    """
    problem = calibration.with_threshold(problem, recipe)
    args = training_arguments(recipe, run, task, problem)
    check_precision(recipe.precision, args.device.type)
    trainer = _trainer(args, recipe, task, problem, rows, loaded, run)
    checkpoint = _checkpoint_to_resume(run) if resume else None
    if finish is None:
        methods.hint_unused(recipe)
    if trainer.is_world_process_zero():
        run.create()
        run.write_recipe(recipe)
        run.write_json("data.json", rows.report)
        run.write_json("base.json", loaded.base)
        run.write_json("environment.json", recording.environment(args))
        _begin_history(run, recipe, loaded, checkpoint, resume)
    _say_what_is_trained(trainer, loaded, task)
    start = time.monotonic()
    try:
        with checkpoints.quiet_libraries():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        console.talk(f"{trainer.waiting.share(time.monotonic() - start):.1%} of the training time was waiting for data")
        (finish or _finish)(run, trainer, rows, start, began)
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(f"interrupted. {_kept(run)} Continue with: {run.continuing_command}") from interruption
    except RefusedError as error:
        raise WorkError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise WorkError(f"out of memory: {str(error).splitlines()[0]}. Halve --per_device_train_batch_size",
                        change={"per_device_train_batch_size": max(1, args.per_device_train_batch_size // 2)}) from error
    trainer.accelerator.wait_for_everyone()
    return run


def training_arguments(recipe: Recipe, run: Run, task: Task, problem: Problem) -> TrainingArguments:
    """The recipe's settings and hfxfer's defaults; what the recipe says in training_arguments wins."""
    metric = task.primary_metric(problem)
    settings: dict[str, Any] = {
        "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "save_total_limit": 2,
        "metric_for_best_model": metric, "greater_is_better": task.greater_is_better(problem),
        "warmup_steps": 0.1, "weight_decay": 0.01, "lr_scheduler_type": "cosine", "logging_steps": 0.02,
        "disable_tqdm": True, "report_to": "none", "use_cpu": not has_accelerator(), "log_level": "error",
        "dataloader_num_workers": _loader_workers(task),
    }
    if isinstance(recipe.plan, dict):
        settings.update(plan.Plan.from_dict(recipe.plan).training_arguments())
    settings.update(_following(recipe.training_arguments))
    chosen = str(settings["metric_for_best_model"]).removeprefix("eval_")
    if chosen not in ("loss", *METRICS):
        raise RecipeError(f"metric_for_best_model is {chosen!r}; allowed: loss, {', '.join(METRICS)}")
    if chosen != metric and "greater_is_better" not in recipe.training_arguments:
        settings["greater_is_better"] = chosen != "loss" and METRICS[chosen].greater_is_better
    settings.update({
        "output_dir": str(run.checkpoints_dir), "seed": recipe.seed, "learning_rate": recipe.learning_rate,
        "num_train_epochs": recipe.num_train_epochs, "remove_unused_columns": False,
        "per_device_train_batch_size": recipe.per_device_train_batch_size,
        "per_device_eval_batch_size": recipe.per_device_eval_batch_size,
        "bf16": recipe.precision == "bf16", "fp16": recipe.precision == "fp16",
    })
    try:
        args = TrainingArguments(**settings)
    except (ValueError, TypeError, ImportError, KeyError) as error:
        raise RecipeError(f"TrainingArguments refuses these settings: {str(error).strip().splitlines()[0]}") from error
    if args.label_smoothing_factor and problem.problem_type in (MULTI_LABEL, REGRESSION):
        raise RecipeError(f"label_smoothing_factor is {args.label_smoothing_factor} and problem_type is {problem.problem_type}, which has no single "
                          "label to smooth. Leave it out")
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if args.world_size != wanted:
        raise RecipeError(f"this process is one of WORLD_SIZE={wanted}, but the training library sees {args.world_size}: the processes would train "
                          "side by side. On CPUs start with torchrun --nproc_per_node; leave out ddp_backend and use_cpu")
    return args


def _following(given: dict[str, Any]) -> dict[str, Any]:
    """The given arguments, and those of hfxfer's defaults that must follow them: evaluating and saving go together."""
    follow: dict[str, Any] = {}
    evaluating, saving = given.get("eval_strategy"), given.get("save_strategy")
    if "no" in (evaluating, saving):
        follow["load_best_model_at_end"] = False
    else:
        follow["eval_strategy"] = evaluating or saving or "epoch"
        follow["save_strategy"] = saving or evaluating or "epoch"
        steps = given.get("eval_steps") or given.get("save_steps") or 500
        follow["eval_steps"], follow["save_steps"] = steps, given.get("save_steps") or steps
    return {**follow, **given}


def _loader_workers(task: Task) -> int:
    """Decoding beside an accelerator needs processes of its own; on a CPU they would take the model's cores."""
    if not task.encode_on_access or not has_accelerator():
        return 0
    return min(8, max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _trainer(args: TrainingArguments, recipe: Recipe, task: Task, problem: Problem, rows: data.Rows,
             loaded: models.Loaded, run: Run) -> TransferTrainer:
    callbacks: list[TrainerCallback] = [Chronicle(run)]
    if recipe.early_stopping_patience and str(args.eval_strategy.value) != "no" and args.load_best_model_at_end:
        callbacks.append(EarlyStopping(recipe.early_stopping_patience))
    trainer = TransferTrainer(model=loaded.model, args=args, train_dataset=rows.train, eval_dataset=rows.validation,
                              processing_class=loaded.processor, callbacks=callbacks, task=task, recipe=recipe, problem=problem)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _say_what_is_trained(trainer: TransferTrainer, loaded: models.Loaded, task: Task) -> None:
    trained, total = methods.trainable_parameters(trainer.model)
    console.talk(f"training {trained:,} of {total:,} parameters on {trainer.args.device.type} with "
                 f"{len(trainer.train_dataset)} items; new weights: {', '.join(loaded.new_weights) or 'none (the head is for these labels)'}")
    share = trainer.train_dataset.truncated_share()
    if not task.encode_on_access:
        console.talk(f"{share:.1%} of the training texts are cut at max_length {trainer.recipe.max_length}"
                     + (". Raise it with --max_length" if share > 0.05 else ""))


def _begin_history(run: Run, recipe: Recipe, loaded: models.Loaded, checkpoint: Path | None, resume: bool) -> None:
    """The plan is the first event. One that is started anew by --resume measures nothing, and keeps the factors that were."""
    begun = next((event["factors"] for event in run.history() if event["type"] == "plan"), {}) if resume else {}
    if resume:
        run.forget_after(checkpoint)
    if checkpoint is None:
        run.append_event({"type": "plan", "step": 0, "plan": recipe.plan, "factors": loaded.measured or begun, "threads": torch.get_num_threads()})


def _checkpoint_to_resume(run: Run) -> Path | None:
    """The newest complete checkpoint; None starts anew. Checkpoints cut short by a kill are passed over, told."""
    for path, complete in run.checkpoints():
        if complete:
            console.talk(f"resuming from {path}")
            return path
        console.talk(f"passing over {path}: it was cut short")
    console.talk("no complete checkpoint: starting from the beginning")
    return None


def _kept(run: Run) -> str:
    path = next((path for path, complete in run.checkpoints() if complete), None)
    return f"Kept: {path}." if path else "No checkpoint had been written yet."


def _finish(run: Run, trainer: TransferTrainer, rows: data.Rows, start: float, began: float) -> None:
    """Model, scores, predictions, pictures and examples. Evaluation runs in every process, the rest in the main one."""
    seconds = time.monotonic() - start
    predictor = save(run, trainer, rows)
    saved = time.monotonic() - began
    score_test(run, predictor, rows)
    if trainer.is_world_process_zero():
        run.append_event({**recording.end_event(trainer, seconds), "read_to_saved_seconds": round(saved, 3)})


def save(run: Run, trainer: TransferTrainer, rows: data.Rows) -> Predictor:
    """Calibrate on validation and write the model folder, in every process; what scores the model, in fp32 and in the user's units."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    predictor = Predictor(trainer.task, model, trainer.processing_class, models.in_users_units(model, trainer.problem), trainer.recipe)
    predictor.problem = calibration.calibrate(predictor, rows.validation)
    if trainer.is_world_process_zero():
        if hasattr(trainer.processing_class, "model_max_length"):
            # Whoever loads the folder cuts texts where this training did.
            trainer.processing_class.model_max_length = trainer.recipe.max_length
        models.save(model, trainer.processing_class, run.model_dir)
        adapters.keep(trainer, run.model_dir, run.read_json("base.json"))
    return predictor


def score_test(run: Run, predictor: Predictor, rows: data.Rows) -> None:
    """Score the test split, once, and write scores, predictions, pictures and examples; with scores.json the Run is finished."""
    outcomes, _ = evaluate_split(predictor, rows.test, predictor.recipe.per_device_eval_batch_size, run.folder, "scoring the test split")
    if rank_and_world()[0]:
        return
    context = {"split": "test", "seed": predictor.recipe.seed, "dataset": rows.source, "revision": rows.revision}
    recording.write_results(run, predictor, rows.test, outcomes, context)


class Chronicle(TrainerCallback):
    """Writes history.jsonl and shows progress."""

    def __init__(self, run: Run):
        self.run, self.bar, self.before = run, None, {"step": 0, "epoch": 0.0}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **unused: Any) -> None:
        name = os.path.basename(args.output_dir) if os.path.abspath(args.output_dir) != os.path.abspath(self.run.checkpoints_dir) else ""
        if state.is_world_process_zero:
            self._begin_stage(name, state.global_step > 0, methods.trainable_parameters(model)[0])
        self.bar = console.Progress(state.max_steps, "training", "steps", done=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        self.bar.advance()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **unused: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        event = recording.logged_event(logs, state.global_step, self.before)
        self.run.append_event(event)
        if "loss" in logs and self.bar is not None:
            self.bar.described = f"loss {logs['loss']:.4g}"
        if event["type"] == "eval":
            shown = {name[5:]: value for name, value in event.items() if name.startswith("eval_") and name[5:] in self._shown(args)}
            console.talk(f"epoch {state.epoch:.3g}: " + ", ".join(f"validation {name} {value:.4f}" for name, value in shown.items()))

    def _begin_stage(self, name: str, resumed: bool, trained_parameters: int) -> None:
        """Steps and epochs in history.jsonl go on from stage to stage; the stage event says where each began."""
        history = self.run.history()
        known = [event for event in history if event["type"] == "stage" and event["name"] == name]
        if resumed and known:
            self.before = {"step": known[-1]["step"], "epoch": known[-1]["epoch"]}
            return
        last = next((event for event in reversed(history) if event["type"] in ("log", "eval")), {})
        self.before = {"step": last.get("step", 0), "epoch": last.get("epoch", 0.0)}
        self.run.append_event({"type": "stage", "name": name, **self.before, "trained_parameters": trained_parameters})

    @staticmethod
    def _shown(args: Any) -> tuple[str, ...]:
        return ("loss", (args.metric_for_best_model or "loss").removeprefix("eval_"))
