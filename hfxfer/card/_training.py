"""How the model came about: data, method, settings, course, machine, and the command that does it again."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from hfxfer.card._facts import Facts
from hfxfer.card._results import greater_is_better
from hfxfer.card._text import counted, escaped, fenced, table
from hfxfer.console import duration
from hfxfer.recipe import Recipe

SPLITS = ("train", "validation", "test")
TOLD_ELSEWHERE = {"version", "model", "data", "output_dir", "task", "plan", "revision", "data_config", "data_revision", "trust_remote_code"}
MOST_EVALUATIONS = 12

METHODS = {"head": "only the head was trained, on a body that stood still", "full": "all weights were trained from the start",
           "lp-ft": "first the head alone, then all weights", "gradual": "first the head, then block after block from the top",
           "lora": "low-rank adapters were trained beside frozen weights, and merged into them at the end"}


def counts_table(facts: Facts) -> str:
    """Examples of each class in each split; rows of each split where there are no classes."""
    splits = facts.data["splits"]
    names = [name for name in SPLITS if name in splits]
    if not names:
        return ""
    rows = [["all rows", *(f"{splits[name]['num_rows']:,}" for name in names)]]
    for label in splits[names[0]]["classes"]:
        rows.append([escaped(label), *(f"{splits[name]['classes'].get(label, 0):,}" for name in names)])
    return table(["", *names], rows)


def data_notes(facts: Facts) -> str:
    """Where the splits come from, what was found in them, and what the rows are known by."""
    data = facts.data
    of = {name: split["origin"] for name, split in data["splits"].items()}
    if not data.get("fingerprint"):  # a script's items, already encoded: nobody looked into them
        return ""
    lines = [f"Splits: {', '.join(f'{name} ({escaped(of[name])})' for name in SPLITS if name in of)}."]
    found = [counted(len(data[key]), one, many) if data.get(key) else f"no {one}" for key, one, many in (
        ("duplicates", "input that stands more than once in a split", "inputs that stand more than once in a split"),
        ("leaks", "input that stands in more than one split", "inputs that stand in more than one split"),
        ("conflicts", "input with different labels", "inputs with different labels"),
        ("bad_rows", "row that could not be used and was left out", "rows that could not be used and were left out"))]
    lines.append(f"Found in the data: {'; '.join(found)}.")
    revision = f", revision {escaped(data['revision'])}" if data.get("revision") and facts.data_id else ""
    lines.append(f"Fingerprint of rows and labels: {escaped(data['fingerprint'])}{revision}.")
    return "\n".join(f"- {line}" for line in lines)


def method(facts: Facts) -> str:
    """What was trained, from what, how far."""
    end = (facts.events("end") or [{}])[-1]
    source = f"[{facts.base_id}](https://huggingface.co/{facts.base_id})" if facts.base_id else escaped(facts.base_name)
    architecture = facts.base.get("architecture")
    if architecture and architecture != facts.base_name:
        source += f" ({escaped(architecture)})"
    revision = f", revision {escaped(facts.base['revision'])}" if facts.base.get("revision") and facts.base_id else ""
    if not facts.was_trained:
        return f"- The weights are those of {source}{revision}; they were published as they were loaded."
    lines = [f"- From {source}{revision}.", f"- Method `{facts.recipe.method}`: {_method(facts)}."]
    for stage in facts.events("stage"):
        named = f"Stage {escaped(stage['name'])}: " if stage["name"] else ""
        lines.append(f"- {named}{counted(stage['trained_parameters'], 'trained parameter')}, from epoch {stage['epoch']:g} on.")
    if end:
        best = f"; the best checkpoint on validation, of step {end['best_step']:,}, was kept" if end.get("best_step") else ""
        why = " because validation no longer improved" if end.get("stopped_early") else ""
        early = f", ended early{why}" if why or end.get("ended_early") else ""
        lines.append(f"- {counted(end['step'], 'step')} in {end['epoch']:.3g} epochs{early}{best}.")
    else:
        lines += [f"- Training was still going on: this is the model of step {event['step']:,}." for event in facts.events("save")[-1:]]
    if facts.ladder:
        rungs = ", ".join(rung["method"] for rung in facts.ladder["rungs"])
        lines.append(f"- Chosen by `hfxfer ladder` among {rungs}: {escaped(facts.ladder['reason'], 500)}.")
    return "\n".join(lines)


def _method(facts: Facts) -> str:
    frozen = facts.recipe.freeze or any(event.get("frozen_parameters") for event in (*facts.events("end"), *facts.events("save")))
    said = METHODS.get(facts.recipe.method, "see the recipe")
    return said.replace("all weights", "all weights that are not frozen") if frozen else said


def settings_table(facts: Facts) -> str:
    """Settings that differ from hfxfer's defaults, as they were used: what was auto stands here as a value."""
    if not facts.was_trained:
        return ""
    defaults = {each.name: each.default for each in dataclasses.fields(Recipe)}
    shared = facts.recipe.shareable().to_dict()
    rows = [[f"`{name}`", _value(value)] for name, value in shared.items()
            if name not in TOLD_ELSEWHERE and value != defaults.get(name, dataclasses.MISSING) and value not in ({}, None)]
    if isinstance(facts.recipe.plan, dict):
        chosen = {name: value for name, value in facts.recipe.plan.items() if value not in (shared.get(name), str(shared.get(name)))}
        rows.append(["`plan`", _value(chosen)])
    return table(["setting", "value"], rows)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{escaped(name)}={escaped(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(escaped, value))
    return f"{value:g}" if isinstance(value, float) else escaped(str(value).lower() if isinstance(value, bool) else value)


def course(facts: Facts) -> str:
    """Validation after each epoch; the first, the last and every so many between where they are many."""
    metric = (facts.primary or {}).get("metric", "")
    evaluations = facts.events("eval")
    if len(evaluations) > MOST_EVALUATIONS:
        step = -(-(len(evaluations) - 1) // (MOST_EVALUATIONS - 1))
        evaluations = [*evaluations[:-1:step], evaluations[-1]]
    keys = [key for key in ("eval_loss", f"eval_{metric}") if any(key in event for event in evaluations)]
    if not keys or not facts.was_trained:
        return ""
    shown = [[f"{event['epoch']:g}", f"{event['step']:,}", *(f"{event[key]:.4f}" if key in event else "" for key in keys)] for event in evaluations]
    rows = facts.data["splits"]["validation"]["num_rows"] if "validation" in facts.data["splits"] else 0
    better = "" if greater_is_better(metric) else " (lower is better)"
    names = [key.removeprefix("eval_") + (better if key != "eval_loss" else "") for key in keys]
    return f"On {counted(rows, 'validation row') if rows else 'the validation rows'}:\n\n" + table(["epoch", "step", *names], shown)


def machine(facts: Facts) -> str:
    """Hardware, time and versions."""
    if not facts.was_trained:
        return ""
    environment, end = facts.environment, (facts.events("end") or [{}])[-1]
    device = "a CPU" if environment["device"] == "cpu" else escaped(environment["device"])
    many = f"{environment['processes']} processes on " if environment.get("processes", 1) > 1 else ""
    threads = f" with {counted(environment['threads'], 'thread')}" if environment["device"] == "cpu" else ""
    took = f", {duration(end['seconds'])} of training" if "seconds" in end else ""
    packages = ", ".join(f"{escaped(name)} {escaped(version)}" for name, version in environment["packages"].items()
                         if name in ("hfxfer", "torch", "transformers", "timm", "datasets"))
    return f"{many}{device}{threads}{took}. Python {escaped(environment['python'])}, {packages}."


def command(facts: Facts) -> str:
    """What trains it again, and what the words in capitals stand for; of a script its settings."""
    beside = "The recipe lies beside this card, in [recipe.yaml](recipe.yaml)."
    if facts.from_script:
        more = "It holds the settings of a script that used `hfxfer.TransferTrainer`; its code and data are not among them."
        return f"{beside} {more}" if facts.was_trained else ""
    words, stand = ["hfxfer", "train", "recipe.yaml"], []
    if not facts.base_id:
        words += ["--model", "BASE"]
        stand.append(f"`BASE` is the checkpoint {escaped(facts.base_name)}")
    if not facts.data_id:
        words += ["--data", "DATA"]
        stand.append(f"`DATA` is the data set {escaped(facts.data_name)}")
    stand.append("`RUN` is a new folder")
    return f"{beside}\n\n{fenced(' '.join([*words, '--output_dir', 'RUN']), 'bash')}\n\n{_joined(stand)}."


def _joined(parts: list[str]) -> str:
    return re.sub(r", (?=[^,]*$)", " and ", ", ".join(parts)) if len(parts) > 1 else parts[0]
