"""Where decoded pictures are kept: a folder for each data set, shared by all its processes.

``pixels`` holds 8-bit RGB pictures one after the other and only grows. ``records`` has a place for
every picture of the data set, which tells where its pixels are; it is mapped into the memory of
all processes, so that what one has decoded is there for the others at once. Pixels are written
before their record, both under a lock, and a record carries check sums of itself and of its
pixels: whatever instant a process or the machine stops at, what is left is either whole or not
taken for a picture.

Should ``pixels`` be cut off nonetheless, the records of what is gone are cleared before anything
is written where it was. For that, two numbers stand behind the records: how long ``pixels`` is,
and a count that changes when records are cleared, so that who is reading meanwhile learns of it.
"""

import contextlib
import errno
import mmap
import os
import secrets
import struct
import time
import weakref
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import Timeout
from numpy.typing import NDArray

from vit_lightning.data.decoded_caches import PIXELS, RECORDS, lock_of, make_room, mark_used
from vit_lightning.errors import InputError
from vit_lightning.models.config import Size

_RECORD = struct.Struct("<qqqIIIII")
RECORD_BYTES = _RECORD.size
_PLACES = np.dtype("<i8, <i8, <i8, <u4, <u4, <u4, <u4, <u4")  # records, for all at once
_TAIL = struct.Struct("<qq")  # behind them: the length of the pixels, how often some were cut off
_PATIENCE = 10.0  # seconds for the lock: a picture can also go without being kept
_AGAIN = 60.0  # seconds after which a full cache looks for room again
_USED = 60.0  # seconds between two marks of being used
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class Stamp(NamedTuple):
    """What a picture's file was like when it was decoded."""

    size: int
    changed: int  # in nanoseconds


class _Record(NamedTuple):
    """Where a picture is, and what it was made of."""

    offset: int
    source_size: int
    source_changed: int
    height: int
    width: int
    pixels_sum: int
    boot: int  # the start of the machine since which the pixels are known to be right
    own_sum: int

    @property
    def nbytes(self) -> int:
        return self.height * self.width * 3


class KeptPixels:
    """The pixels of one picture in a file.

    Attributes:
        size: (height, width).
    """

    def __init__(self, store: "Store", offset: int, size: Size, cuts: int) -> None:
        self._store = store
        self._offset = offset
        self._cuts = cuts
        self.size = size

    def rows(self, first: int, last: int) -> NDArray[np.uint8]:
        """Rows ``first`` to ``last`` (exclusive), (rows, width, 3), in memory of their own.

        Read, not mapped: for a picture of half a megabyte that takes half the time, and a file
        that somebody cuts off is an error, not the end of the process.

        Raises:
            InputError: the file is shorter than it was, or the disk fails.
        """
        width = self.size[1]
        pixels = np.empty((last - first, width, 3), np.uint8)
        wanted, offset = pixels.data.cast("B"), self._offset + first * width * 3
        try:
            while wanted:
                count = os.preadv(self._store.pixels_file, [wanted], offset)
                if not count:
                    raise OSError("it was cut off")
                wanted, offset = wanted[count:], offset + count
            if self._store.cuts != self._cuts:  # others may have written here since
                raise OSError("it was cut off")
        except OSError as error:
            folder = self._store.folder
            raise InputError(
                f"{folder / PIXELS} cannot be read ({error}); remove it: vit data remove "
                f"{folder.name}"
            ) from None
        return pixels

    def whole(self) -> NDArray[np.uint8]:
        """(height, width, 3), in memory of its own; raises as ``rows``."""
        return self.rows(0, self.size[0])


class Store:
    """The decoded pictures of one data set, in one process.

    Args:
        folder: what ``decoded_caches.prepare`` has made.
        count: of the pictures of the data set.
        max_bytes: that all caches beside ``folder`` may take together.

    Raises:
        OSError: there is no such folder, or it cannot be read.

    Attributes:
        pixels_file: what pixels are read from.
        stopped: why nothing more is kept, in words; empty while pictures are.
    """

    def __init__(self, folder: Path, count: int, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.stopped = ""
        self._may_go_on = False
        self._next_try = self._next_mark = 0.0
        self._count = count
        self._is_checked = False
        self._boot = _boot()
        self._seen = bytearray(count)  # the pictures whose file is known to be as it was
        try:
            self.pixels_file, self._records = self._opened(os.O_RDWR)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            self.pixels_file, self._records = self._opened(os.O_RDONLY)
            self.stopped = f"{folder} cannot be written to"
        self._table = mmap.mmap(self._records, records_bytes(count), access=mmap.ACCESS_READ)
        self._size = os.fstat(self.pixels_file).st_size

    def _opened(self, flags: int) -> tuple[int, int]:
        files: list[int] = []
        for name in (PIXELS, RECORDS):
            files.append(os.open(self.folder / name, flags))
            weakref.finalize(self, os.close, files[-1])
        return files[0], files[1]

    @property
    def cuts(self) -> int:
        """Changes whenever pixels turn out to have been cut off."""
        return self._tail()[1]

    def is_known(self, position: int) -> bool:
        """Whether a picture's file need not be looked at, as it was when it was kept."""
        return bool(self._seen[position])

    def get(self, position: int, stamp: Stamp | None = None) -> KeptPixels | None:
        """Where a picture is kept.

        Args:
            position: of the picture in the data set.
            stamp: of its file; None if ``is_known``.

        Returns:
            None if it is not kept, or was made of another file.
        """
        cuts = self.cuts  # before the record is read
        record = self._record(position)
        if record is None or (stamp and stamp != (record.source_size, record.source_changed)):
            return None
        kept = KeptPixels(self, record.offset, (record.height, record.width), cuts)
        if record.boot != self._boot:
            # The machine may have stopped before the pixels were on the disk.
            if zlib.crc32(kept.whole().data) != record.pixels_sum:
                return None
            with contextlib.suppress(OSError):  # in a folder that can only be read: check each time
                self._write(position, record._replace(boot=self._boot))
                if self.cuts != cuts:  # it may have been cleared just before
                    self._clear(position)
                    return None
        self._seen[position] = 1
        self._mark_used()
        return kept

    def put(self, position: int, stamp: Stamp, pixels: NDArray[np.uint8]) -> bool:
        """Keep a picture, if there is room; whether it is kept now.

        Args:
            position: of the picture in the data set.
            stamp: of its file, from before it was read.
            pixels: (height, width, 3), contiguous.
        """
        if self.stopped and not (self._may_go_on and time.monotonic() > self._next_try):
            return False
        checked = zlib.crc32(pixels.data)
        try:
            with lock_of(self.folder, _PATIENCE):
                self._forget_what_was_cut_off()
                record = self._record(position)
                # Another process may have been quicker.
                if record is None or stamp != (record.source_size, record.source_changed):
                    if not self._has_room(pixels.nbytes):
                        return False
                    offset = self._append(pixels)
                    height, width = pixels.shape[:2]
                    record = _Record(offset, *stamp, height, width, checked, self._boot, 0)
                    self._write(position, record)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:  # a file system without locks
            self._stop(_reason(error, self.folder), for_good=True)
            return False
        self.stopped = ""
        self._mark_used()
        return True

    def kept(self) -> int:
        """How many pictures are kept."""
        return _count(self._table)

    def _record(self, position: int) -> _Record | None:
        start = position * RECORD_BYTES
        content = self._table[start : start + RECORD_BYTES]
        record = _Record._make(_RECORD.unpack(content))
        if record.own_sum != _own_sum(position, content) or not record.nbytes:
            return None
        end = record.offset + record.nbytes
        if end > self._size:
            self._size = os.fstat(self.pixels_file).st_size
        return record if record.offset >= 0 and end <= self._size else None

    def _write(self, position: int, record: _Record) -> None:
        content = _RECORD.pack(*record)
        content = content[:-4] + _own_sum(position, content).to_bytes(4, "little")
        os.pwrite(self._records, content, position * RECORD_BYTES)

    def _clear(self, position: int) -> None:
        os.pwrite(self._records, bytes(RECORD_BYTES), position * RECORD_BYTES)

    def _tail(self) -> tuple[int, int]:
        length, cuts = _TAIL.unpack_from(self._table, self._count * RECORD_BYTES)
        return length, cuts

    def _write_tail(self, length: int, cuts: int) -> None:
        os.pwrite(self._records, _TAIL.pack(length, cuts), self._count * RECORD_BYTES)

    def _forget_what_was_cut_off(self) -> None:
        """Clear the records of pixels beyond the end of the file; under the lock.

        All records are looked at once in each process, as a crash of the machine may have lost
        the length that they tell; after that, only when the file is shorter than that length.
        """
        self._size = os.fstat(self.pixels_file).st_size
        length, cuts = self._tail()
        if self._is_checked and self._size >= length:
            return
        records = np.frombuffer(self._table, _PLACES, self._count)
        sides = records["f3"].astype(np.int64) * records["f4"]
        lost = np.flatnonzero(records["f0"] + 3 * sides > self._size).tolist()
        if lost:
            # Changed before, for who writes a record meanwhile, and after, for who reads one.
            self._write_tail(length, cuts + 1)
            for position in lost:
                self._clear(position)
        self._write_tail(self._size, cuts + 2 * bool(lost))
        self._is_checked = True

    def _append(self, pixels: NDArray[np.uint8]) -> int:
        """Write pixels at the end of the file; returns where they begin."""
        end = os.fstat(self.pixels_file).st_size
        content = pixels.data.cast("B")
        try:
            written = 0
            while written < len(content):
                written += os.pwrite(self.pixels_file, content[written:], end + written)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.pixels_file, end)
            raise
        self._write_tail(end + written, self.cuts)
        return end

    def _has_room(self, nbytes: int) -> bool:
        if os.fstat(self.pixels_file).st_nlink == 0:
            self._stop(f"{self.folder} was removed", for_good=True)
            return False
        if not make_room(self.folder, nbytes, self.max_bytes):
            reason = f"the caches in {self.folder.parent} have reached {self.max_bytes / 1e9:g} GB"
            self._stop(reason, for_good=False)
            return False
        return True

    def _stop(self, reason: str, *, for_good: bool) -> None:
        self.stopped = reason
        self._may_go_on = not for_good
        self._next_try = time.monotonic() + _AGAIN

    def _mark_used(self) -> None:
        if time.monotonic() > self._next_mark:
            self._next_mark = time.monotonic() + _USED
            mark_used(self.folder)


def records_bytes(count: int) -> int:
    """The size of ``records`` for a data set of ``count`` pictures."""
    return count * RECORD_BYTES + _TAIL.size


def count_kept(folder: Path) -> int:
    """How many pictures a cache keeps; 0 if it cannot be read."""
    try:
        return _count((folder / RECORDS).read_bytes())
    except (OSError, ValueError):
        return 0


def _count(table: bytes | mmap.mmap) -> int:
    count = len(table) // RECORD_BYTES  # what is behind them is shorter than one
    rows = np.frombuffer(table, np.uint8, count * RECORD_BYTES).reshape(-1, RECORD_BYTES)
    return int(rows[:, -4:].any(axis=1).sum())


def _own_sum(position: int, content: bytes) -> int:
    # Never zero, which is what a place without a record holds.
    return zlib.crc32(content[:-4], position & 0xFFFFFFFF) or 1


def _boot() -> int:
    """A number of the time since the machine was started; where it does not tell, of this process.

    Within this time, what a process has written before it was killed is what others read.
    """
    try:
        return zlib.crc32(Path("/proc/sys/kernel/random/boot_id").read_bytes())
    except OSError:
        return secrets.randbits(32)


def _reason(error: Exception, folder: Path) -> str:
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"the disk that holds {folder} is full"
    return f"{folder} cannot be written to ({error})"
