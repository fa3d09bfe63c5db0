"""Processes of their own that compute: Python's lock is then the app's alone, and nobody who is answered waits for a model's.

In one process a network of 150 layers takes Python's lock 300 times for one picture, and gives it back as often to a server that
also wants it: 20 answers a second where the server alone gives 31. The processes are forked when the model is loaded, so its
weights are in memory once; they end with whoever holds their Child.
"""

from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing
import os
import pickle
import signal
import sys
import warnings
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from hfxfer import machine
from hfxfer.parallel import MOST_COPIES, is_on_cpu

Compute = Callable[[list[Any]], list[Any]]


class Gone(Exception):
    """The process has ended, and not because it was told to."""


class Child:
    """A forked process that calls `compute` with what it is asked."""

    def __init__(self, compute: Compute):
        context = multiprocessing.get_context("fork")
        self._ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(compute, theirs), name="computing", daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Of forking beside threads (Python 3.12): it uses nothing of theirs.
            process.start()
        theirs.close()
        self._end = weakref.finalize(self, _end, self._ours, process)

    @property
    def is_there(self) -> bool:
        return self._end.alive

    def ask(self, rows: list[Any]) -> list[Any]:
        """What compute(rows) gives or raises in the other process, from one thread at a time. Raises Gone."""
        try:
            self._ours.send_bytes(_packed(rows))
            answer, error = pickle.loads(self._ours.recv_bytes())
        except (EOFError, OSError) as gone:
            self._end()
            raise Gone("the process that computes has ended") from gone
        if error is not None:
            raise error
        return answer


def wanted(model: Any) -> int:
    """Processes that are worth it: one for each core but the app's own; none where a process cannot be forked with what it holds."""
    return max(1, min(MOST_COPIES, machine.num_cores() - 1)) if sys.platform == "linux" and is_on_cpu(model) else 0


def _end(connection: Connection, process: Any) -> None:
    connection.close()
    process.join(5)


def _serve(compute: Compute, connection: Connection) -> None:
    """Until the other side is closed, by itself or because its process has ended."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Of a terminal, which tells all processes at once: the app ends this one.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # What the app held is neither walked through nor taken down here.
    # Sockets of people whom the app has answered would stay open here.
    os.closerange(3, connection.fileno())
    os.closerange(connection.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while True:
            rows = pickle.loads(connection.recv_bytes())
            try:
                answer = _packed((compute(rows), None))
            except Exception as error:
                answer = _packed_error(error)
            del rows
            connection.send_bytes(answer)


def _packed_error(error: Exception) -> bytes:
    try:
        found = _packed((None, error))
        pickle.loads(found)
    except Exception:  # Whatever a library's own exception holds or wants to be made of.
        found = _packed((None, RuntimeError(f"{type(error).__name__}: {error}")))
    return found


class _Pickler(pickle.Pickler):
    """Tensors by their values: pickled by torch they would take files or shared memory that somebody must give back."""

    def reducer_override(self, value: Any) -> Any:
        import torch

        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, torch.Tensor) else NotImplemented


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()
