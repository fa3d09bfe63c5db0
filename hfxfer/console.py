"""The only place that prints.

Facts go to stdout, one a line (`fact`); talk, hints, warnings and progress go to stderr, and so does whatever a library
prints (`facts_only`). With `--format json` stdout holds exactly one JSON object (`emit`) and `fact` is silent. In a run
of several processes only the main one prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

_format = "human"
_progress_shown = False
_stdout: TextIO | None = None


def set_format(name: str) -> None:
    """`human` (facts line by line) or `json` (one object)."""
    global _format
    if name not in ("human", "json"):
        raise ValueError(f"format is {name!r}; allowed: human, json")
    _format = name


@contextlib.contextmanager
def facts_only() -> Iterator[None]:
    """Keep stdout for facts: what anything else prints there goes to stderr."""
    global _stdout
    before, _stdout = _stdout, sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout = before


def is_main_process() -> bool:
    """True in the process that prints and writes (rank 0, or the only one)."""
    return int(os.environ.get("RANK", "0") or 0) == 0


def fact(text: str = "") -> None:
    """One result on stdout. Silent with --format json."""
    if _format == "human" and is_main_process():
        _print(text, _stdout or sys.stdout)


def emit(value: Any) -> None:
    """The command's result as one JSON object on stdout; only with --format json."""
    if _format == "json" and is_main_process():
        _print(json.dumps(value, ensure_ascii=False, allow_nan=False), _stdout or sys.stdout)


def talk(text: str) -> None:
    """Anything that is not a result, on stderr."""
    if is_main_process():
        _print(text, sys.stderr)


def hint(text: str) -> None:
    """Worth knowing; nothing to do."""
    talk(f"hint: {text}")


def warn(text: str) -> None:
    """Will surprise. The text names the setting that silences it."""
    talk(f"warning: {text}")


def error(text: str) -> None:
    """Printed by every process: which of several failed is part of the message."""
    rank = os.environ.get("RANK")
    _print(f"error{f' (process {rank})' if rank else ''}: {text}", sys.stderr)


class Progress:
    """Progress on stderr: a line rewritten in place on a terminal, else one line every 10 seconds.

    Use as a context manager and call `advance()`. `describe` adds the latest facts (a loss, say).
    """

    def __init__(self, total: int | None, what: str, unit: str = "rows", done: int = 0):
        self.total, self.what, self.unit = total, what, unit
        self.done, self._done_before, self.described = done, done, ""
        self._start = self._last = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *failure) -> None:
        if self._shown and failure[0] is None:
            talk(self._line(finished=True))

    def advance(self, steps: int = 1, describe: str | None = None) -> None:
        self.done += steps
        if describe is not None:
            self.described = describe
        now = time.monotonic()
        if now - self._last < (0.2 if self._terminal else 10) or not is_main_process():
            return
        self._last, self._shown = now, True
        if self._terminal:
            _clear_progress()
            sys.stderr.write(self._line()[: _terminal_width() - 1])
            sys.stderr.flush()
            _set_progress_shown(True)
        else:
            talk(self._line())

    def _line(self, finished: bool = False) -> str:
        spent = time.monotonic() - self._start
        count = f"{self.done}/{self.total}" if self.total else f"{self.done}"
        if finished:
            left = f"in {duration(spent)}"
        elif self.total and self.done > self._done_before:
            left = f"{duration(spent * (self.total - self.done) / (self.done - self._done_before))} left"
        else:
            left = ""
        return "  ".join(part for part in (f"{self.what}: {count} {self.unit}", self.described, left) if part)


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 10 min."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _set_progress_shown(shown: bool) -> None:
    global _progress_shown
    _progress_shown = shown


def _clear_progress() -> None:
    """Take the progress line off the terminal, so that what comes next stands on a line of its own."""
    if _progress_shown:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
        _set_progress_shown(False)


def _print(text: str, file: TextIO) -> None:
    """A terminal or file that cannot hold a sign (cp1252 has no ≥) gets its escape sequence."""
    _clear_progress()
    try:
        print(text, file=file, flush=True)
    except UnicodeEncodeError:
        print(text.encode(file.encoding, "backslashreplace").decode(file.encoding), file=file, flush=True)


def _terminal_width() -> int:
    try:
        return max(40, os.get_terminal_size(sys.stderr.fileno()).columns)
    except (OSError, ValueError):
        return 80
