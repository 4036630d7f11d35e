"""Pictures that are in a data set twice, or in two data sets."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from vit_lightning.check.collection import Collection
from vit_lightning.check.matching import Match, match_between, match_within

Kind = Literal["file", "pixels", "near"]
_ALL_PAIRS_OF = 20  # pictures of one kind; of more, each is paired with the first alone


@dataclass(frozen=True)
class Pair:
    """Two entries that show the same.

    Args:
        first: an entry; of the data set itself where there are two sets.
        second: another entry, or one of the other set.
        kind: the same ``file``, the same ``pixels`` in another file, or ``near``: rescaled,
            recompressed, cropped, or the same scene from the same place.
        score: how conclusive the agreement is, in (0, 1]; 1 for equal pixels.
        box: centre x, centre y, width, height of what both show, in fractions of the sides of the
            larger picture; None for equal pixels.
        box_of_first: whether ``first`` is the larger picture.
    """

    first: int
    second: int
    kind: Kind
    score: float = 1.0
    box: tuple[float, float, float, float] | None = None
    box_of_first: bool = True


def find_pairs(collection: Collection) -> list[Pair]:
    """Pairs within a data set: equal ones, then near ones by falling score.

    Of pictures with equal pixels the first stands for all in the search for near ones.
    """
    groups = _by_pixels(collection)
    exact = [pair for group in groups for pair in _exact_pairs(collection, group)]
    firsts = [group[0] for group in groups]
    matches = match_within(collection.copies(firsts))
    near = [
        _near(firsts[match.larger], firsts[match.smaller], match, box_of_first=True)
        for match in matches
    ]
    return exact + [_ordered(pair) for pair in near]


def find_pairs_between(collection: Collection, other: Collection) -> list[Pair]:
    """Pairs of a picture of ``collection`` and one of ``other``, equal ones first."""
    mine, others = _by_pixels(collection), _by_pixels(other)
    known = {other.entries[group[0]].measured.pixel_hash: group for group in others}
    exact = []
    for group in mine:
        twins = known.get(collection.entries[group[0]].measured.pixel_hash, [])
        exact += [
            Pair(first, second, _kind(collection, first, other, second))
            for first in group
            for second in twins
        ]
    firsts, seconds = [group[0] for group in mine], [group[0] for group in others]
    forward, backward = match_between(collection.copies(firsts), other.copies(seconds))
    near = [_near(firsts[m.larger], seconds[m.smaller], m, box_of_first=True) for m in forward]
    near += [_near(firsts[m.smaller], seconds[m.larger], m, box_of_first=False) for m in backward]
    found = {(pair.first, pair.second) for pair in exact}
    near = [pair for pair in near if (pair.first, pair.second) not in found]
    return exact + sorted(near, key=lambda pair: -pair.score)


def groups_of(pairs: list[Pair]) -> list[list[int]]:
    """Entries that are linked by pairs, in groups, ascending."""
    parents: dict[int, int] = {}

    def root(entry: int) -> int:
        parents.setdefault(entry, entry)
        while parents[entry] != entry:
            parents[entry] = entry = parents[parents[entry]]
        return entry

    for pair in pairs:
        first, second = sorted((root(pair.first), root(pair.second)))
        parents[second] = first
    groups: dict[int, list[int]] = defaultdict(list)
    for entry in sorted(parents):
        groups[root(entry)].append(entry)
    return list(groups.values())


def _by_pixels(collection: Collection) -> list[list[int]]:
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, entry in enumerate(collection.entries):
        groups[entry.measured.pixel_hash].append(index)
    return list(groups.values())


def _exact_pairs(collection: Collection, group: list[int]) -> list[Pair]:
    firsts = group if len(group) <= _ALL_PAIRS_OF else group[:1]
    return [
        Pair(first, second, _kind(collection, first, collection, second))
        for position, first in enumerate(firsts)
        for second in group[position + 1 :]
    ]


def _kind(one: Collection, first: int, other: Collection, second: int) -> Kind:
    hashes = one.entries[first].measured.file_hash, other.entries[second].measured.file_hash
    return "file" if hashes[0] == hashes[1] else "pixels"


def _near(first: int, second: int, match: Match, *, box_of_first: bool) -> Pair:
    return Pair(first, second, "near", match.score, match.box, box_of_first)


def _ordered(pair: Pair) -> Pair:
    if pair.first < pair.second:
        return pair
    return Pair(pair.second, pair.first, pair.kind, pair.score, pair.box, not pair.box_of_first)
