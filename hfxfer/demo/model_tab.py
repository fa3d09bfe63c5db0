"""The Model tab: card, scores with intervals, classes, confusions with the rows behind them, learning curve; or that they are absent."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hfxfer.card._text import escaped
from hfxfer.demo import facts, words
from hfxfer.demo.events import OWN
from hfxfer.demo.served import Served
from hfxfer.demo.thumbnails import thumbnails
from hfxfer.tasks._task import Problem


def model_tab(served: Served) -> None:
    """Fills the tab that it is called in."""
    found = facts.scores(served)
    with gr.Accordion(words.SCORES, open=True):
        if found is None:
            gr.Markdown(words.NO_SCORES)
        else:
            _table(list(words.SCORE_COLUMNS), facts.score_rows(found), words.SCORES)
    with gr.Accordion(words.CLASSES, open=False):
        heads, rows = facts.class_rows(found) if found else ([], [])
        if rows:
            _table(heads, rows, words.CLASSES)
        else:
            gr.Markdown(words.NO_CLASSES)
    with gr.Accordion(words.CONFUSION, open=True):
        _confusion(served, found)
    with gr.Accordion(words.LEARNING, open=False):
        _learning(served)
    with gr.Accordion(words.CARD, open=False):
        gr.Markdown(facts.card(served) or words.NO_CARD, sanitize_html=True, elem_classes="card")


def _confusion(served: Served, found: dict[str, Any] | None) -> None:
    matrix = (found or {}).get("confusion_matrix")
    if not matrix:
        gr.Markdown(words.NO_CONFUSION)
        return
    labels, counts = found["labels"], matrix["counts"]
    small = len(labels) <= facts.MOST_CELLS
    gr.Markdown(words.CONFUSION_HINT.format(split=matrix["split"]) if small else words.TOO_MANY_LABELS.format(labels=len(labels)))
    rows = [[label, *map(str, row)] for label, row in zip(labels, counts)]
    cells = _table([words.REFERENCE_COLUMN, *labels], rows, words.CONFUSION) if small else None
    if served.run is None or not served.run.predictions_path.is_file():
        gr.Markdown(words.NO_ROWS)
        return
    with gr.Row():
        pair = [gr.Dropdown(labels, value=labels[at], label=said) for said, at in ((words.REFERENCE, 0), (words.PREDICTION, min(1, len(labels) - 1)))]
        show = gr.Button(words.SHOW_ROWS)
    said = gr.Markdown()
    pictures = gr.Gallery(label=words.BEHIND_PICTURES, columns=6, height=320, object_fit="contain", visible=False, interactive=False)
    rows = gr.Dataframe(headers=list(words.BEHIND_COLUMNS), datatype="str", interactive=False, wrap=True, label=words.BEHIND_TABLE, visible=False)

    def behind(reference: str, prediction: str) -> tuple:
        number, shown = facts.behind(served, reference, prediction)
        text = words.BEHIND.format(number=number, reference=escaped(reference), prediction=escaped(prediction),
                                   shown=words.FIRST_SHOWN.format(most=len(shown)) if number > len(shown) else "")
        lines = facts.confidences(served, shown)
        small = thumbnails((row["input"], ", ".join(reversed(line))) for row, line in zip(shown, lines)) if served.is_image else []
        return text, gr.Gallery(small, visible=bool(small)), gr.Dataframe(lines, visible=bool(shown) and not small)

    def chosen(event: gr.SelectData) -> tuple:
        # Not the row's number, which changes when somebody sorts the table.
        reference, prediction = event.row_value[0], labels[max(0, event.index[1] - 1)]
        return reference, prediction, *behind(reference, prediction)

    show.click(behind, pair, [said, pictures, rows], **OWN)
    if cells is not None:
        cells.select(chosen, None, [*pair, said, pictures, rows], **OWN)


def _learning(served: Served) -> None:
    metric = served.task.primary_metric(Problem(served.problem_type, served.labels))
    rows = facts.learning(served, metric)
    path = facts.file(served, "figures/learning_curve.png")
    if not rows and path is None:
        gr.Markdown(words.NO_LEARNING)
    if path is not None:
        gr.Image(str(path), alt_text=words.CURVE_TEXT, show_label=False, interactive=False, buttons=["fullscreen"])
    if rows:
        _table([head.format(metric=metric.replace("_", " ")) for head in words.CURVE_COLUMNS], rows, words.LEARNING)


def _table(heads: list[str], rows: list[list[str]], said: str) -> gr.Dataframe:
    return gr.Dataframe(rows, headers=heads, datatype="str", interactive=False, wrap=True, label=said, show_label=False, max_height=420)
