"""network: how long hfxfer waits for the Hub, how often it asks again, and what becomes of the client's errors.

Facts about the client that this rests on (huggingface_hub 2.4): commits, whoami, create_repo and validate-yaml are not repeated and have
no time-out; a Retry-After is slept in full, an hour too; faults of the network surface as httpx's own exceptions.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hfxfer import console
from hfxfer.errors import HfxferError, RefusedError, WorkError

T = TypeVar("T")

ATTEMPTS = 6
FIRST_WAIT = 1.0
"""Seconds after the first failure; twice as long after each further one."""

LONGEST_WAIT = 60.0
"""Seconds between two attempts at most. Where the Hub asks for more, hfxfer says so and ends."""

LONGEST_ANSWER = 300.0
"""Seconds without a byte after which a connection counts as dropped; the client itself would wait without end."""

LONGEST_FAILING = 600.0
"""Seconds of nothing but failures after which hfxfer asks no more: the client repeats some requests 5 times at each of the attempts."""

TRANSIENT = (408, 425, 429, 500, 502, 503, 504)

LOGIN = "Log in with: hf auth login (or set HF_TOKEN)"


class _Patience:
    """How many contexts of patient() are open, nested or in several threads, and who made the client's connections before the first.

    attempts: of the first. failing_since: time.monotonic() of the first of the failures that no good answer came between; None after a good one.
    """

    lock, contexts, before, failing_since, attempts = threading.Lock(), 0, None, None, ATTEMPTS

    @classmethod
    def is_over(cls) -> bool:
        """After a failure: whether they have lasted too long."""
        now, since = time.monotonic(), cls.failing_since  # which another thread may change meanwhile
        cls.failing_since = since = now if since is None else since
        return now - since > LONGEST_FAILING


@contextmanager
def patient(attempts: int = ATTEMPTS, answer: float = LONGEST_ANSWER) -> Iterator[None]:
    """The client's connections with an end to their waiting: for an answer, and for what a Retry-After asks for.

    All that are made within it: after one that could not be made, huggingface_hub 2.4 makes a new one (`http_backoff`).
    attempts: of `asked` and `wait_after`. answer: seconds, as LONGEST_ANSWER. Those of the outermost context hold, in every thread.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http  # 2.4 has no public name for the factory in use, which may be the user's own

    with _Patience.lock:
        _Patience.contexts += 1
        if _Patience.contexts == 1:
            _Patience.before, _Patience.failing_since, _Patience.attempts = _http._GLOBAL_CLIENT_FACTORY, None, attempts
            set_client_factory(functools.partial(_bounded, _Patience.before, answer))
    try:
        yield
    finally:
        with _Patience.lock:
            _Patience.contexts -= 1
            if _Patience.contexts == 0:
                _Patience.attempts = ATTEMPTS
                set_client_factory(_Patience.before)


def _bounded(make: Callable[[], Any], longest: float) -> Any:
    """A client as `make` gives it, with an end to its waiting."""

    def look(answer: Any) -> None:
        status = answer.status_code
        if status not in TRANSIENT:
            _Patience.failing_since = None
        elif (wanted := _asked_for(answer)) > LONGEST_WAIT:
            raise WorkError(_too_long(wanted, status))
        elif _Patience.is_over():
            raise WorkError(f"the Hub has answered with status {status} for more than {console.duration(LONGEST_FAILING)}; hfxfer asks no more. "
                            "Nothing is lost: run the same command later")

    def limit(request: Any) -> None:
        # model_info and the like say None, which means without end, and not the client's own.
        given = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {part: longest if given.get(part) is None else given[part] for part in ("connect", "read", "write", "pool")}

    client = make()
    hooks = {"request": limit, "response": look}
    client.event_hooks = {**client.event_hooks, **{when: [*client.event_hooks.get(when, ()), hook] for when, hook in hooks.items()}}
    client.timeout = longest
    return client


def asked(what: str, ask: Callable[[], T], *expected: type[Exception]) -> T:
    """The answer to a request that may be repeated. `expected` errors go on to the caller; others become RefusedError or WorkError."""
    _Patience.failing_since = None
    for attempt in itertools.count(1):
        try:
            return ask()
        except Exception as error:  # told apart just below
            failure = error
        if not is_passing(failure):
            if isinstance(failure, (*expected, HfxferError)):
                raise failure
            raise refusal(failure, what) from failure
        wait_after(failure, attempt, what)
    raise AssertionError("unreachable: wait_after raises after the last attempt")


def wait_after(failure: Exception, attempt: int, what: str) -> None:
    """Sleep before the next attempt and say so. Raises WorkError where there is none, or the Hub asks for more than is waited."""
    wanted = _asked_for(getattr(failure, "response", None))
    if wanted > LONGEST_WAIT:
        raise WorkError(_too_long(wanted, status_of(failure))) from failure
    if attempt >= _Patience.attempts:
        raise WorkError(f"{what} failed{f' {attempt} times, at last with' if attempt > 1 else ''}: {said(failure)}") from failure
    if _Patience.is_over():
        raise WorkError(f"{what} failed for more than {console.duration(LONGEST_FAILING)}, at last with: {said(failure)}") from failure
    wait = min(wanted or FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT)
    console.talk(f"{what} failed ({said(failure)}); trying again in {console.duration(wait)}, {attempt} of {_Patience.attempts - 1}")
    time.sleep(wait)


def _too_long(wanted: float, status: int | None) -> str:
    return (f"the Hub asks to wait {console.duration(wanted)} (status {status}); hfxfer waits {console.duration(LONGEST_WAIT)} at most. "
            "Nothing is lost: run the same command then")


def _asked_for(answer: Any) -> float:
    """Seconds that an answer asks to wait: Retry-After, or the rest of a rate limit's window; 0 where it says nothing."""
    if answer is None:
        return 0.0
    after = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*", answer.headers.get("Retry-After", ""))
    window = re.search(r"\br=0\s*;\s*t=(\d+)", answer.headers.get("ratelimit", "")) if answer.status_code == 429 else None
    return float(after[1]) if after else float(window[1]) if window else 0.0


def status_of(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def is_passing(error: Exception) -> bool:
    """True for what may be gone at the next attempt: httpx's faults, gateways' pages where JSON should be, some statuses.

    Not for the ConnectionError of hf_xet, which has by then tried again itself, for up to 6 minutes (hf_xet 1.8).
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    if isinstance(error, HfHubHTTPError):
        return status_of(error) in TRANSIENT
    return isinstance(error, (HTTPError, json.JSONDecodeError))


def said(error: Exception) -> str:
    """What happened, in a line: the Hub's own words and its status, without addresses."""
    status = status_of(error)
    if status is not None:
        words = getattr(error, "server_message", None) or getattr(error.response, "reason_phrase", "")
        return f"status {status}: {words}" if words else f"status {status}"
    return f"{type(error).__name__}: {error}".splitlines()[0] if str(error) else type(error).__name__


def refusal(error: Exception, what: str) -> Exception:
    """What becomes of an error that will come again: RefusedError where the token may not, else WorkError."""
    if isinstance(error, HfxferError):
        return error
    if status_of(error) in (401, 403):
        return RefusedError(f"{what} is not allowed ({said(error)}). {LOGIN}, with a token that may write")
    if "xet-write-token" in str(error) and "404" in str(error):
        return WorkError(f"{what} failed: the server has no Xet storage, which the client uses where hf_xet is installed. Set HF_HUB_DISABLE_XET=1")
    return WorkError(f"{what} failed: {said(error)}")
