"""Finds `spaces/` and `model_cards/`: beside the code in an installed wheel, at the top level in a checkout.

The wheel holds them under `hfxfer/_shipped/` (pyproject.toml, force-include). An editable install imports hfxfer from
the checkout, so there the checkout's own folders are found, as they are now. The copy that hatchling then leaves in
site-packages is as old as the installation and is not looked at.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED = ("model_cards", "spaces")


def shipped(name: str) -> Path:
    """The folder `spaces` or `model_cards`. Raises FileNotFoundError where the installation lacks it."""
    if name not in SHIPPED:
        raise ValueError(f"{name!r} does not ship with hfxfer; what does: {', '.join(SHIPPED)}")
    package = Path(__file__).resolve().parent
    places = (package / "_shipped" / name, package.parent / name)
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"{name} is neither {places[0]} nor {places[1]}. Install hfxfer again: "
                            "pip install --force-reinstall --no-deps hfxfer")
