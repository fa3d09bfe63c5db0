"""Intervals: values equal the metric modules, and limits are never of zero width."""

import json
import math
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import scipy.stats

import hfxfer.metrics
from hfxfer.intervals import MultiLabel
from hfxfer.intervals import Regression
from hfxfer.intervals import SingleLabel
from hfxfer.intervals import Tags
from hfxfer.intervals import confusion_counts
from hfxfer.intervals import score_multi_label
from hfxfer.intervals import score_regression
from hfxfer.intervals import score_single_label
from hfxfer.intervals import score_tags
from hfxfer.metrics import METRICS
from hfxfer.metrics import _value_scores
from hfxfer.metrics._resampling import Atoms
from hfxfer.metrics._resampling import bca
from hfxfer.metrics._resampling import resample
from hfxfer.metrics._resampling import wilson
from hfxfer.metrics._value_scores import rank_correlations


def names(num_classes):
    return [f"class{index}" for index in range(num_classes)]


def single(references, predictions, num_classes, probabilities=None, **settings):
    outcomes = SingleLabel(np.array(references, np.int64), np.array(predictions, np.int64), num_classes, probabilities)
    return score_single_label(outcomes, names(num_classes), **settings)


def find(scores, metric, label=None):
    (score,) = (score for score in scores if (score.metric, score.label) == (metric, label))
    return score


def check_limits(scores):
    """Every value lies within limits of some width, these within the metric's bounds; JSON holds no NaN."""
    for score in scores:
        if score.value is None:
            assert (score.low, score.high, score.interval_method) == (None, None, None)
            continue
        assert score.low <= score.value <= score.high, score
        assert score.high - score.low > 1e-9, score
        bounds = METRICS.get(score.metric, METRICS["accuracy"])
        assert bounds.low is None or score.low >= bounds.low, score
        assert bounds.high is None or score.high <= bounds.high, score
    json.dumps([asdict(score) for score in scores], allow_nan=False)


# --- values -------------------------------------------------------------------------------------------------------


@pytest.fixture
def assert_as_modules(tmp_path):
    def check(scores, inputs, references, config_name=None):
        compared = [score for score in scores if score.label is None]
        for score in compared:
            metric = hfxfer.metrics.load(score.metric, config_name, cache_dir=str(tmp_path))
            predictions = inputs[METRICS[score.metric].needs]
            expected = metric.compute(predictions=predictions, references=references)[score.metric]
            assert score.value == pytest.approx(expected, abs=1e-9), score.metric
        return {score.metric for score in compared}

    return check


def of_problem_type(problem_type):
    return {name for name, metric in METRICS.items() if problem_type in metric.problem_types}


@pytest.mark.parametrize("num_classes", [2, 5, 12])
def test_single_label_values_equal_the_modules(assert_as_modules, num_classes):
    rng = np.random.default_rng(num_classes)
    references = rng.integers(num_classes, size=40)
    chances = rng.dirichlet(np.ones(num_classes), 40).astype(np.float32)
    # Rounded, so that there are ties for ROC-AUC.
    chances = (np.round(chances * 8) + 1) / (np.round(chances * 8) + 1).sum(axis=1, keepdims=True)
    chances = chances.astype(np.float32)
    scores = single(references, chances.argmax(axis=1), num_classes, chances, num_resamples=50)
    inputs = {"labels": chances.argmax(axis=1), "probabilities": chances.astype(np.float64)}
    assert assert_as_modules(scores, inputs, references) == of_problem_type("single_label_classification")
    check_limits(scores)


def test_multi_label_values_equal_the_modules(assert_as_modules):
    rng = np.random.default_rng(1)
    references, chances = (rng.random((60, 4)) < 0.3).astype(np.uint8), rng.random((60, 4)).astype(np.float32)
    # A label that is never true and never predicted counts as 0 in macro means, as in scikit-learn.
    references[:, 3], chances[:, 3] = 0, 0.1
    predictions = (chances > 0.5).astype(np.uint8)
    scores = score_multi_label(MultiLabel(references, predictions, chances), names(4), num_resamples=50)
    inputs = {"labels": predictions, "probabilities": chances.astype(np.float64)}
    compared = assert_as_modules(scores, inputs, references, "multilabel")
    assert compared == of_problem_type("multi_label_classification")
    check_limits(scores)


def test_regression_values_equal_the_modules(assert_as_modules):
    rng = np.random.default_rng(2)
    references = np.round(rng.normal(size=50), 1) + 1000
    predictions = references + np.round(rng.normal(size=50), 1)
    scores = score_regression(Regression(references, predictions), num_resamples=50)
    assert assert_as_modules(scores, {"values": predictions}, references) == of_problem_type("regression")
    check_limits(scores)


def random_tags(rng, num_sentences, error):
    tags = ["O", "O", "B-A", "I-A", "B-B", "I-B"]
    references = [[str(tag) for tag in rng.choice(tags, size=8)] for _ in range(num_sentences)]
    return references, [[tag if rng.random() > error else "O" for tag in sentence] for sentence in references]


def test_entity_values_equal_the_modules(assert_as_modules):
    references, predictions = random_tags(np.random.default_rng(3), 40, 0.2)
    scores = score_tags(Tags(references, predictions), num_resamples=50)
    assert assert_as_modules(scores, {"tags": predictions}, references) == of_problem_type("tags")
    check_limits(scores)


def test_scores_of_a_class_are_those_computed_by_hand():
    scores = single([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2], 4)
    by_hand = {"class0": (1, 2 / 3, 4 / 5), "class1": (1 / 2, 1 / 2, 1 / 2), "class2": (1 / 2, 1, 2 / 3)}
    for label, values in by_hand.items():
        for metric, value in zip(("precision", "recall", "f1"), values, strict=True):
            assert find(scores, metric, label).value == pytest.approx(value, abs=1e-12)
    for metric in ("precision", "recall", "f1"):
        assert find(scores, metric, "class3").value is None
    # Recall of class 0 is 2 of 3 rows; F1 of it is 2 J / (1 + J) with J = 2 of 3 rows.
    low, high = (float(limit) for limit in wilson(2 / 3, 3))
    recall, f1 = find(scores, "recall", "class0"), find(scores, "f1", "class0")
    assert (recall.low, recall.high) == pytest.approx((low, high), abs=1e-12)
    assert (f1.low, f1.high) == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)), abs=1e-12)


def test_scores_of_a_multi_label_class_are_those_computed_by_hand():
    outcomes = MultiLabel(np.array([[1, 0], [1, 0], [0, 0]]), np.array([[1, 0], [0, 0], [1, 0]]))
    scores = score_multi_label(outcomes, ["a", "b"])
    assert [find(scores, metric, "a").value for metric in ("precision", "recall", "f1")] == [0.5, 0.5, 0.5]
    assert find(scores, "recall", "b").value is None


def test_scores_of_an_entity_type_are_those_computed_by_hand():
    outcomes = Tags([["B-A", "I-A", "O"], ["B-A", "O", "B-B"]], [["B-A", "O", "O"], ["B-A", "O", "O"]])
    scores = score_tags(outcomes, ["O", "B-A", "I-A", "B-B", "I-B", "B-C"])
    assert [find(scores, metric, "A").value for metric in ("precision", "recall", "f1")] == [0.5, 0.5, 0.5]
    assert [find(scores, metric, "B").value for metric in ("precision", "recall", "f1")] == [None, 0.0, 0.0]
    assert [find(scores, metric, "C").value for metric in ("precision", "recall", "f1")] == [None, None, None]


def test_confusion_counts():
    outcomes = SingleLabel(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 3)
    assert confusion_counts(outcomes).tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    outcomes = MultiLabel(np.array([[1, 0], [1, 1]]), np.array([[1, 1], [0, 1]]))
    assert confusion_counts(outcomes).tolist() == [[[0, 0], [1, 1]], [[0, 1], [0, 1]]]


# --- limits -------------------------------------------------------------------------------------------------------


def test_wilson_limits_are_the_published_ones():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    assert np.round(wilson(81 / 263, 263), 4).tolist() == [0.2553, 0.3662]
    assert np.round(wilson(0.0, 20), 4).tolist() == [0.0, 0.1611]


def test_bca_limits_are_those_computed_by_hand():
    # Replicates symmetric about the value and no skewness: the plain quantiles at the widened level.
    replicates, counts = np.linspace(-1, 1, 10001), np.ones(1000)
    influence = np.tile([-1.0, 1.0], 500)
    low, high = bca(0.0, replicates, influence, counts)
    # sqrt(1000 / 999) t(0.975, 999) = 1.96332: tail 0.024805.
    assert (low, high) == pytest.approx((-1 + 2 * 0.024805, 1 - 2 * 0.024805), abs=1e-5)
    # A quarter of the replicates (2500.5 of 10001) below the value: z0 = -0.67441, tails at 2 z0 -+ 1.96332.
    low, high = bca(-0.5, replicates, influence, counts)
    assert (low, high) == pytest.approx((-1 + 2 * 0.000463, -1 + 2 * 0.730558), abs=1e-5)


def test_resamples_have_the_mean_and_the_variance_of_a_multinomial():
    counts = np.array([1, 5, 14])
    drawn = resample(Atoms(lambda block: np.eye(3)[block], counts), 20000, np.random.default_rng(0))
    assert (drawn.sums.sum(axis=1) == 20).all()
    assert drawn.sums.mean(axis=0) == pytest.approx(counts, rel=0.03)
    assert drawn.sums.var(axis=0) == pytest.approx(counts * (1 - counts / 20), rel=0.05)


def test_blocks_of_atoms_do_not_change_the_distribution(monkeypatch):
    from hfxfer.metrics import _resampling

    monkeypatch.setattr(_resampling, "BLOCK_COUNTS", 20000 * 7)
    drawn = resample(Atoms(lambda block: np.eye(50)[block], np.ones(50, np.int64)), 20000, np.random.default_rng(0))
    assert (drawn.sums.sum(axis=1) == 50).all()
    assert drawn.total.tolist() == [1.0] * 50
    assert drawn.sums.mean(axis=0) == pytest.approx(np.ones(50), rel=0.05)
    assert drawn.sums.var(axis=0) == pytest.approx(np.full(50, 49 / 50), rel=0.1)
    # Two rows of different blocks: covariance -1 / n.
    assert np.cov(drawn.sums[:, 0], drawn.sums[:, 49])[0, 1] == pytest.approx(-1 / 50, abs=0.02)


def test_the_same_seed_gives_the_same_limits_and_another_does_not():
    rng = np.random.default_rng(0)
    outcomes = Regression(rng.normal(size=30), rng.normal(size=30))
    assert score_regression(outcomes, seed=3) == score_regression(outcomes, seed=3)
    assert score_regression(outcomes, seed=3) != score_regression(outcomes, seed=4)


def one_hot(classes, num_classes):
    return np.eye(num_classes, dtype=np.float32)[classes]


@pytest.mark.parametrize("num_rows", [1, 2, 3, 60])
@pytest.mark.parametrize("wrong", [False, True])
def test_faultless_and_all_wrong_scores_have_limits_of_some_width(num_rows, wrong):
    references = np.arange(num_rows) % 3
    predictions = (references + wrong) % 3
    check_limits(single(references, predictions, 3, one_hot(predictions, 3)))
    check_limits(score_regression(Regression(references + 0.5, predictions + 0.5)))
    true = one_hot(references, 3).astype(np.uint8)
    check_limits(score_multi_label(MultiLabel(true, true ^ wrong, (true ^ wrong).astype(np.float32)), names(3)))
    tags = [["B-A", "I-A", "O"] for _ in range(num_rows)]
    check_limits(score_tags(Tags(tags, [["O", "O", "B-B"]] * num_rows if wrong else tags)))


def test_a_faultless_score_gets_the_limits_of_wilson():
    references = np.arange(60) % 3
    scores = single(references, references, 3, one_hot(references, 3))
    low = pytest.approx(60 / (60 + 1.959964**2), abs=1e-6)
    for metric in ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted"):
        score = find(scores, metric)
        assert (score.value, score.low, score.high, score.interval_method) == (1.0, low, 1.0, "wilson")
    # No loss at all: at most Wilson's share of rows may be as bad as chance, log 3.
    loss = find(scores, "log_loss")
    assert (loss.low, loss.high) == (0.0, pytest.approx(1.959964**2 / (60 + 1.959964**2) * math.log(3), abs=1e-6))


def test_no_rows_and_one_class_give_nulls():
    empty = np.zeros(0, np.int64)
    assert {score.value for score in single(empty, empty, 2, np.zeros((0, 2)))} == {None}
    assert {score.value for score in score_regression(Regression(np.zeros(0), np.zeros(0)))} == {None}
    nothing = np.zeros((0, 2), np.uint8)
    assert {score.value for score in score_multi_label(MultiLabel(nothing, nothing, nothing), names(2))} == {None}
    assert {score.value for score in score_tags(Tags([], []))} == {None}
    scores = single([0, 0], [0, 0], 2, np.array([[0.9, 0.1], [0.8, 0.2]]))
    assert find(scores, "roc_auc").value is None
    assert find(scores, "recall", "class1").value is None
    assert find(scores, "accuracy").value == 1.0
    check_limits(scores)
    constant = score_regression(Regression(np.ones(5), np.arange(5.0)))
    assert [find(constant, metric).value for metric in ("r2", "pearson", "spearman")] == [None, None, None]
    check_limits(constant)


@pytest.mark.parametrize("decimals", [9, 0])
def test_each_resample_is_ranked_as_if_its_rows_were_written_down(decimals):
    """Also with ties, of which a resample of 37 rows has many anyway; a side without any spread, and resamples without one."""
    rng = np.random.default_rng(0)
    y = np.round(rng.normal(size=37), decimals)
    sides = [np.round(y + rng.normal(size=37), decimals), np.round(rng.normal(size=37), 0), np.ones(37), 1.0 * (np.arange(37) == 5)]
    found = rank_correlations(y, sides, 60, np.random.default_rng(7))
    again = np.random.default_rng(7)
    places = [again.integers(37, size=37) for _ in range(60)]
    assert found.shape == (4, 60) and np.isnan(found[2]).all()
    for side, values in zip(sides, found):
        expected = [scipy.stats.spearmanr(y[rows], side[rows]).statistic if np.ptp(side[rows]) else np.nan for rows in places]
        assert values == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert 0 < np.isnan(found[3]).sum() < 60


def test_how_many_resamples_are_ranked_at_once_changes_nothing(monkeypatch):
    y, x = np.random.default_rng(0).normal(size=(2, 41))
    at_once = rank_correlations(y, [x], 50, np.random.default_rng(7))
    monkeypatch.setattr(_value_scores, "RANKED_COUNTS", 3 * 41)
    assert (rank_correlations(y, [x], 50, np.random.default_rng(7)) == at_once).all()


def test_probabilities_may_be_left_out():
    metrics = {score.metric for score in single([0, 1], [0, 1], 2)}
    assert not metrics & {"roc_auc", "log_loss", "ece"}


def test_bad_outcomes_are_refused():
    with pytest.raises(ValueError) as error:
        single([0, 3], [0, 1], 3)
    assert str(error.value) == "class indices lie in 0…3; allowed: 0…2."
    with pytest.raises(ValueError) as error:
        single([0, 1], [0], 3)
    assert str(error.value) == "got 2 references and 1 predictions; allowed: as many of one as of the other."
    with pytest.raises(ValueError) as error:
        single([0, 1], [0, 1], 3, np.zeros((2, 2)))
    assert str(error.value) == "probabilities have shape (2, 2); allowed: (2, 3)."
    with pytest.raises(ValueError) as error:
        score_regression(Regression(np.array([1.0, np.nan]), np.ones(2)))
    assert str(error.value) == "1 of 2 references are NaN or infinite; allowed: finite."


# --- the file of probabilities ------------------------------------------------------------------------------------


def test_a_memory_map_gives_the_scores_of_the_array(tmp_path, monkeypatch):
    from hfxfer.metrics import _probability_blocks

    # Blocks of 3 rows and of 1 column, so that reading in parts is what is tested.
    monkeypatch.setattr(_probability_blocks, "BLOCK_VALUES", 15)
    rng = np.random.default_rng(0)
    references, chances = rng.integers(5, size=32), rng.dirichlet(np.ones(5), 32).astype(np.float32)
    chances.tofile(tmp_path / "probabilities.f32")
    mapped = np.memmap(tmp_path / "probabilities.f32", np.float32, "r", shape=(32, 5))
    blocks = _probability_blocks.ArrayProbabilities(mapped)
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks.blocks_of_rows()]), chances)
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks.blocks_of_columns()], axis=1), chances)
    assert max(len(block) for _, block in blocks.blocks_of_rows()) == 3
    predictions = chances.argmax(axis=1)
    assert single(references, predictions, 5, mapped) == single(references, predictions, 5, chances)


def test_importing_the_fast_path_imports_neither_evaluate_nor_datasets():
    code = "import sys, hfxfer.intervals; print({'evaluate', 'datasets', 'sklearn', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
