"""Dense layers by oneDNN compute what torch's do, forwards and backwards."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vit_lightning import onednn
from vit_lightning.dense import OneDNNLinear, computed_by_onednn
from vit_lightning.errors import InputError

SHAPES = [(6, 32, 48), (2, 5, 32, 48), (32, 48), (1, 7, 3), (0, 4, 8, 8)]
ACTIVATIONS: dict[onednn.Activation | None, Callable[[Tensor], Tensor]] = {
    None: lambda y: y,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
}


@pytest.fixture(params=["as it is", "without the operators"])
def _operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without the operators":
        monkeypatch.setattr(onednn, "_ARGUMENTS", {"_no_such_operator": []})
        assert not onednn.available()


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _layer(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(_random(outputs, inputs, seed=1))
        if bias:
            layer.bias.copy_(_random(outputs, seed=2))
    return layer


@pytest.mark.usefixtures("_operators")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_torch(
    shape: tuple[int, ...], bias: bool, activation: onednn.Activation | None
) -> None:
    *leading, inputs, outputs = shape
    x, layer = _random(*leading, inputs), _layer(inputs, outputs, bias=bias)
    with torch.inference_mode():
        expected = ACTIVATIONS[activation](layer(x))
        plain = onednn.linear(x, layer.weight, layer.bias, activation)
        pack = onednn.Pack(layer.weight, layer.bias, rows=9)
        torch.testing.assert_close(plain, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pack.linear(x, activation), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("_operators")
def test_a_pack_is_a_copy() -> None:
    layer, x = _layer(8, 8), _random(3, 8)
    pack = onednn.Pack(layer.weight, layer.bias, rows=3)
    before = pack.linear(x)
    layer.weight.data.zero_()
    layer.bias.data.zero_()
    assert torch.equal(pack.linear(x), before)
    assert copy.deepcopy(pack) is pack
    with pytest.raises(InputError, match="pickle or save the model"):
        pickle.dumps(pack)


def test_a_pack_computes_in_its_own_type() -> None:
    layer, x = _layer(32, 16), _random(3, 32)
    pack = onednn.Pack(layer.weight, layer.bias, rows=3, dtype=torch.bfloat16)
    found = pack.linear(x)
    assert found.dtype == torch.bfloat16
    expected = F.linear(x.bfloat16().float(), layer.weight.bfloat16().float(), layer.bias)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    exact = onednn.Pack(layer.weight, layer.bias, rows=3)
    with torch.autocast("cpu", torch.bfloat16):
        assert exact.linear(x.bfloat16()).dtype == torch.float32


def test_types_without_a_kernel_are_left_to_torch() -> None:
    assert not onednn.available(torch.float64)
    layer, x = _layer(8, 4).double(), _random(3, 8).double()
    pack = onednn.Pack(layer.weight, layer.bias, rows=3)
    torch.testing.assert_close(pack.linear(x), layer(x).detach(), rtol=0, atol=1e-12)


def test_operators_that_take_other_arguments_are_not_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = onednn._ARGUMENTS | {"_linear_pointwise": ["X", "W", "B", "scale"]}
    monkeypatch.setattr(onednn, "_ARGUMENTS", changed)
    assert not onednn.available()


# In training


def _gradients(layer: nn.Linear, x: Tensor) -> list[Tensor | None]:
    """Output and gradients; the gradient that comes in is not contiguous."""
    for tensor in (x, *layer.parameters()):
        tensor.grad = None
    y = layer(x)
    if y.requires_grad:
        weights = _random(*y.shape[::-1], seed=3).permute(*reversed(range(y.ndim)))
        y.backward(weights)
    return [y.detach(), x.grad, layer.weight.grad, None if layer.bias is None else layer.bias.grad]


def _assert_same(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("_operators")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_torch(shape: tuple[int, ...], bias: bool) -> None:
    *leading, inputs, outputs = shape
    x, layer = _random(*leading, inputs).requires_grad_(), _layer(inputs, outputs, bias=bias)
    expected = _gradients(layer, x)
    with computed_by_onednn(layer):
        assert type(layer) is OneDNNLinear
        _assert_same(_gradients(layer, x), expected)
    assert type(layer) is nn.Linear


@pytest.mark.parametrize("wanted", range(8))
def test_any_of_the_tensors_may_need_no_gradient(wanted: int) -> None:
    x, layer = _random(6, 32), _layer(32, 16)
    for bit, tensor in enumerate((x, layer.weight, layer.bias)):
        tensor.requires_grad_(bool(wanted >> bit & 1))
    expected = _gradients(layer, x)
    with computed_by_onednn(layer):
        _assert_same(_gradients(layer, x), expected)


def test_a_whole_network_learns_the_same() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
    x = _random(10, 32).requires_grad_()

    def step() -> list[Tensor]:
        network.zero_grad()
        checkpoint(network, x, use_reentrant=False).square().mean().backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    expected = step()
    with computed_by_onednn(network):
        found = step()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_changed_weights_are_seen() -> None:
    x, layer = _random(6, 32), _layer(32, 16)
    with computed_by_onednn(layer):
        layer.weight.data.copy_(_random(16, 32, seed=5))
        found = layer(x)
    torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-5)


def test_under_autocast_and_in_other_types_it_is_the_base() -> None:
    x, layer = _random(6, 32), _layer(32, 16)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        with computed_by_onednn(layer):
            assert torch.equal(layer(x), expected)
    assert expected.dtype == torch.bfloat16
    layer.double()
    with computed_by_onednn(layer):
        assert torch.equal(layer(x.double()), F.linear(x.double(), layer.weight, layer.bias))


def test_a_gradient_of_the_gradient_is_refused() -> None:
    x, layer = _random(6, 32).requires_grad_(), _layer(32, 16)
    with computed_by_onednn(layer):
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()


def test_the_class_alone_changes() -> None:
    network = nn.Sequential(_layer(8, 8), nn.Bilinear(2, 2, 2))
    parameters, keys = list(network.parameters()), list(network.state_dict())
    with computed_by_onednn(network):
        assert type(network[0]) is OneDNNLinear
        assert [id(one) for one in network.parameters()] == [id(one) for one in parameters]
        assert list(network.state_dict()) == keys
        copied = pickle.loads(pickle.dumps(copy.deepcopy(network)))  # noqa: S301
        assert type(copied[0]) is OneDNNLinear
        assert torch.equal(copied[0].weight, network[0].weight)
    assert type(network[0]) is nn.Linear


def test_it_is_a_plain_layer_again_after_an_error() -> None:
    layer = _layer(8, 8)
    with pytest.raises(RuntimeError), computed_by_onednn(layer):
        layer(_random(2, 7))
    assert type(layer) is nn.Linear
