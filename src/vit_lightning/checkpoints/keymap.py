"""Names and layouts of weights: one table of rows for each dialect, read in both directions.

A row says which arrays of a file make one of our tensors, and how. Reading goes from the keys
of our model to those of the file, writing the same way; so a table needs no list of conditions:
what the model does not have is not looked for, and what is left over in the file is an error.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from vit_lightning.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Transform:
    """How arrays of a file become one of our tensors, and back.

    Both directions take the number of attention heads, and work on ``meta`` tensors too, which
    is how the shapes expected in a file are found.

    Args:
        to_ours: arrays of the file, in the row's order → our tensor.
        to_theirs: the inverse.
        ignores_leading_ones: whether (1, 1, 1, C) in the file is as good as (C,).
    """

    to_ours: Callable[[tuple[Tensor, ...], int], Tensor]
    to_theirs: Callable[[Tensor, int], tuple[Tensor, ...]]
    ignores_leading_ones: bool = False


SAME = Transform(lambda x, heads: x[0], lambda t, heads: (t,))
# Flax: (in, out); torch: (out, in).
DENSE = Transform(lambda x, heads: x[0].T, lambda t, heads: (t.T,))
# Flax: (height, width, in, out); torch: (out, in, height, width).
CONV = Transform(
    lambda x, heads: x[0].permute(3, 2, 0, 1), lambda t, heads: (t.permute(2, 3, 1, 0),)
)
# Early Flax wrote the scale and bias of a GroupNorm as (1, 1, 1, C).
FLAT = Transform(lambda x, heads: x[0].reshape(-1), lambda t, heads: (t,), True)
# Query, key and value, each (hidden, heads, head_dim), over one another as rows of one matrix.
QKV_KERNEL = Transform(
    lambda x, heads: torch.cat([part.reshape(part.shape[0], -1).T for part in x]),
    lambda t, heads: tuple(part.T.reshape(t.shape[1], heads, -1) for part in t.chunk(3)),
)
QKV_BIAS = Transform(
    lambda x, heads: torch.cat([part.reshape(-1) for part in x]),
    lambda t, heads: tuple(part.reshape(heads, -1) for part in t.chunk(3)),
)
# (heads, head_dim, hidden).
OUT_KERNEL = Transform(
    lambda x, heads: x[0].reshape(-1, x[0].shape[-1]).T,
    lambda t, heads: (t.T.reshape(heads, -1, t.shape[0]),),
)


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        theirs: keys in the file, with placeholders.
        ours: key in our state dict. Placeholders: ``{block}``, ``{stage}``, ``{unit}``, ``{n}``
            are numbers (``{stage+1}`` is its successor), ``{name}`` is anything.
        transform: from the one to the other.
    """

    theirs: tuple[str, ...]
    ours: str
    transform: Transform = SAME

    def match(self, key: str) -> tuple[str, ...] | None:
        """The keys in the file for one of ours, or None if the row is not about it."""
        found = _pattern(self.ours).fullmatch(key)
        if found is None:
            return None
        values = found.groupdict()
        values |= {f"{k}+1": str(int(v) + 1) for k, v in values.items() if v.isdigit()}
        return tuple(_PLACEHOLDER.sub(lambda m: values[m[1]], theirs) for theirs in self.theirs)


_PLACEHOLDER = re.compile(r"\{([a-z+1]+)\}")


@cache
def _pattern(ours: str) -> re.Pattern[str]:
    parts = _PLACEHOLDER.split(ours)  # text, placeholder, text, ...
    parts[::2] = [re.escape(text) for text in parts[::2]]
    parts[1::2] = [f"(?P<{n}>{'.+' if n == 'name' else '[0-9]+'})" for n in parts[1::2]]
    return re.compile("".join(parts))


_BLOCK = "Transformer/encoderblock_{block}/"
_ATTENTION = _BLOCK + "MultiHeadDotProductAttention_1/"
_UNIT = "block{stage+1}/unit{unit+1}/"
_OUR_UNIT = "patch_embed.backbone.stages.{stage}.blocks.{unit}."

GOOGLE: tuple[Row, ...] = (
    Row(("cls",), "cls_token"),
    Row(("Transformer/posembed_input/pos_embedding",), "pos_embed"),
    Row(("embedding/kernel",), "patch_embed.proj.weight", CONV),
    Row(("embedding/bias",), "patch_embed.proj.bias"),
    Row(("conv_root/kernel",), "patch_embed.backbone.stem.conv.weight", CONV),
    Row(("gn_root/scale",), "patch_embed.backbone.stem.norm.weight", FLAT),
    Row(("gn_root/bias",), "patch_embed.backbone.stem.norm.bias", FLAT),
    Row((_UNIT + "conv{n}/kernel",), _OUR_UNIT + "conv{n}.weight", CONV),
    Row((_UNIT + "gn{n}/scale",), _OUR_UNIT + "norm{n}.weight", FLAT),
    Row((_UNIT + "gn{n}/bias",), _OUR_UNIT + "norm{n}.bias", FLAT),
    Row((_UNIT + "conv_proj/kernel",), _OUR_UNIT + "downsample.conv.weight", CONV),
    Row((_UNIT + "gn_proj/scale",), _OUR_UNIT + "downsample.norm.weight", FLAT),
    Row((_UNIT + "gn_proj/bias",), _OUR_UNIT + "downsample.norm.bias", FLAT),
    Row((_BLOCK + "LayerNorm_0/scale",), "blocks.{block}.norm1.weight"),
    Row((_BLOCK + "LayerNorm_0/bias",), "blocks.{block}.norm1.bias"),
    Row(
        tuple(_ATTENTION + f"{part}/kernel" for part in ("query", "key", "value")),
        "blocks.{block}.attn.qkv.weight",
        QKV_KERNEL,
    ),
    Row(
        tuple(_ATTENTION + f"{part}/bias" for part in ("query", "key", "value")),
        "blocks.{block}.attn.qkv.bias",
        QKV_BIAS,
    ),
    Row((_ATTENTION + "out/kernel",), "blocks.{block}.attn.proj.weight", OUT_KERNEL),
    Row((_ATTENTION + "out/bias",), "blocks.{block}.attn.proj.bias"),
    Row((_BLOCK + "LayerNorm_2/scale",), "blocks.{block}.norm2.weight"),
    Row((_BLOCK + "LayerNorm_2/bias",), "blocks.{block}.norm2.bias"),
    Row((_BLOCK + "MlpBlock_3/Dense_0/kernel",), "blocks.{block}.mlp.fc1.weight", DENSE),
    Row((_BLOCK + "MlpBlock_3/Dense_0/bias",), "blocks.{block}.mlp.fc1.bias"),
    Row((_BLOCK + "MlpBlock_3/Dense_1/kernel",), "blocks.{block}.mlp.fc2.weight", DENSE),
    Row((_BLOCK + "MlpBlock_3/Dense_1/bias",), "blocks.{block}.mlp.fc2.bias"),
    Row(("Transformer/encoder_norm/scale",), "norm.weight"),
    Row(("Transformer/encoder_norm/bias",), "norm.bias"),
    Row(("pre_logits/kernel",), "pre_logits.weight", DENSE),
    Row(("pre_logits/bias",), "pre_logits.bias"),
    Row(("head/kernel",), "head.weight", DENSE),
    Row(("head/bias",), "head.bias"),
)
"""Google's layout (original ``vit_jax/checkpoint.py``), sub-modules numbered the old way."""

NATIVE: tuple[Row, ...] = (Row(("{name}",), "{name}"),)
"""Our own names and layout."""


class Arrays(Protocol):
    """What the readers of files hand out: shapes at once, arrays (or tensors) on access."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Key → shape."""
        ...

    def __getitem__(self, key: str, /) -> Any:
        """The array or tensor of a key."""
        ...


def read_state(
    rows: tuple[Row, ...], arrays: Arrays, shapes: Mapping[str, Shape], num_heads: int
) -> dict[str, Tensor]:
    """A file's arrays as our state dict, float32, read one after the other.

    Args:
        rows: the dialect of the file.
        arrays: the file.
        shapes: key → shape of our state dict.
        num_heads: attention heads of the model.

    Raises:
        InputError: arrays that are missing, left over, or of another shape, named.
    """
    plan = {ours: _row_for(rows, ours) for ours in shapes}
    _check_complete({key for _, theirs in plan.values() for key in theirs}, set(arrays.shapes))
    for ours, (row, theirs) in plan.items():
        _check_shapes(row, theirs, arrays.shapes, shapes[ours], num_heads)
    return {
        ours: _to_ours(row, [arrays[key] for key in theirs], num_heads)
        for ours, (row, theirs) in plan.items()
    }


def write_state(
    rows: tuple[Row, ...], state: Mapping[str, Tensor], num_heads: int
) -> Iterator[tuple[str, Tensor]]:
    """Our state dict as (key, tensor) pairs of another dialect, made one after the other."""
    for ours, tensor in state.items():
        row, theirs = _row_for(rows, ours)
        yield from zip(theirs, row.transform.to_theirs(tensor, num_heads), strict=True)


def _row_for(rows: tuple[Row, ...], ours: str) -> tuple[Row, tuple[str, ...]]:
    for row in rows:
        if (theirs := row.match(ours)) is not None:
            return row, theirs
    raise KeyError(f"no row of the table is about {ours}")


def _to_ours(row: Row, arrays: list[Any], num_heads: int) -> Tensor:
    tensors = tuple(torch.as_tensor(array).float() for array in arrays)
    return row.transform.to_ours(tensors, num_heads).contiguous()


def _check_complete(wanted: set[str], found: set[str]) -> None:
    problems = [
        f"{label}: {_some(sorted(keys))}"
        for label, keys in (("missing", wanted - found), ("left over", found - wanted))
        if keys
    ]
    if problems:
        raise InputError(f"the arrays are not those of one model; {'; '.join(problems)}")


def _check_shapes(
    row: Row,
    theirs: tuple[str, ...],
    found: Mapping[str, Shape],
    ours: Shape,
    num_heads: int,
) -> None:
    expected = row.transform.to_theirs(torch.empty(ours, device="meta"), num_heads)
    for key, like in zip(theirs, expected, strict=True):
        want, have = tuple(like.shape), tuple(found[key])
        extra = len(have) - len(want)
        if row.transform.ignores_leading_ones and extra > 0 and set(have[:extra]) == {1}:
            have = have[extra:]
        if have != want:
            raise InputError(f"{key} has shape {tuple(found[key])}, the model takes {want}")


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
    return ", ".join(keys[:6]) + more
