"""What this machine is and how its processor is best used: threads, memory, bf16. No torch is imported here but inside functions."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from functools import lru_cache
from pathlib import Path

MMAP_THRESHOLD, TRIM_THRESHOLD, ARENA_MAX = -3, -1, -8
"""Parameters of glibc's mallopt (malloc.h)."""

SMALL, LARGE = 128 * 1024, 1 << 30
"""glibc's own threshold of both, and one that no activation reaches. Bytes."""


def settle() -> None:
    """Before torch is imported: its idle threads spin for about a tenth of a millisecond, and then sleep.

    GNU OpenMP's threads else spin without end between two operations: with decoding threads or another process on 2 cores a forward
    pass of mobilenetv2_100 took 23 to 123 ms a picture, with sleeping threads 14 to 24. Sleeping at once (OMP_WAIT_POLICY=PASSIVE)
    costs a quarter of the speed of a training step where nobody else wants the cores.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def keep_memory(keep: bool = True) -> bool:
    """Let glibc's malloc keep freed blocks for the next step, or (False) give them back at once; True where that could be said.

    Large blocks else come from the kernel anew, page by page, at every step: 4,000 to 18,000 page faults for one picture
    of 224 pixels through mobilenetv2_100. Elsewhere than on glibc nothing is done.
    """
    threshold = LARGE if keep else SMALL
    return _told(MMAP_THRESHOLD, threshold) & _told(TRIM_THRESHOLD, 2**31 - 1 if keep else SMALL)


def free_memory() -> int:
    """Bytes that this process may still take: of the machine and of its control group, whichever is less."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names else 1 << 30
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = _text("/sys/fs/cgroup/memory.max").strip(), _text("/sys/fs/cgroup/memory.current").strip()
    return max(0, min(free, int(limit) - int(used))) if limit.isdigit() and used.isdigit() else free


def share_memory() -> bool:
    """Let all threads that begin from now on take memory from where the main thread does; True where that could be said.

    Each thread's own place in glibc ends at 64 MB: what is larger comes from the kernel anew, whatever `keep_memory` said. 16 pictures of
    224 pixels through mobilenetv2_100 took 24.7 ms each in a thread (3,500 page faults), and 14.5 ms with this.
    """
    return _told(ARENA_MAX, 1)


def _told(option: int, value: int) -> bool:
    """mallopt, where there is glibc's."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if platform.libc_ver()[0] == "glibc" else None
    return set_option is not None and bool(set_option(option, value))


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def processor_name() -> str:
    """What the processor calls itself, with its instruction set where the name says little."""
    lines = dict(line.split(":", 1) for line in _text("/proc/cpuinfo").split("\n\n")[0].splitlines() if ":" in line)
    found = {key.strip(): value.strip() for key, value in lines.items()}
    kind = next((name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in _processor_flags()), "")
    name = found.get("model name") or platform.processor() or platform.machine()
    return " ".join(part for part in (name, found.get("model", ""), kind) if part)


def has_accelerator() -> bool:
    """True where torch sees a CUDA, ROCm, MPS or XPU device."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available() or (hasattr(torch, "xpu") and torch.xpu.is_available())


def has_bf16(device_type: str) -> bool:
    """True where the device computes in bf16 itself. A CPU without such instructions emulates it, 10 to 30 times slower."""
    if device_type == "cpu":
        # avx512_bf16, amx_bf16 (x86) and bf16 (ARM), as the kernel names them.
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & _processor_flags())
    if device_type == "cuda":
        import torch

        return torch.version.hip is not None or torch.cuda.get_device_capability() >= (8, 0)
    return device_type == "xpu"


@lru_cache(maxsize=1)
def _processor_flags() -> frozenset[str]:
    for line in _text("/proc/cpuinfo").splitlines():
        if line.split(":")[0].strip() in ("flags", "Features"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class Waiting:
    """A stopwatch: `with waiting:` around every wait for data; `share(seconds)` of the time since `start()` that went into it."""

    def __init__(self):
        self.seconds = 0.0
        self.start()

    def start(self) -> None:
        self.seconds, self._began = 0.0, time.perf_counter()

    def __enter__(self) -> Waiting:
        self._entered = time.perf_counter()
        return self

    def __exit__(self, *failure: object) -> None:
        self.seconds += time.perf_counter() - self._entered

    def share(self, seconds: float | None = None) -> float:
        """Between 0 and 1. seconds: of the whole; since `start()` by default."""
        whole = time.perf_counter() - self._began if seconds is None else seconds
        return min(1.0, self.seconds / whole) if whole > 0 else 0.0
