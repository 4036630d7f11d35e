"""Fetching one file, checked before it takes its name."""

import hashlib
import http.client
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vit_lightning.errors import InputError
from vit_lightning.files import atomic_write

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    what: str,
    by_hand: Path | None = None,
) -> None:
    """Download ``url`` to ``target``, with progress on standard error.

    The file is written under a temporary name; ``target`` appears only once it is whole and its
    checksum is right.

    Args:
        url: what to fetch (http or https).
        target: where it goes; its folder is made.
        sha256: expected checksum in hexadecimal, or None.
        md5: the same, where the publisher gives only this one.
        what: what the file is, for the reader ("the Hymenoptera pictures").
        by_hand: where a reader without a network should put the file; by default ``target``.

    Raises:
        InputError: the file could not be had, or is not the expected one; the message says where
            to get it by hand and where to put it.
    """
    try:
        with atomic_write(target) as temporary:
            _fetch(url, temporary, what)
            check_file(temporary, sha256=sha256, md5=md5)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(
            f"could not download {what} from {url}: {error or type(error).__name__}\n"
            f"  If this machine has no network, fetch that file elsewhere and save it as "
            f"{by_hand or target}"
        ) from None


def check_file(path: Path, *, sha256: str | None = None, md5: str | None = None) -> None:
    """Compare a file with its checksums; InputError tells both when they differ."""
    for algorithm, expected in (("sha256", sha256), ("md5", md5)):
        if expected is None:
            continue
        found = file_hash(path, algorithm)
        if found != expected:
            raise InputError(f"its {algorithm} is {found}, expected {expected}")


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _fetch(url: str, target: Path, what: str) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "vit-lightning"})
    with _open(request) as response, target.open("wb") as file:
        header = response.headers.get("Content-Length")
        total = int(header) if header else None
        with _progress(total, what, url) as bar:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        # A connection that ends early looks like the end of the file to read().
        if total is not None and file.tell() != total:
            raise OSError(f"the connection ended after {file.tell()} of {total} bytes")


def _open(request: urllib.request.Request) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise


def _progress(total: int | None, what: str, url: str) -> Any:
    terminal = sys.stderr.isatty()
    if not terminal:
        size = f" ({total / 1e6:.0f} MB)" if total else ""
        print(f"Downloading {what}{size} from {url}", file=sys.stderr, flush=True)
    return tqdm(
        total=total, desc=f"Downloading {what}", unit="B", unit_scale=True, disable=not terminal
    )
