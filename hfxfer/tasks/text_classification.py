"""text-classification: a text or a pair of texts in, a label (or several, or a number) out.

Columns: `text`, optionally `text_pair`, and `label` (a name or integer, a list of them, or a float).
Metric: accuracy (several labels: micro F1; numbers: RMSE), computed with scikit-learn.
Checkpoints tried: BERT family encoders, and decoders with a classification head (GPT-2, Llama).
"""

from __future__ import annotations

import json
from typing import Any

from hfxfer.data import Column
from hfxfer.tasks._classification import ClassificationTask
from hfxfer.tasks._task import Problem

SENTENCES = {"cheerful": ("a lovely day with good friends", "what a wonderful meal that was", "so happy about this news"),
             "gloomy": ("a dreadful day with bad weather", "what a terrible meal that was", "so sad about this news")}


class TextClassification(ClassificationTask):
    name = "text-classification"
    summary = "a text or a pair of texts in, a label (or several, or a number) out"
    columns = {
        "text": Column(kind="text", names=("text", "sentence", "sentence1", "premise", "review", "content", "tweet",
                                           "question1", "comment", "body", "document", "question")),
        "text_pair": Column(kind="text", names=("text_pair", "sentence2", "hypothesis", "question2", "text2"), required=False),
        "label": Column(kind="label", names=("label", "labels", "class", "category", "target", "sentiment", "emotion",
                                             "score", "y"), target=True),
    }
    auto_model = "AutoModelForSequenceClassification"
    auto_processor = "AutoTokenizer"

    def encode(self, rows: list[dict], processor: Any, problem: Problem, recipe: Any, training: bool) -> list[dict]:
        paired = [bool(row.get("text_pair")) for row in rows]
        if len(set(paired)) > 1:
            return self._encoded_apart(rows, paired, processor, problem, recipe, training)
        encoded = processor([row["text"] for row in rows], [row["text_pair"] for row in rows] if any(paired) else None,
                            truncation=True, max_length=recipe.max_length)
        cut = self._were_cut(encoded, rows, processor)
        items = []
        for index, row in enumerate(rows):
            item = {key: values[index] for key, values in encoded.items()}
            item["_row"] = index
            item["_truncated"] = cut[index]
            if row.get("label") is not None:
                item["labels"] = self.encode_target(row, problem)
            items.append(item)
        return items

    def _encoded_apart(self, rows: list[dict], paired: list[bool], *settings: Any) -> list[dict]:
        """Pairs and single texts: a row is encoded as it is by itself, whatever stands beside it."""
        items: dict[int, dict] = {}
        for kind in (True, False):
            places = [place for place, is_pair in enumerate(paired) if is_pair is kind]
            for place, item in zip(places, self.encode([rows[place] for place in places], *settings)):
                items[place] = {**item, "_row": place}
        return [items[place] for place in range(len(rows))]

    @staticmethod
    def _were_cut(encoded: Any, rows: list[dict], processor: Any) -> list[bool]:
        if encoded.encodings:
            return [bool(encoding.overflowing) for encoding in encoded.encodings]
        # Tokenizers written in Python do not say what they cut.
        whole = processor([row["text"] for row in rows], truncation=False, verbose=False)["input_ids"]
        return [len(kept) < len(all_of_it) for kept, all_of_it in zip(encoded["input_ids"], whole)]

    def collate(self, items: list[dict], processor: Any) -> dict[str, Any]:
        import torch

        from hfxfer.tasks._text import pad

        batch = pad(items, processor)
        if all("labels" in item for item in items):
            batch["labels"] = torch.tensor([item["labels"] for item in items])
        return batch

    def describe_input(self, row: dict) -> str:
        if not row.get("text_pair"):
            return row["text"]
        return json.dumps([row["text"], row["text_pair"]], ensure_ascii=False)

    def item_length(self, item: dict) -> int | None:
        return len(item["input_ids"])

    def example_rows(self, num_rows: int, seed: int = 0) -> list[dict]:
        """Made-up cheerful and gloomy sentences."""
        import numpy as np

        draw = np.random.default_rng(seed)
        names = [sorted(SENTENCES)[index % 2] for index in range(num_rows)]
        return [{"text": f"{SENTENCES[name][draw.integers(3)]}, number {index}", "label": name}
                for index, name in enumerate(names)]


TASK = TextClassification()
