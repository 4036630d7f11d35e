"""Labels of pictures as outputs of a model, by the names of their classes."""

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vit_lightning.errors import InputError
from vit_lightning.evaluation.metrics import IntArray


def class_map(model: Sequence[str], pictures: Sequence[str]) -> npt.NDArray[np.int64]:
    """For each class of the pictures, its index among the model's.

    Args:
        model: names of the model's outputs.
        pictures: names of the classes that labels count.

    Raises:
        InputError: pictures have classes that the model does not know, or by a name that it has
            twice; the message says which.
    """
    if tuple(model) == tuple(pictures):
        return np.arange(len(model))
    unknown = [_with_nearest(name, model) for name in sorted(set(pictures) - set(model))]
    if unknown:
        absent = sorted(set(model) - set(pictures))
        beside = f", and only the model knows {some(absent)}" if absent else ""
        raise InputError(
            f"the pictures have classes that the model was not trained on: {some(unknown)}{beside}"
            f"; evaluate it on pictures of its own classes, or of some of them"
        )
    counts = Counter(model)
    twice = [name for name in pictures if counts[name] > 1]
    if twice:
        raise InputError(
            f"the pictures' classes are another selection or order than the model's, and cannot be "
            f"found by name: the model has several of the name {some(twice)}"
        )
    places = {name: index for index, name in enumerate(model)}
    return np.array([places[name] for name in pictures], np.int64)


def _with_nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"{name} (the nearest is {near[0]})" if near else name


def class_map_note(model: Sequence[str], pictures: Sequence[str]) -> str | None:
    """What is to be said where :func:`class_map` changes anything."""
    if tuple(model) == tuple(pictures):
        return None
    if len(model) == len(pictures):
        return "the pictures' classes stand in another order than the model's: mapped by name"
    return (
        f"the pictures have {len(pictures)} of the model's {len(model)} classes: mapped by name; "
        f"the model may answer with any, and what is told of the classes without pictures is empty"
    )


def mapped_labels(
    labels: IntArray, places: npt.NDArray[np.int64], num_classes: int
) -> npt.NDArray[np.integer[Any]]:
    """Labels that count the model's classes.

    Args:
        labels: (N,) classes of the pictures, or (N, K) 0 or 1 for each.
        places: (K,) of :func:`class_map`.
        num_classes: of the model.

    Returns:
        (N,), or (N, num_classes) with 0 for the classes that the pictures do not have.
    """
    if labels.ndim == 1:
        return places[labels]
    mapped = np.zeros((len(labels), num_classes), labels.dtype)
    mapped[:, places] = labels
    return mapped


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names of many, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
