"""Pictures: drawn from any history and any labels."""

import numpy as np
from PIL import Image

from hfxfer.figures import confusion_matrix, ladder, learning_curve


def ink(path):
    """Share of pixels that are not white."""
    return float((np.asarray(Image.open(path).convert("L")) < 250).mean())


def test_a_learning_curve_shows_losses_and_metric(tmp_path):
    history = [{"type": "log", "step": 1, "epoch": 0.5, "loss": 2.0}, {"type": "log", "step": 2, "epoch": 1.0, "loss": 1.0},
               {"type": "eval", "step": 2, "epoch": 1.0, "eval_loss": 1.5, "eval_accuracy": 0.5}]
    learning_curve(history, "accuracy", tmp_path / "figures" / "both.png")
    learning_curve(history[:2], "accuracy", tmp_path / "figures" / "one.png")
    learning_curve([], "accuracy", tmp_path / "figures" / "none.png")
    assert ink(tmp_path / "figures" / "both.png") > ink(tmp_path / "figures" / "one.png") > 0


def test_a_confusion_matrix_is_darkest_where_the_row_is(tmp_path):
    confusion_matrix([[9, 1], [0, 0]], ("$a$", "a very long name of a class indeed"), tmp_path / "m.png")
    right, wrong = tmp_path / "right.png", tmp_path / "wrong.png"
    confusion_matrix([[5, 0], [0, 5]], ("a", "b"), right)
    confusion_matrix([[0, 5], [5, 0]], ("a", "b"), wrong)
    middle = np.asarray(Image.open(right).convert("L")).shape[0] // 2
    picture, turned = (np.asarray(Image.open(path).convert("L")).astype(float) for path in (right, wrong))
    assert picture[:middle, 60:middle].mean() < turned[:middle, 60:middle].mean()


def test_many_classes_are_drawn_without_names(tmp_path):
    confusion_matrix(np.eye(40, dtype=int).tolist(), tuple(f"class {index}" for index in range(40)), tmp_path / "many.png")
    assert 0 < ink(tmp_path / "many.png") < 1


def test_a_ladder_shows_every_rung_also_one_whose_score_is_undefined(tmp_path):
    rungs = [{"method": method, "value": value, "low": low, "high": high, "num_rows": 60, "seconds": seconds, "trained_parameters": 3843}
             for method, value, low, high, seconds in (("head", 0.9, 0.8, 0.95, 24.0), ("lp-ft", None, None, None, 1.0), ("lora", 0.8, None, None, 90.0))]
    ladder(rungs[:1], "accuracy", "head", tmp_path / "one.png")
    ladder(rungs, "accuracy", "head", tmp_path / "all.png")
    one, every = (np.asarray(Image.open(tmp_path / name)) for name in ("one.png", "all.png"))
    assert every.shape[0] > one.shape[0] and 0 < ink(tmp_path / "all.png") < 1
