"""How well features tell classes apart, by one method."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_lightning.data.pictures import Labels
from vit_lightning.evaluation.metrics import class_metrics, wilson_interval
from vit_lightning.evaluation.multi_label import compute_multi_label_metrics

_MOST_CONFUSED = 5
_LEAST_SHARE = 1e-6  # of votes, so that their logit is a number


@dataclass(frozen=True)
class Outcome:
    """What one method achieves on ``val``.

    Args:
        method: its name.
        score: top-1, or with several labels the mean average precision; in [0, 1], None if no
            picture has a label.
        interval: 95 %: Wilson's, or by the bootstrap.
        recall: of each class; None for one without pictures in ``val``. With several labels, of
            those called present.
        confused: the pairs confused most often, as (label, prediction, pictures); none with
            several labels.
        seconds: spent on it, once there are features.
    """

    method: str
    score: float | None
    interval: tuple[float, float] | None
    recall: tuple[float | None, ...]
    confused: tuple[tuple[str, str, int], ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        lists = {"interval": None if self.interval is None else list(self.interval)}
        return (
            asdict(self)
            | lists
            | {"recall": list(self.recall)}
            | {"confused": [list(pair) for pair in self.confused]}
        )


def measure_logits(
    method: str,
    logits: NDArray[np.floating[Any]],
    labels: Labels,
    classes: Sequence[str],
    seconds: float,
) -> Outcome:
    """Measure (N, C) logits against (N,) labels, or (N, C) of 0 and 1."""
    if labels.ndim == 2:
        metrics = compute_multi_label_metrics(logits, labels, classes)
        recall = tuple(row.recall for row in metrics.per_class)
        score, interval = metrics.mean_average_precision, metrics.mean_average_precision_interval
        return Outcome(method, score, interval, recall, (), seconds)
    guesses = logits.argmax(axis=1)
    right = guesses == labels
    support, called, hits = (
        np.bincount(own, minlength=len(classes)) for own in (labels, guesses, labels[right])
    )
    per_class = class_metrics(classes, support, called, hits)
    wrong = labels[~right].astype(np.int64) * len(classes) + guesses[~right]
    cells, counts = np.unique(wrong, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:_MOST_CONFUSED]
    confused = tuple(
        (classes[cell // len(classes)], classes[cell % len(classes)], count)
        for cell, count in zip(cells[most].tolist(), counts[most].tolist(), strict=True)
    )
    correct = int(right.sum())
    interval = wilson_interval(correct, len(labels))
    recall = tuple(row.recall for row in per_class)
    return Outcome(method, correct / len(labels), interval, recall, confused, seconds)


def measure_shares(
    method: str,
    shares: NDArray[np.floating[Any]],
    labels: Labels,
    classes: Sequence[str],
    seconds: float,
) -> Outcome:
    """The same for (N, C) shares in [0, 1], of which one half or more calls a class present."""
    inside = shares.astype(np.float64).clip(_LEAST_SHARE, 1 - _LEAST_SHARE)
    return measure_logits(method, np.log(inside / (1 - inside)), labels, classes, seconds)
