"""The Run folder: what it refuses, and what it gives back."""

import dataclasses
import json
import os

import pytest

from hfxfer.errors import RunError
from hfxfer.recipe import Recipe
from hfxfer.run import OWN_FILES, Run, Score, is_complete, mark_complete, scores_object, write_text

RECIPE = Recipe(model="/models/m", data="/data/d", learning_rate=0.1)


def score(metric, value, label=None):
    return Score(metric=metric, value=value, low=0.0, high=1.0, split="test", num_rows=4, seed=42, label=label)


SCORES = scores_object([score("accuracy", 0.75), score("f1_macro", None), score("recall", 0.5, "cat"), score("recall", 1.0, "dog")],
                       task="image-classification", problem_type="single_label_classification", labels=("cat", "dog"), split="test",
                       confusion=[[1, 1], [0, 2]])


@pytest.fixture
def run(tmp_path):
    """A finished run, in a folder with a space in its name."""
    run = Run(tmp_path / "my runs" / "x")
    run.create()
    run.write_recipe(RECIPE)
    write_text(run.model_dir / "scores.json", json.dumps(SCORES))
    return run


def refusal(call, *args, **settings):
    with pytest.raises(RunError) as caught:
        call(*args, **settings)
    return str(caught.value)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- claim ------------------------------------------------------------------------------------------------------------

def test_a_free_folder_is_claimed_without_being_made(tmp_path):
    for folder in (tmp_path / "a" / "b", tmp_path / "c"):
        Run(folder).claim(overwrite=False, resume=False)
        Run(folder).claim(overwrite=True, resume=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_empty_folders_is_free(tmp_path):
    (tmp_path / "x" / "checkpoints").mkdir(parents=True)
    Run(tmp_path / "x").claim(overwrite=False, resume=False)


def test_another_run_is_refused_and_left_alone(run):
    before = files(run.folder)
    assert refusal(Run(run.folder).claim, overwrite=False, resume=False) == (
        f"{run.folder} holds another run. Choose another --output_dir, continue it with --resume, or replace it with --overwrite")
    assert files(run.folder) == before


def test_a_folder_with_other_files_is_refused_even_with_overwrite(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        assert refusal(Run(tmp_path).claim, overwrite=overwrite, resume=False) == (
            f"{tmp_path} is not empty and holds no run. Choose another --output_dir")
    assert files(tmp_path) == {"notes.txt": b"mine"}


def test_overwriting_waits_until_the_new_run_is_created_and_spares_what_is_not_the_runs(run):
    (run.folder / "notes.txt").write_text("mine")
    (run.folder / "data").mkdir()
    (run.folder / "data" / "a.csv").write_text("mine, too")
    before = files(run.folder)
    new = Run(run.folder)
    new.claim(overwrite=True, resume=False)
    assert files(run.folder) == before
    new.create()
    assert files(run.folder) == {"notes.txt": b"mine", "data/a.csv": b"mine, too"}
    write_text(new.model_dir / "kept", "")
    new.create()
    assert (new.model_dir / "kept").exists()


def test_all_that_a_run_writes_is_removed_by_overwriting(run):
    run.write_json("data.json", {})
    run.write_json("base.json", {})
    run.write_json("environment.json", {})
    run.append_event({"type": "log"})
    run.predictions_path.write_bytes(b"")
    (run.folder / "examples").mkdir()
    (run.folder / "rungs").mkdir()
    (run.folder / "model.part").mkdir()
    run.write_json("ladder.json", {})
    run.write_json("pushed.json", {})
    assert sorted(path.name for path in run.folder.iterdir()) == sorted(OWN_FILES)
    run.claim(overwrite=True, resume=False)
    run.create()
    assert files(run.folder) == {}


def test_overwriting_does_not_follow_links(run, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    run.checkpoints_dir.rmdir()
    run.checkpoints_dir.symlink_to(outside)
    run.claim(overwrite=True, resume=False)
    run.create()
    assert (outside / "mine").read_text() == "mine" and not run.checkpoints_dir.is_symlink()


def test_resume_wants_a_run_and_excludes_overwrite(run, tmp_path):
    run.claim(overwrite=False, resume=True)
    assert refusal(Run(tmp_path / "no").claim, overwrite=False, resume=True) == (
        f"{tmp_path / 'no'} holds no run to resume (no recipe.yaml). Leave out --resume to start one")
    assert refusal(run.claim, overwrite=True, resume=True) == "--resume and --overwrite exclude each other: continue the run, or replace it"


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "f").write_text("")
    assert refusal(Run(tmp_path / "f").claim, overwrite=True, resume=False) == f"{tmp_path / 'f'} is a file. Give a folder: --output_dir runs/NAME"
    assert refusal(Run(tmp_path / "f" / "x").claim, overwrite=False, resume=False) == (
        f"{tmp_path / 'f' / 'x'} cannot be made: {tmp_path / 'f'} is a file. Choose another --output_dir")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    assert refusal(Run(tmp_path / "x").claim, overwrite=False, resume=False) == f"{tmp_path} cannot be written to. Choose another --output_dir"
    tmp_path.chmod(0o700)


# --- recipe and JSON --------------------------------------------------------------------------------------------------

def test_the_recipe_is_complete_at_the_root_and_without_paths_in_the_model(run):
    assert run.recipe() == dataclasses.replace(RECIPE, output_dir=os.path.abspath(RECIPE.output_dir))
    assert Recipe.from_yaml(run.model_dir / "recipe.yaml") == Recipe(model="m", data="d", learning_rate=0.1)


def test_the_continuing_command_can_be_pasted(run, tmp_path):
    assert run.continuing_command == f"hfxfer train '{run.folder}/recipe.yaml' --resume"
    assert Run("runs/x").continuing_command == "hfxfer train runs/x/recipe.yaml --resume"


def test_a_scripts_run_is_continued_by_its_script(run):
    assert not run.is_scripts
    run.write_json("environment.json", {"script": True})
    (run.model_dir / "scores.json").unlink(missing_ok=True)
    assert run.is_scripts and run.continuing_command == "run the script again"
    assert refusal(run.scores) == f"the run in {run.folder} is not finished. Continue it: run the script again"


def test_a_broken_record_of_pushes_is_no_reason_to_train_again(run):
    assert run.pushes() == []
    (run.folder / "pushed.json").write_text("{")
    text = refusal(run.pushes)
    assert text.startswith(f"cannot read {run.folder}/pushed.json: Expecting") and text.endswith(". Delete it; the next push writes it anew")


def test_a_folder_that_is_no_run_says_so(tmp_path):
    for call in (Run(tmp_path).recipe, Run(tmp_path).scores, Run(tmp_path).predictions, lambda: Run(tmp_path).read_json("data.json")):
        assert refusal(call) == f"{tmp_path} is no Run folder (no recipe.yaml). hfxfer train --output_dir writes one"
    assert not Run(tmp_path).exists() and Run(tmp_path).history() == []


def test_json_files_come_back_and_broken_ones_are_named(run):
    run.write_json("base.json", {"größe": None})
    assert run.read_json("base.json") == {"größe": None}
    with pytest.raises(ValueError):
        run.write_json("base.json", {"x": float("nan")})
    assert run.read_json("base.json") == {"größe": None}
    (run.folder / "base.json").write_text("{")
    assert refusal(run.read_json, "base.json").startswith(f"cannot read {run.folder}/base.json: Expecting property name")


def test_the_runs_own_files_are_known(run, tmp_path):
    assert run.owns(run.model_dir / "scores.json") and run.owns(run.folder / "recipe.yaml") and run.owns(run.model_dir / "new" / "file")
    assert not run.owns(run.folder / "notes.txt") and not run.owns(tmp_path / "scores.json") and not Run(tmp_path).owns(tmp_path / "model")


# --- scores -----------------------------------------------------------------------------------------------------------

def test_scores_come_back_as_they_were_written(run):
    assert run.is_finished() and run.scores() == SCORES
    assert list(SCORES) == ["version", "task", "problem_type", "labels", "scores", "confusion_matrix"]
    assert list(SCORES["scores"][0]) == ["metric", "value", "low", "high", "split", "num_rows", "seed", "label", "dataset", "revision", "interval_method"]
    assert SCORES["confusion_matrix"] == {"split": "test", "counts": [[1, 1], [0, 2]]}


def test_one_score_is_found_by_metric_and_label(run):
    assert run.score("accuracy") == score("accuracy", 0.75)
    assert run.score("recall", "dog").value == 1.0
    assert refusal(run.score, "rmse") == f"{run.folder} has no score 'rmse'; it has accuracy, f1_macro, recall"
    assert refusal(run.score, "recall") == f"{run.folder} has no recall of the whole set; it has it of 'cat', 'dog'"
    assert refusal(run.score, "recall", "cow") == f"{run.folder} has no recall of label 'cow'; it has it of 'cat', 'dog'"


def test_an_unfinished_run_says_how_to_continue(run):
    (run.model_dir / "scores.json").unlink()
    assert not run.is_finished()
    assert refusal(run.scores) == f"the run in {run.folder} is not finished. Continue it: hfxfer train '{run.folder}/recipe.yaml' --resume"


@pytest.mark.parametrize(("text", "words"), [
    ('{"version": 2}', "{path} has version 2; this hfxfer reads versions up to 1. Update it with: pip install -U hfxfer"),
    ("[]", "{path} holds no scores. The run is incomplete: train it again"),
    ("{", "cannot read {path}: Expecting property name enclosed in double quotes: line 1 column 2 (char 1). The run is incomplete: train it again"),
])
def test_scores_that_cannot_be_read_are_named(run, text, words):
    path = run.model_dir / "scores.json"
    path.write_text(text)
    assert refusal(run.scores) == words.replace("{path}", str(path))


# --- history and predictions ------------------------------------------------------------------------------------------

def test_events_come_back_in_order_but_for_a_line_cut_short_by_a_kill(run):
    events = [{"type": "stage", "name": "größe\u2028"}, {"type": "log", "step": 1, "loss": 0.5}, {"type": "end", "step": 2}]
    for event in events:
        run.append_event(event)
    assert run.history() == events
    with open(run.folder / "history.jsonl", "ab") as file:
        file.write('{"type": "log", "name": "ö'.encode()[:-1])
    assert run.history() == events


def test_a_broken_line_in_the_midst_of_the_history_is_named(run):
    (run.folder / "history.jsonl").write_text('{"type": "log"}\n{\n{"type": "end"}\n')
    assert refusal(run.history).startswith(f"line 2 of {run.folder}/history.jsonl is no event: ")


def test_a_resumed_run_forgets_what_will_be_done_again(run):
    first = [{"type": "stage", "name": "stage-1-head", "step": 0, "epoch": 0.0}, {"type": "log", "step": 9}, {"type": "eval", "step": 10}]
    second = [{"type": "stage", "name": "", "step": 10, "epoch": 2.0}, {"type": "log", "step": 12}]
    for event in [*first, *second, {"type": "log", "step": 14}, {"type": "end", "step": 14}]:
        run.append_event(event)
    with open(run.folder / "history.jsonl", "a") as file:
        file.write('{"type": "lo')
    run.forget_after(run.checkpoints_dir / "checkpoint-3")
    run.append_event({"type": "log", "step": 14})
    assert run.history() == [*first, *second, {"type": "log", "step": 14}]
    run.forget_after(run.checkpoints_dir / "stage-1-head" / "checkpoint-9")
    assert run.history() == first[:2]
    run.forget_after(None)
    assert run.history() == []


def test_checkpoints_of_the_last_stage_come_first(run):
    for name in ("stage-1-head/checkpoint-30", "stage-2-unfrozen/checkpoint-4", "checkpoint-2", "checkpoint-12"):
        (run.checkpoints_dir / name).mkdir(parents=True)
    assert [str(path.relative_to(run.checkpoints_dir)) for path, _ in run.checkpoints()] == [
        "checkpoint-12", "checkpoint-2", "stage-2-unfrozen/checkpoint-4", "stage-1-head/checkpoint-30"]


def test_predictions_are_a_table_or_their_lack_is_said(run):
    import pyarrow as pa
    import pyarrow.parquet

    assert refusal(run.predictions).startswith(f"cannot read {run.folder}/predictions.parquet: ")
    run.predictions_path.write_bytes(b"PAR1")
    assert refusal(run.predictions).endswith(f"The run is incomplete: {run.continuing_command}")
    pyarrow.parquet.write_table(pa.table({"row_id": ["a"]}), run.predictions_path)
    assert run.predictions().to_pylist() == [{"row_id": "a"}]


# --- checkpoints and writing ------------------------------------------------------------------------------------------

@pytest.fixture
def checkpoint(run):
    folder = run.checkpoints_dir / "checkpoint-20"
    write_text(folder / "model.safetensors", "0123456789")
    write_text(folder / "deep" / "rng.pth", "state")
    mark_complete(folder)
    return folder


def test_a_checkpoint_is_complete_when_all_files_have_their_sizes(checkpoint):
    assert is_complete(checkpoint)
    assert json.loads((checkpoint / "complete.json").read_text()) == {"deep/rng.pth": 5, "model.safetensors": 10}
    (checkpoint / "later").write_text("more")
    assert is_complete(checkpoint)


@pytest.mark.parametrize("break_it", [
    lambda folder: (folder / "model.safetensors").write_text("01234"),
    lambda folder: (folder / "deep" / "rng.pth").unlink(),
    lambda folder: (folder / "complete.json").unlink(),
    lambda folder: (folder / "complete.json").write_text('{"model.safe'),
    lambda folder: (folder / "complete.json").write_text("[1]"),
    lambda folder: (folder / "complete.json").write_text("null"),
])
def test_a_checkpoint_cut_short_is_not_complete(checkpoint, break_it):
    break_it(checkpoint)
    assert not is_complete(checkpoint)


def test_checkpoints_come_newest_first_by_number(run, checkpoint):
    for name in ("checkpoint-100", "checkpoint-9", "checkpoint-best", "tmp-checkpoint-200"):
        (run.checkpoints_dir / name).mkdir()
    assert [(path.name, complete) for path, complete in run.checkpoints()] == [
        ("checkpoint-100", False), ("checkpoint-20", True), ("checkpoint-9", False)]


def test_text_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new\ud800")
    assert path.read_text() == "old" and [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
