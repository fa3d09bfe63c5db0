"""What model/ must be before it goes up: what is refused, what is listed, and the proof that its readers' libraries give the same logits."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from hfxfer import models, publishing, tasks
from hfxfer.errors import RunError
from hfxfer.leaks import Finding
from hfxfer.run import Run

GOLDEN = Path(__file__).parent / "golden" / "runs"
LABELS = ["Abyssinian", "Bengal", "american_bulldog"]
AGAIN = "Train the Run again"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A golden Run with a tiny timm model in it, as training writes it."""
    folder = tmp_path_factory.mktemp("pictures")
    shutil.copytree(GOLDEN / "pets", folder / "pets")
    tiny_models.timm_checkpoint(folder / "tiny", classes=3)
    models.save(*models.load_trained(str(folder / "tiny"), tasks.get("image-classification")), folder / "pets" / "model")
    change(folder / "pets" / "model", label_names=LABELS)
    return folder / "pets"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A golden Run with a tiny BERT in it."""
    from transformers import BertConfig, BertForTokenClassification

    folder = tmp_path_factory.mktemp("words") / "entities"
    shutil.copytree(GOLDEN / "entities", folder)
    names = {int(index): name for index, name in json.loads((folder / "model" / "config.json").read_text())["id2label"].items()}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tiny_models.WORDS), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
                        id2label=names, label2id={name: index for index, name in names.items()})
    BertForTokenClassification(config).save_pretrained(folder / "model")
    tiny_models.word_piece_tokenizer().save_pretrained(folder / "model")
    return folder


@pytest.fixture
def run(pictures, tmp_path):
    """A copy of the timm Run that a test may change."""
    shutil.copytree(pictures, tmp_path / "pets")
    return Run(tmp_path / "pets")


def change(model, **values):
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(model, edit):
    weights = load_file(model / "model.safetensors")
    edit(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def unproved(run):
    with pytest.raises(RunError) as raised:
        publishing.prove(run)
    return str(raised.value).removeprefix(f"{run.model_dir} ")


# --- the proof --------------------------------------------------------------------------------------------------------

def test_each_library_that_loads_the_model_is_named(pictures, words):
    assert publishing.prove(Run(pictures)) == ("transformers", "timm") and publishing.prove(Run(words)) == ("transformers",)


def test_other_logits_in_timm_than_in_transformers_are_found(run):
    """Code that came with the checkpoint, which transformers runs and timm does not know."""
    (run.model_dir / "modeling_twice.py").write_text("""
from transformers import TimmWrapperForImageClassification

class Twice(TimmWrapperForImageClassification):
    def forward(self, *given, **more):
        outputs = super().forward(*given, **more)
        outputs.logits = 2 * outputs.logits
        return outputs
""")
    change(run.model_dir, auto_map={"AutoModelForImageClassification": "modeling_twice.Twice"})
    change_weights(run.model_dir, lambda weights: weights["fc.bias"].fill_(0.75))
    recipe = run.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("trust_remote_code: false", "trust_remote_code: true"))
    told = unproved(run)
    assert re.fullmatch(rf"gives other logits in timm than in transformers: they differ by 0\.75\. {AGAIN}", told), told


def test_weights_that_are_missing_are_found(run):
    change_weights(run.model_dir, lambda weights: weights.pop("fc.bias"))
    assert unproved(run) == f"does not load in transformers: model.safetensors lacks timm_model.fc.bias. {AGAIN}"


def test_weights_that_are_no_numbers_are_found(run):
    change_weights(run.model_dir, lambda weights: weights["fc.bias"].fill_(float("nan")))
    assert unproved(run) == f"gives answers that are no numbers in transformers. {AGAIN}"


def test_a_config_that_one_library_cannot_read_is_found(run):
    change(run.model_dir, model_args=None)
    assert unproved(run) == f"does not load in timm: 'NoneType' object has no attribute 'get'. {AGAIN}"


def test_other_labels_than_those_that_were_scored_are_found(run):
    change(run.model_dir, label_names=["a", "b", "c"])
    assert unproved(run) == f"has labels in transformers other than those of scores.json: 'a b c'. {AGAIN}"


# --- what never goes up -----------------------------------------------------------------------------------------------

class Bomb:
    def __reduce__(self):
        return print, ("this must not be run",)


def test_pickles_are_known_by_their_names_and_by_their_content(run, capsys):
    model = run.model_dir
    torch.save({"a": torch.zeros(2)}, model / "weights.dat")
    for protocol in (2, 5):
        (model / f"state-{protocol}").write_bytes(pickle.dumps(Bomb(), protocol))
    (model / "old.PKL").write_bytes(b"")
    told = "is a pickle, which runs code in whoever loads it. Save the model as safetensors, and delete it"
    assert list(publishing.unfit(model)) == [f"{name} {told}" for name in ("old.PKL", "state-2", "state-5", "weights.dat")]
    assert "must not" not in capsys.readouterr().out
    (model / "archive.zip").write_bytes(b"PK\x03\x04 a zip that torch did not write")
    assert not [fault for fault in publishing.unfit(model) if "archive" in fault]


def test_what_only_training_needs_is_refused_wherever_it_is(run):
    (run.model_dir / "old").mkdir()
    for name in ("training_args.bin", "old/optimizer.pt", "old/rng_state_0.pth", "trainer_state.json"):
        (run.model_dir / name).write_bytes(b"x")
    told = "is part of the training, not of the model, and may hold a token. Delete it"
    assert list(publishing.unfit(run.model_dir)) == [
        f"{name} {told}" for name in ("old/optimizer.pt", "old/rng_state_0.pth", "trainer_state.json", "training_args.bin")]


def test_links_out_of_the_folder_are_refused_and_those_within_are_not(run, tmp_path):
    (tmp_path / "secret.txt").write_text("x")
    (run.model_dir / "out.txt").symlink_to(tmp_path / "secret.txt")
    (run.model_dir / "in.txt").symlink_to(run.model_dir / "config.json")
    assert list(publishing.unfit(run.model_dir)) == ["out.txt is a link to a file outside the folder. Put the file itself there"]


def test_weights_that_are_cut_short_or_not_there_are_refused(run):
    path = run.model_dir / "model.safetensors"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    assert list(publishing.unfit(run.model_dir)) == [f"model.safetensors has {size - 1} bytes; its header says {size}. {AGAIN}"]
    os.truncate(path, 5)
    assert list(publishing.unfit(run.model_dir)) == [f"model.safetensors is no safetensors file. {AGAIN}"]
    path.unlink()
    (run.model_dir / "config.json").unlink()
    assert list(publishing.unfit(run.model_dir)) == [f"config.json is missing. {AGAIN}", f"model.safetensors is missing. {AGAIN}"]


def test_of_weights_in_parts_each_part_must_be_there(run):
    (run.model_dir / "model.safetensors").rename(run.model_dir / "model-00001-of-00002.safetensors")
    parts = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (run.model_dir / "model.safetensors.index.json").write_text(json.dumps(parts))
    assert list(publishing.unfit(run.model_dir)) == [
        f"model-00002-of-00002.safetensors is missing, which model.safetensors.index.json names. {AGAIN}"]


# --- what goes up -----------------------------------------------------------------------------------------------------

def test_a_package_lists_its_files_and_leaves_out_hidden_ones(run):
    (run.model_dir / ".cache").mkdir()
    (run.model_dir / ".cache" / "x.json").write_text("{")
    packed = publishing.pack(run, model_id="me/x", license="mit")
    assert packed.left_out == (".cache/x.json",) and list(packed.files) == sorted(packed.files)
    assert packed.files == {path.relative_to(run.model_dir).as_posix(): path.stat().st_size for path in run.model_dir.rglob("*")
                            if path.is_file() and ".cache" not in path.parts}
    before = {path: path.stat().st_mtime_ns for path in run.model_dir.rglob("*")}
    again = publishing.pack(run, model_id="me/x", license="mit")
    assert again.files == packed.files and {path: path.stat().st_mtime_ns for path in run.model_dir.rglob("*")} == before


def test_all_faults_are_told_at_once(run):
    (run.model_dir / "notes.txt").write_text("ada@uni.ac.uk, bob@uni.ac.uk\n" * 2)
    with pytest.raises(RunError) as raised:
        publishing.pack(run, model_id="me/x")
    first, licence, mail = str(raised.value).split("\n")
    assert first == f"{run.model_dir} cannot be published:" and licence.startswith("  - license is missing: ")
    assert mail == "  - notes.txt, line 1, column 1: e-mail ada@uni.ac.uk (and 3 more). Take it out, or allow it: --allow notes.txt"
    with pytest.raises(RunError, match="cannot be published: license is missing: "):
        publishing.pack(run, model_id="me/x", allow=["notes.txt"])
    assert publishing.pack(run, model_id="me/x", license="mit", allow=["e-mail"]).files["notes.txt"] == 58


def test_a_secret_in_use_is_never_allowed(run):
    (run.model_dir / "notes.txt").write_text("the-secret-of-mine\n")
    with pytest.raises(RunError) as raised:
        publishing.pack(run, model_id="me/x", license="mit", allow=["notes.txt", "*"], secrets=["the-secret-of-mine"])
    found = Finding("notes.txt", "line 1, column 1", "the token in use", "the-…")
    assert str(raised.value) == f"{run.model_dir} cannot be published: {found}. Take it out"


def test_the_shareable_recipe_names_hub_ids_with_their_revisions(run):
    def settle(name, **values):
        path = run.folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    lines = publishing.shareable_recipe(run).split("\n")
    fingerprint = run.read_json("data.json")["fingerprint"]
    assert lines[0].startswith("# model: ") and lines[1].endswith(f", fingerprint {fingerprint}")
    assert not [line for line in lines if "/" in line.replace("runs/", "")]
    model, data = run.recipe().model, run.recipe().data
    text = (run.folder / "recipe.yaml").read_text().replace(f"model: {model}\n", "model: timm/tiny\n").replace(f"data: {data}\n", "data: me/pets\n")
    (run.folder / "recipe.yaml").write_text(text)
    settle("base.json", id="timm/tiny", revision="abc")
    settle("data.json", source="me/pets", revision="def")
    lines = publishing.shareable_recipe(run).split("\n")
    assert lines[:2] == ["# model: timm/tiny, revision abc", f"# data: me/pets, revision def, fingerprint {fingerprint}"]
    assert {"model: timm/tiny", "data: me/pets", "revision: abc", "data_revision: def"} <= set(lines)
