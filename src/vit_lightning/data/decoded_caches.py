"""The caches of decoded pictures on this machine: made, bounded, listed, removed."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from vit_lightning.errors import InputError
from vit_lightning.files import cache_folder, write_text

ABOUT, PIXELS, RECORDS, STOPPED, _USED = "about.json", "pixels", "records", "stopped", "used"
_NAME = re.compile(r"[-\w]+\.[0-9a-f]{12}\.decoded", re.ASCII)
_IN_USE = 600.0  # seconds after its last mark of use in which a cache is not removed for another


@dataclass(frozen=True)
class Cache:
    """The decoded pictures of one data set.

    Args:
        folder: where; its name is the cache's.
        about: what it was made with: ``root``, ``count``, ``shorter_side`` and more.
        size: bytes that removing it frees.
        used: when it was last used, in seconds since 1970.
    """

    folder: Path
    about: dict[str, Any]
    size: int
    used: float

    @property
    def name(self) -> str:
        """What to call it."""
        return self.folder.name


def caches_folder(folder: str | None) -> Path:
    """Where caches are: ``folder`` of ``data.cache``, else one in the user's cache folder."""
    if folder is None:
        return cache_folder() / "pictures"
    try:
        return Path(os.path.realpath(Path(folder).expanduser()))
    except (RuntimeError, ValueError) as error:  # an unknown user's home, a zero byte
        raise InputError(f"data.cache.folder: {folder!r} cannot be a folder: {error}") from None


def cache_name(about: Mapping[str, Any], title: str = "") -> str:
    """The name of a cache: its data set's title or folder, and a digest of what it depends on."""
    title = title or Path(about["root"]).name
    name = re.sub(r"[^-\w]", "_", title, flags=re.ASCII)[:40] or "pictures"
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    return f"{name}.{digest}.decoded"


def list_caches(root: Path) -> list[Cache]:
    """All caches in a folder, the one used last first."""
    found = [_cache(path) for path in _folders(root)]
    return sorted(found, key=lambda cache: cache.used, reverse=True)


def remove_cache(root: Path, name: str) -> int:
    """Remove a cache by its name; returns the bytes that this frees.

    A process that uses it goes on reading what it has open, and keeps no more.

    Raises:
        InputError: there is none of that name; the message lists those that are.
    """
    caches = {cache.name: cache for cache in list_caches(root)}
    if name not in caches:
        listed = "".join(f"\n  {known}" for known in caches) or " nothing"
        raise InputError(f"no decoded pictures {name!r} are kept in {root}. Kept are:{listed}")
    with lock_of(caches[name].folder):
        _remove(caches[name].folder)
    return caches[name].size


def prepare(folder: Path, about: Mapping[str, Any], records_bytes: int) -> None:
    """Make the folder of a cache, unless it is there and whole.

    Args:
        folder: of the cache.
        about: what it is made with.
        records_bytes: the size of ``records``.

    Raises:
        OSError: it cannot be made.
    """
    if _is_whole(folder, about, records_bytes):
        mark_used(folder)
        with contextlib.suppress(OSError):
            (folder / STOPPED).unlink(missing_ok=True)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock_of(folder):
        if _is_whole(folder, about, records_bytes):  # another process was quicker
            return
        _remove(folder)
        folder.mkdir()
        with (folder / RECORDS).open("wb") as records:
            records.truncate(records_bytes)
        (folder / PIXELS).touch()
        mark_used(folder)
        write_text(folder / ABOUT, json.dumps(about, indent=2) + "\n")


def _is_whole(folder: Path, about: Mapping[str, Any], records_bytes: int) -> bool:
    try:
        size = (folder / RECORDS).stat().st_size
        known = json.loads((folder / ABOUT).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    whole: bool = known == dict(about) and size == records_bytes
    return whole and (folder / PIXELS).is_file()


def make_room(folder: Path, nbytes: int, max_bytes: int) -> bool:
    """Whether ``nbytes`` more may be kept; under the lock.

    Other caches that nobody uses are removed for it, the one that was used longest ago first.
    """
    taken = _size(folder.parent)
    if taken + nbytes <= max_bytes:
        return True
    others = [cache for cache in list_caches(folder.parent) if cache.folder != folder]
    idle = [cache for cache in others if cache.used < time.time() - _IN_USE]
    if taken - sum(cache.size for cache in idle) + nbytes > max_bytes:
        return False
    while taken + nbytes > max_bytes:
        cache = idle.pop()
        _remove(cache.folder)
        taken -= cache.size
    return True


def mark_used(folder: Path) -> None:
    """Note that a cache is used now."""
    with contextlib.suppress(OSError):
        (folder / _USED).touch()


def lock_of(folder: Path, timeout: float = -1) -> FileLock:
    """The lock under which the caches beside ``folder`` are changed.

    A new one each time: a process that is forked has no part in it.
    """
    return FileLock(folder.parent / ".lock", timeout=timeout, poll_interval=0.002)


def claim_note(folder: Path) -> bool:
    """Whether this process is the one that says why nothing more is kept."""
    try:
        os.close(os.open(folder / STOPPED, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def _cache(folder: Path) -> Cache:
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
    except (OSError, ValueError):
        about = {}
    try:
        used = (folder / _USED).stat().st_mtime
    except OSError:
        used = 0.0
    about = about if isinstance(about, dict) else {}
    return Cache(folder, about, _folder_size(folder), used)


def _size(root: Path) -> int:
    """Bytes of all caches."""
    return sum(map(_folder_size, _folders(root)))


def _folders(root: Path) -> list[Path]:
    """The folders of caches, and of what is left of some; whose else a folder is, it stays."""
    try:
        return [Path(entry) for entry in os.scandir(root) if _NAME.fullmatch(entry.name)]
    except OSError:
        return []


def _folder_size(folder: Path) -> int:
    total = 0
    for name in (PIXELS, RECORDS):
        with contextlib.suppress(OSError):
            total += (folder / name).stat().st_size
    return total


def _remove(folder: Path) -> None:
    # First what makes it a cache: half of one is none.
    with contextlib.suppress(OSError):
        (folder / ABOUT).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
