"""A data set without some of its classes."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from vit_lightning.data.partition import Divisible
from vit_lightning.data.pictures import Pictures
from vit_lightning.data.splits import Splits
from vit_lightning.errors import InputError


def without_classes(splits: Splits, left_out: Sequence[str]) -> Splits:
    """The same data set without some classes and every picture that shows one of them.

    Args:
        splits: the data set, with the pictures as their source gave them.
        left_out: names of classes.

    Raises:
        InputError: a class that the set does not have, fewer than two that remain, or a split
            without a picture.
    """
    for name in left_out:
        if name not in splits.classes:
            near = difflib.get_close_matches(name, splits.classes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"data.leave_out: the pictures have no class {name!r}{hint}")
    stays = np.array([name not in set(left_out) for name in splits.classes])
    if stays.sum() < 2:
        raise InputError(f"data.leave_out: {stays.sum()} classes remain, 2 are the least")
    counts = []

    def keep(pictures: Pictures) -> Pictures:
        labels = pictures.labels
        shown = stays[labels] if labels.ndim == 1 else ~labels[:, ~stays].any(axis=1)
        if not shown.any():
            raise InputError("data.leave_out: no picture remains in one of the splits")
        counts.append(int((~shown).sum()))
        rest = cast(Divisible, pictures).subset(np.flatnonzero(shown))
        renumbered = (np.cumsum(stays) - 1).astype(labels.dtype)
        fewer = renumbered[rest.labels] if labels.ndim == 1 else rest.labels[:, stays]
        return cast(Pictures, replace(cast(Any, rest), labels=fewer))

    changed = splits.each(keep)
    classes = tuple(name for name, stay in zip(splits.classes, stays, strict=True) if stay)
    note = f"left out: {', '.join(left_out)} and the {sum(counts)} pictures that show them"
    return replace(changed, classes=classes, notes=(*splits.notes, note))
