"""What training minimises: losses of single pictures, for labels and for soft targets.

Targets are (B,) indices of classes; or (B, C) numbers in [0, 1]: shares that sum to one, as Mixup
and CutMix leave them, or, where pictures have several labels, one number for each class.
"""

import difflib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_lightning.errors import InputError
from vit_lightning.settings import OptimSettings


class Loss:
    """The loss of each picture of a batch, sums over the classes.

    With p the softmax of the logits where pictures have one label, their sigmoid where they have
    several, t the targets and w the class weights:

    - ``cross_entropy``: -Σ w t log p.
    - ``binary_cross_entropy``: -Σ w t log σ + (1 - t) log(1 - σ), with σ the sigmoid of the logits
      in either case. A sum as in Google's big_vision, so that a class pulls as strongly as under
      the cross-entropy and the learning rates stay; timm's is the mean.
    - ``focal`` (Lin et al. 2017): -Σ w t (1 - p)^γ log p; with several labels also
      + (1 - t) p^γ log(1 - p).

    Label smoothing by ε moves targets towards 1 / C as torch's cross-entropy does, for all three;
    where pictures have several labels, towards one half. A weight belongs to a class where it is
    present, as torch's ``weight`` and ``pos_weight``. Nothing is divided by a batch's sum of
    weights: a picture counts the same however a step is cut into micro-batches and ranks.

    Args:
        optim: the recipe: loss, smoothing, γ and class weights.
        classes: class names, which class weights go by.
        counts: training pictures of each class, which balanced weights go by.
        multi_label: whether a picture has any number of labels instead of one.

    Raises:
        InputError: the loss does not go with the labels, or the class weights with the classes.
    """

    def __init__(
        self,
        optim: OptimSettings,
        *,
        classes: Sequence[str] | None = None,
        counts: Sequence[int] | None = None,
        multi_label: bool = False,
    ) -> None:
        if multi_label and optim.loss == "cross_entropy":
            raise InputError(
                "optim.loss: cross_entropy is for pictures of one label each, these have any "
                "number; take binary_cross_entropy or focal"
            )
        default = "binary_cross_entropy" if multi_label else "cross_entropy"
        self.name = optim.loss or default
        self.smoothing = optim.label_smoothing
        self.gamma = optim.focal_gamma
        self.multi_label = multi_label
        self.weights = _class_weights(optim, classes, counts)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, C) float32 logits and (B,) or (B, C) targets → (B,) losses in nats."""
        if self.weights is not None:
            self.weights = self.weights.to(logits.device)
        if targets.ndim == 2:
            targets = targets.to(logits.dtype)
        if self.name == "cross_entropy":
            return F.cross_entropy(
                logits,
                targets,
                weight=self.weights,
                reduction="none",
                label_smoothing=self.smoothing,
            )
        targets = self._smoothed(as_shares(targets, logits.shape[1]).to(logits.dtype))
        if self.name == "binary_cross_entropy":
            return binary_cross_entropy(logits, targets, self.weights)
        weights = torch.ones_like(logits) if self.weights is None else self.weights
        return self._focal(logits, targets, weights).sum(dim=1)

    def _smoothed(self, targets: Tensor) -> Tensor:
        middle = 0.5 if self.multi_label else 1.0 / targets.shape[1]
        return targets.lerp(torch.full_like(targets, middle), self.smoothing)

    def _focal(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """(B, C): the terms of the focal loss."""
        if self.multi_label:
            log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
            present = weights * targets * (self.gamma * log_not_p).exp() * log_p
            absent = (1 - targets) * (self.gamma * log_p).exp() * log_not_p
            return -(present + absent)
        log_p = F.log_softmax(logits, dim=1)
        # A power of zero has no finite gradient where γ < 1.
        not_p = (-torch.expm1(log_p)).clamp(min=torch.finfo(logits.dtype).tiny)
        return -weights * targets * not_p.pow(self.gamma) * log_p


def binary_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """(B, C) logits and targets in [0, 1] → (B,) sums over the classes, each a yes or no.

    Args:
        logits: of the sigmoid.
        targets: of the logits' dtype.
        weights: (C,), of the terms of present classes.
    """
    return F.binary_cross_entropy_with_logits(
        logits, targets, pos_weight=weights, reduction="none"
    ).sum(dim=1)


def as_shares(targets: Tensor, num_classes: int) -> Tensor:
    """(B,) labels as (B, C) of zeros and ones; (B, C) targets as they are."""
    return F.one_hot(targets, num_classes) if targets.ndim == 1 else targets


def _class_weights(
    optim: OptimSettings, classes: Sequence[str] | None, counts: Sequence[int] | None
) -> Tensor | None:
    """(C,) weights, or None where all are 1.

    Balanced are Σn / (C nᶜ) as scikit-learn's, of the C classes that have pictures: the mean over
    the training set's labels is 1.
    """
    chosen = optim.class_weights
    if chosen is None:
        return None
    if chosen == "balanced":
        if counts is None:
            raise InputError("optim.class_weights: balanced needs the number of pictures by class")
        pictures = torch.tensor([float(count) for count in counts], dtype=torch.float64)
        share = pictures.sum() / (pictures > 0).sum()
        return torch.where(pictures > 0, share / pictures.clamp(min=1), 1.0).float()
    if classes is None:
        raise InputError("optim.class_weights: weights by name need class names")
    for name in chosen:
        if name not in classes:
            raise InputError(f"optim.class_weights: {_unknown(name, classes)}")
    if not any(chosen.get(name, 1.0) for name in classes):
        raise InputError("optim.class_weights: all classes have weight 0, nothing can be learned")
    return torch.tensor([chosen.get(name, 1.0) for name in classes])


def _unknown(name: str, classes: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, classes, n=1)
    if near:
        return f"there is no class {name!r}; did you mean {near[0]!r}?"
    known = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
    return f"there is no class {name!r}; the classes are {known}"
