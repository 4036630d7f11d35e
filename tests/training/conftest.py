"""Small tasks and data for the training tests."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from vit_lightning.data.datamodule import TrainData
from vit_lightning.data.pictures import ArrayPictures
from vit_lightning.data.splits import Splits
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.settings import AugmentationSettings, DataSettings, OptimSettings
from vit_lightning.training.task import VisionTask

TINY = ViTConfig(
    image_size=(16, 16),
    patch_size=(8, 8),
    in_channels=1,
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_dim=32,
    num_classes=3,
    dropout=0.1,
    drop_path=0.2,
)
BATCH = 6


def _pictures(size: int, seed: int) -> ArrayPictures:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, size)
    pixels = generator.integers(0, 256, (size, 16, 16), dtype=np.uint8)
    pixels[np.arange(size), labels * 5] = 255  # a line at the place that tells the class
    return ArrayPictures(pixels, labels, "noise")


@pytest.fixture
def splits() -> Splits:
    """17 training and 11 validation pictures: no batch or number of ranks divides them."""
    return Splits(("a", "b", "c"), _pictures(17, 1), _pictures(11, 2), None, ())


@pytest.fixture
def make_data(splits: Splits) -> Callable[..., TrainData]:
    def make(num_steps: int, **options: int | None) -> TrainData:
        preprocessing = Preprocessing("paper", (16, 16), in_channels=1)
        settings = {"batch_size": BATCH, "eval_batch_size": 4, "workers": 0}
        augmentation = AugmentationSettings(crop="none", degrees=5)
        data = DataSettings(
            name="digits",
            augmentation=augmentation,
            **settings | {key: options.pop(key) for key in settings if key in options},
        )
        defaults: dict[str, int | None] = {"seed": 3}
        return TrainData(splits, preprocessing, data, num_steps=num_steps, **defaults | options)

    return make


@pytest.fixture
def make_task() -> Callable[..., VisionTask]:
    def make(num_steps: int, *, draws: bool = True, **options: object) -> VisionTask:
        """``draws=False`` is without dropout and drop_path: they depend on how a step is cut."""
        torch.manual_seed(7)
        config = TINY if draws else TINY.replace(dropout=0.0, drop_path=0.0)
        return VisionTask(
            VisionTransformer(config),
            OptimSettings(lr=0.1, warmup_steps=2),
            total_steps=num_steps,
            batch_size=BATCH,
            seed=3,
            **options,
        )

    return make
