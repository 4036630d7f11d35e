"""The hybrid's stem, where the reference's end-to-end arrays do not reach."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vit_lightning.models.config import ResNetConfig
from vit_lightning.models.resnet import ResNet, StdConv2d, pad_same


@pytest.mark.parametrize("size", [7, 8, 9, 224])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (1, 2), (1, 1)])
def test_same_padding_gives_the_ceiling_and_puts_the_odd_pixel_last(
    size: int, kernel: int, stride: int
) -> None:
    padded = pad_same(torch.ones(1, 1, size, size), kernel, stride)
    windows = F.unfold(padded, kernel, stride=stride).shape[-1]
    assert windows == (-(-size // stride)) ** 2
    before, after = (
        int((padded[0, 0, size // 2] == 0)[part].sum())
        for part in (slice(None, padded.shape[-1] // 2), slice(padded.shape[-1] // 2, None))
    )
    assert after - before in (0, 1)


def test_filters_are_standardised() -> None:
    torch.manual_seed(0)
    conv = StdConv2d(ResNetConfig(()), 4, 6, 3)
    x = torch.rand(2, 4, 8, 8)
    expected = conv(x)
    with torch.no_grad():
        conv.weight.mul_(3).add_(2)  # scale and offset of a filter are taken out again
    torch.testing.assert_close(conv(x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stages", [(), (1,), (2, 1), (1, 1, 1)])
def test_output_is_what_the_configuration_says(stages: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    config = ResNetConfig(stages, width=32)
    out = ResNet(config, in_channels=2)(torch.rand(1, 2, 50, 70))
    height, width = 50, 70
    for _ in range(config.num_halvings):
        height, width = -(-height // 2), -(-width // 2)
    assert out.shape == (1, config.out_channels, height, width)


@pytest.mark.parametrize("eps_under_root", [False, True])
def test_epsilons_stand_where_the_configuration_says(eps_under_root: bool) -> None:
    """In the original beside the deviation, in timm under the root; a plain filter shows both."""
    torch.manual_seed(0)
    config = ResNetConfig((), 32, 1e-3, 1e-2, eps_under_root)
    stem = ResNet(config, in_channels=2).stem
    with torch.no_grad():
        stem.conv.weight.normal_(std=1e-2)
        x = torch.rand(1, 2, 16, 16)
        found = stem.conv(x)
        weight = stem.conv.weight.double()
        deviation = weight.std(dim=(1, 2, 3), correction=0, keepdim=True)
        scale = (deviation.square() + 1e-2).sqrt() if eps_under_root else deviation + 1e-2
        weight = (weight - weight.mean(dim=(1, 2, 3), keepdim=True)) / scale
        expected = F.conv2d(pad_same(x.double(), 7, 2), weight, stride=2)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_every_norm_has_the_epsilon_of_the_configuration() -> None:
    model = ResNet(ResNetConfig((1, 2), 32, norm_eps=1e-3), in_channels=3)
    epsilons = [module.eps for module in model.modules() if isinstance(module, nn.GroupNorm)]
    assert epsilons == [1e-3] * (1 + 4 + 4 + 3)
