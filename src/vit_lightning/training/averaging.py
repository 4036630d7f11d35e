"""The exponential moving average of a model's weights (Polyak & Juditsky 1992)."""

import copy
from typing import TypeVar

import torch
from torch import nn

_Model = TypeVar("_Model", bound=nn.Module)


def averaged_copy(model: _Model) -> _Model:
    """A copy for :func:`update_average`, without gradients."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average towards a model's weights.

    At first it follows faster, as TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``:
    ``decay`` is at most (1 + step) / (10 + step). Otherwise the random weights of the beginning
    would be in the average for long.

    Args:
        average: changed in place.
        model: after ``step`` updates.
        decay: the share of the average that stays, in [0, 1).
        step: optimizer steps made, at least 1.
    """
    share = 1.0 - min(decay, (1 + step) / (10 + step))
    kept = [parameter.data for parameter in average.parameters()]
    torch._foreach_lerp_(kept, [parameter.data for parameter in model.parameters()], share)
