"""What is measured: each case once, with what is wanted of it, and the data that it needs."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass, field
from pathlib import Path

PICTURES, TEXTS = "pets3", "tweet_emotion"
NUM_PICTURES, NUM_TEXTS = 1000, 5000


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table. wanted_…: the factor that hfxfer must be faster by (overhead: the share of the bare loop's speed)."""

    name: str
    title: str
    kind: str                                                # train | predict | overhead
    data: str                                                # the folder under --data
    method: str = "full"                                     # train: head | full
    epochs: int = 1
    learning_rate: float = 0.0                               # of the plain script: the best of those tried, see README.md
    rows: dict[str, int] = field(default_factory=dict)       # rows of each split, where not all
    precision: str = "fp32"                                  # predict: hfxfer's; the pipeline's is always fp32
    wanted_process: float | None = None
    wanted_work: float | None = None
    once: bool = False                                       # one pair, however many --repeats: a point of a curve
    family: str = ""                                         # the curve (cost by rows) that it belongs to


CASES = (
    Case(name="pets3-head", title="pictures, body frozen, 10 epochs", kind="train", data=PICTURES, method="head", epochs=10,
         learning_rate=1e-3, wanted_process=8, wanted_work=20, family="pictures, body frozen, 10 epochs"),
    Case(name="pets3-head-250", title="the same on 250 pictures in all (200 train, 50 test)", kind="train", data=PICTURES, method="head", epochs=10,
         learning_rate=1e-3, rows={"train": 200, "test": 50}, wanted_process=8),
    Case(name="pets3-full", title="pictures, full fine-tuning, 3 epochs", kind="train", data=PICTURES, epochs=3, learning_rate=2e-4,
         wanted_process=2.5, wanted_work=2.5),
    Case(name="tweets-full", title="texts, full fine-tuning, 1 epoch", kind="train", data=TEXTS, epochs=1, learning_rate=2e-4,
         wanted_process=2.5, wanted_work=2.5, family="texts, full fine-tuning, 1 epoch"),
    Case(name="tweets-head", title="texts, body frozen, 5 epochs", kind="train", data=TEXTS, method="head", epochs=5, learning_rate=2e-2,
         wanted_process=10, wanted_work=10),
    Case(name="predict-images", title=f"predict {NUM_PICTURES:,} pictures", kind="predict", data=PICTURES, wanted_process=3),
    Case(name="predict-texts", title=f"predict {NUM_TEXTS:,} texts", kind="predict", data=TEXTS, wanted_process=1.5),
    Case(name="predict-texts-bf16", title=f"predict {NUM_TEXTS:,} texts, hfxfer with --precision bf16", kind="predict", data=TEXTS,
         precision="bf16", wanted_process=3),
    Case(name="overhead-pets3", title="pictures, full fine-tuning", kind="overhead", data=PICTURES, epochs=3, learning_rate=2e-4, wanted_work=0.95),
    Case(name="overhead-tweets", title="texts, full fine-tuning", kind="overhead", data=TEXTS, epochs=3, learning_rate=2e-4, wanted_work=0.95),
    Case(name="pets3-head-1x", title="pictures, a quarter", kind="train", data=PICTURES, method="head", epochs=10, learning_rate=1e-3,
         rows={"train": 75, "test": 75}, once=True, family="pictures, body frozen, 10 epochs"),
    Case(name="pets3-head-2x", title="pictures, a half", kind="train", data=PICTURES, method="head", epochs=10, learning_rate=1e-3,
         rows={"train": 150, "test": 149}, once=True, family="pictures, body frozen, 10 epochs"),
    Case(name="tweets-full-1x", title="texts, a quarter", kind="train", data=TEXTS, epochs=1, learning_rate=2e-4,
         rows={"train": 814, "validation": 94, "test": 355}, once=True, family="texts, full fine-tuning, 1 epoch"),
    Case(name="tweets-full-2x", title="texts, a half", kind="train", data=TEXTS, epochs=1, learning_rate=2e-4,
         rows={"train": 1628, "validation": 187, "test": 710}, once=True, family="texts, full fine-tuning, 1 epoch"),
)
BY_NAME = {case.name: case for case in CASES}


def spread(items: list, wanted: int) -> list:
    """`wanted` items at even distances, so that sorted classes keep their shares."""
    return [items[position * len(items) // wanted] for position in range(wanted)]


def training_data(case: Case, data: Path, work: Path) -> Path:
    """The case's folder: the whole one, or a copy of some of its rows under `work`."""
    source = data / case.data
    if not case.rows:
        return source
    target = work / "data" / case.name
    if target.exists():
        return target
    for split, wanted in case.rows.items():
        if case.data == PICTURES:
            for file in spread(sorted((source / split).glob("*/*")), wanted):
                copy = target / split / file.parent.name / file.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        else:
            write_texts(target / f"{split}.csv", spread(read_texts(source / f"{split}.csv"), wanted))
    return target


def inputs_to_predict(case: Case, data: Path, work: Path) -> Path:
    """A folder of 1,000 pictures of pets and of rubbish, or a CSV file of 5,000 tweets."""
    if case.data == PICTURES:
        target = work / "data" / "pictures_to_predict"
        if not target.exists():
            target.mkdir(parents=True)
            found = sorted((data / PICTURES).glob("*/*/*.jpg")) + sorted((data / "trashnet").glob("*/*/*.jpg"))
            for number, file in enumerate(found[:NUM_PICTURES]):
                shutil.copyfile(file, target / f"{number:04d}.jpg")
        return target
    target = work / "data" / "texts_to_predict.csv"
    if not target.exists():
        rows = [row for split in ("train", "validation", "test") for row in read_texts(data / TEXTS / f"{split}.csv")]
        write_texts(target, [{"text": row["text"]} for row in rows[:NUM_TEXTS]])
    return target


def read_texts(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_texts(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
