"""The app where a file, a label, a table or a config is other than most: tiny models that are made, not trained."""

import contextlib
import importlib.util
import io
import json

import pytest

pytest.importorskip("gradio")

import gradio as gr  # noqa: E402

import hfxfer  # noqa: E402
from hfxfer.demo import limits  # noqa: E402
from hfxfer.demo.batch_tab import BatchTab, rows_of  # noqa: E402
from hfxfer.demo.inputs import InputBox  # noqa: E402
from hfxfer.demo.served import Served  # noqa: E402
from hfxfer.demo.why_tab import WhyTab  # noqa: E402

HOSTILE = "<img src=x>*a*"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    from tiny_models import bert_checkpoint

    return bert_checkpoint(tmp_path_factory.mktemp("edges") / "bert")


def model(bert, folder, kind, labels, always=None):
    """A model folder with a random head; always: the label that it answers whatever it reads."""
    import torch
    import transformers

    torch.manual_seed(0)
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    made = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(bert, **named)
    if always is not None:
        with torch.no_grad():
            made.classifier.bias[labels.index(always)] = 20
    made.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
    return str(folder)


def loaded(source):
    served = Served(str(source))
    served.start()
    return served


def why_tab(*models):
    with gr.Blocks(), gr.Tab() as tab:
        return WhyTab({each.name: each for each in models}, None, tab, InputBox(models[0]))


def batch(served, *paths):
    """What /batch returns of these files."""
    with gr.Blocks():
        tab = BatchTab({served.name: served}, None, gr.Slider())
    return list(tab.batch([(str(path), path.name) for path in paths]))[-1]


def test_an_entity_that_begins_inside_is_explained(bert, tmp_path):
    pytest.importorskip("captum")
    served = loaded(model(bert, tmp_path / "iob1", "TokenClassification", ["O", "B-PER", "I-PER"], always="I-PER"))
    assert [each["entity"] for each in served.predict([{"tokens": ["ada", "smith"]}])[0]["entities"]] == ["PER"]
    said = why_tab(served).explain("ada smith", "")
    assert said["label"] == "I-PER" and [each["word"] for each in said["words"]] == ["ada", "smith"]


def test_a_table_is_read_by_the_columns_that_were_trained(bert, tmp_path):
    from tiny_models import text_rows, write_jsonl

    from hfxfer.training import train

    write_jsonl(tmp_path / "rows.jsonl", [{"text": f"number {index}", "phrase": row["text"], "label": row["label"]}
                                          for index, row in enumerate(text_rows(60))])
    with contextlib.redirect_stderr(io.StringIO()):
        run = train(model=str(bert), data=str(tmp_path / "rows.jsonl"), output_dir=str(tmp_path / "run"), columns={"text": "phrase"},
                    num_train_epochs=1, plan="none", method="full")
    (tmp_path / "new.csv").write_text("text,phrase\nnumber 1,a good day\n", encoding="utf-8")
    served = loaded(run.folder)
    assert rows_of(served, [(str(tmp_path / "new.csv"), "new.csv")]) == [("a good day", {"text": "a good day"})]
    assert hfxfer.load(run).columns["text"].names[0] == "phrase"


def test_a_broken_avif_is_refused_in_a_sentence(tmp_path):
    from PIL import Image, features

    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "AVIF")
    (tmp_path / "a.avif").write_bytes(whole.getvalue().replace(b"iinf", b"xinf"))
    with pytest.raises(RuntimeError):
        Image.open(tmp_path / "a.avif")
    with pytest.raises(gr.Error) as caught:
        limits.picture(str(tmp_path / "a.avif"))
    assert caught.value.message == "That picture is broken or cut short. Take another copy of it."


def test_an_empty_second_text_is_what_predict_makes_of_it(bert, tmp_path):
    served = loaded(model(bert, tmp_path / "pairs", "SequenceClassification", ["x", "y"]))
    (tmp_path / "a.csv").write_text('text,text_pair\ngood,""\nbad,day\n', encoding="utf-8")
    said, expected = batch(served, tmp_path / "a.csv"), served.model().predict(str(tmp_path / "a.csv"))
    assert [each["confidences"][0]["confidence"] for each in said] == pytest.approx([each["score"] for each in expected], abs=1e-6)


def test_words_with_spaces_in_them_are_tagged_where_they_stand_among_the_others(bert, tmp_path):
    served = loaded(model(bert, tmp_path / "tags", "TokenClassification", ["O", "B-PER"], always="B-PER"))
    (tmp_path / "a.jsonl").write_text(json.dumps({"tokens": [" ada", "new york", "b "]}) + "\n", encoding="utf-8")
    said = batch(served, tmp_path / "a.jsonl")[0]
    assert [(each["start"], each["end"]) for each in said["entities"]] == [(0, 4), (5, 13), (14, 16)]
    assert said["input"] == " ada new york b " and list(said["entities"][0]) == ["entity", "start", "end", "score"]


def test_labels_without_names_are_those_that_transformers_gives(bert, tmp_path):
    source = tmp_path / "unnamed"
    model(bert, source, "SequenceClassification", ["x", "y"])
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name not in ("id2label", "label2id")}))
    served = loaded(source)
    assert served.labels == served.model().labels == ("LABEL_0", "LABEL_1")
    if importlib.util.find_spec("captum"):
        assert why_tab(served).explain("a good day", "", "")["label"] in served.labels


class Counting:
    """In place of a model: how many rows it was asked at once."""

    def __init__(self):
        self.asked = []

    def predict(self, rows):
        self.asked.append(len(rows))
        return [{"label": "a", "score": 1.0, "score_a": 1.0} for _ in rows]


def test_few_large_pictures_are_decoded_at_once(tmp_path, monkeypatch):
    from PIL import Image

    from tiny_models import timm_checkpoint

    served, counting = Served(str(timm_checkpoint(tmp_path / "timm"))), Counting()
    monkeypatch.setattr(served, "predict", counting.predict)
    for index in range(20):
        Image.new("L", (40, 30) if index < 17 else (100, 100)).save(tmp_path / f"{index:02d}.png")
    pictures = sorted(tmp_path.glob("*.png"))
    monkeypatch.setattr(limits, "PIXELS", 10_000)
    assert [each["input"] for each in batch(served, *pictures)] == [path.name for path in pictures]
    assert counting.asked == [9, 9, 1, 1]
    counting.asked.clear()
    monkeypatch.setattr(limits, "PIXELS", 40_000_000)
    batch(served, *pictures)
    assert counting.asked == [16, 4]


def test_an_upload_that_was_cleared_away_is_said(tmp_path):
    from tiny_models import timm_checkpoint

    sentence = "That upload is gone: uploads are kept for an hour. Upload it again."
    with pytest.raises(gr.Error) as caught:
        limits.picture(str(tmp_path / "a.png"))
    assert caught.value.message == sentence
    with pytest.raises(gr.Error) as caught:
        rows_of(Served(str(timm_checkpoint(tmp_path / "timm"))), [(str(tmp_path / "a.png"), "a.png")])
    assert caught.value.message == sentence


@pytest.mark.parametrize("content", ["[]", "{", '{"scores": [1]}', '{"scores": [{"metric": "f1"}]}', '{"scores": {"f1": 1}}', "\udcff", '"a"',
                                     '{"scores": [], "confusion_matrix": {"counts": [[1]]}, "labels": ["a"]}',
                                     '{"scores": [], "confusion_matrix": {"counts": [[1]], "split": "test"}, "labels": ["a", "b"]}'])
def test_somebody_elses_scores_are_none(bert, tmp_path, content):
    from hfxfer.demo import facts

    source = model(bert, tmp_path / "foreign", "SequenceClassification", ["x", "y"])
    (tmp_path / "foreign" / "scores.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert facts.scores(Served(source)) is None


def test_why_says_that_the_end_was_not_read(bert, tmp_path):
    pytest.importorskip("captum")
    sentence = "Only the beginning was read: the model takes 64 tokens."
    texts = why_tab(loaded(model(bert, tmp_path / "texts", "SequenceClassification", ["x", "y"])))
    tags = why_tab(loaded(model(bert, tmp_path / "tags", "TokenClassification", ["O", "B-PER"], always="B-PER")))
    for tab, more in ((texts, [""] * 2), (tags, [""])):
        assert tab.explain("good day " * 60, *more)["note"] == sentence and "note" not in tab.explain("good day", *more)
        *before, said = tab.asked("", "good day " * 60, *more[1:])[0].split("\n\n")
        assert before == [sentence] and said.startswith("For **")


def test_labels_in_the_hint_for_tags_are_no_markup(bert, tmp_path):
    from hfxfer.demo.flag_tab import _right

    shown = _right(Served(model(bert, tmp_path / "hostile", "TokenClassification", ["O", f"B-{HOSTILE}"])))
    assert shown.info == "O B-&lt;img src=x&gt;\\*a\\*"


def test_a_browser_shows_nothing_from_elsewhere(bert, tmp_path):
    import httpx

    from hfxfer import demo

    app, address = demo.launch([model(bert, tmp_path / "texts", "SequenceClassification", ["x", "y"])], wait=False)
    try:
        for path in ("", "config", "gradio_api/file=http://example.com/x.png", "nowhere"):
            assert httpx.get(address + path).headers["content-security-policy"] == "img-src 'self' data: blob:; media-src 'self' data: blob:"
    finally:
        app.close()
