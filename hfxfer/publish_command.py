"""`hfxfer push` and `hfxfer space`: what they show, ask and say."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfxfer import console
from hfxfer.errors import RecipeError, RefusedError
from hfxfer.flags import FORMAT, Command, Flag
from hfxfer.reporting import report
from hfxfer.repository import size


def push(positional: list[str], flags: dict[str, Any]) -> int | None:
    if len(positional) != 1:
        raise RecipeError(f"push takes a Run, got {' '.join(positional) or 'nothing'}")
    if "hub_model_id" not in flags:
        raise RecipeError("push needs the Hub id of the model: --hub_model_id NAME/REPO")
    source, same = positional[0], continuing("push", positional[0], flags)
    settings = {name: value for name, value in flags.items() if name not in ("yes", "allow")}
    allow = [name.strip() for name in flags.get("allow", "").split(",") if name.strip()]
    from hfxfer import hub

    try:
        done = hub.push(source, **settings, allow=allow, confirm=lambda *plans: confirm(plans, flags.get("yes", False), same))
    except RefusedError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        return report(error, f"continue with: {same}")
    console.emit(told(done))


def told(done: Any) -> dict[str, Any]:
    """Say what a push did and what comes next; the same for --format json."""
    console.fact(f"verified: {', '.join(done.verified)}")
    console.fact(f"{'sent' if done.sent or done.deleted else 'nothing to send: it is all there in'} commit {done.commit}")
    console.fact(done.address)
    found = {"model_id": done.model_id, "address": done.address, "revision": done.revision, "commit": done.commit, "sent": list(done.sent),
             "deleted": list(done.deleted), "verified": list(done.verified)}
    if done.space:
        _show_space(done.space)
        found["space"] = _space_object(done.space)
    branch = f" --revision {shlex.quote(done.revision)}" if done.revision != "main" else ""
    console.talk(f"next: hfxfer predict {shlex.quote(done.model_id)} INPUT{branch}")
    return found


def space(positional: list[str], flags: dict[str, Any]) -> int | None:
    if len(positional) != 1:
        raise RecipeError(f"space takes a Run or the Hub id of a model, got {' '.join(positional) or 'nothing'}")
    if not {"output_dir", "hub_space_id"} & set(flags):
        raise RecipeError("space needs where to: --output_dir FOLDER writes the Space, --hub_space_id NAME/REPO publishes it")
    source = positional[0]
    from hfxfer import hub

    if "hub_model_id" in flags:
        hub.check_id(flags["hub_model_id"])
    if "hub_space_id" not in flags:
        return _write_space(source, flags)
    # What was written before a failure is not in the way of the same command.
    same = continuing("space", source, {**flags, "overwrite": True} if "output_dir" in flags else flags)
    try:
        done = hub.push_space(source, **{name: value for name, value in flags.items() if name != "yes"},
                              confirm=lambda *plans: confirm(plans, flags.get("yes", False), same))
    except RefusedError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        return report(error, f"continue with: {same}")
    _show_space(done)
    console.emit(_space_object(done))
    console.talk(f"it starts when it is built, which takes some minutes; next: open {done.address}")


def _write_space(source: str, flags: dict[str, Any]) -> None:
    """The folder alone: nothing is sent."""
    from hfxfer import spaces

    wrong = [name for name in ("private", "commit_message", "yes") if name in flags]
    if wrong:
        raise RecipeError(f"--{wrong[0]} is for publishing: say where to with --hub_space_id NAME/REPO, or leave it out")
    folder = Path(flags["output_dir"])
    spaces.claim(folder, flags.get("overwrite", False))
    about = spaces.describe(source, hub_model_id=flags.get("hub_model_id", ""), revision=flags.get("revision", ""))
    spaces.write(about, folder)
    console.fact(str(folder))
    console.emit({"space": str(folder), "model_id": about.model_id})
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in about.variables.items())
    console.talk(f"next: {settings} python {shlex.quote(str(folder / 'app.py'))}")


def _show_space(done: Any) -> None:
    console.fact(f"space: {'sent' if done.sent or done.deleted else 'nothing to send: it is all there in'} commit {done.commit}")
    console.fact(done.address)


def _space_object(done: Any) -> dict[str, Any]:
    return {"space_id": done.space_id, "model_id": done.model_id, "address": done.address, "commit": done.commit, "sent": list(done.sent),
            "deleted": list(done.deleted)}


def continuing(command: str, source: str, flags: dict[str, Any]) -> str:
    """The same command again, its switches last. No flag holds a token."""
    words = [f"--{name} {shlex.quote(str(value))}" for name, value in flags.items() if not isinstance(value, bool)]
    words += [f"--{name}" if value else f"--{name} false" for name, value in flags.items() if isinstance(value, bool)]
    return " ".join(["hfxfer", command, shlex.quote(source), *words])


def confirm(plans: Sequence[Any], yes: bool, same: str) -> None:
    """Show what a push would do, and ask once. Raises RefusedError where the answer is no, or nobody can give one."""
    for plan in plans:
        for line in shown(plan):
            console.talk(line)
    if yes or all(plan.is_empty for plan in plans):
        return
    if not sys.stdin or not sys.stdin.isatty():
        raise RefusedError(f"nobody can answer whether to push, and nothing was sent. Say yes with: {same} --yes")
    console.talk(f"push to {' and '.join(plan.repo_id for plan in plans)}? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RefusedError("not pushed: the answer was not yes. Nothing was sent")


def shown(plan: Any) -> list[str]:
    """The files of a push with their sizes, a line each; of a Space's package its sum."""
    lines = [f"{'Space ' if plan.kind == 'space' else ''}{plan.where}:"]
    for what, names in (("new", plan.added), ("changed", plan.changed)):
        package = [name for name in names if plan.kind == "space" and name.startswith("hfxfer/")]
        lines += [f"  {what:<9} {size(plan.files[name]):>9}  {name}" for name in names if name not in package]
        if package:
            lines.append(f"  {what:<9} {size(sum(plan.files[name] for name in package)):>9}  hfxfer/, {len(package)} files")
    lines += [f"  {'deleted':<9} {'':>9}  {name}" for name in plan.deleted]
    lines += [f"  {'lost':<9} {'':>9}  {name}: as somebody changed it on the Hub since the last push" for name in plan.edited]
    lines += [f"  {'stays':<9} {'':>9}  {name}: not hfxfer's" for name in plan.foreign]
    lines += [f"  {'set':<9} {'':>9}  {setting}" for setting in plan.settings]
    same = len(plan.files) - len(plan.sent)
    lines.append(f"  {len(plan.sent)} of {len(plan.files)} files to send, {size(plan.num_bytes)}" + (f"; {same} unchanged" if same else ""))
    return [*lines, *plan.notes]


PUSH = Command("RUN --hub_model_id me/x [--space] [--yes]", "publish the model of a Run on the Hub: checked first, then one commit", push, {
    "hub_model_id": Flag("value", "where to: NAME/REPO"), "space": Flag("switch", "also publish a Space that shows the model"),
    "hub_space_id": Flag("value", "the Space's NAME/REPO (the model's with -demo)"), "yes": Flag("switch", "do not ask"),
    "private": Flag("switch", "make a new repository private"), "revision": Flag("value", "branch to push to (main); made where it is not there"),
    "commit_message": Flag("value", "title of the commit"), "license": Flag("value", "licence of the model, such as apache-2.0"),
    "license_name": Flag("value", "of license other: what it is called"), "license_link": Flag("value", "of license other: LICENSE, or an address"),
    "allow": Flag("value", "what the search for secrets may let through: files or kinds of findings, by comma"),
    "card": Flag("value", "where the card was edited both here and on the Hub: whose edits stay, run or hub", ("run", "hub")),
    "format": FORMAT})
SPACE = Command("RUN|me/x [--output_dir F] [--hub_space_id me/x-demo] [--yes]",
                "write or publish a Space: an app that shows the model in the browser", space, {
    "output_dir": Flag("value", "write the Space into this folder"), "overwrite": Flag("switch", "replace the Space that is in --output_dir"),
    "hub_space_id": Flag("value", "publish the Space: NAME/REPO"),
    "hub_model_id": Flag("value", "NAME/REPO of the model, where the Run was not pushed from here"),
    "revision": Flag("value", "branch of the model (main)"), "yes": Flag("switch", "do not ask"),
    "private": Flag("switch", "make a new Space private; false: public, though the model is private"),
    "commit_message": Flag("value", "title of the commit"), "format": FORMAT})
