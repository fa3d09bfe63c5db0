"""The test Hub's endpoints: each is one function of a Call, found by method and path, that returns an Answer or refuses.

Here: who asks, and repositories. Contents go in and out in hub_transfer.py.

Paths, payloads and messages are those that huggingface_hub 2.4 sends and reads (its hf_api.py, _commit_api.py, lfs.py,
file_download.py). Not spoken: pull requests, discussions, collections, search, moving, super-squash, buckets, jobs, logs.
"""

import dataclasses
import hashlib
import json
import re
import urllib.parse

import hub_metadata
from hub_repos import KINDS, PREFIX, HubRefusal, Token, now

NAMED = r"([\w.-]+/[\w.-]+)"
API = r"/api/(models|datasets|spaces)/" + NAMED
WEB = r"/(?:(datasets|spaces)/)?" + NAMED
BAD_TOKEN = "Invalid credentials in Authorization header"
ROUTES = []


@dataclasses.dataclass
class Call:
    """One request. `path` is as sent, without the query; `query` is path → values; header names are lower case."""

    hub: object
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    token: Token | None = None
    demoted: bool = False  # the token counts as one that may only read

    def json(self):
        try:
            return json.loads(self.body or b"{}")
        except ValueError:
            raise HubRefusal(400, "Invalid JSON") from None

    def flag(self, name):
        return self.query.get(name, ["false"])[0].lower() in ("1", "true")


@dataclasses.dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def json(cls, value, status=200, headers=None):
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


def route(method, pattern):
    def register(function):
        ROUTES.append((method, re.compile(pattern), function))
        return function
    return register


def answer(call: Call) -> Answer:
    """What the Hub says to a call; a refusal is an answer too."""
    try:
        for method, pattern, function in ROUTES:
            if method == call.method or method == "GET" and call.method == "HEAD":
                if found := pattern.fullmatch(call.path):
                    call.token = token_of(call)
                    return function(call, *[group and urllib.parse.unquote(group) for group in found.groups()])
        if re.fullmatch(r"/api/(models|datasets|spaces)/[\w.-]+|/[\w.-]+/resolve/.*", call.path):  # of no owner: none is here
            raise HubRefusal(401, "Invalid username or password.", "RepoNotFound")
        raise HubRefusal(404, "Sorry, we can't find the page you are looking for.")
    except HubRefusal as refusal:
        return refused(refusal, call.path)


def refused(refusal, path):
    """At an https endpoint the client takes a 401 of a repository for RepoNotFound whatever the code (REPO_API_REGEX in its
    _http.py begins with https://); ours is http, so the code says it."""
    headers = {"X-Error-Message": refusal.message.splitlines()[0].encode("ascii", "replace").decode(), **refusal.headers}
    about_repo = re.match(r"/api/(models|datasets|spaces)/|.*/resolve/", path)
    code = refusal.code or ("RepoNotFound" if refusal.status == 401 and refusal.message != BAD_TOKEN and about_repo else None)
    if code:
        headers["X-Error-Code"] = code
    return Answer.json({"error": refusal.message}, refusal.status, headers)


# --- who ------------------------------------------------------------------------------------------------------------

def token_of(call):
    """None without the header. A token that nobody has is refused everywhere, on public repositories too."""
    value = call.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if not value or value in call.hub.xet.tokens:
        return None
    if value not in call.hub.tokens:
        raise HubRefusal(401, BAD_TOKEN)
    token = call.hub.tokens[value]
    return dataclasses.replace(token, role="read") if call.demoted else token


def repo_of(call, plural, repo_id, permission="repo.content.read"):
    """The repository, where the caller may do that there; one that may not even be seen does not exist for the caller."""
    kind, token = KINDS[plural or "models"], call.token
    repo = call.hub.repos.get((kind, repo_id))
    if repo is None or repo.private and not (token and token.may("repo.content.read", repo_id)):
        if token is None:
            raise HubRefusal(401, "Invalid username or password.", "RepoNotFound")
        raise HubRefusal(404, "Repository not found", "RepoNotFound")
    if permission == "repo.write":
        writer_of(call, repo_id)
    return repo


def writer_of(call, repo_id):
    token = call.token
    if token is None:
        raise HubRefusal(401, "Invalid username or password.")
    if not token.may("repo.write", repo_id):
        if token.role == "read" and dataclasses.replace(token, role="write").may("repo.write", repo_id):
            raise HubRefusal(403, "you must use a write token to upload to a repository")
        raise HubRefusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
    return token.user.name


def check_gate(call, repo):
    if not repo.gated or call.token and (call.token.may("repo.content.read", repo.id) or call.token.user.name in repo.readers):
        return
    begin = f"Access to {repo.kind} {repo.id} is restricted"
    if call.token is None:
        raise HubRefusal(401, f"{begin}. You must have access to it and be authenticated to access it. Please log in.", "GatedRepo")
    page = f"{call.hub.endpoint}/{PREFIX[repo.kind]}{repo.id}"
    raise HubRefusal(403, f"{begin} and you are not in the authorized list. Visit {page} to ask for access.", "GatedRepo")


@route("GET", "/api/whoami-v2")
def whoami(call):
    if call.token is None:
        raise HubRefusal(401, "Invalid username or password.")
    token = call.token
    access = {"displayName": "test", "role": token.role, "createdAt": "2026-01-01T00:00:00.000Z"}
    if token.role == "fineGrained":
        scoped = [{"entity": {"_id": name, "type": "user" if name == token.user.name else "model" if "/" in name else "org", "name": name},
                   "permissions": list(permissions)} for name, permissions in token.scopes.items()]
        access["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": scoped}
    orgs = [{"type": "org", "id": name, "name": name, "fullname": name, "roleInOrg": role} for name, role in token.user.orgs.items()]
    return Answer.json({"type": "user", "id": token.user.name, "name": token.user.name, "fullname": token.user.name, "isPro": False,
                        "canPay": False, "orgs": orgs, "auth": {"type": "access_token", "accessToken": access}})


@route("GET", API + "/auth-check(/write)?")
def auth_check(call, plural, repo_id, write):
    check_gate(call, repo_of(call, plural, repo_id, "repo.write" if write else "repo.content.read"))
    return Answer.json({})


# --- repositories ---------------------------------------------------------------------------------------------------

def wanted_repo(call):
    """(kind, id) named by a create or delete call; the namespace is the caller's own where none is given."""
    if call.token is None:
        raise HubRefusal(401, "Invalid username or password.")
    wanted = call.json()
    return wanted.get("type") or "model", f"{wanted.get('organization') or call.token.user.name}/{wanted.get('name')}"


@route("POST", "/api/repos/create")
def create_repo(call):
    kind, repo_id = wanted_repo(call)
    wanted = call.json()
    namespace, name = repo_id.split("/", 1)
    if not re.fullmatch(r"[\w.-]{1,96}", name) or "--" in name or ".." in name or name[0] in ".-" or name[-1] in ".-":
        raise HubRefusal(400, f"Invalid repo name: {name}")
    if not call.token.may("repo.write", repo_id):
        raise HubRefusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
    page = f"{call.hub.endpoint}/{PREFIX[kind]}{repo_id}"
    if (kind, repo_id) in call.hub.repos:
        message = f"You already created this {kind} repo: {repo_id}"
        return Answer.json({"error": message, "url": page}, 409, {"X-Error-Message": message})
    if kind == "space" and wanted.get("sdk") not in hub_metadata.SDKS:
        raise HubRefusal(400, f'"sdk" must be one of [{", ".join(hub_metadata.SDKS)}]')
    repo = call.hub.new_repo(kind, repo_id, private=wanted.get("visibility") == "private" or bool(wanted.get("private")), sdk=wanted.get("sdk"))
    repo.secrets = {item["key"]: item["value"] for item in wanted.get("secrets") or []}
    repo.variables = {item["key"]: {"value": item["value"], "updatedAt": now()} for item in wanted.get("variables") or []}
    return Answer.json({"url": page, "name": repo_id, "id": repo_id})


@route("DELETE", "/api/repos/delete")
def delete_repo(call):
    kind, repo_id = wanted_repo(call)
    repo_of(call, f"{kind}s", repo_id, "repo.write")
    del call.hub.repos[kind, repo_id]
    return Answer()


@route("PUT", API + "/settings")
def update_settings(call, plural, repo_id):
    repo, wanted = repo_of(call, plural, repo_id, "repo.write"), call.json()
    repo.private = wanted.get("visibility", "private" if wanted.get("private", repo.private) else "public") == "private"
    repo.gated = wanted.get("gated", repo.gated)
    return Answer.json({"private": repo.private, "gated": repo.gated})


@route("GET", "/api/(models|datasets|spaces)")
def repo_list(call, plural):
    """The repositories of an owner that the caller may see; the order is the Hub's own affair."""
    owner, limit = call.query.get("author", [""])[0], int(call.query.get("limit", ["1000"])[0])
    seen = [repo for (kind, repo_id), repo in call.hub.repos.items() if kind == KINDS[plural] and repo_id.startswith(f"{owner}/")
            and (not repo.private or call.token and call.token.may("repo.content.read", repo_id))]
    return Answer.json([{"_id": repo.id, "id": repo.id, "modelId": repo.id, "private": repo.private, "tags": []} for repo in seen[:limit]])


@route("GET", API + "(?:/revision/([^/]+))?")
def repo_info(call, plural, repo_id, revision):
    repo = repo_of(call, plural, repo_id)
    commit = repo.resolve(revision or "main")
    card, _ = card_of(repo, commit)
    siblings = [{"rfilename": path} | (_details(file) if call.flag("blobs") else {}) for path, file in sorted(commit.files.items())]
    info = {"_id": hashlib.sha1(repo_id.encode()).hexdigest()[:24], "id": repo_id, "author": repo_id.split("/")[0], "sha": commit.oid,
            "lastModified": commit.date, "createdAt": repo.commits[0].date, "private": repo.private, "gated": repo.gated, "disabled": False,
            "likes": 0, "tags": card.get("tags") or [], "cardData": card, "siblings": siblings,
            "usedStorage": sum(file.size for file in commit.files.values())}
    if repo.kind == "space":
        info |= {"sdk": card.get("sdk", repo.sdk), "runtime": runtime_of(repo), "host": f"{call.hub.endpoint}/_space/{repo_id}"}
    else:
        info |= {"downloads": 0}
    if repo.kind == "model":
        info |= {"modelId": repo_id, "pipeline_tag": card.get("pipeline_tag"), "library_name": card.get("library_name"), "spaces": [],
                 "model-index": card.get("model-index")}
    expand = call.query.get("expand")
    return Answer.json(info if not expand else {key: value for key, value in info.items() if key in ("_id", "id", *expand)})


def _details(file):
    large = {"size": file.size, "sha256": file.sha256, "pointerSize": file.pointer_size}
    return {"size": file.size, "blobId": file.oid, **({"lfs": large} if file.lfs else {})}


def card_of(repo, commit):
    """(metadata, errors) of the README.md of a commit; no metadata where it is invalid."""
    file = commit.files.get("README.md")
    text = repo.blobs.read(file.sha256).decode(errors="replace") if file else ""
    errors, _ = hub_metadata.check(text, repo.kind)
    return ({} if errors else hub_metadata.front_matter(text)), errors


def entry(call, path, file, commit, expand=False):
    """One file as the tree and paths-info endpoints describe it."""
    described = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
    if file.lfs:
        described["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
        if xet_hash := call.hub.xet.hash_of(file.sha256):
            described["xetHash"] = xet_hash
    if expand:
        described["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
    return described


def folders_of(paths):
    return sorted({"/".join(parts[:end]) for parts in (path.split("/") for path in paths) for end in range(1, len(parts))})


def folder(path):
    return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}


@route("GET", API + "/tree/([^/]+)(?:/(.*))?")
def tree(call, plural, repo_id, revision, inside):
    repo = repo_of(call, plural, repo_id)
    commit, inside = repo.resolve(revision), (inside or "").strip("/")
    begin = inside + "/" if inside else ""
    entries = [folder(path) for path in folders_of(commit.files)] + [
        entry(call, path, file, commit, call.flag("expand")) for path, file in sorted(commit.files.items())]
    entries = [item for item in entries if item["path"].startswith(begin) and item["path"] != inside]
    if not entries and inside:
        raise HubRefusal(404, f'{inside} does not exist on "{revision}"', "EntryNotFound", {"X-Repo-Commit": commit.oid})
    if not call.flag("recursive"):
        entries = [item for item in entries if "/" not in item["path"].removeprefix(begin)]
    start = int(call.query.get("cursor", ["0"])[0])
    headers = {}
    if start + call.hub.page < len(entries):
        query = urllib.parse.urlencode({**{key: values[0] for key, values in call.query.items()}, "cursor": start + call.hub.page})
        headers["Link"] = f'<{call.hub.endpoint}{call.path}?{query}>; rel="next"'
    return Answer.json(entries[start:start + call.hub.page], headers=headers)


@route("POST", API + "/paths-info/([^/]+)")
def paths_info(call, plural, repo_id, revision):
    repo = repo_of(call, plural, repo_id)
    commit, form = repo.resolve(revision), urllib.parse.parse_qs(call.body.decode())
    expand, folders = form.get("expand", ["false"])[0].lower() == "true", folders_of(commit.files)
    wanted = [path.strip("/") for path in form.get("paths", [])]
    return Answer.json([entry(call, path, commit.files[path], commit, expand) if path in commit.files else folder(path)
                        for path in wanted if path in commit.files or path in folders])


@route("GET", API + "/refs")
def refs(call, plural, repo_id):
    repo = repo_of(call, plural, repo_id)
    named = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
    answer = {key: [{"name": name, "ref": f"refs/{place}/{name}", "targetCommit": oid} for name, oid in items.items()]
              for key, (place, items) in named.items()}
    return Answer.json({**answer, "converts": [], "pullRequests": []})


@route("GET", API + "/commits/([^/]+)")
def commits(call, plural, repo_id, revision):
    repo = repo_of(call, plural, repo_id)
    oid, found = repo.resolve(revision).oid, []
    while oid:
        commit = repo.resolve(oid)
        found.append({"id": oid, "title": commit.title, "message": commit.message, "date": commit.date, "authors": [{"user": commit.author}]})
        oid = commit.parent
    return Answer.json(found)


@route("POST", API + "/branch/([^/]+)")
def create_branch(call, plural, repo_id, branch):
    repo = repo_of(call, plural, repo_id, "repo.write")
    if branch in repo.branches:
        raise HubRefusal(409, f"Reference already exists: refs/heads/{branch}")
    repo.branches[branch] = repo.resolve(call.json().get("startingPoint") or "main").oid
    return Answer.json({})


@route("DELETE", API + "/branch/([^/]+)")
def delete_branch(call, plural, repo_id, branch):
    repo = repo_of(call, plural, repo_id, "repo.write")
    if branch == "main" or branch not in repo.branches:
        raise HubRefusal(403 if branch == "main" else 404, f"Cannot delete branch {branch}", None if branch == "main" else "RevisionNotFound")
    del repo.branches[branch]
    return Answer.json({})


@route("POST", API + "/tag/([^/]+)")
def create_tag(call, plural, repo_id, revision):
    repo, tag = repo_of(call, plural, repo_id, "repo.write"), call.json()["tag"]
    if tag in repo.tags:
        raise HubRefusal(409, f"Tag reference exists already: {tag}")
    repo.tags[tag] = repo.resolve(revision).oid
    return Answer.json({})


@route("DELETE", API + "/tag/([^/]+)")
def delete_tag(call, plural, repo_id, tag):
    if repo_of(call, plural, repo_id, "repo.write").tags.pop(tag, None) is None:
        raise HubRefusal(404, f"Invalid rev id: {tag}", "RevisionNotFound")
    return Answer.json({})


def runtime_of(repo):
    return {"stage": repo.stage, "hardware": {"current": "cpu-basic", "requested": "cpu-basic"}, "storage": None, "gcTimeout": 172800,
            "replicas": {"current": 1, "requested": 1}}
