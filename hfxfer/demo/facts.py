"""What the files beside a model say of it: card, scores, classes, confusions, learning. Read, never computed; None where a file is absent."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hfxfer.demo import words
from hfxfer.demo.served import Served
from hfxfer.demo.thumbnails import is_file
from hfxfer.demo.trust import percent

MOST_CELLS = 40
"""Labels on a side of the matrix."""

MOST_BEHIND = 24
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])|<img\b[^>]*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)

WIDGET_PICTURE = re.compile(r"[\w.-]+(/[\w .-]+)*\.(png|jpe?g|webp)", re.ASCII | re.IGNORECASE)


def file(served: Served, name: str) -> Path | None:
    """A file of the model's repository: local, from the cache or fetched; None where it is not to be had."""
    if served.folder:
        path = served.folder / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(served.source, name, **served.at.settings))
    except Exception:  # The client raises raw network errors of several libraries; without the file the tab says that it is absent.
        return None


def card(served: Served) -> str | None:
    """README.md as Markdown, without metadata, comments and pictures, which would be fetched from elsewhere."""
    path = file(served, "README.md")
    if path is None:
        return None
    text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    return PICTURE.sub("", FRONT_MATTER.sub("", text)).strip()


def card_examples(served: Served, most: int) -> list[dict[str, Any]]:
    """The first of what the card's metadata shows under `widget`, as rows: a text, or a picture of the repository; not what lies elsewhere."""
    from huggingface_hub import metadata_load

    path = file(served, "README.md")
    try:
        found = (metadata_load(path) or {}).get("widget") if path else None
    except Exception:  # Somebody's YAML may be broken in any way.
        return []
    rows: list[dict[str, Any]] = []
    for each in found[:most] if isinstance(found, list) else []:
        text, source = (each.get("text"), each.get("src")) if isinstance(each, dict) else (None, None)
        if served.is_image and isinstance(source, str) and WIDGET_PICTURE.fullmatch(source) and ".." not in source.split("/"):
            picture = file(served, source)
            rows += [{"image": str(picture)}] if picture else []
        elif not served.is_image and isinstance(text, str) and text.strip():
            rows.append({"text": text})
    return rows


def scores(served: Served) -> dict[str, Any] | None:
    """The object in scores.json."""
    path = file(served, "scores.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else None
        return found if found and _can_be_shown(found) else None
    except (OSError, LookupError, TypeError, ValueError, AttributeError):  # Somebody else's file of that name may hold anything.
        return None


def _can_be_shown(found: dict[str, Any]) -> bool:
    """True for scores as hfxfer writes them; others raise nearly anything."""
    score_rows(found), class_rows(found)
    matrix, side = found.get("confusion_matrix"), len(found["labels"])
    return not matrix or bool(matrix["split"]) and [len(row) for row in matrix["counts"]] == [side] * side


def score_rows(found: dict[str, Any]) -> list[list[str]]:
    """SCORE_COLUMNS of each score of the whole set."""
    return [[score["metric"].replace("_", " "), _value(score), _interval(score), score["split"], f"{score['num_rows']:,}"]
            for score in found["scores"] if score["label"] is None]


def class_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: a class, its metrics with their intervals, its number of rows."""
    by_label: dict[str, dict[str, dict[str, Any]]] = {}
    for score in found["scores"]:
        if score["label"] is not None:
            by_label.setdefault(score["label"], {})[score["metric"]] = score
    metrics = list(dict.fromkeys(metric for own in by_label.values() for metric in own))
    rows = []
    for label, own in by_label.items():
        values = [f"{_value(own[metric])} {_interval(own[metric])}".strip() if metric in own else "" for metric in metrics]
        rows.append([label, *values, f"{next(iter(own.values()))['num_rows']:,}"])
    return [words.CLASS_COLUMN, *(metric.replace("_", " ") for metric in metrics), words.SCORE_COLUMNS[-1]], rows


def behind(served: Served, reference: str, prediction: str) -> tuple[int, list[dict[str, Any]]]:
    """How many test rows are `reference` and were answered `prediction`, and the first MOST_BEHIND of them, the surest first."""
    import pyarrow.compute as compute

    assert served.run is not None
    table = served.run.predictions()
    chosen = table.filter(compute.and_(compute.equal(table["reference"], reference), compute.equal(table["prediction"], prediction)))
    rows = [{"input": row["input"], "confidence": max(row["probabilities"])} for row in chosen.select(["input", "probabilities"]).to_pylist()]
    return len(rows), sorted(rows, key=lambda row: -row["confidence"])[:MOST_BEHIND]


def learning(served: Served, metric: str) -> list[list[str]]:
    """Epoch, validation loss and `metric` of every evaluation while it was trained."""
    events = [event for event in (served.run.history() if served.run else []) if event["type"] == "eval"]
    return [[f"{event['epoch']:.3g}", *(f"{event[name]:.4f}" if name in event else "" for name in ("eval_loss", f"eval_{metric}"))]
            for event in events]


def _value(score: dict[str, Any]) -> str:
    return words.UNDEFINED if score["value"] is None else f"{score['value']:.3f}"


def _interval(score: dict[str, Any]) -> str:
    return "" if score["low"] is None else f"[{score['low']:.3f}, {score['high']:.3f}]"


def confidences(served: Served, rows: list[dict[str, Any]]) -> list[list[str]]:
    """BEHIND_COLUMNS of the rows behind a cell."""
    return [[called(served, row["input"]), percent(row["confidence"])] for row in rows]


def called(served: Served, text: str) -> str:
    """An input as it is shown: of a picture the name of its file, wherever that was; a text as it is."""
    return Path(text).name if served.is_image or Path(text).is_absolute() and is_file(text) else text
