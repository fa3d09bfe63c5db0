"""Folders, files and Python objects become the same tables."""

import json

import numpy as np
import pandas
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image as ImageFeature, Value, load_dataset
from PIL import Image

from hfxfer.errors import DataError
from hfxfer.folders import table_split
from hfxfer.sources import hub_message, list_files, read_source, split_name
from hfxfer.tables import shape, whole

RED = Image.new("RGB", (4, 4), "red")


class NoHub:
    data_config = data_revision = None


def read(path):
    return read_source(path, NoHub)


def pictures(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        RED.save(path, format="WEBP" if name.endswith("webp") else "PNG")


def labels_of(source):
    return {split: list(table.columns["label"]) for split, table in source.splits.items()}


def refusal(path):
    with pytest.raises(DataError) as error:
        read(path)
    return str(error.value)


# --- image folders ---------------------------------------------------------------------------------------------------

def test_class_folders_alone_are_train(tmp_path):
    pictures(tmp_path, "cat/2.png", "cat/1.PNG", "dog/deep/er/3.webp")
    source = read(tmp_path)
    assert not source.named
    assert labels_of(source) == {"train": ["cat", "cat", "dog"]}
    assert list(source.splits["train"].columns["image"]) == [
        str(tmp_path / name) for name in ("cat/1.PNG", "cat/2.png", "dog/deep/er/3.webp")]
    assert source.splits["train"].place(2) == "dog/deep/er/3.webp"


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "VALID", "Testing"), ("TRAIN", "dev", "test"),
                                   ("train", "eval", "test"), ("train", "validation", "Test")])
def test_split_folders_are_known_in_many_spellings(tmp_path, names):
    pictures(tmp_path, *(f"{name}/{label}/1.png" for name in names for label in ("a", "b")))
    source = read(tmp_path)
    assert source.named
    assert {split: set(labels) for split, labels in labels_of(source).items()} == {
        "train": {"a", "b"}, "validation": {"a", "b"}, "test": {"a", "b"}}


def test_stray_files_do_not_hurt(tmp_path):
    pictures(tmp_path, "train/a/1.png", "train/b/2.png", "train/a/._1.png", "__MACOSX/train/a/1.png", ".cache/c/1.png")
    for name in ("train/Thumbs.db", "train/a/.DS_Store", "train/b/desktop.ini", "SOURCE.txt", "train/a/notes.txt",
                 "classes.json"):
        (tmp_path / name).write_text("stray")
    assert labels_of(read(tmp_path)) == {"train": ["a", "b"]}
    assert "train/a/notes.txt" in list_files(tmp_path) and "train/a/.DS_Store" not in list_files(tmp_path)


def test_a_folder_around_everything_is_looked_through(tmp_path):
    pictures(tmp_path, "pets/train/a/1.png", "pets/train/b/2.png", "pets/test/a/3.png")
    assert labels_of(read(tmp_path)) == {"train": ["a", "b"], "test": ["a"]}
    pictures(tmp_path / "x", "animals/a/1.png", "animals/b/2.png")
    assert labels_of(read(tmp_path / "x")) == {"train": ["a", "b"]}


def test_a_class_may_be_called_train(tmp_path):
    pictures(tmp_path, "bus/1.png", "car/2.png", "train/3.png")
    assert labels_of(read(tmp_path)) == {"train": ["bus", "car", "train"]}


def test_a_test_folder_without_classes_is_unlabelled(tmp_path):
    pictures(tmp_path, "train/a/1.png", "train/b/2.png", "test/3.png")
    assert labels_of(read(tmp_path)) == {"train": ["a", "b"], "test": [None]}


def test_pictures_beside_class_folders_are_faults(tmp_path):
    pictures(tmp_path, "train/a/1.png", "train/b/2.png", "train/3.png")
    assert read(tmp_path).splits["train"].faults == {0: "lies in no class folder"}


def test_a_class_folder_without_pictures_is_named(tmp_path):
    pictures(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/1.png")
    (tmp_path / "train" / "c").mkdir()
    (tmp_path / "test" / "b").mkdir()
    assert read(tmp_path).empty_folders == ["test/b", "train/c"]


def test_metadata_takes_the_place_of_class_folders(tmp_path):
    pictures(tmp_path, "train/1.png", "train/2.png", "test/3.png")
    (tmp_path / "train/metadata.csv").write_text("file_name,label\n1.png,cat\n2.png,dog\n")
    (tmp_path / "test/metadata.jsonl").write_text('{"file_name": "3.png", "label": "cat"}\n')
    source = read(tmp_path)
    assert labels_of(source) == {"train": ["cat", "dog"], "test": ["cat"]}
    assert source.splits["test"].columns["file_name"] == [str(tmp_path / "test/3.png")]
    assert source.splits["train"].place(1) == "train/metadata.csv:3"


def test_one_metadata_file_may_name_the_splits(tmp_path):
    pictures(tmp_path, "train/1.png", "val/2.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\ntrain/1.png,cat\nval/2.png,dog\n")
    source = read(tmp_path)
    assert labels_of(source) == {"train": ["cat"], "validation": ["dog"]}
    assert source.splits["validation"].place(0) == "metadata.csv:3"


def test_a_table_beside_a_folder_of_pictures_is_the_data(tmp_path):
    pictures(tmp_path, "photos/1.png", "photos/2.png")
    (tmp_path / "labels.csv").write_text("file,label\nphotos/1.png,cat\nphotos/2.png,dog\n")
    assert labels_of(read(tmp_path)) == {"train": ["cat", "dog"]}


def test_folders_that_cannot_be_data_are_refused(tmp_path):
    assert refusal(tmp_path).startswith(f"{tmp_path} is empty. Put class folders with pictures into it, or train.csv")
    (tmp_path / "notes.txt").write_text("x")
    assert refusal(tmp_path).startswith(f"{tmp_path} holds neither pictures nor tables; first file: notes.txt.")
    pictures(tmp_path, "1.png")
    assert refusal(tmp_path) == (
        f"the pictures in {tmp_path} lie in no class folder; first: 1.png. Put them into one folder a class, or list "
        "them in metadata.csv with the columns file_name,label")
    pictures(tmp_path / "two", "train/a/1.png", "val/a/1.png", "dev/a/1.png")
    assert refusal(tmp_path / "two") == "two folders mean the same split: dev, val. Keep one of them"


# --- tables ----------------------------------------------------------------------------------------------------------

def test_csv_cells_stay_text(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\nNA,001\n"null, or\nNone",True\n\nplain,1.0\n')
    table = read(tmp_path / "a.csv").splits["train"]
    assert table.columns == {"text": ["NA", "null, or\nNone", "plain"], "label": ["001", "True", "1.0"]}
    assert [table.place(i) for i in range(3)] == ["a.csv:2", "a.csv:3", "a.csv:6"]
    assert not table.typed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_with_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes("text,label\ngrüße,1\n".encode(encoding))
    assert read(tmp_path / "a.csv").splits["train"].columns == {"text": ["grüße"], "label": ["1"]}


@pytest.mark.parametrize("delimiter, name", [(";", "a.csv"), ("\t", "a.csv"), ("\t", "a.tsv"), ("|", "a.csv")])
def test_other_delimiters_are_seen_in_the_header(tmp_path, delimiter, name):
    (tmp_path / name).write_text(f"text{delimiter}label\na, b, c{delimiter}x\n")
    assert read(tmp_path / name).splits["train"].columns == {"text": ["a, b, c"], "label": ["x"]}


def test_csv_rows_of_the_wrong_length_are_faults(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nfine,1\ntoo,many,2\nfew\n")
    assert read(tmp_path / "a.csv").splits["train"].faults == {
        1: "3 cells where the header has 2 (a quote not closed?)",
        2: "1 cells where the header has 2 (a quote not closed?)"}


def test_csv_that_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    for content, message in {
        b"": "a.csv is empty (0 bytes)",
        b" \n\n": "a.csv is empty: it has no header and no rows",
        b"text,label\n": "a.csv has a header but no rows",
        b",,\n,,\n": "a.csv has no rows",
        b"text,text\n1,2\n": "a.csv: the header names 'text' twice. Rename one of them",
        b"text,label\ncaf\xe9,1\n": "a.csv is not UTF-8 text: byte 0xe9 in line 2. Save it as UTF-8, for instance: "
                                    "iconv -f latin1 -t utf-8 a.csv > utf8-a.csv",
        b"PK\x03\x04\x00\x00": "a.csv is not a text file: it holds zero bytes. Save it as UTF-8 text",
    }.items():
        path.write_bytes(content)
        assert refusal(path) == message


def test_the_shape_of_a_table_is_counted_without_reading_it_whole(tmp_path):
    for name, content, counted in (
            ("a.csv", "a,b,c\n1\n\n2,2,2,2\n", (2, 3)), ("a.tsv", 'a\tb\n"1\n2"\t3\n', (1, 2)), ("a.csv", ",,\n", (0, 0)),
            ("a.txt", "a\n \nb\u2028c\r\n", (3, 1)), ("a.jsonl", '{"a": 1}\n\n{"b": "\u2028"}\n{"a": 2}\n[1]\n{', (5, 2))):
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        assert shape(tmp_path / name) == counted, (name, content)


def test_a_header_of_many_names_is_looked_at_once(tmp_path):
    names = [f"c{number}" for number in range(50_000)]
    (tmp_path / "a.csv").write_text(",".join(names) + "\n" + "," * 49_999 + "\n")
    assert list(read(tmp_path / "a.csv").splits["train"].columns) == names  # Looked for in each other, they took minutes.


def test_json_that_is_nested_too_deeply_is_told(tmp_path):
    (tmp_path / "a.jsonl").write_text("[" * 100_000)
    assert refusal(tmp_path / "a.jsonl") == 'a.jsonl:1 is not JSON: nested too deeply. Each line must be an object: {"text": …}'
    (tmp_path / "b.jsonl").write_text("1" * 5000 + "\n")
    assert refusal(tmp_path / "b.jsonl") == 'b.jsonl:1 is not JSON: a number of too many digits. Each line must be an object: {"text": …}'


def test_json_in_its_four_forms(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 2}]
    for name, text in {
        "rows.json": json.dumps(rows),
        "data.json": json.dumps({"data": rows}),
        "columns.json": json.dumps({"text": ["a", "b"], "label": [1, 2]}),
        "lines.json": "\n".join(map(json.dumps, rows)),
        "lines.jsonl": "\n".join(map(json.dumps, rows)) + "\n\n",
    }.items():
        (tmp_path / name).write_text(text)
        table = read(tmp_path / name).splits["train"]
        assert {name: whole(cells) for name, cells in table.columns.items()} == {"text": ["a", "b"], "label": [1, 2]}


def test_json_that_cannot_be_read_is_refused_or_a_fault(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n[1]\n')
    table = read(path).splits["train"]
    assert table.faults == {1: "not JSON: Expecting value", 2: "not a JSON object"}
    assert table.place(1) == "a.jsonl:2"
    path.write_text("text\n")
    assert refusal(path) == 'a.jsonl:1 is not JSON: Expecting value. Each line must be an object: {"text": …}'
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert refusal(tmp_path / "a.json").startswith("a.json holds no table. Allowed: a list of objects")
    (tmp_path / "a.parquet").write_text("PAR?")
    assert refusal(tmp_path / "a.parquet").startswith("a.parquet is not a Parquet file: ")


def test_tables_are_named_by_split(tmp_path):
    for name in ("train.csv", "val.csv", "test.csv"):
        (tmp_path / name).write_text(f"text,label\n{name},1\n")
    (tmp_path / "sample_submission.csv").write_text("id\n1\n")
    (tmp_path / "SOURCE.txt").write_text("x")
    source = read(tmp_path)
    assert {split: table.columns["text"] for split, table in source.splits.items()} == {
        "train": ["train.csv"], "validation": ["val.csv"], "test": ["test.csv"]}
    assert source.named and source.name == tmp_path.name


def test_shards_are_joined_in_order(tmp_path):
    (tmp_path / "data").mkdir()
    for shard in (1, 0):
        pandas.DataFrame({"text": [f"shard {shard}"], "label": [shard]}).to_parquet(
            tmp_path / f"data/train-0000{shard}-of-00002.parquet")
    table = read(tmp_path).splits["train"]
    assert whole(table.columns["text"]) == ["shard 0", "shard 1"]
    assert [table.columns["label"][i] for i in (0, 1, -1)] == [0, 1, 1]
    assert table.place(1) == "data/train-00001-of-00002.parquet row 1"


def test_shards_with_other_columns_are_refused(tmp_path):
    (tmp_path / "train-1.csv").write_text("text,label\na,1\n")
    (tmp_path / "train-2.csv").write_text("text,target\na,1\n")
    assert refusal(tmp_path) == (f"{tmp_path.name}: the files differ in columns: text, label in train-1.csv:2, "
                                 "text, target in train-2.csv:2. Give them the same columns")


@pytest.mark.parametrize("file, split", [
    ("train.csv", "train"), ("data/train-00000-of-00001.parquet", "train"), ("my_Test.jsonl", "test"),
    ("tweets-dev.tsv", "validation"), ("Validation/part.csv", "validation"), ("labels.csv", None),
    ("trainer.csv", None), ("contest.csv", None)])
def test_the_split_in_a_file_name(file, split):
    assert table_split(file) == split


def test_split_names():
    assert [split_name(name) for name in ("Train", "val", "DEV", "eval", "Testing", "cat")] == [
        "train", "validation", "validation", "validation", "test", None]


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    assert refusal(tmp_path / "gone").startswith(f"{tmp_path / 'gone'} does not exist. Give a folder, a file (.csv")
    for name in ("./pets", "pets.csv", "a/b/c"):
        assert refusal(name).startswith(f"{name} does not exist.")
    assert refusal(" ") == "data is empty. Give a folder, a file or a Hub dataset id: --data PATH"
    (tmp_path / "a.xlsx").write_text("x")
    assert refusal(tmp_path / "a.xlsx") == "a.xlsx: cannot read .xlsx. Allowed: .csv .tsv .json .jsonl .ndjson .parquet"


def test_a_hub_id_offline_is_refused_with_what_to_do():
    message = refusal("hfxfer-tests/no-such-dataset")
    assert message.startswith("hfxfer-tests/no-such-dataset is no file or folder here, and the Hub is switched off "
                              "(HF_HUB_OFFLINE=1)")


def test_what_a_hub_dataset_lacks_is_said(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- {config_name: en, data_files: a.csv}\n- {config_name: de, data_files: a.csv}\n---\n")
    (tmp_path / "a.csv").write_text("text,label\na,1\n")

    def message(config):
        with pytest.raises(ValueError) as error:
            load_dataset(str(tmp_path), name=config)
        return hub_message("me/data", config, error.value)

    assert message(None) == ("Hub dataset me/data has several configurations. Configurations: 'en', 'de'. "
                             "Choose one with --data_config")
    assert message("fr") == ("Hub dataset me/data has no configuration 'fr' (ValueError: BuilderConfig 'fr' not found. "
                             "Available: ['en', 'de']). Choose another with --data_config")


# --- Python objects --------------------------------------------------------------------------------------------------

def small_dataset():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    return Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 1]}, features=features)


def test_datasets_in_every_form_give_the_same_table(tmp_path):
    dataset = small_dataset()
    dataset.save_to_disk(tmp_path / "one")
    DatasetDict({"train": dataset}).save_to_disk(tmp_path / "dict")
    dataset.to_parquet(tmp_path / "a.parquet")
    for data in (dataset, DatasetDict({"train": dataset}), {"train": dataset}, dataset.to_iterable_dataset(),
                 tmp_path / "one", tmp_path / "dict", tmp_path / "a.parquet", dataset.with_format("numpy")):
        table = read(data).splits["train"]
        assert {name: whole(cells) for name, cells in table.columns.items()} == {
            "text": ["a", "b", "c"], "label": [0, 1, 1]}, data
        assert table.features["label"]["names"] == ["no", "yes"], data


def test_a_broken_save_to_disk_folder_is_refused(tmp_path):
    small_dataset().save_to_disk(tmp_path / "one")
    for file in (tmp_path / "one").glob("*.arrow"):
        file.write_bytes(b"cut")
    assert refusal(tmp_path / "one").startswith(f"{tmp_path / 'one'} looks like a save_to_disk folder and cannot be")


def test_pictures_in_a_dataset_stay_encoded(tmp_path):
    pictures(tmp_path, "a.png")
    dataset = Dataset.from_dict({"image": [str(tmp_path / "a.png")]}).cast_column("image", ImageFeature())
    cell = read(dataset).splits["train"].columns["image"][0]
    assert set(cell) == {"bytes", "path"}


def test_frames_rows_and_columns():
    frame = pandas.DataFrame({"text": ["a", None], "label": [1.0, np.nan], "tags": [[1], [2, 3]]})
    assert read(frame).splits["train"].columns == {"text": ["a", None], "label": [1.0, None], "tags": [[1], [2, 3]]}
    rows = [{"text": "a", "label": 1}, {"text": "b"}]
    expected = {"text": ["a", "b"], "label": [1, None]}
    assert read(rows).splits["train"].columns == read(row for row in rows).splits["train"].columns == expected
    assert read({"text": ["a", "b"], "label": [1, None]}).splits["train"].columns == expected
    assert read({"train": rows, "dev": rows}).splits["validation"].columns == expected


def test_a_map_style_dataset_is_read_once():
    class Rows:
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return {"text": "ab"[i], "label": i}

    assert read(Rows()).splits["train"].columns == {"text": ["a", "b"], "label": [0, 1]}


def test_objects_that_are_no_rows_are_refused():
    assert refusal(3) == ("data is a int. Allowed: a path, a Hub dataset id, Dataset, DatasetDict, IterableDataset, "
                          "a pandas DataFrame, a list of dicts")
    assert refusal(["a"]) == "data: row 0 is a str; each row must be a dict"
    assert refusal({"val": [], "dev": []}) == "data: two splits mean validation: val, dev. Keep one of them"
