"""The parts of an experiment file: names, defaults, ranges and what each is for."""

from vit_lightning.settings.adapt import AdaptSettings, LoRASettings
from vit_lightning.settings.augmentation import (
    BUNDLES,
    USUAL_CROP_AREA,
    AugmentationSettings,
    RandAugmentSettings,
)
from vit_lightning.settings.base import Settings
from vit_lightning.settings.data import CacheSettings, DataSettings, OnDeviceSettings
from vit_lightning.settings.model import ModelSettings
from vit_lightning.settings.optim import OptimSettings
from vit_lightning.settings.trainer import TrainerSettings

__all__ = [
    "BUNDLES",
    "USUAL_CROP_AREA",
    "AdaptSettings",
    "AugmentationSettings",
    "CacheSettings",
    "DataSettings",
    "LoRASettings",
    "ModelSettings",
    "OnDeviceSettings",
    "OptimSettings",
    "RandAugmentSettings",
    "Settings",
    "TrainerSettings",
]
