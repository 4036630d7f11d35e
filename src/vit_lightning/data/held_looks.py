"""How the samples of a batch look, as numbers: what loading processes do for held pictures."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vit_lightning.data.draws import sample_generator
from vit_lightning.data.held import HeldPictures
from vit_lightning.data.mixing import Mixing, draw_pairs
from vit_lightning.data.operations import Drawn, Warp, cutout_box
from vit_lightning.data.pictures import Labels
from vit_lightning.data.stream import Sample
from vit_lightning.data.views import Look, TrainView
from vit_lightning.errors import InputError

# These look at the picture. Whatever else moves nothing is a function of a value alone.
_BY_CONTENT = {"autocontrast", "equalize", "color", "contrast", "sharpness"}
_ALIGNMENT = 8  # bytes, of what is packed
_LEVELS = Image.fromarray(np.arange(256, dtype=np.uint8)[None])


class Step(NamedTuple):
    """A change of some pictures of a batch.

    Args:
        kind: of ``held_operations.OPERATIONS``.
        rows: (n,) which pictures.
        values: (n, k) how each is changed.
    """

    kind: str
    rows: Tensor
    values: Tensor


class HeldBatch:
    """A batch of held pictures, by what is to be made of each.

    Args:
        steps: what policies do, in order.
        unreadable: as of ``RawBatch``, and so are ``labels`` and ``mixing``.
        indices: (B,) of the pictures.
        regions: (B, 4) left, top, right and bottom of the part that is seen, in held pixels.
        mirrored: (B,) bool.
        warps: (B, 2, 3) as ``Look.warp``, or (0, 2, 3).
        erased: (E, 6) row, top, left, bottom, right and the key of the noise.
        labels: (B,) or (B, K).
        mixing: (B/2, 5) or (0, 5).
    """

    def __init__(
        self,
        steps: Sequence[Step],
        unreadable: Tensor,
        indices: Tensor,
        regions: Tensor,
        mirrored: Tensor,
        warps: Tensor,
        erased: Tensor,
        labels: Tensor,
        mixing: Tensor,
    ) -> None:
        self.indices = indices
        self.regions = regions
        self.mirrored = mirrored
        self.warps = warps
        self.erased = erased
        self.labels = labels
        self.mixing = mixing
        self.unreadable = unreadable
        self.steps = steps

    def __reduce__(self) -> tuple[Any, ...]:
        """What a worker sends: all tensors in one piece of shared memory.

        Not their bytes: what does not fit into the pipe holds up a worker, and without end where
        the process that trains has been killed.
        """
        tensors = [*self._parts(), *(part for step in self.steps for part in step[1:])]
        packed, about = _packed(tensors)
        return _received, (packed, about, [step.kind for step in self.steps])

    def to(self, device: torch.device) -> "HeldBatch":
        """The batch on a device, but for ``unreadable``; a GPU fetches it while it computes."""
        on_gpu = device.type == "cuda"
        return self._each(lambda part: part.to(device, non_blocking=on_gpu))

    def pin_memory(self) -> "HeldBatch":
        """The batch in memory that a GPU can fetch from by itself."""
        return self._each(Tensor.pin_memory)

    def _parts(self) -> tuple[Tensor, ...]:
        looks = self.indices, self.regions, self.mirrored, self.warps, self.erased
        return self.unreadable, *looks, self.labels, self.mixing

    def _each(self, change: Callable[[Tensor], Tensor]) -> "HeldBatch":
        unreadable, *parts = self._parts()
        steps = [Step(kind, change(rows), change(values)) for kind, rows, values in self.steps]
        return HeldBatch(steps, unreadable, *map(change, parts))


_About = list[tuple[torch.dtype, tuple[int, ...]]]


def _packed(tensors: Sequence[Tensor]) -> tuple[Tensor, _About]:
    """The bytes of tensors, one after the other, and what they are."""
    pieces = [tensor.numpy().tobytes() for tensor in tensors]
    padded = b"".join(piece + bytes(-len(piece) % _ALIGNMENT) for piece in pieces)
    packed = torch.frombuffer(bytearray(padded), dtype=torch.uint8)
    return packed, [(tensor.dtype, tuple(tensor.shape)) for tensor in tensors]


def _received(packed: Tensor, about: _About, kinds: Sequence[str]) -> HeldBatch:
    """The inverse of ``HeldBatch.__reduce__``."""
    tensors, start = [], 0
    for dtype, shape in about:
        end = start + math.prod(shape) * dtype.itemsize
        tensors.append(packed[start:end].view(dtype).view(shape))
        start = end + -end % _ALIGNMENT
    first = len(tensors) - 2 * len(kinds)  # of the steps' rows and values
    rows, values = tensors[first::2], tensors[first + 1 :: 2]
    steps = [Step(*step) for step in zip(kinds, rows, values, strict=True)]
    return HeldBatch(steps, *tensors[:first])


class HeldDataset(Dataset[HeldBatch]):
    """Looks of held pictures by (epoch, index, copy): a pure function of these and the seed.

    They are drawn by the same law and from the same numbers as those of ``TrainDataset``.

    Args:
        held: the pictures, which stay where they are.
        labels: of the pictures.
        view: how looks are drawn.
        seed: of the augmentation, in [0, 2**64).
        mixing: how neighbours are mixed, if they are.

    Raises:
        InputError: none of the pictures can be read.
    """

    def __init__(
        self,
        held: HeldPictures,
        labels: Labels,
        view: TrainView,
        seed: int,
        *,
        mixing: Mixing | None = None,
    ) -> None:
        if len(held.unreadable) == len(labels):
            raise InputError("none of the training pictures can be read: vit check tells why")
        self.size = held.size
        self.sizes = held.sizes
        self.unreadable = held.unreadable
        self.labels = labels
        self.view = view
        self.seed = seed
        self.mixing = mixing

    def __getitems__(self, samples: Sequence[Sample]) -> HeldBatch:
        """The batch of these samples."""
        looks, indices, unreadable = [], [], []
        for epoch, index, copy in samples:
            picture = index
            while picture in self.unreadable:  # the next one is taken, as if it were this one
                unreadable.append(picture)
                picture = (picture + 1) % len(self.labels)
            generator = sample_generator(self.seed, epoch, index, copy)
            height, width = (int(side) for side in self.sizes[picture])
            looks.append(self.view.draw((height, width), generator))
            indices.append(picture)
        numbers = np.array(indices, dtype=np.int64)
        warps = [look.warp for look in looks if look.warp is not None]
        arrays = [
            np.array(unreadable, dtype=np.int64),
            numbers,
            self._regions(looks, numbers),
            np.array([look.mirrored for look in looks]),
            np.stack(warps) if warps else np.empty((0, 2, 3), dtype=np.float32),
            _erased(looks),
            self.labels[numbers],
            draw_pairs(self.mixing, self.seed, samples, self.view.preprocessing.image_size),
        ]
        steps = self._steps([look.changes for look in looks])
        return HeldBatch(steps, *map(torch.from_numpy, arrays))

    def _regions(self, looks: Sequence[Look], indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B, 4) in held pixels."""
        sizes, seen = self.sizes[indices], self.view.preprocessing.seen
        regions = [
            seen((int(height), int(width))) if look.region is None else look.region
            for look, (height, width) in zip(looks, sizes, strict=True)
        ]
        height, width = self.size
        scales = np.array([width, height, width, height]) / sizes[:, [1, 0, 1, 0]]
        return (np.array(regions) * scales).astype(np.float32)

    def _steps(self, changes: Sequence[Sequence[Drawn]]) -> list[Step]:
        """The changes of each picture: first all that come first, by kind, then the second ones."""
        steps = []
        size, mode = self._result()
        for turn in range(max(map(len, changes))):
            found: dict[str, tuple[list[int], list[NDArray[Any]]]] = {}
            for row, own in enumerate(changes):
                if turn < len(own) and own[turn].name != "identity":
                    kind, values = _as_numbers(own[turn], size, mode)
                    rows, all_values = found.setdefault(kind, ([], []))
                    rows.append(row)
                    all_values.append(values)
            steps += [
                Step(kind, torch.tensor(rows), torch.from_numpy(np.stack(values)))
                for kind, (rows, values) in found.items()
            ]
        return steps

    def _result(self) -> tuple[tuple[int, int], str]:
        """(width, height) and Pillow's mode of a picture when policies change it."""
        height, width = self.view.preprocessing.image_size
        return (width, height), "L" if self.view.preprocessing.in_channels == 1 else "RGB"


def _as_numbers(drawn: Drawn, size: tuple[int, int], mode: str) -> tuple[str, NDArray[Any]]:
    """The kind of a change, and what it is told.

    Args:
        drawn: the change.
        size: (width, height) of the picture.
        mode: L or RGB.
    """
    colour = np.ravel(drawn.canvas.colour(mode))
    if isinstance(drawn.change, Warp):
        nearest = drawn.canvas.resample == Image.Resampling.NEAREST
        matrix = drawn.change.matrix(size, *drawn.values)
        return "nearest" if nearest else "bilinear", _row(*matrix, *colour)
    if drawn.name == "cutout":
        return "cutout", _row(*cutout_box(size, *drawn.values), *colour)
    if drawn.name in _BY_CONTENT:
        return drawn.name, _row(*drawn.values)
    return "table", np.array(drawn(_LEVELS))[0]


def _row(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def _erased(looks: Sequence[Look]) -> NDArray[np.int64]:
    """(E, 6) as in ``HeldBatch.erased``."""
    rows = []
    for row, look in enumerate(looks):
        if look.erased is not None:
            top, left, height, width = look.erased
            key = int(look.noise.integers(2**31))
            rows.append((row, top, left, top + height, left + width, key))
    return np.array(rows, dtype=np.int64).reshape(-1, 6)
