"""A phone with the app on it: a real chromium, driven by playwright. Tests that import this are skipped where either is missing."""

import contextlib
import shutil

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason='a browser is driven by playwright: pip install "hfxfer[browser]"')
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed: apt-get install chromium")
WIDTH = 390


@pytest.fixture(scope="module")
def phone():
    """A browser of a phone's width in the dark. Its pages share one cache."""
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened.new_context(viewport={"width": WIDTH, "height": 844}, color_scheme="dark")
        opened.close()


@contextlib.contextmanager
def watched(phone, address):
    """(page, faults) of the app, its model there. faults: what the browser complains of, and what it asks of others."""
    page, faults = phone.new_page(), []
    page.set_default_timeout(20_000)
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if not request.url.startswith((address, "data:", "blob:")) else None)
    page.goto(address)
    page.get_by_role("tab", name="Predict").wait_for()
    page.locator("#notice").wait_for(state="detached")
    yield page, faults
    page.close()


def check(page, faults):
    """What holds on every page at any time: nothing to scroll sideways for, no picture without words, no complaint."""
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH
    assert page.evaluate("window.hacked") is None
    assert page.locator("img:visible:not([alt])").count() == 0
    assert faults == []


def panel(page, name):
    """The panel of this tab, brought to the front; on a phone some tabs are in a menu."""
    tab = page.get_by_role("tab", name=name, exact=True).first
    if tab.is_visible():
        tab.click()
    else:
        page.get_by_role("button", name="More tabs").click()
        page.locator(".overflow-dropdown").get_by_role("button", name=name, exact=True).click()
    return page.get_by_role("tabpanel").filter(visible=True).first


def upload(place, *paths):
    place.locator("input[type=file]").first.set_input_files([str(path) for path in paths])
