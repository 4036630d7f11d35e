"""A server of files on this machine that can be told to misbehave, and a Hub made of it."""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = (2).to_bytes(8, "little") + b"{}"
"""A .safetensors without tensors: the least that is a file of weights."""


@dataclass
class Served:
    """What is at one address, and how it is served.

    Args:
        content: the bytes.
        etag: the version; None to send none.
        status: the answer; the content is sent along only with 200.
        headers: sent besides, as they are.
        cuts: at how many bytes of the body the connection ends, for one request after another.
        announced: the Content-Length, if not the true one; 0 to send none.
        ranges: whether parts can be asked for.
        heeds_if_range: whether a part is refused to those who have another version.
        stop_at: after how many bytes of the body to wait for ``go_on``; negative for before the
            headers.
    """

    content: bytes = b""
    etag: str | None = '"1"'
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    announced: int | None = None
    ranges: bool = True
    heeds_if_range: bool = True
    stop_at: int | None = None
    go_on: threading.Event = field(default_factory=threading.Event)


class FileServer:
    """Serves ``files``, path → :class:`Served`, on a port of its own.

    Attributes:
        url: the address, without a slash at the end.
        requests: (method, path, headers in lower case) of every request, in their order.
    """

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def put(self, path: str, content: bytes = b"", **how: object) -> Served:
        """Serve ``content`` at ``path``, which begins with a slash."""
        self.files[path] = Served(content, **how)  # type: ignore[arg-type]
        return self.files[path]

    def put_repository(
        self, name: str, files: Mapping[str, bytes], revision: str = "main", commit: str = COMMIT
    ) -> None:
        """Serve a repository as the Hub does, by its branch or tag and by its commit.

        Weights have their SHA-256 as version.
        """
        places = [f"/{name}/resolve/{place}/" for place in (revision, commit)]
        self.files |= dict.fromkeys(places, Served(headers={"X-Repo-Commit": commit}))
        for file, content in files.items():
            large = file.endswith((".safetensors", ".bin"))
            digest = (hashlib.sha256 if large else hashlib.sha1)(content).hexdigest()
            headers = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(content))}
            etag = f'"{digest}"'
            served = Served(content, etag, headers=headers)
            self.files |= {f"{place}{file}": served for place in places}

    def put_error(self, name: str, status: int, code: str) -> None:
        """Answer everything below a repository with an error of the Hub's."""
        self.files[f"/{name}/"] = Served(status=status, headers={"X-Error-Code": code})

    def find(self, path: str) -> Served:
        """What answers at ``path``: the file, the error of its folder, or the Hub's "not found"."""
        path = path.partition("?")[0]
        if path in self.files:
            return self.files[path]
        name, resolve, rest = path.partition("/resolve/")
        if f"{name}/" in self.files:
            return self.files[f"{name}/"]
        folder = f"{name}{resolve}{rest.partition('/')[0]}/"
        if folder in self.files:
            headers = {"X-Error-Code": "EntryNotFound", **self.files[folder].headers}
            return Served(status=404, headers=headers)
        known = any(key.startswith(f"{name}/") for key in self.files)
        code = "RevisionNotFound" if known else "RepoNotFound"
        return Served(status=404, headers={"X-Error-Code": code} if resolve else {})

    def count(self, method: str = "GET") -> Counter[str]:
        """How often each path was asked for."""
        return Counter(path for asked, path, _ in self.requests if asked == method)

    @contextmanager
    def running(self) -> Iterator["FileServer"]:
        """Answer in a thread until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            for served in self.files.values():
                served.go_on.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


@contextmanager
def hub_at(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let ``huggingface_hub`` take ``address`` for the Hub and ``cache`` for its cache.

    It reads its environment when it is imported, so that variables alone would be too late.
    """
    from huggingface_hub import close_session, constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()
    yield
    close_session()


class _Handler(BaseHTTPRequestHandler):
    owner: FileServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.owner.requests.append((self.command, self.path, headers))
        served = self.owner.find(self.path)
        if served.stop_at is not None and served.stop_at < 0:
            served.go_on.wait(60)
        content = served.content if served.status == 200 else b""
        start = self._start(served, headers)
        if start > len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else served.status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if served.etag:
            self.send_header("ETag", served.etag)
        for name, value in served.headers.items():
            self.send_header(name, value)
        length = len(content) - start if served.announced is None else served.announced
        if length or not content:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if body:
            self._send(served, content[start:])

    def _start(self, served: Served, headers: Mapping[str, str]) -> int:
        """The first byte to send: not 0 if a part is asked for and can be given."""
        asked = headers.get("range", "").removeprefix("bytes=").partition("-")[0]
        if not asked or not served.ranges or served.status != 200:
            return 0
        same = headers.get("if-range", served.etag) == served.etag
        return int(asked) if same or not served.heeds_if_range else 0

    def _send(self, served: Served, body: bytes) -> None:
        end = served.cuts.pop(0) if served.cuts else len(body)
        if served.stop_at is not None and not served.go_on.is_set():
            self._write(body[: served.stop_at])
            served.go_on.wait(60)
            body, end = body[served.stop_at :], end - served.stop_at
        self._write(body[:end])
        self.close_connection = True

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:  # the other side has gone
            self.close_connection = True
