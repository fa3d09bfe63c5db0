"""Stopping early and choosing the best: by the log alone."""

import types

import pytest
from transformers import TrainingArguments

from hfxfer.stopping import EarlyStopping, best_evaluation, evaluations, patience_is_over


def arguments(greater=True, load=True):
    args = TrainingArguments(output_dir="x", metric_for_best_model="accuracy", greater_is_better=greater, use_cpu=True)
    args.load_best_model_at_end = load
    return args


def log(*values, loss=1.0):
    return [{"step": step, "eval_accuracy": value, "eval_loss": loss} for step, value in enumerate(values, 1)]


def test_training_logs_are_no_evaluations():
    assert evaluations([{"loss": 1.0, "step": 1}, *log(0.5)], arguments()) == log(0.5)
    assert best_evaluation([{"loss": 1.0, "step": 1}], arguments()) is None


@pytest.mark.parametrize(("greater", "best"), [(True, 2), (False, 3)])
def test_the_best_is_by_the_metric_in_its_direction(greater, best):
    assert best_evaluation(log(0.5, 0.9, 0.3), arguments(greater))["step"] == best


def test_of_equals_the_lower_loss_and_then_the_earlier_counts():
    found = log(0.9, 0.9, 0.9)
    assert best_evaluation(found, arguments())["step"] == 1
    found[2]["eval_loss"] = 0.5
    assert best_evaluation(found, arguments())["step"] == 3


def test_where_the_metric_is_undefined_the_loss_chooses():
    found = [{"step": 1, "eval_loss": 0.5}, {"step": 2, "eval_loss": 0.2}, {"step": 3, "eval_loss": 0.3}]
    assert best_evaluation(found, arguments())["step"] == 2
    assert patience_is_over(found, arguments(), 1) and not patience_is_over(found, arguments(), 2)


@pytest.mark.parametrize(("values", "over"), [((0.5,), False), ((0.9, 0.8), False), ((0.9, 0.8, 0.9), True), ((0.9, 0.8, 0.95), False), ((0.9, 0.8, 0.7), True)])
def test_patience_counts_the_evaluations_after_the_best(values, over):
    assert patience_is_over(log(*values), arguments(), 2) == over


@pytest.mark.parametrize("load", [True, False])
def test_only_where_the_best_is_loaded_does_training_stop(load):
    control = types.SimpleNamespace(should_training_stop=False)
    EarlyStopping(1).on_evaluate(arguments(load=load), types.SimpleNamespace(log_history=log(0.9, 0.8)), control)
    assert control.should_training_stop == load
