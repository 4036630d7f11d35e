"""Pictures that are decoded once and kept on disk: later epochs read their pixels."""

import functools
import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_lightning.console import is_main_process, say_notes
from vit_lightning.data.decoded_caches import cache_name, caches_folder, claim_note, prepare
from vit_lightning.data.decoded_store import KeptPixels, Stamp, Store, records_bytes
from vit_lightning.data.names import PackedNames
from vit_lightning.data.pictures import (
    Interpolation,
    Labels,
    OpenPicture,
    PictureError,
    PictureFiles,
    Pictures,
    Region,
    WholePicture,
    resized_image,
)
from vit_lightning.models.config import Size
from vit_lightning.settings import CacheSettings

_FORMAT = 1
_BATCH = 8  # pictures between two signs of progress


def open_cache(pictures: Pictures, settings: CacheSettings) -> Pictures:
    """Keep the pictures of a data set decoded.

    The splits of one data set share a cache, whichever pictures are held out. It is told from
    others by the folder, all its file names and ``shorter_side``; a picture whose file has another
    size or time than when it was kept is decoded again.

    Args:
        pictures: of files; any others are in memory already, and are returned as they are.
        settings: where, how much and how large.

    Returns:
        The same pictures. Without ``shorter_side`` they have the same pixels, too.
    """
    if not isinstance(pictures, PictureFiles):
        return pictures
    cached = CachedPictures(pictures, settings)
    cached.prepare()
    return cached


@dataclass(frozen=True, eq=False)
class KeptPicture:
    """A decoded picture in a file.

    Args:
        kept: its pixels there; ``kept.rows`` reads as many as are wanted, without Pillow.
    """

    kept: KeptPixels

    @property
    def size(self) -> Size:
        """See ``OpenPicture``."""
        return self.kept.size

    def aligned(self, region: Region, size: Size) -> Region:
        """The region itself: all have the same price."""
        return region

    def part(self, region: Region, size: Size) -> tuple[Image.Image, Region]:
        """The whole picture: Pillow's resizing looks beyond a region, if only by its filter."""
        return Image.fromarray(self.kept.whole()), region

    def rows(self, region: Region) -> tuple[NDArray[np.uint8], Region]:
        """The rows that the region touches as they lie in the file, and the region in them."""
        left, top, right, bottom = region
        first, last = math.floor(top), math.ceil(bottom)
        return self.kept.rows(first, last), (left, top - first, right, bottom - first)

    def resized(
        self, region: Region, size: Size, interpolation: Interpolation
    ) -> NDArray[np.uint8]:
        """See ``OpenPicture``; by Pillow, which looks beyond the region at its edges."""
        return np.array(resized_image(*self.part(region, size), size, interpolation))


class CachedPictures:
    """Picture files, decoded once.

    What is read is the same whether a picture is kept, has just been decoded, or finds no room. A
    copy in another process opens the files for itself.

    Args:
        pictures: what is decoded.
        settings: as of ``open_cache``.

    Attributes:
        folder: where the pictures are kept.
    """

    def __init__(self, pictures: PictureFiles, settings: CacheSettings) -> None:
        self.pictures = pictures
        self.settings = settings
        self._count = len(pictures.packed.whole)
        self._about = {
            "format": _FORMAT,
            "root": str(pictures.root.resolve()),
            "count": self._count,
            "shorter_side": settings.shorter_side,
            "names": _digest(pictures.packed.whole),
        }
        self.folder = caches_folder(settings.folder) / cache_name(self._about, pictures.title)
        self._store: Store | None = None
        self._process = 0
        self._said = False

    @property
    def labels(self) -> Labels:
        """See ``Pictures``."""
        return self.pictures.labels

    @property
    def packed(self) -> PackedNames:
        """See ``PictureFiles``."""
        return self.pictures.packed

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        """See ``Pictures``."""
        return self.pictures.name(index)

    def open(self, index: int) -> OpenPicture:
        """See ``Pictures``; what is decoded for it is kept."""
        kept = self._kept(index)
        return WholePicture(self._decoded(index)) if kept is None else KeptPicture(kept)

    def load(self, index: int) -> Image.Image:
        """See ``Pictures``; what is decoded for it is kept."""
        kept = self._kept(index)
        return self._decoded(index) if kept is None else Image.fromarray(kept.whole())

    def pixels(self, index: int) -> NDArray[np.uint8] | None:
        """Picture ``index`` as it is kept, (height, width, 3); None if it is not."""
        kept = self._kept(index)
        return None if kept is None else kept.whole()

    def keep(self, index: int) -> bool:
        """Decode and keep picture ``index`` unless that has been done; whether it is kept.

        Raises:
            PictureError: it cannot be read.
        """
        if self._kept(index) is None:
            self._decoded(index)
        return self._kept(index) is not None

    def prepare(self) -> None:
        """Make the cache if there is none; where that is not possible, say so and do without."""
        try:
            prepare(self.folder, self._about, records_bytes(self._count))
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            _say_not_kept(self.folder.parent, reason)
            self._said = True

    def note(self) -> str:
        """A sentence on how many pictures are kept, and where."""
        store = self._opened()
        kept, count = (0 if store is None else store.kept()), self._count
        return f"decoded pictures: {kept} of {count} are kept in {self.folder}"

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is open."""
        return self.__dict__ | {"_store": None, "_process": 0}

    def _opened(self) -> Store | None:
        """The store, opened in this process; None if there is none."""
        if self._process != os.getpid():
            self._process = os.getpid()
            try:
                bound = int(self.settings.max_gb * 1e9)
                self._store = Store(self.folder, self._count, bound)
            except (OSError, ValueError):
                self._store = None
        return self._store

    def _kept(self, index: int) -> KeptPixels | None:
        store = self._opened()
        if store is None:
            return None
        position = self.packed.position(index)
        if store.is_known(position):
            return store.get(position)
        stamp = self._stamp(index)
        return None if stamp is None else store.get(position, stamp)

    def _stamp(self, index: int) -> Stamp | None:
        try:
            status = (self.pictures.root / self.pictures.name(index)).stat()
        except OSError:
            return None
        return Stamp(status.st_size, status.st_mtime_ns)

    def _decoded(self, index: int) -> Image.Image:
        """The picture from its file, kept if that is possible."""
        stamp = self._stamp(index)  # before it is read: it may change meanwhile
        picture = _at_most(self.pictures.load(index), self.settings.shorter_side)
        store = self._opened()
        if store is not None and stamp is not None:
            position = self.packed.position(index)
            if not store.put(position, stamp, np.asarray(picture)) and store.stopped:
                self._say_stopped(store)
        return picture

    def _say_stopped(self, store: Store) -> None:
        """Once for all processes: why no more pictures are kept."""
        if not self._said and is_main_process() and claim_note(self.folder):
            say_notes(
                [
                    f"{store.stopped}: {store.kept()} of {self._count} decoded pictures "
                    "are kept, the others are decoded each time (data.cache.max_gb; vit data list)"
                ]
            )
        self._said = True


@functools.cache
def _say_not_kept(folder: Path, reason: str) -> None:
    """Once for all splits: that no pictures are kept."""
    say_notes(
        [
            f"data.cache.folder: decoded pictures are not kept, as nothing can be written to "
            f"{folder} ({reason})"
        ]
    )


class _Kept:
    """Pictures as whether they are kept, or why they cannot be read."""

    def __init__(self, pictures: CachedPictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[bool, str]:
        try:
            return self.pictures.keep(index), ""
        except PictureError as error:
            return False, str(error)


def build(pictures: CachedPictures, workers: int | None, done: Callable[[int], None]) -> list[str]:
    """Decode and keep all pictures, until there is no more room.

    Args:
        pictures: of which none, some or all are kept.
        workers: processes; None for one per core, 0 works in this one.
        done: told how many more are done.

    Returns:
        What was said of pictures that cannot be read.
    """
    from torch.utils.data import (
        DataLoader,
    )  # seconds, which processes that only read can do without

    if workers is None:
        known = hasattr(os, "sched_getaffinity")
        workers = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    unreadable = []
    dataset: Any = _Kept(pictures)
    loader = DataLoader(dataset, _BATCH, num_workers=workers, collate_fn=list)
    for batch in loader:
        unreadable += [message for _, message in batch if message]
        readable = [kept for kept, message in batch if not message]
        if readable and not any(readable):
            break
        done(len(batch))
    return unreadable


def _at_most(picture: Image.Image, shorter_side: int | None) -> Image.Image:
    """A picture scaled down, if need be, until its shorter side is ``shorter_side``."""
    shorter = min(picture.size)
    if shorter_side is None or shorter <= shorter_side:
        return picture
    width, height = (max(round(side * shorter_side / shorter), 1) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _digest(names: PackedNames) -> str:
    digest = hashlib.sha256()
    for chunk in names.chunks():
        digest.update(chunk)
    return digest.hexdigest()
