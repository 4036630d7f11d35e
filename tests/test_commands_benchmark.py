"""The benchmark of whole commands, our side alone."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmark_runs import run
from vit_lightning import machine_limits


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name in ("ants", "bees"):
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for number in range(5):
            picture = Image.new("RGB", (40, 30), (50 * number, 100, 20))
            picture.save(tmp_path / "photographs" / name / f"{name}{number}.jpg")
    return tmp_path / "photographs"


def test_what_a_picture_and_a_start_take(
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(machine_limits, "_BANDWIDTH_BYTES", 1 << 20)
    sizes = ["--few", "2", "--many", "9", "--rounds", "1", "--model", "ViT-Ti_16"]
    words = ["--pictures", str(photographs), "--sides", "--commands", "predict", *sizes]
    run(monkeypatch, "commands", *words, "--results", str(tmp_path))
    (path,) = tmp_path.glob("*-commands-ViT-Ti_16.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["same_class"] == {"vit-lightning": 1.0}
    assert (result["sizes"]["few"], result["sizes"]["many"]) == (2, 9)
    row = result["predict"]["vit-lightning"]
    assert row["ours_is_times_faster"] == row["start_times_faster"] == 1.0
    assert row["start_seconds"] > 0
    assert "vit predict, ViT-Ti_16, a picture" in capsys.readouterr().out


def test_a_command_that_fails_says_why(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "vit"
    failing.write_text(f"#!{sys.executable}\nraise SystemExit('no such thing')\n")
    failing.chmod(0o755)
    words = ["--pictures", str(photographs), "--sides", "--few", "2", "--many", "3"]
    with pytest.raises(SystemExit, match="no such thing"):
        run(monkeypatch, "commands", *words, "--vit", str(failing), "--model", "ViT-Ti_16")


def test_fewer_photographs_than_are_wanted(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(photographs / "bees")
    words = ["--pictures", str(photographs), "--sides", "--model", "ViT-Ti_16"]
    with pytest.raises(SystemExit, match="has 5 photographs; 32 are wanted"):
        run(monkeypatch, "commands", *words)
