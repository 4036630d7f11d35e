"""What training is judged by: which pictures are right, and the mean average precision."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities import dim_zero_cat


def correct(logits: Tensor, targets: Tensor, *, multi_label: bool) -> Tensor:
    """(B,) whether a picture is right.

    With one label: the largest logit is at the largest target. With several: all classes are told
    right, a class being present from a probability or a target of one half on.

    Args:
        logits: (B, C).
        targets: (B,) labels or (B, C) in [0, 1].
        multi_label: whether pictures have any number of labels.
    """
    if multi_label:
        return ((logits >= 0) == (targets >= 0.5)).all(dim=1)
    return logits.argmax(dim=1) == (targets.argmax(dim=1) if targets.ndim == 2 else targets)


class MeanAveragePrecision(Metric):
    """The mean over the classes of the area under the precision-recall curve.

    Exact: of all pictures of all ranks at once. A class's area is Σ (Rₙ - Rₙ₋₁) Pₙ over the
    thresholds, without interpolation, as scikit-learn's; classes without pictures have none and
    are left out.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    logits: list[Tensor]
    targets: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Keep (B, C) logits and targets, which are 0 or 1."""
        self.logits.append(logits.detach())
        self.targets.append(targets)

    def compute(self) -> Tensor:
        """A number in [0, 1]; 0 if no class has a picture."""
        # In float64 the sigmoid that torchmetrics may take leaves different logits different.
        logits = dim_zero_cat(self.logits).cpu().double()
        targets = dim_zero_cat(self.targets).cpu().long()
        areas = [
            binary_average_precision(scores, labels)
            for scores, labels in zip(logits.T, targets.T, strict=True)
            if labels.any()
        ]
        return torch.stack(areas).mean().float() if areas else torch.zeros(())
