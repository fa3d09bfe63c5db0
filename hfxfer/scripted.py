"""scripted: what a TransferTrainer in a script holds, as a Run in its output_dir. The trainer comes in as a value."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME as HF_MODULES

from hfxfer import hub, licences, methods, models, publishing, recording
from hfxfer.batches import Items
from hfxfer.checkpoints import card_metadata
from hfxfer.evaluation import Predictor, evaluate_split
from hfxfer.recipe import Recipe, setting_faults, setting_names
from hfxfer.repository import is_own
from hfxfer.run import Run, Score
from hfxfer.stopping import EarlyStopping

SPEED = ("runtime", "samples_per_second", "steps_per_second", "tokens_per_second", "model_preparation_time", "jit_compilation_time")
"""What Trainer's evaluation says of itself, not of the model."""

WRITTEN = ("recipe.yaml", "data.json", "base.json", "environment.json", "history.jsonl", "predictions.parquet", "examples")
"""What a Run has beside its model."""

PART = "model.part"
"""Where the next model is written, beside the last one."""

ELSEWHERE = ("bf16", "fp16", "do_train", "do_eval", "do_predict", "report_to", "disable_tqdm", "log_level", "use_cpu", "accelerator_config",
             "dataloader_pin_memory")
"""Fields of TrainingArguments that a recipe says in other words, or that are of one machine or of what is shown."""


def in_the_way(run: Run) -> list[str]:
    """Files and folders that `write` would replace or a push would send, and that no script's Run left there."""
    if run.is_scripts:
        return []
    sent = [f"model/{name}" for name in publishing.listing(run.model_dir)[0] if name != "README.md"]
    return [name for name in WRITTEN if (run.folder / name).exists()] + sent


def not_loaded(model: Any, task: Any, trust: bool = False) -> Iterator[str]:
    """Why the task's auto class would not load this model as it is. trust: trust_remote_code."""
    name, auto = type(model).__name__, getattr(transformers, task.auto_model)
    if not isinstance(model, PreTrainedModel):
        yield f"the model is a {name}, which from_pretrained does not load. Use a model of transformers, or of timm by its name"
        return
    known = auto._model_mapping.get(type(model.config), ())
    # Loading code from a checkpoint registers its classes, in this process only.
    is_foreign = type(model).__module__.startswith(f"{HF_MODULES}.")
    if is_foreign or type(model) not in (known if isinstance(known, tuple) else (known,)):
        if task.auto_model not in (getattr(model.config, "auto_map", None) or {}):
            yield f"the model is a {name}, which {task.auto_model} does not load. Use {task.auto_model}.from_pretrained, or the task of this model"
        elif not trust:
            yield f"the model is a {name}, whose code comes with its checkpoint. Read it, then allow it: TransferTrainer(…, trust_remote_code=True)"


def processor_of(trainer: Any) -> Any:
    """What Trainer saves beside the model: the processor, or the collator's tokenizer."""
    return trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)


def problem_of(trainer: Any) -> Any:
    """What the model predicts: by its rows, or by its config; with what calibration left in it, which loading it again gives."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return dataclasses.replace(trainer.problem or models.problem_of(model, trainer.task), **models.remembered(model.config))


def base_of(trainer: Any) -> dict[str, Any]:
    """What base.json holds: the checkpoint that was named, or where the given model says that it comes from."""
    if trainer.base is not None:
        return dict(trainer.base)
    model = trainer.accelerator.unwrap_model(trainer.model)
    config, is_timm = model.config, hasattr(model, "timm_model")
    base = {"id": config.name_or_path, "revision": getattr(config, "_commit_hash", None), "source": "timm" if is_timm else "transformers",
            "architecture": config.architecture if is_timm else type(model).__name__}
    if not base["id"]:
        return {**base, "id": f"a {type(model).__name__} given in Python"}
    if base["revision"] is None:
        # Not of the Hub, which may have another model by that name when the folder is gone, as checkpoints go.
        known = licences.declared(card_metadata(base["id"], None)) if os.path.isdir(base["id"]) else {}
        return {**base, **known, "id": os.path.abspath(base["id"])}
    return located({**base, **licences.declared(card_metadata(base["id"], base["revision"]))})


def located(base: dict[str, Any]) -> dict[str, Any]:
    """With a whole path where it is a folder here: runs/pets would be read as an id of the Hub, when it is gone, too."""
    return {**base, "id": os.path.abspath(base["id"])} if os.path.exists(base["id"]) else base


def write(trainer: Any, args: TrainingArguments, base: dict[str, Any], seconds: float | None, going_on: bool = False) -> Run:
    """Make output_dir the Run of the model as it is now. Called in every process: saving and scoring may need them all.

    args: of all stages. base: as `base_of`. seconds: of the training, None where they are not known. going_on: in the midst of it.
    """
    run, main = Run(args.output_dir), trainer.is_world_process_zero()
    if main:
        # First: what is half written is known for a script's own.
        run.write_json("environment.json", {**recording.environment(args), "script": True})
        shutil.rmtree(run.folder / PART, ignore_errors=True)
    # Beside the last version, which stays whole until this one is.
    _save(trainer, run.folder / PART)
    if main:
        (run.folder / PART / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        _clear(run)
        _move(run.folder / PART, run.model_dir)
        run.write_recipe(recipe_of(trainer, base, args))
        run.write_json("base.json", base)
        run.write_json("data.json", report_of(trainer))
        for event in _history(trainer, seconds, going_on):
            run.append_event(event)
    _measure(trainer, run)
    return run


def rehearse(trainer: Any, base: dict[str, Any], args: TrainingArguments) -> None:
    """Make what `write` writes of settings, data and machine, so that what fails of it fails before the training."""
    recipe_of(trainer, base, args).to_yaml()
    json.dumps([base, report_of(trainer), recording.environment(args)], allow_nan=False)


def _history(trainer: Any, seconds: float | None, going_on: bool) -> Iterator[dict[str, Any]]:
    """Nothing where nothing was trained here."""
    state = trainer.state
    if not state.global_step:
        return
    yield from (events := list(recording.logged_events(trainer.whole_log, lambda stage: _trained_parameters(trainer, stage))))
    if going_on:
        before = next((event for event in reversed(events) if event["type"] == "stage"), {"step": 0, "epoch": 0.0})
        yield {"type": "save", "step": before["step"] + state.global_step, "epoch": before["epoch"] + (state.epoch or 0.0),
               "frozen_parameters": recording.frozen_parameters(trainer)}
    else:
        end = recording.end_event(trainer, seconds or 0.0)
        yield end if seconds else {name: value for name, value in end.items() if name not in ("seconds", "waiting_share")}


def recipe_of(trainer: Any, base: dict[str, Any], args: TrainingArguments) -> Recipe:
    """The trainer's settings, those in its TrainingArguments among them; the data are not named in a script. args: of all stages."""
    patience = next((getattr(each, "patience", None) or each.early_stopping_patience for each in trainer.callback_handler.callbacks
                     if isinstance(each, (EarlyStopping, EarlyStoppingCallback))), 0)
    return dataclasses.replace(
        trainer.recipe, model=base["id"], revision=base["revision"], output_dir=os.fspath(args.output_dir), task=trainer.task.name,
        seed=int(args.seed), plan="none", calibrate=False, learning_rate=float(args.learning_rate), num_train_epochs=float(args.num_train_epochs),
        per_device_train_batch_size=int(args.per_device_train_batch_size), per_device_eval_batch_size=int(args.per_device_eval_batch_size),
        precision="bf16" if args.bf16 else "fp16" if args.fp16 else "fp32", early_stopping_patience=int(patience), training_arguments=_changed(args))


def _changed(args: TrainingArguments) -> dict[str, Any]:
    """The fields that differ from their defaults and that a recipe may hold."""
    # Not from a second TrainingArguments: making one resets the state that an Accelerator shares with it (accelerate 1.15).
    usual = {field.name: None if field.default is dataclasses.MISSING else field.default for field in dataclasses.fields(TrainingArguments)}
    # By these names: a subclass has fields of its own, which no recipe may hold.
    found = {name: _plain(value) for name, value in args.to_dict().items() if name in usual and name not in (*setting_names(), *ELSEWHERE)}
    return {name: value for name, value in found.items()
            if (value or None) != (usual[name] or None) and isinstance(value, (bool, int, float, str, list, dict)) and
            not setting_faults({"model": "m", "data": "d", name: value})}


def _plain(value: Any) -> Any:
    """Without numpy's numbers, which YAML cannot say."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


def report_of(trainer: Any) -> dict[str, Any]:
    """What data.json holds: what was found in raw rows; of items already encoded only how many there are."""
    report = trainer.report
    if report is not None:
        return {**report, "splits": {name: split for name, split in report["splits"].items() if split["origin"] != "none"}}
    problem, given = problem_of(trainer), {"train": trainer.train_dataset, "validation": trainer.eval_dataset}
    counts = {name: len(dataset) for name, dataset in given.items() if hasattr(dataset, "__len__") and not isinstance(dataset, dict)}
    return {"version": 1, "source": "data", "config": None, "revision": None, "fingerprint": None, "columns": {}, "unlabelled": {}, "bad_rows": [],
            "problem_type": problem.problem_type, "labels": list(problem.labels),
            "splits": {name: {"num_rows": count, "origin": "given", "classes": {}} for name, count in counts.items()}}


def _save(trainer: Any, folder: Path) -> None:
    """The model as Trainer writes it, sharded or not; its tokenizer cuts texts where the training did."""
    processor, wanted = processor_of(trainer), trainer.recipe.max_length
    length = getattr(processor, "model_max_length", None)
    if length is not None and isinstance(trainer.train_dataset, Items) and isinstance(wanted, int):
        processor.model_max_length = wanted
    try:
        trainer.save_model(str(folder), _internal_call=True)
    finally:
        if length is not None:
            processor.model_max_length = length


def _clear(run: Run) -> None:
    """Take away what another version of the model left, the scores first: without them the Run is not finished."""
    for path in sorted(run.model_dir.rglob("*"), key=lambda path: path.name != "scores.json"):
        if path.is_file() and is_own(path.relative_to(run.model_dir).as_posix(), hub.OWN_FILES):
            path.unlink()
    for path in (run.predictions_path, run.folder / "history.jsonl"):
        path.unlink(missing_ok=True)
    shutil.rmtree(run.folder / "examples", ignore_errors=True)
    run.model_dir.mkdir(parents=True, exist_ok=True)


def _move(source: Path, target: Path) -> None:
    """All files of one folder into another, which may hold more."""
    for path in [path for path in source.rglob("*") if path.is_file()]:
        there = target / path.relative_to(source)
        there.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, there)
    shutil.rmtree(source)


def _trained_parameters(trainer: Any, stage: str) -> int:
    model = trainer.accelerator.unwrap_model(trainer.model)
    found = next((each for each in getattr(trainer, "stages", ()) if each.name == stage), None)
    if found is None or found.adapters and trainer.adapter is None:
        return methods.trainable_parameters(model)[0]
    own = sum(parameter.numel() for name, parameter in model.named_parameters() if name in found.trained)
    return own + (sum(tensor.numel() for tensor in trainer.adapter.tensors.values()) if found.adapters else 0)


def _measure(trainer: Any, run: Run) -> None:
    """Score eval_dataset and write what comes of it: hfxfer's scores of raw rows in fp32, else what compute_metrics gives, or nothing.

    Not by `evaluate`: it would be logged, and early stopping would count it.
    """
    name, dataset = "validation", trainer.eval_dataset
    if isinstance(dataset, dict):
        name, dataset = next(iter(dataset.items()), ("validation", None))
    problem, report = problem_of(trainer), run.read_json("data.json") if trainer.is_world_process_zero() else {}
    context = {"split": name, "seed": trainer.args.seed, "dataset": report.get("source"), "revision": report.get("revision")}
    if dataset is not None and trainer.scores_rows:
        predictor: Predictor = dataclasses.replace(trainer.predictor(), precision="fp32", problem=problem)
        split = trainer.scored_split(dataset)
        outcomes, _ = evaluate_split(predictor, split, trainer.args.eval_batch_size, run.folder, f"scoring the {name} split")
        if trainer.is_world_process_zero():
            recording.write_results(run, predictor, split, outcomes, context)
        return
    scores = [] if dataset is None else _callers_scores(trainer, dataset, context)
    if trainer.is_world_process_zero():
        recording.write_scores(run, trainer.task, problem, scores, name)


def _callers_scores(trainer: Any, dataset: Any, context: dict[str, Any]) -> list[Score]:
    """What compute_metrics gives, under its names and without intervals; without it the loss."""
    loss_only = True if trainer.compute_metrics is None else None  # None: as the arguments say
    found = trainer.evaluation_loop(trainer.get_eval_dataloader(dataset), "scoring", loss_only, metric_key_prefix="eval")
    values = {name.removeprefix("eval_"): value for name, value in (found.metrics or {}).items()}
    numbers = {name: float(value) for name, value in values.items() if isinstance(value, (int, float)) and name not in SPEED}
    chosen = {name: value for name, value in numbers.items() if name != "loss"} or numbers
    return [Score(metric=name, value=value if isfinite(value) else None, low=None, high=None, num_rows=found.num_samples, **context)
            for name, value in chosen.items()]
