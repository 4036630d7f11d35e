"""The findings as text for a terminal."""

from typing import Any

from vit_lightning.check.collection import Collection
from vit_lightning.check.duplicates import Pair
from vit_lightning.check.findings import Findings, is_conflict, is_leak
from vit_lightning.console import printable

_MOST_PAIRS = 20  # of a kind; the page and the JSON have all
_MOST_CLASSES = 12


def as_text(findings: Findings) -> str:
    """All that was found; long lists of pairs are cut, unreadable files are not."""
    collection = findings.collection
    lines = [collection.source.title]
    for name, values in findings.values["splits"].items():
        lines += ["", *_split_lines(name, values)]
    if collection.unreadable:
        lines += ["", "cannot be read:"]
        lines += [
            f"  {_place(collection, split, name)}: {reason}"
            for split, name, reason in collection.unreadable
        ]
    for title, pairs in sections(findings):
        lines += ["", *_pair_lines(title, pairs, collection, collection)]
    if findings.other is not None:
        title = f"in {findings.other.source.title} too"
        lines += ["", *_pair_lines(title, findings.pairs_between, collection, findings.other)]
    if findings.throughput is not None:
        lines += ["", *throughput_lines(findings.throughput)]
    if findings.notes:
        lines += ["", "notes:", *(f"  {note}" for note in findings.notes)]
    found = [f"  {problem}" for problem in findings.problems]
    lines += ["", "problems:" if found else "no problems found", *found]
    return "\n".join(map(printable, lines))


def sections(findings: Findings) -> list[tuple[str, list[Pair]]]:
    """Titles and pairs within the data set; of a split's duplicates those without a conflict."""
    collection, pairs = findings.collection, findings.pairs
    others = [pair for pair in pairs if not is_conflict(collection, pair)]
    within = [pair for pair in others if not is_leak(collection, pair)]
    found = [
        ("label conflicts", [pair for pair in pairs if is_conflict(collection, pair)]),
        ("leakage between splits", [pair for pair in pairs if is_leak(collection, pair)]),
        ("exact duplicates in a split", [pair for pair in within if pair.kind != "near"]),
        ("near duplicates in a split", [pair for pair in within if pair.kind == "near"]),
    ]
    return [(title, pairs) for title, pairs in found if pairs]


def count_pairs(pairs: list[Pair]) -> str:
    """Such as ``3 pairs``."""
    return f"{len(pairs):,} pair{'' if len(pairs) == 1 else 's'}"


def describe_pair(pair: Pair, one: Collection, other: Collection) -> str:
    """Both pictures, with their classes where these differ, and how they agree."""
    first, second = one.entries[pair.first], other.entries[pair.second]
    names = [
        _place(where, where.split_name(index), entry.name)
        for where, index, entry in ((one, pair.first, first), (other, pair.second, second))
    ]
    if first.label != second.label and one is other:
        names = [
            f"{name} ({label})"
            for name, label in zip(names, (first.label, second.label), strict=True)
        ]
    how = {"file": "same file", "pixels": "same pixels"}.get(pair.kind, f"{pair.score:.3f}")
    return f"{names[0]} = {names[1]}  [{how}]"


def _place(collection: Collection, split: str, name: str) -> str:
    """A picture's name, with its split where there are several and the name does not tell."""
    tells = len(collection.source.splits) == 1 or name.startswith(split)
    return name if tells else f"{split}: {name}"


def throughput_lines(values: dict[str, Any]) -> list[str]:
    """The speeds and what limits them."""
    parts = [
        f"{values[key]:,.1f} images/s {what}"
        for key, what in (
            ("decode_per_core", "read, decoded and augmented by a core"),
            ("transfer", "copied to the device"),
            ("forward", "through the model"),
            ("training", "through a training step (estimated)"),
        )
        if values.get(key) is not None
    ]
    return ["throughput:", *(f"  {part}" for part in parts), f"  {values['advice']}"]


def _split_lines(name: str, values: dict[str, Any]) -> list[str]:
    classes = values["classes"]
    pictures = f"{values['listed']:,} picture{'' if values['listed'] == 1 else 's'}"
    found = "1 class" if len(classes) == 1 else f"{len(classes):,} classes"
    lines = [f"{name}: {pictures} of {found}"]
    if len(classes) <= _MOST_CLASSES:
        lines.append("  " + ", ".join(f"{label}: {count:,}" for label, count in classes.items()))
    unequal = values["imbalance"]
    if unequal is not None and unequal["ratio"] > 1:
        (most, more), (least, fewer) = unequal["largest"], unequal["smallest"]
        lines.append(
            f"  largest class {most} {more:,}, smallest {least} {fewer:,}: "
            f"{unequal['ratio']:.3g} to 1"
        )
    if not values["pictures"]:
        return lines
    size, often = values["most_frequent_size"]
    lines += [
        f"  {_spread('width', values['width'])}; {_spread('height', values['height'])}; "
        f"{_spread('aspect', values['aspect'])} (least, 5 %, median, 95 %, most)",
        f"  most frequent size {size} ({often / values['pictures']:.1%})",
        f"  mean {_numbers(values['mean'])}, std {_numbers(values['std'])} of pixels in [0, 1]",
    ]
    turned = {key: n for key, n in values["exif_orientations"].items() if key != "1"}
    if turned:
        counted = ", ".join(f"{count:,} with {key}" for key, count in turned.items())
        lines.append(f"  EXIF orientation: {counted}")
    return lines


def _spread(what: str, values: list[float]) -> str:
    return f"{what} " + " ".join(f"{value:g}" for value in values)


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _pair_lines(title: str, pairs: list[Pair], one: Collection, other: Collection) -> list[str]:
    lines = [f"{title}: {count_pairs(pairs)}"]
    lines += [f"  {describe_pair(pair, one, other)}" for pair in pairs[:_MOST_PAIRS]]
    if len(pairs) > _MOST_PAIRS:
        lines.append(f"  and {len(pairs) - _MOST_PAIRS:,} more: see --html or --json")
    return lines
