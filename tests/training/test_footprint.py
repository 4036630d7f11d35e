"""What a step of training keeps in memory, against counts by hand."""

import copy
from typing import Any

import pytest
import torch

from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.settings import OptimSettings
from vit_lightning.training.footprint import Footprint, bound_footprint, measure_footprint

DIM, TOKENS, DEPTH = 16, 64, 6
CONFIG = ViTConfig(
    image_size=32,
    patch_size=4,
    embed_dim=DIM,
    depth=DEPTH,
    num_heads=2,
    mlp_dim=4 * DIM,
    num_classes=3,
    class_token=False,
    pool="gap",
)
SGD = OptimSettings()


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(CONFIG).train()


@pytest.mark.parametrize(("recomputed", "kept"), [("none", 16), ("selective", 12), ("full", 1)])
def test_what_blocks_keep_is_counted(model: VisionTransformer, recomputed: Any, kept: int) -> None:
    model.activation_checkpointing = recomputed
    found = measure_footprint(model, SGD, "32").per_picture
    numbers = found / (4 * DIM * TOKENS)
    # Beside the blocks: pixels and patches (3 each, as 48 numbers are 3 channels of 16), embedded
    # patches, the last norm; in the backward pass what one block has at a time.
    beside = {"none": (0, 16), "selective": (0, 20), "full": (12, 30)}[recomputed]
    assert beside[0] <= numbers - kept * DEPTH <= beside[1]


@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_the_bound_is_above_what_is_measured(attention_dropout: float) -> None:
    model = VisionTransformer(CONFIG.replace(attention_dropout=attention_dropout, dropout=0.1))
    bound, found = bound_footprint(model, SGD), measure_footprint(model, SGD, "32")
    assert bound is not None
    assert found.per_picture < bound.per_picture < 4 * found.per_picture
    assert bound.fixed == found.fixed


def test_lower_precision_keeps_less(model: VisionTransformer) -> None:
    model.activation_checkpointing = "none"
    exact, mixed = (measure_footprint(model, SGD, name) for name in ("32", "bf16-mixed"))
    assert 0.5 < mixed.per_picture / exact.per_picture < 0.75
    low = copy.deepcopy(model).bfloat16()
    assert measure_footprint(low, SGD, "bf16-true").fixed == exact.fixed / 2


def test_the_optimizers_state_is_counted(model: VisionTransformer) -> None:
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    sgd = measure_footprint(model, OptimSettings(momentum_dtype="float32"), "32")
    adamw = measure_footprint(model, OptimSettings(name="adamw"), "32")
    assert (sgd.fixed, adamw.fixed) == (2 * weights, 3 * weights)


def test_measuring_leaves_the_model_as_it_was(model: VisionTransformer) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    measure_footprint(model, SGD, "32")
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_pictures_that_fit() -> None:
    assert Footprint(fixed=100, per_picture=10).most_pictures(165) == 6
    assert Footprint(fixed=100, per_picture=10).most_pictures(60) < 1
