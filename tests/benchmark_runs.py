"""The benchmark of models, run on a tiny one."""

import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from tiny_models import TINY

FOLDER = Path(__file__).parents[1] / "benchmarks"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> None:
    """A benchmark in this process, as ``python -m benchmarks`` runs it."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


def module(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """One of the benchmarks' modules."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module(name)


def measured(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str
) -> dict[str, dict[str, Any]]:
    """Results of a tiny model, the shortest way: name → result."""
    config = folder / "tiny.json"
    config.write_text(json.dumps(TINY.to_dict()), encoding="utf-8")
    short = ["--batches", "2", "--rounds", "1", "--steps", "1", "--results", str(folder)]
    run(monkeypatch, "models", "--model", str(config), *short, *words)
    files = folder.glob("*-models-*.json")
    return {path.stem[11:]: json.loads(path.read_text(encoding="utf-8")) for path in files}
