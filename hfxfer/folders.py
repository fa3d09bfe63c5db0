"""Folders of pictures and of table files: which file belongs to which split and class. Works on names only.

A class is the folder directly below the split's folder (or below the data folder where there are no splits);
pictures deeper down belong to it. A `metadata.csv|jsonl|parquet` with a `file_name` column takes the place of
class folders, as in the `imagefolder` layout of `datasets`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from hfxfer import tables
from hfxfer.errors import DataError
from hfxfer.images import is_image_name
from hfxfer.tables import Source, Table, hint_ignored, split_name

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def tables_by_split(files: list[str]) -> dict[str | None, list[str]]:
    """Table files by split; {None: files} where no name says a split; {} where the pictures are the data."""
    found = [file for file in files if file.lower().endswith(tables.SUFFIXES)]
    if any(file.rsplit("/", 1)[-1].lower() in METADATA for file in found):
        return {}
    by_split = defaultdict(list)
    for file in found:
        by_split[table_split(file)].append(file)
    unnamed = by_split.pop(None, [])
    if by_split:
        hint_ignored(unnamed, "no split in the name")
        for split, group in by_split.items():
            _check_one_format(split, group)
        return dict(by_split)
    if not unnamed or len({file.rsplit("/", 1)[0] for file in files if is_image_name(file) and "/" in file}) > 1:
        return {}  # Pictures in two folders or more are classes; in one folder they belong to the table.
    _check_one_format("train", unnamed)
    return {None: unnamed}


def table_split(file: str) -> str | None:
    """"data/train-00000-of-00002.parquet" → "train"; "Test/part.csv" → "test"; "labels.csv" → None."""
    *above, name = file.split("/")
    for part in re.split(r"[^a-zA-Z]+", name.rsplit(".", 1)[0]):
        if split_name(part):
            return split_name(part)
    return next((split_name(folder) for folder in above if split_name(folder)), None)


def _check_one_format(split: str | None, files: list[str]) -> None:
    if len({file.rsplit(".", 1)[-1].lower() for file in files}) > 1:
        raise DataError(f"several files for {split} in different formats: {', '.join(files)}. Keep one format")


def read_images(folder: Path, files: list[str]) -> Source:
    """An image folder → columns `image` (path) and `label` (folder name), or what metadata files say."""
    name = folder.resolve().name
    if any(file.rsplit("/", 1)[-1].lower() in METADATA for file in files):
        return _read_metadata(folder, files, name)
    pictures = [file for file in files if is_image_name(file)]
    if not pictures:
        raise DataError(f"{folder} holds neither pictures nor tables; first file: {files[0]}. Allowed: class folders "
                        f"with pictures, or {' '.join(tables.SUFFIXES)} files")
    root = _unwrapped(pictures)
    by_split = _pictures_by_split(pictures, root)
    named = None not in by_split
    splits = {split or "train": _picture_table(folder, group, base) for split, (base, group) in by_split.items()}
    if "train" in splits and not any(splits["train"].columns["label"]):
        raise DataError(f"the pictures in {folder} lie in no class folder; first: {splits['train'].place(0)}. Put them "
                        "into one folder a class, or list them in metadata.csv with the columns file_name,label")
    return Source(name, splits, named, empty_folders=_empty_folders(folder, splits))


def _unwrapped(pictures: list[str], base: str = "") -> str:
    """The folder in which splits or classes lie: goes down while everything lies in one folder that is no split.

    A single folder whose pictures lie directly in it is a class, not a wrapper.
    """
    inside = [file[len(base):] for file in pictures]
    first = {file.split("/", 1)[0] for file in inside}
    only = first.pop() if len(first) == 1 else None
    if only is None or split_name(only) or any(file.count("/") < 2 for file in inside):
        return base
    return _unwrapped(pictures, f"{base}{only}/")


def _pictures_by_split(pictures: list[str], root: str) -> dict[str | None, tuple[str, list[str]]]:
    """Split → (its folder with a slash, its files); {None: …} where the folders are classes."""
    tops = defaultdict(list)
    for file in pictures:
        inside = file[len(root):]
        tops[inside.split("/", 1)[0] if "/" in inside else ""].append(file)
    named = {top: split_name(top) for top in tops if split_name(top)}
    others = [top for top in tops if top not in named]
    classes_below = {top: any(f[len(root) + len(top) + 1:].count("/") for f in tops[top]) for top in named}
    if not named or (others and not any(classes_below[top] for top in named)):
        return {None: (root, pictures)}
    if len(set(named.values())) < len(named):
        twice = sorted(top for top, split in named.items() if list(named.values()).count(split) > 1)
        raise DataError(f"two folders mean the same split: {', '.join(twice)}. Keep one of them")
    hint_ignored((f"{root}{top}/" if top else "pictures beside the split folders" for top in others),
                 "beside the split folders")
    return {split: (_unwrapped(tops[top], f"{root}{top}/"), tops[top]) for top, split in named.items()}


def _picture_table(folder: Path, files: list[str], base: str) -> Table:
    labels, faults = [], {}
    for i, file in enumerate(files):
        inside = file[len(base):]
        labels.append(inside.split("/", 1)[0] if "/" in inside else None)
    if any(labels):
        faults = {i: "lies in no class folder" for i, label in enumerate(labels) if label is None}
    columns = {"image": [str(folder / file) for file in files], "label": labels}
    return Table(columns, files.__getitem__, {"image": {"_type": "Image"}}, faults=faults)


def _empty_folders(folder: Path, splits: dict[str, Table]) -> list[str]:
    """Class folders that hold no picture."""
    used = {Path(path).parent for table in splits.values() for path in table.columns["image"]}
    parents = {folder / table.place(i) for table in splits.values() for i in range(table.num_rows)}
    beside = {path.parent.parent for path in parents}
    empty = (inner for above in beside if above == folder or folder in above.parents
             for inner in above.iterdir() if inner.is_dir() and not inner.name.startswith((".", "__")))
    return sorted(path.relative_to(folder).as_posix() for path in empty
                  if not any(path == one or path in one.parents for one in used))


def _read_metadata(folder: Path, files: list[str], name: str) -> Source:
    parts: dict[str | None, list[Table]] = defaultdict(list)
    for file in files:
        if file.rsplit("/", 1)[-1].lower() not in METADATA:
            continue
        above = file.rsplit("/", 1)[0] + "/" if "/" in file else ""
        table = tables.read_table(folder / file)
        table.place = lambda i, place=table.place, above=above: f"{above}{place(i)}"
        split = next((split_name(part) for part in above.split("/") if split_name(part)), None)
        for key, part in ({split: table} if split else _by_first_folder(table)).items():
            names = tables.whole(part.columns.get("file_name", []))
            if names:
                part.columns["file_name"] = [str(part.folder / name) if name else None for name in names]
                part.folder = None
            parts[key].append(part)
    if None in parts and len(parts) > 1:
        raise DataError(f"{folder}: some metadata files lie in a split's folder and some do not. Move them all into "
                        "train/, validation/ and test/")
    return Source(name, {split or "train": tables.joined(some, name) for split, some in parts.items()},
                  named=None not in parts)


def _by_first_folder(table: Table) -> dict[str | None, Table]:
    """One metadata file above the split folders: its `file_name` says the split ("train/1.jpg")."""
    names = [str(cell) for cell in tables.whole(table.columns.get("file_name", []))]
    splits = [split_name(name.split("/", 1)[0]) if "/" in name else None for name in names]
    if not names or None in splits:
        return {None: table}
    cells = {name: tables.whole(column) for name, column in table.columns.items()}
    parts = {}
    for split in dict.fromkeys(splits):
        rows = [i for i, own in enumerate(splits) if own == split]
        parts[split] = Table(
            {name: [column[i] for i in rows] for name, column in cells.items()},
            lambda i, rows=rows: table.place(rows[i]), table.features, table.folder,
            {k: table.faults[i] for k, i in enumerate(rows) if i in table.faults}, table.typed)
    return parts
