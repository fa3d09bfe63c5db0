"""spaces: the folder of a Gradio Space for a Run or a Hub model. No network of its own.

app.py            spaces/demo/app.py as it is: it loads the model that the variable HFXFER_MODEL names
requirements.txt  what the app imports, in the versions that are installed here
README.md         the Space's front matter
hfxfer/           this package, beside app.py: a build sees nothing but requirements.txt, so a wheel in the repository would not be found
"""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hfxfer import checkpoints, fetching, tasks
from hfxfer.card._facts import is_hub_id
from hfxfer.card._merge import RECORD, dumped, merged, split_metadata
from hfxfer.errors import DependencyError, ModelError, RecipeError, RunError
from hfxfer.run import Run, write_text
from hfxfer.shipped import shipped

OWN_FILES = ("app.py", "requirements.txt", "README.md", "hfxfer/*")
"""What is replaced in a Space that is written again; whatever else is there is somebody's own."""

REQUIRED = ("accelerate", "gradio", "huggingface_hub", "numpy", "pillow", "pyarrow", "pyyaml", "safetensors", "scipy", "timm", "torch", "torchvision",
            "transformers")
"""What app.py and the parts of hfxfer that it runs import; tests/test_spaces.py runs it with nothing else."""

OPTIONAL = ("captum",)
"""What the app does more with, and without which it says so (its tab Why): named where it is installed here."""

VARIABLES = ("HFXFER_MODEL", "HFXFER_REVISION")
"""What app.py reads from its environment: a Hub id, and a branch where it is not main."""

FIXED = ("sdk", "sdk_version", "python_version", "app_file", "models")
"""Front matter that the Space does not run without; of the rest stays what somebody edited, by the record that stands in a README as in a card."""

UNTOUCHED = "Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference"
"""All that the Hub writes below the front matter of a new Space."""

MADE_UP = ("title", "emoji", "colorFrom", "colorTo")
"""Front matter that the Hub chooses for a new Space; a licence and a description in it somebody has chosen."""

THERE = "the Space's README.md on the Hub"

BODY = """A demo of a model that was fine-tuned with hfxfer, written by `hfxfer space`. The variable `HFXFER_MODEL` says which model it loads;
`hfxfer/` is the package that loads it. Writing or pushing it again replaces both, `app.py` and `requirements.txt`; what is edited here stays."""

LONGEST_DESCRIPTION = 60
"""Characters that the Hub takes as short_description."""


@dataclass(frozen=True, slots=True)
class About:
    """What a Space shows. source: as it was given. revision: branch of the model, or "". datasets: Hub ids."""

    source: str
    model_id: str
    revision: str
    task: str
    datasets: tuple[str, ...]

    @property
    def variables(self) -> dict[str, str]:
        return {name: value for name, value in zip(VARIABLES, (self.model_id, self.revision)) if value}


def describe(source: str | Path, *, hub_model_id: str = "", revision: str = "") -> About:
    """Of a Run, whose Hub id is given or known from its last push; or of a Hub id, whose config and card are fetched by the client.

    Raises RunError, ModelError; RecipeError for a hub_model_id beside a Hub id.
    """
    run = Run(source)
    if run.exists():
        task = run.scores()["task"]
        last = next((each for each in run.pushes() if hub_model_id in ("", each["model_id"])), {})
        model_id = hub_model_id or last.get("model_id", "")
        if not model_id:
            raise RunError(f"{source} has not been pushed, and a Space loads its model from the Hub. Push both: hfxfer push "
                           f"{shlex.quote(str(source))} --hub_model_id NAME/REPO --space; or say where the model will be: --hub_model_id NAME/REPO")
        config, data = checkpoints.checkpoint_config(str(run.model_dir), None), run.recipe().data
        revision, datasets = revision or last.get("revision", ""), [data]
    elif Path(source).exists():
        raise RunError(f"{source} is no Run folder (no recipe.yaml). Give a Run, or the Hub id of a model")
    elif hub_model_id:
        raise RecipeError(f"--hub_model_id says where the model of a Run is, and {source} is no Run, so it stands for a model on the Hub. "
                          "Give a Run, or leave out --hub_model_id")
    else:
        task, model_id, at = "", str(source), fetching.pin(str(source), revision or None)
        config = checkpoints.checkpoint_config(model_id, at)
        given = checkpoints.card_metadata(model_id, at).get("datasets") or []
        datasets = [given] if isinstance(given, str) else given
    if config.get("auto_map"):
        raise ModelError(f"{model_id} brings its own code, which a Space of hfxfer does not run. Make its Space by hand")
    task = task or _shown_task(config, model_id)
    if task not in tasks.BUILT_IN:
        raise ModelError(f"{source} is for the task {task}, which another package brings, and a Space holds hfxfer alone. Make its Space by hand")
    return About(str(source), model_id, "" if revision == "main" else revision, task,
                 tuple(each for each in datasets if is_hub_id(str(each))))


def _shown_task(config: dict[str, Any], model_id: str) -> str:
    try:
        return checkpoints.trained_task(config, model_id)
    except ModelError as error:  # whose advice is a flag that others have
        raise ModelError(f"{model_id} is for no task that a Space of hfxfer's shows; allowed: {', '.join(tasks.BUILT_IN)}. "
                         "Make its Space by hand") from error


def claim(folder: Path, overwrite: bool) -> None:
    """Refuse to write over what is not a Space of hfxfer's, or is one and was not said to be replaced. Raises RunError."""
    if folder.is_file():
        raise RunError(f"{folder} is a file. Give a folder: --output_dir NAME")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    whole = all((folder / name).is_file() for name in ("app.py", "requirements.txt", "README.md", "hfxfer/spaces.py"))
    if not whole and not _is_begun(folder / "README.md"):
        raise RunError(f"{folder} is not empty and holds no Space of hfxfer's. Choose another --output_dir")
    if not overwrite:
        raise RunError(f"{folder} holds a Space. Choose another --output_dir, or replace the Space with --overwrite")


def _is_begun(readme: Path) -> bool:
    """True for a Space's README.md that hfxfer wrote, which it does before anything else: the rest may be missing after a kill."""
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    return bool(RECORD.search(text)) and split_metadata(text, str(readme))[1].get("sdk") == "gradio"


def is_own(readme: str, there: set[str], touched: set[str]) -> bool:
    """Whether a Space on the Hub may be written over: one of hfxfer's, or one of gradio's in which nothing but README.md would be touched.

    there: which of the files it already has. touched: what would be changed or deleted.
    """
    return (not readme or split_metadata(readme, THERE)[1].get("sdk") == "gradio") and ("hfxfer/spaces.py" in there or touched <= {"README.md"})


def write(about: About, folder: Path, existing: str = "") -> None:
    """Write the Space; of one that is there its own files go, others stay.

    existing: README.md as it is on the Hub; the folder's own where that is "". What somebody has edited in it stays, but for FIXED.
    """
    readme = folder / "README.md"
    place = THERE if existing else str(readme)
    existing = existing or (readme.read_text(encoding="utf-8") if readme.is_file() else "")
    requirements = _requirements()
    # First of all: by it `claim` knows the Space again where this is cut short.
    write_text(readme, readme_of(about, existing, place))
    shutil.rmtree(folder / "hfxfer", ignore_errors=True)
    # _shipped holds the Spaces and the card's template of an installed wheel: nothing that runs.
    shutil.copytree(Path(__file__).parent, folder / "hfxfer", ignore=shutil.ignore_patterns("__pycache__", "_shipped", ".*"))
    shutil.copyfile(shipped("spaces") / "demo" / "app.py", folder / "app.py")
    write_text(folder / "requirements.txt", requirements)


def _requirements() -> str:
    """Raises DependencyError where one that is needed is not installed."""
    more = [name for name in OPTIONAL if any(metadata.distributions(name=name))]
    return "".join(f"{name}=={_version(name)}\n" for name in (*REQUIRED, *more))


def _version(name: str) -> str:
    """As installed, without the local part (2.15.0+cpu), which no index has."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError as error:
        raise DependencyError(f"{name} is not installed, and a Space names the version that is. Install it with: pip install {name}") from error


def readme_of(about: About, existing: str, place: str) -> str:
    """Front matter and text. place: of the existing README.md. Raises RunError where that is broken."""
    _, theirs, body = split_metadata(existing, place)
    if body.strip() == UNTOUCHED:
        existing = f"---\n{dumped({name: value for name, value in theirs.items() if name not in MADE_UP})}---\n"
    return merged(existing, _front_matter(about), BODY, set(FIXED), place)[0]


def _front_matter(about: About) -> dict[str, Any]:
    """In the order of https://huggingface.co/docs/hub/spaces-config-reference. license: that of the code; the model has its own, in its card."""
    name = about.model_id.rpartition("/")[2]
    said = f"{about.task.replace('-', ' ').capitalize()} with {name}"
    found = {"title": name, "emoji": "🔎", "colorFrom": "blue", "colorTo": "gray", "sdk": "gradio", "sdk_version": _version("gradio"),
             "python_version": f"{sys.version_info.major}.{sys.version_info.minor}", "app_file": "app.py", "models": [about.model_id],
             "datasets": list(about.datasets), "license": "apache-2.0", "tags": ["hfxfer", about.task],
             "short_description": said if len(said) <= LONGEST_DESCRIPTION else said[:LONGEST_DESCRIPTION - 1] + "…"}
    return {name: value for name, value in found.items() if value}
