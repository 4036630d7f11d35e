"""Pictures of a split as one array of 8 bits, on the device that computes.

With pictures of 32 or 64 pixels a GPU trains faster than loading processes can supply it. Held
there they cost no reading and no copying: what travels for a batch are the numbers that chance has
drawn.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vit_lightning.console import is_main_process
from vit_lightning.data.pictures import PictureError, Pictures
from vit_lightning.errors import InputError
from vit_lightning.memory import free_memory
from vit_lightning.models.config import Size
from vit_lightning.progress import Progress
from vit_lightning.settings import OnDeviceSettings

_BATCH = 32
_MOST_OF_FREE = 0.8  # the rest is the model's, at the least


@dataclass(frozen=True, eq=False)
class HeldPictures:
    """All pictures of a split.

    Args:
        levels: (N, height, C, width) uint8; a picture is resized along rows, then along columns,
            and in this order both are one product of matrices.
        sizes: (N, 2) height and width of the pictures before they were scaled to these.
        unreadable: indices of those that cannot be read, whose levels mean nothing.
    """

    levels: Tensor
    sizes: NDArray[np.int64]
    unreadable: frozenset[int]

    @property
    def size(self) -> Size:
        """(height, width) of the pictures as they are held."""
        return self.levels.shape[1], self.levels.shape[3]


def held_size(pictures: Pictures, settings: OnDeviceSettings) -> Size:
    """(height, width) that pictures are held at: the setting's, else that of the first.

    Raises:
        InputError: none can be read.
    """
    if settings.side is not None:
        return settings.side, settings.side
    for index in range(len(pictures)):
        try:
            return pictures.open(index).size
        except PictureError:  # said where all are read
            continue
    raise InputError("none of the training pictures can be read: vit check tells why")


def hold(
    pictures: Pictures,
    settings: OnDeviceSettings,
    in_channels: int,
    device: torch.device,
    *,
    workers: int = 0,
    skip_unreadable: bool = False,
) -> HeldPictures:
    """Read all pictures of a split onto a device.

    Args:
        pictures: the split.
        settings: the size that they are scaled to, if they are.
        in_channels: 3 for colour, 1 for luma.
        device: where they are held.
        workers: reading processes; 0 reads in this one.
        skip_unreadable: do without a picture that cannot be read.

    Raises:
        PictureError: names a picture that cannot be read.
        InputError: there is no room for them, or they are of several sizes and the settings name
            none.
    """
    height, width = size = held_size(pictures, settings)
    shape = len(pictures), height, in_channels, width
    try:
        levels = torch.empty(shape, dtype=torch.uint8, device=device)
    except RuntimeError as error:
        raise InputError(_no_room(shape, device, str(error).splitlines()[0])) from None
    sizes = np.zeros((len(pictures), 2), dtype=np.int64)
    unreadable = set()
    squashed = _Squashed(pictures, size, in_channels)
    loader = DataLoader(squashed, _BATCH, num_workers=workers, collate_fn=_together)
    progress = Progress(len(pictures), f"read onto {device}") if is_main_process() else None
    with progress or nullcontext():
        for first, (planes, batch) in zip(range(0, len(pictures), _BATCH), loader, strict=True):
            for index, picture in enumerate(batch, start=first):
                if picture.wrong and not skip_unreadable:
                    raise PictureError(picture.wrong)
                if picture.wrong:
                    unreadable.add(index)
                elif settings.side is None and picture.size != size:
                    raise InputError(_several_sizes(pictures.name(index), picture.size, size))
                sizes[index] = picture.size
            levels[first : first + len(batch)] = planes.to(device)
            if progress is not None:
                progress.update(len(batch))
    return HeldPictures(levels, sizes, frozenset(unreadable))


class _Read(NamedTuple):
    """Of a picture its own (height, width), or what is wrong with it."""

    size: Size
    wrong: str


_Levels = NDArray[np.uint8]  # (height, C, width)


def _together(pictures: Sequence[tuple[_Levels, _Read]]) -> tuple[Tensor, list[_Read]]:
    """Pixels as a tensor, which travels in shared memory: a pipe would hold up a worker."""
    levels, read = zip(*pictures, strict=True)
    return torch.from_numpy(np.stack(levels)), list(read)


class _Squashed(Dataset[tuple[_Levels, _Read]]):
    """Pictures scaled to one size, whatever their aspect ratio: crops are drawn by their own."""

    def __init__(self, pictures: Pictures, size: Size, in_channels: int) -> None:
        self.pictures = pictures
        self.size = size
        self.in_channels = in_channels

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[_Levels, _Read]:
        try:
            picture = self.pictures.open(index)
            height, width = picture.size
            pixels = picture.resized((0, 0, width, height), self.size, "bicubic")
        except PictureError as error:
            nothing = np.zeros((self.size[0], self.in_channels, self.size[1]), dtype=np.uint8)
            return nothing, _Read((1, 1), str(error))
        if self.in_channels == 1:
            pixels = np.array(Image.fromarray(pixels).convert("L"))[:, :, None]
        return np.ascontiguousarray(pixels.transpose(0, 2, 1)), _Read((height, width), "")


def reserve(
    pictures: Pictures,
    settings: OnDeviceSettings,
    in_channels: int,
    device: torch.device,
    world_size: int = 1,
) -> int:
    """Bytes that pictures will take on a device.

    Args:
        pictures: the split.
        settings: the size that they are scaled to, if they are.
        in_channels: 3 for colour, 1 for luma.
        device: where they will be held.
        world_size: processes that hold them, each on a GPU of its own or all in the same memory.

    Raises:
        InputError: they take more than four fifths of what is free.
    """
    height, width = held_size(pictures, settings)
    shape = len(pictures), height, in_channels, width
    needed = math.prod(shape)
    if device.type == "cuda":
        free: int | None = torch.cuda.mem_get_info(device)[0]
    else:
        free = free_memory()
        free = None if free is None else free // world_size
    if free is not None and needed > _MOST_OF_FREE * free:
        each = " for each process" if world_size > 1 else ""
        raise InputError(_no_room(shape, device, f"{free / 1e9:,.1f} GB are free{each}"))
    return needed


def _no_room(shape: tuple[int, ...], device: torch.device, why: str) -> str:
    count, height, _, width = shape
    return (
        f"data.on_device: {count:,} training pictures of {height} x {width} px take "
        f"{math.prod(shape) / 1e9:,.1f} GB of {device}'s memory, and {why}: lower "
        "data.on_device.side, or set data.on_device to null, which reads pictures when they are "
        "needed"
    )


def _several_sizes(name: str, found: Size, first: Size) -> str:
    return (
        f"data.on_device: {name} is {found[0]} x {found[1]} px, and the first training picture "
        f"{first[0]} x {first[1]}: set data.on_device.side, to which all of them are scaled"
    )
