"""The oracle against the reference, then the package against the oracle at real size."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from oracle import forward
from vit_lightning.checkpoints.npz import write_npz
from vit_lightning.factory import load_model

REFERENCE = Path(__file__).parent / "reference"

# What has a reference of its own but is not a stop on the oracle's way.
_NOT_COMPUTED = {"image_uint8", "input", "attention_probs", "pre_logits_before_tanh"}


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("vit_token_small", 1e-5),
        ("vit_prelogits_small", 1e-5),
        ("vit_gap_small", 1e-5),
        ("vit_nonsquare_small", 1e-5),
        ("vit_token_unpooled_small", 1e-5),
        ("hybrid_no_stage", 1e-5),
        ("hybrid_small", 1e-4),
    ],
)
def test_oracle_computes_the_reference(name: str, bound: float) -> None:
    with np.load(REFERENCE / f"{name}.npz") as file:
        weights = dict(file)
    with np.load(REFERENCE / f"{name}.io.npz") as file:
        expected = dict(file)
    out = forward(weights, expected["input"], unpooled="unpooled" in name)
    assert set(out) == set(expected) - _NOT_COMPUTED
    np.testing.assert_allclose(out["logits"], expected["logits"], rtol=0, atol=bound)
    for key, value in out.items():  # inner values are larger than logits
        scale = np.abs(expected[key]).max()
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=bound * scale, err_msg=key)


def random_weights(model: str, seed: int) -> dict[str, np.ndarray]:
    """Weights of the official shapes under which every layer matters."""
    table = json.loads((REFERENCE / "official_param_shapes.json").read_text())
    rng = np.random.default_rng(seed)
    weights = {}
    for key, shape in table["models"][model]["shapes"].items():
        array = rng.standard_normal(shape, dtype=np.float32)
        if key.endswith("scale"):
            array = 1 + 0.2 * array
        elif key.endswith("kernel"):
            inputs = np.prod(shape[:2]) if key.endswith("out/kernel") else shape[0]
            array *= (inputs if len(shape) != 4 else np.prod(shape[:3])) ** -0.5
        else:
            array *= 0.2
        weights[key] = array
    return weights


@pytest.mark.parametrize(("model", "bound"), [("ViT-B_16", 2e-5), ("R50+ViT-B_16", 3e-4)])
def test_package_computes_the_oracle_at_real_size(model: str, bound: float) -> None:
    weights = random_weights(model, seed=1)
    picture = np.random.default_rng(2).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
    expected = forward(weights, picture, unpooled=False)["logits"]
    assert 0.5 < expected.std() < 5  # of the size of real logits, or the bound says nothing
    # A folder of its own: pytest would keep these hundreds of megabytes for three runs.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.npz"
        write_npz(path, weights.items())
        network = load_model(path)
    with torch.inference_mode():
        logits = network(torch.from_numpy(picture).permute(0, 3, 1, 2)).numpy()
    assert np.abs(logits - expected).max() <= bound
