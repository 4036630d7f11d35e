"""How fast pictures are read, transformed, copied and computed, and which of these limits."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vit_lightning.check.sources import NamedSplit, Source
from vit_lightning.data.pictures import Pictures
from vit_lightning.data.transforms import Augmentation, Preprocessing, TrainTransform
from vit_lightning.errors import InputError
from vit_lightning.experiment import Experiment

_MOST_PICTURES = 64
_SECONDS = 2.0  # of each measurement
_BATCH = 8
_TRAINING_COST = 3.0  # of a step in forward passes: the backward pass is about two
_DEFAULT_SIZE = 224


def measure_throughput(source: Source, workers: int) -> dict[str, Any] | None:
    """Images per second of each stage, and what to change; None if no picture can be read.

    Without an experiment there is no model: pictures alone are timed, at 224 px.

    Returns:
        ``read_per_core``, ``transform_per_core``, ``transfer`` (None without a GPU), ``forward``
        and ``training`` (estimated; both None without an experiment), ``workers``, ``bottleneck``
        (``pictures``, ``transfer``, ``model`` or None) and ``advice``.
    """
    pictures = _sample(max(source.splits, key=_size).pictures)
    if not pictures:
        return None
    rates: dict[str, Any] = {"workers": workers, "transfer": None, "forward": None}
    transform: Callable[[Image.Image], Tensor]
    if source.experiment is None:
        transform = Preprocessing("modern", (_DEFAULT_SIZE, _DEFAULT_SIZE))
    else:
        transform = _measure_model(source.experiment, source.splits[0].classes, rates)
    rates["read_per_core"] = _rate(_loader(source), 1)
    rates["transform_per_core"] = _rate(_each(pictures, transform), 1)
    rates["training"] = rates["forward"] and rates["forward"] / _TRAINING_COST
    rates["bottleneck"], rates["advice"] = _advice(rates, source.experiment)
    return {key: _rounded(value) for key, value in rates.items()}


def _size(split: NamedSplit) -> int:
    return len(split.pictures)


def _indices(pictures: Pictures) -> list[int]:
    spread = np.linspace(0, len(pictures) - 1, min(len(pictures), _MOST_PICTURES))
    return [int(index) for index in spread.round()]


def _sample(pictures: Pictures) -> list[Image.Image]:
    """Some of the pictures, spread over all; those that cannot be read are left out."""
    found = []
    for index in _indices(pictures):
        try:
            found.append(pictures.load(index))
        except InputError:
            continue
    return found


def _loader(source: Source) -> Callable[[], None]:
    pictures = max(source.splits, key=_size).pictures
    indices = _indices(pictures)
    position = 0

    def load() -> None:
        nonlocal position
        try:
            pictures.load(indices[position % len(indices)])
        except InputError:
            pass  # said elsewhere
        finally:
            position += 1

    return load


def _each(
    pictures: list[Image.Image], transform: Callable[[Image.Image], Tensor]
) -> Callable[[], None]:
    position = 0

    def step() -> None:
        nonlocal position
        transform(pictures[position % len(pictures)])
        position += 1

    return step


def _measure_model(
    experiment: Experiment, classes: tuple[str, ...], rates: dict[str, Any]
) -> Callable[[Image.Image], Tensor]:
    """Time an experiment's model; returns what is done to its training pictures."""
    from vit_lightning.assemble import model_for, preprocessing_for

    settings = experiment.model
    if settings.name is not None or settings.embed_dim is not None:
        # The values of the weights cost no time, and they may have to be fetched first.
        fresh = {"weights": None, "keep_head": False, "keep_pre_logits": False}
        settings = settings.model_copy(update=fresh)
    bundle = model_for(experiment.model_copy(update={"model": settings}), classes)
    preprocessing = preprocessing_for(experiment, bundle)
    device = _device(experiment)
    model = bundle.model.to(device).eval()
    batch = torch.zeros(_BATCH, preprocessing.in_channels, *preprocessing.image_size)
    if device != "cpu":
        rates["transfer"] = _rate(lambda: _synchronised(device, batch.to(device)), _BATCH)
    batch = batch.to(device)
    with torch.inference_mode():
        rates["forward"] = _rate(lambda: _synchronised(device, model(batch)), _BATCH)
    options = experiment.data.augmentation.model_dump()
    options["crop"] = options["crop"] or ("paper" if preprocessing.mode == "paper" else "modern")
    transform = TrainTransform(preprocessing, Augmentation(**options))
    generator = np.random.default_rng(0)
    return lambda picture: transform(picture, generator)


def _device(experiment: Experiment) -> str:
    wanted = experiment.trainer.accelerator
    return "cuda" if wanted in ("auto", "cuda") and torch.cuda.is_available() else "cpu"


def _synchronised(device: str, result: Tensor) -> Tensor:
    if device == "cuda":
        torch.cuda.synchronize()
    return result


def _rate(step: Callable[[], object], images: int) -> float:
    """Images per second of a step that handles some; the first, which may be slow, is not timed."""
    step()
    start = time.perf_counter()
    count = 0
    while (elapsed := time.perf_counter() - start) < _SECONDS or not count:
        step()
        count += 1
    return images * count / elapsed


def _advice(rates: dict[str, Any], experiment: Experiment | None) -> tuple[str | None, str]:
    """What limits a training, and the setting to change."""
    per_core = 1 / (1 / rates["read_per_core"] + 1 / rates["transform_per_core"])
    pictures = per_core * max(rates["workers"], 1)
    supply = f"{rates['workers']} processes can supply about {pictures:,.0f} images/s"
    if experiment is None or rates["forward"] is None:
        return None, f"{supply}; name an experiment file to compare its model with that"
    stages = {"pictures": pictures, "model": rates["training"]}
    if rates["transfer"] is not None:
        stages["transfer"] = rates["transfer"]
    slowest = min(stages, key=stages.__getitem__)
    changes = {
        "pictures": "raise data.workers as far as there are cores, or scale the files down to "
        "about twice model.image_size",
        "model": "lower model.image_size or take a smaller model.name, set trainer.precision "
        "to bf16-mixed where the hardware has it, or train on a GPU",
        "transfer": "raise data.batch_size and trainer.micro_batch, so that copies are larger",
    }
    return slowest, f"{supply}; the bottleneck is the {slowest}: {changes[slowest]}".replace(
        "is the pictures", "is the reading of pictures"
    )


def _rounded(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value
