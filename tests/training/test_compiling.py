from collections.abc import Callable
from typing import Any

import pytest
import torch

from vit_lightning.errors import InputError
from vit_lightning.machine_limits import MatrixLimit
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.training import compiling
from vit_lightning.training.compiling import CompiledForward, repays_compiling

CONFIG = ViTConfig(
    image_size=(8, 8),
    patch_size=(4, 4),
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_dim=32,
    num_classes=3,
)


def _without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let torch trace the model, and compute what it traced as it is."""
    real, traced = torch.compile, []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        traced.append(graph.print_readable(print_output=False))
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda forward: real(forward, backend=backend))
    return traced


def test_compiled_gradients_are_those_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = _without_a_compiler(monkeypatch)
    torch.manual_seed(0)
    model = VisionTransformer(CONFIG)
    torch.nn.init.normal_(model.head.weight)
    images = torch.rand(2, 3, 8, 8)
    gradients = []
    for forward in (model, CompiledForward(model, fixed=True)):
        model.zero_grad()
        forward(images).square().sum().backward()
        gradients.append({name: value.grad.clone() for name, value in model.named_parameters()})
    assert len(traced) == 1  # one graph, without a break
    assert "scaled_dot_product_attention" in traced[0]
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-5, atol=1e-6)
    assert not [name for name in model.state_dict() if "_orig_mod" in name]


@pytest.mark.parametrize("fixed", [False, True])
def test_where_torch_cannot_compile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fixed: bool
) -> None:
    real = torch.compile

    def backend(*_: Any) -> Any:
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(torch, "compile", lambda forward: real(forward, backend=backend))
    model = VisionTransformer(CONFIG)
    forward, images = CompiledForward(model, fixed=fixed), torch.rand(1, 3, 8, 8)
    if fixed:
        with pytest.raises(InputError, match=r"trainer\.compile: torch cannot compile"):
            forward(images)
        return
    for _ in range(2):
        assert torch.equal(forward(images), model(images))
    assert capsys.readouterr().out.count("goes on without") == 1


@pytest.mark.parametrize(("pictures", "repays"), [(100_000, False), (10_000_000, True)])
def test_compiling_is_for_long_runs_on_gpus(
    monkeypatch: pytest.MonkeyPatch, pictures: int, repays: bool
) -> None:
    limit = MatrixLimit({(1, 1, 1): 1}, {(1, 1, 1): ("", 1e3)})  # 6 ms for each micro-batch
    monkeypatch.setattr(compiling, "matrix_limit", lambda *_, **__: limit)
    for device, expected in (("cuda", repays), ("cpu", False)):
        found = repays_compiling(CONFIG, pictures, 64, torch.bfloat16, torch.device(device))
        assert found is expected
