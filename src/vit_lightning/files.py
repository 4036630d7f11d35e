"""Where files are kept, and how they are written so that a crash never leaves half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vit_lightning.errors import InputError


def cache_folder() -> Path:
    """What can be had again is kept here: $VIT_LIGHTNING_CACHE, else in the user's cache folder."""
    own = os.environ.get("VIT_LIGHTNING_CACHE")
    if own:
        return Path(own).expanduser()
    users = os.environ.get("XDG_CACHE_HOME")
    return (Path(users) if users else Path.home() / ".cache") / "vit-lightning"


def refuse_unwritable(path: Path) -> None:
    """Say before the work of minutes that its result could not be written.

    Raises:
        InputError: the path is a folder, or lies where nothing can be written.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"{path} cannot be written: {nearest} is no folder to write in")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` if the block succeeds.

    The parent folder is made. On an exception the temporary file is removed and ``path`` stays as
    it was. The temporary name keeps the suffix, because some writers choose their format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
