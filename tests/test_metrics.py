"""Metrics: hand-computed values, scikit-learn and seqeval on random cases, undefined values, loading by path."""

import math
import pathlib
import subprocess
import sys
import warnings

import evaluate
import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics

import hfxfer.metrics
from hfxfer.metrics import METRICS
from hfxfer.metrics._entities import entities

FOLDER = pathlib.Path(hfxfer.metrics.__file__).parent
MULTI_LABEL = "multi_label_classification"


@pytest.fixture
def compute(tmp_path):
    def run(name, predictions, references, config_name=None, **settings):
        metric = hfxfer.metrics.load(name, config_name, cache_dir=str(tmp_path))
        return metric.compute(predictions=predictions, references=references, **settings)[name]

    return run


# references 0 0 0 1 1 2, predictions 0 0 1 1 2 2: right 2, 1, 1; predicted 2, 2, 2; true 3, 2, 1.
REFERENCES, PREDICTIONS = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]
SINGLE = {
    "accuracy": 4 / 6,
    "balanced_accuracy": (2 / 3 + 1 / 2 + 1) / 3,
    "precision_macro": (1 + 1 / 2 + 1 / 2) / 3,
    "recall_macro": (2 / 3 + 1 / 2 + 1) / 3,
    "f1_macro": (4 / 5 + 2 / 4 + 2 / 3) / 3,
    "f1_micro": 4 / 6,
    "f1_weighted": (3 * 4 / 5 + 2 * 2 / 4 + 2 / 3) / 6,
}


@pytest.mark.parametrize("name", SINGLE)
def test_single_label_values_are_those_computed_by_hand(compute, name):
    assert compute(name, PREDICTIONS, REFERENCES) == pytest.approx(SINGLE[name], abs=1e-12)


# rows: {0, 1} -> {0}; {1} -> {1, 2}; {2} -> {2}. right 1 1 1; predicted 1 1 2; true 1 2 1.
MULTI = {
    "accuracy": 1 / 3,
    "precision_macro": (1 + 1 + 1 / 2) / 3,
    "recall_macro": (1 + 1 / 2 + 1) / 3,
    "f1_macro": (1 + 2 / 3 + 2 / 3) / 3,
    "f1_micro": 6 / 8,
    "f1_weighted": (1 + 2 * 2 / 3 + 2 / 3) / 4,
    "f1_samples": (2 / 3 + 2 / 3 + 1) / 3,
}


@pytest.mark.parametrize("name", MULTI)
def test_multi_label_values_are_those_computed_by_hand(compute, name):
    value = compute(name, [[1, 0, 0], [0, 1, 1], [0, 0, 1]], [[1, 1, 0], [0, 1, 0], [0, 0, 1]], "multilabel")
    assert value == pytest.approx(MULTI[name], abs=1e-12)


def test_probability_values_are_those_computed_by_hand(compute):
    chances, references = [[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]], [0, 1, 1, 1]
    assert compute("log_loss", chances, references) == pytest.approx(-math.log(0.9 * 0.6 * 0.3 * 0.8) / 4, abs=1e-12)
    # Class 1 is ranked 0.1 | 0.3 0.6 0.8: all three positives above the one negative.
    assert compute("roc_auc", chances, references) == 1.0
    # Bins of 1/15: 0.9 (right), 0.6 (right), 0.7 (wrong), 0.8 (right): each in a bin of its own.
    assert compute("ece", chances, references) == pytest.approx((0.1 + 0.4 + 0.7 + 0.2) / 4, abs=1e-12)


def test_ece_cancels_within_a_bin_only(compute):
    # 0.95 and 0.97 lie in (14/15, 1]: one right, one wrong: |0.5 - 0.96| = 0.46.
    assert compute("ece", [[0.95, 0.05], [0.97, 0.03]], [0, 1]) == pytest.approx(0.46, abs=1e-12)
    # Entries 0.95 (present), 0.97 (absent), 0.02 (absent), 0.04 (present): gaps 0.92 and 0.94 over 4 entries.
    value = compute("ece", [[0.95, 0.02], [0.97, 0.04]], [[1, 0], [0, 1]], "multilabel")
    assert value == pytest.approx((0.92 + 0.94) / 4, abs=1e-12)


def test_roc_auc_counts_ties_by_half_and_leaves_out_absent_classes(compute):
    # Class 0: positive 0.5 against 0.5 and 0.2: (0.5 + 1) / 2. Class 1: 0.4, 0.5 above 0.3. Class 2 never occurs.
    value = compute("roc_auc", [[0.5, 0.3, 0.2], [0.5, 0.4, 0.1], [0.2, 0.5, 0.3]], [0, 1, 1])
    assert value == pytest.approx((0.75 + 1) / 2, abs=1e-12)


def test_regression_values_are_those_computed_by_hand(compute):
    references, predictions = [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 6.0]
    assert compute("rmse", predictions, references) == pytest.approx(math.sqrt(6 / 4), abs=1e-12)
    assert compute("mae", predictions, references) == pytest.approx(1.0, abs=1e-12)
    assert compute("r2", predictions, references) == pytest.approx(1 - 6 / 5, abs=1e-12)
    assert compute("pearson", predictions, references) == pytest.approx(7 / math.sqrt(5 * 14), abs=1e-12)
    assert compute("spearman", predictions, references) == pytest.approx(0.8, abs=1e-12)


def test_entity_values_are_those_computed_by_hand(compute):
    references = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"]]
    predictions = [["B-PER", "I-PER", "O", "B-ORG"], ["O", "B-ORG"]]
    # 3 true, 3 predicted; only the first PER is right.
    for name in ("entity_precision", "entity_recall", "entity_f1"):
        assert compute(name, predictions, references) == pytest.approx(1 / 3, abs=1e-12)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["B-A", "I-A", "O"], [("A", 0, 1)]),
        (["I-A", "I-A", "O"], [("A", 0, 1)]),
        (["B-A", "B-A"], [("A", 0, 0), ("A", 1, 1)]),
        (["B-A", "I-B"], [("A", 0, 0), ("B", 1, 1)]),
        (["O", "O"], []),
        ([], []),
        (["B-A-B", "I-A-B"], [("A-B", 0, 1)]),
        (["B", "I"], [("_", 0, 1)]),
        (["S-A", "E-A"], [("A", 0, 0), ("A", 1, 1)]),
    ],
)
def test_entities_of_one_sentence(tags, expected):
    assert entities(tags) == expected


def _random_tags(rng, names, num_sentences=40):
    return [[str(tag) for tag in rng.choice(names, size=rng.integers(1, 12))] for _ in range(num_sentences)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "names", [["O", "B-A", "I-A", "B-B", "I-B"], ["O", "B", "I", "E-A", "S-A", "I-A", "B-A-B", "I-A-B"]]
)
def test_entity_scores_equal_seqeval(compute, names, seed):
    rng = np.random.default_rng(seed)
    references = _random_tags(rng, names)
    predictions = [[tag if rng.random() < 0.7 else str(rng.choice(names)) for tag in tags] for tags in references]
    for tags in references + predictions:
        assert entities(tags) == seqeval.metrics.sequence_labeling.get_entities(tags)
    for name in ("precision", "recall", "f1"):
        expected = getattr(seqeval.metrics, f"{name}_score")(references, predictions)
        assert compute(f"entity_{name}", predictions, references) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_single_label_scores_equal_a_plain_scikit_learn_call(compute, seed):
    rng = np.random.default_rng(seed)
    # Few rows and many classes: some are never true, some never predicted.
    references, chances = rng.integers(9, size=30), rng.dirichlet(np.ones(9), 30)
    predictions = chances.argmax(axis=1)
    for score in ("precision", "recall", "f1"):
        plain = getattr(sklearn.metrics, f"{score}_score")(references, predictions, average="macro", zero_division=0)
        assert compute(f"{score}_macro", predictions, references) == pytest.approx(plain, abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = sklearn.metrics.balanced_accuracy_score(references, predictions)
    assert compute("balanced_accuracy", predictions, references) == pytest.approx(plain, abs=1e-12)
    plain = sklearn.metrics.log_loss(references, chances, labels=range(9))
    assert compute("log_loss", chances, references) == pytest.approx(plain, abs=1e-12)


def test_roc_auc_equals_a_plain_scikit_learn_call_when_all_classes_occur(compute):
    rng = np.random.default_rng(0)
    references, chances = np.arange(60) % 4, rng.dirichlet(np.ones(4), 60)
    plain = sklearn.metrics.roc_auc_score(references, chances, multi_class="ovr")
    assert compute("roc_auc", chances, references) == pytest.approx(plain, abs=1e-12)
    plain = sklearn.metrics.roc_auc_score(references % 2, chances[:, 1] / chances[:, :2].sum(axis=1))
    chances = chances[:, :2] / chances[:, :2].sum(axis=1, keepdims=True)
    assert compute("roc_auc", chances, references % 2) == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_multi_label_scores_equal_a_plain_scikit_learn_call(compute, seed):
    rng = np.random.default_rng(seed)
    references, chances = (rng.random((40, 5)) < 0.3).astype(int), rng.random((40, 5))
    predictions = (chances > 0.5).astype(int)
    for average in ("macro", "micro", "weighted", "samples"):
        plain = sklearn.metrics.f1_score(references, predictions, average=average, zero_division=0)
        assert compute(f"f1_{average}", predictions, references, "multilabel") == pytest.approx(plain, abs=1e-12)
    plain = sklearn.metrics.roc_auc_score(references, chances)
    assert compute("roc_auc", chances, references, "multilabel") == pytest.approx(plain, abs=1e-12)
    plain = -np.where(references == 1, np.log(chances), np.log(1 - chances)).mean()
    assert compute("log_loss", chances, references, "multilabel") == pytest.approx(plain, abs=1e-12)


def test_a_weight_of_two_is_a_row_counted_twice(compute):
    rng = np.random.default_rng(4)
    weights = rng.integers(1, 4, size=25)
    twice = np.repeat(np.arange(25), weights)
    chances = rng.dirichlet(np.ones(3), 25)
    tags = np.array([["B-A"], ["B-B"], ["O"]])
    inputs = {
        "labels": (chances.argmax(axis=1), rng.integers(3, size=25)),
        "probabilities": (chances, rng.integers(3, size=25)),
        "values": (rng.integers(6, size=25) / 2, rng.integers(6, size=25) / 2),
        "tags": (tags[rng.integers(3, size=25)], tags[rng.integers(3, size=25)]),
    }
    for name, metric in METRICS.items():
        if metric.problem_types == (MULTI_LABEL,):
            continue
        predictions, references = inputs[metric.needs]
        weighted = compute(name, predictions.tolist(), references.tolist(), sample_weight=weights)
        repeated = compute(name, predictions[twice].tolist(), references[twice].tolist())
        assert weighted == pytest.approx(repeated, abs=1e-9), name


def test_undefined_values_are_none(compute):
    assert compute("roc_auc", [[0.9, 0.1], [0.8, 0.2]], [0, 0]) is None
    assert compute("r2", [1.0, 2.0], [3.0, 3.0]) is None
    assert compute("pearson", [1.0, 1.0], [1.0, 2.0]) is None
    assert compute("spearman", [1.0, 2.0], [2.0, 2.0]) is None
    assert compute("pearson", [1.0], [2.0]) is None
    assert compute("entity_f1", [["O", "O"]], [["O", "O"]]) is None
    assert compute("f1_micro", [[0, 0]], [[0, 0]], "multilabel") is None


def test_no_predicted_entity_is_a_precision_of_zero_as_in_seqeval(compute):
    assert compute("entity_precision", [["O", "O"]], [["B-A", "O"]]) == 0.0


def test_a_faultless_prediction_scores_one_although_a_class_is_missing(compute):
    assert compute("f1_macro", [0, 0, 2], [0, 0, 2]) == 1.0


def test_logits_are_refused(compute):
    with pytest.raises(ValueError) as error:
        compute("log_loss", [[2.0, -1.0]], [0])
    assert str(error.value) == (
        "probabilities lie in [-1, 2]; allowed: [0, 1]. Apply a softmax (multi-label: a sigmoid) to logits first."
    )


def test_sentences_of_other_length_are_refused(compute):
    with pytest.raises(ValueError) as error:
        compute("entity_f1", [["O"]], [["O", "O"]])
    assert str(error.value) == (
        "a sentence has 2 reference tags and 1 predicted tags; allowed: one predicted tag a token."
    )


def test_an_unknown_metric_names_those_that_exist():
    with pytest.raises(KeyError, match="metric 'f1' does not exist. Metrics: accuracy, balanced_accuracy"):
        hfxfer.metrics.load("f1")


def test_every_file_is_in_the_table_and_the_other_way_round():
    assert {path.stem for path in FOLDER.glob("[!_]*.py")} == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_evaluate_loads_the_file_by_its_path(name, tmp_path):
    metric = evaluate.load(str(FOLDER / f"{name}.py"), cache_dir=str(tmp_path))
    columns = {
        "labels": ([1, 0], [1, 0]),
        "probabilities": ([[0.5, 0.5], [0.5, 0.5]], [1, 0]),
        "values": ([1.0, 2.0], [1.0, 2.0]),
        "tags": ([["B-A"]], [["B-A"]]),
    }
    predictions, references = columns[METRICS[name].needs]
    if METRICS[name].problem_types == (MULTI_LABEL,):
        predictions, references = [[1, 0]], [[1, 0]]
    faultless = {"rmse": 0.0, "mae": 0.0, "roc_auc": 0.5, "log_loss": math.log(2), "ece": 0.0}
    value = metric.compute(predictions=predictions, references=references)[name]
    assert type(value) is float
    assert value == pytest.approx(faultless.get(name, 1.0), abs=1e-12)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, hfxfer.metrics; print({'evaluate', 'sklearn', 'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
