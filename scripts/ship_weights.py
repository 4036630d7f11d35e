"""Put the weights of a finished pretraining into the package.

    python scripts/ship_weights.py tiny-imagenet RUN [RUN ...]

RUN are the folders of the runs in their order, each from the weights of the one before. Writes the
best weights of the last, in 16 bits, to ``src/vit_lightning/shipped/NAME.safetensors``, with what
they were made by: the experiment of each run, and what the last one measured.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from vit_lightning.checkpoints import shipped
from vit_lightning.convert import convert_model
from vit_lightning.factory import load_bundle
from vit_lightning.json_file import read_json

LICENCE = (
    "Apache-2.0. Trained on pictures of Tiny ImageNet, a part of ImageNet, which are for research "
    "and teaching and are not in these weights' package."
)
_OF_THIS_MACHINE = ("runs_dir", "checkpoint_dir")


def recipe(run: Path) -> dict[str, Any]:
    """The experiment of a run, without where it lay."""
    values = read_json(run / "experiment.json")
    values["data"] |= {"root": Path(values["data"]["root"]).name, "cache": None}
    return {name: value for name, value in values.items() if name not in _OF_THIS_MACHINE}


def main() -> None:
    """Write the file and tell what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    options = parser.parse_args()
    last = options.runs[-1]
    bundle = load_bundle(last / "best.ckpt")
    origin = {
        "recipe": [recipe(run) for run in options.runs],
        "figures": read_json(last / "result.json"),
        "licence": LICENCE,
    }
    folder = Path(shipped.__file__).parents[1] / "shipped"
    folder.mkdir(exist_ok=True)
    target = folder / f"{options.name}.safetensors"
    target.unlink(missing_ok=True)
    print(convert_model(replace(bundle, origin=origin), target, "safetensors", half=True))
    print(f"{target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
