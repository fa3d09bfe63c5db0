"""Pixels: the checkpoint's own preprocessing, for training (with augmentation from timm) and for everything else.

Evaluation, prediction and the demo call the checkpoint's image processor itself. Training replaces only its
geometry (resize and crop) with timm's augmentation and lets the same processor scale and normalise.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from hfxfer.images import open_image


def evaluation_pixels(values: list[Any], processor: Any) -> torch.Tensor:
    """(N, C, H, W) float32. `values`: paths, bytes, PIL images or arrays."""
    images = [_in_channels(open_image(value), processor) for value in values]
    return processor(images=images, return_tensors="pt")["pixel_values"]


def training_pixels(value: Any, processor: Any, augment: str, random_erasing: float = 0.0) -> torch.Tensor:
    """(C, H, W) float32, augmented with the process's generators (seeded by the caller).

    random_erasing: probability that a rectangle of 2 to 33 % of the area becomes noise (Zhong et al. 2020, timm's).
    """
    pixels = _augmented_pixels(value, processor, augment)
    if not random_erasing:
        return pixels
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(random_erasing, mode="pixel", device="cpu")(pixels)


def _augmented_pixels(value: Any, processor: Any, augment: str) -> torch.Tensor:
    if augment == "none":
        return evaluation_pixels([value], processor)[0]
    image = augmentation(processor, augment)(_in_channels(open_image(value), processor))
    if is_timm(processor):
        return image
    return processor(images=image, return_tensors="pt", do_resize=False, do_center_crop=False)["pixel_values"][0]


@lru_cache(maxsize=8)
def augmentation(processor: Any, augment: str) -> Any:
    """timm's training transform at the checkpoint's own size and interpolation.

    light: random resized crop (at least 35 % of the area) and flip; rand: the same with RandAugment;
    auto: with AutoAugment's ImageNet policy.
    """
    from timm.data import create_transform

    policy = {"light": None, "rand": "rand-m9-mstd0.5-inc1", "auto": "original"}[augment]
    size, interpolation, mean, std = _geometry(processor)
    return create_transform(input_size=size, is_training=True, scale=(0.35, 1.0), auto_augment=policy, color_jitter=None,
                            interpolation=interpolation, mean=mean, std=std, normalize=is_timm(processor))


def is_timm(processor: Any) -> bool:
    """True for transformers' wrapper around timm's preprocessing."""
    return hasattr(processor, "data_config")


def input_size(processor: Any) -> tuple[int, int, int]:
    """(channels, height, width) that the model sees."""
    return _geometry(processor)[0]


def _geometry(processor: Any) -> tuple:
    if is_timm(processor):
        config = processor.data_config
        return tuple(config["input_size"]), config["interpolation"], config["mean"], config["std"]
    size = processor.crop_size if getattr(processor, "do_center_crop", False) and processor.crop_size else processor.size
    size = dict(size)
    side = size.get("shortest_edge") or size.get("longest_edge")
    height, width = size.get("height", side), size.get("width", side)
    # PIL's and torchvision's resampling codes, as transformers stores them.
    interpolation = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}.get(int(processor.resample or 2), "bilinear")
    return (3, height, width), interpolation, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def _in_channels(image: Any, processor: Any) -> Any:
    return image.convert("L") if is_timm(processor) and processor.data_config["input_size"][0] == 1 else image
