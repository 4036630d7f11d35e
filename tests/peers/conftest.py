"""Tests beside timm, torchvision and transformers, by `make test-peers` in its environment.

Where one of these libraries is missing, as in the environment of the other tests, nothing here is
collected.
"""

import importlib.util
from pathlib import Path

_MISSING = [
    name
    for name in ("timm", "torchvision", "transformers")
    if importlib.util.find_spec(name) is None
]
collect_ignore_glob = ["test_*.py"] if _MISSING else []


def _declare_operators() -> "object | None":
    """Declare the operators that torchvision's own library would define, if it does not load.

    torchvision from PyPI is built for CUDA. Beside a torch for the CPU its library is passed over
    in silence, and its Python code fails at the first operator that nobody has declared. Nothing
    that is tested here calls one.
    """
    import torch

    found = importlib.util.find_spec("torchvision")
    for folder in (found.submodule_search_locations or ()) if found else ():
        for library in Path(folder).glob("_C.*"):
            try:
                torch.ops.load_library(library)
            except OSError:
                continue
    missing = [name for name in ("nms", "qnms") if not hasattr(torch.ops.torchvision, name)]
    if not missing:
        return None
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return declared


# Declarations last as long as the object.
_DECLARED = None if _MISSING else _declare_operators()
