"""The table of Google's weights, and what their names say."""

import json
import re
from pathlib import Path

import pytest

from vit_lightning.checkpoints.official import (
    OFFICIAL,
    find_official,
    misfit,
    official_names_of,
    relatives,
)
from vit_lightning.errors import InputError
from vit_lightning.models.presets import preset

SEEDS = {
    "imagenet21k": {"ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32", "ViT-H_14", "R50+ViT-B_16"},
    "imagenet21k+imagenet2012": {
        "ViT-B_16",
        "ViT-B_16-224",
        "ViT-B_32",
        "ViT-L_16",
        "ViT-L_16-224",
        "ViT-L_32",
        "R50+ViT-B_16",
    },
}
B16 = "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
SHAPES = json.loads(
    (Path(__file__).parents[1] / "reference" / "official_param_shapes.json").read_text()
)


def test_all_seed_checkpoints_have_a_mirror() -> None:
    for collection, names in SEEDS.items():
        rows = [row for row in OFFICIAL.values() if row.collection == collection]
        assert {row.name for row in rows} == names
        assert all(row.mirror for row in rows)


def test_every_row_is_a_model_that_can_be_made() -> None:
    assert len(OFFICIAL) == 62
    for name, row in OFFICIAL.items():
        config = preset(row.name.split("-i")[0])
        height, width = row.image_size, row.image_size
        grid = config.replace(image_size=(height, width)).grid_size
        assert grid == (row.image_size // row.patch_size,) * 2, name
        assert row.num_classes in (1000, 21_843), name
        assert not row.lacks or row.mirror, name


def test_mirrors_are_as_their_names_say() -> None:
    mirrors = [row.mirror for row in OFFICIAL.values() if row.mirror]
    assert len(mirrors) == len(set(mirrors))
    for row in OFFICIAL.values():
        if row.mirror:
            assert row.mirror.startswith(("google/vit-", "timm/vit_")), row
            assert f"_{row.image_size}" in row.mirror.replace("-", "_"), row
            assert (row.num_classes == 21_843) == row.mirror.endswith("in21k"), row
            tag = row.mirror.partition(".")[2]
            assert ("augreg" in tag) == (row.collection == "augreg"), row


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("imagenet21k/ViT-B_16", (21_843, 224, 16)),
        ("imagenet21k/ViT-H_14.npz", (21_843, 224, 14)),
        ("imagenet21k+imagenet2012/ViT-B_16", (1000, 384, 16)),
        ("imagenet21k+imagenet2012/ViT-B_16-224", (1000, 224, 16)),
        ("sam/ViT-B_32", (1000, 224, 32)),
        (B16, (21_843, 224, 16)),
        (f"{B16}--imagenet2012-steps_20k-lr_0.03-res_384.npz", (1000, 384, 16)),
        (f"{B16}--cifar100-steps_2k-lr_0.03-res_224", (100, 224, 16)),
        (f"{B16}--kitti-steps_2k-lr_0.03-res_384", (None, 384, 16)),
        (
            "augreg/R26_S_32-i1k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0",
            (1000, 224, 32),
        ),
        ("sam/ViT-S_32", (1000, 224, 32)),
    ],
)
def test_what_a_name_says(name: str, holds: tuple[int | None, int, int]) -> None:
    row = find_official(name)
    assert row is not None
    assert (row.num_classes, row.image_size, row.patch_size) == holds
    assert row.full_name == name.removesuffix(".npz")
    address = f"https://storage.googleapis.com/vit_models/{row.full_name}.npz"
    assert row.url == address


def test_what_a_mirror_lacks() -> None:
    assert OFFICIAL["imagenet21k/ViT-B_16"].mirror == "google/vit-base-patch16-224-in21k"
    assert OFFICIAL["imagenet21k/ViT-B_16"].lacks == "head"
    assert OFFICIAL["imagenet21k/R50+ViT-B_16"].lacks == "pre_logits, head"
    assert all(not row.lacks for row in OFFICIAL.values() if row.collection != "imagenet21k")


@pytest.mark.parametrize("name", ["google/vit-base-patch16-224", "x", "a/b/c", "", "npz/.npz"])
def test_other_names(name: str) -> None:
    assert find_official(name) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B_16", "imagenet21k/ViT-B_16, imagenet21k.imagenet2012/ViT-B_16, sam/ViT-B_16$"),
        ("ViT-L_16-224.npz", "collection: imagenet21k.imagenet2012/ViT-L_16-224$"),
        ("imagenet21k/ViT-B16", "there are imagenet21k/ViT-B_16, .*hf-hub:imagenet21k/ViT-B16$"),
        ("imagenet21k/ViT-S_16", "there are no official weights 'imagenet21k/ViT-S_16'"),
        ("augreg/B_16", "there are no official weights 'augreg/B_16'"),
        ("sam/..", "there are sam/ViT-B_16, sam/ViT-B_32"),
    ],
)
def test_names_that_are_nearly_right(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_official(name)


def test_names_by_their_file() -> None:
    assert official_names_of("ViT-H_14.npz") == ["imagenet21k/ViT-H_14"]
    assert official_names_of("ViT-G_14") == []


def test_relatives_have_a_mirror() -> None:
    row = OFFICIAL[f"{B16}--imagenet2012-steps_20k-lr_0.03-res_384"]
    assert row.mirror is None
    assert relatives(row)[0] == f"{B16}--imagenet2012-steps_20k-lr_0.01-res_384"


@pytest.mark.parametrize(
    ("shape", "name", "message"),
    [
        ({}, "imagenet21k/ViT-B_16", ""),
        ({"head": 1000}, "imagenet21k/ViT-B_16", "its head has 1,000 classes, .* has 21,843"),
        ({"head": 1000, "tokens": 577}, "imagenet21k+imagenet2012/ViT-B_16", ""),
        ({"head": 1000}, "imagenet21k+imagenet2012/ViT-B_16", "its grid is 14 × 14, .* 24 × 24"),
        ({"head": 1000}, "imagenet21k+imagenet2012/ViT-B_16-224", ""),
        ({"head": None}, "imagenet21k/ViT-B_16", "it has no head"),
        ({"tokens": 100}, "imagenet21k/ViT-B_16", "its grid is 99 positions, "),
        ({"tokens": None}, "imagenet21k/ViT-B_16", "it has no position embedding"),
        ({"cls": False, "tokens": 196}, "imagenet21k/ViT-B_16", ""),
        ({"head": 37}, f"{B16}--pets-steps_2k-lr_0.03-res_224", ""),
    ],
)
def test_what_fits_a_name(shape: dict[str, int | None], name: str, message: str) -> None:
    row = find_official(name)
    assert row is not None
    changes = {"head": 21_843, "tokens": 197, "cls": True} | shape
    shapes = {key: tuple(value) for key, value in SHAPES["models"]["ViT-B_16"]["shapes"].items()}
    shapes |= {
        "head/kernel": (768, changes["head"]),
        "Transformer/posembed_input/pos_embedding": (1, changes["tokens"], 768),
    }
    for key, part in (
        ("head", "head/kernel"),
        ("tokens", "Transformer/posembed_input/pos_embedding"),
        ("cls", "cls"),
    ):
        if not changes[key]:
            del shapes[part]
    assert re.match(message or "$", misfit(row, shapes))
