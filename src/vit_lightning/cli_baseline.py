"""``vit baseline``: what frozen features of a pretrained model achieve on pictures."""

import argparse
from pathlib import Path
from typing import Any

from vit_lightning.cli_options import add_image_size, add_weights, image_size, weights
from vit_lightning.console import printable
from vit_lightning.errors import InputError
from vit_lightning.files import refuse_unwritable


def add_baseline_command(commands: Any) -> None:
    """Add ``baseline`` to the commands of ``vit``, what ``add_subparsers`` returned."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "baseline",
        help="what a model's frozen features achieve on your pictures, and what to do next",
        description="Compute the features of all pictures once, and keep them; measure the "
        "majority class, nearest neighbours and a linear probe on val, and advise a recipe.",
    )
    parser.set_defaults(command=_baseline)
    parser.add_argument(
        "data",
        type=Path,
        help="a folder of pictures by class, a manifest (.csv, .tsv, .parquet) or an experiment "
        "file (.json), whose data section is used",
        metavar="DATA",
    )
    add_weights(parser)
    add_image_size(parser, "pixels that the model shall take")
    parser.add_argument(
        "--val-fraction", type=float, help="held out of train where there is no val", metavar="F"
    )
    parser.add_argument(
        "--label-separator", help="between the labels of a picture in a table", metavar="TEXT"
    )
    parser.add_argument(
        "--workers", type=int, help="loading processes (default: by the cores)", metavar="N"
    )
    parser.add_argument("--json", type=Path, help="write all figures as JSON", metavar="FILE")
    parser.add_argument(
        "--write", type=Path, help="write the recipe as a new experiment file", metavar="FILE"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        help="settings of an experiment to change, such as data.root=elsewhere",
        metavar="part.name=value",
    )


def _baseline(options: argparse.Namespace) -> None:
    if options.workers is not None and options.workers < 0:
        raise InputError(f"--workers: 0 or more processes, got {options.workers}")
    written = [path for path in (options.json, options.write) if path is not None]
    for path in written:
        refuse_unwritable(path)
    if len({path.absolute() for path in written}) < len(written):
        raise InputError(f"{options.write}: --json and --write need a file each")
    if options.write is not None and options.write.exists():
        raise InputError(f"--write {options.write}: this file is there already; name a new one")
    from vit_lightning.experiment import short_values
    from vit_lightning.json_file import write_json
    from vit_lightning.probe.run import baseline
    from vit_lightning.probe.text import as_text

    result = baseline(
        options.data,
        weights(options),
        image_size=image_size(options),
        val_fraction=options.val_fraction,
        label_separator=options.label_separator,
        overrides=options.overrides,
        workers=options.workers,
    )
    if options.write is not None:
        write_json(options.write, short_values(result.experiment))
    print(as_text(result, options.write))
    if options.json is not None:
        write_json(options.json, result.to_dict())
        print(f"\n{printable(str(options.json))}")
