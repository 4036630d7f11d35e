"""Time of the augmentation of a picture on one core, in milliseconds of its processor time.

    python benchmarks/augmentation.py [--size 224]

Each operation at a typical strength, and each policy on average over its draws; pictures are
scikit-learn's two sample photographs. The least of several repetitions is told.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from vit_lightning.data.draws import sample_generator
from vit_lightning.data.mixing import Mixing
from vit_lightning.data.operations import RANDAUGMENT, TRIVIALAUGMENT, Drawn
from vit_lightning.data.policies import (
    ColorJitter,
    Policy,
    RandAugment,
    TrivialAugment,
    erase,
    erased_box,
)

_LAWS = {
    "original": (RANDAUGMENT["original"], 1.5),
    "increasing": (RANDAUGMENT["increasing"], 0.9),
    "trivial": (TRIVIALAUGMENT, 15.0),
}
_POLICIES: dict[str, Policy] = {
    "RandAugment, original, 15": RandAugment(2, 15.0, 0.0, "original"),
    "RandAugment, increasing, 9 ± 0.5": RandAugment(2, 9.0, 0.5, "increasing"),
    "TrivialAugment": TrivialAugment(),
    "colour jitter 0.4": ColorJitter(0.4),
}


def milliseconds(work: Callable[[int, np.random.Generator], object], count: int) -> float:
    """Of a call, averaged over ``count`` samples; the least of five rounds."""
    generators = [[sample_generator(0, 0, index) for index in range(count)] for _ in range(5)]
    seconds = []
    for round_ in generators:
        start = time.process_time()
        for index, generator in enumerate(round_):
            work(index, generator)
        seconds.append(time.process_time() - start)
    return min(seconds) / count * 1000


def _changed(picture: Image.Image, changes: Sequence[Drawn]) -> Image.Image:
    for change in changes:
        picture = change(picture)
    return picture


def _erased(pixels: NDArray[np.uint8], generator: np.random.Generator) -> None:
    box = erased_box(*pixels.shape[:2], 0.25, generator)
    if box is not None:
        erase(pixels, box, generator)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    size = parser.parse_args().size
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    pictures = [photograph.resize((size, size)) for photograph in photographs]
    for name, (law, level) in _LAWS.items():
        print(f"{name}:")
        for operation in law.operations:
            spent = milliseconds(
                lambda i, g: operation.drawn(law.canvas, level, g)(pictures[i % 2]),  # noqa: B023
                count=20,
            )
            print(f"  {operation.name:34s}{spent:7.3f} ms")
    print("on average:")
    pixels, mixing = np.array(pictures[0]), Mixing(0.8, 1.0, 1.0)
    work: dict[str, Callable[[int, np.random.Generator], object]] = {
        name: lambda i, g, policy=policy: _changed(pictures[i % 2], policy(g))  # type: ignore[misc]
        for name, policy in _POLICIES.items()
    }
    work["random erasing 0.25"] = lambda _, g: _erased(pixels, g)
    work["a draw of mixing"] = lambda _, g: mixing.draw(g, (size, size))
    for name, call in work.items():
        print(f"  {name:34s}{milliseconds(call, count=400):7.3f} ms")


if __name__ == "__main__":
    main()
