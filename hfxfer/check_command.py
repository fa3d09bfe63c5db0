"""`hfxfer check`, and what `hfxfer train --push_to_hub` asks before training and does after it."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

from hfxfer import console
from hfxfer.errors import EXIT_DONE, EXIT_REFUSED, RecipeError, RefusedError
from hfxfer.flags import FORMAT, Command, Flag
from hfxfer.publish_command import continuing, told
from hfxfer.reporting import report

if TYPE_CHECKING:
    from hfxfer.preflight import Check
    from hfxfer.recipe import Recipe
    from hfxfer.run import Run

NOBODY = "push_to_hub is true, and nobody can answer whether to push: say yes with --yes"


def check(positional: list[str], flags: dict[str, Any]) -> int:
    if len(positional) > 1:
        raise RecipeError(f"check takes one recipe, got {' '.join(positional)}")
    actions = {name: flags.get(name, False) for name in ("resume", "overwrite")}
    settings = {name: value for name, value in flags.items() if name not in (*actions, "yes")}
    from hfxfer.recipe import partly_read, yaml_settings
    from hfxfer.run import Run

    recipe, faults = partly_read(yaml_settings(positional[0], settings) if positional else settings)
    from hfxfer import training
    from hfxfer.preflight import Check

    recipe = training.with_full_paths(recipe)
    found = Check(recipe, faults=faults)
    training.examine(found, Run(recipe.output_dir), recipe.data, **actions)
    faults = list(dict.fromkeys(found.faults))
    for what, lines in (("checked", found.checked), ("not asked", found.unasked), ("fault", faults)):
        for line in lines:
            console.fact(f"{what}: {line}")
    for line in found.questions:
        console.talk(f"to answer in the card: {line}")
    console.emit({"faults": faults, "checked": found.checked, "not_asked": found.unasked, "questions": found.questions})
    console.talk(f"next: {_command('check' if faults else 'train', positional, flags)}")
    return EXIT_REFUSED if faults else EXIT_DONE


def _command(name: str, positional: list[str], flags: dict[str, Any]) -> str:
    """The same words after another command, without what is refused, which may be a token."""
    from hfxfer.recipe import REFUSED, TOKEN

    words = ["hfxfer", name, *positional]
    for flag, value in flags.items():
        if flag in REFUSED or TOKEN.search(str(value)):
            continue
        words += [f"--{flag}", *([] if value is True else value if isinstance(value, list) else [str(value).lower() if value is False else value])]
    return shlex.join(words)


def consent(recipe: Recipe, yes: bool) -> dict[str, Any]:
    """What `training.fine_tune` needs to ask, or to say that nobody can answer."""
    if yes or not recipe.push_to_hub:
        return {}
    if not sys.stdin or not sys.stdin.isatty():
        return {"faults": (NOBODY,)}
    return {"confirm": _ask}


def _ask(check: Check) -> None:
    for line in check.questions:
        console.talk(f"to answer in the card: {line}")
    console.talk(f"after training: {check.target}")
    console.talk(f"push to {check.recipe.hub_model_id} when training is done? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RefusedError("the answer was not yes, and nothing was done. Without --push_to_hub nothing is pushed")


def push_trained(run: Run, recipe: Recipe, yes: bool, result: dict[str, Any]) -> int:
    """Push after training; result: what --format json says of the training."""
    flags = {"hub_model_id": recipe.hub_model_id, "revision": recipe.hub_revision, "private": recipe.hub_private_repo, "yes": yes}
    same = continuing("push", str(run.folder), {name: value for name, value in flags.items() if value})
    from hfxfer.training import push

    try:
        done = push(run)
    except (Exception, KeyboardInterrupt) as error:
        return report(error, f"continue with: {same}", result)
    console.emit({**result, "pushed": told(done)})
    return EXIT_DONE


CHECK = Command("[recipe.yaml] [--SETTING VALUE …]", "find what would fail in training or in publishing, all of it at once, before the first second",
                check, {"resume": Flag("switch", "as train would go on with the run in --output_dir"),
                        "overwrite": Flag("switch", "as train would replace the run in --output_dir"),
                        "yes": Flag("switch", "as train would not ask; check never does"), "format": FORMAT}, settings=True)
