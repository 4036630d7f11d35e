"""From a picture to what the model takes: (channels, height, width) float32, normalised."""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vit_lightning.data.crops import original_crop, resized_crop
from vit_lightning.errors import InputError
from vit_lightning.models.config import Size, as_size

Mode = Literal["paper", "modern", "crop", "squash"]
Interpolation = Literal["bilinear", "bicubic"]
Crop = Literal["paper", "modern", "none"]
Region = tuple[float, float, float, float]  # left, top, right, bottom in pixels, as Pillow has it

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_LEAST_STD = 1e-6
_MOST_PIXELS = 1 << 26  # 256 MiB of a resized picture, of which most is cut off


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture that is not augmented; it travels with the weights.

    The geometry of ``mode``, then (pixels / 255 - mean) / std for each channel.

    Args:
        mode: ``paper`` is the original's: the whole picture resized to ``image_size`` whatever its
            aspect ratio, bilinear with half-pixel centres and *no* anti-aliasing, in float.
            ``modern``: the largest central part of the target's aspect ratio, resized (shortest
            side to the target, then centre crop, without rounding in between).
            ``crop``: timm's and torchvision's: the shortest side resized to ``image_size`` /
            ``crop_fraction``, rounded down, then the centre cut out. ``squash``: Hugging Face's:
            each side resized so, whatever the aspect ratio; without a fraction the whole picture.
        image_size: (height, width) in pixels, or one integer for a square.
        in_channels: 3 for colour, 1 for luma.
        mean: of pixels in [0, 1], for each of 3 channels or one for all. A model of one channel
            takes the average of three: filters made for three are summed for it, so that one
            normalisation stands for all.
        std: as ``mean``, in (0, 1].
        interpolation: Pillow's filter, anti-aliased, on 8 bits; ``paper`` knows its own alone,
            which is bilinear.
        crop_fraction: of ``crop`` and ``squash``, in (0, 1]: the side of what is cut out over the
            side of the resized picture.

    Raises:
        InputError: a value that cannot be.
    """

    mode: Mode
    image_size: Size
    in_channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    interpolation: Interpolation = "bicubic"
    crop_fraction: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", as_size(self.image_size))
        _check_choice("the mode of preprocessing", self.mode, get_args(Mode))
        _check_choice("the interpolation of preprocessing", self.interpolation, tuple(_FILTERS))
        if self.mode == "paper":
            object.__setattr__(self, "interpolation", "bilinear")
        if type(self.in_channels) is not int or self.in_channels not in (1, 3):
            raise InputError(
                "picture files give 3 channels (colour) or 1 (grey), but the model takes "
                f"{_short(self.in_channels)}: give it tensors from a Dataset of your own"
            )
        object.__setattr__(self, "mean", _per_channel("mean", self.mean, 0.0))
        object.__setattr__(self, "std", _per_channel("std", self.std, _LEAST_STD))
        self._check_fraction()

    def _check_fraction(self) -> None:
        if not _is_number(self.crop_fraction) or not 0 < self.crop_fraction <= 1:
            raise InputError(
                "the crop_fraction of preprocessing must be a number in (0, 1], got "
                f"{_short(self.crop_fraction)}"
            )
        if self.crop_fraction != 1 and self.mode not in ("crop", "squash"):
            raise InputError(
                f"the mode of preprocessing is {self.mode}, which knows no crop_fraction "
                f"(got {self.crop_fraction!r}): leave it out, or take the mode crop or squash"
            )

    def __call__(self, picture: Image.Image) -> Tensor:
        """Any picture → (in_channels, height, width), normalised."""
        if self.mode in ("crop", "squash"):
            return self._normalised(_pixels(self._centre(picture)))
        return self.resized(picture, self._seen(picture))

    def __str__(self) -> str:
        fraction = "" if self.crop_fraction == 1 else f" of the central {self.crop_fraction:g}"
        mean, std = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return f"{self.mode}{fraction}, {self.interpolation}, mean {mean}, std {std}"

    def resized(self, picture: Image.Image, region: Region) -> Tensor:
        """A region of a picture, resized by the filter of this mode; returns as ``__call__``."""
        if self.mode == "paper":
            pixels = _pixels(self._colours(picture.crop(region)))[None]
            pixels = F.interpolate(pixels, self.image_size, mode="bilinear", align_corners=False)
            return self._normalised(pixels[0])
        return self._normalised(_pixels(self._filtered(picture, self.image_size, region)))

    def unnormalised(self, images: Tensor) -> Tensor:
        """The inverse of the normalisation: (..., in_channels, height, width) → in [0, 1]."""
        mean, std = (self._channels(values).to(images) for values in (self.mean, self.std))
        return images * std + mean

    def shown(self, picture: Image.Image, side: int = 384) -> NDArray[np.uint8]:
        """The part of a picture that the model sees, for people: (height, width, 3) pixels.

        In the picture's own proportions, its longer side ``side`` pixels; grey for a model of one
        channel. A map over the model's patches covers exactly this part.
        """
        left, top, right, bottom = (round(edge) for edge in self._seen(picture))
        picture = picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        scale = side / max(picture.size)
        width, height = (max(round(length * scale), 1) for length in picture.size)
        picture = self._colours(picture).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(picture.convert("RGB"))

    def in_mode(self, mode: Mode) -> "Preprocessing":
        """The plain geometry of another mode, normalised as these weights know it."""
        if mode == self.mode:
            return self
        return Preprocessing(mode, self.image_size, self.in_channels, self.mean, self.std)

    def _seen(self, picture: Image.Image) -> Region:
        """The part of a picture that reaches the model."""
        if self.mode == "paper":
            return 0, 0, picture.width, picture.height
        if self.mode == "modern":
            return _central_region(picture, self.image_size)
        full_height, full_width = full = self._full_size(picture)
        left, top, right, bottom = _centre_box(full, self.image_size)
        x, y = picture.width, picture.height  # multiplied first: what is whole stays exact
        return (
            left * x / full_width,
            top * y / full_height,
            right * x / full_width,
            bottom * y / full_height,
        )

    def _centre(self, picture: Image.Image) -> Image.Image:
        """The centre of the resized picture, of ``crop`` and ``squash``."""
        full = self._full_size(picture)
        if full[0] * full[1] > _MOST_PIXELS:
            # A sliver. This is the same but for rounding to whole levels, and costs no memory.
            return self._filtered(picture, self.image_size, self._seen(picture))
        return self._filtered(picture, full).crop(_centre_box(full, self.image_size))

    def _full_size(self, picture: Image.Image) -> Size:
        """(height, width) that ``crop`` and ``squash`` resize the whole picture to.

        Never less than ``image_size``, so that nothing has to be padded.
        """
        height, width = (math.floor(side / self.crop_fraction) for side in self.image_size)
        if self.mode == "squash":
            return height, width
        if height == width:  # torchvision's Resize, which cuts off what is behind the point ...
            longer = int(height * max(picture.size) / min(picture.size))
            return (longer, width) if picture.height > picture.width else (height, longer)
        # ... and timm's, for other shapes, which rounds it.
        ratio = min(picture.height / height, picture.width / width)
        return round(picture.height / ratio), round(picture.width / ratio)

    def _filtered(
        self, picture: Image.Image, size: Size, region: Region | None = None
    ) -> Image.Image:
        """A region of a picture, or all of it, at ``size``: rounded to 8 bits and clamped."""
        height, width = size
        return self._colours(picture).resize((width, height), _FILTERS[self.interpolation], region)

    def _colours(self, picture: Image.Image) -> Image.Image:
        mode = "L" if self.in_channels == 1 else "RGB"
        return picture if picture.mode == mode else picture.convert(mode)

    def _normalised(self, pixels: Tensor) -> Tensor:
        """(in_channels, height, width) in [0, 255], normalised.

        Not divided by 255 first: (pixels - 127.5) / 127.5, which is the original's, stays exact.
        """
        return (pixels - self._channels(self.mean) * 255) / (self._channels(self.std) * 255)

    def _channels(self, values: tuple[float, ...]) -> Tensor:
        """Mean or std of the model's channels, (in_channels, 1, 1)."""
        if len(values) != self.in_channels:
            values = (sum(values) / len(values),) * self.in_channels
        return torch.tensor(values).view(-1, 1, 1)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        lists = {name: list(getattr(self, name)) for name in ("image_size", "mean", "std")}
        return asdict(self) | lists

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of ``to_dict``; fields that are not there have their defaults.

        Raises:
            InputError: ``values``, which may come from anywhere, do not describe one.
        """
        try:
            return cls(**values)
        except InputError:
            raise
        # What no field can be, and numbers too long to be printed.
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(
                f"{_short(values)} does not describe a preprocessing: {error}"
            ) from None


@dataclass(frozen=True)
class Augmentation:
    """How a training picture is varied: crop, then affine jitter, then flip.

    Args:
        crop: ``paper`` and ``modern`` draw a region by the original's or the usual law (see
            ``crops``), which is resized by the filter of the preprocessing; ``none`` takes the
            view of the evaluation.
        flip: mirror left and right with probability one half.
        degrees: rotation, uniform in [-degrees, degrees].
        translate: shift along each axis as a fraction of the picture, uniform in
            [-translate, translate].
        scale: zoom factor, uniform in [1 - scale, 1 + scale].
    """

    crop: Crop = "paper"
    flip: bool = True
    degrees: float = 0.0
    translate: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        _check_choice("the crop of augmentation", self.crop, get_args(Crop))
        for name, limit in (("degrees", 180.0), ("translate", 1.0), ("scale", 0.9)):
            if not 0 <= getattr(self, name) <= limit:
                raise InputError(
                    f"augmentation.{name} must lie in [0, {limit:g}], got {getattr(self, name)!r}"
                )


@dataclass(frozen=True)
class TrainTransform:
    """A picture as the training sees it.

    Args:
        preprocessing: size, channels, filter, normalisation and, without a random crop, the view.
        augmentation: the variations.
    """

    preprocessing: Preprocessing
    augmentation: Augmentation

    def __call__(self, picture: Image.Image, generator: np.random.Generator) -> Tensor:
        """A picture → (in_channels, height, width), normalised; all chance is ``generator``'s."""
        pixels = self._crop(picture, generator)
        options = self.augmentation
        if options.degrees or options.translate or options.scale:
            pixels = _jitter(pixels, options, generator)
        if options.flip and generator.random() < 0.5:
            pixels = pixels.flip(-1)
        return pixels

    def _crop(self, picture: Image.Image, generator: np.random.Generator) -> Tensor:
        mode = self.augmentation.crop
        if mode == "none":
            return self.preprocessing(picture)
        law = original_crop if mode == "paper" else resized_crop
        box = law(picture.height, picture.width, generator)
        region = (box.left, box.top, box.left + box.width, box.top + box.height)
        return self.preprocessing.resized(picture, region)


def _jitter(pixels: Tensor, options: Augmentation, generator: np.random.Generator) -> Tensor:
    """Rotate, shift and zoom (C, H, W); what comes in from outside repeats the edge."""
    _, height, width = pixels.shape
    angle = math.radians(generator.uniform(-options.degrees, options.degrees))
    shift_x, shift_y = generator.uniform(-options.translate, options.translate, size=2)
    zoom = generator.uniform(1 - options.scale, 1 + options.scale)
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    # Maps a place in the result to one in the source, in units of half the picture's sides.
    theta = torch.tensor(
        [
            [cos, sin * height / width, 2 * shift_x],
            [-sin * width / height, cos, 2 * shift_y],
        ],
        dtype=torch.float32,
    )
    grid = F.affine_grid(theta[None], [1, *pixels.shape], align_corners=False)
    sampled = F.grid_sample(
        pixels[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled[0]


def _pixels(picture: Image.Image) -> Tensor:
    """A picture → (C, H, W) float32 in [0, 255]."""
    pixels = np.asarray(picture, dtype=np.float32)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def _central_region(picture: Image.Image, size: Size) -> Region:
    """The largest central region with the aspect ratio of ``size`` (height, width)."""
    height, width = size
    scale = min(picture.height / height, picture.width / width)  # picture pixels per target pixel
    region_height = min(height * scale, picture.height)
    region_width = min(width * scale, picture.width)
    left = (picture.width - region_width) / 2
    top = (picture.height - region_height) / 2
    return left, top, left + region_width, top + region_height


def _centre_box(full: Size, size: Size) -> tuple[int, int, int, int]:
    """Where the centre of ``size`` lies in a picture of ``full``: left, top, right, bottom."""
    # Python rounds a half to the even number, as torchvision does here.
    top, left = (round((outer - inner) / 2) for outer, inner in zip(full, size, strict=True))
    return left, top, left + size[1], top + size[0]


def _check_choice(what: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{what} must be one of {', '.join(choices)}, got {_short(value)}")


def _per_channel(name: str, values: object, least: float) -> tuple[float, ...]:
    """Checked values of 1 or 3 channels."""
    numbers = values if isinstance(values, list | tuple) else ()
    if len(numbers) not in (1, 3) or not all(_is_number(v) and least <= v <= 1 for v in numbers):
        raise InputError(
            f"the {name} of preprocessing must be 1 or 3 numbers between {least:g} and 1, for "
            f"pixels in [0, 1], got {_short(values)}; divide those for 0..255 by 255"
        )
    return tuple(float(value) for value in numbers)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: object) -> str:
    """A value from a file in an error: it may be of any length."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python prints no integers of thousands of digits
        return "a number too long to print"
