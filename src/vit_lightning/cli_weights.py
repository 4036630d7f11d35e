"""``vit weights``: what is kept of weights on this machine."""

import argparse
from typing import Any


def add_weights_command(commands: Any) -> None:
    """Add ``vit weights list | path | remove`` to the commands of the parser."""
    weights = commands.add_parser("weights", help="list, find or remove weights kept here")
    actions = weights.add_subparsers(title="actions", required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="the weights that are kept, and their size")
    listing.set_defaults(command=_list)

    path = actions.add_parser("path", help="where weights are; fetches nothing")
    path.set_defaults(command=_path)
    path.add_argument("name", help="an official name, Hub id, address or file")

    remove = actions.add_parser("remove", help="remove weights from the cache; asks nothing")
    remove.set_defaults(command=_remove)
    remove.add_argument("names", nargs="+", help="names as the list gives them", metavar="NAME")


def _list(_: argparse.Namespace) -> None:
    from vit_lightning.checkpoints import hub
    from vit_lightning.checkpoints.cache import list_cached
    from vit_lightning.download import size_text
    from vit_lightning.files import cache_folder

    entries = list_cached()
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        unfinished = "" if entry.complete else "  (unfinished)"
        print(f"{entry.name:<{width}}  {size_text(entry.size):>9}  {entry.where}{unfinished}")
    total = size_text(sum(entry.size for entry in entries))
    print(f"{len(entries)} kept, {total}")
    print(f"vit-lightning: {cache_folder()}\nhub: {hub.cache_folder()}")


def _path(options: argparse.Namespace) -> None:
    from vit_lightning.checkpoints.locate import locate_weights

    print(locate_weights(options.name, may_fetch=False).path)


def _remove(options: argparse.Namespace) -> None:
    from vit_lightning.checkpoints.cache import remove_cached
    from vit_lightning.download import size_text

    for name in options.names:
        for removed, freed in remove_cached(name).items():
            print(f"{removed}: removed, {size_text(freed)} freed")
