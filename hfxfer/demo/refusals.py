"""One sentence for the person, and nothing else of the server."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr


def refusal(sentence: str, **named: Any) -> gr.Error:
    """The error to raise. Texts are escaped: gradio (6.31) shows an error as HTML, without scripts but with pictures from elsewhere."""
    return gr.Error(sentence.format(**{name: html.escape(value, quote=False) if isinstance(value, str) else value for name, value in named.items()}),
                    print_exception=False)
