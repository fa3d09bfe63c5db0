"""What a prediction rests on, by captum: Grad-CAM and occlusion for pictures, integrated gradients for the words of a text.

Selvaraju et al. 2017 (https://arxiv.org/abs/1610.02391), Zeiler and Fergus 2014 (https://arxiv.org/abs/1311.2901), Sundararajan et al.
2017 (https://arxiv.org/abs/1703.01365). All say what the model used, not what would be right to use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hfxfer.demo import words
from hfxfer.demo.answers import WORD
from hfxfer.optional import require

CELLS = 8
"""Places on each side of a picture that are covered in turn."""

STEPS = 32
"""From an empty text to the text: points at which the gradient is taken."""

AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Seen:
    """picture: (H, W, 3) uint8, what the model sees; heat: (H, W) float, not negative, what speaks for the label."""

    picture: np.ndarray
    heat: np.ndarray
    method: str


@dataclass(frozen=True, slots=True)
class Read:
    """(word, start, end, weight) for each word of a text; start and end in characters, weights as shares of the greatest (−1 to 1).

    cut_at: the most tokens that are looked at, where the text has more and its end counts nothing here.
    """

    words: list[tuple[str, int, int, float]]
    method: str
    cut_at: int | None = None


def explain_picture(predictor: Any, row: dict[str, Any], target: int) -> Seen:
    """Grad-CAM where the network is convolutional to its end, else occlusion. target: position of the label."""
    import torch

    attributions = require("captum.attr", extra="explain")
    items = predictor.task.encode([row], predictor.processor, predictor.problem, predictor.recipe, training=False)
    device = next(predictor.model.parameters()).device
    pixels = predictor.task.collate(items, predictor.processor)["pixel_values"].to(device)

    def logits(values: Any) -> Any:
        return predictor.model(pixel_values=values).logits

    layer = last_convolution(predictor.model, logits, pixels)
    height, width = pixels.shape[-2:]
    if layer is not None:
        coarse = attributions.LayerGradCam(logits, layer).attribute(pixels, target=target, relu_attributions=True)
        heat = attributions.LayerAttribution.interpolate(coarse.detach(), (height, width), interpolate_mode="bilinear")
    else:
        window = (pixels.shape[1], -(-height // CELLS), -(-width // CELLS))
        with torch.no_grad():
            heat = attributions.Occlusion(logits).attribute(pixels, window, strides=window, target=target, perturbations_per_eval=AT_ONCE)
    heat = heat.detach().sum(1)[0].clamp(min=0).float().cpu().numpy()
    return Seen(_as_seen(pixels[0].float().cpu().numpy(), predictor.processor), heat, words.GRAD_CAM if layer is not None else words.OCCLUSION)


def last_convolution(model: Any, logits: Any, pixels: Any) -> Any:
    """The last convolution whose output is a map, if most parameters are used before it or in it; None for transformers and their like."""
    import torch

    order: list[tuple[Any, bool]] = []
    hooks = [module.register_forward_hook(lambda module, _, out: order.append(
        (module, isinstance(module, torch.nn.Conv2d) and isinstance(out, torch.Tensor) and out.ndim == 4 and out.shape[-2] * out.shape[-1] > 1)))
        for module in model.modules() if not any(module.children())]
    try:
        with torch.no_grad():
            logits(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    maps = [place for place, (_, is_map) in enumerate(order) if is_map]
    if not maps:
        return None
    before, after = (sum(parameter.numel() for module, _ in part for parameter in module.parameters())
                     for part in (order[:maps[-1] + 1], order[maps[-1] + 1:]))
    return order[maps[-1]][0] if before > after else None


def explain_text(predictor: Any, row: dict[str, Any], text: str, target: int) -> Read | None:
    """Integrated gradients of the label's logit, from a text of padding to `text`, which the row was made of; of a pair, the second stays.

    Of words: over those that were given the label; None for none.
    """
    import torch

    attributions = require("captum.attr", extra="explain")
    model = predictor.model
    device = next(model.parameters()).device
    spans = [found.span() for found in WORD.finditer(text)]
    encoded, word_of = _encoded(predictor, row, spans)
    inputs = {name: values.to(device) for name, values in encoded.items()}
    own = torch.tensor([word is not None for word in word_of], device=device)
    places = None
    if "tokens" in row:
        with torch.no_grad():
            places = (model(**inputs).logits[0].argmax(-1) == target) & own
        if not places.any():
            return None

    def logit(ids: Any) -> Any:
        found = model(input_ids=ids, **{name: values.expand(len(ids), -1) for name, values in inputs.items() if name != "input_ids"}).logits
        return found[:, places, target].sum(1) if places is not None else found[:, target]

    ids, padding = inputs["input_ids"], predictor.processor.pad_token_id or 0
    found = attributions.LayerIntegratedGradients(logit, model.get_input_embeddings()).attribute(
        ids, baselines=torch.where(own, torch.full_like(ids, padding), ids), n_steps=STEPS, internal_batch_size=AT_ONCE)
    by_token = found.detach().sum(-1)[0].float().cpu().numpy()
    weights = np.zeros(len(spans))
    for word, weight in zip(word_of, by_token):
        if word is not None:
            weights[word] += weight
    greatest = np.abs(weights).max(initial=0) or 1.0
    cut_at = int(predictor.recipe.max_length) if len(ids[0]) >= predictor.recipe.max_length and len(spans) - 1 not in word_of else None
    return Read([(text[start:end], start, end, float(weight / greatest)) for (start, end), weight in zip(spans, weights)], words.GRADIENTS, cut_at)


def _encoded(predictor: Any, row: dict[str, Any], spans: list[tuple[int, int]]) -> tuple[Any, list[int | None]]:
    """The row as the task encodes it, in one window; and for each position its word, None for special tokens and for a second text."""
    settings = {"truncation": True, "max_length": predictor.recipe.max_length, "return_tensors": "pt"}
    if "tokens" in row:
        # With the stride of prediction, of whose windows this is the first: a fast tokenizer keeps its settings, and others are at it.
        encoded = predictor.processor(row["tokens"], is_split_into_words=True, stride=predictor.recipe.stride, **settings)
        return encoded, encoded.word_ids(0)
    encoded = predictor.processor(row["text"], row.get("text_pair"), return_offsets_mapping=True, **settings)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    # By its last character: with some tokenizers a token begins with the space before it.
    return encoded, [next((word for word, (start, stop) in enumerate(spans) if start < end <= stop), None) if part == 0 else None
                     for part, (_, end) in zip(encoded.sequence_ids(0), offsets)]


def cells(heat: np.ndarray, side: int) -> np.ndarray:
    """(side, side) shares of the heat, adding up to 1; equal where there is none."""
    rows = np.array_split(heat, side, axis=0)
    found = np.asarray([[part.sum() for part in np.array_split(row, side, axis=1)] for row in rows], np.float64)
    return found / found.sum() if found.sum() > 0 else np.full((side, side), 1 / side**2)


def overlay(seen: Seen, opacity: float) -> Any:
    """The picture with its heat in red, as a PIL image. opacity: 0 to 1, of the hottest place."""
    from PIL import Image

    share = seen.heat / (seen.heat.max() or 1.0) * opacity
    red = np.asarray([255.0, 30.0, 0.0])
    return Image.fromarray(np.rint(seen.picture * (1 - share[..., None]) + red * share[..., None]).astype(np.uint8))


def _as_seen(pixels: np.ndarray, processor: Any) -> np.ndarray:
    """(C, H, W) normalised → (H, W, 3) uint8."""
    config = getattr(processor, "data_config", None) or {"mean": getattr(processor, "image_mean", None), "std": getattr(processor, "image_std", None)}
    mean, std = (np.asarray(config[name] if config[name] is not None else default, np.float32).reshape(-1, 1, 1)
                 for name, default in (("mean", 0.0), ("std", 1.0)))
    shown = np.clip((pixels * std + mean) * 255, 0, 255)
    return np.rint(np.broadcast_to(shown, (3, *shown.shape[1:])) if shown.shape[0] == 1 else shown[:3]).astype(np.uint8).transpose(1, 2, 0)
