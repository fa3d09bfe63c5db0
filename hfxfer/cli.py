"""The command line: one small function per command; imports inside functions, so that --help is instant."""

from __future__ import annotations

import difflib
import gc
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfxfer import check_command, console, machine
from hfxfer.demo_command import DEMO
from hfxfer.errors import EXIT_DONE, WorkError, RecipeError, RefusedError
from hfxfer.flags import FORMAT, Command, Flag, help_lines, parse
from hfxfer.publish_command import PUSH, SPACE
from hfxfer.reporting import report

COLUMNS = Flag("values", "which column holds what: ROLE=COLUMN …")
PRECISION = Flag("value", "fp32 (default), bf16 or fp16", ("fp32", "bf16", "fp16"))
BATCH = Flag("value", "rows in a batch")
TASK = Flag("value", "the task, where the model does not say it (hfxfer tasks)")
REVISION = Flag("value", "branch, tag or commit of a Hub model")
TRUST = Flag("switch", "run code that comes with the model; never on by itself")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 2 refused before any work, 1 failed in work, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    console.set_format("human")
    machine.settle()
    # Importing makes a hundred thousand objects that stay; looking through them for garbage again and again took a tenth of a start.
    gc.set_threshold(50_000, 20, 20)
    with console.facts_only():
        try:
            return _dispatch(argv)
        except BrokenPipeError:
            # The reader of stdout went away (`| head`); say nothing more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
            return EXIT_DONE
        except (Exception, KeyboardInterrupt) as error:
            return report(error)
        finally:
            console.set_format("human")  # What is called in this process later, not as a command, prints as it would have.


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("--help", "-h", "help"):
        print_help(argv[1:2] if argv[:1] == ["help"] else [])
        return EXIT_DONE
    if argv[0] in ("--version", "version"):
        from hfxfer import __version__

        console.fact(f"hfxfer {__version__}")
        return EXIT_DONE
    name, rest = argv[0], argv[1:]
    command = _command(name)
    if "--help" in rest or "-h" in rest:
        print_help([name])
        return EXIT_DONE
    positional, flags, faults = parse(rest, command)
    wanted = flags.pop("format", "human")
    console.set_format(wanted if wanted in FORMAT.allowed else "human")
    if faults:
        raise RecipeError(_all_faults(faults, positional, flags, command))
    return command.run(positional, flags) or EXIT_DONE


def _command(name: str) -> Command:
    if name in COMMANDS:
        return COMMANDS[name]
    if name.startswith("-"):
        raise RecipeError(f"{name} stands before the command: hfxfer COMMAND … with one of {', '.join(COMMANDS)}")
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    raise RecipeError(f"unknown command {name!r}; allowed: {', '.join(COMMANDS)}." + (f" Did you mean {near[0]}?" if near else ""))


def _all_faults(faults: list[str], positional: list[str], flags: dict[str, Any], command: Command) -> str:
    """The faults of the command line and, where it makes a recipe, those of the settings, too."""
    from hfxfer.recipe import listed, setting_faults, yaml_settings

    if not command.settings:
        return listed(faults)
    settings = {name: value for name, value in flags.items() if name not in command.flags}
    # A name that the command line is already wrong about is told once.
    told = {fault.split()[0].removeprefix("--") for fault in faults if fault.startswith("--")}
    found = setting_faults(yaml_settings(positional[0], settings) if positional else settings)
    return listed([*faults, *(fault for fault in found if fault.partition(" ")[0] not in told)])


def print_help(names: list[str]) -> None:
    """The help of hfxfer, or of one command."""
    if names:
        for line in help_lines(names[0], _command(names[0])):
            console.fact(line)
        return
    console.fact("hfxfer: fine-tune vision and text checkpoints on your own data, and know how good they are\n")
    console.fact("usage: hfxfer COMMAND …\n")
    for name, command in COMMANDS.items():
        console.fact(f"  {name:<11} {command.help}")
    console.fact("\nhfxfer COMMAND --help says more. Exit codes: 0 done, 2 refused before any work, 1 failed in work, 130 interrupted.\n"
                 "HFXFER_DEBUG=1 adds the traceback to an error.")


def train(positional: list[str], flags: dict[str, Any]) -> int | None:
    actions, yes = {name: flags.pop(name, False) for name in ("resume", "overwrite")}, flags.pop("yes", False)
    recipe = _recipe(positional, flags, "train")
    from hfxfer.training import fine_tune

    try:
        run = fine_tune(recipe, **actions, **check_command.consent(recipe, yes))
    except RefusedError:
        raise
    except Exception as error:
        going_on = _continuing(recipe.output_dir, error)
        return report(error, f"{going_on} --yes" if going_on and yes else going_on)
    if not console.is_main_process():
        return None
    _show_scores(run.scores(), run.model_dir / "scores.json")
    result = {"run": str(run.folder), "model": str(run.model_dir), "scores": run.scores()}
    if recipe.push_to_hub:
        return check_command.push_trained(run, recipe, yes, result)
    console.emit(result)
    console.talk(f"next: hfxfer predict {shlex.quote(str(run.folder))} INPUT")


def ladder(positional: list[str], flags: dict[str, Any]) -> int | None:
    actions = {name: flags.pop(name, False) for name in ("resume", "overwrite")} | {"budget": flags.pop("budget", None)}
    recipe = _recipe(positional, flags, "ladder")
    from hfxfer.climbing import ladder as climb
    from hfxfer.rungs import table

    try:
        run = climb(recipe, **actions)
    except RefusedError:
        raise
    except Exception as error:
        return report(error, _continuing(recipe.output_dir, error))
    if console.is_main_process():
        found = run.read_json("ladder.json")
        for line in table(found):
            console.fact(line)
        _show_scores(run.scores(), run.model_dir / "scores.json")
        console.emit({"run": str(run.folder), "model": str(run.model_dir), "ladder": found, "scores": run.scores()})
        console.talk(f"next: hfxfer predict {shlex.quote(str(run.folder))} INPUT")


def _recipe(positional: list[str], flags: dict[str, Any], command: str) -> Any:
    from hfxfer.recipe import Recipe

    if len(positional) > 1:
        raise RecipeError(f"{command} takes one recipe, got {' '.join(positional)}")
    return Recipe.from_yaml(positional[0], flags) if positional else Recipe.from_settings(flags)


def _continuing(output_dir: str, error: Exception) -> str:
    """The command that goes on after a failure; nothing where no work had begun."""
    from hfxfer.run import Run

    run = Run(output_dir)
    if not run.exists() or run.is_finished():
        return ""
    if isinstance(error, WorkError) and error.change:
        changes = " ".join(f"--{name} {value:g}" for name, value in error.change.items())
        return f"start again with: {run.continuing_command.removesuffix('--resume')}{changes} --overwrite"
    return f"continue with: {run.continuing_command}"


def evaluate(positional: list[str], flags: dict[str, Any]) -> None:
    source = _one(positional, "evaluate", "a Run, a model folder or a Hub id")
    if "data" not in flags:
        raise RecipeError("evaluate needs the data to score on: --data D")
    dataset, split = flags.pop("data"), flags.pop("split", "test")
    output = flags.pop("output", None)
    _check_free(output, flags.pop("overwrite", False))
    from hfxfer.run import Run, write_text

    if output and Run(source).owns(output):
        raise RecipeError(f"--output {output} is a file of the Run itself, which evaluate never changes. Choose another --output")
    columns, batch_size = _columns(flags), _batch_size(flags, 64)
    settings = {name: flags.pop(name) for name in ("data_config", "data_revision", "on_bad_rows") if name in flags}
    from hfxfer.serving import load

    found = load(source, **flags).evaluate(dataset, split=split, columns=columns, batch_size=batch_size, **settings)
    if found is None or not console.is_main_process():
        return
    if output:
        import json

        write_text(Path(output), json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False))
    _show_scores(found, output)
    console.emit(found)
    console.talk(f"next: hfxfer predict {shlex.quote(source)} INPUT")


def predict(positional: list[str], flags: dict[str, Any]) -> None:
    if len(positional) < 2:
        raise RecipeError("predict needs a model and at least one input: hfxfer predict MODEL INPUT…")
    source, *wanted = positional
    output = flags.pop("output", None)
    from hfxfer import tables_out

    if output:
        tables_out.check_ending(output)
    _check_free(output, flags.pop("overwrite", False))
    columns, batch_size = _columns(flags), _batch_size(flags, 32)
    from hfxfer.serving import load

    records = load(source, **flags).predict(wanted, columns=columns, batch_size=batch_size)
    if not console.is_main_process():
        return
    if output:
        tables_out.write(records, output)
        console.fact(f"{len(records)} predictions in {output}")
    else:
        for line in tables_out.lines(records):
            console.fact(line)
    console.emit({"predictions": records})
    revision = f" --revision {shlex.quote(flags['revision'])}" if "revision" in flags else ""
    console.talk(f"next: hfxfer evaluate {shlex.quote(source)} --data D --split test{revision} says how far to trust them")


def compare(positional: list[str], flags: dict[str, Any]) -> None:
    if len(positional) != 2:
        raise RecipeError(f"compare takes two Runs, got {' '.join(positional) or 'nothing'}: hfxfer compare RUN RUN")
    from hfxfer.comparison import compare as compare_runs

    found = compare_runs(*positional)
    console.talk(f"first: {found.first}, second: {found.second}; differences are second − first, with 95 % intervals")
    for line in found.lines():
        console.fact(line)
    console.emit(found.to_dict())
    console.talk("They hold for rows like these: another training seed may move either Run. Of many metrics some differ by chance: "
                 "the last line counts")
    console.talk(f"next: hfxfer predict {shlex.quote(found.better or found.first)} INPUT")


def card(positional: list[str], flags: dict[str, Any]) -> None:
    from hfxfer.card import faults, write
    from hfxfer.licences import INHERITED
    from hfxfer.recipe import languages
    from hfxfer.run import Run

    run = Run(_one(positional, "card", "a Run"))
    found = write(run, model_id=flags.get("hub_model_id", ""), card_examples=flags.get("card_examples", False),
                  language=languages(flags.get("language")), **{name: flags[name] for name in INHERITED if name in flags})
    wrong = faults(found.metadata, found.text)
    console.fact(str(run.model_dir / "README.md"))
    for line in found.changes:
        console.fact(line)
    for line in wrong:
        console.warn(line)
    for line in found.questions:
        console.talk(f"to answer: {line}")
    console.emit({"card": str(run.model_dir / "README.md"), "changes": found.changes, "faults": wrong, "questions": found.questions})
    console.talk(f"next: hfxfer push {shlex.quote(str(run.folder))} --hub_model_id {flags.get('hub_model_id', 'NAME/REPO')}")


def show_tasks(positional: list[str], flags: dict[str, Any]) -> None:
    _none(positional, "tasks")
    from hfxfer import tasks

    found = []
    for name in tasks.names():
        task = tasks.get(name)
        roles = {role: "target" if column.target else "required" if column.required else "optional" for role, column in task.columns.items()}
        found.append({"task": name, "summary": task.summary, "columns": roles, "model": task.auto_model})
        listed = ", ".join(role if kind != "optional" else f"[{role}]" for role, kind in roles.items())
        console.fact(f"{name:<22} {task.summary}  (columns: {listed})")
    console.emit({"tasks": found})
    console.talk("next: hfxfer train --model M --data D --output_dir runs/x")


def doctor(positional: list[str], flags: dict[str, Any]) -> int:
    _none(positional, "doctor")
    from hfxfer import doctor as examination

    found = examination.examine()
    for line in examination.lines(found):
        console.fact(line)
    console.emit(found)
    return examination.status(found)


def quickstart(positional: list[str], flags: dict[str, Any]) -> None:
    _none(positional, "quickstart")
    from hfxfer.quickstart import quickstart as run_quickstart

    console.emit(run_quickstart(Path(flags.get("output_dir", "runs/quickstart"))))


def _one(positional: list[str], command: str, what: str) -> str:
    if len(positional) != 1:
        raise RecipeError(f"{command} takes {what}, got {' '.join(positional) or 'nothing'}")
    return positional[0]


def _none(positional: list[str], command: str) -> None:
    if positional:
        raise RecipeError(f"{command} takes flags only, got {' '.join(positional)}")


def _columns(flags: dict[str, Any]) -> dict[str, str]:
    from hfxfer.values import convert

    try:
        return convert(flags.pop("columns", []), dict[str, str])
    except ValueError:
        raise RecipeError("--columns takes ROLE=COLUMN pairs, such as text=review label=stars") from None


def _batch_size(flags: dict[str, Any], default: int) -> int:
    text = flags.pop("batch_size", str(default))
    if not text.isdigit() or int(text) < 1:
        raise RecipeError(f"--batch_size is {text!r}; allowed: a whole number ≥ 1")
    return int(text)


def _check_free(output: str | None, overwrite: bool) -> None:
    if output and os.path.isdir(output):
        raise RecipeError(f"--output {output} is a folder. Name a file in it")
    if output and os.path.exists(output) and not overwrite:
        raise RecipeError(f"{output} exists. Choose another --output, or replace it with --overwrite")
    if output and not Path(output).absolute().parent.is_dir():
        raise RecipeError(f"the folder of --output {output} does not exist. Make it first")


def _show_scores(found: dict[str, Any], path: Any) -> None:
    """One line a score of the whole set, then the classes."""
    for score in found["scores"]:
        if score["label"] is None:
            console.fact(f"{score['metric']:<20} {_interval(score)}   {score['split']}, {score['num_rows']} rows")
    by_label: dict[str, dict[str, dict]] = {}
    for score in found["scores"]:
        if score["label"] is not None:
            by_label.setdefault(score["label"], {})[score["metric"]] = score
    for label, scores in by_label.items():
        console.fact(f"{label:<20} " + "   ".join(f"{metric} {_interval(score)}" for metric, score in scores.items()))
    if path:
        console.talk(f"scores with their context: {path}")


def _interval(score: dict[str, Any]) -> str:
    if score["value"] is None:
        return "undefined"
    if score["low"] is None:
        return f"{score['value']:.4f}"
    return f"{score['value']:.4f} [{score['low']:.4f}, {score['high']:.4f}]"


COMMANDS: dict[str, Command] = {
    "check": check_command.CHECK,
    "train": Command("--model M --data D --output_dir runs/x [--SETTING VALUE …]\n       hfxfer train recipe.yaml [--SETTING VALUE …]",
                     "fine-tune a checkpoint on your data; the result is a Run folder", train,
                     {"resume": Flag("switch", "continue from the last complete checkpoint of --output_dir"),
                      "overwrite": Flag("switch", "replace the run that is in --output_dir"),
                      "yes": Flag("switch", "push_to_hub: do not ask"), "format": FORMAT}, settings=True),
    "ladder": Command("--model M --data D --output_dir runs/x [--budget 20m] [--SETTING VALUE …]\n       hfxfer ladder recipe.yaml [--SETTING VALUE …]",
                      "try head, lp-ft, lora and full in turn, as long as each is better on validation; the best is the Run", ladder,
                      {"budget": Flag("value", "most time, such as 90s, 20m or 1h; a rung that would take longer than what is left is not begun"),
                       "resume": Flag("switch", "go on with the ladder of --output_dir; finished rungs are not trained again"),
                       "overwrite": Flag("switch", "replace the run that is in --output_dir"), "format": FORMAT}, settings=True),
    "evaluate": Command("MODEL --data D [--split test]", "score a model on labelled data, with 95 % intervals; never changes the Run", evaluate,
                        {"data": Flag("value", "folder, file or Hub id, as in train"), "split": Flag("value", "the split to score on (test)"),
                         "columns": COLUMNS, "output": Flag("value", "also write the scores to this JSON file"),
                         "overwrite": Flag("switch", "replace --output"), "precision": PRECISION, "batch_size": BATCH, "task": TASK,
                         "data_config": Flag("value", "configuration of a Hub data set"), "data_revision": Flag("value", "revision of a Hub data set"),
                         "on_bad_rows": Flag("value", "error (default) or skip", ("error", "skip")),
                         "revision": REVISION, "trust_remote_code": TRUST, "format": FORMAT}),
    "predict": Command("MODEL INPUT… [--output FILE.csv|.jsonl|.parquet]",
                       "predict on pictures, folders, texts or tables with a Run, a model folder or a Hub id", predict,
                       {"output": Flag("value", "write a .csv, .jsonl or .parquet file instead of stdout"),
                        "overwrite": Flag("switch", "replace --output"), "columns": COLUMNS, "precision": PRECISION, "batch_size": BATCH,
                        "task": TASK, "revision": REVISION, "trust_remote_code": TRUST, "format": FORMAT}),
    "compare": Command("RUN RUN", "which of two Runs is better on the same test rows, and whether that is established", compare, {"format": FORMAT}),
    "card": Command("RUN", "write the model card of a Run; what you wrote into it yourself stays", card, {
        "hub_model_id": Flag("value", "the Hub id that the model will have"), "license": Flag("value", "licence of the model, such as apache-2.0"),
        "license_name": Flag("value", "of license other: what it is called"), "license_link": Flag("value", "of license other: LICENSE, or an address"),
        "language": Flag("value", "of the texts: en, or several: en,fr"),
        "card_examples": Flag("switch", "show some test rows, which are your data"), "format": FORMAT}),
    "push": PUSH,
    "space": SPACE,
    "demo": DEMO,
    "tasks": Command("", "list the tasks and the columns they want", show_tasks, {"format": FORMAT}),
    "doctor": Command("", "examine this installation and say how to mend it", doctor, {"format": FORMAT}),
    "quickstart": Command("", "the main job on real handwritten digits, without network or account, in under 2 minutes", quickstart,
                          {"output_dir": Flag("value", "where to write (runs/quickstart; -2 is added when taken)"), "format": FORMAT}),
}
