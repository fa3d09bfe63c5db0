"""The tasks, by their Hub names. Others may be added by packages, through the entry-point group `hfxfer.tasks`."""

from __future__ import annotations

import difflib
import importlib

from hfxfer.errors import RecipeError

BUILT_IN = {
    "image-classification": "hfxfer.tasks.image_classification",
    "text-classification": "hfxfer.tasks.text_classification",
    "token-classification": "hfxfer.tasks.token_classification",
}


def names() -> list[str]:
    """All task names, hfxfer's own first."""
    return [*BUILT_IN, *sorted(name for name in _from_outside() if name not in BUILT_IN)]


def get(name: str):
    """The task of that name. Raises RecipeError with the nearest names where there is none."""
    if name in BUILT_IN:
        return importlib.import_module(BUILT_IN[name]).TASK
    outside = _from_outside()
    if name in outside:
        loaded = outside[name].load()
        return loaded() if isinstance(loaded, type) else loaded
    near = difflib.get_close_matches(name, names(), n=1)
    raise RecipeError(f"task is {name!r}; allowed: auto, {', '.join(names())}."
                      + (f" Did you mean {near[0]}?" if near else ""))


def _from_outside() -> dict:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group="hfxfer.tasks")}
