"""``vit push``: a model published on the Hugging Face Hub."""

import argparse
from pathlib import Path
from typing import Any


def add_push_command(commands: Any) -> None:
    """Add ``push`` to the commands of ``vit``, what ``add_subparsers`` returned."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "push",
        help="publish a model on the Hugging Face Hub",
        description=(
            "Upload weights, configuration and a model card, so that timm, transformers and "
            "vit-lightning load the model by its name. The token is that of `hf auth login` or "
            "HF_TOKEN."
        ),
    )
    parser.set_defaults(command=_push)
    parser.add_argument(
        "source", help="a run's folder, a weights file or a name", metavar="RUN_OR_MODEL"
    )
    parser.add_argument("repo_id", help="where to: the owner and a name", metavar="org/name")
    parser.add_argument(
        "--private", action="store_true", help="let its owners alone see a new repository"
    )
    parser.add_argument(
        "--dry-run", type=Path, help="write the files to a folder, upload nothing", metavar="DIR"
    )
    parser.add_argument(
        "--license",
        help="as the Hub calls it, such as apache-2.0; else none is named",
        metavar="ID",
    )
    parser.add_argument(
        "--with-figure",
        action="store_true",
        help="publish attention.png too, which shows validation pictures",
    )


def _push(options: argparse.Namespace) -> None:
    from vit_lightning.publish.push import push

    push(
        options.source,
        options.repo_id,
        private=options.private,
        dry_run=options.dry_run,
        license_id=options.license,
        figure=options.with_figure,
    )
