"""Features of pictures kept on disk, so that they are computed once.

Those of one model and one preprocessing are in one folder, in files of records: the key of a
picture, a check sum, its features. A record that is damaged is as good as none.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_lightning.console import say_notes
from vit_lightning.data.pictures import ArrayPictures, PictureFiles, Pictures
from vit_lightning.files import atomic_write, cache_folder, write_text

_FORMAT = 1
_SUFFIX = ".features"
_ABOUT = "about.json"
_KEY_BYTES = 16
_MOST_BYTES = 5_000_000_000  # of all folders


@dataclass(frozen=True)
class Kept:
    """The features that are kept of one model.

    Args:
        folder: where.
        about: what they were computed with.
        size: bytes of all files.
        used: when they were last used, in seconds since 1970.
    """

    folder: Path
    about: dict[str, Any]
    size: int
    used: float

    @property
    def name(self) -> str:
        """What to call it; unique in its folder."""
        return self.folder.name

    @property
    def title(self) -> str:
        """What the weights were called."""
        return str(self.about.get("title", "damaged"))


def features_folder() -> Path:
    """Where features are kept."""
    return cache_folder() / "features"


def list_features() -> list[Kept]:
    """What is kept, the one used last first."""
    try:
        entries = [Path(entry) for entry in os.scandir(features_folder())]
    except OSError:
        return []
    found = [_kept(path) for path in entries if path.suffix == _SUFFIX]
    return sorted(found, key=lambda kept: kept.used, reverse=True)


def remove_features(kept: Kept) -> None:
    """Remove the features of one model; a process that reads them has them open."""
    shutil.rmtree(kept.folder, ignore_errors=True)


def picture_keys(pictures: Pictures) -> list[bytes] | None:
    """What tells each picture from all others and from what it was before it was changed.

    Of a file its place, size and time; of a picture in memory its pixels. None for pictures that
    have neither, whose features are not kept.
    """
    if isinstance(pictures, PictureFiles):
        root = pictures.root.resolve()
        return [_file_key(root / name) for name in pictures.names]
    if isinstance(pictures, ArrayPictures):
        shape = str(pictures.pixels.shape[1:]).encode()
        return [_digest(shape, pixels.tobytes()) for pixels in pictures.pixels]
    return None


class FeatureStore:
    """The features that one model gave.

    Args:
        about: all that features depend on beside the pictures; plain JSON types.
        title: what to call it in front of people.
        dim: features of a picture.
    """

    def __init__(self, about: dict[str, Any], title: str, dim: int) -> None:
        self._about = about | {"format": _FORMAT, "title": title}
        depends = json.dumps(about | {"format": _FORMAT}, sort_keys=True).encode()
        name = re.sub(r"[^-\w]", "_", Path(title).name, flags=re.ASCII)[:40] or "weights"
        self.folder = features_folder() / f"{name}.{_digest(depends).hex()[:12]}{_SUFFIX}"
        self._record = np.dtype(
            [("key", "u1", (_KEY_BYTES,)), ("check", "<u4"), ("values", "<f4", (dim,))]
        )
        self._dim = dim
        self._failed = False

    def get(self, keys: Sequence[bytes]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What is kept of these pictures.

        Returns:
            (N, D) features, and (N,) whether they are known; the others are zeros.
        """
        values = np.zeros((len(keys), self._dim), dtype=np.float32)
        known = np.zeros(len(keys), dtype=bool)
        places: dict[bytes, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        for path in sorted(self.folder.glob("[!.]*.npy")):
            for row in self._records(path):
                key = row["key"].tobytes()
                if key in places and _check(key, row["values"]) == int(row["check"]):
                    values[places[key]] = row["values"]
                    known[places[key]] = True
        with contextlib.suppress(OSError):
            os.utime(self.folder / _ABOUT)
        return values, known

    def put(self, keys: Sequence[bytes], values: NDArray[np.float32]) -> None:
        """Keep (N, D) features, N ≥ 1; where that is not possible, say so once."""
        records = np.empty(len(keys), self._record)
        records["key"] = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY_BYTES)
        records["check"] = [_check(key, row) for key, row in zip(keys, values, strict=True)]
        records["values"] = values
        try:
            if not self._make_room(records.nbytes):
                raise OSError(f"they take more than {_MOST_BYTES // 10**9} GB")
            if not (self.folder / _ABOUT).exists():
                write_text(self.folder / _ABOUT, json.dumps(self._about, indent=2) + "\n")
            with atomic_write(self.folder / f"{_digest(*keys).hex()}.npy") as temporary:
                np.save(temporary, records, allow_pickle=False)
        except OSError as error:
            if not self._failed:
                say_notes([f"features are not kept in {self.folder}: {error.strerror or error}"])
            self._failed = True

    def _records(self, path: Path) -> NDArray[Any]:
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            found = None
        if found is None or found.dtype != self._record or found.ndim != 1:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return np.empty(0, self._record)
        records: NDArray[Any] = np.asarray(found)
        return records

    def _make_room(self, nbytes: int) -> bool:
        """Whether so much more may be kept; what was used longest ago is removed for it."""
        kept = list_features()
        taken = sum(each.size for each in kept) + nbytes
        while taken > _MOST_BYTES and kept:
            oldest = kept.pop()
            if oldest.folder == self.folder:
                continue
            remove_features(oldest)
            taken -= oldest.size
        return taken <= _MOST_BYTES


def _read_about(folder: Path) -> dict[str, Any]:
    """What a folder says of itself; nothing if that is damaged."""
    try:
        about = json.loads((folder / _ABOUT).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _kept(folder: Path) -> Kept:
    size, used = 0, 0.0
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            size += entry.stat().st_size
        used = (folder / _ABOUT).stat().st_mtime
    return Kept(folder, _read_about(folder), size, used)


def _file_key(path: Path) -> bytes:
    try:
        status = path.stat()
        stamp = f"{status.st_size} {status.st_mtime_ns}"
    except (OSError, ValueError):  # it cannot be read, which is told when that is tried
        stamp = "absent"
    return _digest(os.fsencode(path), stamp.encode())


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=_KEY_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _check(key: bytes, values: NDArray[np.float32]) -> int:
    return zlib.crc32(np.ascontiguousarray(values, dtype="<f4").tobytes(), zlib.crc32(key))
