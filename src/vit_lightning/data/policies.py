"""What is done to a training picture after crop and flip: policies, and random erasing.

All chance is the generator's that is handed in.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from vit_lightning.data.crops import Box
from vit_lightning.data.operations import (
    HIGHEST_STRENGTH,
    RANDAUGMENT,
    TRIVIALAUGMENT,
    Drawn,
    jittered,
)
from vit_lightning.data.pictures import Pixels
from vit_lightning.settings import AugmentationSettings


class Policy(Protocol):
    """A random change of a picture."""

    def __call__(self, generator: np.random.Generator) -> tuple[Drawn, ...]:
        """What is done to a picture of mode RGB or L, one change after the other."""


@dataclass(frozen=True)
class RandAugment:
    """A few random operations of one strength, each drawn anew (Cubuk et al. 2020).

    Args:
        num_ops: operations on each picture; one may be drawn twice.
        magnitude: strength, of nominally 10.
        magnitude_std: spread of the strength, normal, drawn for each operation.
        levels: which law of ``operations.RANDAUGMENT``.
    """

    num_ops: int
    magnitude: float
    magnitude_std: float
    levels: Literal["original", "increasing"]

    def __call__(self, generator: np.random.Generator) -> tuple[Drawn, ...]:
        """See ``Policy``."""
        law, changes = RANDAUGMENT[self.levels], []
        for _ in range(self.num_ops):
            operation = law.choose(generator)
            if generator.random() < law.probability:
                level = self._level(law.highest, generator)
                changes.append(operation.drawn(law.canvas, level, generator))
        return tuple(changes)

    def _level(self, highest: float, generator: np.random.Generator) -> float:
        magnitude = self.magnitude
        if self.magnitude_std:
            magnitude += self.magnitude_std * generator.standard_normal()
        return min(max(magnitude, 0.0), highest) / 10


@dataclass(frozen=True)
class TrivialAugment:
    """One random operation of random strength (Müller & Hutter 2021)."""

    def __call__(self, generator: np.random.Generator) -> tuple[Drawn, ...]:
        """See ``Policy``."""
        operation = TRIVIALAUGMENT.choose(generator)
        strength = int(generator.integers(HIGHEST_STRENGTH, endpoint=True))
        return (operation.drawn(TRIVIALAUGMENT.canvas, strength, generator),)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation change, in random order.

    Args:
        strength: each factor is uniform in [1 - strength, 1 + strength].
    """

    strength: float

    def __call__(self, generator: np.random.Generator) -> tuple[Drawn, ...]:
        """See ``Policy``."""
        factors = generator.uniform(1 - self.strength, 1 + self.strength, size=3)
        changes = jittered(*(float(factor) for factor in factors))
        return tuple(changes[index] for index in np.argsort(generator.random(3)))


@dataclass(frozen=True)
class _InTurn:
    """Several policies, one after the other."""

    policies: tuple[Policy, ...]

    def __call__(self, generator: np.random.Generator) -> tuple[Drawn, ...]:
        """See ``Policy``."""
        return tuple(drawn for policy in self.policies for drawn in policy(generator))


def build_policy(settings: AugmentationSettings) -> Policy | None:
    """RandAugment or TrivialAugment, then colour jitter, as far as they are on; else None."""
    policies: list[Policy] = []
    if settings.randaugment is not None:
        policies.append(RandAugment(**settings.randaugment.model_dump()))
    if settings.trivialaugment:
        policies.append(TrivialAugment())
    if settings.color_jitter:
        policies.append(ColorJitter(settings.color_jitter))
    return _InTurn(tuple(policies)) if policies else None


def erased_box(
    height: int, width: int, probability: float, generator: np.random.Generator
) -> Box | None:
    """The rectangle that random erasing fills (Zhong et al. 2017), if it fills one.

    Its area is uniform in 0.02 to 1/3 of the picture's, its aspect ratio log-uniform in 0.3 to
    1/0.3 (so timm, and DeiT with it); after 10 that do not fit, the picture stays as it is.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        probability: of erasing at all.
        generator: source of all randomness.
    """
    if generator.random() >= probability:
        return None
    for _ in range(10):
        area = generator.uniform(0.02, 1 / 3) * height * width
        aspect = math.exp(generator.uniform(math.log(0.3), -math.log(0.3)))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows < height and columns < width:
            top = int(generator.integers(height - rows, endpoint=True))
            left = int(generator.integers(width - columns, endpoint=True))
            return Box(top, left, rows, columns)
    return None


def erase(pixels: Pixels, box: Box, generator: np.random.Generator) -> None:
    """Fill a rectangle with noise, in place: whole numbers from 0 to 255, all equally likely.

    Args:
        pixels: (H, W, C) in [0, 255].
        box: in them.
        generator: source of all randomness.
    """
    size = (box.height, box.width, pixels.shape[2])
    noise = generator.integers(256, size=size, dtype=np.uint8)
    pixels[box.top : box.top + box.height, box.left : box.left + box.width] = noise
