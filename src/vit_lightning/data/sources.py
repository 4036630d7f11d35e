"""Data sets by name."""

import difflib
from pathlib import Path

from vit_lightning.data.cifar import open_cifar
from vit_lightning.data.digits import open_digits
from vit_lightning.data.folder import open_class_folders, open_folder
from vit_lightning.data.huggingface import open_huggingface
from vit_lightning.data.hymenoptera import open_hymenoptera
from vit_lightning.data.manifest import open_manifest, open_rows
from vit_lightning.data.splits import Labelled, Splits
from vit_lightning.data.tables import DELIMITERS
from vit_lightning.errors import InputError

DATASETS = ("folder", "manifest", "huggingface", "hymenoptera", "cifar10", "cifar100", "digits")
_UNDIVIDED = ("folder", "manifest", "huggingface")  # perhaps without a split of their own


def open_dataset(
    name: str,
    root: Path | None,
    *,
    val_fraction: float | None,
    seed: int,
    label_separator: str | None = None,
) -> Splits:
    """Open a data set, downloading it if it is a published one that ``root`` does not hold.

    Args:
        name: one of ``DATASETS``.
        root: ``folder`` and ``hymenoptera``: the folder with the pictures; ``manifest``: the table;
            ``huggingface``: the id or the folder; ``cifar10`` and ``cifar100``: the folder with the
            archive; ``digits`` has none.
        val_fraction: share of every class to hold out, in (0, 1), where one of the first three
            sources has no split of its own; the other sets have one.
        seed: of that choice, and of the digits' split; in [0, 2**64).
        label_separator: between the labels of a picture, in a ``manifest`` in text.

    Raises:
        InputError: the set cannot be had or is not what it should be.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"data.name must be one of {', '.join(DATASETS)}, got {name!r}{hint}")
    if name not in _UNDIVIDED and val_fraction is not None:
        raise InputError(
            f"data.val_fraction is for data.name {', '.join(_UNDIVIDED)}; {name} has its own "
            "split: remove it"
        )
    if name != "manifest" and label_separator is not None:
        raise InputError(f"data.label_separator is for data.name manifest, not {name}: remove it")
    if name == "digits":
        return open_digits(seed)
    if root is None:
        raise InputError(f"data.root is missing: where the data set {name} is")
    try:
        if name == "folder":
            return open_folder(root, val_fraction=val_fraction, seed=seed)
        if name == "manifest":
            return open_manifest(
                root, val_fraction=val_fraction, seed=seed, label_separator=label_separator
            )
        if name == "huggingface":
            return open_huggingface(root.as_posix(), val_fraction=val_fraction, seed=seed)
        if name == "hymenoptera":
            return open_hymenoptera(root)
        return open_cifar(name, root)
    except OSError as error:  # no permission, no space: the system's words name file and cause
        raise InputError(f"data.root {root} cannot be used: {error}") from None


def open_labelled(path: Path, *, label_separator: str | None = None) -> Labelled:
    """Open pictures to evaluate on, which need no splits and may be of any classes.

    Args:
        path: a folder with a folder of pictures for each class, or a manifest, of which all rows
            are taken.
        label_separator: between the labels of a picture, in a manifest in text.

    Raises:
        InputError: there are no pictures, or something is wrong with the folder or the table.
    """
    try:
        if path.is_dir():
            return open_class_folders(path)
        if not path.exists():
            raise InputError(f"{path}: no such folder or table of pictures")
        in_text = path.suffix.lower() in DELIMITERS
        return open_rows(path, label_separator=label_separator if in_text else None)
    except OSError as error:
        raise InputError(f"{path} cannot be used: {error}") from None
