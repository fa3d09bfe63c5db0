"""A card that was edited on the Hub, when the Run is pushed again: through `hfxfer push`, against the test Hub."""

import json

import pytest
from test_hub import contents, error_of, hfxfer, hub, last, published, push, run, trained  # noqa: F401  (fixtures)

QUESTIONS = "Made for the bird club.\n"


def card(hub, push):
    return published(hub, push.id)["README.md"].decode()


def edit_there(hub, push, old, new):
    text = card(hub, push)
    assert old in text
    hub.push(hub.repo(push.id), {"README.md": text.replace(old, new, 1)}, "Edit README.md", "she")


def edit_here(run, old, new):
    path = run / "model" / "README.md"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_what_was_written_on_the_hub_stays(hub, run, push):
    assert push().code == 0
    edit_there(hub, push, "<!-- hfxfer:usage -->", f"{QUESTIONS}\n<!-- hfxfer:usage -->")
    edit_there(hub, push, "license: mit", "license: mit\nthumbnail: bird.png")
    (run / "model" / "scores.json").write_text((run / "model" / "scores.json").read_text() + "\n")
    done = push()
    assert done.code == 0, done.talk
    assert "README.md was edited on the Hub: those edits stay\n" in done.talk
    assert QUESTIONS in card(hub, push) and "thumbnail: bird.png" in card(hub, push)
    assert (run / "model" / "README.md").read_text() == card(hub, push)
    again = push()
    assert again.code == 0 and "nothing to send" in again.out and "edited on the Hub" not in again.talk


def test_what_was_written_here_goes_up_where_nobody_wrote_there(hub, run, push):
    assert push().code == 0
    hub.push(hub.repo(push.id), {"notes.md": "mine"}, "Something else", "she")
    edit_here(run, "<!-- hfxfer:usage -->", f"{QUESTIONS}\n<!-- hfxfer:usage -->")
    done = push()
    assert done.code == 0 and QUESTIONS in card(hub, push) and "edited on the Hub" not in done.talk


def test_a_card_that_was_edited_here_and_there_stops_the_push(hub, run, push):
    assert push().code == 0
    edit_there(hub, push, "<!-- hfxfer:usage -->", f"{QUESTIONS}\n<!-- hfxfer:usage -->")
    edit_here(run, "<!-- hfxfer:usage -->", "Not for birds of prey.\n\n<!-- hfxfer:usage -->")
    before = hub.repo(push.id).head
    done = push()
    assert done.code == 2 and hub.repo(push.id).head == before and error_of(done) == (
        "the card was edited on the Hub since the last push, and model/README.md here, too. "
        f"The Hub's: {hub.endpoint}/{push.id}/blob/main/README.md. Say whose edits stay: --card hub or --card run; "
        "to keep both, write the Hub's into model/README.md, and push with --card run")
    assert "Not for birds of prey." in (run / "model" / "README.md").read_text()
    assert push("--card", "run").code == 0
    assert "Not for birds of prey." in card(hub, push) and QUESTIONS not in card(hub, push)


def test_the_hubs_card_can_be_taken_over(hub, run, push):
    assert push().code == 0
    edit_there(hub, push, "<!-- hfxfer:usage -->", f"{QUESTIONS}\n<!-- hfxfer:usage -->")
    edit_here(run, "<!-- hfxfer:usage -->", "Not for birds of prey.\n\n<!-- hfxfer:usage -->")
    assert push("--card", "hub").code == 0
    assert QUESTIONS in card(hub, push) and "Not for birds of prey." not in (run / "model" / "README.md").read_text()


def test_another_run_takes_over_what_was_written_on_the_hub(hub, run, push):
    """As after training anew: nothing is known here of the last push."""
    assert push().code == 0
    edit_there(hub, push, "<!-- hfxfer:usage -->", f"{QUESTIONS}\n<!-- hfxfer:usage -->")
    (run / "pushed.json").unlink()
    (run / "model" / "README.md").unlink()
    assert push().code == 0 and QUESTIONS in card(hub, push)


def test_a_readme_that_somebody_began_on_the_hub_is_kept(hub, run, push):
    hub.add_repo(push.id, {"README.md": "---\nlicense: mit\nlanguage: en\n---\n# Tags\n\nBy the bird club.\n"})
    assert push().code == 0
    assert card(hub, push).startswith("---\nlicense: mit\nlanguage: en\n") and "# Tags\n\nBy the bird club.\n" in card(hub, push)
    assert "<!-- hfxfer:usage -->" in card(hub, push)


def test_a_push_is_recorded_for_each_branch(hub, run, push):
    assert push().code == 0 and push("--revision", "v2").code == 0 and push().code == 0
    records = json.loads((run / "pushed.json").read_text())
    assert [(each["model_id"], each["revision"]) for each in records] == [(push.id, "main"), (push.id, "v2")]
    stored = hub.repo(push.id).resolve("main")
    assert records[0]["commit"] == stored.oid and records[0]["card"] == stored.files["README.md"].oid


def test_what_somebody_changed_on_the_hub_and_a_push_changes_back_is_told(hub, run, push):
    assert push().code == 0
    hub.push(hub.repo(push.id), {"scores.json": "{}", "notes.md": "mine"}, "By hand", "she")
    done = push()
    assert done.code == 0 and "  lost                 scores.json: as somebody changed it on the Hub since the last push\n" in done.talk
    assert last(done.talk) == f"next: hfxfer predict {push.id} INPUT"


def test_test_rows_that_the_card_shows_stay_in_it(hub, hfxfer, run, push):
    (run / "examples").mkdir()
    (run / "examples" / "examples.jsonl").write_text(json.dumps({"tokens": ["Ada", "lives"], "tags": ["B-person", "O"]}) + "\n")
    assert hfxfer("card", run, "--license", "mit", "--card_examples").code == 0
    assert push().code == 0 and "widget:\n- text: Ada lives\n" in card(hub, push)
    edit_there(hub, push, "<!-- hfxfer:usage -->", f"{QUESTIONS}\n<!-- hfxfer:usage -->")
    assert push().code == 0 and "widget:\n- text: Ada lives\n" in card(hub, push) and QUESTIONS in card(hub, push)
    assert hfxfer("card", run).code == 0 and push().code == 0 and "widget" not in card(hub, push)


@pytest.mark.parametrize("why", ["no answer", "refused card", "refused account"])
def test_what_was_merged_for_a_push_that_is_refused_is_taken_back(hub, hfxfer, run, push, why):
    push.named(f"me/back-{why[-5:].strip()}")
    assert push().code == 0
    edit_there(hub, push, "<!-- hfxfer:usage -->", f"{QUESTIONS}\n<!-- hfxfer:usage -->")
    edit_here(run, "<!-- hfxfer:usage -->", "Not for birds of prey.\n\n<!-- hfxfer:usage -->")
    (run / "model" / "recipe.yaml").unlink()
    (run / "model" / "scores.json").write_text((run / "model" / "scores.json").read_text() + "\n")
    before = contents(run)
    if why == "refused card":
        hub.fail("*/validate-yaml", "invalid-yaml")
    if why == "refused account":
        hub.fail("/api/whoami-v2", 401)
    done = hfxfer(*push.command[:-1], "--card", "hub")
    assert done.code == 2 and contents(run) == before
    assert push("--card", "hub").code == 0 and QUESTIONS in (run / "model" / "README.md").read_text()


def test_a_new_branch_takes_what_was_written_here_where_nobody_edited_main(hub, run, push):
    assert push().code == 0
    edit_here(run, "<!-- hfxfer:usage -->", f"{QUESTIONS}\n<!-- hfxfer:usage -->")
    done = push("--revision", "v2")
    assert done.code == 0, done.talk
    assert QUESTIONS in published(hub, push.id, "v2")["README.md"].decode() and QUESTIONS not in card(hub, push)


def test_a_new_branch_keeps_what_was_edited_on_main(hub, run, push):
    assert push().code == 0
    edit_there(hub, push, "<!-- hfxfer:usage -->", f"{QUESTIONS}\n<!-- hfxfer:usage -->")
    assert push("--revision", "v2").code == 0 and QUESTIONS in published(hub, push.id, "v2")["README.md"].decode()
