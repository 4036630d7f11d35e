"""Weights in repositories of the Hugging Face Hub, fetched and kept by ``huggingface_hub``.

Where the Hub is, where its files are kept, whether the network may be used, and who asks is the
library's to know: from HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and HF_TOKEN. It is
imported where it is needed, as that takes time.
"""

import errno
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vit_lightning.checkpoints.repository import COMPANIONS, INDICES, WEIGHTS, is_ours, weights_of
from vit_lightning.download import check_file, size_text
from vit_lightning.errors import InputError

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

_PREFIXES = ("hf-hub:", "hf_hub:")
_ID = re.compile(r"([A-Za-z0-9][-\w.]*/[A-Za-z0-9][-\w.]*)(?:@([-\w./]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAIN = "main"


@dataclass(frozen=True)
class HubFiles:
    """The files of a model, of one commit, in the Hub's cache on this machine.

    Args:
        weights: the weights file.
        companions: "config.json" and "preprocessor_config.json", where the repository has them.
        remark: why they may not be the newest, or not all; empty if the Hub was asked.
    """

    weights: Path
    companions: Mapping[str, Path]
    remark: str = ""


class HubError(InputError):
    """The Hub did not give the files; the message is the reason alone."""


def parse_hub_id(spec: str) -> tuple[str, str | None] | None:
    """Repository and revision of ``org/name``, ``org/name@revision``, with or without ``hf-hub:``.

    None if it is no such id.
    """
    for prefix in _PREFIXES:
        spec = spec.removeprefix(prefix)
    match = _ID.fullmatch(spec)
    return (match[1], match[2]) if match else None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to use the network."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def cache_folder() -> Path:
    """Where the library keeps what it fetched."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def endpoint() -> str:
    """The address of the Hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def find_on_hub(repo_id: str, revision: str | None = None, *, may_fetch: bool = True) -> HubFiles:
    """The weights of a repository and their configuration; fetched, unless they are here.

    An unreachable Hub is asked once, so that the answer comes within seconds, and does no harm
    if the files are in the cache.

    Args:
        repo_id: ``org/name``.
        revision: a branch, tag or commit; by default the newest.
        may_fetch: whether the network may be used.

    Raises:
        HubError: the files are not here and could not be had.
    """
    if not may_fetch or is_offline():
        why = "HF_HUB_OFFLINE is set, and " if may_fetch else ""
        return _in_cache(repo_id, revision, f"{why}it is not in the cache ({cache_folder()})")
    try:
        name, metadata, commit = _on_hub(repo_id, revision)
        # Before the weights: only with these does the cache note which commit a branch has, so
        # that what is interrupted in between is never taken for a model without companions.
        companions = {file: _fetch_companion(repo_id, commit, file) for file in COMPANIONS}
    except HubError as error:
        # It may be gone, gated or out of reach by now; what was fetched before still serves.
        files = _in_cache(repo_id, revision, str(error))
        remarks = (f"from the Hub's cache ({error})", files.remark)
        return replace(files, remark="; ".join(filter(None, remarks)))
    weights = _fetch_weights(repo_id, revision, name, metadata)
    return HubFiles(weights, {name: path for name, path in companions.items() if path})


def _on_hub(repo_id: str, revision: str | None) -> tuple[str, "HfFileMetadata", str]:
    """Name and description of the weights file as the Hub has it now, and of which commit it is."""
    found = {}
    for name in (*WEIGHTS, *INDICES):
        metadata = _describe(repo_id, revision, name)
        if metadata is not None:
            found[name] = metadata
            break
    try:
        name = weights_of(found, "this repository")
    except InputError as error:
        raise HubError(str(error)) from None
    commit = found[name].commit_hash
    if commit is None:
        raise HubError(_no_hub())
    return name, found[name], commit


def _describe(repo_id: str, revision: str | None, name: str) -> "HfFileMetadata | None":
    """What the Hub says of a file, without the library's patience; None if it has none such."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return get_hf_file_metadata(hf_hub_url(repo_id, name, revision=revision))
    except RemoteEntryNotFoundError:
        return None
    # The library's errors, those of its HTTP and of its Xet client have no common root.
    except Exception as error:
        raise HubError(_words(error, revision)) from None


def _fetch_companion(repo_id: str, commit: str, name: str) -> Path | None:
    """A small file of a commit; None if it has none such, which the cache remembers."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    known = try_to_load_from_cache(repo_id, name, revision=commit)
    if isinstance(known, str):
        return Path(known)
    if known is _CACHED_NO_EXIST:
        return None
    try:
        _describe(repo_id, commit, name)  # a Hub in trouble is not asked with more patience
    except HubError as error:
        raise HubError(f"{name}: {error}") from None
    return _fetch(repo_id, commit, name)


def _fetch_weights(
    repo_id: str, revision: str | None, name: str, metadata: "HfFileMetadata"
) -> Path:
    """The weights file, compared with its checksum if it is fetched now."""
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(repo_id, name, revision=metadata.commit_hash)
    if not isinstance(known, str):
        size = "" if metadata.size is None else f" ({size_text(metadata.size)})"
        text = f"Downloading {repo_id}/{name}{size} from {endpoint()}"
        print(text, file=sys.stderr, flush=True)
    path = _fetch(repo_id, revision, name)
    if path is None:
        raise HubError(f"{name} has just been removed from the repository")
    if path.parent.name != metadata.commit_hash:
        raise HubError("the repository has changed meanwhile; try again")
    etag = metadata.etag or ""
    if not isinstance(known, str) and _SHA256.fullmatch(etag):  # of what Git LFS keeps
        try:
            check_file(path, sha256=etag)
        except InputError as error:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise HubError(f"{name} arrived damaged: {error}; try again") from None
    return path


def _fetch(repo_id: str, revision: str | None, name: str) -> Path | None:
    """A file of a repository, through the library's cache; None if there is no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id, name, revision=revision))
    except RemoteEntryNotFoundError:
        return None
    except Exception as error:
        raise HubError(f"{name}: {_words(error, revision)}") from None


def _in_cache(repo_id: str, revision: str | None, reason: str) -> HubFiles:
    """The files as they were fetched before; HubError with ``reason`` if they were not."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(repo_id, name, revision=revision) for name in WEIGHTS]
    except HFValidationError as error:
        raise HubError(_words(error, revision)) from None
    weights = next((Path(path) for path in found if isinstance(path, str)), None)
    if weights is None:
        raise HubError(reason)
    companions, unknown = {}, []
    for name in COMPANIONS:
        path = try_to_load_from_cache(repo_id, name, revision=weights.parent.name)
        if isinstance(path, str):
            companions[name] = Path(path)
        elif path is not _CACHED_NO_EXIST:
            unknown.append(name)
    return HubFiles(weights, companions, _remark_on(unknown, weights, companions, reason))


def _remark_on(
    unknown: Sequence[str], weights: Path, companions: Mapping[str, Path], reason: str
) -> str:
    """What to say of companions that were never fetched, and not found missing either.

    Other programs that fill the cache fetch what they need themselves; a fetch can be interrupted.
    HubError if the weights are of no use without.
    """
    if not unknown or is_ours(weights):
        return ""
    config, preprocessor = COMPANIONS
    if config in unknown:
        raise HubError(
            f"the weights are in the cache, but {config}, which tells how to compute with them, "
            f"was never fetched: go online once ({reason})"
        )
    if config in companions and _is_timms(companions[config]):
        return ""  # all is in the one file
    return f"{preprocessor} was never fetched; whether the repository has it is not known here"


def _is_timms(config: Path) -> bool:
    try:
        return "pretrained_cfg" in json.loads(config.read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _words(error: Exception, revision: str | None) -> str:
    """The reason of an error of the library, in a sentence's words."""
    from huggingface_hub import errors

    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception):
        return _words(cause, revision)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"gated: accept its terms on its page at {endpoint()}, and log in with "
            f"`hf auth login` or HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "no such repository, or a private one: check the name, and log in with "
            "`hf auth login` or HF_TOKEN if it is private"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision or _MAIN!r}"
    if isinstance(error, errors.HFValidationError):
        return f"no name that the Hub allows ({_first_line(error)})"
    if isinstance(error, errors.FileMetadataError):
        return _no_hub()
    if isinstance(error, errors.HfHubHTTPError):
        return f"the Hub answered {error.response.status_code} ({error.response.reason_phrase})"
    # The HTTP client changes its package with the library's version, not the names.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "TimeoutException" in kinds:
        return f"no answer from {endpoint()} in time"
    if "TransportError" in kinds:
        return f"no connection to {endpoint()} ({_first_line(error)})"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk that holds {cache_folder()} is full"
    return _first_line(error)


def _no_hub() -> str:
    return f"{endpoint()} does not answer as a Hub does; see HF_ENDPOINT"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
