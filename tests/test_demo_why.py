"""What a prediction rests on: faithful (taking away what counts most changes more than taking away at random), and /explain."""

import contextlib
import dataclasses
import io
import types

import numpy as np
import pytest

pytest.importorskip("gradio")
pytest.importorskip("captum", reason='explanations need captum: pip install "hfxfer[explain]"')

import torch  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

import hfxfer  # noqa: E402
from hfxfer import demo  # noqa: E402
from hfxfer.demo import why  # noqa: E402
from hfxfer.demo.why_tab import marked, sentence  # noqa: E402

SETTINGS = {"plan": "none", "method": "full", "per_device_train_batch_size": 16, "augment": "none"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """kind → Run, trained far enough that it looks at something."""
    from tiny_models import bert_checkpoint, digits_folder, tag_rows, text_rows, timm_checkpoint, write_jsonl

    from hfxfer.training import train

    folder = tmp_path_factory.mktemp("why")
    bert_checkpoint(folder / "bert")
    timm_checkpoint(folder / "timm", size=64)
    timm_checkpoint(folder / "vit", architecture="test_vit")
    digits_folder(folder / "digits", train=20, validation=3, test=5)
    write_jsonl(folder / "texts.jsonl", text_rows(80))
    write_jsonl(folder / "tags.jsonl", tag_rows(60))
    wanted = {"pictures": ("timm", "digits", {"num_train_epochs": 1}), "vit": ("vit", "digits", {"num_train_epochs": 1}),
              "texts": ("bert", "texts.jsonl", {"num_train_epochs": 8, "learning_rate": 0.003}),
              "tags": ("bert", "tags.jsonl", {"num_train_epochs": 6, "learning_rate": 0.005})}
    runs = {}

    def get(kind):
        if kind not in runs:
            model, data, more = wanted[kind]
            with contextlib.redirect_stderr(io.StringIO()):
                runs[kind] = train(model=str(folder / model), data=str(folder / data), output_dir=str(folder / "runs" / kind), **SETTINGS, **more)
        return runs[kind]

    return get


class Redness(torch.nn.Module):
    """Two logits: how red the picture is, and how blue."""

    def __init__(self):
        super().__init__()
        self.colours = torch.nn.Conv2d(3, 2, 8, stride=8, bias=False)
        self.head = torch.nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.colours.weight.copy_(torch.tensor([[1.0, -1, -1], [-1, -1, 1]])[:, :, None, None].expand(2, 3, 8, 8) / 64)
            self.head.weight.copy_(torch.eye(2))

    def forward(self, pixel_values):
        return types.SimpleNamespace(logits=self.head(self.colours(pixel_values).relu().mean((2, 3))))


class Bare(Redness):
    """The same by linear layers on patches: without a convolution."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(self.colours.weight.detach().flatten(1))
        del self.colours

    def forward(self, pixel_values):
        patches = torch.nn.functional.unfold(pixel_values, 8, stride=8).transpose(1, 2)
        return types.SimpleNamespace(logits=self.head((patches @ self.weights.T).relu().mean(1)))


@pytest.mark.parametrize(("network", "method"), [(Redness, "Grad-CAM"), (Bare, "occlusion")])
def test_grey_over_what_counts_changes_more_than_grey_at_random(made, network, method):
    from PIL import Image

    predictor = dataclasses.replace(hfxfer.load(made("vit")).predictor, model=network())
    picture = Image.new("RGB", (32, 32), (128, 128, 128))
    picture.paste((255, 0, 0), (0, 0, 16, 8))
    picture.paste((0, 0, 255), (24, 24, 32, 32))
    seen = why.explain_picture(predictor, {"image": picture}, 0)
    assert seen.method == method and seen.heat.shape == (32, 32) and seen.picture.tobytes() == picture.tobytes()
    shares = why.cells(seen.heat, 4)
    # 3 of 16 cells, the share nearest to 20 %: two are the red ones, and the blue one speaks against nothing.
    top = np.argsort(-shares, axis=None)[:3]
    assert {0, 1} <= set(top) and shares[3, 3] == 0

    def change(chosen):
        mask = torch.from_numpy(np.kron(np.isin(np.arange(16), chosen).reshape(4, 4), np.ones((8, 8)))).bool()
        pixels = torch.from_numpy(np.asarray(picture, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        with torch.inference_mode():
            return float((predictor.model(pixels).logits - predictor.model(pixels.masked_fill(mask, 0)).logits)[0, 0])

    draw = np.random.default_rng(0)
    assert change(top) == pytest.approx(2 * 3 / 16, abs=0.02)
    assert change(top) > 2 * np.mean([change(draw.choice(16, 3, replace=False)) for _ in range(50)])


def test_words_that_count_change_more_than_words_at_random(made):
    model = hfxfer.load(made("texts"))
    draw = np.random.default_rng(0)
    top, random = [], []
    for text in ("the film 3 was very very good a b c", "the film 4 was very bad a b c a b c", "the day was bad and the film 1 a b"):
        record = model.predict([{"text": text}])[0]
        label, tokens = record["label"], text.split()
        found = why.explain_text(model.predictor, {"text": text}, text, model.labels.index(label))
        number = max(1, round(0.2 * len(tokens)))
        assert [word for word, *_ in found.words] == tokens and max(abs(weight) for *_, weight in found.words) == pytest.approx(1)

        def fallen(positions):
            rest = " ".join(word for place, word in enumerate(tokens) if place not in positions)
            return abs(record["score"] - model.predict([{"text": rest}])[0][f"score_{label}"])

        top.append(fallen(set(np.argsort([-abs(weight) for *_, weight in found.words])[:number])))
        random += [fallen(set(draw.choice(len(tokens), number, replace=False))) for _ in range(8)]
    assert np.mean(top) > np.mean(random)


def test_a_transformer_is_explained_by_covering_places(made):
    predictor = hfxfer.load(made("vit")).predictor
    seen = why.explain_picture(predictor, {"image": str(made("vit").folder / "examples" / "00.png")}, 0)
    assert seen.method == "occlusion" and seen.heat.shape == (32, 32) and seen.heat.min() >= 0
    assert np.array_equal(seen.heat[:4, :4], np.full((4, 4), seen.heat[0, 0]))


def test_explain_returns_heat_that_adds_up_to_one_and_refuses_unknown_labels(made):
    app, address = demo.launch([str(made("pictures").folder)], wait=False)
    try:
        client, path = Client(address, verbose=False), handle_file(str(made("pictures").folder / "examples" / "00.png"))
        said = client.predict(path, api_name="/explain")
        assert said["label"] == client.predict(path, api_name="/predict")["label"] and said["method"] == "Grad-CAM"
        assert np.asarray(said["heat"]).shape == (16, 16) and np.sum(said["heat"]) == pytest.approx(1)
        assert client.predict(path, "digit 1", api_name="/explain")["label"] == "digit 1"
        with pytest.raises(AppError, match="x is no label of this model. Allowed: digit 0, digit 1, digit 2."):
            client.predict(path, "x", api_name="/explain")
    finally:
        app.close()


def test_the_second_text_of_a_pair_stays_and_is_not_explained(made):
    predictor = hfxfer.load(made("texts")).predictor
    found = why.explain_text(predictor, {"text": "good  day", "text_pair": "bad"}, "good  day", 0)
    assert [each[:3] for each in found.words] == [("good", 0, 4), ("day", 6, 9)]


def test_explain_of_words_is_for_the_tag_that_was_found(made):
    app, address = demo.launch([str(made("tags").folder)], wait=False)
    try:
        client, text = Client(address, verbose=False), "ada smith  lives in paris"
        said = client.predict(text, api_name="/explain")
        assert said["label"] == f"B-{client.predict(text, api_name='/predict')[0]['entity']}" and said["method"] == "integrated gradients"
        assert [text[each["start"]:each["end"]] for each in said["words"]] == text.split() == [each["word"] for each in said["words"]]
    finally:
        app.close()


# --- by hand ------------------------------------------------------------------------------------------------------------

def test_the_sentence_says_where_and_which_words():
    heat = np.zeros((9, 9))
    heat[0, 0], heat[4, 4] = 1, 3
    picture = np.zeros((9, 9, 3), np.uint8)
    assert sentence("<b>", why.Seen(picture, heat, "Grad-CAM")) == (
        "For **&lt;b&gt;** (Grad-CAM), what counts lies most of all in the middle (75 %), top left (25 %).")
    assert sentence("a", why.Seen(picture, heat * 0, "Grad-CAM")) == "For **a** (Grad-CAM), no part of the picture counts more than the rest."
    read = why.Read([("not", 0, 3, -0.5), ("bad", 4, 7, 1.0)], "integrated gradients")
    with_marks = why.Read([("bad,", 0, 4, 1.0), (":)", 5, 7, -0.2)], "integrated gradients")
    assert sentence("a", with_marks) == "For **a** (integrated gradients), the words that count most: bad (+1.00), :) (-0.20)."
    assert sentence("a", read) == "For **a** (integrated gradients), the words that count most: bad (+1.00), not (-0.50)."
    assert marked(read, "not bad!") == [("not", -0.5), (" ", None), ("bad", 1.0), ("!", None)]


def test_the_overlay_is_red_where_it_is_hottest_and_the_picture_without_opacity():
    seen = why.Seen(np.full((2, 2, 3), 100, np.uint8), np.asarray([[0.0, 2.0], [1.0, 0.0]]), "Grad-CAM")
    assert np.asarray(why.overlay(seen, 1)).tolist() == [[[100, 100, 100], [255, 30, 0]], [[178, 65, 50], [100, 100, 100]]]
    assert (np.asarray(why.overlay(seen, 0)) == 100).all()


def test_cells_share_the_heat():
    assert why.cells(np.asarray([[1.0, 1.0], [0.0, 2.0]]), 2).tolist() == [[0.25, 0.25], [0.0, 0.5]]
    assert why.cells(np.zeros((4, 4)), 2).tolist() == [[0.25, 0.25], [0.25, 0.25]]
