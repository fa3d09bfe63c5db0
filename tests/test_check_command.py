"""hfxfer check, and train --push_to_hub, against a server that speaks the Hub's protocol."""

import json
import os
import signal
import sys
import threading

import hub_metadata
import pytest
from hub_server import HubServer
from hub_worker import Worker, error_of
from tiny_models import digits_folder, text_rows, write_jsonl

from hfxfer import check_command
from hfxfer.errors import RefusedError
from hfxfer.preflight import Check
from hfxfer.recipe import Recipe
from hfxfer.run import Run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    digits_folder(folder / "digits", train=8, validation=5, test=5)
    write_jsonl(folder / "texts.jsonl", text_rows(40))
    write_jsonl(folder / "alike.jsonl", [{"text": f"good {index}", "label": "good"} for index in range(20)])
    return folder


@pytest.fixture(scope="module")
def server(place):
    with HubServer(place / "hub") as hub:
        hub.add_user("me", orgs={"acme": "write", "bigco": "read"})
        yield hub


@pytest.fixture(scope="module")
def hfxfer(server, place):
    with Worker(server, place) as worker:
        # There: this process needs neither timm nor transformers.
        worker.run(f"import pathlib, tiny_models; place = pathlib.Path({str(place)!r})\n"
                   "tiny_models.timm_checkpoint(place / 'net'); tiny_models.bert_checkpoint(place / 'bert')")
        yield worker


@pytest.fixture
def hub(server):
    server.clear()
    return server


@pytest.fixture
def train(hfxfer, place, tmp_path):
    """train(*flags) → what came of `hfxfer train --push_to_hub …` of a tiny image model in tmp_path/run."""
    words = ["train", "--model", place / "net", "--data", place / "digits", "--output_dir", tmp_path / "run", "--num_train_epochs", 1,
             "--license", "mit", "--push_to_hub"]
    return lambda model_id, *flags, method="head", **more: hfxfer(*words, "--hub_model_id", model_id, "--method", method, *flags, **more)


def last(talk):
    return talk.rstrip("\n").splitlines()[-1]


def is_there(hub, model_id):
    return ("model", model_id) in hub.repos


# --- check -----------------------------------------------------------------------------------------------------------

def test_a_good_check_says_what_was_looked_at_and_writes_nothing(hub, hfxfer, place, tmp_path):
    words = ["--model", place / "net", "--data", place / "digits", "--output_dir", tmp_path / "run", "--license", "mit", "--push_to_hub",
             "--hub_model_id", "me/good"]
    done = hfxfer("check", *words, "--yes")  # as train is called
    assert done.code == 0, done.talk
    loss = done.out.partition("(loss ")[2].partition(")")[0]
    assert done.out.splitlines() == [
        "checked: token: it may write in me",
        "checked: repository: me/good, public, branch main, a new repository",
        "checked: data: 24 train, 15 validation, 15 test rows, 3 labels",
        f"checked: model: a step on two rows (loss {loss}), saved, and loaded again with the same logits",
        "checked: card: the metadata are as the Hub wants them, licence mit",
        "checked: published: it would load in transformers, timm",
        "checked: card: the Hub accepts it"]
    assert 0 < float(loss) < 5
    assert last(done.talk) == f"next: hfxfer train {' '.join(map(str, words))} --yes"
    assert not (tmp_path / "run").exists() and not is_there(hub, "me/good")
    assert {request.method for request in hub.asked() if "validate-yaml" not in request.path} == {"GET"}
    card = json.loads(next(request.body for request in hub.asked() if "validate-yaml" in request.path))["content"]
    assert hub_metadata.check(card, "model") == ([], []) and str(place) not in card and "datasets" not in hub_metadata.front_matter(card)
    assert hub.leaks(hfxfer.token) == []


def test_all_faults_come_at_once(hub, hfxfer, place, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    (there / "notes.txt").write_text("mine")
    token = hub.token("me", "read")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {place / 'bert'}\ndata: {place / 'alike.jsonl'}\noutput_dir: {there}\nlicense: apache\nlanguage: English\nseed: -1\n"
                      "hub_model_id: she/faults\nhub_strategy: checkpoint\n")
    done = hfxfer("check", recipe, "--format", "json", token=token)
    assert done.code == 2, done.talk
    licences = "https://huggingface.co/docs/hub/repositories-licenses, such as apache-2.0, mit, bsd-3-clause, cc-by-4.0, cc-by-nc-4.0, other"
    found = json.loads(done.out)
    assert found.pop("faults") == [
        "seed is -1; allowed: whole number ≥ 0 and ≤ 4294967295",
        "hub_strategy is 'checkpoint'; allowed: end. It would publish optimizer state and training_args.bin, which nobody needs who loads the model",
        "language is 'English'; allowed: ISO 639 codes of two or three small letters such as en, or code, multilingual. Say which: --language CODE",
        f"license is 'apache'; allowed: an identifier of {licences}. Say which: --license LICENCE",
        f"the token 'test' of me may only read. Make a token that may write at {hub.endpoint}/settings/tokens, and log in with it: hf auth login",
        "me may not write in she; allowed: me, acme. Choose another --hub_model_id, or log in with: hf auth login (or set HF_TOKEN)",
        f"{there} is not empty and holds no run. Choose another --output_dir",
        "column 'label' has one class only: 'good'. A classifier needs two or more"]
    assert found == {"checked": [], "not_asked": [], "questions": []}
    assert last(done.talk) == f"next: hfxfer check {recipe}"


def test_the_model_is_looked_at_though_the_data_are_wrong(hub, hfxfer, place, tmp_path):
    done = hfxfer("check", "--model", tmp_path / "none", "--data", tmp_path / "nothing", "--hub_model_id", "she/x", "--task", "text-classification")
    assert done.code == 2
    faults = [line for line in done.out.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 3 and faults[0].startswith("fault: me may not write in she; allowed: me, acme. ")
    assert str(tmp_path / "nothing") in faults[1] and str(tmp_path / "none") in faults[2]
    done = hfxfer("check", "--model", place / "bert", "--data", place / "alike.jsonl", "--hub_model_id", "me/x")
    faults = [line for line in done.out.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 2 and faults[1].startswith("fault: license is missing: the base checkpoint says none; allowed: ")


def test_settings_that_lack_model_and_data_are_a_fault_like_others(hub, hfxfer):
    done = hfxfer("check", "--hub_token", "secret", "--run_name", hfxfer.token, "--hub_model_id", "x")
    assert done.code == 2 and last(done.talk) == "next: hfxfer check --hub_model_id x" and hfxfer.token not in done.out + done.talk
    done = hfxfer("check", "--hub_model_id", "x", "--push_to_hub")
    assert done.code == 2 and [line[:23] for line in done.out.splitlines()] == [
        "fault: model is missing", "fault: data is missing:", "fault: --hub_model_id i"]


def test_what_the_hub_says_of_the_repository_and_the_card_is_a_fault(hub, hfxfer, place):
    words = ["check", "--model", place / "bert", "--data", place / "texts.jsonl", "--hub_model_id", "me/there"]
    hub.add_repo("me/there", {"notes.md": "mine"})
    hub.fail("*/validate-yaml", "invalid-yaml", message='"license" is odd')
    done = hfxfer(*words, "--license", "mit", "--language", "en")
    faults = done.out.partition("fault: ")[2]
    assert done.code == 2 and faults == ('the Hub refuses the card\'s metadata:\n  - "license" is odd\nMend it in model/README.md. '
                                          "There is none before training: train without --push_to_hub, mend it, and push then\n"), done.talk
    assert f"checked: repository: me/there, public, branch main, on top of {hub.repo('me/there').head[:7]}\n" in done.out
    done = hfxfer(*words, "--hub_private_repo")
    faults = [line for line in done.out.splitlines() if line.startswith("fault: ")]
    assert done.code == 2 and len(faults) == 2 and faults[1].startswith("fault: license is missing")
    assert faults[0] == ("fault: me/there is there and public; --hub_private_repo is for a new one. Leave it out, or make it private "
                         f"at {hub.endpoint}/me/there/settings")


def test_what_the_hub_says_of_the_card_does_not_wait_for_token_and_repository(hub, hfxfer, place):
    words = ["check", "--model", place / "bert", "--data", place / "texts.jsonl", "--license", "mit", "--language", "en", "--format", "json"]
    mend = "Mend it in model/README.md. There is none before training: train without --push_to_hub, mend it, and push then"
    for model_id, token, told in (
            ("she/x", "", "me may not write in she; allowed: me, acme. Choose another --hub_model_id, or log in with: hf auth login (or set HF_TOKEN)"),
            ("me/x", None, f"there is no token for {hub.endpoint}. Log in with: hf auth login (or set HF_TOKEN); it must be one that may write")):
        hub.fail("*/validate-yaml", "invalid-yaml", message='"license" is odd')
        done = hfxfer(*words, "--hub_model_id", model_id, token=token)
        assert done.code == 2 and json.loads(done.out)["faults"] == [
            told, f'the Hub refuses the card\'s metadata:\n  - "license" is odd\n{mend}'], done.talk


def test_without_a_place_on_the_hub_it_is_asked_once_of_the_metadata(hub, hfxfer, place):
    words = ["check", "--model", place / "bert", "--data", place / "texts.jsonl", "--license", "mit", "--language", "en", "--card_examples",
             "--format", "json"]
    done = hfxfer(*words)
    found = json.loads(done.out)
    assert done.code == 0 and found["checked"][-1] == "card: the Hub accepts its metadata"
    assert found["not_asked"] == ["token and repository: no --hub_model_id"]
    sent, = (json.loads(request.body)["content"] for request in hub.asked())
    assert sent.startswith("---\n") and sent.endswith("\n---\n") and "widget" not in sent and hub_metadata.front_matter(sent)["license"] == "mit"
    hub.fail("*/validate-yaml", "invalid-yaml", message='"license" is odd')
    done = hfxfer(*words)
    assert done.code == 0 and json.loads(done.out)["questions"][-1] == (
        'Before a push: the Hub refuses the card\'s metadata:\n  - "license" is odd\nMend it in model/README.md')
    hub.fail("*", 503, times=100)
    done = hfxfer(*words)
    assert done.code == 0 and json.loads(done.out)["not_asked"] == [
        "token and repository: no --hub_model_id", "the Hub's check of the card: checking the card failed: status 503: Service Unavailable"]
    assert len(hub.asked()) == 3


def test_a_hub_that_does_not_answer_is_told_and_no_fault(hub, hfxfer, place):
    hub.fail("*", 503, times=100)
    done = hfxfer("check", "--model", place / "net", "--data", place / "digits", "--hub_model_id", "me/x", "--license", "mit")
    assert done.code == 0, done.out
    assert "not asked: the Hub: asking whose token it is failed 6 times, at last with: status 503: " in done.out


# --- train --push_to_hub ---------------------------------------------------------------------------------------------

def test_a_run_is_pushed_and_found_by_its_id(hub, hfxfer, train, place, tmp_path):
    done = train("me/run", "--yes", "--language", "en", "--card_examples")
    assert done.code == 0, done.talk
    repo, run = hub.repo("me/run"), Run(tmp_path / "run")
    assert len(repo.pushes) == 1 and "checked: card: the Hub accepts it\n" in done.talk
    assert done.out.splitlines()[-3:] == ["verified: transformers, timm", f"sent commit {repo.head}", f"{hub.endpoint}/me/run"]
    assert done.out.startswith("accuracy  ") and last(done.talk) == "next: hfxfer predict me/run INPUT"
    card = hub_metadata.front_matter((run.model_dir / "README.md").read_text())
    assert (card["license"], card["language"], card["widget"][0]["src"]) == ("mit", ["en"], "examples/00.png")
    assert {"README.md", "model.safetensors", "examples/00.png", "recipe.yaml"} <= repo.files().keys()
    assert "me/run" not in (run.model_dir / "recipe.yaml").read_text() and run.recipe().push_to_hub
    assert hub.leaks(hfxfer.token) == []
    picture = next((place / "digits" / "test" / "digit 1").iterdir())
    by_id, by_run = (json.loads(hfxfer("predict", source, picture, "--format", "json").out) for source in ("me/run", run.folder))
    assert by_id == by_run


def test_weights_are_those_of_a_run_that_is_not_pushed(hub, train, hfxfer, place, tmp_path):
    assert train("me/same", "--yes", method="full").code == 0
    done = hfxfer("train", tmp_path / "run" / "recipe.yaml", "--push_to_hub", "false", "--output_dir", tmp_path / "plain")
    assert done.code == 0, done.talk
    assert "hint: hub_model_id is me/same, but without --push_to_hub nothing is pushed\n" in done.talk
    assert len({(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "plain")}) == 1


def test_in_python_a_run_is_pushed_too(hub, hfxfer, place, tmp_path):
    said = hfxfer.run(f"""
import datasets, hfxfer, tiny_models
rows = datasets.Dataset.from_list(tiny_models.text_rows(40))
run = hfxfer.train(model={str(place / 'bert')!r}, data=rows, output_dir={str(tmp_path / 'run')!r}, num_train_epochs=1, license="mit", language="en",
                   push_to_hub=True, hub_model_id="acme/python", hub_private_repo=True, hub_revision="v2")
said["accuracy"] = run.score("accuracy").value
""")
    repo = hub.repo("acme/python")
    assert 0 <= said["accuracy"] <= 1 and repo.private and len(repo.pushes) == 1
    assert "README.md" in repo.files("v2") and "README.md" not in repo.files()


def test_a_run_that_is_replaced_leaves_nothing_behind(hub, train, tmp_path):
    assert train("me/replaced", "--yes").code == 0
    assert train("me/replaced", "--yes", "--seed", 7, "--overwrite").code == 0
    assert [event["type"] for event in Run(tmp_path / "run").history()].count("end") == 1 and len(hub.repo("me/replaced").pushes) == 2


def test_nothing_is_done_where_nobody_can_answer(hub, train, tmp_path):
    done = train("me/unasked")
    assert done.code == 2 and error_of(done) == "push_to_hub is true, and nobody can answer whether to push: say yes with --yes"
    assert not (tmp_path / "run").exists() and not is_there(hub, "me/unasked")
    done = train("me/unasked", token=None)
    assert done.code == 2 and error_of(done).splitlines() == [
        "2 faults:", "  - push_to_hub is true, and nobody can answer whether to push: say yes with --yes",
        f"  - there is no token for {hub.endpoint}. Log in with: hf auth login (or set HF_TOKEN); it must be one that may write"]


def test_a_hub_that_cannot_be_asked_stops_a_training_that_would_push(hub, train, tmp_path):
    hub.fail("/api/whoami-v2", 503, times=6)
    done = train("me/down", "--yes")
    assert done.code == 2 and error_of(done).startswith("the Hub: asking whose token it is failed 6 times") and not (tmp_path / "run").exists()


def test_a_push_that_fails_leaves_the_run_and_ends_with_the_command_that_goes_on(hub, train, hfxfer, tmp_path):
    hub.fail("*/commit/main", 503, times=6)
    done = train("me/failing", "--yes", "--hub_private_repo")
    again = f"hfxfer push {tmp_path / 'run'} --hub_model_id me/failing --private --yes"
    assert done.code == 1 and last(done.talk) == f"continue with: {again}" and done.out.startswith("accuracy  ")
    assert Run(tmp_path / "run").is_finished() and hub.repo("me/failing").pushes == []
    assert hfxfer(*again.split()[1:]).code == 0 and len(hub.repo("me/failing").pushes) == 1 and hub.repo("me/failing").private


def test_a_push_that_fails_keeps_what_is_known_of_the_training(hub, train, tmp_path):
    hub.fail("*/commit/main", 403, message="no more")
    done, run = train("me/kept", "--yes", "--format", "json"), Run(tmp_path / "run")
    assert done.code == 1 and json.loads(done.out) == {
        "run": str(run.folder), "model": str(run.model_dir), "scores": json.loads((run.model_dir / "scores.json").read_text()),
        "error": "sending to me/kept is not allowed (status 403: no more). Log in with: hf auth login (or set HF_TOKEN), with a token that may write",
        "exit_code": 1}


def test_a_token_that_is_demoted_while_it_trains_is_a_failure_in_work(hub, train, tmp_path):
    hub.fail("*/preupload/main", "read-only")
    done = train("me/demoted", "--yes")
    assert done.code == 1 and last(done.talk).startswith("continue with: hfxfer push ") and Run(tmp_path / "run").is_finished()


def test_an_interrupted_push_ends_with_the_command_that_goes_on_and_so_does_resuming(hub, train, hfxfer, tmp_path):
    hub.fail("*/commit/main", "slow", seconds=2.0)

    def interrupt():
        hub.wait_for("*/commit/main", "POST")
        os.kill(hfxfer.process.pid, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    done = train("me/interrupted", "--yes")
    thread.join()
    assert done.code == 130 and last(done.talk) == f"continue with: hfxfer push {tmp_path / 'run'} --hub_model_id me/interrupted --yes"
    (tmp_path / "run" / "model" / "scores.json").unlink()
    done = hfxfer("train", tmp_path / "run" / "recipe.yaml", "--resume", "--yes", "--hub_model_id", "acme/resumed")
    assert done.code == 0, done.talk
    assert "resuming from " in done.talk and len(hub.repo("acme/resumed").pushes) == 1


def test_a_ladder_does_not_push(hfxfer):
    done = hfxfer("ladder", "--model", "m", "--data", "d", "--push_to_hub", "--hub_model_id", "me/x")
    assert (done.code, error_of(done)) == (
        2, "push_to_hub is true, and ladder does not push. Leave it out; when it is done: hfxfer push RUN --hub_model_id NAME/REPO")


# --- the question ----------------------------------------------------------------------------------------------------

RECIPE = Recipe(model="m", data="d", push_to_hub=True, hub_model_id="me/x")


@pytest.mark.parametrize(("answer", "refused"), [("y", False), ("n", True), ("", True)])
def test_a_terminal_is_asked_before_training(monkeypatch, capsys, answer, refused):
    check = Check(RECIPE, questions=["Who?"], target="me/x, public, branch main, a new repository")
    ours, theirs = os.openpty()
    os.write(ours, answer.encode() + b"\n")
    with open(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        confirm = check_command.consent(RECIPE, False)["confirm"]
        if refused:
            with pytest.raises(RefusedError, match="^the answer was not yes, and nothing was done. Without --push_to_hub nothing is pushed$"):
                check.settle(confirm)
        else:
            check.settle(confirm)
    os.close(ours)
    assert capsys.readouterr().err.splitlines() == [
        "to answer in the card: Who?", "after training: me/x, public, branch main, a new repository", "push to me/x when training is done? [y/N]"]


def test_who_said_yes_and_who_does_not_push_is_not_asked():
    assert check_command.consent(RECIPE, True) == check_command.consent(Recipe(model="m", data="d"), False) == {}
