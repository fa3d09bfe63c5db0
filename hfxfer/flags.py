"""Flags: what a command takes, and the reading of a command line.

Not argparse: every setting of a recipe and every field of TrainingArguments is a flag under its own name, all faults are
reported at once with the nearest names, and none may be abbreviated.
"""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SWITCHES = {"true", "false"}
WIDTH = 110


@dataclass(frozen=True)
class Flag:
    """A flag of one command. kind: value | values (NAME=VALUE, by space) | switch."""

    kind: str
    help: str
    allowed: tuple[str, ...] = ()


FORMAT = Flag("value", "human (default) or json: stdout is one JSON object, after a failure with error and exit_code", ("human", "json"))
"""Of every command that has an answer."""


@dataclass(frozen=True)
class Command:
    """One command: what it takes, what it says of itself, and the function that does it."""

    usage: str
    help: str
    run: Callable[[list[str], dict[str, Any]], int | None]
    flags: dict[str, Flag] = field(default_factory=dict)
    settings: bool = False
    """True where every Recipe setting and TrainingArguments field is a flag, too."""


def parse(tokens: list[str], command: Command) -> tuple[list[str], dict[str, Any], list[str]]:
    """Positional arguments; flags as text, switches as bools, several values as a list; faults, a line each.

    A setting without a value is true, which only booleans accept. After `--` everything is positional.
    """
    positional: list[str] = []
    flags: dict[str, Any] = {}
    faults: list[str] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        index += 1
        if token == "--":
            positional += tokens[index:]
            break
        if not token.startswith("--"):
            if token.startswith("-") and len(token) > 1 and not os.path.exists(token):
                faults.append(f"unknown flag {token}; flags are spelt out, with two dashes, and inputs that begin with a dash stand after --")
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
    return positional, flags, list(dict.fromkeys([*faults, *_unknown(flags, command)]))


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
    if hint is None or any(typing.get_origin(kind) in (dict, list) for kind in typing.get_args(hint)):
        return "setting"
    return "values" if typing.get_origin(hint) in (dict, list) else "value"


def _values(tokens: list[str], index: int, kind: str) -> tuple[list[str], int]:
    """The values that belong to a flag whose name stands before `index`, and where the next token is."""
    end = index
    while end < len(tokens) and not _is_flag(tokens[end]):
        if kind == "values" and end > index and "=" not in tokens[end]:
            break  # an input, after the pairs
        end += 1
    if kind == "value":
        end = min(end, index + 1)
    elif kind == "switch":
        end = index + 1 if index < end and tokens[index].lower() in SWITCHES else index
    return tokens[index:end], end


def _is_flag(token: str) -> bool:
    """True for --name and -x; not for a negative number, nor for a single dash."""
    return token.startswith("-") and token != "-" and not re.fullmatch(r"-\.?\d[\d.eE+-]*|-inf|-nan", token)


def _take(flags: dict, name: str, kind: str, values: list[str], command: Command, faults: list[str]) -> None:
    if kind == "switch":
        text = values[0].lower() if values else "true"
        if text not in SWITCHES:
            faults.append(f"--{name} is {values[0]!r}; allowed: true, false")
        flags[name] = text == "true"
        return
    if kind in ("value", "values") and values in ([], [""]):
        faults.append(f"--{name} needs a value")
    allowed = command.flags[name].allowed if name in command.flags else ()
    if values and allowed and values[0] not in allowed:
        faults.append(f"--{name} is {values[0]!r}; allowed: {', '.join(allowed)}")
    if kind == "values":
        flags[name] = values
    else:
        flags[name] = True if not values else values[0] if len(values) == 1 else values


def _unknown(flags: dict, command: Command) -> list[str]:
    """Flags that the command does not have. Settings are checked by the recipe."""
    faults = []
    for name in flags if not command.settings else ():
        if name not in command.flags:
            near = difflib.get_close_matches(name.replace("-", "_"), command.flags, n=2)
            meant = f"did you mean {' or '.join(f'--{word}' for word in near)}?" if near else f"allowed: {', '.join(f'--{word}' for word in command.flags)}"
            faults.append(f"unknown flag --{name}; {meant}")
    return faults


def help_lines(name: str, command: Command) -> list[str]:
    """What `hfxfer COMMAND --help` prints."""
    lines = [f"usage: hfxfer {name} {command.usage}".rstrip(), "", command.help, ""]
    for flag, said in command.flags.items():
        lines += _entry(flag, said.help)
    if command.settings:
        from hfxfer.recipe import setting_help

        lines += ["", "settings (in a recipe.yaml under the same names):"]
        for setting, text in setting_help():
            lines += _entry(setting, text)
        lines += ["", "Every other field of transformers.TrainingArguments is a setting under its own name, such as --weight_decay 0.05.",
                  "Booleans: a bare flag is true, or true|false. Lists by space. Dicts: NAME=VALUE by space."]
    return lines


def _entry(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"  --{name:<28} ", subsequent_indent=" " * 33, break_long_words=False, break_on_hyphens=False)
