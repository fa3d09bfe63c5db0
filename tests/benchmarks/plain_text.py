"""The script that transformers' documentation teaches for text classification (tasks/sequence_classification, transformers 5).

As a user writes it down for CSV files with the columns `text` and `label`. What differs from the page, and why: accuracy is
computed here, since `evaluate.load` needs a network; what the page pushes to the Hub is saved to a folder; there is a validation
split, so the page's evaluation after each epoch takes that, and the test split is predicted once, after the model is saved.

Prints one JSON line at the end: seconds from the first text that is taken to the saved model, and what was predicted.
"""

import argparse
import json
import time

import numpy as np
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="folder of a text encoder")
parser.add_argument("--data", required=True, help="folder with train.csv, validation.csv and test.csv")
parser.add_argument("--output_dir", required=True)
parser.add_argument("--num_train_epochs", type=float, default=2)
parser.add_argument("--learning_rate", type=float, default=2e-5)
parser.add_argument("--freeze", action="store_true", help="train the classifier only")
options = parser.parse_args()

texts = load_dataset("csv", data_files={name: f"{options.data}/{name}.csv" for name in ("train", "validation", "test")})
texts = texts.class_encode_column("label")
labels = texts["train"].features["label"].names
label2id = {label: number for number, label in enumerate(labels)}
id2label = dict(enumerate(labels))

tokenizer = AutoTokenizer.from_pretrained(options.model)
first_text = None


def preprocess_function(examples):
    global first_text
    first_text = first_text or time.monotonic()
    return tokenizer(examples["text"], truncation=True)


tokenized = texts.map(preprocess_function, batched=True)

model = AutoModelForSequenceClassification.from_pretrained(
    options.model, num_labels=len(labels), id2label=id2label, label2id=label2id, dtype="float32")
if options.freeze:
    for parameter in model.base_model.parameters():
        parameter.requires_grad = False


def compute_metrics(eval_pred):
    predictions, references = eval_pred
    predictions = np.argmax(predictions, axis=1)
    return {"accuracy": float((predictions == references).mean())}


training_args = TrainingArguments(
    output_dir=options.output_dir,
    learning_rate=options.learning_rate,
    per_device_train_batch_size=16,
    per_device_eval_batch_size=16,
    num_train_epochs=options.num_train_epochs,
    weight_decay=0.01,
    eval_strategy="epoch",
    save_strategy="epoch",
    load_best_model_at_end=True,
)
trainer = Trainer(
    model=model,
    args=training_args,
    train_dataset=tokenized["train"],
    eval_dataset=tokenized["validation"],
    processing_class=tokenizer,
    data_collator=DataCollatorWithPadding(tokenizer=tokenizer),
    compute_metrics=compute_metrics,
)
trainer.train()
trainer.save_model(f"{options.output_dir}/model")
saved = time.monotonic()

logits, references, _ = trainer.predict(tokenized["test"])
predictions = np.argmax(logits, axis=1)
print(json.dumps({
    "seconds": round(saved - first_text, 3),
    "accuracy": float((predictions == references).mean()),
    "labels": labels,
    "predictions": predictions.tolist(),
    "references": references.tolist(),
}))
