"""The best bare PyTorch loop for full fine-tuning: what hfxfer's own overhead is measured against.

No Trainer: pictures (or texts) are decoded and encoded before the clock starts, the model is in `channels_last`, glibc keeps large
buffers instead of giving them back to the kernel after each step (on this kind of network that alone is worth a third of the time on
a CPU), batch norms keep the checkpoint's statistics as hfxfer's do, ReLU6 is not computed in place (torch copies there), AdamW is
fused, gradients are clipped, the rate falls as a cosine after a warm-up. Texts are batched by length.

Prints one JSON line: samples a second over all epochs but the first, which warms up.
"""

import argparse
import contextlib
import ctypes
import json
import math
import time
from pathlib import Path

with contextlib.suppress(OSError, AttributeError):  # another libc than glibc
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 1 << 30)           # M_MMAP_THRESHOLD: its largest value that is taken
    libc.mallopt(-1, 0x7FFFFFFF)        # M_TRIM_THRESHOLD

import torch

MAX_LENGTH = 512


def picture_batches(options, device):
    """The model and a function that gives an epoch's batches: dicts of tensors on the device."""
    import timm
    from PIL import Image
    from transformers import AutoModelForImageClassification

    files = sorted((Path(options.data) / "train").glob("*/*"))
    labels = sorted({file.parent.name for file in files})
    model = AutoModelForImageClassification.from_pretrained(
        options.model, num_labels=len(labels), ignore_mismatched_sizes=True, dtype="float32")
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model.timm_model.pretrained_cfg))
    picked = chosen(len(files), options.rows)
    pixels = torch.stack([transform(Image.open(files[i]).convert("RGB")) for i in picked]).contiguous(memory_format=torch.channels_last).to(device)
    targets = torch.tensor([labels.index(files[i].parent.name) for i in picked], device=device)

    def epoch(generator):
        for rows in torch.randperm(len(targets), generator=generator).split(options.batch_size):
            rows = rows.to(device)
            yield {"pixel_values": pixels[rows].contiguous(memory_format=torch.channels_last), "labels": targets[rows]}

    return model.to(device, memory_format=torch.channels_last), epoch, len(targets)


def text_batches(options, device):
    import csv

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with open(Path(options.data) / "train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = sorted({row["label"] for row in rows})
    rows = [rows[i] for i in chosen(len(rows), options.rows)]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=len(labels), dtype="float32")
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=MAX_LENGTH)["input_ids"]
    targets = torch.tensor([labels.index(row["label"]) for row in rows])
    lengths = torch.tensor([len(ids) for ids in encoded])

    def epoch(generator):
        # Of like length within 50 batches, as transformers' group_by_length has it; the batches in random order.
        order = torch.randperm(len(targets), generator=generator)
        sorted_parts = [part[lengths[part].argsort()] for part in order.split(50 * options.batch_size)]
        batches = torch.cat(sorted_parts).split(options.batch_size)
        for number in torch.randperm(len(batches), generator=generator).tolist():
            taken = batches[number]
            batch = tokenizer.pad({"input_ids": [encoded[i] for i in taken.tolist()]}, return_tensors="pt")
            yield {**{name: tensor.to(device) for name, tensor in batch.items()}, "labels": targets[taken].to(device)}

    return model.to(device), epoch, len(targets)


def chosen(total, wanted):
    """Positions of `wanted` rows at even distances, all for 0."""
    wanted = wanted or total
    return [position * total // wanted for position in range(wanted)]


def train(options):
    torch.manual_seed(42)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, epoch, num_rows = (text_batches if (Path(options.data) / "train.csv").is_file() else picture_batches)(options, device)
    steps = math.ceil(num_rows / options.batch_size) * options.num_train_epochs
    warm = max(1, steps // 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.01, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, step / warm, 0.5 + 0.5 * math.cos(math.pi * max(0, step - warm) / max(1, steps - warm))))
    precision = torch.autocast(device.type, torch.bfloat16) if options.precision == "bf16" else contextlib.nullcontext()
    generator = torch.Generator().manual_seed(42)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
        elif isinstance(module, torch.nn.ReLU6):
            module.inplace = False
    seconds = []
    for _ in range(options.num_train_epochs):
        start = time.monotonic()
        for batch in epoch(generator):
            with precision:
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - start)
    counted = seconds[1:] or seconds
    print(json.dumps({"samples_per_second": round(num_rows * len(counted) / sum(counted), 2), "num_rows": num_rows,
                      "epoch_seconds": [round(value, 3) for value in seconds], "loss": round(loss.item(), 4)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a timm image classifier or of a text encoder")
    parser.add_argument("--data", required=True, help="folder with train/ (class folders) or train.csv")
    parser.add_argument("--rows", type=int, default=0, help="train on so many rows; 0 takes all")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_train_epochs", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    train(parser.parse_args())
