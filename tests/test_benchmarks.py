"""The benchmark of models, our side alone, and the charts of its results."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark_runs import FOLDER, measured, module, run
from vit_lightning import machine_limits
from vit_lightning.hardware import describe_hardware

MODELS = sorted((FOLDER / "results").glob("*-models-*.json"))


def test_ours_in_both_modes_and_what_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine_limits, "_BANDWIDTH_BYTES", 1 << 20)
    words = (
        "--mode",
        "inference",
        "training",
        "--sides",
        "timm, onnxruntime",
        "--precision",
        "bf16",
    )
    results = measured(monkeypatch, tmp_path, "--device", "cpu", *words)
    assert set(results) == {"models-tiny-inference-bf16", "models-tiny-training-bf16"}
    printed = capsys.readouterr().out
    for name, result in results.items():
        (batch,) = result["batches"]
        ours = {"vit-lightning", "vit-lightning, selective"}
        expected = ours if "training" in name else {"vit-lightning"}
        assert set(batch["sides"]) == {"limit", *expected}
        own = batch["sides"]["vit-lightning"]
        assert own["ours_is_times_faster"] == 1.0
        assert own["peak_mb"] >= 0
        assert result["side_versions"]["vit-lightning"]["torch"] == torch.__version__
        assert set(result["left_out"]) == {"timm, onnxruntime"}
        (chart,) = tmp_path.glob(f"*{name}.svg")
        assert f"chart in {chart}" in printed
        machine = {key: result["machine"][key] for key in ("cpu_capability", "cpu_flags", "gpus")}
        assert machine.items() <= describe_hardware().items()
        assert result["limits"]["memory_gb_a_second"] > 0
        for dtype in ("float32", "bfloat16"):
            layers = result["limits"]["matrix"][dtype]["layers"]
            assert len(layers) == 5
            assert {layer["way"] for layer in layers} <= {"linear", "addmm", "oneDNN, packed"}
    assert "tiny, training, bf16, batch 2" in printed
    assert "timm, onnxruntime           left out: " in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="--device cuda: torch finds no GPU here"):
        run(monkeypatch, "models", "--device", "cuda")


def test_a_side_that_gives_up_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    models, turns = (module(monkeypatch, name) for name in ("models", "turns"))

    class Side:
        """Tells its versions, and ends at a batch of 8."""

        versions: Any = None

        def __init__(self, most: int) -> None:
            self.most, self.asked = most, [0, 0]

        def send(self, question: list[int]) -> None:
            self.asked = question

        def receive(self) -> list[float]:
            if self.asked[0] > self.most:
                raise turns.GaveUpError
            return [1.0]

    sides = {"vit-lightning": Side(8), "timm": Side(4), "timm, compiled": Side(4)}
    assert models.lost(sides) == models.lost(sides, 4) == []
    assert models.lost(sides, 8) == ["timm", "timm, compiled"]
    with pytest.raises(turns.GaveUpError, match="our own side"):
        models.lost(sides, 9)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_charts_are_those_of_the_results(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = path.with_suffix(".svg")
    assert kept.stat().st_size < 60_000
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    run(monkeypatch, "chart", str(copy))
    assert capsys.readouterr().out == f"{copy.with_suffix('.svg')}\n"
    for drawn in (kept, copy.with_suffix(".svg")):  # where lines lie is matplotlib's to say
        text = "\n".join(ET.fromstring(drawn.read_text(encoding="utf-8")).itertext())
        for batch in json.loads(path.read_text(encoding="utf-8"))["batches"]:
            assert f"batch {batch['batch']}" in text
            for name, side in batch["sides"].items():
                assert (f"{side['ms']:,.4g} ms" in text) == (name != "limit")
                assert (name in text) == (name != "limit")
