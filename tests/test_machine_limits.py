import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tiny_models import TINY
from vit_lightning.machine_limits import (
    matrix_limit,
    matrix_rate,
    matrix_shapes,
    memory_bandwidth,
)
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer


@pytest.mark.parametrize("config", [TINY, TINY.replace(patch_size=(4, 8), pool="gap")])
def test_shapes_are_those_of_the_dense_layers(config: ViTConfig) -> None:
    model = VisionTransformer(config).eval()
    pictures = torch.rand(3, config.in_channels, *config.image_size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.forward_features(pictures)
    counts = counter.get_flop_counts()["Global"]
    dense = counts[torch.ops.aten.addmm]
    shapes = matrix_shapes(config, 3)
    assert sum(2 * rows * ins * outs * n for (rows, ins, outs), n in shapes.items()) == dense


def test_every_rate_is_of_a_known_way() -> None:
    shapes = [(7, 16, 32), (64, 8, 8)]
    rates = matrix_rate(shapes, torch.float32, repeats=2)
    assert list(rates) == shapes
    for way, rate in rates.values():
        assert way in {"linear", "addmm", "oneDNN, packed"}
        assert 1e5 < rate < 1e16
    assert 1e6 < memory_bandwidth(repeats=1) < 1e14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_limit_of_a_model(dtype: torch.dtype) -> None:
    limit = matrix_limit(TINY, 2, dtype, repeats=1)
    assert limit.shapes == matrix_shapes(TINY, 2)
    assert limit.seconds("training") == 3 * limit.seconds()
    assert limit.rate * limit.seconds() == pytest.approx(limit.operations)
    slowest, fastest = (choose(rate for _, rate in limit.rates.values()) for choose in (min, max))
    assert slowest <= limit.rate <= fastest
    told = limit.to_dict()
    assert [layer["shape"] for layer in told["layers"]] == [list(shape) for shape in limit.shapes]
    assert told["gflop_a_second"] == round(limit.rate / 1e9, 1)
