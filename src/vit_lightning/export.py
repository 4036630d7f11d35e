"""A model written as an ONNX program, which other engines run without this package and torch."""

import importlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vit_lightning.checkpoints.native import describe_as
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.errors import InputError
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.files import refuse_unwritable
from vit_lightning.inference import InferenceModel
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.prediction import class_names, preprocessing_of

PICTURES = "pictures"
"""The program's input, (batch, channels, height, width) in float32, normalised."""

OUTPUTS = "outputs"
"""Its output, as the model's: logits (batch, classes), or features where there is no head."""

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
    ``multi_label``, ``config``, ``origin``; null what there is not.

    Args:
        model: a model file, or what :func:`vit_lightning.load_bundle` returned.
        path: the ``.onnx`` to write, which must not be there.

    Raises:
        InputError: the packages of the extra ``onnx`` are not installed; ``path`` is there or
            cannot be written; the model cannot be used, or gives zeros alone; torch cannot export
            it, or ONNX Runtime computes something else.
    """
    path = Path(path)
    check_before_export(path)
    bundle = model if isinstance(model, ModelBundle) else load_bundle(model)
    if isinstance(bundle.model, InferenceModel):
        raise InputError("a snapshot for inference cannot be exported; take the model itself")
    view = _view(bundle)
    metadata = _metadata(bundle, view)
    with _evaluated(bundle.model) as network, _written(path) as temporary:
        program = _program(network)
        program.model.metadata_props.update(metadata)
        beside = sum(weight.nbytes for weight in network.state_dict().values()) > _MOST_IN_ONE
        program.save(temporary, external_data=beside)
        engine, difference = _compared(network, temporary)
        gives = " × ".join(str(size) for size in program.model.graph.outputs[0].shape)
        megabytes = sum(file.stat().st_size for file in temporary.parent.iterdir()) / 1e6
    takes = f"{PICTURES}: batch × {' × '.join(map(str, _shape(network)))}, float32"
    takes += "" if view is None else f"; {view}"
    return Export(path, megabytes, takes, f"{OUTPUTS}: {gives}", engine, difference)


def check_before_export(path: Path) -> None:
    """Refuse what can be known before a model is read.

    Raises:
        InputError: the packages of the extra ``onnx`` cannot be had; ``path`` is there, cannot be
            written or has another suffix.
    """
    if path.suffix != ".onnx":
        raise InputError(f"{path}: the name of an exported model must end in .onnx")
    _refuse_to_overwrite(path)
    refuse_unwritable(path)
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise InputError(
            f"exporting needs {', '.join(_PACKAGES)}, and {', '.join(missing)} cannot be found; "
            f"use: pip install 'vit-lightning[onnx]'"
        )


def _refuse_to_overwrite(path: Path) -> None:
    for there in (path, _data(path)):
        if there.exists():
            raise InputError(f"{there} is already there; remove it, or name another")


def _data(path: Path) -> Path:
    """Where the weights lie that a program has no room for."""
    return path.with_name(f"{path.name}.data")


@contextmanager
def _evaluated(model: VisionTransformer) -> Iterator[VisionTransformer]:
    """The model in eval mode, and each part of it in its own again afterwards."""
    modes = [(part, part.training) for part in model.modules()]
    try:
        yield model.eval()
    finally:
        for part, training in modes:
            part.training = training


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
        _refuse_to_overwrite(path)  # half a minute has passed
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


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Keep to themselves what torch's exporter warns of, and its own account of a failure.

    Such as deprecations inside it, or that torchvision is not there.
    """
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _program(network: VisionTransformer) -> Any:
    """What torch's exporter makes of the model, for any number of pictures."""
    with _without_remarks(), torch.no_grad():
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
            raise InputError(
                f"torch {torch.__version__} cannot export the model: {reason}"
            ) from error


def _view(bundle: ModelBundle) -> Preprocessing | None:
    """How a picture becomes the model's input; None where it takes no pictures from files."""
    return preprocessing_of(bundle) if bundle.model.config.in_channels in (1, 3) else None


def _metadata(bundle: ModelBundle, view: Preprocessing | None) -> dict[str, str]:
    """All that travels with the model; names and preprocessing also where they are implied."""
    config = bundle.model.config
    names = class_names(bundle) if config.num_classes else None
    seen = None if view is None else view.to_dict()
    described = describe_as(config, names, seen, bundle.origin, multi_label=bundle.multi_label)
    return {key: json.dumps(value) for key, value in described.items()}


def _compared(network: VisionTransformer, path: Path) -> tuple[str, float]:
    """Who computed the program, and how far its outputs lie from the model's.

    Raises:
        InputError: it computes something else or nothing, or the model gives nothing to compare.
    """
    onnxruntime = importlib.import_module("onnxruntime")
    engine = f"ONNX Runtime {onnxruntime.__version__}"
    batches = [_pictures(network, count) for count in _BATCHES]
    with torch.inference_mode():
        ours = np.concatenate([network(batch).float().cpu().numpy() for batch in batches])
    if not np.isfinite(ours).all() or not ours.any():
        raise InputError(
            "the model gives zeros for every picture, as before its training, or what is no "
            "number, as after one that diverged: train it, or take an earlier checkpoint"
        )
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = [session.run([OUTPUTS], {PICTURES: batch.cpu().numpy()})[0] for batch in batches]
    except Exception as error:  # it has a dozen kinds, with no base of their own
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{engine} cannot run what torch {torch.__version__} exports, and nothing was written; "
            f"take another version of either. It said: {reason}"
        ) from error
    largest = float(np.abs(ours).max())
    difference = float(np.abs(np.concatenate(found) - ours).max())
    if not difference <= _BOUND * largest:  # also where it is no number
        raise InputError(
            f"{engine} computes something else: outputs of random pictures differ by "
            f"{difference:.1e}, the largest is {largest:.1e}; nothing was written"
        )
    return engine, difference / largest
