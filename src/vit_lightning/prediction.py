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
from vit_lightning.memory import keep_freed_memory
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.precision import exact_convolutions
from vit_lightning.threads import in_threads

# Pictures that a thread looks at together. On a CPU more are hardly faster, and need memory.
_BATCH = {"cpu": 4, "cuda": 16}
_MOST_AT_ONCE = 16  # batches
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
    on_progress: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """The most probable classes of pictures.

    Args:
        model: a model file, or what :func:`vit_lightning.load_bundle` returned.
        paths: picture files, and folders whose pictures are taken, sub-folders included.
        top: how many classes to name.
        bfloat16: compute in mixed bfloat16 instead of float32.
        on_unreadable: called for each picture that cannot be read, which is then left out. By
            default the first one raises.
        on_progress: called again and again with the number of pictures that have been looked at
            since the last call.

    Returns:
        One prediction for each picture that could be read, in order.

    Raises:
        InputError: the model or a picture cannot be used, or there is no picture.
    """
    is_lent = isinstance(model, ModelBundle)
    bundle = model if isinstance(model, ModelBundle) else load_bundle(model)
    refuse_zero_head(bundle.model)
    files = find_pictures(paths)
    network = _network(bundle, len(files), bfloat16=bfloat16, in_place=not is_lent)
    look = _Look(
        network,
        preprocessing_of(bundle),
        class_names(bundle),
        top,
        multi_label=bundle.multi_label,
        bfloat16=bfloat16,
    )
    predictions = []
    size = _BATCH[network.pos_embed.device.type]
    batches = [files[start : start + size] for start in range(0, len(files), size)]
    with exact_convolutions():
        for seen in in_threads(look, batches, _MOST_AT_ONCE):
            for one in seen:
                if isinstance(one, Prediction):
                    predictions.append(one)
                elif on_unreadable is None:
                    raise one
                else:
                    on_unreadable(one)
            if on_progress is not None:
                on_progress(len(seen))
    return predictions


def _network(
    bundle: ModelBundle, pictures: int, *, bfloat16: bool, in_place: bool
) -> VisionTransformer:
    """The model where it computes, by what is fastest for so many pictures."""
    if torch.cuda.is_available():
        return bundle.model.to("cuda").eval()
    keep_freed_memory()
    network = bundle.model.to("cpu").eval()
    if pictures < PICTURES_WORTH_PACKING:
        return network
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    backend = choose_backend("auto", "inference", network.config, on_cpu=True, dtype=dtype)
    return with_backend(network, backend, dtype=dtype, in_place=in_place)


@dataclass(frozen=True)
class _Look:
    """A look at a few pictures, from their files to their classes; by several threads at once.

    Args:
        network: on its device.
        preprocessing: of a picture.
        names: of the classes.
        top: how many of them to name.
        multi_label: whether a picture has any number of classes.
        bfloat16: compute in mixed bfloat16.
    """

    network: VisionTransformer
    preprocessing: Preprocessing
    names: tuple[str, ...]
    top: int
    multi_label: bool
    bfloat16: bool

    def __call__(self, files: Sequence[Path]) -> list[Prediction | PictureError]:
        """What is said of each picture, or why it cannot be read."""
        opened = [self._opened(path) for path in files]
        images = [image for image in opened if isinstance(image, Tensor)]
        said = iter(self._said(torch.stack(images)) if images else ())
        return [
            Prediction(path, *next(said)) if isinstance(image, Tensor) else image
            for path, image in zip(files, opened, strict=True)
        ]

    def _opened(self, path: Path) -> Tensor | PictureError:
        try:
            return self.preprocessing(open_picture(path))
        except PictureError as error:
            return error

    def _said(self, images: Tensor) -> Iterator[tuple[tuple[str, ...], tuple[float, ...]]]:
        """Classes and probabilities of each picture (B, C, height, width)."""
        device = self.network.pos_embed.device
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16)
        with torch.inference_mode(), autocast:
            logits = self.network(images.to(device)).float()
            probabilities = logits.sigmoid() if self.multi_label else logits.softmax(dim=1)
            best = probabilities.topk(min(self.top, len(self.names)), dim=1)
        for values, indices in zip(*(part.tolist() for part in best), strict=True):
            yield tuple(self.names[index] for index in indices), tuple(values)


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
