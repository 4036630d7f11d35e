"""The benchmark of start-up, on dark cats and bright dogs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark_runs import run

Write = Callable[..., Path]


def test_the_seconds_of_each(
    tmp_path: Path,
    tiny: dict[str, Any],
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--model", "ViT-Ti_16", "--rounds", "1", "--results", str(tmp_path)]
    run(monkeypatch, "start_up", str(write(tiny)), *words)
    (path,) = tmp_path.glob("*-start_up.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    taken = result["seconds_by_clock_and_of_the_processor"]
    assert {name: len(each) for name, each in taken.items()} == {
        "vit --help": 1,
        "vit info": 1,
        "first step": 1,
        "forward": 5,
        "attention maps": 5,
    }
    assert min(min(pair) for each in taken.values() for pair in each) > 0
    assert result["maps_over_forward"] > 0
    assert "first step" in capsys.readouterr().out


def test_a_training_that_cannot_begin_is_told(
    tmp_path: Path, tiny: dict[str, Any], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tiny, data={"root": str(tmp_path / "nowhere")})
    words = ["--model", "ViT-Ti_16", "--results", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"vit train .*nowhere"):
        run(monkeypatch, "start_up", str(path), *words)
