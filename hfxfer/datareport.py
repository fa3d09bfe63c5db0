"""What is worth knowing about loaded data: the Run's data.json, the warnings, and the list of bad rows.

The report is complete; the console shows the first few of each kind.
"""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Any

from hfxfer import rowcheck, splits
from hfxfer.console import hint, is_main_process, warn
from hfxfer.errors import DataError
from hfxfer.labels import OTHER, REGRESSION, SINGLE, Target

SHOWN = 5
LISTED_WITHOUT_FILE = 20
FEW = 5
"""Fewer training examples of a class than this are worth a warning."""


def judge_bad_rows(parts: list[Any], source: str, on_bad_rows: str, output_dir: str | None = None) -> list[dict]:
    """With on_bad_rows=skip the list of bad rows; with error a DataError that lists them and says where all are.

    output_dir: the run's folder, beside which the whole list is written; None writes nothing and lists more.
    Raises DataError also where skipping would leave a split without rows.
    """
    bad = [{"split": part.name, "place": part.table.place(i), "reason": reason}
           for part in parts for i, reason in sorted(part.faults.items())]
    if not bad:
        return []
    lines = [f"{row['place']}: {row['reason']}" for row in bad]
    total = sum(part.num_rows for part in parts)
    file = _write_list(lines, output_dir)
    if on_bad_rows != "skip":
        shown = SHOWN if file else LISTED_WITHOUT_FILE
        more = [f"  and {len(lines) - shown} more"] if len(lines) > shown else []
        where = f" The whole list: {file}." if file else ""
        rows = "1 bad row" if len(bad) == 1 else f"{len(bad)} bad rows"
        raise DataError("\n".join([f"{rows} of {total} in {source}:", *(f"  {line}" for line in lines[:shown]), *more,
                                   f"Mend them, or leave them out with --on_bad_rows skip.{where}"]))
    for part in parts:
        if not part.good:
            raise DataError(f"no row of split {part.name} is left without its {part.num_rows} bad rows; first: "
                            f"{part.table.place(min(part.faults))}: {part.faults[min(part.faults)]}")
    warn(f"{len(bad)} of {total} rows left out (--on_bad_rows skip): {_first(lines)}"
         + (f". The whole list: {file}" if file else ""))
    return bad


def _write_list(lines: list[str], output_dir: Any) -> str | None:
    """Beside the run's folder, which may hold another run: runs/pets → runs/pets.bad_rows.txt."""
    if not output_dir or not is_main_process():
        return None
    folder = Path(output_dir)
    file = folder.parent / f"{folder.name}.bad_rows.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        hint(f"the list of bad rows could not be written to {file}: {error.strerror}")
        return None
    return str(file)


def build(source: Any, columns: dict[str, str], target: Target, settings: Any, made: tuple, bad_rows: list[dict],
          ) -> dict:
    """The content of data.json. made: (splits by name, unlabelled ones, origins)."""
    given, unlabelled, origins = made
    role = given["train"].store.target_role
    ids = {name: [rowcheck.content_of(row_id) for row_id in split.row_ids] for name, split in given.items()}
    targets = {name: split.column(role) if role else [None] * split.num_rows for name, split in given.items()}
    places = {name: split.places for name, split in given.items()}
    duplicates, leaks = rowcheck.repeated(ids, places)
    counts = {name: class_counts(target, values) for name, values in targets.items()}
    return {
        "version": 1, "source": source.name, "config": source.config, "revision": source.revision,
        "fingerprint": fingerprint(given, targets), "columns": columns,
        "problem_type": target.problem_type, "labels": list(target.labels),
        "splits": {name: {"num_rows": split.num_rows, **origins[name], "classes": counts[name]}
                   for name, split in given.items()},
        "unlabelled": {name: split.num_rows for name, split in unlabelled.items()},
        "small_classes": {label: n for label, n in counts["train"].items() if 0 < n < FEW},
        "missing_classes": {name: gone for name, own in counts.items()
                            if (gone := [label for label, n in own.items() if n == 0]) and targets[name]},
        "labels_alike": _labels_alike(target.labels), "empty_folders": source.empty_folders,
        "duplicates": duplicates, "leaks": leaks, "conflicts": _conflicts(ids, targets, places, role),
        "shared_groups": _shared_groups(given, settings.split_by), "bad_rows": bad_rows,
    }


def class_counts(target: Target, values: list[Any]) -> dict[str, int]:
    """Examples of each label, in the labels' order; tags are counted by token. Empty for regression."""
    if target.problem_type in (REGRESSION, OTHER):
        return {}
    counts = Counter(label for value in values for label in (value if isinstance(value, list) else [value]))
    return {label: counts[label] for label in target.labels}


def fingerprint(given: dict[str, Any], targets: dict[str, list]) -> str:
    """16 hexadecimal digits over the ids and targets of every row, split by split and in order."""
    digest = blake2b(digest_size=8)
    for name in ("train", "validation", "test"):
        digest.update(f"\n{name}:".encode())
        for row_id, value in zip(given[name].row_ids, targets[name]):
            digest.update(f"{row_id}={value!r};".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _conflicts(ids: dict, targets: dict, places: dict, role: str | None) -> list[dict]:
    if role is None:
        return []
    return rowcheck.conflicts(*(sum((part[name] for name in ids), []) for part in (ids, targets, places)))


def _labels_alike(labels: tuple[str, ...]) -> list[list[str]]:
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(label.casefold(), []).append(label)
    return [group for group in alike.values() if len(group) > 1]


def _shared_groups(given: dict[str, Any], split_by: str | None) -> dict[str, list[str]]:
    return splits.shared_groups({name: split.column("_group") for name, split in given.items()}) if split_by else {}


def check_train(report: dict, source: str) -> None:
    """Raises DataError where a single-label train split has examples of fewer than two classes."""
    counts = report["splits"]["train"]["classes"]
    there = [label for label, count in counts.items() if count]
    if report["problem_type"] == SINGLE and len(there) < 2:
        raise DataError(f"the train split of {source} has one class only: {', '.join(map(repr, there)) or 'none'}. "
                        "A classifier needs two or more")


def say(report: dict) -> None:
    """The warnings and hints of a report, one line each."""
    alike = [" = ".join(group) for group in report["labels_alike"]]
    if alike:
        warn(f"labels that differ in letter case only count as different classes: {_first(alike)}")
    for split, labels in report["missing_classes"].items():
        warn(f"{_number(labels, 'class', 'classes')} without an example in {split}: {_first(labels)}")
    if report["small_classes"]:
        named = [f"{label} ({n})" for label, n in report["small_classes"].items()]
        warn(f"{_number(named, 'class', 'classes')} with fewer than {FEW} examples in train: {_first(named)}")
    if report["leaks"]:
        warn(f"{_number(report['leaks'], 'input stands', 'inputs stand')} in more than one split, so scores will look "
             f"better than they are: {_first(_pairs(report['leaks']))}")
    if report["conflicts"]:
        warn(f"{_number(report['conflicts'], 'input has', 'inputs have')} different labels: "
             f"{_first(_pairs(report['conflicts']))}")
    if report["shared_groups"]:
        named = [f"{group} ({', '.join(names)})" for group, names in report["shared_groups"].items()]
        warn(f"--split_by: {_number(named, 'group stands', 'groups stand')} in more than one given split: "
             f"{_first(named)}")
    if report["duplicates"]:
        hint(f"{_number(report['duplicates'], 'input stands', 'inputs stand')} more than once in a split: "
             f"{_first(_pairs(report['duplicates']))}")
    if report["empty_folders"]:
        warn(f"{_number(report['empty_folders'], 'folder', 'folders')} without a picture: "
             f"{_first(report['empty_folders'])}")


def _number(items: Any, one: str, many: str) -> str:
    return f"{len(items)} {one if len(items) == 1 else many}"


def _pairs(found: list[dict]) -> list[str]:
    return [" = ".join(entry["places"][:max(2, len(entry.get("splits", ())))]) for entry in found]


def _first(items: list[str]) -> str:
    more = f", and {len(items) - SHOWN} more (all in data.json)" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
