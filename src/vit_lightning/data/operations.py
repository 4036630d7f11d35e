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
Matrix = tuple[float, float, float, float, float, float]

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

    def colour(self, mode: str) -> int | tuple[int, int, int]:
        """The fill as a picture of mode ``L`` or ``RGB`` has it."""
        if mode != "L":
            return self.fill
        red, green, blue = self.fill
        return round(0.299 * red + 0.587 * green + 0.114 * blue)  # ITU-R 601-2, Pillow's luma


class Drawn(NamedTuple):
    """A change of which nothing is left to chance."""

    name: str
    change: Change
    canvas: Canvas
    values: Values

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The changed picture, of the same size and mode."""
        return self.change(picture, self.canvas, *self.values)


class Operation(NamedTuple):
    """A row: a name, the change, and how its values are drawn at a level."""

    name: str
    change: Change
    draw: Draw

    def drawn(self, canvas: Canvas, level: float, generator: np.random.Generator) -> Drawn:
        """The change with its values."""
        return Drawn(self.name, self.change, canvas, self.draw(level, generator))


@dataclass(frozen=True)
class Warp:
    """A change that moves pixels.

    Args:
        matrix: (width, height) of a picture and the values → (a, b, c, d, e, f): pixel (x, y) of
            the result is that at (ax + by + c, dx + ey + f) of the picture, or else the fill.
    """

    matrix: Callable[..., Matrix]

    def __call__(self, picture: Image.Image, canvas: Canvas, *values: float) -> Image.Image:
        """The moved picture."""
        matrix, colour = self.matrix(picture.size, *values), canvas.colour(picture.mode)
        kind = Image.Transform.AFFINE
        return picture.transform(picture.size, kind, matrix, canvas.resample, fillcolor=colour)


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


def _rotate(size: tuple[int, int], degrees: float) -> Matrix:
    """Counterclockwise around the centre."""
    x, y = size[0] / 2, size[1] / 2
    # Rounded as by Pillow's own rotation, so that a right angle is one.
    cos, sin = (round(of(math.radians(-degrees)), 15) for of in (math.cos, math.sin))
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


def _shear_x(size: tuple[int, int], slope: float) -> Matrix:
    return 1, slope, 0, 0, 1, 0


def _shear_y(size: tuple[int, int], slope: float) -> Matrix:
    return 1, 0, 0, slope, 1, 0


def _translate_x(size: tuple[int, int], pixels: float) -> Matrix:
    return 1, 0, pixels, 0, 1, 0


def _translate_y(size: tuple[int, int], pixels: float) -> Matrix:
    return 1, 0, 0, 0, 1, pixels


def _shift_x(size: tuple[int, int], fraction: float) -> Matrix:
    return _translate_x(size, fraction * size[0])


def _shift_y(size: tuple[int, int], fraction: float) -> Matrix:
    return _translate_y(size, fraction * size[1])


def cutout_box(
    size: tuple[int, int], half_side: float, centre_x: float, centre_y: float
) -> tuple[int, int, int, int]:
    """The square that Cutout fills: left, top, right, bottom, cut off at the edges.

    Args:
        size: (width, height) of the picture.
        half_side: of the square, as a fraction of the shorter side.
        centre_x: as a fraction of the width.
        centre_y: as a fraction of the height.
    """
    half = round(half_side * min(size))
    x, y = int(centre_x * size[0]), int(centre_y * size[1])
    left, top = max(x - half, 0), max(y - half, 0)
    return left, top, min(x + half, size[0]), min(y + half, size[1])


def _cutout(picture: Image.Image, canvas: Canvas, *values: float) -> Image.Image:
    result = picture.copy()
    result.paste(canvas.colour(picture.mode), cutout_box(picture.size, *values))
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


_PLAIN = Canvas((0, 0, 0), Image.Resampling.NEAREST)


def jittered(brightness: float, contrast: float, color: float) -> tuple[Drawn, Drawn, Drawn]:
    """The three changes of colour jitter, by their factors."""
    return (
        Drawn("brightness", _enhance(ImageEnhance.Brightness), _PLAIN, (brightness,)),
        Drawn("contrast", _enhance(ImageEnhance.Contrast), _PLAIN, (contrast,)),
        Drawn("color", _enhance(ImageEnhance.Color), _PLAIN, (color,)),
    )


def _geometry(
    translate: tuple[Callable[..., Matrix], Callable[..., Matrix]],
    degrees: Draw,
    slope: Draw,
    distance: Draw,
) -> tuple[Operation, ...]:
    return (
        Operation("rotate", Warp(_rotate), degrees),
        Operation("shear_x", Warp(_shear_x), slope),
        Operation("shear_y", Warp(_shear_y), slope),
        Operation("translate_x", Warp(translate[0]), distance),
        Operation("translate_y", Warp(translate[1]), distance),
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
