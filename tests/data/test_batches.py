import multiprocessing
import os
import signal
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins.precision import HalfPrecision
from PIL import Image

from vit_lightning.data.batches import EvalDataset, RawBatch, TrainDataset
from vit_lightning.data.datamodule import EvalData, TrainData
from vit_lightning.data.loader import PictureLoader, StreamLoader
from vit_lightning.data.mixing import Mixing
from vit_lightning.data.pictures import (
    ArrayPictures,
    OpenPicture,
    PictureError,
    PictureFiles,
    WholePicture,
)
from vit_lightning.data.stream import StreamBatchSampler
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.data.views import TrainView
from vit_lightning.errors import InputError
from vit_lightning.settings import AugmentationSettings, DataSettings, OnDeviceSettings

COUNT = 11
VARIED = {"degrees": 10, "translate": 0.1, "scale": 0.1}


def toy_pictures(count: int = COUNT) -> ArrayPictures:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return ArrayPictures(pixels, np.arange(count) % 3, "toy")


def train_dataset(
    pictures: Any, seed: int = 0, mode: Any = "paper", **options: Any
) -> TrainDataset:
    view = TrainView(Preprocessing(mode, (8, 6)), AugmentationSettings(**VARIED | options))
    mixing = Mixing(1.0, 1.0, 1.0) if options.get("mixup") else None
    return TrainDataset(pictures, view, seed, mixing=mixing)


def parts(batch: RawBatch) -> list[torch.Tensor]:
    return [batch.pixels, batch.labels, batch.mixing, batch.unreadable]


def joined(*batches: RawBatch) -> RawBatch:
    return RawBatch(*(torch.cat(same) for same in zip(*map(parts, batches), strict=True)))


def same(first: RawBatch, second: RawBatch) -> bool:
    return all(map(torch.equal, parts(first), parts(second)))


def test_a_sample_is_a_function_of_seed_epoch_index_and_copy() -> None:
    sample = [(0, 3, 0)]
    first = train_dataset(toy_pictures()).__getitems__(sample)
    assert first.pixels.shape == (1, 8, 6, 3)
    assert first.labels.tolist() == [0]
    assert same(first, train_dataset(toy_pictures()).__getitems__(sample))
    others = [
        train_dataset(toy_pictures()).__getitems__([other])
        for other in [(1, 3, 0), (0, 4, 0), (0, 3, 1)]
    ] + [train_dataset(toy_pictures(), seed=1).__getitems__(sample)]
    assert not any(torch.equal(first.pixels, other.pixels) for other in others)


def test_a_batch_is_its_samples_whatever_stands_beside_them() -> None:
    dataset = train_dataset(toy_pictures(), mixup=1.0)
    samples = [(0, 3, 0), (0, 5, 0), (1, 3, 0), (0, 3, 1)]
    whole = dataset.__getitems__(samples)
    halves = [dataset.__getitems__(samples[:2]), dataset.__getitems__(samples[2:])]
    assert whole.mixing.shape == (2, 5)
    assert same(whole, joined(*halves))


@pytest.mark.parametrize(
    ("mode", "options", "dtype"),
    [
        ("paper", {}, torch.float32),  # the paper's values are not rounded ...
        ("paper", {"randaugment": {}, **dict.fromkeys(VARIED, 0.0)}, torch.uint8),
        ("modern", dict.fromkeys(VARIED, 0.0), torch.uint8),  # ... Pillow's have 8 bits
    ],
)
def test_8_bits_travel_where_there_are_no_more(mode: Any, options: Any, dtype: torch.dtype) -> None:
    batch = train_dataset(toy_pictures(), mode=mode, **options).__getitems__([(0, 1, 0)])
    assert batch.pixels.dtype == dtype


def batches(workers: int, context: str | None = None) -> list[RawBatch]:
    options = {"randaugment": {"magnitude": 9}, "erasing": 1.0, "mixup": 0.8, "color_jitter": 0.3}
    loader = StreamLoader(
        train_dataset(toy_pictures(), **options),
        StreamBatchSampler(COUNT, batch_size=4, num_steps=6, seed=0, pairs=True),
        num_workers=workers,
        multiprocessing_context=context,
    )
    return [joined(batch) for batch in loader]


# A machine with two cores is warned of four workers.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize(("workers", "context"), [(1, "fork"), (4, "fork"), (1, "spawn")])
def test_workers_do_not_change_the_batches(workers: int, context: str | None) -> None:
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {context}")
    expected, found = batches(0), batches(workers, context)
    assert len(expected) == len(found) == 6
    assert all(same(*pair) for pair in zip(expected, found, strict=True))


def test_memory_is_used_again_but_never_while_it_is_seen() -> None:
    def loader(workers: int) -> StreamLoader:
        sampler = StreamBatchSampler(COUNT, batch_size=4, num_steps=30, seed=0)
        return StreamLoader(
            train_dataset(toy_pictures(), mode="modern"), sampler, num_workers=workers
        )

    expected = list(loader(0))
    kept = list(loader(2))  # more than there are places
    assert all(same(*pair) for pair in zip(expected, kept, strict=True))
    assert len({batch.pixels.data_ptr() for batch in kept}) == 30
    passed = set()
    for batch, other in zip(loader(2), expected, strict=True):
        assert same(batch, other)
        passed.add(batch.pixels.data_ptr())
    assert len(passed) <= 2 * 4 + 2  # places, and a few batches that found none free


def test_eval_dataset_takes_pictures_in_order() -> None:
    pictures, preprocessing = toy_pictures(), Preprocessing("modern", (6, 8), 1)
    dataset = EvalDataset(pictures, preprocessing)
    assert len(dataset) == COUNT
    batch = dataset.__getitems__([4, 7])
    images = preprocessing.normalised(batch.pixels)
    assert torch.equal(images, torch.stack([preprocessing(pictures.load(i)) for i in (4, 7)]))
    assert batch.labels.tolist() == [1, 1]
    assert batch.mixing.shape == (0, 5)


def test_numbers_reach_the_device_as_they_are() -> None:
    batch = train_dataset(toy_pictures(), mixup=1.0).__getitems__([(0, 3, 0), (0, 5, 0)])
    plugin = HalfPrecision("bf16-true")
    moved = move_data_to_device(plugin.convert_input(batch), torch.device("cpu"))
    assert same(moved, batch)
    assert moved.mixing.dtype == torch.float32


# Pictures that cannot be read


class Holes(ArrayPictures):
    """Pictures of which some cannot be read."""

    bad = (2, 3, 9)

    def open(self, index: int) -> OpenPicture:
        if index in self.bad:
            raise PictureError(f"picture {index} is broken")
        return super().open(index)


def holes(count: int = COUNT) -> Holes:
    pictures = toy_pictures(count)
    return Holes(pictures.pixels, pictures.labels, "toy")


def test_training_takes_the_next_picture_instead() -> None:
    dataset = train_dataset(holes())
    dataset.skip_unreadable = True
    batch = dataset.__getitems__([(0, 1, 0), (0, 2, 0), (0, 9, 0)])
    assert batch.unreadable.tolist() == [2, 3, 9]
    assert batch.labels.tolist() == [1, 4 % 3, 10 % 3]
    assert batch.pixels.shape[0] == 3


def test_a_set_without_any_readable_picture_ends() -> None:
    pictures = holes(4)
    pictures.bad = (0, 1, 2, 3)  # type: ignore[misc]
    dataset = train_dataset(pictures)
    dataset.skip_unreadable = True
    with pytest.raises(InputError, match="none of the training pictures can be read"):
        dataset.__getitems__([(0, 1, 0)])


def test_evaluation_leaves_them_out() -> None:
    dataset = EvalDataset(holes(), Preprocessing("paper", 8), skip_unreadable=True)
    batch = dataset.__getitems__([1, 2, 3, 4])
    assert batch.labels.tolist() == [1, 1]
    assert batch.pixels.shape == (2, 8, 8, 3)
    assert batch.unreadable.tolist() == [2, 3]
    empty = dataset.__getitems__([2, 3])
    assert empty.pixels.shape == (0, 8, 8, 3)
    assert empty.labels.shape == (0,)


def refusal(loader: PictureLoader) -> str:
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
    message = refusal(PictureLoader(dataset, 1, batch_size=1, num_workers=workers))
    assert message.startswith(f"{tmp_path / 'broken.png'}: cannot be read as a picture")
    assert "Traceback" not in message


class Deadly(ArrayPictures):
    """Pictures of which one kills whoever reads it."""

    def open(self, index: int) -> OpenPicture:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().open(index)


def test_a_worker_that_dies_names_the_picture() -> None:
    pictures = toy_pictures()
    deadly = Deadly(pictures.pixels, pictures.labels, "toy")
    settings = DataSettings(name="digits", workers=2, eval_batch_size=1)
    data = EvalData(deadly, Preprocessing("paper", 8), settings)
    message = "nothing was raised"
    try:
        with data.naming_pictures():
            list(data.predict_dataloader())
    except InputError as error:
        message = str(error)
    assert "a loading process died while it read toy/00005 (" in message
    assert "lower data.workers (now 2)" in message


class Nice(ArrayPictures):
    """Pictures that show how far the process that reads them gives way to others."""

    def open(self, index: int) -> OpenPicture:
        return WholePicture(Image.new("RGB", (8, 8), (os.nice(0), 0, 0)))


@pytest.mark.skipif(not hasattr(os, "nice"), reason="no such system call")
@pytest.mark.parametrize(("device", "given"), [("cpu", 10), ("cuda", 0)])
def test_loading_gives_way_to_a_model_on_the_same_cores(device: str, given: int) -> None:
    pictures = toy_pictures()
    settings = DataSettings(name="digits", workers=1)
    data = EvalData(
        Nice(pictures.pixels, pictures.labels, "toy"), Preprocessing("modern", 8), settings
    )
    data.trainer = Namespace(  # type: ignore[assignment]
        strategy=Namespace(root_device=torch.device(device)), global_rank=0, world_size=1
    )
    loader = data.predict_dataloader()
    loader.pin_memory = False  # for which a GPU would be needed
    (batch,) = loader
    assert (batch.pixels[..., 0] == min(os.nice(0) + given, 19)).all()


def test_a_worker_that_dies_while_pictures_are_read_onto_the_device() -> None:
    pictures = toy_pictures()
    splits: Any = Namespace(train=Deadly(pictures.pixels, pictures.labels, "toy"), val=pictures)
    settings = DataSettings(name="digits", workers=2, on_device=OnDeviceSettings())
    data = TrainData(splits, Preprocessing("modern", 8), settings, num_steps=1)
    message = "nothing was raised"
    try:
        with data.naming_pictures():
            data.train_dataloader()
    except InputError as error:
        message = str(error)
    assert "a loading process died (" in message
    assert "lower data.workers (now 2)" in message


def test_other_errors_stay_what_they_are() -> None:
    data = EvalData(toy_pictures(), Preprocessing("paper", 8), DataSettings(name="digits"))
    data.predict_dataloader()
    with pytest.raises(RuntimeError, match="mat1 and mat2"), data.naming_pictures():
        torch.ones(2, 3) @ torch.ones(2, 3)
