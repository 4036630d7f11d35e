"""A second, independent forward pass: float64 NumPy on arrays in Google's layout.

Written from the words of reference/README.md alone. It shares no code with the package, imports
neither it nor torch, and is itself held to the reference arrays by test_oracle.py; so it can say
what is right at sizes for which there is no reference.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_EPS = 1e-6  # LayerNorm and GroupNorm
_WEIGHT_EPS = 1e-5  # added to the standard deviation of a standardised filter
_GROUPS = 32


def forward(
    arrays: Mapping[str, NDArray[np.floating]], pictures: NDArray[np.floating], unpooled: bool
) -> dict[str, Array]:
    """Logits and what lies on the way to them, named as in the reference's io files.

    ``pictures`` are (B, height, width, channels) in [-1, 1]; ``unpooled`` asks for the logits of
    every token.
    """
    weights = _Weights(arrays)
    out: dict[str, Array] = {}
    x = pictures.astype(np.float64)
    if "conv_root/kernel" in weights:
        x = _resnet(weights, x, out)
    x = _patches(x, weights["embedding/kernel"]) + weights["embedding/bias"]
    out["patch_embedding"] = x
    x = x.reshape(len(x), -1, x.shape[-1])
    if "cls" in weights:
        x = np.concatenate([np.repeat(weights["cls"], len(x), axis=0), x], axis=1)
    x = x + weights["Transformer/posembed_input/pos_embedding"]
    out["posembed_input"] = x
    blocks = list(_encoder(weights, x))
    out["block_outputs"] = np.stack(blocks)
    x = _layer_norm(weights, "Transformer/encoder_norm", blocks[-1])
    out["encoded"] = x
    if not unpooled:
        x = x[:, 0] if "cls" in weights else x.mean(axis=1)
    if "pre_logits/kernel" in weights:
        x = np.tanh(_dense(weights, "pre_logits", x))
    out["pre_logits"] = x
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


def _encoder(weights: _Weights, x: Array) -> Iterator[Array]:
    index = 0
    while f"Transformer/encoderblock_{index}/LayerNorm_0/scale" in weights:
        block = f"Transformer/encoderblock_{index}"
        normed = _layer_norm(weights, f"{block}/LayerNorm_0", x)
        x = x + _attention(weights, f"{block}/MultiHeadDotProductAttention_1", normed)
        y = _layer_norm(weights, f"{block}/LayerNorm_2", x)
        y = _gelu(_dense(weights, f"{block}/MlpBlock_3/Dense_0", y))
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


def _layer_norm(weights: _Weights, name: str, x: Array) -> Array:
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + _EPS)
    return x * weights[f"{name}/scale"] + weights[f"{name}/bias"]


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _patches(x: Array, kernel: Array) -> Array:
    """Patches side by side through one matrix; what fills no patch is dropped."""
    height, width, channels, features = kernel.shape
    rows, columns = x.shape[1] // height, x.shape[2] // width
    x = x[:, : rows * height, : columns * width]
    x = x.reshape(len(x), rows, height, columns, width, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(len(x), rows, columns, -1) @ kernel.reshape(-1, features)


def _resnet(weights: _Weights, x: Array, out: dict[str, Array]) -> Array:
    x = out["conv_root"] = _conv(weights, "conv_root", x, stride=2)
    x = out["gn_root"] = _group_norm(weights, "gn_root", x)
    x = _windows(np.maximum(x, 0), 3, 2, fill=-np.inf).max(axis=(3, 4))
    stage = 1
    while f"block{stage}/unit1/conv1/kernel" in weights:
        unit = 1
        while f"block{stage}/unit{unit}/conv1/kernel" in weights:
            stride = 2 if stage > 1 and unit == 1 else 1
            x = _residual_unit(weights, f"block{stage}/unit{unit}", x, stride)
            unit += 1
        out[f"block{stage}"] = x
        stage += 1
    return x


def _residual_unit(weights: _Weights, name: str, x: Array, stride: int) -> Array:
    shortcut = x
    if f"{name}/conv_proj/kernel" in weights:
        shortcut = _conv(weights, f"{name}/conv_proj", x, stride)
        shortcut = _group_norm(weights, f"{name}/gn_proj", shortcut)
    y = _group_norm(weights, f"{name}/gn1", _conv(weights, f"{name}/conv1", x, 1))
    y = _conv(weights, f"{name}/conv2", np.maximum(y, 0), stride)
    y = np.maximum(_group_norm(weights, f"{name}/gn2", y), 0)
    y = _group_norm(weights, f"{name}/gn3", _conv(weights, f"{name}/conv3", y, 1))
    return np.maximum(shortcut + y, 0)


def _conv(weights: _Weights, name: str, x: Array, stride: int) -> Array:
    kernel = weights[f"{name}/kernel"]
    mean, std = (f(kernel, axis=(0, 1, 2), keepdims=True) for f in (np.mean, np.std))
    kernel = (kernel - mean) / (std + _WEIGHT_EPS)
    # One large product: stacked ones are slow and quarrel over threads.
    return np.tensordot(_windows(x, len(kernel), stride), kernel, axes=3)


def _windows(x: Array, size: int, stride: int, fill: float = 0.0) -> Array:
    """(B, H, W, C) → (B, H', W', size, size, C), padded as TensorFlow's "SAME" does."""
    pads = []
    for length in x.shape[1:3]:
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return view[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)


def _group_norm(weights: _Weights, name: str, x: Array) -> Array:
    groups = x.reshape(len(x), -1, _GROUPS, x.shape[-1] // _GROUPS)
    mean = groups.mean(axis=(1, 3), keepdims=True)
    groups = (groups - mean) / np.sqrt(groups.var(axis=(1, 3), keepdims=True) + _EPS)
    return groups.reshape(x.shape) * weights[f"{name}/scale"] + weights[f"{name}/bias"]
