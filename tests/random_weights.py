"""Random weights of real size under which every layer matters."""

import json
from pathlib import Path

import numpy as np
import torch

_SHAPES = Path(__file__).parent / "reference" / "official_param_shapes.json"


def google_arrays(model: str, seed: int) -> dict[str, np.ndarray]:
    """Arrays of a published model, in Google's layout."""
    table = json.loads(_SHAPES.read_text())
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


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int) -> None:
    """The same for a module of any library, in place: matrices, norms and all other vectors."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim in (2, 4):
            values *= parameter[0].numel() ** -0.5
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.2 * values
        else:
            values *= 0.2
        parameter.copy_(values)
