"""fetching: which commit of a model on the Hub is read, and, where it cannot be had, why.

A load settles its commit once: config, weights and processor are then of one state of the repository, whoever pushes meanwhile, and what
the cache holds of that commit is not asked for again. Without a network it is the commit that the cache knows (huggingface_hub 2.4,
resolve_revision).
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from hfxfer.errors import HfxferError, ModelError
from hfxfer.network import asked, is_passing, patient, said, status_of

MAIN = "main"
LISTED = 8
MOST_MODELS = 1000
"""Of an owner, among which near names are looked for: one page of the Hub's list."""


def commit_of(source: str, revision: str | None) -> str | None:
    """The commit that a revision of a Hub id is at now; of anything on the disk, `revision`. Raises ModelError or WorkError."""
    if Path(source).exists():
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RevisionResolutionError

    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ModelError(f"model folder {source} does not exist. Give an existing folder or a Hub id such as timm/resnet50.a1_in1k")

    def ask() -> str:
        try:
            return HfApi().resolve_revision(source, revision=revision).resolved
        except RevisionResolutionError as error:
            # A fault that passes is waited out; no network at all is told at once.
            if error.__cause__ and is_passing(error.__cause__) and not _is_unreachable(error.__cause__):
                raise error.__cause__ from error
            raise

    try:
        with patient():
            return asked(f"looking for {source}", ask, Exception)
    except HFValidationError as error:
        raise ModelError(f"{source!r} is neither a folder nor a Hub id: {error}") from error
    except HfxferError:
        raise
    except Exception as error:  # told apart in reason()
        raise reason(error, source, revision) or error from error


def config_file(source: str, commit: str | None) -> Path:
    """config.json of a Hub id, fetched where the cache has it not. Raises ModelError or WorkError."""
    from huggingface_hub import hf_hub_download

    try:
        with patient():
            return Path(asked(f"fetching config.json of {source}", lambda: hf_hub_download(source, "config.json", revision=commit), Exception))
    except HfxferError:
        raise
    except Exception as error:  # told apart in reason()
        raise reason(error, source, commit) or error from error


def reason(error: BaseException, source: str, revision: str | None) -> ModelError | None:
    """What an error says of a Hub id that could not be read; None where the Hub and the network have nothing to do with it.

    error: the client's own, or what a library made of it.
    """
    from huggingface_hub import constants, errors, get_token

    found = _of_the_client(error)
    if found is None:
        return None
    at, begin = constants.ENDPOINT, f"cannot load {source}: "
    if isinstance(found, errors.GatedRepoError):
        page = f"{at}/{source}"
        if get_token() is None:
            return ModelError(f"{begin}it is gated, and there is no token. Ask for access at {page}, log in with: hf auth login (or set HF_TOKEN), "
                              "and run the same again")
        return ModelError(f"{begin}it is gated, and the token at hand has no access ({said(found)}). Ask for it at {page}, and run the same again")
    if isinstance(found, errors.RepositoryNotFoundError):
        return ModelError(begin + _not_there(source))
    if isinstance(found, errors.RevisionNotFoundError):
        return ModelError(f"{begin}it has no revision {revision!r}{_revisions(source)}")
    if isinstance(found, errors.RemoteEntryNotFoundError):
        return ModelError(begin + _no_model(source, revision))
    if status_of(found) == 401:
        return ModelError(f"{begin}{at} does not know the token ({said(found)}). Log in with: hf auth login, or unset HF_TOKEN for what is public")
    if status_of(found) is not None and not is_passing(found):
        return ModelError(f"{begin}{at} does not give it ({said(found)}). See {at}/{source}")
    return ModelError(begin + _not_reached(found, source, revision))


def _of_the_client(error: BaseException | None) -> Exception | None:
    """The first error of huggingface_hub or httpx among `error` and what it came from."""
    from huggingface_hub.errors import EntryNotFoundError, HTTPError, OfflineModeIsEnabled, RevisionResolutionError

    while error is not None:
        if isinstance(error, (HTTPError, EntryNotFoundError, RevisionResolutionError, OfflineModeIsEnabled)):
            return error
        error = error.__cause__
    return None


def _is_unreachable(error: BaseException) -> bool:
    """True for a connection that could not be made, which asking again at once does not mend."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled) or type(error).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError")


def _not_there(source: str) -> str:
    """The Hub says the same of a repository that is not there and of one that may not be seen."""
    from huggingface_hub import HfApi, constants, get_token

    api = HfApi()
    for kind, name in (("dataset", "data set"), ("space", "Space")):
        if _quietly(lambda kind=kind: api.repo_exists(source, repo_type=kind), False):
            mend = f"Train on it with --data {source}" if kind == "dataset" else "Give the model that it shows"
            return f"it is a {name} of the Hub, and no model. {mend}"
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
    holds = f" It holds {_listed(names)}." if names else " It is empty." if revision else ""
    return f"it has no config.json, so it is no model that transformers or timm load.{holds} Give another model"


def _not_reached(error: Exception, source: str, revision: str | None) -> str:
    """Without the network, what of the model is in the cache decides what to do."""
    from huggingface_hub import constants

    cause: Any = error.__cause__ if isinstance(error.__cause__, Exception) else error
    if constants.HF_HUB_OFFLINE:
        why, mend = "HF_HUB_OFFLINE=1 is set", f"Unset it, or fetch the model where there is a network: hf download {source}"
    elif status_of(cause) is not None:
        why, mend = f"{constants.ENDPOINT} does not give it now ({said(cause)})", "Try again later"
    else:
        why, mend = f"{constants.ENDPOINT} cannot be reached ({said(cause)})", "Look at the network, then run the same again"
    cache = constants.HF_HUB_CACHE
    folder = Path(cache) / f"models--{source.replace('/', '--')}"
    names = sorted(path.relative_to(folder / "refs").as_posix() for path in folder.glob("refs/**/*") if path.is_file())
    if revision and (folder / "snapshots" / revision).is_dir():
        return f"the cache ({cache}) holds only a part of it, and {why}. {mend}"
    if revision and names:
        return f"the cache ({cache}) holds {_listed(names)} of it and no revision {revision!r}, and {why}. {mend}"
    return f"it is no local folder, and not in the cache ({cache}), and {why}. {mend}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _quietly(ask: Any, otherwise: Any) -> Any:
    """The answer to a question that only makes a message better; `otherwise` where it has none."""
    from huggingface_hub.errors import HTTPError

    try:
        with patient():
            return ask()
    except (HTTPError, HfxferError, ValueError, OSError):
        return otherwise
