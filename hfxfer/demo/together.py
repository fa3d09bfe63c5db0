"""Requests that wait at the same time are computed at once: many people, one forward pass, one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

Waiting = tuple[list[Any], "Future[list[Any]]"]


class Together:
    """compute: rows → a record each, called in one thread of its own with the rows of everybody who waits, `most` or a few more at once.

    One thread, because memory that PyTorch and the C library keep for each thread would grow with every other that has called them.
    """

    def __init__(self, compute: Callable[[list[Any]], list[Any]], most: int):
        self._compute, self._most = compute, most
        self._waiting: SimpleQueue[Waiting] = SimpleQueue()
        threading.Thread(target=self._work, name="computing", daemon=True).start()

    def ask(self, rows: list[Any]) -> list[Any]:
        """A record a row, waited for. Raises what `compute` raises for these rows by themselves."""
        answered: Future[list[Any]] = Future()
        self._waiting.put((rows, answered))
        return answered.result()

    def _work(self) -> None:
        while True:
            asked = [self._waiting.get()]
            try:
                while sum(len(rows) for rows, _ in asked) < self._most:
                    asked.append(self._waiting.get_nowait())
            except Empty:
                pass
            self._answer(asked)

    def _answer(self, asked: list[Waiting]) -> None:
        try:
            records = iter(self._compute([row for rows, _ in asked for row in rows]))
        except Exception as error:
            if len(asked) > 1:  # Nobody's input fails with another's.
                for one in asked:
                    self._answer([one])
            else:
                asked[0][1].set_exception(error)
            return
        for rows, answered in asked:
            answered.set_result([next(records) for _ in rows])
