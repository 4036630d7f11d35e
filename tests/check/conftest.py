"""Scenes that are different from each other and have details at all scales, as photographs do."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Scene = Callable[..., Image.Image]


@pytest.fixture(scope="session")
def scene() -> Scene:
    """Draw scene ``number`` at a size of (width, height)."""

    def draw(number: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
        generator = np.random.default_rng(number)
        width, height = size
        rows = np.fft.fftfreq(height)[:, None] * height
        columns = np.fft.rfftfreq(width)[None] * width
        falloff = 1 / np.maximum(np.hypot(rows, columns), 1) ** 1.2  # natural pictures' law
        channels = []
        shared = generator.normal(size=(height, columns.shape[1], 2)) @ [1, 1j]
        for _ in range(3):
            own = generator.normal(size=(height, columns.shape[1], 2)) @ [1, 1j]
            plane = np.fft.irfft2((shared + 0.5 * own) * falloff, s=(height, width))
            channels.append(128 + 45 * plane / plane.std())
        pixels = np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)
        return Image.fromarray(pixels)

    return functools.cache(draw)  # most of them are drawn again by every test


@pytest.fixture
def tree(tmp_path: Path, scene: Scene) -> Path:
    """A clean data set: two classes, four pictures each in train and two in val, all different."""
    number = 0
    for split, count in (("train", 4), ("val", 2)):
        for name in ("ants", "bees"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                scene(number, (96, 72)).save(folder / f"{index}.png")
                number += 1
    return tmp_path / "set"
