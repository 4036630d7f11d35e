"""Mixup and CutMix of neighbours: drawn on the CPU, done on the device.

Samples 2k and 2k + 1 of the stream make a pair, and each is mixed with the other by the same draw.
So a batch may be cut between any two pairs, for micro-batches or ranks, and nothing changes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_lightning.data.draws import pair_generator
from vit_lightning.data.stream import Sample
from vit_lightning.models.config import Size

_UNMIXED = (1.0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Mixing:
    """How pairs are mixed; where both ways are on, each takes half of them.

    Args:
        mixup: alpha of Mixup (Zhang et al. 2018), 0 is off.
        cutmix: alpha of CutMix (Yun et al. 2019), 0 is off.
        probability: of mixing a pair at all.
    """

    mixup: float
    cutmix: float
    probability: float

    def draw(self, generator: np.random.Generator, image_size: Size) -> NDArray[np.float32]:
        """How one pair is mixed.

        Args:
            generator: source of all randomness.
            image_size: (height, width) in pixels.

        Returns:
            (5,) weight of a picture's own target, then top, left, bottom and right (exclusive) of
            the box that the other picture fills. Without a box the pictures are blended by the
            weight; with one it is the part outside. Not mixed is weight 1 without a box.
        """
        draw: tuple[float, ...] = _UNMIXED
        if (self.mixup or self.cutmix) and generator.random() < self.probability:
            share = 0.5 if self.mixup and self.cutmix else float(self.cutmix > 0)
            if generator.random() < share:
                draw = _cutmix(generator.beta(self.cutmix, self.cutmix), image_size, generator)
            else:
                kept = generator.beta(self.mixup, self.mixup)
                # As big_vision has it: a picture is at least half itself. The two of a pair share
                # the draw, so that only their places would differ without.
                draw = (max(kept, 1 - kept), 0, 0, 0, 0)
        return np.array(draw, dtype=np.float32)


def _cutmix(kept: float, size: Size, generator: np.random.Generator) -> tuple[float, ...]:
    """A box with the picture's aspect ratio around a uniform point, cut off at the edges."""
    height, width = size
    box_height, box_width = (int(side * math.sqrt(1 - kept)) for side in size)
    y, x = (int(generator.integers(side)) for side in size)
    top, left = max(y - box_height // 2, 0), max(x - box_width // 2, 0)
    bottom = min(y - box_height // 2 + box_height, height)
    right = min(x - box_width // 2 + box_width, width)
    if bottom <= top or right <= left:
        return _UNMIXED
    weight = 1 - (bottom - top) * (right - left) / (height * width)
    return weight, top, left, bottom, right


def draw_pairs(
    mixing: Mixing | None, seed: int, samples: Sequence[Sample], image_size: Size
) -> NDArray[np.float32]:
    """(B/2, 5) how the neighbours of a batch are mixed; (0, 5) if they are not."""
    if mixing is None:
        return np.empty((0, 5), dtype=np.float32)
    firsts = [pair_generator(seed, *sample) for sample in samples[::2]]
    return np.stack([mixing.draw(generator, image_size) for generator in firsts])


def mix_pairs(images: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mix samples 2k and 2k + 1, each with the other.

    Blends are computed in float32; dtype and memory format stay as they are, and nothing waits for
    the device.

    Args:
        images: (B, C, H, W), floating point.
        targets: (B, K), floating point.
        draws: (B/2, 5) from ``Mixing.draw``, on the same device.

    Raises:
        ValueError: B is odd, or there is not one draw for each pair.
    """
    if len(images) % 2 or draws.shape != (len(images) // 2, 5):
        raise ValueError(
            f"{len(images)} images and draws of shape {tuple(draws.shape)}: pairs are mixed, by "
            "(B/2, 5) draws"
        )
    height, width = images.shape[-2:]
    own, top, left, bottom, right = draws.float().unbind(1)
    inside = _between(top, bottom, height)[:, :, None] & _between(left, right, width)[:, None]
    boxed = (bottom > top)[:, None, None]
    # 1 and 0 are exact in lerp: outside and inside of a box nothing is rounded.
    weights = torch.where(boxed, (~inside).float(), own[:, None, None])
    return (
        _blend_pairs(images, weights[:, None, None]),
        _blend_pairs(targets, own[:, None, None]),
    )


def _between(first: Tensor, end: Tensor, size: int) -> Tensor:
    """(P,) bounds → (P, size), true from ``first`` to before ``end``."""
    places = torch.arange(size, device=first.device)
    return (places >= first[:, None]) & (places < end[:, None])


def _blend_pairs(values: Tensor, weights: Tensor) -> Tensor:
    """(B, ...) and weights that broadcast with (B/2, 1, ...) → (B, ...)."""
    pairs = values.view(-1, 2, *values.shape[1:]).float()
    return torch.lerp(pairs.flip(1), pairs, weights).to(values.dtype).flatten(0, 1)


def soft_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Classes (B,) int64 → (B, num_classes) float32, 1 where the class is."""
    targets = torch.zeros(len(labels), num_classes, device=labels.device)
    # Not F.one_hot, which on some devices reads the labels back to check them.
    return targets.scatter_(1, labels[:, None], 1.0)
