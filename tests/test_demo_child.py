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

from hfxfer.demo.child import MOST_STARTS, Child, Gone, wanted
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
    if rows == ["hang"]:
        time.sleep(600)
    if rows == ["die"]:
        os._exit(3)
    if rows == ["refuse"]:
        raise DataError("row 1 has no text")
    if rows == ["break"]:
        raise Unpicklable("this", "that")
    return [{"sum": float(row["values"].sum()), "label": row["label"]} for row in rows]


def made(threads=1):
    return Child(compute, ["who"], threads)


@pytest.fixture
def child():
    return made()


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


def test_a_process_that_dies_is_begun_again_but_not_for_ever(child):
    pids = set()
    for starts in range(MOST_STARTS):
        (pid, _), = child.ask(["who"])
        pids.add(pid)
        with pytest.raises(Gone, match="the process that computes has ended"):
            child.ask(["die"])
        assert ended(pid) and child.can_answer == (starts + 1 < MOST_STARTS)
    assert len(pids) == MOST_STARTS


def test_a_process_that_hangs_is_ended(child, monkeypatch):
    module = importlib.import_module("hfxfer.demo.child")
    (pid, _), = child.ask(["who"])
    monkeypatch.setattr(module, "MOST_SECONDS", 0.2)
    monkeypatch.setattr(module, "END_SECONDS", 0.2)
    with pytest.raises(Gone):
        child.ask(["hang"])
    assert ended(pid)
    monkeypatch.undo()
    assert child.ask(["who"])[0][0] != pid


def test_a_process_may_have_threads_although_the_app_has_computed():
    """Which they have not where it is forked by a thread that OpenMP knows."""
    wide = torch.randn(600, 600)
    torch.set_num_threads(2), wide @ wide

    def threads(rows):
        return [float((wide @ wide).exp().sum()), torch.get_num_threads()]

    child = Child(threads, [], 2)
    assert child.ask([])[1] == 2


def test_it_ends_with_whoever_holds_it():
    child = made()
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
            child_of_app = made()
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
    child = made()
    theirs.close()
    ours.settimeout(10)
    assert ours.recv(1) == b"" and child.ask(["who"])[0][0] != os.getpid()


def test_the_cores_but_the_apps_are_shared_out(monkeypatch):
    model = torch.nn.Linear(1, 1)
    for cores, expected in ((1, (1, 1)), (2, (1, 1)), (4, (3, 1)), (9, (8, 1)), (10, (3, 3)), (64, (7, 9))):
        monkeypatch.setattr("hfxfer.machine.num_cores", lambda cores=cores: cores)
        assert wanted(model) == expected
    monkeypatch.setattr(sys, "platform", "darwin")
    assert wanted(model) == (0, 0)


@pytest.fixture
def served(monkeypatch):
    """The module, whose model computes who computes, and dies of one row."""
    module, own, before = importlib.import_module("hfxfer.demo.served"), os.getpid(), torch.get_num_threads()

    def computed(predictor, asked):
        if "die" in asked and os.getpid() != own:
            os._exit(3)
        return [os.getpid() for _ in asked]

    monkeypatch.setattr(module, "_computed", computed)
    monkeypatch.setattr(module, "wanted", lambda model: (1, 1))
    yield module
    torch.set_num_threads(before)


PREDICTOR = type("Predictor", (), {"model": torch.nn.Linear(1, 1)})


def test_an_input_that_ends_the_process_ends_neither_the_app_nor_others_answers(served):
    together = Together(served._computing(PREDICTOR, threading.Lock(), ["a"]), 4)
    first = together.ask(["a"])
    with pytest.raises(Gone):
        together.ask(["die"])
    assert together.ask(["a", "b"]) != first and os.getpid() not in together.ask(["a", "b"])


def test_where_no_process_can_be_had_the_app_computes_itself(served, monkeypatch, capsys):
    def refused():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    answers, = served._computing(PREDICTOR, threading.Lock(), ["a"])
    assert answers(["a"]) == [os.getpid()]
    assert capsys.readouterr().err == ("warning: 0 of 1 processes to predict in could be begun ([Errno 11] Resource temporarily unavailable); "
                                       "many people at once will be answered more slowly\n")
