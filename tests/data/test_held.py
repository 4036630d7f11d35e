"""Pictures held where the model is look as they do from files."""

import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from vit_lightning.data import held as held_module
from vit_lightning.data.batches import RawBatch, TrainDataset
from vit_lightning.data.decoding import FastPictures
from vit_lightning.data.held import HeldPictures, hold, reserve
from vit_lightning.data.held_looks import HeldBatch, HeldDataset, _as_numbers
from vit_lightning.data.held_operations import OPERATIONS
from vit_lightning.data.held_views import HeldView
from vit_lightning.data.loader import LookLoader
from vit_lightning.data.mixing import Mixing
from vit_lightning.data.operations import HIGHEST_STRENGTH, RANDAUGMENT, TRIVIALAUGMENT
from vit_lightning.data.pictures import ArrayPictures, PictureError, PictureFiles
from vit_lightning.data.stream import Sample, StreamBatchSampler
from vit_lightning.data.transforms import Mode, Preprocessing
from vit_lightning.data.views import TrainView
from vit_lightning.errors import InputError
from vit_lightning.settings import AugmentationSettings, OnDeviceSettings

CPU = torch.device("cpu")
COUNT = 8
SAMPLES: list[Sample] = [(epoch, index, 0) for epoch in range(6) for index in range(COUNT)]
LAWS = {**RANDAUGMENT, "trivial": TRIVIALAUGMENT}
LEVELS = {
    "original": (0.0, 0.7, 1.5, 3.0),
    "increasing": (0.0, 0.45, 0.9, 1.0),
    "trivial": (0.0, 5.0, 15.0, float(HIGHEST_STRENGTH)),
}


def photographs(height: int = 36, width: int = 30) -> ArrayPictures:
    """Parts of two photographs."""
    pictures = []
    for index in range(COUNT):
        whole = Image.fromarray(load_sample_images().images[index % 2])
        left, top = 50 * index, 20 * index
        part = whole.resize((width, height), Image.Resampling.BICUBIC, (left, top, left + 200, 220))
        pictures.append(np.asarray(part))
    return ArrayPictures(np.stack(pictures), np.arange(COUNT) % 3, "photo")


def view_of(
    mode: Mode = "modern", size: tuple[int, int] = (20, 24), channels: int = 3, **options: Any
) -> TrainView:
    return TrainView(Preprocessing(mode, size, channels), AugmentationSettings(**options))


def held_batch(
    pictures: Any, view: TrainView, samples: list[Sample] = SAMPLES, **options: Any
) -> RawBatch:
    held = hold(pictures, OnDeviceSettings(**options), view.preprocessing.in_channels, CPU)
    dataset = HeldDataset(held, pictures.labels, view, seed=5)
    return HeldView(held, view)(dataset.__getitems__(samples))


def differences(view: TrainView, height: int = 64, width: int = 64) -> NDArray[np.float32]:
    """Between a batch of held pictures and the same from the pictures themselves."""
    pictures = photographs(height, width)
    expected = TrainDataset(pictures, view, seed=5).__getitems__(SAMPLES)
    found = held_batch(pictures, view)
    assert (found.pixels.dtype, found.pixels.shape) == (
        expected.pixels.dtype,
        expected.pixels.shape,
    )
    assert torch.equal(found.labels, expected.labels)
    return (found.pixels.float() - expected.pixels.float()).abs().numpy()


@pytest.mark.parametrize("crop", ["none", "modern", "paper"])
@pytest.mark.parametrize("mode", ["modern", "crop", "squash"])
def test_crops_are_those_of_the_pictures(mode: Mode, crop: str) -> None:
    found = differences(view_of(mode, (32, 32), crop=crop))
    assert found.max() <= 1
    assert (found > 0).mean() < 1e-3


def test_pillow_may_resize_down_before_it_resizes_across() -> None:
    # In between values are rounded, and bicubic's overshoots are cut.
    found = differences(view_of("modern", (20, 24)), 36, 30)
    assert found.max() <= 8
    assert found.mean() < 0.25


@pytest.mark.parametrize("crop", ["none", "modern", "paper"])
@pytest.mark.parametrize("jitter", [{}, {"degrees": 20, "translate": 0.1, "scale": 0.2}])
def test_the_papers_values_are_not_rounded(crop: str, jitter: dict[str, float]) -> None:
    assert differences(view_of("paper", crop=crop, **jitter)).max() < 1e-3


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (1, {}),
        (3, {"degrees": 20, "translate": 0.1, "scale": 0.2}),
        (3, {"randaugment": {"magnitude": 9, "magnitude_std": 0.5, "levels": "increasing"}}),
        (1, {"randaugment": {"magnitude": 9, "magnitude_std": 0.5, "levels": "increasing"}}),
        (3, {"randaugment": {"magnitude": 12}, "color_jitter": 0.4}),
        (3, {"trivialaugment": True}),
    ],
)
def test_changes_are_those_of_the_pictures(channels: int, options: dict[str, Any]) -> None:
    found = differences(view_of(size=(32, 32), channels=channels, **options))
    # What differs by a level before may be brought out by contrast and equalize; and the nearest
    # pixel of a place between two is either.
    assert (found >= 1).mean() < 2e-3
    assert (found > 2).mean() < 5e-4


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("law", LAWS)
def test_operations_are_pillows(law: str, mode: str) -> None:
    pictures, table = photographs(), LAWS[law]
    images = [pictures.load(index).convert(mode) for index in range(COUNT)]
    planes = np.stack([np.asarray(image).reshape(36, 30, -1) for image in images])
    batch = torch.from_numpy(planes).movedim(-1, 1).contiguous()
    for operation in table.operations:
        for level in LEVELS[law]:
            drawn = [
                operation.drawn(table.canvas, level, np.random.default_rng(index))
                for index in range(COUNT)
            ]
            expected = np.stack(
                [np.asarray(change(image)) for change, image in zip(drawn, images, strict=True)]
            )
            if operation.name == "identity":  # no step is made of it
                assert (expected == planes.reshape(expected.shape)).all()
                continue
            kinds, values = zip(*(_as_numbers(own, (30, 36), mode) for own in drawn), strict=True)
            changed = OPERATIONS[kinds[0]](batch, torch.from_numpy(np.stack(values)))
            found = changed.movedim(1, -1).numpy().reshape(expected.shape).astype(int)
            off = np.abs(found - expected)
            assert len(set(kinds)) == 1, operation.name
            # Of a turned picture, places between two pixels have one or the other.
            assert (off > 1).mean() <= (0.02 if operation.name == "rotate" else 0), operation.name
            assert (off > 0).mean() < 0.05, operation.name


def test_tiny_and_plain_pictures_stay_whole() -> None:
    for pixels in (np.full((COUNT, 1, 1, 3), 9), np.full((COUNT, 2, 5, 3), 70)):
        pictures = ArrayPictures(pixels.astype(np.uint8), np.zeros(COUNT, np.int64), "plain")
        size = pixels.shape[1], pixels.shape[2]
        view = view_of(size=size, randaugment={"magnitude": 9, "levels": "increasing"})
        expected = TrainDataset(pictures, view, seed=5).__getitems__(SAMPLES).pixels
        found = held_batch(pictures, view).pixels
        assert (found.int() - expected.int()).abs().max() <= 1


def test_erased_rectangles_are_those_of_the_pictures_with_noise_of_their_own() -> None:
    pictures, plain = photographs(), view_of()
    view = view_of(erasing=0.5)
    expected = TrainDataset(pictures, view, seed=5).__getitems__(SAMPLES).pixels.int()
    found, before = held_batch(pictures, view).pixels, held_batch(pictures, plain).pixels
    inside = (found != before).any(-1)
    erased = inside.flatten(1).any(1)
    assert 12 < erased.sum() < 36  # of 48
    assert ((found.int() - expected).abs().amax(-1)[~inside] <= 6).all()
    noise = found[inside].float()
    assert noise.mean() == pytest.approx(127.5, abs=3)
    assert noise.std() == pytest.approx(73.9, abs=2)
    assert (noise.min(), noise.max()) == (0, 255)
    for row in torch.nonzero(inside.any(2))[:, 0].unique().tolist():
        rows, columns = np.nonzero(inside[row].numpy())
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert inside[row].sum() == pytest.approx(height * width, abs=2)  # noise may hit a value


def test_a_sample_looks_the_same_whatever_stands_beside_it() -> None:
    pictures = photographs()
    view = view_of(bundle="deit", repeats=1)
    whole = held_batch(pictures, view).pixels
    parts = [held_batch(pictures, view, SAMPLES[part]).pixels for part in (slice(7), slice(7, 48))]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole[:COUNT], whole[COUNT : 2 * COUNT])


def look_loader(workers: int, context: str | None = None) -> LookLoader:
    pictures, view = photographs(), view_of(bundle="deit", repeats=1, degrees=10)
    held = hold(pictures, OnDeviceSettings(), 3, CPU)
    dataset = HeldDataset(held, pictures.labels, view, 0, mixing=Mixing(0.8, 1.0, 1.0))
    stream = StreamBatchSampler(COUNT, batch_size=6, num_steps=5, seed=0, pairs=True)
    return LookLoader(dataset, stream, num_workers=workers, multiprocessing_context=context)


def tensors(batch: HeldBatch) -> list[torch.Tensor]:
    return [*batch._parts(), *(part for step in batch.steps for part in step[1:])]


@pytest.mark.parametrize(("workers", "context"), [(1, "spawn"), (2, "fork")])
def test_workers_do_not_change_the_looks(workers: int, context: str) -> None:
    expected, found = list(look_loader(0)), list(look_loader(workers, context))
    assert len(expected) == 5
    for one, other in zip(expected, found, strict=True):
        assert [step.kind for step in one.steps] == [step.kind for step in other.steps]
        assert all(map(torch.equal, tensors(one), tensors(other)))
        assert one.mixing.shape == (3, 5)


def test_a_batch_is_sent_as_one_piece_of_shared_memory() -> None:
    for batch in look_loader(0):
        sent = ForkingPickler.dumps(batch)
        assert len(sent) < 4096  # the pipe holds sixteen times as much
        found = pickle.loads(sent)  # noqa: S301
        assert [step.kind for step in found.steps] == [step.kind for step in batch.steps]
        assert [part.dtype for part in tensors(found)] == [part.dtype for part in tensors(batch)]
        assert all(map(torch.equal, tensors(found), tensors(batch)))


def test_a_batch_without_changes_is_sent_too() -> None:
    pictures, view = photographs(), view_of()
    held = hold(pictures, OnDeviceSettings(), 3, CPU)
    batch = HeldDataset(held, pictures.labels, view, 0).__getitems__(SAMPLES[:1])
    found = pickle.loads(ForkingPickler.dumps(batch))  # noqa: S301
    assert found.steps == batch.steps == []
    assert all(map(torch.equal, tensors(found), tensors(batch)))


def test_a_loader_goes_on_where_its_state_says() -> None:
    loader, again = look_loader(0), look_loader(0)
    batches = iter(loader)
    next(batches), next(batches)
    again.load_state_dict(loader.state_dict())
    assert loader.state_dict() == {"step": 2}
    assert torch.equal(next(batches).indices, next(iter(again)).indices)


def test_a_batch_goes_to_the_device_but_for_what_is_said_of_it() -> None:
    batch = next(iter(look_loader(0)))
    moved = batch.to(torch.device("meta"))
    unreadable, *others = tensors(moved)
    assert unreadable is moved.unreadable
    assert unreadable.device == CPU
    assert {part.device.type for part in others} == {"meta"}
    assert [step.kind for step in moved.steps] == [step.kind for step in batch.steps]


def files(folder: Path, sizes: list[tuple[int, int]]) -> PictureFiles:
    """Smooth pictures of several sizes, in which a place shows."""
    for index, (height, width) in enumerate(sizes):
        y, x = np.mgrid[:height, :width]
        planes = [230 * x / width, 230 * y / height, 0 * x + 25 * index]
        image = Image.fromarray(np.stack(planes, axis=-1).round().astype(np.uint8))
        image.save(folder / f"{index}.png")
    names = [f"{index}.png" for index in range(len(sizes))]
    return PictureFiles(folder, names, np.arange(len(sizes)))


@pytest.mark.parametrize("fast", [False, True])
def test_pictures_of_any_size_are_scaled_and_seen_as_they_were(tmp_path: Path, fast: bool) -> None:
    sizes = [(60, 90), (120, 50), (70, 70), (40, 130)]
    pictures: Any = files(tmp_path, sizes)
    pictures = FastPictures(pictures) if fast else pictures
    samples = [(epoch, index, 0) for epoch in range(10) for index in range(4)]
    for crop in ("none", "modern"):
        view = view_of(size=(24, 24), crop=crop)
        expected = TrainDataset(pictures, view, seed=5).__getitems__(samples).pixels.float()
        found = held_batch(pictures, view, samples, side=64).pixels.float()
        assert (found - expected).abs().mean() < 1
        assert (found - expected).abs().max() < 8


def test_several_sizes_need_one_to_be_scaled_to(tmp_path: Path) -> None:
    pictures = files(tmp_path, [(20, 30), (20, 30), (30, 20)])
    with pytest.raises(
        InputError, match=r"2\.png is 30 x 20 px.*20 x 30: set data\.on_device\.side"
    ):
        hold(pictures, OnDeviceSettings(), 3, CPU)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_pictures_are_told_or_left_out(tmp_path: Path, workers: int) -> None:
    pictures = files(tmp_path, [(20, 20)] * 4)
    for broken in (0, 2):
        (tmp_path / f"{broken}.png").write_bytes(b"")
    with pytest.raises(PictureError, match=r"0\.png: cannot be read"):
        hold(pictures, OnDeviceSettings(), 3, CPU, workers=workers)
    held = hold(pictures, OnDeviceSettings(), 3, CPU, workers=workers, skip_unreadable=True)
    assert held.unreadable == {0, 2}
    dataset = HeldDataset(held, pictures.labels, view_of(), 0)
    batch = dataset.__getitems__([(0, index, 0) for index in range(4)])
    assert batch.indices.tolist() == batch.labels.tolist() == [1, 1, 3, 3]
    assert batch.unreadable.tolist() == [0, 2]


def test_no_readable_picture_is_an_error(tmp_path: Path) -> None:
    pictures = files(tmp_path, [(20, 20)] * 2)
    for broken in (0, 1):
        (tmp_path / f"{broken}.png").write_bytes(b"")
    with pytest.raises(InputError, match="none of the training pictures can be read"):
        hold(pictures, OnDeviceSettings(), 3, CPU, skip_unreadable=True)
    held = hold(pictures, OnDeviceSettings(side=8), 3, CPU, skip_unreadable=True)
    with pytest.raises(InputError, match="none of the training pictures can be read"):
        HeldDataset(held, pictures.labels, view_of(), 0)


def test_too_many_pictures_for_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = COUNT * 36 * 30 * 3
    monkeypatch.setattr(held_module, "free_memory", lambda: int(needed / 0.8) + 1)
    settings = OnDeviceSettings()
    assert reserve(photographs(), settings, 3, CPU) == needed
    assert hold(photographs(), settings, 3, CPU).levels.nbytes == needed
    with pytest.raises(InputError, match=r"0 GB are free for each process: lower data\.on_device"):
        reserve(photographs(), settings, 3, CPU, world_size=2)
    monkeypatch.setattr(held_module, "free_memory", lambda: int(needed / 0.8) - 10)
    with pytest.raises(InputError, match=r"8 training pictures of 36 x 30 px take 0\.0 GB.*side"):
        reserve(photographs(), settings, 3, CPU)


@pytest.mark.parametrize("side", [1 << 20, 2**31 - 1])
def test_more_than_can_be_had_is_no_traceback(side: int) -> None:
    with pytest.raises(InputError, match=r"training pictures of \d+ x \d+ px take [\d,.]+ GB"):
        hold(photographs(), OnDeviceSettings(side=side), 3, CPU)


def test_large_batches_are_resized_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = held_batch(photographs(), view_of()).pixels
    monkeypatch.setattr("vit_lightning.data.held_views._AT_ONCE", 5 * 36 * 30 * 3)
    assert torch.equal(held_batch(photographs(), view_of()).pixels, whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", ["modern", "paper"])
def test_a_gpu_makes_the_same_of_them(mode: Mode) -> None:
    pictures, gpu = photographs(), torch.device("cuda", 0)
    options = {"randaugment": {"magnitude": 9, "levels": "increasing"}, "color_jitter": 0.3}
    view = view_of(mode, crop="modern", erasing=0.5, degrees=10, **options)
    found = []
    for device in (CPU, gpu):
        held = hold(pictures, OnDeviceSettings(), 3, device)
        batch = HeldDataset(held, pictures.labels, view, seed=5).__getitems__(SAMPLES)
        found.append(HeldView(held, view)(batch.pin_memory().to(gpu) if device == gpu else batch))
    on_cpu, on_gpu = found
    assert on_gpu.pixels.device == on_gpu.labels.device == gpu
    off = (on_gpu.pixels.cpu().float() - on_cpu.pixels.float()).abs()
    assert (off > 2).float().mean() < 0.02
    assert off.mean() < 0.2


def test_looks_travel_without_the_pictures() -> None:
    loader = look_loader(0)
    dataset = loader.dataset
    assert isinstance(dataset, HeldDataset)
    assert not any(
        isinstance(value, HeldPictures | torch.Tensor) for value in vars(dataset).values()
    )
    assert len(pickle.dumps(dataset)) < 10_000
