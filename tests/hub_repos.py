"""What the test Hub keeps: users and tokens, contents by hash, repositories with commits, branches and tags.

Nothing here knows HTTP. Refusals are `HubRefusal` with the status, the `X-Error-Code` and the message of huggingface.co.
"""

import dataclasses
import datetime
import fnmatch
import hashlib
import json
from pathlib import Path

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}  # of a repository's web address
MAX_REGULAR_BYTES = 10 * 2**20  # huggingface.co refuses larger files outside LFS

LFS_PATTERNS = """*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz *.onnx
*.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar *.tflite *.tgz *.wasm *.xz *.zip
*.zst *tfevents*""".split()  # the .gitattributes of a new repository
LFS_LINE = "{} filter=lfs diff=lfs merge=lfs -text\n"
SPACE_README = "---\ntitle: {title}\nemoji: 📚\ncolorFrom: blue\ncolorTo: red\nsdk: {sdk}\napp_file: app.py\npinned: false\n---\n\n" + (
    "Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference\n")


class HubRefusal(Exception):
    """An answer that is no success: status, message and, where the client reads one, the X-Error-Code."""

    def __init__(self, status, message, code=None, headers=None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


@dataclasses.dataclass(frozen=True)
class User:
    name: str
    orgs: dict[str, str]  # organisation → role in it: admin, write or read


@dataclasses.dataclass(frozen=True)
class Token:
    """`scopes` of a fineGrained token: namespace or repository id → permissions, "repo.content.read" or "repo.write"."""

    value: str
    user: User
    role: str  # "write", "read" or "fineGrained"
    scopes: dict[str, tuple[str, ...]]

    def may(self, permission, repo_id):
        """Whether both the user and the token allow it in that repository, which need not exist."""
        namespace = repo_id.split("/")[0]
        member = {self.user.name: "admin", **self.user.orgs}.get(namespace)
        if member is None or permission == "repo.write" and member == "read":
            return False
        if self.role == "fineGrained":
            granted = {*self.scopes.get(namespace, ()), *self.scopes.get(repo_id, ())}
            return permission in granted or permission == "repo.content.read" and "repo.write" in granted
        return self.role == "write" or permission != "repo.write"


class Blobs:
    """Contents by SHA-256, on disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.folder / sha256
        if not path.exists():
            path.write_bytes(content)
        return sha256

    def read(self, sha256: str) -> bytes:
        return (self.folder / sha256).read_bytes()

    def __contains__(self, sha256):
        return (self.folder / sha256).exists()

    def __iter__(self):
        return (path.name for path in sorted(self.folder.iterdir()))


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclasses.dataclass(frozen=True)
class File:
    """One file of one commit. `oid` is git's: of the content, or of the pointer where the content is in LFS."""

    sha256: str
    size: int
    oid: str
    lfs: bool

    @classmethod
    def regular(cls, blobs, content):
        return cls(blobs.put(content), len(content), git_hash(content), lfs=False)

    @classmethod
    def large(cls, sha256, size):
        return cls(sha256, size, git_hash(cls._pointer(sha256, size)), lfs=True)

    @staticmethod
    def _pointer(sha256, size):
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()

    @property
    def etag(self):
        return self.sha256 if self.lfs else self.oid

    @property
    def pointer_size(self):
        return len(self._pointer(self.sha256, self.size))


@dataclasses.dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    message: str
    author: str
    date: str  # ISO 8601, UTC
    parent: str | None
    files: dict[str, File]  # the whole tree, by path
    changed: dict[str, str]  # path → "added", "modified" or "deleted"; unchanged contents are absent


class Repo:
    """A repository: every commit ever made, in order, and the refs that point at them."""

    def __init__(self, kind, repo_id, blobs, private=False, gated=False, sdk=None):
        self.kind, self.id, self.blobs, self.private, self.gated, self.sdk = kind, repo_id, blobs, private, gated, sdk
        self.commits: list[Commit] = []
        self.branches: dict[str, str] = {"main": None}
        self.tags: dict[str, str] = {}
        self.readers: set[str] = set()  # whom the owner of a gated repository let in
        self.uploaded: set[str] = set()  # SHA-256 of the LFS objects that were sent to this repository, committed or not
        self.secrets: dict[str, str] = {}
        self.variables: dict[str, dict] = {}
        self.stage = "NO_APP_FILE"  # of a Space; RUNNING after a commit with app.py, or what a test sets
        files = {".gitattributes": "".join(map(LFS_LINE.format, LFS_PATTERNS)).encode()}
        if kind == "space":
            files["README.md"] = SPACE_README.format(title=repo_id.split("/")[1], sdk=sdk).encode()
        self.commit({path: File.regular(blobs, content) for path, content in files.items()}, "initial commit", author="system")

    @property
    def head(self) -> str:
        return self.branches["main"]

    @property
    def pushes(self) -> list[Commit]:
        """The commits that somebody made: all but the Hub's own first."""
        return [commit for commit in self.commits if commit.author != "system"]

    def resolve(self, revision) -> Commit:
        """A branch, a tag, or a commit id of at least seven characters. Refuses 404 RevisionNotFound."""
        revision = revision.removeprefix("refs/heads/")
        oid = self.branches.get(revision) or self.tags.get(revision)
        for commit in self.commits:
            if commit.oid == oid or not oid and len(revision) >= 7 and commit.oid.startswith(revision):
                return commit
        raise HubRefusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def files(self, revision="main") -> dict[str, bytes]:
        """Path → content, LFS objects included."""
        return {path: self.blobs.read(file.sha256) for path, file in self.resolve(revision).files.items()}

    def is_large(self, path, size, sample, revision="main") -> bool:
        """What preupload answers: .gitattributes, 10 MiB, or a sample that is no text. An empty file is never large."""
        if not size:
            return False
        attributes = self.resolve(revision).files.get(".gitattributes")
        lines = self.blobs.read(attributes.sha256).decode().splitlines() if attributes else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
        if size > MAX_REGULAR_BYTES or b"\0" in sample or any(matches(path, pattern) for pattern in patterns):
            return True
        return not is_text(sample)

    def commit(self, added, title, *, deleted=(), message="", author, branch="main", parent=None) -> Commit:
        """One atomic commit on a branch. Refuses 412 when `parent` is not its head, 404 for a deletion of nothing.

        deleted: (path, is_folder) each. LFS files that no pattern names are added to .gitattributes, as the Hub does.
        """
        head = self.resolve(branch) if self.commits else None
        if parent and not head.oid.startswith(parent):
            raise HubRefusal(412, "A commit has happened since. Please refresh and try again.")
        before = head.files if head else {}
        files = self._attributed(self._without(before, deleted), added)
        changed = {path: "modified" if path in before else "added" for path, file in files.items() if before.get(path) != file}
        changed |= {path: "deleted" for path in before if path not in files}
        body = [len(self.commits), self.kind, self.id, branch, title, sorted((path, file.oid) for path, file in files.items())]
        oid = hashlib.sha1(json.dumps(body).encode()).hexdigest()
        commit = Commit(oid, title, message, author, now(), head.oid if head else None, files, changed)
        self.commits.append(commit)
        self.branches[branch] = oid
        if "app.py" in files:
            self.stage = "RUNNING"
        return commit

    def _without(self, files, deleted):
        left = dict(files)
        for path, is_folder in deleted:
            gone = [name for name in left if name.startswith(path.rstrip("/") + "/")] if is_folder else [path] * (path in left)
            if not gone:
                raise HubRefusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            left = {name: file for name, file in left.items() if name not in gone}
        return left

    def _attributed(self, files, added):
        files = {**files, **added}
        attributes = files.get(".gitattributes")
        text = self.blobs.read(attributes.sha256).decode() if attributes else ""
        patterns = [line.split()[0] for line in text.splitlines() if "filter=lfs" in line]
        new = [path for path, file in added.items() if file.lfs and not any(matches(path, pattern) for pattern in patterns)]
        if new:
            files[".gitattributes"] = File.regular(self.blobs, (text + "".join(map(LFS_LINE.format, new))).encode())
        return files


def matches(path, pattern):
    """As git does: a pattern without a slash is matched against the name alone."""
    return fnmatch.fnmatchcase(path if "/" in pattern else path.rsplit("/", 1)[-1], pattern.replace("**/", "*"))


def is_ignored(path, gitignore: str):
    """Plain patterns and folders of a .gitignore; `!` is not understood."""
    for line in map(str.strip, gitignore.splitlines()):
        if line and not line.startswith("#") and (matches(path, line) or path.startswith(line.rstrip("/") + "/")):
            return True
    return False


def is_text(sample: bytes) -> bool:
    for cut in range(4):  # a sample of 512 bytes may end within a character
        try:
            sample[:len(sample) - cut].decode()
            return True
        except UnicodeDecodeError:
            continue
    return False


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
