"""LoRA: weights that stay, adapters that move, and a plain model when they are merged."""

import datasets
import pytest
import timm
import torch
from tiny_models import bert_checkpoint, digits, gpt2_checkpoint, text_rows, timm_checkpoint
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, TrainerCallback, TrainingArguments

from hfxfer import TransferTrainer, adapters
from hfxfer.models import head_names
from hfxfer.rates import parameter_groups
from hfxfer.recipe import Recipe


def arguments(folder, **settings):
    return TrainingArguments(**{"output_dir": str(folder), "num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-2,
                                "eval_strategy": "epoch", "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True, **settings})


CASES = {
    "bert": ("text-classification", lambda folder: bert_checkpoint(folder / "net"), AutoModelForSequenceClassification),
    "gpt2": ("text-classification", lambda folder: gpt2_checkpoint(folder / "net"), AutoModelForSequenceClassification),
    "timm efficientnet": ("image-classification", lambda folder: timm_checkpoint(folder / "net", architecture="test_efficientnet"), AutoModelForImageClassification),
    "timm vit": ("image-classification", lambda folder: timm_checkpoint(folder / "net", architecture="test_vit", size=160), AutoModelForImageClassification),
}


def rows_of(task):
    rows = text_rows(24) if task == "text-classification" else [{"image": picture, "label": f"digit {label}"} for picture, label in digits((0, 1), 8)]
    return datasets.Dataset.from_list(rows)


class Watcher(TrainerCallback):
    """Inside the stage: the whole state, the logits with the adapters, and the model as it is saved."""

    def __init__(self, folder):
        self.folder, self.trainer = folder, None

    def on_train_begin(self, args, state, control, model, **unused):
        self.before = {name: value.clone() for name, value in model.state_dict().items()}

    def on_epoch_end(self, args, state, control, model, **unused):
        self.after = {name: value.clone() for name, value in model.state_dict().items()}
        self.loss = self.trainer.evaluate()["eval_loss"]
        self.trainer.save_model(str(self.folder))
        self.unchanged = all(torch.equal(value, self.after[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", CASES)
def test_the_base_stays_the_adapters_move_and_the_merged_model_is_plain(tmp_path, name):
    task, checkpoint, auto = CASES[name]
    watcher = Watcher(tmp_path / "inside")
    trainer = TransferTrainer(model=str(checkpoint(tmp_path)), args=arguments(tmp_path / "out"), train_dataset=rows_of(task), eval_dataset=rows_of(task),
                              task=task, method="lora", augment="none", callbacks=[watcher])
    watcher.trainer = trainer
    names, heads = set(trainer.model.state_dict()), head_names(trainer.model)
    trainer.train()
    moved = {key for key in watcher.before if not torch.equal(watcher.before[key], watcher.after[key])}
    assert {key for key in moved if ".lora_" not in key} == heads and {key for key in moved if ".lora_B" in key}
    assert watcher.unchanged and set(trainer.model.state_dict()) == names and not adapters.has_adapters(trainer.model)
    # Adapter logits, those of the model saved in the stage's last step, and the merged ones.
    trainer.save_model(str(tmp_path / "after"))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(watcher.loss, abs=1e-5)
    for folder in (tmp_path / "inside", tmp_path / "after"):
        plain = auto.from_pretrained(folder)
        assert all(torch.allclose(value, trainer.model.state_dict()[key], atol=1e-6) for key, value in plain.state_dict().items())
        if name.startswith("timm"):
            network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            size = trainer.processing_class.data_config["input_size"]
            pixels = torch.randn(2, *size)
            with torch.no_grad():
                assert torch.allclose(network(pixels), trainer.model.eval()(pixels).logits, atol=1e-4)


def test_merged_logits_are_those_of_the_adapters(tmp_path):
    folder = bert_checkpoint(tmp_path / "bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = {"input_ids": torch.randint(5, 30, (4, 9))}
    adapters.insert(model, Recipe(model="m", data="d", method="lora", lora_rank=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.1)
        expected, plain = model(**batch).logits, adapters.merged_state(model)
        adapters.merge(model)
        assert torch.allclose(model(**batch).logits, expected, atol=1e-5)
    assert plain.keys() == model.state_dict().keys() and all(torch.allclose(value, plain[name]) for name, value in model.state_dict().items())
    assert not hasattr(model, "peft_config")


def test_rank_and_alpha_are_the_settings(tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(bert_checkpoint(tmp_path / "bert"))
    adapters.insert(model, Recipe(model="m", data="d", method="lora", lora_rank=3, lora_alpha=12.0))
    layer = model.bert.encoder.layer[0].attention.self.query
    assert layer.lora_A["default"].weight.shape == (3, 32) and layer.scaling["default"] == 4.0
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert")
    adapters.insert(again, Recipe(model="m", data="d", method="lora", lora_rank=5))
    assert again.bert.encoder.layer[0].attention.self.query.scaling["default"] == 2.0


@pytest.mark.parametrize("name", ["bert", "timm vit"])
def test_layer_decay_finds_the_blocks_of_the_adapters(tmp_path, name):
    task, checkpoint, auto = CASES[name]
    model = auto.from_pretrained(checkpoint(tmp_path))
    trained = adapters.insert(model, Recipe(model="m", data="d", method="lora"))
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key in trained)
    groups = parameter_groups(model, 1.0, 0.0, layer_decay=0.5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    found = {key: rates[id(parameter)] for key, parameter in model.named_parameters() if id(parameter) in rates}
    top, below = ("encoder.layer.1.", "encoder.layer.0.") if name == "bert" else ("blocks.5.", "blocks.4.")
    assert {rate for key, rate in found.items() if top in key} == {0.5}
    assert {rate for key, rate in found.items() if below in key} == {0.25}


def test_a_peft_model_of_the_callers_keeps_its_adapters(tmp_path):
    from peft import LoraConfig, get_peft_model

    folder = bert_checkpoint(tmp_path / "bert")
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(folder), LoraConfig(target_modules=["query"]))
    items = [{"input_ids": [2, 10 + index % 2, 3], "attention_mask": [1, 1, 1], "labels": index % 2} for index in range(8)]
    trainer = TransferTrainer(model=model, args=arguments(tmp_path / "out", eval_strategy="no"), train_dataset=items)
    trainer.train()
    assert any(".lora_A." in name for name in trainer.model.state_dict())
