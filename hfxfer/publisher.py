"""publish from scripts: a TransferTrainer's model goes up as `model/` of the Run that `scripted` writes, through `hub.push`.

Trainer's own ways to the Hub send output_dir, with training_args.bin (a pickle of the token) and a card that nobody checked. So the trainer
gets arguments that push nothing and hold no token, and what they asked for is done here: at its saves, when training ends, and when the
script says so. The trainer comes in as a value.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hfxfer import card, console, hub, licences, publishing, repository, scripted, tasks
from hfxfer.batches import generators_kept
from hfxfer.card._merge import dumped, split_metadata
from hfxfer.errors import HfxferError, RecipeError, RefusedError, WorkError
from hfxfer.network import asked, patient
from hfxfer.recipe import languages
from hfxfer.run import Run

STRATEGIES = ("end", "every_save")

ARGUMENTS = {"private": "hub_private_repo", "revision": "hub_revision"}
"""Flags of `hfxfer push` that TrainingArguments call otherwise."""


@contextmanager
def logged_in(token: str | None) -> Iterator[None]:
    """Inside, the client's token is this one, where one is given: it looks for it in the environment at each request.

    Raises RefusedError where it would take another one before it.
    """
    if token and os.environ.get("HF_OIDC_RESOURCE"):
        raise RefusedError("a token is given and HF_OIDC_RESOURCE is set, whose token the Hub's client would take in its place; allowed: one of the "
                           "two. Leave out hub_token (or token=), or unset HF_OIDC_RESOURCE")
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
class Destination:
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

    def destination(self, trainer: Any, given: dict[str, Any]) -> Destination:
        named, recipe = {name: value for name, value in given.items() if value is not None}, trainer.recipe
        language = named.get("language", recipe.language)
        return Destination(named.get("token", self._token), named.get("private", self.private),
                           named.get("revision", self.revision) or repository.MAIN, named.get("license", recipe.license),
                           [*language] if isinstance(language, (list, tuple)) else languages(language))

    def check(self, trainer: Any, **given: Any) -> None:
        """Raise RefusedError, in every process, where no true card can be made or the token may not write. Nothing is sent. given: as to push."""
        to, called = self.destination(trainer, given), {name for name, value in given.items() if value is not None}
        self.model_id, self.base = agreed(trainer, lambda: self._checked(trainer, to), called)

    def _checked(self, trainer: Any, to: Destination) -> tuple[str, dict[str, Any]]:
        with logged_in(to.token):
            faults = list(self._unfit(trainer))
            base = {} if faults else scripted.base_of(trainer)
            faults = faults or list(_card_faults(trainer, base, Run(self.folder), to))
            if faults:
                raise RecipeError(f"the model cannot be published: {faults[0]}" if len(faults) == 1 else
                                  "\n".join(["the model cannot be published:", *(f"  - {fault}" for fault in faults)]))
            scripted.rehearse(trainer, base, self.args)
            return self._account(to), base

    def _unfit(self, trainer: Any) -> Iterator[str]:
        """What is missing for a model that loads and a card that is true, a sentence each."""
        known = ", ".join(tasks.names())
        if trainer.task is None:
            yield f"task is not given, and a card says what a model is for. Say it: TransferTrainer(…, task='image-classification'). Tasks: {known}"
        elif trainer.task.name not in tasks.names():
            yield f"task is {trainer.task.name!r}; allowed: {known}. Save the model, and push it with its own push_to_hub"
        else:
            yield from scripted.not_loaded(trainer.accelerator.unwrap_model(trainer.model), trainer.task, trainer.recipe.trust_remote_code)
        if scripted.processor_of(trainer) is None:
            yield "the processor is not given, without which nobody can use the model. Give processing_class=, the checkpoint's tokenizer or image " \
                  "processor"
        if trainer.train_dataset is not None and not hasattr(trainer.train_dataset, "__len__"):
            yield "train_dataset has no length, which the card tells. Give rows that can be counted, such as a Dataset"
        if theirs := scripted.in_the_way(Run(self.folder)):
            yield f"{self.folder} holds {', '.join(theirs[:5])}, which is of no script's Run and would be replaced or published. Choose another " \
                  "output_dir"

    def _account(self, to: Destination) -> str:
        """The model's id, in the token's own namespace where none was said. Raises RefusedError where the token may not write there."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        api, model_id = HfApi(), self.given_id or self.folder.absolute().name
        with patient():
            if "/" not in model_id:
                self._check_name(model_id)
                hub.token_for(f"me/{model_id}")
                try:
                    model_id = f"{asked('asking whose token it is', api.whoami, HfHubHTTPError)['name']}/{model_id}"
                except HfHubHTTPError:
                    model_id = f"me/{model_id}"  # check_account says what is wrong with the token
            hub.token_for(model_id)
            hub.check_account(api, model_id)
            # Of no files: whether it is private, and the revision a branch.
            repository.planned(api, repository.Wanted(model_id, "model", self.folder, {}, (), to.revision, to.private))
        return model_id

    def _check_name(self, name: str) -> None:
        try:
            hub.check_id(f"me/{name}")
        except RecipeError as error:
            got = f"hub_model_id is {name!r}" if self.given_id else f"hub_model_id is not given, and the folder of output_dir is named {name!r}"
            raise RecipeError(f"{got}; allowed: REPO or NAME/REPO of letters, digits, '-', '_' and '.', such as me/pets. "
                              "Give hub_model_id") from error

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
        to, run = self.destination(trainer, given), scripted.write(trainer, self.args, self.base, self.seconds, going_on)
        return agreed(trainer, lambda: self._sent(run, message, to))

    def on_train_end(self, trainer: Any, seconds: float | None) -> None:
        """Push where it was asked for; a search's trials are not published. seconds: None where they are not known."""
        self.seconds, self.paused = None if seconds is None else seconds - self.paused, 0.0
        if self.wanted and trainer.hp_search_backend is None:
            self.push(trainer, "End of training")

    def on_save(self, trainer: Any) -> None:
        """As at the end, but a push that fails does not end the training: what it would have sent goes up with the next one."""
        if not self.at_saves or trainer.hp_search_backend is not None:
            return
        step, start = trainer.state.global_step, time.monotonic()
        stage = f"{trainer.stage.name}, " if trainer.stage is not None and trainer.stage.name else ""
        at = f"step {step}" if trainer.args.save_strategy == "steps" else f"epoch {int(trainer.state.epoch)}"
        try:
            # What is drawn for the proof that the model loads would make this training another than the same resumed.
            with generators_kept():
                self.push(trainer, f"Training in progress, {stage}{at}", going_on=True)
        except Exception as error:
            # A process that fails alone must end: the others would wait for it in what it left out.
            if not isinstance(error, HfxferError) and trainer.args.world_size > 1:
                raise
            what = "" if isinstance(error, HfxferError) else f"{type(error).__name__}: "
            console.warn(f"the model of step {step} was not pushed: {what}{error}\nTraining goes on, and the next save is pushed. "
                         "To push only once, when training has ended: hub_strategy='end'")
        self.paused += time.monotonic() - start

    def _sent(self, run: Run, message: str, to: Destination) -> hub.Pushed:
        again = ["hfxfer", "push", shlex.quote(str(self.folder)), "--hub_model_id", self.model_id, *(["--private"] if to.private else []),
                 *([f"--revision {shlex.quote(to.revision)}"] if to.revision != repository.MAIN else [])]
        kept = f"The model is whole in {run.model_dir}. Push it with: {' '.join(again)}"
        try:
            with logged_in(to.token):
                # The push keeps what the author said.
                card.write(run, model_id=self.model_id, license=to.license, language=to.language, card_examples=publishing.shows_examples(run))
                done = hub.push(run, hub_model_id=self.model_id, private=to.private, revision=to.revision, commit_message=message,
                                license=to.license)
        except (RefusedError, WorkError) as error:
            raise WorkError(f"{error}\n{kept}") from error
        except KeyboardInterrupt as interruption:
            raise KeyboardInterrupt(f"interrupted. {kept}") from interruption
        sent = f"pushed to {done.address}: {message}" if done.sent or done.deleted else f"nothing new to push to {done.address}"
        console.talk(f"{sent} (commit {done.commit[:7]})")
        return done


def in_arguments(text: str, called: Iterable[str] = ()) -> str:
    """An error of the command line in a script's words: flags as arguments. called: arguments that push_to_hub itself got."""
    named = {flag: argument for flag, argument in ARGUMENTS.items() if flag not in called}
    return re.sub(r"(?<!\S)--(\w+)(?: ([A-Z]+)\b)?", lambda flag: named.get(flag[1], flag[1]) + (f"='{flag[2]}'" if flag[2] else ""), text)


def agreed(trainer: Any, ask: Callable[[], Any], called: Iterable[str] | None = None) -> Any:
    """What `ask` gives in the main process, in every process; what it raises of hfxfer's errors, too. called: as `in_arguments`, where flags
    are no way out."""
    answer = error = None
    if trainer.is_world_process_zero():
        try:
            answer = ask()
        except HfxferError as found:
            if called is not None:
                found.args = (in_arguments(str(found), called),)
            error = found
    answer, error = trainer.shared((answer, error))
    if error is not None:
        raise error
    return answer


def _card_faults(trainer: Any, base: dict[str, Any], run: Run, to: Destination) -> list[str]:
    """What the Hub would refuse of licence, languages and the author's own metadata."""
    path = run.model_dir / "README.md"
    own = split_metadata(path.read_text(encoding="utf-8"))[1] if path.is_file() else {}
    terms = licences.inherited(base, trainer.accelerator.unwrap_model(trainer.model).config.to_dict())
    said = {"license": to.license, "language": to.language}
    if to.license == trainer.recipe.license:
        said |= {"license_name": trainer.recipe.license_name, "license_link": trainer.recipe.license_link}
    metadata = {**terms, **own, **{name: value for name, value in said.items() if value}}
    return card.faults(metadata, f"---\n{dumped(metadata)}---\n")
