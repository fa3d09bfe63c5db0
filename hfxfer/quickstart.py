"""quickstart: the main job on real data in under 2 minutes, with no network and no account.

Does knowing the digits 0–4 help to learn 5–9 from 20 labelled images a class? scikit-learn ships 1,797 real
handwritten digits (the test part of UCI's optdigits, 8 × 8 pixels). They are written as two image folders; a small timm
network is trained on 0–4; what it learned is transferred to 5–9, and the same network is trained on the same images
from scratch, with the same settings. Both are scored on every image of 5–9 that neither saw. All three trainings are
`hfxfer.train`, as a person would call it. The images are divided at random, so that one writer's digits lie on both sides.

The folder (the next free name, where the wanted one is taken; nothing is ever written over):
```
data/0-4  data/5-9            the image folders: classes alone; train, validation and test
untrained/                    the network as it begins, a model folder in timm's layout
pretrained/  transferred/  from_scratch/     three Runs
quickstart.json               what was measured, and what quickstart() returns
```
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfxfer import console
from hfxfer.differences import share_difference
from hfxfer.errors import RunError
from hfxfer.run import Run, Score, write_text
from hfxfer.training import train

ARCHITECTURE = "resnet10t"
CHANNELS = (16, 32, 64, 128)
"""A quarter of resnet10t's own width: 0.34 million parameters."""

IMAGE_SIZE = 32
TRAIN_ROWS, VALIDATION_ROWS = 16, 4
"""Of each class of 5–9: its 20 labelled images. The 4 choose the epoch."""

SEED = 42
SETTINGS = {"task": "image-classification", "learning_rate": 2e-3, "per_device_train_batch_size": 16, "augment": "none",
            "early_stopping_patience": 0, "seed": SEED}
"""No augmentation: a mirrored digit is another sign. No early stopping: both networks get the same number of epochs."""

PRETRAINING_EPOCHS, TRANSFER_EPOCHS = 10, 20


def quickstart(folder: Path) -> dict[str, Any]:
    """Run the comparison and say what came out. Returns what quickstart.json holds.

    folder: where to write; where it is taken, `folder`-2, `folder`-3, … is used instead. Raises RunError.
    """
    start = time.monotonic()
    folder = free_folder(folder)
    console.talk(f"writing to {folder}")
    with _one_thread():
        _write_digits(folder / "data")
        _write_untrained(folder / "untrained")
        console.talk("1 of 3: pre-training on the digits 0–4")
        pretrained = train(model=str(folder / "untrained"), data=str(folder / "data" / "0-4"),
                           output_dir=str(folder / "pretrained"), num_train_epochs=PRETRAINING_EPOCHS, **SETTINGS)
        runs = {}
        for name, model in (("transferred", pretrained.model_dir), ("from_scratch", folder / "untrained")):
            console.talk(f"{len(runs) + 2} of 3: the digits 5–9, {name.replace('_', ' ')}")
            runs[name] = train(model=str(model), data=str(folder / "data" / "5-9"), output_dir=str(folder / name),
                               num_train_epochs=TRANSFER_EPOCHS, **SETTINGS)
    found = {"folder": str(folder), "networks": [_measured(name, run) for name, run in runs.items()],
             "difference": _difference(runs["transferred"], runs["from_scratch"]), "next": next_commands(folder),
             "seconds": round(time.monotonic() - start, 1)}
    write_text(folder / "quickstart.json", json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False))
    _say(found)
    return found


def free_folder(folder: Path) -> Path:
    """`folder`, or the first of `folder`-2, -3, … that is not taken; it exists afterwards, and is empty."""
    if folder.name in ("", ".."):
        folder = folder.resolve()
    number, candidate = 1, folder
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            if candidate.is_dir() and not any(candidate.iterdir()):
                return candidate
        except OSError as error:
            raise RunError(f"cannot write to {candidate}: {error.strerror}. Choose another --output_dir") from error
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")


def next_commands(folder: Path) -> list[str]:
    """Three things to do next: use the model, score it, and train on one's own pictures."""
    run, digits = folder / "transferred", folder / "data" / "5-9"
    return [shlex.join(["hfxfer", "predict", str(run), str(digits / "test" / "7")]),
            shlex.join(["hfxfer", "evaluate", str(run), "--data", str(digits), "--split", "test"]),
            "hfxfer train --model timm/resnet50.a1_in1k --data YOUR_PICTURES --output_dir runs/mine"]


def verdict(difference: dict[str, Any]) -> str:
    """What the interval of the difference allows to say."""
    value, low, high = difference["value"], difference["low"], difference["high"]
    measured = f"{value:+.4f} [{low:+.4f}, {high:+.4f}] on the same {difference['num_rows']} images"
    if low > 0:
        return f"established: the transferred network is better ({measured})"
    if high < 0:
        return f"established: the network from scratch is better ({measured})"
    return f"not established: either network may be the better one ({measured})"


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: so small a network gains next to nothing from more (measured: a quarter), on a busy machine threads that
    wait for each other made it 10 times slower, and the figures do not depend on the number of cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_digits(folder: Path) -> None:
    """0-4/<digit>/*.png, which hfxfer divides itself, and 5-9/<split>/<digit>/*.png."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    written = dict.fromkeys(range(10), 0)
    for row in order:
        digit = int(digits.target[row])
        place = folder / "0-4" if digit < 5 else folder / "5-9" / _split(written[digit])
        written[digit] += 1
        picture = Image.fromarray((digits.images[row] * (255 / 16)).round().astype(np.uint8))
        (place / str(digit)).mkdir(parents=True, exist_ok=True)
        picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).save(place / str(digit) / f"{row:04d}.png")


def _split(number: int) -> str:
    """The split of a class's image, by how many came before it."""
    if number < TRAIN_ROWS:
        return "train"
    return "validation" if number < TRAIN_ROWS + VALIDATION_ROWS else "test"


def _write_untrained(folder: Path) -> None:
    """The network with random weights, as timm itself saves a model."""
    import timm
    import torch
    from timm.models import save_for_hf

    preprocessing = {"input_size": (3, IMAGE_SIZE, IMAGE_SIZE), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
                     "crop_pct": 1.0, "interpolation": "bilinear", "first_conv": "conv1.0", "classifier": "fc"}
    torch.manual_seed(SEED)
    model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=5, channels=CHANNELS,
                              pretrained_cfg={"architecture": ARCHITECTURE, "num_classes": 5, **preprocessing})
    save_for_hf(model, folder, model_args={"channels": CHANNELS}, safe_serialization=True)


def _measured(name: str, run: Run) -> dict[str, Any]:
    score: Score = run.score("accuracy")
    return {"network": name, "accuracy": score.value, "low": score.low, "high": score.high, "split": score.split,
            "num_rows": score.num_rows, "seed": score.seed, "run": str(run.folder)}


def _difference(first: Run, second: Run) -> dict[str, Any]:
    """Accuracy of `first` minus that of `second`, row by row of the test split, which both share."""
    right = []
    for run in (first, second):
        table = run.predictions().select(["row_id", "reference", "prediction"]).to_pylist()
        right.append([(row["row_id"], row["reference"] == row["prediction"]) for row in table])
    pairs = [(one, other) for (row_id, one), (other_id, other) in zip(*right, strict=True) if row_id == other_id]
    gain = share_difference(pairs.count((False, True)), pairs.count((True, False)), len(pairs))
    found = {"metric": "accuracy", "value": gain.difference, "low": gain.low, "high": gain.high, "num_rows": gain.num_rows}
    return {**found, "verdict": verdict(found)}


def _say(found: dict[str, Any]) -> None:
    console.fact(f"{'digits 5–9':<14} {'accuracy':<9} {'95 % interval':<18} test images")
    for entry in found["networks"]:
        interval = f"[{entry['low']:.4f}, {entry['high']:.4f}]"
        console.fact(f"{entry['network']:<14} {entry['accuracy']:<9.4f} {interval:<18} {entry['num_rows']}")
    console.fact(found["difference"]["verdict"])
    console.talk(f"{TRAIN_ROWS + VALIDATION_ROWS} labelled images a class, one seed, {console.duration(found['seconds'])}. "
                 f"All of it: {Path(found['folder']) / 'quickstart.json'}")
    for command in found["next"]:
        console.talk(f"next: {command}")
