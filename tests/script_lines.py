"""The lines that scripts of TransferTrainer begin with, for processes beside the test Hub."""

PRELUDE = """
import json, os, torch, datasets, transformers
from pathlib import Path
from tiny_models import text_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, TrainingArguments
import hfxfer
from hfxfer import TransferTrainer, errors

base, out = {base!r}, {out!r}
rows, others = datasets.Dataset.from_list(text_rows(24)), datasets.Dataset.from_list(text_rows(30, seed=1)[24:])

def arguments(**settings):
    given = dict(output_dir=out, num_train_epochs=2, per_device_train_batch_size=8, learning_rate=1e-3, eval_strategy="epoch",
                 save_strategy="epoch", report_to="none", disable_tqdm=True, use_cpu=True, logging_steps=1,
                 log_level="error")
    return TrainingArguments(**given | settings)

def trainer(args=None, **settings):
    given = dict(model=base, args=args or arguments(), train_dataset=rows, eval_dataset=others, task="text-classification", license="mit",
                 language="en")
    return TransferTrainer(**given | settings)

def loaded(source, **settings):
    return AutoModelForSequenceClassification.from_pretrained(source, **settings), AutoTokenizer.from_pretrained(source)

def headed(folder):
    return loaded(folder, id2label={{0: "bad", 1: "good"}}, label2id={{"bad": 0, "good": 1}})

def logits(model, tokenizer):
    with torch.inference_mode():
        return model.eval()(**tokenizer(["the film was very good", "a gloomy day"], padding=True, return_tensors="pt")).logits

def refused(make):
    try:
        make()
    except errors.HfxferError as error:
        return [type(error).__name__, str(error)]

"""

ATTEMPT = """
try:
{}
except Exception:
    import traceback
    said["raised"] = traceback.format_exc()
"""
