"""Training views by torchvision's usual pipeline, on demand: the peer of ``pictures.py``.

Reads lines of JSON, each a list of paths of pictures; answers each with the seconds that their
views took. The first line it writes is its versions. Runs where torchvision is, and needs nothing
else.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path

import torch


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


def main() -> None:
    """Answer until the input ends."""
    declared = declare_operators()
    import PIL
    import torchvision
    from torchvision import transforms
    from torchvision.datasets.folder import default_loader  # what ImageFolder reads with

    torch.set_num_threads(1)
    torch.manual_seed(0)
    half = (0.5, 0.5, 0.5)
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(half, half),
        ]
    )
    versions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
    }
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        for path in json.loads(line):
            view(default_loader(path))
        spent = {
            "wall": time.perf_counter() - wall,
            "processor": time.process_time() - processor,
        }
        print(json.dumps(spent), flush=True)
    del declared


if __name__ == "__main__":
    main()
