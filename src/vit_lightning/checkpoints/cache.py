"""The weights that are kept on this machine: those fetched here, and those of the Hub's cache."""

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from vit_lightning.checkpoints import hub
from vit_lightning.checkpoints.official import OfficialWeights, find_official
from vit_lightning.checkpoints.repository import WEIGHTS, is_ours
from vit_lightning.download import part_files
from vit_lightning.errors import InputError
from vit_lightning.files import cache_folder, write_text

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, CachedRevisionInfo, HFCacheInfo

_URLS = "url"  # the folder of what came from addresses, beside those of the collections
_ADDRESS = ".address"  # the suffix of the note that tells from which
_VIT_TYPES = ("vit", "deit")
_VIT_ARCHITECTURES = ("vit_", "deit_")


@dataclass(frozen=True)
class Cached:
    """Weights on this machine.

    Args:
        name: as one gives them: an official name, an address or a Hub id.
        path: the weights file, or what has arrived of it.
        size: bytes that removing them frees.
        where: whose cache holds them.
        complete: whether the file is whole.
    """

    name: str
    path: Path
    size: int
    where: Literal["vit-lightning", "hub"]
    complete: bool = True


def official_path(row: OfficialWeights) -> Path:
    """Where the official file of ``row`` is kept once it is fetched."""
    return cache_folder() / "weights" / row.collection / f"{row.name}.npz"


def url_path(url: str) -> Path:
    """Where the file at ``url`` is kept once it is fetched."""
    parts = urlsplit(url)
    name = re.sub(r"[^-+.\w]", "_", unquote(parts.path).rpartition("/")[2]) or "weights"
    host = re.sub(r"[^-.\w]", "_", parts.netloc).lstrip(".") or "_"
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    return cache_folder() / "weights" / _URLS / host / f"{digest}-{name[-100:]}"


def note_url(url: str, path: Path) -> None:
    """Write down where a kept file came from, for the list, if there is room for it."""
    note = path.with_name(path.name + _ADDRESS)
    if not note.exists():
        with contextlib.suppress(OSError):
            write_text(note, f"{url}\n")


def list_cached() -> list[Cached]:
    """All weights that are kept, by name; of the Hub's cache only Vision Transformers."""
    entries = [*_own_entries(), *(entry for entry, _, _ in _hub_entries(_scan_hub()))]
    return sorted(entries, key=lambda entry: (entry.name, entry.where))


def remove_cached(name: str) -> dict[str, int]:
    """Remove weights from the caches they are in.

    Args:
        name: a name of the list; an official one means Google's file and its mirror on the Hub,
            whichever are kept.

    Returns:
        The name in the list of each that was removed → the bytes that this freed.

    Raises:
        InputError: no weights of that name are kept; the message lists those that are.
    """
    meant = {name, name.removesuffix(".npz").removeprefix("hf-hub:"), *_mirror_of(name)}
    kept = list_cached()
    entries = [entry for entry in kept if entry.name in meant]
    if not entries:
        listed = "".join(f"\n  {entry.name}" for entry in kept) or " nothing"
        raise InputError(f"no weights {name!r} are kept here. Kept are:{listed}")
    freed: Counter[str] = Counter()
    for entry in entries:
        freed[entry.name] += _remove(entry)
    return dict(freed)


def _mirror_of(name: str) -> tuple[str, ...]:
    try:
        row = find_official(name)
    except InputError:
        return ()
    return (row.mirror,) if row is not None and row.mirror is not None else ()


def _own_entries() -> Iterator[Cached]:
    root = cache_folder() / "weights"
    for path in sorted(root.glob("*/*.npz")):
        yield _entry(f"{path.parent.name}/{path.stem}", path)
    for path in sorted(root.glob("*/*.npz.part")):
        yield _entry(f"{path.parent.name}/{path.name.removesuffix('.npz.part')}", path)
    for path in sorted(root.glob(f"{_URLS}/*/*")):
        if path.suffix not in (_ADDRESS, ".from", ".lock", ".tmp"):
            whole = path.with_name(path.name.removesuffix(".part"))
            note = whole.with_name(whole.name + _ADDRESS)
            known = note.is_file()
            yield _entry(note.read_text("utf-8").strip() if known else str(whole), path)


def _entry(name: str, path: Path) -> Cached:
    complete = path.suffix != ".part"
    return Cached(name, path, path.stat().st_size, "vit-lightning", complete)


def _remove(entry: Cached) -> int:
    if entry.where == "hub":
        return _remove_from_hub(entry.name)
    whole = entry.path if entry.complete else entry.path.with_suffix("")
    for path in (entry.path, *part_files(whole), whole.with_name(whole.name + _ADDRESS)):
        path.unlink(missing_ok=True)
    return entry.size


def _remove_from_hub(name: str) -> int:
    cache = _scan_hub()
    assert cache is not None, name
    _, repository, revision = next(row for row in _hub_entries(cache) if row[0].name == name)
    # Of this repository alone: another, pushed from the same clone, has the same commits.
    cache = replace(cache, repos=frozenset({repository}))
    strategy = cache.delete_revisions(revision.commit_hash)
    strategy.execute()
    return strategy.expected_freed_size


def _scan_hub() -> "HFCacheInfo | None":
    """What is in the Hub's cache; None if there is none."""
    if not hub.cache_folder().is_dir():
        return None
    from huggingface_hub import scan_cache_dir

    return scan_cache_dir(hub.cache_folder())


def _hub_entries(
    cache: "HFCacheInfo | None",
) -> Iterator[tuple[Cached, "CachedRepoInfo", "CachedRevisionInfo"]]:
    """The Vision Transformers of the Hub's cache."""
    for repository in cache.repos if cache else ():
        if repository.repo_type != "model":
            continue
        for revision in repository.revisions:
            files = {file.file_name: file.file_path for file in revision.files}
            weights = next((files[name] for name in WEIGHTS if name in files), None)
            if weights is not None and (_is_vit(files.get("config.json")) or is_ours(weights)):
                name = _name(repository, revision)
                entry = Cached(name, weights, revision.size_on_disk, "hub")
                yield entry, repository, revision


def _name(repository: "CachedRepoInfo", revision: "CachedRevisionInfo") -> str:
    if "main" in revision.refs:
        return repository.repo_id
    return f"{repository.repo_id}@{min(revision.refs, default=revision.commit_hash)}"


def _is_vit(config: Path | None) -> bool:
    """Whether a configuration of timm or Hugging Face describes a Vision Transformer."""
    try:
        values = json.loads(config.read_text("utf-8")) if config else {}
    except (OSError, ValueError):
        return False
    if not isinstance(values, dict):
        return False
    architecture = str(values.get("architecture", ""))
    return values.get("model_type") in _VIT_TYPES or architecture.startswith(_VIT_ARCHITECTURES)
