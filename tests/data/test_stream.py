import itertools
from typing import Any

import numpy as np
import pytest

from vit_lightning.data.draws import epoch_permutation
from vit_lightning.data.stream import (
    ShardSampler,
    StreamBatchSampler,
)
from vit_lightning.errors import InputError


def stream(
    size: int = 10, batch_size: int = 4, num_steps: int = 10, seed: int = 0, **options: Any
) -> StreamBatchSampler:
    return StreamBatchSampler(
        size, batch_size=batch_size, num_steps=num_steps, seed=seed, **options
    )


def test_every_epoch_is_its_permutation() -> None:
    samples = list(itertools.chain.from_iterable(stream(num_steps=10)))
    assert len(samples) == 40
    for epoch in range(4):
        part = samples[epoch * 10 : (epoch + 1) * 10]
        assert part == [(epoch, index, 0) for index in epoch_permutation(0, epoch, 10)]
        assert sorted(index for _, index, _ in part) == list(range(10))


def test_batches_are_full_and_cross_epochs() -> None:
    batches = list(stream(num_steps=7))
    assert [len(batch) for batch in batches] == [4] * 7
    assert [epoch for epoch, _, _ in batches[2]] == [0, 0, 1, 1]


def test_a_batch_may_hold_several_epochs() -> None:
    first = next(iter(stream(size=3, batch_size=8)))
    assert [epoch for epoch, _, _ in first] == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3, 5, 100])
@pytest.mark.parametrize("batch_size", [6, 10, 13])
def test_ranks_and_micro_batches_share_the_batch_exactly(
    world_size: int, micro_batch: int | None, batch_size: int
) -> None:
    options = {"batch_size": batch_size, "num_steps": 5}
    chunks = world_size * -(-batch_size // (world_size * (micro_batch or batch_size)))
    ranks = {"world_size": world_size, "micro_batch": micro_batch}
    if chunks > batch_size:
        with pytest.raises(InputError, match=f"cannot be cut into {chunks} parts"):
            stream(**options, **ranks)
        return
    samplers = [stream(**options, **ranks, rank=rank) for rank in range(world_size)]
    per_step = samplers[0].micro_batches_per_step
    shares = [list(sampler) for sampler in samplers]
    sizes = {len(chunk) for share in shares for chunk in share}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= (micro_batch or batch_size)
    for step, batch in enumerate(stream(**options)):
        parts = [share[step * per_step : (step + 1) * per_step] for share in shares]
        assert list(itertools.chain(*itertools.chain(*parts))) == batch
    assert all(len(share) == len(sampler) for share, sampler in zip(shares, samplers, strict=True))


def test_a_start_step_skips_what_is_done() -> None:
    whole = list(stream(num_steps=6, micro_batch=2))
    rest = stream(num_steps=6, micro_batch=2, start_step=4)
    assert list(rest) == whole[8:]
    assert len(rest) == len(whole) == 12
    assert list(stream(num_steps=6, start_step=6)) == []


def test_iterating_again_gives_the_same() -> None:
    sampler = stream()
    assert list(sampler) == list(sampler)
    assert list(stream(seed=1)) != list(sampler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "no pictures"),
        ({"batch_size": 0}, r"batch_size \(0\)"),
        ({"micro_batch": 0}, r"micro_batch \(0\)"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"start_step": 11}, "step 11 of 10"),
        ({"batch_size": 3, "world_size": 4}, "at least 4"),
        (
            {"batch_size": 5, "world_size": 4, "micro_batch": 1},
            "at least 8, or a micro_batch above",
        ),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stream(**options)


def test_shards_hold_every_sample_once() -> None:
    shards = [list(ShardSampler(11, rank, 3)) for rank in range(3)]
    assert shards[1] == [1, 4, 7, 10]
    assert sorted(itertools.chain(*shards)) == list(range(11))
    assert [len(ShardSampler(11, rank, 3)) for rank in range(3)] == [4, 4, 3]


def test_fewer_pictures_than_ranks_are_refused() -> None:
    with pytest.raises(InputError, match="2 pictures to evaluate on are too few for 3 processes"):
        ShardSampler(2, 0, 3)


# Pairs and copies


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [None, 2, 3, 5, 100])
def test_pairs_are_never_cut(world_size: int, micro_batch: int | None) -> None:
    options = {"batch_size": 14, "num_steps": 3, "size": 11, "pairs": True}
    ranks = {"world_size": world_size, "micro_batch": micro_batch}
    chunks = world_size * -(-7 // (world_size * ((micro_batch or 14) // 2)))
    if chunks > 7:
        with pytest.raises(InputError, match=f"cannot be cut into {chunks} parts of whole pairs"):
            stream(**options, **ranks)
        return
    samplers = [stream(**options, **ranks, rank=rank) for rank in range(world_size)]
    per_step = samplers[0].micro_batches_per_step
    shares = [list(sampler) for sampler in samplers]
    for step, batch in enumerate(stream(size=11, batch_size=14, num_steps=3)):
        parts = [share[step * per_step : (step + 1) * per_step] for share in shares]
        assert all(len(part) % 2 == 0 for share in parts for part in share)
        assert max(len(part) for share in parts for part in share) <= (micro_batch or 14)
        assert list(itertools.chain(*itertools.chain(*parts))) == batch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5}, r"batch_size \(5\) must be even$"),
        ({"batch_size": 6, "micro_batch": 1}, r"micro_batch \(1\) at least 2"),
        ({"batch_size": 4, "world_size": 3}, "3 parts of whole pairs .* at least 6"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stream(**options, pairs=True)


def test_a_batch_repeats_its_pictures_apart() -> None:
    batches = list(stream(size=10, batch_size=12, num_steps=5, repeats=3))
    plain = list(stream(size=10, batch_size=4, num_steps=5))
    for batch, distinct in zip(batches, plain, strict=True):
        for copy in range(3):
            expected = [(epoch, index, copy) for epoch, index, _ in distinct]
            assert batch[4 * copy : 4 * copy + 4] == expected
    with pytest.raises(InputError, match="must be a multiple of"):
        stream(batch_size=10, repeats=3)


def test_another_order_may_be_given() -> None:
    order = [np.array([2, 2, 0]), np.array([1, 0, 1])]
    samples = stream(size=3, batch_size=3, num_steps=2, order=order.__getitem__)
    # A picture that comes again in an epoch is another copy of it.
    assert list(samples) == [[(0, 2, 0), (0, 2, 1), (0, 0, 0)], [(1, 1, 0), (1, 0, 0), (1, 1, 1)]]


def test_copies_of_both_kinds_differ() -> None:
    order = [np.array([2, 2, 0, 2])]
    (batch,) = stream(size=4, batch_size=8, num_steps=1, repeats=2, order=order.__getitem__)
    assert len(set(batch)) == 8
