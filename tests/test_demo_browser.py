"""The app in a real browser, as a person uses it: every tab, on a phone, in the dark, by keyboard. Needs playwright and a chromium."""

import contextlib
import io
import json
import shutil

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason='a browser is driven by playwright: pip install "hfxfer[browser]"')
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed: apt-get install chromium")

HOSTILE = "<img src=x onerror=window.hacked=1>"
SETTINGS = {"num_train_epochs": 1, "plan": "none", "method": "full", "per_device_train_batch_size": 16}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A Run of pictures, one of whose labels is markup."""
    from tiny_models import digits_folder, timm_checkpoint

    from hfxfer.training import train

    folder = tmp_path_factory.mktemp("browser")
    timm_checkpoint(folder / "timm")
    digits_folder(folder / "digits", train=10, validation=3, test=5)
    for place in (folder / "digits").glob("*/digit 0"):
        place.rename(place.with_name(HOSTILE))
    with contextlib.redirect_stderr(io.StringIO()):
        return train(model=str(folder / "timm"), data=str(folder / "digits"), output_dir=str(folder / "one"), **SETTINGS)


@pytest.fixture(scope="module")
def app(run, tmp_path_factory):
    """(address, folder of reports) of an app with two models."""
    from hfxfer import demo

    reports = tmp_path_factory.mktemp("reports") / "new"
    shutil.copytree(run.folder, run.folder.with_name("two"))
    served, address = demo.launch([str(run.folder), str(run.folder.with_name("two"))], wait=False, flag_folder=reports)
    yield address, reports
    served.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(app, browser):
    """The app on a phone in the dark, its model there; what the browser complains of fails the test."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    shown, faults = context.new_page(), []
    shown.set_default_timeout(20_000)
    shown.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    shown.on("pageerror", lambda error: faults.append(str(error)))
    shown.on("request", lambda request: faults.append(request.url) if not request.url.startswith((app[0], "data:", "blob:")) else None)
    shown.goto(app[0])
    shown.get_by_role("tab", name="Predict").wait_for()
    shown.locator("#notice").wait_for(state="detached")
    yield shown
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    assert shown.evaluate("window.hacked") is None
    assert shown.locator("img:visible:not([alt])").count() == 0
    assert faults == []
    context.close()


def panel(page, name):
    """The panel of this tab, brought to the front; on a phone some tabs are in a menu."""
    tab = page.get_by_role("tab", name=name, exact=True).first
    if tab.is_visible():
        tab.click()
    else:
        page.get_by_role("button", name="More tabs").click()
        page.locator(".overflow-dropdown").get_by_role("button", name=name, exact=True).click()
    return page.get_by_role("tabpanel").filter(visible=True).first


def upload(place, path):
    place.locator("input[type=file]").first.set_input_files(str(path))


def picture(run):
    return run.folder / "examples" / "00.png"


def test_a_picture_is_predicted_and_the_threshold_moves_the_verdict(page, run):
    place = panel(page, "Predict")
    upload(place, picture(run))
    page.locator("#verdict").get_by_text("%").wait_for()
    number = place.get_by_role("spinbutton").first
    number.fill("1")
    number.press("Tab")
    page.get_by_text("which is below 100 %").wait_for()
    assert page.get_by_text("At 100 %: sure on none of 15 test rows.").is_visible()


def test_what_is_no_picture_is_said_in_one_sentence(page, tmp_path):
    (tmp_path / "a.png").write_bytes(b"<svg>")
    place = panel(page, "Predict")
    place.locator("button.gallery-item").first.click()
    page.locator("#verdict").get_by_text("%").wait_for()
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    page.locator("#verdict").get_by_text("%").wait_for(state="detached")
    upload(place, tmp_path / "a.png")
    page.get_by_text("That file is no picture that can be read here.").wait_for()
    assert page.locator("#verdict").get_by_text("%").count() == 0


def test_an_example_is_chosen_by_keyboard(page):
    place = panel(page, "Predict")
    example = place.locator("button.gallery-item").first
    example.focus()
    page.keyboard.press("Enter")
    page.locator("#verdict").get_by_text("%").wait_for()


def test_a_wrong_answer_is_reported(page, run, app):
    place = panel(page, "Predict")
    upload(place, picture(run))
    place.get_by_role("button", name="This is wrong").click()
    place.get_by_label("The right label").click()
    page.get_by_role("option", name=HOSTILE).click()
    place.get_by_role("button", name="Report").click()
    page.get_by_text("Thank you, it is kept. Reports so far: 1.").wait_for()
    assert json.loads((app[1] / "metadata.jsonl").read_text(encoding="utf-8"))["label"] == HOSTILE


def test_many_pictures_are_predicted_and_downloaded(page, run):
    place = panel(page, "Batch")
    place.locator("input[type=file]").first.set_input_files([str(path) for path in sorted((run.folder / "examples").glob("*.png"))[:3]])
    place.get_by_text("02").first.wait_for()
    place.get_by_role("button", name="Predict all").click()
    page.get_by_text("3 rows;").wait_for()
    with page.expect_download() as download:
        place.get_by_role("button", name="Download CSV").click()
    assert len(open(download.value.path(), encoding="utf-8").read().splitlines()) == 4


def test_two_models_are_compared(page, run):
    place = panel(page, "Compare")
    upload(place, picture(run))
    place.get_by_role("button", name="Compare").click()
    place.get_by_role("gridcell").filter(has_text="two").first.wait_for()
    assert place.get_by_text("0 of 15 test rows that all models were scored on get different answers.").is_visible()


def test_a_cell_of_the_confusions_opens_its_pictures(page, run):
    place = panel(page, "Model")
    counts = run.scores()["confusion_matrix"]["counts"]
    row, column, number = next((row, column, number) for row, line in enumerate(counts) for column, number in enumerate(line) if number)
    labels = run.scores()["labels"]
    cells = place.locator("[role=gridcell]:visible")
    first = next(at for at in range(cells.count()) if cells.nth(at).inner_text().strip() == labels[row])
    cells.nth(first + 1 + column).click()
    page.get_by_text(f"{number} test rows are {labels[row]} and were answered {labels[column]}.").wait_for()
    page.locator(".thumbnail-item img:visible").first.wait_for()


def test_a_picture_is_explained(page, run):
    pytest.importorskip("captum")
    place = panel(page, "Why")
    upload(place, picture(run))
    place.get_by_role("button", name="Explain").click()
    place.locator("#why").get_by_text("For ").wait_for()


def test_a_card_shows_no_picture_from_elsewhere(run, browser, tmp_path):
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from hfxfer import demo

    asked = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    shutil.copytree(run.model_dir, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text(
        f"# A card\n\n![a][r] ![b [c] d]({base}/nested.png)\n\n<picture><source srcset='{base}/set.png'></picture>\n"
        f"<video poster='{base}/poster.png' src='{base}/a.mp4' autoplay></video>\n\nThe end\n\n[r]: {base}/reference.png\n", encoding="utf-8")
    app, address = demo.launch([str(tmp_path / "model")], wait=False)
    shown = browser.new_page()
    try:
        shown.goto(address)
        shown.get_by_role("tab", name="Predict").wait_for()
        place = panel(shown, "Model")
        place.get_by_role("button", name="Card").click()
        place.get_by_text("The end").wait_for()
        shown.wait_for_timeout(1000)
        assert asked == []
    finally:
        shown.close()
        app.close()
        server.shutdown()
        server.server_close()
