"""The test Hub's endpoints that move contents: validate-yaml, preupload, LFS, commit, downloads, Spaces' settings, telemetry."""

import base64
import json
import re
import urllib.parse

import hub_metadata
from hub_api import API, WEB, Answer, check_gate, repo_of, route, runtime_of
from hub_repos import MAX_REGULAR_BYTES, PREFIX, File, HubRefusal, is_ignored, now

LFS_JSON = {"Content-Type": "application/vnd.git-lfs+json"}
DANGLING = ("Your push was rejected because an LFS pointer pointed to a file that does not exist. For instance, this can happen if you used "
            "git push --no-verify to push your changes. Offending file: - {}")


@route("POST", "/api/validate-yaml")
def validate_yaml(call):
    wanted = call.json()
    errors, warnings = hub_metadata.check(wanted.get("content", ""), wanted.get("repoType", "model"))
    told = {"errors": [{"message": message} for message in errors], "warnings": [{"message": message} for message in warnings]}
    return Answer.json(told, 400 if errors else 200)


# --- up -------------------------------------------------------------------------------------------------------------

@route("POST", API + "/preupload/([^/]+)")
def preupload(call, plural, repo_id, revision):
    """How each file goes up. `oid` is that of the file now there, SHA-256 for LFS: the client leaves out what is equal."""
    repo, wanted = repo_of(call, plural, repo_id, "repo.write"), call.json()
    commit = repo.resolve(revision)
    ignored = commit.files.get(".gitignore")
    gitignore = wanted.get("gitIgnore", repo.blobs.read(ignored.sha256).decode() if ignored else "")
    files = []
    for item in wanted["files"]:
        path, sample = item["path"], base64.b64decode(item["sample"])
        large, there = repo.is_large(path, item["size"], sample, revision), commit.files.get(path)
        files.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": is_ignored(path, gitignore),
                      **({"oid": there.etag} if there else {})})
    return Answer.json({"commitOid": commit.oid, "files": files})


@route("POST", WEB + r"\.git/info/lfs/objects/batch")
def lfs_batch(call, plural, repo_id):
    """Where to PUT each object; an object that this repository was already sent gets no action."""
    repo, objects = repo_of(call, plural, repo_id, "repo.write"), []
    for item in call.json()["objects"]:
        described = {"oid": item["oid"], "size": item["size"], "authenticated": True}
        if item["oid"] not in repo.uploaded:
            at = f"{call.hub.storage}/_lfs/{repo.kind}/{repo_id}/{item['oid']}"
            verify = f"{call.hub.endpoint}/{PREFIX[repo.kind]}{repo_id}.git/info/lfs/objects/verify"
            described["actions"] = {"upload": {"href": at, "header": {}}, "verify": {"href": verify, "header": {}}}
        objects.append(described)
    return Answer(200, json.dumps({"transfer": "basic", "objects": objects}).encode(), LFS_JSON)


@route("PUT", r"/_lfs/(model|dataset|space)/([\w.-]+/[\w.-]+)/([0-9a-f]{64})")
def lfs_put(call, kind, repo_id, oid):
    """The storage behind a signed address: it asks for no token, and refuses what has another hash."""
    if call.hub.blobs.put(call.body) != oid:
        raise HubRefusal(400, "The Content-SHA256 you specified did not match what we received")
    call.hub.repos[kind, repo_id].uploaded.add(oid)
    return Answer(200, b"", {"ETag": f'"{oid}"'})


@route("POST", WEB + r"\.git/info/lfs/objects/verify")
def lfs_verify(call, plural, repo_id):
    repo, wanted = repo_of(call, plural, repo_id, "repo.write"), call.json()
    if wanted["oid"] not in repo.uploaded or len(repo.blobs.read(wanted["oid"])) != wanted["size"]:
        raise HubRefusal(404, f"LFS object {wanted['oid']} was not uploaded")
    return Answer.json({})


@route("POST", API + "/commit/([^/]+)")
def commit(call, plural, repo_id, revision):
    """One commit of all lines, or of none. Unchanged contents make an empty commit, as there; no lines at all are refused."""
    repo = repo_of(call, plural, repo_id, "repo.write")
    if call.flag("create_pr"):
        raise HubRefusal(501, "This test server keeps no pull requests.")
    if revision not in repo.branches:
        raise HubRefusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    try:
        lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    except ValueError as error:
        raise HubRefusal(400, f"Invalid NDJSON: {error}") from None
    header = next((line["value"] for line in lines if line["key"] == "header"), {})
    if not header.get("summary"):
        raise HubRefusal(400, '"value.summary" is not allowed to be empty')
    added, deleted = changes(call.hub, repo, lines)
    if not added and not deleted:
        raise HubRefusal(400, "No files have been modified")
    made = repo.commit(added, header["summary"], deleted=deleted, message=header.get("description", ""), author=call.token.user.name,
                       branch=revision, parent=header.get("parentCommit"))
    page = f"{call.hub.endpoint}/{PREFIX[repo.kind]}{repo_id}/commit/{made.oid}"
    return Answer.json({"success": True, "commitOid": made.oid, "commitUrl": page, "hookOutput": ""})


def changes(hub, repo, lines):
    """(path → File to write, (path, is_folder) to delete) of a commit's lines, checked, nothing done yet."""
    added, deleted = {}, []
    for line in lines:
        key, value = line["key"], line["value"]
        if key == "file":
            text = value["content"]
            added[value["path"]] = regular(repo, value["path"], base64.b64decode(text) if value.get("encoding") == "base64" else text.encode())
        elif key == "lfsFile":
            if value["oid"] not in repo.uploaded and not hub.xet.hash_of(value["oid"]):
                raise HubRefusal(400, DANGLING.format(value["path"]))
            repo.uploaded.add(value["oid"])
            added[value["path"]] = File.large(value["oid"], len(repo.blobs.read(value["oid"])))
        elif key in ("deletedFile", "deletedFolder", "deletedEntry"):
            deleted.append((value["path"], key == "deletedFolder" or value["path"].endswith("/")))
        elif key != "header":
            raise HubRefusal(400, f'"key" must be one of [header, file, lfsFile, deletedFile, deletedFolder], got {key}')
    return added, deleted


def regular(repo, path, content):
    if len(content) > MAX_REGULAR_BYTES:
        raise HubRefusal(400, "Your push was rejected because it contains files larger than 10 MiB. Please use https://git-lfs.github.com/ "
                              f"to store large files. Offending files: - {path}")
    if path == "README.md":
        errors, _ = hub_metadata.check(content.decode(errors="replace"), repo.kind)
        if errors:
            invalid = "" if errors[0].startswith("Invalid YAML") else "Invalid metadata in README.md: "
            raise HubRefusal(400, invalid + "; ".join(errors))
    return File.regular(repo.blobs, content)


# --- down -----------------------------------------------------------------------------------------------------------

@route("GET", WEB + "/resolve/([^/]+)/(.+)")
def resolve(call, plural, repo_id, revision, path):
    """A regular file itself; an LFS file's facts, and a redirect to a storage that wants no token."""
    repo = repo_of(call, plural, repo_id)
    check_gate(call, repo)
    commit = repo.resolve(revision)
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    if path not in commit.files:
        raise HubRefusal(404, "Entry not found", "EntryNotFound", headers)
    file = commit.files[path]
    name = f"inline; filename*=UTF-8''{urllib.parse.quote(path.rsplit('/', 1)[-1])}"
    if not file.lfs:
        return ranged(call, repo.blobs.read(file.sha256), {**headers, "ETag": f'"{file.oid}"', "Content-Disposition": name})
    at = f"{call.hub.storage}/_cdn/{file.sha256}"
    headers |= {"Location": at, "X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.sha256}"'}
    if xet_hash := call.hub.xet.hash_of(file.sha256):
        refresh = f"{call.hub.endpoint}/api/{repo.kind}s/{repo_id}/xet-read-token/{commit.oid}"
        headers |= {"X-Xet-Hash": xet_hash, "Link": f'<{refresh}>; rel="xet-auth"'}
    return Answer(302, f"Found. Redirecting to {at}".encode(), headers)


@route("GET", r"/_cdn/([0-9a-f]{64})")
def storage(call, sha256):
    if sha256 not in call.hub.blobs:
        raise HubRefusal(403, "Access denied")
    return ranged(call, call.hub.blobs.read(sha256), {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})


def ranged(call, content, headers):
    """The content, or the one range that was asked for."""
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("range", ""))
    headers = {"Content-Type": "application/octet-stream", **headers}
    if not wanted or wanted[0] == "bytes=-":
        return Answer(200, content, headers)
    start = int(wanted[1]) if wanted[1] else max(0, len(content) - int(wanted[2]))
    end = min(int(wanted[2]) + 1 if wanted[1] and wanted[2] else len(content), len(content))
    if start >= len(content):
        raise HubRefusal(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
    return Answer(206, content[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"})


# --- Spaces ---------------------------------------------------------------------------------------------------------

SPACE = r"/api/(spaces)/([\w.-]+/[\w.-]+)"


@route("GET", SPACE + "/runtime")
def space_runtime(call, plural, repo_id):
    return Answer.json(runtime_of(repo_of(call, plural, repo_id)))


@route("POST", SPACE + "/(restart|pause)")
def space_restart(call, plural, repo_id, verb):
    repo = repo_of(call, plural, repo_id, "repo.write")
    repo.stage = "PAUSED" if verb == "pause" else "RUNNING"
    return Answer.json(runtime_of(repo))


@route("GET", SPACE + "/(secrets|variables)")
def space_settings(call, plural, repo_id, which):
    repo = repo_of(call, plural, repo_id, "repo.write")
    return Answer.json(repo.variables if which == "variables" else {key: {"updatedAt": now()} for key in repo.secrets})


@route("POST", SPACE + "/(secrets|variables)")
def space_set(call, plural, repo_id, which):
    repo, wanted = repo_of(call, plural, repo_id, "repo.write"), call.json()
    if which == "secrets":
        repo.secrets[wanted["key"]] = wanted["value"]
    else:
        repo.variables[wanted["key"]] = {"value": wanted["value"], "description": wanted.get("description"), "updatedAt": now()}
    return space_settings(call, plural, repo_id, which)


@route("DELETE", SPACE + "/(secrets|variables)")
def space_unset(call, plural, repo_id, which):
    repo = repo_of(call, plural, repo_id, "repo.write")
    getattr(repo, which).pop(call.json()["key"], None)
    return space_settings(call, plural, repo_id, which)


# --- what the client asks on its own ----------------------------------------------------------------------------------

@route("GET", "/api/telemetry/.+")
def telemetry(call):
    return Answer()


@route("GET", "/api/agent-harnesses")
def agent_harnesses(call):
    return Answer.json({"standardEnvVars": [], "harnesses": {}})
