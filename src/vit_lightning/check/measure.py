"""Read every picture once, in worker processes, and keep what the checks need of it."""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch.utils.data import DataLoader, Dataset

from vit_lightning.data.pictures import PictureFiles, Pictures, require_file
from vit_lightning.errors import InputError
from vit_lightning.progress import Progress

GREY_SIDE = 48  # pixels of the greyscale copies that are compared
CHROMA_SIDE = 12
_BATCH = 16
_LEVELS = np.arange(256, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Measured:
    """What is kept of one picture.

    Args:
        size: (width, height) in pixels, upright.
        orientation: the EXIF orientation, 1 to 8; 1 where there is none.
        mode: Pillow's word for the pixels as they are stored, such as ``RGB``, ``CMYK``.
        file_hash: of the file's bytes; of the pixels where there is no file.
        pixel_hash: of size and decoded pixels.
        moments: (2, 3) means of the channels and of their squares, pixels in [0, 1].
        grey: (48, 48) luma of the whole picture, whatever its aspect ratio.
        chroma: (2, 12, 12) Cb and Cr of the same.
    """

    size: tuple[int, int]
    orientation: int
    mode: str
    file_hash: bytes
    pixel_hash: bytes
    moments: NDArray[np.float64]
    grey: NDArray[np.uint8]
    chroma: NDArray[np.uint8]


Outcome = Measured | str  # why a picture cannot be read, without its name


def measure(pictures: Pictures, index: int) -> Outcome:
    """Read one picture, or say why it cannot be read."""
    try:
        if isinstance(pictures, PictureFiles):
            path = pictures.root / pictures.names[index]
            require_file(path)
            file_hash, (orientation, mode) = _file_hash(path), _header(path)
        else:
            file_hash, orientation, mode = b"", 1, "RGB"
        return _measured(pictures.load(index), orientation, mode, file_hash)
    except InputError as error:
        return _without_name(str(error), pictures, index)
    except (OSError, MemoryError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"cannot be read ({said})"


def _without_name(reason: str, pictures: Pictures, index: int) -> str:
    name = pictures.name(index)
    path = str(pictures.root / name) if isinstance(pictures, PictureFiles) else name
    return reason.removeprefix(f"{path}: ")


def measure_all(pictures: Pictures, workers: int, what: str) -> list[Outcome]:
    """Read all pictures in ``workers`` processes, in order; 0 reads in this one.

    Raises:
        InputError: a process was lost.
    """
    outcomes: list[Outcome] = []
    with Progress(len(pictures), what) as progress:
        for batch in _batches(pictures, workers):
            outcomes += batch
            progress.update(len(batch))
    return outcomes


def _batches(pictures: Pictures, workers: int) -> Iterator[Sequence[Outcome]]:
    loader: Any = DataLoader(
        _Measuring(pictures), batch_size=_BATCH, num_workers=workers, collate_fn=list
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        raise InputError(
            f"a process that read pictures was lost ({error}); most often memory was short: "
            "try again with --workers 0, which names the picture it stops at"
        ) from None


class _Measuring(Dataset[Outcome]):
    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Outcome:
        return measure(self.pictures, index)


def _measured(picture: Image.Image, orientation: int, mode: str, file_hash: bytes) -> Measured:
    # One hash for equal pixels: the size stands before them, as 2 x 8 and 4 x 4 could agree.
    pixels = hashlib.blake2b(repr(picture.size).encode(), digest_size=16)
    pixels.update(picture.tobytes())
    counts = np.array(picture.histogram(), dtype=np.float64).reshape(3, 256)
    share = counts / (picture.width * picture.height)
    moments = np.stack([share @ (_LEVELS / 255), share @ (_LEVELS / 255) ** 2])
    small = picture.resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    planes = small.convert("YCbCr").split()
    chroma = [plane.reduce(GREY_SIDE // CHROMA_SIDE) for plane in planes[1:]]
    return Measured(
        picture.size,
        orientation,
        mode,
        file_hash or pixels.digest(),
        pixels.digest(),
        moments,
        np.asarray(planes[0]),
        np.stack([np.asarray(plane) for plane in chroma]),
    )


def _file_hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def _header(path: Path) -> tuple[int, str]:
    """EXIF orientation and mode, without decoding."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
            known = isinstance(orientation, int) and 1 <= orientation <= 8
            return (orientation if known else 1), picture.mode
    except Exception:  # what is wrong with the file is said by the full reading
        return 1, "unknown"
