"""What `hfxfer doctor` says of this machine: versions, devices, caches, token, and what must be mended.

`examine()` returns a plain dict that JSON can hold, `lines()` the same for people, `status()` the exit code: 0 when
nothing must be mended, 2 otherwise. Whatever can be broken (torch, torchvision) is imported in a process of its own,
so the examination also works where nothing else does. A Hub token is looked for, never read into the report.

`explain_import_error()` says the same words where an import fails in the middle of other work.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfxfer.errors import EXIT_DONE, EXIT_REFUSED, DependencyError

PACKAGES = ("torch", "torchvision", "timm", "transformers", "datasets", "evaluate", "accelerate", "huggingface_hub",
            "gradio", "scikit-learn", "numpy", "pillow", "pyarrow", "safetensors", "matplotlib", "pyyaml")
TRUE = ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads its environment
NOTHING_PROBED = {"devices": [], "threads": None, "torch_error": None, "torchvision_error": None, "warnings": []}
IMPORT_SECONDS = 180  # a first `import torch` from a cold network disk took over a minute
SIZE_SECONDS = 2.0

# How a torchvision that does not fit its torch fails, as seen: torch 2.13.0+cpu beside torchvision 0.24, 0.28 and 0.29
# built for CUDA (the first; a second import in the same process gives the second), and torchvision's own checks.
MISFITS = (
    r"operator torchvision::\w+ does not exist",
    r"module 'torchvision' has no attribute 'extension'",
    r"Couldn't load custom C\+\+ ops",
    r"PyTorch and torchvision were compiled with different CUDA (?:major )?versions",
    r"Could not load this library: \S*torchvision\S*",
    r"\S*torchvision\S*: undefined symbol: \w+",
    r"Could not run 'torchvision::\w+' with arguments from the '\w+' backend",
)

PROBE = """
import json, warnings
said = {"devices": []}
def words(error):
    return f"{type(error).__name__}: {error}"
try:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import torch
        for kind in ("cuda", "xpu"):
            backend = getattr(torch, kind, None)
            for index in range(backend.device_count() if backend and backend.is_available() else 0):
                facts = backend.get_device_properties(index)
                said["devices"].append({"kind": kind, "index": index, "name": facts.name,
                                        "memory_bytes": facts.total_memory})
        if torch.backends.mps.is_available():
            said["devices"].append({"kind": "mps", "index": 0, "name": "Apple GPU", "memory_bytes": None})
        said["threads"] = torch.get_num_threads()
    said["warnings"] = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
except Exception as error:
    said["torch_error"] = words(error)
else:
    try:
        import torchvision
    except Exception as error:
        said["torchvision_error"] = words(error)
print("\\n" + json.dumps(said))
"""


@dataclass(frozen=True)
class Build:
    """One installed package. `version` is pip's: 2.13.0+cpu from PyTorch's own index, 2.15.0 from PyPI.

    `full` is what the package says of itself; it names the build also where pip's does not: 2.15.0+cu132.
    """

    name: str
    version: str
    full: str

    @property
    def family(self) -> str | None:
        """`cpu`, `cuda 13`, `rocm 6`, `xpu`; None where the version does not say. One torch family, one torchvision."""
        tag = self.full.partition("+")[2]
        if cuda := re.fullmatch(r"cu(\d+)\d", tag):
            return f"cuda {cuda[1]}"
        if rocm := re.match(r"rocm(\d+)", tag):
            return f"rocm {rocm[1]}"
        return tag if tag in ("cpu", "xpu") else None


def examine(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Everything `doctor` knows, as values that JSON can hold. Takes the seconds that `import torch` takes."""
    probed = _probe()
    requirements = _own_requirements()
    faults = unmet(requirements, {name: _version(name) for name in _names(requirements)})
    torch, torchvision = installed_build("torch"), installed_build("torchvision")
    faults += _pair_problems(torch, torchvision, _wanted_torch(), probed)
    source = token_source(environ)
    return {
        "hfxfer": _version("hfxfer"),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cores": _cores(),
        "memory_bytes": _memory_bytes(),
        "threads": probed["threads"],
        "packages": {name: _full_version(name) for name in PACKAGES},
        "devices": probed["devices"] or [{"kind": "cpu", "index": 0, "name": _cpu_name(), "memory_bytes": None}],
        "caches": [_cache(name, path) for name, path in cache_folders(environ).items()],
        "token": {"found": source is not None, "source": source},
        "offline": is_offline(environ),
        "problems": [{"what": what, "mend": mend} for what, mend in faults],
        "notes": list(_notes(torch, probed)),
    }


def status(report: Mapping[str, Any]) -> int:
    """Exit code: 0 when nothing must be mended, 2 when work would be refused as things stand."""
    return EXIT_REFUSED if report["problems"] else EXIT_DONE


def lines(report: Mapping[str, Any]) -> list[str]:
    """The report for people, one fact a line; problems last, each followed by the line that mends it."""
    found = [
        f"hfxfer: {report['hfxfer'] or 'not installed (running from a checkout)'}",
        f"python: {report['python']} ({report['executable']})",
        f"platform: {report['platform']}",
        f"cpu: {report['cores']} cores, {_size(report['memory_bytes'])} memory, torch uses {report['threads']} threads",
    ]
    found += [f"{name}: {version or 'not installed'}" for name, version in report["packages"].items()]
    found += [f"device: {_device(device)}" for device in report["devices"]]
    found += [f"cache: {_cache_line(cache)}" for cache in report["caches"]]
    token = report["token"]
    found.append(f"token: found in {token['source']}" if token["found"] else
                 "token: none (needed to push and for private repositories; set HF_TOKEN or run: hf auth login)")
    found.append(f"offline mode: {'on' if report['offline'] else 'off'}")
    found += [f"note: {text}" for text in report["notes"]]
    for problem in report["problems"]:
        found += [f"problem: {problem['what']}", f"  mend it with: {problem['mend']}"]
    return found + ([] if report["problems"] else ["problems: none"])


def explain_import_error(error: BaseException, torch: Build | None = None,
                         torchvision: Build | None = None) -> DependencyError | None:
    """The words of `doctor` for an import that failed because torch and torchvision do not belong together.

    None for every other error. The two builds default to what is installed. Use it as
    `raise explain_import_error(error) or error from None` where timm or torchvision is imported; the fault comes as
    RuntimeError, AttributeError, OSError or ImportError.
    """
    symptom = next(filter(None, map(_symptom, _chain(error))), None)
    if symptom is None:
        return None
    torch, torchvision = torch or installed_build("torch"), torchvision or installed_build("torchvision")
    return DependencyError(f"{_misfit_words(torch, torchvision, symptom)} Mend it with: {mending_line(torch)}")


def misfit(torch: Build, torchvision: Build, wants: str | None) -> str | None:
    """Why the two builds cannot work together, or None. `wants`: torchvision's requirement, as `torch==2.9.0`."""
    from packaging.requirements import Requirement

    if wants and not Requirement(wants).specifier.contains(torch.version, prereleases=True):
        return f"torchvision {torchvision.version} wants {Requirement(wants)}"
    if torch.family and torchvision.family and torch.family != torchvision.family:
        return f"one is built for {torch.family}, the other for {torchvision.family}"
    return None


def mending_line(torch: Build | None) -> str:
    """The pip line that installs a fitting pair where `torch` came from: PyTorch's own index, or PyPI.

    Uninstalling first leaves numpy and the others alone; `--force-reinstall` would replace them too.
    """
    tag = torch.version.partition("+")[2] if torch else ""
    index = f" --index-url https://download.pytorch.org/whl/{tag}" if torch and torch.family and tag else ""
    return f"pip uninstall -y torch torchvision && pip install torch torchvision{index}"


def unmet(requirements: list[str], versions: Mapping[str, str | None]) -> list[tuple[str, str]]:
    """(what, mend) for each requirement that `versions` does not meet; extras are left out."""
    from packaging.requirements import Requirement

    faults = []
    for wanted in map(Requirement, requirements):
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        got = versions.get(wanted.name)
        if got is None:
            faults.append((f"{wanted.name} is not installed.", f'pip install "{wanted}"'))
        elif not wanted.specifier.contains(got, prereleases=True):
            faults.append((f"{wanted.name} {got} is installed; hfxfer needs {wanted.specifier}.",
                           f'pip install "{wanted}"'))
    return faults


def cache_folders(environ: Mapping[str, str]) -> dict[str, Path]:
    """Where Hugging Face's libraries keep things, by their own rules (they themselves may not be importable)."""
    default = os.path.join(environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface")
    home = Path(environ.get("HF_HOME") or default).expanduser()
    hub = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub"
    return {"HF_HOME": home, "HF_HUB_CACHE": Path(hub).expanduser(),
            "HF_DATASETS_CACHE": Path(environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser()}


def token_source(environ: Mapping[str, str]) -> str | None:
    """Where a Hub token would be taken from, in huggingface_hub's order; None when there is none. Never the token."""
    for name in ("HF_OIDC_RESOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if environ.get(name, "").strip():
            return f"the environment variable {name}"
    path = Path(environ.get("HF_TOKEN_PATH") or cache_folders(environ)["HF_HOME"] / "token").expanduser()
    try:
        return f"the file {path}" if path.stat().st_size else None
    except OSError:
        return None


def is_offline(environ: Mapping[str, str]) -> bool:
    return any(environ.get(name, "").upper() in TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def installed_build(name: str) -> Build | None:
    """The build of an installed package, read from its files, without importing it."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    file = Path(str(distribution.locate_file(f"{name}/version.py")))
    said = re.search(r"^__version__ = ['\"](.+?)['\"]", file.read_text(), re.MULTILINE) if file.is_file() else None
    return Build(name, distribution.version, said[1] if said else distribution.version)


def folder_size(folder: Path, seconds: float = SIZE_SECONDS) -> tuple[int, bool]:
    """(bytes, complete) of the files below `folder`, links not followed; counting stops after `seconds`."""
    total, until = 0, time.monotonic() + seconds
    for where, _, names in os.walk(folder):
        if time.monotonic() > until:
            return total, False
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except OSError:  # removed while we counted
                continue
    return total, True


def _probe() -> dict[str, Any]:
    """Imports torch and torchvision in a process of its own and returns what PROBE printed."""
    try:
        # PYTHONSAFEPATH: a folder `torch` in the current folder is no torch (Python >= 3.11 reads it).
        ran = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=IMPORT_SECONDS,
                             env={**os.environ, "PYTHONSAFEPATH": "1"}, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return NOTHING_PROBED | {"torch_error": f"no answer within {IMPORT_SECONDS} seconds"}
    if ran.returncode != 0:
        said = (ran.stderr.strip().splitlines() or [""])[-1]
        return NOTHING_PROBED | {"torch_error": f"the process ended with exit code {ran.returncode}: {said}"}
    return NOTHING_PROBED | json.loads(ran.stdout.strip().splitlines()[-1])


def _pair_problems(torch: Build | None, torchvision: Build | None, wants: str | None,
                   probed: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what, mend) of what is wrong with torch and torchvision; one that is missing is a requirement not met."""
    if torch and probed["torch_error"]:
        yield f"torch {torch.full} does not import: {probed['torch_error']}.", mending_line(torch)
    if torch is None or torchvision is None:
        return
    failed = probed["torchvision_error"]
    reasons = list(filter(None, (misfit(torch, torchvision, wants), failed and _symptom(failed))))
    if reasons:
        yield _misfit_words(torch, torchvision, "; ".join(reasons)), mending_line(torch)
    elif failed:
        yield f"torchvision {torchvision.full} does not import: {failed}.", mending_line(torch)


def _notes(torch: Build | None, probed: dict[str, Any]) -> Iterator[str]:
    yield from probed["warnings"]
    if torch and not probed["devices"] and not probed["torch_error"] and Path("/proc/driver/nvidia/version").exists():
        yield (f"this machine has an NVIDIA driver, but torch {torch.full} sees no GPU. "
               "Which torch fits the driver: https://pytorch.org/get-started/locally/")


def _misfit_words(torch: Build | None, torchvision: Build | None, reason: str) -> str:
    pair = " and ".join(f"{build.name} {build.full}" for build in (torch, torchvision) if build)
    return f"{pair or 'torch and torchvision'} do not belong together: {reason.rstrip('.')}. Both must come from one build."


def _symptom(text: str) -> str | None:
    """The part of an error's text that says that torch and torchvision do not fit."""
    return next((match[0] for pattern in MISFITS if (match := re.search(pattern, text))), None)


def _chain(error: BaseException | None) -> Iterator[str]:
    """The texts of an error and of those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield str(error)
        error = error.__cause__ or error.__context__


def _own_requirements() -> list[str]:
    """What hfxfer's own metadata asks for; the bare names in a checkout that is not installed."""
    try:
        return importlib.metadata.requires("hfxfer") or []
    except importlib.metadata.PackageNotFoundError:
        return list(PACKAGES)


def _names(requirements: list[str]) -> list[str]:
    from packaging.requirements import Requirement

    return [Requirement(text).name for text in requirements]


def _wanted_torch() -> str | None:
    """torchvision's requirement on torch, from its metadata: `torch==2.9.0`, `torch>=2.14.0`."""
    try:
        wants = importlib.metadata.requires("torchvision") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((text for text in wants if re.match(r"torch\b", text)), None)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _full_version(name: str) -> str | None:
    if name not in ("torch", "torchvision"):
        return _version(name)
    build = installed_build(name)
    return build.full if build else None


def _cache(name: str, path: Path) -> dict[str, Any]:
    used, complete = folder_size(path)
    standing = next((folder for folder in (path, *path.parents) if folder.exists()), None)
    free = shutil.disk_usage(standing).free if standing else None
    return {"name": name, "path": str(path), "bytes": used, "complete": complete, "free_bytes": free}


def _cache_line(cache: Mapping[str, Any]) -> str:
    used = f"{'' if cache['complete'] else 'over '}{_size(cache['bytes'])}"
    return f"{cache['name']} {cache['path']} ({used} used, {_size(cache['free_bytes'])} free)"


def _device(device: Mapping[str, Any]) -> str:
    memory = f", {_size(device['memory_bytes'])}" if device["memory_bytes"] else ""
    return f"{device['kind']}:{device['index']} {device['name']}{memory}"


def _size(count: int | None) -> str:
    """1.5 GB, in powers of 1000 as disks are sold and as the Hub shows them."""
    if count is None:
        return "unknown"
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _cores() -> int:
    """The cores this process may use: fewer than the machine's under taskset, Slurm and cpusets."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_bytes() -> int | None:
    """The machine's memory, or the container's limit where that is smaller."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:  # Windows
        return None
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(machine, int(text)) if text.isdigit() else machine


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return named[1] if named else platform.processor() or platform.machine()
