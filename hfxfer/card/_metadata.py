"""The metadata of a card: what the Hub reads from the YAML block at the top."""

from __future__ import annotations

import json
from typing import Any

from hfxfer import licences
from hfxfer.card._facts import Facts, interval
from hfxfer.card._text import counted, escaped

HUB_METRICS = {"f1_macro": "f1", "f1_micro": "f1", "f1_weighted": "f1", "f1_samples": "f1", "precision_macro": "precision",
               "recall_macro": "recall", "entity_precision": "precision", "entity_recall": "recall", "entity_f1": "f1",
               "r2": "r_squared", "pearson": "pearsonr", "spearman": "spearmanr"}
"""Our names → the metric ids of https://huggingface.co/metrics; the others are called the same or are not on it."""

LOCAL = "local"
"""The type that model-index says of data that are no data set of the Hub."""

MOST_EXAMPLES = 5
LONGEST_EXAMPLE = 1000
"""Characters of a text in the widget, which stands in the metadata: what is longer is cut."""


def metadata(facts: Facts, *, card_examples: bool, language: list[str] | None, terms: dict[str, str]) -> dict[str, Any]:
    """Own metadata, in the Hub's order. What is not known is left out. terms: what was said of the licence; without it, the checkpoint's."""
    terms = terms if "license" in terms else {**licences.inherited(facts.base, facts.config), **terms}
    found: dict[str, Any] = {"language": language or None, **terms, "library_name": "timm" if facts.is_timm else "transformers",
                             "pipeline_tag": facts.task, "tags": _tags(facts), "datasets": [facts.data_id] if facts.data_id else None}
    if facts.base_id and facts.was_trained:
        found |= {"base_model": facts.base_id, "base_model_relation": "finetune"}
    found["metrics"] = list(dict.fromkeys(HUB_METRICS.get(score["metric"], score["metric"]) for score in facts.whole)) or None
    found["widget"] = _widget(facts) if card_examples else None
    if facts.whole:
        found["model-index"] = [{"name": facts.name, "results": [_result(facts)]}]
    return {name: value for name, value in found.items() if value}


def _tags(facts: Facts) -> list[str]:
    libraries = ["timm", "transformers"] if facts.is_timm else []
    return ["hfxfer", *libraries, facts.task, "generated_from_trainer"]


def _result(facts: Facts) -> dict[str, Any]:
    """One entry of model-index: task, data set and every score of the whole split with its interval and rows."""
    first = facts.primary or facts.whole[0]
    dataset = {"name": facts.data_name, "type": facts.data_id or LOCAL, "split": first["split"]}
    if facts.data_id:
        dataset |= {name: str(facts.data[name]) for name in ("config", "revision") if facts.data.get(name)}
    scores = [first, *(score for score in facts.whole if score is not first)]
    metrics = [{"type": HUB_METRICS.get(score["metric"], score["metric"]), "value": round(score["value"], 6), "name": _named(score)}
               for score in scores]
    return {"task": {"type": facts.task, "name": facts.task.replace("-", " ").capitalize()}, "dataset": dataset, "metrics": metrics}


def _named(score: dict[str, Any]) -> str:
    limits = f"95 % interval {interval(score)}, " if interval(score) else ""
    return f"{score['metric']} ({limits}{counted(score['num_rows'], score['split'] + ' row')})"


def examples(facts: Facts) -> list[dict[str, Any]]:
    """The first rows in the Run's examples/, by role."""
    path = facts.run.folder / "examples" / "examples.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines if line][:MOST_EXAMPLES]


def _widget(facts: Facts) -> list[dict[str, Any]]:
    """Rows of the split that was scored as inputs of the Hub's widget, with what they are. Pairs of texts have no widget."""
    shown, split = [], facts.split[:1].upper() + facts.split[1:]
    for index, row in enumerate(examples(facts), start=1):
        named = {"example_title": f"{split} row {index}"}
        if "image" in row:
            shown.append({"src": f"examples/{row['image']}", **named})
        elif "tokens" in row:
            shown.append({"text": _cut(" ".join(map(str, row["tokens"]))), **named})
        elif "text" in row and "text_pair" not in row:
            shown.append({"text": _cut(str(row["text"])), **named})
    return shown


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_EXAMPLE else text[:LONGEST_EXAMPLE - 1] + "…"


def questions(facts: Facts, known: dict[str, Any]) -> list[str]:
    """What only the author knows: first what the metadata lack."""
    asked = []
    if "license" not in known:
        asked.append("Under which licence may the model be used? The checkpoint it came from says none. Answer with --license.")
    if "language" not in known and facts.task != "image-classification":
        asked.append("Which language are the texts in? Answer with --language.")
    if "base_model" not in known and facts.was_trained:
        asked.append("Which model of the Hub was the starting checkpoint? Put its id into the metadata, as base_model.")
    if "datasets" not in known:
        asked.append("Where do the data come from, who may use them, and do they show or name people who have not agreed?")
    asked.append("What is the model meant for, and what must it not be used for?")
    if facts.whole:
        asked.append(f"How do the inputs that it will meet differ from the {escaped(facts.split)} rows that it was scored on?")
    return asked
