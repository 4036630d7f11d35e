"""The operations of ``operations`` on whole batches of 8-bit pictures, wherever these are.

Each takes images (n, C, H, W) uint8 and values (n, k), and returns images. What Pillow computes is
the measure: they differ from it by a level of 255 here and there, where it rounds in another way,
and by which of two equally near pixels is taken.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _table(images: Tensor, values: Tensor) -> Tensor:
    """(n, 256) the new level of each, for all channels."""
    return values.gather(1, images.flatten(1).long()).view_as(images)


def _by_channel(images: Tensor, tables: Tensor) -> Tensor:
    """(n, C, 256) the new level of each, not yet cut to [0, 255]."""
    tables = tables.clamp(0, 255).to(torch.uint8)
    return tables.gather(2, images.flatten(2).long()).view_as(images)


def _autocontrast(images: Tensor, values: Tensor) -> Tensor:
    lowest, highest = images.flatten(2).int().aminmax(dim=2, keepdim=True)
    levels = torch.arange(256, device=images.device)
    span = highest - lowest
    stretched = ((levels - lowest) * 255).div(span.clamp(min=1), rounding_mode="floor")
    return _by_channel(images, torch.where(span > 0, stretched, levels))


def _equalize(images: Tensor, values: Tensor) -> Tensor:
    levels = torch.arange(256, dtype=torch.int32, device=images.device)
    # By sorting: what counts levels on a GPU is not deterministic for torch.
    ordered = images.flatten(2).int().sort(dim=2).values
    below = torch.searchsorted(ordered, levels.expand(*ordered.shape[:2], 256).contiguous())
    step = below.gather(2, ordered[..., -1:].long()) // 255  # of all that are not the highest
    ranks = (below + step // 2).div(step.clamp(min=1), rounding_mode="floor")
    return _by_channel(images, torch.where(step > 0, ranks, levels))


def _color(images: Tensor, values: Tensor) -> Tensor:
    return _blend(_luma(images), images, values)


def _contrast(images: Tensor, values: Tensor) -> Tensor:
    luma = _luma(images).flatten(1).long()
    count = luma.shape[1]
    mean = (2 * luma.sum(1) + count) // (2 * count)  # rounded
    return _blend(mean[:, None, None, None], images, values)


def _sharpness(images: Tensor, values: Tensor) -> Tensor:
    if min(images.shape[-2:]) < 3:
        return images
    smooth = images.float()
    inner = smooth[..., 1:-1, 1:-1]
    inner.copy_(((9 * F.avg_pool2d(smooth, 3, stride=1) + 4 * inner) / 13).round())
    return _blend(smooth, images, values)


def _luma(images: Tensor) -> Tensor:
    """(n, 1, H, W) int32, as Pillow has it."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = (plane[:, None] for plane in images.int().unbind(1))
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def _blend(ground: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """The ground at 0, the images at 1, and on beyond; what is behind the point is cut off."""
    ground = ground.float()
    mixed = ground + factors[:, :1, None, None] * (images - ground)
    return mixed.clamp(0, 255).to(torch.uint8)


def _places(images: Tensor, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where pixels come from: (n, H, W) x, y, and whether that lies in the picture."""
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    a, b, c, d, e, f = matrices[:, :6, None, None].unbind(1)
    xs, ys = a * x + b * y + c, d * x + e * y + f
    return xs, ys, (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)


def _taken(images: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """The pixels at whole places (n, H, W), or next to those that lie outside."""
    height, width = images.shape[-2:]
    places = ys.clamp(0, height - 1).long() * width + xs.clamp(0, width - 1).long()
    places = places.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, places).view_as(images)


def _filled(inside: Tensor, images: Tensor, colours: Tensor) -> Tensor:
    """``images`` where ``inside`` (n, H, W), else ``colours`` (n, C)."""
    return torch.where(inside[:, None], images, colours[..., None, None].to(torch.uint8))


def _nearest(images: Tensor, values: Tensor) -> Tensor:
    """By (n, 6 + C): a matrix as in ``operations.Warp``, and the fill."""
    xs, ys, inside = _places(images, values)
    return _filled(inside, _taken(images, xs.floor(), ys.floor()), values[:, 6:])


def _bilinear(images: Tensor, values: Tensor) -> Tensor:
    """As ``_nearest``, between pixels."""
    xs, ys, inside = _places(images, values)
    left, top = (xs - 0.5).floor(), (ys - 0.5).floor()
    right_share, bottom_share = (xs - 0.5 - left)[:, None], (ys - 0.5 - top)[:, None]
    above, below = (
        torch.lerp(
            _taken(images, left, row).float(), _taken(images, left + 1, row).float(), right_share
        )
        for row in (top, top + 1)
    )
    between = torch.lerp(above, below, bottom_share)
    return _filled(inside, between.to(torch.uint8), values[:, 6:])


def _cutout(images: Tensor, values: Tensor) -> Tensor:
    """By (n, 4 + C): left, top, right and bottom (exclusive), and the fill."""
    left, top, right, bottom = values[:, :4, None, None].unbind(1)
    x = torch.arange(images.shape[3], device=images.device)
    y = torch.arange(images.shape[2], device=images.device)[:, None]
    outside = (x < left) | (x >= right) | (y < top) | (y >= bottom)
    return _filled(outside, images, values[:, 4:])


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "table": _table,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "color": _color,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "nearest": _nearest,
    "bilinear": _bilinear,
    "cutout": _cutout,
}
