"""A second, independent forward pass: float64 NumPy on arrays in Google's layout.

It exists to contradict the models: written from the papers' words (Dosovitskiy et al. 2021;
Kolesnikov et al. 2020 for the stem, Qiao et al. 2019 for its filters, Hendrycks and Gimpel 2016 for
the GELU) and from those of the reference arrays' README, it shares no code with them and imports
neither torch nor anything of this package. It is itself held to the arrays that the original
produced, so it can say what is right at sizes for which there are none.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[np.float64]

_GROUPS = 32  # of every GroupNorm


@dataclass(frozen=True)
class Numerics:
    """What arrays do not say; the defaults are the original's.

    Args:
        activation: the GELU of the MLPs, by its tanh approximation or exactly, by erf.
        norm_eps: epsilon of every LayerNorm.
        pool: what enters the head: the first token, the mean over the patches (a class token is no
            patch), or every token.
        group_norm_eps: epsilon of every GroupNorm of a hybrid's stem.
        weight_eps: epsilon in the standardisation of the stem's filters.
        weight_eps_under_root: (w - mean) / sqrt(variance + eps) instead of
            (w - mean) / (deviation + eps).
    """

    activation: Literal["gelu_tanh", "gelu"] = "gelu_tanh"
    norm_eps: float = 1e-6
    pool: Literal["token", "gap", "none"] = "token"
    group_norm_eps: float = 1e-6
    weight_eps: float = 1e-5
    weight_eps_under_root: bool = False


def forward(
    arrays: Mapping[str, NDArray[np.floating]],
    pictures: NDArray[np.floating],
    numerics: Numerics,
) -> dict[str, Array]:
    """Logits and what lies on the way to them.

    Args:
        arrays: weights in Google's layout, keys as in released files. Layers that are not there
            are left out: the stem, the class token, ``pre_logits``, the head.
        pictures: (B, height, width, channels), as the model takes them.
        numerics: what the arrays do not say.

    Returns:
        In float64, as they apply, pictures NHWC: ``conv_root`` before its GroupNorm, ``gn_root``
        before its ReLU, ``block1``, ``block2``, ... the stages of a hybrid; ``patch_embedding``;
        ``posembed_input`` tokens with positions (B, tokens, hidden); ``block_outputs`` (blocks, B,
        tokens, hidden); ``encoded`` tokens after the last norm; ``pre_logits`` what enters the
        head, (B, features), or (B, tokens, features) unpooled; ``logits``, if there is a head.
    """
    weights = _Weights(arrays)
    out: dict[str, Array] = {}
    x = pictures.astype(np.float64)
    if "conv_root/kernel" in weights:
        x = _resnet(weights, x, numerics, out)
    x = _patches(x, weights["embedding/kernel"]) + weights["embedding/bias"]
    out["patch_embedding"] = x
    x = x.reshape(len(x), -1, x.shape[-1])
    if "cls" in weights:
        x = np.concatenate([np.repeat(weights["cls"], len(x), axis=0), x], axis=1)
    x = x + weights["Transformer/posembed_input/pos_embedding"]
    out["posembed_input"] = x
    blocks = list(_encoder(weights, x, numerics))
    out["block_outputs"] = np.stack(blocks)
    x = out["encoded"] = _layer_norm(weights, "Transformer/encoder_norm", blocks[-1], numerics)
    if numerics.pool == "token":
        x = x[:, 0]
    elif numerics.pool == "gap":
        x = x[:, int("cls" in weights) :].mean(axis=1)
    if "pre_logits/kernel" in weights:
        x = np.tanh(_dense(weights, "pre_logits", x))
    out["pre_logits"] = x
    if "head/kernel" in weights:
        out["logits"] = _dense(weights, "head", x)
    return out


class _Weights:
    """Arrays as float64, one at a time: a large model's need not all be held twice."""

    def __init__(self, arrays: Mapping[str, NDArray[np.floating]]):
        self._arrays = arrays

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def __getitem__(self, key: str) -> Array:
        return self._arrays[key].astype(np.float64)


def _encoder(weights: _Weights, x: Array, numerics: Numerics) -> Iterator[Array]:
    index = 0
    while f"Transformer/encoderblock_{index}/LayerNorm_0/scale" in weights:
        block = f"Transformer/encoderblock_{index}"
        normed = _layer_norm(weights, f"{block}/LayerNorm_0", x, numerics)
        x = x + _attention(weights, f"{block}/MultiHeadDotProductAttention_1", normed)
        y = _layer_norm(weights, f"{block}/LayerNorm_2", x, numerics)
        y = _gelu(_dense(weights, f"{block}/MlpBlock_3/Dense_0", y), numerics)
        x = x + _dense(weights, f"{block}/MlpBlock_3/Dense_1", y)
        yield x
        index += 1


def _attention(weights: _Weights, name: str, x: Array) -> Array:
    query, key, value = (  # (B, heads, tokens, head_dim) each
        (
            np.tensordot(x, weights[f"{name}/{part}/kernel"], axes=1)
            + weights[f"{name}/{part}/bias"]
        ).transpose(0, 2, 1, 3)
        for part in ("query", "key", "value")
    )
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1])
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities = scores / scores.sum(axis=-1, keepdims=True)
    mixed = (probabilities @ value).transpose(0, 2, 1, 3)  # (B, tokens, heads, head_dim)
    return np.tensordot(mixed, weights[f"{name}/out/kernel"], axes=2) + weights[f"{name}/out/bias"]


def _dense(weights: _Weights, name: str, x: Array) -> Array:
    return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def _layer_norm(weights: _Weights, name: str, x: Array, numerics: Numerics) -> Array:
    variance = x.var(axis=-1, keepdims=True)
    normed: Array = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + numerics.norm_eps)
    return normed * weights[f"{name}/scale"] + weights[f"{name}/bias"]


def _gelu(x: Array, numerics: Numerics) -> Array:
    """The input times the probability that a normal variable is below it."""
    if numerics.activation == "gelu":
        twice: Array = 1 + erf(x / math.sqrt(2))
    else:
        twice = 1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    return 0.5 * x * twice


def _patches(x: Array, kernel: Array) -> Array:
    """Patches side by side through one matrix; what fills no patch is dropped."""
    height, width, channels, features = kernel.shape
    rows, columns = x.shape[1] // height, x.shape[2] // width
    x = x[:, : rows * height, : columns * width]
    x = x.reshape(len(x), rows, height, columns, width, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(len(x), rows, columns, -1) @ kernel.reshape(-1, features)


def _resnet(weights: _Weights, x: Array, numerics: Numerics, out: dict[str, Array]) -> Array:
    x = out["conv_root"] = _conv(weights, "conv_root", x, 2, numerics)
    x = out["gn_root"] = _group_norm(weights, "gn_root", x, numerics)
    x = _windows(np.maximum(x, 0), 3, 2, fill=-np.inf).max(axis=(3, 4))
    stage = 1
    while f"block{stage}/unit1/conv1/kernel" in weights:
        unit = 1
        while f"block{stage}/unit{unit}/conv1/kernel" in weights:
            stride = 2 if stage > 1 and unit == 1 else 1
            x = _residual_unit(weights, f"block{stage}/unit{unit}", x, stride, numerics)
            unit += 1
        out[f"block{stage}"] = x
        stage += 1
    return x


def _residual_unit(
    weights: _Weights, name: str, x: Array, stride: int, numerics: Numerics
) -> Array:
    def normed_conv(which: str, x: Array, stride: int = 1) -> Array:
        x = _conv(weights, f"{name}/conv{which}", x, stride, numerics)
        return _group_norm(weights, f"{name}/gn{which}", x, numerics)

    projected = f"{name}/conv_proj/kernel" in weights
    shortcut = normed_conv("_proj", x, stride) if projected else x
    y = np.maximum(normed_conv("1", x), 0)
    y = np.maximum(normed_conv("2", y, stride), 0)
    return np.maximum(shortcut + normed_conv("3", y), 0)


def _conv(weights: _Weights, name: str, x: Array, stride: int, numerics: Numerics) -> Array:
    kernel = weights[f"{name}/kernel"]
    filters = kernel - kernel.mean(axis=(0, 1, 2))
    variance = (filters**2).mean(axis=(0, 1, 2))
    if numerics.weight_eps_under_root:
        filters /= np.sqrt(variance + numerics.weight_eps)
    else:
        filters /= np.sqrt(variance) + numerics.weight_eps
    # One large product: stacked ones are slow and quarrel over threads.
    return np.tensordot(_windows(x, len(filters), stride), filters, axes=3)


def _windows(x: Array, size: int, stride: int, fill: float = 0.0) -> Array:
    """(B, H, W, C) → (B, H', W', size, size, C), padded as TensorFlow's "SAME" does."""
    pads = []
    for length in x.shape[1:3]:
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return view[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)


def _group_norm(weights: _Weights, name: str, x: Array, numerics: Numerics) -> Array:
    groups = x.reshape(len(x), -1, _GROUPS, x.shape[-1] // _GROUPS)
    variance = groups.var(axis=(1, 3), keepdims=True)
    groups = groups - groups.mean(axis=(1, 3), keepdims=True)
    normed: Array = groups / np.sqrt(variance + numerics.group_norm_eps)
    return normed.reshape(x.shape) * weights[f"{name}/scale"] + weights[f"{name}/bias"]
