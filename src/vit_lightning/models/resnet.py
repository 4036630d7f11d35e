"""The convolutional stem of the hybrids (BiT's ResNet; original ``models_resnet.py``).

Shapes: B batch, C channels, H and W in pixels of the current resolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_lightning.models.config import ResNetConfig

_NUM_GROUPS = 32


def pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad as TensorFlow's "SAME" does: output is ceil(size / stride), the odd pixel goes last."""
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value) if any(pads) else x


class StdConv2d(nn.Conv2d):
    """A convolution without bias whose filters are standardised (Qiao et al. 2019)."""

    def __init__(
        self,
        config: ResNetConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=False)
        self.weight_eps = config.weight_eps
        self.eps_under_root = config.eps_under_root

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', ceil(H / stride), ceil(W / stride))."""
        if self.eps_under_root:
            var, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
            scale = (var + self.weight_eps).sqrt()
        else:
            std, mean = torch.std_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
            scale = std + self.weight_eps
        weight = (self.weight - mean) / scale
        x = pad_same(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, weight, stride=self.stride)


def _group_norm(config: ResNetConfig, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_NUM_GROUPS, channels, eps=config.norm_eps)


class Stem(nn.Module):
    """7 x 7 convolution, GroupNorm, ReLU and a 3 x 3 max-pool: a quarter of the resolution."""

    def __init__(self, config: ResNetConfig, in_channels: int):
        super().__init__()
        self.conv = StdConv2d(config, in_channels, config.width, 7, stride=2)
        self.norm = _group_norm(config, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, width, H/4, W/4)."""
        x = F.relu(self.norm(self.conv(x)))
        return F.max_pool2d(pad_same(x, 3, 2, value=float("-inf")), 3, stride=2)


class Downsample(nn.Module):
    """The projection on a unit's shortcut."""

    def __init__(self, config: ResNetConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv = StdConv2d(config, in_channels, out_channels, 1, stride)
        self.norm = _group_norm(config, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', H/stride, W/stride)."""
        return self.norm(self.conv(x))  # type: ignore[no-any-return]


class ResidualUnit(nn.Module):
    """A bottleneck of 1 x 1, 3 x 3 and 1 x 1 convolutions around a shortcut."""

    def __init__(self, config: ResNetConfig, in_channels: int, features: int, stride: int):
        super().__init__()
        out_channels = features * 4
        self.downsample: nn.Module = nn.Identity()
        if in_channels != out_channels or stride != 1:
            self.downsample = Downsample(config, in_channels, out_channels, stride)
        self.conv1 = StdConv2d(config, in_channels, features, 1)
        self.norm1 = _group_norm(config, features)
        self.conv2 = StdConv2d(config, features, features, 3, stride)
        self.norm2 = _group_norm(config, features)
        self.conv3 = StdConv2d(config, features, out_channels, 1)
        self.norm3 = _group_norm(config, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, features * 4, H/stride, W/stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return F.relu(self.downsample(x) + y)


class Stage(nn.Module):
    """Residual units at one resolution; the first may halve it."""

    def __init__(
        self, config: ResNetConfig, in_channels: int, features: int, depth: int, stride: int
    ):
        super().__init__()
        units = [ResidualUnit(config, in_channels, features, stride)]
        units += [ResidualUnit(config, features * 4, features, 1) for _ in range(depth - 1)]
        self.blocks = nn.Sequential(*units)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, features * 4, H/stride, W/stride)."""
        return self.blocks(x)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """Root block and stages, the picture's way to the patch embedding of a hybrid."""

    def __init__(self, config: ResNetConfig, in_channels: int):
        super().__init__()
        self.stem = Stem(config, in_channels)
        stages, channels = [], config.width
        for i, depth in enumerate(config.stage_depths):
            features = config.width * 2**i
            stages.append(Stage(config, channels, features, depth, stride=1 if i == 0 else 2))
            channels = features * 4
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H/2^n, W/2^n), n = ``num_halvings``."""
        return self.stages(self.stem(x))  # type: ignore[no-any-return]
