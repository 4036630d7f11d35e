"""``vit baseline`` from pictures and weights to figures, a recipe and an experiment file."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from random_weights import randomise
from vit_lightning import BaselineResult, InputError, baseline, load_experiment
from vit_lightning.assemble import model_for
from vit_lightning.cli import main
from vit_lightning.factory import create_model, save_model
from vit_lightning.models.config import ViTConfig

Captured = pytest.CaptureFixture[str]
CONFIG = ViTConfig(
    image_size=(16, 16), patch_size=(8, 8), embed_dim=24, depth=1, num_heads=2, mlp_dim=24
)
VIEW = {"mode": "modern"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "kept"))


def _save(path: Path, **changes: Any) -> Path:
    model = create_model(CONFIG.replace(**changes))
    randomise(model, seed=3)
    save_model(model, path, preprocessing=VIEW)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return _save(tmp_path / "w.safetensors", num_classes=0)


@pytest.fixture
def table(pictures: Path, tmp_path: Path) -> Path:
    """Of the pictures, each with one to two labels of which "animal" is always one."""
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for picture in sorted(pictures.rglob("*.png")):
            name, split = picture.parent.name, picture.parent.parent.name
            writer.writerow([picture, "animal|cat" if name == "cat" else "animal", split])
    return path


def _by_method(result: BaselineResult) -> dict[str, Any]:
    return {outcome.method: outcome for outcome in result.outcomes}


def test_dark_cats_are_told_from_bright_dogs(pictures: Path, weights: Path) -> None:
    result = baseline(pictures, weights, workers=0)
    found = _by_method(result)
    assert list(found) == ["majority class", "k-NN, k = 1", "k-NN, k = 5, weighted", "linear probe"]
    assert (result.num_train, result.num_val, result.embed_dim) == (10, 6, 24)
    assert found["majority class"].score == 0.5
    assert found["majority class"].recall == (1.0, 0.0)
    assert found["majority class"].confused == (("dog", "cat", 3),)
    assert found["linear probe"].score == 1.0
    low, high = found["linear probe"].interval
    assert 0.5 < low < 0.7
    assert high == 1.0
    assert result.best.score == 1.0
    assert result.kept == 0
    assert not result.multi_label
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_second_call_knows_the_features(pictures: Path, weights: Path) -> None:
    first = baseline(pictures, weights, workers=0)
    again = baseline(pictures, weights, workers=0)
    assert again.kept == 16
    assert [o.score for o in again.outcomes] == [o.score for o in first.outcomes]
    assert baseline(pictures, weights, image_size=24, workers=0).kept == 0


def test_a_head_and_pre_logits_make_no_difference(
    pictures: Path, weights: Path, tmp_path: Path
) -> None:
    model = create_model(CONFIG.replace(num_classes=7, representation_size=9))
    randomise(model, seed=5)
    headless = create_model(CONFIG.replace(num_classes=0))
    headless.load_state_dict(model.state_dict(), strict=False)
    save_model(model, tmp_path / "a.safetensors", preprocessing=VIEW)
    save_model(headless, tmp_path / "b.safetensors", preprocessing=VIEW)
    one, other = (
        baseline(pictures, tmp_path / name, workers=0)
        for name in ("a.safetensors", "b.safetensors")
    )
    assert one.embed_dim == other.embed_dim == 24
    kept = sorted((tmp_path / "kept" / "features").glob("*/*.npy"))
    records = [np.load(path)["values"] for path in kept]
    assert len(records) == 4
    for size in (6, 10):
        a, b = (values for values in records if len(values) == size)
        np.testing.assert_array_equal(a, b)


def test_classes_without_splits_need_a_fraction(pictures: Path, weights: Path) -> None:
    with pytest.raises(InputError, match=r"--val-fraction\) \(0.2, say\)"):
        baseline(pictures / "train", weights)
    result = baseline(pictures / "train", weights, val_fraction=0.4, workers=0)
    assert (result.num_train, result.num_val) == (6, 4)
    assert result.experiment.data.val_fraction == 0.4
    # Whatever is held out, features are of pictures.
    again = baseline(pictures / "train", weights, val_fraction=0.2, workers=0)
    assert again.kept == 10


def test_several_labels_are_measured_by_average_precision(table: Path, weights: Path) -> None:
    result = baseline(table, weights, label_separator="|", workers=0)
    assert result.classes == ("animal", "cat")
    assert result.multi_label
    found = _by_method(result)
    assert found["majority class"].score == 0.75  # 1 for animal, a half for cat
    assert found["linear probe"].score == 1.0
    assert found["linear probe"].confused == ()
    assert result.experiment.data.label_separator == "|"


def test_classes_that_val_lacks_and_classes_of_one_picture(
    pictures: Path, weights: Path, tmp_path: Path
) -> None:
    root = tmp_path / "odd"
    shutil.copytree(pictures, root)
    shutil.rmtree(root / "val" / "cat")
    (root / "train" / "owl").mkdir()
    Image.new("RGB", (20, 20), "red").save(root / "train" / "owl" / "only.png")
    result = baseline(root, weights, workers=0)
    assert result.classes == ("cat", "dog", "owl")
    assert [result.outcomes[-1].recall[k] for k in (0, 2)] == [None, None]
    assert "val has no pictures of 2 classes: cat, owl" in result.notes
    for name in ("cat", "dog"):
        for path in sorted((root / "train" / name).iterdir())[1:]:
            path.unlink()
    single = baseline(root, weights, workers=0)
    assert single.num_train == 3
    assert [outcome.method for outcome in single.outcomes][1:] == ["k-NN, k = 1", "linear probe"]


def test_unreadable_pictures_are_counted(pictures: Path, weights: Path, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    shutil.copytree(pictures, root)
    (root / "train" / "cat" / "0.png").write_text("no picture")
    result = baseline(root, weights, workers=0)
    assert result.unreadable == {"train": ("train/cat/0.png",), "val": ()}
    assert result.num_train == 9


def test_an_experiment_gives_its_pictures_and_takes_overrides(
    tiny: dict[str, Any], write: Any, pictures: Path, weights: Path
) -> None:
    path = write(tiny, data={"root": "nowhere", "cache": {}, "decoding": "fast"}, seed=4)
    result = baseline(path, weights, overrides=[f"data.root={pictures}", "data.workers=0"])
    assert result.num_train == 10
    assert (result.experiment.name, result.experiment.seed) == ("tiny_tuned", 4)
    assert result.experiment.data.decoding == "fast"  # of the training, as it was
    assert baseline(result.experiment, weights).kept == 16
    for options in ({"val_fraction": 0.2}, {"label_separator": "|"}):
        with pytest.raises(InputError, match="an experiment says itself"):
            baseline(path, weights, **options)


def test_digits_are_told_by_features_of_random_weights(tmp_path: Path) -> None:
    values = {"name": "d", "data": {"name": "digits", "workers": 0}, "trainer": {"max_steps": 1}}
    (tmp_path / "d.json").write_text(json.dumps(values))
    torch.manual_seed(0)
    model = create_model(CONFIG.replace(in_channels=1, pool="gap", num_classes=0, embed_dim=64))
    save_model(model, tmp_path / "w.safetensors")
    found = _by_method(baseline(tmp_path / "d.json", tmp_path / "w.safetensors"))
    assert found["majority class"].score < 0.12
    assert found["k-NN, k = 20, weighted"].score > 0.6
    assert found["linear probe"].score > 0.8


def test_tokens_without_a_pool_are_refused(pictures: Path, tmp_path: Path) -> None:
    path = _save(tmp_path / "n.safetensors", pool="none", num_classes=3)
    with pytest.raises(InputError, match='pool "none"'):
        baseline(pictures, path)


def test_the_command_prints_writes_and_keeps(
    pictures: Path, weights: Path, tmp_path: Path, capsys: Captured
) -> None:
    command = ["baseline", str(pictures), "--weights", str(weights), "--workers", "0"]
    figures, recipe = tmp_path / "figures.json", tmp_path / "start.json"
    assert main([*command, "--json", str(figures), "--write", str(recipe)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^majority class +50\.00% ", printed, re.MULTILINE)
    assert re.search(r"^linear probe +100\.00% ", printed, re.MULTILINE)
    assert "  adapt.method=linear " in printed
    assert f"train {recipe}" in printed
    values = json.loads(figures.read_text())
    assert values["outcomes"][-1]["score"] == 1.0
    assert values["experiment"] == json.loads(recipe.read_text())
    experiment = load_experiment(recipe)
    assert model_for(experiment, ("cat", "dog")).model.config.embed_dim == 24

    assert main([*command, "--write", str(recipe)]) == 2
    assert "this file is there already" in capsys.readouterr().err
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "16 pictures, 16 of them known from before" in printed
    assert "--write FILE writes it" in printed

    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert f"features, {weights}\n1 kept, " in listed
    assert main(["data", "remove", listed.split()[0]]) == 0
    assert "removed, " in capsys.readouterr().out
    assert main([*command]) == 0
    assert "known from before" not in capsys.readouterr().out


def test_what_is_wrong_is_told_where_and_confused(
    weights: Path, tmp_path: Path, capsys: Captured
) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 5)):
        for name in ("a", "b\x1b"):
            (tmp_path / "noise" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "noise" / split / name / f"{number}.png")
    assert main(["baseline", str(tmp_path / "noise"), "--weights", str(weights)]) == 0
    printed = capsys.readouterr().out
    assert "lowest recall, " in printed
    assert "taken for " in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist; expected a folder of pictures by class"),
        (["w.safetensors"], "w.safetensors is no data set; expected"),
        (["nowhere.json"], "there is no such experiment file"),
        (["nowhere.csv"], "no such file; expected a manifest"),
        ([".", "data.root=x"], "is no experiment file: data.root=x is for these"),
        ([".", "--workers", "-1"], "--workers: 0 or more processes, got -1"),
        ([".", "--val-fraction", "2"], "val_fraction"),
        ([".", "--json", "a", "--write", "a"], "need a file each"),
        ([".", "--json", "."], "is a folder; name a file in it"),
    ],
)
def test_bad_input_ends_with_words(
    arguments: list[str],
    words: str,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["baseline", *arguments, "--weights", str(weights)]) == 2
    assert words in capsys.readouterr().err
