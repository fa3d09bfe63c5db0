"""A record of `hfxfer predict` → what the API returns, and what a person reads. Pure."""

from __future__ import annotations

import re
from typing import Any

from hfxfer.card._text import escaped
from hfxfer.demo import words
from hfxfer.demo.trust import percent
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION

WORD = re.compile(r"\S+")


def probabilities(record: dict[str, Any]) -> dict[str, float]:
    """label → probability."""
    return {name.removeprefix("score_"): value for name, value in record.items() if name.startswith("score_")}


def answer(record: dict[str, Any], problem_type: str, text: str | None = None) -> Any:
    """What /predict returns: gr.Label's {label, confidences}; {value, low, high}; or a list of entities with positions in `text`.

    Of several labels, label is the most probable one, as in gr.Label, and labels are those that are given.
    """
    if problem_type == "tags":
        return entities(record, text)
    if problem_type == REGRESSION:
        return {name: record.get(name) for name in ("value", "low", "high")}
    ranked = sorted(probabilities(record).items(), key=lambda pair: -pair[1])
    found = {"label": ranked[0][0], "confidences": [{"label": name, "confidence": value} for name, value in ranked]}
    return {**found, "labels": record["labels"]} if problem_type == MULTI_LABEL else found


def entities(record: dict[str, Any], text: str | None) -> list[dict[str, Any]]:
    """entity, start, end, score; positions are characters of `text` as the person wrote it; without it, of the words joined by spaces."""
    if text is None:
        return [{name: each[name] for name in ("entity", "start", "end", "score")} for each in record["entities"]]
    spans = [found.span() for found in WORD.finditer(text)]
    joined, starts, ends = 0, {}, {}
    for start, end in spans:
        starts[joined] = start
        joined += end - start
        ends[joined] = end
        joined += 1
    return [{"entity": each["entity"], "start": starts[each["start"]], "end": ends[each["end"]], "score": each["score"]}
            for each in record["entities"]]


def tags(record: dict[str, Any], labels: tuple[str, ...], text: str) -> list[str]:
    """The tag of each word of `text`, as training data gives it: the entities of the record in the model's own tags."""
    spans = [found.span() for found in WORD.finditer(text)]
    given = ["O"] * len(spans)
    for each in entities(record, text):
        own = [place for place, (start, _) in enumerate(spans) if each["start"] <= start < each["end"]]
        begins, goes_on = (next((name for name in names if name in labels), "O") for names in (
            [f"{prefix}{each['entity']}" for prefix in prefixes] for prefixes in (("B-", "", "I-"), ("I-", "", "B-"))))
        for place in own:
            given[place] = begins if place == own[0] else goes_on
    return given


def verdict(record: dict[str, Any], problem_type: str, threshold: float, text: str = "") -> str:
    """The answer in Markdown. Labels and texts are escaped."""
    if problem_type == "tags":
        return _found(record, threshold, text)
    if problem_type == REGRESSION:
        between = {side: f"{record[side]:.4g}" for side in ("low", "high") if record.get(side) is not None}
        return (words.VALUE_BETWEEN if between else words.VALUE).format(value=f"{record['value']:.4g}", **between)
    found = probabilities(record)
    best = max(found, key=found.__getitem__)
    named = {"label": escaped(best), "confidence": percent(found[best]), "threshold": percent(threshold)}
    if problem_type == MULTI_LABEL:
        given = [f"{escaped(name)} ({percent(value)})" for name, value in found.items() if value >= threshold]
        return words.LABELS.format(labels=", ".join(given)) if given else words.NO_LABEL.format(**named)
    return (words.SURE if found[best] >= threshold else words.NOT_SURE).format(**named)


def _found(record: dict[str, Any], threshold: float, text: str) -> str:
    lines = [(words.ENTITY if each["score"] >= threshold else words.ENTITY_NOT_SURE).format(
        text=escaped(text[each["start"]:each["end"]]), entity=escaped(each["entity"]), confidence=percent(each["score"]))
        for each in entities(record, text)]
    return "\n".join(lines) or words.NO_ENTITY


def highlighted(record: dict[str, Any], threshold: float, text: str) -> list[tuple[str, str | None]]:
    """(piece of the text, tag or None) for gr.HighlightedText; one below the threshold bears a question mark."""
    pieces: list[tuple[str, str | None]] = []
    at = 0
    for each in entities(record, text):
        pieces.append((text[at:each["start"]], None))
        tag = each["entity"] if each["score"] >= threshold else words.UNSURE_TAG.format(entity=each["entity"])
        pieces.append((text[each["start"]:each["end"]], tag))
        at = each["end"]
    return [piece for piece in [*pieces, (text[at:], None)] if piece[0]]


def line(record: dict[str, Any], problem_type: str, threshold: float) -> list[str]:
    """Answer, confidence, and "yes" where it is not sure: cells of a table, which shows them as plain text."""
    if problem_type == REGRESSION:
        return [f"{record['value']:.4g}", "", ""]
    if problem_type == "tags":
        found = [f"{each['word']} ({each['entity']})" for each in record["entities"]]
        least = min((each["score"] for each in record["entities"]), default=1.0)
        return [", ".join(found), percent(least) if found else "", words.YES if least < threshold else ""]
    if problem_type == MULTI_LABEL:
        given = [name for name, value in probabilities(record).items() if value >= threshold]
        return [", ".join(given), "", "" if given else words.YES]
    return [record["label"], percent(record["score"]), words.YES if record["score"] < threshold else ""]
