import io
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_lightning.data.decoding import open_scaled
from vit_lightning.data.pictures import PictureError, Region, WholePicture, open_picture
from vit_lightning.data.resizing import resize
from vit_lightning.models.config import Size

ORIENTATION = 0x0112
# Mean difference from full decoding, of 255.
PROMISED = 0.5


@cache
def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """Shapes of all sizes, their contrast as their size; like a photograph to a JPEG encoder."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128.0)
    side = 4
    while side < max(height, width):
        small = rng.normal(0, 1, (side * height // max(height, width) + 2, side + 2, 3))
        for channel in range(3):
            layer = Image.fromarray(small[..., channel].astype(np.float32))
            grown = np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC))
            pixels[..., channel] += grown * 120 / side**0.7
        side *= 2
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def mean_difference(path: Path, region: Region, size: Size) -> float:
    found = resize(*open_scaled(path).part(region, size), size, "bilinear")
    wanted = resize(open_picture(path), region, size, "bilinear")
    return float(np.abs(found.astype(int) - wanted).mean())


def regions(size: Size, seed: int, count: int) -> Iterator[Region]:
    """Some inside, some at the edges, some of fractions of pixels."""
    height, width = size
    rng = np.random.default_rng(seed)
    yield 0, 0, width, height
    for number in range(count):
        wide, high = rng.uniform(0.3, 1, 2) * (width, height)
        left, top = rng.uniform(0, 1, 2) * (width - wide, height - high)
        edges = left, top, left + wide, top + high
        yield edges if number % 2 else tuple(map(round, edges))  # type: ignore[misc]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_parts_of_turned_jpegs_show_what_full_decoding_shows(
    tmp_path: Path, orientation: int
) -> None:
    path = tmp_path / "picture.jpg"
    photograph(301, 422).save(path, quality=90, exif=oriented(orientation))
    whole = open_picture(path)
    assert open_scaled(path).size == (whole.height, whole.width)
    differences = [
        mean_difference(path, region, (side, side))
        for region in regions((whole.height, whole.width), seed=orientation, count=6)
        for side in (8, 20, 50, 200)
    ]
    assert np.mean(differences) < PROMISED
    assert max(differences) < 2 * PROMISED  # a wrong turn makes ten times as much


@pytest.mark.parametrize("orientation", range(1, 9))
def test_aligned_regions_are_whole_pixels_of_what_is_decoded(
    tmp_path: Path, orientation: int
) -> None:
    path = tmp_path / "picture.jpg"
    photograph(603, 845).save(path, quality=90, exif=oriented(orientation))
    picture = open_scaled(path)
    seen = 0
    for region in regions(picture.size, seed=orientation, count=8):
        for side in (8, 20, 50, 400):
            found = picture.aligned(region, (side, side))
            inside = picture.part(found, (side, side))[1]
            assert found == region or all(float(edge).is_integer() for edge in inside)
            moved = np.subtract(region, found) * (-1, -1, 1, 1)
            pixels = min(region[2] - region[0], region[3] - region[1]) / side  # for one of it
            assert moved.min() >= 0
            assert moved.max() <= pixels / 2
            seen += found != region
            assert mean_difference(path, found, (side, side)) < 2 * PROMISED
    assert seen >= 10


def test_other_pictures_are_taken_as_they_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    photograph(60, 80).save(path)
    region = (1.5, 2.25, 70.0, 51.0)
    for picture in (open_picture(path), Image.new("RGB", (80, 60))):
        assert WholePicture(picture).aligned(region, (5, 5)) == region
    assert open_scaled(path).aligned(region, (5, 5)) == region


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_parts_at_full_scale_are_exact(
    tmp_path: Path, orientation: int, subsampling: str, progressive: bool
) -> None:
    path = tmp_path / "picture.jpg"
    photograph(101, 90).save(
        path,
        quality=90,
        subsampling=subsampling,
        progressive=progressive,
        exif=oriented(orientation),
    )
    whole = open_picture(path)
    for region in regions((whole.height, whole.width), seed=2, count=8):
        picture, inside = open_scaled(path).part(region, (64, 64))
        left, top = round(region[0] - inside[0]), round(region[1] - inside[1])
        same = whole.crop((left, top, left + picture.width, top + picture.height))
        assert np.array_equal(picture, same)


@pytest.mark.parametrize(
    ("shape", "size", "scale"),
    [
        ((448, 640), (112, 112), 2),
        ((447, 640), (112, 112), 1),
        ((640, 640), (40, 40), 8),
        ((640, 640), (41, 20), 4),
        ((640, 100), (20, 20), 2),
    ],
)
def test_two_pixels_are_left_for_each_of_the_result(
    tmp_path: Path, shape: Size, size: Size, scale: int
) -> None:
    path = tmp_path / "picture.jpg"
    photograph(*shape).save(path)
    picture, region = open_scaled(path).part((0, 0, shape[1], shape[0]), size)
    assert picture.size == (-(-shape[1] // scale), -(-shape[0] // scale))
    assert region == (0, 0, shape[1] / scale, shape[0] / scale)


def test_colours_halved_along_one_axis_have_a_wider_margin(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    widths = []
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        photograph(448, 640).save(path, subsampling=subsampling)
        picture, _ = open_scaled(path).part((0, 0, 640, 448), (56, 56))
        widths.append(picture.width)
    assert widths == [160, 320, 160]


def test_rows_below_the_part_are_not_decoded(tmp_path: Path) -> None:
    """Damage there goes unseen; in the part, as in full decoding, it does not."""
    path = tmp_path / "picture.jpg"
    photograph(400, 400).save(path, quality=90)
    whole = open_picture(path)
    content = bytearray(path.read_bytes())
    start = len(content) * 3 // 4
    content[start : start + 200] = bytes(200)
    path.write_bytes(content)
    region = (0, 0, 400, 200)
    assert not np.array_equal(open_picture(path), whole)
    assert np.array_equal(open_scaled(path).part(region, (150, 300))[0], whole.crop(region))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_modes_of_jpegs(tmp_path: Path, mode: str, progressive: bool) -> None:
    path = tmp_path / "picture.jpg"
    photograph(200, 300).convert(mode).save(path, quality=90, progressive=progressive)
    differences = []
    for region in regions((200, 300), seed=3, count=4):
        assert open_scaled(path).part(region, (20, 30))[0].mode == "RGB"
        differences.append(mean_difference(path, region, (20, 30)))
    assert np.mean(differences) < PROMISED


def test_restart_markers_and_a_thumbnail_do_not_confuse(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    thumbnail = io.BytesIO()
    photograph(60, 80).save(thumbnail, "jpeg")
    extra = b"\xff\xe1" + (len(thumbnail.getvalue()) + 2).to_bytes(2, "big") + thumbnail.getvalue()
    photograph(300, 400).save(path, quality=90, restart_marker_rows=1, extra=extra)
    whole = open_picture(path)
    region = (10, 20, 300, 180)
    picture, _ = open_scaled(path).part(region, (200, 200))
    assert np.array_equal(picture, whole.crop(region))
    cut = tmp_path / "cut.jpg"  # in the thumbnail there still is an end
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PictureError, match=r"cut\.jpg: cannot be read"):
        open_scaled(cut).part((0, 0, 400, 40), (10, 10))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (9, 17)])
def test_tiny_jpegs(tmp_path: Path, size: Size) -> None:
    path = tmp_path / "picture.jpg"
    photograph(*size).save(path)
    region = (0, 0, size[1], size[0])
    assert np.array_equal(open_scaled(path).part(region, (5, 5))[0], open_picture(path))
    picture, inside = open_scaled(path).part(region, (1, 1))
    assert resize(picture, inside, (1, 1), "bicubic").shape == (1, 1, 3)


@pytest.mark.parametrize("suffix", ["png", "webp", "gif", "tif", "bmp", "ppm"])
def test_other_formats_are_decoded_in_full(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    photograph(40, 60).save(path)
    picture = open_scaled(path)
    assert picture.size == (40, 60)
    image, region = picture.part((1, 2, 33, 34), (4, 4))
    assert np.array_equal(image, open_picture(path))
    assert region == (1, 2, 33, 34)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_truncated_jpegs_are_refused(tmp_path: Path, share: float, progressive: bool) -> None:
    path = tmp_path / "cut.jpg"
    photograph(200, 200).save(path, quality=90, progressive=progressive)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(PictureError, match=r"cut\.jpg"):
        open_scaled(path).part((0, 0, 200, 50), (40, 40))
    # With an end, but without what lies before it: no grey half picture either.
    path.write_bytes(content[: int(len(content) * 0.1)] + b"\xff\xd9")
    found = open_scaled(path).part((0, 0, 200, 200), (150, 150))[0]
    assert np.array_equal(found, open_picture(path))


def test_damaged_jpegs_raise_nothing_but_picture_errors(tmp_path: Path) -> None:
    path = tmp_path / "damaged.jpg"
    photograph(64, 64).save(path, exif=oriented(6), progressive=True)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), size=8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            picture = open_scaled(path)
            height, width = picture.size
            assert picture.part((0, 0, width, height / 2), (10, 10))[0].mode == "RGB"
        except PictureError as error:
            refused += "damaged.jpg" in str(error)
    assert refused > 0


def test_other_refusals_are_those_of_full_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.jpg").write_text("no picture at all")
    (tmp_path / "folder.jpg").mkdir()
    photograph(50, 50).save(tmp_path / "large.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for name in ("none.jpg", "text.jpg", "folder.jpg", "large.jpg"):
        with pytest.raises(PictureError) as full:
            open_picture(tmp_path / name)
        with pytest.raises(PictureError) as scaled:
            open_scaled(tmp_path / name)
        assert str(scaled.value) == str(full.value)


def test_large_pictures_do_not_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.jpg"
    photograph(50, 60).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # the test run makes warnings errors
    assert open_scaled(path).part((0, 0, 60, 50), (50, 50))[0].size == (60, 50)


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_no_file_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    photograph(50, 60).save(path)
    before = open_files()
    pictures = [open_scaled(path) for _ in range(5)]
    for picture in pictures[:3]:
        picture.part((0, 0, 60, 50), (5, 5))
    assert open_files() == before
    path.unlink()
    assert pictures[4].part((0, 0, 60, 50), (50, 50))[0].size == (60, 50)


PICTURES = os.environ.get("VIT_LIGHTNING_DATA")


@pytest.mark.skipif(PICTURES is None, reason="VIT_LIGHTNING_DATA is not set")
def test_real_photographs_keep_the_promise() -> None:
    paths = sorted((Path(str(PICTURES)) / "hymenoptera_data" / "val").rglob("*.jpg"))[::15]
    differences, scaled = [], 0
    for number, path in enumerate(paths):
        picture, whole = open_scaled(path), open_picture(path)
        for region in regions(picture.size, seed=number, count=2):
            for side in (24, 64, 128):
                part, inside = picture.part(region, (side, side))
                scaled += part.width < region[2] - region[0] - 2
                found = resize(part, inside, (side, side), "bilinear")
                wanted = resize(whole, region, (side, side), "bilinear")
                differences.append(np.abs(found.astype(int) - wanted).mean())
    assert scaled > len(differences) / 3
    assert np.mean(differences) < PROMISED


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    os.mkfifo(path)
    with pytest.raises(PictureError, match="a pipe or a device"):
        open_scaled(path)
