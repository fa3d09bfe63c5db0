"""The app with several models, and with reports: /compare, where test rows get different answers, /flag and the data that it makes."""

import contextlib
import io
import json
import signal

import pytest

pytest.importorskip("gradio")

import gradio as gr  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

import hfxfer  # noqa: E402
from hfxfer import demo  # noqa: E402
from hfxfer.demo import flags as reports  # noqa: E402
from hfxfer.demo.compare_tab import disagreements  # noqa: E402
from hfxfer.demo.served import Served  # noqa: E402
from hfxfer.errors import RecipeError  # noqa: E402

SETTINGS = {"num_train_epochs": 1, "plan": "none", "method": "full", "per_device_train_batch_size": 16}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name → Run: two of pictures on the same rows, and one each of texts with several labels, numbers and tags."""
    from tiny_models import bert_checkpoint, digits_folder, tag_rows, text_rows, timm_checkpoint, write_jsonl

    from hfxfer.training import train

    folder = tmp_path_factory.mktemp("several")
    bert_checkpoint(folder / "bert")
    timm_checkpoint(folder / "timm")
    digits_folder(folder / "digits", train=10, validation=3, test=5)
    texts = text_rows(60)
    write_jsonl(folder / "labels.jsonl", [{"text": row["text"], "label": ["x", "y"][:index % 3]} for index, row in enumerate(texts)])
    write_jsonl(folder / "numbers.jsonl", [{"text": row["text"], "label": index / 2} for index, row in enumerate(texts)])
    write_jsonl(folder / "tags.jsonl", tag_rows(40))
    wanted = {"one": ("timm", "digits", {}), "two": ("timm", "digits", {"learning_rate": 0.05}), "labels": ("bert", "labels.jsonl", {}),
              "numbers": ("bert", "numbers.jsonl", {}), "tags": ("bert", "tags.jsonl", {})}
    runs = {}

    def get(name):
        if name not in runs:
            model, data, more = wanted[name]
            with contextlib.redirect_stderr(io.StringIO()):
                runs[name] = train(model=str(folder / model), data=str(folder / data), output_dir=str(folder / "runs" / name), **SETTINGS, **more)
        return runs[name]

    return get


@pytest.fixture(scope="module")
def both(made, tmp_path_factory):
    """(client, folder of reports) of one app with two models."""
    folder = tmp_path_factory.mktemp("reports") / "new"
    app, address = demo.launch([str(made("one").folder), str(made("two").folder)], wait=False, flag_folder=folder)
    yield Client(address, verbose=False), folder
    app.close()


def picture(run):
    return str(run.folder / "examples" / "00.png")


def test_compare_gives_what_each_model_predicts(made, both):
    said = both[0].predict(handle_file(picture(made("one"))), api_name="/compare")
    assert list(said) == ["one", "two"]
    for name in said:
        expected = hfxfer.load(made(name)).predict([picture(made("one"))])[0]
        assert said[name]["label"] == expected["label"] and said[name]["confidences"][0]["confidence"] == pytest.approx(expected["score"], abs=1e-5)


def test_predict_takes_a_models_name_and_by_default_the_first(made, both):
    client, path = both[0], picture(made("one"))
    compared = client.predict(handle_file(path), api_name="/compare")
    assert client.predict(handle_file(path), api_name="/predict") == compared["one"]
    assert client.predict(handle_file(path), "two", api_name="/predict") == compared["two"]


def test_test_rows_with_different_answers_are_listed(made):
    runs = {name: made(name).predictions().to_pylist() for name in ("one", "two")}
    other = {row["row_id"]: row["prediction"] for row in runs["two"]}
    differ = [row for row in runs["one"] if other[row["row_id"]] != row["prediction"]]
    said, heads, rows, _ = disagreements({name: Served(str(made(name).folder)) for name in runs})
    assert said == f"{len(differ)} of 15 test rows that all models were scored on get different answers."
    assert heads == ["Input", "Right", "one", "two"]
    assert rows == [[row["input"].rsplit("/", 1)[-1], row["reference"], row["prediction"], other[row["row_id"]]] for row in differ]


def test_models_without_the_same_test_rows_are_not_compared_on_them(made):
    said, _, rows, _ = disagreements({"run": Served(str(made("one").folder)), "folder": Served(str(made("two").model_dir))})
    assert (said, rows) == ("That is not known here: the models have no predictions.parquet of the same test rows.", [])


# --- reports ------------------------------------------------------------------------------------------------------------

def data_of(folder):
    """The rows that training would read, by split."""
    from hfxfer import data
    from hfxfer.recipe import Recipe

    return data.read_source(str(folder), Recipe(model="m", data=str(folder))).splits


def test_a_reported_picture_is_training_data(made, both):
    from hfxfer.images import open_image

    client, folder = both
    assert client.predict(handle_file(picture(made("one"))), "digit 2", api_name="/flag") == "Thank you, it is kept. Reports so far: 1."
    assert client.predict(handle_file(picture(made("one"))), "digit 2", api_name="/flag") == "That is kept already. Reports so far: 1."
    table = data_of(folder)["train"]
    assert list(table.columns["label"]) == ["digit 2"]
    name = json.loads((folder / "metadata.jsonl").read_text())["file_name"]
    assert open_image(str(folder / name)).tobytes() == open_image(picture(made("one"))).tobytes()


@pytest.mark.parametrize(("right", "sentence"), [
    ("<b>", "&lt;b&gt; is no label of this model. Allowed: digit 0, digit 1, digit 2."), (None, "Say what is right first.")])
def test_what_is_no_label_is_refused(made, both, right, sentence):
    with pytest.raises(AppError) as caught:
        both[0].predict(handle_file(picture(made("one"))), right, api_name="/flag")
    assert str(caught.value) == sentence


def test_reports_of_every_task_are_read_by_train(made, tmp_path):
    from hfxfer.training import train

    for name, rows in {"labels": [({"text": f"a {index}"}, ["x", "y"] if index % 2 else "x") for index in range(30)],
                       "numbers": [({"text": f"a {index}"}, index + 0.5) for index in range(30)],
                       "tags": [({"tokens": ["ada", "b", str(index)]}, "B-PER I-PER O") for index in range(30)]}.items():
        kept = reports.Flags(tmp_path / name, Served(str(made(name).folder)))
        for row, right in rows:
            kept.keep(row, right)
        assert data_of(tmp_path / name)["train"].num_rows == 30
    with contextlib.redirect_stderr(io.StringIO()):
        run = train(model=str(made("labels").model_dir), data=str(tmp_path / "labels"), output_dir=str(tmp_path / "run"), **SETTINGS)
    assert run.scores()["problem_type"] == "multi_label_classification" and run.scores()["labels"] == ["x", "y"]


def test_wrong_numbers_of_tags_and_no_numbers_are_refused(made, tmp_path):
    kept = reports.Flags(tmp_path / "tags", Served(str(made("tags").folder)))
    with pytest.raises(gr.Error, match="There are 2 words and 1 tags. Give one tag a word."):
        kept.keep({"tokens": ["a", "b"]}, "O")
    kept = reports.Flags(tmp_path / "numbers", Served(str(made("numbers").folder)))
    with pytest.raises(gr.Error, match="x is no number. Give the right number."):
        kept.keep({"text": "a"}, "x")


def test_reports_go_on_where_they_ended_and_into_no_other_folder(made, tmp_path):
    served = Served(str(made("numbers").folder))
    reports.Flags(tmp_path / "new", served).keep({"text": "a"}, 1)
    assert reports.Flags(tmp_path / "new", served).keep({"text": "b"}, 2) == "Thank you, it is kept. Reports so far: 2."
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(RecipeError) as caught:
        reports.Flags(tmp_path / "other", served)
    assert str(caught.value) == (f"reports cannot be kept in {tmp_path / 'other'}: it holds other things (thesis.tex). Give a new folder, or one that an "
                                 "earlier demo kept reports of this task in: --output_dir FOLDER, or HFXFER_FLAGS in the environment")


def test_reports_end_at_a_number(made, tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "MOST", 1)
    kept = reports.Flags(tmp_path / "new", Served(str(made("numbers").folder)))
    kept.keep({"text": "a"}, 1)
    with pytest.raises(gr.Error, match="No more than 1 reports are taken, and there are as many."):
        kept.keep({"text": "b"}, 1)


def test_models_of_one_name_are_told_apart_by_their_paths(made, tmp_path):
    import shutil

    shutil.copytree(made("one").model_dir, tmp_path / "one")
    sources = [str(made("one").folder), str(tmp_path / "one")]
    assert list(demo.served(sources, None)) == sources
    assert list(demo.served([sources[0], str(made("two").folder)], None)) == ["one", "two"]


def test_the_threshold_of_several_labels_is_the_models_own(made, tmp_path):
    import shutil

    assert Served(str(made("labels").folder)).threshold == 0.5
    shutil.copytree(made("labels").model_dir, tmp_path / "own")
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    (tmp_path / "own" / "config.json").write_text(json.dumps({**config, "hfxfer_threshold": 0.3}))
    assert Served(str(tmp_path / "own")).threshold == 0.3


def test_without_a_folder_nobody_can_report(made):
    app = demo.build([str(made("one").folder)])
    assert "flag" not in {each["api_name"] for each in app.get_config_file()["dependencies"]}


@pytest.mark.parametrize("right", ["nan", "inf", "-Infinity", float("nan"), 10**400, "1e999"])
def test_an_endless_number_is_none(made, tmp_path, right):
    kept = reports.Flags(tmp_path / "numbers", Served(str(made("numbers").folder)))
    with pytest.raises(gr.Error) as caught:
        kept.keep({"text": "a"}, right)
    assert caught.value.message == f"{str(right)[:80]} is no number. Give the right number."
    assert not (tmp_path / "numbers" / "flags.jsonl").exists()


def test_a_text_with_signs_that_end_lines_is_one_report(made, tmp_path):
    served = Served(str(made("numbers").folder))
    reports.Flags(tmp_path / "new", served).keep({"text": "a\u2028b\x85c"}, 1)
    assert reports.Flags(tmp_path / "new", served).keep({"text": "a\u2028b\x85c"}, 1) == "That is kept already. Reports so far: 1."


def test_reports_end_at_a_size(made, tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "MOST_MB", 0.00002)
    served = Served(str(made("numbers").folder))
    reports.Flags(tmp_path / "new", served).keep({"text": "a" * 50}, 1)
    with pytest.raises(gr.Error) as caught:
        reports.Flags(tmp_path / "new", served).keep({"text": "b"}, 1)
    assert caught.value.message == "No more than 2e-05 MB of reports are taken, and there are as many."


def test_a_report_that_cannot_be_written_is_said_and_leaves_nothing_half(made, tmp_path, capsys):
    import resource

    from PIL import Image

    served = Served(str(made("one").folder))
    kept = reports.Flags(tmp_path / "new", served)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for most in (50, 1000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
            with pytest.raises(gr.Error) as caught:
                kept.keep({"image": Image.effect_noise((64, 64), 50).convert("RGB")} if most == 1000 else {"image": Image.new("RGB", (4, 4))}, "digit 0")
            assert caught.value.message == "That could not be kept, and it is not your fault. Whoever runs this app finds the reason in its log."
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in (tmp_path / "new").iterdir()] == []
    assert kept.keep({"image": Image.new("RGB", (4, 4))}, "digit 0") == "Thank you, it is kept. Reports so far: 1."
    assert [path.suffix for path in sorted((tmp_path / "new").iterdir())] == [".png", ".jsonl"]


def test_half_a_line_is_taken_back(made, tmp_path, capsys):
    import resource

    kept = reports.Flags(tmp_path / "new", Served(str(made("numbers").folder)))
    kept.keep({"text": "a"}, 1)
    before, whole = resource.getrlimit(resource.RLIMIT_FSIZE), (tmp_path / "new" / "flags.jsonl").read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 5, before[1]))
        with pytest.raises(gr.Error, match="That could not be kept"):
            kept.keep({"text": "b" * 100}, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "new" / "flags.jsonl").read_bytes() == whole


def test_pictures_that_were_kept_without_their_line_are_no_foreign_things(made, tmp_path):
    served = Served(str(made("one").folder))
    for name in ("0" * 32 + ".png", "1" * 32 + ".png.part"):
        (tmp_path / name).touch()
    reports.Flags(tmp_path, served)
    assert [path.name for path in tmp_path.iterdir()] == ["0" * 32 + ".png"]
    (tmp_path / "holiday.png").touch()
    with pytest.raises(RecipeError, match="holds other things .holiday.png.. Give a new folder"):
        reports.Flags(tmp_path, served)


def test_models_with_other_labels_do_not_stand_in_one_app(made, tmp_path):
    import shutil

    shutil.copytree(made("tags").model_dir, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["id2label"] = {key: label.replace("PER", "ORG") for key, label in config["id2label"].items()}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError) as caught:
        demo.served([str(made("tags").folder), str(tmp_path / "other")], None)
    assert str(caught.value) == (f"demo compares models with the same labels, but only {made('tags').folder} has B-PER, I-PER; "
                                 f"only {tmp_path / 'other'} has B-ORG, I-ORG. Start one demo for each")


def test_numbers_that_are_shown_alike_do_not_differ(made):
    import shutil

    import pyarrow.parquet

    run, folder = made("numbers"), made("numbers").folder.with_name("numbers-again")
    shutil.copytree(run.folder, folder)
    other = Served(str(folder))
    table = run.predictions()
    place, rows = table.schema.get_field_index("prediction"), table["prediction"].to_pylist()
    moved = [value * (1 + 1e-7) for value in rows]
    moved[0] = rows[0] + 1
    pyarrow.parquet.write_table(table.set_column(place, "prediction", [moved]), other.run.predictions_path)
    said, _, shown, _ = disagreements({"one": Served(str(run.folder)), "two": other})
    assert said == f"1 of {len(rows)} test rows that all models were scored on get different answers." and len(shown) == 1


def test_the_environment_switches_reports_on(made, tmp_path, monkeypatch):
    monkeypatch.setenv("HFXFER_FLAGS", str(tmp_path / "reports"))
    app, _ = demo.launch([str(made("one").folder)], wait=False)
    try:
        assert "flag" in {each["api_name"] for each in app.get_config_file()["dependencies"]} and (tmp_path / "reports").is_dir()
    finally:
        app.close()
