"""Attention maps and rollout against the original's probabilities."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vit_lightning.attention import attention_maps, attention_rollout
from vit_lightning.errors import InputError
from vit_lightning.factory import load_model
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.models.vit import VisionTransformer

REFERENCE = Path(__file__).parent / "reference"
# What the arrays of the weights cannot tell.
EXTRA = {
    "vit_nonsquare_small": {"image_size": (24, 40)},
    "vit_token_unpooled_small": {"image_size": 36, "pool": "none"},
}
NAMES = [
    "vit_token_small",
    "vit_prelogits_small",
    "vit_gap_small",
    "vit_nonsquare_small",
    "vit_token_unpooled_small",
    "hybrid_small",
    "hybrid_no_stage",
]


def reference(name: str) -> tuple[VisionTransformer, torch.Tensor, np.ndarray]:
    model = load_model(REFERENCE / f"{name}.npz", **EXTRA.get(name, {}))
    with np.load(REFERENCE / f"{name}.io.npz") as arrays:
        images = torch.from_numpy(arrays["input"]).permute(0, 3, 1, 2).contiguous()
        return model, images, arrays["attention_probs"]


def tiny(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    values = {"image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
    return VisionTransformer(ViTConfig(**{**values, "mlp_dim": 32, "num_classes": 3, **changes}))


def pictures(count: int = 2, size: tuple[int, int] = (16, 16)) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_the_originals(name: str) -> None:
    model, images, expected = reference(name)
    maps = attention_maps(model, images)
    assert maps.shape == expected.shape
    bound = 1e-4 if name == "hybrid_small" else 1e-5
    assert np.abs(maps.numpy() - expected).max() <= bound


@pytest.mark.parametrize("name", NAMES)
def test_rollout_is_the_product_of_the_originals_probabilities(name: str) -> None:
    model, images, probabilities = reference(name)
    flow = np.eye(probabilities.shape[-1])
    for layer in probabilities.astype(np.float64):
        mixing = layer.mean(axis=1) + np.eye(layer.shape[-1])
        flow = mixing / mixing.sum(axis=-1, keepdims=True) @ flow
    prefix = 0 if name == "vit_gap_small" else 1
    row = flow[:, 0, 1:] if prefix else flow.mean(axis=1)
    expected = row / row.max(axis=1, keepdims=True)
    rollout = attention_rollout(model, images)
    assert rollout.shape == (len(images), *model.config.grid_size)
    bound = 1e-4 if name == "hybrid_small" else 1e-5
    assert np.abs(rollout.flatten(1).numpy() - expected).max() <= bound


def test_rollout_rows_run_down_the_picture() -> None:
    """With attention to one patch alone, the map's peak lies where that patch does."""
    model = tiny(image_size=(12, 20), depth=1)
    attention = model.blocks[0].attn
    with torch.no_grad():
        model.pos_embed.zero_()
        model.pos_embed[0, 1 + 2 * 5 + 3] = torch.randn(16) * 10  # row 2, column 3 of 3 x 5
        model.patch_embed.proj.weight.zero_()
        model.cls_token.copy_(model.pos_embed[:, 1 + 2 * 5 + 3])
        attention.qkv.weight[:32] = torch.eye(16).repeat(2, 1)  # key and query are the input
    rollout = attention_rollout(model, pictures(1, (12, 20)))[0]
    assert rollout.shape == (3, 5)
    assert divmod(int(rollout.argmax()), 5) == (2, 3)


def test_mean_over_patches_with_gap_and_class_token() -> None:
    model = tiny(pool="gap", class_token=True)
    flow = torch.eye(17).double()
    for layer in attention_maps(model, pictures(1))[:, 0].double():
        flow = (layer.mean(0) + torch.eye(17)) / 2 @ flow
    expected = flow[1:, 1:].mean(0)
    rollout = attention_rollout(model, pictures(1)).flatten()
    torch.testing.assert_close(rollout.double(), expected / expected.max(), atol=1e-6, rtol=0)


def test_hybrid_with_a_picture_that_is_not_square() -> None:
    model = tiny(image_size=(32, 64), patch_size=1, resnet=ResNetConfig((1, 1), width=32))
    rollout = attention_rollout(model, pictures(2, (32, 64)))
    assert rollout.shape == (2, 4, 8)
    assert torch.equal(rollout.flatten(1).amax(1), torch.ones(2))
    assert float(rollout.min()) >= 0


def test_model_is_left_as_it_was() -> None:
    model = tiny(dropout=0.5).train()
    model.norm.eval()  # a frozen part stays so
    modes = [module.training for module in model.modules()]
    images = pictures()
    maps = attention_maps(model, images)
    assert torch.equal(maps, attention_maps(model, images)), "dropout was on"
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not maps.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    before = model(images)
    attention_rollout(model, images)
    assert torch.equal(model(images), before)


def test_hooks_are_gone_after_an_error() -> None:
    model = tiny().train()
    model.blocks[1].mlp.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        attention_rollout(model, pictures())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert model.training
    assert model.blocks[2].attn.training


def test_fused_attention_stays_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fused = F.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(args[0].shape)
        return fused(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    model = tiny()
    attention_rollout(model, pictures())
    attention_maps(model, pictures())
    assert calls == [(2, 2, 17, 8)] * 2 * model.config.depth


def test_probabilities_stay_float32_in_lower_precision() -> None:
    model = tiny()
    exact = attention_maps(model, pictures())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attention_maps(model, pictures())
    half = attention_maps(model.bfloat16(), pictures())
    for maps in (mixed, half):
        assert maps.dtype == torch.float32
        torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, 2, 17), atol=1e-6, rtol=0)
        assert float((maps - exact).abs().max()) < 0.02


def test_wrong_pictures_are_refused() -> None:
    with pytest.raises(InputError, match=r"floating-point.*uint8"):
        attention_rollout(tiny(), torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(InputError, match="resize them"):
        attention_maps(tiny(), pictures(1, (16, 20)))
    with pytest.raises(InputError, match="not finite"):
        attention_rollout(tiny(), pictures() * float("nan"))
