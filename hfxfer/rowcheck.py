"""Look at every row once before anything is trained: what it holds, whether it can be read, whom it equals.

The id of a row is a hash of its inputs alone (for a picture: of the file's bytes), so it survives renaming and
re-labelling and finds duplicates across splits.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any

from hfxfer import images
from hfxfer.columns import Column, as_list, is_missing
from hfxfer.console import Progress
from hfxfer.errors import DataError

CHUNK = 64


def check_inputs(columns: dict[str, Sequence[Any]], roles: dict[str, Column]) -> tuple[list[str], dict[int, str]]:
    """Open every input once, in threads: content id of each row, and the fault of each bad row by position.

    columns: role → cells, inputs only. Decoding and hashing release the interpreter lock, so threads are enough.
    """
    num_rows = len(next(iter(columns.values())))
    ids, faults = [""] * num_rows, {}

    def check(start: int) -> None:
        for i in range(start, min(start + CHUNK, num_rows)):
            try:
                ids[i] = content_id({role: _checked(cells[i], roles[role]) for role, cells in columns.items()})
            except DataError as error:
                faults[i] = str(error)

    has_files = any(roles[role].kind == "image" for role in columns)
    starts = range(0, num_rows, CHUNK)
    if not has_files:
        for start in starts:
            check(start)
        return ids, faults
    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 1)) as pool, \
            Progress(num_rows, "files checked", "files") as bar:
        for start, _ in zip(starts, pool.map(check, starts)):
            bar.advance(min(CHUNK, num_rows - start))
    return ids, dict(sorted(faults.items()))


def without_place(fault: str, place: str) -> str:
    """The fault without the picture's path where that says the same as the place."""
    path, _, reason = fault.partition(": ")
    return reason if reason and (path == "image" or path.endswith(place)) else fault


def _checked(cell: Any, column: Column) -> Any:
    """What of the cell is hashed. Raises DataError with the fault."""
    if column.kind == "image":
        return _checked_image(cell)
    if column.kind == "text":
        return _checked_text(cell, column.required)
    if column.kind == "tokens":
        return _checked_tokens(cell)
    return cell


def _checked_image(cell: Any) -> Any:
    if is_missing(cell):
        raise DataError("no image given")
    content = images.image_content(cell)
    images.check_image(content, images.describe_image(cell))
    if isinstance(content, bytes):
        return content
    palette = content.getpalette() if content.mode == "P" else None
    return f"{content.mode} {content.size} {palette} ".encode() + content.tobytes()


def _checked_text(cell: Any, required: bool) -> str:
    if is_missing(cell):
        if required:
            raise DataError("the text is empty")
        return ""
    if not isinstance(cell, str):
        raise DataError(f"{cell!r} is a {type(cell).__name__}, not a text")
    return cell


def _checked_tokens(cell: Any) -> list[str]:
    tokens = None if is_missing(cell) else as_list(cell)
    if not tokens:
        raise DataError("the list of tokens is empty" if is_missing(cell) or tokens is not None
                        else f"{cell!r} is not a list of tokens")
    wrong = [token for token in tokens if not isinstance(token, str) or not token.strip()]
    if wrong:
        raise DataError(f"token {wrong[0]!r} is no word")
    return tokens


def content_id(inputs: dict[str, Any]) -> str:
    """16 hexadecimal digits over the inputs of a row, role by role."""
    digest = blake2b(digest_size=8)
    for role, value in sorted(inputs.items()):
        content = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False, default=repr).encode(
            "utf-8", "surrogatepass")
        digest.update(f"{role}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def with_repeats_numbered(contents: Sequence[str]) -> list[str]:
    """Content ids as row ids: the k-th repeat of one gets the suffix "-k"."""
    seen: Counter[str] = Counter()
    ids = []
    for content in contents:
        ids.append(f"{content}-{seen[content]}" if seen[content] else content)
        seen[content] += 1
    return ids


def content_of(row_id: str) -> str:
    """The content id in a row id."""
    return row_id.split("-", 1)[0]


def check_targets(
    cells: Sequence[Any], read: Callable[[Any], Any], known: set[str] | None, tokens: Sequence[Any] | None
) -> tuple[list[Any], dict[int, str]]:
    """Targets in their one form, and the fault of each row that has none or a wrong one.

    known: label names that may occur, None for any. tokens: the row's tokens, one for each tag.
    """
    targets, faults = [], {}
    for i, cell in enumerate(cells):
        target = None
        try:
            target = read(cell)
            fault = "no label" if target is None else _target_fault(target, known, tokens[i] if tokens else None)
        except DataError as error:
            fault = str(error)
        if fault:
            faults[i] = fault
        targets.append(target)
    return targets, faults


def _target_fault(target: Any, known: set[str] | None, tokens: Any) -> str | None:
    labels = target if isinstance(target, list) else [target]
    unknown = [label for label in labels if known is not None and label not in known]
    if unknown:
        shown = sorted(known)
        names = ", ".join(shown[:10]) + (f", … ({len(shown)} labels)" if len(shown) > 10 else "")
        return f"label {unknown[0]!r} is not one of the model's: {names}"
    if tokens is not None:
        words = as_list(tokens) or []
        if words and len(words) != len(target):
            return f"{len(words)} tokens and {len(target)} tags"
    return None


def repeated(contents: dict[str, list[str]], places: dict[str, list[str]]) -> tuple[list[dict], list[dict]]:
    """Exact duplicates: (within one split, across splits), each with the places where the same input stands."""
    where: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, ids in contents.items():
        for content, place in zip(ids, places[split]):
            where[content].append((split, place))
    within, across = [], []
    for found in where.values():
        splits = list(dict.fromkeys(split for split, _ in found))
        if len(splits) > 1:
            firsts = [next(place for name, place in found if name == split) for split in splits]
            rest = [place for _, place in found if place not in firsts]
            across.append({"splits": splits, "places": firsts + rest})
        for split in splits:
            own = [place for name, place in found if name == split]
            if len(own) > 1:
                within.append({"split": split, "places": own})
    return within, across


def conflicts(contents: list[str], targets: list[Any], places: list[str]) -> list[dict]:
    """The same input with different targets."""
    where: dict[str, list[int]] = defaultdict(list)
    for i, content in enumerate(contents):
        where[content].append(i)
    return [
        {"places": [places[i] for i in found], "targets": [targets[i] for i in found]}
        for found in where.values()
        if any(targets[i] != targets[found[0]] for i in found[1:])
    ]
