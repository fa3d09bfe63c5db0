"""remote_card: a README.md that was edited on the Hub since it was pushed, a model's or a Space's, brought together with the one here.

Three texts are rendered against: the card that was pushed last, the one that is on the Hub now, and the one here. Rendering replaces hfxfer's own
sections and keeps the author's, so that what two of them differ in afterwards was written by hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hfxfer import spaces
from hfxfer.card import Card
from hfxfer.errors import RunError
from hfxfer.repository import MAIN, PREFIX, Plan, Wanted, content

README = "README.md"
HERE, THERE = "run", "hub"
"""Whose card stays where both were edited."""


def edited(api: Any, plan: Plan, here: Card, render: Callable[..., Card], last: dict[str, Any], stays: str = "") -> str:
    """The Hub's card, where its edits are to be kept; "" where the one here goes up as it is.

    here: as it would go up. render: the card of the Run against an `existing` one. last: the record of the last push of what the branch holds,
    empty where there was none or what was pushed is here no more. stays: HERE, THERE or "". Raises RunError where both were edited and it is
    not said.
    """
    if README not in plan.changed or stays == HERE:
        return ""
    theirs = readme_at(api, "model", plan.repo_id, plan.head)
    if git_hash(theirs.encode()) == last.get("card"):
        return ""
    there = f"{README} of {plan.repo_id} on the Hub"
    pushed, now = (render(existing=text, place=there).text for text in (readme_at(api, "model", plan.repo_id, last.get("commit")), theirs))
    if now in (pushed, here.text):
        return ""
    if stays == THERE or here.text == pushed:
        return theirs
    page = f"{api.endpoint}/{plan.repo_id}/blob/{plan.revision}/{README}"
    raise RunError(f"the card was edited on the Hub since the last push, and model/{README} here, too. The Hub's: {page}. Say whose edits stay: "
                   f"--card {THERE} or --card {HERE}; to keep both, write the Hub's into model/{README}, and push with --card {HERE}")


def space_readme(api: Any, wanted: Wanted, theirs: str, kept: Path | None, render: Callable[[str, str], str]) -> str:
    """README.md that a Space is written against: as it is on the Hub, or the folder's where only that one was edited; "" where there is none.

    theirs: as it is on the Hub. kept: the user's folder with the Space. render: what hfxfer makes of a README.md and its place. Raises RunError
    where both were edited.
    """
    path = (kept or Path()) / README
    here = path.read_text(encoding="utf-8-sig") if kept and path.is_file() else ""
    mine, now = (render(each, place) if each else "" for each, place in ((here, str(path)), (theirs, spaces.THERE)))
    if not (mine and now) or mine == now:
        return theirs or here
    pushed = render(readme_at(api, "space", wanted.repo_id, wanted.last), "")
    if pushed not in (mine, now):
        page = f"{api.endpoint}/{PREFIX['space']}{wanted.repo_id}/blob/{MAIN}/{README}"
        raise RunError(f"{path} and {README} of the Space were both edited, and differ. The Hub's: {page}. Make the two alike, here or there, "
                       "and run the same command")
    return theirs if mine == pushed else here


def git_hash(blob: bytes) -> str:
    """What git calls a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()


def readme_at(api: Any, kind: str, repo_id: str, commit: str | None) -> str:
    """README.md of a commit or branch; "" where there is none, or the commit or the repository is not there."""
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    missing = (EntryNotFoundError, RevisionNotFoundError, RepositoryNotFoundError)
    if not commit:
        return ""
    try:
        return content(api, kind, repo_id, commit, README, *missing).decode("utf-8-sig")
    except missing:
        return ""
