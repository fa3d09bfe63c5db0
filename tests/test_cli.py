"""The command line: help, flags, exit codes, and each bad input of a user, through `main` as a shell would call it.

The help texts are in tests/golden/. Write them anew with: python tests/test_cli.py
"""

import contextlib
import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hfxfer import cli, console
from hfxfer.errors import DivergedError, WorkError
from hfxfer.flags import Command, Flag, parse
from hfxfer.run import Run

GOLDEN = Path(__file__).parent / "golden"
HELP = {"help": ["--help"], **{f"help_{name}": [name, "--help"] for name in cli.COMMANDS}}
CHECKOUT = Path(__file__).parent.parent


def call(*argv):
    """main(argv) → code, out, err."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(word) for word in argv])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def refused(*argv):
    """The message of a call that is refused: exit code 2, one error on stderr, nothing on stdout, no traceback."""
    found = call(*argv)
    assert (found.code, found.out) == (2, ""), found
    *before, message = found.err.split("error: ", 1)
    assert "Traceback" not in found.err and message.endswith("\n")
    return message[:-1]


def hashes(folder):
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with tiny checkpoints and data."""
    from tiny_models import bert_checkpoint, digits_folder, text_rows, timm_checkpoint, write_jsonl

    folder = tmp_path_factory.mktemp("command line")
    timm_checkpoint(folder / "timm")
    bert_checkpoint(folder / "bert")
    digits_folder(folder / "digits")
    write_jsonl(folder / "texts.jsonl", text_rows(40))
    return folder


@pytest.fixture(autouse=True)
def there(here, monkeypatch):
    monkeypatch.chdir(here)
    monkeypatch.delenv("HFXFER_DEBUG", raising=False)


@pytest.fixture(scope="module")
def trained(here):
    """The one training of these tests: its output, and its Run in `runs/a b`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        found = call("train", "--model", "timm", "--data", "digits", "--output_dir", "runs/a b", "--num_train_epochs", "1", "--weight_decay=0.05",
                     "--lr_scheduler_kwargs", "num_cycles=0.5", "--format", "json")
    assert found.code == 0, found.err
    return SimpleNamespace(**vars(found), run=Run(here / "runs" / "a b"))


# --- help and imports -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", HELP)
def test_help_is_the_golden_text(name):
    found = call(*HELP[name])
    assert (found.code, found.err) == (0, "")
    path = GOLDEN / f"{name}.txt"
    assert found.out == path.read_text(encoding="utf-8"), f"{path} is stale. Where the new text is right: python tests/test_cli.py"


def test_there_is_no_golden_text_of_a_command_that_is_gone():
    assert {path.stem for path in GOLDEN.glob("help*.txt")} == set(HELP)


@pytest.mark.parametrize(("argv", "same"), [([], ["--help"]), (["-h"], ["--help"]), (["help"], ["--help"]), (["help", "train"], ["train", "--help"]),
                                            (["train", "--seed", "1", "-h"], ["train", "--help"])])
def test_help_is_had_in_every_usual_way(argv, same):
    assert call(*argv).out == call(*same).out


HEAVY = ("torch", "transformers", "datasets", "numpy", "timm", "torchvision", "sklearn", "pyarrow", "PIL", "gradio", "accelerate", "huggingface_hub")


def modules_after(code):
    listed = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print('modules', *sys.modules)"], cwd=CHECKOUT, capture_output=True,
                            text=True, check=True).stdout
    return set(listed.rpartition("modules ")[2].split())


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(argv):
    assert not modules_after(f"from hfxfer.cli import main; main({argv})") & set(HEAVY)


def test_importing_hfxfer_imports_nothing_but_itself():
    found = modules_after("import hfxfer")
    assert not found & {*HEAVY, "yaml", "hfxfer.cli", "hfxfer.recipe"}


def test_version_is_one_line():
    from hfxfer import __version__

    assert call("--version").out == call("version").out == f"hfxfer {__version__}\n"


def test_python_m_hfxfer_is_the_same_command():
    found = subprocess.run([sys.executable, "-m", "hfxfer", "bogus"], cwd=CHECKOUT, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (2, "") and found.stderr == f"error: {refused('bogus')}\n"


# --- flags ------------------------------------------------------------------------------------------------------------

COMMAND = Command("", "", lambda positional, flags: None, {
    "name": Flag("value", ""), "pairs": Flag("values", ""), "on": Flag("switch", ""), "kind": Flag("value", "", ("a", "b"))})


@pytest.mark.parametrize(("words", "positional", "flags"), [
    ("x --name v y", ["x", "y"], {"name": "v"}),
    ("--name=v x", ["x"], {"name": "v"}),
    ("--name=a=b", [], {"name": "a=b"}),
    ("--name -1.5e-3 x", ["x"], {"name": "-1.5e-3"}),
    ("--name - x", ["x"], {"name": "-"}),
    ("--on x", ["x"], {"on": True}),
    ("--on false x", ["x"], {"on": False}),
    ("--on=TRUE", [], {"on": True}),
    ("--pairs a=1 b=2 x", ["x"], {"pairs": ["a=1", "b=2"]}),
    ("--pairs a=1 --on", [], {"pairs": ["a=1"], "on": True}),
    ("--on -- -x --name", ["-x", "--name"], {"on": True}),
])
def test_flags_are_read(words, positional, flags):
    assert parse(words.split(), COMMAND) == (positional, flags, [])


@pytest.mark.parametrize(("words", "fault"), [
    ("--name", "--name needs a value"),
    ("--name=", "--name needs a value"),
    ("--name --on", "--name needs a value"),
    ("--pairs", "--pairs needs a value"),
    ("--on=yes", "--on is 'yes'; allowed: true, false"),
    ("--kind c", "--kind is 'c'; allowed: a, b"),
    ("--on --on --on", "--on is given twice"),
    ("--nam v", "unknown flag --nam; did you mean --name?"),
    ("--zzz v", "unknown flag --zzz; allowed: --name, --pairs, --on, --kind"),
    ("-n", "unknown flag -n; flags are spelt out, with two dashes, and inputs that begin with a dash stand after --"),
])
def test_faults_of_flags_are_told(words, fault):
    assert parse(words.split(), COMMAND)[2] == [fault]


def test_settings_are_read_with_their_number_of_values():
    command = cli.COMMANDS["train"]
    words = "r.yaml --bf16 --trust_remote_code --tf32 false --report_to a b --max_steps -1 --columns label=x --lr_scheduler_kwargs a=1 b=2"
    assert parse(words.split(), command) == (["r.yaml"], {
        "bf16": True, "trust_remote_code": True, "tf32": "false", "report_to": ["a", "b"], "max_steps": "-1", "columns": ["label=x"],
        "lr_scheduler_kwargs": ["a=1", "b=2"]}, [])


def test_a_single_dash_file_that_exists_is_an_input(here):
    (here / "-x.png").write_bytes(b"")
    assert parse(["-x.png"], COMMAND) == (["-x.png"], {}, [])
    (here / "-x.png").unlink()


def test_all_faults_of_flags_and_settings_come_at_once():
    assert refused("train", "--model", "m", "--learning_rat", "1", "--seed", "1", "--seed", "-1", "--method", "-x", "--hub_token", "secret") == (
        "6 settings are wrong:\n"
        "  - --seed is given twice\n"
        "  - --method needs a value\n"
        "  - unknown flag -x; flags are spelt out, with two dashes, and inputs that begin with a dash stand after --\n"
        "  - hub_token is not accepted: a token is never a setting (it would be stored): set HF_TOKEN or run: hf auth login\n"
        "  - unknown setting learning_rat; did you mean --learning_rate?\n"
        "  - data is missing: Folder, CSV/TSV/JSON/JSONL/Parquet file, saved data set, Hub data set id, or example. Say --data …")


ALL = "check, train, ladder, evaluate, predict, compare, card, push, space, demo, tasks, doctor, quickstart"


@pytest.mark.parametrize(("argv", "words"), [
    (["trian"], f"unknown command 'trian'; allowed: {ALL}. Did you mean train?"),
    (["help", "zzz"], f"unknown command 'zzz'; allowed: {ALL}."),
    (["--seed", "1"], f"--seed stands before the command: hfxfer COMMAND … with one of {ALL}"),
    (["tasks", "x"], "tasks takes flags only, got x"),
    (["doctor", "x"], "doctor takes flags only, got x"),
    (["quickstart", "x"], "quickstart takes flags only, got x"),
    (["tasks", "--format", "xml"], "--format is 'xml'; allowed: human, json"),
    (["train", "a.yaml", "b.yaml"], "train takes one recipe, got a.yaml b.yaml"),
    (["train", "no.yaml"], "the recipe no.yaml does not exist. Give a recipe.yaml, or start without one: --model M --data D"),
    (["evaluate"], "evaluate takes a Run, a model folder or a Hub id, got nothing"),
    (["evaluate", "x"], "evaluate needs the data to score on: --data D"),
    (["predict", "x"], "predict needs a model and at least one input: hfxfer predict MODEL INPUT…"),
    (["predict", "x", "y", "--output", "out.txt"], "--output is 'out.txt'; allowed endings: .csv, .jsonl, .parquet"),
    (["predict", "x", "y", "--output", "digits/.csv"], "--output is 'digits/.csv'; allowed endings: .csv, .jsonl, .parquet"),
    (["predict", "x", "y", "--output", "no/out.csv"], "the folder of --output no/out.csv does not exist. Make it first"),
    (["predict", "x", "y", "--batch_size", "0"], "--batch_size is '0'; allowed: a whole number ≥ 1"),
    (["predict", "x", "y", "--columns", "text"], "--columns takes ROLE=COLUMN pairs, such as text=review label=stars"),
    (["evaluate", "x", "--data", "y", "--output", "digits", "--overwrite"], "--output digits is a folder. Name a file in it"),
])
def test_a_call_that_makes_no_sense_is_refused(argv, words):
    assert refused(*argv) == words


def test_resume_and_overwrite_exclude_each_other():
    assert refused("train", "--model", "timm", "--data", "digits", "--resume", "--overwrite") == (
        "--resume and --overwrite exclude each other: continue the run, or replace it")


# --- exit codes -------------------------------------------------------------------------------------------------------

def failing(monkeypatch, error):
    def run_training(recipe, **actions):
        raise error

    monkeypatch.setattr("hfxfer.training.fine_tune", run_training)
    return call("train", "--model", "m", "--data", "d", "--output_dir", "runs/failing")


def test_an_interrupt_ends_with_130(monkeypatch):
    found = failing(monkeypatch, KeyboardInterrupt())
    assert (found.code, found.out, found.err) == (130, "", "interrupted\n")


def test_a_failure_in_work_ends_with_1_and_the_command_that_continues(monkeypatch, here):
    from hfxfer.recipe import Recipe

    assert failing(monkeypatch, WorkError("disk full")).err == "error: disk full\n"
    run = Run("runs/failing")
    run.create()
    run.write_recipe(Recipe(model="m", data="d", learning_rate=0.001))
    found = failing(monkeypatch, WorkError("disk full"))
    assert (found.code, found.out) == (1, "")
    assert found.err == "error: disk full\ncontinue with: hfxfer train runs/failing/recipe.yaml --resume\n"
    found = failing(monkeypatch, DivergedError("the loss became nan", change={"learning_rate": 0.0001}))
    assert found.err == ("error: the loss became nan\n"
                         "start again with: hfxfer train runs/failing/recipe.yaml --learning_rate 0.0001 --overwrite\n")
    found = failing(monkeypatch, RuntimeError("odd"))
    assert found.code == 1 and found.err == (
        "error: RuntimeError: odd\nThis is a fault in hfxfer or in a library below it. HFXFER_DEBUG=1 shows where it happened\n"
        "continue with: hfxfer train runs/failing/recipe.yaml --resume\n")
    found = failing(monkeypatch, OSError(28, "No space left on device"))
    assert found.code == 1 and found.err.startswith("error: [Errno 28] No space left on device\ncontinue with: ")
    shutil.rmtree(run.folder)


def test_a_reader_that_goes_away_is_no_failure():
    found = subprocess.run(f"{sys.executable} -m hfxfer train --help | head -n 1", shell=True, cwd=CHECKOUT, capture_output=True, text=True)
    assert found.stdout.startswith("usage: hfxfer train") and found.stderr == ""


def test_debug_adds_the_traceback_and_keeps_the_exit_code(monkeypatch):
    monkeypatch.setenv("HFXFER_DEBUG", "1")
    found = call("train", "no.yaml")
    assert (found.code, found.out) == (2, "") and found.err.startswith("Traceback (most recent call last):\n")
    assert found.err.endswith("error: the recipe no.yaml does not exist. Give a recipe.yaml, or start without one: --model M --data D\n")


def test_with_json_an_error_is_one_object_too(monkeypatch):
    for argv in (["predict", "x", "--format", "json"], ["predict", "x", "--format", "json", "--bogus"]):
        found = call(*argv)
        assert found.code == 2
        told = json.loads(found.out)
        assert list(told) == ["error", "exit_code"] and told["exit_code"] == 2 and found.err == f"error: {told['error']}\n"
    assert call("predict", "x").out == ""


# --- bad input: refused before any training ---------------------------------------------------------------------------

def train_refused(here, **settings):
    """The message of a refused training. Nothing new lies in runs/."""
    before = hashes(here)
    settings = {"model": "timm", "data": "digits", "output_dir": "runs/new", **settings}
    message = refused("train", *(word for name, value in settings.items() for word in (f"--{name}", value)))
    assert hashes(here) == before
    return message.replace(str(here), "HERE")


@pytest.fixture
def bad(here):
    """A folder for bad things."""
    folder = here / "bad"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_a_path_that_does_not_exist(here):
    assert "nowhere/at/all" in train_refused(here, data="./nowhere/at/all")


def test_an_empty_folder(here, bad):
    assert train_refused(here, data="bad") == (
        "HERE/bad is empty. Put class folders with pictures into it, or train.csv and test.csv (also .tsv .json .jsonl .ndjson .parquet)")


def test_one_class_only(here, bad):
    shutil.copytree(here / "digits", bad, dirs_exist_ok=True, ignore=shutil.ignore_patterns("digit 1", "digit 2"))
    assert train_refused(here, data="bad") == "column 'label' has one class only: 'digit 0'. A classifier needs two or more"


def test_an_unknown_column(here):
    assert train_refused(here, model="bert", data="texts.jsonl", columns="label=stars") == (
        "column 'stars' (--columns label=stars) not found in texts.jsonl. Columns: text, label")


@pytest.mark.parametrize(("content", "words"), [
    (b"", "x.csv is empty (0 bytes)"),
    (b"text,label\n", "x.csv has a header but no rows"),
    (b"text,label\nn\xe4he,a\n", "x.csv is not UTF-8 text: byte 0xe4 in line 2."),
])
def test_an_unreadable_or_empty_csv(here, bad, content, words):
    (bad / "x.csv").write_bytes(content)
    assert train_refused(here, model="bert", data="bad/x.csv").startswith(words)


def test_a_corrupt_image(here, bad):
    shutil.copytree(here / "digits", bad, dirs_exist_ok=True)
    path = bad / "train" / "digit 1" / "003.png"
    path.write_bytes(path.read_bytes()[:60])
    before = hashes(bad)
    message = refused("train", "--model", "timm", "--data", "bad", "--output_dir", "bad/run")
    assert message.startswith("1 bad row of 105 in bad:\n  train/digit 1/003.png: ") and "--on_bad_rows skip" in message
    assert hashes(bad).items() >= before.items() and not (bad / "run").exists()


def test_label_types_mixed(here, bad):
    rows = [json.dumps({"text": f"a {index}", "label": "x" if index % 2 else 3}) for index in range(20)]
    (bad / "x.jsonl").write_text("\n".join(rows))
    assert train_refused(here, model="bert", data="bad/x.jsonl").startswith(
        "column 'label' mixes types of labels: int 3 (x.jsonl:1), str 'x' (x.jsonl:2).")


def test_an_output_folder_that_holds_another_run(trained, here):
    assert train_refused(here, output_dir="runs/a b") == (
        "runs/a b holds another run. Choose another --output_dir, continue it with --resume, or replace it with --overwrite")


def test_overwriting_spares_the_old_run_until_the_new_one_begins(trained, here):
    before = hashes(here)
    for settings in (["--data", "bad/nowhere"], ["--data", "digits", "--seed", "-1"], ["--data", "texts.jsonl"]):
        refused("train", "--model", "timm", "--output_dir", "runs/a b", "--overwrite", *settings)
    assert hashes(here) == before


def test_an_output_folder_with_other_files(here, bad):
    (bad / "notes.txt").write_text("mine")
    assert train_refused(here, output_dir="bad") == "bad is not empty and holds no run. Choose another --output_dir"


def test_a_model_that_does_not_exist(here):
    assert train_refused(here, model="./no") == "model folder ./no does not exist. Give an existing folder or a Hub id such as timm/resnet50.a1_in1k"
    assert train_refused(here, model="nobody/nothing").startswith("cannot load nobody/nothing: it is no local folder, and not in the cache (")


def test_a_model_that_does_not_fit_the_task(here):
    assert train_refused(here, model="bert") == (
        "HERE/bert does not fit the task image-classification: transformers has no such head for it. Choose another checkpoint, or another --task")
    assert train_refused(here, data="texts.jsonl") == "HERE/timm is an image model; task text-classification needs a checkpoint for it"


@pytest.mark.parametrize(("config", "words"), [
    ("{", "the config.json of HERE/bad is broken (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)). Fetch the checkpoint again"),
    ("[]", "the config.json of HERE/bad is broken (expected an object). Fetch the checkpoint again"),
    ('{"model_type": "nosuch"}', "cannot load HERE/bad for image-classification: "),
    (None, "HERE/bad has no config.json. A model folder holds config.json and model.safetensors"),
])
def test_a_model_with_a_broken_config(here, bad, config, words):
    if config:
        (bad / "config.json").write_text(config)
    else:
        (bad / "x.txt").write_text("")
    assert train_refused(here, model="bad").startswith(words)


def test_a_setting_out_of_range(here):
    assert train_refused(here, seed=-1, learning_rate=0) == (
        "2 settings are wrong:\n  - seed is '-1'; allowed: whole number ≥ 0 and ≤ 4294967295\n"
        "  - learning_rate is '0'; allowed: number > 0 and ≤ 100, or auto")


# --- the commands, on one tiny run ------------------------------------------------------------------------------------

def test_train_emits_one_object_and_names_the_next_command(trained):
    told = json.loads(trained.out)
    assert list(told) == ["run", "model", "scores"] and told["run"] == "runs/a b" and told["model"] == "runs/a b/model"
    assert told["scores"] == trained.run.scores()
    assert trained.err.endswith("next: hfxfer predict 'runs/a b' INPUT\n")
    recipe = trained.run.recipe()
    assert recipe.training_arguments == {"weight_decay": 0.05, "lr_scheduler_kwargs": {"num_cycles": 0.5}}
    assert "auto" not in (recipe.learning_rate, recipe.num_train_epochs, recipe.per_device_train_batch_size)


def test_the_saved_recipe_is_a_recipe_and_flags_win_over_it(trained, here):
    recipe = "runs/a b/recipe.yaml"
    assert refused("train", recipe).startswith(f"{Path('runs/a b').absolute()} holds another run.")
    assert refused("train", recipe, "--output_dir", "bad", "--data", "no/where/at/all").find("no/where/at/all") >= 0
    assert refused("train", recipe, "--learning_rat", "1", "--seed=-1") == (
        "2 settings are wrong:\n  - seed is '-1'; allowed: whole number ≥ 0 and ≤ 4294967295\n"
        "  - unknown setting learning_rat; did you mean --learning_rate?")


def test_evaluate_gives_the_scores_again_and_never_changes_the_run(trained, here):
    before = hashes(trained.run.folder)
    human = call("evaluate", "runs/a b", "--data", "digits", "--output", "scores.json")
    told = call("evaluate", "runs/a b", "--data", "digits", "--split", "test", "--format", "json")
    assert (human.code, told.code) == (0, 0), human.err + told.err
    assert json.loads(told.out) == json.loads(Path("scores.json").read_text(encoding="utf-8"))
    values = {(score["metric"], score["label"]): score["value"] for score in json.loads(told.out)["scores"]}
    assert values == pytest.approx({(score["metric"], score["label"]): score["value"] for score in trained.run.scores()["scores"]}, abs=1e-6)
    accuracy = trained.run.score("accuracy")
    assert human.out.startswith(f"accuracy             {accuracy.value:.4f} [{accuracy.low:.4f}, {accuracy.high:.4f}]   test, 30 rows\n")
    assert human.err.endswith("scores with their context: scores.json\nnext: hfxfer predict 'runs/a b' INPUT\n")
    assert hashes(trained.run.folder) == before
    Path("scores.json").unlink()


def test_evaluate_writes_over_nothing(trained, here):
    (here / "taken.json").write_text("mine")
    assert refused("evaluate", "runs/a b", "--data", "digits", "--output", "taken.json") == (
        "taken.json exists. Choose another --output, or replace it with --overwrite")
    assert refused("evaluate", "runs/a b", "--data", "digits", "--output", "runs/a b/model/scores.json", "--overwrite") == (
        "--output runs/a b/model/scores.json is a file of the Run itself, which evaluate never changes. Choose another --output")
    assert (here / "taken.json").read_text() == "mine"
    (here / "taken.json").unlink()


def test_predict_gives_one_row_an_input_in_every_form(trained, here):
    inputs = ["digits/test/digit 0", "digits/test/digit 1/025.png"]
    shown = call("predict", "runs/a b", *inputs)
    assert shown.code == 0, shown.err
    assert shown.err.endswith("next: hfxfer evaluate 'runs/a b' --data D --split test says how far to trust them\n")
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    assert list(rows[0]) == ["input", "label", "score", "score_digit 0", "score_digit 1", "score_digit 2"]
    assert [row["input"] for row in rows] == [f"digits/test/digit 0/{number:03d}.png" for number in range(25, 35)] + [inputs[1]]
    records = json.loads(call("predict", "runs/a b", *inputs, "--format", "json").out)["predictions"]
    for row, record in zip(rows, records, strict=True):
        chances = [record[f"score_digit {digit}"] for digit in range(3)]
        assert sum(chances) == pytest.approx(1, abs=1e-6) and record["score"] == max(chances)
        assert record["label"] == f"digit {chances.index(max(chances))}"
        assert {name: str(value) for name, value in record.items()} == row


def test_predict_writes_the_same_rows_to_every_kind_of_file(trained, here):
    import pyarrow.parquet

    records = json.loads(call("predict", "runs/a b", "digits/test", "--format", "json").out)["predictions"]
    for ending in (".csv", ".jsonl", ".parquet"):
        found = call("predict", "runs/a b", "digits/test", "--output", f"out{ending}")
        assert (found.code, found.out) == (0, f"30 predictions in out{ending}\n"), found.err
    assert [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()] == records
    assert pyarrow.parquet.read_table("out.parquet").to_pylist() == records
    with open("out.csv", encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [{name: str(value) for name, value in record.items()} for record in records]
    for ending in (".csv", ".jsonl", ".parquet"):
        Path(f"out{ending}").unlink()


def test_predict_refuses_a_taken_output_before_the_model_is_loaded(here):
    (here / "taken.csv").write_text("mine")
    assert refused("predict", "no/such/model", "digits", "--output", "taken.csv") == (
        "taken.csv exists. Choose another --output, or replace it with --overwrite")
    assert refused("predict", "./no", "digits", "--output", "taken.csv", "--overwrite").startswith("model folder ./no does not exist")
    assert (here / "taken.csv").read_text() == "mine"
    (here / "taken.csv").unlink()


def test_predict_refuses_what_it_cannot_open(trained):
    assert refused("predict", "runs/a b", "no.png") == "1 input of 1 cannot be used:\n  no.png: file not found\nMend them, or leave them out"


def test_an_unfinished_run_says_how_to_continue(trained, here):
    copy = here / "runs" / "half"
    shutil.copytree(trained.run.folder, copy)
    (copy / "model" / "scores.json").unlink()
    for argv in (["predict", "runs/half", "digits"], ["evaluate", "runs/half", "--data", "digits"]):
        assert refused(*argv) == "the run in runs/half is not finished. Continue it: hfxfer train runs/half/recipe.yaml --resume"
    shutil.rmtree(copy)


def test_tasks_lists_them_with_their_columns():
    shown, told = call("tasks"), json.loads(call("tasks", "--format", "json").out)
    assert [line.split()[0] for line in shown.out.splitlines()][:3] == ["image-classification", "text-classification", "token-classification"]
    assert "(columns: image, label)" in shown.out.splitlines()[0]
    assert told["tasks"][0]["columns"] == {"image": "required", "label": "target"}
    assert shown.err == "next: hfxfer train --model M --data D --output_dir runs/x\n"


def test_doctor_emits_one_object():
    found = call("doctor", "--format", "json")
    assert isinstance(json.loads(found.out), dict) and found.out.count("\n") == 1


def test_the_format_of_one_call_does_not_last():
    call("tasks", "--format", "json")
    assert call("--version").out.startswith("hfxfer ")
    console.set_format("json")
    assert call("--version").out.startswith("hfxfer ")


# --- predictions as files ---------------------------------------------------------------------------------------------

def test_lists_are_json_in_csv_and_parquet_and_strange_texts_survive(tmp_path):
    import pyarrow.parquet

    from hfxfer import tables_out

    records = [{"input": 'a "b",\nc\u2028d\r', "labels": ["x", "ö"], "value": 0.1}, {"input": "", "labels": [], "value": None}]
    text = 'input,labels,value\n"a ""b"",\nc\u2028d\r","[""x"", ""ö""]",0.1\n,[],\n'
    assert "\n".join(tables_out.lines(records)) + "\n" == text
    for ending in tables_out.ENDINGS:
        tables_out.write(records, str(tmp_path / f"out{ending.upper()}"))
    assert (tmp_path / "out.CSV").read_bytes().decode() == text
    assert (tmp_path / "out.JSONL").read_text(encoding="utf-8") == "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    assert pyarrow.parquet.read_table(tmp_path / "out.PARQUET").to_pylist() == [
        {**record, "labels": json.dumps(record["labels"], ensure_ascii=False)} for record in records]
    assert tables_out.lines([]) == ["input"]


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    from hfxfer import tables_out

    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        tables_out.write([{"input": "\ud800"}], str(path))
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for golden, argv in HELP.items():
        (GOLDEN / f"{golden}.txt").write_text(call(*argv).out, encoding="utf-8")
