"""Dense layers of a model in training, computed by oneDNN instead of by torch's ``linear``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vit_lightning import onednn


class OneDNNLinear(nn.Linear):
    """An ``nn.Linear`` that oneDNN computes where it can: in float32, on the CPU.

    It has the state of its base and none of its own, so a layer becomes one and a plain one again
    by its class alone: parameters, state dict, hooks and copies stay what they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) → (..., outputs); elsewhere, and under autocast, as the base."""
        on_cpu = x.device.type == self.weight.device.type == "cpu"
        exact = x.dtype == self.weight.dtype == torch.float32
        if not (on_cpu and exact and x.numel()) or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        return _Product.apply(x, self.weight, self.bias)  # type: ignore[no-any-return, no-untyped-call]


@contextmanager
def computed_by_onednn(model: nn.Module) -> Iterator[None]:
    """Let oneDNN compute a model's plain dense layers while the block runs, and torch after it."""
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    for layer in layers:
        layer.__class__ = OneDNNLinear
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear


class _Product(torch.autograd.Function):
    """y = x Wᵀ + b with its gradient; a gradient of the gradient is refused by torch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        return onednn.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2) if gradient.ndim > 1 else gradient[None]
        # Transposed in memory first, which is faster than letting oneDNN do it.
        for_x = onednn.linear(gradient, weight.t().contiguous()) if needs_x else None
        for_weight = None
        if needs_weight:
            inputs = x.reshape(-1, x.shape[-1]).t().contiguous()
            for_weight = onednn.linear(rows.t().contiguous(), inputs)
        return for_x, for_weight, rows.sum(0) if needs_bias else None
