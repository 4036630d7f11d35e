"""Weights of and for transformers, compared in transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from random_weights import randomise
from vit_lightning.errors import InputError
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.models.presets import preset
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.parity.verify import verify

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

PLAIN = ["embedding", "blocks.0", "blocks.1", "encoded", "pre_logits", "logits"]


def save_theirs(kind: str, folder: Path, **arguments: Any) -> None:
    """A tiny model of theirs, saved by them."""
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=(24, 32),
        patch_size=8,
        num_labels=5,
    )
    model = getattr(transformers, kind)(config, **arguments)
    randomise(model, seed=6)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("kind", "arguments", "stages"),
    [
        ("ViTForImageClassification", {}, PLAIN),
        ("ViTModel", {}, PLAIN[:-1]),
        ("ViTModel", {"add_pooling_layer": False}, PLAIN[:-2]),
    ],
)
def test_their_weights_compute_the_same(
    kind: str, arguments: dict[str, Any], stages: list[str], tmp_path: Path
) -> None:
    save_theirs(kind, tmp_path, **arguments)
    report = verify(tmp_path, "transformers")
    assert report.agrees, report
    assert [stage.name for stage in report.stages] == stages
    assert max(stage.delta for stage in report.stages) <= 1e-5
    assert (
        report.against == f"transformers {transformers.__version__}, which read {tmp_path} itself"
    )
    # The oracle says so too, and what is read at another size goes by way of a conversion.
    assert verify(tmp_path).agrees
    resized = verify(tmp_path, "transformers", image_size=(32, 32))
    assert resized.agrees, resized
    assert "converted" in resized.against


def test_other_numerics_than_theirs_depart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_theirs("ViTForImageClassification", tmp_path)

    def load_with_tanh(*arguments: Any) -> ModelBundle:
        bundle = load_bundle(*arguments)
        model = VisionTransformer(bundle.model.config.replace(activation="gelu_tanh"))
        model.load_state_dict(bundle.model.state_dict())
        return replace(bundle, model=model.eval())

    monkeypatch.setattr("vit_lightning.parity.verify.load_bundle", load_with_tanh)
    first = verify(tmp_path, "transformers").first_departure
    assert first is not None
    assert first.name == "blocks.0"


def test_their_settings_are_left_alone(tmp_path: Path) -> None:
    save_theirs("ViTForImageClassification", tmp_path)
    logging = transformers.utils.logging
    logging.enable_progress_bar()
    before = logging.get_verbosity()
    verify(tmp_path, "transformers")
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == before


def test_what_they_cannot_express_is_refused() -> None:
    config = preset("R+ViT-Ti_16").replace(depth=1, image_size=32)
    bundle = ModelBundle(VisionTransformer(config), None, None, None, None, "hybrid")
    with pytest.raises(InputError, match="hybrid"):
        verify(bundle, "transformers")


def test_real_size() -> None:
    config = preset("ViT-B_16").replace(activation="gelu", norm_eps=1e-12)
    model = VisionTransformer(config)
    randomise(model, seed=7)
    report = verify(ModelBundle(model, None, None, None, None, "ViT-B_16"), "transformers")
    assert report.agrees, report
    logits = report.stages[-1]
    assert logits.delta <= 1e-5
    assert 1 < logits.scale < 10  # of the size of real logits, or the bound says nothing
