"""What weights from elsewhere say of their pictures: geometry, filter, mean and std."""

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from training_views import training_view
from vit_lightning.data.crops import resized_crop
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def levels(preprocessing: Preprocessing, picture: Image.Image) -> np.ndarray:
    """What enters the model as pixels, (height, width, C) in [0, 255]."""
    unit = preprocessing.unnormalised(preprocessing(picture))
    return (unit * 255).permute(1, 2, 0).numpy()


# The geometry. The numbers are what timm 1.0.31 (with torchvision 0.28 below it) does to a picture
# of (height, width): the size it resizes to, and the left, top, right and bottom of what it cuts.


@pytest.mark.parametrize(
    ("mode", "picture", "size", "fraction", "full", "box"),
    [
        # The long side is cut off behind the point, half an offset goes to the even number.
        ("crop", (50, 83), (32, 32), 0.875, (36, 59), (14, 2, 46, 34)),
        ("crop", (83, 50), (32, 32), 0.875, (59, 36), (2, 14, 34, 46)),
        ("crop", (41, 77), (32, 32), 0.9, (35, 65), (16, 2, 48, 34)),
        ("crop", (31, 50), (24, 24), 1.0, (24, 38), (7, 0, 31, 24)),
        ("crop", (7, 300), (16, 16), 0.875, (18, 771), (378, 1, 394, 17)),
        # Other shapes than squares: the side that fits more tightly; the other one is rounded.
        ("crop", (50, 83), (24, 40), 0.875, (27, 45), (2, 2, 42, 26)),
        ("crop", (41, 77), (24, 40), 0.875, (27, 51), (6, 2, 46, 26)),
        ("crop", (83, 50), (24, 40), 0.9, (73, 44), (2, 24, 42, 48)),
        ("crop", (47, 47), (33, 20), 0.95, (34, 34), (7, 0, 27, 33)),
        ("squash", (50, 83), (32, 24), 1.0, (32, 24), (0, 0, 24, 32)),
        ("squash", (50, 83), (24, 40), 0.8, (30, 50), (5, 3, 45, 27)),
        ("squash", (40, 60), (24, 24), 0.875, (27, 27), (2, 2, 26, 26)),
    ],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_geometry_is_that_of_the_library(
    mode: Any,
    picture: tuple[int, int],
    size: tuple[int, int],
    fraction: float,
    full: tuple[int, int],
    box: tuple[int, int, int, int],
    interpolation: Any,
) -> None:
    image = noise(*picture)
    expected = image.resize((full[1], full[0]), FILTERS[interpolation]).crop(box)
    ours = Preprocessing(mode, size, 3, MEAN, STD, interpolation, fraction)
    assert np.abs(levels(ours, image) - np.asarray(expected)).max() < 1e-3


def kernel(x: np.ndarray, interpolation: str) -> np.ndarray:
    """The triangle, or Keys' cubic with a = -0.5."""
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.maximum(1 - x, 0)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def filtered(pixels: np.ndarray, count: int, interpolation: str) -> np.ndarray:
    """The first axis resized to ``count``, the kernel widened where there are fewer pixels."""
    scale = len(pixels) / count
    centres = (np.arange(count) + 0.5) * scale
    offsets = np.arange(len(pixels))[None] + 0.5 - centres[:, None]
    weights = kernel(offsets / max(scale, 1), interpolation)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.floor(np.einsum("oi,i...->o...", weights, pixels) + 0.5).clip(0, 255)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("picture", [(70, 90), (20, 17)])
def test_filter_is_anti_aliased_and_rounds_to_levels(
    picture: tuple[int, int], interpolation: Any
) -> None:
    image = noise(*picture)
    ours = levels(Preprocessing("squash", (32, 24), interpolation=interpolation), image)
    across = filtered(np.asarray(image, np.float64).transpose(1, 0, 2), 24, interpolation)
    expected = filtered(across.transpose(1, 0, 2), 32, interpolation)
    error = np.abs(ours - expected)
    assert error.max() < 1.01  # a level: Pillow computes with 22 bits
    assert error.mean() < 0.01
    assert np.abs(ours - ours.round()).max() < 1e-3


def test_interpolation_is_that_of_modern_too_and_paper_has_its_own() -> None:
    image = noise(40, 40)
    smooth = Preprocessing("modern", 16, interpolation="bilinear")
    expected = image.resize((16, 16), Image.Resampling.BILINEAR)
    assert np.abs(levels(smooth, image) - np.asarray(expected)).max() < 1e-3
    paper = Preprocessing("paper", 16, interpolation="bicubic")
    assert paper.interpolation == "bilinear"
    assert torch.equal(paper(image), Preprocessing("paper", 16)(image))


def test_a_sliver_takes_no_memory() -> None:
    """Resized whole it would have 256 x 8 million pixels."""
    row = np.random.default_rng(0).integers(0, 256, (2, 64_000, 3), dtype=np.uint8)
    ours = levels(Preprocessing("crop", 224, crop_fraction=0.875), Image.fromarray(row))
    assert ours.shape == (224, 224, 3)
    middle = Image.fromarray(row[:, 31_980:32_020])  # the same centre, and a margin
    expected = levels(Preprocessing("crop", 224, crop_fraction=0.875), middle)
    assert np.abs(ours - expected).max() < 1.01


# The normalisation


@pytest.mark.parametrize("mode", ["paper", "modern", "crop", "squash"])
def test_mean_and_std_are_of_pixels_between_0_and_1(mode: Any) -> None:
    colour = (255, 51, 0)
    result = Preprocessing(mode, (8, 8), 3, MEAN, STD)(Image.new("RGB", (20, 30), colour))
    expected = [(value / 255 - m) / s for value, m, s in zip(colour, MEAN, STD, strict=True)]
    assert result.dtype == torch.float32
    assert torch.allclose(result, torch.tensor(expected).view(3, 1, 1).expand(3, 8, 8), atol=1e-6)


def test_halves_are_the_originals_to_the_bit() -> None:
    image = noise(50, 37)
    result = Preprocessing("paper", (24, 40))(image)
    pixels = torch.tensor(np.asarray(image)).float().permute(2, 0, 1)[None]
    pixels = torch.nn.functional.interpolate(pixels, (24, 40), mode="bilinear")[0]
    assert torch.equal(result, (pixels - 127.5) / 127.5)


def test_one_channel_takes_the_averages_and_three_a_single_value() -> None:
    white = Image.new("RGB", (8, 8), "white")
    grey = Preprocessing("squash", 8, 1, MEAN, STD)(white)
    assert grey.shape == (1, 8, 8)
    assert grey[0, 0, 0].item() == pytest.approx((1 - sum(MEAN) / 3) / (sum(STD) / 3), abs=1e-6)
    colour = Preprocessing("squash", 8, 3, (0.1,), (0.5,))(white)
    assert torch.allclose(colour, torch.full((3, 8, 8), 1.8))


@pytest.mark.parametrize("channels", [1, 3])
def test_unnormalised_is_the_inverse(channels: int) -> None:
    image = noise(16, 16)
    preprocessing = Preprocessing("squash", 16, channels, MEAN, STD)
    batch = preprocessing.unnormalised(torch.stack([preprocessing(image)] * 2))
    mode = "L" if channels == 1 else "RGB"
    expected = np.asarray(image.convert(mode)).reshape(16, 16, channels).transpose(2, 0, 1) / 255
    assert batch.shape == (2, channels, 16, 16)
    assert np.abs(batch[1].numpy() - expected).max() < 1e-6


# Training


@pytest.mark.parametrize("mode", ["modern", "crop", "squash"])
def test_training_crops_have_the_filter_and_the_normalisation_of_the_weights(mode: Any) -> None:
    image = noise(60, 80)
    preprocessing = Preprocessing(mode, 16, 3, MEAN, STD, "bilinear")
    view = training_view(preprocessing, crop="modern", flip=False)
    result = preprocessing.unnormalised(view(image, np.random.default_rng(3))) * 255
    box = resized_crop(60, 80, np.random.default_rng(3))
    region = (box.left, box.top, box.left + box.width, box.top + box.height)
    expected = image.resize((16, 16), Image.Resampling.BILINEAR, region)
    assert np.abs(result.permute(1, 2, 0).numpy() - np.asarray(expected)).max() < 1e-3
    plain = training_view(preprocessing, crop="none", flip=False)
    assert torch.equal(plain(image, np.random.default_rng(0)), preprocessing(image))


def test_law_of_the_crop_and_filter_of_the_preprocessing_are_two_things() -> None:
    image, size = noise(60, 80), (16, 16)
    view = training_view(Preprocessing("paper", size), crop="modern", flip=False)
    box = resized_crop(60, 80, np.random.default_rng(3))
    region = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    result = view(image, np.random.default_rng(3))
    assert torch.equal(result, Preprocessing("paper", size)(region))


# What people see


@pytest.mark.parametrize(
    ("mode", "fraction", "expected"),
    [("crop", 1.0, (200, 200)), ("crop", 0.5, (200, 200)), ("squash", 1.0, (100, 200))],
)
def test_shown_is_the_part_that_the_model_sees(
    mode: Any, fraction: float, expected: tuple[int, int]
) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    side = 40 * fraction
    inner = slice(round(20 - side / 2), round(20 + side / 2))
    pixels[inner, round(40 - side / 2) : round(40 + side / 2)] = 255
    shown = Preprocessing(mode, (32, 32), crop_fraction=fraction).shown(Image.fromarray(pixels))
    assert shown.shape[0] / shown.shape[1] == expected[0] / expected[1]
    assert (shown > 127).mean() == (pytest.approx(0.5, abs=0.01) if mode == "squash" else 1.0)


def test_shown_of_less_than_a_pixel_is_a_pixel() -> None:
    image = Image.new("RGB", (300, 1), "white")
    for mode in ("modern", "crop"):
        shown = Preprocessing(mode, (32, 8)).shown(image, side=20)  # type: ignore[arg-type]
        assert shown.size > 0
        assert shown.min() == 255


# What is kept beside weights


def test_all_of_it_survives_json() -> None:
    original = Preprocessing("crop", (24, 40), 3, MEAN, STD, "bilinear", 0.9)
    values = json.loads(json.dumps(original.to_dict()))
    assert values["mean"] == list(MEAN)
    assert Preprocessing.from_dict(values) == original
    assert str(original) == (
        "crop of the central 0.9, bilinear, mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225"
    )


def test_what_was_written_before_is_still_read() -> None:
    old = {"mode": "modern", "image_size": [8, 8], "in_channels": 1}
    assert Preprocessing.from_dict(old) == Preprocessing("modern", 8, 1)


def test_another_mode_keeps_mean_and_std_alone() -> None:
    weights = Preprocessing("crop", 8, 3, MEAN, STD, "bilinear", 0.9)
    assert weights.in_mode("modern") == Preprocessing("modern", 8, 3, MEAN, STD)
    assert weights.in_mode("paper") == Preprocessing("paper", 8, 3, MEAN, STD)
    assert weights.in_mode("crop") is weights


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("mean", [0.5, 0.5], "the mean of preprocessing must be 1 or 3 numbers between 0 and 1"),
        ("mean", [123.7, 116.3, 103.5], "divide those for 0..255 by 255"),
        ("mean", 0.5, "got 0.5"),
        ("mean", [True], "mean"),
        ("mean", [math.nan], "mean"),
        ("std", [0.2, 0.2, 0.0], "the std of preprocessing"),
        ("std", [math.inf], "std"),
        ("std", ["0.5"], "std"),
        ("interpolation", "lanczos", "must be one of bilinear, bicubic, got 'lanczos'"),
        ("crop_fraction", 0, r"must be a number in \(0, 1\], got 0"),
        ("crop_fraction", 1.1, "crop_fraction"),
        ("crop_fraction", math.nan, "crop_fraction"),
        ("mode", "border", "must be one of paper, modern, crop, squash, got 'border'"),
        ("in_channels", True, "3 channels"),
    ],
)
def test_what_cannot_be_is_refused(field: str, value: object, text: str) -> None:
    values = {"mode": "crop", "image_size": 8, field: value}
    with pytest.raises(InputError, match=text):
        Preprocessing.from_dict(values)


def test_numbers_that_python_does_not_print_are_refused_too() -> None:
    long = 10**5000
    with pytest.raises(InputError, match="got a number too long to print"):
        Preprocessing.from_dict({"mode": "crop", "image_size": 8, "crop_fraction": long})
    with pytest.raises(InputError, match="a number too long to print does not describe"):
        Preprocessing.from_dict({"mode": "crop", "image_size": -long})


@pytest.mark.parametrize("mode", ["paper", "modern"])
def test_a_fraction_that_would_not_be_used_is_refused(mode: str) -> None:
    values = {"mode": mode, "image_size": 8, "crop_fraction": 0.875}
    with pytest.raises(InputError, match=f"is {mode}, which knows no crop_fraction"):
        Preprocessing.from_dict(values)


def test_whatever_stands_in_a_file_nothing_else_is_raised() -> None:
    draw = random.Random(0)
    deep: list[Any] = []
    for _ in range(2000):
        deep = [deep]
    garbage: list[Any] = [None, True, -1, 0, 3, 224, 0.5, 1e300, 10**5000, math.nan, -math.inf]
    garbage += ["", "crop", "x" * 1000, b"crop", [], [0.5], [0.5] * 3, ["a"] * 3, [10**400] * 3]
    garbage += [{}, {"a": 1}, {1, 2}, deep, torch.tensor(3), torch.tensor([0.5, 0.5]), 1 + 2j]
    fields = [*Preprocessing("crop", 8).to_dict(), "colour", "", 5]
    good, messages = 0, []
    for _ in range(3000):
        values: dict[Any, Any] = Preprocessing("crop", 8, 3, MEAN, STD).to_dict()
        for field in draw.sample(fields, draw.randint(0, 3)):
            values[field] = draw.choice(garbage)
        try:
            result = Preprocessing.from_dict(values)
        except InputError as error:
            messages.append(str(error))
        else:
            good += 1
            assert Preprocessing.from_dict(result.to_dict()) == result
    assert good > 100
    assert len(messages) > 1000
    assert max(map(len, messages)) < 4000
