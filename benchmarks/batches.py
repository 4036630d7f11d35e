"""How fast training batches come in, end to end, beside torchvision's usual pipeline.

    python benchmarks/batches.py --pictures FOLDER [--peer-python PATH]

From files to normalised float32 batches of 64 random crops of 224 px, mirrored half of the time, by
two loading processes. Sides are processes that take turns in one run; what lies ready when a turn
begins, and a few batches more, are not counted. FOLDER holds a folder of pictures for each class.
Kept pictures are in the system's memory when they are measured, as they are from the second epoch
on if there is enough of it. What goes to a GPU is normalised there; here it stays 8 bits a value.
Prints a table, and writes ``results/DATE-batches.json`` beside this
file.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from batch_turns import in_turns, print_table
from report import versions, write_report
from turns import Process, answer, seconds_of

from vit_lightning.data.datamodule import TrainData
from vit_lightning.data.decoded import CachedPictures, build, open_cache
from vit_lightning.data.decoding import FastPictures
from vit_lightning.data.folder import open_folder
from vit_lightning.data.lent import ReusedMemory
from vit_lightning.data.pictures import Pictures
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.memory import keep_freed_memory
from vit_lightning.settings import AugmentationSettings, CacheSettings, DataSettings

SIZE = 224
BATCH = 64

# Decoding, and to which shorter side pictures are kept; 0: as they are, None: they are not.
SIDES: dict[str, tuple[str, int | None]] = {
    "full": ("full", None),
    "fast": ("fast", None),
    "full, kept": ("full", 0),
    "fast, kept": ("fast", 0),
    "fast, kept at 256": ("fast", 256),
    "fast, kept, for a GPU": ("fast", 0),
    "fast, kept at 256, for a GPU": ("fast", 256),
}
FOR_GPU = [side for side in SIDES if side.endswith("for a GPU")]


def pictures_of(folder: Path, side: str, cache: Path) -> Pictures:
    """The pictures of a side; kept ones are decoded here."""
    decoding, shorter_side = SIDES[side]
    pictures: Pictures = open_folder(folder, val_fraction=0.01, seed=0).train
    if shorter_side is not None:
        settings = CacheSettings(shorter_side=shorter_side or None, folder=str(cache))
        pictures = open_cache(pictures, settings)
        assert isinstance(pictures, CachedPictures)
        build(pictures, 2, lambda _: None)
    return FastPictures(pictures) if decoding == "fast" else pictures


def batches_of(pictures: Pictures, workers: int, *, for_gpu: bool) -> Iterator[torch.Tensor]:
    """Batches without end, as a training gets them: normalised, or left to a GPU for that."""
    splits: Any = argparse.Namespace(train=pictures, val=pictures, test=None, classes=())
    settings = DataSettings(
        name="digits",  # read by nothing here
        batch_size=BATCH,
        workers=workers,
        augmentation=AugmentationSettings(crop="modern"),
    )
    preprocessing = Preprocessing("modern", (SIZE, SIZE), interpolation="bilinear")
    data = TrainData(splits, preprocessing, settings, num_steps=10**7)
    memory = ReusedMemory()
    for batch in data.train_dataloader():
        yield batch.pixels if for_gpu else preprocessing.normalised(batch.pixels, memory)


def be_side(options: argparse.Namespace) -> None:
    """Answer numbers of batches with wall and processor seconds."""
    keep_freed_memory()  # as a training does
    pictures = pictures_of(options.pictures, options.side, options.cache)
    batches = batches_of(pictures, options.workers, for_gpu=options.side in FOR_GPU)
    next(batches)
    answer(versions(), partial(seconds_of, batches, options.workers))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="a folder for each class")
    parser.add_argument("--peer-python", type=Path, help="a python that has torchvision")
    parser.add_argument("--workers", type=int, default=2, help="loading processes")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--batches", type=int, default=20, help="batches of a turn")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        be_side(options)
        return
    here = Path(__file__)
    with tempfile.TemporaryDirectory() as cache:
        ours = [sys.executable, str(here), "--pictures", str(options.pictures), "--cache", cache]
        sides = {}
        if options.peer_python:
            script = str(here.with_name("torchvision_batches.py"))
            numbers = [str(options.pictures), str(BATCH), str(options.workers)]
            command = [str(options.peer_python), "-W", "ignore", script, *numbers]
            sides["torchvision"] = Process(command)
        for name in SIDES:
            sides[name] = Process([*ours, "--workers", str(options.workers), "--side", name])
        rows = in_turns(sides, options.rounds, options.batches, BATCH)
        peer = sides["torchvision"].versions if options.peer_python else None
        for side in sides.values():
            side.close()
    print_table("batches end to end", rows)
    write_report("batches", {"peer_versions": peer, "sides": rows})


if __name__ == "__main__":
    main()
