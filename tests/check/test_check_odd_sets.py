"""Sets as people have them: empty, tiny, linked in circles, strangely named."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_lightning.check.collection import collect
from vit_lightning.check.duplicates import find_pairs
from vit_lightning.check.findings import Findings, draw_conclusions
from vit_lightning.check.html import as_html
from vit_lightning.check.run import check_data
from vit_lightning.check.sources import NamedSplit, Source
from vit_lightning.check.text import as_text
from vit_lightning.cli import main
from vit_lightning.data.pictures import PictureFiles
from vit_lightning.errors import InputError

Scene = Callable[..., Image.Image]


def _check(path: Path, against: Path | None = None) -> Findings:
    return check_data(path, against, workers=0, speed=False)


def _names(pairs: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(pair["first"]["name"], pair["second"]["name"]) for pair in pairs}


def test_a_single_picture(tmp_path: Path, scene: Scene) -> None:
    scene(0, (20, 20)).save(tmp_path / "only.png")
    findings = _check(tmp_path)
    assert findings.problems == []
    assert findings.values["splits"]["pictures"]["listed"] == 1
    assert "pictures: 1 picture of 1 class" in as_text(findings)


def test_tiny_long_and_odd_pictures(tmp_path: Path, scene: Scene) -> None:
    folder = tmp_path / "ants"
    folder.mkdir()
    for number, size in enumerate([(1, 1), (1, 1), (3000, 2), (2, 3000), (7, 5)]):
        scene(number + 1, (8, 8)).resize(size).save(folder / f"{number}.png")
    findings = _check(tmp_path)
    assert findings.values["splits"]["pictures"]["pictures"] == 5
    assert [pair.kind for pair in findings.pairs if pair.kind == "near"] == []
    as_html(findings)


def test_no_picture_can_be_read(tmp_path: Path) -> None:
    for name in ("ants", "bees"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.png").touch()
    findings = check_data(tmp_path, workers=0)
    assert findings.problems == ["2 files cannot be read"]
    assert findings.throughput is None
    assert "cannot be read" in as_html(findings)
    json.dumps(findings.values)


def test_an_empty_split_lacks_every_class(tree: Path) -> None:
    (tree / "test").mkdir()
    assert _check(tree).problems == [
        "test has no pictures of 2 classes that another split has: ants, bees"
    ]


def test_links_in_circles_and_what_is_no_file(tree: Path) -> None:
    (tree / "train" / "ants" / "round").symlink_to(tree / "train")
    (tree / "val" / "ants" / "self.png").symlink_to(tree / "val" / "ants" / "self.png")
    os.mkfifo(tree / "val" / "bees" / "pipe.png")
    findings = _check(tree)
    assert [name for _, name, _ in findings.collection.unreadable] == [
        "val/ants/self.png",
        "val/bees/pipe.png",
    ]
    assert findings.values["pairs"] == []
    assert any("not followed" in note and "round" in note for note in findings.notes)


def test_names_of_any_kind_are_told_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scene: Scene
) -> None:
    folder = tmp_path / "set" / os.fsdecode(b"caf\xe9")  # Latin-1, which is no UTF-8
    folder.mkdir(parents=True)
    names = ["蜂 é.png", "a\nb\x1b[31m.png", "<script>alert(1)<.png"]
    for name in names:
        with (folder / name).open("wb") as file:
            scene(0, (40, 40)).save(file, "PNG")
    page = tmp_path / "page.html"
    arguments = ["check", str(tmp_path / "set"), "--workers", "0", "--no-speed"]
    assert main([*arguments, "--html", str(page), "--json", str(tmp_path / "all.json")]) == 1
    printed = capsys.readouterr().out
    assert "蜂 é.png" in printed
    assert r"a\nb\x1b[31m.png" in printed
    assert "\x1b" not in printed
    assert "<script" not in page.read_text(encoding="utf-8")
    read = json.loads((tmp_path / "all.json").read_text())
    assert {pair["first"]["name"] for pair in read["pairs"]} <= {f"caf\udce9/{n}" for n in names}


def test_a_terminal_that_lacks_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: Scene
) -> None:
    for name in ("蜂", "copy"):
        scene(0, (40, 40)).save(tmp_path / f"{name}.png")
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["check", str(tmp_path), "--workers", "0", "--no-speed"]) == 1
    assert rb"\u8702.png" in written.getvalue()


@pytest.mark.parametrize("inner", [".", "train", ".."])
def test_a_set_is_not_compared_with_itself(tree: Path, inner: str) -> None:
    with pytest.raises(InputError, match="told without --against"):
        check_data(tree, tree / inner, workers=0, speed=False)


def test_splits_of_one_set_can_be_compared(tree: Path) -> None:
    shutil.copy(tree / "train" / "ants" / "0.png", tree / "val" / "ants" / "leak.png")
    pairs = _check(tree / "val", tree / "train").values["against"]["pairs"]
    assert _names(pairs) == {("ants/leak.png", "ants/0.png")}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["--html", "."], "is a folder"),
        (["--json", "file/out.json"], "is no folder to write in"),
        (["--html", "new/out", "--json", "new/out"], "need a file each"),
    ],
)
def test_results_that_cannot_be_written_are_refused_at_once(
    paths: list[str],
    expected: str,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr("vit_lightning.check.run.check_data", None)  # not reached
    assert main(["check", str(tree), *paths]) == 2
    assert expected in capsys.readouterr().err
    assert not Path("new").exists()


def test_help_comes_without_torch() -> None:
    script = (
        "import sys; from vit_lightning.cli import main\n"
        "try: main(['check', '--help'])\n"
        "finally: assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), 'slow imports'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--against" in done.stdout


def test_pictures_of_several_labels(tmp_path: Path, scene: Scene) -> None:
    for number in range(3):
        scene(min(number, 1), (40, 40)).save(tmp_path / f"{number}.png")
    labels = np.array([[1, 0], [1, 1], [0, 1]], dtype=np.uint8)
    pictures = PictureFiles(tmp_path, [f"{number}.png" for number in range(3)], labels)
    source = Source("several", tmp_path, (NamedSplit("train", pictures, ("ants", "bees")),))
    collection = collect(source, 0)
    findings = draw_conclusions(collection, find_pairs(collection), None, [], None)
    assert findings.values["splits"]["train"]["classes"] == {"ants": 2, "bees": 2}
    assert "train: 3 pictures of 2 classes" in as_text(findings)
    assert [entry.label for entry in collection.entries] == ["ants", "ants, bees", "bees"]
    assert any(problem.startswith("label conflicts: 1 pair") for problem in findings.problems)


def test_equal_pictures_in_all_splits_are_leaks_of_what_is_near_too(
    tree: Path, scene: Scene
) -> None:
    (tree / "test" / "ants").mkdir(parents=True)
    (tree / "test" / "bees").mkdir(parents=True)
    shutil.copy(tree / "train" / "bees" / "0.png", tree / "test" / "bees" / "0.png")
    Image.open(tree / "train" / "ants" / "1.png").resize((64, 64)).save(tree / "small.bmp")
    shutil.copy(tree / "small.bmp", tree / "val" / "ants" / "small.bmp")
    shutil.move(tree / "small.bmp", tree / "test" / "ants" / "small.bmp")
    problems = _check(tree).problems
    assert problems == [
        "leakage: 1 picture of val shown in train too",
        "leakage: 2 pictures of test shown in train too",
        "leakage: 1 picture of test shown in val too",
    ]


def test_all_equal_pictures_of_a_set_are_counted_against_another(
    tmp_path: Path, scene: Scene
) -> None:
    for folder, count in (("mine", 3), ("other", 2)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            scene(0, (50, 50)).save(tmp_path / folder / f"{number}.png")
    scene(0, (50, 50)).resize((40, 40)).save(tmp_path / "other" / "small.png")
    findings = _check(tmp_path / "mine", tmp_path / "other")
    assert findings.problems[-1] == f"3 pictures also in {tmp_path / 'other'}"
    kinds = [pair["kind"] for pair in findings.values["against"]["pairs"]]
    assert kinds == ["file"] * 6 + ["near"] * 3
