"""`hfxfer doctor`: the faults it names, with builds and errors as they were seen on real machines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hfxfer import doctor
from hfxfer.doctor import Build
from hfxfer.errors import DependencyError

CPU = Build("torch", "2.13.0+cpu", "2.13.0+cpu")        # from PyTorch's own index
PYPI = Build("torch", "2.15.0", "2.15.0+cu132")         # from PyPI, which allows no local version
VISION = Build("torchvision", "0.28.0", "0.28.0+cu130")
CPU_LINE = ("pip uninstall -y torch torchvision && pip install torch torchvision"
            " --index-url https://download.pytorch.org/whl/cpu")
PYPI_LINE = "pip uninstall -y torch torchvision && pip install torch torchvision"


@pytest.mark.parametrize("full, family", [
    ("2.13.0+cpu", "cpu"), ("2.15.0+cu132", "cuda 13"), ("0.24.0+cu128", "cuda 12"), ("2.4.0+cu118", "cuda 11"),
    ("2.9.0+rocm6.4", "rocm 6"), ("2.9.0+xpu", "xpu"), ("2.9.0", None), ("2.4.0a0+3bcc3cddb5.nv24.07", None)])
def test_family_of_a_build(full, family):
    assert Build("torch", full, full).family == family


def test_a_cpu_torch_and_a_cuda_torchvision_do_not_fit():
    assert doctor.misfit(CPU, VISION, "torch") == "one is built for cpu, the other for cuda 13"


def test_a_torchvision_that_wants_another_torch_does_not_fit():
    assert doctor.misfit(CPU, Build("torchvision", "0.24.0", "0.24.0+cpu"), "torch==2.9.0") == (
        "torchvision 0.24.0 wants torch==2.9.0")


@pytest.mark.parametrize("torch, torchvision, wants", [
    (CPU, Build("torchvision", "0.28.0+cpu", "0.28.0+cpu"), "torch==2.13.0"),
    (PYPI, Build("torchvision", "0.29.2", "0.29.2+cu132"), "torch>=2.14.0"),
    (PYPI, VISION, None),                                                   # one CUDA major version is enough
    (Build("torch", "2.15.0", "2.15.0"), VISION, None),                     # conda says nothing of its build
    (Build("torch", "2.16.0.dev20251101", "2.16.0.dev20251101"), VISION, "torch>=2.14.0"),
])
def test_builds_that_fit(torch, torchvision, wants):
    assert doctor.misfit(torch, torchvision, wants) is None


def test_mending_line_takes_the_index_that_torch_came_from():
    assert doctor.mending_line(CPU) == CPU_LINE
    assert doctor.mending_line(PYPI) == PYPI_LINE
    assert doctor.mending_line(None) == PYPI_LINE
    assert doctor.mending_line(Build("torch", "2.4.0a0+3bc.nv24.07", "2.4.0a0+3bc.nv24.07")) == PYPI_LINE


@pytest.mark.parametrize("error, symptom", [
    (RuntimeError("operator torchvision::nms does not exist"), "operator torchvision::nms does not exist"),
    (AttributeError("partially initialized module 'torchvision' has no attribute 'extension' (most likely due to a "
                    "circular import)"), "module 'torchvision' has no attribute 'extension'"),
    (OSError("Could not load this library: /x/site-packages/torchvision/_C.so"),
     "Could not load this library: /x/site-packages/torchvision/_C.so"),
    (ImportError("/x/torchvision/_C.so: undefined symbol: _ZN3c105ErrorC2E"),
     "/x/torchvision/_C.so: undefined symbol: _ZN3c105ErrorC2E"),
    (RuntimeError("Detected that PyTorch and torchvision were compiled with different CUDA major versions. PyTorch has "
                  "CUDA Version=12.8 and torchvision has CUDA Version=13.0."),
     "PyTorch and torchvision were compiled with different CUDA major versions"),
])
def test_import_errors_of_a_misfit_are_explained(error, symptom):
    explained = doctor.explain_import_error(error, CPU, VISION)
    assert isinstance(explained, DependencyError)
    assert str(explained) == (f"torch 2.13.0+cpu and torchvision 0.28.0+cu130 do not belong together: {symptom}. "
                              f"Both must come from one build. Mend it with: {CPU_LINE}")


def test_an_import_error_is_explained_by_what_led_to_it():
    try:
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ImportError("Could not import module 'TimmWrapperModel'") from error
    except ImportError as error:
        assert "do not belong together" in str(doctor.explain_import_error(error, CPU, VISION))


@pytest.mark.parametrize("error", [
    ModuleNotFoundError("No module named 'torchvision'"), ImportError("cannot import name 'x' from 'timm'"),
    RuntimeError("CUDA out of memory"), AttributeError("module 'torch' has no attribute 'frob'")])
def test_other_errors_are_not_explained(error):
    assert doctor.explain_import_error(error, CPU, VISION) is None


def test_unmet_requirements_come_with_their_pip_line():
    requirements = ["timm>=1.0.20", "torch>=2.4", "gradio>=6.0", "seqeval>=1.2; extra == 'test'"]
    assert doctor.unmet(requirements, {"timm": "1.0.9", "torch": "2.13.0+cpu", "gradio": None}) == [
        ("timm 1.0.9 is installed; hfxfer needs >=1.0.20.", 'pip install "timm>=1.0.20"'),
        ("gradio is not installed.", 'pip install "gradio>=6.0"')]


@pytest.mark.parametrize("failed, what", [
    ("RuntimeError: operator torchvision::nms does not exist",
     "torch 2.13.0+cpu and torchvision 0.28.0+cu130 do not belong together: one is built for cpu, the other for cuda 13;"
     " operator torchvision::nms does not exist. Both must come from one build."),
    (None, "torch 2.13.0+cpu and torchvision 0.28.0+cu130 do not belong together: one is built for cpu, the other for "
           "cuda 13. Both must come from one build."),
])
def test_a_misfit_is_a_problem_whether_or_not_it_imports(failed, what):
    problems = list(doctor._pair_problems(CPU, VISION, "torch", doctor.NOTHING_PROBED | {"torchvision_error": failed}))
    assert problems == [(what, CPU_LINE)]


def test_another_failure_of_torchvision_is_not_called_a_misfit():
    fitting = Build("torchvision", "0.29.2", "0.29.2+cu132")
    failed = "ModuleNotFoundError: No module named 'PIL'"
    problems = list(doctor._pair_problems(PYPI, fitting, "torch>=2.14.0",
                                         doctor.NOTHING_PROBED | {"torchvision_error": failed}))
    assert problems == [(f"torchvision 0.29.2+cu132 does not import: {failed}.", PYPI_LINE)]


def test_status_is_0_when_fine_and_2_when_something_must_be_mended():
    assert doctor.status({"problems": []}) == 0
    assert doctor.status({"problems": [{"what": "timm is not installed.", "mend": "pip install timm"}]}) == 2


def test_lines_end_with_the_problems_and_what_mends_them(report):
    problem = {"what": "timm is not installed.", "mend": 'pip install "timm>=1.0.20"'}
    assert doctor.lines(report | {"problems": [problem]})[-2:] == [
        "problem: timm is not installed.", '  mend it with: pip install "timm>=1.0.20"']
    assert doctor.lines(report | {"problems": []})[-1] == "problems: none"


@pytest.mark.parametrize("environ", [
    {"HOME": "/h"}, {"HOME": "/h", "XDG_CACHE_HOME": "/xdg"}, {"HOME": "/h", "HF_HOME": "~/hf"},
    {"HOME": "/h", "HF_HOME": "/hf", "HF_HUB_CACHE": "/hub"}, {"HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old"}])
def test_cache_folders_are_those_of_huggingface_hub(environ, monkeypatch):
    code = "from huggingface_hub import constants as c; print(c.HF_HOME); print(c.HF_HUB_CACHE); print(c.HF_TOKEN_PATH)"
    ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    home, hub, token = map(Path, ran.stdout.split())
    monkeypatch.setenv("HOME", "/h")
    folders = doctor.cache_folders(environ)
    assert (folders["HF_HOME"], folders["HF_HUB_CACHE"], folders["HF_HOME"] / "token") == (home, hub, token)


def test_token_source_names_the_place(tmp_path):
    (tmp_path / "token").write_text("hf_secretsecret")
    (tmp_path / "empty").write_text("")
    assert doctor.token_source({"HF_HOME": str(tmp_path)}) == f"the file {tmp_path / 'token'}"
    assert doctor.token_source({"HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path)}) == "the environment variable HF_TOKEN"
    assert doctor.token_source({"HF_TOKEN": " ", "HF_TOKEN_PATH": str(tmp_path / "empty")}) is None
    assert doctor.token_source({"HF_HOME": str(tmp_path / "nowhere")}) is None


def test_a_token_never_appears_in_the_report(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("hf_fromthefile")
    monkeypatch.setattr(doctor, "_probe", lambda: doctor.NOTHING_PROBED)  # takes seconds and knows no token
    for environ in ({"HF_TOKEN": "hf_fromtheenvironment", "HUGGING_FACE_HUB_TOKEN": "hf_fromtheolder"},
                    {"HF_HOME": str(tmp_path)}):
        report = doctor.examine(environ)
        assert report["token"]["found"]
        assert "hf_from" not in json.dumps(report) + "\n".join(doctor.lines(report))


def test_offline_is_read_as_huggingface_hub_reads_it():
    assert doctor.is_offline({"HF_HUB_OFFLINE": "1"}) and doctor.is_offline({"TRANSFORMERS_OFFLINE": "yes"})
    assert not doctor.is_offline({"HF_HUB_OFFLINE": "0"}) and not doctor.is_offline({})


def test_folder_size_counts_each_file_once_and_stops_in_time(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a").write_bytes(b"x" * 1000)
    (tmp_path / "snapshot").symlink_to(tmp_path / "blobs")
    assert doctor.folder_size(tmp_path) == (1000, True)
    assert doctor.folder_size(tmp_path / "nowhere") == (0, True)
    assert doctor.folder_size(tmp_path, seconds=-1) == (0, False)


@pytest.fixture(scope="module")
def report():
    return doctor.examine()


def test_the_report_of_this_machine_is_sane(report):
    import torch

    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["packages"]["torch"] == torch.__version__
    assert None not in report["packages"].values()
    assert report["devices"][0]["kind"] in (("cuda",) if torch.cuda.is_available() else ("cpu", "mps", "xpu"))
    assert report["cores"] >= 1 and report["threads"] >= 1 and report["memory_bytes"] > 1e8
    assert report["offline"] and not report["token"]["found"]  # tests/conftest.py
    assert report["problems"] == [] and doctor.status(report) == 0


def test_doctor_works_without_importing_torch_itself():
    code = "import sys, hfxfer.doctor as d; d.installed_build('torch'); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert ran.stdout == "False\n", ran.stderr
