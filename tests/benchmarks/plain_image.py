"""The script that transformers' documentation teaches for image classification (tasks/image_classification, transformers 5).

As a careful user writes it down for class folders and a timm checkpoint. What differs from the page, and why: a timm checkpoint's
image processor has no `size`, so size, mean and standard deviation are timm's own; test pictures are resized and cropped in the
middle, as in the notebook that the page links to (the page crops them at random); accuracy is computed here, since
`evaluate.load` needs a network; what the page pushes to the Hub is saved to a folder.

Prints one JSON line at the end: seconds from the first picture that is decoded to the saved model, and what was predicted.
"""

import argparse
import json
import time

import numpy as np
import timm
from datasets import load_dataset
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, RandomResizedCrop, Resize, ToTensor
from transformers import AutoModelForImageClassification, DefaultDataCollator, Trainer, TrainingArguments

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="folder of an image classifier in timm's format")
parser.add_argument("--data", required=True, help="folder with train/ and test/, each with class folders")
parser.add_argument("--output_dir", required=True)
parser.add_argument("--num_train_epochs", type=float, default=3)
parser.add_argument("--learning_rate", type=float, default=5e-5)
parser.add_argument("--gradient_accumulation_steps", type=int, default=4)
parser.add_argument("--freeze", action="store_true", help="train the classifier only")
options = parser.parse_args()

pictures = load_dataset("imagefolder", data_dir=options.data)
labels = pictures["train"].features["label"].names
label2id = {label: number for number, label in enumerate(labels)}
id2label = dict(enumerate(labels))

model = AutoModelForImageClassification.from_pretrained(
    options.model, num_labels=len(labels), id2label=id2label, label2id=label2id, ignore_mismatched_sizes=True, dtype="float32")
if options.freeze:
    for parameter in model.parameters():
        parameter.requires_grad = False
    for parameter in model.timm_model.get_classifier().parameters():
        parameter.requires_grad = True

config = timm.data.resolve_data_config(model.timm_model.pretrained_cfg)
size = config["input_size"][-1]
interpolation = InterpolationMode(config["interpolation"])
normalize = Normalize(mean=config["mean"], std=config["std"])
train_transforms = Compose([RandomResizedCrop(size, interpolation=interpolation), ToTensor(), normalize])
test_transforms = Compose([Resize(round(size / config["crop_pct"]), interpolation=interpolation), CenterCrop(size), ToTensor(), normalize])
first_decode = None


def train_rows(examples):
    global first_decode
    first_decode = first_decode or time.monotonic()
    examples["pixel_values"] = [train_transforms(image.convert("RGB")) for image in examples["image"]]
    del examples["image"]
    return examples


def test_rows(examples):
    examples["pixel_values"] = [test_transforms(image.convert("RGB")) for image in examples["image"]]
    del examples["image"]
    return examples


evaluations = []


def compute_metrics(eval_pred):
    predictions, references = eval_pred
    predictions = np.argmax(predictions, axis=1)
    evaluations.append((predictions, references))
    return {"accuracy": float((predictions == references).mean())}


training_args = TrainingArguments(
    output_dir=options.output_dir,
    remove_unused_columns=False,
    eval_strategy="epoch",
    save_strategy="epoch",
    learning_rate=options.learning_rate,
    per_device_train_batch_size=16,
    gradient_accumulation_steps=options.gradient_accumulation_steps,
    per_device_eval_batch_size=16,
    num_train_epochs=options.num_train_epochs,
    warmup_steps=0.1,
    logging_steps=10,
    load_best_model_at_end=True,
    metric_for_best_model="accuracy",
)
trainer = Trainer(
    model=model,
    args=training_args,
    data_collator=DefaultDataCollator(),
    train_dataset=pictures["train"].with_transform(train_rows),
    eval_dataset=pictures["test"].with_transform(test_rows),
    compute_metrics=compute_metrics,
)
trainer.train()
trainer.save_model(f"{options.output_dir}/model")
saved = time.monotonic()

# The saved model is that of the best evaluation, whose predictions are at hand: no further pass over the test split.
predictions, references = max(evaluations, key=lambda pair: (pair[0] == pair[1]).mean())
print(json.dumps({
    "seconds": round(saved - first_decode, 3),
    "accuracy": float((predictions == references).mean()),
    "labels": labels,
    "predictions": predictions.tolist(),
    "references": references.tolist(),
}))
