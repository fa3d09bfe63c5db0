"""TransferTrainer: `transformers.Trainer` that knows a task and how to transfer to it. The only subclass.

A script that uses Trainer changes the class and adds `task=`; everything else keeps its name and meaning.
`train_dataset` and `eval_dataset` are raw rows (the task's columns: hfxfer encodes, augments, collates and
scores them) or items already encoded for the model, with the caller's collator; they are told apart by
their columns. A given `compute_metrics` keeps Trainer's own evaluation. To the Hub goes what `publisher.Publisher` sends.
"""

from __future__ import annotations

import inspect
import os
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import SaveStrategy, speed_metrics

from hfxfer import adapters, averaging, console, data, inputs, losses, methods, models, publisher, rates, scripted, staging, tasks
from hfxfer.batches import EpochBatches, Items, is_raw
from hfxfer.checkpoints import quiet_libraries
from hfxfer.errors import DataError, DivergedError, ModelError
from hfxfer.evaluation import Predictor, evaluate_split
from hfxfer.machine import Waiting
from hfxfer.metrics import METRICS
from hfxfer.mixing import Collator, mixing
from hfxfer.recipe import GIVEN_IN_PYTHON, Recipe
from hfxfer.run import mark_complete
from hfxfer.stopping import best_evaluation, metric_key
from hfxfer.tasks._task import Problem, Task

SETTINGS = ("columns", "augment", "problem_type", "on_bad_rows", "max_length", "stride", "freeze", "head_epochs", "unfreeze_epochs", "feature_views",
            "feature_cache_gb", "batch_norm", "layer_decay", "head_lr_multiplier", "lora_rank", "lora_alpha", "keep_adapter", "mixup", "cutmix",
            "random_erasing", "l2_sp", "ema_decay", "class_weights", "sampler", "license",
            "license_name", "license_link", "language", "trust_remote_code")
"""Settings of a recipe that a script gives to TransferTrainer by keyword."""


class TransferTrainer(Trainer):
    """Trainer with `task=`, `method=` and hfxfer's settings of training; every Trainer argument and method still works.

    model: a model, or the name of a checkpoint (a Hub id or folder), which gets a head for the labels found
    in the data. processing_class: loaded with the checkpoint where it is not given. settings: SETTINGS below, as in a recipe.
    Raises DataError, ModelError or RecipeError before any training.
    """

    def __init__(self, *positional: Any, task: str | Task | None = None, method: str = "full", recipe: Recipe | None = None,
                 problem: Problem | None = None, **named: Any):
        settings = {name: named.pop(name) for name in SETTINGS if name in named}
        given = inspect.signature(Trainer.__init__).bind_partial(self, *positional, **named).arguments
        given.pop("self")
        self.task = tasks.get(task) if isinstance(task, str) else task
        self.problem, self.batches, self.cached, self.stage, self.adapter, self.in_checkpoint = problem, None, None, None, None, False
        self.waiting, self.base, self.report, self.earlier_log = Waiting(), None, None, []
        given["args"] = given.get("args") or TrainingArguments(output_dir="tmp_trainer")
        self.publisher = publisher.Publisher(given["args"])
        given["args"] = self.publisher.arguments(given["args"])
        self.recipe = recipe or self._script_recipe(given, {**settings, "method": method})
        if self.task is not None:
            self._adopt(given)
        elif isinstance(given.get("model"), str):
            raise ModelError(f"model is the name {given['model']!r}, which needs a task: "
                             f"TransferTrainer(…, task='image-classification'). Tasks: {', '.join(tasks.names())}")
        if self.recipe.method == "auto" and given.get("model") is not None:
            self.recipe = methods.settle(self.recipe, self.problem, given.get("train_dataset"), given["model"])
        if recipe is None:
            methods.hint_unused(self.recipe)
        if given.get("model") is not None:
            methods.thaw(given["model"])
            self.stages = methods.stages(self.recipe, given["model"], given["args"].num_train_epochs)
            # Once: a resumed run begins with the checkpoint's statistics, too, and must come to the same norms.
            self.still_norms = methods.still_norms(given["model"], self.recipe.batch_norm)
            methods.train_only(given["model"], self.stages[0].trained, self.still_norms)
        elif given.get("model_init") is not None:
            given["model_init"] = methods.of_init(given["model_init"], self.recipe, given["args"].num_train_epochs)
        super().__init__(**given)
        self.optimizer_is_ours = self.optimizer is None
        self.add_callback(staging.EpochTeller(self))
        self.training_loss = losses.training_loss(self)
        if self.recipe.l2_sp:
            self.add_callback(losses.PullBack(self))
        self.average = averaging.Average(self) if self.recipe.ema_decay else None
        if self.average is not None:
            self.add_callback(self.average)
        if self.publisher.wanted:
            self.publisher.check(self)

    @property
    def whole_log(self) -> list[dict[str, Any]]:
        """log_history, that of the stages before this one among it; entries name their stage, where it has a name."""
        stage = {"stage": self.stage.name} if self.stage is not None and self.stage.name else {}
        return [*self.earlier_log, *({**entry, **stage} for entry in self.state.log_history)]

    @property
    def scores_rows(self) -> bool:
        """True where hfxfer's own evaluation is used: raw rows, and no compute_metrics."""
        return self.problem is not None and self.compute_metrics is None

    def predictor(self, task: Task | None = None) -> Predictor:
        """The model as it is now, in the precision of the training. task: in place of the trainer's own."""
        precision = "bf16" if self.args.bf16 else "fp16" if self.args.fp16 else "fp32"
        return Predictor(task or self.task, self.accelerator.unwrap_model(self.model), self.processing_class, self.problem, self.recipe, precision,
                         self.compute_loss_func)

    def _script_recipe(self, given: dict, settings: dict[str, Any]) -> Recipe:
        args, model = given["args"], given.get("model")
        return Recipe.from_settings({
            "model": model if isinstance(model, str) else GIVEN_IN_PYTHON, "data": GIVEN_IN_PYTHON, "output_dir": args.output_dir, "seed": args.seed,
            "per_device_eval_batch_size": args.per_device_eval_batch_size, **settings})

    def _adopt(self, given: dict) -> None:
        """Turn raw rows into splits, find the labels, and load what is named instead of given."""
        raw = {name: given[key] for name, key in (("train", "train_dataset"), ("validation", "eval_dataset"))
               if given.get(key) is not None and not isinstance(given[key], dict)}
        if self.problem is None and raw and all(is_raw(dataset) for dataset in raw.values()):
            rows = data.load_rows(raw, self.task.columns, self.recipe, cut=False)
            given["train_dataset"] = rows.train or given.get("train_dataset")
            given["eval_dataset"] = rows.validation or given.get("eval_dataset")
            self.report = rows.report
            # In the caller's own units: nothing would fold a scale into the model that a script saves.
            self.problem = replace(self.task.problem(rows.target, rows.train), target_mean=0.0, target_scale=1.0)
        if isinstance(given.get("model"), str):
            if self.problem is None:
                raise ModelError(f"model is the name {given['model']!r} and the data is already encoded, so its labels are unknown. "
                                 "Give raw rows, or load the model yourself with num_labels")
            loaded = models.load(self.task, self.recipe, self.problem)
            given["model"], self.base = loaded.model, scripted.located(loaded.base)
            given["processing_class"] = given.get("processing_class") or loaded.processor
        if self.problem is not None:
            self._settle_rows(given)

    def _settle_rows(self, given: dict) -> None:
        model, processor = given.get("model"), given.get("processing_class")
        if processor is None:
            raise ModelError("raw rows need the checkpoint's processor: give processing_class=AutoTokenizer or AutoImageProcessor "
                             "of the same checkpoint, or model= as its name")
        own = models.problem_of(model, self.task).labels if hasattr(model, "config") else ()
        if own and len(own) == len(self.problem.labels) and own == tuple(f"LABEL_{index}" for index in range(len(own))):
            # Names that nobody gave: the data's take their place.
            model.config.id2label = dict(enumerate(self.problem.labels))
            model.config.label2id = {name: index for index, name in enumerate(self.problem.labels)}
            own = self.problem.labels
        if own and self.problem.labels and own != self.problem.labels:
            raise ModelError(f"the model has the labels {_first(own)}, the data {_first(self.problem.labels)}. "
                             "Load it with id2label of the data, or give model= as its name and hfxfer makes the head")
        self.recipe = models.settle_lengths(self.recipe, processor, getattr(model, "config", None))
        if isinstance(given.get("train_dataset"), data.Split):
            given["train_dataset"] = Items(self.task, given["train_dataset"], processor, self.problem, self.recipe, training=True)
        given["data_collator"] = Collator(self.task, processor, mixing(self.recipe, self.task, self.problem))

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        """hfxfer's own collator drops what forward does not take, after it has used it."""
        if isinstance(data_collator, Collator):
            return data_collator
        return super()._get_collator_with_removed_columns(data_collator, description)

    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self.train_dataset, Items):
            return super().get_train_dataloader()
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        self.batches = EpochBatches(
            len(self.train_dataset), self._train_batch_size, seed, lengths=self.train_dataset.lengths(),
            shuffle=args.train_sampling_strategy != "sequential", drop_last=args.dataloader_drop_last, classes=self.train_dataset.classes,
            group=args.gradient_accumulation_steps * args.world_size, first_epoch=self.stage.first_epoch if self.stage else 0)
        # A generator of its own: else every epoch draws a number from torch's global one, and a resumed run differs.
        loader = DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator,
                            num_workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
                            persistent_workers=args.dataloader_persistent_workers, prefetch_factor=args.dataloader_prefetch_factor,
                            generator=torch.Generator().manual_seed(seed))
        return self.accelerator.prepare(loader)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        return super().get_eval_dataloader(self._plain_items(self._named(eval_dataset)))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        return super().get_test_dataloader(self._plain_items(test_dataset))

    def _named(self, eval_dataset: Any) -> Any:
        """The evaluation data: given, the trainer's own, or that of a name where the trainer has several."""
        if isinstance(eval_dataset, str) and isinstance(self.eval_dataset, dict):
            return self.eval_dataset[eval_dataset]
        return self.eval_dataset if eval_dataset is None else eval_dataset

    def _plain_items(self, dataset: Any) -> Any:
        if self.problem is None or isinstance(dataset, Items):
            return dataset
        return Items(self.task, self.scored_split(dataset), self.processing_class, self.problem, self.recipe, training=False)

    def scored_split(self, dataset: Any) -> data.Split:
        """Raw rows as a split; in a stage whose body stands still, with their features."""
        split = dataset if isinstance(dataset, data.Split) else self._split(dataset)
        if self.cached is not None:
            self.cached.fill(split)
        return split

    def _split(self, dataset: Any) -> data.Split:
        source = data.read_source({"test": dataset}, self.recipe)
        role = self.task.target
        names = (self.recipe.columns.get(role), *self.task.columns[role].names)
        if not set(names) & set(source.splits["test"].columns):
            return inputs.load_inputs(dataset, self.task.columns, self.recipe.columns)
        target = data.Target(self.problem.problem_type, self.problem.labels)
        return data.load_split(source, "test", self.task.columns, self.recipe, target)

    def train(self, resume_from_checkpoint: str | bool | None = None, **named: Any) -> Any:
        """As Trainer's, stage after stage of the method. Checkpoints of all stages but the last lie in folders of their own.

        With push_to_hub the model is published in the end; WorkError where that fails, and it is saved.
        """
        start = time.monotonic()
        if self.model_init is not None:
            output = super().train(resume_from_checkpoint, **named)
            staging.share_buffers(self)
        else:
            output = self._train_stages(resume_from_checkpoint, **named)
        # Of a resumed training this would be the last part only.
        self.publisher.on_train_end(self, None if resume_from_checkpoint else time.monotonic() - start)
        return output

    def _train_stages(self, resume_from_checkpoint: str | bool | None, **named: Any) -> Any:
        models.forget(self.accelerator.unwrap_model(self.model))
        staging.check(self, self.stages)
        first, checkpoint = staging.resume_point(self.stages, self.args, resume_from_checkpoint)
        self.earlier_log = [entry for number in range(first) for entry in staging.finished_log(self.stages[number], self.args)]
        for number in range(first, len(self.stages)):
            with staging.in_stage(self, self.stages, number, checkpoint), staging.quick_collections(self.args):
                output = super().train(checkpoint, **named)
            checkpoint = None
            if number + 1 < len(self.stages):
                self.earlier_log += [{**entry, "stage": self.stages[number].name} for entry in self.state.log_history]
        self.adapter = adapters.merge(self.model) if self.stages[-1].adapters else None
        self.state.log_history, self.earlier_log = self.whole_log, []
        return output

    def get_batch_samples(self, *given: Any, **named: Any) -> Any:
        """As Trainer's. While it runs, the model waits for data."""
        with self.waiting:
            return super().get_batch_samples(*given, **named)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As Trainer's; a stage that is a part of one schedule gets its part of it."""
        make = super().create_scheduler
        return staging.scheduler_of_stage(self.stage, num_training_steps, lambda steps: make(steps, optimizer))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As Trainer's, with a rate for each layer and no weight decay on norms, biases and tokens."""
        with rates.grouped(self, self.model if model is None else model):
            return super().create_optimizer(model)

    def compute_loss(self, model: Any, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        if self.training_loss is not None and model.training and "labels" in inputs:
            loss, outputs = losses.loss_of_batch(self, model, inputs, num_items_in_batch)
            return (loss, outputs) if return_outputs else loss
        if self.task is None or type(getattr(self.task, "inner", self.task)).forward is Task.forward:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        outputs = self.task.forward(model, inputs, self.recipe)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def floating_point_ops(self, inputs: dict) -> float:
        """As Trainer's; on cached features the body, which it would count, is not run."""
        return 0.0 if self.cached is not None else super().floating_point_ops(inputs)

    def training_step(self, model: Any, inputs: dict, num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss).all():
            rate, lower = self.lr_scheduler.get_last_lr()[0], float(f"{self.args.learning_rate / 10:.1g}")
            raise DivergedError(f"the loss became {float(loss)} at step {self.state.global_step + 1} (learning rate {rate:.2g}). "
                                f"Try a lower --learning_rate (such as {lower:g}), a longer --warmup_steps, or --precision fp32",
                                change={"learning_rate": lower})
        return loss

    def evaluate(self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """As Trainer's; raw rows are scored by the task: loss and every metric of the whole set."""
        chosen = self._named(eval_dataset)
        if not self.scores_rows or isinstance(chosen, dict):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if chosen is None:
            raise DataError("there is nothing to evaluate on: give TransferTrainer an eval_dataset, or evaluate(eval_dataset=…)")
        start = time.time()
        split = self.scored_split(chosen)
        metrics = self.shared(self._measure(split, metric_key_prefix))
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=split.num_rows))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _measure(self, split: data.Split, prefix: str) -> dict[str, float]:
        folder = self.args.output_dir if os.path.isdir(self.args.output_dir) else None
        outcomes, loss = evaluate_split(self.predictor(), split, self.args.eval_batch_size, folder)
        if not self.is_world_process_zero():
            return {}
        scores = self.task.score(outcomes, self.problem, intervals=False, seed=self.args.seed)
        found = {score.metric: score.value for score in scores if score.label is None and score.value is not None}
        chosen = (self.args.metric_for_best_model or "loss").removeprefix("eval_")
        if chosen not in ("loss", *found) and any(score.metric == chosen for score in scores):
            console.warn(f"{chosen} is undefined on {split.name}: the checkpoint is chosen by the loss. Choose another with --metric_for_best_model")
        return {f"{prefix}_{name}": value for name, value in {"loss": loss, **found}.items() if value is not None}

    def shared(self, value: Any) -> Any:
        """The main process's value in every process."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0] if self.args.world_size > 1 else value

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As Trainer's, with ties broken by the lower validation loss: on few rows accuracy alone cannot tell epochs apart."""
        known = ("loss", *METRICS)
        if not self.scores_rows or self.args.metric_for_best_model is None or metric_key(self.args).removeprefix("eval_") not in known:
            return super()._determine_best_metric(metrics, trial)
        best = best_evaluation(self.state.log_history, self.args)
        if best is None or best["step"] != self.state.global_step:
            return False
        self.state.best_metric = best.get(metric_key(self.args), best["eval_loss"])
        if self.args.save_strategy in (SaveStrategy.STEPS, SaveStrategy.EPOCH):
            self.state.best_global_step = self.state.global_step
        return True

    def _maybe_log_save_evaluate(self, *given: Any, **named: Any) -> None:
        if self.control.should_evaluate or self.control.should_save:
            staging.share_buffers(self)
        with nullcontext() if self.average is None else self.average.applied():
            super()._maybe_log_save_evaluate(*given, **named)

    def _run_epoch(self, *given: Any, **named: Any) -> None:
        """Trainer would take one step more when it resumes from a last step in mid-epoch (5.23)."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*given, **named)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.resumed_from = Path(resume_from_checkpoint)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's; with push_to_hub the model is published, too, where a script calls it."""
        with quiet_libraries():
            super().save_model(output_dir, _internal_call=True)
        if self.publisher.wanted and not _internal_call:
            self.publisher.push(self, "Model save")

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Checks where the model goes; unlike Trainer's it makes nothing, as the first push does."""
        self.publisher.check(self, token=token, private=private)

    def push_to_hub(self, commit_message: str | None = "End of training", blocking: bool = True, token: str | None = None,
                    revision: str | None = None, private: bool | None = None, **named: Any) -> Any:
        """Make output_dir a Run of the model as it is now, and publish its model/ as one commit; called in every process.

        named: license and language, as the settings of these names. Raises RefusedError before anything was sent, WorkError after.
        """
        self.publisher.hint_unused(named if blocking else {**named, "blocking": False})
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        said = {"token": token, "revision": revision, "private": private, "license": named.get("license"), "language": named.get("language")}
        self.publisher.check(self, **said)
        return self.publisher.push(self, commit_message or "", **said)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if state_dict is None and not self.in_checkpoint and self.recipe.method == "lora" and adapters.has_adapters(model):
            # Whoever asks for the model gets plain weights; a checkpoint goes on with the adapters.
            state_dict = adapters.merged_state(model)
        super()._save(output_dir, state_dict)
        if self.args.should_save and hasattr(model, "timm_model"):
            models.save_timm(model, Path(output_dir or self.args.output_dir), state_dict)
        adapters.keep(self, Path(output_dir or self.args.output_dir))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.in_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.in_checkpoint = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            if folder.is_dir():
                if self.average is not None:
                    self.average.save_raw(folder)
                mark_complete(folder)
        self.publisher.on_save(self)


def _first(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:5]) + (f", … ({len(labels)})" if len(labels) > 5 else "")
