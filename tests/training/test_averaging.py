import pytest
import torch
from torch import nn

from vit_lightning.training.averaging import averaged_copy, update_average


def test_the_average_of_a_moving_weight() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = averaged_copy(model)
    expected = model.weight.item()
    for step in range(1, 6):
        model.weight.data.fill_(float(step))
        update_average(average, model, 0.5, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert average.weight.item() == pytest.approx(expected, rel=1e-6)
    assert not average.weight.requires_grad
    assert model.weight.item() == 5.0  # no memory in common


def test_a_constant_weight_is_its_own_average() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = averaged_copy(model)
    for step in range(1, 4):
        update_average(average, model, 0.999, step)
    torch.testing.assert_close(average.weight, model.weight.detach(), rtol=1e-6, atol=0.0)
