"""Which evaluation was the best so far, and when to stop: by the log alone, so that a resumed run decides as it would have."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainingArguments


def metric_key(args: TrainingArguments) -> str:
    return f"eval_{args.metric_for_best_model.removeprefix('eval_')}"


def best_evaluation(log_history: list[dict], args: TrainingArguments) -> dict | None:
    """The log entry of the best evaluation so far, the earliest of equals; by the loss where the metric is undefined."""
    key, sign = metric_key(args), 1 if args.greater_is_better else -1
    found = [entry for entry in evaluations(log_history, args) if key in entry]
    if not found:
        return min(evaluations(log_history, args), key=lambda entry: (entry["eval_loss"], entry["step"]), default=None)
    return max(found, key=lambda entry: (sign * entry[key], -entry.get("eval_loss", 0.0), -entry["step"]))


def evaluations(log_history: list[dict], args: TrainingArguments) -> list[dict]:
    return [entry for entry in log_history if "eval_loss" in entry or metric_key(args) in entry]


def patience_is_over(log_history: list[dict], args: TrainingArguments, patience: int) -> bool:
    """True after `patience` evaluations without a better one."""
    best = best_evaluation(log_history, args)
    return best is not None and sum(entry["step"] > best["step"] for entry in evaluations(log_history, args)) >= patience


class EarlyStopping(TrainerCallback):
    """Stops after `patience` evaluations without a better one, where the best checkpoint is loaded at the end."""

    def __init__(self, patience: int):
        self.patience = patience

    def on_evaluate(self, args: TrainingArguments, state: Any, control: Any, **unused: Any) -> None:
        if args.load_best_model_at_end and patience_is_over(state.log_history, args, self.patience):
            control.should_training_stop = True
