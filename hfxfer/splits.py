"""Cut splits out of rows. Pure: values in, positions out; nothing depends on the order of the rows.

Chance comes from a hash of (seed, group), not from a generator: the same rows give the same cut in any order, and a
row more moves few others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b
from typing import Any

from hfxfer.errors import DataError
from hfxfer.labels import MULTI, REGRESSION, SINGLE, TAGS, Target

STRATIFIED_BY = {SINGLE: "class", MULTI: "rarest label of the row", REGRESSION: "quantile bin", TAGS: "has an entity"}
BINS = 10
"""Quantile bins that stand in for classes when a regression is cut."""


def cut(groups: Sequence[Hashable], strata: Sequence[Hashable], fraction: float, seed: int) -> list[int]:
    """Positions of about `fraction` of the rows, in order; whole groups, each stratum in proportion.

    Every stratum with two groups or more gives at least one row and keeps at least one, where that is possible.
    Raises DataError where all rows are one group.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    if len(members) < 2:
        raise DataError(f"nothing to cut: all {len(groups)} rows are copies of one or share one --split_by group. "
                        "Give the splits as files or folders, or choose another column")
    own = {group: _counted(strata[position] for position in rows) for group, rows in members.items()}
    left = _counted(strata)
    wanted, taken = _wanted(left, fraction), dict.fromkeys(left, 0)
    order = sorted(members, key=lambda group: _chance(seed, group))
    chosen: set[Hashable] = set()

    def take_if(group: Hashable, suits: bool) -> None:
        if suits and all(left[stratum] > count for stratum, count in own[group].items()):
            chosen.add(group)
            for stratum, count in own[group].items():
                taken[stratum] += count
                left[stratum] -= count

    for group in order:
        take_if(group, _brings_closer(own[group], taken, wanted))
    for group in sorted((group for group in order if group not in chosen), key=lambda group: len(members[group])):
        take_if(group, any(wanted[stratum] and not taken[stratum] for stratum in own[group]))
    return sorted(position for group in chosen for position in members[group])


def _counted(values: Iterable[Hashable]) -> dict[Hashable, int]:
    """A Counter as a plain dict: many groups have one row, and making a Counter is slow."""
    counts: dict[Hashable, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


def _brings_closer(own: dict, taken: dict, wanted: dict) -> bool:
    return sum(abs(taken[s] + count - wanted[s]) - abs(taken[s] - wanted[s]) for s, count in own.items()) < 0


def _wanted(counts: dict[Hashable, int], fraction: float) -> dict[Hashable, int]:
    """Rows to take of each stratum: in proportion, rounded so that the sum fits, at least one of two."""
    exact = {stratum: count * fraction for stratum, count in counts.items()}
    wanted = {stratum: max(int(share), min(1, counts[stratum] - 1)) for stratum, share in exact.items()}
    missing = round(sum(exact.values())) - sum(wanted.values())
    by_rest = sorted(exact, key=lambda stratum: (int(exact[stratum]) - exact[stratum], str(stratum)))
    for stratum in [s for s in by_rest if exact[s] > wanted[s] and wanted[s] + 1 < counts[s]][: max(0, missing)]:
        wanted[stratum] += 1
    return wanted


def _chance(seed: int, group: Hashable) -> bytes:
    return blake2b(f"{seed}:{group}".encode(), digest_size=16).digest()


def strata_of(target: Target, values: Sequence[Any]) -> list[Hashable]:
    """What a cut keeps in proportion: class; rarest label of a row; quantile bin; whether a sentence has an entity."""
    if target.problem_type == SINGLE:
        return list(values)
    if target.problem_type == MULTI:
        counts = Counter(label for labels in values for label in labels)
        return [min(labels, key=lambda label: (counts[label], label), default="") for labels in values]
    if target.problem_type == REGRESSION:
        return _quantile_bins(values)
    if target.problem_type == TAGS:
        return [any(tag != "O" for tag in tags) for tags in values]
    return [0] * len(values)


def _quantile_bins(values: Sequence[float]) -> list[int]:
    """Bins of about equal size; equal values fall into one bin."""
    rank = {value: position for position, value in reversed(list(enumerate(sorted(values))))}
    bins = max(1, min(BINS, len(values) // 5))
    return [rank[value] * bins // len(values) for value in values]


def group_keys(contents: Sequence[str], split_by: Sequence[Any] | None) -> list[str]:
    """What stays together: exact duplicates, and the rows that share a value of the `split_by` column.

    A duplicate that stands in two `split_by` groups joins them.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    if split_by is None:
        return list(contents)
    keys = [f"content {content}" if value in (None, "") else f"group {value}"
            for content, value in zip(contents, split_by)]
    for content, key in zip(contents, keys):
        one, other = sorted((root(f"content {content}"), root(key)), reverse=True)
        parent[other] = one
    return [root(key) for key in keys]


def shared_groups(split_by: dict[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Groups that stand in more than one split: group → splits."""
    seen: dict[str, list[str]] = defaultdict(list)
    for split, values in split_by.items():
        for value in dict.fromkeys(str(value) for value in values if value not in (None, "")):
            seen[value].append(split)
    return {value: names for value, names in seen.items() if len(names) > 1}
