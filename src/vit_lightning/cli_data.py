"""``vit data``: what is kept of data sets on this machine, so that it need not be done again."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_lightning.console import printable, printable_lines
from vit_lightning.errors import InputError

if TYPE_CHECKING:
    from vit_lightning.data.decoded_caches import Cache
    from vit_lightning.data.pictures import Pictures
    from vit_lightning.settings import CacheSettings


def add_data_command(commands: Any) -> None:
    """Add ``vit data cache | list | remove`` to the commands of the parser."""
    data = commands.add_parser("data", help="keep pictures decoded, list or remove what is kept")
    actions = data.add_subparsers(title="actions", required=True, metavar="ACTION")

    cache = actions.add_parser(
        "cache",
        help="decode pictures ahead of a training",
        description="Decode the pictures of an experiment or a folder and keep them, as the first "
        "epoch of a training with data.cache does. What is there already is not done again.",
    )
    cache.set_defaults(command=_cache)
    cache.add_argument(
        "source", type=Path, help="an experiment file or a folder", metavar="EXPERIMENT|FOLDER"
    )
    cache.add_argument(
        "--shorter-side", type=int, help="scale pictures down to this, in pixels", metavar="N"
    )
    cache.add_argument("--max-gb", type=float, help="most that all may take", metavar="G")
    cache.add_argument(
        "--workers", type=int, help="decoding processes (default: one per core)", metavar="N"
    )
    cache.add_argument(
        "overrides",
        nargs="*",
        help="settings of an experiment to change, such as data.root=elsewhere",
        metavar="part.name=value",
    )

    listing = actions.add_parser("list", help="the data sets that are kept, and their size")
    listing.set_defaults(command=_list)

    remove = actions.add_parser("remove", help="remove what is kept; asks nothing")
    remove.set_defaults(command=_remove)
    remove.add_argument("names", nargs="*", help="names as the list gives them", metavar="NAME")
    remove.add_argument("--all", action="store_true", help="everything that the list gives")
    for command in (listing, remove):
        command.add_argument(
            "--folder", help="where decoded pictures are, if data.cache.folder says so"
        )


def _cache(options: argparse.Namespace) -> None:
    if options.workers is not None and options.workers < 0:
        raise InputError(f"--workers: 0 or more processes, got {options.workers}")
    splits, settings = _source(options)
    from vit_lightning.data.decoded import CachedPictures, build, open_cache
    from vit_lightning.progress import Progress

    unreadable: list[str] = []
    notes: dict[Path, str] = {}  # splits may share a cache
    for name, pictures in splits.items():
        cached = open_cache(pictures, settings)
        if not isinstance(cached, CachedPictures):
            raise InputError(
                f"{options.source}: these pictures are no files of their own; only such are kept"
            )
        with Progress(len(cached), f"decode {name}", "pictures") as progress:
            unreadable += build(cached, options.workers, progress.update)
        notes[cached.folder] = cached.note()
    print(printable_lines("\n".join(notes.values())))
    if unreadable:
        listed = "\n  ".join(unreadable[:50] + ["..."] * (len(unreadable) > 50))
        raise InputError(f"{len(unreadable)} pictures cannot be read:\n  {listed}")


def _source(options: argparse.Namespace) -> "tuple[dict[str, Pictures], CacheSettings]":
    """The splits to decode, and how they are to be kept."""
    from vit_lightning.settings import CacheSettings

    if options.source.is_dir():
        if options.overrides:
            raise InputError(
                f"{options.source} is a folder: {options.overrides[0]} is for experiment files"
            )
        from vit_lightning.data.folder import all_pictures

        return {"pictures": all_pictures(options.source)}, _settings(options, CacheSettings())
    from vit_lightning.experiment import load_experiment

    experiment = load_experiment(options.source, options.overrides)
    settings = _settings(options, experiment.data.cache or CacheSettings())
    from vit_lightning.assemble import open_splits  # seconds, for Lightning

    # As files: how they are decoded and kept is what this command is about.
    plain = experiment.data.model_copy(update={"decoding": "full", "cache": None})
    splits = open_splits(experiment.model_copy(update={"data": plain}))
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {name: part for name, part in parts.items() if part is not None}, settings


def _settings(options: argparse.Namespace, settings: "CacheSettings") -> "CacheSettings":
    given = {"shorter_side": options.shorter_side, "max_gb": options.max_gb}
    for name, value in given.items():
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')}: must be more than 0, got {value}")
    return settings.model_copy(update={k: v for k, v in given.items() if v is not None})


def _list(options: argparse.Namespace) -> None:
    from vit_lightning.data.decoded_caches import caches_folder, list_caches
    from vit_lightning.data.listing import list_indices, listings_folder
    from vit_lightning.download import size_text
    from vit_lightning.probe.store import features_folder, list_features

    folder = caches_folder(options.folder)
    caches, indices = list_caches(folder), list_indices()
    rows = [(cache.name, cache.size, _describe(cache)) for cache in caches]
    rows += [(path.name, path.stat().st_size, f"file names, {root}") for path, root in indices]
    rows += [(kept.name, kept.size, f"features, {kept.title}") for kept in list_features()]
    width = max((len(name) for name, _, _ in rows), default=0)
    for name, size, what in rows:
        print(f"{name:<{width}}  {size_text(size):>9}  {printable(what)}")
    total = size_text(sum(size for _, size, _ in rows))
    print(f"{len(rows)} kept, {total}")
    print(f"decoded pictures: {folder}\nfile names: {listings_folder()}")
    print(f"features: {features_folder()}")


def _describe(cache: "Cache") -> str:
    from vit_lightning.data.decoded_store import count_kept

    count, side = cache.about.get("count"), cache.about.get("shorter_side")
    scaled = "" if side is None else f", shorter side {side}"
    if "root" not in cache.about:
        return "unfinished"
    return f"{count_kept(cache.folder)} of {count} pictures{scaled}, {cache.about['root']}"


def _remove(options: argparse.Namespace) -> None:
    from vit_lightning.data.decoded_caches import caches_folder, list_caches, remove_cache
    from vit_lightning.data.listing import list_indices
    from vit_lightning.download import size_text
    from vit_lightning.probe.store import list_features, remove_features

    if bool(options.names) == options.all:
        raise InputError("vit data remove: give names as vit data list has them, or --all")
    folder = caches_folder(options.folder)
    indices = {path.name: path for path, _ in list_indices()}
    features = {kept.name: kept for kept in list_features()}
    everything = [*(cache.name for cache in list_caches(folder)), *indices, *features]
    for name in everything if options.all else options.names:
        if name in indices:
            freed = indices[name].stat().st_size
            indices[name].unlink()
        elif name in features:
            freed = features[name].size
            remove_features(features[name])
        else:
            freed = remove_cache(folder, name)
        print(f"{name}: removed, {size_text(freed)} freed")
