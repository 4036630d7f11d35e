"""What to look at: a folder of pictures, or the pictures of an experiment."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vit_lightning.data.folder import empty_class_problems, one_class_problem
from vit_lightning.data.listing import list_split
from vit_lightning.data.pictures import EXTENSIONS, PictureFiles, Pictures
from vit_lightning.data.splits import Splits, class_counts
from vit_lightning.errors import InputError
from vit_lightning.experiment import Experiment, load_experiment

_SPLITS = ("train", "val", "test")
_LAYOUT = "expected class folders of pictures, or train, val and test with class folders in them"


@dataclass(frozen=True, eq=False)
class NamedSplit:
    """One split.

    Args:
        name: ``train``, ``val``, ``test``, or ``pictures`` for a folder without splits.
        pictures: what is in it; a label is an index into ``classes``.
        classes: names.
    """

    name: str
    pictures: Pictures
    classes: tuple[str, ...]

    def label(self, index: int) -> str:
        """The class of a picture; of several, all."""
        label = self.pictures.labels[index]
        if label.ndim:
            return ", ".join(name for name, has in zip(self.classes, label, strict=True) if has)
        return self.classes[int(label)]

    def counts(self) -> dict[str, int]:
        """Class → pictures; classes without pictures too."""
        counts = class_counts(self.pictures.labels, len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))


@dataclass(frozen=True, eq=False)
class Source:
    """A data set to look at.

    Args:
        title: what it was called.
        root: the folder it lies in, or None.
        splits: its parts, in the order train, val, test.
        notes: sentences on what was and was not read.
        problems: sentences on what a training could not be started with.
        experiment: its settings, where it was named by an experiment file.

    Pictures are those of the files, whatever an experiment says of decoding and caching.
    """

    title: str
    root: Path | None
    splits: tuple[NamedSplit, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())
    experiment: Experiment | None = None


def open_source(path: Path, overrides: Sequence[str] = ()) -> Source:
    """Open a folder or an experiment file.

    What a training would refuse, such as classes that a split lacks, is opened: it is what the
    check is to tell of.

    Args:
        path: a folder with class folders, with ``train``, ``val`` or ``test`` above them, or of
            pictures alone; or an experiment file.
        overrides: such as ``data.root=elsewhere``, for an experiment file.

    Raises:
        InputError: there is no such path, or there are no pictures.
    """
    if path.is_dir():
        if overrides:
            raise InputError(f"{path} is a folder: {overrides[0]} is for experiment files")
        return _folder(path)
    if path.suffix.lower() != ".json":
        what = "is no folder and no experiment file" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; {_LAYOUT}; or an experiment file (JSON)")
    experiment = load_experiment(path, overrides)
    from vit_lightning.assemble import open_splits  # seconds, for Lightning

    try:
        as_they_are = {"decoding": "full", "cache": None}
        data = experiment.data.model_copy(update=as_they_are)
        splits = open_splits(experiment.model_copy(update={"data": data}))
        return _of_splits(path, experiment, splits)
    except InputError as error:
        root = _root(experiment)
        if experiment.data.name != "folder" or root is None or not root.is_dir():
            raise
        found = _folder(root)
        first, *others = (line.strip() for line in str(error).splitlines())
        problem = f"{first} {'; '.join(others)}".strip()
        return Source(str(path), root, found.splits, found.notes, (problem,), experiment)


def _of_splits(path: Path, experiment: Experiment, splits: Splits) -> Source:
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    named = [
        NamedSplit(name, pictures, splits.classes)
        for name, pictures in parts.items()
        if pictures is not None
    ]
    return Source(str(path), _root(experiment), tuple(named), splits.notes, (), experiment)


def _root(experiment: Experiment) -> Path | None:
    root = experiment.data.root
    return None if root is None else Path(root).expanduser()


def _folder(root: Path) -> Source:
    try:
        folders = {name: root / name for name in _SPLITS if (root / name).is_dir()}
        notes, problems = _left_out(root, folders), list[str]()
        splits = [
            _named(root, name, folder, notes, problems)
            for name, folder in (folders or {"pictures": root}).items()
        ]
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error}") from None
    if not any(len(split.pictures) for split in splits):
        raise InputError(f"{root}: no pictures ({' '.join(sorted(EXTENSIONS))}); {_LAYOUT}")
    return Source(str(root), root, tuple(splits), tuple(notes), tuple(problems))


def _named(
    root: Path, name: str, folder: Path, notes: list[str], problems: list[str]
) -> NamedSplit:
    split = list_split(root, folder)
    if name in ("train", "pictures"):
        problems += one_class_problem(split)
    problems += empty_class_problems(split)
    names = split.names if split.classes else _loose(root, folder)
    classes = split.classes or {folder.name: len(names)}
    labels = np.repeat(np.arange(len(classes)), list(classes.values()))
    skipped = dict(split.skipped) if split.classes else {}
    if skipped:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(skipped.items()))
        notes.append(f"skipped in {folder}, as no pictures of a class: {counts}")
    notes += [f"not followed, as the folder is read already: {link}" for link in split.unfollowed]
    return NamedSplit(name, PictureFiles(root, names, labels), tuple(classes))


def _loose(root: Path, folder: Path) -> list[str]:
    """Pictures that lie in the folder itself, for one without class folders."""
    prefix = folder.relative_to(root).as_posix()
    files = sorted(entry.name for entry in os.scandir(folder) if not entry.is_dir())
    found = [
        file
        for file in files
        if Path(file).suffix.lower() in EXTENSIONS and not file.startswith(".")
    ]
    return found if prefix == "." else [f"{prefix}/{file}" for file in found]


def _left_out(root: Path, splits: dict[str, Path]) -> list[str]:
    beside = sorted(
        entry.name
        for entry in root.iterdir()
        if splits and entry.is_dir() and entry.name not in splits and entry.name[0] != "."
    )
    return [f"not read, as no split: {json.dumps(name)}" for name in beside]
