"""Everything that can be wrong with a data set is told."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_lightning.check.findings import Findings
from vit_lightning.check.html import as_html
from vit_lightning.check.measure import Measured, measure, measure_all
from vit_lightning.check.run import check_data
from vit_lightning.check.sources import open_source
from vit_lightning.check.text import as_text, sections
from vit_lightning.cli import main
from vit_lightning.data.folder import open_folder
from vit_lightning.data.pictures import ArrayPictures, PictureFiles
from vit_lightning.errors import InputError

Scene = Callable[..., Image.Image]


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_lightning.check.throughput._SECONDS", 0.01)


def _check(path: Path, against: Path | None = None) -> Findings:
    return check_data(path, against, workers=0, speed=False)


def _names(pairs: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(pair["first"]["name"], pair["second"]["name"]) for pair in pairs}


# What is found


def test_a_clean_set_has_no_problems(tree: Path) -> None:
    findings = _check(tree)
    assert findings.problems == []
    assert findings.values["pairs"] == []
    train = findings.values["splits"]["train"]
    assert train["classes"] == {"ants": 4, "bees": 4}
    assert train["most_frequent_size"] == ["96 x 72", 8]
    assert train["exif_orientations"] == {"1": 8}
    assert as_text(findings).endswith("no problems found")


def test_unreadable_files_are_all_told_with_the_reason(tree: Path) -> None:
    whole = (tree / "train" / "ants" / "0.png").read_bytes()
    (tree / "train" / "ants" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tree / "train" / "bees" / "empty.jpg").write_bytes(b"")
    (tree / "val" / "bees" / "words.png").write_text("no picture")
    (tree / "val" / "bees" / "gone.png").symlink_to(tree / "nowhere.png")
    findings = _check(tree)
    told = {item["picture"]: item["reason"] for item in findings.values["unreadable"]}
    assert set(told) == {
        "train/ants/cut.png",
        "train/bees/empty.jpg",
        "val/bees/words.png",
        "val/bees/gone.png",
    }
    assert "in none of the known formats" in told["val/bees/words.png"]
    assert "truncated" in told["train/ants/cut.png"]
    assert findings.problems == ["4 files cannot be read"]
    assert "it is empty" in told["train/bees/empty.jpg"]
    text = as_text(findings)
    assert all(f"\n  {name}: {reason}" in text for name, reason in told.items())
    assert str(tree) not in "".join(told.values())


def test_what_the_system_refuses_is_told_without_the_path_again(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("vit_lightning.check.measure._file_hash", refuse)
    pictures = PictureFiles(tree, ["train/ants/0.png"], np.zeros(1, np.int64))
    assert measure(pictures, 0) == "cannot be read (Permission denied)"


@pytest.mark.parametrize("split", ["train", "."])
def test_class_folders_are_refused_in_the_words_of_training(tree: Path, split: str) -> None:
    root = tree if split == "train" else tree / "train"
    folder = tree / "train"
    shutil.rmtree(folder / "bees")
    shutil.rmtree(tree / "val" / "bees")
    problems = _check(root).problems
    start = f"{root / split} holds one class (ants), two are the least; expected"
    assert len(problems) == 1
    assert problems[0].startswith(start)
    assert problems[0] in _refusal(root)
    (folder / "empty").mkdir()
    problems = _check(root).problems
    assert len(problems) == 1
    assert problems[0].startswith(f"{folder / 'empty'} holds no pictures (")
    assert problems[0] in _refusal(root)


def _refusal(root: Path) -> str:
    with pytest.raises(InputError) as refused:
        open_folder(root, val_fraction=0.25, seed=0)
    return str(refused.value)


def test_a_conflict_is_not_listed_among_the_duplicates_again(tree: Path) -> None:
    train = tree / "train"
    for number in (0, 1):  # one within a class, one across
        target = train / ("ants", "bees")[number] / f"small{number}.jpg"
        Image.open(train / "ants" / f"{number}.png").resize((64, 64)).save(target)
    titles = {title: len(pairs) for title, pairs in sections(_check(tree))}
    assert titles == {"label conflicts": 1, "near duplicates in a split": 1}


def test_duplicates_leakage_and_conflicts(tree: Path, scene: Scene) -> None:
    train, val = tree / "train", tree / "val"
    shutil.copy(train / "ants" / "0.png", train / "ants" / "copy.png")  # the file
    Image.open(train / "bees" / "0.png").save(val / "bees" / "again.bmp")  # the pixels
    Image.open(train / "ants" / "1.png").resize((64, 64)).save(train / "bees" / "small.jpg")
    findings = _check(tree)
    pairs = findings.values["pairs"]
    assert _names(pairs) == {
        ("train/ants/0.png", "train/ants/copy.png"),
        ("train/bees/0.png", "val/bees/again.bmp"),
        ("train/ants/1.png", "train/bees/small.jpg"),
    }
    assert [pair["kind"] for pair in pairs] == ["file", "pixels", "near"]
    assert findings.problems == [
        "leakage: 1 picture of val shown in train too",
        "exact duplicates in train: 2 pictures in 1 group",
        "near duplicates in train: 2 pictures in 1 group",
        "label conflicts: 1 pair of pictures that show the same in different classes",
    ]
    text = as_text(findings)
    assert "train/ants/1.png (ants) = train/bees/small.jpg (bees)" in text


def test_many_equal_pictures_are_one_group(tmp_path: Path, scene: Scene) -> None:
    (tmp_path / "ants").mkdir()
    (tmp_path / "bees").mkdir()
    scene(1).save(tmp_path / "bees" / "1.png")
    for number in range(25):
        scene(0, (48, 48)).save(tmp_path / "ants" / f"{number:02}.png")
    findings = _check(tmp_path)
    assert findings.problems == ["exact duplicates in pictures: 25 pictures in 1 group"]
    assert len(findings.pairs) == 24
    assert "and 4 more" in as_text(findings)


def test_classes_that_differ_between_splits(tree: Path, scene: Scene) -> None:
    shutil.rmtree(tree / "val" / "bees")
    (tree / "val" / "wasps").mkdir()
    scene(50).save(tree / "val" / "wasps" / "0.png")
    (tree / "test" / "ants").mkdir(parents=True)
    findings = _check(tree)
    assert findings.values["missing_classes"] == {
        "train": ["wasps"],
        "val": ["bees"],
        "test": ["ants", "bees", "wasps"],
    }
    assert len(findings.problems) == 4
    assert findings.problems[1] == (
        "train has no pictures of 1 class that another split has: wasps"
    )


def test_what_should_be_known(tmp_path: Path, scene: Scene) -> None:
    for name, count in (("ants", 10), ("bees", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            scene(10 * count + number, (60, 50)).save(tmp_path / name / f"{number}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(90, (100, 20)).save(tmp_path / "ants" / "turned.jpg", exif=exif)
    scene(91, (40, 10)).convert("CMYK").save(tmp_path / "ants" / "cmyk.jpg")
    (tmp_path / "ants" / "notes.txt").write_text("skipped")
    findings = _check(tmp_path)
    assert findings.problems == []
    told = "\n".join(findings.notes)
    for expected in (
        r"imbalance in pictures: ants has 12 pictures, bees 1 \(12 to 1\)",
        r"1 picture turned upright by EXIF orientation",
        r"1 picture with a side below 16 pixels",
        r"1 picture more than 4 times as long as wide",
        r"1 picture stored as CMYK, not RGB: ants/cmyk.jpg",
        r"skipped in .*: 1 \.txt",
    ):
        assert re.search(expected, told), expected
    values = findings.values["splits"]["pictures"]
    assert values["exif_orientations"] == {"1": 12, "6": 1}
    assert values["aspect"][0] == 0.2  # upright


def test_channel_statistics_weigh_pictures_equally(tmp_path: Path) -> None:
    for name, level, size in (("dark", 51, (10, 10)), ("bright", 204, (40, 40))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size, (level, 0, 255)).save(tmp_path / name / "0.png")
    values = _check(tmp_path).values["splits"]["pictures"]
    assert values["mean"] == [0.5, 0.0, 1.0]
    assert values["std"] == [0.3, 0.0, 0.0]


def test_against_another_set(tree: Path, tmp_path: Path, scene: Scene) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for number in range(60, 70):
        scene(number, (64, 64)).save(other / f"{number}.png")
    Image.open(tree / "val" / "bees" / "1.png").crop((12, 0, 84, 72)).resize((64, 64)).save(
        other / "found.jpg"
    )
    shutil.copy(tree / "train" / "ants" / "2.png", other / "same.png")
    findings = _check(tree, other)
    pairs = findings.values["against"]["pairs"]
    assert _names(pairs) == {
        ("val/bees/1.png", "found.jpg"),
        ("train/ants/2.png", "same.png"),
    }
    assert [pair["kind"] for pair in pairs] == ["file", "near"]
    assert findings.problems == [f"2 pictures also in {other}"]
    page = as_html(findings)
    assert page.count("<img ") == 4


# Where it is written


def test_the_page_is_whole_and_offline(tree: Path) -> None:
    (tree / "train" / "ants" / "<b>.png").write_bytes(b"")
    shutil.copy(tree / "train" / "ants" / "0.png", tree / "val" / "ants" / "0'\".png")
    page = as_html(_check(tree))
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert not re.search(r"https?:|<link|<script|url\(", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "<b>.png" not in page
    assert "&lt;b&gt;.png" in page


def test_command(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scene: Scene
) -> None:
    assert main(["check", str(tree), "--workers", "0", "--no-speed"]) == 0
    assert "no problems found" in capsys.readouterr().out
    scene(0, (96, 72)).resize((50, 50)).save(tree / "val" / "ants" / "leak.png")
    page, values = tmp_path / "out" / "page.html", tmp_path / "out" / "values.json"
    arguments = [str(tree), "--workers", "2", "--html", str(page), "--json", str(values)]
    assert main(["check", *arguments]) == 1
    printed = capsys.readouterr().out
    assert "leakage: 1 picture of val shown in train too" in printed
    assert "images/s read, decoded and augmented by a core" in printed
    read = json.loads(values.read_text())
    assert _names(read["pairs"]) == {("train/ants/0.png", "val/ants/leak.png")}
    assert read["throughput"]["decode_per_core"] > 0
    assert "leakage" in page.read_text()


@pytest.mark.parametrize("arguments", [["nowhere"], ["file.txt"], ["none.json"], ["."]])
def test_bad_input(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").touch()
    assert main(["check", *arguments, "--workers", "0"]) == 2
    message = capsys.readouterr().err
    assert arguments[0] in message
    assert "Traceback" not in message
    assert main(["check", ".", "--workers", "-1"]) == 2


# Sources and reading


def test_what_a_training_would_refuse_is_opened(
    tiny: dict[str, Any], write: Callable[..., Path], tree: Path
) -> None:
    (tree / "val" / "wasps").mkdir()
    shutil.copy(tree / "val" / "ants" / "0.png", tree / "val" / "wasps" / "0.png")
    findings = _check(write(tiny, data={"root": str(tree)}))
    assert "wasps: this class is not in" in findings.problems[0]
    assert findings.values["missing_classes"] == {"train": ["wasps"]}
    assert any(problem.startswith("label conflicts") for problem in findings.problems)


def test_digits_need_no_files() -> None:
    source = open_source(Path(__file__).parents[2] / "experiments" / "quickstart.json")
    assert [split.name for split in source.splits] == ["train", "val"]
    outcome = measure(source.splits[0].pictures, 0)
    assert isinstance(outcome, Measured)
    assert outcome.file_hash == outcome.pixel_hash


def test_folders_beside_the_splits_are_named(tree: Path) -> None:
    (tree / "valid").mkdir()
    assert 'not read, as no split: "valid"' in open_source(tree).notes


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_keeps_the_order(tree: Path, workers: int) -> None:
    names = [f"train/{name}/{i}.png" for name in ("ants", "bees") for i in range(4)]
    names.insert(3, "train/ants/none.png")
    files = PictureFiles(tree, names, np.zeros(len(names), np.int64))
    outcomes = measure_all(files, workers, "read")
    assert [type(outcome) for outcome in outcomes].index(str) == 3
    alone = [measure(files, index) for index in range(len(names))]
    for one, other in zip(outcomes, alone, strict=True):
        if isinstance(one, Measured) and isinstance(other, Measured):
            assert one.pixel_hash == other.pixel_hash
            assert (one.grey == other.grey).all()
        else:
            assert one == other


def test_hashes_know_shape_and_file(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8)
    for name, shape in (("wide", (2, 8, 3)), ("high", (8, 2, 3))):
        Image.fromarray(pixels.reshape(shape)).save(tmp_path / f"{name}.png")
    Image.open(tmp_path / "wide.png").save(tmp_path / "other.bmp")
    names = ["wide.png", "high.png", "other.bmp"]
    files = PictureFiles(tmp_path, names, np.zeros(3, np.int64))
    wide, high, other = (measure(files, index) for index in range(3))
    assert isinstance(wide, Measured)
    assert isinstance(high, Measured)
    assert isinstance(other, Measured)
    assert wide.pixel_hash != high.pixel_hash
    assert wide.pixel_hash == other.pixel_hash
    assert wide.file_hash != other.file_hash
    array = ArrayPictures(pixels.reshape(1, 2, 8, 3), np.zeros(1, np.int64), "one")
    kept = measure(array, 0)
    assert isinstance(kept, Measured)
    assert kept.pixel_hash == wide.pixel_hash


@pytest.mark.skipif("VIT_LIGHTNING_DATA" not in os.environ, reason="VIT_LIGHTNING_DATA is not set")
def test_hymenoptera_has_no_duplicates() -> None:
    findings = _check(Path(os.environ["VIT_LIGHTNING_DATA"]) / "hymenoptera_data")
    assert findings.problems == []
    assert "1 picture stored as P, not RGB: train/ants/imageNotFound.gif" in findings.notes
