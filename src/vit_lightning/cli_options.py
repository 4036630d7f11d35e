"""Options that several commands of ``vit`` have."""

import argparse

from vit_lightning.console import say_notes

WEIGHTS = "a weights file or folder, an official name, a Hub id or an address"
"""What may be named where weights are."""

COME_ALONG = "vit-lightning/tiny-imagenet"
"""The weights that a command takes if none are named; they come with the package."""


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights`` with a default, for :func:`weights`."""
    parser.add_argument(
        "--weights",
        "--model",
        help=f"{WEIGHTS} (default: {COME_ALONG}, small ones that come along)",
        metavar="WEIGHTS",
    )


def weights(options: argparse.Namespace) -> str:
    """What ``--weights`` said; the default is told, as answers depend on it."""
    if options.weights is None:
        say_notes(
            [
                f"no --weights are named: these are {COME_ALONG}, which know 199 things in small "
                f"pictures, and them not well"
            ]
        )
    return options.weights or COME_ALONG


def add_image_size(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--image-size HEIGHT WIDTH``, in pixels, with a word of help."""
    parser.add_argument("--image-size", type=int, nargs=2, help=text, metavar=("HEIGHT", "WIDTH"))


def image_size(options: argparse.Namespace) -> tuple[int, int] | None:
    """What ``--image-size`` said: (height, width), or None."""
    if options.image_size is None:
        return None
    height, width = options.image_size
    return height, width
