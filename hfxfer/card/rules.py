"""What the Hub takes as the metadata of a model card, as far as it can be checked offline.

Sources: https://github.com/huggingface/hub-docs/blob/main/modelcard.md (fields and types), PIPELINE_DATA in packages/tasks/src/pipelines.ts
of huggingface.js (PIPELINE_TAGS), `hfxfer.licences`. The Hub's own check is POST /api/validate-yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hfxfer.card._facts import is_hub_id
from hfxfer.card._merge import MARKERS, split_metadata
from hfxfer.errors import RunError
from hfxfer.licences import LICENCES, LIST_ADDRESS, USUAL
from hfxfer.values import shown

PIPELINE_TAGS = frozenset("""
    text-classification token-classification table-question-answering question-answering zero-shot-classification translation summarization
    feature-extraction text-generation text2text-generation fill-mask sentence-similarity text-to-speech text-to-audio automatic-speech-recognition
    audio-to-audio audio-classification audio-text-to-text voice-activity-detection depth-estimation image-classification object-detection
    image-segmentation text-to-image image-to-text image-to-image image-to-video unconditional-image-generation video-classification
    reinforcement-learning robotics tabular-classification tabular-regression tabular-to-text table-to-text multiple-choice text-ranking
    text-retrieval time-series-forecasting text-to-video image-text-to-text image-text-to-image image-text-to-video visual-question-answering
    document-question-answering zero-shot-image-classification graph-ml mask-generation zero-shot-object-detection text-to-3d image-to-3d
    image-feature-extraction video-text-to-text keypoint-detection visual-document-retrieval any-to-any video-to-video other
""".split())

RELATIONS = ("finetune", "adapter", "merge", "quantized")
SPECIAL_LANGUAGES = ("code", "multilingual")
LISTS = ("tags", "datasets", "metrics", "language", "base_model")
MEND = "Mend it in the metadata of model/README.md"


def faults(metadata: dict[str, Any], text: str) -> list[str]:
    """What the Hub would refuse or misread, a sentence each: what was got, what is allowed, what to do. Empty where all is well.

    text: of the whole card, whose block must hold the same metadata.
    """
    checks = (_licence, _languages, _names, _pipeline_tag, _ids, _model_index, _widget)
    found = [fault for check in checks for fault in check(metadata)]
    return list(dict.fromkeys([*found, *_text(metadata, text)]))


def wrong_answers(license: str | None, language: list[str]) -> list[str]:
    """What is wrong with a licence and languages that were given, a sentence each."""
    return [*_languages({"language": language}), *(_licence({"license": license}) if license not in (None, "", "other") else ())]


def _licence(metadata: dict[str, Any]) -> Iterator[str]:
    given = metadata.get("license")
    allowed = f"allowed: an identifier of {LIST_ADDRESS}, such as {', '.join(USUAL)}"
    if given is None:
        yield f"license is missing: the base checkpoint says none; {allowed}. Say which: --license LICENCE"
        return
    for each in given if isinstance(given, list) else [given]:
        if not isinstance(each, str) or each not in LICENCES:
            yield f"license is {shown(each)}; {allowed}. Say which: --license LICENCE"
    if given == "other":
        for name, what in (("license_name", "a name such as my-licence-1.0"), ("license_link", "LICENSE, or the address of its text")):
            if not isinstance(metadata.get(name), str) or not metadata[name].strip():
                yield (f"license is other and {name} is {_seen(metadata, name)}; allowed: {what}. Say which: --{name} {name[8:].upper()}, "
                       "or write it into the metadata of the card")


def _languages(metadata: dict[str, Any]) -> Iterator[str]:
    for each in _each(metadata, "language"):
        if isinstance(each, str) and not re.fullmatch(r"[a-z]{2,3}", each) and each not in SPECIAL_LANGUAGES:
            yield (f"language is {shown(each)}; allowed: ISO 639 codes of two or three small letters such as en, or {', '.join(SPECIAL_LANGUAGES)}. "
                   "Say which: --language CODE")


def _names(metadata: dict[str, Any]) -> Iterator[str]:
    """Types: single values are text, lists are lists of text."""
    for name in ("library_name", "license_name", "license_link", "base_model_relation", "thumbnail"):
        if name in metadata and not isinstance(metadata[name], str):
            yield f"{name} is {shown(metadata[name])}; allowed: text. {MEND}"
    for name in LISTS:
        if name not in metadata:
            continue
        given = metadata[name]
        if not isinstance(given, (list, str)) or (isinstance(given, str) and name in ("tags", "datasets")) or not all(
                isinstance(each, str) and each.strip() for each in _each(metadata, name)):
            yield f"{name} is {shown(given)}; allowed: a list of texts. {MEND} (numbers, dates, yes and no in quotes)"


def _pipeline_tag(metadata: dict[str, Any]) -> Iterator[str]:
    if "pipeline_tag" in metadata and metadata["pipeline_tag"] not in PIPELINE_TAGS:
        given = shown(metadata["pipeline_tag"])
        yield f"pipeline_tag is {given}; allowed: a task of https://huggingface.co/tasks, such as image-classification. {MEND}"


def _ids(metadata: dict[str, Any]) -> Iterator[str]:
    """No path and no builder's name where the Hub wants an id."""
    for name, what in (("datasets", "data set"), ("base_model", "model")):
        for each in _each(metadata, name):
            if isinstance(each, str) and not is_hub_id(each):
                yield f"{name} is {shown(each)}; allowed: the id of a {what} on the Hub, such as NAME/REPO. {MEND}, or leave {name} out"
    given = metadata.get("base_model_relation")
    if isinstance(given, str) and given not in RELATIONS:
        yield f"base_model_relation is {shown(given)}; allowed: {', '.join(RELATIONS)}. {MEND}"


def _model_index(metadata: dict[str, Any]) -> Iterator[str]:
    given = metadata.get("model-index")
    if given is None:
        return
    if not isinstance(given, list) or not all(isinstance(model, dict) for model in given):
        yield f"model-index is {shown(given)}; allowed: a list of models, each with name and results. {MEND}"
        return
    for at, model in enumerate(given):
        place = f"model-index[{at}]"
        yield from _texts(model, place, ("name",))
        results = model.get("results")
        if not isinstance(results, list) or not results or not all(isinstance(result, dict) for result in results):
            yield f"{place}.results is {_seen(model, 'results')}; allowed: a list of one result or more. {MEND}"
            continue
        for number, result in enumerate(results):
            yield from _result(result, f"{place}.results[{number}]")


def _result(result: dict[str, Any], place: str) -> Iterator[str]:
    for name, required, optional in (("task", ("type",), ("name",)), ("dataset", ("type", "name"), ("config", "split", "revision"))):
        inner = result.get(name)
        if not isinstance(inner, dict):
            yield f"{place}.{name} is {_seen(result, name)}; allowed: {' and '.join(required)}. {MEND}"
            continue
        yield from _texts(inner, f"{place}.{name}", required)
        yield from _texts({key: inner[key] for key in optional if key in inner}, f"{place}.{name}", [key for key in optional if key in inner])
        kind = inner.get("type")
        if name == "dataset" and isinstance(kind, str) and not is_hub_id(kind):
            yield f"{place}.dataset.type is {shown(kind)}; allowed: the id of a data set on the Hub, or a word such as local; no path. {MEND}"
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics or not all(isinstance(metric, dict) for metric in metrics):
        yield f"{place}.metrics is {_seen(result, 'metrics')}; allowed: a list of type and value. {MEND}"
        return
    for number, metric in enumerate(metrics):
        yield from _texts(metric, f"{place}.metrics[{number}]", ("type",))
        value = metric.get("value")
        if value is None or isinstance(value, bool) or not isinstance(value, (int, float, str, dict, list)) or value != value:
            yield f"{place}.metrics[{number}].value is {_seen(metric, 'value')}; allowed: a number. {MEND}"


def _widget(metadata: dict[str, Any]) -> Iterator[str]:
    given = metadata.get("widget")
    listed = isinstance(given, list) and all(isinstance(each, dict) and set(each) & {"text", "src"} for each in given)
    if given is not None and not listed:
        yield f"widget is {shown(given)}; allowed: a list of examples, each with text or src. {MEND}, or leave out --card_examples"


def _text(metadata: dict[str, Any], text: str) -> Iterator[str]:
    try:
        block = split_metadata(text)[1]
    except RunError as error:
        yield str(error)
        return
    if block != metadata:
        differing = [str(name) for name in {**metadata, **block} if metadata.get(name) != block.get(name)]
        yield f"the card's metadata block differs from its metadata in {', '.join(differing)}. Write the card again: hfxfer card RUN"
    opened, closed = ([found[index] for found in MARKERS.findall(text) if found[index]] for index in (0, 1))
    if sorted(opened) != sorted(closed) or len(set(opened)) != len(opened):
        wrong = sorted({name for name in [*opened, *closed] if (opened.count(name), closed.count(name)) != (1, 1)})
        yield (f"the markers of {', '.join(wrong)} in the card are not one pair of <!-- hfxfer:NAME --> and <!-- /hfxfer:NAME -->. "
               "Mend or delete them in model/README.md")


def _texts(given: dict[str, Any], place: str, names: Any) -> Iterator[str]:
    for name in names:
        if not isinstance(given.get(name), str) or not given[name].strip():
            yield f"{place}.{name} is {_seen(given, name)}; allowed: text. {MEND}"


def _seen(given: dict[str, Any], name: str) -> str:
    return shown(given[name]) if given.get(name) is not None else "missing"


def _each(metadata: dict[str, Any], name: str) -> list[Any]:
    given = metadata.get(name)
    return given if isinstance(given, list) else [] if given is None else [given]
