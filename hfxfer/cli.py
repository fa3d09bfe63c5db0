"""The command line: one small function per command; imports inside functions, so that --help is instant.

Flags are parsed here rather than by argparse: every setting of a recipe and every field of TrainingArguments is
a flag under its own name, unknown ones are reported all at once with the nearest names, and none may be abbreviated.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfxfer import console
from hfxfer.errors import EXIT_DONE, HfxferError, RecipeError, exit_code

SWITCHES = {"true", "false"}


@dataclass(frozen=True)
class Flag:
    """A flag of one command. kind: value | values (by space) | switch."""

    kind: str
    help: str
    allowed: tuple[str, ...] = ()


FORMAT = Flag("value", "human (default) or json: one JSON object on stdout", ("human", "json"))
COLUMNS = Flag("values", "which column holds what: ROLE=COLUMN …")
PRECISION = Flag("value", "fp32 (default), bf16 or fp16", ("fp32", "bf16", "fp16"))
BATCH = Flag("value", "rows in a batch")
TASK = Flag("value", "the task, where the model does not say it (hfxfer tasks)")
REVISION = Flag("value", "branch, tag or commit of a Hub model")
TRUST = Flag("switch", "run code that comes with the model; never on by itself")


@dataclass(frozen=True)
class Command:
    """One command: what it takes, what it says of itself, and the function that does it."""

    usage: str
    help: str
    run: Callable[[list[str], dict[str, Any]], int | None]
    flags: dict[str, Flag] = field(default_factory=dict)
    settings: bool = False
    """True where every Recipe setting and TrainingArguments field is a flag, too."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 2 refused before any work, 1 failed in work, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(argv)
    except HfxferError as error:
        if os.environ.get("HFXFER_DEBUG") == "1":
            raise
        console.error(str(error))
        return exit_code(error)
    except KeyboardInterrupt:
        return exit_code(KeyboardInterrupt())
    except BrokenPipeError:
        # The reader of stdout went away (`| head`); say nothing more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except Exception as error:
        if os.environ.get("HFXFER_DEBUG") == "1":
            raise
        console.error(f"{type(error).__name__}: {error}\nThis is a fault in hfxfer or in a library below it. "
                      "HFXFER_DEBUG=1 shows where it happened")
        return exit_code(error)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("--help", "-h", "help"):
        print_help(argv[1:] if argv[:1] == ["help"] else [])
        return EXIT_DONE
    if argv[0] in ("--version", "version"):
        from hfxfer import __version__

        console.fact(f"hfxfer {__version__}")
        return EXIT_DONE
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise RecipeError(f"unknown command {name!r}; allowed: {', '.join(COMMANDS)}." + (f" Did you mean {near[0]}?" if near else ""))
    if "--help" in rest or "-h" in rest:
        print_help([name])
        return EXIT_DONE
    command = COMMANDS[name]
    positional, flags = parse(rest, command)
    console.set_format(flags.pop("format", "human"))
    return command.run(positional, flags) or EXIT_DONE


def parse(tokens: list[str], command: Command) -> tuple[list[str], dict[str, Any]]:
    """Positional arguments, and flags as text (switches as bools). Raises RecipeError listing all faults."""
    positional: list[str] = []
    flags: dict[str, Any] = {}
    faults: list[str] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        index += 1
        if not token.startswith("--") or token == "--":
            if token.startswith("-") and len(token) > 1 and not os.path.exists(token):
                faults.append(f"unknown flag {token}; flags are spelt out, with two dashes")
            else:
                positional.append(token)
            continue
        name, equals, value = token[2:].partition("=")
        kind = _kind(name, command)
        if name in flags:
            faults.append(f"--{name} is given twice")
        if equals:
            values = [value]
        else:
            values, index = _values(tokens, index, kind)
        _take(flags, name, kind, values, command, faults)
    faults += _unknown(flags, command)
    if faults:
        raise RecipeError("\n".join(faults))
    return positional, flags


def _kind(name: str, command: Command) -> str:
    if name in command.flags:
        return command.flags[name].kind
    if not command.settings:
        return "unknown"
    import typing

    from hfxfer.recipe import Recipe

    hint = typing.get_type_hints(Recipe).get(name)
    if hint is bool:
        return "switch"
    if hint is not None:
        return "values" if typing.get_origin(hint) in (dict, list) else "value"
    return "setting"


def _values(tokens: list[str], index: int, kind: str) -> tuple[list[str], int]:
    """The values that belong to a flag whose name stands before `index`, and where the next token is."""
    end = index
    while end < len(tokens) and not tokens[end].startswith("--"):
        end += 1
    if kind == "value":
        end = min(end, index + 1)
    elif kind == "switch":
        end = index + 1 if index < end and tokens[index].lower() in SWITCHES else index
    return tokens[index:end], end


def _take(flags: dict, name: str, kind: str, values: list[str], command: Command, faults: list[str]) -> None:
    if kind == "switch":
        text = values[0].lower() if values else "true"
        if text not in SWITCHES:
            faults.append(f"--{name} is {values[0]!r}; allowed: true, false")
        flags[name] = text == "true"
    elif kind == "value":
        if not values:
            faults.append(f"--{name} needs a value")
        flags[name] = values[0] if values else ""
        allowed = command.flags[name].allowed if name in command.flags else ()
        if values and allowed and values[0] not in allowed:
            faults.append(f"--{name} is {values[0]!r}; allowed: {', '.join(allowed)}")
    else:
        if kind == "values" and not values:
            faults.append(f"--{name} needs a value")
        flags[name] = values


def _unknown(flags: dict, command: Command) -> list[str]:
    """Flags that the command does not have. Settings are checked by the recipe."""
    if command.settings:
        return []
    faults = []
    for name in flags:
        if name not in command.flags:
            near = difflib.get_close_matches(name, command.flags, n=2)
            meant = f"did you mean {' or '.join(f'--{word}' for word in near)}?" if near else f"allowed: {', '.join(f'--{word}' for word in command.flags)}"
            faults.append(f"unknown flag --{name}; {meant}")
    return faults


def print_help(names: list[str]) -> None:
    """The help of hfxfer, or of one command."""
    if not names or names[0] not in COMMANDS:
        console.fact("hfxfer: fine-tune vision and text checkpoints on your own data, and know how good they are\n")
        console.fact("usage: hfxfer COMMAND …\n")
        for name, command in COMMANDS.items():
            console.fact(f"  {name:<11} {command.help}")
        console.fact("\nhfxfer COMMAND --help says more. Exit codes: 0 done, 2 refused before any work, 1 failed in work, 130 interrupted.")
        return
    command = COMMANDS[names[0]]
    console.fact(f"usage: hfxfer {names[0]} {command.usage}\n\n{command.help}\n")
    for name, flag in command.flags.items():
        console.fact(f"  --{name:<29} {flag.help}")
    if command.settings:
        console.fact("\nsettings (in a recipe.yaml under the same names):")
        for line in _settings_help():
            console.fact(line)
        console.fact("\nEvery other field of transformers.TrainingArguments is a setting under its own name, such as --weight_decay 0.05.")


def _settings_help() -> list[str]:
    from hfxfer.recipe import setting_help

    return [f"  --{name:<29} {text}" for name, text in setting_help()]


def train(positional: list[str], flags: dict[str, Any]) -> None:
    actions = {name: flags.pop(name, False) for name in ("resume", "overwrite")}
    from hfxfer.recipe import Recipe

    if len(positional) > 1:
        raise RecipeError(f"train takes one recipe, got {' '.join(positional)}")
    if actions["resume"] and actions["overwrite"]:
        raise RecipeError("--resume and --overwrite exclude each other")
    recipe = Recipe.from_yaml(positional[0], flags) if positional else Recipe.from_settings(flags)
    from hfxfer.training import train as run_training

    run = run_training(recipe, **actions)
    if console.is_main_process():
        _show_scores(run.scores(), run.model_dir / "scores.json")
        console.emit({"run": str(run.folder), "model": str(run.model_dir), "scores": run.scores()})
        console.talk(f"next: hfxfer predict {run.folder} INPUT")


def evaluate(positional: list[str], flags: dict[str, Any]) -> None:
    source = _one(positional, "evaluate", "a Run, a model folder or a Hub id")
    if "data" not in flags:
        raise RecipeError("evaluate needs the data to score on: --data D")
    dataset, split = flags.pop("data"), flags.pop("split", "test")
    output = flags.pop("output", None)
    _check_free(output, flags.pop("overwrite", False))
    columns, batch_size = _columns(flags), _batch_size(flags, 64)
    settings = {name: flags.pop(name) for name in ("data_config", "data_revision", "on_bad_rows") if name in flags}
    from hfxfer.serving import load

    found = load(source, **flags).evaluate(dataset, split=split, columns=columns, batch_size=batch_size, **settings)
    if found is None:
        return
    if output:
        import json

        Path(output).write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    _show_scores(found, output)
    console.emit(found)
    console.talk(f"next: hfxfer predict {source} INPUT")


def predict(positional: list[str], flags: dict[str, Any]) -> None:
    if len(positional) < 2:
        raise RecipeError("predict needs a model and at least one input: hfxfer predict MODEL INPUT…")
    source, *wanted = positional
    output = flags.pop("output", None)
    _check_free(output, flags.pop("overwrite", False))
    columns, batch_size = _columns(flags), _batch_size(flags, 32)
    from hfxfer import tables_out
    from hfxfer.serving import load

    if output:
        tables_out.check_ending(output)
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
    console.talk(f"next: hfxfer evaluate {source} --data D --split test says how far to trust them")


def show_tasks(positional: list[str], flags: dict[str, Any]) -> None:
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
    from hfxfer import doctor as examination

    found = examination.examine()
    for line in examination.lines(found):
        console.fact(line)
    console.emit(found)
    return examination.status(found)


def quickstart(positional: list[str], flags: dict[str, Any]) -> None:
    from hfxfer.quickstart import quickstart as run_quickstart

    console.emit(run_quickstart(Path(flags.get("output_dir", "runs/quickstart"))))


def _one(positional: list[str], command: str, what: str) -> str:
    if len(positional) != 1:
        raise RecipeError(f"{command} takes {what}, got {' '.join(positional) or 'nothing'}")
    return positional[0]


def _columns(flags: dict[str, Any]) -> dict[str, str]:
    from hfxfer.recipe import convert

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
    "train": Command("--model M --data D --output_dir runs/x [--SETTING VALUE …]\n       hfxfer train recipe.yaml [--SETTING VALUE …]",
                     "fine-tune a checkpoint on your data; the result is a Run folder", train,
                     {"resume": Flag("switch", "continue from the last complete checkpoint of --output_dir"),
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
    "tasks": Command("", "list the tasks and the columns they want", show_tasks, {"format": FORMAT}),
    "doctor": Command("", "examine this installation and say how to mend it", doctor, {"format": FORMAT}),
    "quickstart": Command("", "the main job on real handwritten digits, without network or account, in under 2 minutes", quickstart,
                          {"output_dir": Flag("value", "where to write (runs/quickstart; -2 is added when taken)"), "format": FORMAT}),
}
