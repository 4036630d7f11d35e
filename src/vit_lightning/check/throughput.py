"""How fast pictures are read, copied to the device and computed, and which of these limits."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vit_lightning.check.sources import NamedSplit, Source
from vit_lightning.data.decoding import FastPictures
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.data.views import TrainView
from vit_lightning.errors import InputError
from vit_lightning.experiment import Experiment
from vit_lightning.settings import AugmentationSettings
from vit_lightning.threads import torch_threads

_MOST_PICTURES = 256
_SECONDS = 2.0  # of each measurement
_MOST_BATCH_ON_CPU, _MOST_BATCH = 8, 64
_TRAINING_COST = 3.0  # of a step in forward passes: the backward pass is about two
_DEFAULT_SIZE = 224

Rates = dict[str, Any]


def measure_throughput(source: Source, workers: int) -> Rates | None:
    """Images per second of each stage, and what to change; None if no picture can be read.

    Without an experiment there is no model: pictures alone are timed, at 224 px.

    Returns:
        ``decode_per_core`` (read, decoded and augmented as for a training), ``transfer`` (None
        without a GPU), ``forward`` and ``training`` (estimated; both None without an experiment),
        ``workers``, ``bottleneck`` (``pictures``, ``transfer``, ``model`` or None) and ``advice``.
    """
    rates: Rates = {"workers": workers, "transfer": None, "forward": None, "training": None}
    preprocessing = Preprocessing("modern", (_DEFAULT_SIZE, _DEFAULT_SIZE))
    augmentation, why_no_model = AugmentationSettings(), "name an experiment file to time its model"
    if source.experiment is not None:
        augmentation = source.experiment.data.augmentation
        try:
            preprocessing = _measure_model(source.experiment, source.splits[0], rates)
        except InputError as error:  # the pictures are what was asked for
            why_no_model = f"the model was not timed: {error}"
    decode = _decode_rate(source, TrainView(preprocessing, augmentation))
    if decode is None:
        return None
    rates["decode_per_core"] = decode
    rates["bottleneck"], rates["advice"] = _advice(rates, source.experiment, why_no_model)
    return {key: _rounded(value) for key, value in rates.items()}


def _decode_rate(source: Source, view: TrainView) -> float | None:
    """Images per second that one core reads and augments; None if there are none."""
    pictures = max((split.pictures for split in source.splits), key=len)
    if source.experiment is not None and source.experiment.data.decoding == "fast":
        pictures = FastPictures(pictures)
    generator = np.random.default_rng(0)
    spread = np.linspace(0, len(pictures) - 1, min(len(pictures), _MOST_PICTURES))
    readable = [int(index) for index in spread.round()]
    position = 0

    def read() -> None:
        nonlocal position
        while readable:
            index = readable[position % len(readable)]
            try:
                view(pictures.open(index), generator)
            except InputError:  # said elsewhere
                readable.remove(index)
            else:
                position += 1
                return

    read()  # which finds out whether there is one that can be read
    if not readable:
        return None
    with torch_threads(1):  # as each of the processes of a training has
        return _rate(read, 1)


def _measure_model(experiment: Experiment, split: NamedSplit, rates: Rates) -> Preprocessing:
    """Time an experiment's model; returns what is done to its pictures."""
    # Seconds, for Lightning.
    from vit_lightning.assemble import model_for, preprocessing_for
    from vit_lightning.training.trainer import choose_precision

    settings = experiment.model
    if settings.name is not None or settings.embed_dim is not None:
        # The values of the weights cost no time, and they may have to be fetched first.
        fresh = {"weights": None, "keep_head": False, "keep_pre_logits": False}
        settings = settings.model_copy(update=fresh)
    experiment = experiment.model_copy(update={"model": settings})
    bundle = model_for(experiment, split.classes, multi_label=split.pictures.labels.ndim == 2)
    preprocessing = preprocessing_for(experiment, bundle)
    device = _device(experiment)
    model = bundle.model.to(device).eval()
    wanted = experiment.trainer.micro_batch
    wanted = experiment.data.batch_size if wanted == "auto" else wanted
    count = min(wanted, _MOST_BATCH_ON_CPU if device.type == "cpu" else _MOST_BATCH)
    shape = (count, *preprocessing.image_size, preprocessing.in_channels)
    pixels = torch.zeros(shape, dtype=torch.uint8)
    if device.type != "cpu":
        rates["transfer"] = _rate(lambda: _finished(pixels.to(device)), count)
    images = preprocessing.normalised(pixels.to(device))
    precision = choose_precision(experiment.trainer)
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    lower = torch.autocast(device.type, dtype, enabled=precision != "32")
    with torch.inference_mode(), lower:
        rates["forward"] = _rate(lambda: _finished(model(images)), count)
    rates["training"] = rates["forward"] / _TRAINING_COST
    return preprocessing


def _device(experiment: Experiment) -> torch.device:
    found = torch.accelerator.current_accelerator(check_available=True)
    wanted = experiment.trainer.accelerator
    return found if found is not None and wanted in ("auto", found.type) else torch.device("cpu")


def _finished(result: Tensor) -> Tensor:
    """Wait for what was started."""
    if result.device.type != "cpu":
        torch.accelerator.synchronize()
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


def _advice(
    rates: Rates, experiment: Experiment | None, why_no_model: str
) -> tuple[str | None, str]:
    """What limits a training, and the setting to change."""
    if experiment is not None and experiment.data.on_device is not None:
        return None, (
            "training pictures are held and augmented where the model is (data.on_device), so that "
            "reading them limits nothing; if a run's train/data_wait_share is large, drawing does: "
            "raise data.workers"
        )
    processes = max(rates["workers"], 1)
    pictures = rates["decode_per_core"] * processes
    supply = f"{processes} {'process' if processes == 1 else 'processes'} can supply about "
    supply += f"{pictures:,.0f} images/s"
    if experiment is None or rates["training"] is None:
        return None, f"{supply}; {why_no_model}"
    stages = {"pictures": pictures, "model": rates["training"]}
    if rates["transfer"] is not None:
        stages["transfer"] = rates["transfer"]
    slowest = min(stages, key=stages.__getitem__)
    names = {"pictures": "the reading of pictures", "model": "the model", "transfer": "the copying"}
    changes = {
        "pictures": _faster_pictures(experiment),
        "model": "lower model.image_size or take a smaller model.name, set trainer.precision "
        "to bf16-mixed where the hardware has it, or train on a GPU",
        "transfer": "raise data.batch_size and trainer.micro_batch, so that copies are larger",
    }
    return slowest, f"{supply}; the bottleneck is {names[slowest]}: {changes[slowest]}"


def _faster_pictures(experiment: Experiment) -> str:
    data = experiment.data
    ways = ["raise data.workers as far as there are cores"]
    if data.cache is None:
        ways.append("set data.cache to {}, which decodes every picture once")
    else:
        ways.append("leave it to data.cache, which has them decoded from the second epoch on")
    if data.decoding == "full" and data.preprocessing == "modern":
        ways.append('set data.decoding to "fast"')
    ways.append("hold small pictures where the model is (data.on_device)")
    return ", or ".join(ways)


def _rounded(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value
