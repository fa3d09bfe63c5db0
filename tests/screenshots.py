"""Take the README's screenshots of the app, from real Runs, in a real browser.

    python tests/screenshots.py IMAGE_RUN TEXT_RUN --text "what a lovely day"

They go to spaces/screenshots/. Needs the extras browser and explain, and a chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

OUTPUT = Path(__file__).resolve().parent.parent / "spaces" / "screenshots"
COLOURS = 256
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def tab(page: Any, name: str) -> Any:
    page.get_by_role("tab", name=name, exact=True).first.click()
    return page.get_by_role("tabpanel").filter(visible=True).first


def predicted(page: Any, text: str) -> None:
    place = tab(page, "Predict")
    if text:
        place.get_by_role("textbox").first.fill(text)
        place.get_by_role("button", name="Predict", exact=True).click()
    else:
        place.locator("button.gallery-item").nth(1).click()
    page.locator("#verdict").get_by_text("%").wait_for()


def explained(page: Any, text: str) -> None:
    predicted(page, text)
    place = tab(page, "Why")
    page.wait_for_timeout(1000)  # Until the input stands there, too.
    place.get_by_role("button", name="Explain").click()
    place.locator("#why").get_by_text("For ").wait_for()


def confused(page: Any, _text: str) -> None:
    """The confusion matrix with the pictures behind its largest count beside the diagonal."""
    place = tab(page, "Model")
    place.get_by_role("button", name="Scores").click()
    cells = place.locator("[role=gridcell]:visible").all()
    side = round(len(cells) ** 0.5 - 0.5) + 1  # As many columns as labels, and one before them that names the row.
    wrong = [(int(cell.inner_text()), cell) for at, cell in enumerate(cells) if at % side and at % side != at // side + 1]
    max(wrong, key=lambda pair: pair[0])[1].click()
    page.locator(".thumbnail-item img:visible").first.wait_for()


SHOTS: dict[str, tuple[str, Callable[[Any, str], None], int]] = {
    "predict": ("image", predicted, 900),
    "why": ("image", explained, 720), "why-text": ("text", explained, 520), "confusions": ("image", confused, 840)}
"""Name → which Run, what to do first, height of the window."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("image_run")
    parser.add_argument("text_run")
    parser.add_argument("--text", default="I was so worried, but the doctors were lovely and the news is wonderful")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser: install one of {', '.join(BROWSERS)}")
    from hfxfer import demo

    apps = {kind: demo.launch([run], wait=False) for kind, run in (("image", options.image_run), ("text", options.text_run))}
    OUTPUT.mkdir(exist_ok=True)
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for name, (kind, prepare, height) in SHOTS.items():
            page = opened.new_page(viewport={"width": 1100, "height": height})
            page.goto(apps[kind][1])
            page.get_by_role("tab", name="Predict").wait_for()
            page.locator("#notice").wait_for(state="detached", timeout=60_000)
            prepare(page, options.text if kind == "text" else "")
            page.mouse.move(0, 0)
            page.wait_for_timeout(1500)  # Until pictures are faded in.
            path = OUTPUT / f"{name}.png"
            page.screenshot(path=path)
            with Image.open(path) as shot:
                shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
            print(path)
            page.close()
        opened.close()
    for app, _ in apps.values():
        app.close()


if __name__ == "__main__":
    main()
