import itertools
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from vit_lightning.data.draws import epoch_permutation
from vit_lightning.data.pictures import ArrayPictures, PictureFiles
from vit_lightning.data.stream import (
    EvalDataset,
    ShardSampler,
    StreamBatchSampler,
    TrainDataset,
)
from vit_lightning.data.transforms import Augmentation, Preprocessing, TrainTransform
from vit_lightning.errors import InputError


def stream(
    size: int = 10, batch_size: int = 4, num_steps: int = 10, seed: int = 0, **options: Any
) -> StreamBatchSampler:
    return StreamBatchSampler(
        size, batch_size=batch_size, num_steps=num_steps, seed=seed, **options
    )


def toy_pictures(count: int = 11) -> ArrayPictures:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return ArrayPictures(pixels, np.arange(count) % 3, "toy")


def train_dataset(pictures: Any, seed: int = 0) -> TrainDataset:
    augmentation = Augmentation(degrees=10, translate=0.1, scale=0.1)
    return TrainDataset(pictures, TrainTransform(Preprocessing("paper", 8), augmentation), seed)


def test_every_epoch_is_its_permutation() -> None:
    samples = list(itertools.chain.from_iterable(stream(num_steps=10)))
    assert len(samples) == 40
    for epoch in range(4):
        part = samples[epoch * 10 : (epoch + 1) * 10]
        assert part == [(epoch, index) for index in epoch_permutation(0, epoch, 10)]
        assert sorted(index for _, index in part) == list(range(10))


def test_batches_are_full_and_cross_epochs() -> None:
    batches = list(stream(num_steps=7))
    assert [len(batch) for batch in batches] == [4] * 7
    assert [epoch for epoch, _ in batches[2]] == [0, 0, 1, 1]


def test_a_batch_may_hold_several_epochs() -> None:
    first = next(iter(stream(size=3, batch_size=8)))
    assert [epoch for epoch, _ in first] == [0, 0, 0, 1, 1, 1, 2, 2]


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


def test_a_sample_is_a_function_of_seed_epoch_and_index() -> None:
    dataset = train_dataset(toy_pictures())
    first, label = dataset[0, 3]
    assert (first.shape, label, type(label)) == ((3, 8, 8), 0, int)
    assert torch.equal(first, train_dataset(toy_pictures())[0, 3][0])
    others = [dataset[1, 3], dataset[0, 4], train_dataset(toy_pictures(), seed=1)[0, 3]]
    assert not any(torch.equal(first, other) for other, _ in others)


def batches(workers: int, context: str | None = None) -> list[tuple[Tensor, Tensor]]:
    loader = DataLoader(
        train_dataset(toy_pictures()),
        batch_sampler=stream(size=11, num_steps=6),
        num_workers=workers,
        multiprocessing_context=context,
    )
    return [(images.clone(), labels.clone()) for images, labels in loader]


# A machine with two cores is warned of four workers.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize(("workers", "context"), [(1, "fork"), (4, "fork"), (1, "spawn")])
def test_workers_do_not_change_the_batches(workers: int, context: str | None) -> None:
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {context}")
    expected, found = batches(0), batches(workers, context)
    assert len(expected) == len(found) == 6
    for (images, labels), (other_images, other_labels) in zip(expected, found, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def refusal(loader: DataLoader[Any]) -> str:
    # Unlike pytest.raises this keeps no traceback, whose frames would hold the workers.
    try:
        list(loader)
    except InputError as error:
        return str(error)
    return "nothing was raised"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_is_named_through_the_workers(tmp_path: Path, workers: int) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "whole.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    pictures = PictureFiles(tmp_path, ["whole.png", "broken.png"], np.array([0, 1]))
    dataset = EvalDataset(pictures, Preprocessing("paper", 8))
    message = refusal(DataLoader(dataset, batch_size=1, num_workers=workers))
    assert message.startswith(f"{tmp_path / 'broken.png'}: cannot be read as a picture")
    assert "Traceback" not in message


def test_eval_dataset_takes_pictures_in_order() -> None:
    pictures, preprocessing = toy_pictures(), Preprocessing("modern", (6, 8), 1)
    dataset = EvalDataset(pictures, preprocessing)
    assert len(dataset) == 11
    image, label = dataset[4]
    assert torch.equal(image, preprocessing(pictures.load(4)))
    assert (label, type(label)) == (1, int)


def test_shards_hold_every_sample_once() -> None:
    shards = [list(ShardSampler(11, rank, 3)) for rank in range(3)]
    assert shards[1] == [1, 4, 7, 10]
    assert sorted(itertools.chain(*shards)) == list(range(11))
    assert [len(ShardSampler(11, rank, 3)) for rank in range(3)] == [4, 4, 3]


def test_fewer_pictures_than_ranks_are_refused() -> None:
    with pytest.raises(InputError, match="2 pictures to evaluate on are too few for 3 processes"):
        ShardSampler(2, 0, 3)
