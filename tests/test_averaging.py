"""The average by hand, what is evaluated and saved, and resuming to the bit."""

import datasets
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import bert_checkpoint, digits, text_rows, timm_checkpoint
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback, TrainingArguments

from hfxfer import TransferTrainer
from hfxfer.averaging import decay_at
from hfxfer.errors import RecipeError
from hfxfer.recipe import Recipe
from hfxfer.run import is_complete


def test_the_decay_rises_as_timms_does():
    from timm.utils import ModelEmaV3

    timms = ModelEmaV3(torch.nn.Linear(1, 1), decay=0.99, use_warmup=True)
    for step in (1, 2, 3, 10, 100, 1000, 5000):
        assert decay_at(step, 0.99) == pytest.approx(timms.get_decay(step))
    assert decay_at(1, 0.99) == 0.0 and decay_at(8, 0.99) == pytest.approx(0.75) and decay_at(5000, 0.99) == 0.99


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return timm_checkpoint(tmp_path_factory.mktemp("net"))


class Watch(TrainerCallback):
    """Keeps the weights after each update, and stops hard after one of them."""

    def __init__(self, stop=None):
        self.seen, self.stop = [], stop

    def on_step_end(self, args, state, control, model=None, **unused):
        self.seen.append(floats(model))
        if state.global_step == self.stop:
            raise KeyboardInterrupt


def floats(model):
    return {name: value.clone() for name, value in model.state_dict().items() if value.is_floating_point()}


def trainer(folder, network, watch=None, **settings):
    rows = datasets.Dataset.from_list([{"image": picture, "label": str(label)} for picture, label in digits((0, 1), 8)])
    args = TrainingArguments(**{"output_dir": str(folder), "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "steps",
                                "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "per_device_train_batch_size": 4, "max_steps": 6,
                                "learning_rate": 1e-2, "logging_steps": 1, **settings})
    return TransferTrainer(model=str(network), args=args, train_dataset=rows, eval_dataset=rows, task="image-classification",
                           recipe=Recipe(model=str(network), data="given", method="full", ema_decay=0.9), callbacks=[watch] if watch else None)


def averages(seen):
    found = [seen[0]]
    for step, weights in enumerate(seen[1:], start=2):
        decay = min(0.9, 1 - step ** (-2 / 3))
        found.append({name: decay * found[-1][name] + (1 - decay) * value for name, value in weights.items()})
    return found


def near(first, second):
    return all(torch.allclose(value, second[name], atol=1e-6) for name, value in first.items())


def equal(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_average_is_handed_over_evaluated_and_saved(tmp_path, network):
    watch = Watch()
    made = trainer(tmp_path, network, watch)
    made.train()
    expected = averages(watch.seen)
    assert not near(expected[-1], watch.seen[-1]) and near(expected[-1], floats(made.model))
    # A checkpoint's model is the average of its step, and its score the one that was logged; the raw weights stand beside it.
    folder = tmp_path / "checkpoint-4"
    saved = {f"timm_model.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    assert near(expected[3], saved)
    assert equal(load_file(folder / "raw.safetensors"), watch.seen[3]) and is_complete(folder)
    made.model.load_state_dict(saved, strict=False)
    logged = next(entry["eval_loss"] for entry in made.state.log_history if entry["step"] == 4 and "eval_loss" in entry)
    assert made.evaluate()["eval_loss"] == pytest.approx(logged, abs=1e-6)


def test_the_best_average_is_chosen(tmp_path, network):
    made = trainer(tmp_path, network, load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=False)
    made.train()
    best = load_file(f"{made.state.best_model_checkpoint}/model.safetensors")
    assert equal({f"timm_model.{name}": value for name, value in best.items()}, made.model.state_dict())
    assert made.evaluate()["eval_loss"] == pytest.approx(made.state.best_metric, abs=1e-6)


@pytest.mark.parametrize("best", [False, True])
def test_an_interrupted_and_resumed_run_is_the_whole_run_to_the_bit(tmp_path, network, best):
    settings = {"load_best_model_at_end": best, **({"metric_for_best_model": "loss"} if best else {})}
    whole = trainer(tmp_path / "whole", network, **settings)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", network, Watch(stop=5), **settings).train()
    resumed = trainer(tmp_path / "cut", network, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    assert equal(whole.model.state_dict(), resumed.model.state_dict())
    for name in ("model", "raw"):
        assert equal(*(load_file(tmp_path / run / "checkpoint-6" / f"{name}.safetensors") for run in ("whole", "cut")))


def test_a_checkpoint_without_an_average_starts_one(tmp_path, network, capsys):
    first = trainer(tmp_path, network)
    first.train()
    (tmp_path / "checkpoint-4" / "raw.safetensors").unlink()
    trainer(tmp_path, network).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert "checkpoint-4 was written without an average of the weights: it starts here" in capsys.readouterr().err


def test_weights_of_half_precision_are_refused(tmp_path):
    folder = bert_checkpoint(tmp_path / "bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16, id2label={0: "bad", 1: "good"},
                                                               label2id={"bad": 0, "good": 1})
    with pytest.raises(RecipeError) as caught:
        TransferTrainer(model=model, args=TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none"),
                        train_dataset=datasets.Dataset.from_list(text_rows(4)), processing_class=AutoTokenizer.from_pretrained(folder),
                        task="text-classification", recipe=Recipe(model="m", data="given", method="full", ema_decay=0.9))
    assert str(caught.value) == ("ema_decay is 0.9, and bert.embeddings.word_embeddings.weight is of half precision, in which an "
                                 "average stands still. Load the model with dtype=torch.float32; computing in bf16 or fp16 may stay")
