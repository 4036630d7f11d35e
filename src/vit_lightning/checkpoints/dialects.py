"""The dialects of Vision Transformer weights: a table of rows each, and how to tell them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vit_lightning.checkpoints.keymap import SAME, Arrays, Renamed, Row, Shape, Transform
from vit_lightning.checkpoints.layouts import (
    CONV,
    DENSE,
    FLAT,
    OUT_KERNEL,
    PATCH_POSITIONS,
    QKV_BIAS,
    QKV_KERNEL,
    STACKED,
)
from vit_lightning.checkpoints.refusals import refuse_other_models
from vit_lightning.errors import InputError
from vit_lightning.models.config import Activation


@dataclass(frozen=True)
class Dialect:
    """The names and layout in which a library keeps its weights, and how it computes with them.

    Args:
        name: for people, and in messages.
        rows: the table.
        telltale: keys that weights of this dialect have, and those of no other dialect do.
        activation: what the library computes unless its configuration says otherwise.
        norm_eps: likewise, of every LayerNorm.
        without: keys that weights of this dialect never have.
        stem: fields of :class:`~vit_lightning.models.config.ResNetConfig` in which the library's
            hybrids differ from the original's.
        preprocessing: plain values of the library's own, without a size; empty where it has none,
            or the paper's.
    """

    name: str
    rows: tuple[Row, ...]
    telltale: tuple[str, ...]
    activation: Activation = "gelu"
    norm_eps: float = 1e-6
    without: tuple[str, ...] = ()
    stem: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    def prefix_in(self, shapes: Mapping[str, Shape]) -> str | None:
        """What stands before the names in a file of this dialect; None for another's file."""
        first = self.telltale[0]
        ends = sorted((key.removesuffix(first) for key in shapes if key.endswith(first)), key=len)
        for prefix in ends:
            whole_words = not prefix or prefix[-1] in "./"
            here = all(prefix + key in shapes for key in self.telltale)
            other = any(prefix + key in shapes for key in self.without)
            if whole_words and here and not other:
                return prefix
        return None


def find_dialect(arrays: Arrays) -> tuple[Dialect, Arrays]:
    """The dialect of a file, and its arrays without what stands before all their names.

    Raises:
        InputError: of no dialect known, of two at once, or of a model that is known and is not
            the Vision Transformer of this package.
    """
    shapes = arrays.shapes
    refuse_other_models(shapes)
    found = [(prefix, d) for d in DIALECTS if (prefix := d.prefix_in(shapes)) is not None]
    if not found:
        some = ", ".join(sorted(shapes)[:4]) or "nothing"
        raise InputError(
            f"these are not the weights of a Vision Transformer in a known layout "
            f"({', '.join(dict.fromkeys(d.name for d in DIALECTS))}): they hold {some}"
            f"{', ...' if len(shapes) > 4 else ''}"
        )
    prefix, dialect = min(found, key=lambda pair: len(pair[0]))
    others = {d.name for _, d in found} - {dialect.name}
    if others:
        raise InputError(
            f"two layouts are mixed, {dialect.name}'s and {', '.join(sorted(others))}'s; which "
            f"arrays count cannot be told. Keep those of one"
        )
    beside = [key for key in shapes if not key.startswith(prefix)]
    if beside:
        raise InputError(
            f"beside the model's arrays ({prefix}*) stand {', '.join(sorted(beside)[:5])}"
            f"{', ...' if len(beside) > 5 else ''}, which belong to no Vision Transformer; keep "
            f"the model's alone"
        )
    return dialect, Renamed(arrays, prefix)


def _google(position: Row, block: str, index: str) -> tuple[Row, ...]:
    """Google's rows.

    Args:
        position: the row of the position embedding.
        block: what stands before the names of a block.
        index: and what after them.
    """
    attention = block + "MultiHeadDotProductAttention_1/"
    parts = ("query", "key", "value")

    def in_block(theirs: str, ours: str, transform: Transform = SAME) -> Row:
        return Row((block + theirs + index,), "blocks.{block}." + ours, transform)

    return (
        Row(("cls",), "cls_token"),
        position,
        Row(("embedding/kernel",), "patch_embed.proj.weight", CONV),
        Row(("embedding/bias",), "patch_embed.proj.bias"),
        *_GOOGLE_STEM,
        in_block("LayerNorm_0/scale", "norm1.weight"),
        in_block("LayerNorm_0/bias", "norm1.bias"),
        Row(
            tuple(f"{attention}{part}/kernel{index}" for part in parts),
            "blocks.{block}.attn.qkv.weight",
            QKV_KERNEL,
        ),
        Row(
            tuple(f"{attention}{part}/bias{index}" for part in parts),
            "blocks.{block}.attn.qkv.bias",
            QKV_BIAS,
        ),
        in_block("MultiHeadDotProductAttention_1/out/kernel", "attn.proj.weight", OUT_KERNEL),
        in_block("MultiHeadDotProductAttention_1/out/bias", "attn.proj.bias"),
        in_block("LayerNorm_2/scale", "norm2.weight"),
        in_block("LayerNorm_2/bias", "norm2.bias"),
        in_block("MlpBlock_3/Dense_0/kernel", "mlp.fc1.weight", DENSE),
        in_block("MlpBlock_3/Dense_0/bias", "mlp.fc1.bias"),
        in_block("MlpBlock_3/Dense_1/kernel", "mlp.fc2.weight", DENSE),
        in_block("MlpBlock_3/Dense_1/bias", "mlp.fc2.bias"),
        Row(("Transformer/encoder_norm/scale",), "norm.weight"),
        Row(("Transformer/encoder_norm/bias",), "norm.bias"),
        Row(("pre_logits/kernel",), "pre_logits.weight", DENSE),
        Row(("pre_logits/bias",), "pre_logits.bias"),
        Row(("head/kernel",), "head.weight", DENSE),
        Row(("head/bias",), "head.bias"),
    )


_UNIT = "block{stage+1}/unit{unit+1}/"
_OUR_STEM = "patch_embed.backbone.stem."
_OUR_UNIT = "patch_embed.backbone.stages.{stage}.blocks.{unit}."
_GOOGLE_STEM = (
    Row(("conv_root/kernel",), _OUR_STEM + "conv.weight", CONV),
    Row(("gn_root/scale",), _OUR_STEM + "norm.weight", FLAT),
    Row(("gn_root/bias",), _OUR_STEM + "norm.bias", FLAT),
    Row((_UNIT + "conv{n}/kernel",), _OUR_UNIT + "conv{n}.weight", CONV),
    Row((_UNIT + "gn{n}/scale",), _OUR_UNIT + "norm{n}.weight", FLAT),
    Row((_UNIT + "gn{n}/bias",), _OUR_UNIT + "norm{n}.bias", FLAT),
    Row((_UNIT + "conv_proj/kernel",), _OUR_UNIT + "downsample.conv.weight", CONV),
    Row((_UNIT + "gn_proj/scale",), _OUR_UNIT + "downsample.norm.weight", FLAT),
    Row((_UNIT + "gn_proj/bias",), _OUR_UNIT + "downsample.norm.bias", FLAT),
)


def _query_key_value(parts: Sequence[str]) -> Row:
    """The row of three linear layers that are one of ours."""
    return Row(tuple(part + ".{p}" for part in parts), "blocks.{block}.attn.qkv.{p}", STACKED)


def _huggingface(prefix: str, block: str, names: Sequence[str]) -> tuple[Row, ...]:
    """``ViTForImageClassification`` (prefix "vit.") and ``ViTModel`` (prefix "").

    Args:
        prefix: before everything but the head.
        block: before everything in a block.
        names: query, key, value, the attention's output and the MLP's two layers.
    """
    query, key, value, out, fc1, fc2 = (prefix + block + name for name in names)
    return (
        Row((prefix + "embeddings.cls_token",), "cls_token"),
        Row((prefix + "embeddings.position_embeddings",), "pos_embed"),
        Row((prefix + "embeddings.patch_embeddings.projection.{p}",), "patch_embed.proj.{p}"),
        Row((prefix + block + "layernorm_before.{p}",), "blocks.{block}.norm1.{p}"),
        _query_key_value((query, key, value)),
        Row((out + ".{p}",), "blocks.{block}.attn.proj.{p}"),
        Row((prefix + block + "layernorm_after.{p}",), "blocks.{block}.norm2.{p}"),
        Row((fc1 + ".{p}",), "blocks.{block}.mlp.fc1.{p}"),
        Row((fc2 + ".{p}",), "blocks.{block}.mlp.fc2.{p}"),
        Row((prefix + "layernorm.{p}",), "norm.{p}"),
        Row((prefix + "pooler.dense.{p}",), "pre_logits.{p}"),
        Row(("classifier.{p}",), "head.{p}"),
    )


_HF_SAVED = (
    "encoder.layer.{block}.",
    (
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ),
)
# transformers 5 calls its modules so, and translates when it saves.
_HF_LIVE = (
    "layers.{block}.",
    (
        "attention.q_proj",
        "attention.k_proj",
        "attention.v_proj",
        "attention.o_proj",
        "mlp.fc1",
        "mlp.fc2",
    ),
)


def _torchvision(first: str, second: str) -> tuple[Row, ...]:
    """Rows for the names of the MLP's layers, which changed in version 0.12."""
    block = "encoder.layers.encoder_layer_{block}."
    return (
        Row(("class_token",), "cls_token"),
        Row(("encoder.pos_embedding",), "pos_embed"),
        Row(("conv_proj.{p}",), "patch_embed.proj.{p}"),
        Row((block + "ln_1.{p}",), "blocks.{block}.norm1.{p}"),
        Row((block + "self_attention.in_proj_{p}",), "blocks.{block}.attn.qkv.{p}"),
        Row((block + "self_attention.out_proj.{p}",), "blocks.{block}.attn.proj.{p}"),
        Row((block + "ln_2.{p}",), "blocks.{block}.norm2.{p}"),
        Row((block + first + ".{p}",), "blocks.{block}.mlp.fc1.{p}"),
        Row((block + second + ".{p}",), "blocks.{block}.mlp.fc2.{p}"),
        Row(("encoder.ln.{p}",), "norm.{p}"),
        Row(("heads.pre_logits.{p}",), "pre_logits.{p}"),
        Row(("heads.head.{p}",), "head.{p}"),
    )


_LAYER = "transformer.encoder.layer.{block}."
_JEONSWORLD = (
    Row(("transformer.embeddings.cls_token",), "cls_token"),
    Row(("transformer.embeddings.position_embeddings",), "pos_embed"),
    Row(("transformer.embeddings.patch_embeddings.{p}",), "patch_embed.proj.{p}"),
    Row((_LAYER + "attention_norm.{p}",), "blocks.{block}.norm1.{p}"),
    _query_key_value([_LAYER + f"attn.{part}" for part in ("query", "key", "value")]),
    Row((_LAYER + "attn.out.{p}",), "blocks.{block}.attn.proj.{p}"),
    Row((_LAYER + "ffn_norm.{p}",), "blocks.{block}.norm2.{p}"),
    Row((_LAYER + "ffn.fc1.{p}",), "blocks.{block}.mlp.fc1.{p}"),
    Row((_LAYER + "ffn.fc2.{p}",), "blocks.{block}.mlp.fc2.{p}"),
    Row(("transformer.encoder.encoder_norm.{p}",), "norm.{p}"),
    Row(("head.{p}",), "head.{p}"),
)

_HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
_SQUASH = {"mode": "squash", "interpolation": "bilinear", **_HALF}
_TORCHVISION_VIEW = {
    "mode": "crop",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bilinear",
    "crop_fraction": 0.875,
}

_ALL = Row(("{name}",), "{name}")
_POSITIONS = "Transformer/posembed_input/pos_embedding"
# (before a block's names, after them, a name that is there): one by one, or stacked by a scan.
_BLOCKS = (
    ("Transformer/encoderblock_{block}/", "", "Transformer/encoderblock_0/LayerNorm_0/scale"),
    ("Transformer/encoderblock/", "[{block}]", "Transformer/encoderblock/LayerNorm_0/scale[0]"),
)
# (row, keys it goes with, keys it does not): with and without a class token.
_PATCH_POSITIONS: tuple[tuple[Row, tuple[str, ...], tuple[str, ...]], ...] = (
    (Row(("pos_embedding",), "pos_embed", PATCH_POSITIONS), ("cls",), ()),
    (Row(("pos_embedding",), "pos_embed"), (), ("cls",)),
)

NATIVE: tuple[Row, ...] = (_ALL,)
"""Our own names and layout."""

GOOGLE = Dialect(
    "Google",
    _google(Row((_POSITIONS,), "pos_embed"), *_BLOCKS[0][:2]),
    (_POSITIONS, "Transformer/encoder_norm/scale"),
    activation="gelu_tanh",
)
"""Google's layout (original ``vit_jax/checkpoint.py``), sub-modules numbered the old way."""

_TIMM_STEM = {"norm_eps": 1e-5, "weight_eps": 1e-8, "eps_under_root": True}

TIMM = Dialect(
    "timm",
    (Row(("pre_logits.fc.{name}",), "pre_logits.{name}"), _ALL),
    ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
    without=("patch_embed.backbone.conv.weight",),
    stem=_TIMM_STEM,
)
"""timm's names, which DeiT, DINO and MAE share, and ours follow."""

TIMM_ROOT = Dialect(
    "timm",
    (
        Row(("patch_embed.backbone.conv.{name}",), _OUR_STEM + "conv.{name}"),
        Row(("patch_embed.backbone.norm.{name}",), _OUR_STEM + "norm.{name}"),
        *TIMM.rows,
    ),
    (*TIMM.telltale, "patch_embed.backbone.conv.weight"),
    stem=_TIMM_STEM,
)
"""timm's hybrid without stages, whose stem has no name of its own."""

HUGGINGFACE = Dialect(
    "Hugging Face",
    _huggingface("vit.", *_HF_SAVED),
    (
        "vit.embeddings.patch_embeddings.projection.weight",
        "vit.embeddings.cls_token",
        "vit.encoder.layer.0.attention.attention.query.weight",
    ),
    norm_eps=1e-12,
    preprocessing=_SQUASH,
)
"""``ViTForImageClassification`` as it is saved."""

HUGGINGFACE_BACKBONE = Dialect(
    "Hugging Face",
    _huggingface("", *_HF_SAVED),
    (
        "embeddings.patch_embeddings.projection.weight",
        "embeddings.cls_token",
        "encoder.layer.0.attention.attention.query.weight",
    ),
    norm_eps=1e-12,
    preprocessing=_SQUASH,
)
"""``ViTModel`` as it is saved: no head, its pooler is the paper's ``pre_logits``."""

TORCHVISION = Dialect(
    "torchvision",
    _torchvision("mlp.0", "mlp.3"),
    ("conv_proj.weight", "class_token", "encoder.layers.encoder_layer_0.mlp.0.weight"),
    preprocessing=_TORCHVISION_VIEW,
)

DIALECTS: tuple[Dialect, ...] = (
    GOOGLE,
    *(
        Dialect(
            "big_vision",
            _google(position, block, index),
            ("pos_embedding", "Transformer/encoder_norm/scale", first, *has),
            activation="gelu_tanh",
            without=without,
        )
        for block, index, first in _BLOCKS
        for position, has, without in _PATCH_POSITIONS
    ),
    TIMM,
    TIMM_ROOT,
    HUGGINGFACE,
    HUGGINGFACE_BACKBONE,
    Dialect(
        "Hugging Face",
        _huggingface("vit.", *_HF_LIVE),
        (
            "vit.embeddings.patch_embeddings.projection.weight",
            "vit.embeddings.cls_token",
            "vit.layers.0.attention.q_proj.weight",
        ),
        norm_eps=1e-12,
        preprocessing=_SQUASH,
    ),
    Dialect(
        "Hugging Face",
        _huggingface("", *_HF_LIVE),
        (
            "embeddings.patch_embeddings.projection.weight",
            "embeddings.cls_token",
            "layers.0.attention.q_proj.weight",
        ),
        norm_eps=1e-12,
        preprocessing=_SQUASH,
    ),
    TORCHVISION,
    Dialect(
        "torchvision",
        _torchvision("mlp.linear_1", "mlp.linear_2"),
        ("conv_proj.weight", "class_token", "encoder.layers.encoder_layer_0.mlp.linear_1.weight"),
        preprocessing=_TORCHVISION_VIEW,
    ),
    Dialect(
        "jeonsworld",
        _JEONSWORLD,
        (
            "transformer.embeddings.patch_embeddings.weight",
            "transformer.embeddings.cls_token",
            "transformer.encoder.layer.0.attn.query.weight",
        ),
        preprocessing=_SQUASH,
    ),
)
"""Every layout that is read. jeonsworld's is also that of the Lightning ports of it."""
