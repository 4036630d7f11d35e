"""Presets: every one has its parameter count pinned by the original's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vit_lightning.checkpoints.dialects import GOOGLE
from vit_lightning.checkpoints.keymap import write_state
from vit_lightning.errors import InputError
from vit_lightning.models.presets import PRESETS, preset, preset_name
from vit_lightning.models.vit import VisionTransformer

REFERENCE = Path(__file__).parents[1] / "reference"


def _official() -> dict[str, Any]:
    table = json.loads((REFERENCE / "official_param_shapes.json").read_text())
    return {name: row for name, row in table["models"].items() if not name.startswith("Mixer")}


OFFICIAL = _official()


def _on_meta(name: str, **changes: Any) -> VisionTransformer:
    with torch.device("meta"):
        return VisionTransformer(preset(name).replace(**changes))


def _count(name: str, **changes: Any) -> int:
    return sum(parameter.numel() for parameter in _on_meta(name, **changes).parameters())


def test_there_is_a_preset_for_every_official_model_and_no_other() -> None:
    assert set(PRESETS) == set(OFFICIAL)


@pytest.mark.parametrize("name", OFFICIAL)
def test_preset_is_the_official_model(name: str) -> None:
    """Parameter count, every array with its name and shape, and the rest of the configuration."""
    official, model = OFFICIAL[name], _on_meta(name)
    assert sum(p.numel() for p in model.parameters()) == official["num_parameters"]
    written = write_state(GOOGLE.rows, model.state_dict(), model.config.num_heads)
    assert {key: list(t.shape) for key, t in written} == official["shapes"]
    assert model.config.pool == official["config"]["classifier"]
    transformer = official["config"]["transformer"]
    assert model.config.dropout == transformer["dropout_rate"]
    assert model.config.attention_dropout == transformer["attention_dropout_rate"]


@pytest.mark.parametrize(
    ("name", "figure", "classes", "exact"),
    [
        # The predecessor's table, in units of its last digit. Its figures are truncated (B_16
        # would round to 85.9M, H_14 to 630.9M) and fit models with a head of 100 classes.
        ("ViT-B_16", "85.8", 100, 85_875_556),
        ("R50+ViT-B_16", "97.96", 100, 97_967_012),
        ("ViT-B_32", "87.5", 100, 87_532_132),
        ("ViT-L_16", "303.4", 100, 303_404_132),
        ("ViT-H_14", "630.8", 100, 630_892_900),
        # The misfit: with that head it would be 305.6; the figure is that of no head at all.
        ("ViT-L_32", "305.5", 0, 305_510_400),
    ],
)
def test_the_predecessors_figures(name: str, figure: str, classes: int, exact: int) -> None:
    assert _count(name, num_classes=classes) == exact
    assert _truncated(exact, figure) == figure


def test_the_misfit_in_the_predecessors_figures() -> None:
    assert _count("ViT-L_32", num_classes=100) == 305_612_900
    assert _truncated(305_612_900, "305.5") == "305.6"
    # Nor does "no head" explain the others.
    assert _truncated(_count("ViT-B_16", num_classes=0), "85.8") == "85.7"
    assert _truncated(_count("ViT-H_14", num_classes=0), "630.8") == "630.7"


def _truncated(count: int, like: str) -> str:
    """Millions with as many decimals as ``like``, cut off."""
    decimals = len(like.split(".")[1])
    digits = str(count // 10 ** (6 - decimals))
    return f"{digits[:-decimals]}.{digits[-decimals:]}"


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("R50-ViT-B_16", "R50+ViT-B_16"),
        ("R50-ViT-L_32", "R50+ViT-L_32"),
        ("Ti_16", "ViT-Ti_16"),
        ("S_32", "ViT-S_32"),
        ("B_8", "ViT-B_8"),
        ("H_14", "ViT-H_14"),
        ("R_Ti_16", "R+ViT-Ti_16"),
        ("R26_S_32", "R26+ViT-S_32"),
        ("R50_L_32", "R50+ViT-L_32"),
        ("ViT-B_16-224", "ViT-B_16"),
        ("R50+ViT-B_16-224", "R50+ViT-B_16"),
        ("R50-ViT-B_16-224", "R50+ViT-B_16"),
        ("R_Ti_16-224", "R+ViT-Ti_16"),
    ],
)
def test_aliases(alias: str, name: str) -> None:
    assert preset_name(alias) == name
    assert preset(alias) is PRESETS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_own_name(name: str) -> None:
    assert preset_name(name) == name
    assert PRESETS[name].image_size == (224, 224)


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown model 'ViT-B_61'. Did you mean 'ViT-B_16'\?"):
        preset("ViT-B_61")


def test_mixer_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="'Mixer-B_16' is an MLP-Mixer"):
        preset("Mixer-B_16")
