"""What pictures are really like."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from training_views import training_view
from vit_lightning.data.listing import list_split
from vit_lightning.data.pictures import (
    EXTENSIONS,
    PictureError,
    PictureFiles,
    decode_picture,
    open_picture,
)
from vit_lightning.data.transforms import Mode, Preprocessing

QUARTERS = ((200, 30, 40), (40, 180, 60), (30, 50, 190), (230, 220, 90))


def quarters(side: int = 32) -> Image.Image:
    """Four areas of one colour each."""
    colours = np.array(QUARTERS, dtype=np.uint8).reshape(2, 2, 3)
    return Image.fromarray(np.kron(colours, np.ones((side // 2, side // 2, 1), np.uint8)))


def photo() -> Image.Image:
    """Smooth, with some noise, so that most of a file is pixels."""
    y, x = np.mgrid[:48, :64]
    noise = np.random.default_rng(0).integers(0, 12, (48, 64, 3))
    return Image.fromarray((np.stack([x * 3, y * 4, x + y], axis=-1) + noise).astype(np.uint8))


def stored(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes) -> Any:
    picture = decode_picture(data, "odd")
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def of_quarters(data: bytes) -> Any:
    """(4, 3) the colour in the middle of each quarter."""
    pixels = decoded(data)
    places = [(8, 8), (8, 24), (24, 8), (24, 24)]
    return np.array([pixels[place] for place in places])


def cmyk(picture: Image.Image) -> Image.Image:
    return picture.convert("CMYK")


def ycck_jpeg(picture: Image.Image) -> bytes:
    """As Photoshop writes it: the inks as YCbCr beside black, all inverted, and a mark of Adobe's.

    Pillow writes four channels inverted and untransformed; they are given what it is to write.
    """
    *inks, black = cmyk(picture).split()
    channels = Image.merge("RGB", inks).convert("YCbCr").split()
    inverted = [channel.point(lambda value: 255 - value) for channel in channels]
    data = bytearray(stored(Image.merge("CMYK", [*inverted, black]), "JPEG", quality=95))
    transform = data.index(b"Adobe") + len(b"Adobe") + 6
    assert data[transform] == 0
    data[transform] = 2
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        stored(quarters(), "JPEG", quality=95),
        stored(quarters(), "JPEG", quality=95, progressive=True),
        stored(cmyk(quarters()), "JPEG", quality=95),
        ycck_jpeg(quarters()),
        stored(cmyk(quarters()), "TIFF"),
        stored(quarters().quantize(4), "PNG"),
        stored(
            quarters(), "WEBP", lossless=True, save_all=True, append_images=[quarters().rotate(90)]
        ),
        stored(quarters(), "TIFF", compression="jpeg", quality=95),
    ],
    ids=["jpeg", "progressive", "cmyk", "ycck", "cmyk tiff", "palette", "animation", "jpeg tiff"],
)
def test_colours_are_right(data: bytes) -> None:
    assert abs(of_quarters(data) - np.array(QUARTERS)).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    shown = of_quarters(stored(quarters(), kind, exif=exif, **options)).tolist()
    # Which of the stored quarters is seen at top left, top right, bottom left, bottom right.
    seen = ["0123", "1032", "3210", "2301", "0213", "2031", "3120", "1302"][orientation - 1]
    wanted = [QUARTERS[int(place)] for place in seen]
    assert abs(np.array(shown) - np.array(wanted)).max() <= 6


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\0" * 40]
)
def test_broken_metadata_of_a_whole_picture_does_not_matter(exif: bytes) -> None:
    data = stored(quarters(), "JPEG", quality=95, exif=exif)
    assert abs(of_quarters(data) - np.array(QUARTERS)).max() <= 6


@pytest.mark.parametrize("order", ["<u2", ">u2"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind: str, order: str) -> None:
    levels = np.array([[0, 128, 129, 32768, 65535]], dtype=order)
    assert decoded(stored(Image.fromarray(levels), kind))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize(
    ("mode", "options", "shown"),
    [
        ("1", {}, [0, 255]),
        ("1", {"transparency": 0}, [255, 255]),
        ("L", {}, [0, 255]),
        ("L", {"transparency": 0}, [255, 255]),
        ("LA", {}, [0, 255]),
        ("P", {"transparency": 0}, [255, 255]),
        ("P", {"transparency": bytes([128, 255])}, [127, 255]),
        ("RGBA", {}, [0, 255]),
        ("RGB", {"transparency": (0, 0, 0)}, [255, 255]),
    ],
)
def test_grey_palette_and_alpha(mode: str, options: dict[str, Any], shown: list[int]) -> None:
    grey = Image.fromarray(np.array([[0, 255]], np.uint8))
    if mode == "P":
        picture = Image.new("P", (2, 1))
        picture.putpalette([0, 0, 0, 255, 255, 255])
        picture.putpixel((1, 0), 1)
    else:
        picture = grey.convert(mode)
    assert decoded(stored(picture, "PNG", **options)).tolist() == [[[level] * 3 for level in shown]]


FORMATS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: stored(photo(), "JPEG"),
    "progressive": lambda: stored(photo(), "JPEG", progressive=True),
    "png": lambda: stored(photo(), "PNG"),
    "gif": lambda: stored(photo().quantize(64), "GIF"),
    "animated gif": lambda: stored(
        photo().quantize(64), "GIF", save_all=True, append_images=[quarters().quantize(4)]
    ),
    "bmp": lambda: stored(photo(), "BMP"),
    "webp": lambda: stored(photo(), "WEBP"),
    "tiff": lambda: stored(photo(), "TIFF"),
    "lzw tiff": lambda: stored(photo(), "TIFF", compression="tiff_lzw"),
    "ppm": lambda: stored(photo(), "PPM"),
}


def decoded_or_refused(data: bytes) -> Any:
    """The pixels, or what the error says."""
    try:
        return decoded(data)
    except PictureError as error:
        return str(error)


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_files_are_refused_or_right(kind: str) -> None:
    data = FORMATS[kind]()
    whole = decoded(data)
    cuts = [*range(0, len(data), max(len(data) // 60, 1)), len(data) - 1]
    results = [decoded_or_refused(data[:cut]) for cut in cuts]
    refusals = [result for result in results if isinstance(result, str)]
    assert len(refusals) >= 30
    assert all(refusal.startswith("odd: cannot be read") for refusal in refusals)
    # Right, where what is missing says nothing of the first picture.
    assert all(np.array_equal(r, whole) for r in results if not isinstance(r, str))


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_give_a_picture_or_a_picture_error(kind: str) -> None:
    whole = FORMATS[kind]()
    rng = np.random.default_rng(1)
    results = []
    for _ in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 500), size=6):
            damaged[place] = rng.integers(256)
        results.append(decoded_or_refused(bytes(damaged)))
    refusals = [result for result in results if isinstance(result, str)]
    assert refusals
    assert all(refusal.startswith("odd: ") for refusal in refusals)


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    for name in ("png.jpg", "no extension", "ünïcödé 写真.gif", "x" * 250 + ".tiff"):
        (tmp_path / name).write_bytes(stored(quarters(), "PNG"))
        assert open_picture(tmp_path / name).getpixel((0, 0)) == QUARTERS[0]
    with pytest.raises(PictureError, match="File name too long"):
        open_picture(tmp_path / ("x" * 256))
    with pytest.raises(PictureError, match="null"):
        open_picture(tmp_path / "a\0b.png")
    raw = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    raw.write_bytes(stored(quarters(), "PNG"))
    assert open_picture(raw).size == (32, 32)


def test_programs_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*_: Any, **__: Any) -> None:
        raise AssertionError("Ghostscript was to be called")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", call)
    with pytest.raises(PictureError, match="none of the known formats"):
        decode_picture(stored(quarters(), "EPS"), "picture.jpg")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.mkdir(), "it is a folder"),
        (os.mkfifo, "it is a pipe or a device"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a pipe or a device"),
        (lambda path: path.symlink_to(path.name), "[Ll]evels of symbolic links"),
        (lambda path: path.symlink_to("gone.jpg"), "no such picture"),
    ],
    ids=["empty", "folder", "pipe", "device", "loop", "broken link"],
)
def test_what_is_no_picture(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "x.jpg"
    make(path)
    with pytest.raises(PictureError, match=rf"x\.jpg: .*{message}"):
        open_picture(path)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may read all")
def test_unreadable_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "closed.png"
    path.write_bytes(stored(quarters(), "PNG"))
    path.chmod(0)
    with pytest.raises(PictureError, match=r"closed\.png.*Permission denied"):
        open_picture(path)


def test_files_that_vanish_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(stored(quarters(), "PNG"))
    pictures = PictureFiles(tmp_path, ["a.png"], np.zeros(1, np.int64))
    assert pictures.load(0).size == (32, 32)
    stat = Path.stat

    def vanish(own: Path, **options: Any) -> os.stat_result:
        found = stat(own, **options)
        own.unlink()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", vanish)
        with pytest.raises(PictureError, match=r"a\.png: no such picture"):
            pictures.load(0)  # between the look at the file and its opening
    with pytest.raises(PictureError, match=r"a\.png: no such picture"):
        pictures.load(0)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey PNG of the claimed size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = b"".join(chunk(*part) for part in [(b"IHDR", header), *chunks, (b"IEND", b"")])
    return b"\x89PNG\r\n\x1a\n" + body


def zeros(count: int) -> bytes:
    """So many zero bytes, compressed, without ever having them in memory."""
    packer = zlib.compressobj(1)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join(parts) + packer.compress(bytes(count & 0xFFFFF)) + packer.flush()


def test_bombs_are_refused() -> None:
    with pytest.raises(PictureError, match="too large"):
        decode_picture(png(60_000, 60_000, (b"IDAT", zlib.compress(b""))), "header")
    with pytest.raises(PictureError, match="too large"):
        decode_picture(png(20_000, 20_000, (b"IDAT", zeros(1 << 26))), "pixels")
    text = b"Comment\0\0" + zeros(1 << 26)
    pixels = (b"IDAT", zlib.compress(bytes(2)))
    with pytest.raises(PictureError, match=r"text: .*[Dd]ecompressed"):
        decode_picture(png(1, 1, (b"zTXt", text), pixels), "text")
    # More pixels in the file than in the header: they are not read.
    assert decode_picture(png(1, 1, (b"IDAT", zeros(1 << 26))), "tail").size == (1, 1)


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(PictureError, match=r"large: .*too large for the memory"):
        decode_picture(stored(quarters(), "PNG"), "large")


SIZES = [(1, 1), (1, 7), (30_000, 10), (10, 30_000)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", get_args(Mode))
def test_every_shape_is_preprocessed(mode: Mode, size: tuple[int, int]) -> None:
    picture = decode_picture(stored(Image.new("RGB", size, (0, 255, 128)), "PNG"), "odd")
    pixels = Preprocessing(mode, (24, 16))(picture)
    assert pixels.shape == (3, 24, 16)
    assert torch.allclose(pixels.mean(dim=(1, 2)), torch.tensor([-1.0, 1.0, 1 / 255]), atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["paper", "modern"])
@pytest.mark.parametrize("crop", ["paper", "modern", "none"])
def test_every_shape_is_cropped(mode: Mode, crop: str, size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (0, 255, 128))
    view = training_view(Preprocessing(mode, (24, 16)), crop=crop)
    for seed in range(5):
        pixels = view(picture, np.random.default_rng(seed))
        assert pixels.shape == (3, 24, 16)
        assert pixels.isfinite().all()
        assert abs(pixels - torch.tensor([-1.0, 1.0, 1 / 255])[:, None, None]).max() < 1e-2


@pytest.mark.parametrize("extension", sorted(EXTENSIONS))
def test_every_extension_that_is_looked_for_can_be_read(tmp_path: Path, extension: str) -> None:
    path = tmp_path / "class" / f"picture{extension.upper()}"
    path.parent.mkdir()
    quarters().save(path, format=Image.registered_extensions()[extension])
    assert open_picture(path).size == (32, 32)
    assert list(list_split(tmp_path, tmp_path).names) == [f"class/{path.name}"]


def test_no_bytes_are_no_picture() -> None:
    with pytest.raises(PictureError, match=r"row 3: .*it is empty"):
        decode_picture(b"", "row 3")
