import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_lightning.data.pictures import ArrayPictures, PictureFiles, open_picture
from vit_lightning.data.splits import count_notes
from vit_lightning.errors import InputError

CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)


def pixels(picture: Any) -> Any:
    return np.asarray(picture).tolist()


# What a viewer shows for each EXIF orientation of the same stored pixels.
@pytest.mark.parametrize(
    ("orientation", "shown"),
    [
        (1, CORNERS),
        (2, CORNERS[:, ::-1]),
        (3, CORNERS[::-1, ::-1]),
        (4, CORNERS[::-1]),
        (5, CORNERS.transpose(1, 0, 2)),
        (6, np.rot90(CORNERS, -1)),
        (7, CORNERS[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(CORNERS, 1)),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, shown: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(CORNERS).save(path, exif=exif)
    assert pixels(open_picture(path)) == shown.tolist()


def test_jpeg_with_orientation_swaps_the_sides(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "upright.jpg"
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    assert open_picture(path).size == (20, 40)


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "shown"),
    [
        ("1", 1, "png", (255, 255, 255)),
        ("L", 77, "png", (77, 77, 77)),
        ("P", 0, "gif", (0, 0, 0)),
        ("RGBA", (10, 20, 30, 255), "png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "png", (255, 255, 255)),
        ("LA", (10, 0), "png", (255, 255, 255)),
        ("I;16", 65535, "png", (255, 255, 255)),
        ("I;16", 257 * 100, "png", (100, 100, 100)),
        ("I;16", 257 * 100, "tif", (100, 100, 100)),
        ("I", 257 * 100, "tif", (100, 100, 100)),
        ("CMYK", (0, 0, 0, 0), "tif", (255, 255, 255)),
        ("CMYK", (0, 0, 0, 255), "tif", (0, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, colour: Any, suffix: str, shown: Any
) -> None:
    path = tmp_path / f"picture.{suffix}"
    Image.new(mode, (3, 2), colour).save(path)
    picture = open_picture(path)
    assert picture.mode == "RGB"
    assert picture.size == (3, 2)
    assert picture.getpixel((1, 1)) == shown


def test_palette_with_transparency_lies_over_white(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([200, 0, 0, 0, 0, 200])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "palette.png", transparency=0)
    assert pixels(open_picture(tmp_path / "palette.png")) == [[[255, 255, 255], [0, 0, 200]]]


def test_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert open_picture(tmp_path / "two.gif").getpixel((0, 0)) == (255, 0, 0)


def noise_bytes(tmp_path: Path, suffix: str) -> bytes:
    rng = np.random.default_rng(0)
    path = tmp_path / f"whole.{suffix}"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "tif", "ppm"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_truncated_files_are_refused_by_name(tmp_path: Path, suffix: str, share: float) -> None:
    whole = noise_bytes(tmp_path, suffix)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=rf"cut\.{suffix}"):
        open_picture(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "tif", "ppm"])
def test_damaged_files_raise_nothing_but_input_errors(tmp_path: Path, suffix: str) -> None:
    whole = bytearray(noise_bytes(tmp_path, suffix))
    rng = np.random.default_rng(1)
    path = tmp_path / f"damaged.{suffix}"
    refused = 0
    for _ in range(30):
        damaged = whole.copy()
        for place in rng.integers(0, min(len(whole), 200), size=8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert open_picture(path).mode == "RGB"
        except InputError as error:
            refused += "damaged" in str(error)
    assert refused > 0


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jpg: no such picture"):
        open_picture(tmp_path / "none.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(InputError, match=r"folder\.jpg"):
        open_picture(tmp_path / "folder.jpg")
    (tmp_path / "text.png").write_text("no picture at all")
    with pytest.raises(InputError, match=r"text\.png: cannot be read as a picture"):
        open_picture(tmp_path / "text.png")
    Image.new("F", (2, 2)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match=r"float\.tif.*floating-point"):
        open_picture(tmp_path / "float.tif")


def png_of_claimed_size(path: Path, width: int, height: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_decompression_bombs_are_refused(tmp_path: Path) -> None:
    png_of_claimed_size(tmp_path / "bomb.png", 50_000, 50_000)
    with pytest.raises(InputError, match=r"bomb\.png: the picture is too large"):
        open_picture(tmp_path / "bomb.png")


def test_large_pictures_do_not_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (60, 50)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # the test run makes warnings errors
    assert open_picture(path).size == (60, 50)


def test_picture_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (2, 2), "red").save(tmp_path / "a" / "x.png")
    files = PictureFiles(tmp_path, ["a/x.png", "b/y.png"], np.array([0, 1]))
    assert files.load(0).getpixel((0, 0)) == (255, 0, 0)
    last = files.subset(np.array([1]))
    assert (len(last), last.name(0), last.labels.tolist()) == (1, "b/y.png", [1])


def test_array_pictures_keep_their_names_in_subsets() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    pictures = ArrayPictures(grey, np.array([0, 1, 2]), "toy")
    copied = pickle.loads(pickle.dumps(pictures))  # noqa: S301  # as a worker receives it
    twice = copied.subset(np.array([1, 2])).subset(np.array([1]))
    assert pictures.name(1) == "toy/00001"
    assert twice.name(0) == "toy/00002"
    assert pixels(twice.load(0)) == [[[8] * 3, [9] * 3], [[10] * 3, [11] * 3]]


def test_notes_count_few_classes_one_by_one_and_many_by_range() -> None:
    few = ArrayPictures(np.zeros((3, 1, 1), np.uint8), np.array([0, 1, 1]), "toy")
    assert count_notes(("a", "b"), val=few, train=few) == [
        "train: 3 pictures (a: 1, b: 2)",
        "val: 3 pictures (a: 1, b: 2)",
    ]
    many = tuple(f"class {i}" for i in range(11))
    assert count_notes(many, train=few) == ["train: 3 pictures (11 classes of 0 to 2)"]
