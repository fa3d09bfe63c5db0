"""The process that computes: its answers and errors, and its end, however it comes."""

import gc
import importlib
import os
import signal
import socket
import sys
import threading
import time

import numpy as np
import pytest
import torch

from hfxfer.demo.child import Child, Gone, wanted
from hfxfer.demo.together import Together
from hfxfer.errors import DataError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.lock = threading.Lock()


def compute(rows):
    if rows == ["who"]:
        return [(os.getpid(), torch.get_num_threads())]
    if rows == ["die"]:
        os._exit(3)
    if rows == ["refuse"]:
        raise DataError("row 1 has no text")
    if rows == ["break"]:
        raise Unpicklable("this", "that")
    return [{"sum": float(row["values"].sum()), "label": row["label"]} for row in rows]


@pytest.fixture
def child():
    return Child(compute)


def ended(pid):
    """True once no process of this id runs; waited for."""
    for _ in range(100):
        try:
            if open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_rows_go_there_and_records_come_back(child):
    (pid, threads), = child.ask(["who"])
    assert pid != os.getpid() and threads == 1
    values = torch.arange(12, dtype=torch.float32).view(3, 4).t()
    assert child.ask([{"values": values, "label": "a\u202e"}, {"values": np.ones(3), "label": None}]) == [
        {"sum": 66.0, "label": "a\u202e"}, {"sum": 3.0, "label": None}]


def test_errors_come_back_and_the_process_goes_on(child):
    with pytest.raises(DataError, match="row 1 has no text"):
        child.ask(["refuse"])
    with pytest.raises(RuntimeError, match="Unpicklable: this and that"):
        child.ask(["break"])
    assert child.ask(["who"])[0][0] != os.getpid()


def test_a_process_that_dies_is_told_and_missed_no_more(child):
    (pid, _), = child.ask(["who"])
    assert child.is_there
    with pytest.raises(Gone, match="the process that computes has ended"):
        child.ask(["die"])
    assert not child.is_there and ended(pid)


def test_it_ends_with_whoever_holds_it():
    child = Child(compute)
    (pid, _), = child.ask(["who"])
    together = Together([child.ask], 4)
    del child
    assert together.ask(["who"])[0][0] == pid
    del together
    gc.collect()
    assert ended(pid)


def test_it_ends_when_the_app_is_killed(tmp_path):
    here, there = os.pipe()
    app = os.fork()
    if not app:
        try:
            child_of_app = Child(compute)
            os.write(there, str(child_of_app.ask(["who"])[0][0]).encode())
            signal.pause()
        finally:
            os._exit(0)
    pid = int(os.read(here, 20))
    os.kill(app, signal.SIGKILL)
    os.waitpid(app, 0)
    assert ended(pid)


def test_what_the_app_closes_is_closed():
    """A process that kept an answered person's socket would keep the person waiting for its end."""
    ours, theirs = socket.socketpair()
    child = Child(compute)
    theirs.close()
    ours.settimeout(10)
    assert ours.recv(1) == b"" and child.is_there


class OnCpu(torch.nn.Linear):
    pass


def test_one_for_each_core_but_the_apps(monkeypatch):
    model = OnCpu(1, 1)
    for cores, expected in ((1, 1), (2, 1), (4, 3), (64, 4)):
        monkeypatch.setattr("hfxfer.machine.num_cores", lambda cores=cores: cores)
        assert wanted(model) == expected
    monkeypatch.setattr(sys, "platform", "darwin")
    assert wanted(model) == 0


def test_the_app_computes_itself_once_its_process_is_gone(monkeypatch, capsys):
    pids = []

    def computed(predictor, asked):
        if asked == ["die"] and os.getpid() != own:
            os._exit(3)
        return [os.getpid() for _ in asked]

    own = os.getpid()
    served = importlib.import_module("hfxfer.demo.served")
    monkeypatch.setattr(served, "_computed", computed)
    monkeypatch.setattr(served, "wanted", lambda model: 1)
    before = torch.get_num_threads()
    try:
        predictor = type("Predictor", (), {"model": OnCpu(1, 1)})
        answers, = served._computing(predictor, threading.Lock())
        pids += answers(["who"])
        pids += answers(["die"])
        pids += answers(["die"])
    finally:
        torch.set_num_threads(before)
    assert pids[0] != own and pids[1:] == [own, own]
    assert capsys.readouterr().err == "warning: the process that computes has ended; the app goes on without it, more slowly\n"
