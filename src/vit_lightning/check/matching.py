"""The same picture twice: candidates by their descriptions, then laid over each other."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_lightning.check.align import align, conclusive
from vit_lightning.check.progress import Progress
from vit_lightning.check.search import search
from vit_lightning.check.views import DENSE, MEDIUM, SPARSE, Boxes, describe, view_boxes

# Chosen by eye on Tiny ImageNet, where pictures of things of one kind are below and those of one
# scene begin; see docs/data.md.
THRESHOLD = 0.8
_FLOOR = 0.7  # similarity of the descriptions of a candidate
_MOST = 8  # candidates of a picture
# Where there would be more comparisons, or more parts, fewer parts of each picture are taken.
_MOST_COMPARISONS = {DENSE: 4_000_000_000, MEDIUM: 20_000_000_000}
_MOST_VIEWS = 1_500_000
_VERIFIED_AT_ONCE = 4096


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
        larger: index of the picture that shows as much or more.
        smaller: index of the other.
        score: how conclusive the agreement is, from ``THRESHOLD`` to 1 for equal details.
        box: centre x, centre y, width, height of what the smaller one shows, in fractions of the
            larger one's sides.
    """

    larger: int
    smaller: int
    score: float
    box: tuple[float, float, float, float]


def match_within(copies: Copies) -> list[Match]:
    """Pairs of different pictures of one set; the better direction of each."""
    found: dict[tuple[int, int], Match] = {}
    for match in _match(copies, copies, same=True, what="compare"):
        pair = (min(match.larger, match.smaller), max(match.larger, match.smaller))
        if pair not in found or match.score > found[pair].score:
            found[pair] = match
    return sorted(found.values(), key=lambda match: -match.score)


def match_between(first: Copies, second: Copies) -> tuple[list[Match], list[Match]]:
    """Pairs of pictures of two sets.

    Returns:
        Those where the larger one is of ``first``, and those where it is of ``second``; a pair is
        in one of the two.
    """
    forward = _match(first, second, same=False, what="compare")
    backward = _match(second, first, same=False, what="compare back")
    reverse = {(match.smaller, match.larger): match.score for match in backward}
    kept = [m for m in forward if m.score >= reverse.get((m.larger, m.smaller), 0.0)]
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
    matches = []
    with Progress(len(boxes), "verify", "pairs") as progress:
        for start in range(0, len(boxes), _VERIFIED_AT_ONCE):
            part = slice(start, start + _VERIFIED_AT_ONCE)
            first, second = (index[part] for index in pairs)
            correlations, places = align(larger[first], smaller[second], boxes[part])
            scores = conclusive(correlations, smaller[second])
            for index in (scores >= THRESHOLD).nonzero().flatten().tolist():
                x, y, width, height = places[index].tolist()
                place = (x, y, width, height)
                score = float(scores[index])
                matches.append(Match(int(first[index]), int(second[index]), score, place))
            progress.update(len(scores))
    return matches


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
