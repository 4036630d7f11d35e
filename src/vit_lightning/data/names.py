"""Names of a million pictures in two pieces of memory.

A list of strings is a million objects: their reference counts change whenever they are looked at,
so that every process that loads pictures ends up with a copy of all of them. Here there is nothing
to count but the whole.
"""

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from vit_lightning.errors import InputError

Buffer = bytes | mmap.mmap
Chosen = range | NDArray[np.int64]

_CHUNK = 1 << 12  # names taken at once where all are gone through


class PackedNames(Sequence[str]):
    """Names, one after the other in a buffer; a file's buffer is shared by all processes.

    Args:
        text: all names in UTF-8 (surrogateescape, as the system's file names are), each with a
            zero byte behind it; there may be something else in front of them.
        offsets: (N + 1,) where in ``text`` each name begins, and where the last one ends.
        chosen: which of them these are, by position; None for all.
        origin: the file that ``text`` and ``offsets`` are mapped from, if any: what
            :func:`names_in_file` takes. A copy for another process is then made of this alone.
    """

    __slots__ = ("_chosen", "_offsets", "_origin", "_text")

    def __init__(
        self,
        text: Buffer,
        offsets: NDArray[np.int64],
        chosen: Chosen | None = None,
        origin: tuple[Path, int, int, int] | None = None,
    ) -> None:
        self._text = text
        self._offsets = offsets
        self._chosen: Chosen = range(len(offsets) - 1) if chosen is None else chosen
        self._origin = origin

    @classmethod
    def pack(cls, names: Iterable[str]) -> Self:
        """The names of any sequence.

        Raises:
            InputError: a name that no file can have.
        """
        names = list(names)
        try:
            text = ("\0".join(names) + "\0" * bool(names)).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise InputError(f"the name of a picture cannot be written: {error}") from None
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 0) + 1
        if len(ends) != len(names):
            name = next(name for name in names if "\0" in name)
            raise InputError(f"the name of a picture holds a zero character: {name!r}")
        return cls(text, np.concatenate([np.zeros(1, np.int64), ends]))

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "PackedNames": ...

    def __getitem__(self, index: int | slice) -> "str | PackedNames":
        """One name; or, of a slice, names that share the memory of these."""
        if isinstance(index, slice):
            return PackedNames(self._text, self._offsets, self._chosen[index], self._origin)
        position = int(self._chosen[index])
        name = self._text[int(self._offsets[position]) : int(self._offsets[position + 1]) - 1]
        return name.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        """All names in order; much faster than one by one."""
        for chunk in self.chunks():
            yield from chunk[:-1].decode("utf-8", "surrogateescape").split("\0")

    def subset(self, indices: NDArray[np.int64]) -> "PackedNames":
        """The names at ``indices``, in that order; costs these integers and no more."""
        chosen = self._chosen
        if isinstance(chosen, range):
            taken = chosen.start + chosen.step * indices
        else:
            taken = chosen[indices]
        return PackedNames(self._text, self._offsets, taken, self._origin)

    @property
    def whole(self) -> "PackedNames":
        """All names of the buffer, of which these are some."""
        return PackedNames(self._text, self._offsets, None, self._origin)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(N + 1,) where in the buffer the names of ``whole`` begin; the last is where they end."""
        return self._offsets

    def position(self, index: int) -> int:
        """Where name ``index`` stands in ``whole``."""
        return int(self._chosen[index])

    def chunks(self) -> Iterator[bytes]:
        """All names in order, each with a zero byte behind it, many in one piece."""
        for first in range(0, len(self), _CHUNK):
            chosen = self._chosen[first : first + _CHUNK]
            if isinstance(chosen, range) and chosen.step == 1:
                yield self._text[int(self._offsets[chosen[0]]) : int(self._offsets[chosen[-1] + 1])]
            else:
                positions = np.asarray(chosen)
                starts, ends = self._offsets[positions], self._offsets[positions + 1]
                pieces = map(slice, starts.tolist(), ends.tolist())
                yield b"".join(map(self._text.__getitem__, pieces))

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: the place in the file, if there is one, and not what is there."""
        if self._origin is not None:
            return names_in_file, (*self._origin, self._chosen)
        return PackedNames, (self._text, self._offsets, self._chosen)


def names_in_file(
    path: Path, start: int, count: int, mark: int, chosen: Chosen | None = None
) -> PackedNames:
    """Names that are mapped from a file: their offsets, int64, and behind them their text.

    Args:
        path: the file; its offsets count from its beginning.
        start: the byte at which the offsets begin, a multiple of 8.
        count: of all names.
        mark: the last four bytes before ``start``, little-endian; they tell this content of the
            file from any other.
        chosen: which of the names are meant, by position; None for all.

    Raises:
        InputError: the file has changed.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        fits = path.stat().st_size >= start + 8 * (count + 1)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if fits else b""
    if mapped[start - 4 : start] != mark.to_bytes(4, "little"):
        raise InputError(
            f"{path} was made anew while this run started, as pictures have changed: start again"
        )
    offsets = np.frombuffer(mapped, "<i8", count + 1, start)
    return PackedNames(mapped, offsets, chosen, (path, start, count, mark))
