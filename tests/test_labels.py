"""What a target column is, the order of its labels, and targets in one form."""

import math

import numpy as np
import pytest

from hfxfer.errors import DataError
from hfxfer.labels import Cells, Target, as_number, is_unlabelled, label_reader, recognise_target


def cells(values, names=None, typed=True, file="a.csv"):
    return Cells(values, names, lambda i: f"{file}:{i + 2}", typed)


def recognise(*values, kind="label", problem_type="auto", **options):
    return recognise_target(kind, [cells(part, **options) for part in values], problem_type, "label")


def refusal(*values, **options):
    with pytest.raises(DataError) as error:
        recognise(*values, **options)
    return str(error.value)


def targets(target, values, **options):
    [read] = label_reader(target, [cells(values, **options)])
    return [read(value) for value in values]


SINGLE, MULTI = "single_label_classification", "multi_label_classification"


@pytest.mark.parametrize("values, options, labels", [
    (["dog", "cat", " cat "], {}, ("cat", "dog")),
    ([7, 10, 3], {}, ("3", "7", "10")),
    ([np.int64(7), np.int32(-1)], {}, ("-1", "7")),
    ([True, False, True], {}, ("False", "True")),
    ([1.0, 0.0, None], {}, ("0", "1")),
    ([1, 0, 2.0], {}, ("0", "1", "2")),
    (["10", "9", "001"], {"typed": False}, ("001", "9", "10")),
    (["1.0", "0.0", ""], {"typed": False}, ("0", "1")),
    (["1.0", "2.0"], {"typed": True}, ("1.0", "2.0")),
    (["True", "False"], {"typed": False}, ("False", "True")),
    (["NA", "null"], {"typed": False}, ("NA", "null")),
    ([1, 0, -1], {"names": ["zebra", "ant", "bee"]}, ("zebra", "ant", "bee")),
    (["b", "B", "a"], {}, ("B", "a", "b")),
])
def test_single_labels_and_their_order(values, options, labels):
    assert recognise(values, **options) == Target(SINGLE, labels)


@pytest.mark.parametrize("values, options, labels", [
    ([["b", "a"], [], ["c"]], {}, ("a", "b", "c")),
    ([[10, 9], [9]], {}, ("9", "10")),
    (['["b", "a"]', "['c']", "[]"], {"typed": False}, ("a", "b", "c")),
    ([[1, 0, 0], [1, 1, 0]], {}, ("0", "1", "2")),
    ([[1.0, 0.0], [0.0, 0.0]], {}, ("0", "1")),
    ([[1], [0, 1]], {"names": ["x", "y"]}, ("x", "y")),
    ([np.array([2, 1])], {}, ("1", "2")),
])
def test_lists_are_multi_label(values, options, labels):
    assert recognise(values, **options) == Target(MULTI, labels)


def test_floats_are_regression_unless_all_are_whole():
    assert recognise([0.5, 1.0, None]) == Target("regression", ())
    assert recognise(["0.5", "1", "-2e3"], typed=False) == Target("regression", ())
    assert recognise(["0.5", "0.7"], typed=True) == Target(SINGLE, ("0.5", "0.7"))
    assert recognise([0.5, 0.7], problem_type=SINGLE) == Target(SINGLE, ("0.5", "0.7"))
    assert recognise([1, 2, 3], problem_type="regression") == Target("regression", ())
    assert recognise(["a", "b"], problem_type=MULTI) == Target(MULTI, ("a", "b"))


def test_labels_are_the_union_over_splits():
    assert recognise(["b", "c"], ["a"]).labels == ("a", "b", "c")
    parts = [cells([0, 1], names=["z", "a"]), cells([0], names=["a", "new"])]
    target = recognise_target("label", parts, "auto", "label")
    assert target.labels == ("z", "a", "new")
    assert [read(0) for read in label_reader(target, parts)] == ["z", "a"]


def test_tags_are_named():
    assert recognise([["O", "B-x"], ["I-x"]], kind="tags") == Target("tags", ("B-x", "I-x", "O"))
    assert recognise([[0, 2]], kind="tags", names=["O", "B-x", "I-x"]).labels == ("O", "B-x", "I-x")
    assert recognise([[10, 9]], kind="tags").labels == ("9", "10")
    assert targets(Target("tags", ()), [[0, 2]], names=["O", "B-x", "I-x"]) == [["O", "I-x"]]


def test_other_kinds_pass_through():
    boxes = [[[1, 2, 3, 4]], []]
    assert recognise(boxes, kind="boxes") == Target("other", ())
    assert targets(Target("other", ()), boxes) == boxes


def test_targets_come_in_one_form():
    assert targets(Target(SINGLE, ()), [1, 0, -1, None], names=["a", "b"]) == ["b", "a", None, None]
    assert targets(Target(SINGLE, ()), [1.0, 2, True, " x ", float("nan")]) == ["1", "2", "True", "x", None]
    assert targets(Target(SINGLE, ()), [["a"], ["b"]]) == ["a", "b"]
    assert targets(Target(MULTI, ()), [[0, 1, 1], [0, 0, 0]]) == [["1", "2"], []]
    assert targets(Target(MULTI, ()), [["a", "b", "a"], None, "c"]) == [["a", "b"], None, ["c"]]
    assert targets(Target("regression", ()), ["0.5", 2, None, ""]) == [0.5, 2.0, None, None]


@pytest.mark.parametrize("problem_type, value, options, message", [
    ("regression", "high", {}, "'high' is not a number"),
    ("regression", math.inf, {}, "inf is not a number"),
    (SINGLE, 5, {"names": ["a", "b"]}, "label 5 is not in 0…1, the names of the ClassLabel"),
    (SINGLE, ["a", "b"], {}, "['a', 'b'] is a list of 2 labels. Give one label a row, or "
                             "--problem_type multi_label_classification"),
    (MULTI, ["a", None], {}, "a label is missing in ['a', None]"),
    ("tags", "B-x", {}, "'B-x' is not a list of tags"),
])
def test_a_cell_that_is_no_target_is_refused(problem_type, value, options, message):
    with pytest.raises(DataError) as error:
        targets(Target(problem_type, ()), [value], **options)
    assert str(error.value) == message


def test_a_split_without_labels_is_seen():
    for values in ([-1, -1], [None, ""], ["-1", " "], [[], None], [[-1, -1]], [float("nan")], [np.int64(-1)]):
        assert is_unlabelled(cells(values)), values
    for values in ([-1, 1], ["", "a"], [[], ["a"]], [0], [False]):
        assert not is_unlabelled(cells(values)), values


def test_mixed_types_are_refused():
    take = "Give every row the same type, or take them all as names: --problem_type single_label_classification"
    assert refusal(["cat", 3]) == f"column 'label' mixes types of labels: str 'cat' (a.csv:2), int 3 (a.csv:3). {take}"
    assert refusal([["a"], "b"]) == (
        f"column 'label' mixes types of labels: list ['a'] (a.csv:2), str 'b' (a.csv:3). {take}")
    assert refusal(["3", "", "cat"], typed=False) == (
        f"column 'label' mixes types of labels: number '3' (a.csv:2), str 'cat' (a.csv:4). {take}")
    assert recognise(["cat", 3], problem_type=SINGLE).labels == ("3", "cat")


def test_one_class_is_refused():
    assert refusal(["cat"] * 5) == (
        "column 'label' has one class only: 'cat'. A classifier needs two or more")
    assert refusal([0, 0], names=["a", "b"]).startswith("column 'label' has one class only: 'a'.")


def test_what_looks_like_an_id_or_a_measure_is_refused():
    assert refusal([f"row {i}" for i in range(30)]) == (
        "column 'label' holds 30 different labels in 30 rows ('row 0', 'row 1', 'row 2', …), which looks like free "
        "text or an id. Say what it is: --columns label=NAME")
    assert refusal(list(range(30))).endswith("which looks like a measured value. Say what it is: "
                                             "--problem_type regression")


def test_numbers_are_told_from_names():
    assert [as_number(text) for text in ("1", "-.5", "1e3", " 2 ")] == [1.0, -0.5, 1000.0, 2.0]
    assert [as_number(text) for text in ("nan", "inf", "1_000", "x", "", "1.2.3")] == [None] * 6
