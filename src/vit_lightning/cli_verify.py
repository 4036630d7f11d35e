"""``vit verify``: whether weights compute here what they should."""

import argparse
from pathlib import Path
from typing import Any

from vit_lightning.cli_options import WEIGHTS, add_image_size, image_size

_DEPARTS = 1


def add_verify_command(commands: Any) -> None:
    """Add ``verify`` to the commands of ``vit``, what ``add_subparsers`` returned."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "verify",
        help="show that weights compute what they should",
        description=(
            "Compare each stage of the model with an independent forward pass in float64, with "
            "another library or with recorded outputs. Exit code 1 if a stage departs."
        ),
    )
    parser.set_defaults(command=_verify)
    parser.add_argument("weights", help=WEIGHTS, metavar="WEIGHTS")
    parser.add_argument(
        "--against",
        help="the library, or a file of recorded outputs (default: an independent forward pass)",
        metavar="timm|transformers|FILE.npz",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        nargs="+",
        default=[],
        help="compare on these pictures too",
        metavar="FILE",
    )
    add_image_size(parser, "pixels the model shall take (default: those of the weights)")


def _verify(options: argparse.Namespace) -> int:
    """Print the report; returns the exit code: 0, or 1 where a stage departs."""
    from vit_lightning.parity.verify import verify

    report = verify(options.weights, options.against, options.picture, image_size(options))
    print(report)
    return 0 if report.agrees else _DEPARTS
