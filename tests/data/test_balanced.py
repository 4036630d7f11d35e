from typing import Any

import numpy as np
import pytest

from vit_lightning.data.draws import balanced_order, read_before
from vit_lightning.errors import InputError

uneven = np.repeat([4, 0, 2], [10, 3, 1])  # 14 samples; classes 1 and 3 have none


def epochs(labels: Any, count: int, seed: int = 0) -> list[list[int]]:
    return [balanced_order(seed, epoch, labels).tolist() for epoch in range(count)]


def test_order_is_the_same_on_every_machine_and_version() -> None:
    # Pinned: a run must be resumable after an update of numpy.
    labels = np.repeat([1, 0], [6, 2])
    assert balanced_order(0, 1, labels).tolist() == [4, 6, 7, 6, 7, 1, 4, 3]


def test_every_class_comes_equally_often() -> None:
    total = np.zeros(5, dtype=int)
    for samples in epochs(uneven, 12):
        counts = np.bincount(uneven[samples], minlength=5)
        assert sorted(counts.tolist()) == [0, 0, 4, 5, 5]
        total += counts
        assert np.ptp(total[[0, 2, 4]]) <= 1  # the odd ones go round
    assert total.tolist() == [56, 0, 56, 0, 56]


def test_samples_of_a_class_are_used_evenly_within_and_over_epochs() -> None:
    total = np.zeros(14, dtype=int)
    for samples in epochs(uneven, 10):
        counts = np.bincount(samples, minlength=14)
        for label in (0, 4):
            assert np.ptp(counts[uneven == label]) <= 2
        total += counts
        assert all(np.ptp(total[uneven == label]) <= 1 for label in (0, 4))


def test_read_before_tells_equal_samples_apart() -> None:
    assert read_before(np.array([3, 1, 3, 3, 0, 1])).tolist() == [0, 0, 1, 2, 0, 1]
    samples = balanced_order(0, 0, uneven)
    times = read_before(samples)
    assert len(set(zip(samples.tolist(), times.tolist(), strict=True))) == 14
    assert [times[samples == i].max() + 1 for i in (10, 13)] == [
        np.count_nonzero(samples == i) for i in (10, 13)
    ]


def test_balanced_labels_are_read_once_each() -> None:
    labels = np.tile(np.arange(4), 5)
    for samples in epochs(labels, 3):
        assert sorted(samples) == list(range(20))


def test_order_differs_by_seed_and_epoch_and_mixes_the_classes() -> None:
    first, second = epochs(uneven, 2)
    (other,) = epochs(uneven, 1, seed=1)
    assert first != second
    assert first != other
    labels = np.repeat([0, 1], [900, 100])
    halves = labels[balanced_order(0, 0, labels)][:500]
    assert 200 < halves.sum() < 300  # 250 ± 11 if the order is a shuffle


def test_each_class_draws_its_own_order() -> None:
    labels = np.repeat([0, 1], 50)
    samples = balanced_order(0, 0, labels)
    assert samples[samples < 50].tolist() != (samples[samples >= 50] - 50).tolist()


@pytest.mark.parametrize("labels", [np.zeros(1, int), np.zeros(7, int), np.arange(7)])
def test_edges(labels: Any) -> None:
    assert sorted(balanced_order(3, 2, labels).tolist()) == list(range(len(labels)))


def test_several_labels_are_refused() -> None:
    with pytest.raises(InputError, match="balanced sampling needs one label per picture"):
        balanced_order(0, 0, np.zeros((4, 2), dtype=np.uint8))


def test_a_late_epoch_is_addressed_not_advanced_to() -> None:
    labels = np.random.default_rng(0).integers(0, 100, size=200_000)
    labels[labels == 7] = 8
    labels[0] = 7  # one sample for a hundredth of the positions
    samples = balanced_order(0, 100_000, labels)
    assert np.bincount(labels[samples]).tolist() == [2000] * 100
    assert np.count_nonzero(samples == 0) == 2000
