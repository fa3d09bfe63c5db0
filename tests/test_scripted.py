"""What a script's trainer holds, as a Run: what is in its way, where the model comes from, and which settings it had. No Hub."""

import dataclasses
import json
import shutil

import datasets
import numpy as np
import pytest
from tiny_models import bert_checkpoint, text_rows
from transformers import (
    AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, BertConfig, BertForSequenceClassification,
    EarlyStoppingCallback, TrainingArguments,
)

from hfxfer import TransferTrainer, scripted, tasks
from hfxfer.run import Run

NAMES = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bert_checkpoint(tmp_path_factory.mktemp("base") / "bert")


def arguments(out, **settings):
    return TrainingArguments(**{"output_dir": str(out), "report_to": "none", "disable_tqdm": True, "use_cpu": True, "max_steps": 2, **settings})


def trainer(folder, out, **settings):
    given = {"model": AutoModelForSequenceClassification.from_pretrained(folder, **NAMES), "processing_class": AutoTokenizer.from_pretrained(folder),
             "train_dataset": datasets.Dataset.from_list(text_rows(12)), "task": "text-classification", "args": arguments(out)}
    return TransferTrainer(**given | settings)


def test_files_of_somebody_else_are_in_the_way(tmp_path):
    run = Run(tmp_path)
    assert scripted.in_the_way(run) == []
    (tmp_path / "examples").mkdir()
    (tmp_path / "model").mkdir()
    for name in ("recipe.yaml", "model/train.py", "model/config.json", "model/training_args.bin", "model/README.md", "notes.txt"):
        (tmp_path / name).write_text("x")
    theirs = ["examples", "model/config.json", "model/train.py", "model/training_args.bin"]  # a model of save_pretrained is somebody's, too
    assert scripted.in_the_way(run) == ["recipe.yaml", *theirs]
    run.write_json("environment.json", {"python": "3"})
    assert scripted.in_the_way(run) == ["recipe.yaml", "environment.json", *theirs]
    run.write_json("environment.json", {"script": True})
    assert scripted.in_the_way(run) == []


def test_a_model_that_its_task_does_not_load_is_told(folder):
    class Mine(BertForSequenceClassification):
        pass

    def told(model):
        return list(scripted.not_loaded(model, tasks.get("text-classification")))

    assert told(AutoModelForSequenceClassification.from_pretrained(folder)) == []
    ours = "AutoModelForSequenceClassification does not load. Use AutoModelForSequenceClassification.from_pretrained, or the task of this model"
    assert told(AutoModelForTokenClassification.from_pretrained(folder)) == [f"the model is a BertForTokenClassification, which {ours}"]
    assert told(Mine.from_pretrained(folder)) == [f"the model is a Mine, which {ours}"]


def test_a_model_with_code_of_its_own_is_published_where_the_code_is_trusted(folder, tmp_path):
    own = shutil.copytree(folder, tmp_path / "own")
    (own / "mine.py").write_text("from transformers import BertConfig, BertForSequenceClassification\n\n\nclass MyConfig(BertConfig):\n"
                                 "    model_type = 'mine'\n\n\nclass Mine(BertForSequenceClassification):\n    config_class = MyConfig\n")
    names = {"AutoConfig": "mine.MyConfig", "AutoModelForSequenceClassification": "mine.Mine"}
    (own / "config.json").write_text(json.dumps({**json.loads((own / "config.json").read_text()), "model_type": "mine", "auto_map": names}))
    model = AutoModelForSequenceClassification.from_pretrained(own, trust_remote_code=True, **NAMES)
    task = tasks.get("text-classification")
    assert list(scripted.not_loaded(model, task)) == [
        "the model is a Mine, whose code comes with its checkpoint. Read it, then allow it: TransferTrainer(…, trust_remote_code=True)"]
    assert list(scripted.not_loaded(model, task, trust=True)) == []
    model.config.auto_map = {"AutoModel": "mine.Mine"}
    assert list(scripted.not_loaded(model, task, trust=True)) == [
        "the model is a Mine, which AutoModelForSequenceClassification does not load. Use AutoModelForSequenceClassification.from_pretrained, or "
        "the task of this model"]
    made = trainer(folder, tmp_path / "out", trust_remote_code=True)
    assert scripted.recipe_of(made, scripted.base_of(made), made.args).trust_remote_code


def test_a_base_is_named_by_where_the_model_says_that_it_comes_from(folder, tmp_path, monkeypatch):
    (folder / "README.md").write_text("---\nlicense: MIT\n---\n")
    monkeypatch.chdir(folder.parent)
    whole = {"id": str(folder), "revision": None, "source": "transformers", "architecture": "BertForSequenceClassification", "license": "mit"}
    given = trainer("bert", tmp_path / "out")
    named = trainer("bert", tmp_path / "out", model="bert")
    (folder / "README.md").unlink()
    assert scripted.base_of(named) == whole
    assert scripted.base_of(given) == {name: value for name, value in whole.items() if name != "license"}
    config = BertConfig(vocab_size=60, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, **NAMES)
    fresh = trainer(folder, tmp_path / "out", model=BertForSequenceClassification(config))
    assert scripted.base_of(fresh)["id"] == "a BertForSequenceClassification given in Python"


def test_a_checkpoint_that_is_gone_is_no_id_of_the_hub(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "out" / "checkpoint-5"
    shutil.copytree(folder, checkpoint)
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n")
    given = trainer(folder, "new", model=AutoModelForSequenceClassification.from_pretrained("out/checkpoint-5", **NAMES))
    named = trainer("out/checkpoint-5", "new", model="out/checkpoint-5")
    assert scripted.base_of(given)["license"] == "mit"
    shutil.rmtree(checkpoint)
    assert scripted.base_of(given)["id"] == scripted.base_of(named)["id"] == str(checkpoint)
    assert "license" not in scripted.base_of(given) and scripted.base_of(named)["license"] == "mit"


def test_the_recipe_has_the_settings_of_the_arguments_and_no_token(folder, tmp_path):
    args = arguments(tmp_path / "out", learning_rate=3e-4, weight_decay=0.02, hub_token="hf_SecretSecretSecretSecret", run_name="a", eval_steps=1,
                     eval_strategy="steps", save_steps=1, load_best_model_at_end=True, metric_for_best_model="accuracy", hub_model_id="me/x")
    made = trainer(folder, tmp_path / "out", args=args, method="head", eval_dataset=datasets.Dataset.from_list(text_rows(4)),
                   callbacks=[EarlyStoppingCallback(5)])
    recipe = scripted.recipe_of(made, scripted.base_of(made), made.args)
    assert (recipe.method, recipe.learning_rate, recipe.early_stopping_patience, recipe.model) == ("head", 3e-4, 5, str(folder))
    assert recipe.training_arguments == {
        "weight_decay": 0.02, "max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy", "greater_is_better": True, "run_name": "a"}
    assert (recipe.push_to_hub, recipe.hub_model_id) == (False, None)


@dataclasses.dataclass
class Own(TrainingArguments):
    own: float = 1.0
    weight_decay: float = 0.5


def test_arguments_of_a_class_of_ones_own_and_numbers_of_numpy_make_a_recipe(folder, tmp_path):
    args = Own(output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True, max_steps=2, own=np.float64(2.0), learning_rate=np.float64(3e-4),
               warmup_steps=np.float64(0.1), optim_args=None, lr_scheduler_kwargs={"num_cycles": np.int64(2)}, num_train_epochs=np.float64(2))
    made = trainer(folder, tmp_path / "out", args=args)
    scripted.rehearse(made, scripted.base_of(made), made.args)
    recipe = scripted.recipe_of(made, scripted.base_of(made), made.args)
    assert recipe.training_arguments == {"weight_decay": 0.5, "max_steps": 2, "warmup_steps": 0.1, "lr_scheduler_kwargs": {"num_cycles": 2}}
    assert type(recipe.learning_rate) is type(recipe.training_arguments["warmup_steps"]) is float and "learning_rate: 0.0003\n" in recipe.to_yaml()


def test_the_last_model_stays_whole_until_the_next_one_is(folder, tmp_path, monkeypatch):
    made = trainer(folder, tmp_path / "out")
    base = scripted.base_of(made)
    run = scripted.write(made, made.args, base, None)
    before = {path.name: path.read_bytes() for path in run.model_dir.iterdir()}

    def full(*given, **named):
        (run.folder / "model.part").mkdir()
        (run.folder / "model.part" / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(made, "save_model", full)
        scripted.write(made, made.args, base, None)
    assert {path.name: path.read_bytes() for path in run.model_dir.iterdir()} == before and run.is_finished()
    assert scripted.in_the_way(run) == []
    scripted.write(made, made.args, base, None)
    assert not (run.folder / "model.part").exists() and {path.name for path in run.model_dir.iterdir()} == set(before)


def test_a_run_is_written_again_over_the_one_before(folder, tmp_path):
    made = trainer(folder, tmp_path / "out", eval_dataset=datasets.Dataset.from_list(text_rows(4)))
    base = scripted.base_of(made)
    run = scripted.write(made, made.args, base, None)
    assert run.scores()["scores"] and run.predictions().num_rows == 4 and run.history() == []
    (run.model_dir / "model-00001-of-00002.safetensors").write_text("old")
    (run.model_dir / "README.md").write_text("mine")
    made.eval_dataset = None
    made.train()
    made.save_model()
    scripted.write(made, made.args, base, 1.5)
    assert run.exists() and run.scores()["scores"] == [] and not run.predictions_path.exists() and not (run.folder / "examples").exists()
    assert [event["type"] for event in run.history()] == ["end"] and run.history()[0]["seconds"] == 1.5
    assert sorted(path.name for path in run.model_dir.rglob("*") if path.is_file()) == [
        "README.md", "config.json", "model.safetensors", "recipe.yaml", "scores.json", "tokenizer.json", "tokenizer_config.json"]
