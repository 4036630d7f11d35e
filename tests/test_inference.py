"""A snapshot for inference computes what its model did, and is never anything else."""

import copy
import io
import pickle
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from tiny_models import HYBRID, TINY, random_model, random_pictures, same_weights
from vit_lightning.errors import InputError
from vit_lightning.inference import InferenceModel, PackedLinear, for_inference
from vit_lightning.models.merging import MergingTransformer, merge_tokens
from vit_lightning.models.vit import VisionTransformer

KINDS = {
    "class token": TINY,
    "mean": TINY.replace(pool="gap", class_token=None),
    "mean beside a class token": TINY.replace(pool="gap", class_token=True),
    "every token": TINY.replace(pool="none"),
    "exact GELU, pre_logits": TINY.replace(activation="gelu", representation_size=16),
    "hybrid": HYBRID,
}


@torch.no_grad()
def _assert_same(snapshot: nn.Module, expected: Tensor, pictures: Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(snapshot(pictures), expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("fuse_gelu", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_the_model_does(kind: str, in_place: bool, fuse_gelu: bool) -> None:
    model, pictures = random_model(KINDS[kind]), random_pictures(KINDS[kind])
    with torch.no_grad():
        expected, tokens = model(pictures), model.forward_features(pictures)
    snapshot = for_inference(model.train(), in_place=in_place, fuse_gelu=fuse_gelu)
    assert (snapshot is model) == in_place
    assert not any(module.training for module in snapshot.modules())
    _assert_same(snapshot, expected, pictures)
    torch.testing.assert_close(snapshot.forward_features(pictures), tokens, rtol=0, atol=3e-5)


def test_packed_layers_have_no_weights() -> None:
    snapshot = for_inference(random_model())
    assert not any(isinstance(module, nn.Linear) for module in snapshot.blocks.modules())
    packed = [module for module in snapshot.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == 4 * TINY.depth + 1  # the last block's queries are apart
    assert not any(hasattr(layer, "weight") or list(layer.parameters()) for layer in packed)


def test_the_model_stays_as_it_was() -> None:
    model, same = random_model().train(), random_model()
    snapshot = for_inference(model)
    assert same_weights(model, same)
    assert type(model) is VisionTransformer
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    shared = {id(parameter) for parameter in model.parameters()}
    assert not shared & {id(parameter) for parameter in snapshot.parameters()}


def _load(model: VisionTransformer) -> None:
    torch.manual_seed(1)
    model.load_state_dict({key: torch.randn_like(t) for key, t in model.state_dict().items()})


def _step(model: VisionTransformer) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    model(random_pictures(TINY)).square().sum().backward()
    optimizer.step()


@torch.no_grad()
def _swap(model: VisionTransformer) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.5


@torch.no_grad()
def _write(model: VisionTransformer) -> None:
    for parameter in model.parameters():
        parameter.data.copy_(torch.full_like(parameter, 0.01))


@pytest.mark.parametrize("change", [_load, _step, _swap, _write])
def test_what_happens_to_the_model_does_not_reach_it(
    change: Callable[[VisionTransformer], None],
) -> None:
    model, pictures = random_model(), random_pictures(TINY)
    snapshot = for_inference(model)
    before = snapshot(pictures)
    change(model)
    assert torch.equal(snapshot(pictures), before)
    with torch.no_grad():
        changed = model(pictures)
    assert not torch.allclose(changed, before, atol=1e-3)
    _assert_same(for_inference(model), changed, pictures)


def test_in_place_no_weight_is_held_twice() -> None:
    model = random_model()
    layers = [layer for layer in model.blocks.modules() if isinstance(layer, nn.Linear)]
    held = [weakref.ref(layer.weight) for layer in layers]
    del layers
    snapshot = for_inference(model, in_place=True)
    assert len(held) == 4 * TINY.depth
    assert snapshot is model
    assert not any(weight() is not None for weight in held)


# How it may be called


@pytest.mark.parametrize("count", [0, 1, 5, 33])
def test_any_number_of_pictures(count: int) -> None:
    model, pictures = random_model(), random_pictures(TINY, count)
    with torch.no_grad():
        expected = model(pictures)
    snapshot = for_inference(model)
    assert snapshot(pictures).shape == (count, TINY.num_classes)
    if count:
        _assert_same(snapshot, expected, pictures)


def test_with_and_without_gradients_of_others() -> None:
    snapshot, pictures = for_inference(random_model()), random_pictures(TINY)
    expected = snapshot(pictures)
    assert not expected.requires_grad
    with torch.no_grad():
        assert torch.equal(snapshot(pictures), expected)
    with torch.inference_mode():
        assert torch.equal(snapshot(pictures), expected)
    asked = pictures.clone().requires_grad_()
    with pytest.raises(InputError, match="computes no gradients"):
        snapshot(asked)
    with torch.no_grad():
        assert torch.equal(snapshot(asked), expected)


def test_made_in_inference_mode_it_works_outside() -> None:
    model, pictures = random_model(), random_pictures(TINY)
    with torch.inference_mode():
        expected, snapshot = model(pictures), for_inference(model)
    _assert_same(snapshot, expected, pictures)


def test_bfloat16_is_mixed_precision() -> None:
    model, pictures = random_model(), random_pictures(TINY)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = model(pictures).float()
        exact = for_inference(model)(pictures).float()
    with torch.inference_mode():
        mixed = for_inference(model, dtype=torch.bfloat16)(pictures)
        whole = for_inference(copy.deepcopy(model).bfloat16())(pictures.bfloat16()).float()
    for found in (exact, mixed, whole):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


def test_several_threads() -> None:
    snapshot, batches = for_inference(random_model()), [random_pictures(TINY, n) for n in (1, 4, 9)]
    expected = [snapshot(pictures) for pictures in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(snapshot, batches * 8))
    for index, logits in enumerate(found):
        torch.testing.assert_close(logits, expected[index % 3], rtol=0, atol=1e-5)


def test_a_copy_is_another_snapshot() -> None:
    snapshot, pictures = for_inference(random_model()), random_pictures(TINY)
    expected = snapshot(pictures)
    copied = copy.deepcopy(snapshot)
    with torch.no_grad():
        copied.pos_embed.zero_()
    assert torch.equal(snapshot(pictures), expected)
    assert not torch.equal(copied(pictures), expected)


def test_a_forward_pass_of_its_own_is_kept() -> None:
    model, pictures = merge_tokens(random_model(), 3), random_pictures(TINY)
    with torch.no_grad():
        expected, plain = model(pictures), random_model()(pictures)
    snapshot = for_inference(model)
    assert isinstance(snapshot, MergingTransformer)
    _assert_same(snapshot, expected, pictures)
    assert not torch.allclose(expected, plain, atol=1e-3)
    with pytest.raises(InputError, match="no weights to save"):
        snapshot.state_dict()


# What is refused


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda model: model.train(), "cannot be trained"),
        (lambda model: nn.Sequential(model).train(), "cannot be trained"),
        (lambda model: model.state_dict(), "no weights to save"),
        (lambda model: nn.Sequential(model).state_dict(), "no weights to save"),
        (lambda model: model.load_state_dict({}), "cannot take other weights"),
        (lambda model: model.double(), "stays on the CPU in torch.float32"),
        (lambda model: model.to("meta"), "stays on the CPU in torch.float32"),
        (lambda model: nn.Sequential(model).bfloat16(), "stays on the CPU in torch.float32"),
        (pickle.dumps, "cannot be pickled"),
        (lambda model: torch.save(model, io.BytesIO()), "cannot be pickled"),
        (for_inference, "a snapshot for inference already"),
    ],
)
def test_what_needs_the_weights_is_refused(
    use: Callable[[InferenceModel], object], message: str
) -> None:
    snapshot, pictures = for_inference(random_model()), random_pictures(TINY)
    expected = snapshot(pictures)
    with pytest.raises(InputError, match=message):
        use(snapshot)
    assert torch.equal(snapshot(pictures), expected)


def test_staying_where_it_is_is_allowed() -> None:
    snapshot = for_inference(random_model())
    assert snapshot.to("cpu").float().eval().cpu() is snapshot


def test_models_that_cannot_be_packed() -> None:
    with pytest.raises(InputError, match="takes a VisionTransformer, got a Sequential"):
        for_inference(nn.Sequential())
    with pytest.raises(InputError, match="the model is on meta"):
        for_inference(random_model().to("meta"))
    adapted = random_model()
    adapted.blocks[1].mlp.fc2 = nn.modules.linear.NonDynamicallyQuantizableLinear(64, 192)
    with pytest.raises(InputError, match=r"blocks\.1\.mlp\.fc2 is a NonDyn.* merge its updates"):
        for_inference(adapted)
    foreign = random_model()
    foreign.blocks[0] = nn.Identity()
    with pytest.raises(InputError, match=r"blocks\.0 is not a plain block"):
        for_inference(foreign)
