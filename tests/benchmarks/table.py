"""The Markdown table of a results file. Pure: a dict in, text out."""

from __future__ import annotations

import re
from statistics import median
from typing import Any

from cases import CASES, Case

AIM = re.compile(r" \((wanted ≥ [^)]*|≥ \d+%|wanted)\)")
BEGIN, END = "<!-- benchmarks:begin -->\n", "<!-- benchmarks:end -->"


def table(results: dict[str, Any], aims: bool = True) -> str:
    """All parts that have something to show, with what is wanted of each."""
    parts = [_machine(results), _training(results), _growth(results), _prediction(results), _overhead(results)]
    shown = "\n\n".join(part for part in parts if part)
    return shown if aims else AIM.sub("", shown)


def with_table(readme: str, results: dict[str, Any]) -> str:
    """The README's text with the table between its markers. Raises ValueError where a marker is missing."""
    before, marker, rest = readme.partition(BEGIN)
    if not marker or END not in rest:
        raise ValueError(f"README.md holds no line {BEGIN.strip()} with a line {END} below it. Add both where the table belongs")
    return before + BEGIN + table(results, aims=False) + "\n" + END + rest.partition(END)[2]


def ratio(results: dict[str, Any], case: Case, value: str) -> float | None:
    """plain ÷ hfxfer of the medians; None where a side has not been measured."""
    plain, own = (middle(results, case.name, side, value) for side in ("plain", "hfxfer"))
    return plain / own if plain and own else None


def middle(results: dict[str, Any], case: str, side: str, value: str) -> float | None:
    found = [run[value] for run in _runs(results, case, side) if run.get(value) is not None]
    return median(found) if found else None


def _runs(results: dict[str, Any], case: str, side: str) -> list[dict[str, Any]]:
    return [run for run in results["runs"] if (run["case"], run["side"]) == (case, side)]


def _shown(results: dict[str, Any], kind: str) -> list[Case]:
    there = {run["case"] for run in results["runs"]} | set(results["left_out"])
    return [case for case in CASES if case.kind == kind and case.name in there]


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    has = ", ".join(f"{flag} {'yes' if there else 'no'}" for flag, there in machine["flags"].items())
    counts = [len(_runs(results, case.name, side)) for case in CASES for side in ("plain", "hfxfer")]
    loads = [run["load"] for run in results["runs"] if run["load"] is not None]
    device = f"{machine['accelerator']}; " if machine["accelerator"] else ""
    return (f"{device}{machine['cores']} CPU cores ({machine['cpu']}; {has}), {machine['threads']} threads, {machine['memory_gb']} GB; {versions}. "
            f"Medians of up to {max(counts, default=0)} runs a side, alternating; load average before a run: "
            f"{min(loads):.1f} to {max(loads):.1f}." if loads else "Nothing measured.")


def _training(results: dict[str, Any]) -> str:
    cases = [case for case in _shown(results, "train") if not case.once]
    lines = ["| training | whole process: plain → hfxfer | first decode to saved model | accuracy: plain | accuracy: hfxfer | peak memory |",
             "| --- | --- | --- | --- | --- | --- |"]
    for case in cases:
        lines.append(_row(case.title, _pair(results, case, "seconds", case.wanted_process), _pair(results, case, "work_seconds", case.wanted_work),
                          _accuracy(results, case, "plain"), _accuracy(results, case, "hfxfer"), _memory(results, case)))
    return "\n".join(lines) if cases else ""


def _growth(results: dict[str, Any]) -> str:
    members = [case for case in _shown(results, "train") if case.family]
    if not any(case.once for case in members):
        return ""
    lines = ["| cost by rows | training rows | whole process: plain → hfxfer | first decode to saved model |", "| --- | --- | --- | --- |"]
    families = dict.fromkeys(case.family for case in members)
    for family in families:
        for case in sorted((case for case in members if case.family == family), key=lambda case: case.rows.get("train", float("inf"))):
            lines.append(_row(family, str(case.rows.get("train", "all")), _pair(results, case, "seconds"), _pair(results, case, "work_seconds")))
    return "\n".join(lines)


def _prediction(results: dict[str, Any]) -> str:
    cases = _shown(results, "predict")
    lines = ["| prediction | whole process: pipeline → hfxfer | pipeline alone, s | same labels | peak memory |", "| --- | --- | --- | --- | --- |"]
    for case in cases:
        if case.name in results["left_out"]:
            lines.append(_row(case.title, results["left_out"][case.name], "", "", ""))
            continue
        same = middle(results, case.name, "hfxfer", "same_labels")
        alone = middle(results, case.name, "plain", "work_seconds")
        lines.append(_row(case.title, _pair(results, case, "seconds", case.wanted_process), _number(alone),
                          "" if same is None else f"{same:.2%}", _memory(results, case)))
    return "\n".join(lines) if cases else ""


def _overhead(results: dict[str, Any]) -> str:
    cases = _shown(results, "overhead")
    lines = ["| overhead | bare loop, samples/s | hfxfer, samples/s | share (wanted) |", "| --- | --- | --- | --- |"]
    for case in cases:
        bare, own = (middle(results, case.name, side, "samples_per_second") for side in ("plain", "hfxfer"))
        share = f"{own / bare:.1%} (≥ {case.wanted_work:.0%})" if bare and own else ""
        lines.append(_row(case.title, _number(bare), _number(own), share))
    return "\n".join(lines) if cases else ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _pair(results: dict[str, Any], case: Case, value: str, wanted: float | None = None) -> str:
    plain, own = (middle(results, case.name, side, value) for side in ("plain", "hfxfer"))
    factor = ratio(results, case, value)
    shown = f"{_number(plain) or '?'} → {_number(own) or '?'} s"
    return shown + (f", **{factor:.1f}×**" if factor else "") + (f" (wanted ≥ {wanted:g}×)" if wanted else "")


def _accuracy(results: dict[str, Any], case: Case, side: str) -> str:
    runs = sorted((run for run in _runs(results, case.name, side) if run.get("accuracy") is not None), key=lambda run: run["accuracy"])
    if not runs:
        return ""
    run = runs[len(runs) // 2]
    return f"{run['accuracy']:.3f} [{run['low']:.3f}, {run['high']:.3f}], {run['num_rows']} rows"


def _memory(results: dict[str, Any], case: Case) -> str:
    shown = [_number(middle(results, case.name, side, "peak_mb")) or "?" for side in ("plain", "hfxfer")]
    return " → ".join(shown) + " MB"
