"""Training views by torchvision's usual pipeline, on demand: the peer of ``pictures.py``.

Asked with paths of pictures, it answers with the seconds that their views took. Runs where
torchvision is, and needs nothing else.
"""

import importlib.util
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from turns import answer


def declare_operators() -> "object | None":
    """Declare what torchvision's own library would, which beside a torch for the CPU stays shut.

    Nothing that is measured here calls one of these operators.
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
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return declared


def usual_view() -> Any:
    """Random crops of 224 px, mirrored half of the time, normalised; torchvision is imported."""
    from torchvision import transforms

    half = (0.5, 0.5, 0.5)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(half, half),
        ]
    )


def versions() -> dict[str, str]:
    """Of what the peer consists of."""
    return {name: version(name) for name in ("torch", "torchvision", "pillow")}


def main() -> None:
    """Answer until the input ends."""
    declared = declare_operators()
    from torchvision.datasets.folder import default_loader  # what ImageFolder reads with

    torch.set_num_threads(1)
    torch.manual_seed(0)
    view = usual_view()

    def seconds(paths: list[str]) -> dict[str, float]:
        wall, processor = time.perf_counter(), time.process_time()
        for path in paths:
            view(default_loader(path))
        return {
            "wall": time.perf_counter() - wall,
            "processor": time.process_time() - processor,
        }

    answer(versions(), seconds)
    del declared


if __name__ == "__main__":
    main()
