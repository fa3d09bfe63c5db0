"""Methods: what auto chooses, the stages of each, what is frozen, and what is refused."""

import datasets
import pytest
import torch
from tiny_models import bert_checkpoint, text_rows, timm_checkpoint
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer, ResNetConfig, TrainingArguments

from hfxfer import TransferTrainer, methods
from hfxfer.errors import ModelError, RecipeError
from hfxfer.models import head_names
from hfxfer.recipe import Recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    bert_checkpoint(folder / "bert")
    for name in ("test_resnet", "test_efficientnet", "test_vit"):
        timm_checkpoint(folder / name, architecture=name, size=160 if name == "test_vit" else 32)
    return folder


@pytest.fixture
def bert(place):
    return AutoModelForSequenceClassification.from_pretrained(place / "bert")


def network(place, name):
    return AutoModelForImageClassification.from_pretrained(place / name)


def recipe(**settings):
    return Recipe(model="m", data="d", **settings)


@pytest.mark.parametrize(("rows", "classes", "millions", "image", "accelerator", "method"), [
    (49, 2, 10, True, True, "head"), (50, 2, 10, True, True, "lp-ft"), (50, 7, 10, True, True, "head"), (56, 7, 10, True, False, "lp-ft"),
    (49, 1, 10, False, True, "head"), (50, 1, 10, False, False, "full"), (5000, 2, 101, False, False, "head"), (5000, 2, 100, False, False, "full"),
    (5000, 2, 101, True, True, "lp-ft"), (5000, 2, 301, True, True, "lora"), (5000, 2, 301, False, True, "lora"), (5000, 2, 301, False, False, "head")])
def test_what_auto_chooses(rows, classes, millions, image, accelerator, method):
    assert methods.choose(rows, classes, int(millions * 1e6), image, accelerator)[0] == method


@pytest.mark.parametrize(("given", "rule"), [
    ((40, 2, 10**7, True, False), "40 training rows, 20 a class: fewer than 50, or than 8 a class, teach a head but not a body"),
    ((400, 2, 2 * 10**8, True, False), "200 M parameters on a CPU: above 100 M only the head is trained, on cached features"),
    ((400, 2, 4 * 10**8, False, True), "400 M parameters: above 300 M adapters are trained instead of all weights"),
    ((400, 2, 3_500_000, True, False), "pictures, 400 training rows, 200 a class: first the head, then everything from there"),
    ((400, 2, 22_700_000, False, False), "text, 400 training rows, 22.7 M parameters: everything is trained")])
def test_the_rule_of_auto_in_words(given, rule):
    assert methods.choose(*given)[1] == rule


def test_auto_is_settled_and_told_in_a_script(place, tmp_path, capsys):
    def trainer(**named):
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=5)
        return TransferTrainer(args=args, method="auto", **named)

    rows = datasets.Dataset.from_list(text_rows(60))
    assert trainer(model=str(place / "bert"), train_dataset=rows, task="text-classification").recipe.method == "full"
    assert "method full: text, 60 training rows, 0.0223 M parameters: everything is trained" in capsys.readouterr().err
    items = [{"input_ids": [2, 10, 3], "attention_mask": [1, 1, 1], "labels": 0}] * 20
    model = AutoModelForSequenceClassification.from_pretrained(place / "bert")
    assert trainer(model=model, train_dataset=items).recipe.method == "head"

    def stream():
        yield from items

    assert trainer(model=model, train_dataset=datasets.IterableDataset.from_generator(stream)).recipe.method == "full"
    with pytest.raises(RecipeError, match="model_init is given and method is auto, which may choose stages. Say which: method='full' or 'head'"):
        trainer(model_init=lambda: model, train_dataset=rows, task="text-classification", processing_class=AutoTokenizer.from_pretrained(place / "bert"))


def test_the_stages_of_each_method(bert):
    heads, everything = frozenset(head_names(bert)), frozenset(name for name, _ in bert.named_parameters())
    assert methods.stages(recipe(method="full"), bert, 3) == (methods.Stage(everything, 3),)
    assert methods.stages(recipe(method="head"), bert, 3) == (methods.Stage(heads, 3, cached=True),)
    assert methods.stages(recipe(method="lora"), bert, 3) == (methods.Stage(heads, 3, adapters=True),)
    assert methods.stages(recipe(method="lp-ft", head_epochs=2.5), bert, 3) == (
        methods.Stage(heads, 2.5, name="stage-1-head", learning_rate=5e-3, cached=True), methods.Stage(everything, 3, first_epoch=3))


def test_gradual_unfreezes_all_in_the_first_half_and_no_stage_repeats_anothers_order(bert):
    """Two layers and the embeddings, which are a part too: three parts, at 0, 1 and 2 of 6 epochs."""
    first, *rest = methods.stages(recipe(method="gradual", head_epochs=2), bert, 6.0)
    assert [(stage.name, stage.epochs, stage.first_epoch, stage.schedule, stage.chooses) for stage in rest] == [
        ("stage-2-unfrozen", 1.0, 2, (0.0, 6.0), False), ("stage-3-unfrozen", 1.0, 3, (1.0, 6.0), False), ("", 4.0, 4, (2.0, 6.0), True)]
    assert first.trained < rest[0].trained < rest[1].trained < rest[2].trained == {name for name, _ in bert.named_parameters()}
    assert {name.split(".")[3] for name in rest[0].trained - first.trained} == {"1"}


def test_gradual_with_a_later_first_block_goes_on_with_the_head(bert):
    stages = methods.stages(recipe(method="gradual", head_epochs=1, unfreeze_epochs=[1.0]), bert, 3.0)
    assert [(stage.name, stage.cached, stage.epochs) for stage in stages] == [
        ("stage-1-head", True, 1), ("stage-2-unfrozen", True, 1.0), ("", False, 2.0)]
    assert stages[0].trained == stages[1].trained


@pytest.mark.parametrize(("epochs", "message"), [
    ([2, 1], "unfreeze_epochs is 2 1; allowed: rising numbers from 0 to below num_train_epochs (3)"),
    ([1, 1], "unfreeze_epochs is 1 1; allowed: rising"), ([], "unfreeze_epochs is empty; allowed: rising"), ([-1, 1], "unfreeze_epochs is -1 1; allowed"),
    ([0, 3], "unfreeze_epochs is 0 3; allowed: rising numbers from 0 to below num_train_epochs (3)"),
    ([0, 0.5, 1, 1.5], "unfreeze_epochs has 4 entries, but the body has 3 blocks. Give at most one entry a block")])
def test_faults_of_unfreeze_epochs(bert, epochs, message):
    with pytest.raises(RecipeError) as error:
        methods.stages(recipe(method="gradual", unfreeze_epochs=epochs), bert, 3.0)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("freeze", [1, ["bert.encoder.layer.0.*", "bert.embeddings.*"]])
def test_freeze_holds_in_every_stage(bert, freeze):
    for method in ("full", "lp-ft", "gradual"):
        for stage in methods.stages(recipe(method=method, freeze=freeze), bert, 4.0):
            assert not any("layer.0." in name or "embeddings" in name for name in stage.trained)
        assert any("layer.1." in name for name in stage.trained)


@pytest.mark.parametrize(("settings", "message"), [
    ({"method": "head", "freeze": 1}, "freeze is set and method is head, which keeps the whole body frozen anyway. Leave it out, or use method full, lp-ft or gradual"),
    ({"method": "lora", "freeze": 1}, "freeze is set and method is lora, which keeps"),
    ({"method": "lp-ft", "freeze": ["classifier*", "*pooler*"]}, "method is lp-ft, which trains the head, and all of it is frozen (freeze, or requires_grad). "
                                                                 "Leave the head out there, or use method full"),
    ({"method": "gradual", "freeze": ["bert.e*"]}, "method is gradual, which unfreezes the body, and freeze keeps all of it frozen. Leave out freeze, or use "
                                                   "method head")])
def test_what_is_refused(bert, settings, message):
    with pytest.raises(RecipeError) as error:
        methods.stages(recipe(**settings), bert, 3.0)
    assert str(error.value).startswith(message)


def test_a_part_of_the_head_may_be_frozen_for_good(bert):
    first, second = methods.stages(recipe(method="lp-ft", freeze=["*pooler*"]), bert, 3.0)
    assert first.trained == {"classifier.weight", "classifier.bias"} and not any("pooler" in name for name in second.trained)


def test_a_body_without_places_for_adapters_is_refused():
    model = AutoModelForImageClassification.from_config(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
    assert methods.adapter_targets(model) == []
    with pytest.raises(RecipeError, match="method is lora, and the body of ResNetForImageClassification has no layer that takes an adapter "
                                          r"\(linear, or a 1 × 1 convolution without stride\). Use method full, lp-ft or head"):
        methods.stages(recipe(method="lora"), model, 3.0)


def test_a_model_whose_head_is_not_known_is_refused():
    with pytest.raises(ModelError, match="method is head, and Linear is no model of transformers or timm, so which part is its head is not known. "
                                         "Use method='full', or a model of theirs"):
        methods.stages(recipe(method="head"), torch.nn.Linear(2, 2), 3.0)


def test_adapters_stand_beside_linear_layers_and_pointwise_convolutions_of_the_body(place, bert):
    assert len(methods.adapter_targets(bert)) == 2 * 6 and not any("pooler" in name or "classifier" in name for name in methods.adapter_targets(bert))
    model = network(place, "test_efficientnet")
    found = [model.get_submodule(name) for name in methods.adapter_targets(model)]
    assert found and all(module.kernel_size == module.stride == (1, 1) and module.groups == 1 for module in found)

    class Attention(torch.nn.Module):
        base_model_prefix = "body"

        def __init__(self):
            super().__init__()
            self.body = torch.nn.ModuleDict({"attention": torch.nn.MultiheadAttention(8, 2), "dense": torch.nn.Linear(8, 8)})
            self.classifier = torch.nn.Linear(8, 2)

    assert methods.adapter_targets(Attention()) == ["body.dense"]


def in_training(model, trained):
    """Modules in training mode during a step, by name."""
    methods.train_only(model, trained)
    seen = []
    handle = model.register_forward_pre_hook(lambda module, inputs: seen.extend(name for name, each in module.named_modules() if each.training))
    model.train()
    try:
        model(torch.randn(2, 3, 160, 160)) if model.main_input_name == "pixel_values" else model(input_ids=torch.ones(2, 4, dtype=torch.long))
    finally:
        handle.remove()
    return set(seen)


def test_dropout_and_batch_norm_of_a_frozen_body_stand_still_and_the_heads_dropout_does_not(place, bert):
    found = in_training(bert, head_names(bert))
    assert "dropout" in found and not any(name.startswith(("bert.encoder", "bert.embeddings")) for name in found)
    model = network(place, "test_vit")
    found = in_training(model, head_names(model))
    assert {"timm_model.head", "timm_model.head_drop"} <= found
    assert not {"timm_model.pos_drop", "timm_model.norm", "timm_model.blocks.0", "timm_model.blocks.0.attn.attn_drop"} & found
    model = network(place, "test_resnet")
    found = in_training(model, head_names(model))
    assert "timm_model.fc" in found and not any(isinstance(model.get_submodule(name), torch.nn.BatchNorm2d) for name in found)


def test_a_block_that_is_trained_keeps_its_dropout_and_statistics(bert):
    trained = {name for name, _ in bert.named_parameters() if "layer.1." in name} | head_names(bert)
    found = in_training(bert, trained)
    assert "bert.encoder.layer.1.attention.self.dropout" in found and "bert.encoder.layer.0.attention.self.dropout" not in found


def test_train_only_is_undone_by_thaw(bert):
    methods.train_only(bert, head_names(bert))
    assert methods.trainable_parameters(bert)[0] == 32 * 32 + 32 + 32 * 2 + 2
    methods.thaw(bert)
    assert all(parameter.requires_grad for parameter in bert.parameters()) and not bert._forward_pre_hooks


def test_auto_trains_everything_where_freeze_says_what_stands_still(capsys):
    model = torch.nn.Linear(2, 2)
    model.base_model_prefix = ""
    recipe = Recipe(model="m", data="d", freeze=["*.bias"])
    assert methods.settle(recipe, None, range(10), model).method == "full"
    assert "method full: freeze says what stands still: everything else is trained" in capsys.readouterr().err


def test_auto_trains_everything_where_the_head_is_not_known(capsys):
    assert methods.settle(Recipe(model="m", data="d"), None, range(10), torch.nn.Linear(2, 2)).method == "full"
    assert "method full: which part of Linear is its head is not known: everything is trained" in capsys.readouterr().err
