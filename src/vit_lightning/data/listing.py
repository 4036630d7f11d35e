"""Which pictures lie in a folder: read once, kept in an index while no folder changes.

A system tells of a file that came, went or was renamed by the time stamps of its folder. So the
index of a million pictures in a thousand folders is compared with a thousand time stamps, and its
names are mapped into memory rather than read.
"""

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vit_lightning.data.names import PackedNames, names_in_file
from vit_lightning.data.pictures import EXTENSIONS
from vit_lightning.errors import InputError
from vit_lightning.files import atomic_write, cache_folder

INDEX = ".listing"  # the suffix of an index
WORTH_KEEPING = 10_000  # pictures; fewer are listed as fast as an index is read
_MAGIC = b"vit-lightning listing 2\n"  # 2: .avif, .jfif and .jp2 are pictures too
_HEAD = len(_MAGIC) + 4  # bytes before the header: the magic and the header's length
# A folder may change again within one tick of its file system's clock, and show the same time.
_TICK, _COARSE_TICK = (
    50_000_000,
    2_000_000_000,
)  # nanoseconds; of clocks that know milliseconds, ...
_SUFFIXES = frozenset(extension[1:] for extension in EXTENSIONS)

Stamp = tuple[str, int, int]  # a folder, and when its files and it itself were last changed, in ns


@dataclass
class SplitListing:
    """What lies in the folder of one split.

    Args:
        folder: where.
        names: the paths of its pictures, below the root: class by class, each in order.
        classes: class, in order → how many of the names are its.
        skipped: extension → files that are no pictures of a class.
        unfollowed: links to folders that are read already, below the root.
    """

    folder: Path
    names: PackedNames
    classes: dict[str, int]
    skipped: Counter[str]
    unfollowed: list[str]


def list_pictures(root: Path, folders: dict[str, Path]) -> dict[str, SplitListing]:
    """List the pictures of every split, or take them from the index if nothing has changed.

    Args:
        root: what the names are relative to.
        folders: split → its folder, which lies in ``root`` or is it.

    Returns:
        Split → its pictures; the names of all share one buffer.

    Raises:
        InputError: folders that cannot be read; all of them are told.
        OSError: the folder of a split cannot be read.
    """
    index = index_path(root)
    kept = _read_index(index, root, folders)
    if kept is not None:
        return kept
    started = time.time_ns()
    found = _Found(root)
    raw = {name: _list_split(found, folder) for name, folder in folders.items()}
    found.raise_problems()
    splits = _packed(raw)
    if sum(len(split.names) for split in splits.values()) >= WORTH_KEEPING:
        # A cache folder that cannot be written to is no reason not to train.
        with contextlib.suppress(OSError):
            _write_index(index, root, splits, _settled(found.stamps, started))
            return _read_index(index, root, folders) or splits
    return splits


def list_split(root: Path, folder: Path) -> SplitListing:
    """List the pictures of one split, ``folder``, which lies in ``root`` or is it.

    Raises:
        InputError: folders that cannot be read; all of them are told.
        OSError: ``folder`` itself cannot be read.
    """
    found = _Found(root)
    split = _list_split(found, folder)
    found.raise_problems()
    return _packed({"": split})[""]


def index_path(root: Path) -> Path:
    """Where the index of a folder is kept."""
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return listings_folder() / f"{digest}{INDEX}"


def listings_folder() -> Path:
    """Where the indices are kept."""
    return cache_folder() / "listings"


def list_indices() -> list[tuple[Path, str]]:
    """All indices, and the folders that they are of."""
    paths = sorted(listings_folder().glob(f"[!.]*{INDEX}"))
    return [(path, str((_read_header(path) or {}).get("root", "damaged"))) for path in paths]


# Reading folders


@dataclass
class _RawSplit:
    folder: Path
    classes: dict[str, list[str]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    unfollowed: list[str] = field(default_factory=list)


class _Found:
    """What is met on the way through the folders of one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stamps: list[Stamp] = []
        self.problems: list[str] = []
        self.above = {self.enter(root)}

    def enter(self, folder: Path) -> tuple[int, int]:
        """Note the time stamps of a folder before it is read; returns what tells it from others."""
        status = folder.stat()
        self.stamps.append(_stamp(_below(self.root, folder), status))
        return status.st_dev, status.st_ino

    def raise_problems(self) -> None:
        """InputError if there were folders that could not be read."""
        if self.problems:
            listed = "\n  ".join(self.problems)
            raise InputError(f"{self.root}: folders of pictures cannot be read:\n  {listed}")


def _stamp(name: str, status: os.stat_result) -> Stamp:
    # Both: tools that copy folders set the first one back, and nobody sets the second.
    return name, status.st_mtime_ns, status.st_ctime_ns


def _below(root: Path, folder: Path) -> str:
    return folder.relative_to(root).as_posix()


def _list_split(found: _Found, folder: Path) -> _RawSplit:
    split = _RawSplit(folder)
    above = found.above | ({found.enter(folder)} if folder != found.root else set())
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            split.classes[entry.name] = _pictures_below(found, split, entry, set(above))
        else:
            split.skipped["files outside a class folder"] += 1
    return split


def _pictures_below(
    found: _Found, split: _RawSplit, top: Path, seen: set[tuple[int, int]]
) -> list[str]:
    """The pictures of a class. Each folder is read once, by its own name rather than by a link."""
    names: list[str] = []
    folders, links = [top], list[Path]()
    while folders or links:
        linked = not folders
        folder = links.pop(0) if linked else folders.pop()
        try:
            identity = found.enter(folder)
            if identity in seen:
                split.unfollowed.append(_below(found.root, folder))
                continue
            seen.add(identity)
            with os.scandir(folder) as entries:
                inner = _sort_out(entries, f"{_below(found.root, folder)}/", names, split.skipped)
        except OSError as error:
            found.problems.append(f"{folder}: {error.strerror or error}")
            continue
        folders += [folder / name for name, is_link in inner if not is_link]
        links += [folder / name for name, is_link in inner if is_link]
    return sorted(names)


def _sort_out(
    entries: Iterable["os.DirEntry[str]"], prefix: str, names: list[str], skipped: Counter[str]
) -> list[tuple[str, bool]]:
    """Add pictures to ``names``; returns the folders, sorted, and whether they are links."""
    folders = []
    for entry in entries:
        name = entry.name
        if name.startswith("."):
            continue
        if _is_folder(entry):
            folders.append((name, entry.is_symlink()))
        elif (suffix := name.rpartition(".")[2].lower()) in _SUFFIXES:
            names.append(prefix + name)
        else:
            skipped[f".{suffix}" if "." in name else "files without an extension"] += 1
    return sorted(folders)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _packed(splits: dict[str, _RawSplit]) -> dict[str, SplitListing]:
    lists = [names for split in splits.values() for names in split.classes.values()]
    names = PackedNames.pack([name for names in lists for name in names])
    first, packed = 0, {}
    for key, split in splits.items():
        counts = {label: len(names) for label, names in split.classes.items()}
        last = first + sum(counts.values())
        found = (split.skipped, split.unfollowed)
        packed[key] = SplitListing(split.folder, names[first:last], counts, *found)
        first = last
    return packed


# The index: the magic, the length of the header, the header (JSON), zeros, a check sum of all that
# follows and of the header, the offsets of the names, the names.


def _settled(stamps: list[Stamp], started: int) -> list[Stamp]:
    """The stamps; those that a later change might leave as they are are made to fit no more."""
    return [
        stamp if _is_settled(max(stamp[1:]), started) else (stamp[0], -1, -1) for stamp in stamps
    ]


def _is_settled(changed: int, now: int) -> bool:
    return changed < now - (_TICK if changed % 1_000_000 else _COARSE_TICK)


def _write_index(
    path: Path, root: Path, splits: dict[str, SplitListing], stamps: list[Stamp]
) -> None:
    names = next(iter(splits.values())).names.whole
    header = {
        "root": str(root.resolve()),
        "count": len(names),
        "folders": stamps,
        "splits": {
            key: {
                "folder": _below(root, split.folder),
                "classes": list(split.classes.items()),
                "skipped": split.skipped,
                "unfollowed": split.unfollowed,
            }
            for key, split in splits.items()
        },
    }
    encoded = json.dumps(header).encode("ascii")
    text = list(names.chunks())
    offsets = names.offsets + _start(len(encoded)) + names.offsets.nbytes
    mark = zlib.crc32(encoded)
    for part in (offsets.astype("<i8").tobytes(), *text):
        mark = zlib.crc32(part, mark)
    padding = _start(len(encoded)) - _HEAD - len(encoded) - 4
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_MAGIC + len(encoded).to_bytes(4, "little") + encoded + b"\0" * padding)
        file.write(mark.to_bytes(4, "little"))
        file.write(offsets.astype("<i8").tobytes())
        file.writelines(text)


def _start(header: int) -> int:
    """The byte at which the offsets begin, behind a header of so many bytes."""
    return -(-(_HEAD + header + 4) // 8) * 8


def _read_index(path: Path, root: Path, folders: dict[str, Path]) -> dict[str, SplitListing] | None:
    """What an index tells; None if there is none, or it is no longer true, or damaged."""
    header = _read_header(path)
    try:
        if header is None or header["root"] != str(root.resolve()):
            return None
        expected = {key: _below(root, folder) for key, folder in folders.items()}
        if expected != {key: split["folder"] for key, split in header["splits"].items()}:
            return None
        for name, *times in header["folders"]:
            if list(_stamp(name, (root / name).stat())[1:]) != times:
                return None
        names = _names_of(path, header)
        return None if names is None else dict(_splits_of(header, names, folders))
    except (OSError, InputError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _read_header(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            header = json.loads(file.read(int.from_bytes(file.read(4), "little")))
    except (OSError, ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def _names_of(path: Path, header: dict[str, Any]) -> PackedNames | None:
    """The names of an index, if it is whole and they are names of files below a folder."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEAD)[-4:], "little")
        mark = zlib.crc32(file.read(length))
        start = _start(length)
        file.seek(start - 4)
        expected = int.from_bytes(file.read(4), "little")
        while block := file.read(1 << 20):
            mark = zlib.crc32(block, mark)
    if mark != expected:
        return None
    names = names_in_file(path, start, header["count"], mark)
    offsets = names.offsets
    ends = (int(offsets[0]), int(offsets[-1]))
    whole = ends == (start + offsets.nbytes, path.stat().st_size) and bool(
        (np.diff(offsets) > 1).all()
    )
    return names if whole and not any(map(_leads_out, names.chunks())) else None


def _leads_out(names: bytes) -> bool:
    """Whether names, each with a zero byte behind it, lead out of the folder they are below."""
    names = b"\0" + names
    return any(part in names for part in (b"\0/", b"\0../", b"/../"))


def _splits_of(
    header: dict[str, Any], names: PackedNames, folders: dict[str, Path]
) -> Iterator[tuple[str, SplitListing]]:
    first = 0
    for key, split in header["splits"].items():
        classes = {str(label): int(count) for label, count in split["classes"]}
        last = first + sum(classes.values())
        skipped = Counter({str(what): int(count) for what, count in split["skipped"].items()})
        links = [str(link) for link in split["unfollowed"]]
        yield key, SplitListing(folders[key], names[first:last], classes, skipped, links)
        first = last
    if first != len(names):
        raise ValueError("classes and names of the index do not go together")
