"""Writes timm's model as an ONNX program for ``models.py``, as torch exports it.

Argument: the folder in which the weights lie for timm, and to write in.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from model_side import CONFIG, WEIGHTS, timm_model
from torchvision_import import declare_operators

from vit_lightning.export import PICTURES
from vit_lightning.models.config import ViTConfig


def main() -> None:
    """Export."""
    folder = Path(sys.argv[1])
    declared = declare_operators()
    model = timm_model(argparse.Namespace(), folder / WEIGHTS["timm"]).eval()
    config = ViTConfig.from_dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    program = torch.onnx.export(
        model,
        (torch.rand(2, config.in_channels, *config.image_size),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
        input_names=[PICTURES],
        verbose=False,
    )
    assert program is not None
    program.save(folder / WEIGHTS["timm, onnxruntime"])
    del declared


if __name__ == "__main__":
    main()
