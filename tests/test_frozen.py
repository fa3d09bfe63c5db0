"""A head on cached features: the same training as on a frozen body, in Trainer's own loop."""

import functools
import os
import shutil
from pathlib import Path

import datasets
import pytest
import torch
import transformers
from tiny_models import bert_checkpoint, digits, gpt2_checkpoint, tag_rows, text_rows, timm_checkpoint, word_piece_tokenizer
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, TrainerCallback, TrainingArguments, ViTImageProcessor

from hfxfer import TransferTrainer

TEXT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=64, max_position_embeddings=66,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HFXFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def arguments(folder, **settings):
    return TrainingArguments(**{"output_dir": str(folder), "num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-2,
                                "eval_strategy": "epoch", "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
                                "logging_steps": 1, **settings})


@functools.cache
def pictures(num=10, classes=(0, 1)):
    return datasets.Dataset.from_list([{"image": picture, "label": f"digit {label}"} for picture, label in digits(classes, num)])


@functools.cache
def network():
    """A timm network, one for all tests, in the folder that goes when they end."""
    return str(timm_checkpoint(Path(os.environ["HF_HOME"]) / "frozen"))


def trained(folder, task, model, rows, processor=None, args=None, **settings):
    trainer = TransferTrainer(model=model, args=arguments(folder, **(args or {})), train_dataset=rows, eval_dataset=rows, processing_class=processor,
                              task=task, method="head", **{"augment": "none", **settings})
    trainer.train()
    return trainer


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def text_checkpoint(folder, name):
    if name == "GPT2":
        return str(gpt2_checkpoint(folder / "gpt2"))
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**TEXT, pad_token_id=0)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder / name)
    word_piece_tokenizer().save_pretrained(folder / name)
    return str(folder / name)


def picture_checkpoint(folder, name):
    settings = {"ViT": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=16),
                "MobileNetV1": dict(depth_multiplier=0.1, min_depth=8, classifier_dropout_prob=0.0),
                "ResNet": dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])}[name]
    torch.manual_seed(0)
    AutoModelForImageClassification.from_config(getattr(transformers, f"{name}Config")(**settings)).save_pretrained(folder / name)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / name)
    return str(folder / name)


SEVERAL = [{"text": f"{'good ' * (index % 2)}{'bad ' * (index // 2 % 2)}day {index}", "label": ["good"] * (index % 2) + ["bad"] * (index // 2 % 2)}
           for index in range(24)]
NUMBERS = [{"text": f"the film was {'good ' * (index % 5)}", "label": 0.5 + index % 5} for index in range(24)]
CASES = {
    "bert": lambda folder: ("text-classification", text_checkpoint(folder, "Bert"), text_rows(24)),
    "roberta": lambda folder: ("text-classification", text_checkpoint(folder, "Roberta"), text_rows(24)),
    "several labels": lambda folder: ("text-classification", text_checkpoint(folder, "Bert"), SEVERAL),
    "numbers": lambda folder: ("text-classification", text_checkpoint(folder, "Roberta"), NUMBERS),
    "tokens": lambda folder: ("token-classification", text_checkpoint(folder, "Bert"), tag_rows(24)),
    "long tokens": lambda folder: ("token-classification", text_checkpoint(folder, "Roberta"), [
        {"tokens": ["ada", "lives", "in", "oslo"] * (3 + index % 7), "tags": ["B-PER", "O", "O", "B-LOC"] * (3 + index % 7)} for index in range(12)]),
    "vit": lambda folder: ("image-classification", picture_checkpoint(folder, "ViT"), pictures()),
    "mobilenetv1": lambda folder: ("image-classification", picture_checkpoint(folder, "MobileNetV1"), pictures()),
    "resnet": lambda folder: ("image-classification", picture_checkpoint(folder, "ResNet"), pictures()),
    "timm resnet": lambda folder: ("image-classification", network(), pictures()),
    "timm vit": lambda folder: ("image-classification", str(timm_checkpoint(folder / "net", architecture="test_vit", size=160)), pictures(4)),
}


@pytest.mark.parametrize("name", CASES)
def test_cached_training_is_frozen_training(name, tmp_path, cache):
    task, model, rows = CASES[name](tmp_path)
    rows = rows if isinstance(rows, datasets.Dataset) else datasets.Dataset.from_list(rows)
    settings = {"max_length": 20, "stride": 4} if name == "long tokens" else {}
    frozen = trained(tmp_path / "frozen", task, model, rows, feature_cache_gb=0, **settings)
    assert not cache.exists()
    quick = trained(tmp_path / "cached", task, model, rows, **settings)
    assert cache.exists()
    first, second = weights(frozen), weights(quick)
    assert all(torch.allclose(first[key].float(), second[key].float(), atol=2e-4) for key in first)
    evaluations = [[entry["eval_loss"] for entry in each.state.log_history if "eval_loss" in entry] for each in (frozen, quick)]
    assert evaluations[0] == pytest.approx(evaluations[1], abs=1e-3) and len(evaluations[0]) == 3
    # And outside the stage, on the whole model.
    assert quick.evaluate()["eval_loss"] == pytest.approx(evaluations[1][-1], abs=1e-4)


def test_gpt2_with_its_dropout_trains_on_features(tmp_path, cache):
    trainer = trained(tmp_path / "out", "text-classification", text_checkpoint(tmp_path, "GPT2"), datasets.Dataset.from_list(text_rows(24)))
    last = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry][-1]
    assert cache.exists() and trainer.evaluate()["eval_loss"] == pytest.approx(last, abs=1e-5)


def test_what_is_saved_is_a_plain_model_with_the_same_logits(tmp_path):
    rows = pictures()
    seen = {}

    class Saver(TrainerCallback):
        """In the midst of the cached stage."""

        def on_evaluate(self, args, state, control, metrics, model, **unused):
            found[0].save_model(str(tmp_path / "saved"))
            seen.update(metrics)

    found = []
    trainer = TransferTrainer(model=network(), args=arguments(tmp_path / "out", num_train_epochs=1), train_dataset=rows,
                              eval_dataset=rows, task="image-classification", method="head", callbacks=[Saver()])
    found.append(trainer)
    trainer.train()
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    again = TransferTrainer(model=plain, args=arguments(tmp_path / "x"), eval_dataset=rows, processing_class=trainer.processing_class,
                            task="image-classification")
    assert again.evaluate()["eval_loss"] == pytest.approx(seen["eval_loss"], abs=1e-5)
    assert all(torch.equal(value, trainer.model.state_dict()[name]) for name, value in plain.state_dict().items())


def test_frozen_means_every_bit_of_parameters_and_buffers(tmp_path):
    """Also where features are not cached, and batch norms and dropout would move."""
    for cached in (20.0, 0.0):
        trainer = TransferTrainer(model=network(), args=arguments(tmp_path / "out"), train_dataset=pictures(),
                                  eval_dataset=pictures(), task="image-classification", method="head", feature_cache_gb=cached)
        before = weights(trainer)
        trainer.train()
        assert {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])} == {"timm_model.fc.weight", "timm_model.fc.bias"}


def test_other_rows_are_evaluated_and_predicted_inside_the_stage_and_after(tmp_path):
    rows, others = pictures(), pictures(14).select(range(20, 28))
    found = {}

    class Asker(TrainerCallback):
        def on_epoch_end(self, args, state, control, **unused):
            if state.epoch == 3:
                found["inside"] = trainer.evaluate(others)["eval_loss"], trainer.predict(others).predictions

    trainer = TransferTrainer(model=network(), args=arguments(tmp_path / "out", eval_strategy="no"), train_dataset=rows,
                              eval_dataset=rows, task="image-classification", method="head", callbacks=[Asker()])
    trainer.train()
    loss, predictions = found["inside"]
    assert trainer.evaluate(others)["eval_loss"] == pytest.approx(loss, abs=1e-5)
    assert trainer.predict(others).predictions == pytest.approx(predictions, abs=1e-5)


def test_named_evaluation_sets_and_own_metrics_work_on_features(tmp_path):
    rows = pictures()
    named = TransferTrainer(model=network(), args=arguments(tmp_path / "out"), train_dataset=rows,
                            eval_dataset={"all": rows, "few": rows.select([0, 12])}, task="image-classification", method="head")
    named.train()
    assert {"eval_all_accuracy", "eval_few_accuracy"} <= {key for entry in named.state.log_history for key in entry}
    own = TransferTrainer(model=network(), args=arguments(tmp_path / "out"), train_dataset=rows, eval_dataset=rows, task="image-classification",
                          method="head", compute_metrics=lambda found: {"rows": len(found.label_ids)})
    own.train()
    assert [entry["eval_rows"] for entry in own.state.log_history if "eval_rows" in entry] == [20, 20, 20]


def test_a_second_run_another_head_and_another_split_compute_nothing_new(tmp_path, cache):
    rows, net = pictures(), network()
    trained(tmp_path / "first", "image-classification", net, rows)
    before = {path: path.read_bytes() for path in cache.rglob("*.bin")}
    trained(tmp_path / "second", "image-classification", net, rows, args={"seed": 3})
    trained(tmp_path / "third", "image-classification", net, rows.select(range(5, 15)))
    other = [{"image": row["image"], "label": f"{index % 4}"} for index, row in enumerate(rows)]
    trained(tmp_path / "fourth", "image-classification", net, datasets.Dataset.from_list(other))
    assert {path: path.read_bytes() for path in cache.rglob("*.bin")} == before and len(list(cache.iterdir())) == 1


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(weights of a training, the features that it left)."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HFXFER_CACHE", str(folder / "cache"))
        return weights(trained(folder / "out", "image-classification", network(), pictures())), folder / "cache" / "features"


@pytest.mark.parametrize("poison", ["truncated", "flipped", "no data", "no index", "garbage index", "changed weights"])
def test_a_poisoned_cache_gives_the_right_weights(tmp_path, cache, first, poison):
    (right, features), net = first, network()
    shutil.copytree(features, cache)
    data = next(cache.rglob("*.bin"))
    content = bytearray(data.read_bytes())
    content[10] ^= 64
    if poison == "changed weights":
        body = AutoModelForImageClassification.from_pretrained(net)
        with torch.no_grad():
            body.timm_model.conv1[0].weight.mul_(-1)
        body.save_pretrained(tmp_path / "changed")
        net = str(tmp_path / "changed")
        right = weights(trained(tmp_path / "frozen", "image-classification", net, pictures(), feature_cache_gb=0))
    {"truncated": lambda: data.write_bytes(content[:100]), "flipped": lambda: data.write_bytes(content), "no data": data.unlink,
     "no index": data.with_suffix(".json").unlink, "garbage index": lambda: data.with_suffix(".json").write_text("{"), "changed weights": lambda: 0}[poison]()
    found = weights(trained(tmp_path / "second", "image-classification", net, pictures()))
    assert all(torch.allclose(found[name].float(), right[name].float(), atol=1e-5) for name in right)


def test_epochs_cycle_through_the_views(tmp_path, cache):
    """Two views: epochs 0 and 2 see the one, 1 and 3 the other; the same rows uncached see a new one each time."""
    trainer = TransferTrainer(model=network(), args=arguments(tmp_path / "out", num_train_epochs=4, eval_strategy="no"),
                              train_dataset=pictures(), task="image-classification", method="head", feature_views=2)
    seen = []

    class Looker(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **unused):
            items = [trainer.train_dataset[(len(seen), index)] for index in range(3)]
            seen.append(trainer.task.collate(items, trainer.processing_class)["pixel_values"])

    trainer.add_callback(Looker())
    trainer.train()
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3]) and not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(("settings", "told"), [
    ({"mixup": 0.2}, "mixup changes pictures, so features are not cached while only the head is trained"),
    ({"feature_cache_gb": 1e-6}, "the features would take 1.54e-05 GB, so they are not cached: the frozen body is run in every epoch. "
                                 "To cache them: --feature_cache_gb 2.3e-05"),
    ({"feature_views": 2, "augment": "none"}, "feature_views has no effect: augment is none")])
def test_why_there_is_no_cache_is_told(tmp_path, cache, capsys, settings, told):
    trainer = trained(tmp_path / "out", "image-classification", network(), pictures(), args={"num_train_epochs": 1}, **settings)
    assert told in capsys.readouterr().err
    assert cache.exists() == ("feature_views" in settings) and trainer.state.global_step == 3


def test_a_cache_that_cannot_be_written_changes_no_weight(tmp_path, first, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HFXFER_CACHE", str(tmp_path / "file"))
    found = weights(trained(tmp_path / "second", "image-classification", network(), pictures()))
    assert all(torch.equal(found[name], value) for name, value in first[0].items())
    assert capsys.readouterr().err.count("this run keeps them in memory") == 1


def test_items_that_are_already_encoded_train_without_a_cache(tmp_path, cache):
    folder = bert_checkpoint(tmp_path / "bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = [{**tokenizer(row["text"]), "labels": int(row["label"] == "good")} for row in text_rows(16)]
    trainer = TransferTrainer(model=AutoModelForSequenceClassification.from_pretrained(folder), args=arguments(tmp_path / "out", eval_strategy="no"),
                              train_dataset=encoded, data_collator=transformers.DataCollatorWithPadding(tokenizer), method="head")
    before = weights(trainer)
    trainer.train()
    changed = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    assert changed == {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"} and not cache.exists()


def test_loader_processes_are_not_started_for_features_and_come_back_after(tmp_path):
    workers = []

    class Looker(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader, **unused):
            workers.append(train_dataloader.num_workers)

    trainer = TransferTrainer(model=network(), train_dataset=pictures(), task="image-classification", method="head",
                              args=arguments(tmp_path / "out", eval_strategy="no", num_train_epochs=1, dataloader_num_workers=2,
                                             dataloader_persistent_workers=True, dataloader_prefetch_factor=2), callbacks=[Looker()])
    trainer.train()
    assert workers == [0] and trainer.args.dataloader_num_workers == 2 and trainer.args.dataloader_persistent_workers
