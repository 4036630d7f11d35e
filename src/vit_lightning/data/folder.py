"""The user's own pictures: a folder with one folder per class."""

from pathlib import Path

import numpy as np

from vit_lightning.data.draws import hold_out
from vit_lightning.data.listing import SplitListing, list_pictures, list_split
from vit_lightning.data.partition import count_of_classes
from vit_lightning.data.pictures import EXTENSIONS, PictureFiles
from vit_lightning.data.splits import Labelled, Splits, count_notes
from vit_lightning.errors import InputError

_LAYOUT = (
    "expected ROOT/train/CLASS/pictures and ROOT/val/CLASS/pictures (ROOT/test is optional), "
    "or ROOT/CLASS/pictures and data.val_fraction"
)
_FLAT_LAYOUT = "expected a folder of pictures for each class: FOLDER/CLASS/pictures"
_SPLIT_FOLDERS = ("train", "val", "test")


def open_folder(root: Path, *, val_fraction: float | None, seed: int) -> Splits:
    """Open a folder of pictures by class.

    ``root`` holds ``train/CLASS``, ``val/CLASS`` and perhaps ``test/CLASS``, or the classes
    themselves. Where there is no ``val``, ``val_fraction`` of the training pictures is held out,
    by class. Folders inside a class belong to it; hidden files and files without a picture's
    extension are skipped, and of links that lead in circles no more than one round is read. Order
    and split are functions of the file names and ``seed``.

    Raises:
        InputError: all that is wrong with the folder, at once.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {_LAYOUT}")
    found = list_pictures(root, _split_folders(root))
    problems = _problems(found, val_fraction)
    if problems:
        raise InputError("\n  ".join([f"{root} cannot be used as a data set:", *problems]))
    classes = tuple(found["train"].classes)
    files = {name: _as_files(root, classes, split) for name, split in found.items()}
    notes = _notes(found)
    if "val" not in files:
        assert val_fraction is not None  # else _problems would have said so
        files["train"], files["val"] = _hold_out(root, files["train"], val_fraction, seed)
        notes.append(f"held out for val: {val_fraction:g} of every class, chosen by seed {seed}")
    elif val_fraction is not None:
        notes.append(f"data.val_fraction is not used: {found['val'].folder} is there")
    notes += _missing_notes(classes, files)
    counts = count_notes(classes, **files)
    return Splits(classes, files["train"], files["val"], files.get("test"), (*counts, *notes))


def open_class_folders(root: Path) -> Labelled:
    """Open a folder that holds a folder for each class, and is not divided into splits.

    Classes are those that have pictures, be it one; else as :func:`open_folder`.

    Raises:
        InputError: there are no pictures, or splits instead of classes.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {_FLAT_LAYOUT}")
    found = list_split(root, root)
    if found.classes and all(_holds_classes(root, name) for name in found.classes):
        least_known = max(found.classes, key=_SPLIT_FOLDERS.index)
        raise InputError(
            f"{root} holds splits ({', '.join(found.classes)}), not classes: name one of them, "
            f"such as {root / least_known}"
        )
    classes = tuple(name for name, count in found.classes.items() if count)
    if not classes:
        extensions = " ".join(sorted(EXTENSIONS))
        raise InputError(f"{root}: no pictures ({extensions}) of any class; {_FLAT_LAYOUT}")
    empty = [name for name, count in found.classes.items() if not count]
    notes = [f"without pictures: {root / name}" for name in empty] + _notes({"": found})
    return Labelled(classes, _as_files(root, classes, found), tuple(notes))


def _holds_classes(root: Path, name: str) -> bool:
    """Whether a folder is rather a split than a class: there are folders in it."""
    return name in _SPLIT_FOLDERS and any(entry.is_dir() for entry in (root / name).iterdir())


def all_pictures(root: Path) -> PictureFiles:
    """The pictures of all splits of a folder, without their classes: every label is 0.

    Raises:
        InputError: the folder holds none, or cannot be read.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {_LAYOUT}")
    try:
        names = next(iter(list_pictures(root, _split_folders(root)).values())).names.whole
    except OSError as error:
        raise InputError(f"{root} cannot be read: {error}") from None
    if not len(names):
        raise InputError(f"{root}: no pictures ({' '.join(sorted(EXTENSIONS))}); {_LAYOUT}")
    return PictureFiles(root, names, np.zeros(len(names), np.int64))


def _split_folders(root: Path) -> dict[str, Path]:
    present = {name: root / name for name in _SPLIT_FOLDERS if (root / name).is_dir()}
    if present and "train" not in present:
        raise InputError(f"{root}: there is {', '.join(present)} but no train; {_LAYOUT}")
    return present or {"train": root}


def _problems(found: dict[str, SplitListing], val_fraction: float | None) -> list[str]:
    problems = []
    train = found["train"]
    if not train.classes:
        problems.append(f"{train.folder} holds no class folders; {_LAYOUT}")
    problems += one_class_problem(train)
    for split in found.values():
        for name, count in split.classes.items():
            if name not in train.classes:
                problems.append(
                    f"{split.folder / name}: this class is not in {train.folder}; add it there, "
                    "or remove it here"
                )
            elif not count:
                problems.append(_empty_class_problem(split, name))
    if val_fraction is not None and not 0 < val_fraction < 1:
        problems.append(f"data.val_fraction must lie between 0 and 1, got {val_fraction:g}")
    if val_fraction is None and "val" not in found:
        problems.append(
            f"there is no {train.folder.parent / 'val' if train.folder.name == 'train' else 'val'} "
            "folder: make one, or set data.val_fraction (0.2, say) to hold out that share of train"
        )
    problems += [
        f"{split.folder} holds no class folders; add them, or remove the folder"
        for name, split in found.items()
        if name != "train" and not split.classes
    ]
    return problems


def one_class_problem(train: SplitListing) -> list[str]:
    """What is said of the training split if it has a single class."""
    if len(train.classes) != 1:
        return []
    only = next(iter(train.classes))
    return [f"{train.folder} holds one class ({only}), two are the least; {_LAYOUT}"]


def empty_class_problems(split: SplitListing) -> list[str]:
    """What is said of each class folder without pictures."""
    return [_empty_class_problem(split, name) for name, n in split.classes.items() if not n]


def _empty_class_problem(split: SplitListing, name: str) -> str:
    return (
        f"{split.folder / name} holds no pictures ({' '.join(sorted(EXTENSIONS))}); "
        "add some, or remove the folder"
    )


def _as_files(root: Path, classes: tuple[str, ...], split: SplitListing) -> PictureFiles:
    # A split lists its classes in the same order, those that it has.
    counts = [split.classes.get(label, 0) for label in classes]
    return PictureFiles(root, split.names, np.repeat(np.arange(len(classes)), counts))


def _hold_out(
    root: Path, everything: PictureFiles, fraction: float, seed: int
) -> tuple[PictureFiles, PictureFiles]:
    kept, held = hold_out(everything.labels, fraction, seed)
    if not len(held):
        raise InputError(
            f"{root}: nothing can be held out, as every class has a single picture; add pictures"
        )
    return everything.subset(kept), everything.subset(held)


def _notes(found: dict[str, SplitListing]) -> list[str]:
    notes = []
    for split in found.values():
        if split.skipped:
            counts = ", ".join(f"{count} {what}" for what, count in sorted(split.skipped.items()))
            notes.append(f"skipped in {split.folder}, as no pictures of a class: {counts}")
        if split.unfollowed:
            shown = ", ".join(split.unfollowed[:5]) + (", …" if len(split.unfollowed) > 5 else "")
            notes.append(f"not followed, as the folder is read already: {shown}")
    return notes


def _missing_notes(classes: tuple[str, ...], files: dict[str, PictureFiles]) -> list[str]:
    """Classes of train that another split lacks: allowed, but their figures will be empty."""
    notes = []
    for name, pictures in files.items():
        present = np.bincount(pictures.labels, minlength=len(classes))
        missing = [label for label, count in zip(classes, present, strict=True) if not count]
        if missing:
            shown = ", ".join(missing[:10]) + (", …" if len(missing) > 10 else "")
            notes.append(f"{name} has no pictures of {count_of_classes(len(missing))}: {shown}")
    return notes
