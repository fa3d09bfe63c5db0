"""TransferTrainer as a script uses it: Trainer's names, raw rows or encoded items, resuming, and two processes."""

import datasets
import numpy as np
import pytest
import torch
from tiny_models import bert_checkpoint, digits, text_rows, timm_checkpoint
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, TrainerCallback, TrainingArguments

from hfxfer import TransferTrainer
from hfxfer.errors import DivergedError, ModelError
from hfxfer.run import is_complete


def arguments(folder, **settings):
    return TrainingArguments(**{"output_dir": str(folder), "num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3,
                                "eval_strategy": "epoch", "save_strategy": "epoch", "report_to": "none", "disable_tqdm": True,
                                "use_cpu": True, "logging_steps": 1, **settings})


def images(num=12):
    rows = [{"image": picture, "label": label} for picture, label in digits((0, 1), num)]
    return datasets.Dataset.from_list([{"image": picture, "label": label} for picture, label in
                                       ((row["image"], row["label"]) for row in rows)],
                                      features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["zero", "one"])}))


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_raw_rows_and_a_checkpoint_name_are_enough(tmp_path):
    rows = images()
    trainer = TransferTrainer(model=str(timm_checkpoint(tmp_path / "net")), args=arguments(tmp_path / "out"), train_dataset=rows,
                              eval_dataset=rows, task="image-classification")
    assert trainer.model.config.id2label == {0: "zero", 1: "one"}
    trainer.train()
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_accuracy", "eval_f1_macro"} <= set(metrics)
    assert (trainer.args.num_train_epochs, trainer.args.learning_rate) == (2, 1e-3)
    assert len(trainer.predict(rows).predictions) == 24


def test_encoded_items_keep_the_callers_collator_and_metrics(tmp_path):
    folder = bert_checkpoint(tmp_path / "bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    raw = datasets.Dataset.from_list([{"text": row["text"], "label": int(row["label"] == "good")} for row in text_rows(24)])
    encoded = raw.map(lambda rows: tokenizer(rows["text"], truncation=True), batched=True)
    seen = []

    class Watcher(TrainerCallback):
        def on_step_end(self, args, state, control, **unused):
            seen.append(state.global_step)

    trainer = TransferTrainer(model=model, args=arguments(tmp_path / "out"), train_dataset=encoded, eval_dataset=encoded, processing_class=tokenizer,
                              data_collator=DataCollatorWithPadding(tokenizer), task="text-classification", callbacks=[Watcher()],
                              compute_metrics=lambda found: {"mine": float((found.predictions.argmax(1) == found.label_ids).mean())})
    trainer.train()
    assert "eval_mine" in trainer.evaluate() and "eval_accuracy" not in trainer.evaluate()
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_given_compute_metrics_keeps_trainers_evaluation_on_raw_rows(tmp_path):
    rows = images()
    trainer = TransferTrainer(model=str(timm_checkpoint(tmp_path / "net")), args=arguments(tmp_path / "out"), train_dataset=rows, eval_dataset=rows,
                              task="image-classification", compute_metrics=lambda found: {"rows": len(found.label_ids)})
    assert trainer.evaluate()["eval_rows"] == 24


def test_without_a_task_it_is_trainer(tmp_path):
    data = [{"x": torch.ones(2), "labels": torch.zeros(2)}] * 4

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, x, labels=None):
            return {"loss": (self.layer(x) - labels).pow(2).mean()}

    trainer = TransferTrainer(Net(), arguments(tmp_path, eval_strategy="no"), train_dataset=data)
    assert trainer.train().global_step == 2


def test_a_name_needs_a_task_and_labels(tmp_path):
    with pytest.raises(ModelError, match="needs a task"):
        TransferTrainer(model="nobody/nothing", args=arguments(tmp_path))


def test_a_model_for_other_labels_is_refused(tmp_path):
    folder = bert_checkpoint(tmp_path / "bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder, id2label={0: "no", 1: "yes"})
    with pytest.raises(ModelError, match="the model has the labels no, yes, the data bad, good"):
        TransferTrainer(model=model, args=arguments(tmp_path / "out"), train_dataset=datasets.Dataset.from_list(text_rows(8)),
                        processing_class=AutoTokenizer.from_pretrained(folder), task="text-classification")


def test_head_trains_only_the_head(tmp_path):
    rows = images()
    trainer = TransferTrainer(model=str(timm_checkpoint(tmp_path / "net")), args=arguments(tmp_path / "out"), train_dataset=rows,
                              eval_dataset=rows, task="image-classification", method="head")
    before = weights(trainer)
    trainer.train()
    changed = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    assert changed == {"timm_model.fc.weight", "timm_model.fc.bias"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_run_is_bit_equal_whatever_the_global_generators(tmp_path, workers):
    rows, folder = images(), timm_checkpoint(tmp_path / "net")
    found = []
    for number in range(2):
        trainer = TransferTrainer(model=str(folder), args=arguments(tmp_path / f"out{number}", dataloader_num_workers=workers if number else 0),
                                  train_dataset=rows, eval_dataset=rows, task="image-classification", augment="rand")
        np.random.rand(number)
        trainer.train()
        found.append(weights(trainer))
    assert equal(*found)


def interrupted(trainer, step):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **unused):
            if state.global_step == step:
                raise KeyboardInterrupt

    trainer.add_callback(Stop())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


def test_resuming_in_mid_epoch_gives_the_weights_of_the_whole_run(tmp_path):
    folder = bert_checkpoint(tmp_path / "bert")

    def trainer(name):
        return TransferTrainer(model=str(folder), args=arguments(tmp_path / name, eval_strategy="no", save_strategy="steps", save_steps=2),
                               train_dataset=datasets.Dataset.from_list(text_rows(40)), task="text-classification")

    whole = trainer("whole")
    whole.train()
    interrupted(trainer("cut"), step=7)
    resumed = trainer("cut")
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-6"))
    assert resumed.state.global_step == 10
    assert equal(weights(whole), weights(resumed))


def test_resuming_with_augmentation_gives_the_weights_of_the_whole_run(tmp_path):
    rows, folder = images(), timm_checkpoint(tmp_path / "net")

    def trainer(name):
        return TransferTrainer(model=str(folder), args=arguments(tmp_path / name, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2),
                               train_dataset=rows, eval_dataset=rows, task="image-classification", augment="rand")

    whole = trainer("whole")
    whole.train()
    interrupted(trainer("cut"), step=5)
    resumed = trainer("cut")
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    assert equal(weights(whole), weights(resumed))


def test_checkpoints_are_marked_complete(tmp_path):
    rows = images()
    TransferTrainer(model=str(timm_checkpoint(tmp_path / "net")), args=arguments(tmp_path / "out"), train_dataset=rows, eval_dataset=rows,
                    task="image-classification").train()
    folder = tmp_path / "out" / "checkpoint-6"
    assert is_complete(folder)
    (folder / "optimizer.pt").write_bytes(b"cut")
    assert not is_complete(folder)


def test_a_loss_that_is_no_number_stops_with_step_rate_and_advice(tmp_path):
    trainer = TransferTrainer(model=str(bert_checkpoint(tmp_path / "bert")), args=arguments(tmp_path / "out", eval_strategy="no", learning_rate=2e-3),
                              train_dataset=datasets.Dataset.from_list(text_rows(16)), task="text-classification")
    with torch.no_grad():
        trainer.model.classifier.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"the loss became nan at step 1 \(learning rate 0.002\). Try a lower --learning_rate \(such as 0.0002\)"):
        trainer.train()


def test_ties_in_the_metric_are_broken_by_the_loss():
    from hfxfer.trainer import best_evaluation

    args = TrainingArguments(output_dir="x", metric_for_best_model="accuracy", greater_is_better=True, use_cpu=True)
    args.load_best_model_at_end = True
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_accuracy": 0.9, "eval_loss": 0.5}, {"step": 4, "eval_accuracy": 0.9, "eval_loss": 0.3},
           {"step": 6, "eval_accuracy": 0.8, "eval_loss": 0.1}]
    assert best_evaluation(log, args)["step"] == 4
    args.greater_is_better = False
    assert best_evaluation(log, args)["step"] == 6


def test_early_stopping_counts_evaluations_without_a_better_one():
    import types

    from hfxfer.stopping import EarlyStopping

    args = TrainingArguments(output_dir="x", metric_for_best_model="accuracy", greater_is_better=True, use_cpu=True)
    args.load_best_model_at_end = True
    log = [{"step": step, "eval_accuracy": value, "eval_loss": 1.0} for step, value in ((1, 0.5), (2, 0.9), (3, 0.8), (4, 0.7))]
    stops = []
    for end in range(1, 5):
        control = types.SimpleNamespace(should_training_stop=False)
        EarlyStopping(2).on_evaluate(args, types.SimpleNamespace(log_history=log[:end]), control)
        stops.append(control.should_training_stop)
    assert stops == [False, False, False, True]


def test_several_evaluation_sets_are_scored_by_name(tmp_path):
    rows = images()
    trainer = TransferTrainer(model=str(timm_checkpoint(tmp_path / "net")), args=arguments(tmp_path / "out"), train_dataset=rows,
                              eval_dataset={"all": rows, "few": rows.select(range(4))}, task="image-classification")
    metrics = trainer.evaluate()
    assert {"eval_all_accuracy", "eval_few_accuracy"} <= set(metrics)
    assert trainer.evaluate("few")["eval_accuracy"] == metrics["eval_few_accuracy"]


def test_model_init_gets_the_method_and_args_stay_the_callers(tmp_path):
    folder = bert_checkpoint(tmp_path / "bert")
    rows = datasets.Dataset.from_list(text_rows(16))
    args = arguments(tmp_path / "out", eval_strategy="no", num_train_epochs=1)
    names = {0: "bad", 1: "good"}
    trainer = TransferTrainer(model_init=lambda: AutoModelForSequenceClassification.from_pretrained(
        folder, id2label=names, label2id={name: index for index, name in names.items()}), args=args, train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder), task="text-classification", method="head")
    assert trainer.args is args and args.remove_unused_columns
    trainer.train()
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained == {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}


def test_unlabelled_rows_are_predicted(tmp_path):
    rows = images(4)
    trainer = TransferTrainer(model=str(timm_checkpoint(tmp_path / "net")), args=arguments(tmp_path / "out", eval_strategy="no"), train_dataset=rows,
                              task="image-classification")
    assert trainer.predict(rows.remove_columns("label")).predictions.shape == (8, 2)


def test_numbers_in_a_script_stay_in_their_units(tmp_path):
    rows = datasets.Dataset.from_list([{"text": f"the film {index}", "label": 100.5 + index} for index in range(12)])
    trainer = TransferTrainer(model=str(bert_checkpoint(tmp_path / "bert")), args=arguments(tmp_path / "out"), train_dataset=rows,
                              eval_dataset=rows, task="text-classification")
    assert sorted(trainer.predict(rows).label_ids.flatten().tolist())[:2] == [100.5, 101.5]


def test_names_that_nobody_gave_are_replaced(tmp_path):
    folder = bert_checkpoint(tmp_path / "bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    trainer = TransferTrainer(model=model, args=arguments(tmp_path / "out", eval_strategy="no"), train_dataset=datasets.Dataset.from_list(text_rows(8)),
                              processing_class=AutoTokenizer.from_pretrained(folder), task="text-classification")
    assert trainer.model.config.id2label == {0: "bad", 1: "good"}


def test_a_second_trainer_may_train_what_the_first_froze(tmp_path):
    rows = images(4)
    first = TransferTrainer(model=str(timm_checkpoint(tmp_path / "net")), args=arguments(tmp_path / "out", eval_strategy="no"), train_dataset=rows,
                            task="image-classification", method="head")
    second = TransferTrainer(model=first.model, args=arguments(tmp_path / "out", eval_strategy="no"), train_dataset=rows, processing_class=first.processing_class,
                             task="image-classification", method="full")
    assert all(parameter.requires_grad for parameter in second.model.parameters()) and not second.model._forward_pre_hooks


def test_a_loss_of_the_callers_is_the_one_that_is_evaluated(tmp_path):
    rows = images(4)
    trainer = TransferTrainer(model=str(timm_checkpoint(tmp_path / "net")), args=arguments(tmp_path / "out"), train_dataset=rows, eval_dataset=rows,
                              task="image-classification", compute_loss_func=lambda outputs, labels, num_items_in_batch=None:
                              100 * torch.nn.functional.cross_entropy(outputs["logits"], labels))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(69.3, abs=1)


def test_a_script_saves_what_timm_loads(tmp_path):
    import timm

    rows = images(4)
    trainer = TransferTrainer(model=str(timm_checkpoint(tmp_path / "net")), args=arguments(tmp_path / "out", eval_strategy="no"), train_dataset=rows,
                              task="image-classification")
    trainer.save_model(str(tmp_path / "saved"))
    assert timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).num_classes == 2


def test_a_timm_model_is_saved_with_the_names_that_it_was_given(tmp_path):
    import json

    from transformers import AutoModelForImageClassification

    folder, names = timm_checkpoint(tmp_path / "net", classes=2), {0: "zero", 1: "one"}
    given = AutoModelForImageClassification.from_pretrained(folder, id2label=names, label2id={name: index for index, name in names.items()})
    processor = TransferTrainer(model=str(folder), args=arguments(tmp_path / "out", eval_strategy="no"), train_dataset=images(4),
                                task="image-classification").processing_class
    trainer = TransferTrainer(model=given, args=arguments(tmp_path / "out", eval_strategy="no"), train_dataset=images(4), processing_class=processor,
                              task="image-classification")
    trainer.save_model(str(tmp_path / "saved"))
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["label_names"] == ["zero", "one"]


def test_an_undefined_metric_leaves_the_choice_to_the_loss(tmp_path, capsys):
    rows = [{"tokens": ["ada", "lives", str(index)], "tags": ["B-PER", "O", "O"]} for index in range(16)]
    nobody = [{"tokens": ["the", "film", str(index)], "tags": ["O", "O", "O"]} for index in range(4)]
    trainer = TransferTrainer(model=str(bert_checkpoint(tmp_path / "bert")), args=arguments(
        tmp_path / "out", metric_for_best_model="entity_f1", greater_is_better=True, load_best_model_at_end=True, learning_rate=1e-2, num_train_epochs=4),
        train_dataset=datasets.Dataset.from_list(rows), eval_dataset=datasets.Dataset.from_list(nobody), task="token-classification")
    trainer.train()
    assert trainer.state.best_metric == min(entry.get("eval_entity_f1", entry["eval_loss"]) for entry in trainer.state.log_history if "eval_loss" in entry)


def test_what_calibration_found_is_forgotten_when_training_begins_and_not_before(tmp_path):
    folder = bert_checkpoint(tmp_path / "bert")
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}

    def calibrated():
        model = AutoModelForSequenceClassification.from_pretrained(folder, **names)
        model.config.hfxfer_temperature, model.config.hfxfer_threshold, model.config.hfxfer_half_width = 1.5, 0.3, 2.0
        return model

    def kept(trainer):
        return [name for name in trainer.model.config.to_dict() if name.startswith("hfxfer_")]

    common = dict(args=arguments(tmp_path / "out", eval_strategy="no", num_train_epochs=1), train_dataset=datasets.Dataset.from_list(text_rows(16)),
                  processing_class=AutoTokenizer.from_pretrained(folder), task="text-classification")
    trainer = TransferTrainer(model=calibrated(), **common)
    assert len(kept(trainer)) == 3
    trainer.train()
    assert kept(trainer) == [] and kept(TransferTrainer(model_init=calibrated, **common)) == []


def test_no_file_holds_the_token_of_the_arguments(tmp_path):
    args = arguments(tmp_path / "out", eval_strategy="no", num_train_epochs=1, hub_token="hf_SecretSecretSecretSecret")
    trainer = TransferTrainer(model=str(bert_checkpoint(tmp_path / "bert")), args=args, train_dataset=datasets.Dataset.from_list(text_rows(16)),
                              task="text-classification")
    trainer.train()
    trainer.save_model(str(tmp_path / "out" / "saved"))
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"training_args.bin", "optimizer.pt"} <= {path.name for path in files} and args.hub_token == "hf_SecretSecretSecretSecret"
    assert not [path for path in files if b"hf_Secret" in path.read_bytes()] and trainer.args.learning_rate == 1e-3
