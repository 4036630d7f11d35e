"""The configuration in a file's shapes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_lightning.checkpoints.infer import infer_config
from vit_lightning.errors import InputError
from vit_lightning.models.presets import PRESETS

REFERENCE = Path(__file__).parents[1] / "reference"
BLOCK = "Transformer/encoderblock_{}/"

Shapes = dict[str, tuple[int, ...]]


def shapes_of(name: str) -> Shapes:
    with np.load(REFERENCE / f"{name}.npz") as file:
        return {key: array.shape for key, array in file.items()}


def official() -> dict[str, Shapes]:
    table = json.loads((REFERENCE / "official_param_shapes.json").read_text())["models"]
    return {
        name: {key: tuple(shape) for key, shape in row["shapes"].items()}
        for name, row in table.items()
        if not name.startswith("Mixer")
    }


OFFICIAL = official()


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_official_model_is_recognised(name: str) -> None:
    assert infer_config(OFFICIAL[name]) == PRESETS[name].replace(dropout=0.0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_token_small", {}),
        ("vit_prelogits_small", {}),
        ("vit_gap_small", {}),
        ("vit_nonsquare_small", {"image_size": (24, 40)}),
        ("vit_token_unpooled_small", {"image_size": 36, "pool": "none"}),
        ("hybrid_small", {}),
        ("hybrid_no_stage", {}),
    ],
)
def test_every_fixture_is_recognised(name: str, arguments: dict[str, Any]) -> None:
    truth = json.loads((REFERENCE / f"{name}.json").read_text())
    config, model = infer_config(shapes_of(name), **arguments), truth["config"]
    assert config.image_size == tuple(truth["image_hw"])
    assert config.num_classes == truth["num_classes"]
    assert config.patch_size == tuple(model["patches"]["size"])
    assert config.embed_dim == model["hidden_size"]
    assert config.depth == model["transformer"]["num_layers"]
    assert config.num_heads == model["transformer"]["num_heads"]
    assert config.mlp_dim == model["transformer"]["mlp_dim"]
    assert config.representation_size == model["representation_size"]
    assert config.pool == {"token_unpooled": "none"}.get(model["classifier"], model["classifier"])
    assert config.class_token == model["classifier"].startswith("token")
    if "resnet" in model:
        assert config.resnet is not None
        assert config.resnet.stage_depths == tuple(model["resnet"]["num_layers"])
        assert config.resnet.width == 64 * model["resnet"]["width_factor"]
    else:
        assert config.resnet is None


def test_left_over_pixels_cannot_be_told() -> None:
    shapes = shapes_of("vit_token_unpooled_small")
    assert infer_config(shapes).image_size == (32, 32)
    assert infer_config(shapes, image_size=36).image_size == (36, 36)
    assert infer_config(shapes, image_size=(32, 39)).image_size == (32, 39)


@pytest.mark.parametrize("image_size", [48, (16, 64), (32, 64), 4])
def test_another_grid_is_not_the_files(image_size: Any) -> None:
    """Also 16 x 64, with as many patches: a square number is a square grid."""
    assert infer_config(shapes_of("vit_token_small"), image_size).image_size == (32, 32)


def test_no_head_and_other_channels() -> None:
    shapes = {k: v for k, v in shapes_of("vit_token_small").items() if not k.startswith("head")}
    assert infer_config(shapes).num_classes == 0
    assert infer_config(shapes | {"embedding/kernel": (8, 8, 5, 48)}).in_channels == 5
    hybrid = shapes_of("hybrid_small") | {"conv_root/kernel": (7, 7, 1, 32)}
    assert infer_config(hybrid).in_channels == 1


def test_a_grid_that_is_not_square_is_asked_for() -> None:
    shapes = shapes_of("vit_nonsquare_small")
    message = r"15 patch positions, which make no square grid. Give image_size=\(height, width\)"
    with pytest.raises(InputError, match=message):
        infer_config(shapes)
    with pytest.raises(InputError, match=r"\(24, 48\) has 3 x 6 patches"):
        infer_config(shapes, image_size=(24, 48))
    with pytest.raises(InputError, match="no square grid"):
        infer_config(shapes, image_size=4)
    assert infer_config(shapes, image_size=(24, 40)).grid_size == (3, 5)


def test_pool_is_checked_against_the_class_token() -> None:
    assert infer_config(shapes_of("vit_token_small"), pool="gap").class_token
    with pytest.raises(InputError, match="reads the class token"):
        infer_config(shapes_of("vit_gap_small"), pool="token")


QUERY = BLOCK.format(0) + "MultiHeadDotProductAttention_1/query/kernel"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding/kernel": None}, "no array 'embedding/kernel': this is not a Vision Transf"),
        ({"embedding/kernel": (8, 48)}, "embedding/kernel has shape (8, 48), expected 4 axes"),
        ({"embedding/kernel": (8, 8, 0, 48)}, "none empty"),
        ({QUERY: (48, 4, 16)}, "4 heads of 16 do not make the embed_dim of 48"),
        ({QUERY: None}, "no array"),
        ({"Transformer/posembed_input/pos_embedding": None}, "pos_embedding"),
        ({"Transformer/posembed_input/pos_embedding": (1, 1, 48)}, "0 patch positions"),
        ({BLOCK.format(99_999_999) + "x": (1,)}, "encoderblock_99999999/* but no"),
        ({"block9/unit1/conv1/kernel": (1, 1, 1, 1)}, "has block9/* but no block4/*"),
        ({"block3/unit1/conv1/kernel": None}, None),
        ({"block1/unit7/conv1/kernel": (1, 1, 1, 1)}, "has block1/unit7/* but no block1/unit3/*"),
        ({"conv_root/kernel": (7, 7, 3, 48)}, "multiple of 32"),
    ],
)
def test_arrays_of_something_else_are_refused(changes: dict[str, Any], message: str | None) -> None:
    shapes = {k: v for k, v in (shapes_of("hybrid_small") | changes).items() if v is not None}
    if message is None:  # the other arrays of the unit still tell that it is there
        assert infer_config(shapes).resnet == infer_config(shapes_of("hybrid_small")).resnet
        return
    with pytest.raises(InputError, match=re.escape(message)):
        infer_config(shapes)


def test_a_missing_block_in_the_middle_is_named() -> None:
    shapes = {
        key: shape
        for key, shape in shapes_of("vit_token_small").items()
        if not key.startswith(BLOCK.format(1))
    }
    with pytest.raises(InputError, match=r"no Transformer/encoderblock_1/\*: it is incomplete"):
        infer_config(shapes)


def test_another_file_is_told_by_what_it_holds() -> None:
    with pytest.raises(InputError, match=r"\(it holds a, b\)"):
        infer_config({"a": (1,), "b": (2,)})
