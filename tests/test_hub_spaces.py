"""hfxfer space and push --space against the test Hub: what is sent and set, whose token a Space gets, and faults on the way."""

import json
import os
import signal

import pytest
import yaml
from test_hub import contents, error_of, hfxfer, hub, last, published, push, run, trained  # noqa: F401  (fixtures)


def space_of(hub, push):
    return hub.repo(f"{push.id}-demo", "space")


def files_of(space):
    return {name: content for name, content in space.files().items() if name != ".gitattributes"}


def front_matter(space):
    return yaml.safe_load(space.files()["README.md"].decode().split("---\n")[1])


def variables(space):
    return {name: each["value"] for name, each in space.variables.items()}


# --- push --space -----------------------------------------------------------------------------------------------------

def test_model_and_space_go_up_as_one_commit_each_and_name_each_other(hub, hfxfer, run, push, tmp_path):
    written = hfxfer("space", run, "--output_dir", tmp_path / "space", "--hub_model_id", push.id)
    assert written.code == 0 and last(written.talk) == f"next: HFXFER_MODEL={push.id} python {tmp_path / 'space' / 'app.py'}"
    done = push("--space")
    assert done.code == 0, done.talk
    [model], space = hub.repo(push.id).pushes, space_of(hub, push)
    [commit] = space.pushes
    assert files_of(space) == contents(tmp_path / "space") and variables(space) == {"HFXFER_MODEL": push.id} and space.secrets == {}
    assert front_matter(space)["models"] == [push.id]
    button = f"({hub.endpoint}/spaces/{push.id}-demo)"
    assert button in published(hub, push.id)["README.md"].decode()
    assert done.out == (f"verified: transformers\nsent commit {model.oid}\n{hub.endpoint}/{push.id}\n"
                        f"space: sent commit {commit.oid}\n{hub.endpoint}/spaces/{push.id}-demo\n")
    assert f"  set                  variable HFXFER_MODEL = {push.id}\n" in done.talk and hub.leaks(hfxfer.writer) == []
    assert button in published(hub, push.id)["README.md"].decode() and push().code == 0  # and it stays without --space
    assert button in published(hub, push.id)["README.md"].decode() and len(hub.repo(push.id).pushes) == 1


def test_pushed_again_nothing_is_sent_and_a_new_model_starts_the_space_again(hub, run, push):
    assert push("--space").code == 0
    hub.clear()
    done = push("--space", "--format", "json")
    told = json.loads(done.out)
    assert told["sent"] == told["space"]["sent"] == [] and told["space"]["commit"] == space_of(hub, push).head
    assert not hub.asked("*/restart") and not hub.asked("*/variables", "POST")
    (run / "model" / "scores.json").write_text((run / "model" / "scores.json").read_text() + "\n")
    assert push("--space").code == 0
    (run / "model" / "scores.json").write_text((run / "model" / "scores.json").read_text() + "\n")
    hint = f"hint: the Space {push.id}-demo shows the model as it was until it starts again, which push --space sees to\n"
    assert hint in push().talk
    assert len(hub.asked("*/restart")) == 1 and len(space_of(hub, push).pushes) == 1 and len(hub.repo(push.id).pushes) == 3


def test_what_others_did_to_a_space_stays_or_is_told(hub, push):
    assert push("--space").code == 0
    space = space_of(hub, push)
    readme = space.files()["README.md"].decode().replace("emoji: 🔎", "emoji: 🐈\nsuggested_hardware: t4-small")
    hub.push(space, {"README.md": readme, "app.py": "print()\n", "hfxfer/gone.py": "", "examples/a.txt": "mine"}, "By hand", "she")
    done = push("--space")
    assert done.code == 0, done.talk
    found = front_matter(space)
    assert (found["emoji"], found["suggested_hardware"], found["models"]) == ("🐈", "t4-small", [push.id])
    # README.md: its record no longer names the emoji as hfxfer's.
    assert space.pushes[-1].changed == {"README.md": "modified", "app.py": "modified", "hfxfer/gone.py": "deleted"}
    assert space.files()["examples/a.txt"] == b"mine"
    assert "  lost                 app.py: as somebody changed it on the Hub since the last push\n" in done.talk


@pytest.mark.parametrize("kind, files", [("gradio", {"app.py": "print()\n"}), ("docker", {"Dockerfile": "FROM scratch\n"})])
def test_a_space_of_somebody_elses_making_is_not_overwritten(hub, push, kind, files):
    push.named(f"me/other-{kind}")
    hub.add_repo(f"{push.id}-demo", files, kind="space", sdk=kind)
    done = push("--space")
    assert done.code == 2 and len(space_of(hub, push).pushes) == 1 and ("model", push.id) not in hub.repos
    assert error_of(done) == f"{push.id}-demo is a Space already, and not one of hfxfer's. Choose another --hub_space_id"


def test_the_space_of_a_branch_loads_the_branch(hub, push):
    assert push("--space", "--revision", "v2").code == 0
    assert variables(space_of(hub, push)) == {"HFXFER_MODEL": push.id, "HFXFER_REVISION": "v2"}
    assert push("--space").code == 0 and variables(space_of(hub, push)) == {"HFXFER_MODEL": push.id}


def test_where_nobody_can_answer_neither_is_sent(hub, hfxfer, run, push):
    done = hfxfer(*push.command[:-1], "--space")
    assert done.code == 2 and error_of(done) == ("nobody can answer whether to push, and nothing was sent. Say yes with: "
                                                 f"hfxfer push {run} --hub_model_id {push.id} --license mit --space --yes")
    assert not [each for each in hub.asked() if each.method != "GET" and "validate" not in each.path]


def test_another_id_may_be_given_and_must_be_one(hub, push):
    done = push("--hub_space_id", "demo")
    assert done.code == 2 and not hub.asked() and error_of(done) == (
        "--hub_space_id is 'demo'; allowed: NAME/REPO of letters, digits, '-', '_' and '.', such as me/pets")
    refused = push("--hub_space_id", "bigco/demo")
    assert refused.code == 2 and error_of(refused).startswith("me may not write in bigco; allowed: me, acme. Choose another --hub_space_id, or ")
    assert ("model", push.id) not in hub.repos
    assert push("--hub_space_id", "acme/demo").code == 0 and hub.repo("acme/demo", "space").pushes


# --- a model that not everybody may read ------------------------------------------------------------------------------

def test_a_private_model_needs_a_token_of_its_own(hub, hfxfer, push):
    make = f"Make one that may only read, at {hub.endpoint}/settings/tokens, and set HFXFER_SPACE_TOKEN to it"
    fine, token = "fineGrained", "HFXFER_SPACE_TOKEN is the token 'test' of"
    hub.add_user("she")
    wrong = {"": f"{push.id} is private, and a Space loads it with a token of its own. {make}; it becomes the Space's secret HF_TOKEN",
             hfxfer.writer: f"HFXFER_SPACE_TOKEN is the token in use, which may write, and a Space must not have it. {make}",
             "hf_unknown": f"{hub.endpoint} does not know the token in HFXFER_SPACE_TOKEN (status 401: Unauthorized). {make}",
             hub.token("me"): f"{token} me, which is not read-only: write. {make}",
             hub.token("me", fine, {"me/other": ["repo.write"], push.id: ["repo.content.read"]}): f"{token} me, which is not read-only: repo.write. {make}",
             hub.token("me", fine, {"me/other": ["repo.content.read"]}): f"{token} me, which may not read {push.id}. {make}",
             hub.token("she", "read"): f"{token} she, which may not read {push.id}. {make}"}
    for value, text in wrong.items():
        done = push("--private", "--space", HFXFER_SPACE_TOKEN=value)
        assert (done.code, error_of(done)) == (2, text)
        assert value not in done.talk or not value
    assert ("model", push.id) not in hub.repos and ("space", f"{push.id}-demo") not in hub.repos


@pytest.mark.parametrize("role, scopes", [("read", None), ("fineGrained", ["repo.content.read"])])
def test_a_token_that_may_only_read_becomes_the_spaces_secret(hub, hfxfer, push, role, scopes):
    push.named(f"me/shut-{role}")
    reader = hub.token("me", role, {push.id: scopes} if scopes else None)
    done = push("--private", "--space", HFXFER_SPACE_TOKEN=reader)
    assert done.code == 0, done.talk
    space = space_of(hub, push)
    assert space.private and space.secrets == {"HF_TOKEN": reader} and variables(space) == {"HFXFER_MODEL": push.id}
    assert "  set                  secret HF_TOKEN = HFXFER_SPACE_TOKEN, the token 'test' of me, which may only read\n" in done.talk
    assert hub.leaks(hfxfer.writer) == [] and hub.leaks(reader) == [f"POST /api/spaces/{push.id}-demo/secrets"] and reader not in done.talk + done.out
    again = push("--private", "--space", HFXFER_SPACE_TOKEN="")  # the secret is there
    assert again.code == 0 and space.secrets == {"HF_TOKEN": reader}


def test_a_public_model_needs_none(hub, push):
    done = push("--space", HFXFER_SPACE_TOKEN=hub.token("me", "read"))
    assert done.code == 0 and space_of(hub, push).secrets == {}
    assert f"hint: {push.id} is public: HFXFER_SPACE_TOKEN is not needed, and not sent\n" in done.talk


def test_no_token_goes_up_with_a_space(hub, hfxfer, push, tmp_path):
    hub.add_repo(push.id, {"config.json": json.dumps({"architectures": ["BertForTokenClassification"], "model_type": "bert"})})
    to = ["--hub_space_id", f"{push.id}-demo", "--output_dir", tmp_path / "space", "--yes", "--overwrite"]
    assert hfxfer("space", push.id, *to[2:4]).code == 0
    (tmp_path / "space" / "notes.md").write_text(f"with {hfxfer.writer}\n")
    done = hfxfer("space", push.id, *to)
    assert done.code == 2 and ("space", f"{push.id}-demo") not in hub.repos
    assert error_of(done) == (
        f"the Space cannot be published:\n  - notes.md, line 1, column 6: the token in use hf_{hfxfer.writer[3]}…. Take it out")


def test_a_gated_model_needs_one_too(hub, push):
    assert push().code == 0
    hub.repo(push.id).gated = "manual"
    done = push("--space", HFXFER_SPACE_TOKEN="")
    assert done.code == 2 and error_of(done).startswith(f"{push.id} is gated, and a Space loads it with a token of its own. Make one that may only read")


# --- hfxfer space -----------------------------------------------------------------------------------------------------

def test_a_space_alone_needs_the_model_on_the_hub(hub, hfxfer, run, push):
    refused = hfxfer("space", run, "--hub_model_id", push.id, "--hub_space_id", "me/x-demo", "--yes")
    assert refused.code == 2 and ("space", "me/x-demo") not in hub.repos and error_of(refused) == (
        f"{push.id} is not on the Hub, and a Space loads its model from there. Push both: hfxfer push {run} --hub_model_id {push.id} --space")
    assert push().code == 0
    done = hfxfer("space", run, "--hub_space_id", "me/x-demo", "--yes", "--format", "json")
    told, space = json.loads(done.out), hub.repo("me/x-demo", "space")
    assert done.code == 0 and (told["space_id"], told["model_id"], told["commit"]) == ("me/x-demo", push.id, space.head)
    assert push().code == 0 and f"({hub.endpoint}/spaces/me/x-demo)" in published(hub, push.id)["README.md"].decode()


def test_a_model_of_the_hub_gets_a_space_by_its_id(hub, hfxfer, push, tmp_path):
    assert push().code == 0
    command = ["space", push.id, "--hub_space_id", "me/by-id", "--output_dir", tmp_path / "space", "--yes"]
    hub.fail("/api/spaces/*/commit/main", 503, times=6)
    failed = hfxfer(*command)
    assert failed.code == 1 and last(failed.talk) == f"continue with: hfxfer {' '.join(map(str, command))} --overwrite"
    assert hfxfer(*command, "--overwrite").code == 0
    space = hub.repo("me/by-id", "space")
    assert len(space.pushes) == 1 and files_of(space) == contents(tmp_path / "space") and variables(space) == {"HFXFER_MODEL": push.id}
    assert front_matter(space)["tags"] == ["hfxfer", "token-classification"]
    again = hfxfer(*command)
    assert again.code == 2 and error_of(again).startswith(f"{tmp_path / 'space'} holds a Space. Choose another --output_dir")


def test_a_space_says_where_to(hfxfer, run):
    done = hfxfer("space", run)
    assert (done.code, error_of(done)) == (
        2, "space needs where to: --output_dir FOLDER writes the Space, --hub_space_id NAME/REPO publishes it")
    done = hfxfer("space", run, "--output_dir", run / "x", "--private")
    assert (done.code, error_of(done)) == (
        2, "--private is for publishing: say where to with --hub_space_id NAME/REPO, or leave it out")


# --- faults -----------------------------------------------------------------------------------------------------------

FAULTS = {"500": ("/api/spaces/*/commit/main", 500), "lost": ("/api/spaces/*/commit/main", "lost"), "variable": ("*/variables", 503),
          "made": ("/api/repos/create", "lost"), "readme": ("*/README.md", "drop")}


@pytest.mark.parametrize("name", FAULTS)
def test_a_passing_fault_is_waited_out(hub, push, name):
    push.named(f"me/space-{name}")
    hub.fail(*FAULTS[name])
    done = push("--space")
    space = space_of(hub, push)
    assert done.code == 0 and len(hub.repo(push.id).pushes) == len(space.pushes) == 1, done.talk
    assert variables(space) == {"HFXFER_MODEL": push.id}


def test_what_somebody_else_committed_to_the_space_is_not_overwritten(hub, push):
    hub.add_repo(f"{push.id}-demo", kind="space")
    hub.fail("/api/spaces/*/commit/main", "race")
    done = push("--space")
    space, again = space_of(hub, push), push.again.replace(" --yes", " --yes --space")
    assert done.code == 1 and last(done.talk) == again and f"somebody else committed to {push.id}-demo meanwhile" in error_of(done)
    assert len(hub.repo(push.id).pushes) == 1 and [commit.author for commit in space.pushes] == ["somebody-else"]
    assert push("--space").code == 0 and space.pushes[-1].author == "me" and len(hub.repo(push.id).pushes) == 1


def test_a_push_that_is_killed_before_the_space_is_finished_by_the_same_command(hub, hfxfer, push):
    hub.fail("/api/spaces/*/commit/main", "slow", seconds=20)
    pid, finished = hfxfer.fork(*push.command, "--space")
    hub.wait_for("/api/spaces/*/commit/main", "POST")
    os.kill(pid, signal.SIGKILL)
    assert finished() is None and space_of(hub, push).pushes == []
    assert push("--space").code == 0 and len(space_of(hub, push).pushes) == len(hub.repo(push.id).pushes) == 1


def test_a_front_matter_that_the_hub_refuses_stops_both(hub, push):
    hub.fail("*/validate-yaml", "invalid-yaml", message='"emoji" is odd', after=1)
    done = push("--space")
    assert (done.code, error_of(done)) == (2, 'the Hub refuses the card\'s metadata:\n  - "emoji" is odd\nMend it in README.md')
    assert ("model", push.id) not in hub.repos and ("space", f"{push.id}-demo") not in hub.repos


# --- a README that says nothing false ---------------------------------------------------------------------------------

def test_a_space_that_the_hub_has_made_gets_hfxfers_front_matter(hub, hfxfer, run, push, tmp_path):
    hub.add_repo(f"{push.id}-demo", kind="space")
    assert push("--space").code == 0
    assert hfxfer("space", run, "--output_dir", tmp_path / "space").code == 0
    own = yaml.safe_load((tmp_path / "space" / "README.md").read_text().split("---\n")[1])
    assert front_matter(space_of(hub, push)) == {**own, "pinned": False}


def test_a_broken_readme_of_a_space_is_named_by_its_place(hub, push):
    hub.add_repo(f"{push.id}-demo", {"README.md": "---\ntitle: [\n---\n"}, kind="space")
    done = push("--space")
    assert (done.code, error_of(done)) == (2, "the metadata at the top of the Space's README.md on the Hub are no YAML (line 2). "
                                              "Mend them between the lines of ---, or delete the file")


# --- a new model under a Space that stays as it is ---------------------------------------------------------------------

def change(run):
    (run / "model" / "scores.json").write_text((run / "model" / "scores.json").read_text() + "\n")


def test_a_model_that_was_pushed_alone_starts_the_space_with_the_next_push_of_both(hub, hfxfer, run, push):
    assert push("--space").code == 0
    change(run)
    assert push().code == 0 and not hub.asked("*/restart")
    done = push("--space")
    assert done.code == 0 and len(hub.asked("*/restart")) == 1 and len(hub.repo(push.id).pushes) == 2
    assert f"the Space {push.id}-demo starts again, with the model as it is now\n" in done.talk
    [record] = json.loads((run / "pushed.json").read_text())
    assert record["space_model"] == record["commit"] == hub.repo(push.id).head
    assert push("--space").code == 0 and len(hub.asked("*/restart")) == 1
    change(run)
    assert push().code == 0 and hfxfer("space", run, "--hub_space_id", f"{push.id}-demo", "--yes").code == 0
    assert len(hub.asked("*/restart")) == 2 and push("--space").code == 0 and len(hub.asked("*/restart")) == 2


def test_a_push_that_is_killed_before_the_space_starts_again_is_finished_by_the_same_command(hub, hfxfer, run, push):
    assert push("--space").code == 0
    change(run)
    hub.fail("*/restart", "slow", seconds=20)
    pid, finished = hfxfer.fork(*push.command, "--space")
    hub.wait_for("*/restart", "POST")
    os.kill(pid, signal.SIGKILL)
    assert finished() is None and len(hub.repo(push.id).pushes) == 2
    hub.clear()
    assert push("--space").code == 0 and len(hub.asked("*/restart")) == 1 and len(hub.repo(push.id).pushes) == 2


@pytest.mark.parametrize("stage", ["APP_STARTING", "RUNTIME_ERROR", "PAUSED", "BUILDING"])
def test_a_space_that_has_not_read_the_model_is_not_started_again(hub, run, push, stage):
    push.named(f"me/stage-{stage}")
    assert push("--space").code == 0
    space_of(hub, push).stage = stage
    change(run)
    done = push("--space")
    starts = stage in ("APP_STARTING", "RUNTIME_ERROR")
    assert done.code == 0 and len(hub.asked("*/restart")) == starts
    hint = (f"hint: the Space {push.id}-demo was not started again: it is {stage}, and loads the model as it is then when it starts. "
            f"See {hub.endpoint}/spaces/{push.id}-demo\n")
    assert (hint in done.talk) != starts


def test_a_space_of_a_branch_needs_the_branch(hub, hfxfer, run, push):
    assert push().code == 0
    done = hfxfer("space", run, "--hub_space_id", "me/x-branch", "--revision", "v9", "--yes")
    assert done.code == 2 and ("space", "me/x-branch") not in hub.repos and error_of(done) == (
        f"{push.id} has no branch v9, and a Space loads its model from there. Choose another --revision, or push it: "
        f"hfxfer push {run} --hub_model_id {push.id} --revision v9")


# --- what hfxfer space is told ----------------------------------------------------------------------------------------

def test_the_id_of_a_runs_model_is_checked_before_anything(hub, hfxfer, run, tmp_path):
    for to in (["--output_dir", tmp_path / "space"], ["--hub_space_id", "me/x-demo", "--yes"]):
        done = hfxfer("space", run, "--hub_model_id", "me/my pets", *to)
        assert (done.code, error_of(done)) == (
            2, "--hub_model_id is 'me/my pets'; allowed: NAME/REPO of letters, digits, '-', '_' and '.', such as me/pets")
    assert not hub.asked() and not (tmp_path / "space").exists()


def test_the_id_of_a_runs_model_beside_a_hub_id_is_refused(hub, hfxfer, run, tmp_path):
    done = hfxfer("space", "me/pets", "--hub_model_id", "me/cats", "--output_dir", tmp_path / "space")
    assert (done.code, error_of(done)) == (
        2, "--hub_model_id says where the model of a Run is, and me/pets is no Run, so it stands for a model on the Hub. "
           "Give a Run, or leave out --hub_model_id")
    assert not hub.asked() and not (tmp_path / "space").exists()


def test_of_a_misspelt_model_nothing_is_said_of_its_card(hub, hfxfer, run, tmp_path):
    done = hfxfer("space", "me/nowhere-at-all", "--output_dir", tmp_path / "space")
    assert done.code == 2 and done.talk == (
        f"error: cannot load me/nowhere-at-all: it is no local folder, and {hub.endpoint} shows no model of that name: it is misspelt, or it is "
        "private and the token at hand may not read it. Look at the name, or log in with a token that may read it: hf auth login\n")
    assert not hub.asked("*/README.md")


def test_a_hub_that_does_not_answer_is_waited_for_once(hub, hfxfer, run, tmp_path):
    hub.fail("/api/models/me/away*", 503, times=100)
    done = hfxfer("space", "me/away", "--output_dir", tmp_path / "space")
    assert done.code != 0 and done.talk.count("trying again") == hfxfer("predict", "me/away", "x").talk.count("trying again") > 0
    assert "licence" not in done.talk
    hub.clear()


# --- refused, and what was written before ------------------------------------------------------------------------------

def test_a_space_that_may_not_be_made_after_the_models_commit_ends_with_the_command_that_goes_on(hub, push):
    hub.fail("/api/repos/create", "read-only", after=1)
    done = push("--space")
    assert done.code == 1 and last(done.talk) == push.again.replace(" --yes", " --yes --space") and len(hub.repo(push.id).pushes) == 1
    assert error_of(done).startswith(f"making {push.id}-demo is not allowed (status 403: ")
    hub.fail("/api/repos/create", "read-only")  # now the model is there, and nothing is written before
    done = push("--space")
    assert done.code == 2 and "continue with" not in done.talk and ("space", f"{push.id}-demo") not in hub.repos


def test_a_secret_that_may_not_be_set_after_a_variable_ends_with_the_command_that_goes_on(hub, hfxfer, push):
    hub.add_repo(push.id, {"config.json": json.dumps({"architectures": ["BertForTokenClassification"], "model_type": "bert"})}, private=True)
    hub.add_repo("me/set", kind="space")
    hub.fail("*/secrets", "read-only", method="POST")
    command = ["space", push.id, "--hub_space_id", "me/set", "--yes"]
    done = hfxfer(*command, HFXFER_SPACE_TOKEN=hub.token("me", "read"))
    assert done.code == 1 and error_of(done).startswith("setting HF_TOKEN is not allowed (status 403: ")
    assert last(done.talk) == f"continue with: hfxfer {' '.join(command)}" and variables(hub.repo("me/set", "space")) == {"HFXFER_MODEL": push.id}


def test_a_model_of_no_task_of_ours_gets_no_space(hub, hfxfer, run, tmp_path):
    hub.add_repo("me/chat", {"config.json": json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"})})
    done = hfxfer("space", "me/chat", "--output_dir", tmp_path / "space")
    assert (done.code, error_of(done)) == (
        2, "me/chat is for no task that a Space of hfxfer's shows; allowed: image-classification, text-classification, token-classification. "
           "Make its Space by hand")


def test_a_broken_card_on_the_hub_is_named_by_its_place(hub, push):
    assert push().code == 0
    hub.push(hub.repo(push.id), {"README.md": "---\nlicense: [\n---\n"}, "By hand", "she")
    done = push()
    assert (done.code, error_of(done)) == (2, f"the metadata at the top of README.md of {push.id} on the Hub are no YAML (line 2). "
                                              "Mend them between the lines of ---, or delete the file")


# --- a Space that is kept in a folder of one's own -----------------------------------------------------------------------

def test_readmes_of_the_folder_and_of_the_hub_are_brought_together(hub, hfxfer, run, push, tmp_path):
    assert push().code == 0
    readme = tmp_path / "space" / "README.md"
    command = ["space", run, "--hub_space_id", "me/kept", "--output_dir", tmp_path / "space", "--overwrite"]
    assert hfxfer(*command, "--yes").code == 0
    space = hub.repo("me/kept", "space")
    readme.write_text(readme.read_text().replace("emoji: 🔎", "emoji: 🐈"))  # only here
    before = contents(tmp_path / "space")
    done = hfxfer(*command)
    assert done.code == 2 and "  changed " in done.talk and contents(tmp_path / "space") == before and len(space.pushes) == 1
    assert hfxfer(*command, "--yes").code == 0 and front_matter(space)["emoji"] == "🐈" and files_of(space) == contents(tmp_path / "space")
    hub.push(space, {"README.md": space.files()["README.md"].decode().replace("🐈", "🐕")}, "By hand", "she")  # only there
    before = contents(tmp_path / "space")
    (tmp_path / "space" / "app.py").write_text("print()\n")
    assert hfxfer(*command, "--yes").code == 0 and front_matter(space)["emoji"] == "🐕" and files_of(space) == contents(tmp_path / "space")
    assert before != contents(tmp_path / "space") and before["app.py"] == contents(tmp_path / "space")["app.py"]
    readme.write_text(readme.read_text().replace("🐕", "🐎"))
    hub.push(space, {"README.md": space.files()["README.md"].decode().replace("🐕", "🐁")}, "By hand", "she")
    before = contents(tmp_path / "space")
    done = hfxfer(*command, "--yes")
    assert done.code == 2 and contents(tmp_path / "space") == before and error_of(done) == (
        f"{readme} and README.md of the Space were both edited, and differ. The Hub's: {hub.endpoint}/spaces/me/kept/blob/main/README.md. "
        "Make the two alike, here or there, and run the same command")
    readme.write_text(space.files()["README.md"].decode())
    assert hfxfer(*command, "--yes").code == 0 and front_matter(space)["emoji"] == "🐁"


def test_nothing_is_written_into_a_new_folder_before_the_answer(hub, hfxfer, run, push, tmp_path):
    assert push().code == 0
    command = ["space", run, "--hub_space_id", "me/unanswered", "--output_dir", tmp_path / "space"]
    assert hfxfer(*command).code == 2 and not (tmp_path / "space").exists()


# --- a gated model of somebody else's ------------------------------------------------------------------------------------

def test_the_hub_is_asked_whether_a_token_may_read_somebody_elses_gated_model(hub, hfxfer, run):
    hub.add_user("she")
    config = json.dumps({"architectures": ["BertForTokenClassification"], "model_type": "bert"})
    theirs = hub.add_repo("she/gated", {"config.json": config}, gated="manual")
    theirs.readers = {"me"}
    command, reader = ["space", "she/gated", "--hub_space_id", "me/gated-demo", "--yes"], hub.token("me", "read")
    hub.add_user("other")
    refused = hfxfer(*command, HFXFER_SPACE_TOKEN=hub.token("other", "read"))
    assert refused.code == 2 and ("space", "me/gated-demo") not in hub.repos and error_of(refused) == (
        "HFXFER_SPACE_TOKEN is the token 'test' of other, which may not read she/gated (status 403: Access to model she/gated is restricted and you "
        f"are not in the authorized list. Visit {hub.endpoint}/she/gated to ask for access.). Make one that may only read, at "
        f"{hub.endpoint}/settings/tokens, and set HFXFER_SPACE_TOKEN to it")
    done = hfxfer(*command, HFXFER_SPACE_TOKEN=reader)
    assert done.code == 0 and hub.repo("me/gated-demo", "space").secrets == {"HF_TOKEN": reader}, done.talk


def test_files_of_ones_own_in_a_space_are_searched_as_a_models_are(hub, hfxfer, push, tmp_path):
    hub.add_repo(push.id, {"config.json": json.dumps({"architectures": ["BertForTokenClassification"], "model_type": "bert"})})
    space = tmp_path / "space"
    to = ["--hub_space_id", "me/searched", "--output_dir", space, "--yes", "--overwrite"]
    assert hfxfer("space", push.id, *to[2:4]).code == 0
    key = "AKIA" + "ABCDEFGHIJKLMNOP"
    (space / "notes.txt").write_text(f"by ada@uni.ac.uk with {key}\n")
    (space / "examples").mkdir()
    (space / "examples" / "state.pkl").write_bytes(b"\x80\x04" + key.encode() + b".")
    (space / "training_args.bin").write_bytes(b"x")
    done = hfxfer("space", push.id, *to)
    assert done.code == 2 and ("space", "me/searched") not in hub.repos and error_of(done) == "\n".join([
        "the Space cannot be published:",
        "  - examples/state.pkl is a pickle, which runs code in whoever loads it. Save the model as safetensors, and delete it",
        "  - training_args.bin is part of the training, not of the model, and may hold a token. Delete it",
        "  - examples/state.pkl, byte 2: AWS key AKIA…. Take it out",
        "  - notes.txt, line 1, column 23: AWS key AKIA…. Take it out",
        "  - notes.txt, line 1, column 4: e-mail ada@uni.ac.uk. Take it out"])
    for name in ("notes.txt", "examples/state.pkl", "training_args.bin"):
        (space / name).unlink()
    hub.add_repo("me/searched", kind="space")
    readme = hub.repo("me/searched", "space").files()["README.md"].decode()
    hub.push(hub.repo("me/searched", "space"), {"README.md": readme + "\nAsk ada@uni.ac.uk\n"}, "By hand", "me")  # all have seen it
    assert hfxfer("space", push.id, *to).code == 0 and b"ada@uni.ac.uk" in hub.repo("me/searched", "space").files()["README.md"]


def test_a_licence_of_ones_own_goes_up_with_its_name_and_link(hub, hfxfer, run, push):
    done = hfxfer("push", run, "--hub_model_id", push.id, "--yes", "--license", "other", "--license_name", "x-1", "--license_link", "LICENSE")
    assert done.code == 0, done.talk
    assert "\nlicense: other\nlicense_name: x-1\nlicense_link: LICENSE\n" in published(hub, push.id)["README.md"].decode()
