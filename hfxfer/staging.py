"""Run a trainer through the stages of its method: each with its own arguments, optimizer, wrapping and folder of checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerState, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from hfxfer import adapters, methods
from hfxfer.errors import RecipeError, RunError
from hfxfer.frozen import on_features
from hfxfer.methods import Stage
from hfxfer.stopping import EarlyStopping, patience_is_over


def resume_point(stages: tuple[Stage, ...], args: TrainingArguments, wanted: str | bool | None) -> tuple[int, str | None]:
    """(number of the stage to go on with, its checkpoint). wanted: as Trainer's resume_from_checkpoint."""
    if not wanted:
        return 0, None
    if wanted is True:
        for number in reversed(range(len(stages))):
            folder = Path(args.output_dir) / stages[number].name
            found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
            if found:
                return number, found
        raise RunError(f"there is no checkpoint in {args.output_dir} to resume from. Train without resume_from_checkpoint")
    parent = Path(wanted).resolve().parent.name
    return next((number for number, stage in enumerate(stages) if stage.name == parent), len(stages) - 1), str(wanted)


def finished_log(stage: Stage, args: TrainingArguments) -> list[dict[str, Any]]:
    """What a stage that is not run again had logged, as far as its last checkpoint tells."""
    folder = Path(args.output_dir) / stage.name
    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if found is None:
        return []
    return [{**entry, "stage": stage.name} for entry in TrainerState.load_from_json(str(Path(found) / TRAINER_STATE_NAME)).log_history]


def check_optimizers(trainer: Any, stages: tuple[Stage, ...]) -> None:
    """Raise RecipeError for a caller's own optimizer where several stages each need one."""
    if len(stages) > 1 and not trainer.optimizer_is_ours:
        raise RecipeError(f"optimizers= is given and method is {trainer.recipe.method}, whose {len(stages)} stages each make their own. "
                          "Leave optimizers out (TrainingArguments' optim chooses the kind), or use method='full'")


def scheduler_of_stage(stage: Stage | None, num_training_steps: int, make: Any) -> Any:
    """A learning-rate schedule of its own, or the part of a longer one that begins where the stage before it ended."""
    if stage is None or stage.schedule is None:
        return make(num_training_steps)
    before, whole = stage.schedule
    scheduler = make(round(num_training_steps * whole / stage.epochs))
    offset = round(num_training_steps * before / stage.epochs)
    if not isinstance(scheduler, LambdaLR):
        raise RecipeError("method is gradual, which runs through one schedule in several stages, and lr_scheduler_type cannot be "
                          "entered in its midst. Allowed: linear, cosine, constant, constant_with_warmup, polynomial")
    scheduler.lr_lambdas = [lambda step, own=own: own(step + offset) for own in scheduler.lr_lambdas]
    for group, rate, own in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas):
        group["lr"] = rate * own(0)
    return scheduler


@contextmanager
def in_stage(trainer: Any, stages: tuple[Stage, ...], number: int, checkpoint: str | None) -> Iterator[None]:
    """Inside, the trainer is set up for one stage; after it, it has its own arguments again."""
    stage, given = stages[number], trainer.args
    trainer.args, trainer.stage = _arguments(given, stage, trainer, checkpoint), stage
    if len(stages) > 1:
        # A parameter that was frozen when it was wrapped for several processes would never be synchronised later.
        trainer.model_wrapped = trainer.model
        trainer.optimizer = trainer.lr_scheduler = None
        set_seed(given.seed + number)
    trained = stage.trained
    if stage.adapters:
        trained = trained | adapters.insert(trainer.model, trainer.recipe)
    methods.train_only(trainer.model, trained)
    try:
        with on_features(trainer) if stage.cached else nullcontext():
            yield
    finally:
        trainer.args, trainer.stage = given, None


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
