"""Which parts of a picture another one might show, and what they look like.

A part is a box (centre x, centre y, width, height) in fractions of the picture's sides.
"""

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vit_lightning.check.measure import CHROMA_SIDE, GREY_SIDE

_LOW = 7  # frequencies of the luma along each axis
_CHROMA_LOW = 3
_CHROMA_WEIGHT = 0.6
_SAMPLES = 14  # pixels along an axis of what the frequencies are taken of
_CHROMA_SAMPLES = 6
_BLOCK = 4096  # parts described at once
_LEAST_CONTRAST = 4.0  # grey levels; below, there is nothing to recognise a picture by
_STEP = 0.15  # between two boxes, in their own widths
_LONGEST = 3.0  # of longer pictures squares would be too small a part to be recognised by
DENSE, MEDIUM, SPARSE = "dense", "medium", "sparse"

Box = tuple[float, float, float, float]
Boxes = NDArray[np.float32]


@functools.lru_cache(maxsize=4096)
def view_boxes(aspect: float, density: str) -> tuple[Box, ...]:
    """The parts of a picture that are compared with whole pictures.

    Whole pictures are compared whatever their aspect ratio, so that one that was squashed into a
    square is found as well.

    Args:
        aspect: width over height, rounded to keep the cache small; taken as 3 to 1 at the most.
        density: ``sparse`` for the whole, squares at the centre and both ends, and the central
            four fifths; ``medium`` for the whole, these squares, and parts in the picture's
            proportions of 0.85 of its sides at nine places; ``dense`` for squares and parts in its
            proportions of several sizes at all places.
    """
    aspect = min(max(aspect, 1 / _LONGEST), _LONGEST)
    square = (min(1.0, 1 / aspect), min(1.0, aspect))
    whole = (0.5, 0.5, 1.0, 1.0)
    ends = _along(square, (0.0, 0.5, 1.0))
    if density == SPARSE:
        parts = [*ends, (0.5, 0.5, 0.8, 0.8)]
    elif density == MEDIUM:
        parts = [*ends, *_everywhere((0.85, 0.85))]
    else:
        shapes = [(side * square[0], side * square[1]) for side in (1.0, 0.85, 0.7)]
        shapes += [(side, side) for side in (0.85, 0.7)]
        parts = [box for shape in shapes for box in _everywhere(shape)]
    return tuple(dict.fromkeys([whole, *parts]))


def _along(shape: tuple[float, float], places: tuple[float, ...]) -> list[Box]:
    width, height = shape
    return [
        (width / 2 + place * (1 - width), height / 2 + place * (1 - height), width, height)
        for place in places
    ]


def _everywhere(shape: tuple[float, float]) -> list[Box]:
    columns, rows = (_places(side) for side in shape)
    # The centre first, as it is what is cut out most often; not all places have one.
    return [(0.5, 0.5, *shape), *((x, y, *shape) for x in columns for y in rows)]


def _places(side: float) -> list[float]:
    """Centres of intervals of length ``side`` within [0, 1]."""
    count = math.ceil((1 - side) / (_STEP * side) - 1e-6) + 1
    if count == 1:
        return [0.5]
    return [side / 2 + (1 - side) * index / (count - 1) for index in range(count)]


def resampler(centre: Tensor, length: Tensor, source: int, target: int) -> Tensor:
    """Matrices that resample intervals of an axis, anti-aliased.

    Args:
        centre: (...) of intervals, in fractions of the axis.
        length: (...) likewise.
        source: pixels of the axis.
        target: pixels of the result.

    Returns:
        (..., target, source), rows that sum to 1: a triangle as wide as Pillow's bilinear filter.
    """
    offsets = (torch.arange(target) + 0.5) / target - 0.5
    middle = (centre[..., None] + offsets * length[..., None]) * source - 0.5
    width = (length * (source / target)).clamp_min(1.0)[..., None, None]
    middle = middle.clamp(0, source - 1)[..., None]
    weights = (1 - (torch.arange(source) - middle).abs() / width).clamp_min_(0)
    return weights / weights.sum(-1, keepdim=True)


def describe(grey: Tensor, chroma: Tensor, boxes: Tensor) -> Tensor:
    """Compact descriptions of parts of pictures: their low frequencies, of unit length.

    Frequencies are weighted with their number, as natural pictures have less of the higher ones;
    else a gradient from left to right would be all that counts. Contrast does not count.

    Args:
        grey: (N, 48, 48) uint8.
        chroma: (N, 2, 12, 12) uint8.
        boxes: (N, 4) a part of each.

    Returns:
        (N, 66) float32; the dot product of two is in [-1, 1], zero for parts without contrast.
    """
    blocks: list[Tensor] = [
        _describe(grey[start : start + _BLOCK], chroma[start : start + _BLOCK], block)
        for start, block in zip(
            range(0, len(boxes), _BLOCK), torch.split(boxes, _BLOCK), strict=True
        )
    ]
    return torch.cat(blocks) if blocks else torch.empty(0, 66)


def _describe(grey: Tensor, chroma: Tensor, boxes: Tensor) -> Tensor:
    luma = _frequencies(grey.float(), boxes, GREY_SIDE, _SAMPLES, _LOW).flatten(1)[:, 1:]
    colour = _frequencies(
        chroma.float() - 128,
        boxes[:, None].expand(-1, 2, -1),
        CHROMA_SIDE,
        _CHROMA_SAMPLES,
        _CHROMA_LOW,
    ).flatten(1)
    # Of an orthonormal transform, the root of the mean square of what it was taken of.
    contrast = luma.norm(dim=1, keepdim=True) / _SAMPLES
    luma = luma * _frequency_weights(_LOW)[1:]
    colour = colour * _frequency_weights(_CHROMA_LOW).repeat(2) * (_SAMPLES / _CHROMA_SAMPLES)
    together = torch.cat([luma, _CHROMA_WEIGHT * colour], dim=1)
    together *= contrast >= _LEAST_CONTRAST
    return F.normalize(together, dim=1, eps=1e-6)


def _frequencies(pixels: Tensor, boxes: Tensor, source: int, samples: int, low: int) -> Tensor:
    """(..., source, source) and (..., 4) → (..., low, low) of the cosine transform of the part."""
    cosines = _cosines(samples, low)
    across = cosines @ resampler(boxes[..., 0], boxes[..., 2], source, samples)
    down = cosines @ resampler(boxes[..., 1], boxes[..., 3], source, samples)
    return down @ pixels @ across.mT


@functools.lru_cache
def _cosines(samples: int, low: int) -> Tensor:
    """(low, samples) rows of the orthonormal cosine transform."""
    angles = torch.arange(low)[:, None] * (torch.arange(samples) + 0.5) * (math.pi / samples)
    scale = torch.full((low, 1), math.sqrt(2 / samples))
    scale[0] = math.sqrt(1 / samples)
    return angles.cos() * scale


@functools.lru_cache
def _frequency_weights(low: int) -> Tensor:
    """(low * low,) the radius of each frequency; 1 for the mean."""
    steps = torch.arange(low, dtype=torch.float32)
    return (steps[:, None] ** 2 + steps**2).sqrt().clamp_min(1.0).flatten()
