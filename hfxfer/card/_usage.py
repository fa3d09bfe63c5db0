"""How to load the model: one snippet for each library that does. They are run by tests/test_card.py."""

from __future__ import annotations

from hfxfer.card._facts import Facts
from hfxfer.card._text import fenced
from hfxfer.metrics import MULTI_LABEL, REGRESSION

PICTURE, SENTENCE, PAIR = '"picture.jpg"', '"Ada Smith lives in Paris."', '"She moved there last year."'
PIPELINES = {"image-classification": PICTURE, "text-classification": SENTENCE, "token-classification": SENTENCE}
"""Tasks whose models transformers' pipeline runs, and an input for each."""


def transformers_snippet(facts: Facts) -> str:
    """transformers' pipeline; nothing for a task that it does not have."""
    if facts.task not in PIPELINES:
        return ""
    settings = [f'"{facts.task}"', f'model="{facts.repo}"']
    given, wanted = PIPELINES[facts.task], []
    if facts.recipe.trust_remote_code:
        settings.append("trust_remote_code=True")
    if facts.task == "token-classification":
        # Other tags than B- and I- (parts of speech) must not be joined.
        settings += ['aggregation_strategy="simple"'] if any(label.startswith("B-") for label in facts.labels) else []
    elif facts.problem_type == REGRESSION:
        # Without it a single output is taken for a probability (transformers 5).
        wanted.append('function_to_apply="none"')
    elif facts.problem_type == MULTI_LABEL:
        wanted += ['function_to_apply="sigmoid"', "top_k=None"]
    if facts.task == "text-classification":
        wanted.append("truncation=True")
        if "text_pair" in facts.data["columns"]:
            given = f'{{"text": {SENTENCE}, "text_pair": {PAIR}}}'
    return fenced("from transformers import pipeline\n\n"
                  f"model = pipeline({', '.join(settings)})\nprint(model({', '.join([given, *wanted])}))", "python")


def timm_snippet(facts: Facts) -> str:
    """timm alone; nothing where the network is not one of timm's."""
    if not facts.is_timm:
        return ""
    answer = {REGRESSION: "print(logits.item())", MULTI_LABEL: _by_label("sigmoid()")}.get(facts.problem_type, _by_label("softmax(-1)"))
    return fenced("import timm\nimport torch\nfrom PIL import Image\n\n"
                  f'model = timm.create_model("hf-hub:{facts.repo}", pretrained=True).eval()\n'
                  "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)\n"
                  f"picture = transform(Image.open({PICTURE}).convert(\"RGB\"))\n"
                  "with torch.inference_mode():\n    logits = model(picture.unsqueeze(0))[0]\n" + answer, "python")


def _by_label(activation: str) -> str:
    return f'print(dict(zip(model.pretrained_cfg["label_names"], logits.{activation}.tolist())))'


def hfxfer_snippet(facts: Facts) -> str:
    given = PIPELINES.get(facts.task, "inputs")
    if facts.task == "token-classification":
        given = '{"tokens": ["Ada", "Smith", "lives", "in", "Paris", "."]}'
    elif "text_pair" in facts.data["columns"]:
        given = f'{{"text": {SENTENCE}, "text_pair": {PAIR}}}'
    return fenced(f'import hfxfer\n\nmodel = hfxfer.load("{facts.repo}")\nprint(model.predict({given}))', "python")
