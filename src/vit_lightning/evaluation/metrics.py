"""What an evaluation measures, from the logits and labels of a whole split."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vit_lightning.errors import InputError

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ClassMetrics:
    """One class against the rest.

    Args:
        name: the class.
        support: pictures of it.
        precision: share of those called so that are so; None if none was called so.
        recall: share of its pictures called so; None without pictures.
        f1: harmonic mean of both; None if it neither occurs nor was predicted.
    """

    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Metrics:
    """The figures of one evaluation; all shares are in [0, 1].

    Args:
        num_images: pictures evaluated.
        loss: mean cross-entropy in nats.
        top1: share of pictures whose label has the largest logit.
        top1_interval: Wilson's 95 % interval of ``top1``: what the number of pictures allows.
        top5: share whose label is among the five largest logits; None with five classes or
            fewer, where it would always be 1.
        macro_f1: mean F1 over the classes that have pictures.
        roc_auc: mean of ``roc_auc_per_class`` over the classes that have one; None if none has.
        roc_auc_per_class: area under the curve of each class against the rest; None without
            pictures of the class or of any other.
        roc_auc_note: why areas are missing; None if none is.
        per_class: precision, recall and F1, in the order of the classes.
        confusion: pictures by label (row) and prediction (column).
    """

    num_images: int
    loss: float
    top1: float
    top1_interval: tuple[float, float]
    top5: float | None
    macro_f1: float
    roc_auc: float | None
    roc_auc_per_class: tuple[float | None, ...]
    roc_auc_note: str | None
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def score(self) -> float:
        """What models are chosen by."""
        return self.top1

    def headlines(self) -> dict[str, Any]:
        """The figures that a run's result keeps; plain JSON types."""
        return {
            "num_images": self.num_images,
            "top1": self.top1,
            "top1_interval": list(self.top1_interval),
            "loss": self.loss,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; what is undefined is None, nothing is NaN."""
        values = asdict(self)
        values["top1_interval"] = list(self.top1_interval)
        values["roc_auc_per_class"] = list(self.roc_auc_per_class)
        values["per_class"] = list(values["per_class"])
        values["confusion"] = [list(row) for row in self.confusion]
        return values


def compute_metrics(logits: FloatArray, labels: IntArray, classes: Sequence[str]) -> Metrics:
    """Measure a classifier.

    Equal logits rank in the order of the classes, so that a model that says nothing does not
    count as right about everything.

    Args:
        logits: (N, C), one row a picture.
        labels: (N,), the true classes as indices.
        classes: C names.

    Raises:
        InputError: no pictures, shapes or labels that do not fit, or logits that are not finite.
    """
    _check_outputs(logits, labels, classes)
    num_images, num_classes = logits.shape
    ranks = _label_ranks(logits, labels)
    correct = int((ranks == 0).sum())
    counts = _confusion(logits, labels)
    per_class = class_metrics(classes, counts.sum(axis=1), counts.sum(axis=0), counts.diagonal())
    areas, note = _roc_areas(softmax(logits), labels)
    defined = [area for area in areas if area is not None]
    return Metrics(
        num_images=num_images,
        loss=_cross_entropy(logits, labels),
        top1=correct / num_images,
        top1_interval=wilson_interval(correct, num_images),
        top5=float((ranks < 5).mean()) if num_classes > 5 else None,
        macro_f1=math.fsum(row.f1 or 0.0 for row in per_class if row.support)
        / sum(1 for row in per_class if row.support),
        roc_auc=math.fsum(defined) / len(defined) if defined else None,
        roc_auc_per_class=areas,
        roc_auc_note=note,
        per_class=per_class,
        confusion=tuple(tuple(row) for row in counts.tolist()),
    )


def wilson_interval(successes: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), at 95 % by default.

    Unlike p ± z·√(p(1−p)/n) it stays inside [0, 1] and keeps a width at 0 and at 1.

    Args:
        successes: in 0..total.
        total: at least 1.
        z: the normal quantile of the confidence asked for.
    """
    share = successes / total
    scale = 1.0 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == total else centre + half
    return low, high


def softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    """(N, C) logits → (N, C) probabilities, in float64."""
    return torch.from_numpy(logits.astype(np.float64)).softmax(dim=1).numpy()


def _check_outputs(logits: FloatArray, labels: IntArray, classes: Sequence[str]) -> None:
    """Refuse what cannot be measured; see :func:`compute_metrics`."""
    check_logits(logits, classes)
    num_images, num_classes = logits.shape
    if labels.shape != (num_images,):
        raise InputError(f"{num_images} rows of logits, but labels of shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(
            f"labels must lie in 0..{num_classes - 1}, got {labels.min()}..{labels.max()}"
        )


def check_logits(logits: FloatArray, classes: Sequence[str]) -> None:
    """Refuse outputs that cannot be measured.

    Raises:
        InputError: no pictures, not one row each of as many logits as classes, or not finite.
    """
    if logits.ndim != 2:
        raise InputError(
            f"evaluation needs one row of logits a picture, got an array of shape {logits.shape}; "
            f'a model with pool "none" answers for every token and cannot be evaluated so'
        )
    num_images, num_classes = logits.shape
    if num_images == 0:
        raise InputError("there are no pictures to evaluate")
    if len(classes) != num_classes:
        raise InputError(
            f"the model tells {num_classes} classes apart, but the data has {len(classes)}: "
            f"evaluate on the data set it was trained on, or train a new head for this one"
        )
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        raise InputError(
            f"the model's outputs are not finite for {int(bad.sum())} of {num_images} pictures "
            f"(the first is number {int(bad.argmax()) + 1}): if it was evaluated in 16 bits, "
            f"evaluate in 32 (precision 32); otherwise training diverged: take an earlier "
            f"checkpoint, or train with a smaller learning rate"
        )


def _label_ranks(logits: FloatArray, labels: IntArray) -> IntArray:
    """(N,): how many classes stand before the label; 0 is a right answer."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = np.arange(logits.shape[1]) < labels[:, None]
    ranks: IntArray = np.count_nonzero((logits > own) | ((logits == own) & before), axis=1)
    return ranks


def _cross_entropy(logits: FloatArray, labels: IntArray) -> float:
    outputs = torch.from_numpy(logits.astype(np.float64))
    targets = torch.from_numpy(labels.astype(np.int64))
    return float(torch.nn.functional.cross_entropy(outputs, targets))


def class_metrics(
    classes: Sequence[str], support: IntArray, called: IntArray, right: IntArray
) -> tuple[ClassMetrics, ...]:
    """Precision, recall and F1 of each class, from (C,) counts.

    Args:
        classes: C names.
        support: pictures of the class.
        called: pictures that were called so.
        right: pictures of the class that were called so.
    """
    return tuple(
        ClassMetrics(name, n, _share(hits, guesses), _share(hits, n), _share(2 * hits, n + guesses))
        for name, n, guesses, hits in zip(
            classes, support.tolist(), called.tolist(), right.tolist(), strict=True
        )
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _confusion(logits: FloatArray, labels: IntArray) -> IntArray:
    """(C, C) pictures by label and prediction."""
    num_classes = logits.shape[1]
    cells = labels.astype(np.int64) * num_classes + logits.argmax(axis=1)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _roc_areas(
    probabilities: FloatArray, labels: IntArray
) -> tuple[tuple[float | None, ...], str | None]:
    """The area of each class against the rest, and why some have none."""
    from sklearn.metrics import roc_auc_score  # takes a sixth of a second to import

    support = np.bincount(labels, minlength=probabilities.shape[1])
    if support.max() == len(labels):
        return (None,) * len(support), "undefined: all pictures are of one class"
    areas = tuple(
        float(roc_auc_score(labels == index, probabilities[:, index])) if count else None
        for index, count in enumerate(support)
    )
    absent = int((support == 0).sum())
    if not absent:
        return areas, None
    return areas, f"without {absent} of {len(support)} classes, which have no pictures"
