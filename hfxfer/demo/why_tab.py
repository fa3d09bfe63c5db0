"""The Why tab and /explain: what an answer rests on, for the label that was answered or one that the person picks."""

from __future__ import annotations

import importlib.util
import string
from typing import Any

import gradio as gr

from hfxfer import console
from hfxfer.card._text import escaped
from hfxfer.demo import words
from hfxfer.demo.refusals import reason, refusal
from hfxfer.demo.answers import probabilities
from hfxfer.demo.events import AT_ONCE, OWN, WHY_QUEUE
from hfxfer.demo.inputs import InputBox, named
from hfxfer.demo.served import Served
from hfxfer.demo.trust import percent
from hfxfer.demo.why import Read, Seen, cells, explain_picture, explain_text, overlay
from hfxfer.tasks._task import REGRESSION

OPACITY = 0.6
GRID = 16
"""Places on each side of the heat that /explain returns."""

MOST_WORDS = 8


class WhyTab:
    """Built inside `tab`. `which`: the dropdown of models, or None with one model. `predicted`: the box of the Predict tab."""

    def __init__(self, models: dict[str, Served], which: gr.Dropdown | None, tab: gr.Tab, predicted: InputBox):
        self.models, which_one = models, [which] if which else []
        self.first = next(iter(models.values()))
        if importlib.util.find_spec("captum") is None:
            gr.Markdown(words.NO_EXPLANATION)
            return
        gr.Markdown(words.WHY_HINT)
        with gr.Row():
            with gr.Column():
                self.box = InputBox(self.first, "why-input")
                self.box.follow(tab, predicted)
                label = gr.Dropdown([(words.THE_ANSWER, ""), *((name, name) for name in self.first.labels)], value="", label=words.WHICH_LABEL,
                                    visible=self.first.problem_type != REGRESSION)
                ask = gr.Button(words.EXPLAIN, variant="primary")
            with gr.Column():
                said, kept = gr.Markdown(elem_id="why"), gr.State()
                if self.first.is_image:
                    shown: Any = gr.Image(label=words.HEAT, alt_text=words.HEAT_TEXT, interactive=False, buttons=["fullscreen"], format="png")
                    opacity = gr.Slider(0, 1, value=OPACITY, step=0.05, label=words.OPACITY)
                    opacity.change(lambda text, seen, strength: overlay(seen, strength) if text and seen else gr.skip(), [said, kept, opacity], shown,
                                   **AT_ONCE)
                else:
                    shown = gr.HighlightedText(label=words.WEIGHTS, show_legend=True)
        self.box.asks(ask, self.asked, [label, *which_one, *self.box.components], shown=[said, shown], kept=[kept], **WHY_QUEUE, **OWN)
        for_clients = gr.Textbox(value="", visible=False)
        gr.Button(visible=False).click(named(self.explain, [*self.box.names, "label", *(["model"] if which else [])]),
                                       [*self.box.components, for_clients, *which_one], gr.JSON(visible=False), api_name="explain",
                                       api_description=words.API_EXPLAIN, **WHY_QUEUE)

    def explain(self, *given: Any) -> dict[str, Any]:
        """/explain: the components of the input, a label or nothing, the model's name where there are several."""
        number = len(self.box.components)
        served = self.models.get(given[-1], self.first) if len(given) > number + 1 else self.first
        label, found = self._explained(served, given[number], *given[:number])
        if isinstance(found, Seen):
            return {"label": label, "method": found.method, "heat": cells(found.heat, min(GRID, *found.heat.shape)).tolist()}
        if found is None:
            raise refusal(words.WHY_NOTHING)
        said = {"label": label, "method": found.method,
                "words": [{"word": word, "start": start, "end": end, "weight": weight} for word, start, end, weight in found.words]}
        return {**said, "note": words.CUT.format(most=found.cut_at)} if found.cut_at else said

    def asked(self, label: str, *given: Any) -> tuple[str, Any, Any]:
        """Sentence, overlay or marked words, and what the overlay is made of."""
        which, values = given[:len(given) - len(self.box.components)], given[len(given) - len(self.box.components):]
        served = self.models.get(which[0], self.first) if which else self.first
        chosen, found = self._explained(served, label, *values)
        if found is None:
            return words.WHY_NOTHING, None, None
        if isinstance(found, Seen):
            return sentence(chosen, found), overlay(found, OPACITY), found
        return sentence(chosen, found), marked(found, self.box.text(*values)), None

    def _explained(self, served: Served, label: str | None, *values: Any) -> tuple[str, Seen | Read | None]:
        """The label that is explained, and the explanation. Raises gr.Error."""
        row = self.box.row(*values)
        if label and served.problem_type != REGRESSION and label not in served.labels:
            raise refusal(words.UNKNOWN_LABEL, label=str(label)[:80], allowed=", ".join(served.labels[:20]))
        candidates = [label] if label else self._answered(served, row)
        with served.alone() as model:
            try:
                for chosen in candidates:
                    target = 0 if served.problem_type == REGRESSION else served.labels.index(chosen)
                    found = (explain_picture(model.predictor, row, target) if served.is_image else
                             explain_text(model.predictor, row, self.box.text(*values), target))
                    if found is not None:
                        return chosen, found
                return "", None
            except Exception as error:
                console.error(f"explaining failed: {reason(error)}")
                raise refusal(words.FAILED) from error

    def _answered(self, served: Served, row: dict[str, Any]) -> list[str]:
        """The most probable label; of a number its name; of words, the tags that what was found may bear, in its order."""
        record = served.predict([row])[0]
        if served.problem_type == REGRESSION:
            return [words.ANSWER]
        if served.problem_type != "tags":
            found = probabilities(record)
            return [max(found, key=found.__getitem__)]
        # An entity may begin with I-, where B- only parts two neighbours (IOB1).
        kinds = [kind for entity in dict.fromkeys(each["entity"] for each in record["entities"]) for kind in (f"B-{entity}", entity, f"I-{entity}")]
        return [kind for kind in kinds if kind in served.labels]


def sentence(label: str, found: Seen | Read) -> str:
    """The explanation in words: for those who do not see the colours, and for all."""
    named = {"label": escaped(label), "method": found.method}
    if isinstance(found, Read):
        ranked = sorted(found.words, key=lambda word: -abs(word[3]))[:MOST_WORDS]
        said = [words.WHY_WORD.format(word=escaped(word.strip(string.punctuation) or word), weight=f"{weight:+.2f}") for word, _, _, weight in ranked]
        cut = f"{words.CUT.format(most=found.cut_at)}\n\n" if found.cut_at else ""
        return cut + words.WHY_WORDS.format(**named, words=", ".join(said))
    shares = cells(found.heat, 3)
    if not found.heat.any():
        return words.WHY_PICTURE_NOTHING.format(**named)
    ranked = sorted(((shares[row][column], words.PLACES[row][column]) for row in range(3) for column in range(3)), reverse=True)[:2]
    places = [words.SHARE_OF_PLACE.format(place=place, share=percent(share)) for share, place in ranked]
    return words.WHY_PICTURE.format(**named, places=", ".join(places))


def marked(found: Read, text: str) -> list[tuple[str, float | None]]:
    """(piece of the text, weight or None) for gr.HighlightedText."""
    pieces: list[tuple[str, float | None]] = []
    at = 0
    for _, start, end, weight in found.words:
        pieces += [(text[at:start], None), (text[start:end], weight)]
        at = end
    return [piece for piece in [*pieces, (text[at:], None)] if piece[0]]
