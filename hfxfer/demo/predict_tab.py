"""The Predict tab and /predict: one input, its answer, and how far that can be trusted."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hfxfer.demo import answers, trust, words
from hfxfer.demo.events import AT_ONCE, MODEL_QUEUE, OWN
from hfxfer.demo.inputs import InputBox, named
from hfxfer.demo.served import READING, Served
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION

SHOWN = 10
"""Probabilities that are listed."""


class PredictTab:
    """Built inside a gr.Tab. `which`: the dropdown of models, or None with one model."""

    def __init__(self, models: dict[str, Served], which: gr.Dropdown | None):
        self.models, self.which = models, [which] if which else []
        self.first = next(iter(models.values()))
        self.measured: dict[str, trust.Measured | None] = {}
        with gr.Row():
            with gr.Column():
                self.box = InputBox(self.first)
                self.ask = gr.Button(words.ASK, variant="primary")
            with gr.Column():
                self._results()
        examples = self._examples()
        self._events(examples)

    def _results(self) -> None:
        kind = self.first.problem_type
        self.verdict = gr.Markdown(elem_id="verdict", container=True, label=words.ANSWER, show_label=False)
        self.detail: Any = gr.State()
        if kind == "tags":
            self.detail = gr.HighlightedText(label=words.ENTITIES, show_inline_category=True, show_legend=False)
        elif kind != REGRESSION:
            self.detail = gr.Label(label=words.RESULT, num_top_classes=SHOWN, show_heading=False)
        self.threshold = gr.Slider(0, 1, value=self.first.threshold, step=0.01, label=words.THRESHOLD, visible=kind != REGRESSION,
                                   info=words.LABEL_THRESHOLD_INFO if kind == MULTI_LABEL else words.THRESHOLD_INFO)
        self.note = gr.Markdown(self._note(self.first, self.first.threshold), elem_id="note")
        self.answered = gr.State()

    def _examples(self) -> gr.Examples | None:
        rows = self.box.examples()
        if not rows:
            gr.Markdown(words.NO_EXAMPLES)
            return None
        label = words.EXAMPLES if self.first.run else words.CARD_EXAMPLES
        return gr.Examples(rows, self.box.components, label=label, examples_per_page=12, api_visibility="private")

    def _events(self, examples: gr.Examples | None) -> None:
        given, shown = [*self.which, *self.box.components], [self.verdict, self.detail, self.note]
        asking = {"fn": self.asked, "inputs": given, "outputs": self.answered, "show_progress_on": self.verdict, **MODEL_QUEUE, **OWN}
        showing = {"fn": self.shown, "inputs": [self.threshold, *self.which, self.answered], "outputs": shown, **AT_ONCE}
        triggers = [self.ask.click]
        if self.first.is_image:
            triggers.append(self.box.components[0].change)
        else:
            triggers += [box.submit for box in self.box.components]
        asked = [gr.on(triggers, **asking)]
        if examples and not self.first.is_image:
            asked.append(examples.load_input_event.then(**asking))
        for each in asked:
            # Only then with the threshold, which may have been moved meanwhile; and no answer stays beside an input that it is not of.
            each.success(**showing)
            each.failure(lambda: None, None, self.answered, **AT_ONCE).then(**showing)
        for which in self.which:
            which.change(lambda: None, None, self.answered, **AT_ONCE).then(**showing)
        self.threshold.change(**{**showing, "fn": self.moved})
        names = [*self.box.names, *(["model"] if self.which else [])]
        gr.Button(visible=False).click(named(self.predict, names), [*self.box.components, *self.which], gr.JSON(visible=False), api_name="predict",
                                       api_description=words.API_PREDICT, **MODEL_QUEUE)

    def _served(self, which: list[Any]) -> Served:
        return self.models.get(which[0], self.first) if self.which and which else self.first

    def predict(self, *given: Any) -> Any:
        """/predict: the components of the input, then the model's name where there are several."""
        number = len(self.box.components)
        served, values = self._served(list(given[number:])), given[:number]
        record, cut_at = self._record(served, values)
        found = answers.answer(record, served.problem_type, self.box.text(*values))
        return {**found, "note": words.CUT.format(most=cut_at)} if cut_at else found

    def asked(self, *given: Any) -> dict[str, Any] | None:
        """What is known of one input: its record, its text, and where it was cut. None for a picture that was taken away."""
        which, values = given[:len(self.which)], given[len(self.which):]
        if self.first.is_image and values[0] is None:
            return None
        served = self._served(list(which))
        record, cut_at = self._record(served, values)
        return {"record": record, "text": self.box.text(*values), "cut": cut_at}

    def _record(self, served: Served, values: tuple[Any, ...]) -> tuple[dict[str, Any], int | None]:
        """The record, and the most tokens where the text has more. No picture is held while others are computed."""
        served.model()  # Nobody waits for another model while this one loads.
        with READING:
            encoded = served.encoded([self.box.row(*values)])
        return served.records(encoded)[0], encoded.cut_at

    def shown(self, threshold: float, *given: Any) -> tuple:
        """Verdict, probabilities or entities, and what is known of this threshold. The last value is what `asked` gave."""
        *which, answered = given
        served = self._served(which)
        note = self._note(served, threshold)
        if not answered:
            return "", None, note
        record, text, kind = answered["record"], answered["text"], served.problem_type
        if answered["cut"]:
            note = f"{words.CUT.format(most=answered['cut'])}\n\n{note}"
        detail = (answers.highlighted(record, threshold, text) if kind == "tags" else
                  None if kind == REGRESSION else answers.probabilities(record))
        return answers.verdict(record, kind, threshold, text), detail, note

    def moved(self, threshold: float, *given: Any) -> tuple:
        """`shown`; what stands there stays where the answer is no longer known: gradio keeps it for a number of pages only."""
        return self.shown(threshold, *given) if given[-1] else (gr.skip(), gr.skip(), self._note(self._served(list(given[:-1])), threshold))

    def _note(self, served: Served, threshold: float) -> str:
        if served.problem_type == REGRESSION:
            return ""
        if served.name not in self.measured:
            self.measured[served.name] = trust.measured(served.run, served.problem_type, served.labels)
        measured = self.measured[served.name]
        said = [measured.sentence(threshold) if measured else words.NOT_MEASURED]
        if served.problem_type != "tags" and served.is_settled and not served.has_failed:
            said.append(words.CALIBRATED if served.is_calibrated else words.NOT_CALIBRATED)
        return " ".join(said)
