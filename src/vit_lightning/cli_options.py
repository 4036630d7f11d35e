"""Options that several commands of ``vit`` have."""

import argparse

WEIGHTS = "a weights file or folder, an official name, a Hub id or an address"
"""What may be named where weights are."""


def add_image_size(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--image-size HEIGHT WIDTH``, in pixels, with a word of help."""
    parser.add_argument("--image-size", type=int, nargs=2, help=text, metavar=("HEIGHT", "WIDTH"))


def image_size(options: argparse.Namespace) -> tuple[int, int] | None:
    """What ``--image-size`` said: (height, width), or None."""
    if options.image_size is None:
        return None
    height, width = options.image_size
    return height, width
