"""What classification and regression of whole inputs share: targets, decoding, records and scores."""

from __future__ import annotations

from typing import Any

from hfxfer.data import Split, Target
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Outcomes, Prediction, Problem, Task


class ClassificationTask(Task):
    """One label, several labels or one number for a whole input. Subclasses say how the input is encoded."""

    def problem(self, target: Target, train: Split | None) -> Problem:
        if target.problem_type != REGRESSION or train is None:
            return Problem(target.problem_type, target.labels)
        import numpy as np

        values = np.asarray(train.column(self.target), dtype=np.float64)
        return Problem(REGRESSION, (), float(values.mean()), float(values.std()) or 1.0)

    def primary_metric(self, problem: Problem) -> str:
        return {SINGLE_LABEL: "accuracy", MULTI_LABEL: "f1_micro", REGRESSION: "rmse"}[problem.problem_type]

    def encode_target(self, row: dict, problem: Problem) -> Any:
        """An index, a multi-hot list of floats, or a standardised number."""
        value = row[self.target]
        if problem.problem_type == SINGLE_LABEL:
            return problem.labels.index(value)
        if problem.problem_type == MULTI_LABEL:
            return [float(name in value) for name in problem.labels]
        return (float(value) - problem.target_mean) / problem.target_scale

    def decode(self, outputs: Any, batch: dict[str, Any], processor: Any, problem: Problem) -> list[Prediction]:
        logits = outputs.logits.detach().float().cpu()
        if problem.problem_type == REGRESSION:
            values = logits[:, 0].double() * problem.target_scale + problem.target_mean
            return [Prediction(value) for value in values.tolist()]
        if problem.problem_type == MULTI_LABEL:
            probabilities = logits.sigmoid().numpy()
            return [Prediction([name for name, p in zip(problem.labels, row) if p >= problem.threshold], row)
                    for row in probabilities]
        probabilities = logits.softmax(-1).numpy()
        return [Prediction(problem.labels[row.argmax()], row) for row in probabilities]

    def logits(self, outputs: Any, batch: dict[str, Any], problem: Problem) -> list:
        return list(outputs.logits.detach().float().cpu().numpy())

    def record(self, prediction: Prediction, row: dict, problem: Problem) -> dict[str, Any]:
        if problem.problem_type == REGRESSION:
            near = {} if problem.half_width is None else {"low": prediction.answer - problem.half_width, "high": prediction.answer + problem.half_width}
            return {"value": prediction.answer, **near}
        scores = {f"score_{name}": float(p) for name, p in zip(problem.labels, prediction.probabilities)}
        if problem.problem_type == MULTI_LABEL:
            return {"labels": prediction.answer, **scores}
        return {"label": prediction.answer, "score": float(prediction.probabilities.max()), **scores}

    def score(self, outcomes: Outcomes, problem: Problem, intervals: bool, seed: int) -> list:
        from hfxfer import intervals as statistics

        draws = {"seed": seed, "num_resamples": statistics.NUM_RESAMPLES if intervals else statistics.FEWEST_RESAMPLES}
        if problem.problem_type == REGRESSION:
            measured = statistics.Regression(_floats(outcomes.references), _floats(outcomes.answers))
            return statistics.score_regression(measured, **draws)
        probabilities = None if outcomes.probabilities is None else outcomes.probabilities.array()
        if problem.problem_type == MULTI_LABEL:
            measured = statistics.MultiLabel(_multi_hot(outcomes.references, problem.labels),
                                             _multi_hot(outcomes.answers, problem.labels), probabilities)
            return statistics.score_multi_label(measured, problem.labels, **draws) + statistics.score_uncalibrated(measured, problem.temperature, **draws)
        measured = statistics.SingleLabel(_indices(outcomes.references, problem.labels),
                                          _indices(outcomes.answers, problem.labels), len(problem.labels), probabilities)
        return statistics.score_single_label(measured, problem.labels, **draws) + statistics.score_uncalibrated(measured, problem.temperature, **draws)

    def confusion(self, outcomes: Outcomes, problem: Problem) -> list[list[int]] | None:
        if problem.problem_type != SINGLE_LABEL:
            return None
        from hfxfer import intervals as statistics

        measured = statistics.SingleLabel(_indices(outcomes.references, problem.labels),
                                          _indices(outcomes.answers, problem.labels), len(problem.labels))
        return statistics.confusion_counts(measured).tolist()


def _floats(values):
    import numpy as np

    return np.asarray(values, dtype=np.float64)


def _indices(names, labels):
    import numpy as np

    position = {name: index for index, name in enumerate(labels)}
    return np.fromiter((position[name] for name in names), dtype=np.int64, count=len(names))


def _multi_hot(rows, labels):
    """(rows, labels) of 0/1 as a memory map, so that memory does not grow with rows × labels."""
    import tempfile

    import numpy as np

    position = {name: index for index, name in enumerate(labels)}
    marks = np.memmap(tempfile.TemporaryFile(), np.uint8, "w+", shape=(len(rows), len(labels)))
    for index, names in enumerate(rows):
        marks[index, [position[name] for name in names]] = 1
    return marks
