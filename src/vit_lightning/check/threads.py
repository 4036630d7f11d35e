"""Many small computations at once: a thread for each is faster than all threads for one."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use a single thread for each operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """What a function of torch operations gives for each item, in order.

    One operation on little data that is shared among all threads waits for the slowest of them
    each time; on a busy machine that was measured to cost twenty times the work itself.
    """
    pool = ThreadPoolExecutor(torch.get_num_threads())
    try:
        with one_thread():
            yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)  # also if the user has had enough
