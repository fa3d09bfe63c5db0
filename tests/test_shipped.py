"""`spaces/` and `model_cards/` are found both ways: in the checkout, and in a wheel that stands alone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hfxfer.shipped import SHIPPED, shipped

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's content, unpacked as pip does it. Built through the build backend that pip calls, with no network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    built = subprocess.run([sys.executable, "-c", build], cwd=CHECKOUT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site-packages")
    return folder / "site-packages"


def run_installed(installed, code, cwd):
    """Runs `code` where only the unpacked wheel can be imported as hfxfer."""
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(installed)})


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and not {"__pycache__", "screenshots"} & set(path.parts)}


@pytest.mark.parametrize("name", SHIPPED)
def test_finds_the_folder_in_the_checkout(name):
    assert shipped(name) == CHECKOUT / name
    assert (shipped(name) / "README.md").is_file()


@pytest.mark.parametrize("name", SHIPPED)
def test_finds_the_same_files_in_the_installed_wheel(name, installed, tmp_path):
    ran = run_installed(installed, f"from hfxfer.shipped import shipped; print(shipped({name!r}))", tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = Path(ran.stdout.strip())
    assert found == installed / "hfxfer" / "_shipped" / name
    assert files_below(found) == files_below(CHECKOUT / name)
    assert not (found / "screenshots").exists()


def test_the_wheel_holds_the_package_and_the_licence_and_no_tests(installed):
    assert {path.name for path in installed.iterdir()} == {"hfxfer", "hfxfer-0.1.0.dist-info"}
    assert (installed / "hfxfer-0.1.0.dist-info" / "licenses" / "LICENSE").is_file()
    scripts = (installed / "hfxfer-0.1.0.dist-info" / "entry_points.txt").read_text()
    assert "hfxfer = hfxfer.cli:main" in scripts and "hf-xfer = hfxfer.cli:main" in scripts


def test_an_installation_without_the_folder_says_what_to_do(installed, tmp_path):
    alone = tmp_path / "hfxfer"
    alone.mkdir()
    # A package of its own: a bare folder would lose against an editable installation.
    (alone / "__init__.py").touch()
    (alone / "shipped.py").write_bytes((installed / "hfxfer" / "shipped.py").read_bytes())
    ran = run_installed(tmp_path, "from hfxfer.shipped import shipped; shipped('spaces')", tmp_path)
    assert ran.stderr.strip().splitlines()[-1] == (
        f"FileNotFoundError: spaces is neither {alone / '_shipped' / 'spaces'} nor {tmp_path / 'spaces'}. "
        "Install hfxfer again: pip install --force-reinstall --no-deps hfxfer")


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="'tests' does not ship with hfxfer; what does: model_cards, spaces"):
        shipped("tests")
