"""The Muon optimizer (Jordan et al. 2024; its rate as in Liu et al. 2025, arXiv:2502.16982)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

_MOMENTUM = 0.95
_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, as published
_RMS_OF_ADAMW = 0.2  # an entry's usual change in AdamW, as a share of the learning rate


def hidden_matrices(name: str, parameter: nn.Parameter) -> int:
    """How many matrices of the blocks a parameter is: 0 for what AdamW updates, 3 for a qkv."""
    if parameter.ndim != 2 or not name.startswith("blocks."):
        return 0
    return 3 if name.endswith("attn.qkv.weight") else 1


class Muon(AdamW):
    """Muon for the matrices inside the blocks, AdamW for everything else.

    A matrix moves by the orthogonal matrix nearest to its averaged gradient, so that all its
    directions learn at one pace. Beside a step's products that takes about 5 * embed_dim / tokens,
    tokens being all of the batch: a quarter with 192 and 4,096 of them, and as long as two steps
    with ViT-B/16 and 10 pictures. torch's own Muon takes
    matrices alone, one after the other and in bfloat16, which CPUs without that type emulate; here
    those of one shape go together, in float32 on CPUs, and a qkv is the three matrices that it is.

    Args:
        groups: parameter groups; each says in "matrices" how many every parameter of it holds,
            stacked along the rows, 0 for those of AdamW.
        lr: learning rate of groups that give none. A matrix' entries move by about as much of it
            as AdamW would move them.
        betas: of AdamW.
        fused: whether one kernel makes AdamW's part of the update.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        fused: bool,
    ) -> None:
        super().__init__(groups, lr=lr, betas=betas, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        self._step_matrices([group for group in groups if group["matrices"]])
        self.param_groups = [group for group in groups if not group["matrices"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _step_matrices(self, groups: list[dict[str, Any]]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[dict[str, Any], nn.Parameter]]] = {}
        for group in groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    rows, columns = parameter.shape
                    shape = rows // group["matrices"], columns
                    by_shape.setdefault(shape, []).append((group, parameter))
        for shape, members in by_shape.items():
            scale = _RMS_OF_ADAMW * max(shape) ** 0.5
            updates = [self._with_momentum(parameter).view(-1, *shape) for _, parameter in members]
            for (group, parameter), direction in zip(members, orthogonalized(updates), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                step = direction.flatten(0, 1).to(parameter.dtype)
                parameter.add_(step, alpha=-group["lr"] * scale)

    def _with_momentum(self, parameter: nn.Parameter) -> Tensor:
        """The gradient with Nesterov's momentum."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)  # torch expects one in every state of an AdamW
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["step"] += 1
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(parameter.grad, 1 - _MOMENTUM)
        return parameter.grad.lerp(buffer, _MOMENTUM)


def orthogonalized(stacks: Sequence[Tensor]) -> list[Tensor]:
    """Stacks of matrices (K, rows, columns) → the same with singular values of about 1.

    By five Newton-Schulz iterations, which take all but the smallest singular values to between
    0.7 and 1.2: near enough for an update, and a few matrix products instead of a decomposition.
    """
    x = torch.cat(list(stacks))
    x = x.bfloat16() if x.is_cuda else x.float()
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    linear, cubic, quintic = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear
        )
    x = x.mT if is_tall else x
    return list(torch.split(x, [len(stack) for stack in stacks]))
