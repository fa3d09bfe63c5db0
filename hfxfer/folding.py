"""A convolution and the batch norm behind it as one operation, wherever the norm stands still (evaluation mode).

Such a norm only scales and shifts each channel, which the convolution's own weights can do: one pass over the
activations less, forward and backward. Weights, names and state dict stay as they are; the logits are the same but for
rounding, which is checked on real pixels before it is used. (Jacob et al. 2018, Quantization and Training of Neural Networks, 3.2.)
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

TOLERANCE = 1e-4
"""Largest difference between logits with and without, as a share of the largest logit (both in fp32)."""

Pair = tuple[str, str]

FUSED: dict[type, Callable[[Any], tuple[str, list]]] = {
    torch.nn.ReLU: lambda act: ("relu", []), torch.nn.SiLU: lambda act: ("swish", []), torch.nn.Hardswish: lambda act: ("hardswish", []),
    **dict.fromkeys((torch.nn.ReLU6, torch.nn.Hardtanh), lambda act: ("hardtanh", [act.min_val, act.max_val]))}
"""Activations that oneDNN computes with the convolution, and what it calls them: a pass over the activations less."""


def pairs(model: Any, logits: Callable[[], torch.Tensor]) -> tuple[Pair, ...]:
    """(convolution, norm) by name: what enters the norm is what the convolution gave. Empty where folding them changes the logits.

    logits: runs the model, in evaluation mode and fp32, on two or more real inputs. Found once for a model of the same modules.
    """
    modules = [id(module) for module in model.modules()]
    of, known = model.__dict__.get("_hfxfer_pairs", (None, ()))
    if of != modules:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad():
                known, expected = _seen(*_candidates(model), logits)
                if known:
                    with folded(model, known):
                        difference = float((logits() - expected).abs().max())
                    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
                        known = ()
        finally:
            for module, mode in modes:
                module.training = mode
        model._hfxfer_pairs = (modules, known)
    return known


@contextmanager
def folded(model: Any, found: tuple[Pair, ...]) -> Iterator[None]:
    """Inside, each convolution also does what its norm would, while the norm is in evaluation mode. Gradients reach both."""
    modules = [(model.get_submodule(first), model.get_submodule(second)) for first, second in found]
    modules = [pair for pair in modules if all(_is_free(module) for module in pair)]
    # Torch's hardtanh_ (ReLU6 in place) computes a new tensor and copies it over the old one (2.15): a quarter of mobilenetv2_100's forward pass.
    in_place = [module for module in model.modules() if isinstance(module, torch.nn.Hardtanh) and module.inplace]
    for convolution, norm in modules:
        convolution.forward = _Scaled(convolution, norm)
        norm.forward = _Activated(norm, convolution.forward)
    for activation in in_place:
        activation.inplace = False
    try:
        yield
    finally:
        for activation in in_place:
            activation.inplace = True
        for pair in modules:
            for module in pair:
                del module.forward


def _candidates(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plain convolutions and plain norms, by name; which belong together is to be seen."""
    # Where nobody has imported timm, no module is timm's, and importing it takes seconds.
    timm = sys.modules.get("timm.layers")
    kinds = (torch.nn.Conv2d, *((timm.Conv2dSame,) if timm else ())), (torch.nn.BatchNorm2d, *((timm.BatchNormAct2d,) if timm else ()))
    free = {name: module for name, module in model.named_modules() if _is_free(module)}
    convolutions, norms = ({name: module for name, module in free.items() if type(module) in kind} for kind in kinds)
    return convolutions, {name: norm for name, norm in norms.items() if norm.track_running_stats}


def _is_free(module: Any) -> bool:
    """False where others watch what it gives, or have changed it."""
    return not (module._forward_hooks or module._forward_pre_hooks or hasattr(module, "parametrizations") or "forward" in module.__dict__)


def _seen(convolutions: dict[str, Any], norms: dict[str, Any], logits: Callable[[], torch.Tensor]) -> tuple[tuple[Pair, ...], Any]:
    """The pairs that were run once each, one right behind the other, and the logits; the model is not run where there can be none."""
    if not convolutions or not norms:
        return (), None
    gave: dict[int, str] = {}
    kept, entered, calls = [], [], []
    handles = []
    for name, module in convolutions.items():
        def leave(_module: Any, _inputs: Any, output: Any, name: str = name) -> None:
            kept.append(output)  # So that no other tensor gets its id.
            gave[id(output)] = name
            calls.append(name)

        handles.append(module.register_forward_hook(leave))
    for name, module in norms.items():
        def enter(_module: Any, inputs: Any, name: str = name) -> None:
            entered.append((gave.get(id(inputs[0]), ""), name))
            calls.append(name)

        handles.append(module.register_forward_pre_hook(enter))
    try:
        expected = logits()
    finally:
        for handle in handles:
            handle.remove()
    sources = [first for first, _ in entered]
    return tuple(pair for pair in entered if pair[0] and sources.count(pair[0]) == 1 and all(calls.count(name) == 1 for name in pair)), expected


class _Scaled:
    """A convolution's forward that also does what its norm would. A copy of the model has a copy of this, with the same `kept`."""

    copied_with_model = True

    def __init__(self, convolution: Any, norm: Any):
        self.convolution, self.norm, self.kept = convolution, norm, _Kept()

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.norm.training or torch.is_grad_enabled():
            self.kept.found = None, None  # A training step follows, and fused optimizers write without raising a version.
        if self.norm.training:
            return type(self.convolution).forward(self.convolution, inputs)
        # Given, not put into the module, which several threads may be in.
        one, packed = self.convolution, self.is_packed(inputs)
        weight, bias = self.weights() if torch.is_grad_enabled() else self.kept_weights(inputs.shape if packed else None)
        if packed:
            name, settings = self.activation() or ("none", [])
            return torch.ops.mkldnn._convolution_pointwise(inputs, weight, bias, one.padding, one.stride, one.dilation, one.groups, name, settings, "")
        if type(one) is torch.nn.Conv2d:
            return one._conv_forward(inputs, weight, bias)
        return _same(one, inputs, weight, bias)

    def is_packed(self, inputs: torch.Tensor) -> bool:
        """Whether oneDNN is called directly: with weights in its own order, which torch's convolution would bring them into in every call."""
        one = self.convolution
        return (type(one) is torch.nn.Conv2d and one.padding_mode == "zeros" and not isinstance(one.padding, str) and not torch.is_grad_enabled()
                and inputs.device.type == "cpu" and inputs.dtype == one.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
                and torch.backends.mkldnn.enabled and _has_onednn())

    def activation(self) -> tuple[str, list] | None:
        """What oneDNN calls the norm's activation, where the norm has one that nobody else watches and that may be computed with the convolution."""
        act = getattr(self.norm, "act", None)
        known = FUSED.get(type(act))
        return known(act) if known and type(self.norm.drop) is torch.nn.Identity and _is_free(act) else None

    def weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        norm = self.norm
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.weight is not None:
            scale = norm.weight * scale
        shift = -norm.running_mean * scale if norm.bias is None else norm.bias - norm.running_mean * scale
        weight, bias = self.convolution._parameters["weight"], self.convolution._parameters["bias"]
        return weight * scale.view(-1, 1, 1, 1), shift if bias is None else bias * scale + shift

    def kept_weights(self, packed_for: torch.Size | None) -> tuple[torch.Tensor, torch.Tensor]:
        """`weights`, in oneDNN's order where inputs of a shape are given: the first shape's, whatever the next ones are."""
        state = [packed_for is not None, *((each.data_ptr(), each.dtype, each._version) for module in (self.convolution, self.norm)
                           for each in (*module._parameters.values(), *module._buffers.values()) if each is not None)]
        of, weights = self.kept.found
        if of != state:
            weight, bias = self.weights()
            if packed_for is not None:
                one = self.convolution
                weight = torch.ops.mkldnn._reorder_convolution_weight(weight, one.padding, one.stride, one.dilation, one.groups, packed_for)
            weights = weight, bias
            self.kept.found = state, weights
        return weights


@functools.cache
def _has_onednn() -> bool:
    """True where this torch has what its compiler uses (2.0 and later, processors that oneDNN is built for)."""
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in ("_convolution_pointwise", "_reorder_convolution_weight"))


def _same(convolution: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """timm's Conv2dSame, which pads as TensorFlow does; its own way first fills the whole padded tensor: twice the time of the edges alone."""
    sides = []
    for size, kernel, stride, dilation in zip(inputs.shape[2:], convolution.kernel_size, convolution.stride, convolution.dilation):
        missing = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
        sides.append((missing // 2, missing - missing // 2))
    (top, bottom), (left, right) = sides
    if torch.is_grad_enabled() or inputs.device.type != "cpu":
        padded = torch.nn.functional.pad(inputs, (left, right, top, bottom))
    else:
        count, channels, height, width = inputs.shape
        layout = torch.channels_last if inputs.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        padded = torch.empty((count, channels, height + top + bottom, width + left + right), dtype=inputs.dtype, memory_format=layout)
        for edge in (padded[:, :, :top], padded[:, :, top + height:], padded[:, :, :, :left], padded[:, :, :, left + width:]):
            edge.zero_()
        padded[:, :, top:top + height, left:left + width].copy_(inputs)
    return torch.nn.functional.conv2d(padded, weight, bias, convolution.stride, 0, convolution.dilation, convolution.groups)


class _Kept:
    """Scaled weights and what they were made of: one for all copies of a model, which have the same weights."""

    def __init__(self):
        self.found: tuple[Any, Any] = None, None

    def __deepcopy__(self, memo: dict) -> _Kept:
        return self


class _Activated:
    """A norm's forward where the convolution before it does the scaling: what else it does, an activation in timm, if that is not done yet."""

    copied_with_model = True

    def __init__(self, norm: Any, scaled: _Scaled):
        self.norm, self.scaled = norm, scaled

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        if norm.training:
            return type(norm).forward(norm, inputs)
        if not hasattr(norm, "act") or (self.scaled.is_packed(inputs) and self.scaled.activation()):
            return inputs
        inputs = norm.drop(inputs)
        if isinstance(norm.act, torch.nn.Hardtanh) and not torch.is_grad_enabled() and _is_free(norm.act):
            return inputs.clamp_(norm.act.min_val, norm.act.max_val)  # In place, as nobody else reads it: half the time.
        return norm.act(inputs)
