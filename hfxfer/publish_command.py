"""`hfxfer push`: what it shows, asks and says."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from hfxfer import console
from hfxfer.errors import RecipeError, RefusedError
from hfxfer.flags import FORMAT, Command, Flag
from hfxfer.reporting import report

VALUES = ("hub_model_id", "revision", "commit_message", "allow", "license")
SWITCHES = ("private", "yes")


def push(positional: list[str], flags: dict[str, Any]) -> int | None:
    if len(positional) != 1:
        raise RecipeError(f"push takes a Run, got {' '.join(positional) or 'nothing'}")
    if "hub_model_id" not in flags:
        raise RecipeError("push needs the Hub id of the model: --hub_model_id NAME/REPO")
    source, same = positional[0], continuing(positional[0], flags)
    settings = {name: value for name, value in flags.items() if name not in ("yes", "allow")}
    allow = [name.strip() for name in flags.get("allow", "").split(",") if name.strip()]
    from hfxfer import hub

    try:
        done = hub.push(source, **settings, allow=allow, confirm=lambda plan: confirm(plan, flags.get("yes", False), same))
    except RefusedError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        return report(error, f"continue with: {same}")
    console.fact(f"verified: {', '.join(done.verified)}")
    console.fact(f"{'sent' if done.sent or done.deleted else 'nothing to send: it is all there in'} commit {done.commit}")
    console.fact(done.address)
    console.emit({"model_id": done.model_id, "address": done.address, "revision": done.revision, "commit": done.commit, "sent": list(done.sent),
                  "deleted": list(done.deleted), "verified": list(done.verified)})
    branch = f" --revision {shlex.quote(done.revision)}" if done.revision != "main" else ""
    console.talk(f"next: hfxfer predict {shlex.quote(done.model_id)} INPUT{branch}")


def continuing(source: str, flags: dict[str, Any]) -> str:
    """The same command again. No flag holds a token."""
    words = ["hfxfer", "push", shlex.quote(source)]
    words += [f"--{name} {shlex.quote(str(flags[name]))}" for name in VALUES if name in flags]
    return " ".join([*words, *(f"--{name}" for name in SWITCHES if flags.get(name))])


def confirm(plan: Any, yes: bool, same: str) -> None:
    """Show what a push would do, and ask. Raises RefusedError where the answer is no, or nobody can give one."""
    for line in shown(plan):
        console.talk(line)
    if yes or not (plan.sent or plan.deleted):
        return
    if not sys.stdin or not sys.stdin.isatty():
        raise RefusedError(f"nobody can answer whether to push, and nothing was sent. Say yes with: {same} --yes")
    console.talk(f"push to {plan.model_id}? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RefusedError("not pushed: the answer was not yes. Nothing was sent")


def shown(plan: Any) -> list[str]:
    """The files of a push with their sizes, a line each."""
    state = "a new repository" if plan.head is None else f"on top of {plan.head[:7]}"
    lines = [f"{plan.model_id}, {'private' if plan.private else 'public'}, branch {plan.revision}{' (new)' if plan.new_branch else ''}, {state}:"]
    for what, names in (("new", plan.added), ("changed", plan.changed)):
        lines += [f"  {what:<9} {size(plan.files[name]):>9}  {name}" for name in names]
    lines += [f"  {'deleted':<9} {'':>9}  {name}" for name in plan.deleted]
    lines += [f"  {'stays':<9} {'':>9}  {name}: not hfxfer's" for name in plan.foreign]
    total = sum(plan.files[name] for name in plan.sent)
    same = len(plan.files) - len(plan.sent)
    return [*lines, f"  {len(plan.sent)} of {len(plan.files)} files to send, {size(total)}" + (f"; {same} unchanged" if same else ""),
            *(f"to answer in the card: {question}" for question in plan.questions)]


def size(num_bytes: int) -> str:
    """999 B, 1.2 kB, 14.0 MB: powers of 1000, as the Hub shows them."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    value, units = num_bytes / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f} {units[0]}"


PUSH = Command("RUN --hub_model_id me/x [--yes]", "publish the model of a Run on the Hub: checked first, then one commit", push, {
    "hub_model_id": Flag("value", "where to: NAME/REPO"), "yes": Flag("switch", "do not ask"),
    "private": Flag("switch", "make a new repository private"), "revision": Flag("value", "branch to push to (main); made where it is not there"),
    "commit_message": Flag("value", "title of the commit"), "license": Flag("value", "licence of the model, such as apache-2.0"),
    "allow": Flag("value", "what the search for secrets may let through: files or kinds of findings, by comma"),
    "format": FORMAT})
