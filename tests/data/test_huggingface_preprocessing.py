"""Our preprocessing against Hugging Face's, pixel by pixel."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vit_lightning.data.transforms import Preprocessing

pytest.importorskip("transformers")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPES = [(7, 300), (300, 7), (64, 64), (97, 131), (240, 321)]


@pytest.fixture(params=["bilinear", "bicubic"])
def interpolation(request: pytest.FixtureRequest) -> Any:
    return request.param


def assert_same(ours: Preprocessing, theirs: Any) -> None:
    """The same levels of 8 bits, and the same numbers but for the order of two roundings."""
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        picture = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        result, expected = ours(picture), theirs(picture, return_tensors="pt")["pixel_values"][0]
        levels, their_levels = (ours.unnormalised(view) * 255 for view in (result, expected))
        assert torch.equal(levels.round(), their_levels.round()), shape
        assert (result - expected).abs().max() < 2e-6


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (33, 20), (224, 224)])
def test_squash_is_that_of_vit(size: tuple[int, int], interpolation: Any) -> None:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    theirs = ViTImageProcessorPil(
        size={"height": size[0], "width": size[1]},
        resample=Image.Resampling[interpolation.upper()],
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    assert_same(Preprocessing("squash", size, 3, MEAN, STD, interpolation), theirs)


def test_squash_with_a_fraction_is_that_of_deit(interpolation: Any) -> None:
    """``size`` 256 and ``do_center_crop`` to 224."""
    from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil

    theirs = DeiTImageProcessorPil(
        size={"height": 256, "width": 256},
        crop_size={"height": 224, "width": 224},
        do_center_crop=True,
        resample=Image.Resampling[interpolation.upper()],
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    assert_same(Preprocessing("squash", 224, 3, MEAN, STD, interpolation, 224 / 256), theirs)
