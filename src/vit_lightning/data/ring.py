"""Memory for batches that loading processes and the process that trains share, used again.

Fresh shared memory is handed out by the system page by page, which takes ten times as long as
writing a batch into it. So every worker has a few places that are mapped once.
"""

import itertools
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_KEYS = itertools.count()


class SharedRing:
    """Places for batches in memory that all processes see.

    A worker alone takes its places, and the process that made the ring alone gives them back: when
    the last tensor that shows a place is gone. A worker that finds none free does without.

    Args:
        workers: loading processes.
        places: of each of them.
        nbytes: of a place.
    """

    def __init__(self, workers: int, places: int, nbytes: int) -> None:
        self.key = next(_KEYS)
        self._places = places
        self._nbytes = nbytes
        # As torch's own collation has it; share_memory_ would copy what is not there yet.
        size = workers * places * nbytes
        storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
        self._memory = torch.empty(0, dtype=torch.uint8).set_(storage)
        self._taken = torch.zeros(workers * places, dtype=torch.uint8)
        self._taken.share_memory_()  # type: ignore[no-untyped-call]
        _KNOWN[self.key] = self

    def take(self, worker: int, nbytes: int) -> int | None:
        """A free place of a worker, which is not free any more; None if there is none so large."""
        if nbytes > self._nbytes:
            return None
        taken = self._taken.numpy()
        own = range(worker * self._places, (worker + 1) * self._places)
        place = next((place for place in own if not taken[place]), None)
        if place is not None:
            taken[place] = 1
        return place

    def written(self, place: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """A place to be written to, as an array."""
        return self._shaped(self._bytes(place), shape, dtype)

    @staticmethod
    def lent(key: int, place: int, shape: tuple[int, ...], dtype: str) -> Tensor:
        """A place as a tensor, in the process that made the ring; free when the tensor is gone."""
        ring = _KNOWN[key]
        return torch.from_numpy(ring._shaped(np.asarray(_Loan(ring, place)), shape, dtype))

    def _bytes(self, place: int) -> NDArray[np.uint8]:
        start = place * self._nbytes
        pixels: NDArray[np.uint8] = self._memory[start : start + self._nbytes].numpy()
        return pixels

    @staticmethod
    def _shaped(content: NDArray[np.uint8], shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        values = content[: int(np.prod(shape)) * np.dtype(dtype).itemsize]
        return values.view(dtype).reshape(shape)


# By key, in the process that made them.
_KNOWN: weakref.WeakValueDictionary[int, SharedRing] = weakref.WeakValueDictionary()


class _Loan:
    """The memory of a place, as numpy takes it: as long as an array shows it, this object lives."""

    def __init__(self, ring: SharedRing, place: int) -> None:
        self._ring = ring
        self._place = place
        self.__array_interface__ = ring._bytes(place).__array_interface__

    def __del__(self) -> None:
        self._ring._taken[self._place] = 0
