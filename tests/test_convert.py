"""Models written for other libraries: bit for bit, with all that travels along."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny_models import (
    CLASSES,
    EXACT,
    R26,
    R_TI,
    TINY,
    arrays_of,
    bundle_of,
    random_model,
    same_weights,
)
from vit_lightning import convert
from vit_lightning.checkpoints.companions import huggingface_config, timm_config
from vit_lightning.checkpoints.dialects import (
    HUGGINGFACE,
    HUGGINGFACE_BACKBONE,
    TIMM,
    TIMM_ROOT,
    TORCHVISION,
)
from vit_lightning.convert import Target, convert_model
from vit_lightning.errors import InputError
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.models.config import ViTConfig

REFERENCE = Path(__file__).parent / "reference"
PAPER = {"mode": "paper", "image_size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
CROP = {
    "mode": "crop",
    "image_size": [32, 32],
    "in_channels": 3,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bilinear",
    "crop_fraction": 0.8,
}
# A model that each can express, and what to call it.
EXPRESSIBLE: dict[Target, tuple[ViTConfig, str]] = {
    "google": (TINY, "x.npz"),
    "timm": (EXACT, "folder"),
    "huggingface": (EXACT.replace(norm_eps=1e-12), "folder"),
    "torchvision": (EXACT, "x.pth"),
    "safetensors": (EXACT.replace(norm_eps=1e-3), "x.safetensors"),
}
TARGETS = list(EXPRESSIBLE)


def bundle(config: ViTConfig, **beside: Any) -> ModelBundle:
    return bundle_of(random_model(config), **beside)


def named(to: Target) -> str:
    return EXPRESSIBLE[to][1]


def tensors_in(path: Path) -> dict[str, Tensor]:
    """What was written, whichever way."""
    if path.is_dir():
        return load_file(path / "model.safetensors")
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)
    with np.load(path) as file:
        return {key: torch.from_numpy(array) for key, array in file.items()}


def assert_same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert set(one) == set(other)
    for key, tensor in one.items():
        # Early Flax wrote the scales of a GroupNorm as (1, 1, 1, C).
        flat = tensor.reshape(-1) if tensor.shape[:-1] == (1, 1, 1) else tensor
        assert torch.equal(flat, other[key]), key


def assert_same_bundle(found: ModelBundle, expected: ModelBundle) -> None:
    assert found.model.config == expected.model.config
    assert same_weights(found.model, expected.model)
    assert found.classes == expected.classes
    assert found.preprocessing == expected.preprocessing
    assert found.origin == expected.origin


class TestThereAndBack:
    """From a file of the library to ours, and to a file of the library again."""

    @pytest.mark.parametrize(
        "name",
        [
            "vit_token_small",
            "vit_prelogits_small",
            "vit_gap_small",
            "vit_nonsquare_small",
            "hybrid_small",
            "hybrid_no_stage",
        ],
    )
    def test_google(self, tmp_path: Path, name: str) -> None:
        source = load_bundle(REFERENCE / f"{name}.npz", (24, 40) if "nonsq" in name else None)
        result = convert_model(source, tmp_path / "x.npz", "google")
        assert (result.losses, result.delta, result.notes) == ((), None, ())
        assert_same_tensors(tensors_in(REFERENCE / f"{name}.npz"), tensors_in(tmp_path / "x.npz"))
        assert_same_bundle(load_bundle(tmp_path / "x.npz"), source)

    @pytest.mark.parametrize(
        ("config", "dialect"),
        [
            (EXACT, TIMM),
            (TINY.replace(image_size=(24, 40)), TIMM),
            (EXACT.replace(num_classes=0), TIMM),
            (EXACT.replace(pool="gap"), TIMM),
            (EXACT.replace(pool="gap", class_token=True), TIMM),
            (R_TI, TIMM_ROOT),
            (R26, TIMM),
        ],
    )
    def test_timm(self, tmp_path: Path, config: ViTConfig, dialect: Any) -> None:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        weights = arrays_of(dialect, random_model(config).state_dict())
        save_file(weights, theirs / "model.safetensors")
        classes = CLASSES if config.num_classes else None
        values = timm_config(
            config,
            classes,
            CROP,
            convert.TIMM_HYBRIDS.get(
                config.resnet.stage_depths if config.resnet else None, "vit_base_patch16_224"
            ),
        )
        (theirs / "config.json").write_text(json.dumps(values))
        source = load_bundle(theirs)
        assert source.model.config == config
        convert_model(source, tmp_path / "x", "timm")
        assert_same_tensors(tensors_in(theirs), tensors_in(tmp_path / "x"))
        assert json.loads((tmp_path / "x" / "config.json").read_text()) == values
        assert_same_bundle(load_bundle(tmp_path / "x"), source)

    @pytest.mark.parametrize(
        ("config", "dialect"),
        [
            (EXACT.replace(norm_eps=1e-12), HUGGINGFACE),
            (TINY.replace(image_size=(24, 40)), HUGGINGFACE),
            (EXACT.replace(num_classes=0, representation_size=24), HUGGINGFACE_BACKBONE),
            (EXACT.replace(num_classes=0), HUGGINGFACE_BACKBONE),
        ],
    )
    def test_hugging_face(self, tmp_path: Path, config: ViTConfig, dialect: Any) -> None:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        torch.save(
            arrays_of(dialect, random_model(config).state_dict()), theirs / "pytorch_model.bin"
        )
        values = huggingface_config(config, CLASSES if config.num_classes else None)
        (theirs / "config.json").write_text(json.dumps(values))
        source = load_bundle(theirs)
        assert source.model.config == config
        convert_model(source, tmp_path / "x", "huggingface")
        weights = torch.load(theirs / "pytorch_model.bin", weights_only=True)
        assert_same_tensors(weights, tensors_in(tmp_path / "x"))
        assert json.loads((tmp_path / "x" / "config.json").read_text()) == values
        assert_same_bundle(load_bundle(tmp_path / "x"), source)

    @pytest.mark.parametrize("config", [EXACT, EXACT.replace(representation_size=24)])
    def test_torchvision(self, tmp_path: Path, config: ViTConfig) -> None:
        torch.save(
            arrays_of(TORCHVISION, random_model(config).state_dict()), tmp_path / "theirs.pth"
        )
        source = load_bundle(tmp_path / "theirs.pth")
        assert source.model.config == config
        convert_model(source, tmp_path / "x.pth", "torchvision")
        assert_same_tensors(tensors_in(tmp_path / "theirs.pth"), tensors_in(tmp_path / "x.pth"))
        assert_same_bundle(load_bundle(tmp_path / "x.pth"), source)

    def test_round_the_world(self, tmp_path: Path) -> None:
        """Nothing that all of them can say is lost on the way."""
        source = load_bundle(REFERENCE / "vit_token_small.npz")
        found = source
        for number, to in enumerate(("timm", "huggingface", "safetensors", "google")):
            path = tmp_path / f"{number}{named(to).removeprefix('x').removeprefix('folder')}"
            assert convert_model(found, path, to).losses == ()
            found = load_bundle(path)
        assert_same_tensors(
            tensors_in(REFERENCE / "vit_token_small.npz"), tensors_in(tmp_path / "3.npz")
        )
        assert_same_bundle(found, source)


class TestWhatTravelsAlong:
    @pytest.mark.parametrize("preprocessing", [None, PAPER, CROP])
    @pytest.mark.parametrize("to", TARGETS)
    def test_comes_back(self, tmp_path: Path, to: Target, preprocessing: Any) -> None:
        config, name = EXPRESSIBLE[to]
        source = bundle(config, classes=CLASSES, preprocessing=preprocessing, origin={"run": "x"})
        result = convert_model(source, tmp_path / "new" / name, to)
        assert result.path == tmp_path / "new" / name
        assert_same_bundle(load_bundle(result.path), source)

    @pytest.mark.parametrize("to", ["timm", "huggingface"])
    def test_is_in_their_words_too(self, tmp_path: Path, to: Target) -> None:
        """Without our description, as after they saved it themselves."""
        config, name = EXPRESSIBLE[to]
        source = bundle(config, classes=CLASSES, preprocessing=CROP, origin={"run": "x"})
        convert_model(source, tmp_path / name, to)
        weights = tmp_path / name / "model.safetensors"
        save_file(load_file(weights), weights, {"format": "pt"})
        found = load_bundle(tmp_path / name)
        assert found.model.config == config
        assert found.classes == CLASSES
        assert found.preprocessing == CROP

    @pytest.mark.parametrize(
        ("mode", "theirs"), [("paper", "squash"), ("modern", "crop"), ("squash", "squash")]
    )
    @pytest.mark.parametrize("to", ["timm", "huggingface"])
    def test_a_view_that_they_have_not_becomes_the_nearest(
        self, tmp_path: Path, to: Target, mode: str, theirs: str
    ) -> None:
        view = {"mode": mode, "image_size": [32, 32], "mean": [0.4] * 3, "std": [0.3] * 3}
        config, name = EXPRESSIBLE[to]
        result = convert_model(bundle(config, preprocessing=view), tmp_path / name, to)
        assert bool(result.notes) == (mode == "paper")
        if result.notes:
            assert result.notes[0].startswith("preprocessing: the original's resizing without")
        weights = tmp_path / name / "model.safetensors"
        save_file(load_file(weights), weights)
        assert load_bundle(tmp_path / name).preprocessing == CROP | {
            "mode": theirs,
            "mean": [0.4] * 3,
            "std": [0.3] * 3,
            "interpolation": "bilinear" if mode == "paper" else "bicubic",
            "crop_fraction": 1.0,
        }

    @pytest.mark.parametrize("to", ["google", "torchvision"])
    def test_a_file_without_a_place_for_words_has_them_beside(
        self, tmp_path: Path, to: Target
    ) -> None:
        config, name = EXPRESSIBLE[to]
        convert_model(bundle(config, classes=CLASSES), tmp_path / name, to)
        assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.json"}
        beside = json.loads((tmp_path / f"{name}.json").read_text())["vit_lightning"]
        assert beside["classes"] == list(CLASSES)


def test_a_head_of_zeros_does_not_hide_what_is_lost(tmp_path: Path) -> None:
    model = random_model(EXACT)
    model.reset_head()
    written = convert_model(bundle_of(model), tmp_path / "x.npz", "google", lossy=True)
    assert written.delta is not None
    assert written.delta > 1e-6


def test_half_the_bits_and_what_that_costs(tmp_path: Path) -> None:
    whole = bundle(TINY, classes=CLASSES, preprocessing=PAPER)
    conversion = convert_model(whole, tmp_path / "x.safetensors", "safetensors", half=True)
    stored = load_file(conversion.path)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    again = load_bundle(conversion.path)
    assert again.classes == CLASSES
    assert again.preprocessing == PAPER
    for key, tensor in whole.model.state_dict().items():
        read = again.model.state_dict()[key]
        assert read.dtype == torch.float32
        torch.testing.assert_close(read, tensor, rtol=1e-3, atol=1e-7)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        difference = (again.model(pictures) - whole.model.eval()(pictures)).abs().max()
    assert conversion.delta == pytest.approx(float(difference), rel=1e-4)
    assert 0 < conversion.delta < 0.1


def test_what_half_the_bits_cannot_hold(tmp_path: Path) -> None:
    whole = bundle(TINY)
    with pytest.raises(InputError, match="--half is for safetensors"):
        convert_model(whole, tmp_path / "x.npz", "google", half=True)
    with torch.no_grad():
        whole.model.pos_embed[0, 0, 0] = 7e4
    with pytest.raises(InputError, match="pos_embed has values beyond 65504"):
        convert_model(whole, tmp_path / "x.safetensors", "safetensors", half=True)
    assert not list(tmp_path.iterdir())
