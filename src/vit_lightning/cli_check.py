"""``vit check``: what is in a data set that nobody has looked at."""

import argparse
from pathlib import Path
from typing import Any

from vit_lightning.console import printable
from vit_lightning.errors import InputError
from vit_lightning.files import refuse_unwritable, write_text

_PROBLEMS = 1


def add_check_command(commands: Any) -> None:
    """Add ``check`` to the commands of ``vit``, what ``add_subparsers`` returned."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="tell what is wrong with a data set",
        description=(
            "Read every picture and tell of unreadable files, duplicates within and across "
            "splits, conflicting labels, classes, sizes, channels and speed. Exit code 1 if there "
            "is a problem."
        ),
    )
    parser.set_defaults(command=_check)
    parser.add_argument(
        "source",
        type=Path,
        help="a folder with a folder for each class, or with train, val and test; or an "
        "experiment file",
        metavar="PATH_OR_EXPERIMENT",
    )
    parser.add_argument(
        "--against",
        type=Path,
        help="look for these pictures in another data set too, through crops and rescaling",
        metavar="OTHER",
    )
    parser.add_argument("--html", type=Path, help="write a page with thumbnails", metavar="FILE")
    parser.add_argument("--json", type=Path, help="write all findings as JSON", metavar="FILE")
    parser.add_argument(
        "--workers", type=int, help="reading processes (default: one per core)", metavar="N"
    )
    parser.add_argument("--no-speed", action="store_true", help="leave out the throughput")
    parser.add_argument(
        "overrides",
        nargs="*",
        help="settings of an experiment to change, such as data.root=elsewhere",
        metavar="part.name=value",
    )


def _check(options: argparse.Namespace) -> int:
    """Print the findings, write them where asked; returns the exit code."""
    if options.workers is not None and options.workers < 0:
        raise InputError(f"--workers: 0 or more processes, got {options.workers}")
    written = [path for path in (options.html, options.json) if path is not None]
    for path in written:
        refuse_unwritable(path)
    if len({path.absolute() for path in written}) < len(written):
        raise InputError(f"{options.html}: --html and --json need a file each")
    from vit_lightning.check.html import as_html
    from vit_lightning.check.run import check_data
    from vit_lightning.check.text import as_text
    from vit_lightning.json_file import write_json

    findings = check_data(
        options.source,
        options.against,
        options.overrides,
        workers=options.workers,
        speed=not options.no_speed,
    )
    print(as_text(findings))
    if options.json is not None:
        write_json(options.json, findings.values)
    if options.html is not None:
        write_text(options.html, as_html(findings))
    if written:
        print("\n" + "\n".join(printable(str(path)) for path in written))
    return _PROBLEMS if findings.problems else 0
