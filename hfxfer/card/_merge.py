"""A card that its author has edited, rendered again: hfxfer's own sections and metadata are replaced, everything else is kept.

Own sections stand between `<!-- hfxfer:NAME -->` and `<!-- /hfxfer:NAME -->`. The last line of a card, `<!-- hfxfer:record … -->`, holds a
hash of each section and each key of the metadata as hfxfer wrote it: what differs from it was changed by hand, what is missing was removed.
"""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from typing import Any

from hfxfer.errors import RunError

BLOCK = re.compile(r"\A(\s*---\n)([\S\s]*?)(\n---[ \t]*(?:\n|\Z))")
"""The Hub's own expression (huggingface_hub.repocard), for text whose lines end with \\n."""

MARKERS = re.compile(r"^<!-- hfxfer:(?!record )(\w+) -->$|^<!-- /hfxfer:(\w+) -->$", re.MULTILINE)
SECTION = re.compile(r"^<!-- hfxfer:(\w+) -->\n(.*?)^<!-- /hfxfer:\1 -->$", re.MULTILINE | re.DOTALL)
RECORD = re.compile(r"^<!-- hfxfer:record (\{.*\}) -->\n?", re.MULTILINE)

CARD = "model/README.md"
"""Where a card is, unless another place is said."""


def split_metadata(text: str, place: str = CARD) -> tuple[str, dict[str, Any], str]:
    """(YAML as text, metadata, body) of a card; place: where it is. Raises RunError where the block is no YAML mapping."""
    import yaml

    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    found = BLOCK.search(text)
    if not found:
        return "", {}, text
    try:
        metadata = yaml.safe_load(found[2])
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 2})" if mark else ""
        raise RunError(f"the metadata at the top of {place} are no YAML{where}. Mend them between the lines of ---, "
                       "or delete the file") from error
    if not isinstance(metadata, dict | None):
        raise RunError(f"the metadata at the top of {place} are no mapping of names to values. Mend them between the lines of ---, "
                       "or delete the file")
    return found[2], metadata or {}, text[found.end():]


def sections_of(body: str) -> dict[str, str]:
    """name → text of hfxfer's own sections."""
    return {found[1]: found[2] for found in SECTION.finditer(body)}


def merged(existing: str, metadata: dict[str, Any], body: str, answered: set[str], place: str = CARD) -> tuple[str, dict[str, Any], list[str]]:
    """(card, its metadata, what was changed or kept, a line each) from the existing card and hfxfer's own new metadata and body.

    answered: keys of the metadata that were said just now; they win, and count as the author's own from then on. place: of the existing card.
    """
    before, old, rest = split_metadata(existing, place)
    recorded = RECORD.search(rest)
    record = _record(recorded)
    rest = RECORD.sub("", rest)
    kept, changes = _metadata(old, metadata, record.get("metadata", {}), answered)
    new = sections_of(body)
    if rest.strip():
        whole, told = _body(rest, body, new, record.get("sections", {}))
        changes += told
    else:
        whole = body
    # What the author removed stays on the record, so that it stays removed; what the author said never comes on it.
    own = {name for name in metadata if name not in answered and (name not in old or name in record.get("metadata", {}))}
    wrote = {"metadata": {name: digest(metadata[name]) for name in metadata if name in own and kept.get(name, metadata[name]) == metadata[name]},
             "sections": {name: digest(text) for name, text in new.items()}}
    block = before if kept == old and before else dumped(kept)
    text = f"---\n{block.rstrip()}\n---\n\n{whole.strip()}\n\n<!-- hfxfer:record {json.dumps(wrote, sort_keys=True)} -->\n"
    return (text.replace("\n", "\r\n") if "\r\n" in existing else text), kept, changes


def _record(found: re.Match | None) -> dict[str, dict[str, str]]:
    """What the last line of the card says; nothing where it was damaged."""
    try:
        read = json.loads(found[1]) if found else {}
    except ValueError:
        return {}
    return {kind: {str(name): str(value) for name, value in inner.items()} for kind, inner in read.items() if isinstance(inner, dict)}


def _metadata(old: dict[str, Any], new: dict[str, Any], record: dict[str, str], answered: set[str]) -> tuple[dict[str, Any], list[str]]:
    """The metadata of the new card, in the old one's order, and what is to be told."""
    if not old:
        return dict(new), []
    kept, changes = {}, []
    for name, value in old.items():
        own = record.get(name) == digest(value)
        if name in new and new[name] == value:
            kept[name] = value
        elif name in answered or (own and name in new):
            kept[name] = new[name]
            changes.append(f"metadata: {name} was replaced")
        elif own:
            changes.append(f"metadata: {name} was removed: it is not known any more")
        else:
            kept[name] = value
            if name in new:
                changes.append(f"metadata: {name} was kept as edited by hand")
    for name, value in new.items():
        if name in old:
            continue
        if name in record and name not in answered:
            changes.append(f"metadata: {name} stays out, as removed by hand")
        else:
            kept[name] = value
            changes.append(f"metadata: {name} was added")
    return kept, changes


def _body(rest: str, body: str, new: dict[str, str], record: dict[str, str]) -> tuple[str, list[str]]:
    """The old body with its own sections replaced; sections that it never had come after the one that they follow in the template."""
    old, changes = sections_of(rest), []

    def replaced(found: re.Match) -> str:
        name, text = found[1], found[2]
        if name not in new and name not in record:
            return found[0]
        if name not in new:
            changes.append(f"section {name} was removed: there is nothing to say any more")
            return ""
        if text != new[name]:
            by_hand = ", with what was edited by hand between its markers" if record.get(name, digest(text)) != digest(text) else ""
            changes.append(f"section {name} was replaced{by_hand}")
        return _section(name, new[name])

    whole = SECTION.sub(replaced, rest)
    before = ""
    for name in new:
        if name in old:
            before = name
        elif name in record:
            changes.append(f"section {name} stays out, as removed by hand")
        else:
            end = f"<!-- /hfxfer:{before} -->"
            at = whole.index(end) + len(end) if before else 0 if old else len(whole.rstrip())
            whole = f"{whole[:at].rstrip()}\n\n{_section(name, new[name])}\n\n{whole[at:].lstrip()}"
            changes.append(f"section {name} was added")
            before = name
    return whole, changes


def _section(name: str, text: str) -> str:
    return f"<!-- hfxfer:{name} -->\n{text}<!-- /hfxfer:{name} -->"


def dumped(metadata: dict[str, Any]) -> str:
    """YAML that PyYAML and the Hub's js-yaml read alike: text that begins like a number is quoted (1e3 and 0o7 are numbers to the Hub only)."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def represent_text(self, text: str) -> yaml.ScalarNode:
            return self.represent_scalar("tag:yaml.org,2002:str", text, style="'" if re.match(r"[-+.]?\d[^\s]*$", text) else None)

    Dumper.add_representer(str, Dumper.represent_text)
    return yaml.dump(metadata, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))


def digest(value: Any) -> str:
    return blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=6).hexdigest()
