"""Pictures of one split, wherever they lie: files of a folder or arrays in memory."""

import io
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from vit_lightning.data.names import PackedNames
from vit_lightning.errors import InputError
from vit_lightning.models.config import Size

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# What is looked for in folders. Compared in lower case.
EXTENSIONS = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".jfif",
        ".jp2",
        ".jpeg",
        ".jpg",
        ".pgm",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
_MEND = "replace the file by a whole one, or remove it"
# By content. Pillow knows more, among them formats that it hands to programs such as Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
# EXIF orientation → what makes the picture upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(InputError):
    """A picture that cannot be read.

    Crosses the workers of a DataLoader as it is: torch rebuilds an error from its formatted
    traceback, by keyword if its class has a ``message``; only our own words are taken from it.
    """

    message = "a picture cannot be read"

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{__name__}.PictureError: ")[2])


Pixels = NDArray[np.uint8] | NDArray[np.float32]  # (height, width, channels) in [0, 255]
Interpolation = Literal["bilinear", "bicubic"]
Region = tuple[float, float, float, float]  # left, top, right, bottom in pixels, as Pillow has it


class OpenPicture(Protocol):
    """A picture whose size is known, and whose pixels are had for the part that is wanted."""

    @property
    def size(self) -> Size:
        """(height, width) of the whole upright picture, in pixels."""

    def aligned(self, region: Region, size: Size) -> Region:
        """The region next to one that is the cheapest to have at ``size``, for whom it may be.

        Its edges lie at most half a pixel of the result away.
        """

    def part(self, region: Region, size: Size) -> tuple[Image.Image, Region]:
        """An RGB picture that shows a region well enough to be resized to ``size``.

        Args:
            region: of the whole picture, in its pixels.
            size: (height, width) that the region will be resized to.

        Returns:
            A picture, and where in it the region lies.

        Raises:
            PictureError: the pixels cannot be read.
        """

    def resized(
        self, region: Region, size: Size, interpolation: Interpolation
    ) -> NDArray[np.uint8]:
        """A region at another size: (height, width, 3), antialiased, rounded to 8 bits.

        Raises:
            PictureError: the pixels cannot be read.
        """


@dataclass(frozen=True, eq=False)
class WholePicture:
    """A decoded picture, upright, in mode RGB."""

    image: Image.Image

    @property
    def size(self) -> Size:
        """See ``OpenPicture``."""
        return self.image.height, self.image.width

    def aligned(self, region: Region, size: Size) -> Region:
        """The region itself: all have the same price."""
        return region

    def part(self, region: Region, size: Size) -> tuple[Image.Image, Region]:
        """The picture and the region as they are."""
        return self.image, region

    def resized(
        self, region: Region, size: Size, interpolation: Interpolation
    ) -> NDArray[np.uint8]:
        """See ``OpenPicture``; by Pillow."""
        return np.array(resized_image(self.image, region, size, interpolation))


def resized_image(
    image: Image.Image, region: Region, size: Size, interpolation: Interpolation
) -> Image.Image:
    """A region of an image at another size (height, width), by Pillow: what all else is held to."""
    return image.resize((size[1], size[0]), _FILTERS[interpolation], region)


# int64 of one class for each picture, or uint8 of several.
Labels = NDArray[np.integer[Any]]


class Pictures(Protocol):
    """One split: pictures that can be loaded one by one, and their labels in memory."""

    @property
    def labels(self) -> Labels:
        """Of every picture: (N,) its class, an index into ``Splits.classes``; or, where pictures
        have several, (N, K) uint8 with 1 for each of the K classes that it has.
        """

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image.Image:
        """Picture ``index``, upright, in mode RGB; PictureError if it cannot be read."""

    def open(self, index: int) -> OpenPicture:
        """Picture ``index``, decoded as far as it needs to be; PictureError as for ``load``."""

    def name(self, index: int) -> str:
        """What to call the picture in front of people; unique within the data set."""


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """Picture files below one folder.

    Args:
        root: the folder.
        names: paths relative to ``root``, with forward slashes; kept packed.
        labels: as of ``Pictures``.
        title: what to call them in front of people, if it is not the folder's name.
    """

    root: Path
    names: Sequence[str]
    labels: Labels
    title: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.names, PackedNames):
            object.__setattr__(self, "names", PackedNames.pack(self.names))

    @property
    def packed(self) -> PackedNames:
        """The names, as they are kept."""
        assert isinstance(self.names, PackedNames)
        return self.names

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> Image.Image:
        """See ``Pictures``."""
        return open_picture(self.root / self.names[index])

    def open(self, index: int) -> OpenPicture:
        """See ``Pictures``."""
        return WholePicture(self.load(index))

    def name(self, index: int) -> str:
        """The path relative to the root."""
        return self.names[index]

    def subset(self, indices: NDArray[np.int64]) -> "PictureFiles":
        """The pictures at ``indices``, in that order."""
        names = self.packed.subset(indices)
        return PictureFiles(self.root, names, self.labels[indices], self.title)


@dataclass(frozen=True, eq=False)
class ArrayPictures:
    """Pictures in memory.

    Args:
        pixels: (N, height, width) grey or (N, height, width, 3) uint8.
        labels: (N,) class of every picture.
        prefix: what stands before the number in a picture's name, as ``digits`` in
            ``digits/00012``.
        numbers: (N,) the number in each picture's name; by default its index.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    prefix: str
    numbers: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Image.Image:
        """See ``Pictures``."""
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def open(self, index: int) -> OpenPicture:
        """See ``Pictures``."""
        return WholePicture(self.load(index))

    def name(self, index: int) -> str:
        """``prefix/number``."""
        number = index if self.numbers is None else self.numbers[index]
        return f"{self.prefix}/{number:05d}"

    def subset(self, indices: NDArray[np.int64]) -> "ArrayPictures":
        """The pictures at ``indices``, in that order; they keep their names."""
        numbers = indices if self.numbers is None else self.numbers[indices]
        return ArrayPictures(self.pixels[indices], self.labels[indices], self.prefix, numbers)


def open_picture(path: Path) -> Image.Image:
    """Read a picture file as an upright RGB picture.

    The orientation of the metadata is applied, and of several frames the first is taken.
    Transparent pixels have no colour of their own: they are laid over white. 16-bit grey is scaled
    to 8 bits. What the file is called does not matter, only what is in it.

    Raises:
        PictureError: the file is missing, truncated, too large to be harmless, or no picture.
    """
    require_file(path)
    return _decoded(path, str(path))


def require_file(path: Path) -> None:
    """PictureError unless a file with content: a pipe would be waited for without end."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise PictureError(f"{path}: no such picture") from None
    except (OSError, ValueError) as error:  # a link to itself, a name that none can have
        said = getattr(error, "strerror", None) or str(error)
        raise PictureError(f"{path}: cannot be read as a picture ({said}); remove it") from None
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise PictureError(f"{path}: cannot be read as a picture (it is {what}); remove it")
    if not status.st_size:
        raise _empty(str(path))


def decode_picture(data: bytes, name: str) -> Image.Image:
    """A picture file in memory as an upright RGB picture; see ``open_picture``.

    Args:
        data: what the file holds.
        name: what an error calls it.

    Raises:
        PictureError: it is truncated, too large to be harmless, or no picture.
    """
    if not data:
        raise _empty(name)
    return _decoded(io.BytesIO(data), name)


def _empty(name: str) -> PictureError:
    return PictureError(f"{name}: cannot be read as a picture (it is empty); {_MEND}")


def _decoded(source: Path | BinaryIO, name: str) -> Image.Image:
    try:
        # What Pillow warns of (odd metadata, more than 89 megapixels) is no fault of the reader's.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(source, formats=_FORMATS) as picture,
        ):
            picture.load()
            return _as_rgb(_upright(picture))
    except FileNotFoundError:
        raise PictureError(f"{name}: no such picture") from None
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name}: the picture is too large: {error}; scale it down") from None
    except MemoryError:
        raise PictureError(
            f"{name}: the picture is too large for the memory that is left; scale it down"
        ) from None
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        raise PictureError(
            f"{name}: cannot be read as a picture ({_said(error)}); {_MEND}"
        ) from None


def _upright(picture: Image.Image) -> Image.Image:
    """A loaded picture, turned as its metadata says; as it is where they say nothing sensible."""
    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata of a picture that is whole
        return picture
    return picture if turn is None else picture.transpose(turn)


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no agreed range: save it with 8 or 16 bits")
    if picture.mode.startswith("I"):  # 16 bits; Image.convert would cut at 255
        grey = np.asarray(picture).clip(0, 65535).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")


def _said(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is in none of the known formats"
    system = error.strerror if isinstance(error, OSError) else None  # without the path again
    return system or str(error) or type(error).__name__
