"""What was measured: scores with their intervals, by class, calibration, and where the model fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from hfxfer.card._facts import BEFORE, Facts, interval, number, with_interval
from hfxfer.card._text import counted, escaped, listed, table
from hfxfer.metrics import METRICS, MULTI_LABEL, REGRESSION, TOKENS

MOST = 3
"""Weakest classes and worst confusions that are named."""

ALL_SCORES = " (all are in [scores.json](scores.json))"


def context(facts: Facts) -> str:
    """Split, rows and data of the scores."""
    score = facts.primary or {"split": "test", "num_rows": 0}
    return f"{counted(score['num_rows'], 'row')} of the {escaped(score['split'])} split of {escaped(facts.data_name)}"


def measured(facts: Facts) -> str:
    """How the scores came about, or that there are none. A script's rows may have been looked at more than once."""
    if facts.from_script and not facts.whole:
        return "It was not evaluated: the script that published it gave no rows to score it on."
    once, when = "" if facts.from_script else " once,", f" after training with seed {facts.recipe.seed}," if facts.was_trained else ""
    return f"Measured{once}{when} on {context(facts)}. All scores with their context are in [scores.json](scores.json)."


def scores_table(facts: Facts) -> str:
    rows = []
    for score in facts.whole:
        lower = "" if greater_is_better(score["metric"]) else " (lower is better)"
        rows.append([f"{escaped(score['metric'])}{lower}", number(score), interval(score)])
    return table(["metric", "value", "95 % interval"], rows)


def class_table(facts: Facts) -> str:
    """Each class with its rows and scores; empty where scores have no classes."""
    found = facts.by_label
    if not found:
        return ""
    metrics = list(dict.fromkeys(metric for scores in found.values() for metric in scores))
    counts = {label: facts.scored_rows(label) for label in found}
    rows = [[escaped(label), "" if counts[label] is None else f"{counts[label]:,}",
             *(with_interval(scores[metric]) if metric in scores else "" for metric in metrics)] for label, scores in found.items()]
    return table([_row_head(facts), f"in the {escaped(facts.split)} split", *map(escaped, metrics)], rows, rest=ALL_SCORES)


def greater_is_better(metric: str) -> bool:
    """False of errors; also of scores that are no metric by themselves."""
    return METRICS[metric].greater_is_better if metric in METRICS else not metric.startswith(("ece", "half_width")) and metric != "loss"


def _row_head(facts: Facts) -> str:
    return "entity" if facts.problem_type == TOKENS else "label" if facts.problem_type == MULTI_LABEL else "class"


def calibration(facts: Facts) -> str:
    """How far the stated probabilities and numbers can be believed; empty where nothing is known of it. What was fitted is in the config."""
    by_metric = {score["metric"]: score for score in facts.whole}
    rows = counted(facts.data["splits"].get("validation", {}).get("num_rows", 0), "validation row") if facts.was_trained else "rows of its training"
    temperature, threshold, width = (facts.config.get(f"hfxfer_{name}") for name in ("temperature", "threshold", "half_width"))
    lines = []
    if "ece" in by_metric:
        ece, before = by_metric["ece"], next((score for score in facts.scores["scores"] if score["metric"] == BEFORE), None)
        limits = f" (95 % interval {interval(ece)})" if interval(ece) else ""
        lines.append(f"A stated probability is off by {number(ece)} on average{limits}: the expected calibration error, "
                     f"on {counted(ece['num_rows'], 'row')} of the {escaped(ece['split'])} split.")
        lines += [f"Before calibration it was {number(before)}."] if before else []
    if temperature is not None:
        lines.append(f"The logits were divided by a temperature of {temperature:.4g}, fitted on {rows}; it is in the weights, for every library.")
    if facts.problem_type == MULTI_LABEL and threshold is not None:
        lines.append(f"A label counts as given where its probability is {threshold:.4g} or more.")
    if width is not None:
        lines.append(f"The true value lies within ± {width:.4g} of the prediction for 90 % of rows like the {rows} that this was measured on "
                     "(split-conformal).")
    return " ".join(lines)


def limits(facts: Facts) -> str:
    """What was seen to go wrong, one list item each."""
    found = [*_weakest(facts), *(_confusions(facts) + _values(facts) if facts.run.predictions_path.is_file() else ()), *_unknown(facts)]
    return "\n".join(f"- {line}" for line in found)


def _weakest(facts: Facts) -> list[str]:
    """The classes with the lowest score, of one metric."""
    measured = facts.by_label
    metrics = [metric for metric in ("f1", "recall", "precision") if any(metric in scores for scores in measured.values())]
    metric = metrics[0] if metrics else next((name for scores in measured.values() for name in scores), None)
    scored = [(label, scores[metric]) for label, scores in measured.items() if metric in scores and scores[metric]["value"] is not None]
    if len(scored) < 2:
        return []
    scored = [(label, score) for label, score in sorted(scored, key=lambda each: each[1]["value"]) if score["value"] < 1][:min(MOST, len(scored) - 1)]
    if not scored:
        return [f"Every {_row_head(facts)} scored 1 in {escaped(metric)}: {context(facts)} are too few to show where it fails."]
    counts = {label: facts.scored_rows(label) for label, _ in scored}
    where = f"in the {escaped(facts.split)} split"
    named = "; ".join(f"{escaped(label)} {with_interval(score)}" + ("" if counts[label] is None else f", {counts[label]:,} {where}")
                      for label, score in scored)
    return [f"Weakest by {escaped(metric)} [95 % interval]: {named}."]


def _confusions(facts: Facts) -> list[str]:
    """Most frequent errors by reference and prediction."""
    if facts.problem_type == REGRESSION:
        return []
    predictions = facts.run.predictions().select(["reference", "prediction"]).to_pydict()
    pairs = list(zip(predictions["reference"], predictions["prediction"]))
    if facts.problem_type == MULTI_LABEL:
        return _wrong_labels(pairs)
    if pairs and isinstance(pairs[0][0], list):
        pairs, unit = [pair for row in pairs for pair in zip(*row)], "word"
    else:
        unit = "row"
    if not pairs or not all(isinstance(side, str) for side in pairs[0]):
        return []
    totals = Counter(reference for reference, _ in pairs)
    wrong = Counter(pair for pair in pairs if pair[0] != pair[1])
    if not wrong:
        return []
    named = "; ".join(f"{escaped(reference)} taken for {escaped(prediction)}: {count:,} of {counted(totals[reference], unit)}"
                      for (reference, prediction), count in _most_common(wrong))
    return [f"Most frequent confusions: {named}."]


def _wrong_labels(pairs: list[tuple[list[str], list[str]]]) -> list[str]:
    missed = Counter(label for reference, prediction in pairs for label in set(reference) - set(prediction))
    added = Counter(label for reference, prediction in pairs for label in set(prediction) - set(reference))
    had = Counter(label for reference, _ in pairs for label in set(reference))
    given = Counter(label for _, prediction in pairs for label in set(prediction))
    lines = []
    for what, wrong, totals, that in (("Most often missed", missed, had, "that have it"), ("Most often wrongly given", added, given, "that got it")):
        named = "; ".join(f"{escaped(label)}, {count:,} of {counted(totals[label], 'row')} {that}" for label, count in _most_common(wrong))
        lines += [f"{what}: {named}."] if wrong else []
    return lines


def _most_common(wrong: Counter) -> Iterable[tuple[Any, int]]:
    """Ties in the order of their names, so that a card does not depend on the order of rows."""
    return sorted(wrong.items(), key=lambda each: (-each[1], str(each[0])))[:MOST]


def _values(facts: Facts) -> list[str]:
    """Of a regression: the largest errors, the bias, and whether small or large values are predicted worse."""
    if facts.problem_type != REGRESSION:
        return []
    import numpy as np

    predictions = facts.run.predictions()
    reference, predicted = (predictions[name].to_numpy().astype(float) for name in ("reference", "prediction"))
    error = predicted - reference
    lines = [f"Half of the {counted(len(error), 'row')} are off by less than {np.median(np.abs(error)):.4g}, one in ten by more than "
             f"{np.quantile(np.abs(error), 0.9):.4g}, the worst by {np.abs(error).max():.4g}; on average predictions are "
             f"{abs(error.mean()):.4g} too {'high' if error.mean() > 0 else 'low'}."]
    low, high = np.quantile(reference, [1 / 3, 2 / 3])
    thirds = [(f"up to {low:.4g}", reference <= low), (f"from {low:.4g} to {high:.4g}", (reference > low) & (reference <= high)),
              (f"above {high:.4g}", reference > high)]
    named = [f"{np.abs(error[rows]).mean():.4g} {what} ({counted(int(rows.sum()), 'row')})" for what, rows in thirds if rows.any()]
    span = f"{reference.min():.4g} to {reference.max():.4g}"
    return [*lines, f"Mean absolute error by true value: {'; '.join(named)}.",
            f"True values of the {escaped(facts.split)} split are from {span}; beyond them nothing was measured."]


def _unknown(facts: Facts) -> list[str]:
    """What the data do not allow to say."""
    data, lines = facts.data, []
    for split, labels in data.get("missing_classes", {}).items():
        if split == facts.split:
            lines.append(f"Nothing is known of {listed(labels)}: without an example in the {escaped(split)} split.")
    if data.get("small_classes"):
        named = [f"{escaped(label)} ({number_of})" for label, number_of in data["small_classes"].items()]
        more = f" and {len(named) - 10} more" if len(named) > 10 else ""
        lines.append(f"Fewer than 5 training examples: {', '.join(named[:10])}{more}.")
    for key, one, many in (("leaks", "input stands", "inputs stand"), ("shared_groups", "group stands", "groups stand")):
        if data.get(key):
            lines.append(f"{counted(len(data[key]), one, many)} in more than one split, so the scores look better than they are.")
    if data.get("conflicts"):
        lines.append(f"{counted(len(data['conflicts']), 'input has', 'inputs have')} different labels in the data.")
    if facts.split == "validation" and any(event.get("best_step") for event in facts.events("end")):
        lines.append("The validation split also chose the checkpoint, so new rows will score a little lower.")
    return lines
