"""``vit export``: a model as a program for other engines."""

import argparse
from pathlib import Path
from typing import Any

from vit_lightning.cli_options import WEIGHTS, add_image_size, image_size
from vit_lightning.console import say_notes


def add_export_command(commands: Any) -> None:
    """Add ``export`` to the commands of ``vit``, what ``add_subparsers`` returned."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "export",
        help="write a model as an ONNX program, for other engines",
        description=(
            "Writes an .onnx that ONNX Runtime, OpenVINO and others run without this package and "
            "without torch, with class names and preprocessing in its metadata, and compares what "
            "ONNX Runtime computes with the model. It takes about half a minute."
        ),
    )
    parser.set_defaults(command=_export)
    parser.add_argument("weights", help=WEIGHTS, metavar="IN")
    parser.add_argument("output", type=Path, help="the .onnx to write", metavar="OUT")
    add_image_size(parser, "pixels, for a .npz whose grid is not square")


def _export(options: argparse.Namespace) -> None:
    from vit_lightning.export import check_before_export, export_onnx
    from vit_lightning.factory import load_bundle

    check_before_export(options.output)  # before weights are downloaded
    bundle = load_bundle(options.weights, image_size(options))
    say_notes(bundle.notes)
    print(export_onnx(bundle, options.output))
