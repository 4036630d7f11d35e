"""Put the weights of a finished pretraining into the package.

    python scripts/ship_weights.py NAME RUN EXPERIMENT.json [EXPERIMENT.json ...]
        [part.name=value ...] [--image-size 64]

RUN is the folder of the last run, EXPERIMENT the recipes of all, in their order. Writes the run's
best weights in 16 bits to ``src/vit_lightning/shipped/NAME.safetensors``, for pictures of the size
given, with the recipes, and with what is measured of that file on the pictures of the last recipe
(with the settings on the command line, such as ``data.root=elsewhere``).
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vit_lightning.assess import evaluate
from vit_lightning.checkpoints import shipped
from vit_lightning.convert import convert_model
from vit_lightning.data.class_names import named
from vit_lightning.errors import InputError
from vit_lightning.evaluation.metrics import Metrics
from vit_lightning.experiment import Experiment, load_experiment
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.json_file import read_json

LICENCE = (
    "Apache-2.0. Trained on pictures of Tiny ImageNet, a part of ImageNet, which are for research "
    "and teaching and do not come with these weights."
)


def write(bundle: ModelBundle, target: Path) -> None:
    """In 16 bits, in the place of what was there."""
    target.unlink(missing_ok=True)
    print(convert_model(bundle, target, "safetensors", half=True))


def measure(bundle: ModelBundle, experiment: Experiment) -> dict[str, Any]:
    """The figures of what is to be shipped, as ``vit eval`` has them."""
    with TemporaryDirectory() as folder:
        target = Path(folder) / "weights.safetensors"
        write(bundle, target)
        experiment = experiment.model_copy(update={"runs_dir": folder})
        metrics = evaluate(experiment, target, "val").metrics
    assert isinstance(metrics, Metrics)
    kept = ("num_images", "top1", "top1_interval", "top5", "loss")
    values = asdict(metrics)
    return {name: values[name] for name in kept}


def main() -> None:
    """Write the file and tell what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("run", type=Path)
    parser.add_argument("experiments", type=Path, nargs="+", metavar="EXPERIMENT")
    parser.add_argument("--image-size", type=int)
    options, overrides = parser.parse_known_args()
    last = load_experiment(options.experiments[-1], overrides)
    bundle = load_bundle(options.run / "best.ckpt", options.image_size)
    if bundle.classes is None or last.data.class_names is None:
        raise InputError("the classes need names: of the run, and by data.class_names")
    bundle = replace(bundle, classes=named(bundle.classes, Path(last.data.class_names)))
    origin = {
        "recipe": [read_json(path) for path in options.experiments],
        "figures": {
            "at_the_end_of_training": read_json(options.run / "result.json")["final"],
            "as_shipped": measure(bundle, last),
        },
        "licence": LICENCE,
    }
    folder = Path(shipped.__file__).parents[1] / "shipped"
    folder.mkdir(exist_ok=True)
    target = folder / f"{options.name}.safetensors"
    write(replace(bundle, origin=origin), target)
    print(f"{target.stat().st_size:,} bytes, {origin['figures']}")


if __name__ == "__main__":
    main()
