"""hfxfer push against a server that speaks the Hub's protocol, through the unchanged client.

The commands run in one process of their own, since the client reads HF_ENDPOINT when it is imported; its waits are made short by
hfxfer.network's constants. What must die or run at the same time is forked off it.
"""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import HubServer

from hfxfer import publish_command

WORKER = """
import contextlib, io, json, os, sys
from hfxfer import cli, network
network.FIRST_WAIT, network.LONGEST_WAIT = 0.01, 2.0

def call(order):
    os.environ |= order["env"]
    for name in [name for name in order["env"] if not order["env"][name]]:
        del os.environ[name]
    out, talk = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(talk):
        code = cli.main(order["argv"])
    return {"code": code, "out": out.getvalue(), "talk": talk.getvalue()}

def forked(order):
    child = os.fork()
    if not child:
        try:
            with open(order["fork"] + ".part", "w") as file:
                json.dump(call(order), file)
            os.rename(order["fork"] + ".part", order["fork"])
        finally:
            os._exit(0)
    return {"pid": child}

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    order = json.loads(line)
    if order.get("wait"):
        os.waitpid(order["wait"], 0)
        told = {}
    elif order.get("code"):
        exec(order["code"])
        told = {}
    else:
        told = forked(order) if order.get("fork") else call(order)
    print(json.dumps(told), file=answers, flush=True)
"""
BERT = """
import torch, transformers, tiny_models
torch.manual_seed(0)
names = json.loads(open("{run}/model/config.json").read())["id2label"]
size = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
config = transformers.BertConfig(vocab_size=len(tiny_models.WORDS), **size, label2id={{name: int(index) for index, name in names.items()}},
                                 id2label={{int(index): name for index, name in names.items()}})
transformers.BertForTokenClassification(config).save_pretrained("{run}/model")
tiny_models.word_piece_tokenizer().save_pretrained("{run}/model")
"""
TIMM = """
from pathlib import Path
import tiny_models
from hfxfer import models, tasks
tiny_models.timm_checkpoint(Path("{run}/tiny"), classes=3)
models.save(*models.load_trained("{run}/tiny", tasks.get("image-classification")), Path("{run}/model"))
"""
GOLDEN = Path(__file__).parent / "golden" / "runs"


class Caller:
    """Calls hfxfer in the worker process, with the token of `me` unless another is given."""

    def __init__(self, hub, folder):
        self.hub, self.folder, self.count, self.writer = hub, folder, 0, hub.token("me")
        script = folder / "worker.py"
        script.write_text(WORKER)
        tests = Path(__file__).parent
        paths = os.pathsep.join([str(tests.parent), str(tests)])
        environment = hub.environment(folder / "home", None, OMP_NUM_THREADS="1", PYTHONPATH=paths, HOME=str(folder))
        with open(folder / "worker.log", "w") as log:
            self.process = subprocess.Popen([sys.executable, str(script)], env=environment, cwd=folder, text=True, bufsize=1,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

    def order(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        line = self.process.stdout.readline()
        assert line, (self.folder / "worker.log").read_text()
        return json.loads(line)

    def __call__(self, *argv, token="", **env):
        return SimpleNamespace(**self.order(argv=[str(each) for each in argv], env={"HF_TOKEN": self.writer if token == "" else token or "", **env}))

    def fork(self, *argv):
        """(process id, a function that waits for what became of it)."""
        self.count += 1
        told = self.folder / f"told-{self.count}.json"
        pid = self.order(argv=[str(each) for each in argv], env={"HF_TOKEN": self.writer}, fork=str(told))["pid"]

        def finished():
            self.order(wait=pid)
            return SimpleNamespace(**json.loads(told.read_text())) if told.is_file() else None
        return pid, finished


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as hub:
        hub.add_user("me", orgs={"acme": "write", "bigco": "read"})
        yield hub


@pytest.fixture(scope="module")
def hfxfer(hub, tmp_path_factory):
    caller = Caller(hub, tmp_path_factory.mktemp("worker"))
    yield caller
    caller.process.stdin.close()
    caller.process.wait()


@pytest.fixture(scope="module")
def trained(hfxfer, tmp_path_factory):
    """A Run of a token classifier: a golden one, with weights that are random and few. Nothing of timm is imported for it."""
    folder = tmp_path_factory.mktemp("runs") / "tags"
    shutil.copytree(GOLDEN / "entities", folder)
    hfxfer.order(code=BERT.format(run=folder))
    return folder


@pytest.fixture
def run(hub, trained, tmp_path):
    """A copy of the Run, and a Hub that has forgotten what it was asked."""
    hub.clear()
    shutil.copytree(trained, tmp_path / "tags")
    return tmp_path / "tags"


@pytest.fixture
def push(hfxfer, run, request):
    """push(*flags) → what came of `hfxfer push RUN --hub_model_id me/NAME --license mit --yes`; the name is the test's own."""
    def pushed(*flags, model_id=None, **more):
        return hfxfer("push", run, "--hub_model_id", model_id or pushed.id, "--license", "mit", "--yes", *flags, **more)

    def named(model_id):
        pushed.id = model_id
        pushed.command = ["push", run, "--hub_model_id", model_id, "--license", "mit", "--yes"]
        pushed.again = f"continue with: hfxfer push {run} --hub_model_id {model_id} --license mit --yes"
    pushed.named = named
    named("me/" + request.node.name.removeprefix("test_")[:60])
    return pushed


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def published(hub, model_id, revision="main"):
    return {name: content for name, content in hub.repo(model_id).files(revision).items() if name != ".gitattributes"}


def last(text):
    return text.rstrip("\n").split("\n")[-1]


def error_of(done):
    return done.talk[done.talk.index("error: ") + 7:].split("\ncontinue with")[0].rstrip("\n")


# --- what a push is ---------------------------------------------------------------------------------------------------

def test_a_push_is_one_commit_of_exactly_the_model_folder(hub, hfxfer, run, push):
    before = contents(run)
    done = push("--commit_message", "First")
    assert done.code == 0, done.talk
    [commit] = hub.repo(push.id).pushes
    assert commit.title == "First" and published(hub, push.id) == contents(run / "model")
    assert done.out == f"verified: transformers\nsent commit {commit.oid}\n{hub.endpoint}/{push.id}\n"
    assert last(done.talk) == f"next: hfxfer predict {push.id} INPUT"
    changed = {name for name in {**before, **contents(run)} if before.get(name) != contents(run).get(name)}
    assert changed == {"model/README.md", "model/recipe.yaml", "pushed.json"}
    assert hub.leaks(hfxfer.writer) == [] and hfxfer.writer not in done.talk


def test_the_published_recipe_names_no_path(hub, run, push):
    assert push().code == 0
    recipe = published(hub, push.id)["recipe.yaml"].decode()
    fingerprint = json.loads((run / "data.json").read_text())["fingerprint"]
    assert recipe.startswith(f"# model: model\n# data: wnut17, fingerprint {fingerprint}\nversion: 1\nmodel: model\ndata: wnut17\n")
    assert "/" not in recipe.replace("runs/run", "") and "output_dir: runs/run\n" in recipe


def test_pushing_again_sends_what_changed_and_takes_away_what_is_gone(hub, hfxfer, run, push):
    assert push().code == 0
    same = push("--format", "json")
    assert json.loads(same.out)["sent"] == [] and len(hub.repo(push.id).pushes) == 1
    hub.push(hub.repo(push.id), {"notes.md": "mine", "figures/old.png": b"\0"}, "By hand", "me")
    scores = run / "model" / "scores.json"
    scores.write_text(scores.read_text() + "\n")
    hub.clear()
    done = push("--format", "json")
    told = json.loads(done.out)
    assert told["sent"] == ["scores.json"] and told["deleted"] == ["figures/old.png"] and told["commit"] == hub.repo(push.id).head
    assert published(hub, push.id) == {**contents(run / "model"), "notes.md": b"mine"}
    assert "stays                notes.md: not hfxfer's" in done.talk and not hub.asked("/_lfs/*")


def test_what_lies_in_other_folders_or_is_called_alike_is_somebodys_own(hub, push):
    assert push().code == 0
    theirs = {name: b"theirs" for name in ("openvino/openvino_model.bin", "other/model.safetensors", "other/config.json", "other/figures/a.png",
                                           "tokenizer_notes.md", "vocab_list.md")}
    hub.push(hub.repo(push.id), {**theirs, "pytorch_model.bin": b"old", "figures/old/a.png": b"old", "vocab.txt.old": b"theirs"}, "By hand", "she")
    told = json.loads(push("--format", "json").out)
    assert told["deleted"] == ["figures/old/a.png", "pytorch_model.bin"]
    assert {name: published(hub, push.id)[name] for name in theirs} == theirs


def test_a_branch_is_made_and_main_stays(hub, run, push):
    assert push().code == 0
    before = hub.repo(push.id).head
    (run / "model" / "scores.json").write_text((run / "model" / "scores.json").read_text() + "\n")
    done = push("--revision", "v2")
    assert done.code == 0 and done.out.endswith(f"{hub.endpoint}/{push.id}/tree/v2\n") and last(done.talk).endswith("INPUT --revision v2")
    assert published(hub, push.id, "v2") == contents(run / "model") and hub.repo(push.id).head == before
    hub.repo(push.id).tags["v1"] = before
    assert error_of(push("--revision", "v1")) == f"--revision v1 is a tag of {push.id}; allowed: a branch, there or new. Choose another name"


def test_a_private_repository_stays_private_and_a_public_one_is_not_made_so(hub, push):
    assert push("--private").code == 0 and hub.repo(push.id).private
    assert push().code == 0 and hub.repo(push.id).private
    hub.add_repo("me/open")
    refused = push("--private", model_id="me/open")
    assert refused.code == 2 and error_of(refused) == (
        f"me/open is there and public; --private is for a new one. Leave it out, or make it private at {hub.endpoint}/me/open/settings")


def test_where_nobody_can_answer_nothing_is_sent(hub, hfxfer, run, push):
    done = hfxfer(*push.command[:-1])
    assert done.code == 2 and error_of(done) == (
        f"nobody can answer whether to push, and nothing was sent. Say yes with: hfxfer push {run} --hub_model_id {push.id} --license mit --yes")
    assert not [request for request in hub.asked() if request.method != "GET" and "validate" not in request.path]
    assert push().code == 0
    assert f"  new          {publish_command.size((run / 'model' / 'README.md').stat().st_size)}  README.md" in done.talk


@pytest.mark.parametrize("answer, refused", [("y", False), ("YES", False), ("n", True), ("", True)])
def test_a_terminal_is_asked(monkeypatch, capsys, answer, refused):
    from hfxfer.errors import RefusedError
    from hfxfer.repository import Plan

    plan = Plan("me/x", "model", Path("model"), "v2", "0123456789", True, True, {"a.json": 1200, "b.json": 5, "c.json": 1}, ("a.json",), ("b.json",),
                ("d.json",), ("notes.md",), ("b.json",), notes=("to answer in the card: Who?",))
    demo = Plan("me/x-demo", "space", Path("space"), "main", None, False, False, {"app.py": 999, "hfxfer/a.py": 1000, "hfxfer/b.py": 200},
                ("app.py", "hfxfer/a.py", "hfxfer/b.py"), (), (), (), settings=("variable HFXFER_MODEL = me/x",))
    ours, theirs = os.openpty()
    os.write(ours, answer.encode() + b"\n")
    with open(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        if refused:
            with pytest.raises(RefusedError, match="^not pushed: the answer was not yes. Nothing was sent$"):
                publish_command.confirm([plan, demo], False, "the command")
        else:
            publish_command.confirm([plan, demo], False, "the command")
    os.close(ours)
    assert capsys.readouterr().err.split("\n") == [
        "me/x, private, branch v2 (new), on top of 0123456:", "  new          1.2 kB  a.json", "  changed         5 B  b.json",
        "  deleted              d.json", "  lost                 b.json: as somebody changed it on the Hub since the last push",
        "  stays                notes.md: not hfxfer's", "  2 of 3 files to send, 1.2 kB; 1 unchanged", "to answer in the card: Who?",
        "Space me/x-demo, public, branch main, a new repository:", "  new           999 B  app.py", "  new          1.2 kB  hfxfer/, 2 files",
        "  set                  variable HFXFER_MODEL = me/x", "  3 of 3 files to send, 2.2 kB", "push to me/x and me/x-demo? [y/N]", ""]


def test_an_interrupted_push_ends_with_the_command_that_goes_on(hub, hfxfer, push):
    hub.fail("*/commit/main", "slow", seconds=3.0)
    pid, finished = hfxfer.fork(*push.command)
    hub.wait_for("*/commit/main", "POST")
    os.kill(pid, signal.SIGINT)
    done = finished()
    assert done.code == 130 and done.talk.endswith(f"\ninterrupted\n{push.again}\n")


def test_sizes_are_shown_as_the_hub_shows_them():
    assert [publish_command.size(each) for each in (0, 999, 1000, 1_250_000, 999_960, 3 * 10**12)] == [
        "0 B", "999 B", "1.0 kB", "1.2 MB", "1.0 MB", "3.0 TB"]


# --- what is refused before anything is sent --------------------------------------------------------------------------

def test_tokens_that_may_not_write_are_refused(hub, hfxfer, push):
    make = f"Make a token that may write at {hub.endpoint}/settings/tokens, and log in with it: hf auth login"
    login = "log in with: hf auth login (or set HF_TOKEN)"
    tokens = {None: f"there is no token for {hub.endpoint}. L{login[1:]}; it must be one that may write",
              hub.token("me", "read"): f"the token 'test' of me may only read. {make}",
              hub.token("me", "fineGrained", {"me/other": ["repo.write"]}): f"the token 'test' of me may not write to {push.id}. {make}",
              "hf_unknown": f"{hub.endpoint} does not know the token (status 401: Unauthorized). L{login[1:]}"}
    for token, text in tokens.items():
        done = push(token=token)
        assert (done.code, error_of(done)) == (2, text)
    for space in ("bigco", "she"):
        done = push(model_id=f"{space}/x")
        assert (done.code, error_of(done)) == (2, f"me may not write in {space}; allowed: me, acme. Choose another --hub_model_id, or {login}")
    assert {request.path for request in hub.asked()} == {"/api/whoami-v2"}
    assert push(token=hub.token("me", "fineGrained", {push.id: ["repo.write"], "me": ["repo.write"]})).code == 0


def test_an_id_without_an_owner_is_refused(push):
    done = push(model_id="x")
    assert (done.code, error_of(done)) == (
        2, "--hub_model_id is 'x'; allowed: NAME/REPO of letters, digits, '-', '_' and '.', such as me/pets")


def test_all_local_faults_are_told_at_once_and_nothing_is_asked(hub, run, push):
    model = run / "model"
    (model / "training_args.bin").write_bytes(b"x")
    (model / "state.dat").write_bytes(b"\x80\x04x")
    (model / "bad.json").write_text("{")
    (model / "tail.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}x")
    assert push().code == 2 and error_of(push()) == "\n".join([
        f"{model} cannot be published:",
        "  - bad.json is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1). Train the Run again",
        "  - state.dat is a pickle, which runs code in whoever loads it. Save the model as safetensors, and delete it",
        "  - tail.safetensors has 11 bytes; its header says 10. Train the Run again",
        "  - training_args.bin is part of the training, not of the model, and may hold a token. Delete it"])
    for name in ("training_args.bin", "state.dat", "bad.json", "tail.safetensors"):
        (model / name).unlink()
    (model / "model.safetensors").rename(model / "gone")
    assert error_of(push()) == f"{model} cannot be published: model.safetensors is missing. Train the Run again"
    (model / "scores.json").unlink()
    assert error_of(push()).startswith(f"the run in {run} is not finished. Continue it: ") and not hub.asked()


def test_what_should_not_be_seen_stops_a_push_unless_it_is_allowed(hub, hfxfer, run, push):
    (run / "model" / "notes.txt").write_text("by ada@uni.ac.uk in /home/ada/x\n")
    done = push()
    assert done.code == 2 and not hub.asked() and error_of(done) == "\n".join([
        f"{run / 'model'} cannot be published:",
        "  - notes.txt, line 1, column 4: e-mail ada@uni.ac.uk. Take it out, or allow it: --allow notes.txt",
        "  - notes.txt, line 1, column 21: home directory /home/ada. Take it out, or allow it: --allow notes.txt"])
    (run / "model" / "notes.txt").write_text(f"by ada@uni.ac.uk with {hfxfer.writer}\n")
    done = push("--allow", "notes.txt")
    assert done.code == 2 and error_of(done) == (
        f"{run / 'model'} cannot be published: notes.txt, line 1, column 23: the token in use hf_{hfxfer.writer[3]}…. Take it out")
    (run / "model" / "notes.txt").write_text("by ada@uni.ac.uk\n")
    assert push("--allow", "e-mail").code == 0 and b"ada" in published(hub, push.id)["notes.txt"]


def test_a_card_that_the_hub_refuses_stops_a_push(hub, hfxfer, run, push):
    done = hfxfer(*[each for each in push.command if each not in ("--license", "mit")])
    assert done.code == 2 and error_of(done).startswith(f"{run / 'model'} cannot be published: license is missing: ") and not hub.asked()
    hub.fail("*/validate-yaml", "invalid-yaml", message='"license" is odd')
    done = push()
    assert (done.code, error_of(done)) == (2, 'the Hub refuses the card\'s metadata:\n  - "license" is odd\nMend it in model/README.md')
    assert ("model", push.id) not in hub.repos


# --- faults of the network --------------------------------------------------------------------------------------------

FAULTS = {"500": ("*/commit/main", 500, {}), "429": ("*/commit/main", 429, {"headers": {"Retry-After": "1"}}),
          "gateway": ("/api/repos/create", 504, {}), "whoami": ("/api/whoami-v2", 503, {}), "card": ("*/validate-yaml", 502, {}),
          "dropped": ("*/commit/main", "drop", {}), "upload": ("/_lfs/*", "drop-request", {}), "asked": ("/api/models/*", "drop", {"times": 2})}


@pytest.mark.parametrize("name", FAULTS)
def test_a_passing_fault_is_waited_out(hub, push, name):
    path, what, more = FAULTS[name]
    push.named(f"me/fault-{name}")
    hub.fail(path, what, **more)
    done = push()
    assert done.code == 0 and len(hub.repo(push.id).pushes) == 1, done.talk
    if name == "429":
        assert f"sending to {push.id} failed (status 429: We had to rate limit your IP.); trying again in 1 s, 1 of 5\n" in done.talk


@pytest.mark.parametrize("what", ["lost", "cut"])
def test_a_lost_answer_is_known_by_the_head(hub, push, what):
    push.named(f"me/{what}")
    hub.fail("*/commit/main", what)
    done = push()
    assert done.code == 0 and len(hub.repo(push.id).pushes) == 1 and len(hub.asked("*/commit/main", "POST")) == 1
    assert f"the answer was lost, but the commit {hub.repo(push.id).head[:7]} is there\n" in done.talk


def test_a_fault_that_stays_ends_with_the_command_that_goes_on(hub, run, push):
    before = contents(run / "model")
    hub.fail("*/commit/main", 503, times=6)
    done = push()
    assert done.code == 1 and last(done.talk) == push.again
    assert error_of(done) == f"sending to {push.id} failed 6 times, at last with: status 503: Service Unavailable"
    assert hub.repo(push.id).pushes == [] and {**before, **contents(run / "model")}.keys() == contents(run / "model").keys()
    assert push().code == 0 and len(hub.repo(push.id).pushes) == 1


@pytest.mark.parametrize("path", ["*/commit/main", "*/preupload/main", "/_lfs/*"])
def test_a_wait_of_an_hour_is_not_slept(hub, push, path):
    push.named(f"me/hour-{len(path)}")
    hub.fail(path, 429, headers={"Retry-After": "3600"}, times=9)
    begin = time.monotonic()
    done = push()
    assert time.monotonic() - begin < 30 and done.code == 1 and last(done.talk) == push.again
    assert error_of(done) == ("the Hub asks to wait 1 h 00 min (status 429); hfxfer waits 2 s at most. "
                              "Nothing is lost: run the same command then")


def test_what_somebody_else_committed_is_shown_and_not_overwritten(hub, push):
    hub.add_repo(push.id, {"somebody-0.txt": "a"})
    head = hub.repo(push.id).head
    hub.fail("*/commit/main", "race")
    done = push()
    theirs = hub.repo(push.id).head
    assert done.code == 1 and last(done.talk) == push.again and error_of(done) == (
        f"somebody else committed to {push.id} meanwhile: main was at {head[:7]} and is now at {theirs[:7]} "
        f"('Somebody was faster' by somebody-else). Nothing was overwritten. The same command again pushes on top of {theirs[:7]}")
    assert push().code == 0 and hub.repo(push.id).pushes[-1].parent == theirs
    assert published(hub, push.id)["somebody-2.txt"] == b"not ours\n"


@pytest.mark.parametrize("is_new", [False, True])
def test_a_token_that_is_demoted_meanwhile(hub, push, is_new):
    """Refused where nothing had been written; where the repository had been made, the push failed on the way, and goes on."""
    push.named(f"me/demoted-{is_new}")
    if not is_new:
        hub.add_repo(push.id)
    hub.fail("*/preupload/main", "read-only")
    done = push()
    assert done.code == (1 if is_new else 2) and (last(done.talk) == push.again) == is_new and error_of(done) == (
        f"sending to {push.id} is not allowed (status 403: you must use a write token to upload to a repository). "
        "Log in with: hf auth login (or set HF_TOKEN), with a token that may write")


def test_a_branch_that_was_made_before_a_refusal_is_gone_on_with(hub, push):
    hub.add_repo(push.id)
    hub.fail("*/preupload/v2", "read-only")
    done = push("--revision", "v2")
    assert done.code == 1 and last(done.talk) == push.again.replace(" --yes", " --revision v2 --yes")
    assert push("--revision", "v2").code == 0


def test_a_licence_that_was_once_given_stays_given(hub, hfxfer, push):
    assert push().code == 0
    again = hfxfer(*[each for each in push.command if each not in ("--license", "mit")])
    assert again.code == 0 and f"nothing to send: it is all there in commit {hub.repo(push.id).head}\n" in again.out


def test_a_login_of_the_client_is_used_where_the_environment_has_no_token(hub, hfxfer, push):
    stored = hfxfer.folder / "home" / "token"
    stored.parent.mkdir(exist_ok=True)
    stored.write_text(hfxfer.writer)
    done = push(token=None)
    stored.unlink()
    assert done.code == 0 and hub.leaks(hfxfer.writer) == []


def test_a_hidden_file_is_left_out(hub, run, push):
    (run / "model" / ".README.md.123").write_text("half")
    done = push()
    assert done.code == 0 and ".README.md.123" not in published(hub, push.id) and "hint: not sent, as hidden files are: .README.md.123\n" in done.talk


def test_a_killed_push_is_finished_by_the_same_command(hub, hfxfer, run, push):
    hub.fail("/_lfs/*", "slow", seconds=20)
    pid, finished = hfxfer.fork(*push.command)
    hub.wait_for("/_lfs/*", "PUT")
    os.kill(pid, signal.SIGKILL)
    assert finished() is None and hub.repo(push.id).pushes == []
    assert push().code == 0
    assert len(hub.repo(push.id).pushes) == 1 and published(hub, push.id) == contents(run / "model")


def test_of_two_pushes_at_once_one_is_told(hub, hfxfer, run, push):
    hub.add_repo(push.id)
    other = run.parent / "other"
    shutil.copytree(run, other)
    (other / "model" / "scores.json").write_text((run / "model" / "scores.json").read_text() + "\n")
    hub.fail("*/commit/main", "slow", seconds=2.0)
    _, finished = hfxfer.fork(*push.command)
    hub.wait_for("*/commit/main", "POST")
    second = hfxfer("push", other, *push.command[2:])
    first = finished()
    assert (second.code, first.code) == (0, 1) and "somebody else committed to" in first.talk and last(first.talk) == push.again
    assert published(hub, push.id) == contents(other / "model") and len(hub.repo(push.id).pushes) == 1


# --- timm -------------------------------------------------------------------------------------------------------------

def test_a_timm_model_is_proved_in_both_libraries(hub, hfxfer, tmp_path):
    hub.clear()
    shutil.copytree(GOLDEN / "pets", tmp_path / "pets")
    hfxfer.order(code=TIMM.format(run=tmp_path / "pets"))
    push = ["push", tmp_path / "pets", "--hub_model_id", "acme/digits", "--license", "mit", "--yes"]
    config = tmp_path / "pets" / "model" / "config.json"
    right = {**json.loads(config.read_text()), "label_names": ["Abyssinian", "Bengal", "american_bulldog"]}
    faults = {"model_args": "does not load in timm: 'NoneType' object has no attribute 'get'. Train the Run again",
              "label_names": "has labels in transformers other than those of scores.json: 'a b c'. Train the Run again"}
    for wrong, text in faults.items():
        config.write_text(json.dumps({**right, wrong: None if wrong == "model_args" else ["a", "b", "c"]}))
        done = hfxfer(*push)
        assert (done.code, error_of(done)) == (2, f"{config.parent} {text}")
    assert ("model", "acme/digits") not in hub.repos
    config.write_text(json.dumps(right))
    done = hfxfer(*push)
    assert done.code == 0 and done.out.startswith("verified: transformers, timm\n"), done.talk


def test_without_the_network_a_push_is_refused(tmp_path):
    """In this process the network is switched off, as HF_HUB_OFFLINE=1 in the environment does."""
    from hfxfer import hub
    from hfxfer.errors import RefusedError

    with pytest.raises(RefusedError) as raised:
        hub.push(tmp_path, hub_model_id="me/x")
    assert str(raised.value) == ("HF_HUB_OFFLINE=1 is set, and a push needs the network. Unset it (and TRANSFORMERS_OFFLINE), and push again")
