"""What a validation measures, for one set of weights."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from vit_lightning.training.losses import binary_cross_entropy
from vit_lightning.training.scores import MeanAveragePrecision, correct


class ValidationScores(nn.Module):
    """Loss, accuracy and, with several labels, mean average precision; exact over all ranks.

    Args:
        multi_label: whether a picture has any number of labels instead of one.
    """

    def __init__(self, *, multi_label: bool) -> None:
        super().__init__()
        self.loss = MeanMetric()
        self.accuracy = MeanMetric()
        self.mean_average_precision = MeanAveragePrecision() if multi_label else None

    def update(self, logits: Tensor, labels: Tensor) -> dict[str, Metric]:
        """Add a batch.

        Args:
            logits: (B, classes), float32.
            labels: (B,), or (B, classes) with several labels; B may be 0.

        Returns:
            Name → what holds the sums so far.
        """
        several = self.mean_average_precision
        if several is None:
            losses = F.cross_entropy(logits, labels, reduction="none")
        else:
            losses = binary_cross_entropy(logits, labels.to(logits.dtype))
            several.update(logits, labels)
        right = correct(logits, labels, multi_label=several is not None).float()
        # All pictures of a batch may have been left out. Ranks take part all the same, with none.
        size = len(labels)
        self.accuracy.update(right.sum() / max(size, 1), weight=size)
        self.loss.update(losses.sum() / max(size, 1), weight=size)
        values: dict[str, Metric] = {"loss": self.loss, "accuracy": self.accuracy}
        return values if several is None else values | {"mean_average_precision": several}
