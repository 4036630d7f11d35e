"""The benchmark of pictures held on the device, on a few."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark_runs import run


def test_every_side_has_its_turns(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny: dict[str, Any],
    write: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write(tiny, data={"preprocessing": "modern", "augmentation": {"mixup": 0.2}})
    words = ["--rounds", "1", "--batches", "2", "--results", str(tmp_path)]
    run(monkeypatch, "on_device", str(path), "data.on_device.side=18", *words)
    (written,) = tmp_path.glob("*-on_device-tiny.json")
    report = json.loads(written.read_text(encoding="utf-8"))
    assert list(report["sides"]) == ["files", "kept", "on the device"]
    assert report["sides"]["files"]["ratio"] == 1
    assert all(side["per_second"] > 0 for side in report["sides"].values())
    assert report["side_versions"]["kept"]["device"]
    assert report["experiment"]["data"]["on_device"] == {"side": 18}
    assert "on the device" in capsys.readouterr().out
