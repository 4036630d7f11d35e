"""The same picture twice: candidates by their descriptions, then laid over each other."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_lightning.check.align import align, conclusive
from vit_lightning.check.search import search
from vit_lightning.check.views import DENSE, MEDIUM, SPARSE, Box, Boxes, describe, view_boxes
from vit_lightning.progress import Progress
from vit_lightning.threads import in_threads

# Chosen by eye on Tiny ImageNet, where pictures of things of one kind are below and those of one
# scene begin; see docs/data.md.
THRESHOLD = 0.8
_FLOOR = 0.7  # similarity of the descriptions of a candidate
_MOST = 8  # candidates of a picture
# Where there would be more comparisons, or more parts, fewer parts of each picture are taken.
_MOST_COMPARISONS = {DENSE: 4_000_000_000, MEDIUM: 40_000_000_000}
_MOST_VIEWS = 1_500_000
_VERIFIED_AT_ONCE = 256
_TIE = 0.02  # directions whose scores differ by less agree: both pictures show the same part


@dataclass(frozen=True, eq=False)
class Copies:
    """Small copies of pictures.

    Args:
        grey: (N, 48, 48) uint8 luma.
        chroma: (N, 2, 12, 12) uint8.
        sizes: (N, 2) width and height of the originals.
    """

    grey: NDArray[np.uint8]
    chroma: NDArray[np.uint8]
    sizes: NDArray[np.int64]


@dataclass(frozen=True)
class Match:
    """Two pictures that show the same.

    Args:
        larger: index of the picture that shows more; where both show as much, of the one with
            more pixels.
        smaller: index of the other.
        score: how conclusive the agreement is, from ``THRESHOLD`` to 1 for equal details.
        box: centre x, centre y, width, height of what the smaller one shows, in fractions of the
            larger one's sides.
    """

    larger: int
    smaller: int
    score: float
    box: Box


def match_within(copies: Copies) -> list[Match]:
    """Pairs of different pictures of one set; the better direction of each."""
    matches = _match(copies, copies, same=True, what="compare")
    scores = {(match.larger, match.smaller): match.score for match in matches}
    pixels = copies.sizes.prod(axis=1)

    def is_better(match: Match) -> bool:
        larger, smaller = match.larger, match.smaller
        lead = match.score - scores.get((smaller, larger), 0.0)
        # The order decides between pictures of one size, so that just one direction is taken.
        first = (pixels[larger], smaller) > (pixels[smaller], larger)
        return lead >= -_TIE if first else lead > _TIE

    return sorted(filter(is_better, matches), key=lambda match: -match.score)


def match_between(first: Copies, second: Copies) -> tuple[list[Match], list[Match]]:
    """Pairs of pictures of two sets.

    Returns:
        Those where the larger one is of ``first``, and those where it is of ``second``; a pair is
        in one of the two.
    """
    forward = _match(first, second, same=False, what="compare")
    backward = _match(second, first, same=False, what="compare back")
    scores = {(match.smaller, match.larger): match.score for match in backward}
    first_pixels, second_pixels = first.sizes.prod(axis=1), second.sizes.prod(axis=1)

    def is_better(match: Match) -> bool:
        lead = match.score - scores.get((match.larger, match.smaller), 0.0)
        has_more = first_pixels[match.larger] >= second_pixels[match.smaller]
        return bool(lead >= -_TIE if has_more else lead > _TIE)

    kept = list(filter(is_better, forward))
    pairs = {(match.larger, match.smaller) for match in kept}
    return kept, [m for m in backward if (m.smaller, m.larger) not in pairs]


def _match(larger: Copies, smaller: Copies, *, same: bool, what: str) -> list[Match]:
    """Pictures of ``smaller`` that show a part, or all, of one of ``larger``."""
    if not len(larger.sizes) or not len(smaller.sizes):
        return []
    owners, boxes = _views(larger, len(smaller.sizes))
    grey, chroma = torch.from_numpy(larger.grey), torch.from_numpy(larger.chroma)
    targets = torch.from_numpy(smaller.grey)
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]]).expand(len(targets), 4)
    wholes = describe(targets, torch.from_numpy(smaller.chroma), whole)

    def queries(rows: slice) -> Tensor:
        mine = owners[rows]
        return describe(grey[mine], chroma[mine], torch.from_numpy(boxes[rows]))

    with Progress(len(owners), what, "views") as progress:
        rows, columns, _ = search(
            queries,
            owners,
            wholes,
            floor=_FLOOR,
            most=_MOST,
            same=same,
            update=progress.update,
        )
    return _verified(grey, targets, (owners[rows], columns), torch.from_numpy(boxes[rows]))


def _verified(
    larger: Tensor,
    smaller: Tensor,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    boxes: Tensor,
) -> list[Match]:
    def verify(start: int) -> list[Match]:
        part = slice(start, start + _VERIFIED_AT_ONCE)
        first, second = (index[part] for index in pairs)
        correlations, places = align(larger[first], smaller[second], boxes[part])
        scores = conclusive(correlations, smaller[second])
        return [
            Match(int(first[index]), int(second[index]), float(scores[index]), _box(places[index]))
            for index in (scores >= THRESHOLD).nonzero().flatten().tolist()
        ]

    matches = []
    starts = range(0, len(boxes), _VERIFIED_AT_ONCE)
    with Progress(len(boxes), "verify", "pairs") as progress:
        for start, found in zip(starts, in_threads(verify, starts), strict=True):
            matches += found
            progress.update(min(_VERIFIED_AT_ONCE, len(boxes) - start))
    return matches


def _box(place: Tensor) -> Box:
    x, y, width, height = place.tolist()
    return x, y, width, height


def _views(copies: Copies, targets: int) -> tuple[NDArray[np.int64], Boxes]:
    """Owners and boxes of the parts to compare: as many as the number of pictures allows."""
    aspects = [round(float(width / height), 2) or 0.01 for width, height in copies.sizes]
    for density, most in _MOST_COMPARISONS.items():
        boxes = [view_boxes(aspect, density) for aspect in aspects]
        count = sum(map(len, boxes))
        if count <= _MOST_VIEWS and count * targets <= most:
            break
    else:
        boxes = [view_boxes(aspect, SPARSE) for aspect in aspects]
    owners = np.repeat(np.arange(len(boxes)), [len(part) for part in boxes])
    return owners, np.array([box for part in boxes for box in part], dtype=np.float32)
