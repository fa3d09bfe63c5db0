"""Requests that wait at the same time are computed at once: many people, one forward pass."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

Compute = Callable[[list[Any]], list[Any]]
Waiting = tuple[list[Any], "Future[list[Any]]"]


class Together:
    """computes: rows → a record each; each is called in one thread of its own with its share of who waits, `most` rows or a few more at once.

    In a thread of its own, because memory that PyTorch and the C library keep for each thread would grow with every other that has
    called them. The threads end when nobody holds this object any more.
    """

    def __init__(self, computes: Sequence[Compute], most: int):
        self._computes, self._most = tuple(computes), most
        self._waiting: SimpleQueue[Waiting | None] = SimpleQueue()
        for number in range(len(self._computes)):
            weakref.finalize(self, self._waiting.put, None)
            threading.Thread(target=_work, args=(self._waiting, weakref.ref(self), number), name="computing", daemon=True).start()

    def ask(self, rows: list[Any]) -> list[Any]:
        """A record a row, waited for. Raises what `compute` raises for these rows by themselves."""
        answered: Future[list[Any]] = Future()
        self._waiting.put((rows, answered))
        return answered.result()

    def _with_others(self, first: Waiting) -> list[Waiting]:
        asked = [first]
        share = -(-(self._waiting.qsize() + 1) // len(self._computes))
        try:
            while len(asked) < share and sum(len(rows) for rows, _ in asked) < self._most:
                following = self._waiting.get_nowait()
                asked += [following] if following else []
        except Empty:
            pass
        return asked

    def _answer(self, asked: list[Waiting], number: int) -> None:
        try:
            rows = [row for rows, _ in asked for row in rows]
            records = self._computes[number](rows)
            if len(records) != len(rows):
                raise RuntimeError(f"{len(records)} records came of {len(rows)} rows")
        except Exception as error:
            if len(asked) > 1:  # Nobody's input fails with another's.
                for one in asked:
                    self._answer([one], number)
            else:
                asked[0][1].set_exception(error)
            return
        found = iter(records)
        for rows, answered in asked:
            answered.set_result([next(found) for _ in rows])


def _work(waiting: SimpleQueue[Waiting | None], of: weakref.ref[Together], number: int) -> None:
    """Holds nothing while it waits: neither the model, nor what was asked last."""
    while (first := waiting.get()) is not None:
        together = of()
        if together is not None:
            together._answer(together._with_others(first), number)
        del first, together
