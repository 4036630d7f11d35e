"""A picture as the training sees it: cropped, jittered, mirrored, changed, erased."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from vit_lightning.data.crops import original_crop, resized_crop
from vit_lightning.data.pictures import OpenPicture, Pixels
from vit_lightning.data.policies import Policy, build_policy, erase
from vit_lightning.data.resizing import mirrored
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.settings import AugmentationSettings

Crop = Literal["paper", "modern", "none"]


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
        options = self.augmentation
        moved = options.degrees or options.translate or options.scale
        return self._policy is not None or (self.preprocessing.is_8_bit and not moved)

    def __call__(self, picture: OpenPicture, generator: np.random.Generator) -> Pixels:
        """A picture → (height, width, in_channels) in [0, 255]; all chance is ``generator``'s."""
        options = self.augmentation
        pixels = self._part(picture, generator)
        if options.degrees or options.translate or options.scale:
            pixels = _jitter(pixels, options, generator)
        if options.flip and generator.random() < 0.5:
            pixels = mirrored(pixels)
        if self._policy is not None:
            pixels = _as_pixels(self._policy(_as_image(pixels), generator))
        if options.erasing:
            pixels = cast(Pixels, np.ascontiguousarray(pixels))
            erase(pixels, options.erasing, generator)
        return pixels

    @cached_property
    def _policy(self) -> Policy | None:
        return build_policy(self.augmentation)

    def _part(self, picture: OpenPicture, generator: np.random.Generator) -> Pixels:
        if self.crop == "none":
            return self.preprocessing.pixels(picture)
        if self.crop == "paper":
            box = original_crop(*picture.size, generator)
        else:
            box = resized_crop(*picture.size, generator, self.augmentation.min_crop_area)
        right, bottom = box.left + box.width, box.top + box.height
        # One crop at random is as good as another a fraction of a pixel away.
        size = self.preprocessing.image_size
        region = picture.aligned((box.left, box.top, right, bottom), size)
        return self.preprocessing.region(picture, region)


def _as_image(pixels: Pixels) -> Image.Image:
    """(H, W, 1 or 3) → a picture of mode L or RGB, rounded to 8 bits."""
    levels = pixels if pixels.dtype == np.uint8 else pixels.round().astype(np.uint8)
    return Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)


def _as_pixels(image: Image.Image) -> Pixels:
    pixels = np.array(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def _jitter(
    pixels: Pixels, options: AugmentationSettings, generator: np.random.Generator
) -> Pixels:
    """Rotate, shift and zoom (H, W, C); what comes in from outside repeats the edge; float32."""
    height, width, _ = pixels.shape
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
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
    grid = F.affine_grid(theta[None], [1, *planes.shape[1:]], align_corners=False)
    sampled = F.grid_sample(
        planes, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled[0].permute(1, 2, 0).numpy()
