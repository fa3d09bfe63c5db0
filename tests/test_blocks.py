"""Blocks from bottom to top, and what `freeze` names."""

import pytest
import torch
from tiny_models import bert_checkpoint, gpt2_checkpoint, timm_checkpoint
from transformers import (AutoModelForSequenceClassification, BartConfig, BartForSequenceClassification, CLIPConfig, CLIPForImageClassification,
                          PvtConfig, PvtForImageClassification, SwinConfig, SwinForImageClassification, TimmWrapperForImageClassification)

from hfxfer.blocks import blocks, distances, frozen_names
from hfxfer.errors import RecipeError
from hfxfer.models import head_names

TIMM = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return AutoModelForSequenceClassification.from_pretrained(bert_checkpoint(tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def bodies(tmp_path_factory, bert):
    place = tmp_path_factory.mktemp("bodies")
    tiny = {"encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8,
            "decoder_ffn_dim": 8, "d_model": 8, "vocab_size": 9, "max_position_embeddings": 9, "pad_token_id": 1, "bos_token_id": 0,
            "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2}
    side = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    return {
        "bert": bert,
        "gpt2": AutoModelForSequenceClassification.from_pretrained(gpt2_checkpoint(place / "gpt2")),
        "bart": BartForSequenceClassification(BartConfig(**tiny)),
        "swin": SwinForImageClassification(SwinConfig(embed_dim=4, depths=[1, 2], num_heads=[2, 2], window_size=2, image_size=32)),
        "pvt": PvtForImageClassification(PvtConfig(image_size=64, hidden_sizes=[8, 8, 8, 8], depths=[1, 2, 1, 1], num_attention_heads=[1, 1, 1, 1])),
        "clip": CLIPForImageClassification(CLIPConfig(vision_config={**side, "image_size": 16, "patch_size": 8}, text_config=side)),
        **{name: TimmWrapperForImageClassification.from_pretrained(timm_checkpoint(place / name, architecture=name)) for name in TIMM},
    }


def starts(block):
    """The parameters' names up to their third part, each once, in order."""
    return list(dict.fromkeys(".".join(name.split(".")[1:4]) for name in block.parameters))


def test_blocks_and_head_hold_every_parameter_once(bodies):
    for kind, model in bodies.items():
        found = [name for block in blocks(model) for name in block.parameters] + list(head_names(model))
        assert sorted(found) == sorted(name for name, _ in model.named_parameters()), kind


def test_bert_is_embeddings_then_layers(bert):
    found = blocks(bert)
    assert [block.is_stem for block in found] == [True, False, False]
    assert [starts(block) for block in found[1:]] == [["encoder.layer.0"], ["encoder.layer.1"]]
    assert all(name.startswith("bert.embeddings.") for name in found[0].parameters)


def test_a_final_norm_belongs_to_the_last_block(bodies):
    assert blocks(bodies["gpt2"])[-1].parameters[-2:] == ("transformer.ln_f.weight", "transformer.ln_f.bias")
    assert blocks(bodies["gpt2"])[0].parameters == ("transformer.wte.weight", "transformer.wpe.weight")


def test_an_encoder_and_its_decoder_follow_each_other(bodies):
    found = blocks(bodies["bart"])
    assert [starts(block) for block in found[1:]] == [["encoder.layers.0"], ["encoder.layers.1"],
                                                      *([f"decoder.layers.{index}"] for index in range(3))]
    # Registered after the layers, used before them.
    assert {"model.encoder.layernorm_embedding.weight", "model.decoder.embed_positions.weight"} <= set(found[0].parameters)


def test_stages_are_blocks_and_lists_side_by_side_are_one_sequence(bodies):
    assert len(blocks(bodies["swin"])) == 3
    found = blocks(bodies["pvt"])
    assert len(found) == 4 and not found[0].is_stem
    assert {"encoder.patch_embeddings.1", "encoder.block.1"} == set(starts(found[1]))


def test_a_body_without_a_name_of_its_own_has_blocks(bodies):
    found = blocks(bodies["clip"])
    assert [block.is_stem for block in found] == [True, False, False]
    assert "vision_model.pre_layrnorm.weight" in found[0].parameters and "vision_model.post_layernorm.weight" in found[2].parameters


def test_timm_networks_are_grouped_as_timm_groups_them(bodies):
    from timm.models import group_parameters

    for name in TIMM:
        network = bodies[name].timm_model
        layers = group_parameters(network, network.group_matcher(), reverse=True)
        top = max(layers.values())
        assert distances(bodies[name]) == {f"timm_model.{own}": top - layer for own, layer in layers.items()}
    assert [starts(block)[0] for block in blocks(bodies["test_vit"])][1:] == [f"blocks.{index}.norm1" for index in range(6)]


def test_a_body_without_lists_is_one_block():
    from transformers import PretrainedConfig, PreTrainedModel

    class Net(PreTrainedModel):
        config_class, base_model_prefix = PretrainedConfig, "body"

        def __init__(self, config):
            super().__init__(config)
            self.body, self.head = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)), torch.nn.Linear(2, 2)

    found = blocks(Net(PretrainedConfig()))
    assert len(found) == 1 and len(found[0].parameters) == 4 and not found[0].is_stem


def test_freeze_counts_blocks_above_the_stem(bert):
    frozen = frozen_names(bert, 1)
    assert {name.split(".")[1] for name in frozen} == {"embeddings", "encoder"}
    assert "bert.encoder.layer.0.output.dense.weight" in frozen and "bert.encoder.layer.1.output.dense.weight" not in frozen


def test_freeze_takes_patterns_of_whole_names(bert, bodies):
    assert frozen_names(bert, ["bert.embeddings.*", "*.layer.1.*.bias"]) == {
        name for name, _ in bert.named_parameters() if name.startswith("bert.embeddings.") or ".layer.1." in name and name.endswith(".bias")}
    network = bodies["test_resnet"]
    assert frozen_names(network, ["layer1.*"]) == frozen_names(network, ["timm_model.layer1.*"]) != set()


def test_what_cannot_be_frozen_is_refused(bert):
    def message(freeze):
        with pytest.raises(RecipeError) as caught:
            frozen_names(bert, freeze)
        return str(caught.value)

    assert message(2) == ("freeze is 2, but the body of BertForSequenceClassification has 2 blocks: none would be trained. "
                          "Give at most 1, or --method head")
    assert message(["bert.pooler"]) == (
        "freeze has the pattern 'bert.pooler', which fits no parameter. Patterns fit whole names, such as "
        "bert.pooler.dense.weight, bert.pooler.dense.bias: try 'bert.pooler.dense.*'")
    assert message(["nothing*"]).startswith("freeze has the pattern 'nothing*', which fits no parameter. Patterns fit whole names, such as "
                                            "bert.embeddings.word_embeddings.weight, ")
    assert message(["*"]) == "freeze is *, which fits every parameter: nothing would be trained. Leave the head out"
