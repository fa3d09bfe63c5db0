"""Models of the Hub that can be had, from the network and from the cache, and what is said of those that cannot.

A worker process has the network and fills the cache; this one has HF_HUB_OFFLINE=1 and the same cache.
"""

import os
import shutil
from pathlib import Path

import pytest
from hub_server import HubServer
from hub_worker import Worker, error_of

import hfxfer
from hfxfer import fetching
from hfxfer.errors import ModelError

SENTENCE = "the film was good"
AGAIN = "Look at the network, then run the same again"
MODEL = """
import tiny_models, torch, transformers
torch.manual_seed(0)
names = {{0: "bad", 1: "good"}}
size = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
config = transformers.BertConfig(vocab_size=len(tiny_models.WORDS), id2label=names, label2id={{"bad": 0, "good": 1}}, **size)
transformers.BertForSequenceClassification(config).save_pretrained("{folder}")
tiny_models.word_piece_tokenizer().save_pretrained("{folder}")
"""


@pytest.fixture(scope="module")
def files(worker, tmp_path_factory):
    """name → content of a text classifier."""
    folder = tmp_path_factory.mktemp("model")
    worker.run(MODEL.format(folder=folder))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as hub:
        hub.add_user("me")
        hub.add_user("she")
        yield hub


@pytest.fixture(scope="module")
def worker(hub, tmp_path_factory):
    with Worker(hub, tmp_path_factory.mktemp("worker"), home=os.environ["HF_HOME"]) as worker:
        yield worker


@pytest.fixture
def predict(hub, worker, files):
    """predict(id, *flags) → what came of `hfxfer predict`, with an empty cache at first and nothing recorded."""
    worker.forget()
    hub.clear()
    return lambda source, *flags, **more: worker("predict", source, SENTENCE, *flags, **more)


def refused(done, code=2):
    assert done.code == code and done.out == "", done
    return error_of(done)


def blob(worker, name):
    """Where the content of a cached file is."""
    [path] = (worker.home / "hub").glob(f"models--me--*/snapshots/*/{name}")
    return path.resolve()


# --- what is there ----------------------------------------------------------------------------------------------------

def test_a_model_comes_from_the_hub_and_then_from_the_cache(hub, worker, predict, files):
    hub.add_repo("me/x", files)
    first = predict("me/x")
    assert first.code == 0 and first.out.startswith(f"input,label,score,score_bad,score_good\n{SENTENCE},"), first.talk
    assert first.talk.startswith(f"fetching the weights of me/x from {hub.endpoint}\n")
    assert {request.path.split("/")[4] for request in hub.asked("/me/x/resolve/*")} == {hub.repo("me/x").head}
    hub.clear()
    assert predict("me/x").out == first.out and not hub.asked("/me/x/resolve/*") and not hub.asked("/_cdn/*")
    with hub.away():
        away = predict("me/x")
    assert away.out == first.out and away.talk.startswith(
        f"hint: {hub.endpoint} cannot be reached (ConnectError: [Errno 111] Connection refused): using what the cache has of me/x, "
        f"commit {hub.repo('me/x').head[:7]}\n")
    hub.fail("*", 503, times=99)
    assert predict("me/x").out == first.out
    record, = hfxfer.load("me/x").predict(SENTENCE)
    assert [f"{record[name]}" for name in ("label", "score_bad", "score_good")] == [first.out.split("\n")[1].split(",")[at] for at in (1, 3, 4)]


def test_a_branch_a_tag_and_a_commit_are_revisions(hub, predict, files):
    repo = hub.add_repo("me/versions", files)
    repo.tags["v1"], old = repo.head, predict("me/versions").out
    config = files["config.json"].replace(b'"good"', b'"fine"')
    hub.push(repo, {"config.json": config}, "Other labels", "me")
    assert predict("me/versions").out == old.replace("good,", "fine,").replace("score_good", "score_fine").replace(f"{SENTENCE[:-4]}fine", SENTENCE)
    for revision in ("v1", repo.tags["v1"], repo.tags["v1"][:8]):
        assert predict("me/versions", "--revision", revision).out == old
    assert refused(predict("me/versions", "--revision", "v9")) == (
        "cannot load me/versions: it has no revision 'v9'; it has main, v1. Choose one with --revision")
    with hub.away():
        assert predict("me/versions", "--revision", "v1").out == old


def test_what_passes_is_waited_out(hub, predict, files):
    hub.add_repo("me/shaky", files)
    hub.fail("/api/models/me/shaky", 503)
    hub.fail("*/config.json", "drop")
    hub.fail("*/model.safetensors", "drop")
    done, dropped = predict("me/shaky"), "RemoteProtocolError: Server disconnected without sending a response."
    assert done.code == 0 and done.talk.startswith(
        "looking for me/shaky failed (status 503: Service Unavailable); trying again in 0 s, 1 of 5\n"
        f"fetching config.json of me/shaky failed ({dropped}); trying again in 0 s, 1 of 5\n"
        f"fetching the weights of me/shaky from {hub.endpoint}\n"
        f"fetching model.safetensors of me/shaky failed ({dropped}); trying again in 0 s, 1 of 5\n"), done.talk


def test_a_checkpoint_to_train_from_is_pinned_and_its_licence_read(hub, worker, predict, files, tmp_path):
    hub.add_repo("me/base", {**files, "README.md": "---\nlicense: mit\n---\n"})
    said = worker.run(f"""
from pathlib import Path
from tiny_models import text_rows, write_jsonl
from hfxfer import cli
data = write_jsonl(Path({str(tmp_path)!r}) / "x.jsonl", text_rows(40))
for name, model in (("code", "me/base"), ("gone", "me/bace")):
    said[name] = cli.main(["train", "--model", model, "--data", str(data), "--output_dir", f"{tmp_path}/{{name}}", "--num_train_epochs", "1",
                           "--plan", "none", "--method", "head"])
said["base"] = (Path({str(tmp_path)!r}) / "code" / "base.json").read_text()
""")
    assert (said["code"], said["gone"]) == (0, 2) and not (tmp_path / "gone" / "base.json").exists()
    assert f'"revision": "{hub.repo("me/base").head}"' in said["base"] and '"license": "mit"' in said["base"] and '"id": "me/base"' in said["base"]


# --- what is not ------------------------------------------------------------------------------------------------------

def test_a_name_that_the_hub_does_not_show_may_be_misspelt_or_private(hub, predict, files):
    hub.add_repo("me/pets-small", files)
    hub.add_repo("she/hidden", files, private=True)
    shows = f"it is no local folder, and {hub.endpoint} shows no model of that name: it is misspelt"
    look = "Look at the name, or log in with a token that may read it: hf auth login"
    assert refused(predict("me/pets-smal")) == (
        f"cannot load me/pets-smal: {shows} (me/pets-small?), or it is private and the token at hand may not read it. {look}")
    assert refused(predict("she/hidden")) == f"cannot load she/hidden: {shows}, or it is private and the token at hand may not read it. {look}"
    assert refused(predict("she/hidden", token=None)) == f"cannot load she/hidden: {shows}, or it is private and there is no token. {look}"
    assert refused(predict("gpt-9", token=None)) == f"cannot load gpt-9: {shows}, or it is private and there is no token. {look}"
    assert predict("she/hidden", token=hub.token("she", "read")).code == 0


def test_a_gated_model_says_where_to_ask(hub, predict, files):
    hub.add_repo("she/gated", files, gated="manual")
    page = f"{hub.endpoint}/she/gated"
    assert refused(predict("she/gated", token=None)) == (
        f"cannot load she/gated: it is gated, and there is no token. Ask for access at {page}, log in with: hf auth login (or set HF_TOKEN), "
        "and run the same again")
    assert refused(predict("she/gated")) == (
        "cannot load she/gated: it is gated: Access to model she/gated is restricted and you are not in the authorized list. "
        f"Visit {page} to ask for access. Ask for access at {page}, and run the same again when it is given")


def test_an_unknown_token_is_told(hub, predict, files):
    hub.add_repo("me/open", files)
    assert refused(predict("me/open", token="hf_unknown")) == (
        f"cannot load me/open: {hub.endpoint} does not know the token (status 401: Invalid credentials in Authorization header). "
        "Log in with: hf auth login, or unset HF_TOKEN for what is public")


def test_a_repository_without_a_model_says_what_it_is(hub, predict, files):
    hub.add_repo("me/weights", {"x.gguf": b"\0", "README.md": "x"})
    hub.add_repo("me/adapter", {"adapter_config.json": "{}"})
    hub.add_repo("me/pets", {"a.csv": "a,b"}, kind="dataset")
    hub.add_repo("me/app", {"app.py": "1"}, kind="space")
    hub.add_repo("me/head", {name: content for name, content in files.items() if name != "model.safetensors"})
    for name, told in {"weights": "it has no config.json, so it is no model that transformers or timm load. It holds README.md, x.gguf. "
                                  "Give another model",
                       "adapter": "it is an adapter alone, which works beside another model. Give a model that holds all weights",
                       "pets": "it is a data set of the Hub, and no model. Train on it with --data me/pets",
                       "app": "it is a Space of the Hub, and no model. Give the model that it shows"}.items():
        assert refused(predict(f"me/{name}")) == f"cannot load me/{name}: {told}"
    assert refused(predict("me/head")) == ("cannot load me/head for text-classification: me/head does not appear to have a file named "
                                           "pytorch_model.bin or model.safetensors.")


def test_a_model_of_another_task_is_no_missing_one(hub, predict, files):
    hub.add_repo("me/words", files)
    assert refused(predict("me/words", "--task", "image-classification")).startswith(
        "me/words does not fit the task image-classification: transformers has no such head for it.")
    model = {**files, "config.json": files["config.json"].replace(b'"bert"', b'"vit"')}
    hub.add_repo("me/pictures", model)
    told = refused(predict("me/pictures", "--task", "image-classification"))
    assert told.startswith("cannot load me/pictures for image-classification: ") and "config.json, so" not in told, told


def test_a_name_that_is_none_is_refused(predict):
    assert refused(predict("me/x y")).startswith("'me/x y' is neither a folder nor a Hub id: Repo id must use alphanumeric chars")
    assert refused(predict("./gone/x")) == "model folder ./gone/x does not exist. Give an existing folder or a Hub id such as timm/resnet50.a1_in1k"


def test_broken_files_name_the_command_that_fetches_them_again(hub, worker, predict, files):
    mend = ("Take it out of the cache, and run the same again: hf cache rm model/me/{}. Where that does not help, it is broken on the Hub")
    hub.add_repo("me/odd", {**files, "config.json": "{"})
    assert refused(predict("me/odd")) == ("the config.json of me/odd is broken (Expecting property name enclosed in double quotes: line 1 column 2 "
                                          f"(char 1)). {mend.format('odd')}")
    worker.forget()
    hub.add_repo("me/cut", files)
    assert predict("me/cut").code == 0
    os.truncate(blob(worker, "model.safetensors"), 5000)
    assert refused(predict("me/cut")) == ("the weights of me/cut are broken (Error while deserializing header: incomplete metadata, file not fully "
                                          f"covered). {mend.format('cut')}")


def test_without_the_network_the_cache_decides_what_is_said(hub, worker, predict, files):
    hub.add_repo("me/half", files)
    assert predict("me/half").code == 0
    blob(worker, "model.safetensors").unlink()
    cache = f"the cache ({worker.home / 'hub'})"
    why = f"{hub.endpoint} cannot be reached (ConnectError: [Errno 111] Connection refused). {AGAIN}"
    with hub.away():
        assert refused(predict("me/half")) == f"cannot load me/half: only a part of it is in {cache}, and {why}"
        assert refused(predict("me/half", "--revision", "v9")) == f"cannot load me/half: in {cache} is no revision 'v9' of it but main, and {why}"
        assert refused(predict("me/other")) == f"cannot load me/other: it is no local folder, and not in {cache}, and {why}"
    assert predict("me/half").code == 0
    for place in Path(worker.home, "hub").rglob("snapshots/*/tokenizer*"):
        place.resolve().unlink()
    with hub.away():
        # transformers would make up a tokenizer, to which every word is unknown.
        assert refused(predict("me/half")) == (
            "the tokenizer of me/half knows no words: its vocabulary (tokenizer.json, vocab.txt or the like) is not in the cache, and "
            f"{why.removesuffix(f'. {AGAIN}')}. It belongs beside the model: tokenizer.save_pretrained")


def test_a_wait_of_an_hour_is_not_slept(hub, predict, files):
    hub.add_repo("me/hour", files)
    hub.fail("*", 429, headers={"Retry-After": "3600"}, times=99)
    assert refused(predict("me/hour"), 1) == ("the Hub asks to wait 1 h 00 min (status 429); hfxfer waits 2 s at most. "
                                              "Nothing is lost: run the same command then")
    hub.clear()
    there = predict("me/hour")
    hub.fail("*", 429, headers={"Retry-After": "3600"}, times=99)
    again = predict("me/hour")
    assert again.out == there.out != "" and again.talk.startswith(
        "hint: the Hub asks to wait 1 h 00 min (status 429): using what the cache has of me/hour, commit ")


def test_a_fault_that_stays_is_told(hub, predict, files):
    hub.add_repo("me/down", files)
    hub.fail("*", 503, times=99)
    assert refused(predict("me/down"), 1).endswith("looking for me/down failed 6 times, at last with: status 503: Service Unavailable")


# --- with HF_HUB_OFFLINE=1, as in this process ------------------------------------------------------------------------

def test_offline_the_cache_is_enough_and_what_it_lacks_is_told(hub, worker, predict, files):
    repo = hub.add_repo("me/there", files)
    assert predict("me/there").code == 0
    at = fetching.pin("me/there", None)
    assert at == fetching.Pinned(repo.head, "HF_HUB_OFFLINE=1 is set") and at.settings == {"revision": repo.head, "local_files_only": True}
    assert fetching.pin("me/there", at) is at and fetching.pin(str(worker.home), "v1") == fetching.Pinned()
    cache = f"the cache ({worker.home / 'hub'})"
    mend = "and HF_HUB_OFFLINE=1 is set. Unset it, or fetch the model where there is a network: hf download"
    for source, revision, told in (("me/there", "v9", f"in {cache} is no revision 'v9' of it but main, {mend} me/there"),
                                   ("me/gone", None, f"it is no local folder, and not in {cache}, {mend} me/gone")):
        with pytest.raises(ModelError) as raised:
            hfxfer.load(source, revision=revision)
        assert str(raised.value) == f"cannot load {source}: {told}"
    shutil.rmtree(blob(worker, "model.safetensors").parent)
    with pytest.raises(ModelError) as raised:
        hfxfer.load("me/there")
    assert str(raised.value) == f"cannot load me/there: only a part of it is in {cache}, {mend} me/there"
