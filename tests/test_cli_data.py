"""``vit data``, by its own parser."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_lightning.cli_data import add_data_command
from vit_lightning.data import listing
from vit_lightning.errors import InputError


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Call the command; returns what it printed."""
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "kept"))
    parser = argparse.ArgumentParser()
    add_data_command(parser.add_subparsers())

    def call(*arguments: object) -> str:
        options = parser.parse_args(["data", *map(str, arguments)])
        capsys.readouterr()
        options.command(options)
        return capsys.readouterr().out

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "my set" / label).mkdir(parents=True)
        for i in range(3):
            pixels = generator.integers(0, 256, (40, 30, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "my set" / label / f"{i}.png")
    return tmp_path / "my set"


def test_a_folder_is_decoded_listed_and_removed(
    run: Callable[..., str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = f"\ndecoded pictures: {tmp_path}/kept/pictures\nfile names: {tmp_path}/kept/listings\n"
    end += f"features: {tmp_path}/kept/features\n"
    assert run("list") == f"0 kept, 0 bytes{end}"
    monkeypatch.setattr(listing, "WORTH_KEEPING", 1)
    for arguments in ((), ("--shorter-side", 10)):
        for _ in range(2):
            printed = run("cache", folder, "--workers", 0, *arguments)
            assert printed.startswith("decoded pictures: 6 of 6 are kept in ")
    listed = run("list")
    assert f"6 of 6 pictures, {folder}\n" in listed
    assert f"6 of 6 pictures, shorter side 10, {folder}\n" in listed
    assert f"file names, {folder}\n" in listed
    assert "\n3 kept, " in listed
    names = [line.split()[0] for line in listed.splitlines()[:3]]
    assert f"{names[0]}: removed, " in run("remove", names[0])
    assert f"{names[2]}: removed, " in run("remove", names[2])
    assert "1 kept" in run("list")
    assert names[1] in run("remove", "--all")
    assert run("list") == f"0 kept, 0 bytes{end}"


def test_an_experiment_is_decoded_where_its_training_looks(
    run: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    data = {"root": str(folder), "val_fraction": 0.3, "cache": {"folder": str(tmp_path / "own")}}
    experiment = tmp_path / "mine.json"
    experiment.write_text(json.dumps({"name": "mine", "data": data, "trainer": {"max_steps": 1}}))
    printed = run("cache", experiment, "seed=3", "--workers", 0)
    # Both splits, told of once.
    assert printed.count("\n") == 1
    assert f"6 of 6 are kept in {tmp_path}/own/my_set." in printed
    assert "0 kept" in run("list")
    assert "1 kept" in run("list", "--folder", tmp_path / "own")
    run("remove", "--all", "--folder", tmp_path / "own")
    assert "0 kept" in run("list", "--folder", tmp_path / "own")


def test_flags_go_before_the_experiment(
    run: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    data = {
        "root": str(folder),
        "val_fraction": 0.3,
        "decoding": "fast",
        "cache": {"folder": str(tmp_path / "own"), "shorter_side": 9},
    }
    experiment = tmp_path / "mine.json"
    experiment.write_text(json.dumps({"name": "mine", "data": data, "trainer": {"max_steps": 1}}))
    assert "6 of 6" in run("cache", experiment, "--shorter-side", 5, "--workers", 0)
    assert "shorter side 5," in run("list", "--folder", tmp_path / "own")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cache", "SET", "--shorter-side", "0"], "--shorter-side: must be more than 0, got 0"),
        (["cache", "SET", "--max-gb", "nan"], "--max-gb: must be more than 0"),
        (["cache", "SET", "--workers", "-1"], "--workers: 0 or more"),
        (["cache", "SET", "data.root=x"], "is for experiment files"),
        (["cache", "SET/a"], "no pictures"),
        (["cache", "SET/none"], "none"),
        (["remove"], "give names"),
        (["remove", "x", "--all"], "give names"),
        (["remove", "x"], "no decoded pictures 'x' are kept"),
    ],
)
def test_refusals(
    run: Callable[..., str], folder: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(*(text.replace("SET", str(folder)) for text in arguments))


def test_pictures_in_memory_are_refused(run: Callable[..., str], tmp_path: Path) -> None:
    experiment = tmp_path / "digits.json"
    values = {"name": "d", "data": {"name": "digits"}, "trainer": {"max_steps": 1}}
    experiment.write_text(json.dumps(values))
    with pytest.raises(InputError, match="no files of their own"):
        run("cache", experiment)


def test_unreadable_pictures_are_told_at_the_end(run: Callable[..., str], folder: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        (folder / name).write_bytes(b"")
    with pytest.raises(InputError, match="2 pictures cannot be read") as caught:
        run("cache", folder, "--workers", 0)
    assert "b/2.png" in str(caught.value)
    assert "4 of 6 pictures" in run("list")
