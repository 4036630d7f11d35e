"""Pictures that are in a data set twice, or in two data sets."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from vit_lightning.check.collection import Collection
from vit_lightning.check.matching import Match, match_between, match_within

Kind = Literal["file", "pixels", "near"]
_ALL_PAIRS_OF = 20  # equal pictures; of more, each is paired with the first alone


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

    Of pictures with equal pixels one is searched for near ones, and what is found is told of the
    first of each split and class, so that no leakage and no conflict is left out.
    """
    groups = _by_pixels(collection)
    exact = [pair for group in groups for pair in _exact_pairs(collection, group)]
    told = [_one_of_each(collection, group) for group in groups]
    near = [
        _ordered(_near(larger, smaller, match, box_of_first=True))
        for match in match_within(collection.copies([group[0] for group in groups]))
        for larger in told[match.larger]
        for smaller in told[match.smaller]
    ]
    return exact + near


def find_pairs_between(collection: Collection, other: Collection) -> list[Pair]:
    """Pairs of a picture of ``collection`` and one of ``other``, equal ones first.

    Of pictures of ``other`` with equal pixels, the first stands for all where there are many, or
    where they are only near; of those of ``collection`` each is told.
    """
    mine, others = _by_pixels(collection), _by_pixels(other)
    known = {other.entries[group[0]].measured.pixel_hash: group for group in others}
    exact = [
        Pair(first, second, _kind(collection, first, other, second))
        for group in mine
        for second in _few(known.get(collection.entries[group[0]].measured.pixel_hash, []))
        for first in group
    ]
    forward, backward = match_between(
        collection.copies([group[0] for group in mine]),
        other.copies([group[0] for group in others]),
    )
    found = [(mine[m.larger], others[m.smaller], m, True) for m in forward]
    found += [(mine[m.smaller], others[m.larger], m, False) for m in backward]
    equal = {(pair.first, pair.second) for pair in exact}
    near = [
        _near(first, group[0], match, box_of_first=mine_is_larger)
        for firsts, group, match, mine_is_larger in found
        for first in firsts
        if (first, group[0]) not in equal
    ]
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
    return [
        Pair(first, second, _kind(collection, first, collection, second))
        for position, first in enumerate(_few(group))
        for second in group[position + 1 :]
    ]


def _few(group: list[int]) -> list[int]:
    return group if len(group) <= _ALL_PAIRS_OF else group[:1]


def _one_of_each(collection: Collection, group: list[int]) -> list[int]:
    """The first of each split and class."""
    found: dict[tuple[int, str], int] = {}
    for index in group:
        entry = collection.entries[index]
        found.setdefault((entry.split, entry.label), index)
    return list(found.values())


def _kind(one: Collection, first: int, other: Collection, second: int) -> Kind:
    hashes = one.entries[first].measured.file_hash, other.entries[second].measured.file_hash
    return "file" if hashes[0] == hashes[1] else "pixels"


def _near(first: int, second: int, match: Match, *, box_of_first: bool) -> Pair:
    return Pair(first, second, "near", match.score, match.box, box_of_first)


def _ordered(pair: Pair) -> Pair:
    if pair.first < pair.second:
        return pair
    return Pair(pair.second, pair.first, pair.kind, pair.score, pair.box, not pair.box_of_first)
