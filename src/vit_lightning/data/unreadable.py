"""All pictures that cannot be read, when one has been found."""

import time
from collections.abc import Mapping, Sequence

from torch.utils.data import DataLoader, Dataset

from vit_lightning.data.pictures import PictureError, Pictures
from vit_lightning.errors import InputError

_SECONDS = 120.0  # long enough for tens of thousands of photographs on a few cores
_SHOWN = 50
_BATCH = 16


class _Attempts(Dataset[list[str]]):
    """Pictures as what is said when they are read: nothing, or why they cannot be."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> list[str]:
        try:
            self.pictures.load(index)
        except PictureError as error:
            return [str(error)]
        return []


def find_unreadable(
    splits: Mapping[str, Pictures], workers: int, seconds: float = _SECONDS
) -> tuple[list[str], int]:
    """Read all pictures of some splits, as far as the time allows.

    Args:
        splits: name → pictures.
        workers: reading processes; 0 reads in this one.
        seconds: after which no more are begun.

    Returns:
        What was said of those that cannot be read, and how many pictures were read.
    """
    end = time.monotonic() + seconds
    found: list[str] = []
    read = 0
    for pictures in splits.values():
        loader = DataLoader(
            _Attempts(pictures), batch_size=_BATCH, num_workers=workers, collate_fn=_joined
        )
        for messages in loader:
            if time.monotonic() > end:
                return found, read
            found += messages
            read = min(read + _BATCH, sum(map(len, splits.values())))
    return found, read


def all_unreadable(first: PictureError, splits: Mapping[str, Pictures], workers: int) -> InputError:
    """The error that tells of every unreadable picture, once one has been met."""
    found, read = find_unreadable(splits, workers)
    total = sum(map(len, splits.values()))
    found = found or [str(first)]  # it vanished, and is there again
    more = [f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    if read < total:
        more.append(f"{total - read} of {total} pictures were not looked at; vit check does")
    count = "1 picture" if len(found) == 1 else f"{len(found)} pictures"
    head = f"{count} of {total} cannot be read; replace or remove them, or leave them out with "
    return InputError("\n  ".join([f"{head}data.on_bad_image=skip:", *found[:_SHOWN], *more]))


def _joined(messages: Sequence[list[str]]) -> list[str]:
    return [message for some in messages for message in some]
