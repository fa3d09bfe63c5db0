"""Where the body ends and the head begins: found on tiny models of many architectures, and run without the body."""

import pytest
import torch
import transformers
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoModelForTokenClassification

from hfxfer.boundary import boundary_batch, find

TEXT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=64, max_position_embeddings=40)
VIT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=16)
BART = dict(vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48,
            decoder_ffn_dim=48, max_position_embeddings=40, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2)
GPT2 = dict(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=40, pad_token_id=0, bos_token_id=1, eos_token_id=1)

SEQUENCES = {
    "Bert": (TEXT, "bert/first/1"), "Roberta": (TEXT, "roberta/first/1"), "Albert": ({**TEXT, "embedding_size": 16}, "albert/first/1"),
    "DistilBert": (dict(dim=32, hidden_dim=48, n_layers=2, n_heads=2, vocab_size=64), "distilbert/first/1"), "DebertaV2": (TEXT, "deberta/first/1"),
    "GPT2": (GPT2, "transformer/last_attended/1"), "Llama": ({**TEXT, "pad_token_id": 0}, "model/last_attended/1"), "Bart": (BART, "model/last_attended/1")}
PICTURES = {
    "ViT": (VIT, "vit/first/1"), "Beit": (VIT, "beit/all/1"), "ResNet": (dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]), "resnet/pooled/1"),
    "MobileNetV1": (dict(depth_multiplier=0.1, min_depth=8), "mobilenet_v1/pooled/1"), "CLIP": (dict(vision_config=VIT), "vision_model/all/1")}


def built(auto, name, settings):
    torch.manual_seed(0)
    return auto.from_config(getattr(transformers, f"{name}Config")(**settings, num_labels=3))


def timm_model(architecture, **arguments):
    torch.manual_seed(0)
    return transformers.TimmWrapperForImageClassification(transformers.TimmWrapperConfig(architecture=architecture, model_args=arguments, num_labels=3))


def texts():
    """Six texts of 3 to 9 tokens that end in token 2, padded on the right."""
    torch.manual_seed(0)
    lengths = torch.tensor([3, 5, 9, 9, 7, 4])
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(5, 60, (6, 9)) * mask
    ids[torch.arange(6), lengths - 1] = 2
    return {"input_ids": ids, "attention_mask": mask}


def logits_both_ways(model, batch, boundary):
    with torch.no_grad():
        whole = model.eval()(**batch).logits
        replaced = boundary_batch(boundary, boundary.features(model, batch), batch)
        with boundary.replaying(model):
            alone = model(**replaced).logits
    return whole, alone


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_enters_a_heads_of_texts(name):
    settings, expected = SEQUENCES[name]
    model, batch = built(AutoModelForSequenceClassification, name, settings), texts()
    boundary = find(model, batch)
    assert boundary.describe() == expected
    assert torch.allclose(*logits_both_ways(model, batch, boundary), atol=1e-6)
    assert [tuple(value.shape) for value in boundary.features(model, batch)] == [(1, 32)] * 6


@pytest.mark.parametrize("name", ["Bert", "Roberta", "GPT2"])
def test_heads_of_tokens_take_every_attended_position(name):
    model, batch = built(AutoModelForTokenClassification, name, SEQUENCES[name][0]), texts()
    boundary = find(model, batch)
    assert boundary.kind == "all"
    keep = batch["attention_mask"].bool()
    whole, alone = logits_both_ways(model, batch, boundary)
    assert torch.allclose(whole[keep], alone[keep], atol=1e-6)
    assert [len(value) for value in boundary.features(model, batch)] == [3, 5, 9, 9, 7, 4]


@pytest.mark.parametrize("name", PICTURES)
def test_what_enters_the_heads_of_pictures(name):
    settings, expected = PICTURES[name]
    model, batch = built(AutoModelForImageClassification, name, settings), {"pixel_values": torch.randn(3, 3, 32, 32)}
    boundary = find(model, batch)
    assert boundary.describe() == expected
    assert torch.allclose(*logits_both_ways(model, batch, boundary), atol=1e-5)


@pytest.mark.parametrize(("architecture", "arguments", "classifiers"), [
    ("test_resnet", {}, 1), ("test_vit", {"img_size": 32}, 1), ("test_convnext", {}, 1),
    ("deit_tiny_distilled_patch16_224", dict(img_size=32, embed_dim=32, depth=1, num_heads=2), 2)])
def test_what_enters_the_classifiers_of_timm(architecture, arguments, classifiers):
    model, batch = timm_model(architecture, **arguments), {"pixel_values": torch.randn(3, 3, 32, 32)}
    boundary = find(model, batch)
    assert boundary.describe() == f"timm_model/classifier/{classifiers}"
    assert torch.allclose(*logits_both_ways(model, batch, boundary), atol=1e-6)
    own = model.timm_model.get_classifier()
    width = (own[0] if classifiers == 2 else own).in_features
    assert [tuple(value.shape) for value in boundary.features(model, batch)] == [(classifiers, width)] * 3


def test_the_dropout_between_body_and_head_stays_the_heads():
    """timm's drop_rate and BERT's own: in training the logits of one input differ, in evaluation they do not."""
    for model, batch in ((timm_model("test_resnet", drop_rate=0.5), {"pixel_values": torch.randn(3, 3, 32, 32)}),
                         (built(AutoModelForSequenceClassification, "Bert", TEXT), texts())):
        boundary = find(model, batch)
        replaced = boundary_batch(boundary, boundary.features(model.eval(), batch), batch)
        with boundary.replaying(model), torch.no_grad():
            assert torch.equal(model(**replaced).logits, model(**replaced).logits)
            model.train()
            assert not torch.equal(model(**replaced).logits, model(**replaced).logits)


def test_the_model_is_left_as_it_was():
    model, batch = built(AutoModelForSequenceClassification, "Bert", TEXT).train(), texts()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    boundary = find(model, batch)
    with pytest.raises(ZeroDivisionError), boundary.replaying(model):
        1 / 0
    assert model.training and all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert "forward" not in model.bert.__dict__ and not model.bert._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_head_that_reads_more_than_the_bodys_output_has_no_boundary():
    model = built(AutoModelForImageClassification, "ViT", VIT)

    class Two(type(model)):
        def forward(self, pixel_values=None, **unused):
            outputs = super().forward(pixel_values)
            outputs.logits = outputs.logits + pixel_values.mean()
            return outputs

    model.__class__ = Two
    assert find(model, {"pixel_values": torch.randn(3, 3, 32, 32)}) is None


@pytest.mark.parametrize(("kind", "count", "kept"), [("first", 2, [0, 1]), ("last", 1, [4]), ("last_attended", 1, [4]), ("all", 1, None)])
def test_positions_that_stand_for_an_item(kind, count, kept):
    from hfxfer.boundary import Boundary

    assert Boundary(kind, count, "body", "inputs_embeds").kept_positions([1] * 5) == kept
