"""Entities in IOB2 tags, counted as seqeval's default mode (conlleval) counts them.

seqeval (https://github.com/chakki-works/seqeval) is the field's reference; a test compares with it on random tags.
It joins the sentences with an "O" between them, so sentences are independent and can be counted one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first, last) of every entity in one sentence; `last` is inclusive.

    An I- that follows O or another type begins an entity, as in conlleval. S- is an entity by itself and E- ends one.
    A bare "B" or "I" has type "_".
    """
    found = []
    previous, kind, first = "O", "", 0
    for index, tag in enumerate([*tags, "O"]):
        prefix = tag[:1]
        this = tag[1:].split("-", maxsplit=1)[-1] or "_"
        if _ends(previous, prefix, kind, this):
            found.append((kind, first, index - 1))
        if _begins(previous, prefix, kind, this):
            first = index
        previous, kind = prefix, this
    return found


def _ends(previous: str, prefix: str, kind: str, this: str) -> bool:
    if previous in "ES":
        return True
    if previous in "BI" and prefix in "BSO":
        return True
    return previous not in "O." and kind != this


def _begins(previous: str, prefix: str, kind: str, this: str) -> bool:
    if prefix in "BS":
        return True
    if previous in "ESO" and prefix in "EI":
        return True
    return prefix not in "O." and kind != this


def entity_counts(references: Sequence[str], predictions: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Type -> (found rightly, predicted, true) in one sentence.

    Raises ValueError when the two tag sequences differ in length.
    """
    if len(references) != len(predictions):
        raise ValueError(
            f"a sentence has {len(references)} reference tags and {len(predictions)} predicted tags; "
            "allowed: one predicted tag a token."
        )
    true, predicted = set(entities(references)), set(entities(predictions))
    right = Counter(kind for kind, _, _ in true & predicted)
    of_true, of_predicted = (Counter(kind for kind, _, _ in spans) for spans in (true, predicted))
    return {kind: (right[kind], of_predicted[kind], of_true[kind]) for kind in sorted(of_true | of_predicted)}


def entity_scores(references: Iterable, predictions: Iterable, sample_weight=None) -> tuple:
    """(precision, recall, f1) over all entities (micro), or None thrice where there is no entity at all.

    As in seqeval 0/0 is 0 as long as there is any entity. sample_weight: (sentences,).
    """
    references, predictions = list(references), list(predictions)
    weights = [1.0] * len(references) if sample_weight is None else [float(weight) for weight in sample_weight]
    right = predicted = true = 0.0
    for gold, guess, weight in zip(references, predictions, weights, strict=True):
        for counts in entity_counts(gold, guess).values():
            right, predicted, true = (total + weight * count for total, count in zip((right, predicted, true), counts))
    if not predicted and not true:
        return None, None, None
    return (right / predicted if predicted else 0.0), (right / true if true else 0.0), 2 * right / (predicted + true)
