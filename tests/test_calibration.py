"""Calibration: temperatures, thresholds and intervals worked out by hand, and what stands in a model folder."""

import dataclasses
import math

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import bert_checkpoint, digits, tag_rows, timm_checkpoint, write_jsonl

import hfxfer
from hfxfer import calibration, models, tasks
from hfxfer.calibration import best_threshold, calibrate, fit_temperature, half_width, scale, with_threshold
from hfxfer.evaluation import Predictor
from hfxfer.intervals import SingleLabel, score_uncalibrated
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Problem


# --- by hand ---------------------------------------------------------------------------------------------------------

def two_classes(right, wrong, margin):
    """Logits that lead by `margin`, and targets of which `wrong` are the other class."""
    logits = np.tile(np.float32([margin, 0]), (right + wrong, 1))
    return logits, np.array([0] * right + [1] * wrong)


def test_the_temperature_makes_confidence_the_share_that_is_right():
    """75 of 100 right at a margin of 4: sigmoid(4 / T) = the share, which Laplace's rule takes to (75 · 101 + 25) / (100 · 102)."""
    share = (75 * 101 + 25) / (100 * 102)
    assert fit_temperature(*two_classes(75, 25, 4.0)) == pytest.approx(4 / math.log(share / (1 - share)), rel=1e-6)


def test_rows_that_are_all_right_establish_no_more_than_their_number_does():
    """Confidence (n + 1) / (n + 2), odds n + 1: 1 / T = log(n + 1) / margin, however small the margin."""
    for num_rows, margin in ((30, 0.5), (1000, 2.0)):
        assert fit_temperature(*two_classes(num_rows, 0, margin)) == pytest.approx(margin / math.log(num_rows + 1), rel=1e-6)


def test_a_model_without_an_error_keeps_its_confidence():
    """30 rows, all right with a margin of 12: softened targets alone would divide it by 12 / log(31) = 3.5."""
    assert fit_temperature(*two_classes(30, 0, 12.0)) == 1.0


def test_the_temperature_stays_within_its_bounds():
    assert fit_temperature(*two_classes(50, 50, 300.0)) == 20.0
    assert fit_temperature(*two_classes(1000, 0, 0.01)) == pytest.approx(0.05)


def test_a_gain_that_chance_may_bring_leaves_the_weights():
    """Right in 73 of 100 rows, said with sigmoid(1) = 0.731: nothing to gain. Said with 0.88: 6 nats."""
    assert fit_temperature(*two_classes(73, 27, 1.0)) == 1.0
    assert fit_temperature(*two_classes(73, 27, 2.0)) > 1.5


def test_a_known_temperature_is_found_again():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(20_000, 5)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = (chances.cumsum(1) > draw.random((20_000, 1))).argmax(1)
    for temperature in (0.4, 3.0):
        assert fit_temperature((logits * temperature).astype(np.float32), targets) == pytest.approx(temperature, rel=0.03)


def test_several_labels_share_one_temperature_of_the_binary_loss():
    """Of 200 entries at logit 3, 150 are 1; of 200 at -3, 50: sigmoid(3 / T) = 0.75, with Platt's targets 201 / 202 and 1 / 202."""
    logits = np.repeat(np.float32([[3, -3]]), 200, axis=0)
    targets = np.stack([np.arange(200) < 150, np.arange(200) < 50], axis=1).astype(np.uint8)
    share = (150 * 201 + 50) / (200 * 202)
    assert fit_temperature(logits, targets) == pytest.approx(3 / math.log(share / (1 - share)), rel=1e-6)


def test_large_splits_are_read_in_blocks(monkeypatch):
    logits, targets = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32) * 9, np.arange(60) % 4
    marks = np.eye(4, dtype=np.uint8)[targets]
    whole = fit_temperature(logits, targets), fit_temperature(logits, marks)
    monkeypatch.setattr(calibration, "BLOCK_VALUES", 28)
    assert (fit_temperature(logits, targets), fit_temperature(logits, marks)) == pytest.approx(whole, rel=1e-6)


def test_the_threshold_lies_half_way_below_the_last_one_to_be_answered():
    """Answering 0.9, 0.6 and 0.4 gives 3 right of 3 and misses none of 3; one more would be wrong."""
    chances, marks = np.float32([[0.9, 0.6], [0.4, 0.2]]), np.uint8([[1, 1], [1, 0]])
    assert best_threshold(chances, marks) == pytest.approx(0.3)
    assert best_threshold(chances, np.zeros_like(marks)) == 0.5
    # 0.6 twice, right once: both or none. F1 of 0.9 alone 2/3, of all three 4/5.
    assert best_threshold(np.float32([[0.9, 0.6, 0.6]]), np.uint8([[1, 1, 0]])) == pytest.approx(0.3)


def test_the_half_width_is_the_conformal_quantile():
    """ceil(11 · 0.9) = 10th of 10; ceil(20 · 0.9) = 18th of 19; of 8 rows ceil(9 · 0.9) = 9 are too many."""
    assert half_width(np.array([3, -10, 1, 2, 4, 5, -6, 7, 8, 9.0])) == 10
    assert half_width(np.arange(1.0, 20)) == 18
    assert half_width(np.ones(8)) is None and half_width(np.ones(9)) == 1


def test_nine_of_ten_new_values_lie_within_the_half_width():
    """400 splits of 50 residuals: the mean coverage is 0.9 or more, and at most 0.9 + 1 / 51 (Lei et al. 2018, theorem 2.2)."""
    draw = np.random.default_rng(0)
    covered = [np.mean(np.abs(draw.standard_t(3, 500)) <= half_width(draw.standard_t(3, 50))) for _ in range(400)]
    assert 0.89 < np.mean(covered) < 0.9 + 1 / 51 + 0.01


def test_what_was_uncalibrated_follows_from_what_is_calibrated():
    """Logits of margin 4 and T = 2: 100 rows said with sigmoid(4) = 0.982, of which 75 are right."""
    logits, targets = two_classes(75, 25, 4.0)
    calibrated = torch.from_numpy(logits / 2).softmax(-1).numpy()
    score, = score_uncalibrated(SingleLabel(targets, np.zeros(100, int), 2, calibrated), 2.0)
    assert score.metric == "ece_uncalibrated" and score.value == pytest.approx(1 / (1 + math.exp(-4)) - 0.75, abs=1e-6)
    assert score.low <= score.value <= score.high
    assert score_uncalibrated(SingleLabel(targets, np.zeros(100, int), 2, calibrated), None) == []


def test_a_threshold_goes_with_several_labels(capsys):
    recipe = Recipe(model="m", data="d", threshold=0.3)
    assert with_threshold(Problem(MULTI_LABEL, ("a", "b")), recipe).threshold == 0.3
    assert with_threshold(Problem(MULTI_LABEL, ("a", "b")), dataclasses.replace(recipe, threshold="auto")).threshold == 0.5
    assert capsys.readouterr().err == ""
    assert with_threshold(Problem(REGRESSION), recipe) == Problem(REGRESSION)
    assert capsys.readouterr().err == "hint: threshold has no effect: it is for several labels a row, and problem_type is regression\n"


# --- model folders ---------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    timm_checkpoint(folder / "net")
    bert_checkpoint(folder / "bert")
    return folder


@pytest.fixture(scope="module")
def pictures():
    """Digits of which a quarter have a random label."""
    draw, rows = np.random.default_rng(0), digits((0, 1, 2), 40)
    rows = [rows[index] for index in draw.permutation(len(rows))]
    labels = [f"digit {label if draw.random() < 0.75 else draw.integers(3)}" for _, label in rows]
    table = datasets.Dataset.from_dict({"image": [picture for picture, _ in rows], "label": labels})
    return datasets.DatasetDict(train=table.select(range(50)), validation=table.select(range(50, 100)), test=table.select(range(100, 120)))


def trained(place, pictures, name, **settings):
    return hfxfer.train(model=str(place / "net"), data=pictures, output_dir=str(place / name), num_train_epochs=4, learning_rate=1e-2, augment="none",
                        method="full", plan="none", per_device_train_batch_size=25, eval_strategy="no", **settings)


@pytest.fixture(scope="module")
def run(place, pictures):
    return trained(place, pictures, "run", save_strategy="epoch")


@pytest.fixture(scope="module")
def plain_run(place, pictures):
    return trained(place, pictures, "plain", calibrate=False, save_strategy="no")


def scores(run):
    return {score["metric"]: score["value"] for score in run.scores()["scores"] if score["label"] is None}


def temperature_of(run):
    return run.history()[-1]["temperature"]


def test_transformers_and_timm_give_the_trained_logits_over_the_temperature(run, plain_run):
    import timm
    from transformers import AutoModelForImageClassification

    pixels = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = AutoModelForImageClassification.from_pretrained(plain_run.model_dir).eval()(pixels).logits
        after = AutoModelForImageClassification.from_pretrained(run.model_dir).eval()(pixels).logits
        by_timm = timm.create_model(f"local-dir:{run.model_dir}", pretrained=True).eval()(pixels)
    assert temperature_of(run) != 1
    assert torch.allclose(after * temperature_of(run), before, rtol=1e-4, atol=1e-5) and torch.allclose(by_timm, after, atol=1e-5)
    assert torch.equal(before.argmax(-1), after.argmax(-1))


def test_what_the_error_was_is_what_it_is_without_calibration(run, plain_run):
    found, plain = scores(run), scores(plain_run)
    assert found["ece_uncalibrated"] == pytest.approx(plain["ece"], abs=1e-5) and "ece_uncalibrated" not in plain
    assert found["accuracy"] == plain["accuracy"]


def noisy_texts(num_rows, draw):
    """Words that speak for and against, and noise: what is learned by heart of few rows is believed too much."""
    words = "good happy film bad sad day a b c d e 1 2 3 4 5".split()
    for _ in range(num_rows):
        chosen = draw.integers(0, len(words), 8)
        value = (chosen < 3).sum() - ((chosen >= 3) & (chosen < 6)).sum() + draw.normal()
        yield {"text": " ".join(words[index] for index in chosen), "label": "up" if value > 0 else "down"}


@pytest.fixture(scope="module")
def by_heart(place):
    draw = np.random.default_rng(0)
    for split, num_rows in (("train", 60), ("validation", 150), ("test", 300)):
        write_jsonl(place / "noisy" / f"{split}.jsonl", list(noisy_texts(num_rows, draw)))
    return hfxfer.train(model=str(place / "bert"), data=str(place / "noisy"), output_dir=str(place / "by-heart"), num_train_epochs=20, plan="none",
                        learning_rate=3e-3, method="full", per_device_train_batch_size=20, eval_strategy="no", save_strategy="no")


def test_calibration_lowers_the_error_of_a_model_that_knows_its_rows_by_heart(by_heart):
    assert temperature_of(by_heart) > 1.2 and scores(by_heart)["ece"] < 0.7 * scores(by_heart)["ece_uncalibrated"]


def test_the_adapter_alone_gives_the_calibrated_logits_too(place, by_heart):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    run = hfxfer.train(model=str(by_heart.model_dir), data=str(place / "noisy"), output_dir=str(place / "adapter"), num_train_epochs=4, plan="none",
                       learning_rate=1e-2, method="lora", keep_adapter=True, per_device_train_batch_size=20, eval_strategy="no", save_strategy="no")
    merged, base = (AutoModelForSequenceClassification.from_pretrained(each.model_dir) for each in (run, by_heart))
    tokens = torch.randint(5, 30, (4, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = merged.eval()(input_ids=tokens).logits
        found = PeftModel.from_pretrained(base, run.model_dir / "adapter").eval()(input_ids=tokens).logits
    assert temperature_of(run) > 1.2 and torch.allclose(found, expected, atol=1e-5)
    assert merged.config.hfxfer_temperature == temperature_of(run) != base.config.hfxfer_temperature


def test_without_calibration_the_weights_are_those_of_training(run, plain_run):
    """Every layer but the last is equal to the bit, and so is the last in the checkpoint that the calibrated run was written from."""
    calibrated, plain = (load_file(each.model_dir / "model.safetensors") for each in (run, plain_run))
    assert {name for name in plain if not torch.equal(plain[name], calibrated[name])} == {"fc.weight", "fc.bias"}
    checkpoint = next(path for path, complete in run.checkpoints() if complete)
    last = load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(last[next(key for key in last if key.endswith(name))], plain[name]) for name in ("fc.weight", "fc.bias"))
    assert hfxfer.load(plain_run).predictor.problem.temperature is None and "temperature" not in plain_run.history()[-1]


def test_the_temperature_stands_in_the_config_and_evaluate_knows_it(run, pictures):
    loaded = hfxfer.load(run)
    assert loaded.predictor.problem.temperature == temperature_of(run) == loaded.predictor.model.config.hfxfer_temperature
    found = {score["metric"]: score["value"] for score in loaded.evaluate(pictures)["scores"] if score["label"] is None}
    assert found["ece_uncalibrated"] == pytest.approx(scores(run)["ece_uncalibrated"], abs=1e-5)


def test_training_again_from_a_calibrated_model_begins_without_a_temperature(run):
    problem = Problem(SINGLE_LABEL, ("digit 0", "digit 1", "digit 2"))
    loaded = models.load(tasks.get("image-classification"), Recipe(model=str(run.model_dir), data="d"), problem)
    assert models.remembered(loaded.model.config) == {} and loaded.new_weights == []


def test_a_run_that_is_resumed_ends_with_the_same_temperature(run, pictures):
    before, temperature = load_file(run.model_dir / "model.safetensors"), temperature_of(run)
    (run.model_dir / "scores.json").unlink()
    again = hfxfer.train(run.recipe(), data=pictures, resume=True)
    after = load_file(again.model_dir / "model.safetensors")
    assert temperature_of(again) == temperature and all(torch.equal(before[name], after[name]) for name in before)


def test_words_are_calibrated_over_their_tags(place):
    write_jsonl(place / "tags.jsonl", tag_rows(150))
    run = hfxfer.train(model=str(place / "bert"), data=str(place / "tags.jsonl"), output_dir=str(place / "tags"), num_train_epochs=2, plan="none",
                       learning_rate=5e-3, per_device_train_batch_size=16, validation_size=0.2)
    assert hfxfer.load(run).predictor.problem.temperature == temperature_of(run) < 1


def test_the_logits_of_words_are_those_that_are_decoded(place):
    task, problem = tasks.get("token-classification"), Problem("tags", ("O", "B-PER", "I-PER", "B-LOC"))
    loaded = models.load(task, Recipe(model=str(place / "bert"), data="d"), problem)
    recipe = models.settle_lengths(Recipe(model="m", data="d", max_length=8, stride=2), loaded.processor, loaded.model.config)
    rows = [{**tag_rows(1)[0], "tokens": ["ada", "\x01", "lives", "in", "a", "b", "c", "d", "e"], "tags": ["O"] * 9}, tag_rows(2)[1]]
    batch = task.collate(task.encode(rows, loaded.processor, problem, recipe, training=False), loaded.processor)
    with torch.no_grad():
        outputs = task.forward(loaded.model.eval(), batch, recipe)
    logits, decoded = task.logits(outputs, batch, problem), task.decode(outputs, batch, loaded.processor, problem)
    for values, prediction in zip(logits, decoded, strict=True):
        said = ~np.isnan(values[:, 0])
        assert np.allclose(torch.from_numpy(values[said]).softmax(-1), prediction.probabilities[said], atol=1e-6)
    assert np.isnan(logits[0][1]).all() and not np.isnan(logits[1]).any()


def test_several_labels_get_a_threshold_of_their_own(place):
    rows = [{"text": f"{'good ' * (index % 3 == 0)}{'bad ' * (index % 4 == 0)}day {index}", "label": ["good"] * (index % 3 == 0) + ["bad"] * (index % 4 == 0)}
            for index in range(200)]
    write_jsonl(place / "several.jsonl", rows)
    run = hfxfer.train(model=str(place / "bert"), data=str(place / "several.jsonl"), output_dir=str(place / "several"), num_train_epochs=1, plan="none",
                       learning_rate=5e-4, per_device_train_batch_size=32, validation_size=0.3, threshold="auto")
    end, model = run.history()[-1], hfxfer.load(run)
    assert end["threshold"] != 0.5 and model.predictor.problem.threshold == end["threshold"]
    for row in run.predictions().to_pylist():
        assert row["prediction"] == [name for name, chance in zip(("bad", "good"), row["probabilities"]) if chance >= end["threshold"]]
    assert {"ece", "ece_uncalibrated"} <= scores(run).keys()


def test_numbers_are_shown_with_their_interval(place):
    write_jsonl(place / "numbers.jsonl", [{"text": f"the film {index} was {'good ' * (index % 5)}", "label": 1000.0 + 100.5 * (index % 5)} for index in range(120)])
    settings = dict(model=str(place / "bert"), data=str(place / "numbers.jsonl"), num_train_epochs=2, learning_rate=5e-3, plan="none",
                    per_device_train_batch_size=16, validation_size=0.2)
    run = hfxfer.train(**settings, output_dir=str(place / "numbers"))
    width = run.history()[-1]["half_width"]
    record, = hfxfer.load(run).predict("the film was good good")
    assert list(record) == ["input", "value", "low", "high"]
    assert record["value"] - record["low"] == pytest.approx(width) == record["high"] - record["value"]
    table = run.predictions().to_pydict()
    inside = np.abs(np.subtract(table["reference"], table["prediction"])) <= width
    assert inside.mean() > 0.7  # of 24 rows


# --- what cannot be calibrated ---------------------------------------------------------------------------------------

class Split:
    """Rows in memory, as much of a split as calibration asks for."""

    name = "validation"

    def __init__(self, rows):
        self.rows, self.num_rows = rows, len(rows)

    def take(self, positions):
        return [self.rows[position] for position in positions]

    def column(self, name):
        return [row[name] for row in self.rows]


def predictor_of(place, **settings):
    task, problem = tasks.get("image-classification"), Problem(SINGLE_LABEL, ("0", "1", "2"))
    recipe = Recipe(model=str(place / "net"), data="d", **settings)
    loaded = models.load(task, recipe, problem)
    return Predictor(task, loaded.model.eval(), loaded.processor, problem, recipe), Split([{"image": picture, "label": str(label)} for picture, label in digits()])


def test_logits_that_do_not_follow_the_last_weights_are_left_alone(place, capsys):
    said = ("hint: the probabilities are not calibrated: the logits of TimmWrapperForImageClassification do not follow the weights of its last layer. "
            "Silence this with --calibrate false\n")
    for spoil in (lambda fc: torch.nn.Sequential(fc, torch.nn.Sigmoid()), lambda fc: torch.nn.utils.parametrizations.weight_norm(fc)):
        predictor, validation = predictor_of(place)
        body = predictor.model.timm_model
        body.fc = spoil(body.fc)
        before = {name: value.clone() for name, value in predictor.model.state_dict().items()}
        capsys.readouterr()
        assert calibrate(predictor, validation).temperature is None
        assert said in capsys.readouterr().err
        assert all(torch.equal(value, before[name]) for name, value in predictor.model.state_dict().items())


def test_few_rows_are_not_enough(place, capsys):
    predictor, validation = predictor_of(place)
    capsys.readouterr()
    assert calibrate(predictor, Split(validation.rows[:19])) == predictor.problem
    assert capsys.readouterr().err == "not calibrated: 19 validation rows, and a temperature takes 20 or more\n"
    assert calibrate(predictor, Split(validation.rows[::4])).temperature is not None


def test_calibrate_false_looks_at_nothing(place):
    predictor, _ = predictor_of(place, calibrate=False)
    assert calibrate(predictor, None) == predictor.problem and models.remembered(predictor.model.config) == {}


def test_a_tensor_that_two_layers_share_is_scaled_once(place):
    predictor, _ = predictor_of(place)
    body = predictor.model.timm_model
    weight = body.fc.weight.detach().clone()
    other = torch.nn.Linear(body.fc.in_features, 3)
    other.weight = body.fc.weight
    body.get_classifier = lambda: (body.fc, other)
    scale(predictor.model, 0.5)
    assert torch.equal(body.fc.weight, weight / 2)


def test_what_a_stranger_wrote_into_a_config_is_a_number_or_nothing(place):
    config = models.load(tasks.get("image-classification"), Recipe(model=str(place / "net"), data="d"), Problem(SINGLE_LABEL, ("0", "1"))).model.config
    config.hfxfer_temperature, config.hfxfer_threshold, config.hfxfer_half_width = "2", float("nan"), 3
    assert models.remembered(config) == {"half_width": 3.0}
