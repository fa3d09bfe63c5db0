"""Where a frozen body ends and the architecture's own head begins: what enters the head, and how to run the head alone.

`find` runs the real model once. In timm it takes what enters `get_classifier()`. In transformers it takes the body's
output and finds by gradients which of its positions reach the logits: one (CLS, the last token) or all. `replaying` then
puts these tensors in the body's place, so that the model's own forward does the rest (pooler, dropout, dense layers, loss).
A boundary is only used after the logits of both ways have been compared.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hfxfer.models import head_names

TOLERANCE = 1e-4
"""Largest difference between logits of the two ways, as a share of the largest logit (both in fp32)."""

MOST_FIRST = 4
"""Leading positions (CLS, distillation token …) that are kept instead of the whole sequence."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """One model's boundary.

    kind: `classifier` (what enters timm's classifiers), `pooled` (the body's pooler_output), or positions of its
    last_hidden_state: `first`, `last`, `last_attended`, `all`. count: classifiers, or leading positions.
    """

    kind: str
    count: int
    body: str
    input_name: str

    def describe(self) -> str:
        return f"{self.body}/{self.kind}/{self.count}"

    @torch.inference_mode()
    def features(self, model: Any, batch: dict[str, Any]) -> list[torch.Tensor]:
        """One tensor an item, on the CPU in fp32: (classifiers, …), the pooled output, or (positions, hidden). Also while `replaying`."""
        with self._with_body(model), _recording(self, model) as found:
            model(**_for_model(batch))
        return [value.float().cpu() for value in self._by_item(found, batch)]

    def _by_item(self, found: dict[str, Any], batch: dict[str, Any]) -> Any:
        if self.kind == "classifier":
            return torch.stack(found["entries"], dim=1)
        if self.kind == "pooled":
            return found["pooler_output"]
        hidden = found["last_hidden_state"]
        if self.kind == "first":
            return hidden[:, :self.count]
        if self.kind == "last":
            return hidden[:, -1:]
        mask = batch.get("attention_mask")
        if self.kind == "all":
            return hidden if mask is None else [row[kept.bool()] for row, kept in zip(hidden, mask)]
        return hidden[torch.arange(len(hidden)), _last_attended(mask)].unsqueeze(1)

    def kept_positions(self, mask: list[int]) -> list[int] | None:
        """Positions of one unpadded item (given its attention mask) that stand for it; None keeps all."""
        return {"first": list(range(self.count)), "last": [len(mask) - 1], "last_attended": [len(mask) - 1]}.get(self.kind)

    @contextmanager
    def _with_body(self, model: Any) -> Iterator[None]:
        """Inside, the body itself is run, whatever stands in for it."""
        body = getattr(model, self.body)
        stand_in = body.__dict__.get("forward")
        if hasattr(stand_in, "stands_for"):
            _put_forward(body, stand_in.stands_for)
        try:
            yield
        finally:
            _put_forward(body, stand_in)

    @contextmanager
    def replaying(self, model: Any) -> Iterator[None]:
        """Inside, the model takes features as `pixel_values` or `inputs_embeds`, and only its head is run."""
        body = getattr(model, self.body)
        stand_in = _classifiers_alone(body) if self.kind == "classifier" else _stand_in(body, self)
        # Where accelerate has put another forward over the class's (offloading), that one comes back.
        stand_in.stands_for = body.__dict__.get("forward")
        body.forward = stand_in
        try:
            yield
        finally:
            _put_forward(body, stand_in.stands_for)


def _put_forward(module: Any, forward: Any) -> None:
    """None: the class's own."""
    if forward is not None:
        module.forward = forward
    else:
        module.__dict__.pop("forward", None)


def find(model: Any, batch: dict[str, Any]) -> Boundary | None:
    """The boundary of this model, or None where the head cannot be run alone. `batch`: texts of unlike length where there are any."""
    was_training = model.training
    model.eval()
    try:
        boundary = _guess(model, batch)
        return boundary if boundary is not None and _agrees(boundary, model, batch) else None
    finally:
        model.train(was_training)


def _guess(model: Any, batch: dict[str, Any]) -> Boundary | None:
    input_name = "pixel_values" if "pixel_values" in batch else "inputs_embeds"
    if hasattr(model, "timm_model"):
        classifier = model.timm_model.get_classifier()
        return Boundary("classifier", len(classifier) if isinstance(classifier, (tuple, list)) else 1, "timm_model", input_name)
    body = _body_name(model)
    if body is None or input_name not in inspect.signature(model.forward).parameters:
        return None
    used = _used(model, body, batch)
    if used is None:
        return None
    kind, count = used
    if kind == "pooled" and input_name == "inputs_embeds":
        return None  # A pooled text has no position to stand at; no architecture of transformers 5.23 needs it.
    return Boundary(kind, count, body, input_name)


def _body_name(model: Any) -> str | None:
    """The child that holds every parameter outside the head."""
    heads = head_names(model)
    bodies = {name.split(".")[0] for name, _ in model.named_parameters() if name not in heads}
    return bodies.pop() if len(bodies) == 1 else None


def _used(model: Any, body: str, batch: dict[str, Any]) -> tuple[str, int] | None:
    """Which part of the body's output reaches the logits: (kind, count)."""
    leaves: dict[str, torch.Tensor] = {}

    def cut(module: Any, _inputs: Any, output: Any) -> Any:
        if not hasattr(output, "last_hidden_state"):
            return output
        hidden = leaves["last_hidden_state"] = output.last_hidden_state.detach().requires_grad_()
        output.last_hidden_state = hidden
        if getattr(output, "pooler_output", None) is not None:
            if _pools(module):
                output.pooler_output = _pool(module, hidden)
            else:
                output.pooler_output = leaves["pooler_output"] = output.pooler_output.detach().requires_grad_()
        return output

    handle = getattr(model, body).register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits = model(**_for_model(batch, labels=False)).logits
            if not leaves or not logits.requires_grad:
                return None
            weights = torch.linspace(0.5, 1.5, logits.numel(), device=logits.device).reshape(logits.shape)
            names = list(leaves)
            gradients = dict(zip(names, torch.autograd.grad((logits * weights).sum(), [leaves[name] for name in names], allow_unused=True)))
    finally:
        handle.remove()
    reached = {name: gradient for name, gradient in gradients.items() if gradient is not None and bool(gradient.abs().any())}
    if set(reached) == {"pooler_output"}:
        return "pooled", 1
    if set(reached) != {"last_hidden_state"} or reached["last_hidden_state"].dim() != 3:
        return None
    return _positions(reached["last_hidden_state"].abs().sum(-1) > 0, batch.get("attention_mask"))


def _positions(used: torch.Tensor, mask: torch.Tensor | None) -> tuple[str, int]:
    """used: (items, positions) bool."""
    width = used.shape[1]
    columns = used.any(0).nonzero().flatten().tolist()
    if columns == list(range(len(columns))) and len(columns) <= MOST_FIRST and len(columns) < width:
        return "first", len(columns)
    if bool((used.sum(1) == 1).all()):
        at = used.int().argmax(1)
        if mask is not None and bool((at == _last_attended(mask)).all()):
            return "last_attended", 1
        if bool((at == width - 1).all()):
            return "last", 1
    return "all", 1


def _last_attended(mask: torch.Tensor) -> torch.Tensor:
    """(items,): the last position with mask 1."""
    return (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)


def _pools(body: Any) -> bool:
    """True for a body whose pooler is part of the head (BERT's)."""
    return getattr(body, "pooler", None) is not None and any(True for _ in body.pooler.parameters())


def _pool(body: Any, hidden: torch.Tensor) -> torch.Tensor:
    if isinstance(body.pooler, torch.nn.Linear):  # ALBERT's and BigBird's are no modules of their own.
        activation = getattr(body, "pooler_activation", None) or body.activation
        return activation(body.pooler(hidden[:, 0]))
    return body.pooler(hidden)


@contextmanager
def _recording(boundary: Boundary, model: Any) -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {"entries": []}
    handles = []
    if boundary.kind == "classifier":
        classifier = model.timm_model.get_classifier()
        for module in classifier if isinstance(classifier, (tuple, list)) else (classifier,):
            handles.append(module.register_forward_pre_hook(lambda _module, inputs: found["entries"].append(inputs[0])))
    else:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            found.update({name: output[name] for name in ("last_hidden_state", "pooler_output") if output.get(name) is not None})

        handles.append(getattr(model, boundary.body).register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _classifiers_alone(network: Any) -> Any:
    """timm's classifiers on (items, classifiers, …), after timm's dropout; a distilled network's logits are their mean."""
    def forward(features: torch.Tensor, **unused: Any) -> torch.Tensor:
        classifier = network.get_classifier()
        modules = tuple(classifier) if isinstance(classifier, (tuple, list)) else (classifier,)
        rate = getattr(network, "drop_rate", 0.0) or 0.0
        logits = [module(torch.nn.functional.dropout(features[:, index], rate, network.training)).flatten(1)
                  for index, module in enumerate(modules)]
        return torch.stack(logits).mean(0)

    return forward


class _BodyOutput(BaseModelOutputWithPooling):
    """What a head reads; None for whatever else a body gives (caches, attentions)."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _stand_in(body: Any, boundary: Boundary) -> Any:
    def forward(*inputs: Any, **named: Any) -> Any:
        features = named.get(boundary.input_name)
        if features is None:
            features = inputs[0]
        pooled = features if boundary.kind == "pooled" else _pool(body, features) if _pools(body) else None
        return _BodyOutput(last_hidden_state=features, pooler_output=pooled)

    return forward


def _agrees(boundary: Boundary, model: Any, batch: dict[str, Any]) -> bool:
    with torch.inference_mode():
        expected = model(**_for_model(batch, labels=False)).logits.float()
        try:
            inputs = boundary_batch(boundary, boundary.features(model, batch), _for_model(batch, labels=False))
            with boundary.replaying(model):
                got = model(**inputs).logits.float()
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
            return False  # An architecture that wants more than its body's output: it is trained without a cache.
    if boundary.kind == "all" and expected.shape == got.shape and "attention_mask" in batch and expected.dim() == 3:
        keep = batch["attention_mask"].bool()
        expected, got = expected[keep], got[keep]
    return expected.shape == got.shape and float((expected - got).abs().max()) <= TOLERANCE * max(1.0, float(expected.abs().max()))


def boundary_batch(boundary: Boundary, features: list[torch.Tensor], batch: dict[str, Any]) -> dict[str, Any]:
    """The features in the place of a padded batch's inputs; its ids and mask cut to the positions that are kept."""
    device = next(value.device for value in batch.values() if isinstance(value, torch.Tensor))
    if boundary.input_name == "pixel_values":
        return {**{key: value for key, value in batch.items() if key == "labels"}, "pixel_values": torch.stack(features).to(device)}
    kept = {key: batch[key] for key in ("input_ids", "attention_mask", "labels") if key in batch}
    mask = batch["attention_mask"]
    if boundary.kind == "all":
        embedded = torch.zeros(*mask.shape, features[0].shape[-1], device=device)
        embedded[mask.bool()] = torch.cat([feature.to(device) for feature in features])
        return {**kept, "inputs_embeds": embedded}
    if boundary.kind == "first":
        at = torch.arange(boundary.count, device=device).expand(len(mask), -1)
    else:
        at = (torch.full_like(mask[:, 0], mask.shape[1] - 1) if boundary.kind == "last" else _last_attended(mask)).unsqueeze(1)
    kept.update(input_ids=batch["input_ids"].gather(1, at), attention_mask=torch.ones_like(at), inputs_embeds=torch.stack(features).to(device))
    return kept


def _for_model(batch: dict[str, Any], labels: bool = True) -> dict[str, Any]:
    return {key: value for key, value in batch.items() if not key.startswith("_") and (labels or key != "labels")}
