"""Pictures are recognised after what is done to pictures, and others are not taken for them."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from vit_lightning.check.align import align, conclusive
from vit_lightning.check.matching import THRESHOLD, Copies, match_between, match_within
from vit_lightning.check.measure import Measured, measure
from vit_lightning.check.search import search
from vit_lightning.check.views import DENSE, MEDIUM, SPARSE, describe, resampler, view_boxes
from vit_lightning.data.pictures import ArrayPictures, PictureFiles

Scene = Callable[..., Image.Image]
OTHERS = range(100, 130)  # scenes that stand around


def _copies(pictures: list[Image.Image]) -> Copies:
    kept = []
    for picture in pictures:
        array = ArrayPictures(np.asarray(picture)[None], np.zeros(1, np.int64), "one")
        outcome = measure(array, 0)
        assert isinstance(outcome, Measured)
        kept.append(outcome)
    return Copies(
        np.stack([one.grey for one in kept]),
        np.stack([one.chroma for one in kept]),
        np.array([one.size for one in kept]),
    )


def _jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _crop(picture: Image.Image, left: float, top: float, side: float) -> Image.Image:
    width, height = picture.size
    edges = (left * width, top * height, (left + side) * width, (top + side) * height)
    return picture.crop(tuple(round(edge) for edge in edges))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "64 px, squashed": lambda p: p.resize((64, 64), Image.Resampling.BICUBIC),
    "64 px, centre": lambda p: ImageOps.fit(p, (64, 64), Image.Resampling.BILINEAR),
    "64 px, left end": lambda p: ImageOps.fit(p, (64, 64), centering=(0, 0.5)),
    "32 px": lambda p: p.resize((32, 32), Image.Resampling.BOX),
    "recompressed": lambda p: _jpeg(p, 20),
    "crop of 0.8": lambda p: _crop(p, 0.05, 0.15, 0.8),
    "crop of 0.7 at 64 px": lambda p: _jpeg(_crop(p, 0.3, 0.0, 0.7).resize((64, 64)), 75),
    "brighter": lambda p: ImageEnhance.Contrast(ImageEnhance.Brightness(p).enhance(1.3)).enhance(
        0.7
    ),
    "doubled": lambda p: p.resize((800, 600), Image.Resampling.BICUBIC),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_is_found(scene: Scene, change: Callable[..., Image.Image]) -> None:
    originals = [scene(number) for number in range(3)]
    others = [scene(number) for number in OTHERS]
    forward, backward = match_between(
        _copies([change(picture) for picture in originals]), _copies([*others, *originals])
    )
    found = {(m.larger, m.smaller) for m in forward} | {(m.smaller, m.larger) for m in backward}
    assert found == {(index, len(others) + index) for index in range(3)}
    assert all(THRESHOLD <= match.score <= 1 for match in forward + backward)


def test_the_box_tells_what_both_show(scene: Scene) -> None:
    original = scene(0)
    part = _crop(original, 0.1, 0.2, 0.75)
    [match], backward = match_between(_copies([original]), _copies([part]))
    assert backward == []
    assert match.box == pytest.approx((0.475, 0.575, 0.75, 0.75), abs=0.02)


def test_of_two_that_show_the_same_the_one_with_more_pixels_is_larger(scene: Scene) -> None:
    pictures = [scene(number, (128, 128)) for number in range(4)]
    small = [_jpeg(picture.resize((48, 48)), 70) for picture in pictures]
    every = {(index, index) for index in range(4)}
    forward, backward = match_between(_copies(pictures), _copies(small))
    assert ({(m.larger, m.smaller) for m in forward}, backward) == (every, [])
    forward, backward = match_between(_copies(small), _copies(pictures))
    assert (forward, {(m.larger, m.smaller) for m in backward}) == ([], every)
    within = match_within(_copies([*small, *pictures]))
    assert {(m.larger, m.smaller) for m in within} == {(4 + index, index) for index in range(4)}


@pytest.mark.parametrize("aspect", [1.33, 1.45, 0.7, 2.0])
def test_the_centre_is_among_the_parts(aspect: float) -> None:
    # Most copies are crops of the centre, and a strong centre leaves no room to be beside it.
    square = (min(1.0, 1 / aspect), min(1.0, aspect))
    for density in (SPARSE, MEDIUM, DENSE):
        assert (0.5, 0.5, *square) in view_boxes(aspect, density)


def test_long_pictures_have_few_parts() -> None:
    assert len(view_boxes(3000.0, DENSE)) == len(view_boxes(3.0, DENSE)) < 200


def test_within_a_set_each_pair_is_told_once(scene: Scene) -> None:
    pictures = [scene(number) for number in OTHERS]
    pictures += [pictures[3].resize((64, 64)), _crop(pictures[3], 0.1, 0.1, 0.8)]
    pairs = {frozenset((m.larger, m.smaller)) for m in match_within(_copies(pictures))}
    first, second = len(OTHERS), len(OTHERS) + 1
    expected = {frozenset((3, first)), frozenset((3, second)), frozenset((first, second))}
    assert pairs == expected


def test_pictures_without_contrast_match_nothing() -> None:
    plain = [Image.new("RGB", (80, 60), (level, level, level)) for level in (0, 0, 255, 120)]
    assert match_within(_copies(plain)) == []


def test_sticks_are_not_the_same_picture() -> None:
    # What correlates anywhere along itself says nothing.
    pictures = []
    for seed, width in ((0, 10), (1, 12), (2, 11)):
        generator = np.random.default_rng(seed)
        picture = Image.new("RGB", (128, 128), "white")
        pen = ImageDraw.Draw(picture)
        for x in range(8, 120, 8):  # a stick of pieces, as turned wood has
            grey = int(generator.integers(0, 180))
            pen.line((x, 128 - x, x + 9, 119 - x), fill=(grey, grey, grey), width=width)
        pictures.append(picture)
    copies = _copies(pictures)
    grey = torch.from_numpy(copies.grey)
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    correlation, _ = align(grey[:1], grey[1:2], whole)
    assert correlation > 0.7
    assert conclusive(correlation, grey[1:2]) < THRESHOLD
    assert match_within(copies) == []


def test_no_pictures_are_no_matches(scene: Scene) -> None:
    none = Copies(
        np.empty((0, 48, 48), np.uint8), np.empty((0, 2, 12, 12), np.uint8), np.empty((0, 2))
    )
    assert match_within(none) == []
    assert match_between(none, _copies([scene(0)])) == ([], [])


# Parts


def test_views_lie_within_the_picture() -> None:
    for aspect in (0.01, 0.5, 1.0, 1.33, 3.0):
        for density in (SPARSE, MEDIUM, DENSE):
            boxes = np.array(view_boxes(aspect, density))
            assert tuple(boxes[0]) == (0.5, 0.5, 1.0, 1.0)
            assert (boxes[:, :2] - boxes[:, 2:] / 2 > -1e-6).all()
            assert (boxes[:, :2] + boxes[:, 2:] / 2 < 1 + 1e-6).all()
            assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert len(view_boxes(1.0, SPARSE)) == 2
    assert len(view_boxes(1.33, MEDIUM)) == 13
    assert len(view_boxes(1.33, DENSE)) > 30


def test_large_sets_are_compared_by_fewer_parts(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [scene(number) for number in range(12)]
    copies = [picture.resize((64, 64)) for picture in pictures]
    copies[0] = _crop(pictures[0], 0.05, 0.05, 0.9)
    for views in (40, 200):  # sparse, medium
        monkeypatch.setattr("vit_lightning.check.matching._MOST_VIEWS", views)
        forward, backward = match_between(_copies(pictures), _copies(copies))
        assert {(m.larger, m.smaller) for m in forward} | {
            (m.smaller, m.larger) for m in backward
        } == {(index, index) for index in range(12)}


def test_resampling_is_pillows_bilinear(scene: Scene) -> None:
    grey = np.asarray(scene(0, (48, 48)).convert("L")).astype(np.float32)
    matrix = resampler(torch.tensor(0.5), torch.tensor(1.0), 48, 16)
    assert torch.allclose(matrix.sum(-1), torch.ones(16))
    ours = (matrix @ torch.from_numpy(grey) @ matrix.mT).numpy()
    theirs = np.asarray(Image.fromarray(grey).resize((16, 16), Image.Resampling.BILINEAR))
    assert np.abs(ours - theirs)[1:-1, 1:-1].max() < 0.01


def test_descriptions_have_unit_length_and_know_no_contrast(scene: Scene) -> None:
    picture = scene(0)
    faint = ImageEnhance.Contrast(picture).enhance(0.5)
    copies = _copies([picture, faint, scene(1)])
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]]).expand(3, 4)
    described = describe(torch.from_numpy(copies.grey), torch.from_numpy(copies.chroma), whole)
    assert torch.allclose(described.norm(dim=1), torch.ones(3))
    assert described[0] @ described[1] > 0.95
    assert described[0] @ described[2] < 0.6


@pytest.mark.parametrize("cut", [1 << 18, 4])
def test_search_agrees_with_all_comparisons(monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    monkeypatch.setattr("vit_lightning.check.search._ROWS", 7)
    monkeypatch.setattr("vit_lightning.check.search._COLUMNS", 5)
    monkeypatch.setattr("vit_lightning.check.search._MOST_HITS", cut)
    generator = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(30, 4, generator=generator), dim=1)
    targets = torch.nn.functional.normalize(torch.randn(12, 4, generator=generator), dim=1)
    owners = np.repeat(np.arange(10), 3)
    done = []
    rows, columns, values = search(
        lambda part: queries[part],
        owners,
        targets,
        floor=0.3,
        most=3,
        same=True,
        update=done.append,
    )
    assert sum(done) == 30
    best = (queries @ targets.T).reshape(10, 3, 12).amax(1).numpy()
    best[np.arange(10), np.arange(10)] = -1
    expected = {
        (owner, target)
        for owner in range(10)
        for target in np.argsort(-best[owner])[:3]
        if best[owner, target] > 0.3
    }
    assert set(zip(owners[rows].tolist(), columns.tolist(), strict=True)) == expected
    assert np.allclose(values, (queries @ targets.T).numpy()[rows, columns])


@pytest.mark.skipif("VIT_LIGHTNING_DATA" not in os.environ, reason="VIT_LIGHTNING_DATA is not set")
@pytest.mark.parametrize("cut", ["square", "corner"])
def test_photographs_are_found_at_64_pixels(cut: str) -> None:
    root = Path(os.environ["VIT_LIGHTNING_DATA"]) / "hymenoptera_data" / "val"
    names = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*.jpg"))[::3]
    files = PictureFiles(root, names, np.zeros(len(names), np.int64))
    originals = [files.load(index) for index in range(len(files))]
    crops = [
        ImageOps.fit(picture, (64, 64)) if cut == "square" else _crop(picture, 0.0, 0.07, 0.93)
        for picture in originals[::2]
    ]
    small = [_jpeg(picture.resize((64, 64)), 80) for picture in crops]
    forward, backward = match_between(_copies(originals), _copies(small))
    assert backward == []  # a square photograph shows no less than its copy, and has more pixels
    assert [(m.larger, m.smaller) for m in sorted(forward, key=lambda m: m.smaller)] == [
        (2 * index, index) for index in range(len(small))
    ]
