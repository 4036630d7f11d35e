"""Optimizers and the learning-rate schedule (original ``vit_jax/utils.py`` and ``train.py``)."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from vit_lightning.settings import OptimSettings
from vit_lightning.training.muon import Muon, hidden_matrices

_LINEAR_END = 1e-5  # where the original's linear decay ends
_PAPER_WARMUP = 500


def default_warmup(total_steps: int) -> int:
    """The original's 500 warm-up steps, but at most a tenth of the run."""
    return min(_PAPER_WARMUP, total_steps // 10)


def learning_rate(
    step: int, *, base: float, total_steps: int, warmup_steps: int, decay: str
) -> float:
    """The rate of update number ``step``, counted from 0.

    Cosine (to 0) or linear (to 1e-5) decay over the steps after the warm-up, times a linear
    warm-up from 0; so the first update of a run with warm-up has rate 0, as in the original's
    ``create_learning_rate_schedule``.
    """
    # In float32 and by the reciprocal, as the compiled original: near the end of a run, where
    # little is left of 1 - progress, the difference shows.
    one = np.float32(1.0)
    progress = np.float32(step - warmup_steps) * (
        one / np.float32(max(total_steps - warmup_steps, 1))
    )
    progress = min(max(progress, np.float32(0.0)), one)
    if decay == "linear":
        rate = _LINEAR_END + (base - _LINEAR_END) * (one - progress)
    else:
        rate = base * 0.5 * (one + np.cos(np.float32(np.pi) * progress))
    if warmup_steps:
        rate *= min(one, np.float32(step) / np.float32(warmup_steps))
    return float(rate)


def has_fused_update(settings: OptimSettings, precision: str) -> bool:
    """Whether one kernel updates all weights in training of this precision."""
    if settings.name == "sgd" and settings.momentum_dtype == "bfloat16":
        return False
    # Lightning refuses fused updates where it has to unscale gradients before clipping, and
    # torch 2.13's fused SGD leaves most bfloat16 weights on a CPU as they were.
    return precision in {"32", "32-true", "bf16-mixed"}


def build_optimizer(
    model: nn.Module,
    settings: OptimSettings,
    precision: str,
    rate_scale: Callable[[str], float] = lambda _: 1.0,
    waits: Callable[[str], bool] = lambda _: False,
) -> Optimizer:
    """The optimizer of ``settings`` over the parameters of ``model`` that take a gradient.

    Weight decay reaches matrices and filters; biases, norms, the class token and the position
    embedding are left alone, as is usual.

    Args:
        model: whose parameters to update.
        settings: the recipe.
        precision: of the training, in Lightning's words.
        rate_scale: name of a parameter → what its learning rate is multiplied by.
        waits: name of a parameter → whether it takes no gradients at first.
    """
    fused = has_fused_update(settings, precision)
    groups = _groups(model, settings, rate_scale, waits)
    if settings.name == "muon":
        return Muon(groups, lr=settings.lr, betas=settings.betas, fused=fused)
    if settings.name == "adamw":
        return AdamW(groups, lr=settings.lr, betas=settings.betas, fused=fused)
    if settings.momentum_dtype == "bfloat16":
        return SGDBFloat16Momentum(groups, lr=settings.lr, momentum=settings.momentum)
    return SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=fused)


def _groups(
    model: nn.Module,
    settings: OptimSettings,
    rate_scale: Callable[[str], float],
    waits: Callable[[str], bool],
) -> list[dict[str, object]]:
    """Parameters of one rate, decay and way to be updated together; those that decay come first.

    What waits is apart: torch 2.13's fused SGD fails where a part of a group has no momentum yet.
    """
    groups: dict[tuple[bool, float, bool, int], list[nn.Parameter]] = {}
    is_muon = settings.name == "muon"
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and not name.endswith(("cls_token", "pos_embed"))
            matrices = hidden_matrices(name, parameter) if is_muon else 0
            key = (not is_matrix, rate_scale(name), waits(name), matrices)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.lr * scale,
            "weight_decay": 0.0 if spared else settings.weight_decay,
        }
        | ({"matrices": matrices} if is_muon else {})
        for (spared, scale, _, matrices), parameters in sorted(
            groups.items(), key=lambda item: item[0]
        )
    ]


class SGDBFloat16Momentum(Optimizer):
    """SGD whose momentum is stored in bfloat16 between steps, the original's default.

    An update uses the fresh float32 sum; the stored buffer is rounded, and so is the factor it is
    multiplied by: 0.9 becomes 0.8984375 (optax ``trace`` with ``accumulator_dtype="bfloat16"``).
    """

    def __init__(
        self, params: list[dict[str, object]], lr: float, momentum: float, weight_decay: float = 0.0
    ) -> None:
        rounded = torch.tensor(momentum, dtype=torch.bfloat16).item()
        super().__init__(params, {"lr": lr, "momentum": rounded, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = parameter.grad.add(parameter, alpha=group["weight_decay"])
                state = self.state[parameter]
                if "momentum_buffer" in state:
                    update.add_(state["momentum_buffer"], alpha=group["momentum"])
                state["momentum_buffer"] = update.bfloat16()
                parameter.add_(update, alpha=-group["lr"])
        return loss
