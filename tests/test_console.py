"""What is printed, where, and by whom."""

import io
import json
import sys

import pytest

from hfxfer import console


@pytest.fixture(autouse=True)
def human(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    console.set_format("human")
    yield
    console.set_format("human")


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests turn: clock(seconds)."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])

    def turn(seconds):
        now[0] += seconds

    return turn


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_facts_go_to_stdout_and_talk_to_stderr(capsys):
    console.fact("one")
    console.emit({"no": 1})
    console.talk("two")
    console.hint("three")
    console.warn("four")
    console.error("five")
    assert capsys.readouterr() == ("one\n", "two\nhint: three\nwarning: four\nerror: five\n")


def test_json_silences_facts_and_emits_one_object(capsys):
    console.set_format("json")
    console.fact("one")
    console.emit({"größe": [1, None]})
    console.talk("two")
    out, err = capsys.readouterr()
    assert (out, err) == ('{"größe": [1, null]}\n', "two\n")


def test_json_never_holds_nan():
    console.set_format("json")
    with pytest.raises(ValueError):
        console.emit({"value": float("nan")})


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="format is 'xml'; allowed: human, json"):
        console.set_format("xml")


def test_only_the_main_process_prints_but_errors_name_theirs(monkeypatch, capsys, clock):
    monkeypatch.setenv("RANK", "1")
    console.fact("one")
    console.talk("two")
    console.warn("three")
    with console.Progress(10, "rows") as bar:
        clock(60)
        bar.advance()
    console.set_format("json")
    console.emit({})
    console.error("four")
    assert capsys.readouterr() == ("", "error (process 1): four\n")


def test_what_a_library_prints_does_not_reach_stdout(capsys):
    console.set_format("json")
    with console.facts_only():
        sys.stdout.write("noise\n")
        console.emit({"a": 1})
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"a": 1}, "noise\n")
    console.emit({"b": 2})
    assert capsys.readouterr().out == '{"b": 2}\n'


def test_a_sign_that_the_terminal_lacks_is_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    console.fact("≥ é")
    assert raw.getvalue() == "\\u2265 é\n".encode("cp1252")


def test_off_a_terminal_progress_is_a_line_every_10_seconds(capsys, clock):
    with console.Progress(100, "training", "steps") as bar:
        for _ in range(25):
            clock(1)
            bar.advance(2, "loss 0.5")
    assert capsys.readouterr().err.splitlines() == ["training: 20/100 steps  loss 0.5  40 s left", "training: 40/100 steps  loss 0.5  30 s left",
                                                    "training: 50/100 steps  loss 0.5  in 25 s"]


def test_short_work_shows_no_progress(capsys, clock):
    with console.Progress(2, "checking") as bar:
        bar.advance(2)
    assert capsys.readouterr() == ("", "")


def test_progress_without_a_total_says_no_time_left(capsys, clock):
    with console.Progress(None, "reading") as bar:
        clock(11)
        bar.advance(3)
    assert capsys.readouterr().err == "reading: 3 rows\nreading: 3 rows  in 11 s\n"


def test_on_a_terminal_the_line_is_rewritten_and_cleared(monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.Progress(4, "checking", "files") as bar:
        for _ in range(2):
            clock(1)
            bar.advance()
    assert terminal.getvalue() == ("checking: 1/4 files  3 s left\r\x1b[Kchecking: 2/4 files  2 s left"
                                   "\r\x1b[Kchecking: 2/4 files  in 2 s\n")


def test_a_failure_ends_progress_without_a_summary(capsys, clock):
    with pytest.raises(RuntimeError), console.Progress(2, "training") as bar:
        clock(10)
        bar.advance()
        raise RuntimeError
    assert capsys.readouterr().err == "training: 1/2 rows  10 s left\n"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_are_rounded_and_named(seconds, text):
    assert console.duration(seconds) == text


def test_on_a_terminal_talk_stands_on_a_line_of_its_own(monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.Progress(4, "training", "steps", done=2) as bar:
        clock(10)
        bar.advance()
        console.talk("epoch 1")
    # One step was done here, in 10 seconds; one is left.
    assert terminal.getvalue() == "training: 3/4 steps  10 s left\r\x1b[Kepoch 1\ntraining: 3/4 steps  in 10 s\n"
