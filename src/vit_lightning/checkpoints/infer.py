"""A whole configuration from the shapes of weights."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from vit_lightning.errors import InputError
from vit_lightning.models.config import Pool, ResNetConfig, Size, ViTConfig, as_size

Shape = tuple[int, ...]

_BLOCK = "blocks.0."
_STEM = "patch_embed.backbone.stem.conv.weight"
_NUMBER = "(0|[1-9][0-9]{0,8})"
_MOST_STAGES = 10  # each halves the picture; no hybrid has more than four
# The heads of the Vision Transformers that are published at these widths, nearly all.
_USUAL_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}


def infer_config(
    shapes: Mapping[str, Shape],
    image_size: int | Size | None = None,
    pool: Pool | None = None,
    *,
    file_size: Size | None = None,
    num_heads: int | None = None,
    name_of: Callable[[str], str] = str,
    **said: Any,
) -> ViTConfig:
    """The model that tensors of these shapes belong to, at the resolution of the file.

    The arrays tell the number of patches, not their arrangement: a square number is taken for a
    square grid, and the picture for the smallest that has it. Nor do they tell what is done with
    the tokens: a class token is taken to be read by the head, else the patches are averaged.

    Args:
        shapes: key → shape, under our names.
        image_size: pixels of the pictures the file is for. Needed for a grid that is not square;
            counts as well where it leaves pixels over at the same grid (36 px and patch 8). One
            with another grid is the caller's wish, not the file's, and changes nothing here.
        pool: how the tokens are read, where that is not as above; ``"none"`` for all of them.
        file_size: pixels of the pictures the file is for, where something beside it says so;
            passed over if that has another number of patches.
        num_heads: attention heads; by default those of every published model of this width.
        name_of: what the file calls one of our names, for messages.
        **said: other fields of the configuration, such as ``activation``.

    Raises:
        InputError: these are not the arrays of a Vision Transformer; or the grid is not square
            and ``image_size`` does not say what it is; or the heads are not known.
    """
    look = _Shapes(shapes, name_of)
    embed_dim, patch_channels, patch_height, patch_width = look("patch_embed.proj.weight", 4)
    resnet = _infer_resnet(look)
    has_class_token = "cls_token" in shapes
    fields: dict[str, Any] = {
        "patch_size": (patch_height, patch_width),
        "in_channels": look(_STEM, 4)[1] if resnet else patch_channels,
        "embed_dim": embed_dim,
        "depth": look.count(rf"blocks\.{_NUMBER}\."),
        "num_heads": num_heads or _usual_heads(embed_dim),
        "mlp_dim": look(_BLOCK + "mlp.fc1.weight", 2)[0],
        "num_classes": look("head.weight", 2)[0] if "head.weight" in shapes else 0,
        "pool": pool or ("token" if has_class_token else "gap"),
        "class_token": has_class_token,
        "representation_size": (
            look("pre_logits.weight", 2)[0] if "pre_logits.weight" in shapes else None
        ),
        "resnet": resnet,
    }
    if look(_BLOCK + "attn.qkv.weight", 2) != (3 * embed_dim, embed_dim):
        raise InputError(
            f"{name_of(_BLOCK + 'attn.qkv.weight')}: query, key and value of "
            f"{shapes[_BLOCK + 'attn.qkv.weight']} are not those of an embed_dim of {embed_dim}: "
            f"these are not the arrays of one Vision Transformer"
        )
    num_patches = look("pos_embed", 3)[1] - has_class_token
    return _at_resolution(fields | said, num_patches, image_size, file_size)


class _Shapes:
    """Shapes under our names, and errors under the file's."""

    def __init__(self, shapes: Mapping[str, Shape], name_of: Callable[[str], str]):
        self._shapes = shapes
        self._name_of = name_of

    def __contains__(self, key: str) -> bool:
        return key in self._shapes

    def __call__(self, key: str, ndim: int) -> Shape:
        if key not in self._shapes:
            some = ", ".join(self._name_of(name) for name in sorted(self._shapes)[:4]) or "nothing"
            raise InputError(
                f"no array {self._name_of(key)!r}: this is not a whole Vision Transformer "
                f"(it holds {some}{', ...' if len(self._shapes) > 4 else ''})"
            )
        shape = tuple(self._shapes[key])
        if len(shape) != ndim or 0 in shape:
            raise InputError(
                f"{self._name_of(key)} has shape {shape} as a weight, expected {ndim} axes, "
                f"none empty"
            )
        return shape

    def count(self, pattern: str) -> int:
        """How many numbers ``pattern`` captures in the keys; they run from 0 without gaps."""
        matches = (re.match(pattern, key) for key in self._shapes)
        numbers = {int(match[1]): match.string for match in matches if match}
        for position, number in enumerate(sorted(numbers)):
            if number != position:
                known = numbers[number]
                start = known[: re.match(pattern, known).start(1)]  # type: ignore[union-attr]
                rest = known.removeprefix(start + str(number))
                raise InputError(
                    f"the file has {self._name_of(known)}, but no "
                    f"{self._name_of(start + str(position) + rest)}: it is incomplete"
                )
        return len(numbers)


def _usual_heads(embed_dim: int) -> int:
    if embed_dim not in _USUAL_HEADS:
        raise InputError(
            f"these weights do not tell how many attention heads their embed_dim of {embed_dim} is "
            f"divided into; put the config.json of their library beside them, or name a model or "
            f"configuration that has it"
        )
    return _USUAL_HEADS[embed_dim]


def _infer_resnet(look: _Shapes) -> ResNetConfig | None:
    if _STEM not in look:
        return None
    prefix = r"patch_embed\.backbone\.stages\."
    num_stages = look.count(rf"{prefix}{_NUMBER}\.")
    if num_stages > _MOST_STAGES:
        raise InputError(f"a stem of {num_stages} stages, each of half the size: no hybrid is such")
    depths = (look.count(rf"{prefix}{stage}\.blocks\.{_NUMBER}\.") for stage in range(num_stages))
    return ResNetConfig(tuple(depths), look(_STEM, 4)[0])


def _at_resolution(
    fields: dict[str, Any],
    num_patches: int,
    image_size: int | Size | None,
    file_size: Size | None,
) -> ViTConfig:
    """The configuration at the file's own image size."""
    resnet = fields["resnet"]
    shrink = 2**resnet.num_halvings if resnet else 1
    height, width = (patch * shrink for patch in fields["patch_size"])
    one_patch = ViTConfig(**fields, image_size=(height, width))
    known = None if file_size is None else _at(one_patch, file_size)
    if known is not None and math.prod(known.grid_size) == num_patches:
        return known
    asked = None if image_size is None else _at(one_patch, as_size(image_size))
    side = math.isqrt(max(num_patches, 0))
    fits = asked is not None and math.prod(asked.grid_size) == num_patches
    if asked is not None and fits and (side * side != num_patches or asked.grid_size[0] == side):
        return asked
    if side and side * side == num_patches:
        return one_patch.replace(image_size=(side * height, side * width))
    token = "a class token" if fields["class_token"] else "no class token"
    got = ""
    if asked is not None:
        rows, columns = asked.grid_size
        got = f"; {asked.image_size} has {rows} x {columns} patches"
    raise InputError(
        f"the file has {token} and {num_patches} patch positions, which make no square grid. "
        f"Give image_size=(height, width) of the pictures it is for{got}"
    )


def _at(one_patch: ViTConfig, image_size: Size) -> ViTConfig | None:
    """The configuration at another size, or None if that is smaller than a patch."""
    try:
        return one_patch.replace(image_size=image_size)
    except InputError:
        return None
