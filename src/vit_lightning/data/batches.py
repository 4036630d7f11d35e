"""Batches on their way to the device: assembled in place by the workers, as few bytes as can be.

A worker writes each picture at once into its place in the batch, in memory that is shared and used
again; the process that trains gets the batch without a copy, and normalises it where the model is.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from vit_lightning.data.draws import sample_generator
from vit_lightning.data.mixing import Mixing, draw_pairs
from vit_lightning.data.pictures import PictureError, Pictures, Pixels
from vit_lightning.data.ring import SharedRing
from vit_lightning.data.stream import Sample
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.data.views import TrainView
from vit_lightning.errors import InputError


class RawBatch:
    """A batch before the device has finished it.

    No tuple of tensors: Lightning rounds such to bfloat16 on their way where that is the precision
    of the model, and pixels in [0, 255] or places in a picture do not survive it.

    Args:
        pixels: (B, height, width, C) in [0, 255], uint8 or float32.
        labels: (B,) int64, or (B, K) uint8 of pictures with several labels.
        mixing: (B/2, 5) how neighbours are mixed; (0, 5) if they are not.
        unreadable: (U,) int64, the pictures left out or replaced because they cannot be read; stays
            on the CPU.
        place: the ring that ``pixels`` are in, and where, if a worker has put them into one.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        mixing: Tensor,
        unreadable: Tensor,
        place: tuple[int, int] | None = None,
    ) -> None:
        self._place = place
        self.pixels = pixels
        self.labels = labels
        self.mixing = mixing
        self.unreadable = unreadable

    def __reduce__(self) -> tuple[Any, ...]:
        """What a worker sends: instead of pixels in a ring, where they are."""
        others = (self.labels, self.mixing, self.unreadable)
        if self._place is None:
            return RawBatch, (self.pixels, *others)
        shape, dtype = tuple(self.pixels.shape), str(self.pixels.numpy().dtype)
        return _from_ring, (self._place, shape, dtype, others)

    def to(self, device: torch.device) -> "RawBatch":
        """The batch on a device; a GPU fetches it while it computes."""
        options: dict[str, Any] = {"device": device, "non_blocking": device.type == "cuda"}
        pixels, labels = self.pixels.to(**options), self.labels.to(**options)
        return RawBatch(pixels, labels, self.mixing.to(**options), self.unreadable)

    def pin_memory(self) -> "RawBatch":
        """The batch in memory that a GPU can fetch from by itself."""
        pixels, labels = self.pixels.pin_memory(), self.labels.pin_memory()
        return RawBatch(pixels, labels, self.mixing.pin_memory(), self.unreadable)


def _from_ring(
    place: tuple[int, int],
    shape: tuple[int, ...],
    dtype: str,
    others: tuple[Tensor, Tensor, Tensor],
) -> RawBatch:
    return RawBatch(SharedRing.lent(*place, shape, dtype), *others)


class UnderWay:
    """Which picture each worker is reading, visible to the process that started them.

    Where a worker is killed, this is all that can still be known.

    Args:
        workers: loading processes.
    """

    def __init__(self, workers: int) -> None:
        self._slots = _shared(torch.full((max(workers, 1), 2), -1, dtype=torch.int64))

    def slot(self) -> NDArray[np.int64]:
        """(2,) this process' number and, to be written, the picture it reads."""
        worker = get_worker_info()
        slot: NDArray[np.int64] = self._slots[worker.id if worker else 0].numpy()
        slot[0] = os.getpid()
        return slot

    def of(self, pids: Sequence[int]) -> list[int]:
        """What the processes ``pids`` were reading, as far as is known."""
        return [index for pid, index in self._slots.tolist() if pid in pids and index >= 0]


class _BatchInPlace:
    """Pixels of a batch, written where the process that trains will see them.

    Args:
        count: of pictures, at most.
        dataset: whose pictures they are.

    Attributes:
        place: in the ring, once there are pixels, if a worker has found a free one there.
        unreadable: the pictures that were not added.
    """

    def __init__(self, count: int, dataset: "PictureDataset") -> None:
        preprocessing = dataset.preprocessing
        self._shape = (count, *preprocessing.image_size, preprocessing.in_channels)
        self._ring = dataset.ring
        self._skip_unreadable = dataset.skip_unreadable
        self._slot = dataset.under_way.slot()
        self._array: Pixels = np.empty((0, *self._shape[1:]), dtype=np.uint8)
        self._filled = 0
        self.place: tuple[int, int] | None = None
        self.unreadable: list[int] = []

    def add(self, index: int, look: Callable[[], Pixels]) -> bool:
        """Write the next picture, unless it cannot be read.

        Args:
            index: of the picture.
            look: gives its pixels, (height, width, C).

        Raises:
            PictureError: it cannot be read, and nothing says that it may be done without.
        """
        self._slot[1] = index
        try:
            pixels = look()
        except PictureError:
            if not self._skip_unreadable:
                raise
            self.unreadable.append(index)
            return False
        if not self._filled:
            self._array = self._memory(pixels.dtype.name)
        self._array[self._filled] = pixels
        self._filled += 1
        return True

    def pixels(self) -> Tensor:
        """(B, height, width, C) of the pictures; nothing is being read any more."""
        self._slot[1] = -1
        return torch.from_numpy(self._array[: self._filled])

    def _memory(self, dtype: str) -> Pixels:
        worker = get_worker_info()
        if worker is not None and self._ring is not None:
            nbytes = int(np.prod(self._shape)) * np.dtype(dtype).itemsize
            place = self._ring.take(worker.id, nbytes)
            if place is not None:
                self.place = self._ring.key, place
                return self._ring.written(place, self._shape, dtype)
        return torch.empty(self._shape, dtype=getattr(torch, dtype)).numpy()


class PictureDataset(Dataset[RawBatch]):
    """Pictures that are assembled to whole batches.

    Args:
        pictures: any split.
        preprocessing: of a picture.
        is_8_bit: whether the pixels are uint8, or float32.
        skip_unreadable: do without a picture that cannot be read.

    Attributes:
        bytes_per_picture: of a batch.
        under_way: where it is told which picture is being read; the loader makes its own.
        ring: where workers put their batches, if the loader has made one.
    """

    def __init__(
        self,
        pictures: Pictures,
        preprocessing: Preprocessing,
        *,
        is_8_bit: bool,
        skip_unreadable: bool,
    ) -> None:
        self.pictures = pictures
        self.preprocessing = preprocessing
        self.bytes_per_picture = preprocessing.num_values * (1 if is_8_bit else 4)
        self.skip_unreadable = skip_unreadable
        self.under_way = UnderWay(0)
        self.ring: SharedRing | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def _finished(
        self, batch: _BatchInPlace, indices: Sequence[int], mixing: NDArray[np.float32]
    ) -> RawBatch:
        """The batch of the pictures ``indices``."""
        labels = self.pictures.labels[np.asarray(indices, dtype=np.int64)]
        return RawBatch(
            batch.pixels(),
            torch.from_numpy(labels),
            torch.from_numpy(mixing),
            torch.tensor(batch.unreadable, dtype=torch.int64),
            batch.place,
        )


class TrainDataset(PictureDataset):
    """Augmented pictures by (epoch, index, copy): a pure function of these and the seed.

    Args:
        pictures: the training split.
        view: picture and generator → pixels.
        seed: of the augmentation, in [0, 2**64).
        mixing: how neighbours are mixed, if they are.
        skip_unreadable: take the next picture that can be read for one that cannot.
    """

    def __init__(
        self,
        pictures: Pictures,
        view: TrainView,
        seed: int,
        *,
        mixing: Mixing | None = None,
        skip_unreadable: bool = False,
    ):
        super().__init__(
            pictures, view.preprocessing, is_8_bit=view.is_8_bit, skip_unreadable=skip_unreadable
        )
        self.view = view
        self.seed = seed
        self.mixing = mixing

    def __getitems__(self, samples: Sequence[Sample]) -> RawBatch:
        """The batch of these samples.

        Raises:
            PictureError: names a picture that cannot be read.
        """
        batch = _BatchInPlace(len(samples), self)
        indices = [self._add(batch, sample) for sample in samples]
        size = self.preprocessing.image_size
        return self._finished(batch, indices, draw_pairs(self.mixing, self.seed, samples, size))

    def _add(self, batch: _BatchInPlace, sample: Sample) -> int:
        """Put a sample into the batch; returns the index of the picture that it shows."""
        epoch, index, copy = sample
        for instead in range(len(self.pictures)):
            candidate = (index + instead) % len(self.pictures)
            generator = sample_generator(self.seed, epoch, index, copy)
            if batch.add(candidate, partial(self._look, candidate, generator)):
                return candidate
        raise InputError("none of the training pictures can be read: vit check tells why")

    def _look(self, index: int, generator: np.random.Generator) -> Pixels:
        return self.view(self.pictures.open(index), generator)


class EvalDataset(PictureDataset):
    """Pictures by index, as an evaluation sees them.

    Args:
        pictures: any split.
        preprocessing: picture → pixels.
        skip_unreadable: leave out what cannot be read.
    """

    def __init__(
        self, pictures: Pictures, preprocessing: Preprocessing, *, skip_unreadable: bool = False
    ):
        super().__init__(
            pictures,
            preprocessing,
            is_8_bit=preprocessing.is_8_bit,
            skip_unreadable=skip_unreadable,
        )

    def __getitems__(self, indices: Sequence[int]) -> RawBatch:
        """The batch of these pictures.

        Raises:
            PictureError: names a picture that cannot be read.
        """
        batch = _BatchInPlace(len(indices), self)
        kept = [index for index in indices if batch.add(index, partial(self._look, index))]
        return self._finished(batch, kept, draw_pairs(None, 0, [], self.preprocessing.image_size))

    def _look(self, index: int) -> Pixels:
        return self.preprocessing.pixels(self.pictures.open(index))


def as_is(batch: Any) -> Any:
    """The batch, for loaders that want to assemble one."""
    return batch


def _shared(tensor: Tensor) -> Tensor:
    """The tensor, moved to memory that other processes see."""
    return tensor.share_memory_()  # type: ignore[no-any-return, no-untyped-call]
