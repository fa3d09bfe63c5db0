"""One sentence for the person, and nothing else of the server; one line for the log."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr


def refusal(sentence: str, **named: Any) -> gr.Error:
    """The error to raise. Texts are escaped: gradio (6.31) shows an error as HTML, without scripts but with pictures from elsewhere."""
    return gr.Error(sentence.format(**{name: html.escape(value, quote=False) if isinstance(value, str) else value for name, value in named.items()}),
                    print_exception=False)


def reason(error: BaseException) -> str:
    """A line of the log: gradio's and pydantic's messages have many, and hold what a stranger sent."""
    said = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {said[:300]!a}"
