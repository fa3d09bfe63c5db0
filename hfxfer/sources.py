"""Whatever the user calls data → `Source`: one `Table` a split. Folders, files, Hub ids and Python objects.

Split names: train|training, validation|val|valid|dev|eval, test|testing, in any letter case; a source without
them is one table, taken as train. Reading does not depend on the order in which a file system lists its files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hfxfer import folders, tables
from hfxfer.errors import DataError
from hfxfer.tables import Source, Table, split_name

STRAY_NAMES = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"}


def read_source(data: Any, settings: Any) -> Source:
    """Read every split of `data`: a path, a Hub id or a Python object. Raises DataError.

    settings: data_config and data_revision choose a Hub dataset's configuration and revision.
    """
    if isinstance(data, Source):
        return data
    if not isinstance(data, str | os.PathLike):
        return read_object(data)
    if not os.fspath(data).strip():
        raise DataError("data is empty. Give a folder, a file or a Hub dataset id: --data PATH")
    path = Path(data).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if path.exists():
        return Source(path.name, {"train": tables.read_table(path)}, named=False)
    if _looks_like_path(os.fspath(data)):
        raise DataError(f"{data} does not exist. Give a folder, a file ({' '.join(tables.SUFFIXES)}) or a Hub dataset "
                        f"id. Looked in {Path.cwd()}")
    return _read_hub(os.fspath(data), settings)


def _looks_like_path(text: str) -> bool:
    return (
        not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text)
        or text.startswith((".", "~", "/"))
        or text.lower().endswith((*tables.SUFFIXES, ".txt", ".zip", ".xlsx", ".arrow"))
    )


def _read_folder(folder: Path) -> Source:
    name = folder.resolve().name
    if is_saved(folder):
        return _read_saved(folder, name)
    files = list_files(folder)
    if not files:
        raise DataError(f"{folder} is empty. Put class folders with pictures into it, or train.csv and test.csv "
                        f"(also {' '.join(tables.SUFFIXES[1:])})")
    grouped = folders.tables_by_split(files)
    if grouped:
        parts = {split: [tables.read_table(folder / file) for file in group] for split, group in grouped.items()}
        for split, group in grouped.items():
            _place_in_folders(parts[split], group)
        named = None not in parts
        return Source(name, {split or "train": tables.joined(some, name) for split, some in parts.items()}, named)
    return folders.read_images(folder, files)


def is_saved(folder: Path) -> bool:
    """True for what `save_to_disk` wrote."""
    return (folder / "dataset_dict.json").exists() or (
        (folder / "state.json").exists() and (folder / "dataset_info.json").exists())


def _place_in_folders(parts: list[Table], files: list[str]) -> None:
    """"data/a.csv:3" instead of "a.csv:3", where the file lies deeper."""
    for part, file in zip(parts, files):
        if "/" in file:
            above = file.rsplit("/", 1)[0]
            part.place = lambda i, place=part.place, above=above: f"{above}/{place(i)}"


def list_files(folder: Path) -> list[str]:
    """Every file below `folder` as "a/b.jpg", sorted; hidden and stray ones left out, links followed once."""
    found, seen = [], set()
    for above, inner, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(above)
        if real in seen:
            inner[:] = []
            continue
        seen.add(real)
        inner[:] = [name for name in inner if not _is_stray(name)]
        relative = Path(above).relative_to(folder).as_posix()
        found += [name if relative == "." else f"{relative}/{name}" for name in names if not _is_stray(name)]
    return sorted(found)


def _is_stray(name: str) -> bool:
    return name.startswith(".") or name.lower() in STRAY_NAMES


def _read_saved(folder: Path, name: str) -> Source:
    from datasets import load_from_disk

    try:
        return read_object(load_from_disk(os.fspath(folder)), name)
    except DataError:
        raise
    except Exception as error:  # Arrow, JSON and file-system errors: all mean a folder that is not whole.
        raise DataError(f"{folder} looks like a save_to_disk folder and cannot be read: {_first_line(error)}. "
                        "Save it again with Dataset.save_to_disk") from error


def _read_hub(name: str, settings: Any) -> Source:
    import datasets

    config, revision = getattr(settings, "data_config", None), getattr(settings, "data_revision", None)
    try:
        loaded = datasets.load_dataset(name, name=config, revision=revision)
    except Exception as error:  # The network, the Hub and any builder raise what they like; each means: not loaded.
        raise DataError(hub_message(name, config, error)) from error
    source = read_object(loaded, name)
    return Source(name, source.splits, source.named, revision or _commit(loaded), config)


def hub_message(name: str, config: str | None, error: Exception) -> str:
    """Why `load_dataset` failed and what to do, in a sentence or two."""
    text = f"{type(error).__name__}: {_first_line(error)}"
    if "config name is missing" in str(error).lower():
        configs = re.search(r"\[(.*?)\]", str(error))
        named = f" Configurations: {configs.group(1)}." if configs else ""
        return f"Hub dataset {name} has several configurations.{named} Choose one with --data_config"
    if config and "BuilderConfig" in str(error):
        return f"Hub dataset {name} has no configuration {config!r} ({text}). Choose another with --data_config"
    if _is_offline():
        return (f"{name} is no file or folder here, and the Hub is switched off (HF_HUB_OFFLINE=1) with no copy of the "
                f"dataset in the cache. Unset HF_HUB_OFFLINE, or give a path ({text})")
    return (f"{name} is no file or folder here, and could not be loaded from the Hub ({text}). Check the spelling and "
            "the network; a private dataset needs `hf auth login`; or give a path")


def _is_offline() -> bool:
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
               for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"))


def _commit(loaded: Any) -> str | None:
    """The commit that `datasets` resolved: it stands in the addresses of the downloaded files."""
    parts = loaded.values() if isinstance(loaded, dict) else [loaded]
    for part in parts:
        for address in getattr(part.info, "download_checksums", None) or {}:
            found = re.search(r"@([0-9a-f]{40})/", address)
            if found:
                return found.group(1)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0]


def read_object(data: Any, name: str = "data") -> Source:
    """A Python object: Dataset, DatasetDict, IterableDataset, a dict of splits or of columns, DataFrame, rows."""
    if isinstance(data, dict):
        if data and all(isinstance(cells, list | tuple) for cells in data.values()) and not _are_rows(data):
            return Source(name, {"train": _table(_rows_of(data, name), name)}, named=False)
        return Source(name, _named_splits({key: _table(part, f"{name}[{key!r}]") for key, part in data.items()}, name))
    return Source(name, {"train": _table(data, name)}, named=False)


def _are_rows(data: dict) -> bool:
    """True for a dict of splits that are lists of rows; False for a dict of columns."""
    return (any(split_name(str(key)) for key in data)
            and all(isinstance(row, dict) for rows in data.values() for row in rows))


def _rows_of(columns: dict[str, list], name: str) -> list[dict]:
    lengths = {key: len(cells) for key, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{name}: the columns differ in length: {lengths}")
    return [dict(zip(columns, cells)) for cells in zip(*columns.values())]


def _named_splits(parts: dict[str, Table], name: str) -> dict[str, Table]:
    splits: dict[str, Table] = {}
    for key, table in parts.items():
        split = split_name(str(key)) or str(key)
        if split in splits:
            raise DataError(f"{name}: two splits mean {split}: {', '.join(map(str, parts))}. Keep one of them")
        splits[split] = table
    return splits


def _table(data: Any, what: str) -> Table:
    if isinstance(data, Table):
        return data
    kinds = {kind.__name__ for kind in type(data).__mro__ if kind.__module__.split(".")[0] in ("datasets", "pandas")}
    if "DataFrame" in kinds:
        return tables.from_frame(data, what)
    if "Dataset" in kinds:
        return tables.from_dataset(data, what)
    if "IterableDataset" in kinds:
        table = tables.from_rows(tables.undecoded(data), what, total=_known_length(data))
        table.features = data.features.to_dict() if data.features else {}
        return table
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | dict):
        return tables.from_rows(data, what)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):  # A map-style torch Dataset.
        return tables.from_rows((data[i] for i in range(len(data))), what, total=len(data))
    raise DataError(f"{what} is a {type(data).__name__}. Allowed: a path, a Hub dataset id, Dataset, DatasetDict, "
                    "IterableDataset, a pandas DataFrame, a list of dicts")


def _known_length(data: Any) -> int | None:
    split = getattr(data, "split", None)
    return (data.info.splits or {})[split].num_examples if data.info.splits and split in data.info.splits else None
