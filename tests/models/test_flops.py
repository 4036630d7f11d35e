import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tiny_models import TINY
from vit_lightning.factory import skeleton
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.flops import count_flops
from vit_lightning.models.presets import PRESETS, preset


def counted(config: ViTConfig) -> int:
    """By torch, of a model without numbers."""
    model = skeleton(config).eval()
    picture = torch.empty(1, config.in_channels, *config.image_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.forward_head(model.forward_features(picture))
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", ["ViT-Ti_16", "ViT-B_32", "R+ViT-Ti_16", "R26+ViT-S_32"])
def test_operations_are_those_that_torch_counts(name: str) -> None:
    assert name in PRESETS
    assert count_flops(preset(name)) == counted(preset(name))


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": (16, 24), "num_classes": 0},
        {"image_size": (35, 50), "patch_size": (8, 4), "pool": "none"},
        {"pool": "gap", "class_token": False, "representation_size": 7, "in_channels": 1},
    ],
)
def test_unusual_shapes(changes: dict[str, object]) -> None:
    config = TINY.replace(**changes)
    assert count_flops(config) == counted(config)


def test_odd_sizes_of_hybrids() -> None:
    config = preset("R26+ViT-S_32").replace(image_size=(225, 353))
    assert count_flops(config) == counted(config)


def test_published_operations() -> None:
    """DeiT (Touvron et al. 2021) gives 17.6 and 4.6 G multiply-adds for these two."""
    assert count_flops(preset("ViT-B_16")) / 2e9 == pytest.approx(17.56, abs=0.02)
    assert count_flops(preset("ViT-S_16")) / 2e9 == pytest.approx(4.6, abs=0.05)
