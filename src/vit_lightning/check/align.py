"""Whether one picture shows a part of another: lay them over each other and correlate."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_lightning.check.measure import GREY_SIDE
from vit_lightning.check.views import resampler

_SIDE = 32  # pixels that are compared in the end

# A box is moved to the places beside it, and made larger and smaller, also along one axis alone:
# rows are moves of an interval (place, size), and a move of a box is one across and one down.
_INTERVALS = torch.tensor([(place, size) for place in (0, 1, -1) for size in (0, 1, -1)]).float()
_PAIRS = [(across, down) for across in range(9) for down in range(9)]
_PLACES = {(across, down) for across in (0, 3, 6) for down in (0, 3, 6)}  # sizes as they are
_SIZES = {(across, down) for across in (0, 1, 2) for down in (0, 1, 2)}  # places as they are
_STAY = torch.tensor([(0, 0)])
_EITHER = torch.tensor([pair for pair in _PAIRS if pair in _PLACES | _SIZES])
_BOTH = torch.tensor(_PAIRS)
# The search, from coarse to fine: pixels along each side, moves, their step in sides of the box,
# rounds, and the correlation below which a pair is given up. Nearly all pairs that show different
# things are given up after the first two. Coarse steps try place and size together: pictures with
# fine details alone do not correlate until both are right.
_STAGES = (
    (12, _STAY, 0.0, 1, 0.3),
    (12, _BOTH, 0.08, 1, 0.55),
    (16, _BOTH, 0.04, 2, 0.65),
    (_SIDE, _EITHER, 0.03, 4, 0.6),
    (_SIDE, _EITHER, 0.015, 4, 0.7),
    (_SIDE, _EITHER, 0.0075, 2, -1.0),
)
# By two or three pixels, in all directions that differ for a stick.
_RIGHT = (2, 0, 2, 2, 2, 2, 1, 1, 3, 3, 1, 1)
_DOWN = (0, 2, 2, -2, 1, -1, 2, -2, 1, -1, 3, -3)
_LEAST_SIDE = 0.3  # of a box
_NOISE = 4.0  # grey levels that JPEG and rescaling may change
_BLOCK = 64  # pairs at once, so that they stay in the cache
_WHOLE = torch.tensor([0.5, 0.5, 1.0, 1.0])
_IS_ACROSS = torch.tensor([True, False, True, False])  # of a box


def align(larger: Tensor, smaller: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Find the part of each larger picture that looks most like the smaller one.

    Args:
        larger: (N, 48, 48) uint8 luma.
        smaller: (N, 48, 48) likewise.
        boxes: (N, 4) where to begin.

    Returns:
        (N,) correlation of the details in [-1, 1], and (N, 4) the boxes.
    """
    scores, places = torch.empty(len(boxes)), boxes.clone()
    for start in range(0, len(boxes), _BLOCK):
        alive = torch.arange(start, min(start + _BLOCK, len(boxes)))
        for side, moves, step, rounds, least in _STAGES:
            big, small = larger[alive].float(), smaller[alive].float()
            found = _climb(big, small, places[alive], side, moves, step, rounds)
            scores[alive], places[alive] = found
            alive = alive[scores[alive] > least]
            if not len(alive):
                break
    return scores, places


def conclusive(correlation: Tensor, smaller: Tensor) -> Tensor:
    """How much better pictures agree than the smaller one with itself, moved a little.

    A broomstick and a clarinet before white correlate well, and would anywhere along them; a
    picture of a meadow agrees with itself in one place alone.

    Args:
        correlation: (N,) what :func:`align` found.
        smaller: (N, 48, 48) uint8 luma of the smaller pictures.

    Returns:
        (N,) 1 for equal details, 0 for no better than moved by two or three of 32 pixels.
    """
    whole = _WHOLE.expand(len(smaller), 1, 4)
    details = _details(_cut(smaller.float(), whole, _STAY, _SIDE)).reshape(-1, _SIDE, _SIDE)
    shifts = zip(_RIGHT, _DOWN, strict=True)
    moved = torch.stack([_moved_correlation(details, right, down) for right, down in shifts])
    return 1 - (1 - correlation) / (1 - moved.amax(dim=0).clamp(0, 0.999))


def _moved_correlation(details: Tensor, right: int, down: int) -> Tensor:
    """(N, S, S) → (N,): with itself, moved right by some pixels, and down, or up where negative."""
    first = details[:, max(down, 0) : _SIDE + min(down, 0), right:]
    second = details[:, max(-down, 0) : _SIDE - max(down, 0), : _SIDE - right]
    norm = (first.square().sum((1, 2)) * second.square().sum((1, 2))).sqrt()
    return (first * second).sum((1, 2)) / norm.clamp_min(1e-6)


def _climb(
    larger: Tensor,
    smaller: Tensor,
    boxes: Tensor,
    side: int,
    moves: Tensor,
    step: float,
    rounds: int,
) -> tuple[Tensor, Tensor]:
    """Move each box up to ``rounds`` times to the best of its neighbours; correlations and boxes.

    The first move is none: a box that it is best for has arrived.
    """
    scores, boxes = torch.empty(len(boxes)), boxes.clone()
    target = _details(_cut(smaller, _WHOLE.expand(len(boxes), 1, 4), _STAY, side))
    rows = torch.arange(len(boxes))
    for _ in range(rounds):
        moved = _moved(boxes[rows], step)  # (N, 9, 4)
        details = _details(_cut(larger[rows], moved, moves, side))
        scores[rows], best = (details @ target[rows].mT)[..., 0].max(dim=1)
        across, down = moves[best].unbind(1)
        each = torch.arange(len(rows))
        boxes[rows] = torch.where(_IS_ACROSS, moved[each, across], moved[each, down])
        rows = rows[best > 0]
        if not len(rows):
            break
    return scores, boxes


def _moved(boxes: Tensor, step: float) -> Tensor:
    """(N, 4) → (N, 9, 4), both axes moved in the same way and kept within the picture."""
    sides = boxes[:, None, 2:]
    size = (sides * (1 + _INTERVALS[:, 1:] * step)).clamp(_LEAST_SIDE, 1.0)
    centre = boxes[:, None, :2] + _INTERVALS[:, :1] * step * sides
    return torch.cat([centre.clamp(size / 2, 1 - size / 2), size], dim=-1)


def _cut(pixels: Tensor, boxes: Tensor, moves: Tensor, side: int) -> Tensor:
    """Parts whose extent across is that of one box, and down that of another.

    Args:
        pixels: (N, 48, 48).
        boxes: (N, B, 4).
        moves: (K, 2) the boxes to take for across and down.
        side: pixels of the result.

    Returns:
        (N, K, side, side)
    """
    boxes = boxes[:, : int(moves.max()) + 1]
    across = resampler(boxes[..., 0], boxes[..., 2], GREY_SIDE, side)  # (N, B, side, 48)
    down = resampler(boxes[..., 1], boxes[..., 3], GREY_SIDE, side)
    rows = (down.flatten(1, 2) @ pixels).reshape(down.shape)
    return rows[:, moves[:, 1]] @ across[:, moves[:, 0]].mT


def _details(pixels: Tensor) -> Tensor:
    """(N, K, side, side) → (N, K, side²): what differs from its neighbourhood, of unit length.

    Divided by the contrast of the neighbourhood, so that one strong edge, which many pictures
    have, counts no more than fine texture.
    """
    blur = _blur(pixels.shape[-1])
    mean = blur @ pixels @ blur.mT
    spread = (blur @ pixels.square() @ blur.mT - mean.square()).clamp_min(0).sqrt()
    return F.normalize(((pixels - mean) / (spread + _NOISE)).flatten(2), dim=-1, eps=1e-6)


@functools.lru_cache
def _blur(side: int) -> Tensor:
    """(side, side): the mean of a quarter of the axis around each pixel, its edges repeated."""
    reach = side // 8
    window = torch.arange(-reach, reach + 1)
    places = (torch.arange(side)[:, None] + window).clamp(0, side - 1)
    return F.one_hot(places, side).float().mean(dim=1)
