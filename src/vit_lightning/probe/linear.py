"""The linear probe: logistic regression on frozen features, its regularisation chosen by itself.

The loss is the mean over the pictures of the cross-entropy (of several labels the binary one,
summed over the classes) plus penalty / 2 · |W|², on standardised features; biases are free.

Features of a network are strongly correlated, which first-order methods and plain L-BFGS pay for
with hundreds of rounds. So they are rotated to the axes of their covariance once, and each axis is
scaled by its curvature: mean p(1 - p) times the variance along it, plus the penalty. What is left
is nearly round, and L-BFGS needs about ten rounds for each penalty, begun at the solution for the
last. Neither changes the minimum.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vit_lightning.data.draws import hold_out
from vit_lightning.data.pictures import Labels

PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4)
_UNCHOSEN = 0.01  # where nothing can be held out to choose by
_HELD_OUT = 0.2  # of every class of the training split
_MOST_ROUNDS = 100
_GRADIENT = 3e-4  # along scaled axes, where a search ends
_COARSE_GRADIENT = 1e-3  # the same while penalties are compared
_LEAST_CURVATURE = 1e-3
_AT_ONCE = 1 << 25  # logits in memory: 128 MB


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A linear classifier of features.

    Args:
        weight: (C, D), of features as they are, not standardised.
        bias: (C,).
        penalty: the regularisation that was chosen, one of ``PENALTIES``.
        held_out: pictures of the training split that it was chosen by; 0 if by none.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    penalty: float
    held_out: int

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, D) features → (N, C)."""
        return features @ self.weight.T + self.bias


def fit_probe(
    features: NDArray[np.float32], labels: Labels, num_classes: int, seed: int = 0
) -> LinearProbe:
    """Fit the probe on a training split, of which a part chooses the penalty.

    Penalties are tried from the largest on; when the loss of the part that was held out rises, the
    smaller ones are not tried. The probe is then fitted on all pictures.

    Args:
        features: (N, D), N ≥ 1.
        labels: (N,) classes; or (N, C) of 0 and 1, where each class is a regression of its own.
        num_classes: C.
        seed: of what is held out.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = torch.from_numpy(features).to(device)
    mean = values.mean(0)
    values = values - mean
    covariance = values.T @ values / len(values)
    std = covariance.diagonal().clamp_min(0).sqrt()
    std = torch.where(std > 1e-6 * (1 + mean.abs()), std, torch.ones_like(std))
    variances, axes = torch.linalg.eigh(covariance / std / std[:, None])
    axes = axes / std[:, None]  # from centred features to standardised ones along these
    problem = _Problem(
        values @ axes,
        variances.clamp_min(0),
        torch.from_numpy(labels.astype(np.int64)).to(device),
        num_classes,
    )
    start = problem.zeros(), _UNCHOSEN
    kept, held = hold_out(labels, _HELD_OUT, seed)
    if len(held):
        parts = (torch.from_numpy(part).to(device) for part in (kept, held))
        start = _choose(*(problem.part(part) for part in parts))
    (weight, bias), penalty = start
    weight, bias = problem.solve(penalty, weight, bias, _GRADIENT)
    weight = weight @ axes.T
    bias = bias - weight @ mean
    return LinearProbe(weight.cpu().numpy(), bias.cpu().numpy(), penalty, len(held))


Solution = tuple[Tensor, Tensor]  # weight (C, D), bias (C,)


def _choose(kept: "_Problem", held: "_Problem") -> tuple[Solution, float]:
    """The solution for ``kept`` whose loss on ``held`` is the least, and its penalty."""
    best, chosen, least = kept.zeros(), _UNCHOSEN, math.inf
    weight, bias = best
    for penalty in PENALTIES:
        weight, bias = kept.solve(penalty, weight, bias, _COARSE_GRADIENT)
        with torch.no_grad():
            loss = sum(float(part) for part in held.losses(weight, bias))
        if loss > least:
            break
        best, chosen, least = (weight, bias), penalty, loss
    return best, chosen


@dataclass(frozen=True, eq=False)
class _Problem:
    """Pictures to fit.

    Args:
        values: (N, D) standardised features along the axes of their covariance.
        variances: (D,) along these.
        labels: (N,), or (N, C) of 0 and 1.
        num_classes: C.
    """

    values: Tensor
    variances: Tensor
    labels: Tensor
    num_classes: int

    def part(self, indices: Tensor) -> "_Problem":
        """The same of some pictures."""
        values, labels = self.values[indices], self.labels[indices]
        return _Problem(values, self.variances, labels, self.num_classes)

    def zeros(self) -> Solution:
        """Where a fit begins."""
        weight = self.values.new_zeros(self.num_classes, self.values.shape[1])
        return weight, self.values.new_zeros(self.num_classes)

    def losses(self, weight: Tensor, bias: Tensor) -> Iterator[Tensor]:
        """Parts of the mean loss without penalty, each to be differentiated before the next."""
        for values, labels in self._pieces():
            logits = F.linear(values, weight, bias)
            if labels.ndim == 1:
                loss = F.cross_entropy(logits, labels, reduction="sum")
            else:
                targets = labels.to(logits.dtype)
                loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
            yield loss / len(self.values)

    def solve(self, penalty: float, weight: Tensor, bias: Tensor, gradient: float) -> Solution:
        """The minimum, looked for from ``weight`` and ``bias`` until no slope is steeper."""
        curvature = self._curvature(weight, bias)
        scale, bias_scale = (curvature * self.variances + penalty).rsqrt(), curvature**-0.5
        scaled, scaled_bias = weight / scale, bias / bias_scale
        search = torch.optim.LBFGS(
            [scaled, scaled_bias],
            max_iter=_MOST_ROUNDS,
            tolerance_grad=gradient,
            line_search_fn="strong_wolfe",
        )

        def evaluate() -> float:
            weight = (scaled * scale).requires_grad_()
            bias = (scaled_bias * bias_scale).requires_grad_()
            total = 0.0
            for loss in self.losses(weight, bias):
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
            assert weight.grad is not None
            assert bias.grad is not None
            scaled.grad = (weight.grad + penalty * weight.detach()) * scale
            scaled_bias.grad = bias.grad * bias_scale
            return total + penalty / 2 * weight.detach().square().sum().item()

        search.step(evaluate)  # type: ignore[no-untyped-call]
        return scaled * scale, scaled_bias * bias_scale

    def _curvature(self, weight: Tensor, bias: Tensor) -> float:
        """Mean p(1 - p) over pictures and classes: of the loss along features of variance 1."""
        total = 0.0
        for values, labels in self._pieces():
            logits = F.linear(values, weight, bias)
            shares = logits.softmax(dim=1) if labels.ndim == 1 else logits.sigmoid()
            total += (shares * (1 - shares)).sum().item()
        return max(total / (len(self.values) * self.num_classes), _LEAST_CURVATURE)

    def _pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = max(_AT_ONCE // self.num_classes, 1)
        return zip(torch.split(self.values, count), torch.split(self.labels, count), strict=True)
