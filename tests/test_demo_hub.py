"""`hfxfer demo me/x` as a shell would call it, from a Hub id, against the test Hub server."""

import json
import re
import signal
import subprocess
import sys

import pytest

pytest.importorskip("gradio")

from gradio_client import Client  # noqa: E402
from hub_client import client, hub  # noqa: E402, F401


def test_an_app_from_a_hub_id(client, hub, tmp_path):  # noqa: F811
    import torch
    from tiny_models import bert_checkpoint
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import hfxfer

    torch.manual_seed(0)
    bert_checkpoint(tmp_path / "bert")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert", id2label={0: "good", 1: "<b>bad</b>"},
                                                               label2id={"good": 0, "<b>bad</b>": 1})
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tmp_path / "bert").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# A card\n", encoding="utf-8")
    client(f"api.create_repo('me/x'); api.upload_folder(repo_id='me/x', folder_path={str(tmp_path / 'model')!r})")
    home = tmp_path / "demo-home"
    home.mkdir()
    environment = {**hub.environment(home, None), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "hfxfer", "demo", "me/x"], env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address), process.stderr.read() if process.poll() is not None else address
        said = Client(address, verbose=False).predict("a good day", api_name="/predict")
        page = json.dumps(Client(address, verbose=False).config)
    finally:
        process.send_signal(signal.SIGINT)
        out, talk = process.communicate(timeout=30)
    expected = hfxfer.load(str(tmp_path / "model")).predict(["a good day"])[0]
    assert said["label"] == expected["label"] and said["confidences"][0]["confidence"] == pytest.approx(expected["score"], abs=1e-5)
    assert "# A card" in page and "There are no scores (scores.json) with this model" in page
    assert out == "" and talk.splitlines()[0] == "Ctrl-C ends it" and "Traceback" not in talk


def test_all_that_is_read_is_of_one_commit(client, hub, tmp_path):  # noqa: F811
    from tiny_models import bert_checkpoint
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    bert_checkpoint(tmp_path / "bert")
    for state, labels in (("first", ["x", "y"]), ("second", ["p", "q"])):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert", id2label=dict(enumerate(labels)),
                                                                   label2id={label: index for index, label in enumerate(labels)})
        model.save_pretrained(tmp_path / state)
        AutoTokenizer.from_pretrained(tmp_path / "bert").save_pretrained(tmp_path / state)
        (tmp_path / state / "README.md").write_text(f"# {state}\n", encoding="utf-8")
    said = client(f"""
        from hfxfer.demo import facts
        from hfxfer.demo.served import Served
        api.create_repo('me/x')
        api.upload_folder(repo_id='me/x', folder_path={str(tmp_path / 'first')!r})
        served = Served('me/x')
        api.upload_folder(repo_id='me/x', folder_path={str(tmp_path / 'second')!r})
        served.start()
        said['labels'], said['loaded'], said['card'] = served.labels, served.model().labels, facts.card(served)
    """)
    assert (said["labels"], said["loaded"], said["card"]) == (["x", "y"], ["x", "y"], "# first")


WIDGET = """---
license: mit
widget:
- text: a good day
- text: "  "
- src: examples/00.png
- src: "https://elsewhere.example/a.png"
- src: ../a.png
- src: /etc/a.png
- src: examples/gone.png
- just a word
---
"""


@pytest.mark.parametrize("kind", ["text", "picture"])
def test_examples_come_from_the_card_and_the_repository_and_from_nowhere_else(client, hub, tmp_path, kind):  # noqa: F811
    from tiny_models import bert_checkpoint, digits, timm_checkpoint
    from transformers import AutoModelForSequenceClassification

    model = tmp_path / "model"
    if kind == "text":
        bert_checkpoint(model)
        AutoModelForSequenceClassification.from_pretrained(model, num_labels=2).save_pretrained(model)
    else:
        timm_checkpoint(model)
    (model / "README.md").write_text(WIDGET, encoding="utf-8")
    (model / "examples").mkdir()
    digits((0,), 1)[0][0].save(model / "examples" / "00.png")
    digits((1,), 1)[0][0].save(tmp_path / "a.png")  # What ../a.png is beside a local folder.
    said = client(f"""
        from hfxfer.demo import facts, inputs
        from hfxfer.demo.served import Served
        api.create_repo('me/x')
        api.upload_folder(repo_id='me/x', folder_path={str(model)!r})
        served = Served('me/x')
        said['rows'] = facts.card_examples(served, 12)
        said['local'] = facts.card_examples(Served({str(model)!r}), 12)
    """)
    if kind == "text":
        assert said["rows"] == said["local"] == [{"text": "a good day"}]
    else:
        assert said["local"] == [{"image": str(model / "examples" / "00.png")}]
        assert [list(row) for row in said["rows"]] == [["image"]]
        assert open(said["rows"][0]["image"], "rb").read() == (model / "examples" / "00.png").read_bytes()
    asked = [request.path for request in hub.requests]
    assert not [path for path in asked if path.endswith("a.png")]
