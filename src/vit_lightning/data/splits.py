"""A data set: its splits and its classes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_lightning.data.names import PackedNames
from vit_lightning.data.pictures import Labels, Pictures
from vit_lightning.errors import InputError


@dataclass(frozen=True, eq=False)
class Labelled:
    """Pictures with their classes: one split, or a set to evaluate on that has none.

    Args:
        classes: names; a label is an index into them.
        pictures: what is labelled.
        notes: plain sentences to print, as of ``Splits``.
    """

    classes: tuple[str, ...]
    pictures: Pictures
    notes: tuple[str, ...] = ()

    @property
    def multi_label(self) -> bool:
        """Whether a picture may have several labels, or none."""
        return self.pictures.labels.ndim == 2


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set.

    Args:
        classes: names; a label is an index into them.
        train: what is trained on.
        val: what a model is chosen by.
        test: what is reported, where there is such a split.
        notes: plain sentences to print: counts, what was held out and how, what was skipped.
    """

    classes: tuple[str, ...]
    train: Pictures
    val: Pictures
    test: Pictures | None
    notes: tuple[str, ...]

    @property
    def multi_label(self) -> bool:
        """Whether a picture may have several labels, or none."""
        return self.train.labels.ndim == 2

    def part(self, name: str) -> Labelled:
        """One split.

        Raises:
            InputError: there is none of this name.
        """
        found = {"train": self.train, "val": self.val, "test": self.test}
        pictures = found.get(name)
        if pictures is None:
            known = ", ".join(name for name, value in found.items() if value is not None)
            raise InputError(f"there is no split {name!r}: this data set has {known}")
        return Labelled(self.classes, pictures)

    def each(self, change: Callable[[Pictures], Pictures]) -> "Splits":
        """The same data set with every split changed."""
        test = None if self.test is None else change(self.test)
        return replace(self, train=change(self.train), val=change(self.val), test=test)

    def fingerprint(self) -> dict[str, Any]:
        """What tells this data set from another: classes, and of each split count and digest.

        The digest is of names and labels, not of pixels; plain JSON types.
        """
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {"classes": list(self.classes)} | {
            name: None if pictures is None else _digest(pictures)
            for name, pictures in splits.items()
        }


def _digest(pictures: Pictures) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(pictures.labels).tobytes())
    for names in _names(pictures).chunks():
        digest.update(names)
    return {"count": len(pictures), "sha256": digest.hexdigest()}


def class_counts(labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """(num_classes,) how many pictures have each class."""
    if labels.ndim == 1:
        return np.bincount(labels, minlength=num_classes)
    counts: NDArray[np.int64] = np.sum(labels, axis=0, dtype=np.int64)
    return counts


def _names(pictures: Pictures) -> PackedNames:
    packed = getattr(pictures, "packed", None)
    if isinstance(packed, PackedNames):
        return packed
    return PackedNames.pack(pictures.name(index) for index in range(len(pictures)))


def count_notes(classes: tuple[str, ...], **splits: Pictures) -> list[str]:
    """One sentence per split: how many pictures, of which classes; train, val, test."""
    notes = []
    for name in sorted(splits, key=["train", "val", "test"].index):
        counts = class_counts(splits[name].labels, len(classes))
        if len(classes) <= 10:
            detail = ", ".join(f"{label}: {n}" for label, n in zip(classes, counts, strict=True))
        else:
            detail = f"{len(classes)} classes of {counts.min()} to {counts.max()}"
        if splits[name].labels.ndim == 2:
            bare = int((splits[name].labels.sum(axis=1) == 0).sum())
            detail += f"; without any: {bare}" if bare else ""
        notes.append(f"{name}: {len(splits[name])} pictures ({detail})")
    return notes
