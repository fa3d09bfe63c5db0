"""Scripts that publish: TransferTrainer(push_to_hub=True) and .push_to_hub() against a server that speaks the Hub's protocol.

The scripts run in one process of their own, with the unchanged client. None of Trainer's own ways to the Hub may be taken.
"""

import json
import re
import textwrap
from pathlib import Path

import pytest
from hub_server import HubServer
from hub_worker import Worker
from script_lines import ATTEMPT, PRELUDE
from tiny_models import bert_checkpoint

from hfxfer.run import Run

@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as hub:
        hub.add_user("me", orgs={"acme": "write", "bigco": "read"})
        yield hub


@pytest.fixture(scope="module")
def worker(hub, tmp_path_factory):
    with Worker(hub, tmp_path_factory.mktemp("worker")) as worker:
        yield worker


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return bert_checkpoint(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture
def script(hub, worker, base, tmp_path, request):
    """script(code) → what it put into `said`, and its talk; its output_dir is script.out, and the model's name by default."""
    hub.clear()
    out = tmp_path / request.node.name.removeprefix("test_")[:60]

    def run(code, token=""):
        done = worker._order(token, code=PRELUDE.format(base=str(base), out=str(out)) + ATTEMPT.format(textwrap.indent(code.strip(), "    ")))
        assert "raised" not in done.said, done.said["raised"]
        return {**done.said, "talk": done.talk, "out": done.out}

    run.out, run.id = out, f"me/{out.name}"
    return run


def commits(hub, model_id):
    return [(commit.title, sorted(name for name in commit.changed if name != ".gitattributes")) for commit in hub.repo(model_id).pushes]


def published(hub, model_id):
    return {name: content for name, content in hub.repo(model_id).files("main").items() if name != ".gitattributes"}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def card_of(hub, model_id):
    return published(hub, model_id)["README.md"].decode()


def writes(hub):
    return [request.path for request in hub.asked() if request.method not in ("GET", "HEAD") and "validate-yaml" not in request.path]


# --- what goes up -----------------------------------------------------------------------------------------------------

def test_at_the_end_one_commit_of_exactly_the_model_goes_up_and_no_token(hub, worker, script):
    token = worker.token
    said = script(f"""
args = arguments(push_to_hub=True, hub_strategy="end", hub_token={token!r}, hub_private_repo=True, load_best_model_at_end=True)
made = trainer(args)
before = dict(os.environ)
made.train()
made.save_model()
said["same"] = dict(os.environ) == before and args.hub_token == {token!r} and args.push_to_hub
os.environ["HF_TOKEN"] = {token!r}
said["logits"] = torch.equal(logits(made.model, made.processing_class), logits(*loaded("{script.id}")))
said["predicts"] = hfxfer.load("{script.id}").predict("a good film")[0]["label"]
""", token=None)
    [(title, names)] = commits(hub, script.id)
    assert title == "End of training" and "training_args.bin" not in names and "optimizer.pt" not in names
    assert published(hub, script.id) == contents(script.out / "model") and hub.repo(script.id).private
    assert said["same"] and said["logits"] and said["predicts"] in ("good", "bad")
    assert f"pushed to {hub.endpoint}/{script.id}: End of training (commit {hub.repo(script.id).head[:7]})" in said["talk"]
    assert f"nothing new to push to {hub.endpoint}/{script.id} (commit {hub.repo(script.id).head[:7]})" in said["talk"]
    assert (script.out / "checkpoint-3" / "training_args.bin").is_file() and (script.out / "training_args.bin").is_file()
    assert [name for name, content in contents(script.out).items() if token.encode() in content] == []
    assert hub.leaks(token) == [] and token not in said["talk"] + said["out"]


def test_the_run_beside_it_is_one_that_every_command_reads(script):
    said = script("""
trainer(arguments(push_to_hub=True, hub_strategy="end", weight_decay=0.05, seed=7)).train()
said["accuracy"] = hfxfer.evaluate(out, others)["scores"][0]["value"]
""")
    run = Run(script.out)
    recipe, accuracy = run.recipe(), run.score("accuracy")
    assert (recipe.task, recipe.data, recipe.learning_rate, recipe.num_train_epochs) == ("text-classification", "given in Python", 1e-3, 2)
    assert (recipe.training_arguments["weight_decay"], recipe.seed) == (0.05, 7) and not recipe.calibrate and recipe.early_stopping_patience == 0
    assert (accuracy.split, accuracy.num_rows, accuracy.value) == ("validation", 6, said["accuracy"]) and accuracy.low < accuracy.high
    assert run.read_json("data.json")["splits"]["train"] == {"num_rows": 24, "origin": "given", "classes": {"bad": 12, "good": 12}}
    assert [event["type"] for event in run.history()] == ["stage", *["log"] * 3, "eval", *["log"] * 3, "eval", "end"]
    assert run.predictions().num_rows == 6 and recipe.model.endswith("/bert")


def test_each_save_is_a_commit_with_the_scores_of_its_weights(hub, script):
    script("trainer(arguments(push_to_hub=True)).train()")  # every_save is Trainer's default
    assert [title for title, _ in commits(hub, script.id)] == ["Training in progress, epoch 1", "Training in progress, epoch 2", "End of training"]
    repo = hub.repo(script.id)
    first, second, last = (repo.files(commit.oid) for commit in repo.pushes)
    assert b"Training was still going on: this is the model of step 3." in first["README.md"]
    assert b"Training was still going on: this is the model of step 6." in second["README.md"] and b"6 steps in 2 epochs." in last["README.md"]
    assert first["model.safetensors"] != second["model.safetensors"] == last["model.safetensors"]
    assert first["model.safetensors"] == (script.out / "checkpoint-3" / "model.safetensors").read_bytes()
    assert first["scores.json"] != second["scores.json"] == last["scores.json"]


def test_pushing_at_saves_changes_no_weight(hub, script):
    said = script("""
pushing = trainer(arguments(push_to_hub=True, save_strategy="steps", save_steps=2), method="lp-ft", head_epochs=1)
pushing.train()
quiet = trainer(arguments(output_dir=out + "-quiet", save_strategy="steps", save_steps=2), method="lp-ft", head_epochs=1)
quiet.train()
said["equal"] = all(torch.equal(value, quiet.model.state_dict()[name]) for name, value in pushing.model.state_dict().items())
""")
    titles = [title for title, _ in commits(hub, script.id)]
    # Stages begin to count anew: 3 steps of the head, 6 of everything; a stage's end is saved, too.
    assert said["equal"] and titles == [*(f"Training in progress, {at}" for at in ("stage-1-head, step 2", "stage-1-head, step 3", "step 2", "step 4",
                                                                                   "step 6")), "End of training"]
    assert [(event["name"], event["step"]) for event in Run(script.out).history() if event["type"] == "stage"] == [("stage-1-head", 0), ("", 3)]
    assert "Stage stage-1-head" in card_of(hub, script.id)
    first = hub.repo(script.id).files(hub.repo(script.id).pushes[0].oid)["README.md"].decode()
    # Pooler and classifier: 32 × 32 + 32 + 2 × 32 + 2. Nothing of a stage that is yet to come.
    assert re.findall(r"(?m)^- (?:Stage .*: )?[\d,]+ trained parameters.*", first) == [
        "- Stage stage-1-head: 1,122 trained parameters, from epoch 0 on."]


def test_adapters_are_merged_in_what_is_pushed_while_they_are_trained(hub, script):
    said = script("""
made = trainer(arguments(push_to_hub=True, num_train_epochs=1), method="lora")
made.train()
said["logits"] = torch.equal(logits(made.model, made.processing_class), logits(*loaded(out + "/model")))
""")
    first, last = hub.repo(script.id).pushes
    repo = hub.repo(script.id)
    assert said["logits"] and repo.files(first.oid)["model.safetensors"] == repo.files(last.oid)["model.safetensors"]
    assert b"lora_" not in repo.files(first.oid)["model.safetensors"]


def test_a_script_pushes_when_it_says_so(hub, script):
    said = script("""
made = trainer(arguments(num_train_epochs=1), license=None, language=None)
made.train()
done = made.push_to_hub("First", license="apache-2.0", language="en,fr", tags="x")
with open(out + "/model/README.md", "a") as file:
    file.write("\\nMine.\\n")
again = made.push_to_hub("Second", license="apache-2.0")
said["pushed"] = [done.address, done.commit, again.commit]
""")
    assert [title for title, _ in commits(hub, script.id)] == ["First", "Second"]
    assert commits(hub, script.id)[1][1] == ["README.md"]
    assert said["pushed"] == [f"{hub.endpoint}/{script.id}", *(commit.oid for commit in hub.repo(script.id).pushes)]
    card = card_of(hub, script.id)
    assert "\nlicense: apache-2.0\n" in card and "language:\n- en\n- fr\n" in card and "\nMine.\n" in card
    assert (f"hint: push_to_hub has no use for tags: hfxfer pushes at once and writes the card, and what you add to {script.out}/model/README.md "
            "stays\n") in said["talk"]


def test_examples_that_the_author_switched_on_stay_in_the_card(hub, script):
    script("""
from hfxfer import card
made = trainer(arguments(num_train_epochs=1))
made.train()
made.push_to_hub("First")
card.write(hfxfer.Run(out), model_id="me/" + Path(out).name, card_examples=True)
made.push_to_hub("Second", language=["en", "fr"])
""")
    first, second = (hub.repo(script.id).files(commit.oid)["README.md"].decode() for commit in hub.repo(script.id).pushes)
    assert "widget:" not in first and "example_title: Validation row 1\n" in second and "language:\n- en\n- fr\n" in second


def test_a_licence_of_ones_own_has_its_name_and_link_in_the_card(hub, script):
    script("""
trainer(arguments(push_to_hub=True, hub_strategy="end", num_train_epochs=1), license="other", license_name="mine-1.0", license_link="LICENSE").train()
""")
    assert "\nlicense: other\nlicense_name: mine-1.0\nlicense_link: LICENSE\n" in card_of(hub, script.id)


def test_a_model_that_was_only_loaded_is_published_as_such(hub, script):
    script("""
model, tokenizer = headed(base)
model.config.hfxfer_temperature = 1.5
TransferTrainer(model=model, args=arguments(eval_strategy="no"), processing_class=tokenizer, task="text-classification", license="mit").push_to_hub()
""")
    card = card_of(hub, script.id)
    assert ("This model gives a text one of 2 classes (bad, good); its weights are those of bert, published as they were loaded.\n" in card)
    assert "It was not evaluated: the script that published it gave no rows to score it on." in card
    assert "- The weights are those of bert (BertForSequenceClassification); they were published as they were loaded." in card
    assert "The logits were divided by a temperature of 1.5, fitted on rows of its training; it is in the weights" in card
    for unsaid in ("fine-tuned", "## Data", "## Limits", "Hardware", "Train it again", "base_model", "model-index"):
        assert unsaid not in card
    assert json.loads(published(hub, script.id)["scores.json"])["scores"] == []


def test_what_calibration_found_is_of_the_training_before(hub, script):
    script("""
model, tokenizer = headed(base)
model.config.hfxfer_temperature, model.config.hfxfer_threshold = 1.5, 0.3
trainer(arguments(push_to_hub=True, hub_strategy="end", num_train_epochs=1), model=model, processing_class=tokenizer).train()
""")
    assert not [name for name in json.loads(published(hub, script.id)["config.json"]) if name.startswith("hfxfer_")]
    assert "temperature" not in card_of(hub, script.id)


def test_metrics_of_the_callers_own_stand_in_the_card_under_their_names(hub, script):
    script("""
found = {"share_of_good": 0.5, "nothing": float("nan"), "rows": [1]}
trainer(arguments(push_to_hub=True, hub_strategy="end", num_train_epochs=1), compute_metrics=lambda predictions: dict(found)).train()
""")
    scores = Run(script.out).scores()["scores"]
    assert [(score["metric"], score["value"] is None, score["low"], score["split"], score["num_rows"]) for score in scores] == [
        ("share_of_good", False, None, "validation", 6), ("nothing", True, None, "validation", 6)]
    assert "| share_of_good |" in card_of(hub, script.id) and "accuracy" not in card_of(hub, script.id).split("hfxfer:record")[0]


def test_of_items_already_encoded_only_their_number_is_told(hub, script):
    script("""
model, tokenizer = headed(base)
encoded = rows.map(lambda row: {**tokenizer(row["text"]), "label": int(row["label"] == "good")}, remove_columns=["text", "label"])
TransferTrainer(model=model, args=arguments(push_to_hub=True, hub_strategy="end"), train_dataset=encoded,
                eval_dataset={"few": encoded.select(range(4))}, data_collator=DataCollatorWithPadding(tokenizer), task="text-classification",
                license="mit").train()
""")
    card = card_of(hub, script.id)
    assert "on 24 training rows of data with hfxfer. On 4 rows of the few split its loss is" in card
    assert "| loss (lower is better) |" in card and "| all rows | 24 |" in card and "Found in the data" not in card
    assert "tokenizer.json" in published(hub, script.id)


def test_what_was_edited_on_the_hub_stays(hub, script):
    said = script("""
made = trainer(arguments(push_to_hub=True, hub_strategy="end", num_train_epochs=1))
made.train()
""")
    repo = hub.repo(script.id)
    hub.push(repo, {"README.md": card_of(hub, script.id) + "\nFrom the Hub.\n"}, "By hand", "me")
    said = script("""
made = trainer(arguments(push_to_hub=True, hub_strategy="end", num_train_epochs=2))
made.train()
""")
    assert [commit.title for commit in repo.pushes] == ["End of training", "By hand", "End of training"], said["talk"]
    assert "\nFrom the Hub.\n" in card_of(hub, script.id) and "6 steps in 2 epochs" in card_of(hub, script.id)


# --- what is refused, before training ---------------------------------------------------------------------------------

@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_optimizer_state_is_not_published(hub, script, strategy):
    said = script(f"said['refused'] = refused(lambda: trainer(arguments(push_to_hub=True, hub_strategy={strategy!r})))")
    assert said["refused"] == ["RecipeError", f"hub_strategy is {strategy}, which would publish optimizer state and training_args.bin; nobody who "
                               f"loads the model needs them. Allowed: end, every_save. What to resume from stays in {script.out}"]
    assert not hub.asked()


def test_what_no_true_card_can_be_made_of_is_refused_all_at_once_and_nothing_is_asked(hub, script):
    said = script("""
model, tokenizer = headed(base)
push, quiet = arguments(push_to_hub=True, eval_strategy="no"), arguments(output_dir=out + "2", eval_strategy="no")
said["task"] = refused(lambda: TransferTrainer(model=model, args=push, processing_class=tokenizer))
said["all"] = refused(lambda: TransferTrainer(model=torch.nn.Linear(2, 2), args=push, task="image-classification"))
said["license"] = refused(lambda: trainer(push, eval_dataset=None, license=None))
said["wrong"] = refused(lambda: trainer(push, eval_dataset=None, license="gpl-99", language="english"))
hfxfer.Run(out).create()
hfxfer.Run(out).write_recipe(hfxfer.Recipe(model="m", data="d"))
said["run"] = refused(lambda: trainer(push, eval_dataset=None))
said["later"] = refused(lambda: TransferTrainer(model=model, args=quiet, processing_class=tokenizer).push_to_hub())
""")
    no = "the model cannot be published:"
    task = (f"{no} task is not given, and a card says what a model is for. Say it: TransferTrainer(…, task='image-classification'). "
            "Tasks: image-classification, text-classification, token-classification")
    assert said["task"] == said["later"] == ["RecipeError", task]
    assert said["all"][1].split("\n") == [
        no, "  - the model is a Linear, which from_pretrained does not load. Use a model of transformers, or of timm by its name",
        "  - the processor is not given, without which nobody can use the model. Give processing_class=, the checkpoint's tokenizer or image "
        "processor"]
    assert said["license"][1].startswith(f"{no} license is missing: the base checkpoint says none; allowed: ")
    assert said["license"][1].endswith(". Say which: license='LICENCE'")
    assert [line.split(";")[0] for line in said["wrong"][1].split("\n")] == [no, "  - license is 'gpl-99'", "  - language is 'english'"]
    assert said["run"][1] == (f"{no} {script.out} holds recipe.yaml, model/recipe.yaml, which is of no script's Run and would be replaced or "
                              "published. Choose another output_dir")
    assert not hub.asked()


def test_a_model_that_somebody_saved_where_the_runs_would_be_is_not_replaced(hub, script):
    said = script("""
loaded(base)[0].save_pretrained(out + "/model")
before = Path(out, "model", "model.safetensors").read_bytes()
said["refused"] = refused(lambda: trainer(arguments(push_to_hub=True)))
said["kept"] = Path(out, "model", "model.safetensors").read_bytes() == before
""")
    assert said["kept"] and said["refused"] == ["RecipeError", (
        f"the model cannot be published: {script.out} holds model/config.json, model/model.safetensors, which is of no script's Run and would be "
        "replaced or published. Choose another output_dir")]
    assert not hub.asked()


def test_where_the_token_may_not_write_nothing_is_trained(hub, worker, script):
    repo = hub.add_repo("me/tagged", {"x.txt": "x"})
    repo.tags["v1"] = repo.head
    said = script(f"""
def asked(**settings):
    return refused(lambda: trainer(arguments(push_to_hub=True, **settings)))

said["none"] = asked()
said["read"] = asked(hub_token={hub.token("me", "read")!r})
said["unknown"] = asked(hub_token="hf_unknown")
os.environ["HF_TOKEN"] = {worker.token!r}
said["foreign"] = asked(hub_model_id="bigco/x")
said["public"] = asked(hub_model_id="me/tagged", hub_private_repo=True)
said["tag"] = asked(hub_model_id="me/tagged", hub_revision="v1")
said["called"] = refused(lambda: trainer(arguments(hub_model_id="me/tagged", output_dir=out + "2")).push_to_hub(private=True))
said["named"] = asked(hub_model_id="my run")
said["folder"] = asked(output_dir=out + "/my run")
os.environ["HF_OIDC_RESOURCE"] = "me/x"
said["identity"] = asked(hub_token="hf_given")
del os.environ["HF_OIDC_RESOURCE"]
""", token=None)
    assert said["none"] == ["RefusedError", f"there is no token for {hub.endpoint}. Log in with: hf auth login (or set HF_TOKEN); it must be one "
                            "that may write"]
    assert said["read"] == ["RefusedError", "the token 'test' of me may only read. Make a token that may write at "
                            f"{hub.endpoint}/settings/tokens, and log in with it: hf auth login"]
    assert said["unknown"][1].startswith(f"{hub.endpoint} does not know the token (status 401: ")
    assert said["foreign"][1].startswith("me may not write in bigco; allowed: me, acme.")
    assert said["public"][1].startswith("me/tagged is there and public; hub_private_repo is for a new one.")
    assert said["called"][1].startswith("me/tagged is there and public; private is for a new one.")
    assert said["tag"][1] == "hub_revision v1 is a tag of me/tagged; allowed: a branch, there or new. Choose another name"
    allowed = "; allowed: REPO or NAME/REPO of letters, digits, '-', '_' and '.', such as me/pets. Give hub_model_id"
    assert said["named"][1] == f"hub_model_id is 'my run'{allowed}"
    assert said["folder"][1] == f"hub_model_id is not given, and the folder of output_dir is named 'my run'{allowed}"
    assert said["identity"] == ["RefusedError", "a token is given and HF_OIDC_RESOURCE is set, whose token the Hub's client would take in its "
                                "place; allowed: one of the two. Leave out hub_token (or token=), or unset HF_OIDC_RESOURCE"]
    assert writes(hub) == []


# --- what goes wrong -----------------------------------------------------------------------------------------------------

def test_a_push_that_fails_at_a_save_does_not_end_the_training(hub, script):
    hub.fail("*/commit/main", 403, message="no")
    said = script("trainer(arguments(push_to_hub=True, num_train_epochs=1, save_strategy='steps', save_steps=2)).train()")
    assert [title for title, _ in commits(hub, script.id)] == ["Training in progress, step 3", "End of training"]
    assert "warning: the model of step 2 was not pushed: " in said["talk"] and (
        "\nTraining goes on, and the next save is pushed. To push only once, when training has ended: hub_strategy='end'\n") in said["talk"]


def test_what_nobody_foresaw_does_not_end_the_training_at_a_save_either(hub, script):
    said = script("""
def share(predictions):
    if made.state.global_step == 2:
        raise ZeroDivisionError("no rows")
    return {"share": 0.5}

made = trainer(arguments(push_to_hub=True, num_train_epochs=1, save_strategy="steps", save_steps=2, eval_strategy="no"), compute_metrics=share)
made.train()
""")
    assert [title for title, _ in commits(hub, script.id)] == ["Training in progress, step 3", "End of training"]
    assert "warning: the model of step 2 was not pushed: ZeroDivisionError: no rows\nTraining goes on, " in said["talk"]


def test_a_push_that_fails_in_the_end_leaves_a_whole_run_and_the_command_that_goes_on(hub, worker, script):
    hub.fail("*/commit/v2", 403, message="no")
    said = script("""
made = trainer(arguments(push_to_hub=True, hub_strategy="end", hub_revision="v2", num_train_epochs=1))
said["error"] = refused(made.train)
said["step"] = made.state.global_step
""")
    command = f"hfxfer push {script.out} --hub_model_id {script.id} --revision v2"
    kind, text = said["error"]
    assert kind == "WorkError" and said["step"] == 3 and text.endswith(f"\nThe model is whole in {script.out / 'model'}. Push it with: {command}")
    done = worker(*command.split()[1:], "--yes")
    assert done.code == 0, done.talk
    assert {name: content for name, content in hub.repo(script.id).files("v2").items() if name != ".gitattributes"} == contents(script.out / "model")
