"""hub: the only module that writes to the network.

`push` sends exactly `model/` of a Run as one commit. Order: what can be refused without the network, whose token it is, what the Hub
has already, the question, the commit, and what the Hub then holds, read back. `create_commit` is one request and atomic, and raises when
its answer is lost although the commit exists (huggingface_hub 2.4): heads are compared before it is tried again. The token is the
client's own (HF_TOKEN or its login), and never a setting.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hfxfer import console, publishing
from hfxfer.errors import RecipeError, RefusedError, RunError, WorkError
from hfxfer.network import LOGIN, asked, is_passing, patient, refusal, said, status_of, wait_after
from hfxfer.run import Run

MAIN = "main"
OWN_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "config.json", "generation_config.json",
             "preprocessor_config.json", "processor_config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json",
             "added_tokens.json", "*.model", "scores.json", "recipe.yaml", "figures/*", "examples/*", "adapter/*")
"""What would belong to another version of the model where `model/` no longer has it: deleted. Whatever else is there is somebody's own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a push would do. files: path → bytes. head: the commit it stands on; None for a repository that is not there yet."""

    model_id: str
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
    verified: tuple[str, ...]
    questions: tuple[str, ...]

    @property
    def sent(self) -> tuple[str, ...]:
        return tuple(sorted((*self.added, *self.changed)))


@dataclass(frozen=True, slots=True)
class Pushed:
    """Where the model is now. commit: its id, new or, where nothing had changed, the one that was there."""

    model_id: str
    address: str
    revision: str
    commit: str
    sent: tuple[str, ...]
    deleted: tuple[str, ...]
    verified: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A file on the Hub: git's hash of the content, or the content's SHA-256 where it is in LFS."""

    size: int
    blob: str
    sha256: str | None


def push(run: Run | str | Path, *, hub_model_id: str, confirm: Callable[[Plan], None] | None = None, private: bool = False,
         revision: str = MAIN, commit_message: str = "", allow: Iterable[str] = (), license: str | None = None) -> Pushed:
    """Publish `model/` of a finished Run as one commit.

    confirm: called with the Plan before anything is written; raises where the answer is no. revision: a branch, made where it is not there.
    allow, license: as `publishing.pack`. Raises RefusedError before anything was sent, WorkError after; the same call goes on.
    """
    run = run if isinstance(run, Run) else Run(run)
    from huggingface_hub import HfApi

    token = token_for(hub_model_id)
    packed = publishing.pack(run, model_id=hub_model_id, license=license, allow=allow, secrets=[token])
    if packed.left_out:
        console.hint(f"not sent, as hidden files are: {', '.join(packed.left_out)}")
    api = HfApi()
    with patient():
        check_account(api, hub_model_id)
        check_card(api, packed.card.text)
        verified = publishing.prove(run)  # after what is asked in a second: it imports each library
        plan = _plan(api, run, packed, (hub_model_id, revision, private), verified)
        if confirm is not None:
            confirm(plan)
        return _carried_out(api, plan, commit_message or f"Upload {run.folder.resolve().name} with hfxfer")


def token_for(model_id: str) -> str:
    """The token at hand. Raises RefusedError where there is none, or the network is switched off, or the id is none."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(model_id)
        legal = model_id.count("/") == 1
    except HFValidationError:
        legal = False
    if not legal:
        raise RecipeError(f"--hub_model_id is {model_id!r}; allowed: NAME/REPO of letters, digits, '-', '_' and '.', such as me/pets")
    if constants.HF_HUB_OFFLINE:
        raise RefusedError("HF_HUB_OFFLINE=1 is set, and a push needs the network. Unset it (and TRANSFORMERS_OFFLINE), and push again")
    found = get_token()
    if not found:
        raise RefusedError(f"there is no token for {constants.ENDPOINT}. {LOGIN}; it must be one that may write")
    return found


# --- what the Hub says -----------------------------------------------------------------------------------------------

def check_account(api: Any, model_id: str) -> None:
    """The token is known and may write in that namespace. Raises RefusedError."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        who = asked("asking whose token it is", api.whoami, HfHubHTTPError)
    except HfHubHTTPError as error:
        raise RefusedError(f"{api.endpoint} does not know the token ({said(error)}). {LOGIN}") from error
    name, namespace = who["name"], model_id.split("/")[0]
    access = (who.get("auth") or {}).get("accessToken") or {}
    mend = f"Make a token that may write at {api.endpoint}/settings/tokens, and log in with it: hf auth login"
    if access.get("role") == "read":
        raise RefusedError(f"the token {access.get('displayName', '')!r} of {name} may only read. {mend}")
    groups = {group["name"]: group.get("roleInOrg", "write") for group in who.get("orgs", ())}
    if namespace != name and groups.get(namespace, "none") in ("none", "read"):
        mine = ", ".join([name, *(group for group, role in groups.items() if role != "read")])
        raise RefusedError(f"{name} may not write in {namespace}; allowed: {mine}. Choose another --hub_model_id, or {LOGIN[0].lower()}{LOGIN[1:]}")
    if access.get("role") == "fineGrained":
        scoped = (access.get("fineGrained") or {}).get("scoped", ())
        granted = {right for each in scoped if each["entity"].get("name") in (namespace, model_id) for right in each["permissions"]}
        if "repo.write" not in granted:
            raise RefusedError(f"the token {access.get('displayName', '')!r} of {name} may not write to {model_id}. {mend}")


def check_card(api: Any, text: str) -> None:
    """The Hub's own check of the metadata. Raises RunError with all that it says."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    def ask() -> dict[str, Any]:
        answer = get_session().post(f"{api.endpoint}/api/validate-yaml", json={"content": text, "repoType": "model"}, headers=build_hf_headers())
        if answer.status_code != 400:
            hf_raise_for_status(answer)
        return answer.json()

    found = asked("checking the card", ask)
    wrong = [str(each.get("message")) for each in found.get("errors", ())]
    if wrong:
        raise RunError("\n".join(["the Hub refuses the card's metadata:", *(f"  - {each}" for each in wrong), "Mend it in model/README.md"]))
    for each in found.get("warnings", ()):
        console.hint(f"the Hub says of the card: {each.get('message')}")


def _remote(api: Any, model_id: str, revision: str, *expected: type[Exception]) -> tuple[str, dict[str, Stored]]:
    """(head, path → what is stored) of a revision. Raises the client's `expected` errors, or ours."""
    def read() -> tuple[str, dict[str, Stored]]:
        # The tree is that of the head, not of the branch, which may move between two pages of it.
        head = api.model_info(model_id, revision=revision).sha
        tree = api.list_repo_tree(model_id, recursive=True, revision=head)
        return head, {each.path: Stored(each.size, each.blob_id, each.lfs.sha256 if each.lfs else None) for each in tree if hasattr(each, "blob_id")}

    return asked(f"reading what is in {model_id}", read, *expected)


def _plan(api: Any, run: Run, packed: publishing.Package, wanted: tuple[str, str, bool], verified: tuple[str, ...]) -> Plan:
    """Compare `model/` with what the Hub has."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    model_id, revision, private = wanted
    head, new_branch, theirs, is_private = None, False, {}, private
    try:
        is_private = bool(asked(f"looking for {model_id}", lambda: api.model_info(model_id), RepositoryNotFoundError).private)
        if private and not is_private:
            raise RefusedError(f"{model_id} is there and public; --private is for a new one. Leave it out, or make it private at "
                               f"{api.endpoint}/{model_id}/settings")
        if revision != MAIN:
            refs = asked(f"reading the branches of {model_id}", lambda: api.list_repo_refs(model_id))
            new_branch = revision not in [branch.name for branch in refs.branches]
            if revision in [tag.name for tag in refs.tags]:
                raise RefusedError(f"--revision {revision} is a tag of {model_id}; allowed: a branch, there or new. Choose another name")
        head, theirs = _remote(api, model_id, MAIN if new_branch else revision, RevisionNotFoundError)
    except RepositoryNotFoundError:
        new_branch = revision != MAIN
    except RevisionNotFoundError as error:
        raise RefusedError(f"{model_id} has no branch {MAIN} ({said(error)}). Make one, or give another --hub_model_id") from error
    names = packed.files
    left = [name for name in theirs if name not in names and name != ".gitattributes"]
    own = [name for name in left if any(fnmatchcase(name, pattern) for pattern in OWN_FILES)]
    return Plan(model_id, run.model_dir, revision, head, new_branch, is_private, names, tuple(name for name in names if name not in theirs),
                tuple(name for name in names if name in theirs and not _is_same(run.model_dir / name, theirs[name])),
                tuple(own), tuple(name for name in left if name not in own), verified, tuple(packed.card.questions))


def _is_same(path: Path, stored: Stored) -> bool:
    """Whether a file is what is stored, by size and then by hash."""
    size = path.stat().st_size
    if size != stored.size:
        return False
    found = hashlib.sha256() if stored.sha256 else hashlib.sha1(b"blob %d\0" % size)  # git's own header of a blob
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest() == (stored.sha256 or stored.blob)


# --- writing ---------------------------------------------------------------------------------------------------------

def _carried_out(api: Any, plan: Plan, message: str) -> Pushed:
    address = f"{api.endpoint}/{plan.model_id}" + (f"/tree/{plan.revision}" if plan.revision != MAIN else "")
    if plan.head is None:
        asked(f"making {plan.model_id}", lambda: api.create_repo(plan.model_id, private=plan.private, exist_ok=True))
        head = _remote(api, plan.model_id, MAIN)[0]
    else:
        head = plan.head
    if plan.new_branch:
        asked(f"making the branch {plan.revision}", lambda: api.create_branch(plan.model_id, branch=plan.revision, revision=head, exist_ok=True))
    commit = _committed(api, plan, head, message) if plan.sent or plan.deleted else head
    _, theirs = _remote(api, plan.model_id, commit)
    if not _holds(plan, theirs):
        raise WorkError(f"{plan.model_id} at {commit[:7]} is not what is in {plan.folder}: {', '.join(_differing(plan, theirs))}. "
                        "Something changed while it was sent")
    return Pushed(plan.model_id, address, plan.revision, commit, plan.sent, plan.deleted, plan.verified)


def _operations(plan: Plan) -> list[Any]:
    """New objects at each attempt: the client writes into them."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    return [*(CommitOperationAdd(name, str(plan.folder / name)) for name in plan.sent),
            *(CommitOperationDelete(name, is_folder=False) for name in plan.deleted)]


def _committed(api: Any, plan: Plan, head: str, message: str) -> str:
    """Send the commit and return its id. A lost answer is known by the head, which then holds what was sent."""
    for attempt in itertools.count(1):
        try:
            return api.create_commit(plan.model_id, _operations(plan), commit_message=message, revision=plan.revision, parent_commit=head).oid
        except Exception as error:  # whatever the client, httpx or Xet raise: told apart just below
            # The client wraps what befell one of several uploads.
            failure = error.__cause__ if type(error) is RuntimeError and isinstance(error.__cause__, Exception) else error
        if not is_passing(failure) and status_of(failure) != 412:
            raise refusal(failure, f"sending to {plan.model_id}") from failure
        now, theirs = _remote(api, plan.model_id, plan.revision)
        if now != head and _holds(plan, theirs):
            console.talk(f"the answer was lost, but the commit {now[:7]} is there")
            return now
        if now != head or status_of(failure) == 412:
            raise WorkError(f"somebody else committed to {plan.model_id} meanwhile: {plan.revision} was at {head[:7]} and is now at {now[:7]}"
                            f"{_title(api, plan, now)}. Nothing was overwritten. The same command again pushes on top of {now[:7]}") from failure
        wait_after(failure, attempt, f"sending to {plan.model_id}")
    raise AssertionError("unreachable: wait_after raises after the last attempt")


def _title(api: Any, plan: Plan, head: str) -> str:
    commits = asked(f"reading the commits of {plan.model_id}", lambda: api.list_repo_commits(plan.model_id, revision=head))
    return f" ({commits[0].title!r} by {', '.join(commits[0].authors) or 'somebody'})" if commits else ""


def _differing(plan: Plan, theirs: dict[str, Stored]) -> list[str]:
    missing = [name for name in plan.files if name not in theirs or not _is_same(plan.folder / name, theirs[name])]
    return missing + [name for name in plan.deleted if name in theirs]


def _holds(plan: Plan, theirs: dict[str, Stored]) -> bool:
    return not _differing(plan, theirs)
