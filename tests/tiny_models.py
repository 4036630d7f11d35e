"""Tiny models with random weights, for all who write, read and compare weights."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from random_weights import randomise
from vit_lightning.checkpoints.dialects import Dialect
from vit_lightning.checkpoints.keymap import write_state
from vit_lightning.checkpoints.weights import WeightsFile
from vit_lightning.factory import ModelBundle
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.models.vit import VisionTransformer

# A width that published models have, so that three heads are what it implies.
TINY = ViTConfig(
    image_size=32,
    patch_size=8,
    embed_dim=192,
    depth=2,
    num_heads=3,
    mlp_dim=64,
    num_classes=5,
)
HYBRID = TINY.replace(image_size=64, patch_size=1, resnet=ResNetConfig((2, 1), 32))
ROOT = TINY.replace(image_size=64, patch_size=4, resnet=ResNetConfig((), 32))
EXACT = TINY.replace(activation="gelu")
TIMM_STEM: dict[str, Any] = {"norm_eps": 1e-5, "weight_eps": 1e-8, "eps_under_root": True}
# timm's hybrids, as it computes them.
R_TI = EXACT.replace(image_size=64, resnet=ResNetConfig((), 64, **TIMM_STEM))
R26 = EXACT.replace(image_size=64, patch_size=1, resnet=ResNetConfig((2, 2, 2, 2), 64, **TIMM_STEM))
CLASSES = ("ant", "bee", "cicada", "dragonfly", "earwig 🐛")


def random_model(config: ViTConfig = TINY, **changes: Any) -> VisionTransformer:
    """A model under whose weights every layer matters, in eval mode."""
    model = VisionTransformer(config.replace(**changes)).eval()
    randomise(model, seed=7)
    return model


def bundle_of(
    model: VisionTransformer,
    classes: tuple[str, ...] | None = None,
    preprocessing: dict[str, Any] | None = None,
    origin: dict[str, Any] | None = None,
) -> ModelBundle:
    """A model and what travels with it, as if it had just been made."""
    return ModelBundle(model, classes, preprocessing, origin, None, "config")


def random_pictures(config: ViTConfig, count: int = 2) -> Tensor:
    """Pictures of noise in [-1, 1], as a model of ``config`` takes them."""
    generator = torch.Generator().manual_seed(8)
    shape = (count, config.in_channels, *config.image_size)
    return torch.rand(shape, generator=generator) * 2 - 1


def same_weights(one: VisionTransformer, other: VisionTransformer) -> bool:
    """Whether two models have the same tensors, bit for bit."""
    left, right = one.state_dict(), other.state_dict()
    return set(left) == set(right) and all(torch.equal(t, right[key]) for key, t in left.items())


class Arrays(dict[str, Tensor]):
    """Tensors in memory, as the readers of files hand them out."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Key → shape."""
        return {key: tuple(tensor.shape) for key, tensor in self.items()}


def arrays_of(dialect: Dialect, state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """What a file of this dialect holds; layers that it stacks are stacked."""
    layers: dict[str, list[Tensor]] = {}
    for key, tensor in write_state(dialect.rows, state, TINY.num_heads):
        layers.setdefault(re.sub(r"\[\d+\]$", "[]", key), []).append(tensor.contiguous())
    return {
        prefix + key.removesuffix("[]"): torch.stack(parts) if "[]" in key else parts[0]
        for key, parts in layers.items()
    }


def assert_holds(file: WeightsFile, state: Mapping[str, Tensor]) -> None:
    """That a file has these tensors, bit for bit and in this order."""
    found = file.read({key: tuple(tensor.shape) for key, tensor in state.items()})
    assert list(found) == list(state)
    for key, tensor in state.items():
        assert torch.equal(found[key], tensor), key
