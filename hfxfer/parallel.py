"""Batches through a model without a core or an accelerator that waits.

On a CPU several batches are computed at once, each by a core of its own from decoding to the answer, with a copy of the
model's modules that shares its weights: nobody waits for the slowest at the end of every operation, and a small batch stays
in the core's cache. Beside an accelerator the next batches' items are made in threads while it works.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from hfxfer import machine
from hfxfer.tasks._image import input_size, is_timm

USUAL_SIDE = 224
PIXELS_AT_ONCE, TOKENS_AT_ONCE = 4 * USUAL_SIDE**2, 2048
"""The most that a CPU is given at once: activations of more leave its cache. Of mobilenetv2_100 two cores took 9.8 ms a picture by 4, 15.5 by 16."""

MOST_PICTURES = 64

MOST_COPIES = 8
"""Of a model that compute at once; where there are more cores, each copy has several. More would wait for Python's lock."""

ALONE = threading.Lock()
"""Held while several copies compute: torch has one number of threads for all that begin meanwhile."""

MOST_THREADS = 8
BATCHES_AHEAD = 2

Job, Answer = TypeVar("Job"), TypeVar("Answer")
Parts = Callable[[Job], Sequence[Callable[[], list[dict]]]]
Compute = Callable[[Any, Job, list[dict]], Answer]


def computed(model: Any, jobs: Sequence[Job], parts: Parts, compute: Compute, *, most: int = MOST_COPIES) -> Generator[Answer, None, None]:
    """compute(model, job, items) of every job, in their order. Close it where it is not run to its end (`contextlib.closing`).

    parts: what makes a job's items, in pieces that threads may make at once. compute may run in any thread, and gets the
    model or a copy of it; contexts that hold for one thread (autocast, inference mode) it enters itself. most: copies at once.
    """
    if is_on_cpu(model) and ALONE.acquire(blocking=False):
        try:
            copies = _copies(model, most)
            if len(copies) > 1:
                yield from _side_by_side(copies, jobs, parts, compute)
                return
        finally:
            ALONE.release()
    for job, items in _with_items(jobs, parts, 0 if is_on_cpu(model) else BATCHES_AHEAD):
        yield compute(model, job, items)


def is_on_cpu(model: Any) -> bool:
    """True where the model's first weights lie in the machine's own memory."""
    return next(model.parameters()).device.type == "cpu"


def pictures_at_once(processor: Any) -> int:
    """That a CPU is given: as many as have PIXELS_AT_ONCE when they are prepared, and more where each copy has several cores."""
    import torch

    known = is_timm(processor) or getattr(processor, "size", None) or getattr(processor, "crop_size", None)
    _, height, width = input_size(processor) if known else (3, None, None)
    threads = torch.get_num_threads()
    pixels = PIXELS_AT_ONCE * (threads // num_copies(threads))
    return max(1, min(MOST_PICTURES, pixels // ((height or USUAL_SIDE) * (width or USUAL_SIDE))))


def threads_to_decode() -> int:
    """That make items at once where one batch is computed after another."""
    return min(MOST_THREADS, machine.num_cores())


def _with_items(jobs: Sequence[Job], parts: Parts, ahead: int) -> Iterator[tuple[Job, list[dict]]]:
    """Each job with its items, `ahead` jobs early: a CPU's cores are the model's while it works."""
    with ThreadPoolExecutor(threads_to_decode()) as pool:
        coming: deque[list[Future]] = deque()
        for number, job in enumerate(jobs):
            while len(coming) <= ahead and number + len(coming) < len(jobs):
                coming.append([pool.submit(part) for part in parts(jobs[number + len(coming)])])
            yield job, [item for part in coming.popleft() for item in part.result()]


def num_copies(threads: int, most: int = MOST_COPIES) -> int:
    """With which the most threads are in use, each copy having as many as every other; of several such numbers the greatest."""
    return max(range(min(2, most, threads), min(most, threads) + 1), key=lambda copies: (copies * (threads // copies), copies))


def _copies(model: Any, most: int) -> list[Any]:
    """The model and as many copies of its modules as cores can use; alone where modules were changed by others, who may count on being the only ones."""
    import torch

    wanted = num_copies(torch.get_num_threads(), most)
    if wanted < 2 or not all(_is_plain(module) for module in model.modules()):
        return [model]
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        return [model, *(copy.deepcopy(model, dict(shared)) for _ in range(wanted - 1))]
    except Exception:  # Whatever a model from somewhere keeps that has no copy: it is used as it is.
        return [model]


def _is_plain(module: Any) -> bool:
    """True where nothing was put into it but what a copy of the model has its own copy of (`copied_with_model`)."""
    put = [*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *filter(None, [module.__dict__.get("forward")])]
    return getattr(module, "_compiled_call_impl", None) is None and all(getattr(each, "copied_with_model", False) for each in put)


def _side_by_side(copies: list[Any], jobs: Sequence[Job], parts: Parts, compute: Compute) -> Generator[Answer, None, None]:
    import torch

    threads = torch.get_num_threads()
    idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for each in copies:
        idle.put(each)

    def work(job: Job) -> Answer:
        items = [item for part in parts(job) for item in part()]
        mine = idle.get()
        try:
            return compute(mine, job, items)
        finally:
            idle.put(mine)

    machine.share_memory()
    torch.set_num_threads(max(1, threads // len(copies)))  # New threads take it over. Set by each of them, it fails in a forked process.
    try:
        with ThreadPoolExecutor(len(copies)) as pool:
            coming = deque(pool.submit(work, job) for job in jobs[:2 * len(copies)])
            try:
                for number in range(len(jobs)):
                    following = number + 2 * len(copies)
                    if following < len(jobs):
                        coming.append(pool.submit(work, jobs[following]))
                    yield coming.popleft().result()
            finally:
                for waiting in coming:
                    waiting.cancel()
    finally:
        torch.set_num_threads(threads)
