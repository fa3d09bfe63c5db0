"""Every error that hfxfer raises on purpose, and the one table that turns it into an exit code.

An error says what was got, what is allowed and what to do. `RefusedError` and its children are raised
before any work is done (exit code 2); `WorkError` and its children while work is under way (exit code 1).
"""

from __future__ import annotations


class HfxferError(Exception):
    """Base of all errors that hfxfer raises on purpose."""


class RefusedError(HfxferError):
    """Refused before any work: an input, a setting or a token is wrong. Nothing was changed."""


class RecipeError(RefusedError):
    """A setting is unknown, out of range or contradicts another one."""


class DataError(RefusedError):
    """The user's data cannot be read or does not fit the task."""


class ModelError(RefusedError):
    """The checkpoint does not exist, is broken or does not fit the task."""


class RunError(RefusedError):
    """The Run folder is missing, incomplete, of a newer version or in the way."""


class DependencyError(RefusedError, ImportError):
    """A package is missing, or two installed packages do not belong together."""


class WorkError(HfxferError):
    """Something failed while work was under way. What was finished is kept.

    change: settings with which starting again is worth a try; empty where the same command can go on.
    """

    def __init__(self, message: str, change: dict[str, float] | None = None):
        super().__init__(message)
        self.change = change or {}


class DivergedError(WorkError):
    """The training loss became NaN or infinite."""


EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130

EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (RefusedError, EXIT_REFUSED),
    (KeyboardInterrupt, EXIT_INTERRUPTED),
    (BaseException, EXIT_FAILED),
)


def exit_code(error: BaseException) -> int:
    """The exit code of the process that ends with `error`."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
