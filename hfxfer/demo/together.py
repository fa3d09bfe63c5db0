"""Requests that wait at the same time are computed at once: many people, one forward pass, one thread."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

Waiting = tuple[list[Any], "Future[list[Any]]"]


class Together:
    """compute: rows → a record each, called in one thread of its own with the rows of everybody who waits, `most` or a few more at once.

    One thread, because memory that PyTorch and the C library keep for each thread would grow with every other that has called them. It
    ends when nobody holds this object any more.
    """

    def __init__(self, compute: Callable[[list[Any]], list[Any]], most: int):
        self._compute, self._most = compute, most
        self._waiting: SimpleQueue[Waiting | None] = SimpleQueue()
        weakref.finalize(self, self._waiting.put, None)
        threading.Thread(target=_work, args=(self._waiting, weakref.ref(self)), name="computing", daemon=True).start()

    def ask(self, rows: list[Any]) -> list[Any]:
        """A record a row, waited for. Raises what `compute` raises for these rows by themselves."""
        answered: Future[list[Any]] = Future()
        self._waiting.put((rows, answered))
        return answered.result()

    def _with_others(self, first: Waiting) -> list[Waiting]:
        asked = [first]
        try:
            while sum(len(rows) for rows, _ in asked) < self._most:
                following = self._waiting.get_nowait()
                asked += [following] if following else []
        except Empty:
            pass
        return asked

    def _answer(self, asked: list[Waiting]) -> None:
        try:
            rows = [row for rows, _ in asked for row in rows]
            records = self._compute(rows)
            if len(records) != len(rows):
                raise RuntimeError(f"{len(records)} records came of {len(rows)} rows")
        except Exception as error:
            if len(asked) > 1:  # Nobody's input fails with another's.
                for one in asked:
                    self._answer([one])
            else:
                asked[0][1].set_exception(error)
            return
        found = iter(records)
        for rows, answered in asked:
            answered.set_result([next(found) for _ in rows])


def _work(waiting: SimpleQueue[Waiting | None], of: weakref.ref[Together]) -> None:
    """Holds nothing while it waits: neither the model, nor what was asked last."""
    while (first := waiting.get()) is not None:
        together = of()
        if together is not None:
            together._answer(together._with_others(first))
        del first, together
