"""Rungs: when one is a gain over the one below, what is said, and what the next will cost."""

import pyarrow as pa
import pytest

from hfxfer.errors import RecipeError
from hfxfer.paired import Difference
from hfxfer.rungs import Rung, budget_seconds, chosen, compared, difference, estimated_seconds, is_gain, over_budget, table
from hfxfer.run import Run
from hfxfer.tasks._task import Problem

CLASSES = Problem("single_label_classification", ("cat", "dog"))


def answers(right, num_rows=60):
    """A rung's validation table of cats: `right` says which rows are answered so."""
    return pa.table({"row_id": [f"r{row}" for row in range(num_rows)], "reference": ["cat"] * num_rows,
                     "prediction": ["cat" if row in right else "dog" for row in range(num_rows)],
                     "probabilities": [[0.9, 0.1] if row in right else [0.2, 0.8] for row in range(num_rows)]})


def judged(only_above, only_below, both=30):
    """The difference where so many rows are right above only, below only and in both."""
    shared = set(range(both))
    below = shared | set(range(both, both + only_below))
    above = shared | set(range(both + only_below, both + only_below + only_above))
    return difference(CLASSES, "accuracy", answers(below), answers(above), seed=42)


def test_a_gain_is_a_paired_interval_above_0():
    # Bonett and Price, 12 against 1 of 60: 11/62 ± 1.96 √((13/62 + 2/62 − (11/62)²)/62).
    found = judged(12, 1)
    assert is_gain(found) and compared("lp-ft", "head", found) == (
        "lp-ft is established to be better than head (+0.183 accuracy [+0.063, +0.292] on 60 validation rows)")


def test_what_may_be_chance_is_no_gain():
    # 3 against 1: 2/62 ± 1.96 √((4/62 + 2/62 − (2/62)²)/62).
    found = judged(3, 1)
    assert not is_gain(found) and compared("full", "head", found) == (
        "full is not established to be better than head (+0.033 accuracy [-0.045, +0.109] on 60 validation rows)")


def test_an_established_loss_is_no_gain():
    found = judged(1, 12)
    assert not is_gain(found) and compared("full", "head", found) == (
        "full is established to be worse than head (-0.183 accuracy [-0.292, -0.063] on 60 validation rows)")


def test_the_same_answers_and_an_undefined_score_are_no_gain():
    found = judged(0, 0)
    assert not is_gain(found) and compared("full", "head", found) == "full answers as head does on all 60 validation rows"
    nothing = Difference("roc_auc", None, None, None, False, 60)
    assert not is_gain(nothing) and compared("full", "head", nothing) == (
        "roc_auc is undefined on the 60 validation rows, so full is not established to be better than head")


def test_less_is_more_where_the_metric_says_so():
    better, worse = Difference("rmse", -12.5, -20.0, -5.0, True, 60), Difference("rmse", 12.5, 5.0, 20.0, True, 60)
    assert is_gain(better) and not is_gain(worse)
    assert compared("full", "lora", better) == "full is established to be better than lora (-12.5 rmse [-20, -5] on 60 validation rows, lower is better)"
    assert "established to be worse" in compared("full", "lora", worse)


def test_metrics_of_probabilities_are_compared_too():
    found = difference(CLASSES, "log_loss", answers(set()), answers(set(range(60))), seed=42)
    # -log 0.9 after -log 0.2 in every row.
    assert found.difference == pytest.approx(0.1054 - 1.6094, abs=1e-3) and is_gain(found)


def test_other_rows_are_not_compared():
    with pytest.raises(ValueError, match="different validation rows"):
        difference(CLASSES, "accuracy", answers(set()), answers(set(), 59), seed=42)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h", 3600), ("1.5h", 5400), (None, None)])
def test_a_budget_is_a_number_with_a_unit(text, seconds):
    assert budget_seconds(text) == seconds


@pytest.mark.parametrize("text", ["20", "soon", "-5m", "0m", "20 m", "1h30m"])
def test_any_other_budget_is_refused(text):
    with pytest.raises(RecipeError) as refused:
        budget_seconds(text)
    assert str(refused.value) == f"budget is {text!r}; allowed: a number with s, m or h, such as 90s, 20m or 1h"


def test_the_next_rung_is_estimated_by_those_before():
    head = {"method": "head", "seconds": 10.0, "validation_seconds": 2.0, "epoch_seconds": 1.0}
    # 2 s for 20 rows is 0.1 s a row: 5 epochs of (3 × 100 + 20) rows, the head's 10 s, and 60 rows of validation and test.
    assert estimated_seconds("lp-ft", 5, [head], (100, 20, 40)) == pytest.approx(10 + 5 * 32 + 6)
    lp_ft = {"method": "lp-ft", "seconds": 50.0, "validation_seconds": 4.0, "epoch_seconds": 7.0}
    assert estimated_seconds("full", 3, [head, lp_ft], (100, 20, 40)) == pytest.approx(3 * 7 + 12)
    # After a resume an epoch's cost is not known.
    assert estimated_seconds("full", 3, [head, {**lp_ft, "epoch_seconds": None}], (100, 20, 40)) == pytest.approx(3 * 0.2 * 320 + 12)


def test_a_rung_that_does_not_fit_the_budget_is_not_begun():
    assert over_budget("full", 100, 100, 1200) is None
    assert over_budget("full", 720, 180, 1200) == (
        "full is not begun: it would take about 12 min 00 s, and 3 min 00 s of the budget of 20 min 00 s are left")
    assert over_budget("full", 1, -5, 90) == "full is not begun: the budget of 1 min 30 s is used up"


def test_the_table_is_aligned_and_marks_the_choice():
    score = {"metric": "accuracy", "value": 0.9, "low": 0.8, "high": 0.95}
    head = {"method": "head", "scores": [score], "seconds": 24, "resumed": False, "trained_parameters": 3843, "trained_megabytes": 0.015372,
            "model_megabytes": 9.13}
    lp_ft = {**head, "method": "lp-ft", "seconds": 600, "resumed": True, "trained_parameters": 2227715, "trained_megabytes": 8.91}
    report = {"metric": "accuracy", "validation_rows": 60, "rungs": [head, lp_ft], "chosen": "head", "reason": "so"}
    assert table(report) == [
        "rung   accuracy on 60 validation rows  minutes  trained parameters  trained MB  model MB",
        "head   0.9000 [0.8000, 0.9500]             0.4               3,843      0.0154      9.13  chosen",
        "lp-ft  0.9000 [0.8000, 0.9500]          ≥ 10.0           2,227,715        8.91      9.13",
        "so"]
    assert chosen(head) == "head is chosen: it trains 3,843 parameters in 0.4 minutes"


def test_a_rung_keeps_what_is_small(tmp_path):
    rung = Rung(Run(tmp_path), "lp-ft")
    for name in ("model/model.safetensors", "checkpoints/checkpoint-1/x", "data.json", "history.jsonl", "recipe.yaml", "rung.json"):
        (rung.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (rung.folder / name).write_text("")
    rung.drop()
    rung.drop()
    assert {path.name for path in rung.folder.iterdir()} == {"history.jsonl", "recipe.yaml", "rung.json"}
    assert rung.continuing_command == rung.root.continuing_command
