"""``vit convert``: a model in the layout of another library."""

import argparse
from pathlib import Path
from typing import Any

from vit_lightning.cli_options import WEIGHTS, add_image_size, image_size
from vit_lightning.console import say_notes

_TARGETS = ["google", "timm", "huggingface", "torchvision", "safetensors"]


def add_convert_command(commands: Any) -> None:
    """Add ``convert`` to the commands of ``vit``, what ``add_subparsers`` returned."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "convert",
        help="write a model in the layout of another library",
        description=(
            "google writes a .npz and torchvision a .pth, each with a .json beside it; timm and "
            "huggingface a folder that these libraries load; safetensors this package's own file. "
            "What the target cannot express is refused with the reason."
        ),
    )
    parser.set_defaults(command=_convert)
    parser.add_argument("weights", help=WEIGHTS, metavar="IN")
    parser.add_argument("output", type=Path, help="the file or folder to write", metavar="OUT")
    parser.add_argument("--to", choices=_TARGETS, required=True, help="the library")
    parser.add_argument(
        "--lossy",
        action="store_true",
        help="write also what the library computes otherwise, and measure the difference",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="with --to safetensors: store 16 bits of each weight, and measure the difference",
    )
    add_image_size(parser, "pixels, for a .npz whose grid is not square")


def _convert(options: argparse.Namespace) -> None:
    from vit_lightning.convert import convert_model
    from vit_lightning.factory import load_bundle

    bundle = load_bundle(options.weights, image_size(options))
    say_notes(bundle.notes)
    print(convert_model(bundle, options.output, options.to, lossy=options.lossy, half=options.half))
