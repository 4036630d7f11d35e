"""Peers in the benchmark of models."""

from pathlib import Path

import pytest

from benchmark_runs import measured


def test_peers_compute_the_same_in_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = ("timm", "torchvision", "transformers")
    words = ("--precision", "bf16", "--sides", *peers)
    result = measured(monkeypatch, tmp_path, *words)["models-tiny-inference-bf16"]
    assert set(result["batches"][0]["sides"]) == {"limit", "vit-lightning", *peers}
    assert not result["left_out"]
    assert set(result["agreement"]) == {"vit-lightning", *peers}
    assert max(result["agreement"].values()) < 0.05


def test_exported_models_compute_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = ("vit-lightning, onnxruntime", "timm, onnxruntime")
    result = measured(monkeypatch, tmp_path, "--sides", *exported)["models-tiny-inference-fp32"]
    assert set(result["batches"][0]["sides"]) == {"limit", "vit-lightning", *exported}
    assert not result["left_out"]
    assert max(result["agreement"].values()) < 1e-5
