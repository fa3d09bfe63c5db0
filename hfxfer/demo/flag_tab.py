"""Below the answer: this is wrong, and what is right; and /flag."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hfxfer.card._text import escaped
from hfxfer.demo import answers, words
from hfxfer.demo.events import AT_ONCE, OWN
from hfxfer.demo.flags import Flags
from hfxfer.demo.inputs import InputBox, named
from hfxfer.demo.served import Served
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION


def flag_box(box: InputBox, served: Served, flags: Flags, answered: gr.State) -> None:
    """Built below the input `box`, whose input is what is reported. answered: the Predict tab's last answer, whose tags are there to be corrected."""
    def keep(*given: Any) -> str:
        *values, right = given
        return flags.keep(box.row(*values), right)

    with gr.Accordion(words.FLAG, open=False):
        gr.Markdown(words.FLAG_HINT)
        right = _right(served)
        report = gr.Button(words.KEEP)
        said = gr.Markdown(elem_id="kept")
    if served.problem_type == "tags":
        box.clears(right)
        def tagged(given: dict[str, Any] | None) -> str:
            return " ".join(answers.tags(given["record"], served.labels, given["text"])) if given else ""

        answered.change(tagged, answered, right, **AT_ONCE)
    names = [*box.names, "right"]
    report.click(keep, [*box.components, right], said, **OWN)
    for_clients = gr.JSON(visible=False)
    gr.Button(visible=False).click(named(keep, names), [*box.components, for_clients], gr.Textbox(visible=False), api_name="flag",
                                   api_description=words.API_FLAG)


def _right(served: Served) -> Any:
    if served.problem_type == "tags":
        return gr.Textbox(label=words.RIGHT_TAGS, info=" ".join(map(escaped, served.labels)))
    if served.problem_type == REGRESSION:
        return gr.Number(label=words.RIGHT_VALUE, value=None)
    if served.problem_type == MULTI_LABEL:
        return gr.Dropdown(list(served.labels), value=[], multiselect=True, label=words.RIGHT_LABELS)
    return gr.Dropdown(list(served.labels), value=None, label=words.RIGHT_LABEL)
