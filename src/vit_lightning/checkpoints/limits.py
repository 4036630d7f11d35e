"""What the layouts and libraries of others cannot express of a model."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from vit_lightning.checkpoints.dialects import TIMM, TORCHVISION
from vit_lightning.models.config import ResNetConfig, ViTConfig

TIMM_HYBRIDS = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
"""The stems that timm has: depths of the stages → a model with it, whose other sizes are set."""

_TIMM_WIDTH = 64
_PLAIN = ViTConfig()


@dataclass(frozen=True)
class Limits:
    """What a library can have.

    Args:
        impossible: configuration → what of it the library has no way to express, in words.
        nearest: configuration → the one that the library would compute with.
    """

    impossible: Callable[[ViTConfig], list[str]]
    nearest: Callable[[ViTConfig], ViTConfig]


def _only_class_token(config: ViTConfig) -> list[str]:
    """What the libraries whose head reads the class token cannot have."""
    return [
        words
        for words, there in (
            ("a hybrid's stem", config.resnet is not None),
            ("a model without a class token", not config.class_token),
            (f"pool {config.pool!r}", config.pool != "token" and _is_read(config)),
        )
        if there
    ]


def _is_read(config: ViTConfig) -> bool:
    """Whether anything reads the pooled tokens, or they are pooled at all."""
    reads = config.num_classes or config.representation_size is not None
    return bool(reads) or config.pool == "gap"


def _nothing_impossible(config: ViTConfig) -> list[str]:
    return []


def _google_impossible(config: ViTConfig) -> list[str]:
    beside = config.pool == "gap" and config.class_token
    return ["the mean over patches beside a class token"] if beside else []


def _timm_impossible(config: ViTConfig) -> list[str]:
    stem = config.resnet
    if stem is None or (stem.stage_depths in TIMM_HYBRIDS and stem.width == _TIMM_WIDTH):
        return []
    return [f"a stem of stages {stem.stage_depths} and width {stem.width}"]


def _torchvision_impossible(config: ViTConfig) -> list[str]:
    (height, width), (patch_height, patch_width) = config.image_size, config.patch_size
    return _only_class_token(config) + [
        words
        for words, there in (
            ("a picture that is not square", height != width),
            ("a patch that is not square", patch_height != patch_width),
            ("pictures that patches do not cover", any(config.dropped_pixels)),
            (f"{config.in_channels} channels", config.in_channels != 3),
            ("a model without a head", not config.num_classes),
        )
        if there
    ]


def _without_representation(config: ViTConfig) -> ViTConfig:
    if config.representation_size is None:
        return config
    return config.replace(representation_size=None, num_classes=0)


def _google_nearest(config: ViTConfig) -> ViTConfig:
    stem = config.resnet and ResNetConfig(*config.resnet.structure)
    return config.replace(activation=_PLAIN.activation, norm_eps=_PLAIN.norm_eps, resnet=stem)


def _timm_nearest(config: ViTConfig) -> ViTConfig:
    stem = config.resnet and replace(config.resnet, **TIMM.stem)
    return _without_representation(config).replace(norm_eps=TIMM.norm_eps, resnet=stem)


def _huggingface_nearest(config: ViTConfig) -> ViTConfig:
    both = config.representation_size is not None and config.num_classes
    return config.replace(num_classes=0) if both else config


def _torchvision_nearest(config: ViTConfig) -> ViTConfig:
    return config.replace(activation=TORCHVISION.activation, norm_eps=TORCHVISION.norm_eps)


LIMITS: dict[str, Limits] = {
    "google": Limits(_google_impossible, _google_nearest),
    "timm": Limits(_timm_impossible, _timm_nearest),
    "huggingface": Limits(_only_class_token, _huggingface_nearest),
    "torchvision": Limits(_torchvision_impossible, _torchvision_nearest),
    "safetensors": Limits(_nothing_impossible, lambda config: config),
}
"""By the names of the targets of a conversion."""
