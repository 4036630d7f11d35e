"""The configuration in a file's shapes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_lightning.checkpoints import infer
from vit_lightning.checkpoints.dialects import GOOGLE
from vit_lightning.checkpoints.keymap import our_shapes, row_for
from vit_lightning.errors import InputError
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.presets import PRESETS

REFERENCE = Path(__file__).parents[1] / "reference"
BLOCK = "Transformer/encoderblock_{}/"
QUERY = BLOCK.format(0) + "MultiHeadDotProductAttention_1/query/kernel"

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


def infer_config(shapes: Shapes, image_size: Any = None, pool: Any = None, **said: Any) -> Any:
    """The configuration in shapes of Google's layout, which show the attention heads."""
    said.setdefault("num_heads", shapes[QUERY][1] if QUERY in shapes else 3)
    return infer.infer_config(
        our_shapes(GOOGLE.rows, shapes),
        image_size,
        pool,
        name_of=lambda ours: row_for(GOOGLE.rows, ours)[1][0],
        **said,
    )


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_official_model_is_recognised(name: str) -> None:
    config = PRESETS[name].replace(dropout=0.0)
    assert infer_config(OFFICIAL[name]) == config
    # Published models have the heads that go with their widths, whoever wrote the file.
    assert infer_config(OFFICIAL[name], num_heads=None) == config


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


def test_tokens_are_read_as_they_usually_are() -> None:
    token, gap = shapes_of("vit_token_small"), shapes_of("vit_gap_small")
    assert (infer_config(token).pool, infer_config(gap).pool) == ("token", "gap")
    assert infer_config(token, pool="none") == infer_config(token).replace(pool="none")
    assert isinstance(infer_config(gap, pool="none"), ViTConfig)
    assert not infer_config(gap, pool="none").class_token


def test_pool_is_checked_against_the_class_token() -> None:
    assert infer_config(shapes_of("vit_token_small"), pool="gap").class_token
    with pytest.raises(InputError, match="reads the class token"):
        infer_config(shapes_of("vit_gap_small"), pool="token")


NORM = "LayerNorm_0/scale"
POSITIONS = "Transformer/posembed_input/pos_embedding"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding/kernel": None}, "no array 'embedding/kernel': this is not a whole Vision"),
        ({"embedding/kernel": (8, 48)}, "no Vision Transformer has: embedding/kernel (8, 48)"),
        (
            {"embedding/kernel": (8, 8, 0, 48)},
            "embedding/kernel has shape (48, 0, 8, 8) as a weight, expected 4 axes, none empty",
        ),
        (
            {QUERY: (48, 4, 16)},
            f"{QUERY}: query, key and value of (160, 48) are not those of an embed_dim of 48",
        ),
        ({QUERY: None}, f"no array '{QUERY}'"),
        ({POSITIONS: None}, f"no array '{POSITIONS}'"),
        ({POSITIONS: (1, 1, 48)}, "0 patch positions"),
        ({POSITIONS: (1, 0, 48)}, f"{POSITIONS} has shape (1, 0, 48)"),
        ({POSITIONS: (17, 48)}, f"{POSITIONS} has shape (17, 48) as a weight, expected 3 axes"),
        (
            {BLOCK.format(99_999_999) + NORM: (48,)},
            f"has {BLOCK.format(99_999_999)}{NORM}, but no {BLOCK.format(2)}{NORM}: it is incompl",
        ),
        (
            {"block9/unit1/conv1/kernel": (1, 1, 1, 1)},
            "has block9/unit1/conv1/kernel, but no block4/unit1/conv1/kernel: it is incomplete",
        ),
        ({"block3/unit1/conv1/kernel": None}, None),
        (
            {"block1/unit7/conv1/kernel": (1, 1, 1, 1)},
            "has block1/unit7/conv1/kernel, but no block1/unit3/conv1/kernel: it is incomplete",
        ),
        ({"conv_root/kernel": (7, 7, 3, 48)}, "multiple of 32"),
        (
            {f"block{n}/unit1/conv1/kernel": (1, 1, 1, 1) for n in range(4, 12)},
            "a stem of 11 stages, each of half the size: no hybrid is such",
        ),
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
    with pytest.raises(InputError, match=r"but no Transformer/encoderblock_1/\S+: it is incomple"):
        infer_config(shapes)


@pytest.mark.parametrize("number", ["00", "9" * 5000, "٣", "-1"])
def test_numbers_that_count_nothing_are_passed_over(number: str) -> None:
    """Reading names them as left over."""
    shapes = our_shapes(GOOGLE.rows, shapes_of("vit_token_small"))
    more = shapes | {f"blocks.{number}.norm1.weight": (48,)}
    assert infer.infer_config(more, num_heads=3) == infer.infer_config(shapes, num_heads=3)


def test_another_file_is_told_by_what_it_holds() -> None:
    with pytest.raises(
        InputError, match=r"no array 'embedding/kernel'.*\(it holds cls, head/bias\)"
    ):
        infer_config({"cls": (1,), "head/bias": (2,), "a": (1,)})
    with pytest.raises(InputError, match=r"\(it holds nothing\)"):
        infer_config({"a": (1,)})


class TestHeads:
    """They are in no shape of ours."""

    @pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16)])
    def test_published_widths_imply_them(self, width: int, heads: int) -> None:
        shapes = our_shapes(GOOGLE.rows, OFFICIAL["ViT-Ti_16"])
        for key, shape in shapes.items():
            shapes[key] = tuple({192: width, 576: 3 * width}.get(side, side) for side in shape)
        assert infer.infer_config(shapes).num_heads == heads
        assert infer.infer_config(shapes, num_heads=2).num_heads == 2

    def test_other_widths_have_to_be_asked_for(self) -> None:
        with pytest.raises(InputError, match=r"how many attention heads their embed_dim of 48 is "):
            infer_config(shapes_of("vit_token_small"), num_heads=None)


class TestSaidBesideTheFile:
    def test_fields_that_no_array_shows(self) -> None:
        config = infer_config(shapes_of("vit_token_small"), activation="gelu", norm_eps=1e-12)
        assert (config.activation, config.norm_eps) == ("gelu", 1e-12)

    def test_a_size_that_fits_comes_first(self) -> None:
        shapes = shapes_of("vit_nonsquare_small")
        assert infer_config(shapes, file_size=(24, 40)).image_size == (24, 40)
        assert infer_config(shapes, 48, file_size=(24, 40)).image_size == (24, 40)
        square = shapes_of("vit_token_small")
        assert infer_config(square, file_size=(16, 64)).image_size == (16, 64)
        assert infer_config(square, file_size=(36, 39)).image_size == (36, 39)

    @pytest.mark.parametrize("size", [(224, 224), (24, 24), (1, 1), (10**30, 10**30)])
    def test_a_size_of_another_grid_is_passed_over(self, size: tuple[int, int]) -> None:
        """As of weights at another resolution than their configuration's."""
        assert infer_config(shapes_of("vit_token_small"), file_size=size).image_size == (32, 32)
