"""Every random number of the data, as a pure function of what it is for.

Philox (Salmon et al. 2011) is a counter-based generator: its streams are addressed, not advanced
to. So the order of an epoch and the look of a sample need no history, and the number of workers,
ranks and micro-batches cannot change them. Seeds lie in [0, 2**64).
"""

import numpy as np
from numpy.typing import NDArray

# The upper words of the 256-bit counter address a stream, the lowest one runs along it.
_AUGMENTATION, _EPOCH_ORDER, _HOLD_OUT = range(3)


def _philox(seed: int, purpose: int, first: int, second: int = 0) -> np.random.Philox:
    counter = np.array([0, purpose, first, second], dtype=np.uint64)
    return np.random.Philox(key=np.array([seed, 0], dtype=np.uint64), counter=counter)


def _order(bits: np.random.Philox, size: int) -> NDArray[np.int64]:
    # Sorting raw bits: numpy promises them for all versions, unlike Generator.permutation.
    return np.argsort(bits.random_raw(size), kind="stable").astype(np.int64)


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator that decides how sample ``index`` looks in ``epoch``."""
    return np.random.Generator(_philox(seed, _AUGMENTATION, epoch, index))


def epoch_permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The order (size,) in which ``epoch`` reads samples 0..size-1."""
    return _order(_philox(seed, _EPOCH_ORDER, epoch), size)


def hold_out(
    labels: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split samples by class into those kept and those held out.

    Of a class with n samples, ``round(fraction * n)`` are held out, but at least one (if n > 1)
    and at most n - 1: a class with a single sample stays where the training sees it.

    Args:
        labels: (N,) class of every sample.
        fraction: share to hold out, in (0, 1).
        seed: of the choice.

    Returns:
        Indices kept and indices held out, each ascending.
    """
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        order = _order(_philox(seed, _HOLD_OUT, int(label)), len(members))
        held[members[order[:count]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
