"""JPEGs decoded no finer and no further down than the part that is wanted needs.

What saves the time is all in libjpeg. It leaves out frequencies that the result cannot show
(Pillow's ``draft``), and it reads rows from the top: a picture whose header claims fewer rows is
decoded to there, and what follows is passed over in search of the end of the image.
"""

import io
import math
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from vit_lightning.data.decoded import KeptPicture
from vit_lightning.data.pictures import (
    Interpolation,
    Labels,
    OpenPicture,
    PictureFiles,
    Pictures,
    Region,
    WholePicture,
    open_picture,
    require_file,
)
from vit_lightning.data.resizing import resize
from vit_lightning.models.config import Size

# What is decoded shows at least this many pixels for one of the result: with less, resizing it
# is off by more than half a level of 255 on average where a picture is sharp.
_MARGIN = 2
_SCALES = (8, 4, 2)

# The last rows of a picture are decoded without those below, from which the full picture's
# colour was interpolated.
_SPARE_ROWS = 16

_START_OF_IMAGE = b"\xff\xd8"
_START_OF_FRAME = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive; both Huffman-coded
_START_OF_SCAN = 0xDA
_METADATA = 0xE1  # APP1
_END_OF_IMAGE = b"\xff\xd9"


@dataclass(frozen=True)
class _Turn:
    """How upright pixels lie in the file: sides swapped, then mirrored."""

    swapped: bool
    mirrored_x: bool
    mirrored_y: bool
    method: Image.Transpose | None  # turns stored pixels upright

    def size(self, size: Size) -> Size:
        """(height, width) after or before the turn."""
        return (size[1], size[0]) if self.swapped else size

    def stored(self, region: Region, stored: Size) -> Region:
        """A region of the upright picture as one of the stored picture of size ``stored``."""
        return self._mirrored(self._swapped(region), stored)

    def upright(self, region: Region, stored: Size) -> Region:
        """The inverse of ``stored``."""
        return self._swapped(self._mirrored(region, stored))

    def _swapped(self, region: Region) -> Region:
        left, top, right, bottom = region
        return (top, left, bottom, right) if self.swapped else region

    def _mirrored(self, region: Region, size: Size) -> Region:
        left, top, right, bottom = region
        if self.mirrored_x:
            left, right = size[1] - right, size[1] - left
        if self.mirrored_y:
            top, bottom = size[0] - bottom, size[0] - top
        return left, top, right, bottom


# By EXIF orientation.
_UPRIGHT = _Turn(False, False, False, None)
_TURNS = {
    2: _Turn(False, True, False, Image.Transpose.FLIP_LEFT_RIGHT),
    3: _Turn(False, True, True, Image.Transpose.ROTATE_180),
    4: _Turn(False, False, True, Image.Transpose.FLIP_TOP_BOTTOM),
    5: _Turn(True, False, False, Image.Transpose.TRANSPOSE),
    6: _Turn(True, False, True, Image.Transpose.ROTATE_270),
    7: _Turn(True, True, True, Image.Transpose.TRANSVERSE),
    8: _Turn(True, True, False, Image.Transpose.ROTATE_90),
}


@dataclass(frozen=True, eq=False)
class _ScaledJpeg:
    """A JPEG in memory, colour or grey, of which only the header has been decoded.

    Args:
        path: of the file.
        content: of the file, all of it.
        stored: (height, width) of the picture as it lies in the file.
        turn: how it is turned upright.
        height_at: where in ``content`` the header has the height, two bytes.
        margin: pixels that are decoded, at least, for one of the result.
    """

    path: Path
    content: bytes
    stored: Size
    turn: _Turn
    height_at: int
    margin: int

    @property
    def size(self) -> Size:
        """See ``OpenPicture``."""
        return self.turn.size(self.stored)

    def aligned(self, region: Region, size: Size) -> Region:
        """See ``OpenPicture``: whole pixels of what is decoded, which resizes fastest."""
        scale = _scale(region, size, self.margin)
        if scale == 1:
            return region
        # Inwards: no larger, it is not decoded more coarsely, for which its edges might not do.
        left, top, right, bottom = (edge / scale for edge in self.turn.stored(region, self.stored))
        box = math.ceil(left), math.ceil(top), math.floor(right), math.floor(bottom)
        left, top, right, bottom = (edge * scale for edge in box)
        return self.turn.upright((left, top, right, bottom), self.stored)

    def part(self, region: Region, size: Size) -> tuple[Image.Image, Region]:
        """See ``OpenPicture``; the picture ends with the last pixel that the region touches."""
        try:
            with warnings.catch_warnings(action="ignore"):  # as open_picture has it
                return self._scaled_part(region, _scale(region, size, self.margin))
        except Exception:  # Pillow's decoders raise whatever a broken file leads them to
            # The full decoding refuses the file with its reason, or knows what to do with it.
            return WholePicture(open_picture(self.path)).part(region, size)

    def resized(
        self, region: Region, size: Size, interpolation: Interpolation
    ) -> NDArray[np.uint8]:
        """See ``OpenPicture``; by vector instructions where there are some."""
        return resize(*self.part(region, size), size, interpolation)

    def _scaled_part(self, region: Region, scale: int) -> tuple[Image.Image, Region]:
        region = self.turn.stored(region, self.stored)
        picture = self._decoded(math.ceil(region[3]), scale)
        left, top, right, bottom = (edge / scale for edge in region)
        x, y = math.floor(left), math.floor(top)
        picture = picture.crop((x, y, math.ceil(right), math.ceil(bottom)))
        region = self.turn.upright(
            (left - x, top - y, right - x, bottom - y), (picture.height, picture.width)
        )
        if self.turn.method is not None:
            picture = picture.transpose(self.turn.method)
        return picture if picture.mode == "RGB" else picture.convert("RGB"), region

    def _decoded(self, last_row: int, scale: int) -> Image.Image:
        """The picture from the first row to at least ``last_row``, at 1 / ``scale``."""
        height, width = self.stored
        rows = min(height, last_row + _SPARE_ROWS)
        before, after = self.content[: self.height_at], memoryview(self.content)[self.height_at :]
        content = b"".join((before, rows.to_bytes(2, "big"), after[2:]))
        with JpegImageFile(io.BytesIO(content)) as picture:
            if scale > 1:
                picture.draft(None, (width // scale, rows // scale))
            if picture.size != (math.ceil(width / scale), math.ceil(rows / scale)):
                raise ValueError("the header is not what it seemed")
            picture.load()
        return picture


@dataclass(frozen=True, eq=False)
class _FastPicture:
    """A decoded picture that is resized by vector instructions.

    Args:
        picture: the picture.
    """

    picture: OpenPicture

    @property
    def size(self) -> Size:
        """See ``OpenPicture``."""
        return self.picture.size

    def aligned(self, region: Region, size: Size) -> Region:
        """See ``OpenPicture``."""
        return self.picture.aligned(region, size)

    def part(self, region: Region, size: Size) -> tuple[Image.Image, Region]:
        """See ``OpenPicture``."""
        return self.picture.part(region, size)

    def resized(
        self, region: Region, size: Size, interpolation: Interpolation
    ) -> NDArray[np.uint8]:
        """See ``OpenPicture``; by vector instructions where there are some."""
        if isinstance(self.picture, KeptPicture):
            return resize(*self.picture.rows(region), size, interpolation)
        return resize(*self.picture.part(region, size), size, interpolation)


@dataclass(frozen=True, eq=False)
class FastPictures:
    """Pictures, opened and resized fast, at the errors that ``open_scaled`` tells.

    Args:
        pictures: files, which are decoded by ``open_scaled``, or any others, kept or in memory.
    """

    pictures: Pictures

    @property
    def labels(self) -> Labels:
        """See ``Pictures``."""
        return self.pictures.labels

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        """See ``Pictures``."""
        return self.pictures.name(index)

    def load(self, index: int) -> Image.Image:
        """See ``Pictures``: the whole picture, exactly."""
        return self.pictures.load(index)

    def open(self, index: int) -> OpenPicture:
        """See ``Pictures``."""
        if isinstance(self.pictures, PictureFiles):
            picture = open_scaled(self.pictures.root / self.pictures.name(index))
            return _FastPicture(picture) if isinstance(picture, WholePicture) else picture
        return _FastPicture(self.pictures.open(index))


def open_scaled(path: Path) -> OpenPicture:
    """Read a picture file, to decode of it what will be asked for.

    A JPEG is decoded to the last row that is asked for, and at 1/2, 1/4 or 1/8 of its size as long
    as that leaves two pixels for each of the result in both directions; nothing else about the
    part differs from that of ``open_picture``. Against full decoding and the same antialiased
    resize, photographs of 0.2 megapixels differ by less than 0.1 of 255 on average at 224 px, by
    0.3 at 64 px and 0.5 at 32 px, and single ones by more. Everything else, CMYK among it, is
    decoded in full. No file stays open.

    Returns:
        A picture whose parts raise PictureError as ``open_picture`` does; a JPEG without an end is
        decoded in full to find out what is missing. Damage below the part goes unseen.

    Raises:
        PictureError: the file is missing, too large to be harmless, or no picture.
    """
    require_file(path)
    try:
        return _opened(path) or WholePicture(open_picture(path))
    except Exception:  # as in _ScaledJpeg.part
        return WholePicture(open_picture(path))


def _opened(path: Path) -> _ScaledJpeg | None:
    """None: the file is to be decoded in full."""
    content = path.read_bytes()
    header = _header(content)
    # Behind the header, where a thumbnail has an end of its own.
    if header is None or content.rfind(_END_OF_IMAGE, header.height_at) < 0:
        return None
    turn = _turn(content) if header.has_metadata else _UPRIGHT
    return _ScaledJpeg(path, content, header.size, turn, header.height_at, header.margin)


class _Header(NamedTuple):
    """What the header of a JPEG of 8 bits, grey or of three colours, tells."""

    size: Size  # (height, width)
    height_at: int  # where it has the height
    has_metadata: bool  # Exif or XMP, which may tell an orientation
    margin: int  # see _ScaledJpeg


def _header(content: bytes) -> _Header | None:
    """Read here, as Pillow takes a tenth of the time of a small picture; None: of another kind."""
    if not content.startswith(_START_OF_IMAGE):
        return None
    position, has_metadata = len(_START_OF_IMAGE), False
    while content[position] == 0xFF:
        marker = content[position + 1]
        if marker in _START_OF_FRAME:
            # Marker, length of the segment, bits per sample, height, width, components.
            # Of the first of them, which is the luma: its number, and how it is sampled.
            bits, height, width, components, sampling = struct.unpack_from(
                ">xxxxBHHBxB", content, position
            )
            harmless = 0 < height * width <= (Image.MAX_IMAGE_PIXELS or 0)
            if bits != 8 or components not in (1, 3) or not harmless:
                return None
            return _Header((height, width), position + 5, has_metadata, _margin(sampling))
        if marker == _START_OF_SCAN:
            return None
        has_metadata = has_metadata or marker == _METADATA
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return None


def _margin(sampling: int) -> int:
    """Colours that are halved along one axis alone (4:2:2) are scaled more coarsely."""
    return _MARGIN if sampling >> 4 == sampling & 15 else 2 * _MARGIN


def _turn(content: bytes) -> _Turn:
    with (
        warnings.catch_warnings(action="ignore"),
        Image.open(io.BytesIO(content), formats=("JPEG",)) as picture,
    ):
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1), _UPRIGHT)


def _scale(region: Region, size: Size, margin: int) -> int:
    left, top, right, bottom = region
    pixels = min((bottom - top) / size[0], (right - left) / size[1])  # for one of the result
    return next((scale for scale in _SCALES if pixels >= margin * scale), 1)
