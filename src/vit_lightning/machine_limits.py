"""What the machine can do at best: products of matrices and bytes moved, measured here and now."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_lightning import onednn
from vit_lightning.models.config import ViTConfig

Shape = tuple[int, int, int]
"""Rows, inputs and outputs of a dense layer."""

_BANDWIDTH_BYTES = 1 << 28  # more than any cache holds
_LAUNCHES = 20  # on a GPU, of each measurement: waiting for its end is a part of the time
_TRAINING = 3  # a backward pass costs two forward ones


@dataclass(frozen=True)
class MatrixLimit:
    """What the dense layers of a model take, each at the best rate that torch reaches.

    Args:
        shapes: (rows, inputs, outputs) of a layer → how many there are.
        rates: shape → the fastest way, floating-point operations a second.
    """

    shapes: dict[Shape, int]
    rates: dict[Shape, tuple[str, float]]

    @property
    def operations(self) -> int:
        """Floating-point operations of a forward pass."""
        return sum(2 * count * math.prod(shape) for shape, count in self.shapes.items())

    def seconds(self, mode: str = "inference") -> float:
        """Of a forward pass, or of a step in ``training``."""
        forward = sum(
            2 * count * math.prod(shape) / self.rates[shape][1]
            for shape, count in self.shapes.items()
        )
        return forward * (_TRAINING if mode == "training" else 1)

    @property
    def rate(self) -> float:
        """Floating-point operations a second, over all layers."""
        return self.operations / self.seconds()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, in 10⁹ operations a second."""
        return {
            "gflop_a_second": round(self.rate / 1e9, 1),
            "layers": [
                {"shape": list(shape), "way": way, "gflop_a_second": round(rate / 1e9, 1)}
                for shape, (way, rate) in self.rates.items()
            ],
        }


def matrix_limit(
    config: ViTConfig, batch: int, dtype: torch.dtype, repeats: int = 3, device: str = "cpu"
) -> MatrixLimit:
    """Measure the limit of a model's dense layers for so many pictures; see ``matrix_rate``."""
    shapes = matrix_shapes(config, batch)
    return MatrixLimit(shapes, matrix_rate(shapes, dtype, repeats, device))


def measured_limits(config: ViTConfig, batch: int, device: str = "cpu") -> dict[str, Any]:
    """The limits of a machine, as JSON for a record.

    Args:
        config: of the model whose dense layers are computed.
        batch: for so many pictures.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``memory_gb_a_second``, and ``matrix``: data type → ``MatrixLimit.to_dict()``.
    """
    dtypes = (torch.float32, torch.bfloat16)
    matrix = {
        str(dtype).removeprefix("torch."): matrix_limit(config, batch, dtype, 2, device).to_dict()
        for dtype in dtypes
    }
    bandwidth = round(memory_bandwidth(3, device) / 1e9, 1)
    return {"memory_gb_a_second": bandwidth, "batch": batch, "matrix": matrix}


def matrix_shapes(config: ViTConfig, batch: int) -> dict[Shape, int]:
    """The dense layers of a forward pass.

    Returns:
        (rows, inputs, outputs) of a layer → how many there are; of attention's own products none.
    """
    dim, tokens = config.embed_dim, batch * config.num_tokens
    grid = config.grid_size[0] * config.grid_size[1]
    patch = config.patch_size[0] * config.patch_size[1]
    channels = config.resnet.out_channels if config.resnet else config.in_channels
    shapes = {
        (tokens, dim, 3 * dim): config.depth,
        (tokens, dim, dim): config.depth,
        (tokens, dim, config.mlp_dim): config.depth,
        (tokens, config.mlp_dim, dim): config.depth,
    }
    embedding = (batch * grid, patch * channels, dim)
    shapes[embedding] = shapes.get(embedding, 0) + 1
    return shapes


def matrix_rate(
    shapes: Iterable[Shape], dtype: torch.dtype, repeats: int = 5, device: str = "cpu"
) -> dict[Shape, tuple[str, float]]:
    """The best rate of each product of matrices, over the ways that torch has to compute it.

    Args:
        shapes: (rows, inputs, outputs).
        dtype: of the factors.
        repeats: of which the fastest counts.
        device: ``cpu`` or ``cuda``.

    Returns:
        Shape → (the fastest way, floating-point operations a second).
    """
    rates = {}
    with torch.inference_mode():
        for rows, inputs, outputs in shapes:
            x = torch.rand(rows, inputs, dtype=dtype, device=device)
            weight = torch.rand(outputs, inputs, dtype=dtype, device=device)
            bias = torch.rand(outputs, dtype=dtype, device=device)
            operations = 2 * rows * inputs * outputs
            ways = {
                name: operations / _fastest(way, repeats, device)
                for name, way in _ways(x, weight, bias).items()
            }
            best = max(ways, key=ways.__getitem__)
            rates[rows, inputs, outputs] = best, ways[best]
    return rates


def memory_bandwidth(repeats: int = 5, device: str = "cpu") -> float:
    """Bytes a second that are read or written while a large tensor is copied."""
    source = torch.zeros(_BANDWIDTH_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _BANDWIDTH_BYTES / _fastest(lambda: target.copy_(source), repeats, device)


def wait_for(device: str) -> None:
    """Wait until a device has done what it was told."""
    if device != "cpu":
        torch.accelerator.synchronize()


def _ways(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    transposed = weight.t().contiguous()
    ways: dict[str, Callable[[], Tensor]] = {
        "linear": lambda: F.linear(x, weight, bias),
        "addmm": lambda: torch.addmm(bias, x, transposed),
    }
    if x.device.type == "cpu" and onednn.available(x.dtype):
        pack = onednn.Pack(weight, bias, rows=len(x))
        ways["oneDNN, packed"] = lambda: pack.linear(x)
    return ways


def _fastest(run: Callable[[], object], repeats: int, device: str) -> float:
    """Seconds of the fastest of some runs, after one that does not count."""
    launches = 1 if device == "cpu" else _LAUNCHES
    run()
    wait_for(device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(launches):
            run()
        wait_for(device)
        seconds.append((time.perf_counter() - start) / launches)
    return min(seconds)
