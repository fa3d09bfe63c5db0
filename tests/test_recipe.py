"""Recipes: one spelling, right types, every fault at once, nothing private in what is saved."""

import enum

import numpy as np
import pytest

from hfxfer.errors import RecipeError
from hfxfer.recipe import PUBLISHING, Recipe, languages, partly_read, setting_names, settings_table

NEEDED = {"model": "m", "data": "d"}
PUBLISHED = {"push_to_hub": True, "hub_model_id": "me/x", "hub_private_repo": True, "hub_strategy": "end", "hub_revision": "v2",
             "license": "other", "license_name": "x-1", "license_link": "LICENSE", "language": "en,fr", "card_examples": True}
TOKEN_REFUSED = "is not accepted: a token is never a setting (it would be stored): set HF_TOKEN or run: hf auth login"


def recipe(**settings):
    return Recipe.from_settings({**NEEDED, **settings})


def refusal(**settings):
    with pytest.raises(RecipeError) as caught:
        recipe(**settings)
    return str(caught.value)


def from_yaml(folder, text, overrides=None):
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return Recipe.from_yaml(path, overrides)


def yaml_refusal(folder, content):
    path = folder / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(path)
    return str(caught.value).replace(str(folder), "FOLDER")


# --- one spelling -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "text", "yaml", "value"), [
    ("learning_rate", "3e-4", "3e-4", 3e-4),
    ("learning_rate", "auto", "auto", "auto"),
    ("num_train_epochs", "2", "2", 2.0),
    ("per_device_eval_batch_size", "8", "8", 8),
    ("seed", "4294967295", "4294967295", 4294967295),
    ("trust_remote_code", True, "true", True),
    ("trust_remote_code", "false", "false", False),
    ("augment", "none", "none", "none"),
    ("revision", "none", "null", None),
    ("revision", "0012345", "0012345", "0012345"),
    ("revision", "1234567", "1234567", "1234567"),
    ("revision", "2024-01-02", "2024-01-02", "2024-01-02"),
    ("data", "2024-13-45", "2024-13-45", "2024-13-45"),
    ("architecture", "no", "no", "no"),
    ("columns", ["image=photo", "label=breed"], "{image: photo, label: breed}", {"image": "photo", "label": "breed"}),
    ("columns", "label=a=b", "{label: a=b}", {"label": "a=b"}),
])
def test_flag_yaml_and_python_mean_the_same(tmp_path, name, text, yaml, value):
    settings = {**NEEDED, name: value}
    lines = {**{key: str(item) for key, item in NEEDED.items()}, name: yaml}
    assert getattr(recipe(**{name: text}), name) == value
    assert from_yaml(tmp_path, "".join(f"{key}: {item}\n" for key, item in lines.items())) == Recipe.from_settings(settings)
    assert type(getattr(recipe(**{name: text}), name)) is type(value)


@pytest.mark.parametrize(("name", "text", "yaml", "value"), [
    ("weight_decay", "0.05", "0.05", 0.05),
    ("warmup_steps", "10", "10", 10.0),
    ("max_steps", "-1", "-1", -1),
    ("gradient_accumulation_steps", "2", "2", 2),
    ("lr_scheduler_type", "cosine", "cosine", "cosine"),
    ("eval_strategy", "no", "no", "no"),
    ("bf16", True, "true", True),
    ("tf32", "false", "false", False),
    ("save_total_limit", "none", "null", None),
    ("save_total_limit", "3", "3", 3),
    ("report_to", "none", "none", "none"),
    ("report_to", ["tensorboard", "wandb"], "[tensorboard, wandb]", ["tensorboard", "wandb"]),
    ("include_for_metrics", "inputs", "[inputs]", ["inputs"]),
    ("optim_target_modules", "all-linear", "all-linear", "all-linear"),
    ("optim_args", "a=1,b=2", "a=1,b=2", "a=1,b=2"),
    ("lr_scheduler_kwargs", ["num_cycles=0.5", "x=text", "y=true"], "{num_cycles: 0.5, x: text, y: true}",
     {"num_cycles": 0.5, "x": "text", "y": True}),
    ("lr_scheduler_kwargs", '{"num_cycles": 2}', "{num_cycles: 2}", {"num_cycles": 2}),
    ("accelerator_config", "split_batches=true", "{split_batches: true}", {"split_batches": True}),
    ("accelerator_config", "config.json", "config.json", "config.json"),
    ("liger_kernel_config", ["rope=true"], "{rope: true}", {"rope": True}),
])
def test_fields_of_training_arguments_are_taken_flat_with_their_types(tmp_path, name, text, yaml, value):
    given = recipe(**{name: text})
    assert given.training_arguments == {name: value}
    assert type(given.training_arguments[name]) is type(value)
    assert from_yaml(tmp_path, f"model: m\ndata: d\n{name}: {yaml}\n") == given == recipe(training_arguments={name: value})


def test_the_flat_name_wins_over_the_nested_one():
    given = recipe(training_arguments={"weight_decay": 0.1, "seed": 1}, weight_decay="0.2")
    assert (given.training_arguments, given.seed) == ({"weight_decay": 0.2}, 1)


def test_numbers_of_numpy_and_enums_become_plain_values():
    class Rate(enum.Enum):
        LOW = 0.25

    from transformers import SchedulerType

    given = recipe(learning_rate=Rate.LOW, seed=np.int64(3), test_size=np.float64(0.5), lr_scheduler_type=SchedulerType.COSINE)
    assert (given.learning_rate, given.seed, given.test_size) == (0.25, 3, 0.5)
    assert type(given.seed) is int and type(given.test_size) is float
    assert Recipe.from_settings(__import__("yaml").safe_load(given.to_yaml())) == given


def test_a_recipe_comes_back_from_yaml_as_it_was(tmp_path):
    given = recipe(data="größe 日本 😀.csv", revision="0012345", split_by="yes", data_revision="1.10", data_config="null ",
                   columns={"text": "2024-01-01", "label": "no"}, learning_rate=1e-5, max_length=128, trust_remote_code=True,
                   weight_decay=5e-2, save_total_limit=None, report_to=["tensorboard"], lr_scheduler_kwargs={"a": "2", "b": [1, {"c": None}]},
                   run_name="12:30", seed=2**32 - 1)
    assert from_yaml(tmp_path, given.to_yaml()) == given
    assert Recipe.from_settings(given.to_dict()) == given
    assert given.to_yaml().startswith("version: 1\nmodel: m\n")


def test_where_the_model_goes_is_kept_in_a_recipe(tmp_path):
    assert set(PUBLISHED) == set(PUBLISHING)
    assert from_yaml(tmp_path, recipe(**PUBLISHED).to_yaml()) == recipe(**PUBLISHED) == recipe(training_arguments=PUBLISHED)


def test_a_default_recipe_comes_back_and_its_own_names_are_not_training_arguments(tmp_path):
    assert from_yaml(tmp_path, recipe().to_yaml()) == recipe() == Recipe(**NEEDED)
    assert recipe().training_arguments == {} and list(recipe().to_dict()) == ["version", *setting_names()]


def test_overrides_win_over_the_file(tmp_path):
    text = "model: m\ndata: d\nlearning_rate: 1\ntraining_arguments: {weight_decay: 0.1}\n"
    given = from_yaml(tmp_path, text, {"learning_rate": "0.5", "weight_decay": "0.2", "model": "other"})
    assert (given.model, given.learning_rate, given.training_arguments) == ("other", 0.5, {"weight_decay": 0.2})
    assert from_yaml(tmp_path, text + "adam_epsilon: 0.1\n", {"training_arguments": {"adam_epsilon": 0.2}}).training_arguments == {
        "weight_decay": 0.1, "adam_epsilon": 0.2}


# --- refusals ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "value", "words"), [
    ("learning_rate", 0, "learning_rate is 0; allowed: number > 0 and ≤ 100, or auto"),
    ("learning_rate", "101", "learning_rate is '101'; allowed: number > 0 and ≤ 100, or auto"),
    ("learning_rate", "fast", "learning_rate is 'fast'; allowed: number > 0 and ≤ 100, or auto"),
    ("learning_rate", "Auto", "learning_rate is 'Auto'; allowed: number > 0 and ≤ 100, or auto"),
    ("learning_rate", True, "learning_rate is True; allowed: number > 0 and ≤ 100, or auto"),
    ("learning_rate", None, "learning_rate is None; allowed: number > 0 and ≤ 100, or auto"),
    ("learning_rate", float("nan"), "learning_rate is nan; allowed: number > 0 and ≤ 100, or auto"),
    ("num_train_epochs", "inf", "num_train_epochs is 'inf'; allowed: number of epochs > 0, or auto"),
    ("per_device_eval_batch_size", "inf", "per_device_eval_batch_size is 'inf'; allowed: whole number of rows ≥ 1"),
    ("per_device_eval_batch_size", 8.5, "per_device_eval_batch_size is 8.5; allowed: whole number of rows ≥ 1"),
    ("per_device_train_batch_size", 0, "per_device_train_batch_size is 0; allowed: whole number of rows ≥ 1, or auto"),
    ("seed", 2**53 + 1, "seed is 9007199254740993; allowed: whole number ≥ 0 and ≤ 4294967295"),
    ("seed", -1, "seed is -1; allowed: whole number ≥ 0 and ≤ 4294967295"),
    ("test_size", 1, "test_size is 1; allowed: number > 0 and ≤ 0.9"),
    ("classifier_dropout", 0.95, "classifier_dropout is 0.95; allowed: number ≥ 0 and ≤ 0.9, or auto"),
    ("max_length", 3, "max_length is 3; allowed: whole number of tokens ≥ 4, or auto"),
    ("method", "hed", "method is 'hed'; allowed: auto, head, full, lp-ft, gradual, lora"),
    ("method", ["full"], "method is ['full']; allowed: auto, head, full, lp-ft, gradual, lora"),
    ("precision", True, "precision is True; allowed: auto, fp32, bf16, fp16"),
    ("trust_remote_code", "yes", "trust_remote_code is 'yes'; allowed: true or false"),
    ("trust_remote_code", 1, "trust_remote_code is 1; allowed: true or false"),
    ("model", "", "model is empty; allowed: text"),
    ("output_dir", "", "output_dir is empty; allowed: text"),
    ("data", {"a": 1}, "data is {'a': 1}; allowed: text"),
    ("revision", 1.1, "revision is 1.1; allowed: text (numbers in quotes)"),
    ("columns", ["image"], "columns is ['image']; allowed: name=value …"),
    ("columns", ["image="], "columns is ['image=']; allowed: name=value …"),
    ("columns", ["image=a", "image=b"], "columns is 'image=a image=b'; allowed: name=value …"),
    ("columns", None, "columns is None; allowed: name=value …"),
    ("training_arguments", None, "training_arguments is None; allowed: its fields, each under its own name, such as weight_decay 0.05"),
    ("weight_decay", "x", "weight_decay is 'x'; allowed: number ≥ 0"),
    ("weight_decay", ["1", "2"], "weight_decay is '1 2'; allowed: number ≥ 0"),
    ("weight_decay", True, "weight_decay is True; allowed: number ≥ 0"),
    ("weight_decay", "nan", "weight_decay is 'nan'; allowed: number ≥ 0"),
    ("gradient_accumulation_steps", 0, "gradient_accumulation_steps is 0; allowed: whole number ≥ 1"),
    ("label_smoothing_factor", 1.5, "label_smoothing_factor is 1.5; allowed: number ≥ 0 and ≤ 1"),
    ("eval_strategy", "epochs", "eval_strategy is 'epochs'; allowed: no, steps, epoch"),
    ("lr_scheduler_kwargs", "file.json", "lr_scheduler_kwargs is 'file.json'; allowed: name=value …"),
    ("version", 2, "version is 2; allowed: a whole number up to 1"),
])
def test_a_value_that_does_not_fit_is_refused_with_what_is_allowed(name, value, words):
    assert refusal(**{name: value}) == words


def test_a_value_that_yaml_cannot_hold_is_refused():
    assert refusal(lr_scheduler_kwargs={"a": object}) == f"lr_scheduler_kwargs is {{'a': {object}}}; allowed: name=value …"


@pytest.mark.parametrize(("name", "nearest"), [
    ("learning_rat", "did you mean --learning_rate?"),
    ("learning-rate", "did you mean --learning_rate?"),
    ("Learning_Rate", "did you mean --learning_rate?"),
    ("weight-decay", "did you mean --weight_decay?"),
    ("lr", "did you mean --learning_rate?"),
    ("epochs", "did you mean --num_train_epochs?"),
    ("batch_size", "did you mean --per_device_train_batch_size?"),
    ("evaluation_strategy", "did you mean --eval_strategy?"),
    ("zzzzqqq", "hfxfer train --help lists the settings"),
])
def test_an_unknown_name_is_refused_with_the_nearest(name, nearest):
    assert refusal(**{name: "1"}) == f"unknown setting {name}; {nearest}"


def test_a_refused_name_is_never_suggested():
    assert "hub_token" not in refusal(hub_tokn="x") and "label_names" not in refusal(label_name="x")


def test_all_faults_come_at_once_and_each_once(tmp_path):
    words = [
        "6 settings are wrong:",
        f"  - hub_token {TOKEN_REFUSED}",
        "  - label_names is not accepted: hfxfer owns it: name the column that holds the target, with --columns label=COLUMN",
        "  - seed is -1; allowed: whole number ≥ 0 and ≤ 4294967295",
        "  - weight_decay is 'x'; allowed: number ≥ 0",
        "  - unknown setting methodd; did you mean --method?",
        "  - data is missing: Folder, CSV/TSV/JSON/JSONL/Parquet file, saved data set, Hub data set id, or example. Say --data …"]
    settings = {"model": "m", "hub_token": "secret", "label_names": ["x"], "seed": -1, "weight_decay": "x", "methodd": "full",
                "training_arguments": {"hub_token": "secret"}}
    with pytest.raises(RecipeError) as caught:
        Recipe.from_settings(settings)
    assert str(caught.value).split("\n") == words
    assert yaml_refusal(tmp_path, "model: m\nhub_token: secret\nlabel_names: [x]\nseed: -1\nweight_decay: x\nmethodd: full\n").split("\n") == words


def test_what_hfxfer_owns_is_refused_with_what_to_use_instead(tmp_path):
    assert refusal(remove_unused_columns=False) == (
        "remove_unused_columns is not accepted: hfxfer owns it: columns are chosen by role, with --columns ROLE=COLUMN")
    assert refusal(training_arguments={"hub_token": "secret"}) == f"hub_token {TOKEN_REFUSED}"
    assert refusal(token="secret") == f"token {TOKEN_REFUSED}"
    assert yaml_refusal(tmp_path, "model: m\ndata: d\ntraining_arguments: {hub_token: secret}\n") == f"hub_token {TOKEN_REFUSED}"
    assert refusal(hub_always_push=True) == (
        "hub_always_push is not accepted: the model is pushed once, when it is done: --push_to_hub --hub_model_id NAME/REPO")


def test_a_token_in_any_setting_is_refused_without_showing_it():
    token = "hf_" + "a1B2" * 8
    for settings in ({"run_name": token}, {"accelerator_config": {"x": [token]}}, {"unknown": token}, {"data": f"https://u:{token}@hub"}):
        name = next(iter(settings))
        assert refusal(**settings) == f"{name} holds a Hub token: a token is never a setting (it would be stored): set HF_TOKEN or run: hf auth login"


@pytest.mark.parametrize(("strategy", "why"), [
    ("every_save", "A recipe's run pushes once, the best model with its scores; hfxfer.TransferTrainer in a script pushes at every save"),
    ("checkpoint", "It would publish optimizer state and training_args.bin, which nobody needs who loads the model"),
    ("all_checkpoints", "It would publish optimizer state and training_args.bin, which nobody needs who loads the model")])
def test_strategies_of_pushing_are_refused_with_the_reason(strategy, why):
    from transformers.trainer_utils import HubStrategy

    assert refusal(hub_strategy=strategy) == f"hub_strategy is {strategy!r}; allowed: end. {why}"
    assert refusal(hub_strategy=HubStrategy(strategy)).endswith(f"; allowed: end. {why}")
    assert refusal(hub_strategy="sometimes") == "hub_strategy is 'sometimes'; allowed: end"
    assert recipe(hub_strategy=HubStrategy.END) == recipe()


def test_a_push_needs_to_know_where_to():
    assert refusal(push_to_hub=True) == "push_to_hub is true and hub_model_id is missing: say where to, with --hub_model_id NAME/REPO"
    assert recipe(push_to_hub="true", hub_model_id="me/x").push_to_hub is True


def test_languages_are_codes_by_comma():
    assert [languages(codes) for codes in (None, "", "en", "en, fr,")] == [None, None, ["en"], ["en", "fr"]]


def test_what_is_right_is_read_beside_what_is_wrong():
    found, faults = partly_read({**NEEDED, "seed": -1, "methodd": "full", "test_size": "0.5"})
    assert found == recipe(test_size=0.5)
    assert faults == ["seed is -1; allowed: whole number ≥ 0 and ≤ 4294967295", "unknown setting methodd; did you mean --method?"]
    assert partly_read({"model": "m", "data": {"a": 1}}) == (Recipe(model="m", data=""), ["data is {'a': 1}; allowed: text"])


def test_precision_is_said_once():
    assert refusal(bf16=True, precision="fp32") == "bf16 is true, but precision is fp32: say it once, with --precision"
    assert recipe(bf16=True, precision="bf16").training_arguments == recipe(bf16=True).training_arguments == {"bf16": True}


# --- files ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("content", "words"), [
    ("version: 2\nmodel: m\nunknown: 1\n", "FOLDER/recipe.yaml has version 2; this hfxfer reads versions up to 1. Update it with: pip install -U hfxfer"),
    ("version: new\nmodel: m\ndata: d\n", "version is 'new'; allowed: a whole number up to 1"),
    ("", "FOLDER/recipe.yaml is not a recipe: expected lines such as 'model: timm/resnet50.a1_in1k'"),
    ("- a\n- b\n", "FOLDER/recipe.yaml is not a recipe: expected lines such as 'model: timm/resnet50.a1_in1k'"),
    ("model: m\n token: [hf_secret\n", "the recipe FOLDER/recipe.yaml is no YAML: line 2: mapping values are not allowed here"),
    (b"\x00\x01\x02", "the recipe FOLDER/recipe.yaml is no YAML: it holds characters that are no text"),
    (b"\xff\xfe", "cannot read the recipe FOLDER/recipe.yaml: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ("model: m\ndata: d\nseed: 1\nseed: 2\n", "the recipe FOLDER/recipe.yaml is no YAML: line 4: seed is given twice"),
    ("model: m\ndata: d\n1: 2\n", "unknown setting 1; hfxfer train --help lists the settings"),
    ("model: !!python/object:os.system {}\n", "the recipe FOLDER/recipe.yaml is no YAML: line 1: could not determine a constructor for the tag "
     "'tag:yaml.org,2002:python/object:os.system'"),
])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, words):
    assert yaml_refusal(tmp_path, content) == words


@pytest.mark.parametrize("version", ["version: 1\n", "version: 0\n", "version:\n", ""])
def test_older_versions_and_none_are_read(tmp_path, version):
    assert from_yaml(tmp_path, version + "model: m\ndata: d\n") == recipe()


def test_a_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(tmp_path / "no.yaml")
    assert str(caught.value) == f"the recipe {tmp_path}/no.yaml does not exist. Give a recipe.yaml, or start without one: --model M --data D"
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(tmp_path)
    assert str(caught.value) == f"{tmp_path} is a folder, not a recipe. Give the file in it, such as {tmp_path}/recipe.yaml"


def test_what_is_shared_holds_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "pets").mkdir(parents=True)
    given = recipe(model="/home/me/models/resnet", data="mine/pets", output_dir="/home/me/runs/x", weight_decay=0.1, run_name="/home/me/run",
                   deepspeed="ds.json", lr_scheduler_kwargs={"a": ["~/x", 1]}, accelerator_config={"split_batches": True})
    shared = given.shareable()
    assert (shared.model, shared.data, shared.output_dir) == ("resnet", "pets", "runs/run")
    assert recipe(**PUBLISHED).shareable() == recipe()
    assert shared.training_arguments == {"weight_decay": 0.1, "accelerator_config": {"split_batches": True}}
    assert all(word not in shared.to_yaml() for word in ("home", "/x", "mine", "ds.json"))


@pytest.mark.parametrize(("path", "name"), [("../pets", "pets"), ("~/pets", "pets"), ("./pets.csv", "pets.csv"), ("a/b/pets", "pets"),
                                            ("/data/w.safetensors", "w.safetensors"), ("me/pets", "me/pets"), ("pets", "pets")])
def test_paths_are_shared_by_name_and_hub_ids_as_they_are(path, name):
    assert recipe(data=path).shareable().data == name
    assert recipe(model=path).shareable().model == name


def test_every_setting_is_in_the_table_with_help():
    rows = settings_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == setting_names()
    assert all(row.split(" | ")[3].strip(" |") for row in rows)
    assert "| `learning_rate` | auto | number > 0 and ≤ 100, or auto | Peak learning rate; auto goes by method and task |" in rows
