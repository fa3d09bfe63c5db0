"""Small pictures of test rows, where their files are still there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr

from hfxfer.demo import limits

SIDE = 256


def thumbnails(rows: Iterable[tuple[str, str]]) -> list[tuple[Any, str]]:
    """(path, caption) → (picture of at most SIDE pixels, caption); one that cannot be read is left out."""
    found = []
    for path, caption in rows:
        if is_file(path):
            try:
                picture = limits.picture(path)
            except gr.Error:
                continue
            picture.thumbnail((SIDE, SIDE))
            found.append((picture, caption))
    return found


def is_file(text: str) -> bool:
    """True where an input is the path of a file that is still there."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # A text may be no valid path.
        return False
