"""Where a training crop lies: two laws, both pure functions of a generator."""

import math
from typing import NamedTuple

import numpy as np


class Box(NamedTuple):
    """A rectangle in a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def original_crop(height: int, width: int, generator: np.random.Generator) -> Box:
    """A crop by the original's law: TensorFlow's ``sample_distorted_bounding_box``.

    Area 0.05 to 1 of the picture, aspect ratio (width / height) uniform in [0.75, 1.33]; after 100
    failures the whole picture. For a given aspect ratio the *height* is uniform among those that
    fit, so crops are smaller than under the law of torchvision, which draws the area.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        generator: source of all randomness.
    """
    for _ in range(100):
        box = _original_attempt(height, width, generator)
        if box is not None:
            return box
    return Box(0, 0, height, width)


def _original_attempt(height: int, width: int, generator: np.random.Generator) -> Box | None:
    aspect = generator.uniform(0.75, 1.33)
    min_area, max_area = 0.05 * height * width, float(height * width)
    lowest = round(math.sqrt(min_area / aspect))
    highest = min(_highest_fit(aspect, max_area, width), height)
    lowest = min(lowest, highest)
    crop_height = int(generator.integers(lowest, highest, endpoint=True))
    crop_width = round(crop_height * aspect)
    # Rounding may have left the area just outside its bounds.
    if crop_width * crop_height < min_area:
        crop_height += 1
        crop_width = round(crop_height * aspect)
    if crop_width * crop_height > max_area:
        crop_height -= 1
        crop_width = round(crop_height * aspect)
    fits = 0 < crop_width <= width and 0 < crop_height <= height
    if not fits or not min_area <= crop_width * crop_height <= max_area:
        return None
    top, left = _offset(height - crop_height, generator), _offset(width - crop_width, generator)
    return Box(top, left, crop_height, crop_width)


def _highest_fit(aspect: float, max_area: float, width: int) -> int:
    """The largest crop height whose width, rounded, is inside the picture."""
    highest = round(math.sqrt(max_area / aspect))
    if round(highest * aspect) > width:
        highest = int((width + 0.5 - 1e-7) / aspect)
        if round(highest * aspect) > width:
            highest -= 1
    return highest


def _offset(room: int, generator: np.random.Generator) -> int:
    # The original never places a crop flush with the far edge: the upper end is exclusive.
    return int(generator.integers(room)) if room else 0


def resized_crop(
    height: int, width: int, generator: np.random.Generator, min_area: float = 0.08
) -> Box:
    """A crop by the law usual since Inception (Szegedy et al. 2015), as torchvision draws it.

    Area uniform in ``min_area`` to 1 of the picture, aspect ratio log-uniform in [3/4, 4/3]; after
    10 failures the largest central crop with an admissible aspect ratio.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        generator: source of all randomness.
        min_area: the smallest share of the picture, in (0, 1].
    """
    for _ in range(10):
        # From numbers in [0, 1): numpy's other laws take ten times as long to draw one.
        area = (min_area + (1 - min_area) * generator.random()) * height * width
        aspect = (4 / 3) ** (2 * generator.random() - 1)
        crop_height = round(math.sqrt(area / aspect))
        crop_width = round(math.sqrt(area * aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(generator.random() * (height - crop_height + 1))
            left = int(generator.random() * (width - crop_width + 1))
            return Box(top, left, crop_height, crop_width)
    crop_height = min(height, max(1, round(width / (3 / 4))))
    crop_width = min(width, max(1, round(height * (4 / 3))))
    return Box((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)
