"""From what a source found to a data set: what is held out, and what people are told."""

from collections.abc import Iterable, Sequence
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from vit_lightning.data.draws import hold_out
from vit_lightning.data.pictures import Labels, Pictures
from vit_lightning.data.splits import Splits, class_counts, count_notes
from vit_lightning.errors import InputError

# What people call the splits, in lower case.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
_MOST_LABEL_BYTES = 1 << 32  # of pictures × classes


class Divisible(Pictures, Protocol):
    """Pictures of which a part can be had."""

    def subset(self, indices: NDArray[np.int64]) -> Self:
        """The pictures at ``indices``, in that order."""


def divide(
    where: str,
    classes: tuple[str, ...],
    found: dict[str, Divisible],
    *,
    val_fraction: float | None,
    seed: int,
    notes: Sequence[str] = (),
) -> Splits:
    """A data set of the splits that were found; without ``val``, part of ``train`` is held out.

    Args:
        where: the source, as an error calls it.
        classes: names.
        found: train, and perhaps val and test.
        val_fraction: share of every class to hold out, in (0, 1), if there is no val.
        seed: of that choice.
        notes: to be told after those on counts and splits.

    Raises:
        InputError: nothing can be held out.
    """
    told = []
    if "val" not in found:
        assert val_fraction is not None  # else split_problems has said so
        kept, held = hold_out(found["train"].labels, val_fraction, seed)
        if not len(held):
            raise InputError(
                f"{where}: nothing can be held out, as every class has a single picture; add "
                "pictures"
            )
        found = found | {"train": found["train"].subset(kept), "val": found["train"].subset(held)}
        how = "every class (by a picture's rarest)" if _several(found) else "every class"
        told.append(f"held out for val: {val_fraction:g} of {how}, chosen by seed {seed}")
    elif val_fraction is not None:
        told.append(f"data.val_fraction is not used: {where} has pictures for val")
    told += _missing_notes(classes, found)
    counts = count_notes(classes, **found)
    return Splits(
        classes, found["train"], found["val"], found.get("test"), (*counts, *told, *notes)
    )


def code_labels(
    where: str, labels: Sequence[tuple[str, ...]], classes: Sequence[str], *, several: bool
) -> Labels:
    """Labels by name → labels as ``Pictures`` have them.

    Args:
        where: the source, as an error calls it.
        labels: of every picture the names.
        classes: all names.
        several: whether a picture may have more than one label, or none.

    Raises:
        InputError: there are far too many classes for pictures with several.
    """
    index = {name: label for label, name in enumerate(classes)}
    columns = np.fromiter((index[name] for own in labels for name in own), np.int64)
    if not several:
        return columns
    if len(labels) * len(classes) > _MOST_LABEL_BYTES:
        raise InputError(
            f"{where}: {len(classes)} classes for {len(labels)} pictures, each with several, need "
            "too much memory; are they separated rightly?"
        )
    coded = np.zeros((len(labels), len(classes)), dtype=np.uint8)
    coded[np.repeat(np.arange(len(labels)), [len(own) for own in labels]), columns] = 1
    return coded


def split_problems(names: Iterable[str], val_fraction: float | None) -> list[str]:
    """What keeps splits of these names from being a data set, in words."""
    names = set(names)
    problems = []
    if "train" not in names:
        problems.append("there are no pictures for train; add some")
    if val_fraction is not None and not 0 < val_fraction < 1:
        problems.append(f"data.val_fraction must lie between 0 and 1, got {val_fraction:g}")
    if val_fraction is None and "val" not in names:
        problems.append(
            "there are no pictures for val: add some, or set data.val_fraction (0.2, say) to hold "
            "out that share of train"
        )
    return problems


def class_problems(classes: Iterable[str]) -> list[str]:
    """What keeps these classes of ``train`` from being learnt, in words."""
    names = list(classes)
    if len(names) >= 2:
        return []
    found = f"one class ({names[0]})" if names else "no classes"
    return [f"train has {found}, two are the least"]


def _several(found: dict[str, Divisible]) -> bool:
    return found["train"].labels.ndim == 2


def _missing_notes(classes: tuple[str, ...], found: dict[str, Divisible]) -> list[str]:
    """Classes that a split lacks: allowed, but their figures will be empty."""
    notes = []
    for name, pictures in found.items():
        counts = class_counts(pictures.labels, len(classes))
        missing = [label for label, count in zip(classes, counts, strict=True) if not count]
        if missing:
            shown = ", ".join(missing[:10]) + (", …" if len(missing) > 10 else "")
            notes.append(f"{name} has no pictures of {count_of_classes(len(missing))}: {shown}")
    return notes


def count_of_classes(count: int) -> str:
    """Such as "1 class"."""
    return "1 class" if count == 1 else f"{count} classes"
