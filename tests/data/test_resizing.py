from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_lightning.data import resizing
from vit_lightning.data.pictures import Region
from vit_lightning.data.resizing import Interpolation, mirrored, resize
from vit_lightning.models.config import Size

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def textured(height: int, width: int, seed: int = 0) -> Any:
    """Soft shapes with noise: (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    return (soft + rng.normal(0, 12, soft.shape)).clip(0, 255).astype(np.uint8)


def by_pillow(pixels: Any, region: Region, size: Size, interpolation: str) -> Any:
    left, top, right, bottom = map(int, region)
    cut = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    return np.asarray(cut.resize((size[1], size[0]), FILTERS[interpolation]), dtype=int)


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize(("interpolation", "most"), [("bilinear", 1), ("bicubic", 2)])
def test_whole_regions_are_resized_as_by_pillow(
    monkeypatch: pytest.MonkeyPatch, interpolation: Interpolation, most: int, vectors: bool
) -> None:
    monkeypatch.setattr(resizing, "_VECTORS", vectors)
    pixels = textured(150, 200)
    rng = np.random.default_rng(1)
    differing = []
    for _ in range(40):
        width, height = int(rng.integers(1, 201)), int(rng.integers(1, 151))
        left, top = int(rng.integers(201 - width)), int(rng.integers(151 - height))
        region = (left, top, left + width, top + height)
        size = (int(rng.integers(1, 150)), int(rng.integers(1, 150)))
        wanted = by_pillow(pixels, region, size, interpolation)
        for picture in (pixels, Image.fromarray(pixels)):
            found = resize(picture, region, size, interpolation)
            assert (found.shape, found.dtype) == ((*size, 3), np.uint8)
            assert found.flags.c_contiguous
            assert found.flags.writeable
            assert np.abs(found - wanted).max() <= most
            differing.append((found != wanted).mean())
    assert np.mean(differing) < 0.005


@pytest.mark.parametrize("kind", ["array", "picture"])
def test_fractions_of_pixels_count(kind: str) -> None:
    pixels = np.repeat(np.array([0, 100, 200], np.uint8), 3).reshape(1, 3, 3)
    picture = pixels if kind == "array" else Image.fromarray(pixels)
    found = resize(picture, (0.5, 0, 1.5, 1), (1, 1), "bilinear")
    assert found.tolist() == [[[50, 50, 50]]]


def test_what_lies_beyond_the_region_has_no_say() -> None:
    pixels = textured(60, 60)
    loud = pixels.copy()
    loud[:, 40:] = 255
    loud[:10] = 0
    for region in ((4, 10, 40, 50), (4.5, 10.5, 39.5, 50.25)):
        assert (
            resize(pixels, region, (16, 16), "bicubic") == resize(loud, region, (16, 16), "bicubic")
        ).all()


def test_read_only_pixels_are_read_without_complaint() -> None:
    pixels = textured(20, 20)
    pixels.flags.writeable = False
    assert resize(pixels, (0, 0, 20, 20), (20, 20), "bilinear").tolist() == pixels.tolist()


def test_left_and_right_are_swapped() -> None:
    pixels = textured(7, 5)
    found = mirrored(pixels[:, 1:])
    assert found.tolist() == pixels[:, :0:-1].tolist()
    assert found.flags.c_contiguous
