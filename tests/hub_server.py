"""A server that speaks the Hugging Face Hub's protocol to the real huggingface_hub client, with faults to switch on.

    with HubServer(tmp_path / "hub") as hub:
        hub.add_user("me", orgs=["acme"])
        environment = hub.environment(tmp_path / "home", hub.token("me"))  # for a subprocess: HF_ENDPOINT, HF_HOME, HF_TOKEN, ...
        hub.fail("*/commit/main", 503, times=2)
        ...
        assert [commit.title for commit in hub.repo("me/x").pushes] == ["Upload"]

State is in memory, contents are files in the folder. Everything is recorded in `hub.requests`. The same over HTTP for another process:
POST /_test/{fail,user,token,repo,clear} with the arguments as JSON, GET /_test/requests, GET /_test/commits?id=me/x&kind=model.
By itself: `python tests/hub_server.py --folder hub --port 8123 --user me` says the endpoint and a token.
Speaks: hub_api.py, hub_transfer.py, hub_metadata.py, and with offers_xet=True hub_xet.py. Standard library and PyYAML only.
"""

import argparse
import base64
import contextlib
import dataclasses
import fnmatch
import hashlib
import http.server
import json
import os
import re
import socket
import sys
import threading
import time
import urllib.parse
from pathlib import Path

from hub_api import API, Answer, Call, answer
from hub_repos import Blobs, File, Repo, Token, User
from hub_xet import Xet  # registers its endpoints, as hub_transfer does through it

HTML = b"<html><head><title>%d</title></head><body>The request could not be satisfied.</body></html>"
FAULTS = ("drop", "drop-request", "lost", "cut", "short", "slow", "read-only", "invalid-yaml", "race")


@dataclasses.dataclass
class Request:
    """As it came. `path` has the query, header names are lower case; status None: the connection was dropped without an answer."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    status: int | None = None


@dataclasses.dataclass
class Fault:
    path: str
    what: int | str
    method: str
    times: int
    after: int
    seconds: float
    message: str
    headers: dict[str, str]


class HubServer:
    """`endpoint` is the Hub, `storage` the same port under another name: the foreign host that gets no token."""

    def __init__(self, folder, port=0, offers_xet=False, page=1000):
        """page: entries in one answer of a tree listing."""
        self.blobs = Blobs(Path(folder) / "blobs")
        self.users: dict[str, User] = {}
        self.tokens: dict[str, Token] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.errors: list[Exception] = []  # of the server itself; leaving the `with` raises the first
        self.page, self.xet = page, Xet(self, offers_xet)
        self.lock, self.closing, self.connections = threading.RLock(), threading.Event(), set()
        self.listen(port)
        self.port = self.server.server_address[1]
        self.endpoint, self.storage = f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}"

    def listen(self, port):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), type("BoundHandler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *raised):
        self.closing.set()
        self.hang_up()
        if self.errors and raised[0] is None:
            raise self.errors[0]

    def hang_up(self):
        self.server.shutdown()
        self.server.server_close()

    @contextlib.contextmanager
    def away(self):
        """Within it nothing listens at the endpoint: connections are refused, and those that were open are closed."""
        self.hang_up()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        try:
            yield
        finally:
            self.listen(self.port)
            self.__enter__()

    # --- what is there ---

    def add_user(self, name, orgs=()):
        """orgs: names, in which the user may write, or a dict name → "admin", "write" or "read"."""
        self.users[name] = User(name, dict(orgs) if isinstance(orgs, dict) else dict.fromkeys(orgs, "write"))

    def token(self, name, role="write", scopes=None) -> str:
        """A new token of a user. role: "write", "read", or "fineGrained" with scopes: {"me/x": ["repo.write"]}."""
        letters = hashlib.sha256(f"{name} {role} {len(self.tokens)}".encode()).hexdigest()
        value = "hf_" + letters[:34].translate(str.maketrans("0123456789", "ghijklmnop"))
        self.tokens[value] = Token(value, self.users[name], role, {key: tuple(names) for key, names in (scopes or {}).items()})
        return value

    def new_repo(self, kind, repo_id, private=False, gated=False, sdk=None) -> Repo:
        self.repos[kind, repo_id] = Repo(kind, repo_id, self.blobs, private, gated, sdk)
        return self.repos[kind, repo_id]

    def add_repo(self, repo_id, files=None, *, kind="model", private=False, gated=False, sdk="gradio") -> Repo:
        """A repository with one push of files: path → bytes or str, large ones in LFS. gated: False, "auto" or "manual"."""
        repo = self.new_repo(kind, repo_id, private, gated, sdk if kind == "space" else None)
        if files:
            self.push(repo, files, "Upload files", repo_id.split("/")[0])
        return repo

    def push(self, repo, files, title, author):
        """A commit on main that no client makes."""
        added = {}
        for path, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            large = repo.is_large(path, len(content), content[:512])
            added[path] = File.large(self.blobs.put(content), len(content)) if large else File.regular(self.blobs, content)
            repo.uploaded |= {added[path].sha256} if large else set()
        return repo.commit(added, title, author=author)

    def repo(self, repo_id, kind="model") -> Repo:
        return self.repos[kind, repo_id]

    # --- what happens ---

    def fail(self, path, what, *, method="*", times=1, after=0, seconds=0.0, message="", headers=None):
        """The next `times` requests whose path (without query) fits the pattern fail, but for the first `after` of them.

        what: a status from 400 on (500 and 4xx answer JSON, 502 to 504 the HTML of a gateway; headers={"Retry-After": "1"}), or
        "drop": no answer, nothing done; "drop-request": dropped while the body comes in; "lost": done, and no answer;
        "cut": done, and the answer breaks off in the middle; "short": half the body, and a Content-Length that agrees;
        "slow": `seconds` before the body is read; "read-only": the token may only read; "invalid-yaml": validate-yaml says `message`;
        "race": somebody else commits to main just before.
        """
        if not (what in FAULTS or isinstance(what, int) and 400 <= what < 600):
            raise ValueError(f"fault {what!r} is unknown. Known: a status from 400 to 599, {', '.join(FAULTS)}")
        with self.lock:
            self.faults.append(Fault(path, what, method, times, after, seconds, message, headers or {}))

    def clear(self):
        """Forgets the requests and the faults that are left."""
        with self.lock:
            self.requests.clear()
            self.faults.clear()

    def take_fault(self, method, path) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fnmatch.fnmatchcase(path, fault.path) and fnmatch.fnmatchcase(method, fault.method):
                    if fault.after:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def asked(self, path="*", method="*") -> list[Request]:
        """The requests whose path (without query) and method fit the patterns."""
        with self.lock:
            return [request for request in self.requests if fnmatch.fnmatchcase(request.path.split("?")[0], path)
                    and fnmatch.fnmatchcase(request.method, method)]

    def wait_for(self, path, method="*", count=1, seconds=30.0) -> Request:
        """Waits until `count` such requests have begun to come in, and returns the last. Raises TimeoutError."""
        until = time.monotonic() + seconds
        while len(found := self.asked(path, method)) < count:
            if time.monotonic() > until:
                raise TimeoutError(f"{len(found)} of {count} requests {method} {path} in {seconds} s")
            time.sleep(0.01)
        return found[count - 1]

    def leaks(self, secret: str) -> list[str]:
        """Where a secret was seen, but for the Authorization header: in a path, header or body, or in a content that was stored."""
        found, wanted = [], secret.encode()
        for request in self.asked():
            headers = {name: value for name, value in request.headers.items() if name != "authorization"}
            if wanted in request.path.encode() + json.dumps(headers).encode() + request.body + decoded(request):
                found.append(f"{request.method} {request.path}")
        return found + [f"content {sha256}" for sha256 in self.blobs if wanted in self.blobs.read(sha256)]

    def environment(self, home, token=None, **more) -> dict[str, str]:
        """os.environ for a subprocess that knows no other Hub; `home` is its HF_HOME. Xet is off unless it is offered."""
        theirs = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_OFFLINE"))}
        ours = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        return {**theirs, **ours, **({} if self.xet.offered else {"HF_HUB_DISABLE_XET": "1"}), **({"HF_TOKEN": token} if token else {}), **more}


def decoded(request) -> bytes:
    """The inline contents of a commit, which travel in base64; of a body that broke off, what came."""
    contents = []
    for line in request.body.splitlines() if "/commit/" in request.path else []:
        try:
            value = json.loads(line)["value"]
        except ValueError:
            continue
        if value.get("encoding") == "base64":
            contents.append(base64.b64decode(value["content"]))
    return b"".join(contents)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection. HTTP/1.1: it stays open for the next request."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave in one packet: two would wait for the client's delayed acknowledgement
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def setup(self):
        super().setup()
        self.hub.connections.add(self.connection)

    def finish(self):
        self.hub.connections.discard(self.connection)
        super().finish()

    def serve(self):
        try:
            url = urllib.parse.urlsplit(self.path)
            if url.path.startswith("/_test/"):
                self.send(control(self.hub, self.command, url, self.read_body(1.0)))
            else:
                self.serve_hub(url)
        except ConnectionError:  # the client is gone: a kill, or its time-out
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = serve

    def serve_hub(self, url):
        request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        self.hub.requests.append(request)
        fault = self.hub.take_fault(self.command, url.path)
        what = fault.what if fault else None
        if what == "slow":
            self.hub.closing.wait(fault.seconds)
        request.body = self.read_body(0.5 if what == "drop-request" else 1.0)
        if request.body is None or what in ("drop", "drop-request"):
            request.body = request.body or b""
            return self.drop()
        told = self.faulty(fault) if isinstance(what, int) or what == "invalid-yaml" else self.done(request, url, what)
        if what == "lost":
            return self.drop()
        request.status = told.status
        self.send(told, what)

    def done(self, request, url, what):
        call = Call(self.hub, self.command, url.path, urllib.parse.parse_qs(url.query), request.headers, request.body)
        call.demoted = what == "read-only"
        with self.hub.lock:
            if what == "race":
                self.commit_before(url.path)
            try:
                return answer(call)
            except Exception as error:
                self.hub.errors.append(error)
                return Answer.json({"error": f"the test server failed: {error!r}"}, 400)

    def commit_before(self, path):
        plural, repo_id = re.match(API, path).groups()
        repo = self.hub.repo(repo_id, plural[:-1])
        self.hub.push(repo, {f"somebody-{len(repo.commits)}.txt": "not ours\n"}, "Somebody was faster", "somebody-else")

    def faulty(self, fault):
        if fault.what == "invalid-yaml":
            message = fault.message or '"license" must be one of [apache-2.0, mit]'
            return Answer.json({"errors": [{"message": message}], "warnings": []}, 400, fault.headers)
        if fault.what in (502, 503, 504):
            return Answer(fault.what, HTML % fault.what, {"Content-Type": "text/html", **fault.headers})
        message = fault.message or ("We had to rate limit your IP." if fault.what == 429 else "Internal Error - We're working hard to fix this")
        return Answer.json({"error": message}, fault.what, fault.headers)

    def read_body(self, share):
        """That share of the body; None when the client is gone before the end."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if share < 1:
                    return b"".join(parts)
            self.rfile.readline()
            return b"".join(parts)
        size = int(int(self.headers.get("Content-Length") or 0) * share)
        body = self.rfile.read(size)
        return body if len(body) == size else None

    def drop(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, told: Answer, what=None):
        body = told.body[:len(told.body) // 2] if what in ("cut", "short") else told.body
        self.send_response(told.status)
        for name, value in told.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(told.body if what == "cut" else body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()
        if what == "cut":
            self.drop()


def control(hub, method, url, body) -> Answer:
    """What another process may ask of the test server itself."""
    verb, wanted = url.path.removeprefix("/_test/"), json.loads(body or b"{}")
    query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
    if verb == "requests":
        return Answer.json([{**dataclasses.asdict(request), "body": base64.b64encode(request.body).decode()} for request in hub.asked()])
    if verb == "commits":
        pushes = hub.repo(query["id"], query.get("kind", "model")).pushes
        return Answer.json([{"oid": commit.oid, "title": commit.title, "author": commit.author, "changed": commit.changed} for commit in pushes])
    does = {"fail": hub.fail, "user": hub.add_user, "token": hub.token, "repo": hub.add_repo, "clear": hub.clear}
    if method != "POST" or verb not in does:
        return Answer.json({"error": f"unknown: {method} {url.path}"}, 404)
    with hub.lock:
        told = does[verb](**wanted)
    return Answer.json(told if isinstance(told, str) else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user", default="me", help="a first user, whose write token is said")
    parser.add_argument("--offers_xet", action="store_true")
    wanted = parser.parse_args()
    with HubServer(wanted.folder, wanted.port, wanted.offers_xet) as hub:
        hub.add_user(wanted.user)
        sys.stdout.write(f"HF_ENDPOINT={hub.endpoint}\nHF_TOKEN={hub.token(wanted.user)}\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
