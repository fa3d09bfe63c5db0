"""image-classification: a picture in, a label (or several, or a number) out.

Columns: `image` (path, bytes, PIL image or array) and `label`.
Metric: accuracy (several labels: micro F1; numbers: RMSE), computed with scikit-learn.
Checkpoints tried: any timm classifier (`timm/…`, a timm folder, a torchvision state dict) and transformers' own.
"""

from __future__ import annotations

from typing import Any

from hfxfer.data import Column
from hfxfer.tasks._classification import ClassificationTask
from hfxfer.tasks._task import Problem


class ImageClassification(ClassificationTask):
    name = "image-classification"
    summary = "a picture in, a label (or several, or a number) out"
    columns = {
        "image": Column(kind="image", names=("image", "img", "picture", "photo", "file_name", "image_path", "filename",
                                             "file", "path", "pixel_values")),
        "label": Column(kind="label", names=("label", "labels", "class", "category", "target", "fine_label", "y"), target=True),
    }
    auto_model = "AutoModelForImageClassification"
    auto_processor = "AutoImageProcessor"
    encode_on_access = True

    def encode(self, rows: list[dict], processor: Any, problem: Problem, recipe: Any, training: bool) -> list[dict]:
        from hfxfer.tasks._image import evaluation_pixels, training_pixels

        if training:
            pixels = [training_pixels(row["image"], processor, recipe.augment, recipe.random_erasing) for row in rows]
        else:
            pixels = evaluation_pixels([row["image"] for row in rows], processor)
        items = [{"pixel_values": image, "_row": index} for index, image in enumerate(pixels)]
        for item, row in zip(items, rows):
            if row.get("label") is not None:
                item["labels"] = self.encode_target(row, problem)
        return items

    def draws(self, recipe: Any) -> bool:
        return recipe.augment != "none" or bool(recipe.random_erasing)

    def collate(self, items: list[dict], processor: Any) -> dict[str, Any]:
        import torch

        batch: dict[str, Any] = {"pixel_values": torch.stack([item["pixel_values"] for item in items]),
                                 "_row": [item["_row"] for item in items]}
        if all("labels" in item for item in items):
            batch["labels"] = torch.tensor([item["labels"] for item in items])
        return batch

    def describe_input(self, row: dict) -> str:
        value = row["image"]
        if isinstance(value, dict):
            value = value.get("path") or row.get("row_id", "")
        return str(value) if isinstance(value, (str, bytes)) else str(row.get("row_id", ""))

    def example_rows(self, num_rows: int, seed: int = 0) -> list[dict]:
        """Handwritten digits 0–2 from scikit-learn, 32 × 32 pixels."""
        import numpy as np
        from PIL import Image
        from sklearn.datasets import load_digits

        digits = load_digits(n_class=3)
        chosen = np.random.default_rng(seed).permutation(len(digits.target))[:num_rows]
        pictures = (digits.images[chosen] * 15.9375).astype(np.uint8)
        return [{"image": Image.fromarray(picture).resize((32, 32)).convert("RGB"), "label": str(label)}
                for picture, label in zip(pictures, digits.target[chosen])]


TASK = ImageClassification()
