import numpy as np
import pytest

from vit_lightning.data.draws import epoch_permutation, hold_out, sample_generator


def test_epoch_permutation_is_the_same_on_every_machine_and_version() -> None:
    # Pinned: a run must be resumable after an update of numpy.
    assert epoch_permutation(0, 0, 10).tolist() == [0, 1, 9, 6, 5, 3, 7, 8, 2, 4]
    assert sample_generator(1, 2, 3).random(2) == pytest.approx(
        [0.3666367661554447, 0.11748216026831493], abs=0
    )


@pytest.mark.parametrize("size", [1, 2, 97])
def test_epoch_permutation_is_a_permutation(size: int) -> None:
    assert sorted(epoch_permutation(3, 5, size).tolist()) == list(range(size))


def test_streams_differ_by_seed_epoch_and_index() -> None:
    draws = {
        tuple(sample_generator(seed, epoch, index).integers(2**63, size=4))
        for seed in (0, 1)
        for epoch in (0, 1)
        for index in (0, 1, 2)
    }
    assert len(draws) == 12
    assert epoch_permutation(0, 0, 50).tolist() != epoch_permutation(0, 1, 50).tolist()
    assert epoch_permutation(0, 0, 50).tolist() != epoch_permutation(1, 0, 50).tolist()


def test_first_positions_are_uniform() -> None:
    firsts = [epoch_permutation(0, epoch, 8)[0] for epoch in range(4000)]
    counts = np.bincount(firsts, minlength=8)
    # Chi-square with 7 degrees of freedom: 24.3 is exceeded once in a thousand.
    assert ((counts - 500) ** 2 / 500).sum() < 24.3


def test_hold_out_takes_the_share_of_every_class() -> None:
    labels = np.repeat(np.arange(4), [100, 10, 2, 1])
    kept, held = hold_out(labels, 0.2, seed=0)
    assert np.bincount(labels[held], minlength=4).tolist() == [20, 2, 1, 0]
    assert sorted([*kept, *held]) == list(range(113))
    assert kept.tolist() == sorted(kept)
    assert held.tolist() == sorted(held)


def test_hold_out_is_a_function_of_the_seed() -> None:
    labels = np.repeat(np.arange(3), 40)
    first, again, other = (hold_out(labels, 0.25, seed)[1].tolist() for seed in (4, 4, 5))
    assert first == again
    assert first != other


def test_hold_out_leaves_every_class_a_training_picture() -> None:
    kept, held = hold_out(np.array([0, 0, 1, 1]), 0.99, seed=0)
    assert (len(kept), len(held)) == (2, 2)
