"""Fetching one file: resumed after a cut, checked before it takes its name, once for all processes.

A file arrives as ``NAME.part`` beside its target. What it is a part of (the address and the
server's mark of the version) is noted in ``NAME.part.from``, so that a later try, also one of
another process after a crash, asks for the rest only, and starts anew if the file has changed.
"""

import base64
import binascii
import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from vit_lightning.errors import InputError
from vit_lightning.files import write_text

_CHUNK = 1 << 20
_TIMEOUT = 15.0  # seconds without a byte
_WAITS = (0.5, 2.0, 4.0)  # seconds before each further try
_STRIDE = 1 << 20  # bytes after which the tries are counted anew
_PATIENCE = 1.0  # seconds before a process says that it waits for another
_WORTH_ANOTHER_TRY = frozenset({408, 429})  # and every 5xx
_Check = Callable[[Path], None]
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class DownloadError(InputError):
    """A file could not be fetched; the message is the reason alone, to be put into a sentence.

    Attributes:
        status: the server's answer in HTTP's numbers, if it was one that refuses.
    """

    def __init__(self, reason: str, status: int | None = None):
        super().__init__(reason)
        self.status = status


class _CutError(DownloadError):
    """A failure that another try may mend."""


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    what: str,
    by_hand: Path | None = None,
) -> None:
    """:func:`fetch` for a file that people can also fetch themselves.

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
        fetch(url, target, what=what, sha256=sha256, md5=md5)
    except DownloadError as error:
        raise InputError(
            f"could not download {what} from {url}: {error}\n"
            f"  If this machine has no network, fetch that file elsewhere and save it as "
            f"{by_hand or target}"
        ) from None


def fetch(
    url: str,
    target: Path,
    *,
    what: str,
    sha256: str | None = None,
    md5: str | None = None,
    check: _Check | None = None,
) -> None:
    """Fetch ``url`` to ``target`` unless it is there, with progress on standard error.

    ``target`` appears only once it is whole and its checksums are right: those given, and the
    one that Google's storage sends. Of several processes one fetches and the others wait.

    Args:
        url: what to fetch (http or https).
        target: where it goes; its folder is made.
        what: what the file is, for the reader.
        sha256: expected checksum in hexadecimal, or None.
        md5: the same.
        check: looks at the file before it takes its name, and raises InputError for something
            else than was asked for, such as a login page.

    Raises:
        DownloadError: the reason, as far as the server or this machine told it.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError("not an address that begins with https://")
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target, what):
            if not target.exists():
                checks: list[_Check] = [lambda part: check_file(part, sha256=sha256, md5=md5)]
                _fetch_alone(url, target, what, [*checks, check] if check else checks)
    except OSError as error:
        raise DownloadError(_disk_reason(error, target.parent)) from None


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


def size_text(size: int) -> str:
    """A number of bytes for people: ``412 MB``."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            number = size / limit
            return f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}"
    return f"{size} bytes"


def part_files(target: Path) -> tuple[Path, Path]:
    """What an unfinished fetch leaves beside ``target``: the part, and the note of its origin."""
    part = target.with_name(f"{target.name}.part")
    return part, part.with_name(f"{part.name}.from")


@contextlib.contextmanager
def _locked(target: Path, what: str) -> Iterator[None]:
    """Hold the right to fetch ``target``; waits for another process that has it."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        _say(f"Waiting for another process that fetches {what}")
        lock.acquire()
    try:
        yield
    finally:
        # Before it is released: a process that waits for it notices, and makes its own.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _fetch_alone(url: str, target: Path, what: str, checks: Sequence[_Check]) -> None:
    part, note = part_files(target)
    known, waits = _size(part), iter(_WAITS)
    while True:
        try:
            _try(url, part, note, what, checks)
            break
        except _CutError as cut:
            if _size(part) >= known + _STRIDE:
                known, waits = _size(part), iter(_WAITS)
            wait = next(waits, None)
            if wait is None:
                raise
            _say(f"{what}: {cut}; trying again")
            time.sleep(wait)
    with part.open("rb") as whole:
        os.fsync(whole.fileno())
    part.replace(target)
    note.unlink(missing_ok=True)


def _try(url: str, part: Path, note: Path, what: str, checks: Sequence[_Check]) -> None:
    """One request; afterwards ``part`` is the whole file."""
    version = _version_of_part(url, part, note)
    # One byte less than is here, so that something is left to ask for.
    start = max(_size(part) - 1, 0) if version else 0
    headers = {"User-Agent": "vit-lightning", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    with _open(urllib.request.Request(url, headers=headers), part) as response:
        found = _version(response.headers)
        if response.status != http.client.PARTIAL_CONTENT:
            start = 0
        elif _first_byte(response.headers) != start or found not in ("", version):
            part.unlink()
            raise _CutError("the file on the server has changed meanwhile")
        if not start:
            part.write_bytes(b"")  # before the note: it never speaks of an older part
            write_text(note, json.dumps({"url": url, "version": found}))
        _copy(response, part, start, what, url)
        announced = _google_md5(response.headers)
    try:
        check_file(part, md5=announced)
        for check in checks:
            check(part)
    except InputError as error:
        part.unlink()
        note.unlink(missing_ok=True)
        # A part that a crash has damaged is no fault of the server's.
        raise (_CutError if start else DownloadError)(str(error)) from None


def _copy(response: Any, part: Path, start: int, what: str, url: str) -> None:
    """Write what arrives to ``part`` from byte ``start`` on."""
    rest = response.headers.get("Content-Length", "")
    total = start + int(rest) if rest.isdigit() else None
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise DownloadError(
            f"{part.parent} has no room for it: {size_text(total - start)} are needed, "
            f"{size_text(free)} are free"
        )
    # Unbuffered: what has arrived is kept even if this process is killed.
    with part.open("r+b", buffering=0) as file, _progress(start, total, what, url) as bar:
        file.seek(start)
        while chunk := _read(response):
            _write_all(file, chunk)
            bar.update(len(chunk))
    # A connection that ends early looks like the end of the file.
    if total is not None and _size(part) != total:
        raise _CutError(f"the connection ended after {_size(part)} of {total} bytes")


def _read(response: Any) -> bytes:
    try:
        chunk: bytes = response.read1(_CHUNK)
    except (http.client.HTTPException, OSError) as error:
        raise _CutError(f"the connection broke ({error or type(error).__name__})") from None
    return chunk


def _write_all(file: IO[bytes], chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def _open(request: urllib.request.Request, part: Path) -> Any:
    host = urlsplit(request.full_url).netloc
    try:
        return urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
            raise _CutError("the file on the server is shorter than what is here") from None
        again = error.code >= 500 or error.code in _WORTH_ANOTHER_TRY
        reason = f"the server answered {error.code} ({error.reason})"
        raise (_CutError if again else DownloadError)(reason, error.code) from None
    except urllib.error.URLError as error:
        raise DownloadError(f"no connection to {host}: {_words(error.reason)}") from None
    except TimeoutError:
        raise DownloadError(f"no answer from {host} within {_TIMEOUT:.0f} seconds") from None
    except (http.client.InvalidURL, ValueError) as error:
        raise DownloadError(f"not an address: {error}") from None
    except (http.client.HTTPException, OSError) as error:
        raise _CutError(f"no answer from {host}: {error or type(error).__name__}") from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to https, and from http to http; never to what is read or listened to more easily."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and scheme != urlsplit(req.full_url).scheme:
            fp.close()
            raise DownloadError(f"the server leads on to {newurl}, where it is not safe to follow")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _version_of_part(url: str, part: Path, note: Path) -> str:
    """The server's mark of the version that ``part`` is of; empty if it cannot be gone on with."""
    try:
        noted = json.loads(note.read_text("utf-8")) if part.is_file() else {}
        version = noted.get("version") if noted.get("url") == url else ""
    except (OSError, ValueError, AttributeError):
        return ""
    return version if isinstance(version, str) else ""


def _version(headers: Message) -> str:
    """What tells this version of a file from others, in a form that If-Range takes; or empty."""
    etag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag


def _first_byte(headers: Message) -> int:
    match = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _google_md5(headers: Message) -> str | None:
    """The checksum that Google's storage sends as ``x-goog-hash: md5=<base64>``."""
    for part in ",".join(headers.get_all("x-goog-hash", [])).split(","):
        name, _, value = part.strip().partition("=")
        if name == "md5":
            with contextlib.suppress(binascii.Error):
                return base64.b64decode(value, validate=True).hex()
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _words(reason: object) -> str:
    """The system's words for why there is no connection, without its number."""
    return (reason.strerror if isinstance(reason, OSError) else None) or str(reason)


def _disk_reason(error: OSError, folder: Path) -> str:
    if error.errno in _FULL:
        return f"the disk that holds {folder} is full"
    return f"{error.filename or folder} cannot be written: {error.strerror or error}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _progress(start: int, total: int | None, what: str, url: str) -> Any:
    terminal = sys.stderr.isatty()
    if not terminal:
        size = f" ({size_text(total)})" if total else ""
        gone = f", going on after {size_text(start)}," if start else ""
        _say(f"Downloading {what}{size}{gone} from {url}")
    return tqdm(
        total=total,
        initial=start,
        desc=f"Downloading {what}",
        unit="B",
        unit_scale=True,
        disable=not terminal,
    )
