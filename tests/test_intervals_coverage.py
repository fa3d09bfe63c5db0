"""Intervals cover the truth as often as they say: 93 to 97 % at 50 rows, by simulation.

800 samples of 50 rows a case. A share of 800 samples has a standard error of 0.9 % at 93 % and 0.6 % at 97 %, so each
metric may miss 93 to 97 % by one standard error (a method that covers 90 % still passes in less than 1 of 20 cases),
and the mean over the metrics of a case may not miss it at all.
"""

import math

import numpy as np
import pytest
import scipy.stats

from hfxfer.intervals import MultiLabel
from hfxfer.intervals import Regression
from hfxfer.intervals import SingleLabel
from hfxfer.intervals import Tags
from hfxfer.intervals import score_multi_label
from hfxfer.intervals import score_regression
from hfxfer.intervals import score_single_label
from hfxfer.intervals import score_tags
from hfxfer.metrics._resampling import wilson


def names(num_classes):
    return [f"class{index}" for index in range(num_classes)]


NUM_SAMPLES, NUM_ROWS, NUM_RESAMPLES = 800, 50, 400
LEAST, MOST, ERROR_OF_LEAST, ERROR_OF_MOST = 0.93, 0.97, 0.009, 0.006


def coverage(draw, score, metrics, num_samples=NUM_SAMPLES):
    """Share of samples whose interval holds the true value, for each metric.

    draw(rng, num_rows) -> outcomes; the true value is that of 200,000 rows.
    """
    rng = np.random.default_rng(2024)
    whole = score(draw(rng, 200_000), num_resamples=2)
    truth = {entry.metric: entry.value for entry in whole if entry.label is None}
    held = dict.fromkeys(metrics, 0)
    for seed in range(num_samples):
        for entry in score(draw(rng, NUM_ROWS), seed=seed, num_resamples=NUM_RESAMPLES):
            if entry.label is None and entry.metric in held:
                held[entry.metric] += entry.low <= truth[entry.metric] <= entry.high
    return {metric: round(count / num_samples, 4) for metric, count in held.items()}


def check_coverage(shares):
    assert min(shares.values()) >= LEAST - ERROR_OF_LEAST, shares
    assert max(shares.values()) <= MOST + ERROR_OF_MOST, shares
    assert LEAST <= np.mean(list(shares.values())) <= MOST, shares


def softmax_classifier(shift, shares=(1 / 3, 1 / 3, 1 / 3)):
    def draw(rng, num_rows):
        references = rng.choice(len(shares), p=shares, size=num_rows)
        logits = rng.normal(size=(num_rows, len(shares)))
        logits[np.arange(num_rows), references] += shift
        chances = np.exp(shift * logits)
        chances /= chances.sum(axis=1, keepdims=True)
        return SingleLabel(references, chances.argmax(axis=1), len(shares), chances)

    return draw


def score_classifier(outcomes, **settings):
    return score_single_label(outcomes, names(outcomes.num_classes), **settings)


@pytest.mark.parametrize("truth", [0.5, 0.63, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("num_rows", [50, 100, 1000])
def test_wilson_covers_the_truth_exactly_as_often_as_it_says(truth, num_rows):
    # Hits come whole, so coverage jumps by some 3 % between neighbouring truths: the mean over 0.02 to either side.
    truths = np.linspace(truth - 0.02, truth + 0.02, 81)[:, None]
    hits = np.arange(num_rows + 1)
    low, high = wilson(hits / num_rows, num_rows)
    held = (scipy.stats.binom.pmf(hits, num_rows, truths) * ((low <= truths) & (truths <= high))).sum(axis=1)
    assert LEAST <= held.mean() <= MOST


CLASSIFIER_METRICS = [
    *("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_weighted"),
    *("roc_auc", "log_loss"),
]


# True accuracy 0.63 and 0.90; true ROC-AUC 0.81 and 0.98.
@pytest.mark.parametrize("shift", [1.0, 2.2])
def test_intervals_of_a_classifier_cover_the_truth(shift):
    check_coverage(coverage(softmax_classifier(shift), score_classifier, CLASSIFIER_METRICS))


def test_intervals_of_a_classifier_cover_a_truth_of_0_95():
    def draw(rng, num_rows):
        references = rng.integers(2, size=num_rows)
        return SingleLabel(references, np.where(rng.random(num_rows) < 0.95, references, 1 - references), 2)

    check_coverage(coverage(draw, score_classifier, ["accuracy", "balanced_accuracy", "f1_macro", "f1_micro"]))


def test_intervals_of_many_labels_cover_the_truth():
    def draw(rng, num_rows):
        references = (rng.random((num_rows, 4)) < 0.25).astype(np.uint8)
        logits = rng.normal(size=(num_rows, 4)) + 0.5 * rng.normal(size=(num_rows, 1)) + 1.2 * (2.0 * references - 1)
        chances = 1 / (1 + np.exp(-logits))
        return MultiLabel(references, (chances > 0.5).astype(np.uint8), chances)

    def score(outcomes, **settings):
        return score_multi_label(outcomes, names(4), **settings)

    metrics = ["accuracy", "precision_macro", "f1_micro", "f1_macro", "f1_weighted", "f1_samples"]
    metrics += ["roc_auc", "log_loss"]
    check_coverage(coverage(draw, score, metrics))


# True F1 about 0.65 and 0.9.
@pytest.mark.parametrize("right", [0.6, 0.9])
def test_intervals_of_entities_cover_the_truth(right):
    def draw(rng, num_rows):
        pool = [(("B-A", "O"), ("B-A", "O")), (("B-A", "O"), ("B-B", "O")), (("B-A", "O"), ("O", "O"))]
        both_right, both_wrong = (("B-A", "B-B"),) * 2, (("B-A", "B-B"), ("O", "B-A"))
        pool += [both_right, both_wrong, (("O", "O"), ("O", "O"))]
        miss = (1 - right) / 4
        # Two entities of a sentence are right or wrong together, so entities are no independent rows.
        shares = np.array([right / 2, miss, miss, right * 0.3, (1 - right) * 0.3, 0.2])
        kinds = rng.choice(len(pool), p=shares / shares.sum(), size=num_rows)
        return Tags([pool[kind][0] for kind in kinds], [pool[kind][1] for kind in kinds])

    check_coverage(coverage(draw, score_tags, ["entity_precision", "entity_recall", "entity_f1"]))


# True correlation 0.3 and 0.95.
@pytest.mark.parametrize("correlation", [0.3, 0.95])
def test_intervals_of_a_regression_cover_the_truth(correlation):
    def draw(rng, num_rows):
        values = rng.normal(size=num_rows)
        noise = math.sqrt(1 - correlation**2) * rng.normal(size=num_rows)
        return Regression(correlation * values + noise, correlation * values)

    check_coverage(coverage(draw, score_regression, ["rmse", "mae", "r2", "pearson", "spearman"]))


def test_intervals_of_ece_cover_the_truth_whether_calibrated_or_not():
    # Calibrated up to 0.002, where every estimate is too high: wider than 95 %, never less.
    assert coverage(softmax_classifier(1.0), score_classifier, ["ece"], 200)["ece"] >= 0.97

    def draw(rng, num_rows):
        outcomes = softmax_classifier(1.0)(rng, num_rows)
        sharper = outcomes.probabilities**2
        return SingleLabel(outcomes.references, outcomes.predictions, 3, sharper / sharper.sum(axis=1, keepdims=True))

    # 200 samples: a standard error of 1.8 % at 93 %.
    assert coverage(draw, score_classifier, ["ece"], 200)["ece"] >= LEAST - 0.018


def test_this_simulation_tells_a_method_that_does_not_cover(monkeypatch):
    from hfxfer.metrics import _resampling

    # BCa alone, without Wilson where errors are few, and a rare class.
    monkeypatch.setattr(_resampling, "FEW_ERRORS", 0)
    shares = coverage(softmax_classifier(2.2, (0.7, 0.2, 0.1)), score_classifier, ["balanced_accuracy"], 200)
    assert shares["balanced_accuracy"] < 0.9
