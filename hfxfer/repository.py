"""repository: one commit of a folder to a repository of the Hub, whatever its kind.

    plan = planned(api, wanted)                         # what would change; nothing is written
    with Writing() as writing:
        head = made(api, plan, writing)                 # the repository and the branch, where they are new
        commit = sent(api, plan, head, "…", writing)    # one commit, read back

`create_commit` is one request and atomic, and raises when its answer is lost although the commit exists (huggingface_hub 2.4): heads are
compared before it is tried again.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hfxfer import console
from hfxfer.errors import RefusedError, WorkError
from hfxfer.network import asked, is_passing, refusal, said, status_of, wait_after

MAIN = "main"
PREFIX = {"model": "", "space": "spaces/"}
"""Of the web address, by kind."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a repository is to hold. files: path in the folder → bytes. private: of a new one; True is refused for a public one that is there.

    own: patterns of what would belong to another version where the folder no longer has it, and is deleted then; whatever else is there is
    somebody's own. last: the commit that was pushed last, or "".
    """

    repo_id: str
    kind: str
    folder: Path
    files: dict[str, int]
    own: tuple[str, ...]
    revision: str = MAIN
    private: bool = False
    last: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a push would do. head: the commit it stands on; None for a repository that is not there yet.

    edited: what somebody else has changed since the last push, and this one changes back. settings: of a Space, that would be set.
    notes: what else is to be told before the question.
    """

    repo_id: str
    kind: str
    folder: Path
    revision: str
    head: str | None
    new_branch: bool
    private: bool
    files: dict[str, int]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    deleted: tuple[str, ...]
    foreign: tuple[str, ...]
    edited: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Repository, branch and what it stands on, in words."""
        state = "a new repository" if self.head is None else f"on top of {self.head[:7]}"
        return f"{self.repo_id}, {'private' if self.private else 'public'}, branch {self.revision}{' (new)' if self.new_branch else ''}, {state}"

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.changed or self.deleted or self.settings)

    @property
    def sent(self) -> tuple[str, ...]:
        return tuple(sorted((*self.added, *self.changed)))

    @property
    def num_bytes(self) -> int:
        return sum(self.files[name] for name in self.sent)


@dataclass(frozen=True, slots=True)
class Stored:
    """A file on the Hub: git's hash of the content, or the content's SHA-256 where it is in LFS."""

    size: int
    blob: str
    sha256: str | None


def size(num_bytes: int) -> str:
    """999 B, 1.2 kB, 14.0 MB: powers of 1000, as the Hub shows them."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    value, units = num_bytes / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f} {units[0]}"


def address(api: Any, plan: Plan) -> str:
    return f"{api.endpoint}/{PREFIX[plan.kind]}{plan.repo_id}" + (f"/tree/{plan.revision}" if plan.revision != MAIN else "")


# --- reading ---------------------------------------------------------------------------------------------------------

def stored(api: Any, kind: str, repo_id: str, revision: str, *expected: type[Exception]) -> tuple[str, dict[str, Stored]]:
    """(head, path → what is stored) of a revision. Raises the client's `expected` errors, or ours."""
    def read() -> tuple[str, dict[str, Stored]]:
        # The tree is that of the head, not of the branch, which may move between two pages of it.
        head = api.repo_info(repo_id, repo_type=kind, revision=revision).sha
        tree = api.list_repo_tree(repo_id, repo_type=kind, recursive=True, revision=head)
        return head, {each.path: Stored(each.size, each.blob_id, each.lfs.sha256 if each.lfs else None) for each in tree if hasattr(each, "blob_id")}

    return asked(f"reading what is in {repo_id}", read, *expected)


def planned(api: Any, wanted: Wanted) -> Plan:
    """Compare a folder with what the Hub has. Raises RefusedError."""
    head, theirs, new_branch, private = _there(api, wanted)
    names, folder = wanted.files, wanted.folder
    added = tuple(name for name in names if name not in theirs)
    changed = tuple(name for name in names if name in theirs and not is_same(folder / name, theirs[name]))
    left = [name for name in theirs if name not in names and name != ".gitattributes"]
    own = tuple(name for name in left if is_own(name, wanted.own))
    edited = _edited(api, wanted, head, theirs, (*changed, *own)) if head and not new_branch else ()
    return Plan(wanted.repo_id, wanted.kind, folder, wanted.revision, head, new_branch, private, names, added, changed, own,
                tuple(name for name in left if name not in own), edited)


def is_own(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns names the file; those without a slash name files of the top folder only."""
    return any(fnmatchcase(name, pattern) for pattern in patterns if "/" in pattern or "/" not in name)


def _there(api: Any, wanted: Wanted) -> tuple[str | None, dict[str, Stored], bool, bool]:
    """(head, what is stored, whether the branch is new, whether the repository is private)."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    repo_id, kind, revision = wanted.repo_id, wanted.kind, wanted.revision
    try:
        found = asked(f"looking for {repo_id}", lambda: api.repo_info(repo_id, repo_type=kind), RepositoryNotFoundError)
        if wanted.private and not found.private:
            raise RefusedError(f"{repo_id} is there and public; --private is for a new one. Leave it out, or make it private at "
                               f"{api.endpoint}/{PREFIX[kind]}{repo_id}/settings")
        new_branch = False
        if revision != MAIN:
            refs = asked(f"reading the branches of {repo_id}", lambda: api.list_repo_refs(repo_id, repo_type=kind))
            new_branch = revision not in [branch.name for branch in refs.branches]
            if revision in [tag.name for tag in refs.tags]:
                raise RefusedError(f"--revision {revision} is a tag of {repo_id}; allowed: a branch, there or new. Choose another name")
        head, theirs = stored(api, kind, repo_id, MAIN if new_branch else revision, RevisionNotFoundError)
        return head, theirs, new_branch, bool(found.private)
    except RepositoryNotFoundError:
        return None, {}, revision != MAIN, wanted.private
    except RevisionNotFoundError as error:
        raise RefusedError(f"{repo_id} has no branch {MAIN} ({said(error)}). Make one, or choose another repository") from error


def _edited(api: Any, wanted: Wanted, head: str, theirs: dict[str, Stored], touched: tuple[str, ...]) -> tuple[str, ...]:
    """Which of the files that would change have changed on the Hub since the last push; none where that commit is not known any more.

    README.md is not among them: what was edited in it is kept.
    """
    from huggingface_hub.errors import RevisionNotFoundError

    if not touched or wanted.last in ("", head):
        return ()
    try:
        _, before = stored(api, wanted.kind, wanted.repo_id, wanted.last, RevisionNotFoundError)
    except RevisionNotFoundError:  # the history was rewritten there
        return ()
    return tuple(name for name in touched if name != "README.md" and theirs[name] != before.get(name))


def content(api: Any, kind: str, repo_id: str, revision: str, name: str, *expected: type[Exception]) -> bytes:
    """A small file as it is on the Hub now, past the cache. Raises the client's `expected` errors, or ours."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    def ask() -> bytes:
        where = hf_hub_url(repo_id, name, repo_type=kind, revision=revision, endpoint=api.endpoint)
        answer = get_session().get(where, headers=build_hf_headers(), follow_redirects=True)
        hf_raise_for_status(answer)
        return answer.content

    return asked(f"reading {name} of {repo_id}", ask, *expected)


def is_same(path: Path, there: Stored) -> bool:
    """Whether a file is what is stored, by size and then by hash."""
    size = path.stat().st_size
    if size != there.size:
        return False
    found = hashlib.sha256() if there.sha256 else hashlib.sha1(b"blob %d\0" % size)  # git's own header of a blob
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest() == (there.sha256 or there.blob)


# --- writing ---------------------------------------------------------------------------------------------------------

class Writing:
    """Requests that write. From the first one on a RefusedError becomes a WorkError: it is not before any work any more."""

    def __init__(self) -> None:
        self.begun = False

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.begun and isinstance(error, RefusedError):
            raise WorkError(str(error)) from error

    def asked(self, what: str, ask: Callable[[], Any]) -> Any:
        answer = asked(what, ask)
        self.begun = True
        return answer


def made(api: Any, plan: Plan, writing: Writing) -> str:
    """The head to commit on; repository and branch are made where they are new."""
    head, more = plan.head, {"space_sdk": "gradio"} if plan.kind == "space" else {}
    if head is None:
        writing.asked(f"making {plan.repo_id}",
                      lambda: api.create_repo(plan.repo_id, repo_type=plan.kind, private=plan.private, exist_ok=True, **more))
        head = stored(api, plan.kind, plan.repo_id, MAIN)[0]
    if plan.new_branch:
        writing.asked(f"making the branch {plan.revision}",
                      lambda: api.create_branch(plan.repo_id, repo_type=plan.kind, branch=plan.revision, revision=head, exist_ok=True))
    return head


def sent(api: Any, plan: Plan, head: str, message: str, writing: Writing) -> str:
    """The id of the commit that holds the folder: a new one or, where nothing had changed, the head. Raises WorkError, RefusedError."""
    commit = _committed(api, plan, head, message, writing) if plan.sent or plan.deleted else head
    _, theirs = stored(api, plan.kind, plan.repo_id, commit)
    if not _holds(plan, theirs):
        raise WorkError(f"{plan.repo_id} at {commit[:7]} is not what is in {plan.folder}: {', '.join(_differing(plan, theirs))}. "
                        "Something changed while it was sent")
    return commit


def _operations(plan: Plan) -> list[Any]:
    """New objects at each attempt: the client writes into them."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    return [*(CommitOperationAdd(name, str(plan.folder / name)) for name in plan.sent),
            *(CommitOperationDelete(name, is_folder=False) for name in plan.deleted)]


def _committed(api: Any, plan: Plan, head: str, message: str, writing: Writing) -> str:
    """Send the commit and return its id. A lost answer is known by the head, which then holds what was sent."""
    console.talk(f"sending {size(plan.num_bytes)} in {len(plan.sent)} {'file' if len(plan.sent) == 1 else 'files'} to {plan.repo_id}")
    for attempt in itertools.count(1):
        try:
            with _bars_on_terminals_only():
                commit = api.create_commit(plan.repo_id, _operations(plan), repo_type=plan.kind, commit_message=message, revision=plan.revision,
                                           parent_commit=head).oid
            writing.begun = True
            return commit
        except Exception as error:  # whatever the client, httpx or Xet raise: told apart just below
            # The client wraps what befell one of several uploads.
            failure = error.__cause__ if type(error) is RuntimeError and isinstance(error.__cause__, Exception) else error
        if not is_passing(failure) and status_of(failure) != 412:
            raise refusal(failure, f"sending to {plan.repo_id}") from failure
        writing.begun = True  # perhaps: the answer may have been lost
        now, theirs = stored(api, plan.kind, plan.repo_id, plan.revision)
        if now != head and _holds(plan, theirs):
            console.talk(f"the answer was lost, but the commit {now[:7]} is there")
            return now
        if now != head or status_of(failure) == 412:
            raise WorkError(f"somebody else committed to {plan.repo_id} meanwhile: {plan.revision} was at {head[:7]} and is now at {now[:7]}"
                            f"{_title(api, plan, now)}. Nothing was overwritten. The same command again pushes on top of {now[:7]}") from failure
        wait_after(failure, attempt, f"sending to {plan.repo_id}")
    raise AssertionError("unreachable: wait_after raises after the last attempt")


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """The client's progress bars, where they can be rewritten in place; in a log they would be a line each time."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    # The user's HF_HUB_DISABLE_PROGRESS_BARS=0 has priority: the client only warns that it cannot be overruled.
    if sys.stderr.isatty() or constants.HF_HUB_DISABLE_PROGRESS_BARS is False:
        yield
        return
    with disable_progress_bars():
        yield


def _title(api: Any, plan: Plan, head: str) -> str:
    commits = asked(f"reading the commits of {plan.repo_id}", lambda: api.list_repo_commits(plan.repo_id, repo_type=plan.kind, revision=head))
    return f" ({commits[0].title!r} by {', '.join(commits[0].authors) or 'somebody'})" if commits else ""


def _differing(plan: Plan, theirs: dict[str, Stored]) -> list[str]:
    missing = [name for name in plan.files if name not in theirs or not is_same(plan.folder / name, theirs[name])]
    return missing + [name for name in plan.deleted if name in theirs]


def _holds(plan: Plan, theirs: dict[str, Stored]) -> bool:
    return not _differing(plan, theirs)
