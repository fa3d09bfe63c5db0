"""card: a Run → the README of its model. Reads the Run folder only; no network.

    card = render(Run("runs/pets"), model_id="me/pets", license="apache-2.0")
    card.text, card.metadata, card.questions, card.changes, faults(card.metadata, card.text)

The text's frame is model_cards/template.md. Whatever an author adds or changes outside hfxfer's own sections stays (`_merge.py`).
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from string import Template
from typing import Any

from hfxfer.card import _merge, _metadata, _results, _training, _usage
from hfxfer.card._facts import Facts, is_hub_id, number, interval
from hfxfer.card._text import counted, escaped, listed
from hfxfer.card.rules import faults, wrong_answers
from hfxfer.errors import RecipeError
from hfxfer.metrics import MULTI_LABEL, REGRESSION
from hfxfer.recipe import languages
from hfxfer.run import Run, write_text
from hfxfer.shipped import shipped

__all__ = ["Card", "faults", "render", "write"]

FIGURES = {"confusion": "confusion_matrix", "reliability": "reliability", "curve": "learning_curve", "climb": "ladder"}
"""Placeholder → file in model/figures/; where the file is missing nothing is said of it."""


@dataclass(frozen=True, slots=True)
class Card:
    """text: the whole README. metadata: of its block. questions: what only the author knows. changes: against the existing card, a line each."""

    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


def render(run: Run, *, model_id: str = "", existing: str = "", card_examples: bool = False, language: list[str] | None = None,
           license: str | None = None, license_name: str | None = None, license_link: str | None = None,
           space_id: str = "", place: str = _merge.CARD) -> Card:
    """The card of a finished Run. Writes nothing.

    model_id: the Hub id that the snippets load; MODEL stands for it where it is not known yet. existing: the card as it is, hand-edited
    or not. card_examples: also test rows, which are the user's data. What is not given of card_examples, language and license (with
    license_name and license_link, where it is other) is the recipe's. space_id: of the Space that shows the model; where the Run was pushed
    with one it is known. place: of the existing card. Raises RunError; RecipeError for a model_id, licence or language that the Hub does not know.
    """
    if model_id and not is_hub_id(model_id):
        raise RecipeError(f"model_id is {model_id!r}; allowed: NAME or NAME/REPO of letters, digits, '-', '_' and '.'. Give another --hub_model_id")
    facts = Facts.read(run, model_id, space_id)
    recipe, terms = facts.recipe, {"license": license, "license_name": license_name, "license_link": license_link}
    # The recipe's answers are older than the card: what was edited in it by hand since goes before them.
    answered = {name for name, value in (("language", language), *terms.items()) if value}
    if license in (None, recipe.license):  # else the names in the recipe are of another licence
        terms = {name: value or getattr(recipe, name) for name, value in terms.items()}
    terms = {name: value for name, value in terms.items() if value}
    language, card_examples = language or languages(recipe.language), card_examples or recipe.card_examples
    wrong = wrong_answers(terms.get("license"), language or [])
    if wrong:
        raise RecipeError("\n".join(wrong))
    own = _metadata.metadata(facts, card_examples=card_examples, language=language, terms=terms)
    known = {**_merge.split_metadata(existing, place)[1], **own}
    asked = _metadata.questions(facts, known)
    text, metadata, changes = _merge.merged(existing, own, _body(facts, asked), answered, place)
    return Card(text, metadata, asked, changes)


def write(run: Run, *, existing: str | None = None, **settings: Any) -> Card:
    """Render against model/README.md, or the `existing` card that is given, write it to model/README.md, and put into model/examples/ what the
    card shows of the test rows, or take it away."""
    path = run.model_dir / "README.md"
    here = path.read_bytes().decode("utf-8-sig") if path.is_file() else ""
    card = render(run, existing=here if existing is None else existing, **settings)
    shown = [each["src"] for each in card.metadata.get("widget", ()) if str(each.get("src", "")).startswith("examples/")]
    shutil.rmtree(run.model_dir / "examples", ignore_errors=True)
    for source in shown:
        (run.model_dir / "examples").mkdir(exist_ok=True)
        shutil.copyfile(run.folder / source, run.model_dir / source)
    if card.text != here:
        write_text(path, card.text)
    return card


def _body(facts: Facts, asked: list[str]) -> str:
    """The template with its placeholders filled; blocks whose placeholder is empty are left out, and so are headings above nothing."""
    values = {"title": escaped(facts.name), "summary": _summary(facts), "space": _space(facts), "stand_in": _stand_in(facts),
              "transformers": _usage.transformers_snippet(facts), "timm": _usage.timm_snippet(facts), "hfxfer": _usage.hfxfer_snippet(facts),
              "measured": _results.measured(facts), "split": escaped(facts.split), "scores": _results.scores_table(facts),
              "by_class": _results.class_table(facts), "calibration": _results.calibration(facts),
              "limits_title": f"Limits, as measured on the {escaped(facts.split)} split" if facts.whole else "Limits", "limits": _results.limits(facts),
              "data": escaped(facts.data_name) if facts.data["splits"] else "", "counts": _training.counts_table(facts),
              "data_notes": _training.data_notes(facts), "method": _training.method(facts),
              "settings": _training.settings_table(facts), "course": _training.course(facts), "machine": _training.machine(facts),
              "command": _training.command(facts), "questions": "\n".join(f"- {each}" for each in asked)}
    values |= {name: f"figures/{file}.png" if f"{file}.png" in facts.figures else "" for name, file in FIGURES.items()}
    template = (shipped("model_cards") / "template.md").read_text(encoding="utf-8")
    sections = [_filled(name, text, values) for name, text in _merge.sections_of(template).items()]
    return "\n\n".join(section for section in sections if section)


def _filled(name: str, text: str, values: dict[str, str]) -> str:
    blocks: list[str] = []
    for block in text.strip().split("\n\n"):
        if all(values[each] for each in re.findall(r"\$(\w+)", block)):
            blocks.append(Template(block).substitute(values))
    kept = [block for index, block in enumerate(blocks) if not _is_empty_heading(blocks, index)]
    return f"<!-- hfxfer:{name} -->\n" + "\n\n".join(kept) + f"\n<!-- /hfxfer:{name} -->" if kept else ""


def _is_empty_heading(blocks: list[str], index: int) -> bool:
    """True for a heading with nothing between it and the next of its level or above, or the end."""
    level = _level(blocks[index])
    following = _level(blocks[index + 1]) if index + 1 < len(blocks) else 1
    return level > 1 and 0 < following <= level


def _level(block: str) -> int:
    found = re.match(r"(#+) .*\Z", block)
    return len(found[1]) if found else 0


def _space(facts: Facts) -> str:
    """The Hub's own button to the Space."""
    if not facts.space_id:
        return ""
    from huggingface_hub import constants

    badge = "https://huggingface.co/datasets/huggingface/badges/resolve/main/open-in-hf-spaces-md.svg"
    return f"[![Try it in the browser]({badge})]({constants.ENDPOINT}/spaces/{facts.space_id})"


def _stand_in(facts: Facts) -> str:
    return "" if facts.model_id else f"Put the Hub id of this model, or the folder that it lies in, in the place of `{facts.repo}`."


def _summary(facts: Facts) -> str:
    """Two sentences: what it is, and how good."""
    one, many = ("tag", "tags") if facts.task == "token-classification" else ("class", "classes")
    what = {REGRESSION: "a number", MULTI_LABEL: f"any of {counted(len(facts.labels), 'label')}"}.get(
        facts.problem_type, f"one of {counted(len(facts.labels), one, many)}")
    given = {"image-classification": "a picture", "text-classification": "a pair of texts" if "text_pair" in facts.data["columns"] else "a text",
             "token-classification": "each word of a text"}.get(facts.task, "an input")
    labels = f" ({listed(facts.labels)})" if facts.labels else ""
    rows = counted(facts.data["splits"].get("train", {}).get("num_rows", 0), "training row")
    came = (f"it was fine-tuned from {escaped(facts.base_name)} on {rows} of {escaped(facts.data_name)} with hfxfer" if facts.was_trained else
            f"its weights are those of {escaped(facts.base_name)}, published as they were loaded")
    text = f"This model gives {given} {what}{labels}; {came}."
    score = facts.primary
    if score is None:
        return text
    limits = f" (95 % interval {interval(score)})" if interval(score) else ""
    rows = f"{counted(score['num_rows'], 'row')} of the {escaped(score['split'])} split"
    return f"{text} On {rows} its {escaped(score['metric'])} is {number(score)}{limits}."
