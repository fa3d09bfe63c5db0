"""Folding: which convolutions and norms belong together, and that nothing but the speed changes."""

import copy

import datasets
import pytest
import timm
import torch
from tiny_models import digits, timm_checkpoint
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainingArguments

from hfxfer import TransferTrainer, folding


def with_statistics(model):
    """Norms as training leaves them: no mean of 0, no variance of 1."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return model.eval()


def pixels(count=2, size=64):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def pairs_of(model, inputs):
    return folding.pairs(model, lambda: model(inputs))


@pytest.mark.parametrize(("name", "expected"), [("mobilenetv2_050", 52), ("resnet18", 20), ("ghostnet_050", 80), ("vit_tiny_patch16_224", 0)])
def test_convolutions_and_norms_are_paired_and_the_logits_stay(name, expected):
    torch.manual_seed(0)
    model = with_statistics(timm.create_model(name, num_classes=3))
    inputs = pixels(size=224 if "vit" in name else 64)
    found = pairs_of(model, inputs)
    assert len(found) == expected
    with torch.no_grad():
        plain = model(inputs)
        with folding.folded(model, found):
            got = model(inputs)
        again = model(inputs)
    assert torch.allclose(got, plain, atol=1e-4 * float(plain.abs().max()))
    assert torch.equal(again, plain)


def test_a_folded_norm_is_not_run():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.BatchNorm2d(1)).eval()
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[1].running_mean.fill_(3.0)
        model[1].running_var.fill_(4.0 - model[1].eps)
        model[1].weight.fill_(5.0)
        model[1].bias.fill_(7.0)
        found = pairs_of(model, torch.ones(1, 1, 1, 1))
        with folding.folded(model, found):
            between = model[0](torch.ones(1, 1, 1, 1))
            after = model[1](between)
    assert found == (("0", "1"),)
    # (2 · 1 − 3) / 2 · 5 + 7 = 4.5, done by the convolution alone.
    assert between.item() == pytest.approx(4.5) and after.item() == pytest.approx(4.5)


def test_gradients_reach_convolution_and_norm():
    torch.manual_seed(0)
    model = with_statistics(timm.create_model("mobilenetv2_050", num_classes=3))
    plain = copy.deepcopy(model)
    inputs, found = pixels(4), pairs_of(model, pixels())
    plain(inputs).square().mean().backward()
    with folding.folded(model, found):
        model(inputs).square().mean().backward()
    for (name, got), (_, expected) in zip(model.named_parameters(), plain.named_parameters()):
        scale = float(expected.grad.abs().max())
        assert torch.allclose(got.grad, expected.grad, atol=1e-3 * scale + 1e-7), name


def test_a_norm_in_training_mode_works_as_ever():
    torch.manual_seed(0)
    model = with_statistics(timm.create_model("resnet18", num_classes=3))
    plain = copy.deepcopy(model).train()
    found = pairs_of(model, pixels())
    model.train()
    with folding.folded(model, found):
        got = model(pixels(4))
    assert torch.equal(got, plain(pixels(4)))
    assert torch.equal(model.bn1.running_mean, plain.bn1.running_mean)


class TwiceUsed(torch.nn.Module):
    """A convolution whose output goes past the norm as well."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)

    def forward(self, inputs):
        found = self.conv(inputs)
        return (self.norm(found) + found).mean((2, 3))


def test_a_convolution_that_others_read_is_left_alone():
    model = with_statistics(TwiceUsed())
    assert pairs_of(model, pixels()) == ()


class Shared(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = torch.nn.Conv2d(3, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)

    def forward(self, inputs):
        return self.second(self.conv(self.first(self.conv(inputs)))).mean((2, 3))


def test_a_convolution_that_is_run_twice_is_left_alone():
    assert pairs_of(with_statistics(Shared()), pixels()) == ()


def test_watched_modules_are_left_alone():
    model = with_statistics(timm.create_model("resnet18", num_classes=3))
    model.layer4[1].conv2.register_forward_hook(lambda *given: None)
    found = pairs_of(model, pixels())
    assert len(found) == 19 and "layer4.1.conv2" not in {name for name, _ in found}


def written(model, inputs):
    """By hand, which raises a tensor's version."""
    with torch.no_grad():
        model.conv1.weight.mul_(1.5)
        model.bn1.running_mean.add_(0.1)


def trained(model, inputs):
    """By a fused optimizer, which raises none."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    model(inputs).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", [written, trained])
def test_weights_that_change_meanwhile_count(change):
    model, inputs = with_statistics(timm.create_model("resnet18", num_classes=3)), pixels()
    with folding.folded(model, pairs_of(model, inputs)):
        with torch.no_grad():
            before = model(inputs)
        change(model, inputs)
        with torch.no_grad():
            changed = model(inputs)
    with torch.no_grad():
        expected = model(inputs)
    assert float((changed - before).abs().max()) > 1e-3
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-4)


def test_names_and_state_stay():
    model = with_statistics(timm.create_model("resnet18", num_classes=3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad(), folding.folded(model, pairs_of(model, pixels())):
        model(pixels())
        inside = model.state_dict()
        assert list(inside) == list(before) and all(torch.equal(inside[name], value) for name, value in before.items())
    assert not any("forward" in module.__dict__ or "weight" in module.__dict__ for module in model.modules())


# --- in training -----------------------------------------------------------------------------------------------------

def digits_trainer(folder, learned=True, **settings):
    """Two full updates on 40 digits, with a network whose norms have learned statistics or none."""
    timm_checkpoint(folder / "net", classes=2)
    model = AutoModelForImageClassification.from_pretrained(folder / "net", id2label={0: "0", 1: "1"})
    if learned:
        with_statistics(model)
    rows = datasets.Dataset.from_list([{"image": picture, "label": str(label)} for picture, label in digits((0, 1), 20)])
    args = TrainingArguments(output_dir=str(folder / "out"), max_steps=2, use_cpu=True, report_to="none", per_device_train_batch_size=8,
                             disable_tqdm=True, logging_steps=1)
    return TransferTrainer(model=model, processing_class=AutoImageProcessor.from_pretrained(folder / "net"), task="image-classification",
                           train_dataset=rows, args=args, augment="none", **settings)


def split_state(model):
    """(statistics, weights) of the batch norms."""
    norms = {f"{name}.{key}": value.clone() for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)
             for key, value in module.state_dict().items()}
    statistics = {name: value for name, value in norms.items() if "running" in name}
    return statistics, {name: value for name, value in norms.items() if name.endswith(("weight", "bias"))}


@pytest.mark.parametrize(("batch_norm", "learned", "stand_still"), [
    ("auto", True, True), ("auto", False, False), ("trained", True, False), ("frozen", False, True)])
def test_learned_statistics_are_kept_while_the_weights_of_the_norms_train(tmp_path, batch_norm, learned, stand_still):
    trainer = digits_trainer(tmp_path, learned, batch_norm=batch_norm)
    statistics, weights = split_state(trainer.model)
    trainer.train()
    after, moved = split_state(trainer.model)
    assert statistics and all(torch.equal(after[name], value) == stand_still for name, value in statistics.items())
    assert weights and not any(torch.equal(moved[name], value) for name, value in weights.items())


def test_training_folded_is_training(tmp_path, monkeypatch):
    """The same two updates with and without folding; AdamW's first steps are as large as the rate, whatever the gradient's size."""
    folded = digits_trainer(tmp_path / "a")
    seen = []
    monkeypatch.setattr(folding, "folded", lambda model, found, real=folding.folded: seen.append(len(found)) or real(model, found))
    folded.train()
    assert seen and max(seen) > 5
    monkeypatch.setattr(folding, "pairs", lambda model, logits: ())
    plain = digits_trainer(tmp_path / "b")
    plain.train()
    losses = [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (folded, plain)]
    assert len(losses[0]) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, value in plain.model.state_dict().items():
        assert torch.allclose(folded.model.state_dict()[name].float(), value.float(), atol=1e-4), name


def test_activations_in_place_are_so_again_afterwards():
    torch.manual_seed(0)
    model = with_statistics(timm.create_model("mobilenetv2_050", num_classes=3))
    in_place = [module for module in model.modules() if isinstance(module, torch.nn.Hardtanh) and module.inplace]
    assert in_place
    with folding.folded(model, pairs_of(model, pixels())):
        assert not any(module.inplace for module in in_place)
    assert all(module.inplace for module in in_place)


@pytest.mark.parametrize(("size", "kernel", "stride", "dilation"), [(32, 3, 2, 1), (31, 3, 2, 1), (33, 5, 2, 1), (30, 3, 1, 2), (29, 7, 3, 1), (8, 1, 2, 1)])
def test_paddings_edges_are_those_of_timm(size, kernel, stride, dilation):
    torch.manual_seed(0)
    model = torch.nn.Sequential(timm.layers.Conv2dSame(3, 4, kernel, stride=stride, dilation=dilation, bias=True), torch.nn.BatchNorm2d(4)).eval()
    with_statistics(model)
    for layout in (torch.contiguous_format, torch.channels_last):
        inputs = torch.randn(2, 3, size, size + 1).to(memory_format=layout)
        found = pairs_of(model, inputs)
        assert found == (("0", "1"),)
        with torch.no_grad():
            expected = model(inputs)
            with folding.folded(model, found):
                got = model(inputs)
        assert torch.allclose(got, expected, atol=1e-5)


def test_an_activation_in_place_changes_nobody_elses_tensor():
    torch.manual_seed(0)
    model = with_statistics(timm.create_model("mobilenetv2_050", num_classes=3)).eval()
    inputs = pixels(4)
    with torch.no_grad():
        expected, before = model(inputs), inputs.clone()
        with folding.folded(model, pairs_of(model, inputs)):
            assert torch.allclose(model(inputs), expected, atol=1e-4)
            watched = model.blocks[1][0].bn1.act
            seen = []
            watched.register_forward_hook(lambda module, given, output: seen.append(output))
            assert torch.allclose(model(inputs), expected, atol=1e-4) and len(seen) == 1
    assert torch.equal(inputs, before)


ACTIVATIONS = [torch.nn.ReLU(inplace=True), torch.nn.ReLU6(inplace=True), torch.nn.Hardtanh(-1.0, 0.5), torch.nn.SiLU(inplace=True),
               torch.nn.Hardswish(), torch.nn.GELU(), torch.nn.Identity()]


def convolved(activation, **settings):
    """A convolution with timm's norm, which has its activation inside."""
    torch.manual_seed(0)
    norm = timm.layers.BatchNormAct2d(6, act_layer=lambda **_: activation)
    return with_statistics(torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, stride=2, padding=1, **settings), norm)).requires_grad_(False)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda each: type(each).__name__)
def test_an_activation_is_computed_once_whatever_it_is_and_however_many_there_are(activation):
    model, size = convolved(activation), 17
    found = pairs_of(model, pixels(size=size))
    with torch.no_grad(), folding.folded(model, found):
        got = [model(pixels(count, size)) for count in (4, 1, 3)]  # Weights are packed for the first.
    assert found and all(torch.allclose(each, model(pixels(count, size)), atol=1e-5) for each, count in zip(got, (4, 1, 3)))


def test_an_activation_that_is_watched_is_run_by_itself():
    model, seen = convolved(torch.nn.ReLU()), []
    found = pairs_of(model, pixels())
    model[1].act.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].min().item()))
    with torch.no_grad(), folding.folded(model, found):
        got = model(pixels())
    assert len(seen) == 1 and seen[0] < 0 and torch.allclose(got, model(pixels()), atol=1e-5)


@pytest.mark.parametrize("settings", [{"padding_mode": "reflect"}, {"groups": 3}, {"dilation": 2}])
def test_other_convolutions_give_what_they_gave(settings):
    model = convolved(torch.nn.SiLU(), **settings)
    found = pairs_of(model, pixels())
    with torch.no_grad(), folding.folded(model, found):
        got = model(pixels())
        with torch.autocast("cpu", torch.bfloat16):
            half = model(pixels())
    assert found and torch.allclose(got, model(pixels()), atol=1e-5) and half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), got, atol=0.1 * float(got.abs().max()))
