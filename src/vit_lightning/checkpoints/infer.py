"""A whole configuration from the shapes in a file of Google's layout."""

import math
import re
from collections.abc import Mapping
from typing import Any

from vit_lightning.errors import InputError
from vit_lightning.models.config import Pool, ResNetConfig, Size, ViTConfig, as_size

Shape = tuple[int, ...]

_BLOCK = "Transformer/encoderblock_0/"


def infer_config(
    shapes: Mapping[str, Shape], image_size: int | Size | None = None, pool: Pool | None = None
) -> ViTConfig:
    """The model that arrays of these shapes belong to, at the resolution of the file.

    The arrays tell the number of patches, not their arrangement: a square number is taken for a
    square grid, and the picture for the smallest that has it. Nor do they tell what is done with
    the tokens: a class token is taken to be read by the head, else the patches are averaged.

    Args:
        shapes: key → shape, as :attr:`NpzFile.shapes <.npz.NpzFile.shapes>` has them.
        image_size: pixels of the pictures the file is for. Needed for a grid that is not square;
            counts as well where it leaves pixels over at the same grid (36 px and patch 8). One
            with another grid is the caller's wish, not the file's, and changes nothing here.
        pool: how the tokens are read, where that is not as above; ``"none"`` for all of them.

    Raises:
        InputError: these are not the arrays of a Vision Transformer, or the grid is not square
            and ``image_size`` does not say what it is.
    """
    patch_height, patch_width, patch_channels, embed_dim = _shape(shapes, "embedding/kernel", 4)
    resnet = _infer_resnet(shapes)
    in_channels = _shape(shapes, "conv_root/kernel", 4)[2] if resnet else patch_channels
    _, num_heads, head_dim = _shape(
        shapes, _BLOCK + "MultiHeadDotProductAttention_1/query/kernel", 3
    )
    if num_heads * head_dim != embed_dim:
        raise InputError(
            f"{num_heads} heads of {head_dim} do not make the embed_dim of {embed_dim}: "
            f"these are not the arrays of one Vision Transformer"
        )
    has_class_token = "cls" in shapes
    fields: dict[str, Any] = {
        "patch_size": (patch_height, patch_width),
        "in_channels": in_channels,
        "embed_dim": embed_dim,
        "depth": _count(shapes, r"Transformer/encoderblock_(\d+)/", first=0),
        "num_heads": num_heads,
        "mlp_dim": _shape(shapes, _BLOCK + "MlpBlock_3/Dense_0/kernel", 2)[1],
        "num_classes": _width(shapes, "head/kernel") or 0,
        "pool": pool or ("token" if has_class_token else "gap"),
        "class_token": has_class_token,
        "representation_size": _width(shapes, "pre_logits/kernel"),
        "resnet": resnet,
    }
    num_patches = _shape(shapes, "Transformer/posembed_input/pos_embedding", 3)[1]
    return _at_resolution(fields, num_patches - has_class_token, image_size)


def _at_resolution(
    fields: dict[str, Any], num_patches: int, image_size: int | Size | None
) -> ViTConfig:
    """The configuration at the file's own image size."""
    resnet = fields["resnet"]
    shrink = 2**resnet.num_halvings if resnet else 1
    height, width = (patch * shrink for patch in fields["patch_size"])
    one_patch = ViTConfig(**fields, image_size=(height, width))
    asked = None if image_size is None else _asked(one_patch, as_size(image_size))
    side = math.isqrt(max(num_patches, 0))
    if side and side * side == num_patches:
        if asked is not None and asked.grid_size == (side, side):
            return asked
        return one_patch.replace(image_size=(side * height, side * width))
    if asked is not None and math.prod(asked.grid_size) == num_patches:
        return asked
    token = "a class token" if fields["class_token"] else "no class token"
    got = ""
    if asked is not None:
        rows, columns = asked.grid_size
        got = f"; {asked.image_size} has {rows} x {columns} patches"
    raise InputError(
        f"the file has {token} and {num_patches} patch positions, which make no square grid. "
        f"Give image_size=(height, width) of the pictures it is for{got}"
    )


def _asked(one_patch: ViTConfig, image_size: Size) -> ViTConfig | None:
    """The configuration at the size asked for, or None if that is smaller than a patch."""
    try:
        return one_patch.replace(image_size=image_size)
    except InputError:
        return None


def _infer_resnet(shapes: Mapping[str, Shape]) -> ResNetConfig | None:
    if "conv_root/kernel" not in shapes:
        return None
    width = _shape(shapes, "conv_root/kernel", 4)[3]
    num_stages = _count(shapes, r"block(\d+)/", first=1)
    depths = (_count(shapes, rf"block{i + 1}/unit(\d+)/", first=1) for i in range(num_stages))
    return ResNetConfig(tuple(depths), width)


def _count(shapes: Mapping[str, Shape], pattern: str, first: int) -> int:
    """How many numbers ``pattern`` captures in the keys; they run from ``first`` without gaps."""
    matches = (re.match(pattern, key) for key in shapes)
    numbers = {int(match[1]): match[0] for match in matches if match}
    for position, number in enumerate(sorted(numbers), start=first):
        if number != position:
            missing = numbers[number].replace(str(number), str(position))
            raise InputError(f"the file has {numbers[number]}* but no {missing}*: it is incomplete")
    return len(numbers)


def _width(shapes: Mapping[str, Shape], key: str) -> int | None:
    return _shape(shapes, key, 2)[1] if key in shapes else None


def _shape(shapes: Mapping[str, Shape], key: str, ndim: int) -> Shape:
    if key not in shapes:
        some = ", ".join(sorted(shapes)[:4]) or "nothing"
        raise InputError(
            f"no array {key!r}: this is not a Vision Transformer in Google's layout "
            f"(it holds {some}{', ...' if len(shapes) > 4 else ''})"
        )
    if len(shapes[key]) != ndim or 0 in shapes[key]:
        raise InputError(f"{key} has shape {tuple(shapes[key])}, expected {ndim} axes, none empty")
    return tuple(shapes[key])
