"""A step in halves is the same step, up to the order of sums, and the same every time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vit_lightning.errors import InputError
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.lora import add_lora
from vit_lightning.models.merging import merge_tokens
from vit_lightning.models.presets import preset
from vit_lightning.models.recompute import Recomputed
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.training.halves import ForwardInHalves, can_be_halved, repays_halving

CONFIG = ViTConfig(
    image_size=(16, 16),
    patch_size=(4, 4),
    embed_dim=32,
    depth=3,
    num_heads=2,
    mlp_dim=64,
    num_classes=3,
)
CPU = torch.device("cpu")
Forward = Callable[[Tensor], Tensor]


def _model(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(CONFIG.replace(**changes)).train()
    if CONFIG.replace(**changes).num_classes:
        torch.nn.init.normal_(model.head.weight)
    return model


def _pictures(count: int = 7) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def _step(
    forward: Forward, model: VisionTransformer, seed: int = 5, times: int = 1
) -> tuple[Tensor, list[Tensor | None]]:
    """Logits, and the gradients after some micro-batches."""
    torch.manual_seed(seed)
    model.zero_grad()
    for _ in range(times):
        logits = forward(_pictures())
        logits.float().square().sum().backward()
    gradients = [item.grad for item in model.parameters()]
    return logits.detach(), [None if item is None else item.clone() for item in gradients]


def _equal(one: Any, other: Any) -> bool:
    pairs = zip([one[0], *one[1]], [other[0], *other[1]], strict=True)
    return all((a is b) if a is None else torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "changes", [{}, {"pool": "gap"}, {"pool": "none"}, {"class_token": False, "pool": "gap"}]
)
def test_halves_give_what_the_model_gives(changes: dict[str, Any]) -> None:
    model = _model(**changes)
    logits, expected = _step(model, model)
    halved, gradients = _step(ForwardInHalves(model), model)
    torch.testing.assert_close(halved, logits, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(gradients, expected, strict=True):
        assert got is not None
        assert wanted is not None
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("recomputed", ["none", "selective"])
def test_they_do_so_with_low_rank_updates_merged_tokens_and_frozen_layers(
    recomputed: Recomputed,
) -> None:
    model = _model()
    add_lora(model.blocks, ["qkv", "fc2"], rank=2, alpha=2.0)
    model.pos_embed.requires_grad_(False)
    model.activation_checkpointing = recomputed
    merge_tokens(model, 2)
    logits, expected = _step(model, model)
    halved, gradients = _step(ForwardInHalves(model), model)
    torch.testing.assert_close(halved, logits, rtol=1e-5, atol=1e-5)
    assert [item is None for item in gradients] == [item is None for item in expected]
    assert any(item is None for item in gradients)
    for got, wanted in zip(gradients, expected, strict=True):
        if got is not None and wanted is not None:
            assert (got - wanted).abs().max() <= 2e-5 * max(wanted.abs().max(), 1e-3)


def test_they_compute_in_the_precision_of_the_caller() -> None:
    model = _model()

    def mixed(forward: Forward) -> Forward:
        def run(images: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return forward(images)

        return run

    logits, expected = _step(mixed(model), model)
    halved, gradients = _step(mixed(ForwardInHalves(model)), model)
    assert halved.dtype == logits.dtype == torch.bfloat16
    torch.testing.assert_close(halved, logits, rtol=0.02, atol=0.02)
    for got, wanted in zip(gradients, expected, strict=True):
        assert got is not None
        assert wanted is not None
        assert got.dtype == torch.float32
        assert (got - wanted).abs().max() <= 0.05 * wanted.abs().max()


def test_what_they_draw_depends_on_the_seed_alone() -> None:
    model = _model(dropout=0.2, drop_path=0.3)
    add_lora(model.blocks, ["fc1"], rank=2, alpha=2.0, dropout=0.3)
    halves = ForwardInHalves(model)
    first = _step(halves, model, times=2)
    for _ in range(10):
        assert _equal(_step(halves, model, times=2), first)
    assert _equal(_step(ForwardInHalves(model), model, times=2), first)
    assert not torch.equal(_step(halves, model, seed=6)[0], first[0])


def test_halves_draw_apart_and_as_often_as_the_model() -> None:
    """Of features of ones, dropout leaves what its rate says, scaled up, each half its own."""
    model = _model(num_classes=0, pool="none", depth=1, dropout=0.25)
    model.embed = lambda x: model.dropout(torch.ones(len(x), 17, 32))  # type: ignore[method-assign]
    model.blocks, model.norm = torch.nn.ModuleList(), torch.nn.Identity()  # type: ignore[assignment]
    torch.manual_seed(0)
    kept = ForwardInHalves(model)(_pictures(40))
    assert kept.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert (kept > 0).float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert not torch.equal(kept[:20], kept[20:])


def test_outside_of_training_they_draw_nothing() -> None:
    model = _model(dropout=0.2, drop_path=0.3).eval()
    with torch.no_grad():
        logits = ForwardInHalves(model)(_pictures())
        torch.testing.assert_close(logits, model(_pictures()), rtol=1e-5, atol=1e-5)
    assert not logits.requires_grad


def test_one_picture_and_torchs_threads_are_left_alone() -> None:
    model, before = _model(), torch.get_num_threads()
    logits = ForwardInHalves(model)(_pictures(1))
    assert torch.get_num_threads() == before
    assert logits.shape == (1, 3)
    logits.sum().backward()
    assert model.head.weight.grad is not None


def test_an_error_of_a_half_reaches_the_caller() -> None:
    halves = ForwardInHalves(_model())
    with pytest.raises(InputError, match="the model takes pictures of"):
        halves(torch.rand(4, 3, 8, 8))
    assert halves(_pictures()).shape == (7, 3)


@pytest.mark.parametrize(
    ("changes", "recomputed", "possible"),
    [
        ({}, "none", True),
        ({}, "selective", True),
        ({}, "full", False),
        ({"drop_path": 0.1}, "selective", True),
        ({"dropout": 0.1}, "none", True),
        ({"dropout": 0.1}, "selective", False),
        ({"attention_dropout": 0.1}, "none", False),
    ],
)
def test_what_draws_from_torchs_own_generator_is_not_halved(
    changes: dict[str, Any], recomputed: Recomputed, possible: bool
) -> None:
    assert can_be_halved(_model(**changes), recomputed) is possible


@pytest.mark.parametrize(
    ("name", "pictures", "pays"),
    [
        ("ViT-S_16", 8, True),
        ("ViT-S_16", 2, True),
        ("ViT-S_16", 1, False),  # nothing to divide
        ("ViT-Ti_16", 1, False),
        ("ViT-Ti_16", 8, True),
        ("ViT-H_14", 4, False),  # a second set of gradients would be more than what is kept
        ("ViT-H_14", 8, True),
    ],
)
def test_large_steps_on_several_threads_are_halved(
    monkeypatch: pytest.MonkeyPatch, name: str, pictures: int, pays: bool
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    config = preset(name)
    assert repays_halving(config, pictures, CPU) is pays
    assert not repays_halving(config, pictures, torch.device("cuda"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not repays_halving(config, pictures, CPU)
