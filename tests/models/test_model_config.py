"""ViTConfig: what it derives, and what it refuses."""

import json
from typing import Any

import pytest

from vit_lightning.errors import InputError
from vit_lightning.models.config import ResNetConfig, ViTConfig, as_size
from vit_lightning.models.presets import PRESETS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 100, "num_heads": 12}, r"embed_dim \(100\) must be divisible by num_heads"),
        ({"depth": 0}, "depth must be a positive integer"),
        ({"mlp_dim": 2.5}, "mlp_dim must be a positive integer"),
        ({"num_classes": -1}, "num_classes must be 0 or more"),
        ({"in_channels": 0}, "in_channels must be a positive integer"),
        ({"representation_size": 0}, "representation_size must be positive"),
        ({"pool": "max"}, "pool must be one of token, gap, none"),
        ({"activation": "relu"}, "activation must be one of"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"drop_path": -0.1}, r"drop_path must lie in \[0, 1\)"),
        ({"pool": "token", "class_token": False}, "class_token cannot be false"),
        ({"image_size": 0}, "image_size must be a positive integer or a pair"),
        ({"image_size": (1, 2, 3)}, "image_size must be a positive integer or a pair"),
        ({"patch_size": -1}, "patch_size must be"),
        ({"image_size": 15}, "an image of 15 x 15 pixels is smaller than one patch of 16 x 16"),
        ({"image_size": (224, 8)}, "smaller than one patch"),
        ({"norm_eps": 0.0}, r"norm_eps must lie in \(0, 1\), got 0.0"),
        ({"norm_eps": float("nan")}, "norm_eps must lie"),
        ({"norm_eps": float("inf")}, "norm_eps must lie"),
        ({"norm_eps": "small"}, "norm_eps must lie"),
        ({"class_token": 3}, "class_token must be a truth value or null, got 3"),
        ({"resnet": []}, "resnet must be a table of the stem's sizes"),
    ],
)
def test_impossible_models_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ViTConfig(**changes)


def test_a_hybrid_smaller_than_its_patch_is_refused_in_pixels() -> None:
    with pytest.raises(InputError, match="one patch of 32 x 32"):
        ViTConfig(image_size=8, patch_size=2, resnet=ResNetConfig((1, 1, 1)))


@pytest.mark.parametrize("stages", [(0,), (1, -1), (1.5,)])
def test_impossible_stages_are_refused(stages: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="stage_depths"):
        ResNetConfig(stages)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_eps": 0.0}, r"resnet.norm_eps must lie in \(0, 1\), got 0.0"),
        ({"weight_eps": float("inf")}, "resnet.weight_eps must lie"),
        ({"eps_under_root": "no"}, "resnet.eps_under_root must be a truth value"),
    ],
)
def test_impossible_stems_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ResNetConfig((1,), **changes)


@pytest.mark.parametrize("width", [0, 16, 48, 32.0, "a"])
def test_a_width_without_groups_is_refused(width: Any) -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        ResNetConfig((1,), width)


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS.keys())
def test_config_survives_json(config: ViTConfig) -> None:
    assert ViTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(InputError, match="unknown model fields hidden_size"):
        ViTConfig.from_dict({"hidden_size": 3})


def test_class_token_follows_the_pool_unless_given() -> None:
    token = ViTConfig()
    assert token.class_token
    assert not token.replace(pool="gap").class_token
    assert token.replace(pool="gap", class_token=True).class_token
    assert token.replace(pool="none").class_token
    assert not token.replace(pool="gap").replace(pool="none").class_token


@pytest.mark.parametrize(
    ("config", "grid", "dropped"),
    [
        (ViTConfig(), (14, 14), (0, 0)),
        (ViTConfig(image_size=(36, 41), patch_size=8), (4, 5), (4, 1)),
        (ViTConfig(image_size=(24, 40), patch_size=(8, 4)), (3, 10), (0, 0)),
        (ViTConfig(patch_size=1, resnet=ResNetConfig((3, 4, 9))), (14, 14), (0, 0)),
        (ViTConfig(patch_size=1, resnet=ResNetConfig((1, 1)), image_size=33), (5, 5), (0, 0)),
    ],
)
def test_grid_and_dropped_pixels(
    config: ViTConfig, grid: tuple[int, int], dropped: tuple[int, int]
) -> None:
    assert config.grid_size == grid
    assert config.dropped_pixels == dropped
    assert config.num_tokens == grid[0] * grid[1] + 1


def test_as_size_takes_what_json_gives() -> None:
    assert as_size(3) == (3, 3)
    assert as_size([3, 4]) == (3, 4)
    with pytest.raises(InputError, match="patch_size"):
        as_size([3, 4.0], "patch_size")  # type: ignore[list-item]
