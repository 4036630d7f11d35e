"""Nearest neighbours against the plainest way to find them."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from vit_lightning.probe import neighbours
from vit_lightning.probe.neighbours import neighbours_for, vote


def _brute_force(
    train: NDArray[np.float32],
    labels: NDArray[np.integer],
    classes: int,
    queries: NDArray[np.float32],
    most: int,
) -> NDArray[np.float64]:
    shares = np.zeros((len(queries), classes))
    for row, query in enumerate(queries):
        near = sorted(
            (
                (float(query @ other / np.linalg.norm(query) / np.linalg.norm(other)), index)
                for index, other in enumerate(train)
            ),
            reverse=True,
        )[:most]
        votes = [math.exp(similarity / 0.07) for similarity, _ in near]
        for share, (_, index) in zip(votes, near, strict=True):
            if labels.ndim == 2:
                shares[row] += share / sum(votes) * labels[index]
            else:
                shares[row, labels[index]] += share / sum(votes)
    return shares


@pytest.fixture
def sets() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    train = generator.standard_normal((40, 6)) * generator.uniform(0.1, 10, (40, 1))
    return train.astype(np.float32), generator.standard_normal((15, 6)).astype(np.float32)


@pytest.mark.parametrize("most", [1, 7, 100])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("at_once", [1, 1 << 25])
def test_votes_are_those_of_brute_force(
    sets: tuple[NDArray[np.float32], NDArray[np.float32]],
    most: int,
    several: bool,
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "_AT_ONCE", at_once)
    train, queries = sets
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, (40, 3), np.uint8) if several else np.arange(40) % 3
    shares, single = vote(train, labels, 3, queries, most)
    expected = _brute_force(train, labels, 3, queries, most)
    np.testing.assert_allclose(shares, expected, rtol=1e-3, atol=1e-6)
    nearest = _brute_force(train, labels, 3, queries, 1)
    np.testing.assert_allclose(single, nearest, atol=1e-6)


def test_length_does_not_count_and_nothing_overflows() -> None:
    train = np.array([[1e-3, 0], [0, 1e6]], np.float32)
    shares, _ = vote(train, np.array([0, 1]), 2, np.array([[5.0, 0.1], [0, 0]], np.float32), 20)
    assert shares[0, 0] > 0.99
    assert shares[1].tolist() == [0.5, 0.5]  # what has no direction is as near to all


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([100, 200], 20), ([3, 3, 50], 3), ([1, 1, 1], 1), ([0, 0, 6], 6), ([0], 1)],
)
def test_small_classes_have_fewer_neighbours(counts: list[int], expected: int) -> None:
    assert neighbours_for(np.array(counts)) == expected
