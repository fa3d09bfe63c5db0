"""The test Hub's faults, and what the real huggingface_hub client makes of each."""

import hashlib
import signal

import pytest
from hub_client import client, hub, start  # noqa: F401  (fixtures)


def test_statuses_and_what_the_client_makes_of_them(hub, client):
    """It repeats what can be repeated, and neither a commit nor validate-yaml, whoami, create_repo."""
    hub.add_repo("me/x")
    hub.fail("*/preupload/*", 500)
    hub.fail("*/validate-yaml", 503)
    hub.fail("*/commit/main", 429, headers={"Retry-After": "7"})
    hub.fail("*/commit/main", 502, after=0)
    hub.fail("/api/whoami-v2", 503, after=1)
    said = client("""
        push = lambda *files: refusal(api.create_commit, "me/x", list(files), commit_message="Push")
        said["preupload 500, commit 429"] = push(Add("a.txt", b"1"))
        said["commit 502"] = push(Add("a.txt", b"1"))
        said["validate 503"] = push(Add("README.md", b"---\\nlicense: mit\\n---\\n"))
        said["none left"] = push(Add("a.txt", b"1"))
        said["who"] = [api.whoami()["name"], refusal(api.whoami), api.whoami()["name"]]
    """)
    assert said["preupload 500, commit 429"] == ["HfHubHTTPError", 429, "We had to rate limit your IP."]
    assert said["commit 502"][:2] == ["HfHubHTTPError", 502]
    assert said["validate 503"] == ["JSONDecodeError", None, "Expecting value: line 1 column 1 (char 0)"]  # not an HfHubHTTPError
    assert said["none left"] is None
    assert said["who"][0] == said["who"][2] == "me" and said["who"][1][:2] == ["HfHubHTTPError", 503]
    assert [request.status for request in hub.asked("*/preupload/*")] == [500, 200, 200, 200]
    assert [request.status for request in hub.asked("*/commit/*")] == [429, 502, 200]
    assert "Retrying in 1s [Retry 1/5]" in said["talk"] and len(hub.repo("me/x").pushes) == 1


def test_dropped_connections_and_a_lost_answer(hub, client):
    hub.add_repo("me/x", {"model.safetensors": "0123456789" * 1000})
    hub.fail("*/commit/main", "drop")
    hub.fail("*/commit/main", "lost")
    hub.fail("*/commit/main", "cut")
    hub.fail("/_lfs/*", "drop-request", method="PUT")
    hub.fail("/_cdn/*", "cut")
    hub.fail("*/config.json", "short", method="GET")
    said = client("""
        def push(*files):
            try:
                return api.create_commit("me/x", list(files), commit_message="Push").oid
            except Exception as error:
                return f"{type(error).__module__}.{type(error).__name__}: {error}"
        said["drop"] = push(Add("a.txt", b"1"))
        said["lost"] = push(Add("a.txt", b"1"))
        said["after"] = push(Add("a.txt", b"1")) == api.model_info("me/x").sha
        said["cut"] = push(Add("a.txt", b"2"))
        said["put"] = push(Add("w.bin", b"weights" * 1000), Add("config.json", b"{'a': 1}")) == api.model_info("me/x").sha
        said["download"] = text(hf_hub_download("me/x", "model.safetensors")) == "0123456789" * 1000
        said["short"] = refusal(hf_hub_download, "me/x", "config.json")
    """)
    assert said["drop"] == "httpx2.RemoteProtocolError: Server disconnected without sending a response."
    assert said["lost"] == said["drop"]  # the two look alike; only the head tells them apart
    assert said["after"] is True  # and the same push again finds nothing to do
    assert said["cut"].startswith("httpx2.RemoteProtocolError: peer closed connection without sending complete message body")
    assert said["put"] is True and said["download"] is True
    assert said["short"][0] == "OSError" and said["short"][2].startswith("Consistency check failed: file should be of size 8 but has size 4")
    assert [(commit.title, sorted(commit.changed)) for commit in hub.repo("me/x").pushes] == [
        ("Upload files", ["model.safetensors"]), ("Push", ["a.txt"]), ("Push", ["a.txt"]), ("Push", ["config.json", "w.bin"])]
    assert [request.status for request in hub.asked("*/commit/main")] == [None, None, 200, 200]
    assert [len(request.body) for request in hub.asked("/_lfs/*")] == [3500, 7000]
    assert [request.headers.get("range") for request in hub.asked("/_cdn/*")] == [None, None]  # what is less than its 10 MB piece starts again


def test_refusals_that_can_be_ordered(hub, client):
    """A token that turns read-only, a validator that says no, somebody who is faster, an answer that takes its time."""
    hub.add_repo("me/x", {"a.txt": "0"})
    hub.fail("*/preupload/*", "read-only")
    hub.fail("*/validate-yaml", "invalid-yaml", message='"license" is required')
    hub.fail("*/commit/main", "race", after=1)
    hub.fail("*/whoami-v2", "slow", seconds=0.5)
    said = client("""
        import time
        push = lambda path, text, **more: refusal(api.create_commit, "me/x", [Add(path, text)], commit_message="Push", **more)
        said["read-only"] = push("a.txt", b"1")
        said["yaml"] = push("README.md", b"---\\nlicense: mit\\n---\\n")
        head = api.model_info("me/x").sha
        said["first"] = push("a.txt", b"1", parent_commit=head)
        said["race"] = push("a.txt", b"2", parent_commit=api.model_info("me/x").sha)
        said["on top"] = push("a.txt", b"2", parent_commit=api.model_info("me/x").sha)
        begin = time.monotonic()
        api.whoami()
        said["slow"] = time.monotonic() - begin
    """)
    assert said["read-only"] == ["HfHubHTTPError", 403, "you must use a write token to upload to a repository"]
    assert said["yaml"] == ["ValueError", None, 'Invalid metadata in README.md.\n- "license" is required']
    assert said["first"] is None and said["race"][1] == 412 and said["on top"] is None and said["slow"] >= 0.5
    assert [(commit.author, sorted(commit.changed)) for commit in hub.repo("me/x").pushes] == [
        ("me", ["a.txt"]), ("me", ["a.txt"]), ("somebody-else", ["somebody-3.txt"]), ("me", ["a.txt"])]


def test_a_client_killed_within_an_upload_leaves_nothing_to_see(hub, client, tmp_path):
    hub.add_repo("me/x")
    push = """
        files = [Add(f"{name}.bin", name.encode() * 1_000_000) for name in "abc"]
        api.create_commit("me/x", files, commit_message="Push", num_threads=1)
    """
    hub.fail("/_lfs/*", "slow", after=1, seconds=20)
    process = start(hub, tmp_path, push)
    hub.wait_for("/_lfs/*", "PUT", count=2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and hub.repo("me/x").pushes == []
    assert not hub.asked("*/commit/*")
    sent = {request.path for request in hub.asked("/_lfs/*", "PUT") if request.status == 200}
    hub.clear()
    client(push)
    again = {request.path for request in hub.asked("/_lfs/*", "PUT")}
    assert len(sent) == 1 and len(again) == 2 and not sent & again  # what had arrived is not sent again
    assert [sorted(commit.changed) for commit in hub.repo("me/x").pushes] == [["a.bin", "b.bin", "c.bin"]]


def test_an_unknown_fault_is_refused(hub):
    with pytest.raises(ValueError) as raised:
        hub.fail("*", "explode")
    assert str(raised.value) == ("fault 'explode' is unknown. Known: a status from 400 to 599, drop, drop-request, lost, cut, short, slow, "
                                 "read-only, invalid-yaml, race")


def test_a_token_that_is_no_header_is_found(hub, client):
    hub.add_repo("me/x")
    token = hub.token("me")
    client("""
        api.create_commit("me/x", [Add("fine.txt", b"no secret")], commit_message="Fine")
    """, token)
    assert hub.leaks(token) == []
    client("""
        token = os.environ["HF_TOKEN"].encode()
        api.create_commit("me/x", [Add("log.txt", b"used " + token), Add("args.bin", b"pickled " + token)], commit_message="Bad")
    """, token)
    inline, large = (hashlib.sha256(begin + token.encode()).hexdigest() for begin in (b"used ", b"pickled "))
    assert sorted(hub.leaks(token)) == sorted([
        f"PUT /_lfs/model/me/x/{large}", "POST /api/models/me/x/commit/main", f"content {inline}", f"content {large}"])
