"""mixup and cutmix: shares that sum to one, pixels mixed as the shares say, the same whatever the workers."""

import datasets
import pytest
import torch
from tiny_models import bert_checkpoint, digits, text_rows, timm_checkpoint
from transformers import AutoModelForSequenceClassification, TrainingArguments

from hfxfer import TransferTrainer, tasks
from hfxfer.errors import RecipeError
from hfxfer.mixing import mixing
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Problem

PICTURES = tasks.get("image-classification")
LETTERS = Problem(SINGLE_LABEL, ("a", "b", "c"))


def mixed(labels, drawn=(0, 7), problem=LETTERS, **settings):
    """Pictures of one value each, 1, 2, …, and what becomes of them and their labels."""
    pixels = torch.arange(1.0, len(labels) + 1).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone()
    batch = {"pixel_values": pixels, "labels": torch.tensor(labels)}
    found = mixing(Recipe(model="m", data="d", **settings), PICTURES, problem)(batch, [{"_drawn": drawn}])
    return found["pixel_values"], found["labels"]


def test_mixup_mixes_each_picture_with_the_one_before():
    pixels, labels = mixed([0, 1, 2], mixup=1.0)
    share = float(labels[0, 0])
    assert 0 < share < 1
    assert torch.allclose(labels, torch.tensor([[share, 0, 1 - share], [1 - share, share, 0], [0, 1 - share, share]]))
    assert pixels[:, 0, 0, 0].tolist() == pytest.approx([share * 1 + (1 - share) * 3, share * 2 + (1 - share) * 1, share * 3 + (1 - share) * 2])


def test_cutmix_takes_a_rectangle_as_large_as_the_share():
    pixels, labels = mixed([0, 1], cutmix=1.0)
    own = float((pixels[0, 0] == 1).float().mean())
    assert set(pixels.unique().tolist()) == {1.0, 2.0}
    assert labels[0].tolist() == pytest.approx([own, 1 - own, 0]) and 0 < own < 1


def test_several_labels_are_mixed_one_by_one():
    _, labels = mixed([[1.0, 0, 1], [0, 0, 1]], problem=Problem(MULTI_LABEL, ("a", "b", "c")), mixup=1.0)
    share = float(labels[0, 0])
    assert labels[1].tolist() == pytest.approx([1 - share, 0, 1]) and float(labels[0, 2]) == pytest.approx(1)


def test_with_both_each_batch_has_one_by_chance():
    kinds = {len(mixed([0, 1], (0, start), mixup=1.0, cutmix=1.0)[0][0].unique()) for start in range(20)}
    assert kinds == {1, 2}


def test_the_draw_is_of_seed_epoch_and_first_row():
    def share(drawn=(0, 7), seed=1):
        torch.rand(3)
        return float(mixed([0, 1], drawn, mixup=1.0, seed=seed)[1][0, 0])

    assert share() == share()
    assert len({share(), share((1, 7)), share((0, 8)), share((0, 7, 1)), share(seed=2)}) == 5


def test_a_single_picture_stays_itself():
    pixels, labels = mixed([2], mixup=1.0)
    assert torch.allclose(pixels, torch.ones_like(pixels)) and labels.tolist() == [pytest.approx([0, 0, 1])]


def test_batches_for_evaluation_stay():
    batch = {"pixel_values": torch.ones(2, 3, 8, 8), "labels": torch.tensor([0, 1])}
    assert mixing(Recipe(model="m", data="d", mixup=1.0), PICTURES, LETTERS)(batch, [{"_row": 0}]) is batch


def test_what_has_no_pictures_or_classes_is_refused():
    def message(task, problem=LETTERS, **settings):
        with pytest.raises(RecipeError) as caught:
            mixing(Recipe(model="m", data="d", **settings), tasks.get(task), problem)
        return str(caught.value)

    assert message("text-classification", mixup=0.2) == "mixup is 0.2, which mixes pictures, and text-classification has none. Leave it out"
    assert message("image-classification", Problem(REGRESSION), mixup=0.2, cutmix=1) == (
        "mixup is 0.2 and cutmix is 1, which mixes classes, and problem_type is regression. Leave it out")


def test_random_erasing_puts_noise_in_one_rectangle(tmp_path):
    from hfxfer import models
    from hfxfer.batches import seeded
    from hfxfer.tasks._image import training_pixels

    processor = models.load(PICTURES, Recipe(model=str(timm_checkpoint(tmp_path)), data="d"), Problem(SINGLE_LABEL, ("0", "1"))).processor
    (picture, _), *_ = digits((0,), 1)
    whole = training_pixels(picture, processor, "none")
    with seeded(0, 0, "row"):
        erased = training_pixels(picture, processor, "none", random_erasing=1.0)
    rows, columns = (whole != erased).any(0).nonzero(as_tuple=True)
    height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
    assert height * width == len(rows) and 0.01 < len(rows) / 32**2 < 0.36
    with seeded(0, 0, "row"):
        assert torch.equal(erased, training_pixels(picture, processor, "none", random_erasing=1.0))
    assert torch.equal(whole, training_pixels(picture, processor, "none", random_erasing=0.0))


# --- in the trainer --------------------------------------------------------------------------------------------------

def trainer(folder, network, labels=2, **settings):
    rows = [{"image": picture, "label": [str(label)] if labels == "lists" else str(label)} for picture, label in digits((0, 1), 7)]
    args = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="steps", save_steps=2,
                             per_device_train_batch_size=5, num_train_epochs=2, learning_rate=1e-2, **settings)
    recipe = Recipe(model=str(network), data="given", method="full", augment="light", mixup=0.5, cutmix=1.0, random_erasing=0.5,
                    class_weights="balanced")
    return TransferTrainer(model=str(network), args=args, train_dataset=datasets.Dataset.from_list(rows), task="image-classification", recipe=recipe)


@pytest.mark.parametrize("labels", ["names", "lists"])
def test_a_resumed_run_is_the_whole_run_whatever_the_workers(tmp_path, labels):
    """14 pictures in batches of 5, 5 and 4, cut in the first epoch."""
    network = timm_checkpoint(tmp_path / "net")
    whole = trainer(tmp_path / "run", network, labels)
    whole.train()
    resumed = trainer(tmp_path / "run", network, labels, dataloader_num_workers=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    other = resumed.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in whole.model.state_dict().items())


def test_encoded_data_and_a_loss_of_the_callers_are_refused(tmp_path):
    network = bert_checkpoint(tmp_path / "bert")
    args = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none")
    recipe = Recipe(model=str(network), data="given", method="full", class_weights="balanced", mixup=0.2)
    model = AutoModelForSequenceClassification.from_pretrained(network)
    encoded = datasets.Dataset.from_list([{"input_ids": [2, 5, 3], "labels": 0}])
    with pytest.raises(RecipeError) as caught:
        TransferTrainer(model=model, args=args, train_dataset=encoded, task="text-classification", recipe=recipe)
    assert str(caught.value) == ("class_weights is 'balanced' and mixup is 0.2, which needs raw rows; the training data is already encoded. "
                                 "Give raw rows, or leave it out")


def test_text_is_refused_when_the_trainer_is_made(tmp_path):
    network = bert_checkpoint(tmp_path / "bert")
    args = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none")
    with pytest.raises(RecipeError, match="^mixup is 0.2, which mixes pictures, and text-classification has none"):
        TransferTrainer(model=str(network), args=args, train_dataset=datasets.Dataset.from_list(text_rows(4)), task="text-classification",
                        recipe=Recipe(model=str(network), data="given", method="full", mixup=0.2))
