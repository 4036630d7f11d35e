"""A picture as the training sees it: cropped, jittered, mirrored, changed, erased."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vit_lightning.data.crops import Box, original_crop, resized_crop
from vit_lightning.data.operations import Drawn
from vit_lightning.data.pictures import OpenPicture, Pixels, Region
from vit_lightning.data.policies import Policy, build_policy, erase, erased_box
from vit_lightning.data.resizing import mirrored
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.models.config import Size
from vit_lightning.settings import AugmentationSettings

Crop = Literal["paper", "modern", "none"]


@dataclass(frozen=True, eq=False)
class Look:
    """All that chance decides of a sample's look.

    Args:
        region: the part of the picture that is seen; None: as without augmentation.
        warp: (2, 3) affine jitter, from a place in the result to one in the source, in units of
            half the sides; None if there is none.
        mirrored: whether left and right are swapped.
        changes: of the policy, one after the other.
        erased: the rectangle that is filled with noise, if there is one.
        noise: where it comes from.
    """

    region: Region | None
    warp: NDArray[np.float32] | None
    mirrored: bool
    changes: tuple[Drawn, ...]
    erased: Box | None
    noise: np.random.Generator


@dataclass(frozen=True)
class TrainView:
    """What is done to a training picture before it goes to the device.

    In this order: a random part of the picture, resized by the filter of the preprocessing; affine
    jitter; mirroring; RandAugment or TrivialAugment, colour jitter; random erasing.

    Args:
        preprocessing: size, channels, filter and, without a random crop, the view.
        augmentation: the variations; its mixing and its repeats are not a picture's own matter.
    """

    preprocessing: Preprocessing
    augmentation: AugmentationSettings

    @property
    def crop(self) -> Crop:
        """The law of the random part; by default the one that goes with the preprocessing."""
        paper = self.preprocessing.mode == "paper"
        return self.augmentation.crop or ("paper" if paper else "modern")

    @property
    def is_8_bit(self) -> bool:
        """Whether the pixels are uint8."""
        return self.policy is not None or (self.preprocessing.is_8_bit and not self.warps)

    @property
    def warps(self) -> bool:
        """Whether there is affine jitter."""
        options = self.augmentation
        return bool(options.degrees or options.translate or options.scale)

    @cached_property
    def policy(self) -> Policy | None:
        """What changes 8-bit pictures at random, if anything does."""
        return build_policy(self.augmentation)

    def draw(self, size: Size, generator: np.random.Generator) -> Look:
        """How a picture of ``size`` (height, width) will look; all chance is ``generator``'s."""
        options, result = self.augmentation, self.preprocessing.image_size
        region = self._region(size, generator)
        warp = _warp(result, options, generator) if self.warps else None
        mirrored = bool(options.flip and generator.random() < 0.5)
        changes = () if self.policy is None else self.policy(generator)
        erased = erased_box(*result, options.erasing, generator) if options.erasing else None
        return Look(region, warp, mirrored, changes, erased, noise=generator)

    def __call__(self, picture: OpenPicture, generator: np.random.Generator) -> Pixels:
        """A picture → (height, width, in_channels) in [0, 255]; all chance is ``generator``'s."""
        look = self.draw(picture.size, generator)
        pixels = self._part(picture, look.region)
        if look.warp is not None:
            pixels = _warped(pixels, look.warp)
        if look.mirrored:
            pixels = mirrored(pixels)
        if self.policy is not None:
            image = _as_image(pixels)
            for change in look.changes:
                image = change(image)
            pixels = _as_pixels(image)
        if look.erased is not None:
            pixels = cast(Pixels, np.ascontiguousarray(pixels))
            erase(pixels, look.erased, look.noise)
        return pixels

    def _region(self, size: Size, generator: np.random.Generator) -> Region | None:
        if self.crop == "none":
            return None
        if self.crop == "paper":
            box = original_crop(*size, generator)
        else:
            box = resized_crop(*size, generator, self.augmentation.min_crop_area)
        return box.left, box.top, box.left + box.width, box.top + box.height

    def _part(self, picture: OpenPicture, region: Region | None) -> Pixels:
        if region is None:
            return self.preprocessing.pixels(picture)
        # One crop at random is as good as another a fraction of a pixel away.
        region = picture.aligned(region, self.preprocessing.image_size)
        return self.preprocessing.region(picture, region)


def _as_image(pixels: Pixels) -> Image.Image:
    """(H, W, 1 or 3) → a picture of mode L or RGB, rounded to 8 bits."""
    levels = pixels if pixels.dtype == np.uint8 else pixels.round().astype(np.uint8)
    return Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)


def _as_pixels(image: Image.Image) -> Pixels:
    pixels = np.array(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def _warp(
    size: Size, options: AugmentationSettings, generator: np.random.Generator
) -> NDArray[np.float32]:
    """A random rotation, shift and zoom of pictures of ``size``, as in ``Look.warp``."""
    height, width = size
    angle = math.radians(generator.uniform(-options.degrees, options.degrees))
    shift_x, shift_y = generator.uniform(-options.translate, options.translate, size=2)
    zoom = generator.uniform(1 - options.scale, 1 + options.scale)
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    rows = [
        [cos, sin * height / width, 2 * shift_x],
        [-sin * width / height, cos, 2 * shift_y],
    ]
    return np.array(rows, dtype=np.float32)


def _warped(pixels: Pixels, warp: NDArray[np.float32]) -> Pixels:
    """(H, W, C) moved; what comes in from outside repeats the edge; float32."""
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    moved = warped(planes.float(), torch.from_numpy(warp)[None])
    return moved[0].permute(1, 2, 0).numpy()


def warped(images: Tensor, warps: Tensor) -> Tensor:
    """Move pixels; what comes in from outside repeats the edge.

    Args:
        images: (B, C, H, W) float32.
        warps: (B, 2, 3) as in ``Look.warp``.
    """
    grid = F.affine_grid(warps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
