"""Token merging where users ask for it: predictions, evaluations, trainings."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vit_lightning as vl
from random_weights import randomise
from vit_lightning.cli import main
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.models.merging import MergingTransformer
from vit_lightning.models.vit import VisionTransformer

Write = Callable[..., Path]
Captured = pytest.CaptureFixture[str]
SHAPE: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 16,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = vl.create_model("ViT-B_16", num_classes=2, **SHAPE)
    randomise(made, seed=3)
    path = tmp_path / "model.safetensors"
    vl.save_model(made, path, ("cat", "dog"), Preprocessing("paper", (16, 16)).to_dict())
    return path


def probabilities(model: VisionTransformer, picture: Path) -> list[float]:
    bundle = vl.ModelBundle(model, ("cat", "dog"), None, None, None, "here")
    (prediction,) = vl.predict(bundle, [picture])
    return list(prediction.probabilities)


def test_predictions(model: Path, pictures: Path, tmp_path: Path) -> None:
    picture, table = pictures / "val" / "cat" / "0.png", tmp_path / "table.csv"
    told = []
    for options in ([], ["--merge-tokens", "0"], ["--merge-tokens", "6"]):
        command = ["predict", str(picture), "--model", str(model), "--csv", str(table)]
        assert main([*command, *options]) == 0
        told.append(float(table.read_text().splitlines()[1].split(",")[2]))
    plain = probabilities(vl.load_model(model), picture)[0]
    merged = probabilities(vl.merge_tokens(vl.load_model(model), 6), picture)[0]
    assert told == [pytest.approx(p, rel=1e-5) for p in (plain, plain, merged)]
    assert abs(merged - plain) > 1e-4


def test_a_negative_number_is_refused(model: Path, capsys: Captured) -> None:
    assert main(["predict", "x.png", "--model", str(model), "--merge-tokens", "-1"]) == 2
    assert capsys.readouterr().err == (
        "the number of tokens to merge in each block is 0 or more, got -1\n"
    )


@pytest.mark.usefixtures("few_figures")
def test_evaluations(
    model: Path, tiny: dict[str, Any], write: Write, pictures: Path, capsys: Captured
) -> None:
    losses = []
    for pairs in (0, 6):
        result = vl.evaluate(write(tiny), model, overrides=[f"trainer.merge_tokens={pairs}"])
        printed = capsys.readouterr().out
        said = "6 pairs of tokens merged in each block, from 17 to 6" in printed
        assert said == bool(pairs)
        losses.append(result.metrics.loss)
    plain, merged = (
        vl.evaluate(write(tiny, trainer={"merge_tokens": pairs}), model).metrics.loss
        for pairs in (0, 6)
    )
    assert losses == [plain, merged]
    assert abs(plain - merged) > 1e-4


def test_a_report_names_the_number(
    model: Path, tiny: dict[str, Any], write: Write, capsys: Captured
) -> None:
    result = vl.evaluate(write(tiny, trainer={"merge_tokens": 3}), model)
    assert json.loads((result.folder / "metrics.json").read_text())["merge_tokens"] == 3


@pytest.mark.usefixtures("few_figures")
def test_a_training_merges_and_leaves_the_plain_model(
    tiny: dict[str, Any], write: Write, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[bool] = []
    forward = MergingTransformer.representation

    def watched(self: MergingTransformer, x: torch.Tensor) -> torch.Tensor:
        modes.append(self.training)
        return forward(self, x)

    monkeypatch.setattr(MergingTransformer, "representation", watched)
    path = write(tiny, model=SHAPE | {"pool": "gap"}, trainer={"merge_tokens": 4})
    result = vl.train(path)
    assert modes.count(True) >= 4, "a batch for each of 4 steps"
    assert modes.count(False) >= 4, "two validations, and the final evaluation"
    said = r"computes .*\n           4 pairs of tokens merged in each block, from 16 to 8\n"
    assert re.search(said, capsys.readouterr().out)
    for file in (result.checkpoint, result.run / "model.safetensors"):
        assert type(vl.load_model(file)) is VisionTransformer
    again = vl.evaluate(path, result.checkpoint, split="val").metrics
    assert again.loss == pytest.approx(result.best["val"].loss, rel=1e-6)
