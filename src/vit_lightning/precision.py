"""What "float32" means on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
