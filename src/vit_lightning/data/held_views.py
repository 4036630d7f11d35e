"""Looks made of held pictures, where these are: what ``TrainView`` does, for whole batches."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vit_lightning.data.batches import RawBatch
from vit_lightning.data.held import HeldPictures
from vit_lightning.data.held_looks import HeldBatch
from vit_lightning.data.held_operations import OPERATIONS
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.data.views import TrainView, warped

_AT_ONCE = 1 << 26  # values of pictures that are resized together: 256 MiB in float32


@dataclass(frozen=True, eq=False)
class HeldView:
    """Batches of looks → batches of pixels.

    Args:
        held: the pictures.
        view: what is done to one, and by which filter.
    """

    held: HeldPictures
    view: TrainView

    def __call__(self, batch: HeldBatch) -> RawBatch:
        """The batch as the view makes it of whole pictures of the size that these are held at.

        But for rounding: here and there a value differs by a level of 255, and where a picture is
        moved to the nearest pixels, one of two that are equally near. The noise of erasing is
        another.

        Args:
            batch: on the device of the held pictures.
        """
        images = self._parts(batch)
        if len(batch.warps):
            images = warped(images, batch.warps)
        images = torch.where(batch.mirrored[:, None, None, None], images.flip(-1), images)
        if self.view.is_8_bit:
            images = images.round().to(torch.uint8)
        for kind, rows, values in batch.steps:
            images[rows] = OPERATIONS[kind](images[rows], values)
        if len(batch.erased):
            _erase(images, batch.erased)
        return RawBatch(images.movedim(1, -1), batch.labels, batch.mixing, batch.unreadable)

    def _parts(self, batch: HeldBatch) -> Tensor:
        """(B, C, height, width) float32: the regions of the pictures, resized."""
        _, height, channels, width = self.held.levels.shape
        at_once = max(_AT_ONCE // (height * channels * width), 1)
        parts = [
            resized(self.held.levels[indices].float(), regions, self.view.preprocessing)
            for indices, regions in zip(
                torch.split(batch.indices, at_once),
                torch.split(batch.regions, at_once),
                strict=True,
            )
        ]
        return torch.cat(parts)


def resized(pictures: Tensor, regions: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Regions of pictures at the size of the preprocessing, by its filter.

    Args:
        pictures: (B, H, C, W) float32 in [0, 255].
        regions: (B, 4) left, top, right and bottom in each.
        preprocessing: ``paper`` has no antialiasing, and does not round to whole levels.

    Returns:
        (B, C, height, width) float32.
    """
    height, width = preprocessing.image_size
    left, top, right, bottom = regions.unbind(1)
    whole = preprocessing.is_8_bit
    weigh = _antialiased(_FILTERS[preprocessing.interpolation]) if whole else _interpolated
    count, rows, channels, columns = pictures.shape
    across = weigh(left, right, width, columns)
    narrow = torch.bmm(pictures.view(count, rows * channels, columns), across.mT)
    if whole:  # as Pillow does between its two passes, of which it takes the cheaper one first
        narrow = _in_levels(narrow)
    down = weigh(top, bottom, height, rows)
    result = torch.bmm(down, narrow.view(count, rows, channels * width))
    if whole:
        result = _in_levels(result)
    return result.view(count, height, channels, width).transpose(1, 2)


def _in_levels(values: Tensor) -> Tensor:
    """Whole numbers from 0 to 255, in place; a half goes up, as Pillow has it."""
    return values.add_(0.5).floor_().clamp_(0, 255)


Weigh = Callable[[Tensor, Tensor, int, int], Tensor]


def _antialiased(kernel: Callable[[Tensor], Tensor]) -> Weigh:
    """Pillow's resampling; it looks beyond a region as far as there is a picture."""

    def weigh(start: Tensor, end: Tensor, size: int, source: int) -> Tensor:
        """(B,) edges → (B, size, source) weights of source pixels in each of the result."""
        scale = (end - start)[:, None, None] / size
        centres = start[:, None, None] + scale * _places(size, start)[:, None]
        weights = kernel(((_places(source, start) - centres) / scale.clamp(min=1)).abs())
        return weights / weights.sum(2, keepdim=True)

    return weigh


def _interpolated(start: Tensor, end: Tensor, size: int, source: int) -> Tensor:
    """Between the two nearest pixels of a region; arguments and result as of ``_antialiased``."""
    start, end = start[:, None, None], end[:, None, None]
    places = start + (end - start) / size * _places(size, start)[:, None]
    places = torch.minimum(torch.maximum(places, start + 0.5), end - 0.5)
    return (1 - (_places(source, start) - places).abs()).clamp(min=0)


def _places(size: int, like: Tensor) -> Tensor:
    """(size,) the middles of pixels."""
    return torch.arange(size, dtype=like.dtype, device=like.device) + 0.5


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic}


def _erase(images: Tensor, erased: Tensor) -> None:
    """Fill rectangles with noise, in place.

    Args:
        images: (B, C, H, W) in [0, 255].
        erased: (E, 6) as in ``HeldBatch.erased``.
    """
    _, channels, height, width = images.shape
    rows, top, left, bottom, right, keys = erased.unbind(1)
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    top, left, bottom, right = (edge[:, None, None] for edge in (top, left, bottom, right))
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    places = torch.arange(channels * height * width, dtype=torch.int32, device=images.device)
    noise = _scrambled(_scrambled(places) ^ keys.int()[:, None]) & 255
    noise = noise.view(-1, channels, height, width).to(images.dtype)
    images[rows] = torch.where(inside[:, None], noise, images[rows])


def _scrambled(numbers: Tensor) -> Tensor:
    """int32 → int32 of which every bit depends on all of the number's.

    A function of the number, so that a sample's noise is its own whatever batch it is in (Chris
    Wellons' lowbias32).
    """
    numbers = (numbers ^ ((numbers >> 16) & 0xFFFF)) * 0x7FEB352D
    numbers = (numbers ^ ((numbers >> 15) & 0x1FFFF)) * -0x7B935975  # 0x846CA68B
    return numbers ^ ((numbers >> 16) & 0xFFFF)
