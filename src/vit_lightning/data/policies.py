"""What is done to a training picture after crop and flip: policies, and random erasing.

All chance is the generator's that is handed in.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from vit_lightning.data.operations import HIGHEST_STRENGTH, RANDAUGMENT, TRIVIALAUGMENT
from vit_lightning.settings import AugmentationSettings

_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


class Policy(Protocol):
    """A random change of a picture."""

    def __call__(self, picture: Image.Image, generator: np.random.Generator) -> Image.Image:
        """A picture of mode RGB or L → one of the same size and mode; the first stays as it is."""


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

    def __call__(self, picture: Image.Image, generator: np.random.Generator) -> Image.Image:
        """See ``Policy``."""
        law = RANDAUGMENT[self.levels]
        for _ in range(self.num_ops):
            operation = law.choose(generator)
            if generator.random() < law.probability:
                picture = operation(
                    picture, law.canvas, self._level(law.highest, generator), generator
                )
        return picture

    def _level(self, highest: float, generator: np.random.Generator) -> float:
        magnitude = self.magnitude
        if self.magnitude_std:
            magnitude += self.magnitude_std * generator.standard_normal()
        return min(max(magnitude, 0.0), highest) / 10


@dataclass(frozen=True)
class TrivialAugment:
    """One random operation of random strength (Müller & Hutter 2021)."""

    def __call__(self, picture: Image.Image, generator: np.random.Generator) -> Image.Image:
        """See ``Policy``."""
        operation = TRIVIALAUGMENT.choose(generator)
        strength = int(generator.integers(HIGHEST_STRENGTH, endpoint=True))
        return operation(picture, TRIVIALAUGMENT.canvas, strength, generator)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation change, in random order.

    Args:
        strength: each factor is uniform in [1 - strength, 1 + strength].
    """

    strength: float

    def __call__(self, picture: Image.Image, generator: np.random.Generator) -> Image.Image:
        """See ``Policy``."""
        factors = generator.uniform(1 - self.strength, 1 + self.strength, size=len(_ENHANCERS))
        for index in np.argsort(generator.random(len(_ENHANCERS))):
            picture = _ENHANCERS[index](picture).enhance(float(factors[index]))
        return picture


@dataclass(frozen=True)
class _InTurn:
    """Several policies, one after the other."""

    policies: tuple[Policy, ...]

    def __call__(self, picture: Image.Image, generator: np.random.Generator) -> Image.Image:
        """See ``Policy``."""
        for policy in self.policies:
            picture = policy(picture, generator)
        return picture


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


def erase(
    pixels: NDArray[np.uint8] | NDArray[np.float32],
    probability: float,
    generator: np.random.Generator,
) -> None:
    """Fill a random rectangle with noise, in place (random erasing, Zhong et al. 2017).

    Its area is uniform in 0.02 to 1/3 of the picture's, its aspect ratio log-uniform in 0.3 to
    1/0.3 (so timm, and DeiT with it); after 10 that do not fit, the picture stays as it is. Every
    value is uniform among the whole numbers from 0 to 255.

    Args:
        pixels: (H, W, C) in [0, 255].
        probability: of doing so.
        generator: source of all randomness.
    """
    if generator.random() >= probability:
        return
    full_height, full_width, channels = pixels.shape
    for _ in range(10):
        area = generator.uniform(0.02, 1 / 3) * full_height * full_width
        aspect = math.exp(generator.uniform(math.log(0.3), -math.log(0.3)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < full_height and width < full_width:
            top = int(generator.integers(full_height - height, endpoint=True))
            left = int(generator.integers(full_width - width, endpoint=True))
            noise = generator.integers(256, size=(height, width, channels), dtype=np.uint8)
            pixels[top : top + height, left : left + width] = noise
            return
