"""What merging tokens gains in speed, and what it costs in answers.

    python -m benchmarks token_merging [--model ViT-B_16] [--size 224]
    python -m benchmarks token_merging --weights MODEL --data FOLDER

Speed on pictures of noise, all numbers of merged pairs in turn in one process, so that all of them
meet the same weather; each is compared with the plain model of the same turn: the median of the
ratios of time, where 80 % of them lie, and the ratio of processor time, which others that use the
machine disturb less. With weights and pictures (a folder with a folder for each class, or a
manifest) also how many are told right, and how many as the plain model tells them.
Prints a table, and writes ``results/DATE-token_merging-...json`` beside this file.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from report import write_report
from torch import Tensor

from vit_lightning.data.pictures import PictureError
from vit_lightning.data.sources import open_labelled
from vit_lightning.evaluation.class_map import class_map
from vit_lightning.factory import ModelBundle, create_bundle, load_bundle
from vit_lightning.memory import keep_freed_memory
from vit_lightning.models.merging import merge_tokens, token_counts
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.prediction import preprocessing_of

Row = dict[str, Any]


def speeds(model: VisionTransformer, pairs: Sequence[int], batch: int, rounds: int) -> list[Row]:
    """Of each number of merged pairs, the first of which is 0."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, model.config.in_channels, *model.config.image_size)
    pictures = torch.rand(shape, generator=generator) * 2 - 1
    turns = np.array([_turn(model, pictures, pairs) for _ in range(1 + rounds)][1:])
    ratios = turns[:, :1] / turns  # rounds, pairs, (wall, processor)
    return [
        {
            "r": r,
            "tokens": token_counts(model.config, r)[-1],
            "pictures_a_second": round(batch / float(np.median(turns[:, i, 0])), 2),
            "times_faster": round(float(np.median(ratios[:, i, 0])), 3),
            "spread": [round(float(q), 3) for q in np.quantile(ratios[:, i, 0], (0.1, 0.9))],
            "times_less_work": round(float(np.median(ratios[:, i, 1])), 3),
        }
        for i, r in enumerate(pairs)
    ]


def _turn(
    model: VisionTransformer, pictures: Tensor, pairs: Sequence[int]
) -> list[tuple[float, float]]:
    """Seconds by the clock and of the processor, for each number of merged pairs."""
    spent = []
    for r in pairs:
        merge_tokens(model, r)
        start, work = time.perf_counter(), time.process_time()
        model(pictures)
        spent.append((time.perf_counter() - start, time.process_time() - work))
    return spent


def answers(bundle: ModelBundle, data: Path, pairs: Sequence[int], batch: int) -> list[Row]:
    """How each number of merged pairs, the first of which is 0, tells pictures."""
    found = open_labelled(data)
    if found.multi_label:
        raise SystemExit("pictures of one class each are needed")
    places = class_map(bundle.classes or found.classes, found.classes)
    labels, told = list[int](), list[NDArray[np.int64]]()
    for indices, pictures in _batches(bundle, found.pictures, batch):
        labels += [int(places[found.pictures.labels[index]]) for index in indices]
        logits = [merge_tokens(bundle.model, r)(pictures) for r in pairs]
        told.append(torch.stack(logits).argmax(dim=2).numpy())
    chosen = np.concatenate(told, axis=1)  # pairs, pictures
    return [
        {
            "pictures": len(labels),
            "right": round(float((row == labels).mean()), 4),
            "plain_right": round(float((chosen[0] == labels).mean()), 4),
            "as_plain": round(float((row == chosen[0]).mean()), 4),
        }
        for row in chosen
    ]


def _batches(bundle: ModelBundle, pictures: Any, batch: int) -> Iterator[tuple[list[int], Tensor]]:
    """Those that can be read."""
    preprocessing = preprocessing_of(bundle)
    for start in range(0, len(pictures), batch):
        indices, images = list[int](), list[Tensor]()
        for index in range(start, min(start + batch, len(pictures))):
            try:
                images.append(preprocessing(pictures.load(index)))
            except PictureError:
                continue
            indices.append(index)
        if indices:
            yield indices, torch.stack(images)


def print_table(rows: Sequence[Row]) -> None:
    """One line for each number of merged pairs."""
    columns = {"r": 4, "tokens": 8, "pictures/s": 12, "times faster": 14, "80 %": 16}
    columns |= {"less work": 11}
    if "right" in rows[0]:
        columns |= {"right": 9, "plain": 9, "as plain": 10}
    print("".join(name.rjust(width) for name, width in columns.items()))
    for row in rows:
        low, high = row["spread"]
        line = (
            f"{row['r']:4d}{row['tokens']:8d}{row['pictures_a_second']:12.2f}"
            f"{row['times_faster']:13.2f}×{low:8.2f} to {high:4.2f}"
            f"{row['times_less_work']:10.2f}×"
        )
        if "right" in row:
            line += f"{row['right']:9.1%}{row['plain_right']:9.1%}{row['as_plain']:10.1%}"
        print(line)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B_16", help="a preset, with random weights")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side, of a preset")
    parser.add_argument("--weights", help="instead of a preset; needs --data")
    parser.add_argument("--data", type=Path, help="pictures by class")
    parser.add_argument("--pairs", type=int, nargs="+", default=[0, 4, 8, 12, 16], help="r")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each")
    options = parser.parse_args()
    if (options.weights is None) != (options.data is None):
        parser.error("--weights and --data belong together")
    keep_freed_memory()  # as every run on a CPU does
    torch.manual_seed(0)
    if options.weights is None:
        bundle, name = create_bundle(options.model, image_size=options.size), options.model
    else:
        bundle, name = load_bundle(options.weights), Path(options.weights).stem
    bundle.model.eval()
    pairs = sorted({0, *options.pairs})
    with torch.inference_mode():
        rows = speeds(bundle.model, pairs, options.batch, options.rounds)
        if options.data is not None:
            told = answers(bundle, options.data, pairs, options.batch)
            rows = [row | more for row, more in zip(rows, told, strict=True)]
    print_table(rows)
    figures = {"model": bundle.model.config.to_dict(), "batch": options.batch, "rows": rows}
    write_report(f"token_merging-{name}", figures)


if __name__ == "__main__":
    main()
