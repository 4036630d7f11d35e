"""Our preprocessing against that of the libraries whose weights ask for it, pixel by pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vit_lightning.data.pictures import open_picture
from vit_lightning.data.transforms import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPES = [(1, 1), (1, 9), (7, 300), (300, 7), (64, 64), (97, 131), (131, 97), (240, 321)]
TARGETS = [(16, 16), (32, 32), (24, 40), (33, 20), (64, 64), (224, 224)]
FRACTIONS = [1.0, 0.965, 0.9, 0.875, 0.5]


@pytest.fixture(params=["bilinear", "bicubic"])
def interpolation(request: pytest.FixtureRequest) -> Any:
    return request.param


def pictures() -> list[Image.Image]:
    """Noise, which shows every pixel that is not where it should be, in many shapes."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in SHAPES]


def assert_same(ours: Preprocessing, picture: Image.Image, theirs: torch.Tensor) -> None:
    """The same levels of 8 bits, and the same numbers but for the order of two roundings."""
    result = ours(picture)
    levels, their_levels = (ours.unnormalised(view) * 255 for view in (result, theirs))
    assert torch.equal(levels.round(), their_levels.round()), (ours, picture.size)
    assert (result - theirs).abs().max() < 2e-6


@pytest.mark.parametrize(("mode", "crop_mode"), [("crop", "center"), ("squash", "squash")])
@pytest.mark.parametrize("size", TARGETS)
def test_timm(mode: Any, crop_mode: str, size: tuple[int, int], interpolation: Any) -> None:
    from timm.data.transforms_factory import transforms_imagenet_eval

    for fraction in FRACTIONS:
        ours = Preprocessing(mode, size, 3, MEAN, STD, interpolation, fraction)
        theirs = transforms_imagenet_eval(
            size,
            crop_pct=fraction,
            crop_mode=crop_mode,
            interpolation=interpolation,
            mean=MEAN,
            std=STD,
        )
        for picture in pictures():
            assert_same(ours, picture, theirs(picture))


# Sides that torchvision's weights of vit_b_16, vit_b_32, vit_l_16, vit_l_32 and vit_h_14 ask for.
@pytest.mark.parametrize(
    ("resized", "cropped"), [(256, 224), (242, 224), (384, 384), (518, 518), (224, 224)]
)
def test_torchvision(resized: int, cropped: int, interpolation: Any) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    ours = Preprocessing("crop", cropped, 3, MEAN, STD, interpolation, cropped / resized)
    theirs = ImageClassification(
        crop_size=cropped,
        resize_size=resized,
        mean=MEAN,
        std=STD,
        interpolation=InterpolationMode(interpolation),
    )
    for picture in pictures():
        assert_same(ours, picture, theirs(picture))


def test_a_photograph(tmp_path: Path) -> None:
    """Smooth colours in a file, opened as ours and as theirs are."""
    from timm.data.transforms_factory import transforms_imagenet_eval

    y, x = np.mgrid[0:300, 0:451]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], -1)
    Image.fromarray((127.5 + 120 * waves).astype(np.uint8)).save(tmp_path / "waves.jpg")
    ours = Preprocessing("crop", 224, 3, MEAN, STD, "bicubic", 0.9)
    theirs = transforms_imagenet_eval(
        224, crop_pct=0.9, interpolation="bicubic", mean=MEAN, std=STD
    )
    with Image.open(tmp_path / "waves.jpg") as opened:
        assert_same(ours, open_picture(tmp_path / "waves.jpg"), theirs(opened.convert("RGB")))
