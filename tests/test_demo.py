"""The app, of tiny real runs: what it shows is what `hfxfer predict` says, over HTTP with gradio's own client; strangers' inputs; its files."""

import contextlib
import importlib.util
import io
import os
import struct
import zlib

import pytest

pytest.importorskip("gradio")

import gradio as gr  # noqa: E402
import numpy as np  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

import hfxfer  # noqa: E402
from hfxfer import cli, demo  # noqa: E402
from hfxfer.demo import answers, limits, trust, words  # noqa: E402
from hfxfer.demo.served import Served  # noqa: E402
from hfxfer.errors import ModelError, RecipeError  # noqa: E402

SETTINGS = {"num_train_epochs": 1, "plan": "none", "method": "full", "per_device_train_batch_size": 16}
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """kind → Run, trained when it is first asked for, then kept."""
    from tiny_models import bert_checkpoint, digits_folder, tag_rows, text_rows, timm_checkpoint, write_jsonl

    from hfxfer.training import train

    folder = tmp_path_factory.mktemp("demo")
    bert_checkpoint(folder / "bert")
    timm_checkpoint(folder / "timm")
    digits_folder(folder / "digits", train=10, validation=3, test=5)
    texts = text_rows(60)
    values = {"texts": [{"text": row["text"], "label": ("good", HOSTILE)[index % 2]} for index, row in enumerate(texts)],
              "several": [{"text": row["text"], "label": ["x", "y"][:index % 3]} for index, row in enumerate(texts)],
              "numbers": [{"text": row["text"], "text_pair": "a", "label": index / 2} for index, row in enumerate(texts)], "tags": tag_rows(40)}
    for name, rows in values.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    runs = {}

    def get(kind):
        if kind not in runs:
            model, data = ("timm", "digits") if kind == "pictures" else ("bert", f"{kind}.jsonl")
            with contextlib.redirect_stderr(io.StringIO()):
                runs[kind] = train(model=str(folder / model), data=str(folder / data), output_dir=str(folder / "runs" / kind), **SETTINGS)
        return runs[kind]

    return get


@pytest.fixture(scope="module")
def opened(made):
    """kind → (client, address) of its app, started when it is first asked for."""
    apps = {}

    def get(kind):
        if kind not in apps:
            app, address = demo.launch([str(made(kind).folder)], wait=False)
            apps[kind] = (Client(address, verbose=False), address, app)
        return apps[kind][:2]

    yield get
    for _, _, app in apps.values():
        app.close()


def example(run, name="00.png"):
    return str(run.folder / "examples" / name)


# --- /predict: the same numbers as hfxfer predict ----------------------------------------------------------------------

def test_a_picture_gets_the_label_and_confidences_that_predict_gives(made, opened):
    path = example(made("pictures"))
    said, expected = opened("pictures")[0].predict(handle_file(path), api_name="/predict"), hfxfer.load(made("pictures")).predict([path])[0]
    assert list(said) == ["label", "confidences"] and said["label"] == expected["label"]
    assert {each["label"]: each["confidence"] for each in said["confidences"]} == pytest.approx(
        {name: expected[f"score_{name}"] for name in ("digit 0", "digit 1", "digit 2")}, abs=1e-5)
    assert [each["confidence"] for each in said["confidences"]] == sorted((each["confidence"] for each in said["confidences"]), reverse=True)


def test_the_app_says_what_the_evaluation_wrote_down(made, opened):
    run = made("texts")
    row = run.predictions().slice(0, 1).to_pylist()[0]
    said = opened("texts")[0].predict(row["input"], api_name="/predict")
    labels = run.scores()["labels"]
    assert said["label"] == row["prediction"]
    assert {each["label"]: each["confidence"] for each in said["confidences"]} == pytest.approx(dict(zip(labels, row["probabilities"])), abs=1e-5)


def test_several_labels_are_given_beside_the_confidences(made, opened):
    said = opened("several")[0].predict("the film was good", api_name="/predict")
    expected = hfxfer.load(made("several")).predict(["the film was good"])[0]
    assert said["labels"] == expected["labels"] and {each["label"] for each in said["confidences"]} == {"x", "y"}


def test_a_number_comes_with_its_interval_and_takes_a_second_text(made, opened):
    said = opened("numbers")[0].predict("the film was good", "a", api_name="/predict")
    expected = hfxfer.load(made("numbers")).predict([{"text": "the film was good", "text_pair": "a"}])[0]
    assert said == pytest.approx({"value": expected["value"], "low": expected.get("low"), "high": expected.get("high")}, abs=1e-5)


def test_entities_stand_where_they_are_in_the_text_as_it_was_written(made, opened):
    text = "ada   smith lives\nin paris"
    expected = hfxfer.load(made("tags")).predict([{"tokens": text.split()}])[0]["entities"]
    said = opened("tags")[0].predict(text, api_name="/predict")
    assert [list(each) for each in said] == [["entity", "start", "end", "score"]] * len(expected)
    assert [" ".join(text[each["start"]:each["end"]].split()) for each in said] == [each["word"] for each in expected]
    assert [each["score"] for each in said] == pytest.approx([each["score"] for each in expected], abs=1e-5)


def test_predict_takes_one_positional_argument_and_nothing_else_is_offered(opened):
    for kind, names in (("pictures", ["image"]), ("texts", ["text"]), ("numbers", ["text", "text_pair"])):
        ends = opened(kind)[0].view_api(return_format="dict", print_info=False)["named_endpoints"]
        found = ends["/predict"]["parameters"]
        assert [each["parameter_name"] for each in found] == names
        assert [each["parameter_has_default"] for each in found] == [False, True][:len(names)]
        assert set(ends) == {"/predict", "/batch", *(["/explain"] if importlib.util.find_spec("captum") else [])}


def test_a_text_longer_than_the_model_takes_is_said_to_be_cut(opened):
    said = opened("texts")[0].predict("good day " * 60, api_name="/predict")
    assert said["note"] == "Only the beginning was read: the model takes 64 tokens."
    assert "note" not in opened("texts")[0].predict("good day", api_name="/predict")


# --- answers, by hand ---------------------------------------------------------------------------------------------------

RECORD = {"label": "a", "score": 0.6, "score_a": 0.6, "score_b": 0.4}
TAGGED = {"entities": [{"entity": "PER", "score": 0.9, "word": "Ada L", "start": 0, "end": 5},
                       {"entity": "LOC", "score": 0.3, "word": "Rome", "start": 9, "end": 13}]}


def test_an_answer_below_the_threshold_is_not_sure():
    kind = "single_label_classification"
    assert answers.verdict(RECORD, kind, 0.6) == "**a**, with 60 % confidence"
    assert answers.verdict(RECORD, kind, 0.61) == "**Not sure.** The most probable is a, with 60 %, which is below 61 %."


def test_several_labels_are_those_at_the_threshold():
    several = {"labels": ["a"], "score_a": 0.6, "score_b": 0.4}
    assert answers.verdict(several, "multi_label_classification", 0.4) == "**a (60 %), b (40 %)**"
    assert answers.verdict(several, "multi_label_classification", 0.7) == (
        "**No label** has a probability of at least 70 %. The most probable is a, with 60 %.")


def test_a_number_is_told_with_or_without_its_interval():
    assert answers.verdict({"value": 1.23456, "low": 1.0, "high": 2.0}, "regression", 0.5) == "**1.235**, with 90 % probability between 1 and 2"
    assert answers.verdict({"value": 1.23456}, "regression", 0.5) == "**1.235**"
    assert answers.answer({"value": 1.5}, "regression") == {"value": 1.5, "low": None, "high": None}


def test_entities_are_marked_in_the_text_and_unsure_ones_bear_a_question_mark():
    text = " Ada  L in\tRome"
    assert answers.entities(TAGGED, text) == [{"entity": "PER", "start": 1, "end": 7, "score": 0.9},
                                              {"entity": "LOC", "start": 11, "end": 15, "score": 0.3}]
    assert answers.highlighted(TAGGED, 0.5, text) == [(" ", None), ("Ada  L", "PER"), (" in\t", None), ("Rome", "LOC?")]
    assert answers.verdict(TAGGED, "tags", 0.5, text) == "- **Ada L**: PER, 90 %\n- Rome: perhaps LOC, 30 %"
    assert answers.verdict({"entities": []}, "tags", 0.5, "a") == "**Nothing was found.**"


def test_an_answer_is_tags_to_correct():
    text = "Ada   Lovelace saw Rome"
    record = {"entities": [{"entity": "PER", "word": "Ada Lovelace", "start": 0, "end": 12, "score": 0.9},
                           {"entity": "LOC", "word": "Rome", "start": 17, "end": 21, "score": 0.3}]}
    assert answers.tags(record, ("O", "B-PER", "I-PER", "B-LOC"), text) == ["B-PER", "I-PER", "O", "B-LOC"]
    assert answers.tags(record, ("O", "I-PER", "LOC"), text) == ["I-PER", "I-PER", "O", "LOC"]
    assert answers.tags({"entities": []}, ("O",), text) == ["O", "O", "O", "O"]


def test_labels_and_texts_are_no_markup():
    hostile = {"label": HOSTILE, "score": 0.9, f"score_{HOSTILE}": 0.9, "score_b": 0.1}
    assert "<" not in answers.verdict(hostile, "single_label_classification", 0.5)
    assert "<" not in answers.verdict({"entities": [{"entity": "<b>", "score": 0.9, "start": 0, "end": 3}]}, "tags", 0.5, "<i>")


# --- what a threshold is worth ------------------------------------------------------------------------------------------

def test_coverage_and_accuracy_by_hand():
    found = trust.Measured("single_label_classification", np.asarray([0.9, 0.8, 0.6, 0.4]), np.asarray([True, True, False, True]), 4, 4)
    assert found.at(0.6) == pytest.approx({"num_rows": 4, "given": 3, "coverage": 0.75, "accuracy": 2 / 3,
                                           "low": 0.2076596, "high": 0.9385081, "recall": 0.5})
    assert found.sentence(0.6) == ("At 60 %: sure on 3 of 4 test rows (75 %), and right on 67 % of these "
                                   "(95 % interval 21 % to 94 %).")
    assert found.sentence(0.95) == "At 95 %: sure on none of 4 test rows."


def test_the_measured_rows_are_those_of_predictions_parquet(made):
    run = made("texts")
    rows = run.predictions().to_pylist()
    found = trust.measured(run, "single_label_classification", tuple(run.scores()["labels"])).at(0.0)
    assert found["num_rows"] == len(rows) and found["coverage"] == 1
    assert found["accuracy"] == sum(row["reference"] == row["prediction"] for row in rows) / len(rows) == pytest.approx(run.score("accuracy").value)


def test_several_labels_have_precision_and_recall_at_the_models_own_threshold(made):
    run = made("several")
    rows = run.predictions().to_pylist()
    right = sum(len(set(row["reference"]) & set(row["prediction"])) for row in rows)
    given, wanted = (sum(len(row[name]) for row in rows) for name in ("prediction", "reference"))
    found = trust.measured(run, "multi_label_classification", tuple(run.scores()["labels"])).at(0.5)
    assert (found["given"], found["recall"]) == (given, right / wanted)


def test_entities_are_right_where_type_and_borders_are(made):
    run = made("tags")
    found = trust.measured(run, "tags", tuple(run.scores()["labels"])).at(0.0)
    score = run.score("entity_precision").value
    assert found["accuracy"] == pytest.approx(score) if found["given"] else not score


@pytest.mark.parametrize(("share", "text"), [(0, "0 %"), (1, "100 %"), (0.97, "97 %"),
                                              (0.997, "99.7 %"), (0.9999, "> 99.9 %"), (0.003, "0.3 %"), (1e-9, "< 0.1 %")])
def test_a_percentage_never_says_all_or_nothing_of_less(share, text):
    assert trust.percent(share) == text


def test_a_model_folder_has_no_measured_rows_and_says_so(made):
    tab = Served(str(made("texts").model_dir))
    assert trust.measured(tab.run, tab.problem_type, tab.labels) is None
    assert words.NOT_MEASURED == "How often that is right is not known here: there are no predictions.parquet with this model."


# --- limits -------------------------------------------------------------------------------------------------------------

def bomb(folder, side=60_000):
    """A PNG of a few bytes that says it has side × side pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path = folder / "bomb.png"
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"0" * 99)) + chunk(b"IEND", b""))
    return path


def hostile_files(folder):
    """(path, the sentence that refuses it)."""
    allowed = words.NOT_A_PICTURE.format(allowed=", ".join(limits.FORMATS))
    written = {"a.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
               "b.png": b"<html><script>alert(1)</script></html>",
               "c.jpg": b"", "d.png": b"\0" * 500, "e.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}
    for name, content in written.items():
        (folder / name).write_bytes(content)
        yield folder / name, allowed
    yield bomb(folder), "That picture has too many pixels. At most 40 million are taken; make it smaller."
    whole = io.BytesIO()
    from PIL import Image

    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    (folder / "f.png").write_bytes(whole.getvalue()[:-2000])
    yield folder / "f.png", "That picture is broken or cut short. Take another copy of it."


def test_what_is_no_picture_is_refused_in_one_sentence_and_the_app_goes_on(made, opened, tmp_path):
    client, _ = opened("pictures")
    for path, sentence in hostile_files(tmp_path):
        with pytest.raises(AppError) as caught:
            client.predict(handle_file(str(path)), api_name="/predict")
        assert str(caught.value) == sentence, path
    assert client.predict(handle_file(example(made("pictures"))), api_name="/predict")["label"]


def test_a_file_above_the_limit_is_refused(tmp_path):
    path = tmp_path / "big.png"
    path.write_bytes(b"\0" * (limits.UPLOAD_MB * 10**6 + 1))
    with pytest.raises(gr.Error, match="That file is too big. At most 20 MB are taken."):
        limits.picture(str(path))


def test_a_transparent_palette_picture_is_what_training_would_see(tmp_path):
    from PIL import Image

    from hfxfer.images import open_image

    Image.new("RGBA", (9, 7), (255, 0, 0, 128)).save(tmp_path / "a.png")
    found = limits.picture(str(tmp_path / "a.png"))
    assert found.tobytes() == open_image(str(tmp_path / "a.png")).tobytes() and found.mode == "RGB"


@pytest.mark.parametrize(("text", "sentence"), [("", "There is no text. Write something first."),
                                                (" \n\t", "There is no text. Write something first."),
                                                ("x" * 20_001, "That text has 20,001 characters. At most 20,000 are taken; nothing was cut.")])
def test_an_empty_or_endless_text_is_refused(opened, text, sentence):
    with pytest.raises(AppError) as caught:
        opened("texts")[0].predict(text, api_name="/predict")
    assert str(caught.value) == sentence


@pytest.mark.parametrize("text", ["/etc/passwd", "\0\0 good", "שלום עולם", "👩‍👩‍👧‍👦 good", HOSTILE, "{{7*7}}", "a\u202eb", "../../x.csv"])
def test_a_text_is_a_text_whatever_it_says(opened, text):
    assert opened("texts")[0].predict(text, api_name="/predict")["label"] in ("good", HOSTILE)


def test_no_file_of_the_server_can_be_read_but_what_the_app_shows(made, opened, tmp_path):
    import httpx

    (tmp_path / "secret.txt").write_text("secret")
    address = opened("pictures")[1]
    for path in (tmp_path / "secret.txt", "/etc/passwd", made("pictures").folder / "recipe.yaml", made("pictures").folder / "examples" / "00.png",
                 __file__, f"{os.environ['GRADIO_TEMP_DIR']}/../../etc/passwd"):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code == 403, path
    client = opened("pictures")[0]
    for payload in ({"path": "/etc/passwd"}, {"path": str(tmp_path / "secret.txt")}):
        with pytest.raises(AppError) as caught:
            client.predict({**payload, "meta": {"_type": "gradio.FileData"}}, api_name="/predict")
        assert "secret" not in str(caught.value).replace("secret.txt", "")
    with pytest.raises(AppError, match="Addresses are not fetched here. Upload the file itself."):
        client.predict({"path": "http://127.0.0.1:9/x.png", "meta": {"_type": "gradio.FileData"}}, api_name="/predict")


def test_no_address_is_fetched_and_no_body_is_read_without_end(opened):
    import httpx

    address = opened("texts")[1]
    for route in ("file=http://example.com/x.png", "FILE=HTTPS://example.com", "proxy=http://example.com"):
        found = httpx.get(f"{address}gradio_api/{route}")
        assert (found.status_code, found.text) == (403, "Addresses are not fetched here. Upload the file itself.")
    found = httpx.post(f"{address}gradio_api/queue/join", content=b"0" * 2_000_001)
    assert (found.status_code, found.text) == (413, "That request is too big. At most 2 MB are taken.")
    found = httpx.post(f"{address}gradio_api/queue/join", content=iter([b"{}"]))
    assert (found.status_code, found.text) == (411, "The request does not say how long it is.")
    with pytest.raises(AppError, match="That text has 1,000,000 characters. At most 20,000 are taken; nothing was cut."):
        opened("texts")[0].predict("x" * 1_000_000, api_name="/predict")


# --- starting -----------------------------------------------------------------------------------------------------------

def test_a_model_that_cannot_be_loaded_is_said_and_the_app_stays(made, tmp_path):
    import shutil

    shutil.copytree(made("texts").model_dir, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"0")
    app, address = demo.launch([str(tmp_path / "broken")], wait=False)
    try:
        with pytest.raises(AppError, match="The model could not be loaded, so nothing can be predicted."):
            Client(address, verbose=False).predict("good", api_name="/predict")
    finally:
        app.close()


def test_a_source_that_is_none_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ModelError):
        demo.build([str(tmp_path / "nothing")])
    with pytest.raises(RecipeError, match="demo needs a model: a Run, a model folder or a Hub id"):
        demo.build([])


def test_models_of_different_tasks_do_not_stand_in_one_app(made):
    with pytest.raises(RecipeError) as caught:
        demo.build([str(made("texts").folder), str(made("tags").folder)])
    assert str(caught.value) == (f"demo compares models of one task, got {made('texts').folder}: text-classification, single_label_classification; "
                                 f"{made('tags').folder}: token-classification, tags. Start one demo for each task")


def test_the_login_comes_from_the_environment_and_is_asked_for(made, monkeypatch):
    import httpx

    monkeypatch.setenv("HFXFER_DEMO_AUTH", "ada:secret:1")
    assert demo.login() == ("ada", "secret:1")
    app, address = demo.launch([str(made("texts").folder)], wait=False)
    try:
        assert httpx.get(f"{address}gradio_api/info").status_code == 401
        assert Client(address, auth=("ada", "secret:1"), verbose=False).predict("good", api_name="/predict")["label"]
    finally:
        app.close()
    monkeypatch.setenv("HFXFER_DEMO_AUTH", "secret")
    with pytest.raises(RecipeError) as caught:
        demo.login()
    assert str(caught.value) == "HFXFER_DEMO_AUTH is set but is not USER:PASSWORD (it is not shown here). Set both, or unset it"


@pytest.mark.parametrize(("argv", "sentence"), [
    ([], "demo takes a Run, a model folder or a Hub id, or several of them, got nothing: hfxfer demo runs/x"),
    (["x", "--port", "70000"], "--port is '70000'; allowed: a whole number from 1 to 65535"),
    (["x", "--theme", "me/theme"], "--theme is 'me/theme'; allowed: default, base, citrus, glass, monochrome, ocean, origin, soft")])
def test_the_command_line_refuses(argv, sentence, capsys):
    assert cli.main(["demo", *argv]) == 2
    assert sentence in capsys.readouterr().err


def test_a_taken_port_is_said(made):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RecipeError, match=f"nothing can listen on 127.0.0.1, port {port} .*Choose another --port or --host"):
            demo.launch([str(made("texts").folder)], port=port, wait=False)


# --- /batch -------------------------------------------------------------------------------------------------------------

def test_many_pictures_are_answered_in_their_order_and_a_broken_one_is_said(made, opened, tmp_path):
    run, client = made("pictures"), opened("pictures")[0]
    (tmp_path / "broken <b>.png").write_bytes(b"x")
    paths = [example(run, f"{index:02d}.png") for index in range(3)] + [str(tmp_path / "broken <b>.png")] + [example(run, "03.png")]
    said = client.predict([handle_file(path) for path in paths], api_name="/batch")
    assert [each["input"] for each in said] == ["00.png", "01.png", "02.png", "broken b.png", "03.png"]
    assert said[3] == {"input": "broken b.png", "problem": words.NOT_A_PICTURE.format(allowed=", ".join(limits.FORMATS))}
    expected = hfxfer.load(run).predict([path for path in paths if "broken" not in path])
    assert [each["label"] for each in said if "label" in each] == [each["label"] for each in expected]
    assert [each["confidences"][0]["confidence"] for each in said if "label" in each] == pytest.approx([each["score"] for each in expected], abs=1e-5)


def test_a_table_is_answered_row_by_row(made, opened, tmp_path):
    path = tmp_path / "texts.csv"
    texts = [f"the film {index} was good" for index in range(40)]
    path.write_text("text\n" + "\n".join(texts) + "\n", encoding="utf-8")
    said = opened("texts")[0].predict([handle_file(str(path))], api_name="/batch")
    expected = hfxfer.load(made("texts")).predict(texts)
    assert [each["input"] for each in said] == texts and [each["label"] for each in said] == [each["label"] for each in expected]
    assert [each["confidences"][0]["confidence"] for each in said] == pytest.approx([each["score"] for each in expected], abs=1e-5)


def test_words_of_a_table_are_tagged(made, opened, tmp_path):
    (tmp_path / "a.txt").write_text("ada smith lives in paris\nrome\n", encoding="utf-8")
    said = opened("tags")[0].predict([handle_file(str(tmp_path / "a.txt"))], api_name="/batch")
    assert [sorted(each) for each in said] == [["entities", "input"]] * 2 and said[0]["input"] == "ada smith lives in paris"


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("a.csv", "a,b\n1,2\n", "That table cannot be used. column 'text' not found in the inputs. Columns: a, b."),
    ("a.exe", "text\nx\n", "a.exe is no table that can be read here. Allowed: .csv .tsv .jsonl .txt."),
    ("a.csv", "text\n" + "x\n" * 1001, "That is 1,001 rows. At most 1,000 are taken at once; nothing was cut.")])
def test_a_table_that_cannot_be_used_is_refused(opened, tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(AppError) as caught:
        opened("texts")[0].predict([handle_file(str(tmp_path / name))], api_name="/batch")
    assert sentence in str(caught.value) and os.environ["GRADIO_TEMP_DIR"] not in str(caught.value)


def test_names_of_columns_and_files_are_no_markup_in_an_error(opened, tmp_path):
    (tmp_path / "a.csv").write_text("<img src=x>,b\n1,2\n", encoding="utf-8")
    with pytest.raises(AppError) as caught:
        opened("texts")[0].predict([handle_file(str(tmp_path / "a.csv"))], api_name="/batch")
    assert str(caught.value) == ("That table cannot be used. column 'text' not found in the inputs. Columns: &lt;img src=x&gt;, b.")


def test_no_file_is_said(opened):
    with pytest.raises(AppError, match="There is no file. Upload one or more."):
        opened("texts")[0].predict(None, api_name="/batch")


def test_what_is_downloaded_is_what_predict_writes(made, tmp_path, monkeypatch):
    import csv

    import pyarrow.parquet

    from hfxfer import tables_out
    from hfxfer.demo import batch_tab

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    records = hfxfer.load(made("texts")).predict(["good", "bad"])
    paths = batch_tab._written([*records, {"input": "c", "problem": "broken"}])
    tables_out.write(records, str(tmp_path / "by_predict.csv"))
    rows, expected = ([*csv.DictReader(open(path, encoding="utf-8"))] for path in (paths[0], tmp_path / "by_predict.csv"))
    assert [{name: value for name, value in row.items() if name != "problem"} for row in rows[:2]] == expected
    assert pyarrow.parquet.read_table(paths[1]).column("problem").to_pylist() == [None, None, "broken"]


def test_rows_of_the_table_say_what_is_not_sure():
    from hfxfer.demo.batch_tab import _line

    assert _line({"input": "i", **RECORD}, "single_label_classification", 0.7) == ["i", "a", "60 %", "yes", ""]
    assert _line({"input": "i", "labels": ["a"], "score_a": 0.6, "score_b": 0.4}, "multi_label_classification", 0.3) == ["i", "a, b", "", "", ""]
    assert _line({"input": "i", "value": 1.5}, "regression", 0.5) == ["i", "1.5", "", "", ""]
    assert _line({"input": "i", **TAGGED}, "tags", 0.5) == ["i", "Ada L (PER), Rome (LOC)", "30 %", "yes", ""]
    assert _line({"input": "i", "problem": "broken"}, "tags", 0.5) == ["i", "", "", "", "broken"]


def test_who_leaves_frees_the_place(made, opened, tmp_path, monkeypatch):
    import httpx

    client, address = opened("texts")
    (tmp_path / "many.csv").write_text("text\n" + "the film was good and bad\n" * 1000, encoding="utf-8")
    chunks = []
    predict = Served.predict
    monkeypatch.setattr(Served, "predict", lambda self, rows: chunks.append(len(rows)) or predict(self, rows))
    path = httpx.post(f"{address}gradio_api/upload", files={"files": ("many.csv", (tmp_path / "many.csv").read_bytes())}).json()[0]
    number = next(each["id"] for each in client.config["dependencies"] if each["api_name"] == "batch")
    asked = {"data": [[{"path": path, "orig_name": "many.csv", "meta": {"_type": "gradio.FileData"}}]], "fn_index": number, "session_hash": "leaves"}
    assert httpx.post(f"{address}gradio_api/queue/join", json=asked).status_code == 200
    with httpx.stream("GET", f"{address}gradio_api/queue/data", params={"session_hash": "leaves"}) as events:
        next(line for line in events.iter_lines() if "process_generating" in line)
    (tmp_path / "one.txt").write_text("good\n", encoding="utf-8")
    assert client.predict([handle_file(str(tmp_path / "one.txt"))], api_name="/batch")[0]["label"]
    assert sum(chunks) < 1000 and chunks[-1] == 1


# --- Model --------------------------------------------------------------------------------------------------------------

def pages(run):
    """The components of the app's Model tab, without a server."""
    from hfxfer.demo.model_tab import model_tab

    with gr.Blocks() as page:
        model_tab(Served(str(run)))
    return list(page.blocks.values())


def shown_texts(blocks):
    return [block.value for block in blocks if isinstance(block, gr.Markdown)]


def test_scores_and_classes_are_those_of_the_file(made):
    from hfxfer.demo import facts

    served = Served(str(made("texts").folder))
    found = facts.scores(served)
    score = made("texts").score("accuracy")
    assert ["accuracy", f"{score.value:.3f}", f"[{score.low:.3f}, {score.high:.3f}]", "test", str(score.num_rows)] in facts.score_rows(found)
    heads, rows = facts.class_rows(found)
    assert heads[0] == "Class" and heads[-1] == "Rows" and [row[0] for row in rows] == found["labels"]


def test_the_rows_behind_a_cell_are_those_that_it_counts(made):
    from hfxfer.demo import facts

    served = Served(str(made("pictures").folder))
    matrix = facts.scores(served)["confusion_matrix"]["counts"]
    for row, reference in enumerate(served.labels):
        for column, prediction in enumerate(served.labels):
            number, shown = facts.behind(served, reference, prediction)
            assert number == matrix[row][column] and len(shown) == min(number, facts.MOST_BEHIND)
            assert all(f"{os.sep}{reference}{os.sep}" in each["input"] for each in shown)
            assert [each["confidence"] for each in shown] == sorted((each["confidence"] for each in shown), reverse=True)


def test_the_learning_curve_has_its_numbers_beside_it(made):
    blocks = pages(made("texts").folder)
    events = [event for event in made("texts").history() if event["type"] == "eval"]
    table = next(block for block in blocks if isinstance(block, gr.Dataframe) and block.label == words.LEARNING)
    assert table.value["data"] == [[f"{event['epoch']:.3g}", f"{event['eval_loss']:.4f}", f"{event['eval_accuracy']:.4f}"] for event in events]
    assert [block.alt_text for block in blocks if isinstance(block, gr.Image)] == [words.CURVE_TEXT]


def test_a_bare_model_folder_says_what_is_absent(made, tmp_path):
    import shutil

    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(made("texts").model_dir / name, tmp_path / name)
    assert shown_texts(pages(tmp_path)) == [words.NO_SCORES, words.NO_CLASSES, words.NO_CONFUSION, words.NO_LEARNING, words.NO_CARD]


def test_the_card_is_shown_without_metadata_and_pictures_from_elsewhere(made, tmp_path):
    import shutil

    from hfxfer.demo import facts

    shutil.copy(made("texts").model_dir / "config.json", tmp_path / "config.json")
    text = "---\nlicense: mit\n---\n\n# A\n![x](http://x.y/z.png) b <IMG src=x onerror='y'>\n<!-- c -->\n"
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert facts.card(Served(str(tmp_path))) == "# A\n b"
    shown = next(block for block in pages(tmp_path) if isinstance(block, gr.Markdown) and "# A" in block.value)
    assert shown.sanitize_html


def test_a_picture_is_called_by_its_file_wherever_that_was(made, tmp_path, monkeypatch):
    from hfxfer.demo import facts
    from hfxfer.demo.thumbnails import thumbnails

    pictures, texts = Served(str(made("pictures").folder)), Served(str(made("texts").folder))
    gone = [{"input": "/srv/elsewhere/a.png", "confidence": 0.5}]
    assert facts.confidences(pictures, gone) == [["a.png", "50 %"]] and thumbnails([("/srv/elsewhere/a.png", "a.png")]) == []
    assert facts.confidences(texts, [{"input": "and/or", "confidence": 0.5}]) == [["and/or", "50 %"]]
    assert facts.confidences(texts, [{"input": "a\0b" * 5000, "confidence": 0.5}]) == [["a\0b" * 5000, "50 %"]]
    monkeypatch.chdir(made("pictures").folder)
    assert [(small.size, said) for small, said in thumbnails([("examples/00.png", "a"), ("gone.png", "b"), ("x" * 5000, "c")])] == [((32, 32), "a")]


def test_an_example_with_signs_that_end_lines_is_one_example(made, tmp_path):
    import json
    import shutil

    from hfxfer.demo.inputs import kept_examples

    shutil.copytree(made("texts").folder, tmp_path / "run")
    row = {"text": "a\u2028b\u0085c", "label": "good"}
    (tmp_path / "run" / "examples" / "examples.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert kept_examples(Served(str(tmp_path / "run"))) == [row]
