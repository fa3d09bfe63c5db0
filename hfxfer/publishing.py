"""publishing: what `model/` must be before it goes up, checked without the network.

`pack` writes the card and the shareable recipe, refuses what is incomplete or should not be seen, all faults at once, and lists the
files. `prove` loads the folder with each library that its readers will use.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hfxfer import card, leaks, tasks
from hfxfer.card._facts import is_hub_id
from hfxfer.card._merge import split_metadata
from hfxfer.checkpoints import check_words, quiet_libraries
from hfxfer.errors import RunError
from hfxfer.fetching import Pinned
from hfxfer.optional import require
from hfxfer.run import Run, write_text
from hfxfer.values import shown

NEVER = ("training_args.bin", "trainer_state.json", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*")
"""What resuming needs and nobody who loads the model: training_args.bin holds the token of whoever trained it."""

PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".bin")
"""Files that run code when they are loaded, whatever else they hold."""

PICTURE_SIZE = 64
SENTENCE = "Ada Smith lives in Paris."
TOLERANCE, ROUNDING = 1e-4, 1e-5
"""Of logits: relative to the largest of them, and what small ones may differ by. In fp32 two ways of calling a network differ by 1e-6."""


@dataclass(frozen=True, slots=True)
class Package:
    """files: path in model/ → bytes, sorted. left_out: hidden files, which are never sent. card: as it was written."""

    files: dict[str, int]
    left_out: tuple[str, ...]
    card: card.Card


def pack(run: Run, *, model_id: str, allow: Iterable[str] = (), secrets: Iterable[str] = (), **card_settings: Any) -> Package:
    """Prepare and check `model/` of a finished Run. Writes model/README.md and model/recipe.yaml, nothing else.

    allow: files or kinds of findings that may go up (`leaks.Finding.is_allowed`). secrets: never, whatever is allowed. card_settings: of
    `card.write`. Raises RunError.
    """
    run.scores()
    faults = [*unfit(run.model_dir)]
    if faults:
        raise RunError(_all(run, faults))
    written = card.write(run, model_id=model_id, **card_settings)
    recipe, path = shareable_recipe(run), run.model_dir / "recipe.yaml"
    if not path.is_file() or path.read_text(encoding="utf-8") != recipe:
        write_text(path, recipe)
    files, left_out = listing(run.model_dir)
    found = leaks.find(run.model_dir, files, secrets)
    stopping = [each for each in found if each.what == leaks.IN_USE or not each.is_allowed(allow)]
    faults = [*card.faults(written.metadata, written.text), *_told(stopping)]
    if faults:
        raise RunError(_all(run, faults))
    return Package(files, left_out, written)


@contextmanager
def provisional(run: Run) -> Iterator[None]:
    """What `pack` writes is put back as it was where something is raised: nobody agreed to it."""
    before = _written(run)
    try:
        yield
    except BaseException:
        shutil.rmtree(run.model_dir / "examples", ignore_errors=True)
        for path in _written(run).keys() - before.keys():
            path.unlink()
        for path, content in before.items():
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        raise


def _written(run: Run) -> dict[Path, bytes]:
    folder = run.model_dir
    return {path: path.read_bytes() for path in (folder / "README.md", folder / "recipe.yaml", *folder.glob("examples/**/*")) if path.is_file()}


def shows_examples(run: Run) -> bool:
    """Whether the card shows test rows, as `hfxfer card --card_examples` was told to: a push leaves them."""
    path = run.model_dir / "README.md"
    return path.is_file() and "widget" in split_metadata(path.read_text(encoding="utf-8-sig"))[1]


def _all(run: Run, faults: list[str]) -> str:
    if len(faults) == 1:
        return f"{run.model_dir} cannot be published: {faults[0]}"
    return "\n".join([f"{run.model_dir} cannot be published:", *(f"  - {fault}" for fault in faults)])


def stray(folder: Path, files: Iterable[str], secrets: Iterable[str], readme: str) -> list[str]:
    """What must not go up of the files of a Space, a sentence each. readme: as it is on the Hub, where everybody has seen what it says."""
    never = [fault for name in files if not name.startswith("hfxfer/") for fault in _never(folder / name, name)]
    found = [each for each in leaks.find(folder, files, secrets) if not (each.file == "README.md" and each.seen in readme)]
    return [*never, *_told(found, can_allow=False)]


def _told(findings: list[leaks.Finding], can_allow: bool = True) -> Iterator[str]:
    """A line for each finding, of many in one file and of one kind the first ones."""
    for group in by_kind(findings):
        first = group[0]
        more = f" (and {len(group) - 1} more)" if len(group) > 1 else ""
        mend = "Take it out" if first.what == leaks.IN_USE or not can_allow else f"Take it out, or allow it: --allow {first.file}"
        yield f"{first}{more}. {mend}"


def by_kind(findings: Iterable[leaks.Finding]) -> list[list[leaks.Finding]]:
    """Those of one kind in one file together, in the order in which they were found."""
    groups: dict[tuple[str, str], list[leaks.Finding]] = {}
    for each in findings:
        groups.setdefault((each.file, each.what), []).append(each)
    return list(groups.values())


def listing(folder: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """(path → bytes of what is sent, hidden files that are not), sorted, with slashes."""
    files, hidden = {}, []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file():
            continue
        if any(part.startswith(".") for part in name.split("/")):
            hidden.append(name)
        else:
            files[name] = path.stat().st_size
    return files, tuple(hidden)


def unfit(folder: Path) -> Iterator[str]:
    """What is missing, broken, or must never go up, a sentence each."""
    names, _ = listing(folder)
    for name in names:
        path = folder / name
        never = list(_never(path, name))
        if never:
            yield from never
        elif path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            yield f"{name} is a link to a file outside the folder. Put the file itself there"
        elif path.suffix == ".safetensors":
            yield from _broken_weights(path, name)
        elif path.suffix == ".json":
            yield from _broken_json(path, name)
    yield from (f"{name} is missing. Train the Run again" for name in ("config.json",) if name not in names)
    yield from _missing_weights(folder, names)


def _never(path: Path, name: str) -> Iterator[str]:
    if any(Path(name).match(pattern) for pattern in NEVER):
        yield f"{name} is part of the training, not of the model, and may hold a token. Delete it"
    elif path.suffix.lower() in PICKLES or _is_pickle(path):
        yield f"{name} is a pickle, which runs code in whoever loads it. Save the model as safetensors, and delete it"


def _is_pickle(path: Path) -> bool:
    """True for pickles of protocol 2 and up, and for what torch.save writes."""
    with open(path, "rb") as file:
        begin = file.read(64)
    return begin[:1] == b"\x80" and begin[1:2] in b"\x02\x03\x04\x05" and len(begin) > 1 or begin[:2] == b"PK" and b"/data.pkl" in begin


def _broken_weights(path: Path, name: str) -> Iterator[str]:
    """A safetensors file is as long as its header says, or was cut short."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, leaks.MAX_HEADER)))
        wanted = 8 + length + max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        yield f"{name} is no safetensors file. Train the Run again"
        return
    if path.stat().st_size != wanted:
        yield f"{name} has {path.stat().st_size} bytes; its header says {wanted}. Train the Run again"


def _broken_json(path: Path, name: str) -> Iterator[str]:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        yield f"{name} is no JSON: {error}. Train the Run again"


def _missing_weights(folder: Path, names: dict[str, int]) -> Iterator[str]:
    index = "model.safetensors.index.json"
    if index in names:
        try:
            parts = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            parts = set()
        yield from (f"{part} is missing, which {index} names. Train the Run again" for part in sorted(parts - set(names)))
    elif "model.safetensors" not in names:
        yield "model.safetensors is missing. Train the Run again"


def shareable_recipe(run: Run) -> str:
    """The recipe as others may see it: no path; model and data by name and revision, and what they were as comments."""
    recipe, base, data = run.recipe().shareable(), run.read_json("base.json"), run.read_json("data.json")
    known: dict[str, Any] = {}
    if is_hub_id(recipe.model) and base.get("revision") and recipe.model == base["id"]:
        known["revision"] = str(base["revision"])
    if data.get("revision") and is_hub_id(recipe.data):
        known["data_revision"] = str(data["revision"])
    about = [f"# model: {_named(str(base['id']))}", f"# data: {_named(str(data['source']))}"]
    about[0] += f", revision {base['revision']}" if base.get("revision") else ""
    about[1] += f", revision {data['revision']}" if data.get("revision") else ""
    about[1] += f", fingerprint {data['fingerprint']}" if data.get("fingerprint") else ""
    return "\n".join([*about, replace(recipe, **known).to_yaml()])


def _named(source: str) -> str:
    """A Hub id as it is, of a path the last part."""
    return source if is_hub_id(source) else re.split(r"[\\/]", source.rstrip("/\\"))[-1]


def prove(run: Run) -> tuple[str, ...]:
    """The libraries that load `model/`, found by loading it: one real input gives finite answers, and the same in all. Raises RunError."""
    config = json.loads((run.model_dir / "config.json").read_text(encoding="utf-8"))
    recipe = run.recipe()
    task = tasks.get(run.scores()["task"])
    answers = {"transformers": _by_transformers(run, task, recipe.trust_remote_code)}
    if config.get("model_type") == "timm_wrapper":
        answers["timm"] = _by_timm(run, config)
    first, named = answers["transformers"], run.scores()["labels"]
    for library, (logits, labels) in answers.items():
        if not logits.isfinite().all():
            raise RunError(f"{run.model_dir} gives answers that are no numbers in {library}. Train the Run again")
        if not is_close(logits, first[0]):
            apart = f"by {(logits - first[0]).abs().max():.2g}" if logits.shape == first[0].shape else f"in shape: {tuple(logits.shape)}"
            raise RunError(f"{run.model_dir} gives other logits in {library} than in transformers: they differ {apart}. Train the Run again")
        if named and logits.ndim == 2 and labels != named:  # one answer a row: tags of words have scores by kind of entity
            raise RunError(f"{run.model_dir} has labels in {library} other than those of scores.json: {shown(labels)}. Train the Run again")
    return tuple(answers)


def is_close(logits: Any, expected: Any) -> bool:
    """Whether two tensors of logits are those of one network. Numbers that are none are equal."""
    if logits.shape != expected.shape:
        return False
    room = max(ROUNDING, TOLERANCE * float(expected.nan_to_num().abs().max()))
    return logits.allclose(expected, rtol=0, atol=room, equal_nan=True)


def _by_transformers(run: Run, task: Any, trust: bool) -> tuple[Any, list[str]]:
    """(logits of one input, label names) as anybody gets them with transformers alone."""
    import torch
    import transformers

    folder = str(run.model_dir)
    with _explained(run, "transformers"), quiet_libraries():
        model, info = getattr(transformers, task.auto_model).from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=trust, output_loading_info=True)
        processor = getattr(transformers, task.auto_processor).from_pretrained(folder, trust_remote_code=trust)
        check_words(processor, folder, Pinned())
        if info["missing_keys"]:
            raise RunError(f"model.safetensors lacks {', '.join(sorted(info['missing_keys'])[:leaks.MAX_SHOWN])}")
        given = _picture(run, _channels(model.config)) if task.auto_processor == "AutoImageProcessor" else _sentence(run)
        inputs = processor(given, return_tensors="pt")
        with torch.inference_mode():
            logits = model.eval()(**inputs).logits.float()
    return logits, [str(name) for _, name in sorted((int(index), name) for index, name in model.config.id2label.items())]


def _by_timm(run: Run, config: dict[str, Any]) -> tuple[Any, list[str]]:
    """The same with timm alone, its own transform included."""
    import torch

    timm = require("timm")
    with _explained(run, "timm"), quiet_libraries():
        model = timm.create_model(f"local-dir:{os.path.abspath(run.model_dir)}", pretrained=True).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
        picture = transform(_picture(run, model.pretrained_cfg["input_size"][0]))
        with torch.inference_mode():
            logits = model(picture.unsqueeze(0)).float()
    return logits, [str(name) for name in model.pretrained_cfg.get("label_names") or config.get("label_names") or ()]


class _explained:
    """Whatever a library raises becomes a RunError that names it."""

    def __init__(self, run: Run, library: str):
        self.run, self.library = run, library

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, Exception):
            said = str(error).strip().split("\n")[0].rstrip(".:") or type(error).__name__
            raise RunError(f"{self.run.model_dir} does not load in {self.library}: {said}. Train the Run again") from error


def _example(run: Run) -> dict[str, Any]:
    """The first test row that the Run kept; empty where it kept none."""
    path = run.folder / "examples" / "examples.jsonl"
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line] if path.is_file() else []
    return json.loads(lines[0]) if lines else {}


def _picture(run: Run, channels: int) -> Any:
    """The first test picture, or a pattern where there is none."""
    from PIL import Image

    mode, name = "L" if channels == 1 else "RGB", _example(run).get("image")
    if isinstance(name, str) and (run.folder / "examples" / name).is_file():
        with Image.open(run.folder / "examples" / name) as picture:
            return picture.convert(mode)
    gradient = Image.linear_gradient("L").resize((PICTURE_SIZE, PICTURE_SIZE))
    return Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180))).convert(mode)


def _channels(config: Any) -> int:
    given = getattr(config, "pretrained_cfg", None) or {}
    return int((given.get("input_size") or [getattr(config, "num_channels", 3)])[0])


def _sentence(run: Run) -> str:
    row = _example(run)
    return str(row["text"]) if row.get("text") else " ".join(map(str, row["tokens"])) if row.get("tokens") else SENTENCE
