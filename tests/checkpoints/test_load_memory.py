"""Loading needs little more memory than the weights.

Measured at a sixth of ViT-H_14, where what does not grow with the model weighs more against the
bound; benchmarks/load_memory.py measures the real one.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from vit_lightning.factory import save_model
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer

# 101 million parameters in tensors of the sizes of ViT-L.
CONFIG = ViTConfig(embed_dim=1024, depth=8, num_heads=16, mlp_dim=4096, num_classes=0)

_LOAD = """
import sys
from pathlib import Path
from vit_lightning.factory import load_model

def memory(field):
    status = Path("/proc/self/status").read_text()
    return int(status.split(field + ":")[1].split()[0]) * 1024

before = memory("VmRSS")
model = load_model(sys.argv[1])
# Every number is read once, so that memory merely promised counts too.
assert all(p.sum() == p.numel() for p in model.parameters())
print(sum(p.nbytes for p in model.parameters()), memory("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    """All ones: random numbers would take longer than the test."""
    with torch.device("meta"):
        model = VisionTransformer(CONFIG)
    model = model.to_empty(device="cpu").requires_grad_(False)
    for parameter in model.parameters():
        parameter.fill_(1.0)
    return model


def _save(model: VisionTransformer, path: Path) -> None:
    if path.suffix != ".ckpt":
        save_model(model, path)
        return
    weights = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    description = {"config": model.config.to_dict(), "classes": None, "preprocessing": None}
    torch.save({"vit_lightning": description, "state_dict": weights}, path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc/self/status")
@pytest.mark.parametrize("suffix", [".npz", ".ckpt"])
def test_loading_needs_little_more_than_the_weights(suffix: str, model: VisionTransformer) -> None:
    # A folder of its own: pytest would keep these hundreds of megabytes for three runs.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"weights{suffix}"
        _save(model, path)
        result = subprocess.run(
            [sys.executable, "-c", _LOAD, str(path)], check=True, capture_output=True, text=True
        )
    weights, peak = map(int, result.stdout.split())
    assert weights == sum(p.nbytes for p in model.parameters()) > 100e6 * 4
    assert weights <= peak <= 1.2 * weights
