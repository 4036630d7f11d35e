"""What the machine can do at best: products of matrices and bytes moved, measured here and now."""

import time
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_lightning.models.config import ViTConfig

_BANDWIDTH_BYTES = 1 << 28  # more than any cache holds


def matrix_shapes(config: ViTConfig, batch: int) -> dict[tuple[int, int, int], int]:
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
    shapes: Iterable[tuple[int, int, int]], dtype: torch.dtype, repeats: int = 5
) -> dict[tuple[int, int, int], tuple[str, float]]:
    """The best rate of each product of matrices, over the ways that torch has to compute it.

    Args:
        shapes: (rows, inputs, outputs).
        dtype: of the factors.
        repeats: of which the fastest counts.

    Returns:
        Shape → (the fastest way, floating-point operations a second).
    """
    rates = {}
    with torch.inference_mode():
        for rows, inputs, outputs in shapes:
            x = torch.rand(rows, inputs, dtype=dtype)
            weight = torch.rand(outputs, inputs, dtype=dtype)
            bias = torch.rand(outputs, dtype=dtype)
            operations = 2 * rows * inputs * outputs
            ways = {
                name: operations / _fastest(way, repeats)
                for name, way in _ways(x, weight, bias).items()
            }
            best = max(ways, key=ways.__getitem__)
            rates[rows, inputs, outputs] = best, ways[best]
    return rates


def memory_bandwidth(repeats: int = 5) -> float:
    """Bytes a second that are read or written while a large tensor is copied."""
    source = torch.zeros(_BANDWIDTH_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * _BANDWIDTH_BYTES / _fastest(lambda: target.copy_(source), repeats)


def _ways(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    transposed = weight.t().contiguous()
    ways: dict[str, Callable[[], Tensor]] = {
        "linear": lambda: F.linear(x, weight, bias),
        "addmm": lambda: torch.addmm(bias, x, transposed),
    }
    operators = torch.ops.mkldnn
    if hasattr(operators, "_linear_pointwise"):
        packed = operators._reorder_linear_weight(weight, len(x))
        ways["oneDNN, packed"] = lambda: operators._linear_pointwise(
            x, packed, bias, "none", [], ""
        )
    return ways


def _fastest(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
