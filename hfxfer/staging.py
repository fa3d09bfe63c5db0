"""Run a trainer through the stages of its method: each with its own arguments, optimizer, wrapping and folder of checkpoints."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import SchedulerType

from hfxfer import adapters, methods
from hfxfer.batches import Items
from hfxfer.errors import RecipeError, RunError
from hfxfer.evaluation import folded
from hfxfer.frozen import on_features
from hfxfer.methods import Stage
from hfxfer.run import COMPLETE, is_complete
from hfxfer.stopping import EarlyStopping, patience_is_over


WITHOUT_MIDST = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
"""Schedules that go by what was measured, not by the step."""


class EpochTeller(TrainerCallback):
    """Tells a trainer's batches which epoch begins: accelerate does not reach them after a resume in mid-epoch (1.15)."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        if self.trainer.batches is not None:
            self.trainer.batches.set_epoch(int((state.epoch or 0) + 1e-6))


def resume_point(stages: tuple[Stage, ...], args: TrainingArguments, wanted: str | bool | None) -> tuple[int, str | None]:
    """(number of the stage to go on with, its checkpoint). wanted: as Trainer's resume_from_checkpoint."""
    if not wanted:
        return 0, None
    if wanted is True:
        for number in reversed(range(len(stages))):
            folder = Path(args.output_dir) / stages[number].name
            found = _last_complete(folder)
            if found:
                return number, found
        raise RunError(f"there is no checkpoint in {args.output_dir} to resume from. Train without resume_from_checkpoint")
    parent = Path(wanted).resolve().parent.name
    return next((number for number, stage in enumerate(stages) if stage.name == parent), len(stages) - 1), str(wanted)


def _last_complete(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; plain Trainer's have no list of their files, but their state, written last."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    whole = [path for path in found if is_complete(path) or (path / TRAINER_STATE_NAME).is_file() and not (path / COMPLETE).exists()]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def finished_log(stage: Stage, args: TrainingArguments) -> list[dict[str, Any]]:
    """What a stage that is not run again had logged, as far as its last checkpoint tells."""
    found = _last_complete(Path(args.output_dir) / stage.name)
    if found is None:
        return []
    return [{**entry, "stage": stage.name} for entry in TrainerState.load_from_json(str(Path(found) / TRAINER_STATE_NAME)).log_history]


def check(trainer: Any, stages: tuple[Stage, ...]) -> None:
    """Raise RecipeError for what stages cannot go along with: before the first of them, not in the midst."""
    method, args = trainer.recipe.method, trainer.args
    if len(stages) > 1 and not trainer.optimizer_is_ours:
        raise RecipeError(f"optimizers= is given and method is {method}, whose {len(stages)} stages each make their own. "
                          "Leave optimizers out (TrainingArguments' optim chooses the kind), or use method='full'")
    if any(stage.adapters for stage in stages) and not trainer.optimizer_is_ours:
        raise RecipeError(f"optimizers= is given and method is {method}, whose adapters are made when training begins, so that no optimizer has them. "
                          "Leave optimizers out (TrainingArguments' optim chooses the kind), or use method='full'")
    if any(stage.schedule for stage in stages):
        if args.max_steps > 0:
            raise RecipeError(f"max_steps is {args.max_steps} and method is {method}, whose stages are parts of num_train_epochs. "
                              "Leave max_steps out, or use another method")
        if args.lr_scheduler_type in WITHOUT_MIDST:
            raise RecipeError(f"lr_scheduler_type is {args.lr_scheduler_type.value} and method is {method}, which runs through one schedule in "
                              "several stages; that one cannot be entered in its midst. Allowed: linear, cosine, constant, constant_with_warmup, polynomial")


def scheduler_of_stage(stage: Stage | None, num_training_steps: int, make: Any) -> Any:
    """A learning-rate schedule of its own, or the part of a longer one that begins where the stage before it ended."""
    if stage is None or stage.schedule is None:
        return make(num_training_steps)
    before, whole = stage.schedule
    scheduler = make(round(num_training_steps * whole / stage.epochs))
    offset = round(num_training_steps * before / stage.epochs)
    if not isinstance(scheduler, LambdaLR):
        raise RecipeError(f"method is gradual, which runs through one schedule in several stages, and a {type(scheduler).__name__} cannot be entered "
                          "in its midst. Use lr_scheduler_type linear, cosine, constant, constant_with_warmup or polynomial")
    scheduler.lr_lambdas = [lambda step, own=own: own(step + offset) for own in scheduler.lr_lambdas]
    for group, rate, own in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas):
        group["lr"] = rate * own(0)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
    return scheduler


def share_buffers(trainer: Any) -> None:
    """The main process's batch-norm statistics in every process, as DDP shares them before each step, but not after the last one.

    Each has seen its own share of the rows, and each scores its share of the validation rows.
    """
    if trainer.args.world_size > 1 and not trainer.is_fsdp_enabled and not trainer.is_deepspeed_enabled:
        for buffer in trainer.model.buffers():
            torch.distributed.broadcast(buffer, src=0)


@contextmanager
def quick_collections(args: TrainingArguments) -> Iterator[None]:
    """Inside, on a CPU, collecting garbage passes over what is there now.

    accelerate collects before each training, so that a device's memory is free (1.15): 0.4 s to look through what is imported.
    """
    frozen = args.device.type == "cpu" and not gc.get_freeze_count()
    if frozen:
        gc.freeze()
    try:
        yield
    finally:
        if frozen:
            gc.unfreeze()


@contextmanager
def in_stage(trainer: Any, stages: tuple[Stage, ...], number: int, checkpoint: str | None) -> Iterator[None]:
    """Inside, the trainer is set up for one stage; after it, it has its own arguments again."""
    stage, given = stages[number], trainer.args
    trainer.args, trainer.stage = _arguments(given, stage, trainer, checkpoint), stage
    if len(stages) > 1 or stage.adapters:
        # A parameter that was frozen when it was wrapped for several processes would never be synchronised later.
        trainer.model_wrapped = trainer.model
        trainer.optimizer = trainer.lr_scheduler = None
        set_seed(given.seed + number)
    trained = stage.trained
    if stage.adapters:
        trained = trained | adapters.insert(trainer.model, trainer.recipe)
    methods.train_only(trainer.model, trained, trainer.still_norms)
    try:
        with on_features(trainer) if stage.cached else _folded(trainer):
            yield
        share_buffers(trainer)
    finally:
        trainer.args, trainer.stage = given, None


def _folded(trainer: Any) -> Any:
    """Where batch norms stand still, convolutions do their work; not where the model is copied, compiled or sharded."""
    args, items = trainer.args, trainer.train_dataset
    if args.n_gpu > 1 or args.torch_compile or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or not isinstance(items, Items):
        return nullcontext()
    return folded(trainer.predictor(), items.split)


def _arguments(given: TrainingArguments, stage: Stage, trainer: Any, checkpoint: str | None) -> TrainingArguments:
    args = copy.copy(given)
    args.num_train_epochs = stage.epochs
    if stage.name:
        args.output_dir = str(Path(given.output_dir) / stage.name)
        args.max_steps = -1
    if stage.learning_rate is not None:
        args.learning_rate = stage.learning_rate
    args.load_best_model_at_end = given.load_best_model_at_end and stage.chooses
    if checkpoint:
        _stay_stopped(args, checkpoint, trainer)
    return args


def _stay_stopped(args: TrainingArguments, checkpoint: str, trainer: Any) -> None:
    """Where early stopping had ended a stage before the run was cut short, resuming does not train it further."""
    patience = next((each.patience for each in trainer.callback_handler.callbacks if isinstance(each, EarlyStopping)), 0)
    path = Path(checkpoint) / TRAINER_STATE_NAME
    if not patience or not args.load_best_model_at_end or not path.is_file():
        return
    state = TrainerState.load_from_json(str(path))
    if patience_is_over(state.log_history, args, patience):
        args.max_steps = state.global_step
