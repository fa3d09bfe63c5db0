"""From training to somebody else's prediction: `train`, `push --space`, `predict me/x` from an empty cache, for each kind of model.

With Xet off, and on, on a server that offers it. The faults on the way are in test_hub.py (pushing) and test_fetching.py (loading).
"""

import csv
import io
import json
import re
import shutil

import hub_metadata
import pytest
from hub_server import HubServer
from hub_worker import Worker

TINY = """
from pathlib import Path
import torch, transformers
from tiny_models import bert_checkpoint, digits_folder, tag_rows, text_rows, timm_checkpoint, write_jsonl

digits_folder(Path("digits"), train=8, validation=3, test=4)
write_jsonl(Path("texts.jsonl"), text_rows(60))
write_jsonl(Path("tags.jsonl"), tag_rows(40))
timm_checkpoint(Path("timm"))
bert_checkpoint(Path("bert"))
torch.manual_seed(0)
size = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16)
transformers.ViTForImageClassification(transformers.ViTConfig(**size)).save_pretrained("vit")
transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("vit")
"""
LOGITS = """
import timm, torch, transformers
torch.manual_seed(0)
auto, place = getattr(transformers, "AutoModelFor{head}Classification"), "{run}/model"
given = torch.rand(2, 3, 32, 32) if "{head}" == "Image" else torch.randint(4, 60, (2, 9))
with torch.inference_mode():
    models = [auto.from_pretrained(name).eval() for name in (place, "me/{kind}")]
    if "{kind}" == "timm":
        models.append(lambda x: transformers.modeling_outputs.ImageClassifierOutput(
            logits=timm.create_model("hf-hub:me/{kind}", pretrained=True).eval()(x)))
    logits = [model(given).logits for model in models]
said["apart"] = [float((each - logits[0]).abs().max()) for each in logits]
said["labels"] = [list(model.config.id2label.values()) for model in models[:2]]
"""
SNIPPETS = """
import contextlib, io, shutil
shutil.copyfile("{picture}", "picture.jpg")
said["printed"] = []
for code in {snippets!r}:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {{}})
    said["printed"].append(out.getvalue())
"""
MODELS = {"timm": ("timm", "digits", "Image"), "image": ("vit", "digits", "Image"), "text": ("bert", "texts.jsonl", "Sequence"),
          "token": ("bert", "tags.jsonl", "Token")}
SETTINGS = ["--num_train_epochs", "1", "--plan", "none", "--method", "full", "--per_device_train_batch_size", "16"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as hub:
        hub.add_user("me")
        yield hub


@pytest.fixture(scope="module")
def worker(hub, tmp_path_factory):
    with Worker(hub, tmp_path_factory.mktemp("worker")) as worker:
        worker.run(TINY)
        yield worker


@pytest.fixture(scope="module")
def trained(worker):
    """kind → the Run's folder, trained when it is first asked for."""
    def get(kind):
        run, (model, data, _) = worker.folder / "runs" / kind, MODELS[kind]
        if not run.exists():
            done = worker("train", "--model", model, "--data", data, "--output_dir", run, *SETTINGS)
            assert done.code == 0, done.talk
        return run
    return get


def inputs(worker, kind):
    """What is predicted on."""
    if kind in ("timm", "image"):
        return sorted((worker.folder / "digits" / "test").rglob("*.png"))[:5]
    if kind == "text":
        return ["the film was very good", "a bad day"]
    (worker.folder / "words.jsonl").write_text('{"tokens": ["ada", "smith", "lives", "in", "paris"]}\n')
    return [worker.folder / "words.jsonl"]


def push(worker, run, kind):
    done = worker("push", run, "--hub_model_id", f"me/{kind}", "--space", "--license", "mit", "--yes")
    assert done.code == 0, done.talk
    return done


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", MODELS)
def test_a_trained_model_predicts_the_same_from_the_hub(hub, worker, trained, kind):
    run = trained(kind)
    before = worker("predict", run, *inputs(worker, kind))
    assert before.code == 0 and len(list(csv.reader(io.StringIO(before.out)))) == len(inputs(worker, kind)) + 1, before.talk
    hub.clear()
    told = push(worker, run, kind)
    assert told.out.startswith(f"verified: transformers{', timm' if kind == 'timm' else ''}\n")
    repo, space = hub.repo(f"me/{kind}"), hub.repo(told.out.rstrip("\n").rpartition("/spaces/")[2], "space")
    assert len(repo.pushes) == 1 and len(space.pushes) == 1 and space.variables["HFXFER_MODEL"]["value"] == repo.id
    files = {name: content for name, content in repo.files().items() if name != ".gitattributes"}
    assert files == contents(run / "model")
    card = files["README.md"].decode()
    assert hub_metadata.check(card, "model") == ([], []) and {each.status for each in hub.asked("/api/validate-yaml")} == {200}
    assert hub.leaks(worker.token) == []
    worker.forget()
    after = worker("predict", f"me/{kind}", *inputs(worker, kind))
    assert (after.code, after.out) == (0, before.out), after.talk
    with hub.away():
        assert worker("predict", f"me/{kind}", *inputs(worker, kind)).out == before.out
    snippets = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    assert [f'"me/{kind}"' in code or f'"hf-hub:me/{kind}"' in code for code in snippets] == [True] * (3 if kind == "timm" else 2)
    printed = worker.run(SNIPPETS.format(picture=inputs(worker, "timm")[0], snippets=snippets))["printed"]
    assert len(printed) == len(snippets) and all(text.strip() for text in printed)
    worker.forget()
    said = worker.run(LOGITS.format(run=run, kind=kind, head=MODELS[kind][2]))
    labels = json.loads((run / "model" / "scores.json").read_text())["labels"] if kind != "token" else said["labels"][0]
    assert kind == "token" or all(any(label in text for label in labels) for text in printed)
    assert said["apart"][:2] == [0, 0] and max(said["apart"]) < 1e-5 and said["labels"] == [labels, labels]


@pytest.fixture(scope="module")
def xet(tmp_path_factory):
    """A Hub that offers Xet, and a worker whose client uses it."""
    pytest.importorskip("hf_xet")
    with HubServer(tmp_path_factory.mktemp("hub"), offers_xet=True) as hub:
        hub.add_user("me")
        with Worker(hub, tmp_path_factory.mktemp("worker")) as worker:
            yield hub, worker


def test_with_xet_it_is_the_same(worker, trained, xet):
    """And for somebody without a token."""
    (hub, other), run = xet, trained("token")
    before = worker("predict", run, *inputs(worker, "token"))
    push(other, run, "token")
    assert len(hub.repo("me/token").pushes) == 1 and hub.asked("/_cas/v1/xorbs/*", "POST") and not hub.asked("/_lfs/*")
    assert {name: content for name, content in hub.repo("me/token").files().items() if name != ".gitattributes"} == contents(run / "model")
    other.forget()
    hub.clear()
    after = other("predict", "me/token", *inputs(worker, "token"), token=None)
    assert (after.code, after.out) == (0, before.out), after.talk
    assert hub.asked("/_xorb/*") and not hub.asked("/_cdn/*") and hub.leaks(other.token) == []
    assert not any("hf_" in request.headers.get("authorization", "") for request in hub.asked())


@pytest.mark.parametrize("number, path, what", [(1, "/_cas/v1/xorbs/*", 503), (2, "*/xet-write-token/main", 500), (3, "*/commit/main", "drop"),
                                                (4, "*/commit/main", "lost")])
def test_with_xet_what_passes_is_waited_out(trained, xet, tmp_path, number, path, what):
    from safetensors.numpy import load_file, save_file

    hub, other = xet
    run = shutil.copytree(trained("token"), tmp_path / "run")
    weights = run / "model" / "model.safetensors"
    save_file({name: values + number for name, values in load_file(weights).items()}, weights, {"format": "pt"})  # Xet sends no content twice
    hub.clear()
    hub.fail(path, what)
    done = other("push", run, "--hub_model_id", f"me/xet-{number}", "--license", "mit", "--yes")
    assert done.code == 0 and len(hub.repo(f"me/xet-{number}").pushes) == 1, done.talk
    assert {name: content for name, content in hub.repo(f"me/xet-{number}").files().items() if name != ".gitattributes"} == contents(run / "model")


def test_a_client_with_xet_is_told_that_the_server_has_none(trained, tmp_path):
    pytest.importorskip("hf_xet")
    with HubServer(tmp_path / "hub") as hub:
        hub.add_user("me")
        with Worker(hub, tmp_path, HF_HUB_DISABLE_XET="") as other:
            done = other("push", trained("token"), "--hub_model_id", "me/token", "--license", "mit", "--yes")
    assert done.code == 1 and ("error: sending to me/token failed: the server has no Xet storage, which the client uses where hf_xet is installed. "
                               "Set HF_HUB_DISABLE_XET=1\n") in done.talk


# --- models that timm itself pushed ------------------------------------------------------------------------------------

PUSHED_BY_TIMM = """
import timm, torch
from PIL import Image
from timm.models import push_to_hf_hub
picture = Image.open("{picture}")
for name, given, more in (("named", dict(num_classes=3), dict(model_config=dict(label_names=["zero", "one", "two"]))),
                          ("plain", dict(num_classes=3), dict(safe_serialization=False)),
                          ("gray", dict(num_classes=3, in_chans=1), dict(model_config=dict(label_names=["zero", "one", "two"])))):
    torch.manual_seed(1)
    push_to_hf_hub(timm.create_model("test_resnet", **given), f"me/timm-{{name}}", **more)
    model = timm.create_model(f"hf-hub:me/timm-{{name}}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        said[name] = model(transform(picture.convert("L" if name == "gray" else "RGB")).unsqueeze(0))[0].tolist()
"""
LOADED = """
import hfxfer, torch
from hfxfer import inputs
model = hfxfer.load("me/timm-{name}")
record, = model.predict("{picture}")
said["labels"], said["record"] = list(model.labels), record
with torch.inference_mode():
    split = inputs.load_inputs("{picture}", model.predictor.task.columns)
    predictor = model.predictor
    batch = predictor.task.collate(predictor.task.encode(split.take([0]), predictor.processor, predictor.problem, predictor.recipe, False), None)
    said["logits"] = predictor.model(batch["pixel_values"]).logits[0].tolist()
"""


def test_what_timm_pushed_loads_predicts_and_is_trained_from(hub, worker):
    picture = inputs(worker, "timm")[0]
    theirs = worker.run(PUSHED_BY_TIMM.format(picture=picture))
    names = {"named": ["zero", "one", "two"], "plain": ["LABEL_0", "LABEL_1", "LABEL_2"], "gray": ["zero", "one", "two"]}
    for name, labels in names.items():
        worker.forget()
        ours = worker.run(LOADED.format(name=name, picture=picture))
        assert ours["labels"] == labels and ours["logits"] == pytest.approx(theirs[name], abs=1e-5)
        assert ours["record"]["label"] == labels[max(range(3), key=theirs[name].__getitem__)]
    assert "model.safetensors" not in hub.repo("me/timm-plain").files()
    worker.forget()
    done = worker("train", "--model", "me/timm-named", "--data", "digits", "--output_dir", "runs/on-timm", *SETTINGS)
    assert done.code == 0, done.talk
    base = json.loads((worker.folder / "runs" / "on-timm" / "base.json").read_text())
    assert base == {"id": "me/timm-named", "revision": hub.repo("me/timm-named").head, "source": "timm", "architecture": "test_resnet",
                    "license": "apache-2.0"}
