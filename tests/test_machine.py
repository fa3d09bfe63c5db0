"""What is asked of the machine, and the stopwatch of the input pipeline."""

import os
import subprocess
import sys

from hfxfer import machine
from hfxfer.machine import Waiting


def test_idle_threads_spin_briefly_unless_the_user_says_otherwise():
    code = "import os, hfxfer; hfxfer.Run; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for given, expected in (({}, "10000 None"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"), ({"GOMP_SPINCOUNT": "5"}, "5 None")):
        environment = {name: value for name, value in os.environ.items() if name not in ours} | given
        assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout.strip() == expected


def test_the_allocator_is_told_on_glibc_and_nothing_happens_elsewhere(monkeypatch):
    monkeypatch.setattr(machine.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert machine.keep_memory() is False and machine.share_memory() is False


def test_free_memory_is_no_more_than_the_control_group_leaves(monkeypatch):
    texts = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 1000 kB\n", "/sys/fs/cgroup/memory.max": "600000\n", "/sys/fs/cgroup/memory.current": "100000\n"}
    monkeypatch.setattr(machine, "_text", lambda path: texts.get(path, ""))
    assert machine.free_memory() == 500_000
    texts["/sys/fs/cgroup/memory.max"] = "max\n"
    assert machine.free_memory() == 1_024_000


def test_bf16_is_what_the_processor_says(monkeypatch):
    for flags, expected in (("fpu avx2 avx512f", False), ("avx512f avx512_bf16", True), ("asimd bf16", True), ("", False)):
        machine._processor_flags.cache_clear()
        monkeypatch.setattr(machine, "_text", lambda path, flags=flags: f"processor : 0\nflags\t\t: {flags}\n")
        assert machine.has_bf16("cpu") is expected
    machine._processor_flags.cache_clear()
    assert machine.has_bf16("mps") is False


def test_waiting_is_a_share_of_the_whole(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 5.0, 6.0, 8.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(times))
    waiting = Waiting()
    for _ in range(2):
        with waiting:
            pass
    assert waiting.seconds == 3.0 and waiting.share() == 3.0 / 8.0
    assert waiting.share(6.0) == 0.5 and waiting.share(0.0) == 0.0
