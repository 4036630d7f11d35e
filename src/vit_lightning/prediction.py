"""Classes for pictures, with the names the model was trained on."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vit_lightning.attention_view import draw_attention
from vit_lightning.backend import PICTURES_WORTH_PACKING, choose_backend, with_backend
from vit_lightning.data.pictures import EXTENSIONS, PictureError, open_picture
from vit_lightning.data.transforms import Mode, Preprocessing
from vit_lightning.errors import InputError
from vit_lightning.evaluation.report import refuse_zero_head
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.figures import save_figure
from vit_lightning.files import atomic_write
from vit_lightning.precision import exact_convolutions

_BATCH = 16
_MOST_DRAWN = 32  # pictures of one attention figure


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture.

    Args:
        path: the picture.
        classes: the most probable classes, most probable first.
        probabilities: of these classes, in [0, 1]. The softmax of the model's outputs, whose sum
            over all classes is 1; for a model of any number of classes the sigmoid of each.
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict(
    model: ModelBundle | str | Path,
    paths: Sequence[str | Path],
    top: int = 5,
    *,
    bfloat16: bool = False,
    on_unreadable: Callable[[PictureError], None] | None = None,
) -> list[Prediction]:
    """The most probable classes of pictures.

    Args:
        model: a model file, or what :func:`vit_lightning.load_bundle` returned.
        paths: picture files, and folders whose pictures are taken, sub-folders included.
        top: how many classes to name.
        bfloat16: compute in mixed bfloat16 instead of float32.
        on_unreadable: called for each picture that cannot be read, which is then left out. By
            default the first one raises.

    Returns:
        One prediction for each picture that could be read, in order.

    Raises:
        InputError: the model or a picture cannot be used, or there is no picture.
    """
    is_lent = isinstance(model, ModelBundle)
    bundle = model if isinstance(model, ModelBundle) else load_bundle(model)
    refuse_zero_head(bundle.model)
    files = find_pictures(paths)
    names = class_names(bundle)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = bundle.model.to(device).eval()
    if len(files) >= PICTURES_WORTH_PACKING:
        dtype = torch.bfloat16 if bfloat16 else torch.float32
        config, on_cpu = network.config, device == "cpu"
        backend = choose_backend("auto", "inference", config, on_cpu=on_cpu, dtype=dtype)
        network = with_backend(network, backend, dtype=dtype, in_place=not is_lent)
    predictions = []
    autocast = torch.autocast(device, torch.bfloat16, enabled=bfloat16)
    for batch, images in _batches(files, preprocessing_of(bundle), on_unreadable):
        with torch.inference_mode(), exact_convolutions(), autocast:
            logits = network(images.to(device)).float()
        probabilities = (logits.sigmoid() if bundle.multi_label else logits.softmax(dim=1)).cpu()
        best = probabilities.topk(min(top, len(names)), dim=1)
        for path, values, indices in zip(batch, *(part.tolist() for part in best), strict=True):
            chosen = tuple(names[index] for index in indices)
            predictions.append(Prediction(path, chosen, tuple(values)))
    return predictions


def attend(model: ModelBundle | str | Path, paths: Sequence[str | Path], target: Path) -> None:
    """Draw where a model looks: each picture above its attention rollout.

    Args:
        model: a model file, or what :func:`vit_lightning.load_bundle` returned.
        paths: picture files or folders of them.
        target: the PNG to write.

    Raises:
        InputError: the model or a picture cannot be used, or there is no picture.
    """
    bundle = model if isinstance(model, ModelBundle) else load_bundle(model)
    files = find_pictures(paths)
    if len(files) > _MOST_DRAWN:
        raise InputError(
            f"{len(files)} pictures are too many for one figure; give at most {_MOST_DRAWN}"
        )
    captioned = ((open_picture(path), path.name) for path in files)
    save_figure(draw_attention(bundle.model, preprocessing_of(bundle), captioned), target)


def write_predictions(predictions: Sequence[Prediction], target: Path) -> None:
    """Write predictions as CSV: picture, then class and probability by rank."""
    count = max(len(prediction.classes) for prediction in predictions)
    header = ["picture"]
    for rank in range(1, count + 1):
        header += [f"class_{rank}", f"probability_{rank}"]
    with (
        atomic_write(target) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        for prediction in predictions:
            row: list[str] = [str(prediction.path)]
            for name, value in zip(prediction.classes, prediction.probabilities, strict=True):
                row += [name, f"{value:.6g}"]
            writer.writerow(row)


def find_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """Picture files as given, and those below given folders, sorted.

    Raises:
        InputError: a path does not exist, or a folder holds no picture.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise InputError(f"{path}: no such picture")
            found.append(path)
            continue
        below = sorted(
            item
            for item in path.rglob("*")
            if item.suffix.lower() in EXTENSIONS
            and not item.is_dir()
            and not any(part.startswith(".") for part in item.relative_to(path).parts)
        )
        if not below:
            raise InputError(
                f"{path}: no pictures in this folder ({', '.join(sorted(EXTENSIONS))})"
            )
        found += below
    if not found:
        raise InputError("no pictures given")
    return found


def class_names(bundle: ModelBundle) -> tuple[str, ...]:
    """The model's class names, or numbers where the file has none."""
    if bundle.classes is not None:
        return bundle.classes
    return tuple(f"class {index}" for index in range(bundle.model.config.num_classes))


def preprocessing_of(bundle: ModelBundle, mode: Mode | None = None) -> Preprocessing:
    """The preprocessing that travels with the weights, else that of ``mode``, else the paper's.

    Size and channels are the model's, which need not be those that the weights were saved with.

    Raises:
        InputError: what the weights' file says of its preprocessing cannot be.
    """
    config = bundle.model.config
    values = bundle.preprocessing
    if values is None:
        values = {"mode": mode or "paper"}
    try:
        return Preprocessing.from_dict(
            values | {"image_size": config.image_size, "in_channels": config.in_channels}
        )
    except InputError as error:
        raise InputError(f"{bundle.source}: {error}") from None


def _batches(
    files: Sequence[Path],
    preprocessing: Preprocessing,
    on_unreadable: Callable[[PictureError], None] | None,
) -> Iterator[tuple[list[Path], Tensor]]:
    for start in range(0, len(files), _BATCH):
        batch, images = list[Path](), list[Tensor]()
        for path in files[start : start + _BATCH]:
            try:
                picture = open_picture(path)
            except PictureError as error:
                if on_unreadable is None:
                    raise
                on_unreadable(error)
                continue
            batch.append(path)
            images.append(preprocessing(picture))
        if batch:
            yield batch, torch.stack(images)
