"""The quickstart, run for real with fewer epochs. `hfxfer quickstart` itself takes about a minute."""

import contextlib
import io
import json
from collections import Counter
from types import SimpleNamespace

import pytest

from hfxfer import cli, quickstart
from hfxfer.errors import RunError
from hfxfer.run import Run

LABELS = ["5", "6", "7", "8", "9"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One quickstart beside a folder that is taken: 1 epoch of pre-training, 2 of the rest."""
    taken = tmp_path_factory.mktemp("quick start") / "quickstart"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(quickstart, "PRETRAINING_EPOCHS", 1)
        patch.setattr(quickstart, "TRANSFER_EPOCHS", 2)
        found = quickstart.quickstart(taken)
    return SimpleNamespace(found=found, folder=taken.with_name("quickstart-2"), taken=taken, out=out.getvalue(), err=err.getvalue())


def test_a_taken_folder_is_left_alone_and_the_next_free_name_is_used(done):
    assert done.found["folder"] == str(done.folder)
    assert [path.name for path in done.taken.iterdir()] == ["mine.txt"]
    assert done.err.startswith(f"writing to {done.folder}\n")


def test_all_digits_are_there_once_and_all_held_out_ones_are_the_test_split(done):
    from sklearn.datasets import load_digits

    all_of = Counter(str(digit) for digit in load_digits().target)
    written = Counter(path.parent.name for path in (done.folder / "data").rglob("*.png"))
    assert written == all_of
    splits = {split: Counter(path.parent.name for path in (done.folder / "data" / "5-9" / split).rglob("*.png"))
              for split in ("train", "validation", "test")}
    assert set((splits["train"] + splits["validation"]).values()) == {20}
    assert splits["test"] == {digit: all_of[digit] - 20 for digit in LABELS}
    assert all(entry["num_rows"] == splits["test"].total() == 796 for entry in done.found["networks"])


def test_both_networks_have_the_same_recipe_but_for_the_weights_they_begin_with(done):
    recipes = [Run(entry["run"]).recipe().to_dict() for entry in done.found["networks"]]
    differing = {name for name in recipes[0] if recipes[0][name] != recipes[1][name]}
    assert differing == {"model", "output_dir"}
    assert [recipe["model"] for recipe in recipes] == [str(done.folder / "pretrained" / "model"), str(done.folder / "untrained")]
    configs = [json.loads((Run(entry["run"]).model_dir / "config.json").read_text()) for entry in done.found["networks"]]
    for config in configs:
        config.pop("hfxfer_temperature")  # Learned, as the weights are.
    assert configs[0] == configs[1]


def test_the_transferred_network_begins_with_the_pretrained_body_and_a_new_head(done):
    assert Run(done.folder / "pretrained").scores()["labels"] == ["0", "1", "2", "3", "4"]
    assert Run(done.folder / "transferred").scores()["labels"] == LABELS
    assert done.err.count("new weights: timm_model.fc.bias, timm_model.fc.weight") == 3


def test_the_figures_are_those_of_the_runs(done):
    for entry in done.found["networks"]:
        table = Run(entry["run"]).predictions().to_pylist()
        right = sum(row["reference"] == row["prediction"] for row in table)
        assert entry["accuracy"] == right / len(table)
        assert entry["low"] < entry["accuracy"] < entry["high"]
        assert f"{entry['network']:<14} {entry['accuracy']:<9.4f} [{entry['low']:.4f}, {entry['high']:.4f}]   796" in done.out.splitlines()
    first, second = (entry["accuracy"] for entry in done.found["networks"])
    assert done.found["difference"]["value"] == pytest.approx(first - second)
    assert done.out.splitlines()[-1] == done.found["difference"]["verdict"]


def test_what_was_measured_is_kept(done):
    assert json.loads((done.folder / "quickstart.json").read_text()) == done.found


def test_the_next_commands_are_named_last_and_work(done, capsys):
    assert done.err.splitlines()[-3:] == [f"next: {command}" for command in done.found["next"]]
    predict, evaluate, train = (words(command) for command in done.found["next"])
    assert cli.main(predict) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "input,label,score,score_5,score_6,score_7,score_8,score_9"
    assert len(lines) == 1 + len(list((done.folder / "data" / "5-9" / "test" / "7").iterdir()))
    assert cli.main([*evaluate, "--format", "json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert next(score["value"] for score in scores if score["metric"] == "accuracy") == done.found["networks"][0]["accuracy"]
    assert train[:3] == ["train", "--model", "timm/resnet50.a1_in1k"]


def words(command):
    import shlex

    name, *rest = shlex.split(command)
    assert name == "hfxfer"
    return rest


def test_the_number_of_threads_is_put_back():
    import torch

    before = torch.get_num_threads()
    with pytest.raises(KeyError), quickstart._one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_an_empty_folder_is_free(tmp_path):
    assert quickstart.free_folder(tmp_path) == tmp_path


def test_a_file_is_taken_and_numbers_go_on(tmp_path):
    (tmp_path / "quickstart").write_text("")
    (tmp_path / "quickstart-2" / "x").mkdir(parents=True)
    assert quickstart.free_folder(tmp_path / "quickstart") == tmp_path / "quickstart-3"


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError) as caught:
        quickstart.free_folder(tmp_path / "file" / "quickstart")
    assert str(caught.value) == f"cannot write to {tmp_path / 'file' / 'quickstart'}: Not a directory. Choose another --output_dir"


@pytest.mark.parametrize("low, high, wanted", [
    (0.01, 0.05, "established: the transferred network is better (+0.0300 [+0.0100, +0.0500] on the same 796 images)"),
    (-0.05, -0.01, "established: the network from scratch is better (+0.0300 [-0.0500, -0.0100] on the same 796 images)"),
    (-0.01, 0.05, "not established: either network may be the better one (+0.0300 [-0.0100, +0.0500] on the same 796 images)"),
])
def test_the_verdict_follows_the_interval(low, high, wanted):
    assert quickstart.verdict({"value": 0.03, "low": low, "high": high, "num_rows": 796}) == wanted
