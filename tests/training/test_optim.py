from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vit_lightning.settings import OptimSettings
from vit_lightning.training.optim import build_optimizer, default_warmup, learning_rate

REFERENCE = Path(__file__).parents[1] / "reference"
SCHEDULES = np.load(REFERENCE / "lr_schedules.npz")
NAMES = sorted({key.rpartition("/")[0] for key in SCHEDULES.files})


@pytest.mark.parametrize("name", NAMES)
def test_learning_rate_is_the_originals(name: str) -> None:
    decay, base, total, warmup = name.split("_")
    rates = [
        learning_rate(
            int(step),
            base=float(base.removeprefix("base")),
            total_steps=int(total.removeprefix("total")),
            warmup_steps=int(warmup.removeprefix("warmup")),
            decay=decay,
        )
        for step in SCHEDULES[f"{name}/step"]
    ]
    np.testing.assert_allclose(rates, SCHEDULES[f"{name}/lr"], rtol=1e-6, atol=1e-9)


def test_there_are_schedules_of_both_kinds() -> None:
    assert {name.split("_")[0] for name in NAMES} == {"cosine", "linear"}


def test_default_warmup_is_500_but_at_most_a_tenth() -> None:
    assert default_warmup(10_000) == 500
    assert default_warmup(610) == 61
    assert default_warmup(5) == 0


def test_weight_decay_spares_biases_norms_and_tokens() -> None:
    model = nn.Module()
    model.cls_token = nn.Parameter(torch.ones(1, 1, 4))
    model.pos_embed = nn.Parameter(torch.ones(1, 5, 4))
    model.fc = nn.Linear(4, 4)
    model.norm = nn.LayerNorm(4)
    model.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    optimizer = build_optimizer(model, OptimSettings(weight_decay=0.1), precision="bf16-true")
    decayed, spared = optimizer.param_groups
    assert [id(p) for p in decayed["params"]] == [id(model.fc.weight)]
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    assert len(spared["params"]) == 5


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_and_plain_updates_agree(name: str) -> None:
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(7, 3)
        settings = OptimSettings(name=name, lr=0.1, weight_decay=0.05)
        optimizer = build_optimizer(model, settings, precision="32" if fused else "bf16-true")
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 7)).square().sum().backward()
            optimizer.step()
        results.append(model.weight.detach().clone())
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_bfloat16_momentum_uses_the_fresh_sum_and_stores_the_rounded_one() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    model = nn.Module()
    model.weight = parameter
    settings = OptimSettings(lr=1.0, momentum=0.5, momentum_dtype="bfloat16")
    optimizer = build_optimizer(model, settings, precision="bf16-true")
    gradient = 1.0 + 2.0**-12  # bfloat16 has 8 bits: it rounds to 1
    for expected in (-gradient, -2 * gradient - 0.5):
        parameter.grad = torch.full((1,), gradient)
        optimizer.step()
        assert parameter.item() == pytest.approx(expected, abs=1e-7)
    assert optimizer.state[parameter]["momentum_buffer"].dtype == torch.bfloat16
