"""A first recipe for fine-tuning, by rules of thumb: a start, not a promise.

The rules look at the number of pictures of each class and at little else. Their numbers are those
of the papers that are named beside them, not of measurements on the pictures at hand.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_lightning.data.pictures import Labels
from vit_lightning.data.splits import class_counts
from vit_lightning.data.transforms import Mode

_FEW, _SOME = 10, 100  # pictures of a class, up to which the head alone, and LoRA, are advised
_UNEVEN = 5  # times as many pictures of one class as of another
_LARGE_SET = 20_000
_LEAST_STEPS, _MOST_STEPS = 200, 20_000


@dataclass(frozen=True)
class Advice:
    """One setting.

    Args:
        setting: as ``vit train`` takes it, such as ``optim.lr=0.01``.
        reason: in a line.
    """

    setting: str
    reason: str


def recommend(labels: Labels, num_classes: int, mode: Mode, unreadable: int) -> tuple[Advice, ...]:
    """Settings for a training on pictures with these labels, from weights.

    Args:
        labels: (N,) classes of the readable pictures to train on, or (N, C) of 0 and 1.
        num_classes: C.
        mode: of the preprocessing.
        unreadable: pictures that cannot be read, of train and val.
    """
    counts = class_counts(labels, num_classes)
    usual = float(np.median(counts))
    return (
        *_method(usual),
        *_lengths(len(labels), usual),
        *_augmentation(usual, mode, several=labels.ndim == 2),
        *_balance(counts, several=labels.ndim == 2),
        *_unreadable(unreadable),
    )


def _method(usual: float) -> list[Advice]:
    each = f"{usual:g} pictures of the median class"
    if usual < _FEW:
        return [
            Advice("adapt.method=linear", f"{each}: too few to change more than the head by"),
            Advice("optim.lr=0.03", "the largest of the ViT paper's grid: a head alone stands it"),
        ]
    if usual < _SOME:
        return [
            Advice("adapt.method=lora", f"{each}: low-rank updates forget less of the weights"),
            Advice("optim.name=adamw", "as LoRA is usually trained"),
            Advice("optim.lr=0.001", "usual for LoRA; try 0.0003 if the loss jumps"),
        ]
    return [
        Advice("adapt.method=full", f"{each}: enough to fine-tune all weights"),
        Advice("optim.lr=0.01", "the middle of the ViT paper's grid, 0.003 to 0.03: try both ends"),
    ]


def _lengths(count: int, usual: float) -> list[Advice]:
    batch = 128 if count >= _LARGE_SET else 32
    epochs = 30 if usual < _SOME else 15 if usual < 10 * _SOME else 5
    steps = min(max(math.ceil(epochs * count / batch), _LEAST_STEPS), _MOST_STEPS)
    seen = steps * batch / count
    return [
        Advice(f"data.batch_size={batch}", f"{count:,} pictures to train on"),
        Advice(f"trainer.max_steps={steps}", f"each picture about {max(seen, 1):.0f} times"),
        Advice(f"trainer.val_every_steps={max(steps // 10, 1)}", "ten looks at val"),
    ]


def _augmentation(usual: float, mode: Mode, *, several: bool) -> list[Advice]:
    if mode == "paper":  # whose own crops are of nine tenths of each side
        return []
    if several:
        why = "a small crop may lose what a label is about"
        return [Advice("data.augmentation.min_crop_area=0.5", why)]
    if usual < _SOME:
        why = "of few pictures none should be cropped beyond recognition"
        return [Advice("data.augmentation.min_crop_area=0.35", why)]
    return []


def _balance(counts: NDArray[np.int64], *, several: bool) -> list[Advice]:
    present = counts[counts > 0]
    if several or not len(present) or present.max() < _UNEVEN * present.min():
        return []
    why = f"classes of {present.min()} to {present.max()} pictures; leave it if val is as uneven"
    return [Advice("data.sampling=balanced", why)]


def _unreadable(count: int) -> list[Advice]:
    if not count:
        return []
    which = "a picture that" if count == 1 else f"{count} pictures that"
    return [Advice("data.on_bad_image=skip", f"for {which} cannot be read, left out here too")]
