"""Each operation against numpy, and what the laws say about its values."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vit_lightning.data.operations import (
    HIGHEST_STRENGTH,
    RANDAUGMENT,
    TRIVIALAUGMENT,
    Canvas,
    Law,
    Operation,
)

Pixels = NDArray[np.uint8]

LAWS = {**RANDAUGMENT, "trivial": TRIVIALAUGMENT}
LEVELS = {
    "original": [0.0, 0.7, 1.0, 1.5, 2.0, 3.0],
    "increasing": [0.0, 0.45, 0.9, 1.0],
    "trivial": [0.0, 1.0, 15.0, 30.0],
}
NEAREST = Canvas((128, 128, 128), Image.Resampling.NEAREST)


def pixels(height: int = 12, width: int = 9, seed: int = 0) -> Pixels:
    """Noise of little contrast, so that autocontrast and equalize have something to do."""
    generator = np.random.default_rng(seed)
    return generator.integers(30, 200, size=(height, width, 3), dtype=np.uint8)


def operation(law: str, name: str) -> Operation:
    return next(row for row in LAWS[law].operations if row.name == name)


def values(law: str, name: str, level: float, seed: int = 0) -> tuple[float, ...]:
    return operation(law, name).draw(level, np.random.default_rng(seed))


def changed(name: str, *numbers: float, picture: Pixels | None = None) -> Pixels:
    source = Image.fromarray(pixels() if picture is None else picture)
    return np.asarray(operation("original", name).change(source, NEAREST, *numbers))


def blended(ground: NDArray[np.float64], source: Pixels, factor: float) -> Pixels:
    mixed = ground + np.float32(factor) * (source.astype(np.float32) - ground)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def luma(source: Pixels) -> NDArray[np.float64]:
    weights = np.array([19595, 38470, 7471])  # of 65536, Pillow's
    grey: NDArray[np.float64] = ((source @ weights + 32768) >> 16).astype(np.float64)[..., None]
    return grey


def test_tables_hold_the_operations_of_their_papers() -> None:
    common = {"autocontrast", "equalize", "rotate", "posterize", "solarize", "color", "contrast"}
    common |= {"brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"}
    names = {name: [row.name for row in law.operations] for name, law in LAWS.items()}
    assert all(len(set(rows)) == len(rows) for rows in names.values())
    assert set(names["original"]) == common | {"invert", "cutout", "solarize_add"}
    assert set(names["increasing"]) == common | {"invert", "solarize_add"}
    assert set(names["trivial"]) == common | {"identity"}


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.9, 3.7])
def test_enhancements_blend_with_what_is_not_there(factor: float) -> None:
    source = pixels()
    black, grey = np.zeros(source.shape), luma(source) + np.zeros(source.shape)
    mean = np.full(source.shape, int(luma(source).mean() + 0.5), dtype=np.float64)
    # One is allowed for the last bit of the multiplication, which the compiler may fuse.
    for name, ground in [("brightness", black), ("color", grey), ("contrast", mean)]:
        found = changed(name, factor).astype(int)
        assert np.abs(found - blended(ground, source, factor)).max() <= 1, name
        assert (found != source).mean() > 0.8, name


def test_sharpness_blends_with_the_smoothed_picture_except_at_the_edge() -> None:
    source = pixels().astype(np.float64)
    smooth = 4 * source[1:-1, 1:-1]
    for y in range(3):
        for x in range(3):
            smooth = smooth + source[y : y + 10, x : x + 7]
    found = changed("sharpness", 0.1)
    expected = 0.9 * smooth / 13 + 0.1 * source[1:-1, 1:-1]
    assert np.abs(found[1:-1, 1:-1] - expected).max() <= 1.5
    assert (found[0] == pixels()[0]).all()


def test_tones_against_numpy() -> None:
    source = pixels()
    wide = source.astype(int)
    assert (changed("invert") == 255 - source).all()
    assert (changed("posterize", 3) == source // 32 * 32).all()
    assert (changed("solarize", 100) == np.where(source < 100, source, 255 - source)).all()
    raised = np.where(source < 128, np.minimum(wide + 110, 255), wide)
    assert (changed("solarize_add", 110) == raised).all()
    low, high = wide.min(axis=(0, 1)), wide.max(axis=(0, 1))
    assert np.abs(changed("autocontrast") - (wide - low) * 255 / (high - low)).max() <= 1


def test_equalize_ranks_the_values() -> None:
    source = pixels(60, 50)
    found = changed("equalize", picture=source)
    for channel in range(3):
        plane = source[..., channel]
        darker = (plane[..., None] > plane.ravel()).sum(axis=-1)
        step = (plane < plane.max()).sum() // 255  # pixels for each level of the result
        assert (found[..., channel] == np.minimum((darker + step // 2) // step, 255)).all()


def test_translation_moves_pixels_and_fills_the_rest() -> None:
    source = pixels()
    expected = np.full_like(source, 128)
    expected[:, :6] = source[:, 3:]
    assert (changed("translate_x", 3 / 9) == expected).all()
    expected = np.full_like(source, 128)
    expected[4:] = source[:-4]
    assert (changed("translate_y", -4 / 12) == expected).all()


def test_shear_takes_each_row_from_further_aside() -> None:
    source = pixels()
    expected = np.full_like(source, 128)
    for y in range(12):
        for x in range(9):
            at = int(np.floor(x + 0.5 + 0.4 * (y + 0.5)))
            if at < 9:
                expected[y, x] = source[y, at]
    assert (changed("shear_x", 0.4) == expected).all()
    turned = changed("shear_y", 0.4, picture=source.transpose(1, 0, 2).copy())
    assert (turned == expected.transpose(1, 0, 2)).all()


def test_rotation_is_around_the_centre() -> None:
    square = pixels(9, 9)
    assert (changed("rotate", 90, picture=square) == np.rot90(square)).all()
    corner = changed("rotate", 45, picture=square)
    assert (corner[0, 0] == 128).all()
    assert (corner[4, 4] == square[4, 4]).all()


def test_cutout_fills_a_square_that_may_stick_out() -> None:
    source = pixels(40, 30)
    expected = source.copy()
    expected[16:24, 11:19] = 128
    assert (changed("cutout", 4 / 30, 0.5, 0.5, picture=source) == expected).all()
    expected = source.copy()
    expected[:4, 25:] = 128
    assert (changed("cutout", 4 / 30, 29 / 30, 0.0, picture=source) == expected).all()
    assert (changed("cutout", 0.0, 0.5, 0.5, picture=source) == source).all()


@pytest.mark.parametrize(
    ("name", "by_level"),
    [
        ("rotate", {0: 0, 1: 30, 1.5: 45, 2: 60}),
        ("shear_x", {0: 0, 1: 0.3, 2: 0.6}),
        ("translate_y", {0: 0, 1: 100 / 224, 2: 200 / 224}),
        # None is kept at 0 in name only; from 9 bits on the shift is by a negative number.
        ("posterize", {0: 1, 0.7: 2, 1: 4, 1.5: 6, 2: 8, 2.3: 1}),
        ("solarize", {0: 0, 0.7: 179, 1: 0, 1.5: 128, 2: 0}),
        ("solarize_add", {0: 0, 0.7: 77, 1: 110, 2: 220}),
        ("sharpness", {0: 0.1, 1: 1.9, 1.5: 2.8, 2: 3.7}),
        ("cutout", {0: 0, 1: 40 / 224, 2: 80 / 224}),
    ],
)
def test_original_values(name: str, by_level: dict[float, float]) -> None:
    for level, expected in by_level.items():
        assert abs(values("original", name, level)[0]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "by_level"),
    [
        ("rotate", {0: 0, 0.9: 27}),
        ("translate_x", {0: 0, 0.9: 0.405, 1: 0.45}),
        ("posterize", {0: 4, 0.5: 2, 0.9: 1, 1: 1}),
        ("solarize", {0: 256, 0.5: 128, 0.9: 26, 1: 0}),
        ("solarize_add", {0: 0, 0.9: 99, 1: 110}),
    ],
)
def test_increasing_values(name: str, by_level: dict[float, float]) -> None:
    for level, expected in by_level.items():
        assert abs(values("increasing", name, level)[0]) == pytest.approx(expected)


def test_increasing_factors_lie_on_both_sides_of_one() -> None:
    draws = {round(values("increasing", "color", 0.9, seed)[0], 6) for seed in range(20)}
    assert draws == {0.19, 1.81}
    assert {values("increasing", "contrast", 1.0, seed)[0] for seed in range(20)} == {0.1, 1.9}


@pytest.mark.parametrize(
    ("name", "by_level"),
    [
        ("rotate", {0: 0, 1: 4, 30: 135}),
        ("shear_x", {0: 0, 15: 0.495, 30: 0.99}),
        ("translate_x", {0: 0, 15: 16, 30: 32}),
        ("posterize", {0: 8, 5: 7, 30: 2}),
        ("solarize", {0: 256, 15: 128, 30: 0}),
        ("brightness", {0: 0.01, 15: 1.005, 30: 2.0}),
    ],
)
def test_trivial_values(name: str, by_level: dict[float, float]) -> None:
    assert max(by_level) == HIGHEST_STRENGTH
    for level, expected in by_level.items():
        assert abs(values("trivial", name, level)[0]) == pytest.approx(expected)


def test_trivial_translation_is_in_pixels() -> None:
    source = Image.fromarray(pixels(4, 50))
    moved = operation("trivial", "translate_x").change(source, TRIVIALAUGMENT.canvas, 32)
    assert (np.asarray(moved)[:, :18] == np.asarray(source)[:, 32:]).all()
    assert not np.asarray(moved)[:, 18:].any()


@pytest.mark.parametrize("law", LAWS)
def test_signs_are_even(law: str) -> None:
    generator = np.random.default_rng(1)
    for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        draw = operation(law, name).draw
        positive = sum(draw(1.0, generator)[0] > 0 for _ in range(1000))
        assert abs(positive - 500) < 60, name  # four standard deviations are 63


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("size", [(12, 9), (1, 1), (2, 40)])
def test_size_and_mode_are_kept_and_the_picture_untouched(law: str, size: tuple[int, int]) -> None:
    table: Law = LAWS[law]
    colour = Image.fromarray(pixels(*size))
    for picture in (colour, colour.convert("L")):
        before = picture.tobytes()
        for row in table.operations:
            for level in LEVELS[law]:
                for seed in range(2):
                    result = row.drawn(table.canvas, level, np.random.default_rng(seed))(picture)
                    assert (result.mode, result.size) == (picture.mode, picture.size), row.name
                    assert picture.tobytes() == before, row.name


def test_grey_pictures_have_no_colour_to_change() -> None:
    picture = Image.fromarray(pixels()).convert("L")
    for law in LAWS.values():
        row = next(row for row in law.operations if row.name == "color")
        result = row.drawn(law.canvas, 1.0, np.random.default_rng(0))(picture)
        assert result.tobytes() == picture.tobytes()


def test_grey_pictures_are_filled_with_the_luma() -> None:
    canvas = Canvas((124, 116, 104), Image.Resampling.NEAREST)
    picture = Image.new("L", (4, 4), 7)
    assert canvas.colour("RGB") == (124, 116, 104)
    assert canvas.colour("L") == 117
    moved = operation("original", "translate_x").change(picture, canvas, 0.5)
    assert np.asarray(moved)[0].tolist() == [7, 7, 117, 117]


def test_grey_and_equal_channels_agree() -> None:
    grey = Image.fromarray(pixels()).convert("L")
    for row in RANDAUGMENT["original"].operations:
        narrow, wide = (
            row.drawn(NEAREST, 1.5, np.random.default_rng(3))(picture)
            for picture in (grey, grey.convert("RGB"))
        )
        assert narrow.convert("RGB").tobytes() == wide.tobytes(), row.name
