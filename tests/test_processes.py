"""Two processes on a CPU: the same scores as one, equal weights in both, and no two runs side by side."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import bert_checkpoint, digits_folder, tag_rows, timm_checkpoint, write_jsonl


def torchrun(*command, processes=2, **environment):
    launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone", "-m", "hfxfer"]
    return subprocess.run([*launch, *map(str, command)], capture_output=True, text=True, timeout=400,
                          env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    timm_checkpoint(folder / "net")
    bert_checkpoint(folder / "bert")
    digits_folder(folder / "digits", test=7)
    write_jsonl(folder / "tags.jsonl", tag_rows(60))
    return folder


@pytest.fixture(scope="module")
def trained(place):
    done = torchrun("train", "--model", place / "net", "--data", place / "digits", "--output_dir", place / "run", "--num_train_epochs", 2,
                    "--per_device_train_batch_size", 4, "--format", "json", "--report_to", "none")
    assert done.returncode == 0, done.stderr
    return done


def test_training_writes_one_run_and_one_object(trained, place):
    found = json.loads(trained.stdout)
    assert found["scores"]["scores"][0]["num_rows"] == 21
    environment = json.loads((place / "run" / "environment.json").read_text())
    assert environment["processes"] == 2
    history = [json.loads(line) for line in (place / "run" / "history.jsonl").read_text().splitlines()]
    assert [event["type"] for event in history].count("end") == 1
    # 60 rows, 4 on each of 2 devices: 8 steps an epoch.
    assert history[-1]["step"] == 16


def test_two_processes_score_as_one_does(trained, place):
    from hfxfer import evaluate

    done = torchrun("evaluate", place / "run", "--data", place / "digits", "--format", "json", "--batch_size", 4)
    assert done.returncode == 0, done.stderr
    two, one = json.loads(done.stdout), evaluate(place / "run", str(place / "digits"))
    assert two["confusion_matrix"] == one["confusion_matrix"]
    for first, second in zip(one["scores"], two["scores"], strict=True):
        assert first["num_rows"] == second["num_rows"] == 21
        for key in ("value", "low", "high"):
            # Logits differ by up to 1e-5 between batch sizes; a row counted twice or left out would change a score by 0.01 and more.
            assert second[key] == pytest.approx(first[key], abs=1e-4)


def test_both_processes_hold_equal_weights_after_each_step(place):
    script = place / "script.py"
    script.write_text(f"""
import torch.distributed as dist, torch
from transformers import TrainingArguments
from hfxfer import TransferTrainer, data
import datasets, json
rows = datasets.Dataset.from_list([json.loads(line) for line in open({str(place / 'tags.jsonl')!r})])
args = TrainingArguments(output_dir={str(place / 'out')!r}, num_train_epochs=1, per_device_train_batch_size=4, use_cpu=True,
                         report_to="none", disable_tqdm=True, learning_rate=1e-3, save_strategy="no")
trainer = TransferTrainer(model={str(place / 'bert')!r}, args=args, train_dataset=rows, eval_dataset=rows, task="token-classification", method="head")
trainer.train()
flat = torch.cat([value.flatten().float() for value in trainer.model.state_dict().values()])
both = [torch.empty_like(flat) for _ in range(2)]
dist.all_gather(both, flat)
with open({str(place / 'equal')!r} + str(dist.get_rank()), "w") as file:
    json.dump([torch.equal(*both), trainer.evaluate()["eval_entity_f1"]], file)
dist.destroy_process_group()
""")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)],
                          capture_output=True, text=True, timeout=400, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((place / f"equal{rank}").read_text()) for rank in range(2))
    assert first == second and first[0] is True and 0 <= first[1] <= 1


def test_a_world_that_the_library_does_not_see_is_an_error(place):
    """Without use_cpu, torchrun on a machine without accelerator gives two runs side by side."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, on which torchrun is seen")
    done = torchrun("train", "--model", place / "net", "--data", place / "digits", "--output_dir", place / "alone", "--use_cpu", "false")
    assert done.returncode != 0 and "WORLD_SIZE=2" in done.stderr and not (place / "alone").exists()


def test_a_refused_run_is_refused_by_every_process(place):
    done = torchrun("train", "--model", place / "net", "--data", place / "missing", "--output_dir", place / "none")
    assert done.returncode != 0 and "missing" in done.stderr and not (place / "none").exists()


def test_weights_of_two_processes_are_the_saved_ones(trained, place):
    assert set(load_file(place / "run" / "model" / "model.safetensors")) >= {"fc.weight", "fc.bias"}


REGULARISED = """
import sys, torch, torch.distributed as dist, datasets
sys.path.insert(0, {tests!r})
from tiny_models import digits
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainingArguments
from hfxfer import TransferTrainer
from hfxfer.recipe import Recipe

class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **unused):
        if state.global_step == 5:
            raise KeyboardInterrupt

def trainer(name, callbacks=None):
    rows = datasets.Dataset.from_list([{{"image": picture, "label": str(min(label, 1))}} for picture, label in digits((0, 1, 2), 9)])
    args = TrainingArguments(output_dir={place!r} + "/" + name, num_train_epochs=2, per_device_train_batch_size=4, use_cpu=True, report_to="none",
                             disable_tqdm=True, learning_rate=1e-2, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2,
                             label_smoothing_factor=0.1, load_best_model_at_end=False)
    recipe = Recipe(model={network!r}, data="given", method="full", mixup=0.4, cutmix=1.0, random_erasing=0.3, class_weights="balanced",
                    sampler="balanced", l2_sp=0.1, ema_decay=0.9, layer_decay=0.7, head_lr_multiplier=2.0, augment="rand", drop_path=0.1)
    return TransferTrainer(model={network!r}, args=args, train_dataset=rows, eval_dataset=rows, task="image-classification", recipe=recipe,
                           callbacks=callbacks)

def flat(model):
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])

whole = trainer("whole")
whole.train()
try:
    trainer("cut", [Stop()]).train()
except KeyboardInterrupt:
    pass
resumed = trainer("cut")
resumed.train(resume_from_checkpoint={place!r} + "/cut/checkpoint-4")
mine = flat(whole.model)
both = [torch.empty_like(mine) for _ in range(2)]
dist.all_gather(both, mine)
found = {{"ranks": torch.equal(*both), "resumed": torch.equal(mine, flat(resumed.model)), "steps": whole.state.global_step}}
import json
with open({place!r} + "/found" + str(dist.get_rank()), "w") as file:
    json.dump(found, file)
dist.destroy_process_group()
"""


def test_every_regulariser_at_once_in_two_processes_is_resumed_to_the_bit(place):
    script = place / "regularised.py"
    script.write_text(REGULARISED.format(tests=os.path.dirname(__file__), place=str(place), network=str(place / "net")))
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)],
                          capture_output=True, text=True, timeout=400, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    # 27 rows, 4 on each of 2 devices: 4 steps an epoch.
    assert [json.loads((place / f"found{rank}").read_text()) for rank in range(2)] == [{"ranks": True, "resumed": True, "steps": 8}] * 2


STAGED = """
import json, sys, torch, torch.distributed as dist, datasets
sys.path.insert(0, {tests!r})
from tiny_models import digits
from transformers import TrainerCallback, TrainingArguments
from hfxfer import TransferTrainer
from hfxfer import features
from hfxfer.features import fill
from hfxfer.shards import FeatureStore

rank, found = None, {{}}
rows = datasets.Dataset.from_list([{{"image": picture, "label": str(label)}} for picture, label in digits((0, 1), 18)])

class Stop(TrainerCallback):
    stage = -1
    def on_train_begin(self, args, state, control, **unused):
        self.stage += 1
    def on_step_end(self, args, state, control, **unused):
        if (self.stage, state.global_step) == (1, 3):
            raise KeyboardInterrupt

def trainer(name, method, callbacks=None):
    args = TrainingArguments(output_dir={place!r} + "/staged/" + name, num_train_epochs=1, per_device_train_batch_size=4, use_cpu=True, report_to="none",
                             disable_tqdm=True, learning_rate=1e-2, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2)
    return TransferTrainer(model={network!r}, args=args, train_dataset=rows, eval_dataset=rows, task="image-classification", method=method, head_epochs=1,
                           callbacks=callbacks)

def flat(model):
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])

added = FeatureStore.add
def counted(self, features):
    found["features"] = found.get("features", 0) + len(features)
    added(self, features)

FeatureStore.add = counted
features.pictures_at_once = lambda processor: 16
for method in ("head", "lp-ft", "gradual", "lora", "full"):
    whole = trainer(method, method)
    start = flat(whole.model)
    whole.train()
    mine = flat(whole.model)
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    found[method] = [torch.equal(*both), not torch.equal(start, mine), whole.state.global_step, round(whole.evaluate()["eval_loss"], 6)]
    if method == "lp-ft":
        expected = mine
try:
    trainer("cut", "lp-ft", [Stop()]).train()
except KeyboardInterrupt:
    pass
dist.barrier()
resumed = trainer("cut", "lp-ft")
resumed.train(resume_from_checkpoint=True)
found["resumed"] = torch.equal(expected, flat(resumed.model))
with open({place!r} + "/staged" + str(dist.get_rank()), "w") as file:
    json.dump(found, file)
dist.destroy_process_group()
"""


def test_every_method_leaves_equal_weights_in_both_processes_and_each_computes_its_share_of_the_features(place):
    timm_checkpoint(place / "pointwise", architecture="test_efficientnet")
    script = place / "staged.py"
    script.write_text(STAGED.format(tests=os.path.dirname(__file__), place=str(place), network=str(place / "pointwise")))
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)],
                          capture_output=True, text=True, timeout=400, env={**os.environ, "OMP_NUM_THREADS": "1", "HFXFER_CACHE": str(place / "cache")})
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((place / f"staged{rank}").read_text()) for rank in range(2))
    # 36 rows in batches of 16, shared by turns; the other methods find them.
    assert sorted([first.pop("features"), second.pop("features")]) == [16, 20]
    assert first == second and first.pop("resumed") is True
    for method, (equal, trained, steps, loss) in first.items():
        # 4 rows on each of 2 devices: 5 steps an epoch; gradual's last stage is half of it.
        assert equal and trained and loss > 0 and steps <= 5, method
