"""A training picture as the model gets it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vit_lightning.data.pictures import WholePicture
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.data.views import TrainView
from vit_lightning.settings import AugmentationSettings

View = Callable[[Image.Image, np.random.Generator], Tensor]


def training_view(preprocessing: Preprocessing, **augmentation: Any) -> View:
    """Picture and generator → (C, height, width), normalised."""
    view = TrainView(preprocessing, AugmentationSettings(**augmentation))

    def look(picture: Image.Image, generator: np.random.Generator) -> Tensor:
        pixels = np.ascontiguousarray(view(WholePicture(picture), generator))
        return preprocessing.normalised(torch.from_numpy(pixels))

    return look
