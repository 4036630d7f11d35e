"""From a picture to what the model takes, in two steps.

``pixels``, where pictures are read: a part of the picture at the model's size, in [0, 255].
``normalised``, where the model is: float32, scaled and shifted for each channel. Between them lies
the way to the device, on which 8-bit pixels are a quarter of the bytes.
"""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vit_lightning.data.lent import ReusedMemory
from vit_lightning.data.pictures import (
    Interpolation,
    OpenPicture,
    Pixels,
    Region,
    WholePicture,
    resized_image,
)
from vit_lightning.errors import InputError
from vit_lightning.models.config import Size, as_size

Mode = Literal["paper", "modern", "crop", "squash"]

_LEAST_STD = 1e-6
_IN_CACHE = 32768  # values that are normalised before the next, by one thread
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
        _check_choice(
            "the interpolation of preprocessing", self.interpolation, get_args(Interpolation)
        )
        if self.mode == "paper":
            object.__setattr__(self, "interpolation", "bilinear")
        if type(self.in_channels) is not int or self.in_channels not in (1, 3):
            raise InputError(
                "picture files give 3 channels (colour) or 1 (grey), but the model takes "
                f"{_short(self.in_channels)}: give it tensors from a Dataset of your own"
            )
        object.__setattr__(self, "mean", _checked_channels("mean", self.mean, 0.0))
        object.__setattr__(self, "std", _checked_channels("std", self.std, _LEAST_STD))
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
        pixels = self.pixels(WholePicture(self._colours(picture)))
        return self.normalised(torch.from_numpy(pixels))

    @property
    def num_values(self) -> int:
        """Values of a picture that the model takes."""
        height, width = self.image_size
        return height * width * self.in_channels

    @property
    def is_8_bit(self) -> bool:
        """Whether ``pixels`` are uint8."""
        return self.mode != "paper"

    def pixels(self, picture: OpenPicture) -> Pixels:
        """What the model sees of a picture: (height, width, in_channels) in [0, 255].

        uint8, but float32 for ``paper``, whose interpolated values are not rounded.
        """
        if self.mode in ("crop", "squash"):
            return self._centre(picture)
        return self.region(picture, self.seen(picture.size))

    def region(self, picture: OpenPicture, region: Region) -> Pixels:
        """A region of a picture, resized by the filter of this mode; returns as ``pixels``."""
        if self.mode != "paper":
            return self._filtered(picture, region, self.image_size)
        image, region = picture.part(region, self.image_size)
        levels = torch.from_numpy(_array(self._colours(image.crop(region))))
        planes = levels.permute(2, 0, 1)[None].float().contiguous()
        planes = F.interpolate(planes, self.image_size, mode="bilinear", align_corners=False)
        return planes[0].permute(1, 2, 0).numpy()

    def normalised(self, pixels: Tensor, memory: ReusedMemory | None = None) -> Tensor:
        """What the device is left to do: (pixels - 255 mean) / (255 std) in float32.

        Not divided by 255 first: (pixels - 127.5) / 127.5, which is the original's, stays exact.

        Args:
            pixels: (..., height, width, in_channels) in [0, 255], of any type.
            memory: where the result is to be, on the CPU.

        Returns:
            (..., in_channels, height, width); as it was, the channels come last in memory.
        """
        on_cpu = pixels.device.type == "cpu"
        shape = tuple(pixels.shape)
        images = torch.empty(shape, device=pixels.device)
        if on_cpu and memory is not None:
            images = memory.empty(shape)
        # Row by row of pixels: a loop over few channels would not be vectorised.
        shift, scale = (
            _row(self._per_channel(values), shape[-2], pixels.device)
            for values in (self.mean, self.std)
        )
        rows, results = (values.flatten(-2).flatten(0, -2) for values in (pixels, images))
        count = max(_IN_CACHE // len(shift), 1) if on_cpu else len(rows)
        for piece, result in zip(
            torch.split(rows, count), torch.split(results, count), strict=True
        ):
            result.copy_(piece).sub_(shift).div_(scale)
        return images.movedim(-1, -3)

    def __str__(self) -> str:
        fraction = "" if self.crop_fraction == 1 else f" of the central {self.crop_fraction:g}"
        mean, std = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return f"{self.mode}{fraction}, {self.interpolation}, mean {mean}, std {std}"

    def unnormalised(self, images: Tensor) -> Tensor:
        """The inverse of the normalisation: (..., in_channels, height, width) → in [0, 1]."""
        mean, std = (self._channels(values, images) for values in (self.mean, self.std))
        return images * std + mean

    def shown(self, picture: Image.Image, side: int = 384) -> NDArray[np.uint8]:
        """The part of a picture that the model sees, for people: (height, width, 3) pixels.

        In the picture's own proportions, its longer side ``side`` pixels; grey for a model of one
        channel. A map over the model's patches covers exactly this part.
        """
        left, top, right, bottom = (
            round(edge) for edge in self.seen((picture.height, picture.width))
        )
        picture = picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        scale = side / max(picture.size)
        width, height = (max(round(length * scale), 1) for length in picture.size)
        picture = self._colours(picture).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(picture.convert("RGB"))

    def seen(self, size: Size) -> Region:
        """The part of a picture of ``size``, (height, width), that reaches the model."""
        height, width = size
        if self.mode == "paper":
            return 0, 0, width, height
        if self.mode == "modern":
            return _central_region(size, self.image_size)
        full_height, full_width = full = self._full_size(size)
        left, top, right, bottom = _centre_box(full, self.image_size)
        # Multiplied first: what is whole stays exact.
        return (
            left * width / full_width,
            top * height / full_height,
            right * width / full_width,
            bottom * height / full_height,
        )

    def in_mode(self, mode: Mode) -> "Preprocessing":
        """The plain geometry of another mode, normalised as these weights know it."""
        if mode == self.mode:
            return self
        return Preprocessing(mode, self.image_size, self.in_channels, self.mean, self.std)

    def _centre(self, picture: OpenPicture) -> NDArray[np.uint8]:
        """The centre of the resized picture, of ``crop`` and ``squash``."""
        height, width = picture.size
        full = self._full_size(picture.size)
        if full[0] * full[1] > _MOST_PIXELS:
            # A sliver. This is the same but for rounding to whole levels, and costs no memory.
            return self._filtered(picture, self.seen(picture.size), self.image_size)
        left, top, right, bottom = _centre_box(full, self.image_size)
        return self._filtered(picture, (0, 0, width, height), full)[top:bottom, left:right]

    def _full_size(self, size: Size) -> Size:
        """(height, width) that ``crop`` and ``squash`` resize a whole picture of ``size`` to.

        Never less than ``image_size``, so that nothing has to be padded.
        """
        height, width = (math.floor(side / self.crop_fraction) for side in self.image_size)
        if self.mode == "squash":
            return height, width
        if height == width:  # torchvision's Resize, which cuts off what is behind the point ...
            longer = int(height * max(size) / min(size))
            return (longer, width) if size[0] > size[1] else (height, longer)
        # ... and timm's, for other shapes, which rounds it.
        ratio = min(size[0] / height, size[1] / width)
        return round(size[0] / ratio), round(size[1] / ratio)

    def _filtered(self, picture: OpenPicture, region: Region, size: Size) -> NDArray[np.uint8]:
        """A region of a picture at ``size``: rounded to 8 bits and clamped."""
        if self.in_channels == 3:
            return picture.resized(region, size, self.interpolation)
        image, region = picture.part(region, size)
        return _array(resized_image(self._colours(image), region, size, self.interpolation))

    def _colours(self, picture: Image.Image) -> Image.Image:
        mode = "L" if self.in_channels == 1 else "RGB"
        return picture if picture.mode == mode else picture.convert(mode)

    def _channels(self, values: tuple[float, ...], images: Tensor) -> Tensor:
        """Mean or std of the model's channels, (in_channels, 1, 1), where and as the images are."""
        channels = torch.tensor(self._per_channel(values), dtype=images.dtype)
        return channels.to(images.device).view(-1, 1, 1)

    def _per_channel(self, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(values) == self.in_channels:
            return values
        return (sum(values) / len(values),) * self.in_channels

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


@lru_cache(maxsize=64)
def _row(values: tuple[float, ...], width: int, device: torch.device) -> Tensor:
    """(width * C,) of mean or std in [0, 255]; kept: a copy to a GPU makes a batch wait for it."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).mul(255).repeat(width)


def _array(picture: Image.Image) -> NDArray[np.uint8]:
    """A picture → (height, width, channels)."""
    pixels = np.array(picture)
    return pixels.reshape(*pixels.shape[:2], -1)


def _central_region(full: Size, size: Size) -> Region:
    """The largest central region of a picture of ``full`` with the aspect ratio of ``size``."""
    height, width = size
    scale = min(full[0] / height, full[1] / width)  # picture pixels per target pixel
    region_height = min(height * scale, full[0])
    region_width = min(width * scale, full[1])
    left = (full[1] - region_width) / 2
    top = (full[0] - region_height) / 2
    return left, top, left + region_width, top + region_height


def _centre_box(full: Size, size: Size) -> tuple[int, int, int, int]:
    """Where the centre of ``size`` lies in a picture of ``full``: left, top, right, bottom."""
    # Python rounds a half to the even number, as torchvision does here.
    top, left = (round((outer - inner) / 2) for outer, inner in zip(full, size, strict=True))
    return left, top, left + size[1], top + size[0]


def _check_choice(what: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{what} must be one of {', '.join(choices)}, got {_short(value)}")


def _checked_channels(name: str, values: object, least: float) -> tuple[float, ...]:
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
