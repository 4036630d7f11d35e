"""A run on pictures of any number of labels, through the doors that users take."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from run_files import read_rows
from vit_lightning.assess import evaluate
from vit_lightning.errors import InputError
from vit_lightning.evaluation.multi_label import MultiLabelMetrics
from vit_lightning.factory import load_bundle
from vit_lightning.prediction import predict
from vit_lightning.run import train
from vit_lightning.run_folder import checkpoint_step

Write = Callable[..., Path]
CLASSES = ("bright", "left", "top")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Pictures that are bright or not, with a black bar at the left, the top, both or none."""
    draw = np.random.default_rng(2)
    lines = ["path,label,split"]
    for number in range(36):
        kinds = {name for k, name in enumerate(CLASSES) if number >> k & 1}
        pixels = draw.normal(200 if "bright" in kinds else 100, 10, (16, 16, 3))
        pixels[:, :5] -= 80.0 * ("left" in kinds)
        pixels[:5] -= 80.0 * ("top" in kinds)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'|'.join(sorted(kinds))},{'train' if number < 24 else 'val'}")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def several(tiny: dict[str, Any], table: Path) -> dict[str, Any]:
    tiny["data"] |= {"name": "manifest", "root": str(table), "label_separator": "|"}
    tiny["data"]["augmentation"] = {"crop": "none", "flip": False}
    tiny["optim"] = {"lr": 0.3, "class_weights": {"top": 2.0}}
    tiny["trainer"] |= {"max_steps": 30, "val_every_steps": 15, "patience": 9}
    return tiny


def test_a_run_of_several_labels(
    write: Write, several: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several["loggers"] = ["csv", "tensorboard"]
    result = train(write(several))
    output = capsys.readouterr().out
    best = result.best["val"]
    assert isinstance(best, MultiLabelMetrics)
    assert best.num_images == 12
    assert best.score > 0.75  # much better than the share of each class, one half
    scores = read_rows(result.run, "val/mean_average_precision")
    assert list(scores) == [14, 29]
    assert scores[29] == pytest.approx(result.final["val"].score, abs=1e-6)
    assert best.score == pytest.approx(max(scores.values()), abs=1e-6)
    assert checkpoint_step(result.checkpoint) == result.best_step
    assert f"val: mAP {best.score:.4f} on 12 pictures (95 % interval " in output
    assert "precision_recall_curves.png" in output

    kept = json.loads((result.run / "result.json").read_text())["best"]["val"]
    assert kept == best.headlines()
    names = {path.name for path in (result.run / "eval-val").iterdir()}
    assert names == {"metrics.json", "predictions.csv", "precision_recall_curves.png"}
    with (result.run / "eval-val" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = [row["labels"] == row["predictions"] for row in rows]
    assert np.mean(right) == pytest.approx(best.exact_match)

    bundle = load_bundle(result.run / "model.safetensors")
    assert bundle.multi_label
    assert bundle.classes == CLASSES
    again = evaluate(write(several), result.checkpoint)
    assert again.metrics == best
    (prediction,) = predict(bundle, [tmp_path / rows[0]["picture"]])
    told = dict(zip(prediction.classes, prediction.probabilities, strict=True))
    assert told == pytest.approx({name: float(rows[0][f"p({name})"]) for name in CLASSES}, abs=1e-4)


def test_labels_of_another_kind_are_refused(
    write: Write, several: dict[str, Any], tiny: dict[str, Any], table: Path, few_figures: None
) -> None:
    several["trainer"] = {"max_steps": 1}
    result = train(write(several))
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line for line in lines if "|" not in line and ",," not in line))
    del several["data"]["label_separator"]
    one = write(several)
    message = "trained to tell any number of classes of a picture, .* labels of one class each"
    with pytest.raises(InputError, match=message):
        evaluate(one, result.checkpoint)
    kept = [f"model.weights={result.checkpoint}", "model.keep_head=true"]
    with pytest.raises(InputError, match=r"keep_head: the head of .* any number of classes"):
        train(one, kept)


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"loss": "cross_entropy"}, "cross_entropy is for pictures of one label each"),
        ({"class_weights": {"lefft": 2.0}}, "no class 'lefft'; did you mean 'left'"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused_before_anything_is_made(
    write: Write, several: dict[str, Any], optim: dict[str, Any], message: str, tmp_path: Path
) -> None:
    several["optim"] = optim
    with pytest.raises(InputError, match=message):
        train(write(several))
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "checkpoint").exists()
