"""The benchmark of a recipe's parts, on dark cats and bright dogs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark_runs import FOLDER, run
from vit_lightning.errors import InputError
from vit_lightning.experiment import load_experiment

Write = Callable[..., Path]
EXPERIMENTS = FOLDER.parent / "experiments"


def test_trainings_are_made_once_and_told(
    tmp_path: Path,
    tiny: dict[str, Any],
    write: Write,
    few_figures: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    variants = tmp_path / "variants.json"
    variants.write_text('{"fewer": ["trainer.max_steps=2"]}')
    words = [str(write(tiny)), str(variants), "optim.lr=0.05", "--results", str(tmp_path)]
    run(monkeypatch, "recipe", *words)
    (path,) = tmp_path.glob("*-recipe-tiny.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["experiment"]["optim"]["lr"] == 0.05
    first = result["trainings"]
    assert first["as it is"]["changes"] == []
    assert first["fewer"]["changes"] == ["trainer.max_steps=2"]
    assert (first["as it is"]["steps"], first["fewer"]["steps"]) == (4, 2)
    for row in first.values():
        assert row["interval"][0] <= row["top1"] <= row["interval"][1]
    variants.write_text('{"fewer": ["trainer.max_steps=2"], "longer": ["trainer.max_steps=5"]}')
    capsys.readouterr()
    run(monkeypatch, "recipe", *words)
    again = json.loads(path.read_text(encoding="utf-8"))["trainings"]
    assert {name: again[name] for name in first} == first
    assert again["longer"]["steps"] == 5
    lines = capsys.readouterr().out.splitlines()
    assert [line[:32].strip() for line in lines[:3]] == ["as it is", "fewer", "longer"]
    run(monkeypatch, "recipe", *words, "trainer.max_steps=3")  # other settings, other trainings
    other = json.loads(path.read_text(encoding="utf-8"))["trainings"]
    assert other["as it is"]["steps"] == 3


def test_a_variant_that_cannot_be_is_told_before_any_training(
    tmp_path: Path, tiny: dict[str, Any], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = tmp_path / "variants.json"
    variants.write_text('{"wrong": ["optim.lr=-1"]}')
    with pytest.raises(InputError, match=r"optim\.lr"):
        run(monkeypatch, "recipe", str(write(tiny)), str(variants), "--results", str(tmp_path))
    assert not list(tmp_path.glob("*-recipe-*"))


@pytest.mark.parametrize("path", sorted((FOLDER / "variants").glob("*.json")), ids=lambda p: p.stem)
def test_the_variants_that_ship_can_be(path: Path) -> None:
    experiment = EXPERIMENTS / path.name
    for changes in json.loads(path.read_text(encoding="utf-8")).values():
        assert load_experiment(experiment, changes) != load_experiment(experiment)
