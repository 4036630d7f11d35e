"""Many computations at once: a thread for each is faster than all threads for one."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads for each operation, here and in threads that begin."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_threads(
    function: Callable[[_Item], _Result], items: Sequence[_Item], most: int | None = None
) -> Iterator[_Result]:
    """What a function of torch operations gives for each item, in order.

    As many items at once as torch has threads, among which these are divided: an operation that all
    of them share waits for the slowest each time. On little data and a busy machine that was
    measured to cost twenty times the work itself.

    Args:
        function: what to do; by several threads at once.
        items: what to do it with.
        most: items at once, where each takes much memory.
    """
    threads = torch.get_num_threads()
    workers = max(min(threads, len(items), most or threads), 1)
    pool = ThreadPoolExecutor(workers)
    try:
        with torch_threads(threads // workers):
            yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)  # also if the user has had enough
