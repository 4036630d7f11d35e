"""What an evaluation measures where a picture has any number of labels."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vit_lightning.errors import InputError
from vit_lightning.evaluation.metrics import (
    ClassMetrics,
    FloatArray,
    IntArray,
    Metrics,
    check_logits,
    class_metrics,
    compute_metrics,
)

_RESAMPLES = 200  # of the bootstrap
_AT_ONCE = 2**23  # weights in memory: 32 MB


@dataclass(frozen=True)
class MultiLabelMetrics:
    """The figures of one evaluation; all shares are in [0, 1].

    A class is called present where its probability, the sigmoid of its logit, is one half or more.

    Args:
        num_images: pictures evaluated.
        loss: mean over the pictures of the binary cross-entropy in nats, summed over the classes.
        mean_average_precision: mean of ``average_precision`` over the classes that have one; None
            if no picture has a label.
        mean_average_precision_interval: what the number of pictures allows: 95 % of what as many
            other pictures of the same kind would give, by :func:`bootstrap_interval`.
        average_precision: of each class: Σ (Rₙ - Rₙ₋₁) Pₙ over the thresholds, without
            interpolation; None without pictures of the class.
        micro_f1: F1 of all answers together; None if nothing is or was called present.
        macro_f1: mean F1 over the classes that have pictures; None if none has.
        exact_match: share of pictures for which every class is told right.
        hamming_loss: share of all answers, a picture and a class each, that are wrong.
        per_class: precision, recall and F1, in the order of the classes.
    """

    num_images: int
    loss: float
    mean_average_precision: float | None
    mean_average_precision_interval: tuple[float, float] | None
    average_precision: tuple[float | None, ...]
    micro_f1: float | None
    macro_f1: float | None
    exact_match: float
    hamming_loss: float
    per_class: tuple[ClassMetrics, ...]

    @property
    def score(self) -> float:
        """What models are chosen by; 0 where nothing can be measured."""
        return self.mean_average_precision or 0.0

    def headlines(self) -> dict[str, Any]:
        """The figures that a run's result keeps; plain JSON types."""
        interval = self.mean_average_precision_interval
        return {
            "num_images": self.num_images,
            "mean_average_precision": self.mean_average_precision,
            "mean_average_precision_interval": None if interval is None else list(interval),
            "loss": self.loss,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; what is undefined is None, nothing is NaN."""
        values = asdict(self) | self.headlines()
        values["average_precision"] = list(self.average_precision)
        values["per_class"] = list(values["per_class"])
        return values


AnyMetrics = Metrics | MultiLabelMetrics


def measure(logits: FloatArray, labels: IntArray, classes: Sequence[str]) -> AnyMetrics:
    """What the labels allow to measure: (N,) :func:`~.metrics.compute_metrics`, (N, C) the other.

    Raises:
        InputError: see there.
    """
    several = labels.ndim == 2
    compute = compute_multi_label_metrics if several else compute_metrics
    return compute(logits, labels, classes)


def compute_multi_label_metrics(
    logits: FloatArray, labels: IntArray, classes: Sequence[str]
) -> MultiLabelMetrics:
    """Measure a model of any number of classes in a picture.

    Args:
        logits: (N, C), one row a picture.
        labels: (N, C), 1 for the classes of a picture, else 0.
        classes: C names.

    Raises:
        InputError: no pictures, shapes or labels that do not fit, or logits that are not finite.
    """
    from sklearn.metrics import average_precision_score  # takes a sixth of a second to import

    check_logits(logits, classes)
    if labels.shape != logits.shape:
        raise InputError(f"logits of shape {logits.shape}, but labels of shape {labels.shape}")
    if labels.min() < 0 or labels.max() > 1:
        raise InputError(f"labels must be 0 or 1, got {labels.min()} to {labels.max()}")
    guesses = logits >= 0
    counts = [np.count_nonzero(hits, axis=0) for hits in (labels, guesses, guesses & (labels == 1))]
    per_class = class_metrics(classes, *counts)
    (together,) = class_metrics(["all"], *(count.sum(keepdims=True) for count in counts))
    areas = tuple(
        float(average_precision_score(own, scores)) if own.any() else None
        for own, scores in zip(labels.T, logits.T, strict=True)
    )
    defined = [area for area in areas if area is not None]
    found = [row.f1 or 0.0 for row in per_class if row.support]
    mean = math.fsum(defined) / len(defined) if defined else None
    interval = None if mean is None else bootstrap_interval(logits, labels, mean)
    return MultiLabelMetrics(
        num_images=len(logits),
        loss=_binary_cross_entropy(logits, labels),
        mean_average_precision=mean,
        mean_average_precision_interval=interval,
        average_precision=areas,
        micro_f1=together.f1,
        macro_f1=math.fsum(found) / len(found) if found else None,
        exact_match=float((guesses == labels).all(axis=1).mean()),
        hamming_loss=float((guesses != labels).mean()),
        per_class=per_class,
    )


def sigmoid(logits: FloatArray) -> npt.NDArray[np.float64]:
    """(N, C) logits → (N, C) probabilities, in float64."""
    return torch.from_numpy(logits.astype(np.float64)).sigmoid().numpy()


def bootstrap_interval(
    logits: FloatArray, labels: IntArray, estimate: float
) -> tuple[float, float]:
    """A 95 % interval of the mean average precision by 200 resamples; ``estimate`` lies in it.

    The pictures are drawn anew from themselves, always by the same seed; a class that a resample
    has no picture of is left out of its mean. A picture that is drawn twice holds its rank twice,
    which raises average precision, the more the fewer pictures a class has. So the percentiles are
    shifted by the estimated bias, mean of the resamples - ``estimate`` (Efron & Tibshirani 1993,
    "An Introduction to the Bootstrap", chapters 10 and 13), and cut off at 0 and 1.

    It is an interval for what N pictures give on average. Average precision is itself higher the
    fewer the pictures, so what infinitely many would give may lie below it. A class of very few
    pictures makes it too narrow, as its own pictures are all that can be drawn.

    Args:
        logits: (N, C).
        labels: (N, C), 0 or 1, at least one 1.
        estimate: the mean average precision of all pictures, each counted once.

    Returns:
        The ends, in [0, 1].
    """
    count = len(logits)
    draw = np.random.default_rng(0)
    part = max(1, _AT_ONCE // count)
    means: list[float] = []
    for first in range(0, _RESAMPLES, part):
        size = min(part, _RESAMPLES - first)
        weights = draw.multinomial(count, np.full(count, 1 / count), size=size)
        weights = np.ascontiguousarray(weights.T, dtype=np.int32)
        areas = [
            weighted_average_precision(scores, own, weights)
            for scores, own in zip(logits.T, labels.T, strict=True)
            if own.any()
        ]
        stacked = np.ma.masked_invalid(areas)  # nothing is left of a class in a resample
        means += np.ma.mean(stacked, axis=0).compressed().tolist()
    bias = math.fsum(means) / len(means) - estimate
    low, high = (np.percentile(means, [2.5, 97.5]) - bias).clip(0, 1).tolist()
    return min(low, estimate), max(high, estimate)  # by rounding, where all resamples are the same


def weighted_average_precision(
    scores: FloatArray, labels: IntArray, weights: IntArray
) -> npt.NDArray[np.float64]:
    """(R,) average precisions of one class, its pictures counted by R sets of weights.

    Args:
        scores: (N,); equal ones stand together, as one threshold parts none of them.
        labels: (N,), 0 or 1.
        weights: (N, R); NaN is the result where no picture of the class has weight.
    """
    order = np.argsort(-scores, kind="stable")
    weights = weights[order]
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # of those that are equal
    own = np.flatnonzero(labels[order])
    ends = last[np.searchsorted(last, own)]
    called = np.cumsum(weights, axis=0, dtype=np.int32)[ends]
    found = np.cumsum(weights[own], axis=0)[np.searchsorted(own, ends, side="right") - 1]
    total = weights[own].sum(axis=0)
    areas = (weights[own] * found / np.maximum(called, 1)).sum(axis=0)
    return np.asarray(areas / np.where(total > 0, total, np.nan), dtype=np.float64)


def _binary_cross_entropy(logits: FloatArray, labels: IntArray) -> float:
    outputs = torch.from_numpy(logits.astype(np.float64))
    targets = torch.from_numpy(labels.astype(np.float64))
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs, targets, reduction="none"
    )
    return float(losses.sum(dim=1).mean())
