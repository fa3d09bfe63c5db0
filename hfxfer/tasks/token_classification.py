"""token-classification: a list of words in, one tag for each out (named entities, parts of speech).

Columns: `tokens` (list of words) and `tags` (tag names or ClassLabel integers, IOB2 for entities).
Metric: entity F1 with seqeval's definition (a prediction counts where type and both borders are right).
Checkpoints tried: BERT family encoders with a fast tokenizer.

The first sub-token of a word carries its label. Inputs above max_length go through windows that overlap by
`stride` sub-tokens; a word is trained on and predicted in the window where it has the most context.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hfxfer.data import Column
from hfxfer.errors import ModelError
from hfxfer.tasks._task import Outcomes, Prediction, Problem, Task

PREFIX = re.compile(r"[BIES]-.")

IGNORED = -100
"""The label of positions that carry no loss (torch.nn.CrossEntropyLoss)."""


class TokenClassification(Task):
    name = "token-classification"
    summary = "a list of words in, one tag for each out"
    columns = {
        "tokens": Column(kind="tokens", names=("tokens", "words", "sentence", "text")),
        "tags": Column(kind="tags", names=("tags", "ner_tags", "labels", "ner", "pos_tags", "pos", "chunk_tags", "label"), target=True),
    }
    auto_model = "AutoModelForTokenClassification"
    auto_processor = "AutoTokenizer"

    def primary_metric(self, problem: Problem) -> str:
        return "entity_f1"

    def encode(self, rows: list[dict], processor: Any, problem: Problem, recipe: Any, training: bool) -> list[dict]:
        if not processor.is_fast:
            raise ModelError(f"{type(processor).__name__} cannot say which word a sub-token belongs to; token-classification needs a fast tokenizer")
        encoded = processor([row["tokens"] for row in rows], is_split_into_words=True, truncation=True, max_length=recipe.max_length,
                            stride=recipe.stride, return_overflowing_tokens=True)
        row_of = encoded.pop("overflow_to_sample_mapping")
        windows: dict[int, list[int]] = {}
        for window, row in enumerate(row_of):
            windows.setdefault(row, []).append(window)
        items: list[dict] = []
        position = {name: index for index, name in enumerate(problem.labels)}
        for row, own in windows.items():
            owners = owned_words([encoded.word_ids(window) for window in own], recipe.stride)
            for window, words in zip(own, owners):
                item = {key: values[window] for key, values in encoded.items()}
                item.update(_row=row, _words=words, _num_words=len(rows[row]["tokens"]), _truncated=False)
                if rows[row].get("tags") is not None:
                    item["labels"] = [IGNORED if word < 0 else position[rows[row]["tags"][word]] for word in words]
                items.append(item)
        return items

    def collate(self, items: list[dict], processor: Any) -> dict[str, Any]:
        import torch

        from hfxfer.tasks._text import pad

        batch = pad(items, processor)
        if all("labels" in item for item in items):
            width = batch["input_ids"].shape[1]
            batch["labels"] = torch.tensor([item["labels"] + [IGNORED] * (width - len(item["labels"])) for item in items])
        return batch

    def decode(self, outputs: Any, batch: dict[str, Any], processor: Any, problem: Problem) -> list[Prediction]:
        import numpy as np

        # A word that gave no sub-token at all (a lone control character) stays outside every entity.
        outside = problem.labels.index("O") if "O" in problem.labels else 0
        silent = np.eye(len(problem.labels), dtype=np.float32)[outside]
        found = _by_word(outputs.logits.detach().float().softmax(-1), batch, silent)
        return [Prediction([problem.labels[index] for index in matrix.argmax(1)], matrix) for matrix in found]

    def logits(self, outputs: Any, batch: dict[str, Any], problem: Problem) -> list:
        import numpy as np

        return _by_word(outputs.logits.detach().float(), batch, np.float32(np.nan))

    def record(self, prediction: Prediction, row: dict, problem: Problem) -> dict[str, Any]:
        """`entities`: entity, score (mean over its words), word, and start and end in the words joined by spaces."""
        starts, at = [], 0
        for token in row["tokens"]:
            starts.append(at)
            at += len(token) + 1
        best = prediction.probabilities.max(1)
        entities = []
        for kind, first, last in _entities(_iob(prediction.answer)):
            start, end = starts[first], starts[last] + len(row["tokens"][last])
            entities.append({"entity": kind, "score": float(best[first:last + 1].mean()), "word": " ".join(row["tokens"][first:last + 1]),
                             "start": start, "end": end})
        return {"entities": entities}

    def describe_input(self, row: dict) -> str:
        return " ".join(row["tokens"])

    def item_length(self, item: dict) -> int | None:
        return len(item["input_ids"])

    def score(self, outcomes: Outcomes, problem: Problem, intervals: bool, seed: int) -> list:
        from hfxfer import intervals as statistics

        measured = statistics.Tags([_iob(tags) for tags in outcomes.references], [_iob(tags) for tags in outcomes.answers])
        return statistics.score_tags(measured, _iob(problem.labels), seed=seed, num_resamples=statistics.NUM_RESAMPLES if intervals else statistics.FEWEST_RESAMPLES)

    def example_rows(self, num_rows: int, seed: int = 0) -> list[dict]:
        """Made-up sentences with one person and one place each."""
        import numpy as np

        draw = np.random.default_rng(seed)
        people, places = ("Ada", "Alan", "Grace", "Linus"), ("Paris", "London", "Oslo", "Rome")
        return [{"tokens": [people[draw.integers(4)], "Smith", "lives", "in", places[draw.integers(4)], str(index)],
                 "tags": ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]} for index in range(num_rows)]


def _by_word(values: Any, batch: dict[str, Any], silent: Any) -> list:
    """(words, labels) float32 for each row, of a (windows, positions, labels) tensor. silent: what a word without a position gets."""
    import numpy as np

    values = values.cpu().numpy()
    found: dict[int, np.ndarray] = {}
    for window, row in enumerate(batch["_row"]):
        if row not in found:
            found[row] = np.empty((batch["_num_words"][window], values.shape[-1]), dtype=np.float32)
            found[row][:] = silent
        words = np.asarray(batch["_words"][window])
        at = np.flatnonzero(words >= 0)
        found[row][words[at]] = values[window, at]
    return list(found.values())


def owned_words(windows: list[list[int | None]], stride: int) -> list[list[int]]:
    """For each position of each window the word that it speaks for, or -1.

    windows: the word of each position (None for special tokens), window after window of one text, each beginning
    `stride` sub-tokens before the end of the one before. A word speaks once, by its first sub-token, in the window
    where that is farthest from both borders.
    """
    inside = [[at for at, word in enumerate(words) if word is not None] for words in windows]
    step = len(inside[0]) - stride
    previous: int | None = None
    sequence: list[int | None] = []
    for number, words in enumerate(windows):
        sequence += [words[at] for at in inside[number]][len(sequence) - number * step:]
    first = {}
    for at, word in enumerate(sequence):
        if word != previous:
            first.setdefault(at, word)
        previous = word
    best: dict[int, tuple[int, int, int]] = {}
    for number, places in enumerate(inside):
        for index, at in enumerate(places):
            word = first.get(number * step + index)
            context = min(index, len(places) - 1 - index)
            if word is not None and (word not in best or context > best[word][0]):
                best[word] = (context, number, at)
    owned = [[-1] * len(words) for words in windows]
    for word, (_, number, at) in best.items():
        owned[number][at] = word
    return owned


def _iob(tags: Sequence[str]) -> list[str]:
    """Tags without B- or I- (parts of speech) as entities of one word each, so that F1 counts words."""
    return [tag if tag == "O" or PREFIX.match(tag) else f"B-{tag}" for tag in tags]


def _entities(tags: list[str]) -> list[tuple[str, int, int]]:
    from hfxfer.metrics._entities import entities

    return list(entities(tags))


TASK = TokenClassification()
