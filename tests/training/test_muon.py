import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.settings import OptimSettings
from vit_lightning.training.muon import hidden_matrices, orthogonalized
from vit_lightning.training.optim import build_optimizer

RECIPE = OptimSettings(name="muon", lr=0.01, weight_decay=0.1)


@pytest.fixture
def model() -> VisionTransformer:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=2, mlp_dim=20, num_classes=3
    )
    return VisionTransformer(config)


def gradients(model: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def nearest_orthogonal(matrix: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


@pytest.mark.parametrize("shape", [(2, 6, 6), (3, 5, 9), (1, 9, 5)])
def test_orthogonalized_is_near_the_nearest_orthogonal_matrix(shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrices = u @ torch.linspace(0.5, 2.0, min(shape[1:])).diag() @ vh
    (result,) = orthogonalized([matrices])
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.65
    assert values.max() < 1.25
    torch.testing.assert_close(nearest_orthogonal(result), u @ vh, atol=1e-4, rtol=0)


def test_stacks_come_back_as_they_were_given() -> None:
    torch.manual_seed(3)
    one, two = torch.randn(1, 4, 4), torch.randn(2, 4, 4)
    together = orthogonalized([one, two])
    assert [len(stack) for stack in together] == [1, 2]
    torch.testing.assert_close(together[1], orthogonalized([two])[0])


def test_the_matrices_of_the_blocks_are_hidden_and_no_other(model: VisionTransformer) -> None:
    hidden = {n: hidden_matrices(n, p) for n, p in model.named_parameters()}
    assert {name: count for name, count in hidden.items() if count} == {
        f"blocks.{block}.{layer}.weight": 3 if layer == "attn.qkv" else 1
        for block in range(2)
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }


def test_a_matrix_moves_as_in_torchs_muon(model: VisionTransformer) -> None:
    mine, theirs = model.blocks[0].mlp.fc1.weight, model.blocks[1].mlp.fc1.weight
    theirs.data.copy_(mine.data)
    optimizer = build_optimizer(model, RECIPE, "32")
    peer = torch.optim.Muon(
        [theirs], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    before = mine.detach().clone()
    for seed in range(3):
        gradients(model, seed)
        theirs.grad, given = None, mine.grad
        optimizer.step()
        theirs.grad = given
        peer.step()
    moved = (mine - before).norm()
    assert (mine - theirs).norm() < 0.02 * moved  # theirs is computed in bfloat16


def test_query_key_and_value_are_matrices_of_their_own(model: VisionTransformer) -> None:
    weight = model.blocks[0].attn.qkv.weight
    optimizer = build_optimizer(model, RECIPE.model_copy(update={"weight_decay": 0.0}), "32")
    before = weight.detach().clone()
    gradients(model)
    optimizer.step()
    for moved in (before - weight.detach()).chunk(3):
        size = 0.01 * 0.2 * 12**0.5
        values = torch.linalg.svdvals(moved) / size
        assert values.max() < 1.3
        assert values.median() > 0.6


def test_everything_else_moves_as_in_adamw(model: VisionTransformer) -> None:
    plain = copy.deepcopy(model)
    adamw = RECIPE.model_copy(update={"name": "adamw"})
    optimizers = build_optimizer(model, RECIPE, "32"), build_optimizer(plain, adamw, "32")
    for seed in range(3):
        for each, optimizer in zip((model, plain), optimizers, strict=True):
            gradients(each, seed)
            optimizer.step()
    others = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        if hidden_matrices(name, parameter):
            assert not torch.equal(parameter, others[name])
        else:
            torch.testing.assert_close(parameter, others[name], msg=name)


def test_a_state_that_was_kept_goes_on_as_if_never_stopped(model: VisionTransformer) -> None:
    other = copy.deepcopy(model)
    straight, stopped = build_optimizer(model, RECIPE, "32"), build_optimizer(other, RECIPE, "32")
    for seed in range(4):
        if seed == 2:
            state = copy.deepcopy(stopped.state_dict())
            stopped = build_optimizer(other, RECIPE, "32")
            stopped.load_state_dict(state)
        for each, optimizer in ((model, straight), (other, stopped)):
            gradients(each, seed)
            optimizer.step()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_what_has_no_gradient_stays_and_keeps_no_state(model: VisionTransformer) -> None:
    optimizer = build_optimizer(model, RECIPE, "32")
    assert isinstance(optimizer, AdamW)
    gradients(model)
    still = model.blocks[0].attn.proj.weight
    still.grad = None
    before = still.detach().clone()
    optimizer.step()
    assert torch.equal(still, before)
    assert still not in optimizer.state
    assert [group["matrices"] for group in optimizer.param_groups] == [0, 1, 3, 0]
