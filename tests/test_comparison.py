"""compare: two Run folders in, differences and one plain sentence out; and the command."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hfxfer
from hfxfer.comparison import compare
from hfxfer.errors import RunError
from hfxfer.intervals import Regression, SingleLabel, Tags, score_regression, score_single_label, score_tags
from hfxfer.recipe import Recipe
from hfxfer.run import Run, Score, scores_object, write_text

from test_cli import call, refused

LABELS = ("bad", "good")


def finished(folder, task, problem_type, labels, rows, scores):
    """A Run as a training leaves it, with just what compare reads. rows: (row_id, reference, prediction, probabilities)."""
    run = Run(folder)
    run.create()
    run.write_recipe(Recipe(model="m", data="d", output_dir=str(folder), task=task))
    names = ("row_id", "reference", "prediction", "probabilities")
    pq.write_table(pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)} | {"input": ["x"] * len(rows)}), run.predictions_path)
    kept = [Score(metric=each.metric, value=each.value, low=each.low, high=each.high, label=each.label, split="test",
                  num_rows=len(rows), seed=42) for each in scores]
    found = scores_object(kept, task=task, problem_type=problem_type, labels=labels, split="test", confusion=None)
    write_text(run.model_dir / "scores.json", json.dumps(found))
    return run


def classifier(folder, wrong, num_rows=40, labels=LABELS, start=0):
    """Rows r<start>… of which every other is good; `wrong` ones are answered wrongly, all with a confidence of 0.75."""
    rows = []
    for number in range(start, start + num_rows):
        true = number % 2
        said = 1 - true if number in wrong else true
        rows.append((f"r{number:02d}", LABELS[true], LABELS[said], [0.25 if labels[at] != LABELS[said] else 0.75 for at in range(2)]))
    sides = [np.array([labels.index(row[at]) for row in rows]) for at in (1, 2)]
    scores = score_single_label(SingleLabel(*sides, 2, np.array([row[3] for row in rows])), labels, num_resamples=2)
    return finished(folder, "text-classification", "single_label_classification", labels, rows, scores)


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """The first is wrong in 12 of 40 rows, the second in 3 others: 25 rows are right in both."""
    monkeypatch.chdir(tmp_path)
    return classifier("a", range(12)), classifier("b", range(12, 15))


# --- what is found ----------------------------------------------------------------------------------------------------

def test_the_difference_of_accuracy_by_hand(pair):
    found = compare(*pair)
    accuracy = found.differences[0]
    # 3 rows that only the first has right, 12 that only the second: p = 2 (1 + 15 + 105 + 455) / 2^15.
    assert accuracy.p_value == pytest.approx(2 * 576 / 2**15)
    assert (accuracy.metric, accuracy.difference, accuracy.established, accuracy.num_rows) == ("accuracy", 0.225, True, 40)
    # Bonett and Price: 13/42 - 4/42, and the variance (17/42 - (9/42)^2) / 42.
    half = 1.959964 * ((17 / 42 - (9 / 42) ** 2) / 42) ** 0.5
    assert (accuracy.low, accuracy.high) == pytest.approx((9 / 42 - half, 9 / 42 + half), abs=1e-6)
    assert found.better == "b"


def test_every_score_of_the_whole_set_is_compared(pair):
    found = compare(*pair)
    scores = [run.scores()["scores"] for run in pair]
    assert [each.metric for each in found.differences] == [score["metric"] for score in scores[0] if score["label"] is None]
    for difference, first, second in zip(found.differences, *scores):
        assert difference.difference == pytest.approx(second["value"] - first["value"], abs=1e-6)
        assert difference.low <= difference.difference <= difference.high
    assert {"roc_auc", "log_loss", "ece"} <= {each.metric for each in found.differences}


def test_the_rows_may_stand_in_another_order(pair, tmp_path):
    before = compare(*pair).to_dict()["differences"]
    path = pair[1].predictions_path
    table = pq.read_table(path)
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), path)
    assert compare(*pair).to_dict()["differences"] == before


def test_the_labels_may_stand_in_another_order(pair):
    other = classifier("c", range(12, 15), labels=LABELS[::-1])
    assert compare(pair[0], other).to_dict()["differences"] == compare(*pair).to_dict()["differences"]


def test_a_run_compared_with_itself_differs_in_nothing(pair):
    found = compare(pair[0], pair[0])
    assert {(each.difference, each.low, each.high, each.established) for each in found.differences} == {(0.0, 0.0, 0.0, False)}
    assert found.sentence == "not established: a and a gave the same answers on the same 40 rows" and found.better is None


def test_a_regression_is_better_where_its_error_is_lower(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    true = draw.normal(size=60)
    runs = []
    for name, error in (("near", 0.1), ("far", 1.0)):
        said = true + error * draw.normal(size=60)
        rows = [(f"r{number}", float(true[number]), float(said[number]), None) for number in range(60)]
        runs.append(finished(name, "text-classification", "regression", (), rows, score_regression(Regression(true, said), num_resamples=2)))
    found = compare(*runs)
    assert found.primary.difference > 0.5 and found.better == "near"
    assert found.sentence.startswith(f"established: near is better by {found.primary.difference:.4f} rmse (difference +")
    assert found.sentence.endswith("on the same 60 rows, lower is better)")


def test_tags_are_compared_by_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = []
    for name, wrong in (("a", 15), ("b", 0)):
        said = [["O", "O"] if number < wrong else ["B-X", "O"] for number in range(30)]
        rows = [(f"r{number}", ["B-X", "O"], said[number], [[0.5, 0.5]] * 2) for number in range(30)]
        scores = score_tags(Tags([row[1] for row in rows], said), ("B-X", "O"), num_resamples=2)
        runs.append(finished(name, "token-classification", "tags", ("B-X", "O"), rows, scores))
    found = compare(*runs)
    # Recall 15/30 against 1; F1 2/3 against 1.
    assert {each.metric: round(each.difference, 4) for each in found.differences} == {
        "entity_precision": 0.0, "entity_recall": 0.5, "entity_f1": 0.3333}
    assert found.primary_metric == "entity_f1" and found.better == "b" and found.primary.num_rows == 30


def test_an_undefined_metric_is_null(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [(f"r{number}", ["O"], ["O"], [[1.0]]) for number in range(10)]
    scores = score_tags(Tags([["O"]] * 10, [["O"]] * 10), ("O",), num_resamples=2)
    runs = [finished(name, "token-classification", "tags", ("O",), rows, scores) for name in "ab"]
    found = compare(*runs)
    assert found.to_dict()["differences"][0] == {"metric": "entity_precision", "difference": None, "low": None, "high": None, "established": False,
                                                 "num_rows": 10, "p_value": None, "method": None}
    assert found.sentence == "not established: entity_f1 is undefined on the same 10 rows"
    assert found.lines()[0] == "entity_precision     undefined"


def test_compare_is_a_public_name_before_and_after_its_module_is_imported():
    assert hfxfer.compare is compare and callable(hfxfer.compare)


# --- what is refused --------------------------------------------------------------------------------------------------

def refusal(*runs):
    with pytest.raises(RunError) as caught:
        compare(*runs)
    return str(caught.value)


HOW = "Train both on the same data with the same seed, test_size, validation_size and split_by"


def test_other_rows(pair):
    other = classifier("c", (), num_rows=30, start=20)
    assert refusal(pair[0], other) == (
        f"the Runs were scored on different rows: 20 only in a (such as r00), 10 only in c (such as r40), 20 in both. {HOW}")
    assert refusal(pair[0], classifier("d", (), num_rows=39)) == (
        f"the Runs were scored on different rows: 1 only in a (such as r39), 39 in both. {HOW}")


def test_other_references(pair):
    path = pair[1].predictions_path
    rows = pq.read_table(path).to_pylist()
    rows[7]["reference"] = "bad"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert refusal(*pair) == "1 of 40 rows have different references: row r07 is 'good' in a and 'bad' in b. Train both on the same labels"


def test_other_labels_and_tasks(pair):
    path = pair[1].model_dir / "scores.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"labels": ["bad", "fine"]}))
    assert refusal(*pair) == f"the Runs have different labels: only in a: good; only in b: fine. {HOW}"
    path.write_text(json.dumps(kept | {"problem_type": "regression"}))
    assert refusal(*pair) == "a has problem type single_label_classification and b has regression. Compare Runs of the same problem type"
    path.write_text(json.dumps(kept | {"task": "image-classification"}))
    assert refusal(*pair) == "a has task text-classification and b has image-classification. Compare Runs of the same task"


def test_a_problem_type_and_scores_that_cannot_be_paired(pair):
    kept = json.loads((pair[1].model_dir / "scores.json").read_text())
    for run in pair:
        (run.model_dir / "scores.json").write_text(json.dumps(kept | {"problem_type": "other"}))
    assert refusal(*pair) == (
        "a and b have problem type other; compare knows single_label_classification, multi_label_classification, regression, tags")
    few = [each for each in kept["scores"] if each["metric"] in ("ece", "f1_macro")]
    for run in pair:
        (run.model_dir / "scores.json").write_text(json.dumps(kept | {"scores": few}))
    assert refusal(*pair) == "the Runs share no score 'accuracy', by which text-classification is judged; they share f1_macro, ece"


def test_what_is_no_finished_run(pair):
    assert refusal(pair[0], "nowhere") == "nowhere is no Run folder (no recipe.yaml). hfxfer train --output_dir writes one"
    (pair[1].model_dir / "scores.json").unlink()
    assert refusal(*pair) == "the run in b is not finished. Continue it: hfxfer train b/recipe.yaml --resume"


def test_a_row_id_that_occurs_twice(pair):
    table = pq.read_table(pair[1].predictions_path)
    pq.write_table(table.take([*range(table.num_rows), 0]), pair[1].predictions_path)
    assert refusal(*pair) == "b/predictions.parquet holds a row_id twice. The Run is damaged: train it again"


# --- the command ------------------------------------------------------------------------------------------------------

def test_the_command_prints_a_line_a_metric_and_the_sentence(pair):
    found = call("compare", "a", "b")
    assert found.code == 0
    first, *others, sentence = found.out.splitlines()
    assert first == "accuracy             0.7000 → 0.9250   +0.2250 [+0.0331, +0.3955]   established: second is better, p = 0.035"
    assert sentence == ("established: b is better by 0.2250 accuracy (difference +0.2250 [+0.0331, +0.3955] on the same 40 rows, "
                        "exact McNemar p = 0.035)")
    assert len(others) == 9 and all(line.split()[2] == "→" for line in others)
    assert found.err.splitlines()[0] == "first: a, second: b; differences are second − first, with 95 % intervals"
    assert found.err.splitlines()[-1] == "next: hfxfer predict b INPUT"


def test_the_command_says_so_where_nothing_is_established(pair):
    classifier("c", range(14))
    found = call("compare", "a", "c")
    assert found.code == 0
    # 2 rows that only the first has right: p = 2 / 4.
    assert found.out.splitlines()[-1].startswith("not established: a is ahead by 0.0500 accuracy, which chance may explain (difference -0.0500 [")
    assert found.out.splitlines()[-1].endswith("] on the same 40 rows, exact McNemar p = 0.5)")


def test_the_command_emits_one_object(pair):
    found = call("compare", "a", "b", "--format", "json")
    told = json.loads(found.out)
    assert list(told) == ["first", "second", "primary_metric", "differences", "sentence"]
    assert (told["first"], told["second"], told["primary_metric"]) == ("a", "b", "accuracy")
    for entry in told["differences"]:
        assert list(entry) == ["metric", "difference", "low", "high", "established", "num_rows", "p_value", "method"]
        assert entry["num_rows"] == 40 and (entry["p_value"] is None) == (entry["metric"] != "accuracy")


def test_the_command_takes_two_runs(pair):
    assert refused("compare") == "compare takes two Runs, got nothing: hfxfer compare RUN RUN"
    assert refused("compare", "a") == "compare takes two Runs, got a: hfxfer compare RUN RUN"
    assert refused("compare", "a", "elsewhere") == "elsewhere is no Run folder (no recipe.yaml). hfxfer train --output_dir writes one"
