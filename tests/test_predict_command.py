"""``vit predict`` on folders as they are: broken pictures, odd names, tables without a place."""

import csv
from pathlib import Path
from typing import Any

import pytest

from vit_lightning.cli import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(pictures: Path, tmp_path: Path) -> Path:
    """Two whole pictures, two that cannot be read."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.png", "d.png"):
        (folder / name).write_bytes((pictures / "val" / "cat" / "0.png").read_bytes())
    (folder / "b.png").touch()
    (folder / "c.png").write_text("no picture")
    return folder


def test_the_others_are_predicted_and_the_bad_ones_told(
    finished: Any, folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    table = tmp_path / "table.csv"
    model = str(finished.result.checkpoint)
    assert main(["predict", str(folder), "--model", model, "--csv", str(table)]) == 2
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line for line in lines if line.startswith(str(folder))] == [
        str(folder / "a.png"),
        str(folder / "d.png"),
    ]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == [str(folder / name) for name in ("a.png", "d.png")]
    head, *told = printed.err.splitlines()
    assert head == "2 of 4 pictures cannot be read:"
    assert told[0].startswith(f"  {folder / 'b.png'}: cannot be read as a picture (it is empty)")
    assert told[1].startswith(f"  {folder / 'c.png'}: cannot be read as a picture (it is in none")
    assert len(told) == 2


def test_the_table_is_written_whatever_becomes_of_the_output(
    finished: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(text: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("vit_lightning.cli.printable", interrupted)
    table, model = tmp_path / "table.csv", str(finished.result.checkpoint)
    cats = sorted((pictures / "val" / "cat").iterdir())
    assert main(["predict", *map(str, cats), "--model", model, "--csv", str(table)]) == 130
    with table.open(newline="") as file:
        assert [row["picture"] for row in csv.DictReader(file)] == list(map(str, cats))


def test_no_table_of_nothing(finished: Any, folder: Path, tmp_path: Path, capsys: Captured) -> None:
    for name in ("a.png", "d.png"):
        (folder / name).unlink()
    table = tmp_path / "table.csv"
    model = str(finished.result.checkpoint)
    assert main(["predict", str(folder), "--model", model, "--csv", str(table)]) == 2
    assert capsys.readouterr().err.startswith("2 of 2 pictures cannot be read:\n")
    assert not table.exists()


@pytest.mark.parametrize(("command", "option"), [("predict", "--csv"), ("attend", "-o")])
def test_a_folder_is_no_place_for_a_result(
    command: str, option: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("the work was begun")

    monkeypatch.setattr("vit_lightning.factory.load_bundle", load)
    target = tmp_path / "target.png"
    target.mkdir()
    assert main([command, "x.png", "--model", "B_16", option, str(target)]) == 2
    assert capsys.readouterr().err == f"{target} is a folder; name a file in it\n"


def test_names_cannot_change_the_terminal(finished: Any, folder: Path, capsys: Captured) -> None:
    (folder / "a.png").rename(folder / "a\x1b[31m\nb.png")
    (folder / "b.png").rename(folder / "b\x1b[31m\nc.png")
    assert main(["predict", str(folder), "--model", str(finished.result.checkpoint)]) == 2
    printed = capsys.readouterr()
    assert f"{folder}/a\\x1b[31m\\nb.png\n" in printed.out
    assert f"{folder}/b\\x1b[31m\\nc.png: cannot be read" in printed.err
    assert "\x1b" not in printed.out + printed.err
