"""The execution plan: how the steps of a training are run on this machine, measured on the real model and real rows.

Allocator, memory format, precision, optimizer kernel, batch that fits, loader workers. What the user said is never
measured; what measuring could not win back in this run is not measured either, but chosen by what is usual for such a
machine. A plan is kept in the cache folder under model × machine × batch × versions, and in the Run's recipe as
`plan: {NAME: VALUE}`, with which a rerun measures nothing and is bit-equal on the same machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hfxfer import console, data, machine
from hfxfer.errors import RecipeError
from hfxfer.evaluation import rank_and_world
from hfxfer.models import Loaded
from hfxfer.probe import Probe, untouched
from hfxfer.recipe import Recipe
from hfxfer.run import write_text
from hfxfer.shards import cache_folder
from hfxfer.tasks._task import Problem, Task

FORMAT = 1

PROBE_SHARE = 0.03
"""The most of the run's estimated time that measuring may take."""

MOST_SECONDS = 20.0

STEPS = 6
"""Steps of one comparison; a probe's batch is as large as lets all of them fit into the time."""

FEWEST_ROWS = 4
"""A smaller batch says little about a whole one: then nothing is measured."""

WORTH = 1.05
"""To leave what is usual for the machine, the alternative must be faster by this factor: less is noise."""

TOLERANCE = 0.02
"""bf16 is taken where its loss is within 2 % of fp32's (or within 0.02, of losses below 1)."""

ALLOWED: dict[str, tuple[str, ...]] = {
    "allocator": ("keep", "system"), "memory_format": ("channels_last", "contiguous"), "precision": ("fp32", "bf16", "fp16"),
    "compile": ("true", "false")}
NUMBERS = ("per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_num_workers", "threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every choice. `threads` is torch's number of them: recorded, and asked for again by `apply`, because sums depend on it."""

    allocator: str = "system"
    memory_format: str = "contiguous"
    precision: str = "fp32"
    optim: str = "adamw_torch"
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    dataloader_num_workers: int = 0
    compile: bool = False
    threads: int = 1

    def to_dict(self) -> dict[str, str]:
        """Of texts, as the setting `plan` holds it."""
        return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: dict[str, str]) -> Plan:
        """Raises RecipeError. What is not said has its plainest value."""
        return cls(**read(settings))

    def apply(self, model: Any) -> None:
        """Settle this process and the model, in place. Weights keep their values; only how they lie in memory changes."""
        if self.allocator == "keep":
            machine.keep_memory()
        if self.memory_format == "channels_last":
            model.to(memory_format=torch.channels_last)
        if "OMP_NUM_THREADS" not in os.environ and self.threads != torch.get_num_threads() and self.threads <= machine.num_cores():
            torch.set_num_threads(self.threads)

    def training_arguments(self) -> dict[str, Any]:
        """Fields of TrainingArguments that the plan decides; those that the recipe gives go before them."""
        return {"optim": self.optim, "gradient_accumulation_steps": self.gradient_accumulation_steps,
                "dataloader_num_workers": self.dataloader_num_workers, **({"torch_compile": True} if self.compile else {})}


def read(settings: dict[str, str]) -> dict[str, Any]:
    """The choices that a `plan: {NAME: VALUE}` pins, as values. Raises RecipeError."""
    names = [field.name for field in dataclasses.fields(Plan)]
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in names:
            raise RecipeError(f"plan has {name!r}; allowed: auto, none, compile, or {', '.join(f'{each}=…' for each in names)}")
        if name in ALLOWED and value not in ALLOWED[name]:
            raise RecipeError(f"plan has {name}={value}; allowed: {', '.join(ALLOWED[name])}")
        least = 0 if name == "dataloader_num_workers" else 1
        if name in NUMBERS and not (value.isdigit() and int(value) >= least):
            raise RecipeError(f"plan has {name}={value}; allowed: a whole number ≥ {least}")
        found[name] = int(value) if name in NUMBERS else value == "true" if name == "compile" else value
    return found


def make(recipe: Recipe, task: Task, problem: Problem, loaded: Loaded, rows: data.Rows) -> Recipe:
    """The recipe with its plan in full (`plan` a dict, `precision` and batch size as numbers); the plan is applied to the model.

    recipe: every other `auto` is settled; precision and per_device_train_batch_size may be, and then they stand.
    With several processes the main one measures, and all go by its plan. Factors that were measured: `loaded.measured`.
    """
    if recipe.plan == "none":
        return recipe
    pinned = _pinned(recipe)
    if len(pinned) < len(dataclasses.fields(Plan)):
        device = _device(recipe)
        made = _measured(Probe(task, recipe, problem, loaded, device), rows, pinned) if rank_and_world()[0] == 0 else None
        chosen, loaded.measured = _from_main_process(made)
    else:
        chosen = Plan(**pinned)
        console.talk(f"plan: {_in_words(chosen)}, as the recipe says")
    chosen.apply(loaded.model)
    return dataclasses.replace(recipe, plan=chosen.to_dict(), precision=chosen.precision,
                               per_device_train_batch_size=chosen.per_device_train_batch_size)


def _pinned(recipe: Recipe) -> dict[str, Any]:
    """What is not to be measured: the plan's own pins, and over them the settings of the same names."""
    pinned = read(recipe.plan) if isinstance(recipe.plan, dict) else {"compile": recipe.plan == "compile"}
    for name in ("precision", "per_device_train_batch_size"):
        if getattr(recipe, name) != "auto":
            pinned[name] = getattr(recipe, name)
    arguments = recipe.training_arguments
    for name in ("optim", "gradient_accumulation_steps", "dataloader_num_workers"):
        if name in arguments:
            pinned[name] = arguments[name]
    return {**pinned, "optim": str(getattr(pinned["optim"], "value", pinned["optim"]))} if "optim" in pinned else pinned


def convolves(model: Any) -> bool:
    """True where a memory format can matter: a convolution over more than one pixel."""
    return any(isinstance(module, torch.nn.Conv2d) and max(module.kernel_size) > 1 for module in model.modules())


def usual(model: Any, device_type: str, batch_size: int) -> Plan:
    """What is usual for such a machine, without measuring."""
    on_cpu = device_type == "cpu"
    precision = "bf16" if not on_cpu and machine.has_bf16(device_type) else "fp32"
    return Plan(allocator="keep" if on_cpu and machine.keep_memory() else "system",
                memory_format="channels_last" if convolves(model) and (on_cpu or precision != "fp32") else "contiguous",
                precision=precision, optim="adamw_torch_fused" if device_type in ("cpu", "cuda") else "adamw_torch",
                per_device_train_batch_size=batch_size, threads=torch.get_num_threads())


def _measured(probe: Probe, rows: data.Rows, pinned: dict[str, Any]) -> tuple[Plan, dict[str, float]]:
    """(plan, factors) from the cache, or from a probe; told either way."""
    start = time.perf_counter()
    size = pinned.get("per_device_train_batch_size") or usual_batch(rows.train.num_rows)
    first = dataclasses.replace(usual(probe.model, probe.device.type, size), **pinned)
    if is_sharded(probe.recipe):
        console.talk(f"plan: {_in_words(first)}; not measured: the model is sharded")
        return first, {}
    probe.model.to(probe.device)
    with untouched(probe.model):
        probe.read(rows.train)
        path = cache_folder() / "plans" / f"{_key(probe, first, pinned)}.json"
        kept = _read_cache(path)
        if kept is not None:
            chosen, factors = dataclasses.replace(kept[0], **pinned), kept[1]
            console.talk(f"plan: {_in_words(chosen, factors)}, as measured before on this machine")
            return chosen, factors
        session = _Session(probe, first, pinned, start)
        chosen, factors = session.run(rows.train.num_rows)
    if session.is_whole:
        with suppress(OSError):  # A cache that cannot be written only costs the next run its probe.
            write_text(path, json.dumps({"plan": chosen.to_dict(), "factors": factors}))
    return chosen, factors


class _Session:
    """One measuring: from `first`, each choice that is not pinned is compared with its alternative while the time lasts."""

    def __init__(self, probe: Probe, first: Plan, pinned: dict[str, Any], start: float):
        self.probe, self.plan, self.pinned, self.start = probe, first, pinned, start
        self.factors: dict[str, float] = {}
        self.is_whole = False
        self.budget = 0.0

    def run(self, num_rows: int) -> tuple[Plan, dict[str, float]]:
        probe, recipe, size = self.probe, self.probe.recipe, self.plan.per_device_train_batch_size
        _settle(probe.model, self.plan)
        few = probe.typical(min(2, size))
        probe.step(few)
        # By the clock on the wall, unlike the comparisons: what others take from the processor makes measuring dearer, too.
        before = time.perf_counter()
        probe.step(few)
        a_row = (time.perf_counter() - before) / min(2, size)
        steps = recipe.training_arguments.get("max_steps", -1)
        passes = 1.0 if recipe.method == "head" else float(recipe.num_train_epochs)
        estimate = a_row * (steps * size if steps > 0 else num_rows * passes / rank_and_world()[1])
        self.budget = min(MOST_SECONDS, PROBE_SHARE * estimate)
        left = self.budget - (time.perf_counter() - self.start)
        rows = int(min(size, left / (STEPS * max(1, len(self._compared())) * a_row)))
        if rows < min(FEWEST_ROWS, size):
            console.talk(f"plan: {_in_words(self.plan)}; not measured: it would take more than {self.budget:.2g} s of a run of about "
                         f"{console.duration(estimate)}")
        else:
            self.is_whole = True
            self._compare(probe.typical(rows))
        self._fit(size, a_row)
        return self.plan, self.factors

    def _compared(self) -> set[str]:
        """The choices whose alternatives are tried in whole steps."""
        possible = {"allocator": self.plan.allocator == "keep", "memory_format": convolves(self.probe.model),
                    "precision": machine.has_bf16(self.probe.device.type)}
        return {name for name, is_possible in possible.items() if is_possible and name not in self.pinned}

    def _compare(self, batch: dict[str, Any]) -> None:
        step: Callable[[Plan], float] = lambda plan: self.probe.step(batch, plan.precision)
        compared = self._compared()
        if "allocator" in compared:
            self._choose("allocator", "system", "keep", step)
        if "memory_format" in compared:
            self._choose("memory_format", "contiguous", "channels_last", step)
        if "precision" in compared:
            exact, rough = (self.probe.loss(batch, precision) for precision in ("fp32", "bf16"))
            agrees = abs(exact - rough) <= TOLERANCE * max(1.0, abs(exact))
            self._choose("precision", "fp32", "bf16", step, allowed=agrees, why=f"the loss is {rough:.4g}, {exact:.4g} in fp32")
        elif "precision" not in self.pinned:
            console.talk("plan: precision fp32 (the processor has no bf16 of its own)")
        self._choose("optim", "adamw_torch", "adamw_torch_fused", lambda plan: self.probe.update_seconds(plan.optim == "adamw_torch_fused"))

    def _choose(self, name: str, plain: str, other: str, step: Callable[[Plan], float], allowed: bool = True, why: str = "") -> None:
        """Take the faster one, and say so with its measured factor. Out of time, what is usual stays."""
        if name in self.pinned:
            return
        factor = self.probe.factor(lambda plan: _settle(self.probe.model, plan), dataclasses.replace(self.plan, **{name: plain}),
                                   dataclasses.replace(self.plan, **{name: other}), step, self.start + self.budget)
        if factor is None:
            self.is_whole = False
            _settle(self.probe.model, self.plan)
            return
        taken = allowed and factor >= (1 / WORTH if getattr(self.plan, name) == other else WORTH)
        self.plan = dataclasses.replace(self.plan, **{name: other if taken else plain})
        _settle(self.probe.model, self.plan)
        self.factors[name] = round(factor, 2)
        console.talk(f"plan: {name} {other if taken else plain} ({other} measured {factor:.2f} times as fast as {plain}{'' if allowed else f', but {why}'})")

    def _fit(self, size: int, a_row: float) -> None:
        """The batch that fits, the rest of it by accumulation; and the loader's workers."""
        if not {"per_device_train_batch_size", "gradient_accumulation_steps"} & self.pinned.keys():
            fitting = self.probe.fitting_size(size, self.plan.precision)
            self.plan = dataclasses.replace(self.plan, per_device_train_batch_size=fitting, gradient_accumulation_steps=-(-size // fitting))
            if fitting < size:
                console.talk(f"plan: per_device_train_batch_size {fitting}, {-(-size // fitting)} of them accumulated: {size} do not fit into the memory")
        if "dataloader_num_workers" not in self.pinned:
            self.plan = dataclasses.replace(self.plan, dataloader_num_workers=self.probe.workers(a_row * size, size))


def usual_batch(num_rows: int) -> int:
    """Rows of one update: 8 to 16, so that an epoch has about 20 updates where the rows are few; more, up to 32, from 9,000 rows on.

    Measured with MiniLM, full, 1 epoch over 3,257 tweets at 2e-4, test accuracy: 0.802 by 16, 0.781 by 32.
    """
    return min(32, max(8, 2 ** round(math.log2(max(1.0, min(16, num_rows / 20), num_rows / 400)))))


def _settle(model: Any, plan: Plan) -> None:
    machine.keep_memory(plan.allocator == "keep")
    model.to(memory_format=torch.channels_last if plan.memory_format == "channels_last" else torch.contiguous_format)


def is_sharded(recipe: Recipe) -> bool:
    """True where no device holds the whole model, so that nothing can be tried before it is wrapped."""
    asked = any(recipe.training_arguments.get(name) for name in ("deepspeed", "fsdp", "fsdp_config"))
    return asked or any(os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("DEEPSPEED", "FSDP"))


def _device(recipe: Recipe) -> torch.device:
    """Where the training will run. Joins torchrun's other processes, as TrainingArguments would later."""
    on_cpu = bool(recipe.training_arguments.get("use_cpu")) or not machine.has_accelerator()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        backend = recipe.training_arguments.get("ddp_backend")
        return PartialState(cpu=on_cpu, **({"backend": backend} if backend else {})).device
    if on_cpu:
        return torch.device("cpu")
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "xpu")


def _from_main_process(made: tuple[Plan, dict] | None) -> tuple[Plan, dict]:
    if rank_and_world()[1] == 1:
        return made
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([made])[0]


def _key(probe: Probe, first: Plan, pinned: dict[str, Any]) -> str:
    """A name for all that the measured times depend on."""
    model = probe.model
    where = torch.cuda.get_device_name(probe.device) if probe.device.type == "cuda" else machine.processor_name()
    shapes = [[name, list(parameter.shape)] for name, parameter in model.named_parameters()]
    picture = next((list(value.shape[1:]) for value in probe.typical(1).values() if getattr(value, "ndim", 0) == 4), None)
    depends = {"format": FORMAT, "model": type(model).__name__, "shapes": shapes, "item": picture or probe.length(), "trains": probe.trains,
               "batch": first.per_device_train_batch_size, "pinned": sorted(map(str, pinned.items())), "device": where,
               "cores": machine.num_cores(), "threads": first.threads, "processes": rank_and_world()[1],
               "versions": {name: version(name) for name in ("hfxfer", "torch", "transformers", "timm")}}
    return hashlib.blake2b(json.dumps(depends).encode(), digest_size=16).hexdigest()


def _read_cache(path: Path) -> tuple[Plan, dict[str, float]] | None:
    """None where there is nothing, or nothing that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Plan.from_dict(found["plan"]), {str(name): float(value) for name, value in found["factors"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecipeError):
        return None


def _in_words(plan: Plan, factors: dict[str, float] | None = None) -> str:
    shown = {name: f" ({factor} times)" for name, factor in (factors or {}).items()}
    silent = {("gradient_accumulation_steps", "1"), ("dataloader_num_workers", "0"), ("compile", "false")}
    return ", ".join(f"{name} {value}{shown.get(name, '')}" for name, value in plan.to_dict().items() if (name, value) not in silent)
