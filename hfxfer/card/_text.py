"""Markdown from text that others wrote: no character of it may act as Markdown, HTML or a marker of hfxfer's."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;", "\\": "&#92;", "@": "&#64;", "$": "&#36;"}
ESCAPED = "*[]~#!{}^"
BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
LONGEST = 120
"""A label or name longer than this is cut. Characters."""


def escaped(text: Any, longest: int = LONGEST) -> str:
    """`text` on one line, to be read as it is: in a sentence, a heading or a cell of a table.

    Control and direction marks are shown by their number. A first character that would begin a list or a heading is escaped.
    """
    text = str(text)
    text = text if len(text) <= longest else text[:longest - 1] + "…"
    shown = "".join(_shown(sign) for sign in " ".join(text.split()))
    shown = re.sub(r"(?<![^\W_])_|_(?![^\W_])", "&#95;", shown)
    shown = re.sub(r"(?i)(https?|ftp)://", r"\1&#58;//", re.sub(r"(?i)\bwww\.", lambda found: found[0][:-1] + "&#46;", shown))
    shown = re.sub(r"^([-+=])(?=\1|\s|$)", lambda found: f"&#{ord(found[1])};", shown)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", lambda found: f"{found[1]}&#{ord(found[2])};", shown) or "&nbsp;"


def _shown(sign: str) -> str:
    if sign in ENTITIES:
        return ENTITIES[sign]
    if sign in ESCAPED:
        return "\\" + sign
    hidden = unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co", "Cn") or unicodedata.bidirectional(sign) in BIDIRECTIONAL
    # The joiners that emoji and some scripts are written with act on their neighbours only.
    return f"U+{ord(sign):04X}" if hidden and sign not in "\u200c\u200d" else sign


def listed(names: Sequence[Any], most: int = 10) -> str:
    """a, b and 3 more; escaped."""
    shown = ", ".join(escaped(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], most: int = 50, rest: str = "") -> str:
    """A Markdown table; all but the first column to the right. Cells are escaped already. rest: where rows beyond `most` are to be found."""
    rows = list(rows)
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(['---', *['---:'] * (len(heads) - 1)])} |"]
    lines += [f"| {' | '.join(row)} |" for row in rows[:most]]
    if len(rows) > most:
        lines += ["", f"{len(rows) - most} more rows{rest}."]
    return "\n".join(lines)


def fenced(code: str, language: str) -> str:
    """A block of code, its fence longer than any that the code holds."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", code)), default=0))
    return f"{fence}{language}\n{code}\n{fence}"


def counted(number: int, one: str, many: str = "") -> str:
    """1 row, 2,000 rows."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
