"""Inputs for prediction: each kind of thing a person hands over, in the order given."""

import json

import numpy as np
import pandas
import pytest
from datasets import Dataset
from PIL import Image

from hfxfer.data import Column, load_inputs
from hfxfer.errors import DataError

IMAGE = {"image": Column(kind="image", names=("image", "file_name")),
         "label": Column(kind="label", names=("label",), target=True)}
TEXT = {"text": Column(kind="text", names=("text", "sentence")),
        "text_pair": Column(kind="text", names=("text_pair",), required=False),
        "label": Column(kind="label", names=("label",), target=True)}
TOKENS = {"tokens": Column(kind="tokens", names=("tokens",)), "tags": Column(kind="tags", names=("tags",), target=True)}


def refusal(*arguments, **given):
    with pytest.raises(DataError) as error:
        load_inputs(*arguments, **given)
    return str(error.value)


@pytest.fixture
def folder(tmp_path):
    formats = {"b.png": "PNG", "a.JPG": "JPEG", "deep/er/c.webp": "WEBP"}
    for (name, kind), color in zip(formats.items(), ("red", "green", "blue")):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), color).save(path, format=kind)
    (tmp_path / "in" / "notes.txt").write_text("x")
    return tmp_path / "in"


def test_picture_files_and_folders_are_taken_in_order(folder):
    split = load_inputs([str(folder / "b.png"), str(folder)], IMAGE)
    assert split.column("image") == [str(folder / name) for name in ("b.png", "a.JPG", "b.png", "deep/er/c.webp")]
    assert not split.is_labelled and split.name == "inputs" and split.roles == ("image",)
    assert split.row_ids[2] == f"{split.row_ids[0]}-1"
    assert split.places[0] == str(folder / "b.png")


def test_pictures_in_python(folder):
    image = Image.open(folder / "b.png")
    content = (folder / "b.png").read_bytes()
    split = load_inputs([image, np.asarray(image), content, {"image": image}, str(folder / "b.png"),
                         {"bytes": content, "path": None}], IMAGE)
    assert split.num_rows == 6
    assert len({row_id.split("-")[0] for row_id in split.row_ids[:2]}) == 1  # The same pixels.
    assert load_inputs(image, IMAGE).num_rows == load_inputs(str(folder / "b.png"), IMAGE).num_rows == 1


def test_a_table_of_pictures_starts_at_its_own_folder(folder):
    (folder / "list.csv").write_text("photo,other\nb.png,1\na.JPG,2\n")
    split = load_inputs([str(folder / "list.csv")], IMAGE, {"image": "photo", "label": "ignored"})
    assert split.column("image") == [str(folder / "b.png"), str(folder / "a.JPG")]


def test_pictures_that_cannot_be_read_are_listed(folder):
    (folder / "d.png").write_text("x")
    (folder / "e.png").touch()
    assert refusal([str(folder)], IMAGE).splitlines() == [
        "2 inputs of 5 cannot be used:",
        f"  {folder}/d.png: not an image, or in a format that Pillow cannot read. Convert it to PNG or JPEG, or remove "
        "it",
        f"  {folder}/e.png: the file is empty (0 bytes)",
        "Mend them, or leave them out"]
    assert refusal([str(folder / "gone.png")], IMAGE).splitlines()[1] == f"  {folder / 'gone.png'}: file not found"
    assert refusal([str(folder / "deep")], TEXT) == (
        f"{folder / 'deep'} holds nothing to predict on. Allowed: .txt .csv .tsv .json .jsonl .ndjson .parquet")


def test_texts_as_strings_files_and_tables(tmp_path):
    (tmp_path / "a.txt").write_text("first\n\nsecond\n")
    (tmp_path / "a.csv").write_text("text,label\nthird,1\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"sentence": "fourth"}))
    split = load_inputs([str(tmp_path / "a.txt"), str(tmp_path / "a.csv"), str(tmp_path / "a.jsonl"), "A fifth."], TEXT)
    assert split.column("text") == ["first", "second", "third", "fourth", "A fifth."]
    assert split.places == ["a.txt:1", "a.txt:3", "a.csv:2", "a.jsonl:1", "input 3"]
    assert load_inputs("one text", TEXT).take([0])[0]["text"] == "one text"
    assert load_inputs(["x" * 5000, "nul \0 byte"], TEXT).num_rows == 2


def test_text_rows_in_python():
    rows = [{"text": "a", "text_pair": "b"}, {"text": "c"}]
    for data in (rows, Dataset.from_list(rows), pandas.DataFrame(rows)):
        split = load_inputs(data, TEXT)
        assert split.column("text") == ["a", "c"] and split.column("text_pair") == ["b", ""]
    mixed = load_inputs([*rows, "plain"], TEXT)
    assert mixed.column("text") == ["a", "c", "plain"] and mixed.column("text_pair") == ["b", "", ""]
    assert load_inputs([{"body": "a"}], TEXT, {"text": "body"}).column("text") == ["a"]
    assert load_inputs({"text": "a"}, TEXT).num_rows == 1


def test_tokens_are_words_or_lines(tmp_path):
    (tmp_path / "a.txt").write_text("Anna lives here\n")
    split = load_inputs([["Anna", "lives"], {"tokens": ["x"]}, {"tokens": "Ben sleeps"}, "Cleo eats",
                         str(tmp_path / "a.txt")], TOKENS)
    assert split.column("tokens") == [["Anna", "lives"], ["x"], ["Ben", "sleeps"], ["Cleo", "eats"],
                                      ["Anna", "lives", "here"]]


def test_inputs_that_are_none_are_refused(tmp_path):
    assert refusal([], TEXT) == "nothing to predict on: no input was given. Give files, folders or texts"
    gone = str(tmp_path / "gone.csv")
    assert refusal([gone], TEXT).startswith(f"{gone} does not exist. Give a file, a folder or, for a text task, ")
    (tmp_path / "empty.txt").write_text("\n")
    assert refusal([str(tmp_path / "empty.txt")], TEXT).endswith("empty.txt is empty. Write one text a line")
    assert refusal([{"body": "a", "more": "b"}], TEXT).startswith("column 'text' not found in the inputs.")
    assert refusal(["a", " "], TEXT).splitlines()[1] == "  input 1: the text is empty"
    assert refusal(["lonely"], {**TEXT, "text_pair": Column(kind="text", names=("text_pair",))}) == (
        "this task needs text, text_pair in every row: give dicts or a table with them")


def test_a_word_is_a_text_whatever_files_lie_around(tmp_path, monkeypatch):
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").write_text("a line of another file")
    (tmp_path / "notes.txt").write_text("one\ntwo\n")
    monkeypatch.chdir(tmp_path)
    assert load_inputs(["good", "bad", ".", "notes.txt"], TEXT).column("text") == ["good", "bad", ".", "one", "two"]
    assert "empty" in refusal(["good", ""], TEXT)
