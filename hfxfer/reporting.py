"""reporting: how a command says that it failed: the error, the exit code, and last the command that goes on."""

from __future__ import annotations

import os
from typing import Any

from hfxfer import console
from hfxfer.errors import HfxferError, exit_code


def report(error: BaseException, command: str = "", result: dict[str, Any] | None = None) -> int:
    """Say what went wrong, and last the `command` that goes on; return the exit code. result: what --format json says of what was done before."""
    if os.environ.get("HFXFER_DEBUG") == "1":
        import traceback

        console.talk("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    text = _words(error)
    if isinstance(error, KeyboardInterrupt):
        console.talk(text)
    else:
        console.error(text)
    console.emit({**(result or {}), "error": text, "exit_code": exit_code(error)})
    if command:
        console.talk(command)
    return exit_code(error)


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    if isinstance(error, HfxferError) or (isinstance(error, OSError) and error.strerror):
        return str(error)
    return f"{type(error).__name__}: {error}\nThis is a fault in hfxfer or in a library below it. HFXFER_DEBUG=1 shows where it happened"
