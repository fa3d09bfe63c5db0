"""ladder: climb from the cheapest method to the dearest as long as each is established to be better, and keep that one.

head → lp-ft → lora → full, on the same splits, from the same checkpoint and the same new head, sharing cached features.
Rungs are compared on validation, row by row. The first that is no established gain over the one below ends the climb, as
does the budget; the test split is scored once, for the rung that was chosen. `head` takes head_epochs passes, as the head's
stage of lp-ft does. Everything of a rung that `auto` stands for is chosen as by `train`.

In the Run: ladder.json (every number, the choice and its reason), model/figures/ladder.png, and rungs/<method>/ with recipe,
history and validation predictions of each.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfxfer import console, methods, training
from hfxfer.data import Rows
from hfxfer.errors import RecipeError, RefusedError, RunError, WorkError
from hfxfer.metrics import METRICS
from hfxfer.recipe import Recipe
from hfxfer.run import Run, mark_complete, write_text
from hfxfer.rungs import (BYTES_A_PARAMETER, RUNGS, Rung, budget_seconds, chosen, compared, difference, estimated_seconds, is_gain, over_budget,
                          primary)
from hfxfer.tasks._task import Task

VERSION = 1


def ladder(recipe: Recipe | None = None, /, *, budget: str | None = None, overwrite: bool = False, resume: bool = False, **settings: Any) -> Run:
    """Climb; the best rung becomes the Run.

    Give a Recipe without a method, or its fields by keyword, as to `train`. budget: 90s, 20m or 1h; a rung that would take longer than
    what is left is not begun. With `resume`, finished rungs are not trained again. Raises RefusedError or WorkError, as `train`.
    """
    recipe, source = training.given(recipe, settings)
    if recipe.push_to_hub:
        raise RecipeError("push_to_hub is true, and ladder does not push. Leave it out; when it is done: hfxfer push RUN --hub_model_id NAME/REPO")
    budget_seconds(budget)
    root = Run(recipe.output_dir)
    if not resume:
        _check(recipe)
    if console.is_main_process():
        root.claim(overwrite=overwrite, resume=resume)
    report = _report_to_resume(root, recipe) if resume else {"version": VERSION, "settings": recipe.to_dict()}
    if resume and root.is_finished():
        console.talk(f"the ladder in {root.folder} is finished. Climb another with another --output_dir")
        return _complete(root, report)
    climb = _Climb(root, Recipe.from_settings(report["settings"]), source, report, budget or report.get("budget"), resume)
    with _in_work(climb):
        best = climb.climb()
        climb.keep(best)
    return root


def _check(recipe: Recipe) -> None:
    if recipe.method != "auto":
        raise RecipeError(f"method is {recipe.method}, but ladder tries {', '.join(RUNGS)} one after the other. Leave it out, or say --method auto")
    if recipe.freeze is not None:
        raise RecipeError("freeze is set, and the rungs head and lora keep the whole body frozen. Leave it out, or use hfxfer train")
    if recipe.learning_rate != "auto":
        console.hint(f"every rung takes the learning rate {recipe.learning_rate:g}. --learning_rate auto chooses one for each")


def _report_to_resume(root: Run, recipe: Recipe) -> dict[str, Any]:
    if not (root.folder / "ladder.json").is_file():
        raise RunError(f"the run in {root.folder} was not begun by ladder. Continue it with: {root.continuing_command}")
    report = root.read_json("ladder.json")
    if not report.get("chosen"):
        training.must_match(recipe, Recipe.from_settings(report["settings"]), root)
    return report


@contextmanager
def _in_work(climb: _Climb) -> Iterator[None]:
    """Once a rung is trained, a refusal is a failure in work, which the same command with --resume goes on from."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        if not climb.has_begun or str(interruption):
            raise
        raise KeyboardInterrupt(f"interrupted. Continue with: {climb.root.continuing_command}") from interruption
    except RefusedError as error:
        if not climb.has_begun:
            raise
        raise WorkError(str(error)) from error


class _Climb:
    """One climb: the data read once, and what is known so far (`report`, the content of ladder.json)."""

    def __init__(self, root: Run, recipe: Recipe, source: Any, report: dict[str, Any], budget: str | None, resume: bool):
        self.root, self.resume, self.began, self.has_begun = root, resume, time.monotonic(), False
        self.task, self.rows, _ = training.read_rows(recipe, source)
        self.recipe = dataclasses.replace(recipe, task=self.task.name)
        self.problem = self.task.problem(self.rows.target, self.rows.train)
        fingerprint = self.rows.report["fingerprint"]
        if report.get("fingerprint", fingerprint) != fingerprint:
            raise RunError(f"the data is not what the ladder in {root.folder} was begun on. Bring it back, or start anew with --overwrite")
        self.metric = _metric(self.recipe, self.task, self.problem)
        self.limit = budget_seconds(budget)
        self.num_rows = (self.rows.train.num_rows, self.rows.validation.num_rows, self.rows.test.num_rows)
        known = {"budget": budget, "fingerprint": fingerprint, "metric": self.metric, "validation_rows": self.num_rows[1],
                 "rungs": [], "passed_over": {}, "chosen": None, "reason": None}
        # What is decided is never decided again: the rung that was chosen may have been moved already.
        self.report = report if report.get("chosen") else {**report, **known}
        self.spent = 0.0

    def climb(self) -> Rung:
        """Train rung after rung; returns the one that is to be kept."""
        if self.report["chosen"]:
            return Rung(self.root, self.report["chosen"])
        best: Rung | None = None
        for number, method in enumerate(RUNGS, start=1):
            rung = Rung(self.root, method, self._begin)
            if self.resume and rung.is_trained():
                # By a process before this one: its time counts.
                self.spent += rung.result()["seconds"]
                end = None
            else:
                console.talk(f"rung {number} of {len(RUNGS)}: {method}")
                end, passed_over = self._train(rung)
                if passed_over:
                    console.talk(passed_over)
                    self.report["passed_over"][method] = passed_over
                    continue
            self.has_begun = True
            better = False
            if end is None:
                better, end = _agreed(self._judge(best, rung) if console.is_main_process() else None)
            best = rung if better or best is None else best
            if end:
                break
        self._decide(best, end)
        return best

    def _begin(self) -> None:
        """Before a rung's first file: the Run's own folder, and what resuming needs."""
        if not self.has_begun:
            self.root.create()
        self.has_begun = True
        self._write()
        recipe = Recipe.from_settings(self.report["settings"])
        write_text(self.root.folder / "recipe.yaml", dataclasses.replace(recipe, output_dir=str(self.root.folder.absolute())).to_yaml())

    def _write(self) -> None:
        self.root.write_json("ladder.json", self.report)

    def _train(self, rung: Rung) -> tuple[str | None, str | None]:
        """Train one rung. Returns why it is not begun and ends the climb, and why it is passed over; None of both where it was trained."""
        recipe = dataclasses.replace(self.recipe, method=rung.method, output_dir=str(rung.folder.absolute()))
        if rung.method == "head":
            recipe = dataclasses.replace(recipe, num_train_epochs=recipe.head_epochs)
        rung.resumed = self.resume and rung.exists()
        if rung.resumed:
            recipe = training.with_saved_plan(recipe, rung.recipe())
        began = time.monotonic()
        recipe, problem, loaded = training.prepare(recipe, self.task, self.rows)
        if rung.method == "lora" and not methods.adapter_targets(loaded.model):
            return None, f"lora is passed over: {type(loaded.model).__name__} has no layer that takes adapters"
        refusal = _agreed(self._over_budget(rung.method, recipe))
        if refusal:
            return refusal, None
        if rung.resumed:
            training.must_match(recipe, rung.recipe(), self.root)
        from hfxfer.fitting import fit

        fit(rung, recipe, self.task, problem, self.rows, loaded, rung.resumed, began, finish=_finish)
        del loaded
        # A trainer holds itself: without this, models of several rungs would be in memory.
        gc.collect()
        return None, None

    def _over_budget(self, method: str, recipe: Recipe) -> str | None:
        if self.limit is None or not self.report["rungs"]:
            return None
        steps = recipe.training_arguments.get("max_steps", -1)
        epochs = recipe.num_train_epochs if steps < 0 else steps * recipe.per_device_train_batch_size / self.num_rows[0]
        needed = estimated_seconds(method, epochs, self.report["rungs"], self.num_rows)
        return over_budget(method, needed, self.limit - self.spent - (time.monotonic() - self.began), self.limit)

    def _judge(self, best: Rung | None, rung: Rung) -> tuple[bool, str | None]:
        """Whether the rung is the best so far, and why the climb ends here, if it does; what is not the best is deleted."""
        result = rung.result()
        self.report["rungs"].append(result)
        if best is None:
            self._write()
            return True, None
        found = difference(self.problem, self.metric, best.validation(), rung.validation(), self.recipe.seed)
        result["gain"] = {"over": best.method, **dataclasses.asdict(found)}
        self._write()
        said = compared(rung.method, best.method, found)
        if not is_gain(found):
            rung.drop()
            return False, said
        console.talk(said)
        best.drop()
        return True, said if rung.method == RUNGS[-1] else None

    def _decide(self, best: Rung, end: str) -> None:
        if not console.is_main_process():
            return
        results = {result["method"]: result for result in self.report["rungs"]}
        last = "that is the last rung" if best.method == RUNGS[-1] else "stopping here"
        self.report |= {"chosen": best.method, "reason": f"{end}: {last}, {chosen(results[best.method])}"}
        self._write()
        if self.report["rungs"][-1]["method"] != best.method:
            origin = self.rows.report["splits"]["validation"]
            more = f"--validation_size (now {origin['size']:g})" if "size" in origin else "give the validation split more"
            console.hint(f"smaller gains can be established on more validation rows than these {self.num_rows[1]}: {more}")

    def keep(self, best: Rung) -> None:
        """Make the rung's folder the Run, and score the test split."""
        from hfxfer import fitting, serving

        processes = _processes()
        recipe = dataclasses.replace(best.recipe(), output_dir=str(self.root.folder.absolute()))
        if console.is_main_process():
            _promote(best, self.root)
            self.root.write_recipe(recipe)
            self._draw()
        processes.wait_for_everyone()
        predictor = serving.load(self.root.model_dir, task=self.task.name, trust_remote_code=recipe.trust_remote_code).predictor
        predictor.recipe = recipe
        fitting.score_test(self.root, predictor, self.rows)
        processes.wait_for_everyone()
        if console.is_main_process():
            _complete(self.root, self.report)

    def _draw(self) -> None:
        from hfxfer import figures

        entries = [{**primary(result, self.metric), **result} for result in self.report["rungs"]]
        figures.ladder(entries, self.metric, self.report["chosen"], self.root.figures_dir / "ladder.png")


def _finish(rung: Rung, trainer: Any, rows: Rows, start: float, began: float) -> None:
    """Save and score a rung on validation, in fp32; with rung.json it is finished. Scoring runs in every process."""
    from hfxfer import fitting, recording
    from hfxfer.evaluation import evaluate_split, score_outcomes, write_predictions

    seconds = time.monotonic() - start
    predictor = fitting.save(rung, trainer, rows)
    scoring = time.monotonic()
    outcomes, _ = evaluate_split(predictor, rows.validation, trainer.recipe.per_device_eval_batch_size, rung.folder, "scoring the validation split")
    scoring = time.monotonic() - scoring
    if not trainer.is_world_process_zero():
        return
    context = {"split": "validation", "seed": trainer.recipe.seed, "dataset": rows.source, "revision": rows.revision}
    scores = score_outcomes(predictor, outcomes, context)
    write_predictions(rung.folder / "validation.parquet", predictor, rows.validation, outcomes)
    rung.append_event(recording.end_event(trainer, seconds))
    trained = [event["trained_parameters"] for event in rung.history() if event["type"] == "stage"][-1]
    last = next(entry for entry in reversed(trainer.state.log_history) if "train_runtime" in entry)
    recipe = trainer.recipe
    rung.write_json("rung.json", {
        "method": rung.method, "scores": [dataclasses.asdict(score) for score in scores if score.label is None],
        "seconds": round(seconds, 3), "resumed": rung.resumed, "trained_parameters": trained,
        "trained_megabytes": trained * BYTES_A_PARAMETER / 1e6,
        "model_megabytes": sum(path.stat().st_size for path in rung.model_dir.glob("*.safetensors")) / 1e6,
        "learning_rate": recipe.learning_rate, "num_train_epochs": recipe.num_train_epochs, "epochs": trainer.state.epoch,
        "per_device_train_batch_size": recipe.per_device_train_batch_size, "validation_seconds": round(scoring, 4),
        "epoch_seconds": None if rung.resumed or not trainer.state.epoch else round(last["train_runtime"] / trainer.state.epoch, 4)})


def _promote(rung: Rung, root: Run) -> None:
    """Move what makes a Run out of the rung's folder; done again after a kill it does the rest."""
    for state in rung.checkpoints_dir.rglob("trainer_state.json"):
        _move_best_checkpoint(state, str(rung.checkpoints_dir.absolute()), str(root.checkpoints_dir.absolute()))
    for name in ("model", "checkpoints", "data.json", "base.json", "environment.json"):
        source, target = rung.folder / name, root.folder / name
        if source.exists():
            shutil.rmtree(target, ignore_errors=True)
            os.replace(source, target)
    shutil.copyfile(rung.folder / "history.jsonl", root.folder / "history.jsonl")


def _move_best_checkpoint(path: Path, before: str, after: str) -> None:
    """Trainer writes down where its best checkpoint lies, and passes over in silence one that is not there (transformers 5.23)."""
    state = json.loads(path.read_text(encoding="utf-8"))
    best = state.get("best_model_checkpoint")
    if best and os.path.abspath(best).startswith(before):
        write_text(path, json.dumps({**state, "best_model_checkpoint": after + os.path.abspath(best)[len(before):]}, indent=2) + "\n")
        mark_complete(path.parent)


def _complete(root: Run, report: dict[str, Any]) -> Run:
    """Add the test score of the chosen rung to ladder.json, where it is not in it."""
    if report.get("test") is None and console.is_main_process():
        report["test"] = dataclasses.asdict(root.score(report["metric"]))
        root.write_json("ladder.json", report)
    return root


def _metric(recipe: Recipe, task: Task, problem: Any) -> str:
    """What rungs are compared by: the metric that chooses each one's checkpoint."""
    asked = str(recipe.training_arguments.get("metric_for_best_model", "")).removeprefix("eval_")
    return asked if asked in METRICS else task.primary_metric(problem)


def _agreed(value: Any) -> Any:
    """The main process's value in every process."""
    if int(os.environ.get("WORLD_SIZE", "1") or 1) == 1:
        return value
    from accelerate.utils import broadcast_object_list

    _processes()
    return broadcast_object_list([value])[0]


def _processes() -> Any:
    """All processes of torchrun, which this one joins where no training has done so before."""
    from accelerate import PartialState

    from hfxfer.machine import has_accelerator

    # Without cpu=True accelerate does not join them on a machine without accelerator (1.15).
    return PartialState(cpu=not has_accelerator())
