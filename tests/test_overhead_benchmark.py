"""The benchmark of what a step costs beside its arithmetic, the shortest way."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmark_runs import run
from vit_lightning import machine_limits

WAYS = ("by hand", "vit train", "plain Lightning")


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """The benchmark computes on one thread, the next test on as many as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_all_ways_are_measured_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine_limits, "_BANDWIDTH_BYTES", 1 << 20)
    run(monkeypatch, "overhead", "--steps", "60", "--rounds", "1", "--results", str(tmp_path))
    (path,) = tmp_path.glob("*-overhead.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    for way in WAYS:
        assert len(result[f"{way}_ms"]) == 1
        assert min(result[f"{way}_ms"]) > 0
    for way in WAYS[1:]:
        least = min(result[f"{way}_ms"]) - min(result["by hand_ms"])
        assert result[f"{way}_adds_least_ms"] == pytest.approx(least)
    printed = capsys.readouterr().out
    assert [line[:16].strip() for line in printed.splitlines()[:3]] == list(WAYS)
