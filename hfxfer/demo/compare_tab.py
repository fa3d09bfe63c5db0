"""The Compare tab and /compare: the same input through every model, and the test rows on which they disagree."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hfxfer.demo import answers, facts, words
from hfxfer.demo.events import MODEL_QUEUE, OWN
from hfxfer.demo.inputs import InputBox, named
from hfxfer.demo.served import READING, Served
from hfxfer.demo.thumbnails import thumbnails

MOST = 200
MOST_PICTURES = 24


class CompareTab:
    """Built inside `tab`. `predicted`: the box of the Predict tab."""

    def __init__(self, models: dict[str, Served], threshold: gr.Slider, tab: gr.Tab, predicted: InputBox):
        self.models = models
        self.first = next(iter(models.values()))
        gr.Markdown(words.COMPARE_HINT)
        with gr.Row():
            with gr.Column():
                self.box = InputBox(self.first, "compare-input")
                self.box.follow(tab, predicted)
                ask = gr.Button(words.COMPARE_ALL, variant="primary")
            with gr.Column():
                table = gr.Dataframe(headers=list(words.COMPARE_COLUMNS), datatype="str", interactive=False, wrap=True, label=words.COMPARE)
        with gr.Accordion(words.DISAGREE, open=True):
            said, heads, rows, inputs = disagreements(models)
            gr.Markdown(said)
            if rows:
                gr.Dataframe(rows, headers=heads, datatype="str", interactive=False, wrap=True, label=words.DISAGREE, show_label=False,
                             show_search="filter", max_height=420)
            if rows and self.first.is_image:
                self._pictures(heads, rows, inputs)
        self.box.asks(ask, self.asked, [threshold, *self.box.components], shown=[table], **MODEL_QUEUE, **OWN)
        gr.Button(visible=False).click(named(self.compare, self.box.names), self.box.components, gr.JSON(visible=False), api_name="compare",
                                       api_description=words.API_COMPARE, **MODEL_QUEUE)

    def _pictures(self, heads: list[str], rows: list[list[str]], inputs: list[str]) -> None:
        show = gr.Button(words.SHOW_PICTURES)
        gallery = gr.Gallery(label=words.DISAGREE, columns=6, height=320, object_fit="contain", visible=False, interactive=False)

        def shown() -> gr.Gallery:
            captions = [", ".join(f"{head}: {cell}" for head, cell in zip(heads[1:], row[1:])) for row in rows[:MOST_PICTURES]]
            return gr.Gallery(thumbnails(zip(inputs, captions)), visible=True)

        show.click(shown, None, gallery, **OWN)

    def compare(self, *values: Any) -> dict[str, Any]:
        """/compare: model → what /predict gives."""
        text = self.box.text(*values)
        return {name: answers.answer(record, self.models[name].problem_type, text) for name, record in self._records(*values)}

    def asked(self, threshold: float, *values: Any) -> list[list[str]]:
        return [[name, *answers.line(record, self.models[name].problem_type, threshold)] for name, record in self._records(*values)]

    def _records(self, *values: Any) -> list[tuple[str, dict[str, Any]]]:
        """(model, record) of one input."""
        for each in self.models.values():
            each.model()
        with READING:
            row = self.box.row(*values)
            encoded = {name: each.encoded([row]) for name, each in self.models.items()}
            del row
        return [(name, self.models[name].records(items)[0]) for name, items in encoded.items()]


def disagreements(models: dict[str, Served]) -> tuple[str, list[str], list[list[str]], list[str]]:
    """A sentence, heads, rows and their inputs: test rows that all Runs were scored on and that get answers that are shown as different."""
    runs = {name: each.run for name, each in models.items()}
    if not all(run and run.predictions_path.is_file() for run in runs.values()):
        return words.NOT_COMPARABLE, [], [], []
    tables = {name: run.predictions().select(["row_id", "input", "reference", "prediction"]).to_pylist() for name, run in runs.items()}
    first, *others = tables.values()
    by_row = [{row["row_id"]: row["prediction"] for row in rows} for rows in others]
    common = [row for row in first if all(row["row_id"] in rows for rows in by_row)]
    if not common:
        return words.NOT_COMPARABLE, [], [], []
    found = [(row, [row["prediction"], *(rows[row["row_id"]] for rows in by_row)]) for row in common]
    differ = [(row, given) for row, given in found if any(_said(answer) != _said(given[0]) for answer in given)]
    shown = [[facts.called(next(iter(models.values())), row["input"]), _said(row["reference"]), *map(_said, given)]
             for row, given in differ[:MOST]]
    more = words.FIRST_SHOWN.format(most=MOST) if len(differ) > MOST else ""
    said = words.DISAGREEMENT.format(number=len(differ), rows=len(common), shown=more)
    return said, [*words.DISAGREE_COLUMNS, *models], shown, [row["input"] for row, _ in differ[:MOST]]


def _said(answer: Any) -> str:
    """A label, labels, tags or a number as text."""
    return f"{answer:.4g}" if isinstance(answer, float) else answer if isinstance(answer, str) else " ".join(map(str, answer or []))
