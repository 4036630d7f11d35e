"""What is said of models and weights."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from vit_lightning.checkpoints.npz import NpzFile
from vit_lightning.checkpoints.tensors import TensorFile
from vit_lightning.convert import convert_model
from vit_lightning.errors import InputError
from vit_lightning.factory import create_bundle, load_bundle, save_model
from vit_lightning.info import describe_preset, describe_weights
from vit_lightning.models.config import ViTConfig

REFERENCE = Path(__file__).parent / "reference"
TINY = ViTConfig((16, 24), (8, 8), embed_dim=192, depth=1, num_heads=3, mlp_dim=16, num_classes=2)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No array may be read."""

    def refuse(self: Any, key: str) -> None:
        raise AssertionError(f"{key} was read")

    monkeypatch.setattr(NpzFile, "__getitem__", refuse)
    monkeypatch.setattr(TensorFile, "__getitem__", refuse)


def test_a_preset_at_a_size() -> None:
    text = describe_preset("B_16", (384, 384))
    assert text.startswith("ViT-B_16\n  parameters: 86,859,496\n")
    assert "for a picture of 384 x 384" in text


@pytest.mark.usefixtures("unread")
def test_a_file_of_google() -> None:
    path = REFERENCE / "vit_prelogits_small.npz"
    lines = describe_weights(path).splitlines()
    assert lines[0] == f"{path}: weights in the layout of Google"
    assert f"  sha256: {hashlib.sha256(path.read_bytes()).hexdigest()}" in lines
    assert f"  file: {path}, {path.stat().st_size:,} bytes" in lines
    assert "  classes: 7, not named" in lines
    assert "  representation_size: 24" in lines
    assert any("preprocessing: paper" in line and "(the original's)" in line for line in lines)


@pytest.mark.usefixtures("unread")
def test_a_grid_that_is_not_square_needs_its_size() -> None:
    path = REFERENCE / "vit_nonsquare_small.npz"
    with pytest.raises(InputError, match=r"Give image_size"):
        describe_weights(path)
    assert "for a picture of 24 x 40" in describe_weights(path, (24, 40))


@pytest.mark.parametrize(
    ("to", "name", "dialect"),
    [
        ("timm", "folder", "timm"),
        ("huggingface", "folder", "Hugging Face"),
        ("safetensors", "x.safetensors", "vit-lightning"),
    ],
)
def test_other_layouts_with_names_and_preprocessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any, name: str, dialect: str
) -> None:
    torch.manual_seed(0)
    own = tmp_path / "own.safetensors"
    crop = {"mode": "crop", "crop_fraction": 0.9, "mean": [0.4, 0.5, 0.6]}
    save_model(create_bundle(TINY).model, own, ("ant", "bee"), crop)
    convert_model(load_bundle(own), tmp_path / name, to)
    text = describe_weights(tmp_path / name)
    assert text.startswith(f"{tmp_path / name}: weights in the layout of {dialect}\n")
    assert "  classes: 2: ant, bee\n" in text
    assert "0.4, 0.5, 0.6" in text
    assert "central 0.9" in text


def test_what_was_taken_for_granted_is_noted(tmp_path: Path) -> None:
    state = create_bundle(TINY.replace(image_size=16)).model.state_dict()
    torch.save(state, tmp_path / "x.pth")
    text = describe_weights(tmp_path / "x.pth")
    assert "note: no config.json stands beside the weights: computed as timm does" in text
