"""Loading checkpoints: heads, sources, and what is refused."""

import json

import pytest
import torch
from tiny_models import bert_checkpoint, gpt2_checkpoint, timm_checkpoint

from hfxfer import models, tasks
from hfxfer.errors import ModelError
from hfxfer.methods import train_only
from hfxfer.recipe import Recipe
from hfxfer.tasks._task import Problem

IMAGE, TEXT, TOKENS = (tasks.get(f"{name}-classification") for name in ("image", "text", "token"))
THREE = Problem("single_label_classification", ("cat", "dog", "hen"))


def recipe(model, **settings):
    return Recipe(model=str(model), data="d", **settings)


def test_a_timm_body_is_kept_and_its_head_replaced(tmp_path):
    folder = timm_checkpoint(tmp_path / "net", classes=4)
    before = models.load(IMAGE, recipe(folder), Problem("single_label_classification", ("0", "1", "2", "3"))).model.state_dict()
    loaded = models.load(IMAGE, recipe(folder), THREE)
    after = loaded.model.state_dict()
    assert loaded.new_weights == ["timm_model.fc.bias", "timm_model.fc.weight"]
    assert all(torch.equal(before[name], after[name]) for name in before if ".fc." not in name)
    assert after["timm_model.fc.weight"].shape[0] == 3
    assert loaded.model.config.id2label == {0: "cat", 1: "dog", 2: "hen"}


def test_a_head_for_the_same_labels_is_kept_and_one_for_others_is_not(tmp_path):
    folder = timm_checkpoint(tmp_path / "net", classes=3)
    same = models.load(IMAGE, recipe(folder), Problem("single_label_classification", ("0", "1", "2")))
    other = models.load(IMAGE, recipe(folder), THREE)
    assert same.new_weights == []
    assert other.new_weights == ["timm_model.fc.bias", "timm_model.fc.weight"]
    assert not torch.equal(same.model.timm_model.fc.weight, other.model.timm_model.fc.weight)


@pytest.mark.parametrize(("metadata", "expected"), [
    ("license: Apache-2.0\nlicense_link: https://example.org/L", {"license": "apache-2.0", "license_link": "https://example.org/L"}),
    ("language: en", {}), ("license: [", {})])
def test_the_licence_of_the_checkpoint_is_what_its_card_says(tmp_path, capsys, metadata, expected):
    folder = timm_checkpoint(tmp_path / "net")
    assert "license" not in models.load(IMAGE, recipe(folder), THREE).base
    (folder / "README.md").write_text(f"---\n{metadata}\n---\n# A network\n", encoding="utf-8")
    base = models.load(IMAGE, recipe(folder), THREE).base
    assert {name: value for name, value in base.items() if name.startswith("license")} == expected
    assert ("card are broken" in capsys.readouterr().err) == metadata.endswith("[")


def test_the_new_head_is_a_function_of_the_seed(tmp_path):
    folder = bert_checkpoint(tmp_path / "bert")
    first, again, other = (models.load(TEXT, recipe(folder, seed=seed), THREE).model.classifier.weight for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_timm_layout_loads_with_model_args_and_num_classes(tmp_path):
    folder = timm_checkpoint(tmp_path / "net", classes=3, channels=1)
    config = json.loads((folder / "config.json").read_text())
    timm_layout = {"architecture": config["architecture"], "num_classes": 3, "label_names": ["x", "y", "z"],
                   "model_args": {"in_chans": 1, "num_classes": 3}, "pretrained_cfg": config["pretrained_cfg"]}
    (folder / "config.json").write_text(json.dumps(timm_layout))
    loaded = models.load(IMAGE, recipe(folder), Problem("single_label_classification", ("x", "y", "z")))
    assert loaded.new_weights == []
    assert loaded.model(torch.zeros(1, 1, 32, 32)).logits.shape == (1, 3)


def test_saved_timm_model_gives_equal_logits_in_transformers_and_timm(tmp_path):
    import timm
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    loaded = models.load(IMAGE, recipe(timm_checkpoint(tmp_path / "net")), THREE)
    # Logits of a size at which a difference would show: those of a random network are next to 0.
    torch.nn.init.normal_(loaded.model.timm_model.fc.weight, std=1e5)
    models.save(loaded.model, loaded.processor, tmp_path / "saved")
    picture = torch.rand(2, 3, 32, 32)
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    other = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    with torch.no_grad():
        expected = loaded.model.eval()(picture).logits
        assert expected.abs().max() > 0.1
        assert torch.allclose(plain(picture).logits, expected, atol=1e-5)
        assert torch.allclose(other(picture), expected, atol=1e-5)
    assert plain.config.id2label == {0: "cat", 1: "dog", 2: "hen"}
    processor = AutoImageProcessor.from_pretrained(tmp_path / "saved")
    assert tuple(processor.data_config["mean"]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("architecture", ["resnet18.tv_in1k", "vgg11.tv_in1k", "densenet121.tv_in1k"])
def test_torchvision_state_dicts_load_through_timm(tmp_path, architecture):
    import torchvision

    torch.manual_seed(0)
    net = getattr(torchvision.models, architecture.split(".")[0])(num_classes=7).eval()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    loaded = models.load(IMAGE, recipe(tmp_path / "weights.pth", architecture=architecture), THREE)
    assert loaded.processor.data_config["mean"] == (0.485, 0.456, 0.406)
    assert len({name.rpartition(".")[0] for name in loaded.new_weights}) == 1
    assert len(loaded.new_weights) == 2
    first = next(p for n, p in loaded.model.named_parameters() if p.ndim == 4)
    assert torch.equal(first, next(p for p in net.parameters() if p.ndim == 4))


def test_a_state_dict_of_another_network_is_refused_with_the_number_of_keys(tmp_path):
    import torchvision

    torch.save(torchvision.models.mobilenet_v2(num_classes=5).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"does not fit mobilenetv2_100.ra_in1k: \d+ keys do not match"):
        models.load(IMAGE, recipe(tmp_path / "weights.pth", architecture="mobilenetv2_100.ra_in1k"), THREE)


def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"\x80\x04N.")
    with pytest.raises(ModelError, match="cannot read .* as a state dict"):
        models.load(IMAGE, recipe(tmp_path / "weights.pth", architecture="resnet18.tv_in1k"), THREE)


def test_an_unknown_architecture_is_refused_with_near_ones(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(ModelError, match="timm has no architecture 'resnet1'"):
        models.load(IMAGE, recipe(tmp_path / "weights.pth", architecture="resnet1"), THREE)


def test_a_weights_file_without_architecture_says_what_is_missing(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(ModelError, match="--architecture resnet50.tv_in1k"):
        models.load(IMAGE, recipe(tmp_path / "weights.pth"), THREE)


def test_bodies_that_do_not_match_their_config_are_an_error(tmp_path):
    folder = bert_checkpoint(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"16 of \d+ weights of the body"):
        models.load(TEXT, recipe(folder), THREE)


@pytest.mark.parametrize("text, message", [("{", "is broken"), ("[]", "expected an object")])
def test_broken_configs_are_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        models.load(TEXT, recipe(tmp_path), THREE)


def test_a_model_that_does_not_fit_the_task_is_refused(tmp_path):
    with pytest.raises(ModelError, match="does not fit the task image-classification"):
        models.load(IMAGE, recipe(bert_checkpoint(tmp_path / "bert")), THREE)
    with pytest.raises(ModelError, match="is an image model; task text-classification"):
        models.load(TEXT, recipe(timm_checkpoint(tmp_path / "net")), THREE)


def test_a_missing_model_names_both_ways(tmp_path):
    with pytest.raises(ModelError, match="model folder .*missing does not exist"):
        models.load(TEXT, recipe(tmp_path / "missing"), THREE)
    with pytest.raises(ModelError, match="cannot load nobody/nothing: it is no local folder"):
        models.load(TEXT, recipe("nobody/nothing"), THREE)


def test_a_tokenizer_without_its_files_is_refused(tmp_path):
    """transformers 5.23 makes one up, in which every word is unknown."""
    folder = bert_checkpoint(tmp_path / "bert")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError) as raised:
        models.load(TEXT, recipe(folder), THREE)
    assert str(raised.value) == (f"the tokenizer of {folder} knows no words: its vocabulary (tokenizer.json, vocab.txt or the like) is not there. "
                                 "It belongs beside the model: tokenizer.save_pretrained")


def test_gpt2_gets_a_padding_token_in_tokenizer_and_config(tmp_path):
    loaded = models.load(TEXT, recipe(gpt2_checkpoint(tmp_path / "gpt2")), THREE)
    assert loaded.processor.pad_token == "<|endoftext|>"
    assert loaded.model.config.pad_token_id == loaded.processor.pad_token_id == 0
    assert loaded.new_weights == ["score.weight"]


def test_a_dropout_that_forbids_learning_is_noticed(tmp_path, capsys):
    folder = bert_checkpoint(tmp_path / "bert", classifier_dropout=0.999)
    loaded = models.load(TEXT, recipe(folder), THREE)
    assert (loaded.model.config.classifier_dropout, loaded.model.dropout.p) == (0.2, 0.2)
    assert "classifier_dropout is 0.999: a new head would hardly learn. Using 0.2" in capsys.readouterr().err
    assert models.load(TEXT, recipe(folder, classifier_dropout=0.5), THREE).model.dropout.p == 0.5


def test_mobilenet_v1_default_dropout_is_noticed(tmp_path, capsys):
    from transformers import MobileNetV1Config, MobileNetV1ForImageClassification, MobileNetV1ImageProcessor

    MobileNetV1ForImageClassification(MobileNetV1Config(depth_multiplier=0.25, image_size=32, num_labels=4)).save_pretrained(tmp_path)
    MobileNetV1ImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    loaded = models.load(IMAGE, recipe(tmp_path), THREE)
    assert loaded.model.dropout.p == 0.2
    assert "classifier_dropout_prob is 0.999" in capsys.readouterr().err


def test_frozen_body_keeps_weights_and_batch_norm_statistics(tmp_path):
    model = models.load(IMAGE, recipe(timm_checkpoint(tmp_path / "net")), THREE).model
    train_only(model, models.head_names(model))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    model(torch.rand(4, 3, 32, 32), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"timm_model.fc.weight", "timm_model.fc.bias"}


def test_frozen_bert_trains_pooler_and_classifier_without_dropout_in_the_body(tmp_path):
    model = models.load(TEXT, recipe(bert_checkpoint(tmp_path / "bert")), THREE).model
    train_only(model, models.head_names(model))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
    model.train()
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]])}
    seen = []
    model.bert.encoder.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    model(**inputs), model(**inputs)
    assert torch.equal(*seen)
    assert model.dropout.training


def test_a_multi_label_head_starts_at_the_rates_of_its_labels(tmp_path):
    problem = Problem("multi_label_classification", ("a", "b", "c"))
    model = models.load(TEXT, recipe(bert_checkpoint(tmp_path / "bert")), problem).model
    models.start_at_label_rates(model, problem, [["a"], ["a", "b"], ["a"], []])
    # (counts 3, 1, 0 + 0.5) / 5 as log-odds.
    assert model.classifier.bias.tolist() == pytest.approx([0.8473, -0.8473, -2.1972], abs=1e-4)


def test_regression_is_folded_into_the_users_units(tmp_path):
    problem = Problem("regression", (), target_mean=50.0, target_scale=4.0)
    model = models.load(TEXT, recipe(bert_checkpoint(tmp_path / "bert")), problem).model.eval()
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]])}
    with torch.no_grad():
        standard = model(**inputs).logits
        assert models.in_users_units(model, problem) == Problem("regression")
        assert torch.allclose(model(**inputs).logits, standard * 4 + 50, atol=1e-4)


@pytest.mark.parametrize("architecture", ["dla34", "deit_tiny_distilled_patch16_224"])
def test_heads_that_are_convolutions_or_two_are_replaced_and_alone_trained(tmp_path, architecture):
    import timm

    net = timm.create_model(architecture, num_classes=5)
    timm.models.save_for_hf(net, tmp_path)
    loaded = models.load(IMAGE, recipe(tmp_path), THREE)
    heads = models.head_names(loaded.model)
    assert set(loaded.new_weights) == heads and len(heads) == 2 * len(models.logit_layers(loaded.model))
    train_only(loaded.model, models.head_names(loaded.model))
    assert {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad} == heads


def test_the_head_of_clip_is_not_the_whole_network(tmp_path):
    from transformers import CLIPConfig, CLIPForImageClassification, CLIPImageProcessor

    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPForImageClassification(CLIPConfig(vision_config={**tiny, "image_size": 32, "patch_size": 16}, text_config=tiny)).save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model = models.load(IMAGE, recipe(tmp_path), THREE).model
    assert models.head_names(model) == {"classifier.weight", "classifier.bias"}


def test_a_checkpoint_without_a_trained_head_does_not_predict(tmp_path):
    with pytest.raises(ModelError, match="has no trained head for text-classification: classifier.bias"):
        models.load_trained(str(bert_checkpoint(tmp_path)), TEXT)


def test_a_damaged_fine_tuned_model_does_not_predict(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = timm_checkpoint(tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if ".layer3." not in name}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="of the body of .* did not match"):
        models.load_trained(str(folder), IMAGE)


def test_a_config_with_fewer_layers_than_the_weights_is_an_error(tmp_path):
    folder = bert_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(ModelError, match="of the body of"):
        models.load(TEXT, recipe(folder), THREE)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "densenet121"])
def test_torchvision_safetensors_load_too(tmp_path, name):
    import torchvision
    from safetensors.torch import save_file

    net = getattr(torchvision.models, name)(num_classes=7)
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    assert len(models.load(IMAGE, recipe(tmp_path / "weights.safetensors", architecture=f"{name}.tv_in1k"), THREE).new_weights) == 2


def test_dropout_is_set_and_noticed_in_timm(tmp_path, capsys):
    folder = timm_checkpoint(tmp_path)
    assert models.load(IMAGE, recipe(folder, classifier_dropout=0.5), THREE).model.timm_model.drop_rate == 0.5
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_args": {"drop_rate": 0.99}}))
    assert models.load(IMAGE, recipe(folder), THREE).model.timm_model.drop_rate == 0.2
    assert "drop_rate is 0.99" in capsys.readouterr().err
