"""publish from scripts: what a TransferTrainer holds becomes a Run in its output_dir, and `model/` of it goes up through `hub.push`.

Trainer's own ways to the Hub send output_dir, with training_args.bin (a pickle of the token) and a card that nobody checked. So the trainer
gets arguments that push nothing and hold no token, and what they asked for is done here: at its saves, when training ends, and when the
script says so. The trainer comes in as a value.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, PreTrainedModel, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from hfxfer import card, console, hub, licences, methods, models, recording, repository, tasks
from hfxfer.batches import Items, generators_kept
from hfxfer.card._merge import dumped, split_metadata
from hfxfer.checkpoints import card_metadata
from hfxfer.errors import HfxferError, RecipeError, RefusedError, WorkError
from hfxfer.evaluation import Predictor, evaluate_split
from hfxfer.network import asked, patient
from hfxfer.recipe import Recipe, languages, setting_faults, setting_names
from hfxfer.run import Run, Score
from hfxfer.stopping import EarlyStopping

STRATEGIES = ("end", "every_save")
SPEED = ("runtime", "samples_per_second", "steps_per_second", "tokens_per_second", "model_preparation_time", "jit_compilation_time")
"""What Trainer's evaluation says of itself, not of the model."""

ELSEWHERE = ("bf16", "fp16", "do_train", "do_eval", "do_predict", "report_to", "disable_tqdm", "log_level", "use_cpu", "accelerator_config",
             "dataloader_pin_memory")
"""Fields of TrainingArguments that a recipe says in other words, or that are of one machine or of what is shown."""


@contextmanager
def logged_in(token: str | None) -> Iterator[None]:
    """Inside, the client's token is this one, where one is given: it looks for it in the environment at each request."""
    before = os.environ.get("HF_TOKEN")
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        yield
    finally:
        if token:
            os.environ.pop("HF_TOKEN")
            os.environ |= {} if before is None else {"HF_TOKEN": before}


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """What holds for one push: what the call says, else what the arguments and the recipe do. private: None is the namespace's default."""

    token: str | None = dataclasses.field(repr=False)
    private: bool | None
    revision: str
    license: str | None
    language: list[str] | None


class Publisher:
    """Where a trainer's model goes, as its TrainingArguments said.

    wanted: push_to_hub. at_saves: after every save, too. model_id: NAME/REPO once `check` has settled it.
    """

    def __init__(self, args: TrainingArguments):
        self.args, self.folder, self.wanted = args, Path(args.output_dir), args.push_to_hub
        self.at_saves = args.push_to_hub and args.hub_strategy == "every_save"
        self.given_id, self.private, self.revision, self._token = args.hub_model_id, args.hub_private_repo, args.hub_revision, args.hub_token
        self.model_id: str | None = None
        self.base: dict[str, Any] = {}
        self.seconds: float | None = None
        self.paused = 0.0
        if self.wanted and args.hub_strategy not in STRATEGIES:
            raise RecipeError(f"hub_strategy is {args.hub_strategy.value}, which would publish optimizer state and training_args.bin; nobody who "
                              f"loads the model needs them. Allowed: {', '.join(STRATEGIES)}. What to resume from stays in {args.output_dir}")

    def arguments(self, args: TrainingArguments) -> TrainingArguments:
        """What Trainer gets: the same object, or a copy that pushes nothing and has no token to pickle."""
        if not self.wanted and not self._token:
            return args
        self.args = copy.copy(args)
        self.args.push_to_hub, self.args.hub_token = False, None
        return self.args

    # --- before training -----------------------------------------------------------------------------------------------

    def said(self, trainer: Any, given: dict[str, Any]) -> Said:
        named, recipe = {name: value for name, value in given.items() if value is not None}, trainer.recipe
        return Said(named.get("token", self._token), named.get("private", self.private), named.get("revision", self.revision) or repository.MAIN,
                    named.get("license", recipe.license), languages(named.get("language", recipe.language)))

    def check(self, trainer: Any, **given: Any) -> None:
        """Raise RefusedError, in every process, where no true card can be made or the token may not write. Nothing is sent. given: as to push."""
        said = self.said(trainer, given)
        self.model_id, self.base = agreed(trainer, lambda: self._checked(trainer, said))

    def _checked(self, trainer: Any, said: Said) -> tuple[str, dict[str, Any]]:
        with logged_in(said.token):
            faults = list(self._unfit(trainer))
            base = {} if faults else base_of(trainer)
            faults = faults or list(_card_faults(trainer, base, Run(self.folder), said))
            if faults:
                raise RecipeError(f"the model cannot be published: {faults[0]}" if len(faults) == 1 else
                                  "\n".join(["the model cannot be published:", *(f"  - {fault}" for fault in faults)]))
            return self._account(said), base

    def _unfit(self, trainer: Any) -> Iterator[str]:
        """What is missing for a model that loads and a card that is true, a sentence each."""
        known = ", ".join(tasks.names())
        if trainer.task is None:
            yield f"task is not given, and a card says what a model is for. Say it: TransferTrainer(…, task='image-classification'). Tasks: {known}"
        elif trainer.task.name not in tasks.names():
            yield f"task is {trainer.task.name!r}; allowed: {known}. Save the model, and push it with its own push_to_hub"
        model = trainer.accelerator.unwrap_model(trainer.model)
        if not isinstance(model, PreTrainedModel):
            yield f"the model is a {type(model).__name__}, which from_pretrained does not load. Use a model of transformers, or of timm by its name"
        if processor_of(trainer) is None:
            yield "the processor is not given, without which nobody can use the model. Give processing_class=, the checkpoint's tokenizer or image " \
                  "processor"
        if trainer.train_dataset is not None and not hasattr(trainer.train_dataset, "__len__"):
            yield "train_dataset has no length, which the card tells. Give rows that can be counted, such as a Dataset"
        if (self.folder / "recipe.yaml").is_file() and (self.folder / "checkpoints").is_dir():
            yield f"{self.folder} holds a Run of hfxfer train, which would be lost. Choose another output_dir, or push it: hfxfer push {self.folder}"

    def _account(self, said: Said) -> str:
        """The model's id, in the token's own namespace where none was said. Raises RefusedError where the token may not write there."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        api, model_id = HfApi(), self.given_id or self.folder.absolute().name
        with patient():
            if "/" not in model_id:
                hub.token_for(f"me/{model_id}")
                try:
                    model_id = f"{asked('asking whose token it is', api.whoami, HfHubHTTPError)['name']}/{model_id}"
                except HfHubHTTPError:
                    model_id = f"me/{model_id}"  # check_account says what is wrong with the token
            hub.token_for(model_id)
            hub.check_account(api, model_id)
            # Of no files: whether it is private, and the revision a branch.
            repository.planned(api, repository.Wanted(model_id, "model", self.folder, {}, (), said.revision, said.private))
        return model_id

    def hint_unused(self, named: dict[str, Any]) -> None:
        """Say which arguments of Trainer.push_to_hub have no use here: most are for its draft of a card."""
        unused = [name for name in named if name not in ("license", "language")]
        if unused:
            console.hint(f"push_to_hub has no use for {', '.join(unused)}: hfxfer pushes at once and writes the card, and what you add to "
                         f"{self.folder}/model/README.md stays")

    # --- at a save, at the end, on demand -------------------------------------------------------------------------------

    def push(self, trainer: Any, message: str, *, going_on: bool = False, **given: Any) -> hub.Pushed:
        """Write the Run and push its model as one commit, called in every process. going_on: in the midst of training.

        given: token, private, revision, license, language. Raises WorkError, in every process; the model is saved then.
        """
        said, run = self.said(trainer, given), self.write(trainer, going_on)
        return agreed(trainer, lambda: self._sent(run, message, said))

    def on_train_end(self, trainer: Any, seconds: float | None) -> None:
        """Push where it was asked for; a search's trials are not published. seconds: None where they are not known."""
        self.seconds, self.paused = None if seconds is None else seconds - self.paused, 0.0
        if self.wanted and trainer.hp_search_backend is None:
            self.push(trainer, "End of training")

    def on_save(self, trainer: Any) -> None:
        """As at the end, but a push that fails does not end the training: what it would have sent goes up with the next one."""
        if not self.at_saves or trainer.hp_search_backend is not None:
            return
        step, by_steps, start = trainer.state.global_step, trainer.args.save_strategy == "steps", time.monotonic()
        try:
            # What is drawn for the proof that the model loads would make this training another than the same resumed.
            with generators_kept():
                self.push(trainer, f"Training in progress, {f'step {step}' if by_steps else f'epoch {int(trainer.state.epoch)}'}", going_on=True)
        except HfxferError as error:
            console.warn(f"the model of step {step} was not pushed: {error}\nTraining goes on, and the next save is pushed. "
                         "To push only once, when training has ended: hub_strategy='end'")
        self.paused += time.monotonic() - start

    def _sent(self, run: Run, message: str, said: Said) -> hub.Pushed:
        again = ["hfxfer", "push", shlex.quote(str(self.folder)), "--hub_model_id", self.model_id, *(["--private"] if said.private else []),
                 *([f"--revision {shlex.quote(said.revision)}"] if said.revision != repository.MAIN else [])]
        kept = f"The model is whole in {run.model_dir}. Push it with: {' '.join(again)}"
        try:
            with logged_in(said.token):
                card.write(run, model_id=self.model_id, license=said.license, language=said.language)  # the push keeps what the author said
                done = hub.push(run, hub_model_id=self.model_id, private=said.private, revision=said.revision, commit_message=message)
        except (RefusedError, WorkError) as error:
            raise WorkError(f"{error}\n{kept}") from error
        except KeyboardInterrupt as interruption:
            raise KeyboardInterrupt(f"interrupted. {kept}") from interruption
        sent = f"pushed to {done.address}: {message}" if done.sent or done.deleted else f"nothing new to push to {done.address}"
        console.talk(f"{sent} (commit {done.commit[:7]})")
        return done

    # --- the Run --------------------------------------------------------------------------------------------------------

    def write(self, trainer: Any, going_on: bool = False) -> Run:
        """Make output_dir the Run of the model as it is now. Called in every process: saving and scoring may need them all."""
        run, main = Run(self.folder), trainer.is_world_process_zero()
        if main:
            _clear(run)
        save_model(trainer, run.model_dir)
        if main:
            (run.model_dir / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            run.write_recipe(recipe_of(trainer, self.base, self.args))
            run.write_json("base.json", self.base)
            run.write_json("data.json", report_of(trainer))
            run.write_json("environment.json", {**recording.environment(trainer.args), "script": True})
            for event in self._history(trainer, going_on):
                run.append_event(event)
        _measure(trainer, run)
        return run

    def _history(self, trainer: Any, going_on: bool) -> Iterator[dict[str, Any]]:
        """Nothing where nothing was trained here."""
        state = trainer.state
        if not state.global_step:
            return
        yield from (events := list(recording.logged_events(trainer.whole_log, lambda stage: _trained_parameters(trainer, stage))))
        if going_on:
            before = next((event for event in reversed(events) if event["type"] == "stage"), {"step": 0, "epoch": 0.0})
            yield {"type": "save", "step": before["step"] + state.global_step, "epoch": before["epoch"] + (state.epoch or 0.0)}
        else:
            end = recording.end_event(trainer, self.seconds or 0.0)
            yield end if self.seconds else {name: value for name, value in end.items() if name not in ("seconds", "waiting_share")}


def agreed(trainer: Any, ask: Callable[[], Any]) -> Any:
    """What `ask` gives in the main process, in every process; what it raises of hfxfer's errors, too."""
    answer = error = None
    if trainer.is_world_process_zero():
        try:
            answer = ask()
        except HfxferError as found:
            error = found
    answer, error = trainer.shared((answer, error))
    if error is not None:
        raise error
    return answer


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
        base = dict(trainer.base)
    else:
        model = trainer.accelerator.unwrap_model(trainer.model)
        config, is_timm = model.config, hasattr(model, "timm_model")
        base = {"id": config.name_or_path, "revision": getattr(config, "_commit_hash", None), "source": "timm" if is_timm else "transformers",
                "architecture": config.architecture if is_timm else type(model).__name__}
        if base["id"]:
            base |= licences.declared(card_metadata(base["id"], base["revision"]))
        base["id"] = base["id"] or f"a {type(model).__name__} given in Python"
    # Else runs/pets would be read as an id of the Hub.
    return {**base, "id": os.path.abspath(base["id"])} if os.path.exists(base["id"]) else base


def _card_faults(trainer: Any, base: dict[str, Any], run: Run, said: Said) -> list[str]:
    """What the Hub would refuse of licence, languages and the author's own metadata."""
    path = run.model_dir / "README.md"
    own = split_metadata(path.read_text(encoding="utf-8"))[1] if path.is_file() else {}
    terms = licences.inherited(base, trainer.accelerator.unwrap_model(trainer.model).config.to_dict())
    metadata = {**terms, **own, **({"license": said.license} if said.license else {}), **({"language": said.language} if said.language else {})}
    return card.faults(metadata, f"---\n{dumped(metadata)}---\n")


def recipe_of(trainer: Any, base: dict[str, Any], args: TrainingArguments) -> Recipe:
    """The trainer's settings, those in its TrainingArguments among them; the data are not named in a script. args: of all stages."""
    patience = next((getattr(each, "patience", None) or each.early_stopping_patience for each in trainer.callback_handler.callbacks
                     if isinstance(each, (EarlyStopping, EarlyStoppingCallback))), 0)
    return dataclasses.replace(
        trainer.recipe, model=base["id"], revision=base["revision"], output_dir=args.output_dir, task=trainer.task.name, seed=args.seed,
        plan="none", calibrate=False, learning_rate=args.learning_rate, num_train_epochs=args.num_train_epochs,
        per_device_train_batch_size=args.per_device_train_batch_size,
        per_device_eval_batch_size=args.per_device_eval_batch_size, precision="bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        early_stopping_patience=patience, training_arguments=_changed(args))


def _changed(args: TrainingArguments) -> dict[str, Any]:
    """The fields that differ from their defaults and that a recipe may hold."""
    # Not from a second TrainingArguments: making one resets the state that an Accelerator shares with it (accelerate 1.15).
    usual = {field.name: None if field.default is dataclasses.MISSING else field.default for field in dataclasses.fields(TrainingArguments)}
    return {name: value for name, value in args.to_dict().items()
            if (value or None) != (usual[name] or None) and name not in (*setting_names(), *ELSEWHERE) and
            isinstance(value, (bool, int, float, str, list, dict)) and not setting_faults({"model": "m", "data": "d", name: value})}


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


def save_model(trainer: Any, folder: Path) -> None:
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
        if path.is_file() and any(fnmatchcase(path.relative_to(run.model_dir).as_posix(), pattern) for pattern in hub.OWN_FILES):
            path.unlink()
    for path in (run.predictions_path, run.folder / "history.jsonl"):
        path.unlink(missing_ok=True)
    shutil.rmtree(run.folder / "examples", ignore_errors=True)
    run.model_dir.mkdir(parents=True, exist_ok=True)


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
