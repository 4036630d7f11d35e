"""Models converted for timm and torchvision, and saved by them, compared in both."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import save_for_hf
from torch import Tensor, nn
from torchvision.models import VisionTransformer as TorchvisionTransformer

from random_weights import randomise
from tiny_models import (
    CLASSES,
    EXACT,
    R26,
    R_TI,
    TIMM_STEM,
    TINY,
    bundle_of,
    random_model,
    random_pictures,
)
from vit_lightning.convert import convert_model
from vit_lightning.errors import InputError
from vit_lightning.factory import load_bundle
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.models.vit import VisionTransformer

R50_B = R26.replace(resnet=ResNetConfig((3, 4, 9), 64, **TIMM_STEM))
R50_L = R26.replace(resnet=ResNetConfig((3, 4, 6, 3), 64, **TIMM_STEM))
VIEW = {
    "mode": "crop",
    "image_size": [32, 32],
    "in_channels": 3,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bilinear",
    "crop_fraction": 0.8,
}


@torch.inference_mode()
def assert_close(model: VisionTransformer, theirs: nn.Module, pictures: Tensor) -> None:
    """That both compute the same, and that there is something to compare."""
    expected = theirs(pictures)
    scale = expected.abs().max()
    assert scale > 0.1
    bound = 1e-4 if model.config.resnet else 1e-5
    torch.testing.assert_close(model(pictures), expected, rtol=0, atol=bound * max(scale, 1.0))


class TestOursInTimm:
    @pytest.mark.parametrize(
        "config",
        [
            EXACT,
            TINY,
            EXACT.replace(num_classes=0),
            EXACT.replace(pool="gap"),
            EXACT.replace(pool="gap", class_token=True),
            EXACT.replace(pool="gap", num_classes=0),
            EXACT.replace(pool="none"),
            EXACT.replace(pool="none", class_token=False),
            EXACT.replace(image_size=(24, 40)),
            EXACT.replace(image_size=(27, 44)),  # more than the patches cover
            EXACT.replace(patch_size=(8, 4), in_channels=1),
            EXACT.replace(embed_dim=50, num_heads=5, mlp_dim=77),
            R_TI,
            R_TI.replace(activation="gelu_tanh", in_channels=1, image_size=(64, 96)),
            R_TI.replace(num_classes=0),
            R26,
            R26.replace(pool="gap", image_size=(32, 96)),
            R50_B,
            R50_L,
        ],
        ids=lambda config: str(config.resnet and config.resnet.stage_depths),
    )
    def test_compute_the_same(self, tmp_path: Path, config: ViTConfig) -> None:
        model = random_model(config)
        convert_model(bundle_of(model), tmp_path / "x", "timm")
        theirs = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True).eval()
        assert_close(model, theirs, random_pictures(config))
        assert theirs.num_classes == config.num_classes

    @pytest.mark.parametrize("config", [EXACT, R_TI, R26], ids=["plain", "root", "stages"])
    def test_are_given_another_head(self, tmp_path: Path, config: ViTConfig) -> None:
        """Their names of the first layer and the head are in the configuration, too."""
        model = random_model(config)
        convert_model(bundle_of(model, CLASSES), tmp_path / "x", "timm")
        theirs = timm.create_model(
            f"local-dir:{tmp_path / 'x'}", pretrained=True, num_classes=3, in_chans=1
        ).eval()
        pictures = random_pictures(config.replace(in_channels=1))
        with torch.inference_mode():
            assert theirs(pictures).shape == (2, 3)
            features = theirs.forward_features(pictures)
            expected = model.forward_features(pictures.expand(-1, 3, -1, -1))
        if config.resnet is None:  # whose filters are standardised
            torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)

    def test_classes_and_preprocessing_are_theirs(self, tmp_path: Path) -> None:
        bundle = bundle_of(random_model(EXACT), CLASSES, VIEW)
        convert_model(bundle, tmp_path / "x", "timm")
        theirs = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True)
        assert resolve_model_data_config(theirs) == {
            "input_size": (3, 32, 32),
            "interpolation": "bilinear",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "crop_pct": 0.8,
            "crop_mode": "center",
        }
        assert tuple(theirs.pretrained_cfg["label_names"]) == CLASSES

    def test_saved_by_timm_come_back(self, tmp_path: Path) -> None:
        bundle = bundle_of(random_model(TINY), CLASSES, VIEW)
        convert_model(bundle, tmp_path / "x", "timm")
        theirs = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True)
        arguments = json.loads((tmp_path / "x" / "config.json").read_text())["model_args"]
        save_for_hf(theirs, tmp_path / "y", model_args=arguments, safe_serialization=True)
        again = load_bundle(tmp_path / "y")
        assert again.model.config == TINY
        assert again.preprocessing == VIEW
        for key, tensor in bundle.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[key], tensor), key


class TestTimmsOurs:
    """A model of timm's own, as it saves it."""

    @pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
    @pytest.mark.parametrize(
        ("architecture", "arguments"),
        [
            ("vit_tiny_patch16_224", {}),
            ("vit_tiny_patch16_224", {"num_classes": 0}),
            ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}),
            ("vit_tiny_patch16_224", {"global_pool": ""}),
            ("vit_tiny_patch16_224", {"act_layer": "gelu_tanh", "img_size": (32, 64)}),
            ("vit_tiny_patch16_224", {"img_size": (32, 128)}),  # as many patches as a square
            ("vit_small_patch32_224", {}),
            ("vit_tiny_r_s16_p8_224", {}),
            ("vit_small_r26_s32_224", {}),
            ("deit_tiny_patch16_224", {}),
            ("vit_small_patch16_224.dino", {"num_classes": 0}),
        ],
    )
    def test_is_read(
        self, tmp_path: Path, architecture: str, arguments: dict[str, Any], safe: bool
    ) -> None:
        arguments = {"depth": 2, "num_classes": 7, "img_size": 64, **arguments}
        theirs = timm.create_model(architecture, **arguments).eval()
        randomise(theirs, seed=5)
        save_for_hf(theirs, tmp_path, model_args=arguments, safe_serialization=safe)
        bundle = load_bundle(tmp_path)
        assert bundle.dialect == "timm"
        assert bundle.report is not None
        assert bundle.report.notes == ()
        assert_close(bundle.model, theirs, random_pictures(bundle.model.config))
        found, expected = bundle.preprocessing, resolve_model_data_config(theirs)
        assert found is not None
        assert (found["mean"], found["std"]) == (list(expected["mean"]), list(expected["std"]))
        assert found["crop_fraction"] == expected["crop_pct"]
        assert found["interpolation"] == expected["interpolation"]

    @pytest.mark.parametrize(
        "architecture", ["vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224", "vit_small_r26_s32_224"]
    )
    def test_is_read_without_a_configuration(self, tmp_path: Path, architecture: str) -> None:
        theirs = timm.create_model(architecture, depth=2, num_classes=7, img_size=64).eval()
        randomise(theirs, seed=5)
        torch.save({"model": theirs.state_dict(), "epoch": 3}, tmp_path / "x.pth")
        bundle = load_bundle(tmp_path / "x.pth")
        assert bundle.report is not None
        assert "computed as timm does by default, with gelu and norm_eps 1e-06" in str(
            bundle.report
        )
        assert_close(bundle.model, theirs, random_pictures(bundle.model.config))

    def test_is_read_at_real_size(self, tmp_path: Path) -> None:
        theirs = timm.create_model("vit_base_patch16_224").eval()
        randomise(theirs, seed=5)
        save_for_hf(theirs, tmp_path, safe_serialization=True)
        model = load_bundle(tmp_path).model
        pictures = random_pictures(model.config, 1)
        with torch.inference_mode():
            logits, expected = model(pictures), theirs(pictures)
        assert 1 < expected.abs().max() < 10
        assert (logits - expected).abs().max() <= 1e-5

    @pytest.mark.parametrize(
        ("architecture", "words"),
        [
            ("deit_tiny_distilled_patch16_224", "a distilled DeiT"),
            ("deit3_small_patch16_224", "DeiT-III or another model with LayerScale"),
            ("vit_small_patch14_dinov2", "DINOv2, DINOv3, DeiT-III or another model with Lay"),
            ("vit_small_patch14_reg4_dinov2", "a DINOv2 or DINOv3 with registers"),
            ("vit_small_patch16_dinov3", "DINOv3"),
            ("vit_base_patch16_siglip_224", "a SigLIP"),
            ("vit_base_patch32_clip_224", "a CLIP"),
            ("beit_base_patch16_224", "a BEiT"),
        ],
    )
    @pytest.mark.parametrize("with_configuration", [True, False])
    def test_of_another_kind_is_refused_by_name(
        self, tmp_path: Path, architecture: str, words: str, with_configuration: bool
    ) -> None:
        arguments = {"depth": 2, "img_size": 64 if "14" not in architecture else 70}
        theirs = timm.create_model(architecture, **arguments)
        save_for_hf(theirs, tmp_path, model_args=arguments, safe_serialization=True)
        if not with_configuration:
            (tmp_path / "config.json").unlink()
        with pytest.raises(InputError, match=words):
            load_bundle(tmp_path)

    @pytest.mark.parametrize(
        ("architecture", "name"),
        [("vit_base_patch32_siglip_gap_256", "a SigLIP"), ("flexivit_small", "a FlexiViT")],
    )
    def test_of_another_kind_is_refused_by_timms_name(
        self, tmp_path: Path, architecture: str, name: str
    ) -> None:
        """Their arrays could be those of a plain Vision Transformer."""
        theirs = timm.create_model(architecture, depth=2)
        save_for_hf(theirs, tmp_path, safe_serialization=True)
        with pytest.raises(InputError, match=rf"the weights are of {name} \({architecture}\)"):
            load_bundle(tmp_path)

    def test_of_unusual_heads_is_read(self, tmp_path: Path) -> None:
        theirs = timm.create_model("vit_base_patch16_gap_224", depth=1).eval()
        randomise(theirs, seed=5)
        save_for_hf(theirs, tmp_path, safe_serialization=True)
        model = load_bundle(tmp_path).model
        assert model.config.num_heads == 16
        assert_close(model, theirs, random_pictures(model.config, 1))

    def test_with_a_norm_after_pooling_is_refused_by_name(self, tmp_path: Path) -> None:
        """As all of timm's that average are, unless asked otherwise."""
        theirs = timm.create_model("vit_tiny_patch16_224", depth=2, global_pool="avg")
        save_for_hf(theirs, tmp_path, safe_serialization=True)
        with pytest.raises(InputError, match="of a model that averages before it normalises"):
            load_bundle(tmp_path)


def torchvisions(representation_size: int | None) -> TorchvisionTransformer:
    """A model of torchvision's, of our sizes."""
    return TorchvisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=3,
        hidden_dim=192,
        mlp_dim=64,
        num_classes=5,
        representation_size=representation_size,
    ).eval()


class TestTorchvision:
    @pytest.mark.parametrize("representation_size", [None, 24])
    def test_ours_compute_the_same(self, tmp_path: Path, representation_size: int | None) -> None:
        model = random_model(EXACT, representation_size=representation_size)
        convert_model(bundle_of(model), tmp_path / "x.pth", "torchvision")
        theirs = torchvisions(representation_size)
        theirs.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True), strict=True)
        assert_close(model, theirs, random_pictures(EXACT))

    @pytest.mark.parametrize("representation_size", [None, 24])
    @pytest.mark.parametrize("old", [False, True])
    def test_theirs_are_read(
        self, tmp_path: Path, representation_size: int | None, old: bool
    ) -> None:
        theirs = torchvisions(representation_size)
        randomise(theirs, seed=5)
        state = theirs.state_dict()
        if old:  # before 0.12, which translates when it loads
            names = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}
            for new, before in names.items():
                state = {key.replace(new, before): tensor for key, tensor in state.items()}
        torch.save(dict(state), tmp_path / "x.pth", _use_new_zipfile_serialization=not old)
        bundle = load_bundle(tmp_path / "x.pth")
        assert bundle.dialect == "torchvision"
        assert bundle.model.config == EXACT.replace(representation_size=representation_size)
        assert_close(bundle.model, theirs, random_pictures(EXACT))
