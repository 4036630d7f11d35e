"""The oracle against the reference, then the package against the oracle at real size."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from random_weights import google_arrays, randomise
from vit_lightning.checkpoints.dialects import GOOGLE
from vit_lightning.checkpoints.keymap import write_state
from vit_lightning.checkpoints.npz import write_npz
from vit_lightning.factory import load_model
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.parity.oracle import Numerics, forward

REFERENCE = Path(__file__).parents[1] / "reference"

# What has a reference of its own but is not a stop on the oracle's way.
_NOT_COMPUTED = {"image_uint8", "input", "attention_probs", "pre_logits_before_tanh"}


@pytest.mark.parametrize(
    ("name", "pool", "bound"),
    [
        ("vit_token_small", "token", 1e-5),
        ("vit_prelogits_small", "token", 1e-5),
        ("vit_gap_small", "gap", 1e-5),
        ("vit_nonsquare_small", "token", 1e-5),
        ("vit_token_unpooled_small", "none", 1e-5),
        ("hybrid_no_stage", "token", 1e-5),
        ("hybrid_small", "token", 1e-4),
    ],
)
def test_oracle_computes_the_reference(name: str, pool: Any, bound: float) -> None:
    with np.load(REFERENCE / f"{name}.npz") as file:
        weights = dict(file)
    with np.load(REFERENCE / f"{name}.io.npz") as file:
        expected = dict(file)
    out = forward(weights, expected["input"], Numerics(pool=pool))
    assert set(out) == set(expected) - _NOT_COMPUTED
    np.testing.assert_allclose(out["logits"], expected["logits"], rtol=0, atol=bound)
    for key, value in out.items():  # inner values are larger than logits
        scale = np.abs(expected[key]).max()
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=bound * scale, err_msg=key)


@pytest.mark.parametrize(("model", "bound"), [("ViT-B_16", 2e-5), ("R50+ViT-B_16", 3e-4)])
def test_package_computes_the_oracle_at_real_size(model: str, bound: float) -> None:
    weights = google_arrays(model, seed=1)
    picture = np.random.default_rng(2).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
    expected = forward(weights, picture, Numerics())["logits"]
    assert 0.5 < expected.std() < 5  # of the size of real logits, or the bound says nothing
    # A folder of its own: pytest would keep these hundreds of megabytes for three runs.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.npz"
        write_npz(path, weights.items())
        network = load_model(path)
    with torch.inference_mode():
        logits = network(torch.from_numpy(picture).permute(0, 3, 1, 2)).numpy()
    assert np.abs(logits - expected).max() <= bound


_TINY = ViTConfig(
    image_size=(24, 18),
    patch_size=(8, 5),  # three columns are left over
    embed_dim=12,
    depth=2,
    num_heads=3,
    mlp_dim=20,
    num_classes=5,
)
# Epsilons large enough to count, in a stem of the original's form and one of timm's.
_STEM, _TIMM_STEM = (
    {
        "image_size": 40,
        "patch_size": 2,
        "resnet": ResNetConfig((1, 2), 32, norm_eps=3e-2, weight_eps=2e-2, eps_under_root=under),
    }
    for under in (False, True)
)
_LARGE_EPS = Numerics(group_norm_eps=3e-2, weight_eps=2e-2)


def difference(changes: dict[str, Any], numerics: Numerics) -> tuple[float, set[str]]:
    """The package in float64 less the oracle, at most, and what the oracle put out."""
    model = VisionTransformer(_TINY.replace(**changes)).double().eval()
    randomise(model, seed=3)
    config = model.config
    arrays = {k: t.numpy() for k, t in write_state(GOOGLE.rows, model.state_dict(), 3)}
    shape = (2, config.in_channels, *config.image_size)
    pictures = torch.from_numpy(np.random.default_rng(4).uniform(-1, 1, shape))
    with torch.inference_mode():
        computed = model(pictures).numpy()
    out = forward(arrays, pictures.permute(0, 2, 3, 1).numpy(), numerics)
    expected = out["logits" if config.num_classes else "pre_logits"]
    assert computed.shape == expected.shape
    return float(np.abs(computed - expected).max()), set(out)


@pytest.mark.parametrize(
    ("changes", "numerics"),
    [
        ({"activation": "gelu"}, Numerics("gelu")),
        ({"norm_eps": 1e-2}, Numerics(norm_eps=1e-2)),
        ({"pool": "gap", "class_token": True}, Numerics(pool="gap")),
        ({"pool": "none", "class_token": False}, Numerics(pool="none")),
        ({"representation_size": 7}, Numerics()),
        ({"in_channels": 1}, Numerics()),
        (_STEM, _LARGE_EPS),
        (_TIMM_STEM, replace(_LARGE_EPS, weight_eps_under_root=True)),
    ],
)
def test_numerics_are_the_packages_in_float64(changes: dict[str, Any], numerics: Numerics) -> None:
    assert difference(changes, numerics)[0] < 1e-12


@pytest.mark.parametrize(
    ("changes", "numerics"),
    [
        ({"activation": "gelu"}, Numerics()),
        ({"norm_eps": 1e-2}, Numerics()),
        ({"pool": "gap", "class_token": True}, Numerics()),
        (_STEM, replace(_LARGE_EPS, group_norm_eps=1e-6)),
        (_STEM, replace(_LARGE_EPS, weight_eps=1e-5)),
        (_TIMM_STEM, _LARGE_EPS),
    ],
)
def test_other_numerics_are_another_function(changes: dict[str, Any], numerics: Numerics) -> None:
    assert difference(changes, numerics)[0] > 1e-5


@pytest.mark.parametrize("representation_size", [None, 7])
def test_without_a_head_there_are_no_logits(representation_size: int | None) -> None:
    changes = {"num_classes": 0, "representation_size": representation_size}
    delta, out = difference(changes, Numerics())
    assert delta < 1e-12
    assert "logits" not in out


def test_gelu_is_the_normal_distributions() -> None:
    """Through a model whose blocks do nothing else: torch's own erf says what is right."""
    x = np.linspace(-4, 4, 9)
    exact = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    tanh = torch.nn.functional.gelu(torch.from_numpy(x), approximate="tanh").numpy()
    assert 1e-4 < np.abs(exact - tanh).max() < 1e-3
    block = "Transformer/encoderblock_0/"
    arrays = {
        "embedding/kernel": np.zeros((1, 1, 1, 1)),
        "embedding/bias": np.zeros(1),
        "Transformer/posembed_input/pos_embedding": np.zeros((1, 1, 1)),
        "Transformer/encoder_norm/scale": np.ones(1),
        "Transformer/encoder_norm/bias": np.zeros(1),
        block + "MlpBlock_3/Dense_0/kernel": np.zeros((1, 1)),
        block + "MlpBlock_3/Dense_1/kernel": np.ones((1, 1)),
        block + "MlpBlock_3/Dense_1/bias": np.zeros(1),
    }
    for norm in ("LayerNorm_0", "LayerNorm_2"):
        arrays |= {f"{block}{norm}/scale": np.ones(1), f"{block}{norm}/bias": np.zeros(1)}
    attention = block + "MultiHeadDotProductAttention_1/"
    for part in ("query", "key", "value", "out"):
        arrays |= {attention + part + "/kernel": np.zeros((1, 1, 1))}
        arrays |= {attention + part + "/bias": np.zeros((1, 1) if part != "out" else 1)}
    for activation, expected in (("gelu", exact), ("gelu_tanh", tanh)):
        for value, wanted in zip(x, expected, strict=True):
            arrays[block + "MlpBlock_3/Dense_0/bias"] = np.array([value])
            out = forward(arrays, np.zeros((1, 1, 1, 1)), Numerics(activation))
            assert out["block_outputs"].item() == pytest.approx(wanted, abs=1e-15)
