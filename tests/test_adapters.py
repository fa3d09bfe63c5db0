"""LoRA: weights that stay, adapters that move, and a plain model when they are merged."""

import json

import datasets
import hfxfer
import pytest
import timm
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_models import bert_checkpoint, digits, digits_folder, gpt2_checkpoint, tag_rows, text_rows, timm_checkpoint, write_jsonl
from transformers import (AutoModelForImageClassification, AutoModelForSequenceClassification, AutoModelForTokenClassification, MobileNetV1Config,
                          MobileNetV1ForImageClassification, TimmWrapperConfig, TimmWrapperForImageClassification, TrainerCallback, TrainingArguments)

from hfxfer import TransferTrainer, adapters, methods
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
    folder = bert_checkpoint(tmp_path / "bert")
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(folder), LoraConfig(target_modules=["query"]))
    items = [{"input_ids": [2, 10 + index % 2, 3], "attention_mask": [1, 1, 1], "labels": index % 2} for index in range(8)]
    trainer = TransferTrainer(model=model, args=arguments(tmp_path / "out", eval_strategy="no"), train_dataset=items)
    trainer.train()
    assert any(".lora_A." in name for name in trainer.model.state_dict())


# --- the adapter alone -----------------------------------------------------------------------------------------------

SETTINGS = {"method": "lora", "keep_adapter": True, "num_train_epochs": 2, "learning_rate": 1e-2, "plan": "none", "per_device_train_batch_size": 8,
            "dataloader_num_workers": 0, "lora_rank": 4, "lora_alpha": 12.0}
KEPT = {"labels": ("bert", "rows.jsonl", AutoModelForSequenceClassification, "SEQ_CLS", ["bert.pooler", "classifier"]),
        "numbers": ("bert", "numbers.jsonl", AutoModelForSequenceClassification, "SEQ_CLS", ["bert.pooler", "classifier"]),
        "tags": ("bert", "tags.jsonl", AutoModelForTokenClassification, "TOKEN_CLS", ["classifier"]),
        "gpt2": ("gpt2", "rows.jsonl", AutoModelForSequenceClassification, "SEQ_CLS", ["score"]),
        "pictures": ("net", "digits", AutoModelForImageClassification, None, ["timm_model.classifier"])}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    bert_checkpoint(folder / "bert")
    gpt2_checkpoint(folder / "gpt2")
    timm_checkpoint(folder / "net", architecture="test_efficientnet")
    digits_folder(folder / "digits", train=8, validation=3, test=3)
    write_jsonl(folder / "rows.jsonl", text_rows(60))
    write_jsonl(folder / "tags.jsonl", tag_rows(60))
    write_jsonl(folder / "numbers.jsonl", [{"text": f"number {index} day {index % 9}", "label": 100.5 + 7 * (index % 9)} for index in range(60)])
    return folder


def logits(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        if model.config.model_type == "timm_wrapper":
            return model.eval()(pixel_values=torch.randn(4, 3, 32, 32)).logits
        return model.eval()(input_ids=torch.randint(5, 30, (4, 9)), attention_mask=torch.ones(4, 9, dtype=torch.long)).logits


def by_plain_peft(auto, base, merged, adapter):
    """The base checkpoint as anybody loads it, with the adapter on it."""
    model = auto.from_pretrained(base, num_labels=merged.config.num_labels, id2label=merged.config.id2label, ignore_mismatched_sizes=True)
    if hasattr(merged.config, "pad_token_id"):
        model.config.pad_token_id = merged.config.pad_token_id
    return PeftModel.from_pretrained(model, adapter)


def assert_same_logits(auto, base, folder):
    merged = auto.from_pretrained(folder)
    loaded, expected = by_plain_peft(auto, base, merged, folder / "adapter"), logits(merged)
    assert (logits(loaded) - expected).abs().max() <= 1e-5 * expected.abs().max()
    with loaded.disable_adapter():
        assert (logits(loaded) - expected).abs().max() > 1e-3 * expected.abs().max()
    return loaded


@pytest.mark.parametrize("name", KEPT)
def test_the_adapter_on_its_base_is_the_merged_model(place, tmp_path, name):
    base, data, auto, task_type, modules = KEPT[name]
    run = hfxfer.train(model=str(place / base), data=str(place / data), output_dir=str(tmp_path / "run"), **SETTINGS)
    folder = run.model_dir / "adapter"
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    loaded = assert_same_logits(auto, place / base, run.model_dir)
    config = json.loads((folder / "adapter_config.json").read_text())
    wanted = {"base_model_name_or_path": base, "revision": None, "task_type": task_type, "modules_to_save": modules, "inference_mode": True, "r": 4,
              "lora_alpha": 12.0, "peft_type": "LORA", "fan_in_fan_out": base == "gpt2",
              "target_modules": sorted(methods.adapter_targets(auto.from_pretrained(place / base)))}
    assert {key: config[key] for key in wanted} == wanted and str(place) not in (folder / "adapter_config.json").read_text()
    assert (config["auto_mapping"] or {}).get("base_model_class") == (None if task_type else "TimmWrapperForImageClassification")
    # peft writes the same file again.
    loaded.save_pretrained(tmp_path / "again")
    ours, theirs = (load_file(path / "adapter_model.safetensors") for path in (folder, tmp_path / "again"))
    assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert all(value.any() for key, value in ours.items() if ".lora_B" in key)


def test_after_a_kill_and_with_an_average_of_the_weights(place, tmp_path, monkeypatch):
    settings = {**SETTINGS, "model": str(place / "bert"), "data": str(place / "rows.jsonl"), "ema_decay": 0.9}
    step = TransferTrainer.training_step

    def killed(self, *given, **named):
        if self.state.global_step == 8:
            raise MemoryError("killed")
        return step(self, *given, **named)

    whole = hfxfer.train(**settings, output_dir=str(tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(TransferTrainer, "training_step", killed)
        hfxfer.train(**settings, output_dir=str(tmp_path / "killed"))
    resumed = hfxfer.train(hfxfer.Recipe.from_yaml(tmp_path / "killed" / "recipe.yaml"), resume=True)
    assert_same_logits(AutoModelForSequenceClassification, place / "bert", resumed.model_dir)
    first, second = (load_file(run.model_dir / "adapter" / "adapter_model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


class Saver(TrainerCallback):
    def __init__(self, folder):
        self.folder, self.trainer = folder, None

    def on_epoch_end(self, args, state, control, **unused):
        self.trainer.save_model(str(self.folder))


def test_a_script_gets_it_where_it_saves_its_model(place, tmp_path, capsys):
    saver = Saver(tmp_path / "inside")
    rows, args = rows_of("text-classification"), arguments(tmp_path / "out", num_train_epochs=1, save_strategy="epoch")
    trainer = TransferTrainer(model=str(place / "bert"), args=args, train_dataset=rows, eval_dataset=rows, task="text-classification", method="lora",
                              keep_adapter=True, callbacks=[saver])
    saver.trainer = trainer
    trainer.train()
    trainer.save_model(str(tmp_path / "after"))
    for folder in (tmp_path / "inside", tmp_path / "after"):
        assert_same_logits(AutoModelForSequenceClassification, place / "bert", folder)
        assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "bert"
    assert not list((tmp_path / "out").rglob("adapter*"))
    assert "adapter" not in capsys.readouterr().err
    trainer.train()
    trainer.save_model(str(tmp_path / "twice"))
    assert not (tmp_path / "twice" / "adapter").exists() and capsys.readouterr().err.endswith(
        "warning: the adapter is not saved alone: it was trained beside weights that hold an earlier training's adapter. "
        "Make a new TransferTrainer from the checkpoint, or leave out keep_adapter\n")


def test_a_hub_id_and_its_revision_are_the_base(tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(bert_checkpoint(tmp_path / "bert"))
    recipe = Recipe(model="m", data="d", method="lora")
    adapters.insert(model, recipe)
    adapters.merge(model).save(model, tmp_path / "adapter", {"id": "google-bert/bert-base-uncased", "revision": "abc1234"}, recipe)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("google-bert/bert-base-uncased", "abc1234")


def test_other_methods_say_that_it_has_no_effect(place, tmp_path, capsys):
    run = hfxfer.train(**{**SETTINGS, "method": "head"}, model=str(place / "bert"), data=str(place / "rows.jsonl"), output_dir=str(tmp_path / "run"))
    said = "hint: keep_adapter has no effect with method head: only lora makes an adapter\n"
    assert capsys.readouterr().err.count(said) == 1 and not (run.model_dir / "adapter").exists()
    TransferTrainer(model=str(place / "bert"), args=arguments(tmp_path / "out"), train_dataset=rows_of("text-classification"),
                    eval_dataset=rows_of("text-classification"), task="text-classification", method="head", keep_adapter=True)
    assert said in capsys.readouterr().err


def test_no_adapter_is_saved_that_plain_peft_cannot_use(place, capsys):
    network = MobileNetV1ForImageClassification(MobileNetV1Config(depth_multiplier=0.25, image_size=32))
    why = "no adapter is saved alone: MobileNetV1ForImageClassification reads off a convolution how to pad, and peft's adapters do not say it"
    assert methods.why_no_adapter(network) == why
    methods.stages(Recipe(model="m", data="d", method="lora", keep_adapter=True), network, 1.0)
    assert capsys.readouterr().err == f"warning: {why}. Leave out keep_adapter: model/ holds the merged weights either way\n"
    with pytest.raises(AttributeError, match="stride"):
        get_peft_model(network, LoraConfig(target_modules=methods.adapter_targets(network)))(torch.randn(1, 3, 32, 32))
    bert = AutoModelForSequenceClassification.from_pretrained(place / "bert")
    assert methods.why_no_adapter(bert) is None
    bert.bert.encoder.score = torch.nn.Linear(2, 2)
    why = "no adapter is saved alone: peft would take bert.encoder.score of BertForSequenceClassification for a part of the head"
    assert methods.why_no_adapter(bert) == why
    del bert.bert.encoder.score
    bert.logit_scale = torch.nn.Parameter(torch.ones(()))
    why = "logit_scale of the head of BertForSequenceClassification is in no module of its own, which peft's format wants"
    assert methods.why_no_adapter(bert) == f"no adapter is saved alone: {why}"


def test_convolutions_that_standardise_their_weights_take_no_adapter():
    model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture="test_nfnet", model_args={}, pretrained_cfg={"input_size": [3, 32, 32]}))
    assert not any(type(model.get_submodule(name)).__name__.startswith("ScaledStdConv2d") for name in methods.adapter_targets(model))
