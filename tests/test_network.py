"""How long the Hub is waited for, how often it is asked again, and what becomes of the client's errors."""

import json

import httpx2
import pytest
from hub_server import HubServer
from huggingface_hub import HfApi, get_session, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import _http, http_backoff

from hfxfer import network
from hfxfer.errors import RefusedError, RunError, WorkError


def failure(status, words="", **headers):
    """What the client raises for an answer."""
    answer = httpx2.Response(status, headers=headers, request=httpx2.Request("GET", "http://hub/api"))
    return HfHubHTTPError("long text with http://hub/api", response=answer, server_message=words)


@pytest.fixture
def slept(monkeypatch):
    """The seconds that were slept, in order; nothing sleeps."""
    waits = []
    monkeypatch.setattr(network.time, "sleep", waits.append)
    return waits


def asking(*failures):
    """A question that fails with each in turn and is then answered."""
    left = list(failures)

    def ask():
        if left:
            raise left.pop(0)
        return "answer"
    return ask


def test_each_wait_is_twice_the_one_before_and_said(slept, capsys):
    assert network.asked("asking", asking(*[failure(503, "down")] * 3, httpx2.ConnectError("refused"), httpx2.ReadTimeout(""))) == "answer"
    assert slept == [1, 2, 4, 8, 16]
    assert capsys.readouterr().err.split("\n")[2:] == [
        "asking failed (status 503: down); trying again in 4 s, 3 of 5", "asking failed (ConnectError: refused); trying again in 8 s, 4 of 5",
        "asking failed (ReadTimeout); trying again in 16 s, 5 of 5", ""]


def test_the_sixth_failure_is_the_last(slept):
    with pytest.raises(WorkError) as raised:
        network.asked("asking", asking(*[failure(500)] * 6))
    assert str(raised.value) == "asking failed 6 times, at last with: status 500: Internal Server Error" and len(slept) == 5
    assert raised.value.__cause__.response.status_code == 500


@pytest.mark.parametrize("error, wait", [
    (failure(429, **{"Retry-After": "7"}), 7), (failure(503, **{"Retry-After": " 0.5 "}), 0.5), (failure(429, **{"Retry-After": "60"}), 60),
    (failure(429, ratelimit='"api";r=0;t=31'), 31), (failure(429, ratelimit='"api";r=12;t=31'), 1), (failure(503, ratelimit='"api";r=0;t=31'), 1),
    (failure(429, **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), 1)])
def test_the_hub_says_how_long_to_wait(slept, error, wait):
    assert network.asked("asking", asking(error)) == "answer" and slept == [wait]


def test_more_than_a_minute_is_not_waited(slept):
    with pytest.raises(WorkError) as raised:
        network.asked("asking", asking(failure(429, **{"Retry-After": "61"})))
    assert slept == [] and str(raised.value) == ("the Hub asks to wait 1 min 01 s (status 429); hfxfer waits 1 min 00 s at most. "
                                                 "Nothing is lost: run the same command then")


def test_failures_that_last_ten_minutes_are_the_last(monkeypatch):
    """Where the client has tried again itself, so that a few attempts take long."""
    clock = [1000.0]
    monkeypatch.setattr(network.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(network.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds + 305))
    with pytest.raises(WorkError) as raised:
        network.asked("asking", asking(*[failure(429, "slowly", **{"Retry-After": "60"})] * 6))
    assert str(raised.value) == "asking failed for more than 10 min 00 s, at last with: status 429: slowly" and clock == [1000 + 2 * 365]
    assert network.asked("asking", asking(failure(503))) == "answer"  # another question has its own ten minutes


def test_what_will_come_again_is_not_asked_again(slept):
    for error, kind, text in (
            (failure(403, "read only"), RefusedError, "asking is not allowed (status 403: read only). Log in with: hf auth login (or set HF_TOKEN), "
             "with a token that may write"),
            (failure(404, "gone"), WorkError, "asking failed: status 404: gone"),
            (ValueError("odd\nline"), WorkError, "asking failed: ValueError: odd"),
            (RunError("ours"), RunError, "ours")):
        with pytest.raises(kind) as raised:
            network.asked("asking", asking(error))
        assert str(raised.value) == text
    with pytest.raises(HfHubHTTPError):
        network.asked("asking", asking(failure(404)), HfHubHTTPError)
    with pytest.raises(ValueError, match="odd"):
        network.asked("asking", asking(ValueError("odd")), ValueError)
    assert slept == []


def test_an_expected_error_that_passes_is_waited_out(slept):
    assert network.asked("asking", asking(failure(502)), HfHubHTTPError) == "answer" and slept == [1]


@pytest.mark.parametrize("error, passing", [
    *[(failure(status), True) for status in (408, 425, 429, 500, 502, 503, 504)],
    *[(failure(status), False) for status in (400, 401, 403, 404, 409, 412, 416, 501)],
    (httpx2.RemoteProtocolError("dropped"), True), (httpx2.ConnectTimeout(""), True), (json.JSONDecodeError("html", "<", 0), True),
    (ConnectionError("hf_xet has tried again by itself"), False), (OSError("disk"), False), (KeyError("x"), False)])
def test_what_passes(error, passing):
    assert network.is_passing(error) is passing


def test_an_error_is_said_in_a_line_without_addresses():
    assert [network.said(error) for error in (failure(503), failure(412, "late"), failure(599), OSError(), OSError("a\nb"))] == [
        "status 503: Service Unavailable", "status 412: late", "status 599", "OSError", "OSError: a"]


@pytest.fixture
def factory():
    """A user's own maker of the client's connections, in use while the test runs."""
    def own():
        return httpx2.Client(headers={"made-by": "user"}, event_hooks={"response": [lambda answer: None]}, timeout=None)

    before = _http._GLOBAL_CLIENT_FACTORY
    set_client_factory(own)
    yield own
    set_client_factory(before)


def is_bounded():
    """Whether a connection of the client waits for an answer, and for what is asked, no longer than hfxfer does."""
    session = get_session()
    assert session.headers["made-by"] == "user"
    if session.timeout.read is None and len(session.event_hooks["response"]) == 1:
        return False
    assert session.timeout.read == network.LONGEST_ANSWER and len(session.event_hooks["response"]) == 2
    return True


def test_within_patience_what_is_asked_to_wait_has_an_end(factory):
    with pytest.raises(WorkError, match="hfxfer waits 1 min 00 s at most"), network.patient():
        assert is_bounded()
        look = get_session().event_hooks["response"][-1]
        for status, seconds in ((200, "3600"), (429, "60"), (404, "3600")):
            look(httpx2.Response(status, headers={"Retry-After": seconds}))
        look(httpx2.Response(429, headers={"Retry-After": "3600"}))
    assert not is_bounded() and _http._GLOBAL_CLIENT_FACTORY is factory


def test_what_the_client_asks_without_an_end_has_one(factory, tmp_path):
    """model_info says timeout=None, and so does not have the client's own."""
    with HubServer(tmp_path) as hub, network.patient(answer=0.3):
        hub.fail("*", "slow", seconds=5)
        with pytest.raises(httpx2.ReadTimeout):
            HfApi(endpoint=hub.endpoint).model_info("me/x")


def test_what_the_client_repeats_itself_has_an_end_unless_a_good_answer_comes_between(factory, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "LONGEST_FAILING", 0.9)
    with HubServer(tmp_path) as hub, network.patient():
        for failures, answered in ((1, True), (1, True), (9, False)):  # it sleeps a second after each
            hub.fail("*", 429, headers={"Retry-After": "0"}, times=failures)
            if answered:
                assert http_backoff("GET", hub.endpoint).status_code == 404
        with pytest.raises(WorkError) as raised:
            http_backoff("GET", hub.endpoint)
        assert len(hub.requests) == 2 + 2 + 2
    assert str(raised.value) == ("the Hub has answered with status 429 for more than 1 s; hfxfer asks no more. "
                                 "Nothing is lost: run the same command later")


def test_patience_outlasts_a_connection_that_the_client_gives_up(factory):
    assert not is_bounded()
    with network.patient():
        assert is_bounded()
        with pytest.raises(httpx2.ConnectError):
            http_backoff("GET", "http://127.0.0.1:1", max_retries=0)  # which then closes the connection
        assert is_bounded()
        with network.patient():
            assert is_bounded()
        assert is_bounded()
    assert not is_bounded() and _http._GLOBAL_CLIENT_FACTORY is factory


def test_patience_may_be_for_one_short_attempt(factory, slept):
    with network.patient(attempts=1, answer=10.0):
        assert get_session().timeout.read == 10
        with network.patient(), pytest.raises(WorkError) as raised:  # the outer one holds
            network.asked("asking", asking(failure(503, "down")))
    assert str(raised.value) == "asking failed: status 503: down" and slept == []
    assert network.asked("asking", asking(failure(503))) == "answer" and not is_bounded()


def test_patience_of_two_threads_ends_with_the_later_one(factory):
    first, second = network.patient(), network.patient()  # what two threads do, in the order in which neither encloses the other
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert is_bounded()
    second.__exit__(None, None, None)
    assert not is_bounded()
