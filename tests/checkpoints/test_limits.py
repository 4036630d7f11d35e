"""What other libraries cannot express, and what they would compute in its place."""

from typing import Any, get_args

import pytest

from tiny_models import HYBRID, ROOT, TIMM_STEM, TINY
from vit_lightning.checkpoints.limits import LIMITS, TIMM_HYBRIDS
from vit_lightning.convert import Target
from vit_lightning.models.config import ResNetConfig, ViTConfig

FEATURES = TINY.replace(num_classes=0)
TWIN = TINY.replace(pool="gap", class_token=True)


def hybrid(stages: tuple[int, ...], width: int = 64, **epsilons: Any) -> ViTConfig:
    return HYBRID.replace(resnet=ResNetConfig(stages, width, **epsilons), image_size=64)


def test_every_target_has_its_limits() -> None:
    assert set(LIMITS) == set(get_args(Target))


@pytest.mark.parametrize(
    ("to", "config", "words"),
    [
        ("google", TWIN, ["the mean over patches beside a class token"]),
        ("timm", HYBRID, ["a stem of stages (2, 1) and width 32"]),
        ("timm", ROOT, ["a stem of stages () and width 32"]),
        ("timm", hybrid((3, 4, 9), 128), ["a stem of stages (3, 4, 9) and width 128"]),
        ("huggingface", HYBRID, ["a hybrid's stem"]),
        ("huggingface", TINY.replace(pool="gap"), ["a model without a class token", "pool 'gap'"]),
        ("huggingface", TWIN, ["pool 'gap'"]),
        ("huggingface", TINY.replace(pool="none"), ["pool 'none'"]),
        # A pooler reads the class token; without one, nothing does.
        ("huggingface", TWIN.replace(num_classes=0, representation_size=8), ["pool 'gap'"]),
        ("huggingface", FEATURES.replace(pool="none"), []),
        ("torchvision", ROOT, ["a hybrid's stem"]),
        ("torchvision", TINY.replace(pool="none"), ["pool 'none'"]),
        ("torchvision", TINY.replace(image_size=(32, 40)), ["a picture that is not square"]),
        ("torchvision", TINY.replace(patch_size=(8, 4)), ["a patch that is not square"]),
        ("torchvision", TINY.replace(image_size=36), ["pictures that patches do not cover"]),
        ("torchvision", TINY.replace(in_channels=1), ["1 channels"]),
        ("torchvision", FEATURES, ["a model without a head"]),
    ],
)
def test_what_cannot_be_expressed(to: str, config: ViTConfig, words: list[str]) -> None:
    assert LIMITS[to].impossible(config) == words


@pytest.mark.parametrize(
    ("to", "config", "changes"),
    [
        ("google", TINY.replace(activation="gelu"), {"activation": "gelu_tanh"}),
        ("google", TINY.replace(norm_eps=1e-12), {"norm_eps": 1e-6}),
        ("google", hybrid((1,), **TIMM_STEM), {"resnet": ResNetConfig((1,))}),
        ("timm", TINY.replace(norm_eps=1e-12), {"norm_eps": 1e-6}),
        (
            "timm",
            TINY.replace(representation_size=8),
            {"representation_size": None, "num_classes": 0},
        ),
        (
            "timm",
            FEATURES.replace(representation_size=8),
            {"representation_size": None, "num_classes": 0},
        ),
        ("timm", hybrid((3, 4, 9)), {"resnet": ResNetConfig((3, 4, 9), **TIMM_STEM)}),
        ("huggingface", TINY.replace(representation_size=8), {"num_classes": 0}),
        ("torchvision", TINY, {"activation": "gelu"}),
        (
            "torchvision",
            TINY.replace(activation="gelu", norm_eps=1e-5),
            {"norm_eps": 1e-6},
        ),
    ],
)
def test_what_stands_in_its_place(to: str, config: ViTConfig, changes: dict[str, Any]) -> None:
    nearest = LIMITS[to].nearest(config)
    assert nearest == config.replace(**changes) != config
    assert LIMITS[to].nearest(nearest) == nearest
    assert not LIMITS[to].impossible(nearest)


@pytest.mark.parametrize(
    ("to", "config"),
    [
        ("google", TINY),
        ("google", TINY.replace(image_size=(32, 40), representation_size=8)),
        ("google", hybrid((1, 2))),
        ("timm", TINY),
        ("timm", TINY.replace(activation="gelu", pool="gap", image_size=(32, 40))),
        ("timm", TWIN),
        ("timm", TINY.replace(pool="none", in_channels=1, patch_size=(8, 4), image_size=36)),
        ("timm", FEATURES),
        *(("timm", hybrid(stages, **TIMM_STEM)) for stages in TIMM_HYBRIDS),
        ("huggingface", TINY.replace(activation="gelu", norm_eps=1e-12, image_size=(36, 40))),
        ("huggingface", FEATURES.replace(representation_size=8)),
        ("torchvision", TINY.replace(activation="gelu", representation_size=8)),
        ("safetensors", hybrid((7,)).replace(pool="none", activation="gelu", norm_eps=0.1)),
    ],
)
def test_what_nothing_is_lost_of(to: str, config: ViTConfig) -> None:
    config = config.replace(dropout=0.1, attention_dropout=0.1, drop_path=0.1)
    assert LIMITS[to].impossible(config) == []
    assert LIMITS[to].nearest(config) == config
