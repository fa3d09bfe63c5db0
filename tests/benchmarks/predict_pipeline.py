"""Prediction as transformers' documentation has it: `pipeline(task, model=…)(inputs, batch_size=32)`.

Prints one JSON line: seconds from the first input handed over to the last label that came out, and the labels in the inputs' order.
"""

import argparse
import csv
import json
import time
from pathlib import Path

from transformers import pipeline

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="folder of a fine-tuned model")
parser.add_argument("--inputs", required=True, help="a folder of pictures, or a CSV file with the column text")
options = parser.parse_args()

if Path(options.inputs).is_dir():
    inputs = [str(path) for path in sorted(Path(options.inputs).iterdir())]
    classifier = pipeline("image-classification", model=options.model)
    settings = {"top_k": 1}
else:
    with open(options.inputs, encoding="utf-8", newline="") as file:
        inputs = [row["text"] for row in csv.DictReader(file)]
    classifier = pipeline("text-classification", model=options.model)
    settings = {"truncation": True}

start = time.monotonic()
found = classifier(inputs, batch_size=32, **settings)
seconds = time.monotonic() - start
labels = [(each[0] if isinstance(each, list) else each)["label"] for each in found]
print(json.dumps({"seconds": round(seconds, 3), "labels": labels}))
