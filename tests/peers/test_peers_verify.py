"""Weights of and for timm and transformers, compared in these libraries."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
from timm.models import save_for_hf

from random_weights import randomise
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.models.config import ResNetConfig
from vit_lightning.models.presets import preset
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.parity.verify import verify

PLAIN = ["embedding", "blocks.0", "blocks.1", "encoded", "pre_logits", "logits"]
TIMM_STEM = {"norm_eps": 1e-5, "weight_eps": 1e-8, "eps_under_root": True}


def save_theirs(architecture: str, folder: Path, **arguments: Any) -> None:
    """A small model of timm's, saved by timm."""
    model = timm.create_model(architecture, **arguments)
    randomise(model, seed=6)
    save_for_hf(model, folder, model_args=arguments, safe_serialization=True)


@pytest.mark.parametrize(
    ("architecture", "arguments", "stages"),
    [
        ("vit_tiny_patch16_224", {"num_classes": 5}, PLAIN),
        ("vit_tiny_patch16_224", {"num_classes": 0}, PLAIN[:-1]),
        ("vit_tiny_patch16_224", {"num_classes": 5, "act_layer": "gelu_tanh"}, PLAIN),
        (
            "vit_tiny_patch16_224",
            {"num_classes": 5, "global_pool": "avg", "class_token": False, "fc_norm": False},
            PLAIN,
        ),
        ("vit_tiny_r_s16_p8_224", {"num_classes": 5}, ["stem.conv", *PLAIN]),
        (
            "vit_small_r26_s32_224",
            {"num_classes": 5},
            ["stem.conv", "stages.0", "stages.1", "stages.2", "stages.3", *PLAIN],
        ),
    ],
)
def test_timms_weights_compute_the_same(
    architecture: str, arguments: dict[str, Any], stages: list[str], tmp_path: Path
) -> None:
    save_theirs(architecture, tmp_path, depth=2, img_size=64, **arguments)
    report = verify(tmp_path, "timm")
    assert report.agrees, report
    assert [stage.name for stage in report.stages] == stages
    assert report.against == f"timm {timm.__version__}, which read {tmp_path} itself"
    # The oracle says so too, and what is read at another size goes by way of a conversion.
    assert verify(tmp_path).agrees
    resized = verify(tmp_path, "timm", image_size=96)
    assert resized.agrees, resized
    assert "converted" in resized.against


def test_other_numerics_than_timms_depart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_theirs("vit_tiny_patch16_224", tmp_path, depth=2, img_size=64, num_classes=5)

    def load_with_tanh(*arguments: Any) -> ModelBundle:
        bundle = load_bundle(*arguments)
        model = VisionTransformer(bundle.model.config.replace(activation="gelu_tanh"))
        model.load_state_dict(bundle.model.state_dict())
        return replace(bundle, model=model.eval())

    monkeypatch.setattr("vit_lightning.parity.verify.load_bundle", load_with_tanh)
    first = verify(tmp_path, "timm").first_departure
    assert first is not None
    assert first.name == "blocks.0"


@pytest.mark.parametrize(
    ("name", "library", "changes", "bound"),
    [
        ("ViT-B_16", "timm", {"norm_eps": 1e-6}, 1e-5),
        ("ViT-B_16", "transformers", {"norm_eps": 1e-12}, 1e-5),
        ("R50+ViT-B_16", "timm", {"resnet": ResNetConfig((3, 4, 9), **TIMM_STEM)}, 3e-4),
    ],
)
def test_real_size(name: str, library: str, changes: dict[str, Any], bound: float) -> None:
    model = VisionTransformer(preset(name).replace(activation="gelu", **changes))
    randomise(model, seed=7)
    report = verify(ModelBundle(model, None, None, None, None, name), library)
    assert report.agrees, report
    logits = report.stages[-1]
    assert logits.delta <= bound
    assert 1 < logits.scale < 10  # of the size of real logits, or the bound says nothing
