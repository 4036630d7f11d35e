"""How fast pictures come in, beside torchvision's usual pipeline in the same run.

    python benchmarks/pictures.py --pictures FOLDER [--peer-python PATH]

A view of training is a random crop, resized to 224 × 224 and mirrored half of the time. Its time
is that of one core: processor time of one thread. Sides take turns over the same few pictures, so
that all of them meet the same weather. FOLDER holds JPEGs at any depth; pictures of 12 megapixels
are made from them. PATH is a python that has torchvision; without it there is no peer. Prints
tables, and writes ``results/DATE-pictures.json`` beside this file.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from report import write_report
from turns import Process

from vit_lightning.data.crops import resized_crop
from vit_lightning.data.decoding import open_scaled
from vit_lightning.data.draws import sample_generator
from vit_lightning.data.pictures import OpenPicture, Pixels, Region, WholePicture, open_picture
from vit_lightning.data.resizing import mirrored

SIZE = (224, 224)
TURN = 16  # pictures of one side before the next is on
LARGE = (4000, 3000)

Seconds = dict[str, float]  # wall and processor
Side = Callable[[Sequence[Path], int], Seconds]


def open_whole(path: Path) -> OpenPicture:
    """Decoded in full."""
    return WholePicture(open_picture(path))


def crop_of(picture: OpenPicture, generator: np.random.Generator) -> Region:
    """Left, top, right, bottom; drawn as torchvision draws it."""
    box = resized_crop(*picture.size, generator)
    region = box.left, box.top, box.left + box.width, box.top + box.height
    return picture.aligned(region, SIZE)


def view_of(picture: OpenPicture, generator: np.random.Generator) -> Pixels:
    """A training view, (224, 224, 3)."""
    pixels = picture.resized(crop_of(picture, generator), SIZE, "bilinear")
    return mirrored(pixels) if generator.random() < 0.5 else pixels


def our_side(opened: Callable[[Path], OpenPicture], normalised: bool) -> Side:
    """Views into a batch of 8-bit pixels, as a loading process makes them.

    Args:
        opened: how a picture is read.
        normalised: also do here what is otherwise left to the device.
    """

    def spent(paths: Sequence[Path], turn: int) -> Seconds:
        wall, processor = time.perf_counter(), time.process_time()
        batch = torch.empty((len(paths), *SIZE, 3), dtype=torch.uint8)
        rows = batch.numpy()
        for index, path in enumerate(paths):
            rows[index] = view_of(opened(path), sample_generator(0, turn, index))
        if normalised:
            images = batch.permute(0, 3, 1, 2).to(
                torch.float32, memory_format=torch.contiguous_format
            )
            images.sub_(127.5).div_(127.5)
        return {
            "wall": time.perf_counter() - wall,
            "processor": time.process_time() - processor,
        }

    return spent


def peer_side(peer: Process) -> Side:
    """The pipeline of torchvision in another python; its crops are its own."""

    def spent(paths: Sequence[Path], turn: int) -> Seconds:
        answer: Seconds = peer.ask([str(path) for path in paths])
        return answer

    return spent


def enlarged(paths: Sequence[Path], folder: Path, count: int, tiles: int, grain: float) -> None:
    """Write JPEGs of 12 megapixels, quality 90.

    Args:
        paths: of photographs to make them from.
        folder: for the results.
        count: of pictures.
        tiles: photographs along each side of a picture.
        grain: standard deviation of noise on the luma, in levels of 255.
    """
    rng = np.random.default_rng(0)
    width, height = LARGE
    for number in range(count):
        large = Image.new("RGB", LARGE)
        for tile in range(tiles**2):
            row, column = divmod(tile, tiles)
            left, top = column * width // tiles, row * height // tiles
            right, bottom = (column + 1) * width // tiles, (row + 1) * height // tiles
            photograph = open_picture(paths[(number * tiles**2 + tile) * 7 % len(paths)])
            side = (right - left, bottom - top)
            large.paste(ImageOps.fit(photograph, side, Image.Resampling.LANCZOS), (left, top))
        if grain:
            noise = rng.standard_normal((height, width, 1), dtype=np.float32) * grain
            large = Image.fromarray((np.asarray(large) + noise).clip(0, 255).astype(np.uint8))
        # Every other one upright.
        large = large.transpose(Image.Transpose.ROTATE_90) if number % 2 else large
        large.save(folder / f"{number:03d}.jpg", quality=90)


def picture_sets(found: Sequence[Path], folder: Path, large: int) -> dict[str, list[Path]]:
    """Pictures by the name of their kind."""
    sets = {"as found": list(found)}
    for name, tiles, grain in (
        ("12 MP, one enlarged", 1, 0.0),
        ("12 MP, nine enlarged, with grain", 3, 2.0),
    ):
        into = folder / name.replace(" ", "-")
        into.mkdir()
        enlarged(found, into, large, tiles, grain)
        sets[name] = sorted(into.iterdir())
    return sets


def statistics_of(paths: Sequence[Path]) -> dict[str, float]:
    """Count, mean megapixels and bits for each pixel."""
    pixels = []
    for path in paths:
        with Image.open(path) as picture:
            pixels.append(picture.width * picture.height)
    bits = 8 * sum(path.stat().st_size for path in paths)
    return {
        "pictures": len(paths),
        "megapixels": round(statistics.mean(pixels) / 1e6, 3),
        "bits_per_pixel": round(bits / sum(pixels), 2),
    }


def mean_errors(paths: Sequence[Path]) -> dict[str, float]:
    """Mean absolute difference of views, of 255, from those of full decoding by Pillow alone."""
    errors = []
    for index, path in enumerate(paths):
        picture, whole = open_scaled(path), open_picture(path)
        for turn in range(4):
            region = crop_of(picture, sample_generator(0, turn, index))
            found = picture.resized(region, SIZE, "bilinear").astype(int)
            wanted = whole.crop(region).resize(SIZE, Image.Resampling.BILINEAR)
            errors.append(np.abs(found - np.asarray(wanted)).mean())
    return {"mean": round(float(np.mean(errors)), 3), "most": round(float(max(errors)), 3)}


def in_turns(sides: dict[str, Side], paths: Sequence[Path], rounds: int) -> dict[str, Any]:
    """All sides over all pictures, ``rounds`` times; the first side is what others are set beside.

    Returns:
        For each side pictures a second of processor and of wall time over all turns, and the
        ratio of processor times to the first: of the sums, and its 10th and 90th percentile over
        the turns.
    """
    for side in sides.values():
        side(paths[:2], 0)  # first calls are slow
    turns: dict[str, list[Seconds]] = {name: [] for name in sides}
    count = 0
    for number in range(rounds):
        for start in range(0, len(paths), TURN):
            chunk = paths[start : start + TURN]
            count += len(chunk)
            for name, side in sides.items():
                turns[name].append(side(chunk, number * len(paths) + start))
    first = [turn["processor"] for turn in next(iter(turns.values()))]
    rows = {}
    for name, spent in turns.items():
        processor = [turn["processor"] for turn in spent]
        ratios = np.divide(first, processor)
        rows[name] = {
            "per_second": round(count / sum(processor), 1),
            "per_second_wall": round(count / sum(turn["wall"] for turn in spent), 1),
            "ratio": round(sum(first) / sum(processor), 2),
            "ratio_spread": [round(float(q), 2) for q in np.quantile(ratios, (0.1, 0.9))],
        }
    return rows


def per_core(
    sets: dict[str, list[Path]], peer: Process | None, rounds: int
) -> list[dict[str, Any]]:
    """Views on one core, for each kind of picture."""
    ours = {
        "full decoding": our_side(open_whole, normalised=False),
        "fast decoding": our_side(open_scaled, normalised=False),
        "fast decoding, normalised": our_side(open_scaled, normalised=True),
    }
    sides = ({"torchvision": peer_side(peer)} if peer else {}) | ours
    results = []
    for name, paths in sets.items():
        result = {"set": name} | statistics_of(paths) | {"error": mean_errors(paths)}
        # As many views of a few large pictures as are worth their time.
        repeats = rounds * max(1, 2 * TURN // len(paths))
        result["sides"] = in_turns(sides, paths, repeats)
        print_per_core(result)
        results.append(result)
    return results


def print_per_core(result: dict[str, Any]) -> None:
    """One table."""
    print(
        f"\n{result['set']}: {result['pictures']} pictures of {result['megapixels']} megapixels, "
        f"{result['bits_per_pixel']} bits a pixel; fast decoding is off by "
        f"{result['error']['mean']} of 255 on average, {result['error']['most']} at most"
    )
    print(f"  {'views on one core':28s}{'a second':>10s}{'ratio':>8s}   80 % of turns")
    for name, row in result["sides"].items():
        low, high = row["ratio_spread"]
        print(f"  {name:28s}{row['per_second']:10.1f}{row['ratio']:8.2f}   {low} to {high}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--peer-python", type=Path, help="a python that has torchvision")
    parser.add_argument("--count", type=int, default=192, help="pictures taken of the folder")
    parser.add_argument("--large", type=int, default=12, help="pictures of each 12-megapixel kind")
    parser.add_argument("--rounds", type=int, default=3, help="times over all pictures")
    options = parser.parse_args()
    found = sorted(options.pictures.rglob("*.jpg"))
    if not found:
        parser.error(f"no .jpg below {options.pictures}")
    found = found[:: max(1, len(found) // options.count)][: options.count]
    torch.set_num_threads(1)
    script = Path(__file__).with_name("torchvision_views.py")
    command = [options.peer_python, "-W", "ignore", script]
    peer = Process(command) if options.peer_python else None
    report: dict[str, Any] = {"peer_versions": peer.versions if peer else None}
    with tempfile.TemporaryDirectory() as folder:
        sets = picture_sets(found, Path(folder), options.large)
        report["per_core"] = per_core(sets, peer, options.rounds)
    if peer:
        peer.close()
    write_report("pictures", report)


if __name__ == "__main__":
    main()
