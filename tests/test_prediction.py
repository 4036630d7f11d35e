import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vit_lightning as vl
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.errors import InputError
from vit_lightning.prediction import (
    attend,
    class_names,
    find_pictures,
    predict,
    preprocessing_of,
    write_predictions,
)

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture
def model(finished: Any) -> Path:
    return finished.result.run / "model.safetensors"


@pytest.fixture
def cats(pictures: Path) -> list[Path]:
    return sorted((pictures / "val" / "cat").iterdir())


def test_predictions_are_the_models_probabilities(model: Path, cats: list[Path]) -> None:
    predictions = predict(model, cats, top=10)
    assert [prediction.path for prediction in predictions] == cats
    bundle = vl.load_bundle(model)
    preprocessing = preprocessing_of(bundle)
    for path, prediction in zip(cats, predictions, strict=True):
        with Image.open(path) as picture, torch.inference_mode():
            logits = bundle.model(preprocessing(picture.convert("RGB"))[None])
        expected = dict(zip("0123456789", logits.softmax(1)[0].tolist(), strict=True))
        assert sorted(prediction.classes) == list("0123456789")
        assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-5)
        for name, value in zip(prediction.classes, prediction.probabilities, strict=True):
            assert value == pytest.approx(expected[name], abs=1e-5)


def test_top_names_at_most_the_classes_there_are(model: Path, cats: list[Path]) -> None:
    everything = predict(model, cats[:1], top=99)[0]
    assert len(everything.classes) == 10
    three = predict(model, cats[:1], top=3)[0]
    assert three.classes == everything.classes[:3]


def test_batches_do_not_matter(
    model: Path, cats: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = predict(model, cats)
    monkeypatch.setattr("vit_lightning.prediction._BATCH", {"cpu": 2})
    for first, second in zip(together, predict(model, cats), strict=True):
        assert first.classes == second.classes
        assert first.probabilities == pytest.approx(second.probabilities, abs=1e-6)


def test_a_loaded_model_may_be_asked(model: Path, cats: list[Path]) -> None:
    bundle = vl.load_bundle(model)
    assert predict(bundle, cats) == predict(str(model), [str(path) for path in cats])


def test_google_file_has_numbers_for_names(cats: list[Path]) -> None:
    bundle = vl.load_bundle(REFERENCE / "vit_token_small.npz")
    assert class_names(bundle) == tuple(f"class {number}" for number in range(10))
    preprocessing = preprocessing_of(bundle)
    assert (preprocessing.mode, preprocessing.image_size) == ("paper", (32, 32))
    assert predict(bundle, cats[:1])[0].classes[0].startswith("class ")


def test_preprocessing_follows_a_model_of_another_size(model: Path, cats: list[Path]) -> None:
    bundle = vl.load_bundle(model, image_size=32)
    assert preprocessing_of(bundle).image_size == (32, 32)
    assert preprocessing_of(bundle, "modern").mode == "paper"  # the weights' own goes before
    assert len(predict(bundle, cats)) == len(cats)


def test_preprocessing_travels_with_the_weights(model: Path, cats: list[Path]) -> None:
    bundle = vl.load_bundle(model, image_size=32)
    values = {"mode": "crop", "mean": [0.4, 0.5, 0.6], "std": [0.2] * 3, "crop_fraction": 0.9}
    foreign = replace(bundle, preprocessing=values | {"image_size": [7, 7], "in_channels": 3})
    found = preprocessing_of(foreign)
    assert found == Preprocessing("crop", 32, 1, (0.4, 0.5, 0.6), (0.2,) * 3, crop_fraction=0.9)
    assert predict(foreign, cats[:1]) != predict(bundle, cats[:1])
    unknown = replace(bundle, preprocessing=None)
    assert preprocessing_of(unknown).mode == "paper"
    assert preprocessing_of(unknown, "modern") == Preprocessing("modern", 32, 1)
    for wrong in ({}, values | {"mean": [1, 2]}):
        with pytest.raises(InputError, match=r"model\.safetensors: .* preprocessing"):
            preprocessing_of(replace(bundle, preprocessing=wrong))


def test_model_without_an_opinion_is_refused(cats: list[Path]) -> None:
    shape = {"image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    fresh = vl.create_bundle("ViT-B_16", num_classes=2, **shape)
    with pytest.raises(InputError, match="head is all zeros"):
        predict(fresh, cats)
    features = vl.create_bundle("ViT-B_16", num_classes=0, **shape)
    with pytest.raises(InputError, match="no head"):
        predict(features, cats)


# Pictures


def test_folders_are_searched_and_files_taken_as_given(pictures: Path, cats: list[Path]) -> None:
    dogs = sorted((pictures / "val" / "dog").iterdir())
    assert find_pictures([pictures / "val"]) == cats + dogs
    assert find_pictures([dogs[0], str(pictures / "val" / "cat")]) == [dogs[0], *cats]


def test_other_files_in_folders_are_left_out(tmp_path: Path, cats: list[Path]) -> None:
    shutil.copy(cats[0], tmp_path / "A.PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    assert find_pictures([tmp_path]) == [tmp_path / "A.PNG"]


def test_a_folder_called_like_a_picture_is_looked_into(tmp_path: Path, cats: list[Path]) -> None:
    inner = tmp_path / "folder.jpg"
    inner.mkdir()
    (inner / "a.png").write_bytes(cats[0].read_bytes())
    assert find_pictures([tmp_path]) == [inner / "a.png"]


def test_pictures_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png: no such picture"):
        find_pictures([tmp_path / "none.png"])
    with pytest.raises(InputError, match=r"no pictures in this folder \(.*\.jpg.*\.png"):
        find_pictures([tmp_path])
    with pytest.raises(InputError, match="no pictures given"):
        find_pictures([])


def test_unreadable_picture_is_named(model: Path, cats: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(cats[0].read_bytes()[:200])
    for action in (
        lambda: predict(model, [cats[0], broken]),
        lambda: attend(model, [cats[0], broken], tmp_path / "attention.png"),
    ):
        with pytest.raises(InputError, match=r"broken\.png: cannot be read as a picture"):
            action()
    assert not (tmp_path / "attention.png").exists()


def test_unreadable_pictures_can_be_left_out(
    model: Path, cats: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [tmp_path / f"{number}.png" for number in range(3)]
    for path in broken:
        path.touch()
    monkeypatch.setattr("vit_lightning.prediction._BATCH", {"cpu": 2})  # the first batch has none
    told, looked_at = list[str](), list[int]()
    paths = [*broken[:2], cats[0], broken[2], *cats[1:]]
    found = predict(
        model,
        paths,
        on_unreadable=lambda error: told.append(str(error)),
        on_progress=looked_at.append,
    )
    assert sum(looked_at) == len(paths)
    assert [prediction.path for prediction in found] == cats
    for one, other in zip(found, predict(model, cats), strict=True):
        assert one.classes == other.classes
    assert [message.partition(": ")[0] for message in told] == [str(path) for path in broken]


# Files


def test_table_of_predictions(model: Path, cats: list[Path], tmp_path: Path) -> None:
    predictions = predict(model, cats, top=2)
    write_predictions(predictions, tmp_path / "new" / "table.csv")
    with (tmp_path / "new" / "table.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["picture", "class_1", "probability_1", "class_2", "probability_2"]
    assert [row[0] for row in rows] == [str(path) for path in cats]
    assert [row[1] for row in rows] == [prediction.classes[0] for prediction in predictions]
    for row, prediction in zip(rows, predictions, strict=True):
        assert float(row[4]) == pytest.approx(prediction.probabilities[1], rel=1e-5)


@pytest.mark.parametrize("name", ["model.safetensors", "hybrid_no_stage.npz"])
def test_attention_is_drawn(model: Path, cats: list[Path], tmp_path: Path, name: str) -> None:
    file = model if name == model.name else REFERENCE / name
    attend(file, cats[:2], tmp_path / "attention.png")
    with Image.open(tmp_path / "attention.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    assert min(pixels.shape[:2]) > 100
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50  # more than an empty sheet
