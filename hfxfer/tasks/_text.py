"""Text: the checkpoint's maximal length, and padding of items to one batch."""

from __future__ import annotations

from typing import Any

AUTO_MAX_LENGTH = 512
UNLIMITED = 10**9
"""Tokenizers without a limit give 10 ** 30."""


def maximal_length(processor: Any, model_config: Any, wanted: int | str) -> int:
    """Tokens that model and tokenizer both take. `wanted` caps it; "auto" caps it at 512."""
    limits = [AUTO_MAX_LENGTH if wanted == "auto" else int(wanted)]
    if 0 < processor.model_max_length < UNLIMITED:
        limits.append(processor.model_max_length)
    positions = getattr(model_config, "max_position_embeddings", None) or getattr(model_config, "n_positions", None)
    if positions and positions > 0:
        # RoBERTa and its kin number positions from padding_idx + 1 = 2, and add these two to the table (514).
        limits.append(positions - 2 if positions % 64 == 2 else positions)
    return min(limits)


def pad(items: list[dict], tokenizer: Any) -> dict[str, Any]:
    """Pad the tokenizer's own keys to the longest item; keys beginning with "_" become lists."""
    model_keys = [key for key in items[0] if not key.startswith("_") and key != "labels"]
    batch = dict(tokenizer.pad([{key: item[key] for key in model_keys} for item in items], return_tensors="pt"))
    batch.update({key: [item[key] for item in items] for key in items[0] if key.startswith("_")})
    return batch
