import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError

from training_views import View, training_view
from vit_lightning.data.crops import original_crop, resized_crop
from vit_lightning.data.draws import sample_generator
from vit_lightning.data.lent import ReusedMemory
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.errors import InputError
from vit_lightning.settings import AugmentationSettings

REFERENCE = Path(__file__).parents[1] / "reference"
PREPROCESS = ["up_32to48", "down_80x100to32", "mixed_50x37to40", "same_32", "down_97x61to24"]


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)]
    return Image.fromarray((127.5 + 120 * np.stack(waves, -1)).astype(np.uint8))


def transform(size: tuple[int, int] = (16, 16), mode: Any = "paper", **augmentation: Any) -> View:
    return training_view(Preprocessing(mode, size), **augmentation)


@pytest.mark.parametrize("name", PREPROCESS)
def test_paper_preprocessing_is_the_originals(name: str) -> None:
    with np.load(REFERENCE / "preprocess_eval.npz") as arrays:
        picture = Image.fromarray(arrays[f"{name}/image_uint8"])
        size, expected = int(arrays[f"{name}/size"]), arrays[f"{name}/output"]
    result = Preprocessing("paper", (size, size))(picture)
    assert result.dtype == torch.float32
    assert np.abs(result.permute(1, 2, 0).numpy() - expected).max() < 6e-7


@pytest.mark.parametrize("mode", ["paper", "modern"])
@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_shape_range_and_channels(mode: Any, channels: int) -> None:
    result = Preprocessing(mode, (24, 40), channels)(noise(50, 37))
    assert result.shape == (channels, 24, 40)
    assert result.min() >= -1
    assert result.max() <= 1
    white = Preprocessing(mode, (8, 8), channels)(Image.new("RGB", (20, 30), "white"))
    assert torch.equal(white, torch.ones(channels, 8, 8))


@pytest.mark.parametrize("shape", [(30, 40, 3), (2, 224, 200, 3), (3, 9, 9000, 3), (0, 4, 4, 3)])
def test_batches_are_normalised_as_pictures_are(shape: tuple[int, ...]) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocessing = Preprocessing("modern", shape[-3:-1], mean=mean, std=std)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.manual_seed(0))
    expected = (pixels.float() - 255 * torch.tensor(mean)) / (255 * torch.tensor(std))
    memory = ReusedMemory()
    for result in (
        preprocessing.normalised(pixels),
        preprocessing.normalised(pixels, memory),
        preprocessing.normalised(pixels.float(), memory),
        preprocessing.normalised(pixels.mT.contiguous().mT, memory),
    ):
        assert torch.equal(result.movedim(-3, -1), expected)


def test_one_channel_is_luma() -> None:
    red = Preprocessing("paper", (4, 4), 1)(Image.new("RGB", (8, 8), (255, 0, 0)))
    assert red.mean().item() == pytest.approx(0.299 * 2 - 1, abs=0.01)


def test_preprocessing_takes_any_mode_of_picture() -> None:
    grey = Image.new("L", (8, 8), 255)
    assert torch.equal(Preprocessing("paper", (4, 4))(grey), torch.ones(3, 4, 4))


@pytest.mark.parametrize(("height", "width"), [(90, 60), (60, 90), (37, 111)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (40, 24)])
def test_modern_preprocessing_is_shortest_side_then_centre_crop(
    height: int, width: int, size: tuple[int, int]
) -> None:
    picture = smooth(height, width)
    result = Preprocessing("modern", size)(picture)
    scale = max(size[0] / height, size[1] / width)
    y = (torch.arange(size[0]) + 0.5 - size[0] / 2) / scale / (height / 2)
    x = (torch.arange(size[1]) + 0.5 - size[1] / 2) / scale / (width / 2)
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None]
    pixels = torch.tensor(np.asarray(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
    # The picture is smooth, so sampling it is close to filtering it; a shift by one pixel of the
    # result would cost 0.2.
    sampled = F.grid_sample(pixels, grid, align_corners=False, padding_mode="border")[0]
    assert (result - sampled).abs().mean() < 0.03


def test_modern_preprocessing_filters_what_the_original_aliases() -> None:
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (128, 64)))
    modern = Preprocessing("modern", (32, 32))(stripes)
    assert modern[:, :, 2:-2].abs().max() < 0.02
    shifted = Image.fromarray(np.tile(np.array([[0, 0, 0, 255]], np.uint8), (128, 32)))
    assert torch.equal(Preprocessing("paper", (32, 32))(shifted), -torch.ones(3, 32, 32))


def test_preprocessing_survives_json() -> None:
    original = Preprocessing("modern", (24, 40), 1)
    assert Preprocessing.from_dict(json.loads(json.dumps(original.to_dict()))) == original


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "bicubic", "image_size": [8, 8]},
        {"mode": "paper"},
        {"mode": "paper", "image_size": [8, 8, 8]},
        {"mode": "paper", "image_size": None},
        {"mode": "paper", "image_size": [8, 8], "in_channels": 4},
        {"mode": "paper", "image_size": [8, 8], "colour": 0.5},
    ],
)
def test_impossible_preprocessing_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize(
    "values", [{"crop": "random"}, {"degrees": -1}, {"translate": 2}, {"scale": 1.0}]
)
def test_impossible_augmentation_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        AugmentationSettings(**values)


@pytest.mark.parametrize("name", ["32x32", "300x400", "500x333"])
def test_paper_crop_follows_the_originals_law(name: str) -> None:
    """Two samples of 20000 and 10000 crops against each other.

    Kolmogorov-Smirnov: at 5 tabulated quantiles the share of our crops below the reference's value
    may differ by 1.95 × sqrt(1/10000 + 1/20000) = 0.024, exceeded once in a thousand (ties, from
    rounding to pixels, are counted half). The mean: four standard errors.
    """
    count = 10_000
    height, width = map(int, name.split("x"))
    generator = np.random.default_rng(5)
    boxes = np.array([original_crop(height, width, generator) for _ in range(count)])
    area = boxes[:, 2] * boxes[:, 3] / (height * width)
    samples = {"area_fraction": area, "aspect_w_over_h": boxes[:, 3] / boxes[:, 2]}
    with np.load(REFERENCE / "train_crop_statistics.npz") as arrays:
        reference = {key.split("/")[1]: arrays[key] for key in arrays if key.startswith(name)}
    theirs = reference["boxes_y_x_h_w"]
    their_area = theirs[:, 2] * theirs[:, 3] / (height * width)
    their_samples = {"area_fraction": their_area, "aspect_w_over_h": theirs[:, 3] / theirs[:, 2]}
    for key, sample in samples.items():
        assert kolmogorov_smirnov(sample, their_samples[key]) < 1.95 * np.sqrt(1 / 4000 + 1e-4)
        for level, value in zip(reference["quantile"], reference[key], strict=True):
            low, high = (sample < value).mean(), (sample <= value).mean()
            assert low - 0.024 < level < high + 0.024
    error = area.std() * np.sqrt(1 / count + 1 / 20_000)
    assert abs(area.mean() - reference["mean_area_fraction"]) < 4 * error
    whole, expected = (area == 1).mean(), float(reference["whole_image_fraction"])
    assert abs(whole - expected) < 4 * np.sqrt(expected * (1 / count + 1 / 20_000)) + 1e-9


def kolmogorov_smirnov(first: Any, second: Any) -> float:
    values = np.union1d(first, second)
    shares = [np.searchsorted(np.sort(s), values, "right") / len(s) for s in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize("name", ["32x32", "300x400", "500x333"])
def test_paper_crop_places_as_the_original_does(name: str) -> None:
    height, width = map(int, name.split("x"))
    generator = np.random.default_rng(6)
    boxes = np.array([original_crop(height, width, generator) for _ in range(4000)])
    with np.load(REFERENCE / "train_crop_statistics.npz") as arrays:
        theirs = arrays[f"{name}/boxes_y_x_h_w"]
    for axis, size in ((0, height), (1, width)):
        for sample in (boxes, theirs):
            room = size - sample[:, axis + 2]
            assert (sample[:, axis] < np.maximum(room, 1)).all()
        assert kolmogorov_smirnov(boxes[:, axis], theirs[:, axis]) < 1.95 * np.sqrt(2 / 4000)


@pytest.mark.parametrize("law", [original_crop, resized_crop])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (2, 3), (64, 48)])
def test_crops_lie_inside_the_picture(law: Any, height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        box = law(height, width, generator)
        assert box.height > 0
        assert box.width > 0
        assert 0 <= box.top <= height - box.height
        assert 0 <= box.left <= width - box.width


def test_modern_crop_has_its_law() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([resized_crop(400, 400, generator) for _ in range(4000)])
    area, aspect = boxes[:, 2] * boxes[:, 3] / 160_000, boxes[:, 3] / boxes[:, 2]
    assert 0.07 < area.min() < 0.1
    assert area.max() <= 1
    assert aspect.min() > 0.74
    assert aspect.max() < 1.35
    # Log-uniform: as often wider as higher. Four standard deviations of the share are 0.032.
    assert abs((aspect > 1).mean() - 0.5) < 0.035
    # Half of the drawn areas lie below 0.54; large ones that do not fit are drawn again.
    assert 0.40 < np.median(area) < 0.54


def test_modern_crop_keeps_to_its_smallest_area() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([resized_crop(400, 400, generator, 0.5) for _ in range(500)])
    area = boxes[:, 2] * boxes[:, 3] / 160_000
    assert 0.49 < area.min() < 0.55
    assert resized_crop(40, 40, generator, 1.0)[2:] == (40, 40)


@pytest.mark.parametrize(
    ("law", "size", "expected"),
    [
        (original_crop, (375, 500), [(129, 123, 103, 102), (124, 104, 134, 149)]),
        (original_crop, (64, 48), [(24, 10, 13, 13), (24, 8, 16, 18)]),
        (original_crop, (32, 32), [(11, 7, 8, 8), (11, 6, 10, 11)]),
        (original_crop, (9, 400), [(0, 0, 9, 400), (0, 0, 9, 400)]),
        (resized_crop, (375, 500), [(70, 200, 295, 291), (2, 54, 349, 353)]),
        (resized_crop, (64, 48), [(23, 11, 38, 37), (2, 1, 45, 45)]),
        (resized_crop, (32, 32), [(9, 10, 22, 22), (0, 2, 26, 26)]),
        (resized_crop, (9, 400), [(0, 194, 9, 12), (0, 194, 9, 12)]),
    ],
)
def test_the_crops_of_a_seed_never_change(law: Any, size: tuple[int, int], expected: Any) -> None:
    # Pinned, so that a run resumed with a newer version sees the same pictures.
    assert [law(*size, sample_generator(5, 1, index)) for index in range(2)] == expected


LOOKS: dict[str, tuple[dict[str, Any], list[float]]] = {
    "paper": ({"crop": "paper"}, [-0.4211, -0.1779, 0.0995, -0.2444, -0.0756, -0.1199]),
    "modern": ({"crop": "modern"}, [0.1406, 0.0684, -0.0580, -0.0928, 0.2067, 0.1990]),
    "jitter": (
        {"crop": "none", "degrees": 20, "translate": 0.1, "scale": 0.2},
        [-0.0247, 0.1066, 0.0111, -0.0016, -0.0660, 0.1875],
    ),
}


@pytest.mark.parametrize("name", LOOKS)
def test_the_views_of_a_seed_never_change(name: str) -> None:
    # Pinned as the crops are. Heavier to the right, so that a mirror shows.
    options, expected = LOOKS[name]
    view, weight = transform(mode="modern", **options), torch.linspace(0.0, 2.0, 16)
    found = [
        (view(smooth(60, 80), sample_generator(5, 1, index)) * weight).mean().item()
        for index in range(6)
    ]
    assert found == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("crop", ["paper", "modern", "none"])
def test_training_view_is_a_function_of_the_generator(crop: Any) -> None:
    view = transform(crop=crop, degrees=10, translate=0.1, scale=0.1)
    picture = noise(40, 50)
    views = [view(picture, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert views[0].shape == (3, 16, 16)
    assert views[0].abs().max() <= 1


def test_without_options_the_training_view_is_that_of_the_evaluation() -> None:
    picture = noise(40, 50)
    for mode in ("paper", "modern"):
        view = transform(mode=mode, crop="none", flip=False)(picture, np.random.default_rng(0))
        assert torch.equal(view, Preprocessing(mode, (16, 16))(picture))


def test_flip_is_a_mirror_half_of_the_time() -> None:
    picture, generator = noise(16, 16), np.random.default_rng(0)
    plain = Preprocessing("paper", (16, 16))(picture)
    view = transform(crop="none")
    mirrored = 0
    for _ in range(400):
        result = view(picture, generator)
        is_mirror = torch.equal(result, plain.flip(-1))
        assert is_mirror or torch.equal(result, plain)
        mirrored += is_mirror
    assert abs(mirrored - 200) < 40  # four standard deviations


def test_paper_crop_is_resized_as_the_original_does() -> None:
    picture, size = noise(60, 80), (16, 16)
    view = transform(size=size, flip=False)(picture, np.random.default_rng(3))
    box = original_crop(60, 80, np.random.default_rng(3))
    region = (box.left, box.top, box.left + box.width, box.top + box.height)
    assert torch.equal(view, Preprocessing("paper", size)(picture.crop(region)))


def cross(size: int = 41) -> Image.Image:
    """A white horizontal bar right of the centre on black."""
    pixels = np.zeros((size, size), np.uint8)
    pixels[size // 2 - 1 : size // 2 + 2, size // 2 + 5 :] = 255
    return Image.fromarray(pixels)


class Extremes(np.random.Generator):
    """Draws the upper end of every interval."""

    def __init__(self) -> None:
        super().__init__(np.random.Philox(0))

    def uniform(self, low: float = 0.0, high: float = 1.0, size: int | None = None) -> Any:
        return high if size is None else np.full(size, high)


def test_jitter_turns_shifts_and_zooms() -> None:
    upright = transform(size=(41, 41), crop="none", flip=False)
    options = {"size": (41, 41), "crop": "none", "flip": False}
    plain = upright(cross(), Extremes())[0]
    assert plain[20, 30] == 1
    turned = transform(**options, degrees=90)(cross(), Extremes())[0]
    assert torch.allclose(turned, torch.rot90(plain, -1), atol=1e-3)
    shifted = transform(**options, translate=5 / 41)(cross(), Extremes())[0]
    assert shifted[15, 25] == pytest.approx(1, abs=1e-3)
    zoomed = transform(**options, scale=0.5)(cross(), Extremes())[0]
    assert zoomed[20, 20 + round(1.5 * 5) + 1] > 0.5
    assert zoomed[20, 20 + 5] < -0.5


def test_jitter_repeats_the_edge() -> None:
    view = transform(crop="none", degrees=45, translate=0.3, scale=0.3)
    white = view(Image.new("RGB", (20, 20), "white"), np.random.default_rng(0))
    assert torch.allclose(white, torch.ones(3, 16, 16), atol=1e-5)


def test_rotation_keeps_angles_on_oblong_pictures() -> None:
    pixels = np.zeros((40, 80), np.uint8)
    pixels[18:22, :] = 255
    view = transform(size=(40, 80), crop="none", flip=False, degrees=90)
    turned = view(Image.fromarray(pixels), Extremes())[0]
    assert (turned > 0).sum(dim=1).unique().tolist() == [4]


@pytest.mark.parametrize(
    ("mode", "expected"), [("paper", (100, 200, 3)), ("modern", (200, 200, 3))]
)
def test_shown_is_the_part_the_model_sees_in_its_own_proportions(
    mode: str, expected: tuple[int, int, int]
) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 255  # the central square
    picture = Image.fromarray(pixels)
    shown = Preprocessing(mode, (32, 32), in_channels=1).shown(picture, side=200)
    assert shown.shape == expected
    assert shown.dtype == np.uint8
    share = (shown > 127).mean()
    assert share == (pytest.approx(0.5, abs=0.01) if mode == "paper" else 1.0)
