"""Every random number of the data, as a pure function of what it is for.

Philox (Salmon et al. 2011) is a counter-based generator: its streams are addressed, not advanced
to. So the order of an epoch and the look of a sample need no history, and the number of workers,
ranks and micro-batches cannot change them. Seeds lie in [0, 2**64).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_lightning.errors import InputError

# The upper words of the 256-bit counter address a stream, the lowest one runs along it.
_AUGMENTATION, _EPOCH_ORDER, _HOLD_OUT, _MIXING = range(4)
_ODD_ONES, _CLASS_ORDER, _BALANCED_ORDER = range(4, 7)
_RAW_PER_COUNT = 4  # words that Philox gives before its counter moves


def _philox(
    seed: int, purpose: int, first: int, second: int = 0, copy: int = 0, *, along: int = 0
) -> np.random.Philox:
    counter = np.array([along, purpose, first, second], dtype=np.uint64)
    return np.random.Philox(key=np.array([seed, copy], dtype=np.uint64), counter=counter)


def _order(bits: np.random.Philox, size: int) -> NDArray[np.int64]:
    # Sorting raw bits: numpy promises them for all versions, unlike Generator.permutation.
    return np.argsort(bits.random_raw(size), kind="stable").astype(np.int64)


def sample_generator(seed: int, epoch: int, index: int, copy: int = 0) -> np.random.Generator:
    """The generator that decides how one copy of sample ``index`` looks in ``epoch``."""
    return np.random.Generator(_philox(seed, _AUGMENTATION, epoch, index, copy))


def pair_generator(seed: int, epoch: int, index: int, copy: int = 0) -> np.random.Generator:
    """The generator that decides how a sample is mixed with the one after it in the stream."""
    return np.random.Generator(_philox(seed, _MIXING, epoch, index, copy))


def epoch_permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The order (size,) in which ``epoch`` reads samples 0..size-1."""
    return _order(_philox(seed, _EPOCH_ORDER, epoch), size)


def balanced_order(seed: int, epoch: int, labels: NDArray[Any]) -> NDArray[np.int64]:
    """The order in which ``epoch`` reads samples so that every class comes equally often.

    An epoch is as long as there are samples, N. Each of the C classes that have samples gets
    ``N // C`` positions or one more; the odd ones go round, in an order drawn once, so that over
    epochs no class has had more than one more than another. A class reads its samples permutation
    after permutation, across the borders of epochs: at the end of an epoch each of its samples has
    been read as often as the others, or once more.

    Args:
        seed: of all choices.
        epoch: from 0.
        labels: (N,) class of every sample.

    Returns:
        (N,) samples, of which an epoch may hold one often and another not at all.

    Raises:
        InputError: samples have several labels.
    """
    if labels.ndim != 1:
        raise InputError(
            "balanced sampling needs one label per picture, and these pictures have several: set "
            "data.sampling to uniform"
        )
    classes, members = _by_class(labels)
    starts = _class_positions(seed, len(labels), len(classes), epoch)
    ends = _class_positions(seed, len(labels), len(classes), epoch + 1)
    samples = [
        own[_class_reads(seed, int(label), len(own), int(start), int(end))]
        for label, own, start, end in zip(classes, members, starts, ends, strict=True)
    ]
    order = _order(_philox(seed, _BALANCED_ORDER, epoch), len(labels))
    return np.concatenate(samples)[order].astype(np.int64)


def _class_positions(seed: int, size: int, num_classes: int, epoch: int) -> NDArray[np.int64]:
    """(num_classes,) how many samples of each class were read before ``epoch``."""
    each, odd = divmod(size, num_classes)
    place = np.argsort(_order(_philox(seed, _ODD_ONES, 0), num_classes))
    # The odd ones dealt so far, to one class after the other: whole rounds, and the round begun.
    return epoch * each + (epoch * odd - place + num_classes - 1) // num_classes


def _class_reads(seed: int, label: int, size: int, start: int, end: int) -> NDArray[np.int64]:
    """(end - start,) which of its ``size`` samples a class reads from ``start`` to ``end``."""
    first, last = start // size, -(-end // size)  # of its permutations
    count, skip = divmod(first * size, _RAW_PER_COUNT)
    bits = _philox(seed, _CLASS_ORDER, label, along=count).random_raw(skip + (last - first) * size)
    orders = np.argsort(bits[skip:].reshape(-1, size), axis=1, kind="stable")
    return orders.reshape(-1)[start - first * size : end - first * size]


def read_before(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) how often the sample at each position of an order came at earlier positions."""
    by_sample = np.argsort(order, kind="stable")
    _, firsts, sizes = np.unique(order[by_sample], return_index=True, return_counts=True)
    times = np.empty_like(order)
    times[by_sample] = np.arange(len(order)) - np.repeat(firsts, sizes)
    return times


def hold_out(
    labels: NDArray[Any], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split samples by class into those kept and those held out.

    Of a class with n samples, ``round(fraction * n)`` are held out, but at least one (if n > 1)
    and at most n - 1: a class with a single sample stays where the training sees it. A sample of
    several classes counts for the rarest of them, and those of none count for one more class.

    Args:
        labels: (N,) class of every sample, or (N, K) with 1 for each of the K classes it has.
        fraction: share to hold out, in (0, 1).
        seed: of the choice.

    Returns:
        Indices kept and indices held out, each ascending.
    """
    if labels.ndim == 2:
        labels = _rarest(labels)
    held = np.zeros(len(labels), dtype=bool)
    for label, members in zip(*_by_class(labels), strict=True):
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        order = _order(_philox(seed, _HOLD_OUT, int(label)), len(members))
        held[members[order[:count]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _by_class(labels: NDArray[Any]) -> tuple[NDArray[Any], list[NDArray[np.int64]]]:
    """The classes that have samples, and of each the indices of its samples, all ascending."""
    classes, sizes = np.unique(labels, return_counts=True)
    return classes, np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])


def _rarest(labels: NDArray[Any]) -> NDArray[np.int64]:
    """(N, K) several classes of every sample → (N,) the one with the fewest samples; K for none."""
    samples, columns = np.nonzero(labels)  # ascending by sample
    by_rarity = np.argsort(np.bincount(columns, minlength=labels.shape[1]), kind="stable")
    ranks = np.argsort(by_rarity)[columns]
    present, firsts = np.unique(samples, return_index=True)
    rarest = np.full(len(labels), labels.shape[1])
    if len(present):
        rarest[present] = by_rarity[np.minimum.reduceat(ranks, firsts)]
    return rarest
