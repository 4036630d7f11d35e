"""What torchvision needs before it can be imported beside a torch for the CPU."""

import importlib.util
from pathlib import Path

import torch


def declare_operators() -> "object | None":
    """Declare what torchvision's own library would, which beside a torch for the CPU stays shut.

    Nothing that is measured here calls one of these operators.

    Returns:
        What has to be kept as long as torchvision is used.
    """
    found = importlib.util.find_spec("torchvision")
    for folder in (found.submodule_search_locations or ()) if found else ():
        for library in Path(folder).glob("_C.*"):
            try:
                torch.ops.load_library(library)
            except OSError:
                continue
    missing = [name for name in ("nms", "qnms") if not hasattr(torch.ops.torchvision, name)]
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        declared.define(schema)  # type: ignore[no-untyped-call]
    return declared
