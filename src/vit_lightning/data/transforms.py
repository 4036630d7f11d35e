"""From a picture to what the model takes: (channels, height, width) float32 in [-1, 1]."""

import math
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

Mode = Literal["paper", "modern"]
Crop = Literal["paper", "modern", "none"]
Region = tuple[float, float, float, float]  # left, top, right, bottom in pixels, as Pillow has it


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture that is not augmented; it travels with the weights.

    Args:
        mode: ``paper`` is the original's: the whole picture resized to ``image_size`` whatever its
            aspect ratio, bilinear with half-pixel centres and *no* anti-aliasing, in float.
            ``modern``: the largest central part of the target's aspect ratio, resized by Pillow's
            anti-aliased bicubic filter (shortest side to the target, then centre crop).
        image_size: (height, width) in pixels, or one integer for a square.
        in_channels: 3 for colour, 1 for luma.
    """

    mode: Mode
    image_size: Size
    in_channels: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", as_size(self.image_size))
        _check_choice("the mode of preprocessing", self.mode, get_args(Mode))
        if self.in_channels not in (1, 3):
            raise InputError(
                "picture files give 3 channels (colour) or 1 (grey), but the model takes "
                f"{self.in_channels!r}: give it tensors from a Dataset of your own"
            )

    def __call__(self, picture: Image.Image) -> Tensor:
        """Any picture → (in_channels, height, width) in [-1, 1]."""
        if self.mode == "paper":
            return self.resized(picture, (0, 0, *picture.size), "paper")
        return self.resized(picture, _central_region(picture, self.image_size), "modern")

    def resized(self, picture: Image.Image, region: Region, mode: Mode) -> Tensor:
        """A region of a picture, resized by the filter of ``mode``; returns as ``__call__``."""
        height, width = self.image_size
        if mode == "modern":
            # Pillow rounds to 8 bits and clamps, as for the weights that expect this filter.
            picture = self._colours(picture)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC, box=region)
            pixels = _pixels(picture)
        else:
            pixels = _pixels(self._colours(picture.crop(region)))
            pixels = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
        return (pixels[0] - 127.5) / 127.5

    def shown(self, picture: Image.Image, side: int = 384) -> NDArray[np.uint8]:
        """The part of a picture that the model sees, for people: (height, width, 3) pixels.

        In the picture's own proportions, its longer side ``side`` pixels; grey for a model of one
        channel. A map over the model's patches covers exactly this part.
        """
        if self.mode == "modern":
            left, top, right, bottom = _central_region(picture, self.image_size)
            picture = picture.crop((round(left), round(top), round(right), round(bottom)))
        scale = side / max(picture.size)
        width, height = (max(round(length * scale), 1) for length in picture.size)
        picture = self._colours(picture).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(picture.convert("RGB"))

    def _colours(self, picture: Image.Image) -> Image.Image:
        mode = "L" if self.in_channels == 1 else "RGB"
        return picture if picture.mode == mode else picture.convert(mode)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self) | {"image_size": list(self.image_size)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of ``to_dict``; InputError for what that could not have written."""
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"{values!r} does not describe a preprocessing: {error}") from None


@dataclass(frozen=True)
class Augmentation:
    """How a training picture is varied: crop, then affine jitter, then flip.

    Args:
        crop: ``paper`` and ``modern`` draw a region (see ``crops``) and resize it by the filter of
            that name; ``none`` takes the view of the evaluation.
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
        preprocessing: size, channels and, without a random crop, the view.
        augmentation: the variations.
    """

    preprocessing: Preprocessing
    augmentation: Augmentation

    def __call__(self, picture: Image.Image, generator: np.random.Generator) -> Tensor:
        """A picture → (in_channels, height, width) in [-1, 1]; all chance is ``generator``'s."""
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
        return self.preprocessing.resized(picture, region, mode)


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
    """A picture → (1, C, H, W) float32 in [0, 255]."""
    pixels = np.asarray(picture, dtype=np.float32)
    return torch.from_numpy(pixels.reshape(1, *pixels.shape[:2], -1)).permute(0, 3, 1, 2)


def _central_region(picture: Image.Image, size: Size) -> Region:
    """The largest central region with the aspect ratio of ``size`` (height, width)."""
    height, width = size
    scale = min(picture.height / height, picture.width / width)  # picture pixels per target pixel
    region_height = min(height * scale, picture.height)
    region_width = min(width * scale, picture.width)
    left = (picture.width - region_width) / 2
    top = (picture.height - region_height) / 2
    return left, top, left + region_width, top + region_height


def _check_choice(what: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{what} must be one of {', '.join(choices)}, got {value!r}")
