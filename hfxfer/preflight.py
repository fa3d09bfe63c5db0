"""check: what would fail after the training, tried before its first second, all faults at once.

Whose token it is, whether it may write there and what is there; one step on two training rows; the model saved and loaded again; scores of two
test rows; the card that will be written. It uses the rows and the model that the training goes on with, and leaves both as they were: what it
writes lies in a temporary folder.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfxfer import card, console, data, fetching, hub, leaks, licences, models, network, publishing, repository
from hfxfer.card._facts import is_hub_id
from hfxfer.card.rules import wrong_answers
from hfxfer.checkpoints import card_metadata, checkpoint_config
from hfxfer.errors import HfxferError, RecipeError, RefusedError, RunError, WorkError
from hfxfer.recipe import Recipe, languages
from hfxfer.run import Run
from hfxfer.tasks._task import Outcomes, Problem, Task

ROWS = 2
"""Of the step and of the scores: the fewest that batch norm takes."""

ANSWER = 10.0
"""Seconds that a Hub is waited for which nobody named."""

MEND = "Change --model or the settings"
OF_CARD = "the Hub's check of the card"


@dataclasses.dataclass(slots=True)
class Check:
    """One checking of a recipe. faults: what would stop it, each with what mends it. checked, unasked, questions: a sentence each.

    must_reach: a Hub that cannot be asked is a fault, since a push needs it. target: where the model would go, once the Hub has been asked.
    has_card: whether it came as far as the card. api: the Hub's client, None where the Hub is not asked or could not be reached.
    """

    recipe: Recipe
    must_reach: bool = False
    faults: list[str] = dataclasses.field(default_factory=list)
    checked: list[str] = dataclasses.field(default_factory=list)
    unasked: list[str] = dataclasses.field(default_factory=list)
    questions: list[str] = dataclasses.field(default_factory=list)
    target: str = ""
    has_card: bool = False
    api: Any = None

    @contextmanager
    def trying(self, what: str = "the check", mend: str = MEND) -> Iterator[None]:
        """A refusal inside is one fault more, and so are a checkpoint that cannot be fetched now and what a library raises of `what`."""
        try:
            with _explained(what, mend):
                yield
        except (RefusedError, WorkError) as error:
            if os.environ.get("HFXFER_DEBUG") == "1" and error.__cause__:
                console.talk("".join(traceback.format_exception(error.__cause__)))  # of a fault only its words go on
            self.faults.append(str(error))

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """The same for questions to the Hub, which may not be reached, and is then asked no more."""
        from huggingface_hub import constants

        try:
            yield
        except RefusedError as error:
            if self.must_reach or not constants.HF_HUB_OFFLINE or isinstance(error, RecipeError):
                self.faults.append(str(error))
            else:
                self.unasked.append(f"{what}: HF_HUB_OFFLINE=1 is set")
        except WorkError as error:
            self.api = None
            (self.faults if self.must_reach else self.unasked).append(f"{what}: {error}")

    def ask(self) -> None:
        """What the author has answered, and what the Hub says of token and repository. In the main process."""
        if not console.is_main_process():
            return
        recipe = self.recipe
        self.faults += wrong_answers(recipe.license, languages(recipe.language) or [])
        from huggingface_hub import HfApi, constants

        # The Hub's check of the card needs neither a token nor a repository: what is wrong with them does not keep it from being asked.
        self.api = None if constants.HF_HUB_OFFLINE else HfApi()
        if not recipe.hub_model_id:
            self.unasked += ["token and repository: no --hub_model_id", *([] if self.api else [f"{OF_CARD}: HF_HUB_OFFLINE=1 is set"])]
            return
        with self._asking("the Hub"):
            hub.token_for(recipe.hub_model_id)
            with network.patient():
                wrong = hub.account_faults(self.api, recipe.hub_model_id)
                if wrong:
                    self.faults += wrong
                    return
                self.checked.append(f"token: it may write in {recipe.hub_model_id.split('/')[0]}")
                self.target = _target(self.api, recipe)
                self.checked.append(f"repository: {self.target}")

    def foresee(self) -> None:
        """What can be said of the checkpoint alone, where there is no card to look at: that it is there, and its licence."""
        recipe = self.recipe
        with self.trying():
            if recipe.architecture or not recipe.model or not console.is_main_process():
                return
            commit = fetching.pin(recipe.model, recipe.revision)
            config = checkpoint_config(recipe.model, commit)
            if recipe.hub_model_id and not recipe.license and not licences.inherited(licences.declared(card_metadata(recipe.model, commit)), config):
                self.faults += card.faults({}, "")

    def rehearse(self, recipe: Recipe, task: Task, problem: Problem, rows: data.Rows, loaded: models.Loaded) -> None:
        """Training and publishing in small, with what `training.prepare` gave. Called in every process, done in the main one."""
        from hfxfer import fitting, plan, probe, recording
        from hfxfer.evaluation import Predictor, check_precision

        with self.trying("the rehearsal on a few rows"):
            # It joins the other processes, too, which then wait for what is found.
            args = fitting.training_arguments(recipe, Run(recipe.output_dir), task, problem)
            check_precision(recipe.precision, args.device.type)
            if not console.is_main_process():
                return
            self.checked.append(f"data: {', '.join(f'{split.num_rows} {split.name}' for split in (rows.train, rows.validation, rows.test))} rows"
                                + (f", {len(problem.labels)} labels" if problem.labels else ""))
            with tempfile.TemporaryDirectory(prefix="hfxfer-check-") as folder, probe.untouched(loaded.model):
                run = Run(Path(folder) / Path(recipe.output_dir).absolute().name)
                predictor = Predictor(task, loaded.model, loaded.processor, problem, recipe)
                with _explained("a training step on two rows"):
                    loss = _step(probe, predictor, rows.train.select(_few(rows.train)), loaded)
                run.create()
                run.write_recipe(recipe)
                for name, content in (("data", rows.report), ("base", loaded.base), ("environment", recording.environment(args))):
                    run.write_json(f"{name}.json", content)
                self._write_and_reload(run, predictor, rows)
                self.checked.append(f"model: a step on two rows (loss {loss:.4g}), saved, and loaded again with the same logits")
                self._look_at(run)
            if isinstance(recipe.plan, dict):
                plan.Plan.from_dict(recipe.plan).apply(loaded.model)  # the probe leaves weights contiguous

    def _write_and_reload(self, run: Run, predictor: Any, rows: data.Rows) -> None:
        """Write what `fit` ends with, of two test rows. Raises RefusedError where the saved model gives other logits."""
        from hfxfer import recording, serving

        few, model = rows.test.select(_few(rows.test)), predictor.model
        with _explained("saving and loading the model"):
            models.save(model, predictor.processor, run.model_dir)
            outcomes, logits = _answered(predictor, few)
            recording.write_results(run, predictor, few, outcomes, {
                "split": "test", "seed": predictor.recipe.seed, "dataset": rows.source, "revision": rows.revision})
            loaded = serving.load(run.model_dir, task=predictor.task.name, device=str(next(model.parameters()).device),
                                  trust_remote_code=predictor.recipe.trust_remote_code).predictor
            _, again = _answered(dataclasses.replace(loaded, problem=predictor.problem, recipe=predictor.recipe), few)
        if not publishing.is_close(again, logits):
            raise RefusedError(f"the model gives other logits once it is saved and loaded again: they differ by {(again - logits).abs().max():.2g}. "
                               "Choose another --model")

    def _look_at(self, run: Run) -> None:
        """The card, and where the model is to be published all that would stop it then."""
        recipe = self.recipe
        if wrong_answers(recipe.license, languages(recipe.language) or []):
            return  # told already
        model_id = recipe.hub_model_id or ""
        written, self.has_card = card.write(run, model_id=model_id if is_hub_id(model_id) else ""), True
        found = card.faults(written.metadata, written.text)
        self.questions += written.questions
        if not found:
            self.checked.append(f"card: the metadata are as the Hub wants them, licence {written.metadata['license']}")
        if not model_id:
            # They stop a push, not a training. A missing licence is among the questions.
            self.questions += [f"Before a push: {fault}" for fault in found if "license" in written.metadata]
            self._ask_of_metadata(written.metadata)
            return
        self.faults += map(_before_training, [*found, *publishing.unfit(run.model_dir)])
        self.faults += _leaking(run.model_dir)
        with self.trying():
            self.checked.append(f"published: it would load in {', '.join(_proved(run))}")
        if self.api:
            with self._asking(OF_CARD), network.patient():
                _checked_by(self.api, written.text)
                self.checked.append("card: the Hub accepts it")

    def _ask_of_metadata(self, metadata: dict[str, Any]) -> None:
        """The Hub's own check where nothing was said of publishing: in one attempt, without test rows, and what it says is no fault yet."""
        import yaml

        if not self.api:
            return
        block = yaml.safe_dump({name: value for name, value in metadata.items() if name != "widget"}, sort_keys=False, allow_unicode=True)
        try:
            with network.patient(attempts=1, answer=ANSWER):
                hub.check_card(self.api, f"---\n{block}---\n")
            self.checked.append("card: the Hub accepts its metadata")
        except RunError as error:
            self.questions.append(f"Before a push: {error}")
        except (RefusedError, WorkError) as error:
            self.unasked.append(f"{OF_CARD}: {error}")

    def settle(self, confirm: Callable[[Check], None] | None = None) -> None:
        """Every process goes on, or none. confirm: asked last, in the main process; raises where the answer is no. Raises RefusedError."""
        if confirm and not self.faults and console.is_main_process():
            with self.trying():
                confirm(self)
        faults = list(dict.fromkeys(_agreed(self.faults)))
        if faults:
            raise RefusedError(faults[0] if len(faults) == 1 else "\n".join([f"{len(faults)} faults:", *(f"  - {fault}" for fault in faults)]))


def _few(split: data.Split) -> range:
    return range(min(ROWS, split.num_rows))


def _step(probe: Any, predictor: Any, split: data.Split, loaded: models.Loaded) -> float:
    """The loss of a step, forward and, where the body is trained, backward. Raises RefusedError where it is no number."""
    import math

    recipe = predictor.recipe
    trial = probe.Probe(predictor.task, recipe, predictor.problem, loaded, next(predictor.model.parameters()).device)
    trial.read(split)
    batch = trial.typical(ROWS)
    trial.step(batch, recipe.precision)
    loss = trial.loss(batch, recipe.precision)
    if not math.isfinite(loss):
        raise RefusedError(f"the loss of two training rows is {loss} in {recipe.precision}. Choose --precision fp32, or another --model")
    return loss


def _answered(predictor: Any, split: data.Split) -> tuple[Outcomes, Any]:
    """(outcomes, logits) of a few rows at once, in fp32."""
    import torch

    from hfxfer.probabilities import ProbabilityStore

    task, model = predictor.task, predictor.model
    rows = split.take(range(split.num_rows))
    items = task.encode(rows, predictor.processor, predictor.problem, predictor.recipe, training=False)
    device = next(model.parameters()).device
    batch = {name: value.to(device) if hasattr(value, "to") else value for name, value in task.collate(items, predictor.processor).items()}
    model.eval()
    # TensorFloat-32, torch's default of convolutions on a GPU, differs by more than the tolerance between memory formats.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        outputs = task.forward(model, batch, predictor.recipe)
    predictions = task.decode(outputs, batch, predictor.processor, predictor.problem)
    store = ProbabilityStore(split.num_rows)
    for position, prediction in enumerate(predictions):
        if prediction.probabilities is not None:
            store.put(position, prediction.probabilities)
    return Outcomes(split.column(task.target), [each.answer for each in predictions], store if len(store) else None), outputs.logits.float()


@contextmanager
def _explained(what: str, mend: str = MEND) -> Iterator[None]:
    """What a library raises becomes a RefusedError."""
    try:
        yield
    except HfxferError:
        raise
    except Exception as error:
        said = (str(error).strip() or "nothing more is known").splitlines()[0].rstrip(".")
        raise RefusedError(f"{what} fails, and so would training: {type(error).__name__}: {said}. {mend}") from error


def _target(api: Any, recipe: Recipe) -> str:
    """Where the model would go, in words. Raises RefusedError where it may not go there."""
    wanted = repository.Wanted(recipe.hub_model_id, "model", Path(), {}, (), recipe.hub_revision or repository.MAIN, recipe.hub_private_repo)
    try:
        return repository.planned(api, wanted).where
    except RefusedError as error:  # which knows the flags of `hfxfer push`
        raise RefusedError(str(error).replace("--private", "--hub_private_repo").replace("--revision", "--hub_revision")) from error


def _before_training(fault: str) -> str:
    """The fault, with the way to a card that can be mended where it takes one."""
    later = ". There is none before training: train without --push_to_hub, mend it, and push then"
    return fault + later if "README.md" in fault else fault


def _checked_by(api: Any, text: str) -> None:
    try:
        hub.check_card(api, text)
    except RunError as error:
        raise RunError(_before_training(str(error))) from error


def _leaking(folder: Path) -> list[str]:
    """What would stop the push because it should not be seen; of many findings of a kind in a file, one."""
    found = publishing.by_kind(leaks.find(folder, publishing.listing(folder)[0]))
    return [f"{each}, in what would be published. Take it out of the data, or train without --push_to_hub and push then with --allow {each.file}"
            for each, *_ in found]


def _proved(run: Run) -> tuple[str, ...]:
    try:
        return publishing.prove(run)
    except RefusedError as error:  # which takes the Run for a finished one
        said = str(error).replace(str(run.model_dir), "the model as it would be saved").replace("Train the Run again", "Choose another --model")
        raise RefusedError(said) from error


def _agreed(faults: list[str]) -> list[str]:
    """Those of the main process in every process; its own where they are not joined."""
    from hfxfer.evaluation import rank_and_world

    if rank_and_world()[1] == 1:
        return faults
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([faults])[0]
