"""Pictures of a run: learning curve and confusion matrix, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

INK, TRAIN, VALIDATION = "#222222", "#8a8f98", "#d9480f"


def learning_curve(history: list[dict[str, Any]], metric: str, path: Path) -> None:
    """Training loss, validation loss and `metric` on validation, by epoch."""
    pyplot = _pyplot()
    logs = [(event["epoch"], event["loss"]) for event in history if event["type"] == "log" and "loss" in event]
    evals = [event for event in history if event["type"] == "eval"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    if logs:
        left.plot(*zip(*logs), color=TRAIN, label="training")
    losses = [(event["epoch"], event["eval_loss"]) for event in evals if "eval_loss" in event]
    if losses:
        left.plot(*zip(*losses), color=VALIDATION, marker="o", label="validation")
    left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    if logs or losses:
        left.legend(frameon=False)
    measured = [(event["epoch"], event[f"eval_{metric}"]) for event in evals if f"eval_{metric}" in event]
    if measured:
        right.plot(*zip(*measured), color=VALIDATION, marker="o")
        right.set(xlabel="epoch", ylabel=f"validation {metric.replace('_', ' ')}")
    else:
        right.set_axis_off()
    _save(figure, path)


def confusion_matrix(counts: list[list[int]], labels: tuple[str, ...], path: Path) -> None:
    """Counts in each cell, shaded by the share of the row (the reference)."""
    import numpy as np

    pyplot = _pyplot()
    matrix = np.asarray(counts)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(14, 2.5 + 0.45 * len(labels))
    figure, axes = pyplot.subplots(figsize=(side, side), layout="constrained")
    axes.imshow(share, cmap="Oranges", vmin=0, vmax=1)
    if len(labels) <= 30:
        for row, column in np.ndindex(matrix.shape):
            axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=8,
                      color="white" if share[row, column] > 0.6 else INK)
        names = [name if len(name) <= 18 else name[:17] + "…" for name in labels]
        # Names from the user's data may hold "$", which would start mathematical text.
        names = [name.replace("$", r"\$") for name in names]
        axes.set_xticks(range(len(labels)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(labels)), names, fontsize=8)
    axes.set(xlabel="prediction", ylabel="reference")
    _save(figure, path)


def ladder(rungs: list[dict[str, Any]], metric: str, chosen: str, path: Path) -> None:
    """Score with interval and minutes of each rung, the cheapest below.

    rungs: each with method, value, low, high, num_rows, seconds and trained_parameters.
    """
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 1.3 + 0.6 * len(rungs)), layout="constrained", sharey=True, width_ratios=(2, 1))
    for place, rung in enumerate(rungs):
        color, value = VALIDATION if rung["method"] == chosen else TRAIN, rung["value"]
        if value is not None:
            low, high = (value if rung[side] is None else rung[side] for side in ("low", "high"))
            left.plot((low, high), (place, place), color=color, linewidth=2)
            left.plot(value, place, color=color, marker="o", markersize=8)
            left.annotate(f"{value:.3f}", (value, place), (0, 9), textcoords="offset points", ha="center", fontsize=9, color=INK)
        minutes = rung["seconds"] / 60
        right.barh(place, minutes, height=0.5, color=color)
        right.annotate(f" {minutes:.1f}" if minutes >= 0.1 else f" {minutes:.1g}", (minutes, place), va="center", fontsize=9, color=INK)
    names = [f"{rung['method']}{' (chosen)' if rung['method'] == chosen else ''}\n{rung['trained_parameters']:,} parameters" for rung in rungs]
    left.set_yticks(range(len(rungs)), names, fontsize=9)
    left.set(xlabel=f"{metric.replace('_', ' ')} with 95 % interval, {rungs[0]['num_rows']} validation rows", ylim=(-0.5, len(rungs) - 0.3))
    right.set(xlabel="minutes of training")
    right.margins(x=0.2)
    right.tick_params(left=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    _pyplot().close(figure)
