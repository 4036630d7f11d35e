"""What may be done to a picture, and how strongly: three laws, each a table of operations.

A row of a table says how the operation's values are drawn at a level, and what they do to an 8-bit
picture, grey (mode ``L``) or RGB. The picture that is handed in is never changed.

``RANDAUGMENT["original"]`` is RandAugment (Cubuk et al. 2020) as AugReg used it: Google's code for
TensorFlow, ``big_vision/pp/archive/autoaugment.py``, which comes from tensorflow/tpu's
``efficientnet/autoaugment.py``. ``RANDAUGMENT["increasing"]`` is the variation of timm's
``data/auto_augment.py`` that DeiT uses, in which everything grows with the magnitude.
``TRIVIALAUGMENT`` is the wide space of Müller & Hutter 2021: automl/trivialaugment, ``aug_lib.py``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Values = tuple[float, ...]
Draw = Callable[[float, np.random.Generator], Values]
Change = Callable[..., Image.Image]  # of picture, canvas and the values

# What the original's constants in pixels are fractions of: its pictures have this side.
_ORIGINAL_SIDE = 224


@dataclass(frozen=True)
class Canvas:
    """What lies where a picture has moved away, and how it is resampled.

    Args:
        fill: red, green, blue.
        resample: Pillow's filter.
    """

    fill: tuple[int, int, int]
    resample: Image.Resampling

    def colour(self, picture: Image.Image) -> int | tuple[int, int, int]:
        """The fill as the mode of the picture has it."""
        if picture.mode != "L":
            return self.fill
        red, green, blue = self.fill
        return round(0.299 * red + 0.587 * green + 0.114 * blue)  # ITU-R 601-2, Pillow's luma


class Operation(NamedTuple):
    """A row: a name, the change, and how its values are drawn at a level."""

    name: str
    change: Change
    draw: Draw

    def __call__(
        self, picture: Image.Image, canvas: Canvas, level: float, generator: np.random.Generator
    ) -> Image.Image:
        """The changed picture, of the same size and mode."""
        return self.change(picture, canvas, *self.draw(level, generator))


@dataclass(frozen=True)
class Law:
    """Operations that are equally likely.

    Args:
        operations: the table.
        canvas: of the operations that move pixels.
        probability: that an operation is applied once it is chosen.
        highest: magnitudes above are cut to it.
    """

    operations: tuple[Operation, ...]
    canvas: Canvas
    probability: float = 1.0
    highest: float = math.inf

    def choose(self, generator: np.random.Generator) -> Operation:
        """One of the operations."""
        return self.operations[generator.integers(len(self.operations))]


def _rotate(picture: Image.Image, canvas: Canvas, degrees: float) -> Image.Image:
    return picture.rotate(degrees, canvas.resample, fillcolor=canvas.colour(picture))


def _warp(picture: Image.Image, canvas: Canvas, *matrix: float) -> Image.Image:
    """Pixel (x, y) of the result is that at (ax + by + c, dx + ey + f) of the picture."""
    kind, colour = Image.Transform.AFFINE, canvas.colour(picture)
    return picture.transform(picture.size, kind, matrix, canvas.resample, fillcolor=colour)


def _shear_x(picture: Image.Image, canvas: Canvas, slope: float) -> Image.Image:
    return _warp(picture, canvas, 1, slope, 0, 0, 1, 0)


def _shear_y(picture: Image.Image, canvas: Canvas, slope: float) -> Image.Image:
    return _warp(picture, canvas, 1, 0, 0, slope, 1, 0)


def _translate_x(picture: Image.Image, canvas: Canvas, pixels: float) -> Image.Image:
    return _warp(picture, canvas, 1, 0, pixels, 0, 1, 0)


def _translate_y(picture: Image.Image, canvas: Canvas, pixels: float) -> Image.Image:
    return _warp(picture, canvas, 1, 0, 0, 0, 1, pixels)


def _shift_x(picture: Image.Image, canvas: Canvas, fraction: float) -> Image.Image:
    return _translate_x(picture, canvas, fraction * picture.width)


def _shift_y(picture: Image.Image, canvas: Canvas, fraction: float) -> Image.Image:
    return _translate_y(picture, canvas, fraction * picture.height)


def _cutout(
    picture: Image.Image, canvas: Canvas, half_side: float, centre_x: float, centre_y: float
) -> Image.Image:
    """A square is filled; all values are fractions, the half side of the picture's shorter one."""
    half = round(half_side * min(picture.size))
    x, y = int(centre_x * picture.width), int(centre_y * picture.height)
    left_top = max(x - half, 0), max(y - half, 0)
    right_bottom = min(x + half, picture.width), min(y + half, picture.height)
    result = picture.copy()
    result.paste(canvas.colour(picture), left_top + right_bottom)
    return result


def _solarize_add(picture: Image.Image, addition: int) -> Image.Image:
    """The darker half of the values is raised."""
    table = [min(value + addition, 255) if value < 128 else value for value in range(256)]
    return picture.point(table * len(picture.getbands()))


def _in_place(function: Change) -> Change:
    """A change that moves no pixel, and so needs no canvas."""
    return lambda picture, _, *values: function(picture, *values)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Change:
    return lambda picture, _, factor: kind(picture).enhance(factor)


def _nothing(level: float, generator: np.random.Generator) -> Values:
    return ()


def _value(law: Callable[[float], float]) -> Draw:
    return lambda level, _: (law(level),)


def _signed(law: Callable[[float], float]) -> Draw:
    """Either sign, equally likely."""
    return lambda level, generator: (law(level) * _sign(generator),)


def _sign(generator: np.random.Generator) -> int:
    return 1 if generator.random() < 0.5 else -1


_BLIND = (
    Operation("autocontrast", _in_place(ImageOps.autocontrast), _nothing),
    Operation("equalize", _in_place(ImageOps.equalize), _nothing),
)
_INVERT = Operation("invert", _in_place(ImageOps.invert), _nothing)


def _enhancements(draw: Draw) -> tuple[Operation, ...]:
    return (
        Operation("color", _enhance(ImageEnhance.Color), draw),
        Operation("contrast", _enhance(ImageEnhance.Contrast), draw),
        Operation("brightness", _enhance(ImageEnhance.Brightness), draw),
        Operation("sharpness", _enhance(ImageEnhance.Sharpness), draw),
    )


def _geometry(
    translate: tuple[Change, Change], degrees: Draw, slope: Draw, distance: Draw
) -> tuple[Operation, ...]:
    return (
        Operation("rotate", _rotate, degrees),
        Operation("shear_x", _shear_x, slope),
        Operation("shear_y", _shear_y, slope),
        Operation("translate_x", translate[0], distance),
        Operation("translate_y", translate[1], distance),
    )


def _tones(posterize: Draw, solarize: Draw) -> tuple[Operation, ...]:
    return (
        Operation("posterize", _in_place(ImageOps.posterize), posterize),
        Operation("solarize", _in_place(ImageOps.solarize), solarize),
    )


def _original_bits(level: float) -> int:
    # More bits are kept at a higher magnitude, all at 20. TensorFlow shifts unsigned 8 bits by at
    # most 7 (core/kernels/cwise_ops.h): below magnitude 2.5 and from 22.5 on one bit stays.
    bits = int(4 * level)
    return bits if 1 <= bits <= 8 else 1


def _original_threshold(level: float) -> int:
    # The comparison is of 8-bit integers, and the threshold wraps around in it: magnitudes 0, 10
    # and 20 invert the whole picture, 15 its lighter half (google-research/big_vision#110).
    return int(256 * level) % 256


def _original_cutout(level: float, generator: np.random.Generator) -> Values:
    return level * 40 / _ORIGINAL_SIDE, generator.random(), generator.random()


# Levels are magnitude / 10, with no upper end.
_ORIGINAL = Law(
    (
        *_BLIND,
        _INVERT,
        *_geometry(
            (_shift_x, _shift_y),
            degrees=_signed(lambda level: 30 * level),
            slope=_signed(lambda level: 0.3 * level),
            distance=_signed(lambda level: level * 100 / _ORIGINAL_SIDE),
        ),
        *_tones(_value(_original_bits), _value(_original_threshold)),
        *_enhancements(_value(lambda level: 1.8 * level + 0.1)),
        Operation("cutout", _cutout, _original_cutout),
        Operation("solarize_add", _in_place(_solarize_add), _value(lambda level: int(110 * level))),
    ),
    Canvas((128, 128, 128), Image.Resampling.NEAREST),
)


def _increasing_factor(level: float, generator: np.random.Generator) -> Values:
    return (max(1 + 0.9 * level * _sign(generator), 0.1),)


# Levels are magnitude / 10, in [0, 1]. The fill is the mean of ImageNet.
_INCREASING = Law(
    (
        *_BLIND,
        _INVERT,
        *_geometry(
            (_shift_x, _shift_y),
            degrees=_signed(lambda level: 30 * level),
            slope=_signed(lambda level: 0.3 * level),
            distance=_signed(lambda level: 0.45 * level),
        ),
        # timm's keeps no bit at the highest level, which leaves no picture.
        *_tones(
            _value(lambda level: max(4 - int(4 * level), 1)),
            _value(lambda level: 256 - int(256 * level)),
        ),
        *_enhancements(_increasing_factor),
        Operation("solarize_add", _in_place(_solarize_add), _value(lambda level: int(110 * level))),
    ),
    Canvas((124, 116, 104), Image.Resampling.BILINEAR),
    probability=0.5,
    highest=10.0,
)

RANDAUGMENT = {"original": _ORIGINAL, "increasing": _INCREASING}

HIGHEST_STRENGTH = 30  # of TrivialAugment; there are 31 equally likely ones

# Levels are the whole numbers from 0 to HIGHEST_STRENGTH.
TRIVIALAUGMENT = Law(
    (
        Operation("identity", _in_place(lambda picture: picture), _nothing),
        *_BLIND,
        *_geometry(
            (_translate_x, _translate_y),
            degrees=_signed(lambda level: int(level * 135 / HIGHEST_STRENGTH)),
            slope=_signed(lambda level: level * 0.99 / HIGHEST_STRENGTH),
            distance=_signed(lambda level: int(level * 32 / HIGHEST_STRENGTH)),
        ),
        *_tones(
            _value(lambda level: 8 - int(level * 6 / HIGHEST_STRENGTH)),
            _value(lambda level: 256 - int(level * 256 / HIGHEST_STRENGTH)),
        ),
        *_enhancements(_value(lambda level: level * 1.99 / HIGHEST_STRENGTH + 0.01)),
    ),
    Canvas((0, 0, 0), Image.Resampling.NEAREST),
)
