"""Memory that is lent as a tensor, and comes back when the last tensor that shows it is gone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MOST_FREE = 4  # blocks that are kept for later


def lent(memory: NDArray[Any], give_back: Callable[[], None]) -> Tensor:
    """A tensor that shows ``memory``; ``give_back`` is called when nothing shows it any more."""
    return torch.from_numpy(np.asarray(_Loan(memory, give_back)))


class _Loan:
    """Memory as numpy takes it: as long as an array shows it, this object lives."""

    def __init__(self, memory: NDArray[Any], give_back: Callable[[], None]) -> None:
        self._memory = memory
        self._give_back = give_back
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._give_back()


class ReusedMemory:
    """Tensors on the CPU, in the memory of earlier ones of which nothing is left.

    Memory from the system comes page by page, and to get it takes longer than to fill it. What the
    C library keeps for itself may not serve again: a freed block is too small for an aligned one
    of the same size.
    """

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """A float32 tensor of any content."""
        count = int(np.prod(shape))
        block = self._free.pop() if self._free else torch.empty(count)
        if block.numel() < count:
            block = torch.empty(count)
        free = self._free  # not this object: memory may come back after its end

        def give_back() -> None:
            if len(free) < _MOST_FREE:
                free.append(block)

        return lent(block[:count].view(shape).numpy(), give_back)
