"""hub: `push` and `push_space`: what goes up, whose token it is, the question, and what is kept of it. `repository` sends it.

`push` sends exactly `model/` of a Run as one commit. Order: what can be refused without the network, whose token it is, what the Hub
has already, the question, the commit, and what the Hub then holds, read back. The token is the client's own (HF_TOKEN or its login), and
never a setting.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hfxfer import card as cards
from hfxfer import console, publishing, remote_card, repository, spaces
from hfxfer.errors import RecipeError, RefusedError, RunError
from hfxfer.network import LOGIN, asked, patient, said
from hfxfer.repository import MAIN, Plan, Wanted, Writing
from hfxfer.run import Run

OWN_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "config.json", "generation_config.json",
             "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt",
             "special_tokens_map.json", "added_tokens.json", "*.model", "scores.json", "recipe.yaml", "figures/*", "examples/*", "adapter/*")
"""What would belong to another version of the model where `model/` no longer has it: deleted (`repository.is_own`). Whatever else is there is
somebody's own."""

READER = "HFXFER_SPACE_TOKEN"
"""The environment variable with the token that a Space loads a private model with."""

SECRET = "HF_TOKEN"
"""What that token is called in the Space, where huggingface_hub looks for it."""


@dataclass(frozen=True, slots=True)
class PushedSpace:
    """Where the Space is now. commit: as in Pushed."""

    space_id: str
    model_id: str
    address: str
    commit: str
    sent: tuple[str, ...]
    deleted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pushed:
    """Where the model is now. commit: its id, new or, where nothing had changed, the one that was there. space: where it was asked for."""

    model_id: str
    address: str
    revision: str
    commit: str
    sent: tuple[str, ...]
    deleted: tuple[str, ...]
    verified: tuple[str, ...]
    space: PushedSpace | None = None


def push(run: Run | str | Path, *, hub_model_id: str, confirm: Callable[..., None] | None = None, private: bool = False,
         revision: str = MAIN, commit_message: str = "", allow: Iterable[str] = (), license: str | None = None,
         license_name: str | None = None, license_link: str | None = None, card: str = "", space: bool = False, hub_space_id: str = "") -> Pushed:
    """Publish `model/` of a finished Run as one commit, and with `space` its Space as another.

    confirm: called with a Plan for each repository before anything is written; raises where the answer is no. revision: a branch, made where
    it is not there. allow: as `publishing.pack`. license, license_name, license_link: as `card.render`. card: whose edits stay
    where the card was edited here and on the Hub, run or hub. hub_space_id: of the Space; `hub_model_id`-demo by default.
    Raises RefusedError before anything was sent, WorkError after; the same call goes on.
    """
    run = run if isinstance(run, Run) else Run(run)
    from huggingface_hub import HfApi

    token = token_for(hub_model_id)
    space_id = (hub_space_id or f"{hub_model_id}-demo") if space or hub_space_id else ""
    if space_id:
        check_id(space_id, "--hub_space_id")
    # Where the card that was pushed is here no more, what was written into it by hand is on the Hub only.
    has_card, last = (run.model_dir / "README.md").is_file(), _last_push(run, hub_model_id, revision)
    settings = {"model_id": hub_model_id, "license": license, "license_name": license_name, "license_link": license_link, "space_id": space_id,
                "card_examples": publishing.shows_examples(run)}
    pack = partial(publishing.pack, run, **settings, allow=tuple(allow), secrets=[token])
    api = HfApi()
    with patient(), Writing() as writing, tempfile.TemporaryDirectory(prefix="hfxfer-") as folder:
        with publishing.provisional(run):
            packed = pack()
            if packed.left_out:
                console.hint(f"not sent, as hidden files are: {', '.join(packed.left_out)}")
            check_account(api, hub_model_id)
            wanted = Wanted(hub_model_id, "model", run.model_dir, packed.files, OWN_FILES, revision, private, last.get("commit", ""))
            plan = repository.planned(api, wanted)
            base = _last_push(run, hub_model_id, MAIN) if plan.new_branch else last  # a new branch begins as main is
            theirs = remote_card.edited(api, plan, packed.card, partial(cards.render, run, **settings), base if has_card else {}, card)
            if theirs:
                packed = pack(existing=theirs)
                plan = repository.planned(api, replace(wanted, files=packed.files))
            check_card(api, packed.card.text)
            plan = replace(plan, notes=_notes(packed, bool(theirs)))
            demo = _planned_demo(api, run, plan, space_id, Path(folder)) if space_id else None
            verified = publishing.prove(run)  # after what is asked in a second: it imports each library
            if confirm is not None:
                confirm(plan, *([demo.plan] if demo else []))
        head = repository.made(api, plan, writing)
        commit = repository.sent(api, plan, head, commit_message or f"Upload {run.folder.resolve().name} with hfxfer", writing)
        _record(run, hub_model_id, revision, commit=commit, card=remote_card.git_hash((run.model_dir / "README.md").read_bytes()))
        shown = _sent_space(api, demo, run, commit, writing) if demo else None
    if last.get("space_id") and not demo and commit != plan.head:
        console.hint(f"the Space {last['space_id']} shows the model as it was until it starts again, which push --space sees to")
    return Pushed(hub_model_id, repository.address(api, plan), revision, commit, plan.sent, plan.deleted, verified, shown)


def push_space(source: str | Path, *, hub_space_id: str, hub_model_id: str = "", revision: str = "", private: bool | None = None,
               output_dir: str | Path | None = None, overwrite: bool = False, confirm: Callable[..., None] | None = None,
               commit_message: str = "") -> PushedSpace:
    """Publish a Space for a model that is on the Hub: of a Run, or by its Hub id.

    private: of a new Space; None is as the model is. output_dir: keep its folder there; overwrite, hub_model_id, revision: as `spaces.claim`
    and `spaces.describe`. confirm: as in `push`. Raises RefusedError before anything was sent, WorkError after; the same call goes on.
    """
    from huggingface_hub import HfApi

    token_for(hub_space_id, "--hub_space_id")
    api, run, kept = HfApi(), Run(source), Path(output_dir) if output_dir else None
    if kept:
        spaces.claim(kept, overwrite)
    with patient(), Writing() as writing, tempfile.TemporaryDirectory(prefix="hfxfer-") as name:
        about, folder = spaces.describe(source, hub_model_id=hub_model_id, revision=revision), Path(name)
        model = _found(api, about, about.revision or MAIN)
        if kept and kept.is_dir():  # what is there goes up, too; nothing is written there before the answer
            shutil.copytree(kept, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        last = _last_push(run, about.model_id, about.revision or MAIN).get("space_commit", "")
        demo = _planned_space(api, about, Wanted(hub_space_id, "space", folder, {}, spaces.OWN_FILES, last=last), private, model, kept)
        if confirm is not None:
            confirm(demo.plan)
        if kept:
            spaces.write(about, kept, (folder / "README.md").read_text(encoding="utf-8"))
            demo = replace(demo, plan=replace(demo.plan, folder=kept))
        return _sent_space(api, demo, run, model.commit, writing, commit_message)


def _notes(packed: publishing.Package, is_merged: bool) -> tuple[str, ...]:
    merged = ("README.md was edited on the Hub: those edits stay",) if is_merged else ()
    return (*merged, *(f"to answer in the card: {question}" for question in packed.card.questions))


def check_id(repo_id: str, flag: str = "--hub_model_id") -> None:
    """Raises RecipeError where it is no id of a repository with its owner."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
        legal = repo_id.count("/") == 1
    except HFValidationError:
        legal = False
    if not legal:
        raise RecipeError(f"{flag} is {repo_id!r}; allowed: NAME/REPO of letters, digits, '-', '_' and '.', such as me/pets")


def token_for(repo_id: str, flag: str = "--hub_model_id") -> str:
    """The token at hand. Raises RefusedError where there is none, or the network is switched off, or the id is none."""
    from huggingface_hub import constants, get_token

    check_id(repo_id, flag)
    if constants.HF_HUB_OFFLINE:
        raise RefusedError("HF_HUB_OFFLINE=1 is set, and a push needs the network. Unset it (and TRANSFORMERS_OFFLINE), and push again")
    found = get_token()
    if not found:
        raise RefusedError(f"there is no token for {constants.ENDPOINT}. {LOGIN}; it must be one that may write")
    return found


# --- what the Hub says -----------------------------------------------------------------------------------------------

def check_account(api: Any, repo_id: str, flag: str = "--hub_model_id") -> None:
    """The token is known and may write in that namespace. Raises RefusedError."""
    wrong = account_faults(api, repo_id, flag)
    if wrong:
        raise RefusedError("\n".join(wrong))


def account_faults(api: Any, repo_id: str, flag: str = "--hub_model_id") -> list[str]:
    """What keeps this token from writing there, a sentence each. Raises RefusedError for a token that the Hub does not know."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        who = asked("asking whose token it is", api.whoami, HfHubHTTPError)
    except HfHubHTTPError as error:
        raise RefusedError(f"{api.endpoint} does not know the token ({said(error)}). {LOGIN}") from error
    name, namespace = who["name"], repo_id.split("/")[0]
    access = (who.get("auth") or {}).get("accessToken") or {}
    mend, wrong = f"Make a token that may write at {api.endpoint}/settings/tokens, and log in with it: hf auth login", []
    groups = {group["name"]: group.get("roleInOrg", "write") for group in who.get("orgs", ())}
    if access.get("role") == "read":
        wrong.append(f"the token {access.get('displayName', '')!r} of {name} may only read. {mend}")
    if namespace != name and groups.get(namespace, "none") in ("none", "read"):
        mine = ", ".join([name, *(group for group, role in groups.items() if role != "read")])
        wrong.append(f"{name} may not write in {namespace}; allowed: {mine}. Choose another {flag}, or {LOGIN[0].lower()}{LOGIN[1:]}")
    elif access.get("role") == "fineGrained" and "repo.write" not in _granted(access, namespace, repo_id):
        wrong.append(f"the token {access.get('displayName', '')!r} of {name} may not write to {repo_id}. {mend}")
    return wrong


def _granted(access: dict[str, Any], *names: str) -> set[str]:
    """What a fine-grained token may in these namespaces and repositories; anywhere where none is named."""
    fine = access.get("fineGrained") or {}
    rights = {right for each in fine.get("scoped", ()) if not names or each["entity"].get("name") in names for right in each["permissions"]}
    return rights | (set() if names else set(fine.get("global", ())))


def check_card(api: Any, text: str, kind: str = "model") -> None:
    """The Hub's own check of the metadata. Raises RunError with all that it says."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    def ask() -> dict[str, Any]:
        answer = get_session().post(f"{api.endpoint}/api/validate-yaml", json={"content": text, "repoType": kind}, headers=build_hf_headers())
        if answer.status_code != 400:
            hf_raise_for_status(answer)
        return answer.json()

    found = asked("checking the card", ask)
    wrong = [str(each.get("message")) for each in found.get("errors", ())]
    if wrong:
        mend = f"Mend it in {'model/' if kind == 'model' else ''}README.md"
        raise RunError("\n".join(["the Hub refuses the card's metadata:", *(f"  - {each}" for each in wrong), mend]))
    for each in found.get("warnings", ()):
        console.hint(f"the Hub says of the card: {each.get('message')}")


# --- Spaces ----------------------------------------------------------------------------------------------------------

LOADED = ("RUNNING", "RUNNING_APP_STARTING", "APP_STARTING", "RUNTIME_ERROR")
"""Stages of a Space that has read its model, or failed to: it reads another one only when it is started again."""


@dataclass(frozen=True, slots=True)
class _Model:
    """What a Space loads. closed: why it needs a token for it: private, gated or "". commit: the head; "" where it is not on the Hub yet."""

    closed: str
    commit: str


@dataclass(frozen=True, slots=True)
class _Demo:
    """A Space as it would be pushed. unset: variables to take away. reader: the token for its secret, "" where it gets none."""

    plan: Plan
    about: spaces.About
    variables: dict[str, str]
    unset: tuple[str, ...]
    reader: str


def _planned_demo(api: Any, run: Run, model: Plan, space_id: str, folder: Path) -> _Demo:
    """The Space of a model that is pushed with it."""
    about = spaces.describe(run.folder, hub_model_id=model.repo_id, revision=model.revision)
    last = _last_push(run, model.repo_id, model.revision).get("space_commit", "")
    there = _found(api, about, MAIN) if model.head else _Model("private" if model.private else "", "")
    return _planned_space(api, about, Wanted(space_id, "space", folder, {}, spaces.OWN_FILES, last=last), None, there)


def _found(api: Any, about: spaces.About, revision: str) -> _Model:
    """Raises RefusedError where the model, or that branch of it, is not on the Hub."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    push = f"hfxfer push {shlex.quote(about.source)} --hub_model_id {about.model_id}"
    try:
        found = asked(f"looking for {about.model_id}", lambda: api.model_info(about.model_id, revision=revision),
                      RepositoryNotFoundError, RevisionNotFoundError)
    except RevisionNotFoundError as error:
        raise RefusedError(f"{about.model_id} has no branch {revision}, and a Space loads its model from there. Choose another --revision, "
                           f"or push it: {push} --revision {shlex.quote(revision)}") from error
    except RepositoryNotFoundError as error:
        raise RefusedError(f"{about.model_id} is not on the Hub, and a Space loads its model from there. Push both: {push} --space") from error
    return _Model("private" if found.private else "gated" if found.gated else "", found.sha)


def _planned_space(api: Any, about: spaces.About, wanted: Wanted, private: bool | None, model: _Model,
                   kept: Path | None = None) -> _Demo:
    """Write the folder and compare it with what the Hub has. private: None is as the model is. kept: the user's own folder."""
    from huggingface_hub import get_token

    check_account(api, wanted.repo_id, "--hub_space_id")
    readme = remote_card.readme_at(api, "space", wanted.repo_id, MAIN)
    spaces.write(about, wanted.folder, remote_card.space_readme(api, wanted, readme, kept, partial(spaces.readme_of, about)))
    check_card(api, (wanted.folder / "README.md").read_text(encoding="utf-8"), "space")
    files, _ = publishing.listing(wanted.folder)
    faults = publishing.stray(wanted.folder, files, (get_token() or "", os.environ.get(READER, "").strip()), readme)
    if faults:
        raise RunError("\n".join(["the Space cannot be published:", *(f"  - {fault}" for fault in faults)]))
    plan = repository.planned(api, replace(wanted, files=files, private=bool(private)))
    if plan.head and not spaces.is_own(readme, set(files) - set(plan.added), {*plan.changed, *plan.deleted}):
        raise RefusedError(f"{plan.repo_id} is a Space already, and not one of hfxfer's. Choose another --hub_space_id")
    if plan.head is None and private is None:
        plan = replace(plan, private=model.closed == "private")
    return _with_settings(api, plan, about, model)


def _with_settings(api: Any, plan: Plan, about: spaces.About, model: _Model) -> _Demo:
    """Which variables and which secret the Space lacks."""
    there = asked("reading the Space's variables", lambda: api.get_space_variables(plan.repo_id)) if plan.head else {}
    variables = {name: value for name, value in about.variables.items() if name not in there or there[name].value != value}
    unset = tuple(name for name in spaces.VARIABLES if name in there and name not in about.variables)
    reader, told = _reader(api, about.model_id, model, plan) if model.closed else ("", [])
    if os.environ.get(READER) and not model.closed:
        console.hint(f"{about.model_id} is public: {READER} is not needed, and not sent")
    told = [*(f"variable {name} = {value}" for name, value in variables.items()), *(f"variable {name} goes" for name in unset), *told]
    return _Demo(replace(plan, settings=tuple(told)), about, variables, unset, reader)


def _reader(api: Any, model_id: str, model: _Model, plan: Plan) -> tuple[str, list[str]]:
    """(token that a Space loads a model with that is not open to all, what is told of it). It may read, and nothing else; never the one in use."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    value = os.environ.get(READER, "").strip()
    make = f"Make one that may only read, at {api.endpoint}/settings/tokens, and set {READER} to it"
    if not value:
        if plan.head and SECRET in asked("reading the names of the Space's secrets", lambda: api.get_space_secrets(plan.repo_id)):
            return "", []  # Set before; nobody can read it back.
        raise RefusedError(f"{model_id} is {model.closed}, and a Space loads it with a token of its own. {make}; "
                           f"it becomes the Space's secret {SECRET}")
    if value == get_token():
        raise RefusedError(f"{READER} is the token in use, which may write, and a Space must not have it. {make}")
    try:
        who = asked(f"asking whose token {READER} is", lambda: api.whoami(token=value), HfHubHTTPError)
    except HfHubHTTPError as error:
        raise RefusedError(f"{api.endpoint} does not know the token in {READER} ({said(error)}). {make}") from error
    access, namespace = (who.get("auth") or {}).get("accessToken") or {}, model_id.split("/")[0]
    role, whose = access.get("role", "unknown"), f"the token {access.get('displayName', '')!r} of {who['name']}"
    more = sorted(right for right in _granted(access) if not right.endswith(".read")) if role == "fineGrained" else [] if role == "read" else [role]
    if more:
        raise RefusedError(f"{READER} is {whose}, which is not read-only: {', '.join(more)}. {make}")
    if model.commit:
        try:
            asked(f"asking what {READER} may read", lambda: api.auth_check(model_id, token=value), HfHubHTTPError)
        except HfHubHTTPError as error:
            raise RefusedError(f"{READER} is {whose}, which may not read {model_id} ({said(error)}). {make}") from error
    # Nobody can ask about a model that is not there yet.
    elif (namespace not in (who["name"], *(group["name"] for group in who.get("orgs", ())))
          or role == "fineGrained" and "repo.content.read" not in _granted(access, namespace, model_id)):
        raise RefusedError(f"{READER} is {whose}, which may not read {model_id}. {make}")
    return value, [f"secret {SECRET} = {READER}, {whose}, which may only read"]


def _sent_space(api: Any, demo: _Demo, run: Run, model: str, writing: Writing, message: str = "") -> PushedSpace:
    """Variables and secret come before the commit, which starts the Space. model: the commit that it is to show."""
    plan, about = demo.plan, demo.about
    last = _last_push(run, about.model_id, about.revision or MAIN)
    head = repository.made(api, plan, writing)
    for name, value in demo.variables.items():
        writing.asked(f"setting {name}", lambda name=name, value=value: api.add_space_variable(plan.repo_id, name, value))
    for name in demo.unset:
        writing.asked(f"taking away {name}", lambda name=name: api.delete_space_variable(plan.repo_id, name))
    if demo.reader:
        writing.asked(f"setting {SECRET}",
                      lambda: api.add_space_secret(plan.repo_id, SECRET, demo.reader, description="read-only: loads the model"))
    commit = repository.sent(api, plan, head, message or f"Upload the demo of {about.model_id} with hfxfer", writing)
    if run.exists():
        if plan.is_empty and (last.get("space_id"), last.get("space_model")) != (plan.repo_id, model):
            _start_again(api, plan)
        _record(run, about.model_id, about.revision or MAIN, space_id=plan.repo_id, space_commit=commit, space_model=model)
    return PushedSpace(plan.repo_id, about.model_id, repository.address(api, plan), commit, plan.sent, plan.deleted)


def _start_again(api: Any, plan: Plan) -> None:
    """For a model that it has not read yet. A Space that somebody paused is not woken: that may cost."""
    stage = str(asked("asking what the Space does", lambda: api.get_space_runtime(plan.repo_id)).stage)
    if stage in LOADED:
        asked("starting the Space again", lambda: api.restart_space(plan.repo_id))
        console.talk(f"the Space {plan.repo_id} starts again, with the model as it is now")
    else:
        console.hint(f"the Space {plan.repo_id} was not started again: it is {stage}, and loads the model as it is then when it starts. "
                     f"See {repository.address(api, plan)}")


# --- what is kept of a push ------------------------------------------------------------------------------------------

def _last_push(run: Run, model_id: str, revision: str) -> dict[str, Any]:
    return next((each for each in run.pushes() if (each["model_id"], each["revision"]) == (model_id, revision)), {})


def _record(run: Run, model_id: str, revision: str, **new: str) -> None:
    """commit, card: of the model, and its README's hash; space_id, space_commit; space_model: the model's commit that the Space was last
    started for. The rest of the record stays."""
    old = _last_push(run, model_id, revision)
    run.write_json("pushed.json", [{"model_id": model_id, "revision": revision, **old, **new}, *(each for each in run.pushes() if each != old)])
