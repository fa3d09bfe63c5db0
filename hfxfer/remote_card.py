"""remote_card: a card that was edited on the Hub since it was pushed, brought together with the one here.

Three texts are rendered against: the card that was pushed last, the one that is on the Hub now, and the one here. Rendering replaces hfxfer's own
sections and keeps the author's, so that what two of them differ in afterwards was written by hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from hfxfer.card import Card
from hfxfer.errors import RunError
from hfxfer.repository import Plan, content

README = "README.md"
HERE, THERE = "run", "hub"
"""Whose card stays where both were edited."""


def edited(api: Any, plan: Plan, here: Card, render: Callable[..., Card], last: dict[str, Any], stays: str = "") -> str:
    """The Hub's card, where its edits are to be kept; "" where the one here goes up as it is.

    here: as it would go up. render: the card of the Run against an `existing` one. last: the record of the last push of what the
    branch holds, empty where there was none or what was pushed is here no more. stays: HERE, THERE or "". Raises RunError where both were edited and it is not said.
    """
    if README not in plan.changed or stays == HERE:
        return ""
    theirs = _text(api, plan.repo_id, plan.head)
    if git_hash(theirs.encode()) == last.get("card"):
        return ""
    pushed, now = render(existing=_text(api, plan.repo_id, last.get("commit"))).text, render(existing=theirs).text
    if now in (pushed, here.text):
        return ""
    if stays == THERE or here.text == pushed:
        return theirs
    page = f"{api.endpoint}/{plan.repo_id}/blob/{plan.revision}/{README}"
    raise RunError(f"the card was edited on the Hub since the last push, and model/{README} here, too. The Hub's: {page}. Say whose edits stay: "
                   f"--card {THERE} or --card {HERE}; to keep both, write the Hub's into model/{README}, and push with --card {HERE}")


def git_hash(blob: bytes) -> str:
    """What git calls a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()


def _text(api: Any, repo_id: str, commit: str | None) -> str:
    """The card of a commit; "" where there is none, or the commit is not there any more."""
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    if not commit:
        return ""
    try:
        return content(api, "model", repo_id, commit, README, EntryNotFoundError, RevisionNotFoundError).decode("utf-8-sig")
    except (EntryNotFoundError, RevisionNotFoundError):
        return ""
