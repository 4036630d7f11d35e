"""Low-rank updates: of what they are made, what they compute, and how they become weights."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from random_weights import randomise
from vit_lightning.errors import InputError
from vit_lightning.factory import load_model, save_model
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.lora import LoRALinear, add_lora, is_factor, merge_lora, merged_state
from vit_lightning.models.vit import VisionTransformer

CONFIG = ViTConfig(
    image_size=16, patch_size=4, embed_dim=12, depth=2, num_heads=2, mlp_dim=20, num_classes=5
)
ALL = ("qkv", "proj", "fc1", "fc2")


def _model(targets: tuple[str, ...] = ALL, dropout: float = 0.0) -> VisionTransformer:
    """An adapted model, in float64, in which every tensor matters."""
    model = VisionTransformer(CONFIG)
    add_lora(model.blocks, targets, rank=3, alpha=5.0, dropout=dropout)
    randomise(model, seed=7)
    return model.double()


def _pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.rand(2, 3, 16, 16, generator=generator, dtype=torch.float64) * 2 - 1


def test_it_begins_as_the_layer_it_adapts() -> None:
    layer = nn.Linear(7, 4)
    adapted = LoRALinear(layer, rank=2, alpha=8.0)
    x = torch.randn(3, 7)
    assert torch.equal(adapted(x), layer(x))
    assert adapted.weight is layer.weight
    assert adapted.bias is layer.bias
    assert not adapted.lora_b.any()


def test_it_adds_the_scaled_product_of_its_factors() -> None:
    layer = nn.Linear(7, 4)
    adapted = LoRALinear(layer, rank=2, alpha=8.0)
    nn.init.normal_(adapted.lora_b)
    x = torch.randn(3, 7)
    update = 4.0 * x @ adapted.lora_a.T @ adapted.lora_b.T
    torch.testing.assert_close(adapted(x), layer(x) + update)
    torch.testing.assert_close(adapted.part(x, slice(1, 3)), adapted(x)[:, 1:3])


def test_first_values_are_those_of_the_seed_and_within_the_bound() -> None:
    models = [VisionTransformer(CONFIG) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        add_lora(model.blocks, ("qkv", "fc2"), rank=4, alpha=1.0, seed=seed)
    first, again, other = (model.blocks[0].attn.qkv.lora_a for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, models[0].blocks[1].attn.qkv.lora_a)
    for layer, inputs in ((models[0].blocks[0].attn.qkv, 12), (models[0].blocks[0].mlp.fc2, 20)):
        largest = layer.lora_a.abs().max().item()
        assert 0.8 * inputs**-0.5 < largest <= inputs**-0.5


def test_dropout_is_of_the_update_and_in_training_alone() -> None:
    adapted = LoRALinear(nn.Linear(50, 40), rank=2, alpha=1.0, dropout=0.5)
    nn.init.normal_(adapted.lora_b)
    x = torch.ones(1, 50)
    assert not torch.equal(adapted(x), adapted(x))
    adapted.eval()
    assert torch.equal(adapted(x), adapted(x))


@pytest.mark.parametrize("targets", [ALL, ("qkv",), ("proj", "fc1")])
def test_merged_model_computes_the_same(targets: tuple[str, ...]) -> None:
    model, pictures = _model(targets), _pictures()
    plain = copy.deepcopy(model)
    merge_lora(plain)
    assert plain.state_dict().keys() == VisionTransformer(CONFIG).state_dict().keys()
    assert not any(isinstance(module, LoRALinear) for module in plain.modules())
    expected = plain(pictures)
    # The last block computes a part of qkv where the class token alone is read.
    for found in (model(pictures), model.forward_head(model.forward_features(pictures))):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    for layer in (module for module in model.modules() if isinstance(module, LoRALinear)):
        update = copy.deepcopy(layer.lora_b)
        nn.init.zeros_(layer.lora_b)  # no update is without effect on the comparison above
        assert not torch.allclose(model(pictures), expected, rtol=0, atol=1e-6)
        layer.lora_b = update


def test_gradients_of_the_class_token_alone_are_those_of_all_tokens() -> None:
    model, pictures = _model(), _pictures()
    factors = [item for name, item in model.named_parameters() if is_factor(name)]
    assert len(factors) == 2 * 4 * 2
    found = torch.autograd.grad(model(pictures).square().sum(), factors)
    logits = model.forward_head(model.forward_features(pictures))
    expected = torch.autograd.grad(logits.square().sum(), factors)
    for one, other in zip(found, expected, strict=True):
        assert one.abs().max() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_a_state_is_split_and_put_together_bit_for_bit() -> None:
    model = _model(("qkv", "fc2"))
    state = model.state_dict()
    plain, factors = merged_state(model, state)
    assert plain.keys() == VisionTransformer(CONFIG).state_dict().keys()
    assert len(factors) == 2 * 2 * 3
    again = plain | factors
    assert again.keys() == state.keys()
    assert all(again[key] is tensor for key, tensor in state.items())
    qkv = model.blocks[0].attn.qkv
    expected = qkv.weight + 5.0 / 3.0 * qkv.lora_b @ qkv.lora_a
    torch.testing.assert_close(plain["blocks.0.attn.qkv.weight"], expected)


def test_a_plain_model_has_nothing_to_split() -> None:
    model = VisionTransformer(CONFIG)
    state = model.state_dict()
    assert merged_state(model, state) == (dict(state), {})


def test_updates_smaller_than_bfloat16_are_not_lost() -> None:
    model = VisionTransformer(CONFIG).bfloat16()
    add_lora(model.blocks, ["proj"], rank=1, alpha=1.0)
    layer = model.blocks[0].attn.proj
    nn.init.constant_(layer.weight, 1.0)
    nn.init.constant_(layer.lora_a, 2.0**-6)
    nn.init.constant_(layer.lora_b, 2.0**-6)
    plain, _ = merged_state(model, model.state_dict())
    merged = plain["blocks.0.attn.proj.weight"]
    assert merged.dtype == torch.float32
    assert torch.equal(merged, torch.full((12, 12), 1.0 + 2.0**-12))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_model_is_written_merged(tmp_path: Path, suffix: str) -> None:
    model = _model().float().eval()
    save_model(model, tmp_path / f"model{suffix}")
    loaded, pictures = load_model(tmp_path / f"model{suffix}"), _pictures().float()
    torch.testing.assert_close(loaded(pictures), model(pictures), rtol=1e-4, atol=1e-5)
    assert is_factor("blocks.0.attn.qkv.lora_a")
    assert not any(is_factor(key) for key in loaded.state_dict())


@pytest.mark.parametrize(("target", "rank"), [("qkv", 13), ("fc1", 13), ("fc2", 21)])
def test_a_rank_above_that_of_the_layer_is_refused(target: str, rank: int) -> None:
    model = VisionTransformer(CONFIG)
    with pytest.raises(InputError, match=rf"update of {target}.* has at most rank 12, got {rank}"):
        add_lora(model.blocks, [target], rank=rank, alpha=1.0)
