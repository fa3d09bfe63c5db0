"""Rates and weight decay per parameter, as published and as timm has them, and what the trainer's optimizer gets."""

import datasets
import pytest
import torch
from tiny_models import bert_checkpoint, text_rows, timm_checkpoint
from transformers import (AutoModelForSequenceClassification, TimmWrapperForImageClassification, TrainingArguments, ViTConfig,
                          ViTForImageClassification)

from hfxfer import TransferTrainer
from hfxfer.rates import parameter_groups, undecayed
from hfxfer.recipe import Recipe


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return bert_checkpoint(tmp_path_factory.mktemp("bert"))


def by_name(model, groups):
    """name → (rate, weight decay); a parameter in two groups fails."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [(names[id(parameter)], (group["lr"], group["weight_decay"])) for group in groups for parameter in group["params"]]
    assert len(dict(listed)) == len(listed)
    return dict(listed)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "mobilenetv3_small_050"])
def test_timm_networks_get_exactly_timms_rates_and_decay(tmp_path, architecture):
    from timm.optim import param_groups_layer_decay

    model = TimmWrapperForImageClassification.from_pretrained(timm_checkpoint(tmp_path, architecture=architecture))
    network = model.timm_model
    spared = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    timms = param_groups_layer_decay(network, 0.05, no_weight_decay_list=spared, layer_decay=0.7)
    expected = by_name(model, [{**group, "lr": 0.01 * group["lr_scale"]} for group in timms])
    assert by_name(model, parameter_groups(model, 0.01, 0.05, layer_decay=0.7)) == expected


def test_a_block_lower_is_a_power_more(bert):
    model = AutoModelForSequenceClassification.from_pretrained(bert)
    found = by_name(model, parameter_groups(model, 1.0, 0.1, layer_decay=0.5, head_lr_multiplier=3.0))
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert found["classifier.weight"] == found["bert.pooler.dense.weight"] == (3.0, 0.1)
    assert found["bert.encoder.layer.1.output.dense.weight"] == (0.5, 0.1)
    assert found["bert.encoder.layer.0.output.dense.weight"] == (0.25, 0.1)
    assert found["bert.embeddings.word_embeddings.weight"] == (0.125, 0.1)
    assert found["bert.embeddings.LayerNorm.weight"] == found["bert.embeddings.LayerNorm.bias"] == (0.125, 0.0)


def test_frozen_parameters_are_in_no_group_and_the_first_rate_is_the_heads(bert):
    model = AutoModelForSequenceClassification.from_pretrained(bert)
    model.bert.embeddings.requires_grad_(False)
    groups = parameter_groups(model, 1.0, 0.1, layer_decay=0.5)
    assert groups[0]["lr"] == 1.0
    assert not any(name.startswith("bert.embeddings") for name in by_name(model, groups))


def test_l2_sp_leaves_weight_decay_to_the_head(bert):
    model = AutoModelForSequenceClassification.from_pretrained(bert)
    found = by_name(model, parameter_groups(model, 1.0, 0.1, body_decays=False))
    assert {name for name, (_, decay) in found.items() if decay} == {"classifier.weight", "bert.pooler.dense.weight"}


def test_norms_biases_and_tokens_do_not_decay():
    model = ViTForImageClassification(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16,
                                                patch_size=8))
    spared = undecayed(model)
    assert {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings", "vit.layernorm.weight", "classifier.bias"} <= spared
    assert {name for name, parameter in model.named_parameters() if parameter.ndim > 1} - spared == {
        name for name, _ in model.named_parameters() if name.endswith(".weight") and "norm" not in name}


def trainer(folder, checkpoint, recipe=None, kind=TransferTrainer, optimizers=(None, None), optimizer=None, **settings):
    args = TrainingArguments(**{"output_dir": str(folder), "use_cpu": True, "report_to": "none", "disable_tqdm": True, "weight_decay": 0.1,
                                "learning_rate": 1e-3, "save_strategy": "no", "per_device_train_batch_size": 8, **settings})
    changed = Recipe(model=str(checkpoint), data="given", method="full", **(recipe or {}))
    return kind(model=str(checkpoint), args=args, train_dataset=datasets.Dataset.from_list(text_rows(16)), task="text-classification",
                recipe=changed, optimizers=optimizers, optimizer_cls_and_kwargs=optimizer)


def test_the_trainers_optimizer_has_these_groups_and_the_schedule_scales_each(tmp_path, bert):
    made = trainer(tmp_path, bert, {"layer_decay": 0.5, "head_lr_multiplier": 2.0}, lr_scheduler_type="linear", max_steps=4)
    made.create_optimizer_and_scheduler(4)
    assert type(made.optimizer) is torch.optim.AdamW and made.optimizer_cls_and_kwargs is None
    first = by_name(made.model, made.optimizer.param_groups)
    assert first["classifier.weight"] == (2e-3, 0.1) and first["bert.encoder.layer.0.output.dense.weight"] == (2.5e-4, 0.1)
    made.optimizer.step(), made.lr_scheduler.step()
    assert by_name(made.model, made.optimizer.param_groups) == {name: (pytest.approx(rate * 0.75), decay) for name, (rate, decay) in first.items()}


def test_by_default_only_norms_and_biases_do_not_decay(tmp_path):
    """Trainer's own grouping decays batch norm's weights."""
    import timm.layers

    model = TimmWrapperForImageClassification.from_pretrained(timm_checkpoint(tmp_path))
    groups = parameter_groups(model, 1e-3, 0.1)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1e-3, 0.1), (1e-3, 0.0)]
    found = by_name(model, groups)
    norms = [name for name, module in model.named_modules() if isinstance(module, (torch.nn.BatchNorm2d, timm.layers.BatchNormAct2d))]
    assert norms and all(found[f"{name}.weight"][1] == 0.0 for name in norms)


def test_the_callers_optimizers_stay(tmp_path, bert):
    model = AutoModelForSequenceClassification.from_pretrained(bert)
    own = torch.optim.SGD(model.parameters(), lr=0.3)
    made = trainer(tmp_path, bert, optimizers=(own, None))
    assert made.create_optimizer() is own
    # A class with settings keeps its own rate, and hfxfer's groups scale it.
    made = trainer(tmp_path, bert, {"layer_decay": 0.5}, optimizer=(torch.optim.SGD, {"lr": 0.2}))
    found = by_name(made.model, made.create_optimizer().param_groups)
    assert type(made.optimizer) is torch.optim.SGD and found["bert.encoder.layer.1.output.dense.weight"] == (0.1, 0.1)
    # Groups of the caller's win.
    chosen = list(model.classifier.parameters())
    made = trainer(tmp_path, bert, optimizer=(torch.optim.SGD, {"lr": 0.2, "params": chosen}))
    assert [len(group["params"]) for group in made.create_optimizer().param_groups] == [2]


def test_an_overridden_choice_of_what_decays_stays(tmp_path, bert):
    class Mine(TransferTrainer):
        def get_decay_parameter_names(self, model):
            return ["classifier.bias"]

    made = trainer(tmp_path, bert, kind=Mine)
    found = by_name(made.model, made.create_optimizer().param_groups)
    assert {name for name, (_, decay) in found.items() if decay} == {"classifier.bias"}


def test_optim_is_respected(tmp_path, bert):
    made = trainer(tmp_path, bert, {"layer_decay": 0.5}, optim="adafactor")
    assert type(made.create_optimizer()).__name__ == "Adafactor"
    assert by_name(made.model, made.optimizer.param_groups)["bert.encoder.layer.1.output.dense.weight"] == (5e-4, 0.1)


def test_adapters_of_peft_get_the_rate_of_their_block(bert):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(AutoModelForSequenceClassification.from_pretrained(bert), LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    groups = parameter_groups(wrapped, 1.0, 0.0, layer_decay=0.5)
    found = by_name(wrapped.get_base_model(), groups)
    assert found["bert.encoder.layer.0.attention.self.query.lora_A.default.weight"] == (0.25, 0.0)
    assert found["classifier.modules_to_save.default.weight"] == (1.0, 0.0)
    assert len(found) == sum(parameter.requires_grad for parameter in wrapped.parameters())
