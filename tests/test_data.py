"""User data → Rows: what users really have, and each fault with its message. Tiny real files."""

import json
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image as ImageFeature, List, Value
from PIL import Image
from sklearn.datasets import load_digits

from hfxfer.data import Column, Target, detect_task, load_rows, load_split
from hfxfer.errors import DataError

IMAGE = {
    "image": Column(kind="image", names=("image", "img", "file_name", "file", "path")),
    "label": Column(kind="label", names=("label", "labels"), target=True),
}
TEXT = {
    "text": Column(kind="text", names=("text", "sentence", "sentence1")),
    "text_pair": Column(kind="text", names=("text_pair", "sentence2"), required=False),
    "label": Column(kind="label", names=("label", "labels", "target"), target=True),
}
TOKENS = {
    "tokens": Column(kind="tokens", names=("tokens", "words")),
    "tags": Column(kind="tags", names=("ner_tags", "tags", "labels"), target=True),
}
TASKS = {"image-classification": IMAGE, "text-classification": TEXT, "token-classification": TOKENS}


def settings(**given):
    return SimpleNamespace(**{
        "columns": {}, "problem_type": "auto", "data_config": None, "data_revision": None, "split_by": None,
        "test_size": 0.2, "validation_size": 0.1, "on_bad_rows": "error", "seed": 42, "output_dir": None} | given)


def load(data, roles=TEXT, cut=True, **given):
    return load_rows(data, roles, settings(**given), cut=cut)


def refusal(data, roles=TEXT, **given):
    with pytest.raises(DataError) as error:
        load(data, roles, **given)
    return str(error.value)


def sentences(num_rows, labels="ab"):
    return [{"text": f"sentence {i}", "label": labels[i % len(labels)]} for i in range(num_rows)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Twelve pictures of each of the digits 3 and 7, in class folders."""
    folder = tmp_path_factory.mktemp("digits")
    data = load_digits()
    for label in (3, 7):
        (folder / str(label)).mkdir()
        for i, pixels in enumerate(data.images[data.target == label][:12]):
            Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((32, 32)).save(folder / str(label) / f"{i}.png")
    return folder


# --- splits and rows -------------------------------------------------------------------------------------------------

def test_an_image_folder_is_cut_in_three(digits):
    rows = load(digits, IMAGE)
    # 24 rows: test 20 % of them is 5 (4.8), validation 10 % of the 19 left is 2, at least one a class.
    assert {name: split.num_rows for name, split in rows.splits.items()} == {"train": 17, "validation": 2, "test": 5}
    assert rows.target == Target("single_label_classification", ("3", "7"))
    assert Counter(rows.validation.column("label")) == {"3": 1, "7": 1}
    ids = rows.train.row_ids + rows.validation.row_ids + rows.test.row_ids
    assert len(set(ids)) == 24 and all(len(row_id) == 16 for row_id in ids)
    first = rows.train.places[0]
    assert rows.train[0] == {"image": str(digits / first), "label": first[0], "row_id": rows.train.row_ids[0]}
    test = rows.report["splits"]["test"]
    assert sorted(test.pop("classes").values()) == [2, 3]
    assert test == {"num_rows": 5, "origin": "cut from train", "size": 0.2, "seed": 42, "stratified_by": "class",
                    "split_by": None}


def test_a_split_is_a_value():
    rows = load(sentences(20))
    fold = rows.train.select([2, 0], "fold")
    assert fold.row_ids == [rows.train.row_ids[2], rows.train.row_ids[0]]
    assert fold.take([1]) == [rows.train[0]]
    assert fold.name == "fold" and fold.num_rows == len(fold) == 2
    assert [row["text"] for row in fold] == fold.column("text")
    assert rows.train.roles == ("text", "label")


def test_a_split_travels_to_another_process(digits):
    dataset = Dataset.from_dict({"image": [str(digits / f"{label}/{i}.png") for i in range(12) for label in (3, 7)],
                                 "label": [3, 7] * 12}).cast_column("image", ImageFeature())
    split = load(dataset, IMAGE).test
    assert pickle.loads(pickle.dumps(split)).take([0]) == split.take([0])
    assert split == split.select(range(split.num_rows)) != split.select([0])


def test_the_same_rows_in_another_order_are_cut_alike():
    data = sentences(50)
    one, other = load(data), load(data[::-1])
    assert set(one.test.row_ids) == set(other.test.row_ids)
    assert set(one.validation.row_ids) == set(other.validation.row_ids)
    assert set(one.test.row_ids) != set(load(data, seed=1).test.row_ids)
    assert one.fingerprint == load(data).fingerprint != other.fingerprint


def test_given_splits_are_used():
    data = {"train": sentences(20), "test": [{"text": f"test {i}", "label": "ab"[i % 2]} for i in range(6)]}
    rows = load(data)
    assert (rows.train.num_rows, rows.validation.num_rows, rows.test.num_rows) == (18, 2, 6)
    assert [rows.report["splits"][name]["origin"] for name in ("train", "validation", "test")] == [
        "what was left", "cut from train", "given"]


@pytest.mark.parametrize("labels", [[-1] * 4, ["", None, "", ""]])
def test_an_unlabelled_test_split_is_replaced(labels):
    unlabelled = [{"text": f"test {i}", "label": label} for i, label in enumerate(labels)]
    rows = load({"train": sentences(20), "test": unlabelled})
    assert rows.unlabelled["test"].num_rows == 4 and not rows.unlabelled["test"].is_labelled
    assert rows.test.num_rows == 4 and rows.test.is_labelled and set(rows.test.column("label")) == {"a", "b"}
    assert rows.report["unlabelled"] == {"test": 4}


def test_a_test_split_without_the_label_column_is_unlabelled(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"t{i},{'ab'[i % 2]}\n" for i in range(20)))
    (tmp_path / "test.csv").write_text("text\nx\ny\n")
    assert load(tmp_path).unlabelled["test"].column("text") == ["x", "y"]


def test_a_source_without_train_is_refused():
    assert refusal({"test": sentences(4), "other": sentences(4)}) == (
        "data has no train split, only test, other. Name one of them train (also training), or give its folder or "
        "file alone")


def test_scripts_cut_nothing():
    rows = load({"train": sentences(8)}, cut=False)
    assert (rows.train.num_rows, rows.validation.num_rows, rows.test.num_rows) == (8, 0, 0)
    rows = load({"validation": sentences(8)}, cut=False)
    assert (rows.train.num_rows, rows.validation.num_rows, rows.test.num_rows) == (0, 8, 0)


def test_too_few_rows_to_cut_are_refused():
    assert refusal([{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]) == (
        "2 rows (2 different ones) are too few to cut test from train. Give more rows, or give a test split")


def test_a_group_stays_in_one_split():
    data = [{"text": f"s {i}", "label": "ab"[i % 2], "speaker": i // 5} for i in range(100)]
    rows = load(data, split_by="speaker")
    groups = [{int(text.split()[1]) // 5 for text in split.column("text")} for split in rows.splits.values()]
    assert not (groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2])
    assert len(groups[2]) == 4 and "speaker" not in rows.train[0] and "_group" not in rows.train[0]
    assert rows.report["splits"]["test"]["split_by"] == "speaker"
    assert refusal(data, split_by="patient") == (
        "column 'patient' (--split_by) not found in data. Columns: text, label, speaker")


def test_groups_in_two_given_splits_are_named(capsys):
    train = [{"text": f"s {i}", "label": "ab"[i % 2], "speaker": f"s{i // 5}"} for i in range(40)]
    test = [{"text": f"t {i}", "label": "ab"[i % 2], "speaker": "s3"} for i in range(4)]
    rows = load({"train": train, "test": test}, split_by="speaker")
    assert rows.report["shared_groups"]["s3"][-1] == "test"
    assert "warning: --split_by: 1 group stands in more than one given split: s3 (" in capsys.readouterr().err


def test_duplicates_are_cut_into_one_split(capsys):
    data = sentences(30) + sentences(30)
    rows = load(data)
    assert rows.report["leaks"] == []
    assert len(rows.report["duplicates"]) == 30
    assert sum(row_id.endswith("-1") for split in rows.splits.values() for row_id in split.row_ids) == 30
    assert "hint: 30 inputs stand more than once in a split: " in capsys.readouterr().err


# --- what the columns are --------------------------------------------------------------------------------------------

def test_an_unknown_label_column_is_refused_with_the_flag(digits, tmp_path):
    (tmp_path / "pets.csv").write_text("file,breed\n" + "".join(
        f"{digits}/{label}/{i}.png,{label}\n" for label in (3, 7) for i in range(12)))
    assert refusal(tmp_path / "pets.csv", IMAGE) == (
        "column 'label' not found in pets.csv. Columns: file, breed. Say which one holds the label: "
        "--columns label=breed")
    assert load(tmp_path / "pets.csv", IMAGE, columns={"label": "breed"}).columns == {"image": "file", "label": "breed"}
    assert refusal(tmp_path / "pets.csv", IMAGE, columns={"label": "race"}) == (
        "column 'race' (--columns label=race) not found in pets.csv. Columns: file, breed")
    assert refusal(tmp_path / "pets.csv", IMAGE, columns={"lable": "breed"}) == (
        "columns: there is no role 'lable'. Roles of this task: image, label. Write --columns image=breed")


def test_columns_are_known_by_name_in_any_case_and_by_type():
    rows = [{"Sentence": f"x {i}", "Target": i % 2, "id": i} for i in range(20)]
    assert load(rows).columns == {"text": "Sentence", "label": "Target"}
    features = Features({"body": Value("string"), "kind": ClassLabel(names=["no", "yes"])})
    dataset = Dataset.from_dict({"body": [f"x {i}" for i in range(20)], "kind": [0, 1] * 10}, features=features)
    loaded = load(dataset)
    assert loaded.columns == {"text": "body", "label": "kind"} and loaded.target.labels == ("no", "yes")


def test_a_column_of_the_right_name_and_the_wrong_type_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("image,label\n0001,cat\n0002,dog\n")
    assert refusal(tmp_path / "a.csv", IMAGE) == (
        "column 'image' of a.csv holds no pictures (paths need an ending like .jpg): '0001' (a.csv:2). Change it, or "
        "say which column holds the image: --columns image=NAME")
    assert refusal([{"text": 5, "label": "a"}, {"text": 6, "label": "b"}]).startswith(
        "column 'text' of data holds no texts: 5 (data row 0).")
    rows = sentences(20) + [{"text": 5, "label": "a"}]
    assert refusal(rows).splitlines()[1] == "  data row 20: 5 is a int, not a text"


def test_the_only_text_column_is_the_text_even_beside_text_labels():
    assert load([{"body": f"x {i}", "label": "ab"[i % 2]} for i in range(20)]).columns["text"] == "body"
    rows = [{"key": f"k{i}", "body": f"longer text {i}", "label": "ab"[i % 2]} for i in range(20)]
    assert refusal(rows) == ("column 'text' not found in data. Columns: key, body, label. Say which one holds the "
                             "text: --columns text=body")


def test_a_sentence_pair_is_taken_by_name():
    rows = [{"sentence1": f"a {i}", "sentence2": None if i == 0 else f"b {i}", "label": i % 2} for i in range(20)]
    loaded = load(rows)
    assert loaded.columns == {"text": "sentence1", "text_pair": "sentence2", "label": "label"}
    pairs = [row["text_pair"] for split in loaded.splits.values() for row in split]
    assert sorted(pairs) == sorted(["", *(f"b {i}" for i in range(1, 20))])


def test_paths_in_a_table_start_at_its_folder(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "".join(f"{label}\\{i}.png,{label}\n" for label in (3, 7) for i in range(12))
    (digits / "windows.csv").write_text("path,label\n" + lines)
    try:
        assert load(digits / "windows.csv", IMAGE).test.column("image")[0].startswith(str(digits))
    finally:
        (digits / "windows.csv").unlink()


def test_pictures_inside_a_dataset_are_opened(digits):
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["three", "seven"])})
    dataset = Dataset.from_dict({"image": [str(digits / f"{label}/{i}.png") for i in range(12) for label in (3, 7)],
                                 "label": [0, 1] * 12}, features=features)
    rows = load(dataset, IMAGE)
    assert rows.target.labels == ("three", "seven")
    assert set(rows.train[0]["image"]) == {"bytes", "path"}
    assert sorted(rows.train.row_ids + rows.test.row_ids + rows.validation.row_ids) == sorted(
        row_id for split in load(digits, IMAGE).splits.values() for row_id in split.row_ids)
    dataset.to_parquet(digits.parent / "digits.parquet")
    assert set(load(digits.parent / "digits.parquet", IMAGE).train.row_ids) == set(rows.train.row_ids)
    opened = [{"image": Image.open(digits / f"{label}/{i}.png"), "label": label} for i in range(12) for label in (3, 7)]
    assert load(opened, IMAGE).train.num_rows == 17


def test_tokens_and_tags_are_loaded():
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-x", "I-x"]))})
    dataset = Dataset.from_dict({"tokens": [["a", "b", str(i)] for i in range(20)],
                                 "ner_tags": [[0, 1, 2] if i % 2 else [0, 0, 0] for i in range(20)]}, features=features)
    rows = load(dataset, TOKENS)
    assert rows.target == Target("tags", ("O", "B-x", "I-x"))
    assert rows.test.num_rows == 4 and sum("B-x" in tags for tags in rows.test.column("tags")) == 2
    assert rows.report["splits"]["train"]["classes"]["O"] > 0


def test_the_task_is_read_off_the_columns(digits):
    assert detect_task(digits, TASKS, settings()) == "image-classification"
    assert detect_task(sentences(4), TASKS, settings()) == "text-classification"
    assert detect_task([{"tokens": ["a"], "ner_tags": ["O"]}], TASKS, settings()) == "token-classification"
    with pytest.raises(DataError) as error:
        detect_task([{"x": 1}], TASKS, settings())
    assert str(error.value) == (
        "data fits no task. Columns: x. image-classification wants image, label; text-classification wants text, "
        "label; token-classification wants tokens, tags. Choose the task and say which column holds what: "
        "--task image-classification --columns ROLE=COLUMN")
    with pytest.raises(DataError) as error:
        detect_task([{"file": "a.png", "breed": "cat"}], TASKS, settings())
    assert str(error.value) == ("column 'label' not found in data. Columns: file, breed. Say which one holds the "
                                "label: --columns label=breed")
    with pytest.raises(DataError, match=r"column 'race' \(--columns label=race\) not found in data. Columns: file"):
        detect_task([{"file": "a.png", "breed": "cat"}], TASKS, settings(columns={"label": "race"}))
    both = [{"file": "a.png", "caption": "a cat", "label": "x"}]
    with pytest.raises(DataError) as error:
        detect_task(both, TASKS, settings())
    assert str(error.value) == (
        "data fits several tasks: image-classification, text-classification. Columns: file, caption, label. "
        "Choose one: --task image-classification")
    assert detect_task(both, TASKS, settings(columns={"image": "file"})) == "image-classification"


def test_other_kinds_pass_through():
    roles = {"image": IMAGE["image"], "boxes": Column(kind="boxes", names=("boxes",), target=True)}
    picture = [Image.new("L", (4, 4), i) for i in range(20)]
    rows = load([{"image": image, "boxes": [[i, 0, 4, 4]] * i} for i, image in enumerate(picture)], roles)
    assert rows.target == Target("other", ())
    assert rows.test.num_rows == 4 and all(isinstance(boxes, list) for boxes in rows.test.column("boxes"))


# --- bad rows --------------------------------------------------------------------------------------------------------

@pytest.fixture
def broken(digits, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(digits, folder)
    content = (folder / "3/0.png").read_bytes()
    (folder / "3/0.png").write_bytes(content[: len(content) // 2])
    (folder / "3/1.png").write_bytes(b"")
    (folder / "7/2.JPG").write_text("no picture")
    return folder


def test_bad_pictures_are_listed_and_written_to_a_file(broken, tmp_path):
    output_dir = tmp_path / "runs" / "digits"
    message = refusal(broken, IMAGE, output_dir=str(output_dir))
    lines = message.splitlines()
    assert lines[0] == "3 bad rows of 25 in digits:"
    assert lines[1].startswith("  3/0.png: corrupt or cut short (")
    assert lines[2] == "  3/1.png: the file is empty (0 bytes)"
    assert lines[3] == ("  7/2.JPG: not an image, or in a format that Pillow cannot read. Convert it to PNG or JPEG, "
                        "or remove it")
    file = tmp_path / "runs" / "digits.bad_rows.txt"
    assert lines[4] == f"Mend them, or leave them out with --on_bad_rows skip. The whole list: {file}."
    assert file.read_text().splitlines() == [line.strip() for line in lines[1:4]]
    assert not output_dir.exists()


def test_bad_rows_are_left_out_when_asked(broken, capsys):
    rows = load(broken, IMAGE, on_bad_rows="skip")
    assert sum(split.num_rows for split in rows.splits.values()) == 22
    assert [row["place"] for row in rows.report["bad_rows"]] == ["3/0.png", "3/1.png", "7/2.JPG"]
    assert "warning: 3 of 25 rows left out (--on_bad_rows skip): 3/0.png: corrupt" in capsys.readouterr().err
    assert all(rows.train.row_ids)


def test_a_file_in_a_table_that_does_not_exist_is_a_bad_row(digits, tmp_path):
    (tmp_path / "a.csv").write_text("file,label\ngone.png,3\n" + "".join(
        f"{digits}/{label}/{i}.png,{label}\n" for label in (3, 7) for i in range(12)))
    assert refusal(tmp_path / "a.csv", IMAGE).splitlines()[1] == f"  a.csv:2: {tmp_path / 'gone.png'}: file not found"


def test_bad_texts_and_labels_are_listed_with_their_lines(tmp_path):
    rows = ["text,label", "  ,a", "fine,", "too,many,cells", *(f"text {i},{'ab'[i % 2]}" for i in range(20))]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    assert refusal(tmp_path / "a.csv").splitlines() == [
        "3 bad rows of 23 in a.csv:",
        "  a.csv:2: the text is empty",
        "  a.csv:3: no label",
        "  a.csv:4: 3 cells where the header has 2 (a quote not closed?)",
        "Mend them, or leave them out with --on_bad_rows skip."]


def test_lists_in_a_csv_are_lists(tmp_path):
    lines = [f'"[""a"", ""{i}""]","[\'O\', \'B-x\']"' for i in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(["tokens,tags", *lines]))
    rows = load(tmp_path / "a.csv", TOKENS)
    assert rows.test[0]["tokens"][0] == "a" and rows.test[0]["tags"] == ["O", "B-x"]


def test_bad_tokens_and_tags_are_listed(tmp_path):
    good = [{"tokens": ["a", f"{i}"], "tags": ["O", "B-x"]} for i in range(20)]
    bad = [{"tokens": [], "tags": []}, {"tokens": ["a"], "tags": ["O", "O"]},
           {"tokens": ["a", " "], "tags": ["O", "O"]},
           {"tokens": "text", "tags": ["O"]}, {"tokens": ["a"], "tags": None}, {"tokens": ["a"], "tags": ["O"]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, good + bad)))
    assert refusal(tmp_path / "a.jsonl", TOKENS, columns={"tokens": "tokens"}).splitlines()[1:-1] == [
        "  a.jsonl:21: the list of tokens is empty",
        "  a.jsonl:22: 1 tokens and 2 tags",
        "  a.jsonl:23: token ' ' is no word",
        "  a.jsonl:24: 'text' is not a list of tokens",
        "  a.jsonl:25: no label"]


def test_many_bad_rows_are_capped_in_the_message():
    data = sentences(20) + [{"text": "", "label": "a"}] * 30
    lines = refusal(data).splitlines()
    assert len(lines) == 1 + 20 + 1 + 1 and lines[21] == "  and 10 more"


def test_nothing_but_bad_rows_is_refused_even_when_skipping():
    data = {"train": sentences(10), "test": [{"text": "", "label": "a"}] * 3}
    assert refusal(data, on_bad_rows="skip") == (
        "no row of split test is left without its 3 bad rows; first: data['test'] row 0: the text is empty")


# --- what is worth knowing -------------------------------------------------------------------------------------------

def test_leaks_conflicts_and_small_classes_are_reported(capsys):
    train = sentences(20) + [{"text": "rare", "label": "c"}, {"text": "sentence 0", "label": "b"}]
    test = [{"text": "sentence 1", "label": "b"}, {"text": "new", "label": "a"}]
    validation = [{"text": "val", "label": "a"}, {"text": "val 2", "label": "d"}]
    report = load({"train": train, "validation": validation, "test": test}).report
    assert report["leaks"] == [{"splits": ["train", "test"], "places": ["data['train'] row 1", "data['test'] row 0"]}]
    assert report["conflicts"] == [{"places": ["data['train'] row 0", "data['train'] row 21"], "targets": ["a", "b"]}]
    assert report["duplicates"] == [{"split": "train", "places": ["data['train'] row 0", "data['train'] row 21"]}]
    assert report["small_classes"] == {"c": 1}
    assert report["missing_classes"] == {"train": ["d"], "validation": ["b", "c"], "test": ["c", "d"]}
    assert report["splits"]["train"]["classes"] == {"a": 10, "b": 11, "c": 1, "d": 0}
    assert capsys.readouterr().err.splitlines() == [
        "warning: 1 class without an example in train: d",
        "warning: 2 classes without an example in validation: b, c",
        "warning: 2 classes without an example in test: c, d",
        "warning: 1 class with fewer than 5 examples in train: c (1)",
        "warning: 1 input stands in more than one split, so scores will look better than they are: "
        "data['train'] row 1 = data['test'] row 0",
        "warning: 1 input has different labels: data['train'] row 0 = data['train'] row 21",
        "hint: 1 input stands more than once in a split: data['train'] row 0 = data['train'] row 21"]
    json.dumps(report, allow_nan=False)


def test_a_picture_in_two_splits_under_two_names_is_a_leak(digits, tmp_path):
    for split, names in {"train": ("0", "1", "2", "3"), "test": ("3", "4")}.items():
        for label in ("3", "7"):
            (tmp_path / split / label).mkdir(parents=True)
            for name in names:
                content = (digits / label / f"{name}.png").read_bytes()
                (tmp_path / split / label / f"{split}-{name}.png").write_bytes(content)
    leaks = load(tmp_path, IMAGE).report["leaks"]
    assert {tuple(leak["places"]) for leak in leaks} >= {("train/3/train-3.png", "test/3/test-3.png")}


def test_the_report_holds_no_absolute_path(digits):
    assert str(digits) not in json.dumps(load(digits, IMAGE).report)
    assert load(digits, IMAGE).report["source"] == digits.name


def test_regression_and_multi_label_are_cut_and_reported():
    rows = load([{"text": f"x {i}", "label": i / 10 + 0.05} for i in range(50)])
    assert rows.target == Target("regression", ()) and rows.test.num_rows == 10
    assert rows.report["splits"]["test"]["stratified_by"] == "quantile bin"
    rows = load([{"text": f"x {i}", "labels": ["a"] + ["b"] * (i % 5 == 0)} for i in range(50)])
    assert rows.target.labels == ("a", "b") and rows.report["splits"]["test"]["classes"] == {"a": 10, "b": 2}


def test_labels_that_differ_in_letter_case_are_named(capsys):
    assert load(sentences(30, ["cat", "Cat", "dog"])).report["labels_alike"] == [["Cat", "cat"]]
    assert "labels that differ in letter case only count as different classes: Cat = cat" in capsys.readouterr().err


def test_a_train_split_with_one_class_is_refused():
    assert refusal({"train": sentences(20, "a"), "test": sentences(4)}) == (
        "the train split of data has one class only: 'a'. A classifier needs two or more")
    assert refusal([{"tokens": ["a", str(i)], "tags": ["O", "O"]} for i in range(9)], TOKENS) == (
        "column 'tags' has one tag only: 'O'. There is no entity to learn")


# --- other data ------------------------------------------------------------------------------------------------------

def test_a_split_of_other_data_is_loaded_under_known_labels():
    target = Target("single_label_classification", ("a", "b", "c"))
    split = load_split({"test": sentences(6)}, "test", TEXT, settings(), target)
    assert (split.name, split.num_rows, split.column("label")) == ("test", 6, ["a", "b"] * 3)
    assert load_split(sentences(6), "test", TEXT, settings(), target).num_rows == 6
    one_class = load_split({"dev": sentences(4, "a")}, "validation", TEXT, settings(), target)
    assert one_class.column("label") == ["a"] * 4


def test_the_data_of_a_run_is_cut_as_it_was(capsys):
    data = sentences(40)
    rows = load(data, seed=7)
    one = load_split(data, "test", TEXT, settings(seed=7), rows.target, report=rows.report)
    assert one.row_ids == rows.test.row_ids and one.num_rows == 8
    assert load_split(data, "dev", TEXT, settings(seed=7), rows.target, rows.report).row_ids == rows.validation.row_ids
    assert "no splits" not in capsys.readouterr().err
    other = [{**row, "text": row["text"] + "!"} for row in data]
    assert load_split(other, "test", TEXT, settings(seed=7), rows.target, rows.report).num_rows == 40
    assert capsys.readouterr().err == "hint: data has no splits: all its 40 rows are used\n"
    unlabelled = {"train": data, "test": [{"text": "x", "label": -1}]}
    rows = load(unlabelled)
    assert load_split(unlabelled, "test", TEXT, settings(), rows.target, rows.report).row_ids == rows.test.row_ids


def test_other_data_that_does_not_fit_is_refused():
    target = Target("single_label_classification", ("a", "b"))

    def message(data, split="test"):
        with pytest.raises(DataError) as error:
            load_split(data, split, TEXT, settings(), target)
        return str(error.value)

    assert message({"test": sentences(3, "abx")}).splitlines()[1] == (
        "  data['test'] row 2: label 'x' is not one of the model's: a, b")
    assert message({"train": sentences(3)}) == "data has no split 'test'. Splits: train. Choose one: --split train"
    assert message({"test": [{"text": "x", "label": -1}]}) == (
        "split 'test' of data has no labels: column 'label' is empty or -1 in every row. Evaluate on a split with "
        "labels, or use `hfxfer predict`")


def test_importing_data_imports_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "pandas", "numpy", "PIL", "pyarrow")
    code = f"import sys, hfxfer.data; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
