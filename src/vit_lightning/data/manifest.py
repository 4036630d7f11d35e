"""A data set as a table: the path, the label or labels and perhaps the split of every picture."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vit_lightning.data.names import PackedNames
from vit_lightning.data.parquet import read_parquet
from vit_lightning.data.partition import (
    SPLIT_NAMES,
    Divisible,
    class_problems,
    code_labels,
    divide,
    split_problems,
)
from vit_lightning.data.pictures import PictureFiles
from vit_lightning.data.splits import Labelled, Splits
from vit_lightning.data.tables import (
    DELIMITERS,
    EXPECTED_COLUMNS,
    Table,
    quoted,
    read_text,
)
from vit_lightning.errors import InputError

_PARQUET = ".parquet"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)

_NO_PATH = "without a path"
_NO_LABEL = "with an empty label"
_NUL = "with a NUL character in the path"
_REMOTE = "with an address for a path: download the pictures, and give the files"
_ABSENT = "whose path is no file"
_SPLIT = "of an unknown split, where train, val or test was expected"
_TWICE = "with a picture that the same split has already; keep one row of each"
_LEAK = (
    "with a picture that another split has already, which would be tested on what was learnt; "
    "keep each picture in one split"
)
_USUAL_SEPARATORS = "|;,/+"
_UNSEEN = "with a label that no picture of train has; add some there, or remove these"


def open_manifest(
    path: Path, *, val_fraction: float | None, seed: int, label_separator: str | None = None
) -> Splits:
    """Open a manifest: a table with the columns ``path``, ``label`` and perhaps ``split``.

    Paths are absolute or relative to the manifest's folder. Splits are ``train``, ``val`` (or
    ``validation``) and ``test``; where there is no ``val``, ``val_fraction`` of ``train`` is held
    out, by class. Classes are in the order of their names.

    Args:
        path: a ``.csv``, ``.tsv`` (both in UTF-8) or ``.parquet`` file.
        val_fraction: share to hold out, in (0, 1).
        seed: of that choice.
        label_separator: between the labels of a picture in a text file, which then may have
            several, or none (an empty cell). In a Parquet file the labels are a list.

    Raises:
        InputError: all that is wrong with the table, at once.
    """
    table = _read(path, label_separator)
    splits = _splits(table)
    _check_rows(table, path.parent, splits)
    classes = _classes(table, splits)
    problems = table.findings.sentences()
    problems += split_problems(filter(None, splits), val_fraction)
    if "train" in splits:
        problems += class_problems(classes)
    _refuse(path, problems)
    found: dict[str, Divisible] = {}
    names = PackedNames.pack(table.paths)  # one list for all splits, which thus share a cache
    for name in filter(splits.__contains__, ("train", "val", "test")):
        rows = [row for row, split in enumerate(splits) if split == name]
        labels = [table.labels[row] for row in rows]
        coded = code_labels(str(path), labels, classes, several=table.several)
        own = names.subset(np.array(rows, np.int64))
        found[name] = PictureFiles(path.parent, own, coded, path.stem)
    notes = [f"columns not used: {', '.join(table.unused)}"] if table.unused else []
    notes += _joined_labels(classes)
    return divide(
        str(path), tuple(classes), found, val_fraction=val_fraction, seed=seed, notes=notes
    )


def open_rows(path: Path, *, label_separator: str | None = None) -> Labelled:
    """Open all rows of a manifest, whatever their split; the rest is as of :func:`open_manifest`.

    Classes are those that rows name, be it one.

    Raises:
        InputError: all that is wrong with the table, at once.
    """
    table = _read(path, label_separator)
    _check_rows(table, path.parent, ["test"] * len(table.paths))
    _refuse(path, table.findings.sentences())
    classes = sorted({name for labels in set(table.labels) for name in labels})
    coded = code_labels(str(path), table.labels, classes, several=table.several)
    unused = (*table.unused, *(["split"] if table.splits is not None else []))
    notes = (f"columns not used: {', '.join(unused)}",) if unused else ()
    return Labelled(tuple(classes), PictureFiles(path.parent, table.paths, coded, path.stem), notes)


def _joined_labels(classes: Sequence[str]) -> list[str]:
    """A note on classes that look like several labels of a picture."""
    known = set(classes)
    for name in classes:
        for separator in _USUAL_SEPARATORS:
            parts = [part.strip() for part in name.split(separator)]
            if len(parts) > 1 and known.intersection(parts):
                return [
                    f"the class {quoted(name)} looks like several labels: if it is, set "
                    f"data.label_separator to {separator!r}"
                ]
    return []


def _refuse(path: Path, problems: Sequence[str]) -> None:
    if problems:
        raise InputError("\n  ".join([f"{path} cannot be used as a data set:", *problems]))


def _read(path: Path, separator: str | None) -> Table:
    suffix = path.suffix.lower()
    if suffix not in (*DELIMITERS, _PARQUET):
        expected = ", ".join((*DELIMITERS, _PARQUET))
        raise InputError(f"{path} is no manifest: expected a file in {expected}")
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a manifest with {EXPECTED_COLUMNS}")
    if suffix == _PARQUET and separator is not None:
        raise InputError(
            "data.label_separator is for .csv and .tsv files; in a .parquet file several labels "
            "are a list of strings: remove it"
        )
    try:
        table = read_parquet(path) if suffix == _PARQUET else read_text(path, separator)
    except (OSError, MemoryError) as error:
        said = str(error) or "there is not enough memory"
        raise InputError(f"{path} cannot be read: {said}") from None
    if not table.paths and not table.findings:
        raise InputError(f"{path} has no rows below its header")
    return table


def _splits(table: Table) -> list[str]:
    """Of every row ``train``, ``val`` or ``test``; empty for another, which is a finding."""
    if table.splits is None:
        return ["train"] * len(table.paths)
    known = {name: SPLIT_NAMES.get(name.strip().lower(), "") for name in set(table.splits)}
    for place, name in zip(table.places, table.splits, strict=True):
        if not known[name]:
            table.findings.add(_SPLIT, f"{table.unit} {place} {quoted(name)}")
    return [known[name] for name in table.splits]


def _check_rows(table: Table, folder: Path, splits: Sequence[str]) -> None:
    findings, unit = table.findings, table.unit
    base = folder.absolute()
    seen: dict[str, int] = {}
    present = _present(table.paths, folder)
    rows = zip(table.paths, table.labels, table.places, splits, strict=True)
    for row, (path, labels, place, split) in enumerate(rows):
        if "" in labels:
            findings.add(_NO_LABEL, f"{unit} {place}")
        kind = _path_problem(path, present)
        if kind:
            findings.add(kind, f"{unit} {place} {quoted(path)}")
            continue
        first = seen.setdefault(_below(path, base), row)
        if first != row:
            kind = _TWICE if splits[first] == split else _LEAK
            where = f"{quoted(path)} (first in {unit} {table.places[first]})"
            findings.add(kind, f"{unit} {place} {where}")


def _path_problem(path: str, present: set[str]) -> str | None:
    if path in present:
        return None
    if not path:
        return _NO_PATH
    if "\0" in path:
        return _NUL
    return _REMOTE if _ADDRESS.match(path) else _ABSENT


def _below(path: str, folder: Path) -> str:
    """The same for all ways of writing the path of one file, relative to its folder or not."""
    if "//" not in path and "./" not in path and not os.path.isabs(path):  # noqa: PTH117  # quick
        return path
    return os.path.normpath(folder / path).removeprefix(f"{folder}{os.sep}")


def _present(paths: Sequence[str], folder: Path) -> set[str]:
    """Those of the paths that are files; each folder is listed once, as that is much quicker."""
    wanted = set(paths)
    present: set[str] = set()
    for head in {path[: path.rfind("/") + 1] for path in wanted}:
        present |= wanted & _files_in(folder, head)
    # Asked for one by one where case or accents are not what was listed, but mean the same there.
    present.update(path for path in wanted - present if _is_file(folder / path))
    return present


def _files_in(folder: Path, head: str) -> set[str]:
    try:
        with os.scandir(folder / head) as entries:
            return {head + entry.name for entry in entries if _is_file(entry)}
    except (OSError, ValueError):  # no such folder, or a name that none can have
        return set()


def _is_file(entry: os.DirEntry[str] | Path) -> bool:
    try:
        return entry.is_file()
    except (OSError, ValueError):  # a link that leads to itself, a name that none can have
        return False


def _classes(table: Table, splits: Sequence[str]) -> list[str]:
    """Names of the labels of ``train``, sorted; labels that it lacks are findings."""
    rows = list(zip(table.labels, splits, strict=True))
    known = {name for labels in {own for own, split in rows if split == "train"} for name in labels}
    strange = {own for own in set(table.labels) if not known.issuperset(own)}
    for place, (labels, split) in zip(table.places, rows, strict=True):
        if labels in strange and split not in ("", "train"):
            names = ", ".join(quoted(name) for name in labels if name not in known)
            table.findings.add(_UNSEEN, f"{table.unit} {place} {names}")
    return sorted(known - {""})
