"""What a check found, as plain values and sentences."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vit_lightning.check.collection import Collection
from vit_lightning.check.duplicates import Pair, groups_of
from vit_lightning.check.statistics import (
    UPRIGHT,
    class_counts,
    imbalance,
    picture_statistics,
)

_MUCH_IMBALANCE = 10.0
_MANY_NAMES = 8  # in a sentence
_SMALL_SIDE = 16  # pixels
_LONG_SHAPE = 4.0  # width over height, or the inverse


@dataclass(frozen=True, eq=False)
class Findings:
    """What a check found.

    Args:
        collection: the data set.
        pairs: of pictures that show the same, within it.
        other: another data set, where it was compared with one.
        pairs_between: a picture of the data set and one of the other.
        throughput: what was measured of the speed; see ``throughput``.
        problems: sentences on what should be mended.
        notes: sentences on what should be known.
        values: all of it as plain JSON types.
    """

    collection: Collection
    pairs: list[Pair]
    other: Collection | None
    pairs_between: list[Pair]
    throughput: dict[str, Any] | None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


def draw_conclusions(
    collection: Collection,
    pairs: list[Pair],
    other: Collection | None,
    pairs_between: list[Pair],
    throughput: dict[str, Any] | None,
) -> Findings:
    """Put what was found into words and figures."""
    findings = Findings(collection, pairs, other, pairs_between, throughput)
    findings.problems.extend(_problems(findings))
    findings.notes.extend([*collection.source.notes, *_notes(collection)])
    findings.values.update(_values(findings))
    return findings


def is_leak(collection: Collection, pair: Pair) -> bool:
    """Whether the two are in different splits."""
    return collection.entries[pair.first].split != collection.entries[pair.second].split


def is_conflict(collection: Collection, pair: Pair) -> bool:
    """Whether the two are of different classes."""
    return collection.entries[pair.first].label != collection.entries[pair.second].label


def class_differences(collection: Collection) -> dict[str, list[str]]:
    """Split → classes that another split has pictures of, and it has not."""
    counts = class_counts(collection)
    present = {split: {name for name, n in found.items() if n} for split, found in counts.items()}
    everything = sorted(set().union(*present.values()))
    missing = {
        split: [name for name in everything if name not in names]
        for split, names in present.items()
    }
    return {split: names for split, names in missing.items() if names}


def _problems(findings: Findings) -> list[str]:
    collection, pairs = findings.collection, findings.pairs
    problems = list(collection.source.problems)
    if collection.unreadable:
        problems.append(f"{_count(len(collection.unreadable), 'file')} cannot be read")
    for split, names in class_differences(collection).items():
        problems.append(
            f"{split} has no pictures of {_classes(len(names))} that another split has: "
            f"{_some(names)}"
        )
    leaks = [pair for pair in pairs if is_leak(collection, pair)]
    problems += [
        f"leakage: {_count(number, 'picture')} of {later} shown in {earlier} too"
        for (earlier, later), number in _leaked(collection, leaks).items()
    ]
    within = [pair for pair in pairs if not is_leak(collection, pair)]
    problems += _duplicate_problems(collection, within)
    conflicts = [pair for pair in pairs if is_conflict(collection, pair)]
    if conflicts:
        problems.append(
            f"label conflicts: {_count(len(conflicts), 'pair')} of pictures that show the same "
            "in different classes"
        )
    if findings.pairs_between:
        assert findings.other is not None
        number = len({pair.first for pair in findings.pairs_between})
        problems.append(f"{_count(number, 'picture')} also in {findings.other.source.title}")
    return problems


def _duplicate_problems(collection: Collection, within: list[Pair]) -> Iterable[str]:
    for number, split in enumerate(collection.source.splits):
        mine = [pair for pair in within if collection.entries[pair.first].split == number]
        for kinds, what in ((("file", "pixels"), "exact"), (("near",), "near")):
            groups = groups_of([pair for pair in mine if pair.kind in kinds])
            if groups:
                total = sum(map(len, groups))
                yield (
                    f"{what} duplicates in {split.name}: {total:,} pictures in "
                    f"{_count(len(groups), 'group')}"
                )


def _leaked(collection: Collection, leaks: list[Pair]) -> dict[tuple[str, str], int]:
    """(earlier split, later split) → pictures of the later one that the earlier one has."""
    found: dict[tuple[int, int], set[int]] = {}
    for pair in leaks:
        earlier, later = sorted(
            (pair.first, pair.second), key=lambda entry: collection.entries[entry].split
        )
        key = (collection.entries[earlier].split, collection.entries[later].split)
        found.setdefault(key, set()).add(later)
    names = [split.name for split in collection.source.splits]
    return {(names[a], names[b]): len(entries) for (a, b), entries in sorted(found.items())}


def _notes(collection: Collection) -> list[str]:
    notes = []
    for split, counts in class_counts(collection).items():
        found = imbalance(counts)
        if found is not None and found["ratio"] >= _MUCH_IMBALANCE:
            notes.append(
                f"imbalance in {split}: {found['largest'][0]} has {found['largest'][1]:,} pictures,"
                f" {found['smallest'][0]} {found['smallest'][1]:,} ({found['ratio']:g} to 1)"
            )
    kept = [entry.measured for entry in collection.entries]
    turned = sum(one.orientation != UPRIGHT for one in kept)
    small = sum(min(one.size) < _SMALL_SIDE for one in kept)
    long = sum(max(one.size) > _LONG_SHAPE * min(one.size) for one in kept)
    if turned:
        notes.append(f"{_count(turned, 'picture')} turned upright by EXIF orientation")
    if small:
        notes.append(f"{_count(small, 'picture')} with a side below {_SMALL_SIDE} pixels")
    if long:
        notes.append(f"{_count(long, 'picture')} more than {_LONG_SHAPE:g} times as long as wide")
    for mode, number in Counter(one.mode for one in kept if one.mode != "RGB").most_common():
        names = [entry.name for entry in collection.entries if entry.measured.mode == mode]
        notes.append(f"{_count(number, 'picture')} stored as {mode}, not RGB: {_some(names)}")
    return notes


def _values(findings: Findings) -> dict[str, Any]:
    collection, other = findings.collection, findings.other
    counts = class_counts(collection)
    splits = {
        split.name: {
            "listed": len(split.pictures),
            "classes": counts[split.name],
            "imbalance": imbalance(counts[split.name]),
            **picture_statistics([e for e in collection.entries if e.split == number]),
        }
        for number, split in enumerate(collection.source.splits)
    }
    values: dict[str, Any] = {
        "source": collection.source.title,
        "problems": findings.problems,
        "notes": findings.notes,
        "splits": splits,
        "unreadable": [
            {"split": split, "picture": name, "reason": reason}
            for split, name, reason in collection.unreadable
        ],
        "missing_classes": class_differences(collection),
        "pairs": [_pair_values(collection, collection, pair) for pair in findings.pairs],
        "throughput": findings.throughput,
    }
    if other is not None:
        values["against"] = {
            "source": other.source.title,
            "pictures": len(other.entries),
            "unreadable": len(other.unreadable),
            "pairs": [_pair_values(collection, other, pair) for pair in findings.pairs_between],
        }
    return values


def _pair_values(one: Collection, other: Collection, pair: Pair) -> dict[str, Any]:
    first, second = one.entries[pair.first], other.entries[pair.second]
    return {
        "kind": pair.kind,
        "score": round(pair.score, 4),
        "first": {"split": one.split_name(pair.first), "name": first.name, "class": first.label},
        "second": {
            "split": other.split_name(pair.second),
            "name": second.name,
            "class": second.label,
        },
        "larger": "first" if pair.box_of_first else "second",
        "box": None if pair.box is None else [round(value, 3) for value in pair.box],
    }


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _classes(number: int) -> str:
    return "1 class" if number == 1 else f"{number:,} classes"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MANY_NAMES:,} more" if len(names) > _MANY_NAMES else ""
    return ", ".join(names[:_MANY_NAMES]) + more
