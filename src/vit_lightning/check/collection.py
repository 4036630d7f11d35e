"""All pictures of a data set, read."""

from dataclasses import dataclass

import numpy as np

from vit_lightning.check.matching import Copies
from vit_lightning.check.measure import CHROMA_SIDE, GREY_SIDE, Measured, measure_all
from vit_lightning.check.sources import Source
from vit_lightning.data.pictures import OpenPicture


@dataclass(frozen=True, eq=False)
class Entry:
    """A picture that could be read.

    Args:
        split: index into the source's splits.
        index: of the picture in its split.
        name: of the picture, unique within the data set.
        label: the name of its class; of several, all.
        measured: what is kept of it.
    """

    split: int
    index: int
    name: str
    label: str
    measured: Measured


@dataclass(frozen=True, eq=False)
class Collection:
    """A data set that was read.

    Args:
        source: where it is from.
        entries: the pictures that could be read, split by split.
        unreadable: (split's name, picture, reason without its name) of the others.
    """

    source: Source
    entries: list[Entry]
    unreadable: list[tuple[str, str, str]]

    def split_name(self, entry: int) -> str:
        """The split of an entry."""
        return self.source.splits[self.entries[entry].split].name

    def open(self, entry: int) -> OpenPicture:
        """The picture of an entry."""
        place = self.entries[entry]
        return self.source.splits[place.split].pictures.open(place.index)

    def copies(self, chosen: list[int]) -> Copies:
        """Small copies of some entries."""
        kept = [self.entries[entry].measured for entry in chosen]
        # Shapes are given for the case of none.
        return Copies(
            np.array([one.grey for one in kept], np.uint8).reshape(-1, GREY_SIDE, GREY_SIDE),
            np.array([one.chroma for one in kept], np.uint8).reshape(
                -1, 2, CHROMA_SIDE, CHROMA_SIDE
            ),
            np.array([one.size for one in kept], np.int64).reshape(-1, 2),
        )


def collect(source: Source, workers: int) -> Collection:
    """Read every picture of a data set in ``workers`` processes.

    Raises:
        InputError: a process was lost.
    """
    entries: list[Entry] = []
    unreadable: list[tuple[str, str, str]] = []
    for number, split in enumerate(source.splits):
        outcomes = measure_all(split.pictures, workers, f"read {split.name}")
        for index, outcome in enumerate(outcomes):
            name = split.pictures.name(index)
            if isinstance(outcome, str):
                unreadable.append((split.name, name, outcome))
            else:
                entries.append(Entry(number, index, name, split.label(index), outcome))
    return Collection(source, entries, unreadable)
