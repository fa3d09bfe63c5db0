"""fetching: which commit of a model on the Hub is read, and, where it cannot be had, why.

A load settles its commit once (`pin`): config, weights and processor are then of one state of the repository, whoever pushes meanwhile, and
what the cache holds of that commit is not asked for again. Where the Hub does not answer it is the commit that the cache knows, and nothing
but the cache is looked at: libraries that went on asking spent 46 s on a tokenizer that was there (transformers 5.23, huggingface_hub 2.4).
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hfxfer import console
from hfxfer.errors import HfxferError, ModelError, WorkError
from hfxfer.network import LONGEST_ANSWER, asked, is_passing, patient, said, status_of

T = TypeVar("T")

SOON = 10.0
"""Seconds that the Hub has to say which commit there is: what the cache knows is at hand."""

LISTED = 8
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
MOST_MODELS = 1000
"""Of an owner, among which near names are looked for: one page of the Hub's list."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """The state of a checkpoint that is read. commit: None of a folder. away: why the Hub cannot be asked; empty where it can."""

    commit: str | None = None
    away: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """For hf_hub_download and from_pretrained."""
        return {"revision": self.commit or "main", "local_files_only": bool(self.away)}


def pin(source: str, revision: str | Pinned | None) -> Pinned:
    """The commit that a revision of a Hub id is at now; nothing of what lies on the disk. Raises ModelError or WorkError."""
    if isinstance(revision, Pinned):
        return revision
    if Path(source).exists():
        return Pinned()
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ModelError(f"model folder {source} does not exist. Give an existing folder or a Hub id such as timm/resnet50.a1_in1k")
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(source)
    except HFValidationError as error:
        raise ModelError(f"{source!r} is neither a folder nor a Hub id: {error}") from error
    known, api = _known(source, revision), HfApi()

    def from_cache(why: str, mend: str) -> Pinned:
        if known is None:
            raise ModelError(_not_in_cache(source, revision, why, mend))
        return Pinned(known, why)

    def ask() -> Pinned:
        try:
            if api.model_info(source, revision=revision).sha == known:
                return Pinned(known)
            return Pinned(api.resolve_revision(source, revision=revision).resolved)  # which the cache then knows
        except Exception as error:  # told apart just below
            passes = is_passing(error) or isinstance(error, WorkError)  # patient() refuses a long wait
            if not passes or known is None and not _is_unreachable(error):
                raise
            found = from_cache(*_why(error))
        console.hint(f"{found.away}: using what the cache has of {source}, commit {found.commit[:7]}")
        return found

    if constants.HF_HUB_OFFLINE:
        return from_cache(*_why(None))
    with _explained(source, revision, answer=SOON):
        return asked(f"looking for {source}", ask, Exception)


def config_file(source: str, at: Pinned) -> Path:
    """config.json of a Hub id, fetched where the cache has it not. Raises ModelError or WorkError."""
    with _explained(source, at.commit, at.away):
        return _fetched(source, "config.json", at)


def fetch_weights(source: str, at: Pinned) -> None:
    """Have a Hub id's weights in the cache before transformers looks for them: what befalls a download, it tells as a missing file (5.23).

    Weights in parts, and those that are pickles, it fetches itself. Raises ModelError or WorkError.
    """
    if Path(source).exists():
        return
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if any(try_to_load_from_cache(source, name, revision=at.commit) for name in WEIGHTS):
        return
    if not at.away:
        console.talk(f"fetching the weights of {source} from {constants.ENDPOINT}")
    # A file that is not there leaves the inner context, so that nothing is told of it.
    with _explained(source, at.commit, at.away), contextlib.suppress(RemoteEntryNotFoundError):
        _fetched(source, WEIGHTS[0], at)


def reason(error: BaseException, source: str, revision: str | None, away: str = "") -> ModelError | None:
    """What an error says of a Hub id that could not be read; None where the Hub and the network have nothing to do with it.

    error: the client's own, or what a library made of it. away: as of Pinned.
    """
    from huggingface_hub import constants, errors

    found = _of_the_client(error)
    if found is None:
        return None
    if isinstance(found, errors.GatedRepoError):
        told = _gated(source, found)
    elif isinstance(found, errors.RepositoryNotFoundError):
        told = _not_there(source)
    elif isinstance(found, errors.RevisionNotFoundError):
        told = f"it has no revision {revision!r}{_revisions(source)}"
    elif isinstance(found, errors.RemoteEntryNotFoundError):
        if not found.response.url.path.endswith("/config.json"):
            return None
        told = _no_model(source, revision)
    elif status_of(found) == 401:
        told = f"{constants.ENDPOINT} does not know the token ({said(found)}). Log in with: hf auth login, or unset HF_TOKEN for what is public"
    elif status_of(found) is not None and not is_passing(found):
        told = f"{constants.ENDPOINT} does not give it ({said(found)}). See {constants.ENDPOINT}/{source}"
    else:
        why, mend = _why(found)
        return ModelError(_not_in_cache(source, revision, away or why, mend))
    return ModelError(f"cannot load {source}: {told}")


def _known(source: str, revision: str | None) -> str | None:
    """The commit of a revision by what the cache last heard."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    try:
        return HfApi().resolve_revision(source, revision=revision, local_files_only=True).resolved
    except RevisionResolutionError:
        return None


def _fetched(source: str, name: str, at: Pinned) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(asked(f"fetching {name} of {source}", lambda: hf_hub_download(source, name, **at.settings), Exception))


@contextlib.contextmanager
def _explained(source: str, revision: str | None, away: str = "", answer: float = LONGEST_ANSWER) -> Iterator[None]:
    """A context in which requests have an end, and what they fail with is told."""
    try:
        with patient(answer=answer):
            yield
    except HfxferError:
        raise
    except Exception as error:  # told apart in reason()
        raise reason(error, source, revision, away) or error from error


def _of_the_client(error: BaseException | None) -> Exception | None:
    """The first error of huggingface_hub or httpx among `error` and what it came from."""
    from huggingface_hub.errors import EntryNotFoundError, HTTPError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, (HTTPError, EntryNotFoundError, OfflineModeIsEnabled)):
            return error
        error = error.__cause__
    return None


def _is_unreachable(error: BaseException) -> bool:
    """True for a connection that could not be made, which asking again at once does not mend."""
    return type(error).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError")


def _why(error: BaseException | None) -> tuple[str, str]:
    """(why the Hub does not answer, what to do)."""
    from huggingface_hub import constants

    cause = error.__cause__ if error is not None and isinstance(error.__cause__, Exception) else error
    if constants.HF_HUB_OFFLINE or cause is None:
        return "HF_HUB_OFFLINE=1 is set", "Unset it, or fetch the model where there is a network: hf download {source}"
    if isinstance(cause, WorkError):
        return str(cause).partition(";")[0], "Try again later"
    if status_of(cause) is not None:
        return f"{constants.ENDPOINT} does not answer ({said(cause)})", "Try again later"
    return f"{constants.ENDPOINT} cannot be reached ({said(cause)})", "Look at the network, then run the same again"


def _not_in_cache(source: str, revision: str | None, why: str, mend: str) -> str:
    """Where only the cache can be looked at, what is in it of the model."""
    from huggingface_hub import constants

    cache = constants.HF_HUB_CACHE
    folder, do = Path(cache) / f"models--{source.replace('/', '--')}", mend.format(source=source)
    files = [path for path in sorted(folder.glob("refs/**/*")) if path.is_file()]
    refs = {path.relative_to(folder / "refs").as_posix(): path.read_text(encoding="utf-8") for path in files}
    if revision and (revision in refs.values() or (folder / "snapshots" / revision).is_dir()):
        return f"cannot load {source}: only a part of it is in the cache ({cache}), and {why}. {do}"
    if revision and refs:
        return f"cannot load {source}: in the cache ({cache}) is no revision {revision!r} of it but {_listed(list(refs))}, and {why}. {do}"
    return f"cannot load {source}: it is no local folder, and not in the cache ({cache}), and {why}. {do}"


def _gated(source: str, error: Any) -> str:
    from huggingface_hub import constants, get_token

    page = f"{constants.ENDPOINT}/{source}"
    if get_token() is None:
        return f"it is gated, and there is no token. Ask for access at {page}, log in with: hf auth login (or set HF_TOKEN), and run the same again"
    words = (error.server_message or "the token at hand has no access").rstrip(". ")
    return f"it is gated: {words}. Ask for access at {page}, and run the same again when it is given"


def _not_there(source: str) -> str:
    """The Hub says the same of a repository that is not there and of one that may not be seen."""
    from huggingface_hub import HfApi, constants, get_token

    api = HfApi()
    if _quietly(lambda: api.repo_exists(source, repo_type="dataset"), False):
        return f"it is a data set of the Hub, and no model. Train on it with --data {source}"
    if _quietly(lambda: api.repo_exists(source, repo_type="space"), False):
        return "it is a Space of the Hub, and no model. Give the model that it shows"
    why = "it is private and there is no token" if get_token() is None else "it is private and the token at hand may not read it"
    names = _quietly(lambda: [model.id for model in api.list_models(author=source.split("/")[0], limit=MOST_MODELS)], []) if "/" in source else []
    near = difflib.get_close_matches(source, names, n=3)
    named = f" ({' or '.join(near)}?)" if near else ""
    return (f"it is no local folder, and {constants.ENDPOINT} shows no model of that name: it is misspelt{named}, or {why}. "
            "Look at the name, or log in with a token that may read it: hf auth login")


def _revisions(source: str) -> str:
    from huggingface_hub import HfApi

    refs = _quietly(lambda: HfApi().list_repo_refs(source), None)
    names = [ref.name for ref in (*refs.branches, *refs.tags)] if refs else []
    return f"; it has {_listed(names)}. Choose one with --revision" if names else ". Choose another --revision"


def _no_model(source: str, revision: str | None) -> str:
    """Of a repository without config.json."""
    from huggingface_hub import HfApi

    names = _quietly(lambda: HfApi().list_repo_files(source, revision=revision), [])
    names = [name for name in names if name != ".gitattributes"]
    if "adapter_config.json" in names:
        return "it is an adapter alone, which works beside another model. Give a model that holds all weights"
    holds = f" It holds {_listed(names)}." if names else ""
    return f"it has no config.json, so it is no model that transformers or timm load.{holds} Give another model"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _quietly(ask: Callable[[], T], otherwise: T) -> T:
    """The answer to a question that only makes a message better; `otherwise` where it has none."""
    from huggingface_hub.errors import HTTPError

    try:
        with patient():
            return ask()
    except (HTTPError, HfxferError, ValueError, OSError):
        return otherwise
