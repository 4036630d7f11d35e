import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from vit_lightning.training.scores import MeanAveragePrecision, correct


def test_mean_average_precision_is_scikit_learns_over_uneven_batches() -> None:
    generator = np.random.default_rng(5)
    logits = generator.normal(0, 9, (41, 5)).round().astype(np.float32)  # with equal ones
    targets = (generator.random((41, 5)) < 0.3).astype(np.uint8)
    targets[:, 3] = 0  # a class without pictures is left out
    logits[0, 0], logits[1, 0] = 41.0, 42.0  # the float32 sigmoid of both is 1
    metric = MeanAveragePrecision()
    for part in (slice(0, 20), slice(20, 40), slice(40, 41)):
        metric.update(torch.from_numpy(logits[part]), torch.from_numpy(targets[part]))
    expected = average_precision_score(targets[:, [0, 1, 2, 4]], logits[:, [0, 1, 2, 4]])
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-6)
    metric.reset()
    metric.update(torch.zeros(3, 2), torch.zeros(3, 2))
    assert float(metric.compute()) == 0.0


def test_a_picture_is_right() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, -1.0], [-1.0, -2.0]])
    assert correct(logits, torch.tensor([1, 1, 0]), multi_label=False).tolist() == [
        True,
        False,
        True,
    ]
    shares = torch.tensor([[0.4, 0.6], [0.4, 0.6], [0.6, 0.4]])
    assert correct(logits, shares, multi_label=False).tolist() == [True, False, True]
    several = torch.tensor([[1, 1], [1, 1], [0, 0]])
    assert correct(logits, several, multi_label=True).tolist() == [True, False, True]
