"""The benchmark of what weights buy, on dark cats and bright dogs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark_runs import run
from vit_lightning import machine_limits
from vit_lightning.errors import InputError
from vit_lightning.factory import create_model, save_model
from vit_lightning.models.config import ViTConfig

CONFIG = ViTConfig(
    image_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_dim=16, pool="gap"
)
Write = Callable[..., Path]


def test_frozen_tuned_and_from_scratch(
    tmp_path: Path,
    tiny: dict[str, Any],
    write: Write,
    few_figures: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(machine_limits, "_BANDWIDTH_BYTES", 1 << 20)
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "weights.safetensors"
    save_model(create_model(CONFIG), weights)
    tiny["model"] = {"name": None, "weights": str(weights)}
    tiny["adapt"] = {"method": "last-1"}
    places = ["--sizes", "16", "24", "--seeds", "0", "1", "--results", str(tmp_path)]
    longer = ["--scratch", "trainer.max_steps=6"]
    run(monkeypatch, "transfer", str(write(tiny)), "optim.lr=0.05", *places, *longer)
    (path,) = tmp_path.glob("*-transfer-tiny.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["experiment"]["optim"]["lr"] == 0.05
    assert result["experiment"]["data"]["root"] == Path(tiny["data"]["root"]).name
    assert "runs_dir" not in result["experiment"]
    assert result["from_scratch"] == ["trainer.max_steps=6"]
    assert set(result["sizes"]) == {"16", "24"}
    printed = capsys.readouterr().out
    for rows in result["sizes"].values():
        assert {"majority class", "linear probe", "fine-tuned", "from scratch"} <= set(rows)
        assert rows["majority class"]["top1"] == 0.5
        for name, row in rows.items():
            low, high = row["interval"]
            assert 0 <= low <= row["top1"] <= high <= 1
            assert f"{name:<24} {row['top1']:6.1%}" in printed
            if "by_seed" in row:
                assert row["top1"] == pytest.approx(sum(row["by_seed"]) / 2)
                assert len(row["seconds"]) == 2


def test_without_weights_there_is_nothing_to_compare(
    tiny: dict[str, Any], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="names no weights"):
        run(monkeypatch, "transfer", str(write(tiny)))
