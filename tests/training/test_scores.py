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


def test_the_pictures_of_all_ranks_are_ranked_together() -> None:
    generator = np.random.default_rng(6)
    logits = torch.from_numpy(generator.normal(size=(17, 3)).astype(np.float32))
    targets = torch.from_numpy(generator.integers(0, 2, (17, 3)).astype(np.uint8))
    own, other = slice(0, 17, 2), slice(1, 17, 2)  # nine and eight, as two ranks have them

    def gathered(state: torch.Tensor, group: object = None) -> list[torch.Tensor]:
        return [state, (logits if state.is_floating_point() else targets)[other]]

    metric = MeanAveragePrecision(dist_sync_fn=gathered, distributed_available_fn=lambda: True)
    for part in (slice(0, 4), slice(4, 9)):
        metric.update(logits[own][part], targets[own][part])
    expected = average_precision_score(targets.numpy(), logits.numpy())
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-6)


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
