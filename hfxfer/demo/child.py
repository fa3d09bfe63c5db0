"""A process of its own that computes: Python's lock is then the app's alone, and nobody who is answered waits for a model's.

In one process a network of 150 layers takes Python's lock 300 times for one picture, and gives it back as often to a server that
also wants it: 20 answers a second where the server alone gives 31. The process is forked when the model is loaded, so its
weights are in memory once; it ends with whoever holds its Child.
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
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from hfxfer import machine
from hfxfer.parallel import is_on_cpu, num_copies

Compute = Callable[[list[Any]], list[Any]]

TRIAL_SECONDS, MOST_SECONDS, END_SECONDS = 60.0, 600.0, 5.0
"""For the first answer, for any other, and to end: a process that was forked beside busy threads may wait for a lock that nobody holds."""

MOST_STARTS = 4


class Gone(Exception):
    """The process gave no answer and has ended."""


class Child:
    """A forked process that calls `compute` with what it is asked. trial: what it is asked first.

    It is begun again, a few times, when it has died of what it was asked. Raises Gone or OSError where it cannot be begun.
    """

    def __init__(self, compute: Compute, trial: list[Any], threads: int = 1):
        self._compute, self._trial, self._threads, self._starts = compute, trial, threads, 0
        self._begin()

    @property
    def can_answer(self) -> bool:
        return self._end.alive or self._starts < MOST_STARTS

    def ask(self, rows: list[Any]) -> list[Any]:
        """What compute(rows) gives or raises in the other process, from one thread at a time. Raises Gone, or OSError where none can be begun."""
        if not self._end.alive:
            self._begin()
        return self._asked(rows, MOST_SECONDS)

    def _begin(self) -> None:
        self._starts += 1
        self._ours, theirs = multiprocessing.Pipe()
        # By a thread that has computed nothing: OpenMP's threads of one that has would be missing in the new process.
        with theirs, ThreadPoolExecutor(1) as fresh:
            process = fresh.submit(_forked, self._compute, theirs, self._threads).result()
        self._end = weakref.finalize(self, _end, self._ours, process)
        self._asked(self._trial, TRIAL_SECONDS)

    def _asked(self, rows: list[Any], seconds: float) -> list[Any]:
        try:
            self._ours.send_bytes(_packed(rows))
            if not self._ours.poll(seconds):
                raise TimeoutError
            answer, error = pickle.loads(self._ours.recv_bytes())
        except BaseException as failure:
            self._end()  # What it still says would be taken for the next answer.
            if isinstance(failure, (EOFError, OSError)):
                raise Gone("the process that computes has ended") from failure
            raise
        if error is not None:
            raise error
        return answer


def wanted(model: Any) -> tuple[int, int]:
    """Processes that are worth it, and the threads of each: the cores but one, which is the app's. None where nothing can be forked with what it holds."""
    if sys.platform != "linux" or not is_on_cpu(model):
        return 0, 0
    cores = max(1, machine.num_cores() - 1)
    return num_copies(cores), cores // num_copies(cores)


def _end(connection: Connection, process: int) -> None:
    connection.close()
    deadline = time.monotonic() + END_SECONDS
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
        while not os.waitpid(process, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return
            time.sleep(0.01)


def _forked(compute: Compute, connection: Connection, threads: int) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Of forking beside threads (Python 3.12): see TRIAL_SECONDS.
        process = os.fork()
    if not process:
        try:
            _serve(compute, connection, threads)
        finally:
            os._exit(0)
    return process


def _serve(compute: Compute, connection: Connection, threads: int) -> None:
    """Until the other side is closed, by itself or because its process has ended."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Of a terminal, which tells all processes at once: the app ends this one.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # What the app held is neither walked through nor taken down here.
    for name in os.listdir("/proc/self/fd"):
        # Sockets of people whom the app has answered would stay open here.
        if int(name) > 2 and int(name) != connection.fileno():
            with contextlib.suppress(OSError):
                os.close(int(name))
    torch.set_num_threads(threads)
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
