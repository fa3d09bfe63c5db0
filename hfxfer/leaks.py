"""leaks: what should not be published, looked for in the files of a folder before they go up.

Tokens and keys of the usual services, e-mail addresses, paths in somebody's home directory, positions in pictures. Text is searched
whole; of weights only the header, which is text; of other binary files what no chance bytes look like (tokens, keys, paths).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

TOKENS = {
    "Hub token": r"\bhf_[A-Za-z0-9]{20,}",
    "AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{22,}",
    "GitLab token": r"\bglpat-[\w-]{20,}",
    "Google key": r"\bAIza[\w-]{35}",
    "OpenAI or Anthropic key": r"\bsk-(?=[\w-]{0,200}[0-9])(?:proj-|ant-)?[\w-]{20,200}",
    "Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "Stripe key": r"\b[rs]k_live_[A-Za-z0-9]{16,}",
    "PyPI token": r"\bpypi-AgE[\w-]{20,}",
    "JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "private key": r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----",
    "password in an address": r"\b[a-z][a-z+]{1,9}://[^\s/:@\"'<>]{1,64}:[^\s/@\"'<>]{3,64}@[\w.-]+",
    "key": r"(?i)(?:api_?key|api-key|secret_?key|access_?token|auth_?token|password|passwd)[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
           r"(?=[\w+/.-]{0,200}[0-9])[\w+/.-]{16,200}",
}
"""What → its form, as the services document it. The last one is for those that have no form of their own."""

HOME = (r"(?<![\w./-])/(?:home|Users)/[^\s/\"'<>|\\:,;)]{1,64}(?=[/\"'\s]|$)|(?<![\w./-])/root/[\w.-]|"
        r"\b[A-Za-z]:(?:\\{1,2}|/)Users(?:\\{1,2}|/)[^\s/\"'<>|\\]{1,64}")
EMAIL = r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,4}\.[A-Za-z]{2,24}(?![\w@-])"
NO_EMAIL = re.compile(r"(?i)^git@|@(?:[\w-]+\.)*example\.(?:com|org|net)$|\.(?:png|jpe?g|gif|webp|svg|py|json|md|txt)$")
"""The user of a Git address, the names kept for examples (RFC 2606), and files such as photo@2x.png."""

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
POSITION = 0x8825
"""The tag of EXIF that leads to the GPS entries."""

IN_USE = "the token in use"
MAX_SHOWN = 5
MAX_HEADER = 100 * 2**20
"""Bytes that safetensors allows for its header."""


@dataclass(frozen=True, slots=True)
class Finding:
    """file: its path in the folder. place: line and column, or which part. what: its kind. seen: enough of it to find it, never a whole secret."""

    file: str
    place: str
    what: str
    seen: str

    def __str__(self) -> str:
        return f"{self.file}, {self.place}: {self.what} {self.seen}".rstrip()

    def is_allowed(self, names: Iterable[str]) -> bool:
        """names: a file, a pattern of files, or a kind such as e-mail."""
        return any(name == self.what or fnmatchcase(self.file, name) for name in names)


def find(folder: Path, names: Iterable[str], secrets: Iterable[str] = ()) -> list[Finding]:
    """What should not be published in these files of a folder. secrets: texts in use, such as the token at hand, found in any form."""
    known = tuple(secret for secret in secrets if secret)
    return [finding for name in names for finding in _of_file(folder / name, name, known)]


def _of_file(path: Path, name: str, secrets: tuple[str, ...]) -> Iterator[Finding]:
    if path.suffix == ".safetensors":
        yield from _of_text(_header(path), name, secrets, "header, ")
        return
    content = path.read_bytes()
    try:
        yield from _of_text(content.decode("utf-8-sig"), name, secrets)
    except UnicodeDecodeError:
        yield from _of_binary(content, name, secrets)
        if path.suffix.lower() in IMAGES:
            yield from _of_image(path, name, secrets)


def _header(path: Path) -> str:
    """The JSON at the beginning of a safetensors file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return file.read(min(size, MAX_HEADER)).decode("utf-8", "replace")


def _of_text(text: str, name: str, secrets: tuple[str, ...], part: str = "") -> Iterator[Finding]:
    for start, what, seen in sorted(_tokens(text, secrets)):
        yield Finding(name, part + _place(text, start), what, seen)
    for found in re.finditer(EMAIL, text) if "@" in text else ():
        if not NO_EMAIL.search(found[0]) and "://" not in text[max(0, found.start() - 64):found.start()].rpartition("\n")[2].rpartition(" ")[2]:
            yield Finding(name, part + _place(text, found.start()), "e-mail", found[0])
    for found in re.finditer(HOME, text):
        yield Finding(name, part + _place(text, found.start()), "home directory", found[0])


def _of_binary(content: bytes, name: str, secrets: tuple[str, ...]) -> Iterator[Finding]:
    text = content.decode("latin-1")
    for start, what, seen in sorted(_tokens(text, secrets)):
        yield Finding(name, f"byte {start}", what, seen)
    for found in re.finditer(HOME, text):
        if found[0].isprintable() and found[0].isascii():
            yield Finding(name, f"byte {found.start()}", "home directory", found[0])


def _of_image(path: Path, name: str, secrets: tuple[str, ...]) -> Iterator[Finding]:
    """The position where a picture was taken, and what its compressed text says."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            position = dict(image.getexif().get_ifd(POSITION))
            texts = [str(value) for value in image.info.values() if isinstance(value, str)]
    except (UnidentifiedImageError, OSError, ValueError):
        return  # no picture, whatever its name says: its bytes were searched
    if position:
        yield Finding(name, "EXIF", "position", "where the picture was taken")
    for text in texts:
        yield from _of_text(text, name, secrets, "text of the picture, ")


def _tokens(text: str, secrets: tuple[str, ...]) -> Iterator[tuple[int, str, str]]:
    """(where, what, its beginning); each place once, under its most special name."""
    taken: list[tuple[int, int]] = []
    forms = [(IN_USE, re.escape(secret)) for secret in secrets] + list(TOKENS.items())
    for what, form in forms:
        for found in re.finditer(form, text, re.ASCII):  # beside a token no byte above 127 is a letter of it
            start, end = found.span()
            if not any(start < other_end and other_start < end for other_start, other_end in taken):
                taken.append((start, end))
                yield start, what, f"{found[0][:4]}…"


def _place(text: str, start: int) -> str:
    line = text.count("\n", 0, start) + 1
    return f"line {line}, column {start - (text.rfind(chr(10), 0, start) + 1) + 1}"
