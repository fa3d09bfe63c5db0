"""record: what a training leaves in its Run beside the model: history, machine, scores, predictions, pictures and examples."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainingArguments

from hfxfer import data, figures, methods, models
from hfxfer.evaluation import Predictor, score_outcomes, write_predictions
from hfxfer.run import Run, Score, scores_object, write_text
from hfxfer.stopping import EarlyStopping, patience_is_over
from hfxfer.tasks._task import Outcomes, Problem, Task

NUM_EXAMPLES = 12
PACKAGES = ("hfxfer", "torch", "torchvision", "timm", "transformers", "datasets", "evaluate", "accelerate", "huggingface_hub", "scikit-learn",
            "numpy", "pillow")


def environment(args: TrainingArguments) -> dict[str, Any]:
    """What environment.json holds: versions and machine."""
    device, versions = args.device, {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # a source folder on PYTHONPATH has none
            versions[name] = version(name)
    return {"python": platform.python_version(), "platform": platform.platform(), "packages": versions,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "processes": args.world_size, "threads": torch.get_num_threads()}


def logged_event(logs: dict[str, Any], step: int, before: dict[str, Any]) -> dict[str, Any]:
    """The event of what Trainer logs: log, or eval where it evaluated. before: step and epoch at which the stage began."""
    kind = "eval" if any(name.startswith("eval_") for name in logs) else "log"
    values = {name: value for name, value in logs.items() if isinstance(value, (int, float)) and isfinite(value)}
    return {"type": kind, **values, "step": before["step"] + step, "epoch": before["epoch"] + values.get("epoch", 0.0)}


def logged_events(log: list[dict[str, Any]], trained_parameters: Callable[[str], int]) -> Iterator[dict[str, Any]]:
    """history.jsonl out of a trainer's log_history, whose entries name the stage that they are of, except the last's.

    trained_parameters: of a stage, by its name.
    """
    stage = ended = None
    last = {"step": 0, "epoch": 0.0}
    for entry in log:
        name = entry.get("stage", "")
        if "train_runtime" in entry:
            ended = name
        if name == ended:  # what is evaluated after the training, on whatever rows, is no part of it
            continue
        if name != stage:
            stage, before = name, {"step": last["step"], "epoch": last["epoch"]}
            yield {"type": "stage", "name": stage, **before, "trained_parameters": trained_parameters(stage)}
        last = logged_event(entry, entry["step"], before)
        yield last


def end_event(trainer: Any, seconds: float) -> dict[str, Any]:
    """What history.jsonl ends with. seconds: of the training.

    best_step: whose weights the model has, None where it has the last ones. ended_early, stopped_early: before its last step; by early stopping.
    """
    state, log = trainer.state, [entry for entry in trainer.state.log_history if "stage" not in entry]
    end = next((index for index, entry in enumerate(log) if "train_runtime" in entry), None)
    kept_best = end is not None and trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None
    early = state.global_step < state.max_steps
    metric = state.best_metric if state.best_metric is not None and isfinite(state.best_metric) else None
    return {"type": "end", "step": state.global_step, "epoch": state.epoch, "seconds": round(seconds, 3),
            "waiting_share": round(trainer.waiting.share(seconds), 4), "best_metric": metric,
            "best_step": state.best_global_step if kept_best else None, "ended_early": early,
            "stopped_early": early and _patience_is_over(trainer, log[:end]), "frozen_parameters": frozen_parameters(trainer),
            **models.remembered(trainer.accelerator.unwrap_model(trainer.model).config)}


def frozen_parameters(trainer: Any) -> int:
    """Weights that stood still in the last stage."""
    trained, total = methods.trainable_parameters(trainer.accelerator.unwrap_model(trainer.model))
    return total - trained


def _patience_is_over(trainer: Any, log: list[dict[str, Any]]) -> bool:
    """Whether early stopping, hfxfer's or that of transformers, has seen enough. log: of the last stage."""
    for each in trainer.callback_handler.callbacks:
        if isinstance(each, EarlyStopping) and trainer.args.load_best_model_at_end and patience_is_over(log, trainer.args, each.patience):
            return True
        if isinstance(each, EarlyStoppingCallback) and each.early_stopping_patience_counter >= each.early_stopping_patience:
            return True
    return False


def write_results(run: Run, predictor: Predictor, split: data.Split, outcomes: Outcomes, context: dict[str, Any]) -> None:
    """What one split says of the model: scores, predictions, pictures, examples. context: of every Score."""
    scores = score_outcomes(predictor, outcomes, context)
    write_predictions(run.predictions_path, predictor, split, outcomes)
    confusion = predictor.task.confusion(outcomes, predictor.problem)
    if confusion is not None:
        figures.confusion_matrix(confusion, predictor.problem.labels, run.figures_dir / "confusion_matrix.png")
    _write_examples(run, predictor.task, split)
    write_scores(run, predictor.task, predictor.problem, scores, context["split"], confusion)


def write_scores(run: Run, task: Task, problem: Problem, scores: list[Score], split: str, confusion: list[list[int]] | None = None) -> None:
    """The learning curve, where there is one, and scores.json, which comes last: a Run that has it is finished."""
    history = run.history()
    if any(event["type"] in ("log", "eval") for event in history):
        figures.learning_curve(history, task.primary_metric(problem), run.figures_dir / "learning_curve.png")
    found = scores_object(scores, task=task.name, problem_type=problem.problem_type, labels=problem.labels, split=split, confusion=confusion)
    write_text(run.model_dir / "scores.json", json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False))


def _write_examples(run: Run, task: Task, split: data.Split) -> None:
    """Up to 12 rows for the demo: images at most 256 pixels wide or high, the rest as JSON lines."""
    step = max(1, split.num_rows // NUM_EXAMPLES)
    lines = []
    for number, row in enumerate(split.take(range(0, split.num_rows, step))[:NUM_EXAMPLES]):
        kept = {role: row[role] for role in task.columns if row.get(role) is not None}
        if "image" in kept:
            kept["image"] = _small_picture(kept["image"], run.folder / "examples" / f"{number:02d}.png")
        lines.append(json.dumps(kept, ensure_ascii=False))
    write_text(run.folder / "examples" / "examples.jsonl", "\n".join(lines) + "\n")


def _small_picture(given: Any, path: Path) -> str:
    from hfxfer.images import open_image

    image = open_image(given)
    image.thumbnail((256, 256))
    path.parent.mkdir(exist_ok=True)
    image.save(path)
    return path.name
