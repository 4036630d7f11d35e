"""Training views by torchvision's usual pipeline, on demand: the peer of ``pictures.py``.

Asked with paths of pictures, it answers with the seconds that their views took. Runs where
torchvision is, and needs nothing else.
"""

import time
from importlib.metadata import version
from typing import Any

import torch
from torchvision_import import declare_operators
from turns import answer


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
