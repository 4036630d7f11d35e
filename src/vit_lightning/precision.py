"""What the names of precisions mean."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def product_type(precision: str) -> torch.dtype:
    """The type that dense layers compute in, for a precision in Lightning's words."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Compute float32 convolutions in float32.

    cuDNN's default on recent GPUs is TF32, with ten bits after the point: enough to train with,
    but a hundred times coarser than the agreement with the original that is promised.
    """
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # since torch 2.9
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before
