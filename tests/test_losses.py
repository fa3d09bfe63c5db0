"""Weights by hand, sums as Trainer counts them, and the pull towards the pre-trained weights."""

import datasets
import numpy as np
import pytest
import torch
from tiny_models import bert_checkpoint, digits, tag_rows, text_rows, timm_checkpoint
from torch.nn import functional
from transformers import TrainerCallback, TrainingArguments

from hfxfer import TransferTrainer
from hfxfer.errors import RecipeError
from hfxfer.losses import PullBack, TrainingLoss, class_weights
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Problem

PETS = Problem(SINGLE_LABEL, ("cat", "dog", "owl"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return bert_checkpoint(tmp_path_factory.mktemp("bert"), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


# --- weights ---------------------------------------------------------------------------------------------------------

def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    targets = ["cat"] * 6 + ["dog"] * 3 + ["owl"]
    found = class_weights("balanced", PETS, targets)
    assert found.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert found.numpy() == pytest.approx(compute_class_weight("balanced", classes=np.unique(targets), y=targets))


def test_weights_average_one_over_the_rows():
    targets = ["cat"] * 6 + ["dog"] * 3 + ["owl"]
    # Given 1, 1 and 5: the mean over rows is 14 / 10.
    assert class_weights({"owl": 5}, PETS, targets).tolist() == pytest.approx([10 / 14, 10 / 14, 50 / 14])
    # No owl among the rows: balanced over the two classes that occur.
    assert class_weights("balanced", PETS, ["cat"] * 3 + ["dog"]).tolist() == pytest.approx([4 / 6, 2.0, 1.0])
    assert class_weights("none", PETS, targets) is None


def test_several_labels_get_the_ratio_of_rows_without_to_rows_with():
    problem = Problem(MULTI_LABEL, ("a", "b", "c", "d"))
    targets = [["a"], ["a", "b"], ["a"], []] * 1 + [["d"], ["d"], ["d"], ["d"]]
    assert class_weights("balanced", problem, targets).tolist() == pytest.approx([5 / 3, 7.0, 1.0, 1.0])
    assert class_weights({"b": 3.0}, problem, targets).tolist() == [1.0, 3.0, 1.0, 1.0]


def test_tags_are_counted_a_word_each():
    problem = Problem("tags", ("O", "B-PER"))
    assert class_weights("balanced", problem, [["O", "O", "B-PER"], ["O"]]).tolist() == pytest.approx([4 / 6, 2.0])


def test_weights_that_cannot_be_are_refused():
    def message(wanted, problem=PETS):
        with pytest.raises(RecipeError) as caught:
            class_weights(wanted, problem, ["cat"])
        return str(caught.value)

    assert message({"cow": 2.0}) == "class_weights names 'cow', which no row has. Labels: cat, dog, owl"
    assert message({"cat": 0.0}) == "class_weights gives 'cat' the weight 0; allowed: numbers above 0"
    assert message("balanced", Problem(REGRESSION)) == (
        "class_weights is 'balanced', and the target is a number (regression), which has no classes. Leave it out")


# --- the loss --------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [0.0, 1.0, 3.0]])


def test_weighted_smoothed_cross_entropy_by_hand():
    weights, labels = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0, 2, -100])
    log = LOGITS.log_softmax(-1)
    by_hand = -sum((0.9 * weights[label] * log[row, label] + 0.1 / 3 * (weights * log[row]).sum()) for row, label in ((0, 0), (1, 2))) / 2
    assert float(TrainingLoss(PETS, weights, 0.1)(LOGITS, labels)) == pytest.approx(float(by_hand))


def test_whole_shares_are_the_same_as_indices():
    labels = torch.tensor([0, 2, 1])
    shares = functional.one_hot(labels, 3).float()
    loss = TrainingLoss(PETS, torch.tensor([0.5, 1.0, 2.0]), 0.1)
    assert float(loss(LOGITS, labels)) == pytest.approx(float(loss(LOGITS, shares)))
    # Trainer counts the labels of an update of 4 rows: 4, or 12 shares.
    assert float(loss(LOGITS, labels, torch.tensor(4))) == pytest.approx(float(loss(LOGITS, shares, torch.tensor(12))))
    half = TrainingLoss(PETS)(LOGITS, torch.tensor([[0.5, 0.5, 0.0]] * 3))
    assert float(half) == pytest.approx(-float(LOGITS.log_softmax(-1)[:, :2].sum()) / 6)


def test_without_weights_it_is_the_models_own():
    words = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    tags = torch.tensor([[0, 1, -100, 2, -100], [2, -100, -100, -100, 1]])
    by_torch = float(functional.cross_entropy(words.view(-1, 3), tags.view(-1)))
    assert float(TrainingLoss(Problem("tags", ("x", "y", "z")))(words, tags)) == pytest.approx(by_torch)
    several, marks = Problem(MULTI_LABEL, ("a", "b", "c")), torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]])
    assert float(TrainingLoss(several)(LOGITS, marks)) == pytest.approx(float(functional.binary_cross_entropy_with_logits(LOGITS, marks)))
    numbers = torch.tensor([1.0, 2.0, -100.5])
    assert float(TrainingLoss(Problem(REGRESSION))(LOGITS[:, :1], numbers)) == pytest.approx(float(functional.mse_loss(LOGITS[:, 0], numbers)))


# --- in the trainer --------------------------------------------------------------------------------------------------

class Gradients(TrainerCallback):
    """Keeps the gradients and, before them, the weights of each update."""

    def __init__(self):
        self.seen, self.weights = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **unused):
        self.seen.append({name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None})
        self.weights.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})


def trained(folder, checkpoint, rows, recipe=None, task="text-classification", callbacks=(), run=True, **settings):
    args = TrainingArguments(**{"output_dir": str(folder), "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
                                "per_device_train_batch_size": 8, "max_steps": 1, "max_grad_norm": 0.0, "learning_rate": 1e-3,
                                "weight_decay": 0.0, **settings})
    trainer = TransferTrainer(model=str(checkpoint), args=args, train_dataset=datasets.Dataset.from_list(rows), task=task,
                              recipe=Recipe(**{"model": str(checkpoint), "data": "given", "method": "full", **(recipe or {})}))
    for callback in callbacks:
        trainer.add_callback(callback)
    if run:
        trainer.train()
    return trainer


ROWS = {SINGLE_LABEL: [{**row, "label": "good" if index < 6 else "bad"} for index, row in enumerate(text_rows(8))],
        MULTI_LABEL: [{"text": row["text"], "label": [["good"], [], ["good", "bad"]][index % 3]} for index, row in enumerate(text_rows(8))],
        REGRESSION: [{"text": row["text"], "label": index / 3} for index, row in enumerate(text_rows(8))]}


@pytest.mark.parametrize("kind", list(ROWS))
def test_accumulated_gradients_are_those_of_one_batch(tmp_path, bert, kind):
    """With the model's own mean they would be 4 times as large: BERT ignores num_items_in_batch (transformers 5.23)."""
    found = []
    recipe = {} if kind == REGRESSION else {"class_weights": "balanced"}
    for size, parts in ((8, 1), (2, 4)):
        watch = Gradients()
        trained(tmp_path, bert, ROWS[kind], recipe, callbacks=[watch], per_device_train_batch_size=size, gradient_accumulation_steps=parts)
        found.append(watch.seen[0])
    assert all(torch.allclose(value, found[1][name], atol=1e-5, rtol=1e-3) for name, value in found[0].items())


def test_the_trainer_weighs_what_the_recipe_says(tmp_path, bert):
    trainer = trained(tmp_path, bert, ROWS[SINGLE_LABEL], {"class_weights": "balanced"}, run=False, label_smoothing_factor=0.1)
    # bad 2 of 8, good 6 of 8.
    assert trainer.training_loss.weights.tolist() == pytest.approx([2.0, 8 / 12]) and trainer.training_loss.smoothing == 0.1
    trainer = trained(tmp_path, bert, tag_rows(4), {"class_weights": {"B-PER": 2}}, task="token-classification", run=False)
    # 28 words, 4 of them twice as heavy.
    assert sorted(set(trainer.training_loss.weights.tolist())) == pytest.approx([28 / 32, 56 / 32])
    assert trained(tmp_path, bert, ROWS[SINGLE_LABEL], run=False).training_loss is None


@pytest.mark.parametrize("weights", ["balanced", {"bad": 3.0}])
def test_making_up_for_rare_classes_twice_is_told(tmp_path, bert, capsys, weights):
    for settings in ({"class_weights": weights}, {"sampler": "balanced"}):
        trained(tmp_path, bert, ROWS[SINGLE_LABEL], settings, run=False)
    assert "hint" not in capsys.readouterr().err
    trained(tmp_path, bert, ROWS[SINGLE_LABEL], {"class_weights": weights, "sampler": "balanced"}, run=False)
    assert capsys.readouterr().err.count(
        "hint: class_weights and sampler balanced both make up for rare classes, together twice: in the loss, and by how often they are drawn. "
        "Leave out one of them: class_weights none, or sampler random\n") == 1


def test_evaluation_keeps_the_plain_loss(tmp_path, bert):
    found = [trained(tmp_path, bert, ROWS[SINGLE_LABEL], recipe, run=False).evaluate(datasets.Dataset.from_list(ROWS[SINGLE_LABEL]))["eval_loss"]
             for recipe in ({}, {"class_weights": {"good": 50}, "l2_sp": 10.0})]
    assert found[0] == found[1]


def test_a_loss_of_the_callers_and_weights_are_refused(tmp_path, bert):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(RecipeError, match="^class_weights is 'balanced', and compute_loss_func is another loss. Leave out one of them$"):
        TransferTrainer(model=str(bert), args=args, train_dataset=datasets.Dataset.from_list(ROWS[SINGLE_LABEL]), task="text-classification",
                        recipe=Recipe(model=str(bert), data="given", method="full", class_weights="balanced"),
                        compute_loss_func=lambda *_, **__: None)


def test_l2_sp_adds_alpha_times_the_distance_on_the_body_alone(tmp_path, bert):
    found = []
    for alpha in (0.0, 4.0):
        watch = Gradients()
        trained(tmp_path, bert, ROWS[SINGLE_LABEL], {"l2_sp": alpha}, callbacks=[watch], max_steps=2, learning_rate=1e-2)
        found.append(watch)
    plain, pulled = found
    # At the first update the weights are where they were.
    assert all(torch.equal(plain.seen[0][name], pulled.seen[0][name]) for name in plain.seen[0])
    for name, before in plain.seen[1].items():
        expected = 0.0 if name.startswith("classifier") or ".pooler." in name else 4.0 * (plain.weights[1][name] - plain.weights[0][name])
        assert torch.allclose(pulled.seen[1][name], before + expected, atol=1e-6), name


@pytest.mark.parametrize(("recipe", "what"), [({"method": "head"}, "method head"), ({"method": "lora"}, "method lora"),
                                              ({"freeze": ["bert.*"]}, "method full and this freeze")])
def test_l2_sp_where_no_pretrained_weight_moves_is_told(tmp_path, bert, capsys, recipe, what):
    trainer = trained(tmp_path, bert, ROWS[SINGLE_LABEL], {"l2_sp": 0.01, **recipe}, run=False)
    assert f"hint: l2_sp is 0.01 and has no effect: with {what} no pre-trained weight moves. Leave it out, or let the body train\n" in capsys.readouterr().err
    pull, = (callback for callback in trainer.callback_handler.callbacks if isinstance(callback, PullBack))
    assert pull.start == {}, "no copy of the weights is held"


@pytest.mark.parametrize(("recipe", "kept"), [({"method": "lp-ft"}, "bert."), ({"method": "gradual"}, "bert."), ({"freeze": 1}, "bert.encoder.layer.1.")])
def test_l2_sp_keeps_what_any_stage_moves(tmp_path, bert, capsys, recipe, kept):
    trainer = trained(tmp_path, bert, ROWS[SINGLE_LABEL], {"l2_sp": 0.01, **recipe}, run=False)
    pull, = (callback for callback in trainer.callback_handler.callbacks if isinstance(callback, PullBack))
    assert set(pull.start) == {name for name, _ in trainer.model.named_parameters() if name.startswith(kept) and ".pooler." not in name}
    assert "l2_sp" not in capsys.readouterr().err


def test_l2_sp_is_resumed_to_the_pretrained_weights(tmp_path):
    network = timm_checkpoint(tmp_path / "net")
    rows = [{"image": picture, "label": str(label)} for picture, label in digits((0, 1), 8)]
    settings = {"task": "image-classification", "recipe": {"l2_sp": 1.0}, "max_steps": 6, "save_strategy": "steps", "save_steps": 3,
                "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    whole = trained(tmp_path / "run", network, rows, **settings)
    again = trained(tmp_path / "run", network, rows, run=False, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    other = again.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in whole.model.state_dict().items())
