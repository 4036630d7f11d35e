"""A model written as an ONNX program, which other engines run without this package and torch."""

import importlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vit_lightning.checkpoints.native import describe_as
from vit_lightning.errors import InputError
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.files import refuse_unwritable
from vit_lightning.inference import InferenceModel
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.prediction import class_names, preprocessing_of

PICTURES = "pictures"
"""The program's input, (batch, channels, height, width) in float32, normalised."""

OUTPUTS = "outputs"
"""Its output: logits (batch, classes), or features of a model without a head."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # those of the extra
_MOST_IN_ONE = 1_900_000_000  # bytes; a file in this format must stay below 2 GiB
_BOUND = 1e-4  # of the largest output; in float32 it is a hundredth of this
_SEED, _BATCHES = 0, (1, 3)  # another than the two pictures that it is exported with


@dataclass(frozen=True)
class Export:
    """What was written.

    Args:
        path: the program; the weights of the largest models lie beside it, in a ``.data``.
        megabytes: of all of it.
        takes: what goes in.
        gives: what comes out.
        engine: who computed it for comparison.
        difference: the most by which an output of random pictures differed from the model's, as a
            share of the largest output.
    """

    path: Path
    megabytes: float
    takes: str
    gives: str
    engine: str
    difference: float

    def __str__(self) -> str:
        return (
            f"{self.path}, {self.megabytes:.1f} MB\n"
            f"takes {self.takes}\n"
            f"gives {self.gives}\n"
            f"checked: {self.engine} computes what the model does, within {self.difference:.0e} "
            f"of the largest output"
        )


def export_onnx(model: ModelBundle | str | Path, path: str | Path) -> Export:
    """Write a model as an ONNX program, and compare what ONNX Runtime makes of it.

    Input ``pictures`` and output ``outputs`` are float32, of any number of pictures. The program's
    metadata has all that is needed to use it, as JSON: ``classes``, ``preprocessing``,
    ``multi_label``, ``config``, ``origin``.

    Args:
        model: a model file, or what :func:`vit_lightning.load_bundle` returned.
        path: the ``.onnx`` to write, which must not be there.

    Raises:
        InputError: the packages of the extra ``onnx`` are not installed; the model cannot be used,
            or its outputs are zeros; torch cannot export it, or ONNX Runtime computes something
            else; ``path`` is there or cannot be written.
    """
    path = Path(path)
    _check_path(path)
    _require_packages()
    bundle = model if isinstance(model, ModelBundle) else load_bundle(model)
    if isinstance(bundle.model, InferenceModel):
        raise InputError("a snapshot for inference cannot be exported; take the model itself")
    with _evaluated(bundle.model) as network, _written(path) as temporary:
        program = _program(network)
        program.model.metadata_props.update(_metadata(bundle))
        beside = sum(weight.nbytes for weight in network.state_dict().values()) > _MOST_IN_ONE
        program.save(temporary, external_data=beside)
        engine, difference = _compared(network, temporary)
        gives = " × ".join(str(size) for size in program.model.graph.outputs[0].shape)
        megabytes = sum(file.stat().st_size for file in temporary.parent.iterdir()) / 1e6
    view = preprocessing_of(bundle)
    takes = f"{PICTURES}: batch × {' × '.join(map(str, _shape(network)))}, float32; {view}"
    return Export(path, megabytes, takes, f"{OUTPUTS}: {gives}", engine, difference)


def _require_packages() -> None:
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise InputError(
            f"to export a model {' and '.join(missing)} must be installed; use: "
            f"pip install 'vit-lightning[onnx]'"
        )


def _check_path(path: Path) -> None:
    if path.suffix != ".onnx":
        raise InputError(f"{path}: the file is a .onnx; give it that suffix")
    for there in (path, _data(path)):
        if there.exists():
            raise InputError(f"{there} is already there; remove it, or name another")
    refuse_unwritable(path)


def _data(path: Path) -> Path:
    """Where the weights lie that a program has no room for."""
    return path.with_name(f"{path.name}.data")


@contextmanager
def _evaluated(model: VisionTransformer) -> Iterator[VisionTransformer]:
    """The model in eval mode, and in its own again afterwards."""
    training = model.training
    try:
        yield model.eval()
    finally:
        model.train(training)


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """Yield a file of the same name in a folder beside; what is in it is moved if all goes well.

    Under its own name, as a program knows the file of its weights by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent / f".{path.name}.{os.getpid()}.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        yield folder / path.name
        for file in (_data(path), path):  # a program that is there has its weights
            if (written := folder / file.name).exists():
                with written.open("rb") as handle:
                    os.fsync(handle.fileno())
                written.replace(file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _shape(network: VisionTransformer) -> tuple[int, int, int]:
    """Channels, height and width of a picture."""
    return network.config.in_channels, *network.config.image_size


def _pictures(network: VisionTransformer, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    pictures = torch.rand((count, *_shape(network)), generator=generator) * 2 - 1
    return pictures.to(network.pos_embed.device)


def _program(network: VisionTransformer) -> Any:
    """What torch's exporter makes of the model, for any number of pictures."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own deprecations
        try:
            return torch.onnx.export(
                network,
                (_pictures(network, 2),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1 << 20)},),
                input_names=[PICTURES],
                output_names=[OUTPUTS],
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            # Its own words are those to the exporter's developers.
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise InputError(f"torch {torch.__version__} cannot export it: {reason}") from error


def _metadata(bundle: ModelBundle) -> dict[str, str]:
    """All that travels with the model; names and preprocessing also where they are implied."""
    config = bundle.model.config
    names = class_names(bundle) if config.num_classes else None
    view = preprocessing_of(bundle).to_dict()
    described = describe_as(config, names, view, bundle.origin, multi_label=bundle.multi_label)
    return {key: json.dumps(value) for key, value in described.items()}


def _compared(network: VisionTransformer, path: Path) -> tuple[str, float]:
    """Who computed the program, and how far its outputs lie from the model's.

    Raises:
        InputError: it computes something else, or there is nothing to compare.
    """
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = difference = 0.0
    for count in _BATCHES:
        pictures = _pictures(network, count)
        with torch.inference_mode():
            expected = network(pictures).float().cpu().numpy()
        (found,) = session.run([OUTPUTS], {PICTURES: pictures.cpu().numpy()})
        largest = max(largest, float(abs(expected).max()))
        difference = max(difference, float(abs(found - expected).max()))
    if largest == 0.0:
        raise InputError(
            "the model gives zeros for every picture, as before its training: train it first"
        )
    engine = f"ONNX Runtime {onnxruntime.__version__}"
    if not difference <= _BOUND * largest:  # also where there is no number
        raise InputError(
            f"{engine} computes something else: outputs of random pictures differ by "
            f"{difference:.1e}, the largest is {largest:.1e}; nothing was written"
        )
    return engine, difference / largest
