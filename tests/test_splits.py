"""Cutting: proportions, groups, and independence from the order of rows. Expected values by hand."""

from collections import Counter

import pytest

from hfxfer.errors import DataError
from hfxfer.labels import Target
from hfxfer.splits import cut, group_keys, shared_groups, strata_of


def test_each_class_gives_its_share():
    strata = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
    chosen = cut(range(100), strata, 0.2, seed=0)
    assert Counter(strata[i] for i in chosen) == {"a": 10, "b": 6, "c": 4}
    assert chosen == sorted(set(chosen))


def test_small_classes_give_one_and_keep_one():
    strata = ["a"] * 20 + ["b"] * 2 + ["c"]
    chosen = cut(range(23), strata, 0.1, seed=0)
    assert Counter(strata[i] for i in chosen) == {"a": 2, "b": 1}


def test_rounding_keeps_the_total():
    strata = [name for name in "abcdefg" for _ in range(12)]  # 84 rows, 10 %: 8 rows, at least one a class.
    assert len(cut(range(84), strata, 0.1, seed=3)) == 8


def test_the_seed_decides_and_the_order_does_not():
    names = [f"row{i}" for i in range(60)]
    strata = {name: "xyz"[i % 3] for i, name in enumerate(names)}

    def chosen(order, seed):
        return {order[i] for i in cut(order, [strata[name] for name in order], 0.25, seed)}

    assert chosen(names, 1) == chosen(names[::-1], 1) == chosen(sorted(names), 1)
    assert chosen(names, 1) != chosen(names, 2)


def test_a_group_is_never_divided():
    groups = [i // 4 for i in range(120)]
    strata = ["a" if i % 2 else "b" for i in range(120)]
    chosen = set(cut(groups, strata, 0.2, seed=0))
    taken = {groups[i] for i in chosen}
    assert chosen == {i for i in range(120) if groups[i] in taken}
    assert len(chosen) == 24


def test_few_large_groups_still_give_a_split():
    groups = ["anna", "ben", "cleo"] * 10
    strata = [i % 5 for i in range(30)]
    chosen = cut(groups, strata, 0.2, seed=0)
    assert len({groups[i] for i in chosen}) == 1 and len(chosen) == 10


def test_a_class_of_large_groups_is_not_forgotten():
    groups = [*range(40), *["x"] * 5, *["y"] * 5]
    strata = ["a"] * 40 + ["b"] * 10
    assert Counter(strata[i] for i in cut(groups, strata, 0.1, seed=0)) == {"a": 4, "b": 5}
    assert len(cut(["anna", "ben"] * 10, ["a"] * 20, 0.2, seed=0)) == 10


def test_one_group_cannot_be_cut():
    with pytest.raises(DataError) as error:
        cut(["anna"] * 3, ["a", "b", "a"], 0.2, seed=0)
    assert str(error.value) == (
        "nothing to cut: all 3 rows are copies of one or share one --split_by group. Give the splits as files or "
        "folders, or choose another column")


def test_strata_are_what_the_target_needs():
    multi = Target("multi_label_classification", ("a", "b", "c"))
    assert strata_of(multi, [["a", "b"], ["a"], ["a", "c"], ["b", "a"], []]) == ["b", "a", "c", "b", ""]
    tags = Target("tags", ("B-x", "O"))
    assert strata_of(tags, [["O", "O"], ["O", "B-x"]]) == [False, True]
    regression = Target("regression", ())
    assert strata_of(regression, [0.1, 5.0, 0.2, 5.5, 0.3, 6.0, 0.4, 6.5, 0.5, 7.0]) == [0, 1] * 5
    assert strata_of(regression, [1.0] * 40) == [0] * 40


def test_duplicates_and_groups_stay_together():
    assert group_keys(["x", "y", "x"], None) == ["x", "y", "x"]
    keys = group_keys(["x", "y", "x", "z"], ["anna", "anna", "ben", "cleo"])
    assert keys[0] == keys[1] == keys[2] != keys[3]
    without = group_keys(["x", "y"], [None, ""])
    assert without[0] != without[1]


def test_groups_in_several_splits_are_named():
    assert shared_groups({"train": ["anna", "ben", None], "test": ["ben", "cleo", None]}) == {"ben": ["train", "test"]}
