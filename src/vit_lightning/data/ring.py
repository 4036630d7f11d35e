"""Memory for batches that loading processes and the process that trains share, used again.

Fresh shared memory is handed out by the system page by page, which takes ten times as long as
writing a batch into it. So every worker has a few places that are mapped once.
"""

import itertools
import weakref
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_lightning.data.lent import lent

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
        start, nbytes = place * self._nbytes, int(np.prod(shape)) * np.dtype(dtype).itemsize
        values: NDArray[Any] = self._memory[start : start + nbytes].numpy().view(dtype)
        return values.reshape(shape)

    @staticmethod
    def lent(key: int, place: int, shape: tuple[int, ...], dtype: str) -> Tensor:
        """A place as a tensor, in the process that made the ring; free when the tensor is gone."""
        ring = _KNOWN[key]
        return lent(ring.written(place, shape, dtype), partial(ring._give_back, place))

    def _give_back(self, place: int) -> None:
        self._taken[place] = 0


# By key, in the process that made them.
_KNOWN: weakref.WeakValueDictionary[int, SharedRing] = weakref.WeakValueDictionary()
