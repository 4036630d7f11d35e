"""``vit bench``: how fast a model computes on this machine."""

import argparse
from pathlib import Path
from typing import Any

from vit_lightning.cli_options import WEIGHTS
from vit_lightning.console import printable, printable_lines
from vit_lightning.files import refuse_unwritable


def add_bench_command(commands: Any) -> None:
    """Add ``bench`` to the commands of ``vit``, what ``add_subparsers`` returned."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="tell how fast a model computes here, and what would be faster",
        description=(
            "Time a model on this machine in half a minute: images a second, the share of what "
            "its products of matrices allow, where the time goes, and which changes pay."
        ),
    )
    parser.set_defaults(command=_bench)
    subject = parser.add_mutually_exclusive_group()
    subject.add_argument(
        "model", nargs="?", help="a preset's name (default: ViT-B_16), with fresh weights"
    )
    subject.add_argument("--weights", help=WEIGHTS, metavar="WEIGHTS")
    parser.add_argument(
        "--image-size", type=int, help="pixels of a side (default: the model's)", metavar="N"
    )
    parser.add_argument(
        "--batch", type=int, help="pictures at once (default: 4, on a GPU 64)", metavar="N"
    )
    parser.add_argument(
        "--mode", choices=["inference", "training"], default="inference", help="default: inference"
    )
    parser.add_argument(
        "--precision",
        choices=["32", "bf16-mixed"],
        help="default: 32, on a GPU that has it bf16-mixed",
    )
    parser.add_argument("--json", type=Path, help="write all figures as JSON", metavar="FILE")


def _bench(options: argparse.Namespace) -> None:
    if options.json is not None:
        refuse_unwritable(options.json)
    from vit_lightning.bench.run import Request, bench
    from vit_lightning.bench.text import as_text
    from vit_lightning.json_file import write_json

    request = Request(
        options.model,
        options.weights,
        options.image_size,
        options.batch,
        options.mode,
        options.precision,
    )
    values = bench(request)
    print(printable_lines(as_text(values)))
    if options.json is not None:
        write_json(options.json, values)
        print(f"\n{printable(str(options.json))}")
