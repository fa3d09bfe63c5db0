"""The folder of a Space: what is in it, what it leaves alone, and that it runs with its own package and requirements and nothing else."""

import json
import shutil
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from tiny_models import timm_checkpoint

from hfxfer import spaces
from hfxfer.errors import ModelError, RunError

GOLDEN = Path(__file__).parent / "golden" / "runs"
CHECKOUT = Path(__file__).parent.parent

ALONE = """
# Runs app.py as `python app.py` does, in an installation that holds what requirements.txt installs and nothing else.
import runpy, sys
from importlib import metadata
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

folder, checkout = sys.argv[1:3]
wanted, installed = [line.partition("==")[0] for line in open(folder + "/requirements.txt")], set()
while wanted:
    name = canonicalize_name(wanted.pop())
    if name not in installed:
        installed.add(name)
        try:
            needed = [Requirement(text) for text in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue
        wanted += [each.name for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
missing = {module for module, owners in metadata.packages_distributions().items()
           if not installed & {canonicalize_name(owner) for owner in owners}}

missing.discard("hfxfer")

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in missing else super().find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Installed]
sys.path[:] = [folder, *(path for path in sys.path if path != checkout)]
runpy.run_path(folder + "/app.py", run_name="__main__")
"""


@pytest.fixture
def run(tmp_path):
    """A finished Run without weights: what a Space is made of needs none."""
    shutil.copytree(GOLDEN / "pets", tmp_path / "pets")
    return tmp_path / "pets"


def written(run, folder, **settings):
    spaces.write(spaces.describe(run, **{"hub_model_id": "me/pets", **settings}), folder)
    return folder


def listens(port):
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def front_matter(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_a_space_is_an_app_its_requirements_its_front_matter_and_the_package(run, tmp_path):
    folder = written(run, tmp_path / "space")
    assert {path.name for path in folder.iterdir()} == {"app.py", "requirements.txt", "README.md", "hfxfer"}
    assert (folder / "app.py").read_bytes() == (CHECKOUT / "spaces" / "demo" / "app.py").read_bytes()
    copied = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert copied >= {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "hfxfer").rglob("*.py")}
    assert not [name for name in copied if "__pycache__" in name or "_shipped" in name]


def test_the_front_matter_names_model_versions_and_task(run, tmp_path):
    assert front_matter(written(run, tmp_path / "space")) == {
        "title": "pets", "emoji": "🔎", "colorFrom": "blue", "colorTo": "gray", "sdk": "gradio", "sdk_version": metadata.version("gradio"),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}", "app_file": "app.py", "models": ["me/pets"],
        "license": "apache-2.0", "tags": ["hfxfer", "image-classification"], "short_description": "Image classification with pets"}


def test_data_sets_of_the_hub_are_named_and_paths_are_not(run, tmp_path):
    recipe = (run / "recipe.yaml").read_text()
    data = next(line for line in recipe.splitlines() if line.startswith("data: "))
    assert "/" in data and spaces.describe(run, hub_model_id="me/pets").datasets == ()
    (run / "recipe.yaml").write_text(recipe.replace(data, "data: she/animals"))
    assert front_matter(written(run, tmp_path / "space"))["datasets"] == ["she/animals"]


def test_a_long_name_fits_into_the_short_description(run, tmp_path):
    found = front_matter(written(run, tmp_path / "space", hub_model_id="me/" + "p" * 90))["short_description"]
    assert found == "Image classification with " + "p" * 33 + "…" and len(found) == 60


def test_versions_are_those_installed_without_their_local_part(run, tmp_path, monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: installed(name) + "+cpu" if name == "torch" else installed(name))
    lines = (written(run, tmp_path / "space") / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in lines if "captum" not in line] == list(spaces.REQUIRED)
    assert f"torch=={installed('torch').partition('+')[0]}" in lines and f"gradio=={installed('gradio')}" in lines


def test_what_the_app_can_do_without_is_named_where_it_is_installed(run, tmp_path, monkeypatch):
    site = tmp_path / "site" / "captum-0.9.0.dist-info"
    monkeypatch.syspath_prepend(site.parent)
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: captum\nVersion: 0.9.0\n")
    assert (written(run, tmp_path / "with") / "requirements.txt").read_text().endswith("\ncaptum==0.9.0\n")
    shutil.rmtree(site)
    monkeypatch.setattr(spaces, "OPTIONAL", ("not-installed-anywhere",))
    lines = (written(run, tmp_path / "without") / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in lines] == list(spaces.REQUIRED)


def test_the_model_is_the_one_that_was_pushed_last(run):
    with pytest.raises(RunError) as raised:
        spaces.describe(run)
    assert str(raised.value) == (
        f"{run} has not been pushed, and a Space loads its model from the Hub. Push both: hfxfer push {run} --hub_model_id NAME/REPO --space; "
        "or say where the model will be: --hub_model_id NAME/REPO")
    (run / "pushed.json").write_text(json.dumps([{"model_id": "me/cats", "revision": "v2"}, {"model_id": "me/pets", "revision": "main"}]))
    assert spaces.describe(run).variables == {"HFXFER_MODEL": "me/cats", "HFXFER_REVISION": "v2"}
    assert spaces.describe(run, hub_model_id="me/pets").variables == {"HFXFER_MODEL": "me/pets"}


def test_what_is_no_run_and_what_brings_its_own_code_is_refused(run):
    with pytest.raises(RunError) as raised:
        spaces.describe(run / "model", hub_model_id="me/pets")
    assert str(raised.value) == f"{run / 'model'} is no Run folder (no recipe.yaml). Give a Run, or the Hub id of a model"
    config = run / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "code.Model"}}))
    with pytest.raises(ModelError) as refused:
        spaces.describe(run, hub_model_id="me/pets")
    assert str(refused.value) == "me/pets brings its own code, which a Space of hfxfer does not run. Make its Space by hand"


def test_the_task_is_the_runs_own_and_one_of_another_package_is_refused(run):
    config, scores = run / "model" / "config.json", run / "model" / "scores.json"
    config.write_text(json.dumps({"architectures": ["OneNetwork"], "model_type": "one"}))
    assert spaces.describe(run, hub_model_id="me/pets").task == "image-classification"
    scores.write_text(scores.read_text().replace("image-classification", "bird-counting"))
    with pytest.raises(ModelError) as refused:
        spaces.describe(run, hub_model_id="me/pets")
    assert str(refused.value) == (
        f"{run} is for the task bird-counting, which another package brings, and a Space holds hfxfer alone. Make its Space by hand")


def test_nothing_is_overwritten_unasked(run, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    spaces.claim(mine, overwrite=False)
    (mine / "app.py").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(RunError) as raised:
            spaces.claim(mine, overwrite)
        assert str(raised.value) == f"{mine} is not empty and holds no Space of hfxfer's. Choose another --output_dir"
    folder = written(run, tmp_path / "space")
    with pytest.raises(RunError) as raised:
        spaces.claim(folder, overwrite=False)
    assert str(raised.value) == f"{folder} holds a Space. Choose another --output_dir, or replace the Space with --overwrite"
    spaces.claim(folder, overwrite=True)


def test_written_again_its_own_files_are_replaced_and_edits_of_the_readme_stay(run, tmp_path):
    folder = written(run, tmp_path / "space")
    readme = (folder / "README.md").read_text().replace("title: pets", "title: Cats & dogs\npinned: true").replace("sdk_version: ", "sdk_version: 5.0.0 #")
    (folder / "README.md").write_text(readme.rstrip() + "\n\nMade for the cat club.\n")
    (folder / "hfxfer" / "gone.py").write_text("")
    (folder / "notes.md").write_text("mine")
    written(run, folder)
    found = front_matter(folder)
    assert (found["title"], found["pinned"], found["sdk_version"]) == ("Cats & dogs", True, metadata.version("gradio"))
    assert "\n\nMade for the cat club.\n" in (folder / "README.md").read_text()
    assert not (folder / "hfxfer" / "gone.py").exists() and (folder / "notes.md").read_text() == "mine"


def test_written_for_another_model_it_says_nothing_of_the_one_before(run, tmp_path):
    recipe = (run / "recipe.yaml").read_text()
    data = next(line for line in recipe.splitlines() if line.startswith("data: "))
    (run / "recipe.yaml").write_text(recipe.replace(data, "data: she/animals"))
    tweets = tmp_path / "tweets"
    shutil.copytree(GOLDEN / "emotion", tweets)
    anew = front_matter(written(tweets, tmp_path / "anew", hub_model_id="me/tweets"))
    folder = written(run, tmp_path / "space")
    assert front_matter(folder)["datasets"] == ["she/animals"]
    assert front_matter(written(tweets, folder, hub_model_id="me/tweets")) == anew and anew["title"] == "tweets"
    readme = (folder / "README.md").read_text().replace("title: tweets", "title: Birds").replace("- text-classification\n", "- text-classification\n- birds\n")
    (folder / "README.md").write_text(readme)
    found = front_matter(written(run, folder))
    assert (found["title"], found["tags"]) == ("Birds", ["hfxfer", "text-classification", "birds"])
    assert (found["models"], found["datasets"], found["short_description"]) == (["me/pets"], ["she/animals"], "Image classification with pets")


@pytest.mark.parametrize("step", ["copytree", "copyfile"])
def test_what_was_cut_short_is_finished_by_the_same_again(run, tmp_path, monkeypatch, step):
    """An interruption while the package is copied, or just after it."""
    copy = getattr(shutil, step)

    def cut(source, target, **more):
        if step == "copytree":
            (target / "card").mkdir(parents=True)
        raise KeyboardInterrupt
    whole, folder = written(run, tmp_path / "whole"), tmp_path / "space"
    for _ in ("first written", "replaced"):
        monkeypatch.setattr(shutil, step, cut)
        with pytest.raises(KeyboardInterrupt):
            written(run, folder)
        monkeypatch.setattr(shutil, step, copy)
        with pytest.raises(RunError) as raised:
            spaces.claim(folder, overwrite=False)
        assert str(raised.value) == f"{folder} holds a Space. Choose another --output_dir, or replace the Space with --overwrite"
        spaces.claim(folder, overwrite=True)
        written(run, folder)
        assert {path.relative_to(folder) for path in folder.rglob("*")} == {path.relative_to(whole) for path in whole.rglob("*")}


def test_a_models_card_is_no_space(run, tmp_path):
    card = "---\nlicense: mit\n---\n\n# pets\n\n<!-- hfxfer:record {} -->\n"
    (tmp_path / "README.md").write_text(card)
    with pytest.raises(RunError) as raised:
        spaces.claim(tmp_path, overwrite=True)
    assert str(raised.value) == f"{tmp_path} is not empty and holds no Space of hfxfer's. Choose another --output_dir"


def test_what_the_hub_made_up_for_a_new_space_is_nobodys_edit(run, tmp_path):
    folder = tmp_path / "space"
    folder.mkdir()
    made = "---\ntitle: Pets Demo\nemoji: 🐢\ncolorFrom: red\ncolorTo: pink\nsdk: gradio\nsdk_version: 5.0.0\napp_file: app.py\npinned: false\nlicense: mit\n---\n"
    made += "\nCheck out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference\n"
    spaces.write(spaces.describe(run, hub_model_id="me/pets"), folder, made)
    found = front_matter(folder)
    assert (found["title"], found["emoji"], found["colorFrom"], found["colorTo"]) == ("pets", "🔎", "blue", "gray")
    assert (found["license"], found["pinned"], found["sdk_version"]) == ("mit", False, metadata.version("gradio"))
    assert "Check out" not in (folder / "README.md").read_text() and spaces.BODY in (folder / "README.md").read_text()
    spaces.write(spaces.describe(run, hub_model_id="me/pets"), tmp_path / "mine", made.replace("Check out", "My pets. Check out"))
    assert front_matter(tmp_path / "mine")["title"] == "Pets Demo"


def test_a_broken_front_matter_is_named_by_its_place(run, tmp_path):
    folder = written(run, tmp_path / "space")
    broken = "---\ntitle: [\n---\n"
    (folder / "README.md").write_text(broken)
    for existing, place in (("", folder / "README.md"), (broken, "the Space's README.md on the Hub")):
        with pytest.raises(RunError) as raised:
            spaces.write(spaces.describe(run, hub_model_id="me/pets"), folder, existing)
        assert str(raised.value) == (
            f"the metadata at the top of {place} are no YAML (line 2). Mend them between the lines of ---, or delete the file")
    assert (folder / "app.py").is_file() and (folder / "hfxfer").is_dir()


@pytest.mark.parametrize("environment", [{}, {"HFXFER_MODEL": ""}])
def test_an_app_without_a_model_says_what_to_set(environment):
    done = subprocess.run([sys.executable, str(CHECKOUT / "spaces" / "demo" / "app.py")], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        1, "", "HFXFER_MODEL is not set, and it says which model to show: set HFXFER_MODEL=NAME/REPO\n")


def test_a_space_runs_with_its_own_package_and_requirements_alone(run, tmp_path):
    from gradio_client import Client, handle_file
    from PIL import Image

    from hfxfer import models, serving, tasks

    folder, model, picture = written(run, tmp_path / "space"), tmp_path / "model", tmp_path / "picture.png"
    models.save(*models.load_trained(str(timm_checkpoint(tmp_path / "tiny", classes=3)), tasks.get("image-classification")), model)
    Image.linear_gradient("L").convert("RGB").save(picture)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"PATH": "", "HOME": str(tmp_path), "HFXFER_MODEL": str(model), "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1",
                   "OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([sys.executable, "-I", "-c", ALONE, str(folder), str(CHECKOUT)], cwd=folder, env=environment,
                                   stdout=log, stderr=log)
    try:
        [here] = serving.load(str(model)).predict(str(picture))
        until = time.monotonic() + 60
        while not listens(port):
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.05)
        told = Client(f"http://127.0.0.1:{port}", verbose=False).predict(handle_file(str(picture)), api_name="/predict")
    finally:
        process.kill()
        process.wait()
    assert told["label"] == here["label"] and told["confidences"][0]["confidence"] == pytest.approx(here["score"], abs=1e-5)
