"""A model of any number of classes in a picture: kept by its files, asked by the sigmoid."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tiny_models import CLASSES, EXACT, TINY, bundle_of, random_model
from vit_lightning.convert import Target, convert_model
from vit_lightning.errors import InputError
from vit_lightning.factory import ModelBundle, create_bundle, load_bundle, save_model
from vit_lightning.info import describe_weights
from vit_lightning.prediction import predict, preprocessing_of
from vit_lightning.training.task import VisionTask


def _bundle() -> ModelBundle:
    return replace(bundle_of(random_model(EXACT), CLASSES), multi_label=True)


def _save(path: Path, **options: bool) -> Path:
    save_model(random_model(EXACT), path, CLASSES, **options)
    return path


def test_our_own_file_says_it(tmp_path: Path) -> None:
    several = _save(tmp_path / "several.safetensors", multi_label=True)
    one = _save(tmp_path / "one.safetensors")
    assert load_bundle(several).multi_label
    assert not load_bundle(one).multi_label
    assert "classes: 5, any number in a picture: ant, " in describe_weights(several)
    assert "any number" not in describe_weights(one)


def test_the_head_alone_is_of_several_labels(tmp_path: Path) -> None:
    several = _save(tmp_path / "several.safetensors", multi_label=True)
    assert not create_bundle(weights=several, num_classes=3).multi_label
    assert create_bundle(weights=several, keep_head=True).multi_label


def test_a_checkpoint_says_it(tmp_path: Path) -> None:
    task = VisionTask(random_model(TINY), total_steps=1, classes=CLASSES, multi_label=True)
    checkpoint = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "model.ckpt")
    assert load_bundle(tmp_path / "model.ckpt").multi_label
    del checkpoint["vit_lightning"]["multi_label"]
    torch.save(checkpoint, tmp_path / "earlier.ckpt")
    assert not load_bundle(tmp_path / "earlier.ckpt").multi_label
    checkpoint["vit_lightning"]["multi_label"] = "yes"
    torch.save(checkpoint, tmp_path / "wrong.ckpt")
    with pytest.raises(InputError, match="its multi_label is neither true nor false"):
        load_bundle(tmp_path / "wrong.ckpt")


@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("timm", "t"),
        ("huggingface", "h"),
        ("torchvision", "v.pth"),
        ("safetensors", "s.safetensors"),
    ],
)
def test_other_libraries_files_keep_it_for_us(to: Target, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    result = convert_model(_bundle(), path, to)
    assert load_bundle(path).multi_label
    assert any("the sigmoid of each output" in note for note in result.notes) == (to == "timm")


def test_googles_layout_keeps_it_beside_the_file_or_refuses(tmp_path: Path) -> None:
    path = tmp_path / "google.npz"
    convert_model(replace(_bundle(), model=random_model(TINY)), path, "google")
    assert load_bundle(path).multi_label
    with pytest.raises(InputError, match=r"cannot say .*that a picture has any number of classes"):
        save_model(random_model(TINY), tmp_path / "bare.npz", multi_label=True)


def test_transformers_own_word_for_it_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "model"
    convert_model(_bundle(), path, "huggingface")
    config = json.loads((path / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    # As from somebody else: without our words in the header of the weights.
    save_file(load_file(path / "model.safetensors"), path / "model.safetensors", {"format": "pt"})
    assert load_bundle(path).multi_label
    del config["problem_type"]
    (path / "config.json").write_text(json.dumps(config))
    assert not load_bundle(path).multi_label


def test_probabilities_are_the_sigmoids(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    pixels = np.random.default_rng(3).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    bundle = _bundle()
    (prediction,) = predict(bundle, [picture])
    images = preprocessing_of(bundle)(Image.fromarray(pixels))[None]
    with torch.inference_mode():
        expected = bundle.model(images).sigmoid()[0]
    order = expected.argsort(descending=True)
    assert prediction.classes == tuple(CLASSES[index] for index in order)
    assert prediction.probabilities == pytest.approx(expected[order].tolist(), abs=1e-5)
    assert sum(prediction.probabilities) != pytest.approx(1, abs=1e-2)
