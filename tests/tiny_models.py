"""Tiny checkpoints and data sets, made here: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "e", "good", "bad", "day", "film", "the", "was", "very",
         "ada", "smith", "lives", "in", "paris", "oslo", "rome", ",", ".", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9",
         "##a", "##b", "##c", "##0", "##1", "##2", "##3", "##4", "##5", "##6", "##7", "##8", "##9", "cheerful", "gloomy", "lovely",
         "dreadful", "happy", "sad", "news", "meal", "wonderful", "terrible", "number"]


def timm_checkpoint(folder: Path, classes: int = 4, size: int = 32, architecture: str = "test_resnet", channels: int = 3) -> Path:
    """A random timm network in transformers' TimmWrapper layout, labels "0", "1", …"""
    import torch
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    torch.manual_seed(0)
    config = TimmWrapperConfig(
        architecture=architecture, model_args={} if channels == 3 else {"in_chans": channels},
        pretrained_cfg={"input_size": [channels, size, size], "mean": [0.5] * channels, "std": [0.25] * channels, "interpolation": "bilinear",
                        "crop_pct": 1.0, "fixed_input_size": False, "classifier": "fc", "first_conv": "conv1.0"},
        id2label={index: str(index) for index in range(classes)}, label2id={str(index): index for index in range(classes)})
    TimmWrapperForImageClassification(config).save_pretrained(folder)
    return folder


def vit_checkpoint(folder: Path, classes: int = 4) -> Path:
    """A random two-layer ViT of transformers' own with its processor, for pictures of 32 pixels."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8,
                       num_labels=classes)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def bert_checkpoint(folder: Path, max_length: int = 64, **settings) -> Path:
    """A random two-layer BERT body with a word-piece tokenizer over WORDS."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                        max_position_embeddings=max_length, **settings)
    BertModel(config).save_pretrained(folder)
    word_piece_tokenizer(max_length).save_pretrained(folder)
    return folder


def word_piece_tokenizer(max_length: int = 64):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, pad_token="[PAD]", unk_token="[UNK]",
                                   model_input_names=["input_ids", "token_type_ids", "attention_mask"], cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")


def gpt2_checkpoint(folder: Path) -> Path:
    """A random two-layer GPT-2 with a byte-level BPE tokenizer that has no padding token."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([" ".join(WORDS)], vocab_size=300, special_tokens=["<|endoftext|>"])
    trained.save_model(str(folder))
    GPT2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=2,
                               bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    return folder


def digits(classes: tuple[int, ...] = (0, 1, 2), per_class: int = 30) -> list[tuple]:
    """(PIL image, digit) of scikit-learn's handwritten digits, 32 × 32 RGB."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    rows = []
    for digit in classes:
        for index in np.flatnonzero(found.target == digit)[:per_class]:
            picture = Image.fromarray((found.images[index] * 15.9375).astype(np.uint8)).resize((32, 32)).convert("RGB")
            rows.append((picture, int(digit)))
    return rows


def digits_folder(folder: Path, classes: tuple[int, ...] = (0, 1, 2), train: int = 20, validation: int = 5, test: int = 10) -> Path:
    """Class folders under train/, validation/ and test/."""
    sizes = {"train": train, "validation": validation, "test": test}
    rows = digits(classes, sum(sizes.values()))
    for digit in classes:
        own = iter(enumerate(picture for picture, label in rows if label == digit))
        for split, size in sizes.items():
            place = folder / split / f"digit {digit}"
            place.mkdir(parents=True)
            for _ in range(size):
                number, picture = next(own)
                picture.save(place / f"{number:03d}.png")
    return folder


def text_rows(num_rows: int, seed: int = 0) -> list[dict]:
    """Sentences that say good or bad."""
    draw = np.random.default_rng(seed)
    names = ("good", "bad")
    return [{"text": f"the film {index} was {'very ' * int(draw.integers(0, 6))}{names[index % 2]} {'a b c ' * int(draw.integers(0, 4))}",
             "label": names[index % 2]} for index in range(num_rows)]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tag_rows(num_rows: int) -> list[dict]:
    """Sentences with one person and one place."""
    places = ("paris", "oslo", "rome")
    return [{"tokens": ["ada", "smith", "lives", "in", places[index % 3], ",", str(index)],
             "tags": ["B-PER", "I-PER", "O", "O", "B-LOC", "O", "O"]} for index in range(num_rows)]
