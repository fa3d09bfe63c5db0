"""Probe: times steps of the real model on real rows, and leaves weights, gradients, buffers and generators to the bit as they were."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from hfxfer import data, machine
from hfxfer.models import Loaded
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import Problem, Task

SAMPLE = 256
"""Rows that typical and longest batches are taken from."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Inside, steps may be taken: afterwards gradients, buffers, modes and generators are what they were, and weights lie contiguous."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_device = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for parameter, before in gradients:
            parameter.grad = before
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        if on_device is not None:
            torch.cuda.set_rng_state_all(on_device)


class Probe:
    """Steps of one model: forward and backward, or forward alone where the body is frozen. Use it inside `untouched(model)`.

    encode_seconds: what encoding took, a row.
    """

    def __init__(self, task: Task, recipe: Recipe, problem: Problem, loaded: Loaded, device: torch.device):
        self.task, self.recipe, self.problem, self.device = task, recipe, problem, device
        self.model, self.processor = loaded.model, loaded.processor
        self.trains = recipe.method != "head"
        self.encode_seconds = 0.0
        self._items: list[dict] = []

    def read(self, split: data.Split) -> None:
        """Encode rows from all over the split: pictures on access, so few of them; texts enough to know their lengths."""
        wanted = 32 if self.task.encode_on_access else SAMPLE
        positions = sorted({int(at) for at in np.linspace(0, split.num_rows - 1, min(wanted, split.num_rows))})
        start = time.perf_counter()
        self._items = self.task.encode(split.take(positions), self.processor, self.problem, self.recipe, training=True)
        self.encode_seconds = (time.perf_counter() - start) / len(positions)

    def typical(self, size: int) -> dict[str, Any]:
        """A batch of items from all over the split."""
        return self._batch([self._items[index % len(self._items)] for index in range(size)])

    def longest(self, size: int) -> dict[str, Any]:
        """The batch that needs the most memory of those that were read."""
        ordered = sorted(self._items, key=lambda item: -(self.task.item_length(item) or 0))
        return self._batch([ordered[index % len(ordered)] for index in range(size)])

    def length(self) -> int | None:
        """Mean length of items, as a power of 2; None where all are alike."""
        lengths = [self.task.item_length(item) for item in self._items]
        return None if None in lengths else 2 ** round(np.log2(max(1.0, float(np.mean(lengths)))))

    def _batch(self, items: list[dict]) -> dict[str, Any]:
        batch = self.task.collate(items, self.processor)
        return {name: value.to(self.device) if hasattr(value, "to") else value for name, value in batch.items() if not name.startswith("_")}

    def step(self, batch: dict[str, Any], precision: str = "fp32") -> float:
        """Seconds of one step; gradients are dropped at its end, as an optimizer's zero_grad would."""
        self.model.train(self.trains)
        start = self._now()
        # Not inference_mode: what a module keeps of it could not be trained with later.
        with nullcontext() if self.trains else torch.no_grad():
            loss = self._loss(batch, precision)
        if self.trains:
            loss.backward()
        self.model.zero_grad(set_to_none=True)
        return self._now() - start

    def loss(self, batch: dict[str, Any], precision: str) -> float:
        """The loss in evaluation mode, without dropout."""
        self.model.eval()
        with torch.no_grad():
            return float(self._loss(batch, precision))

    def _loss(self, batch: dict[str, Any], precision: str) -> torch.Tensor:
        with nullcontext() if precision == "fp32" else torch.autocast(self.device.type, dtype=DTYPES[precision]):
            outputs = self.task.forward(self.model, batch, self.recipe)
        return outputs.logits.float().square().mean() if outputs.loss is None else outputs.loss

    def factor(self, settle: Callable[[Any], Any], plain: Any, other: Any, step: Callable[[Any], float], deadline: float) -> float | None:
        """How many times faster `other` is than `plain`: the best of two of each in turns, after one of each to warm up.

        deadline: of time.perf_counter(); None where it has passed before anything was compared.
        """
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(3):
            if time.perf_counter() > deadline:
                break
            for is_other, choice in ((False, plain), (True, other)):
                settle(choice)
                seconds[is_other].append(step(choice))
        return min(seconds[False][1:]) / min(seconds[True][1:]) if len(seconds[True]) > 1 else None

    def update_seconds(self, fused: bool) -> float:
        """Of one AdamW update of copies of the trained weights (at most 20 million numbers); the best of two, after one to warm up."""
        copies, size = [], 0
        for parameter in self.model.parameters():
            if parameter.requires_grad and size + parameter.numel() <= 20_000_000:
                copies.append(torch.zeros_like(parameter, requires_grad=True))
                size += parameter.numel()
        for copy in copies:
            copy.grad = torch.zeros_like(copy)
        optimizer = torch.optim.AdamW(copies, fused=fused)
        seconds = []
        for _ in range(3):
            start = self._now()
            optimizer.step()
            seconds.append(self._now() - start)
        return min(seconds[1:])

    def fitting_size(self, wanted: int, precision: str) -> int:
        """The largest wanted, wanted / 2, … whose longest batch, with the optimizer's state, leaves a tenth of the device's memory free."""
        if self.device.type != "cuda" or not self.trains:
            return wanted
        state = 12 * sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        size = wanted
        while size > 1:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_allocated(self.device)
            try:
                self.step(self.longest(size), precision)
                if torch.cuda.max_memory_allocated(self.device) + state < 0.9 * free:
                    break
            except torch.OutOfMemoryError:
                self.model.zero_grad(set_to_none=True)
            size //= 2
        torch.cuda.empty_cache()
        return max(1, size)

    def workers(self, step_seconds: float, size: int) -> int:
        """Loader processes that keep an accelerator fed, half as many again as the measured times ask for; on a CPU they would take its cores."""
        if self.device.type == "cpu" or not self.task.encode_on_access:
            return 0
        own = max(1, machine.num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        return int(min(own, 16, max(1, np.ceil(1.5 * self.encode_seconds * size / step_seconds))))

    def _now(self) -> float:
        """Seconds, when all that was asked of the device is done. Of a CPU they are its own, shared among torch's threads:
        what other processes take from it meanwhile is no part of the comparison."""
        if self.device.type == "cpu":
            return time.process_time() / torch.get_num_threads()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
