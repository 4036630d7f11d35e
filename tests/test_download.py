"""A file fetched from a server that cuts, lies, changes and refuses."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub_server import FileServer
from vit_lightning import download as module
from vit_lightning.download import (
    DownloadError,
    check_file,
    download,
    fetch,
    part_files,
    size_text,
)
from vit_lightning.errors import InputError

CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
FETCH = (
    "import sys; from pathlib import Path; from vit_lightning.download import fetch; "
    "fetch(sys.argv[1], Path(sys.argv[2]), what='the set')"
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "_WAITS", (0.0, 0.0))
    with FileServer().running() as server:
        yield server


def ranges(server: FileServer) -> list[str | None]:
    return [headers.get("range") for _, _, headers in server.requests]


@pytest.mark.parametrize("checksums", [{}, {"sha256": SHA256}, {"md5": MD5}])
def test_a_file_is_fetched(
    tmp_path: Path,
    server: FileServer,
    capsys: pytest.CaptureFixture[str],
    checksums: dict[str, str],
) -> None:
    server.put("/set.bin", CONTENT)
    target = tmp_path / "new" / "folder" / "set.bin"
    download(f"{server.url}/set.bin", target, what="the set", **checksums)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["set.bin"]
    said = f"Downloading the set (102 kB) from {server.url}/set.bin"
    assert said in capsys.readouterr().err


def test_what_is_there_is_not_fetched(tmp_path: Path, server: FileServer) -> None:
    (tmp_path / "set.bin").write_text("old")
    fetch(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set")
    assert (tmp_path / "set.bin").read_text() == "old"
    assert not server.requests


def test_a_terminal_sees_a_progress_bar(
    tmp_path: Path,
    server: FileServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    server.put("/set.bin", CONTENT)
    download(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set")
    assert "Downloading the set: 100%" in capsys.readouterr().err


# cuts


def test_a_cut_is_mended(
    tmp_path: Path,
    server: FileServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As often as it is cut, as long as enough comes each time."""
    monkeypatch.setattr(module, "_STRIDE", 10)
    server.put("/set.bin", CONTENT, cuts=[1000, 5000, 1, 70000, 2])
    fetch(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set", sha256=SHA256)
    starts = [999, 5998, 5998, 75997, 75998]
    assert ranges(server) == [None, *(f"bytes={start}-" for start in starts)]
    said = capsys.readouterr().err
    assert "the set: the connection ended after 1000 of 102400 bytes; trying again\n" in said
    assert "Downloading the set (102 kB), going on after 999 bytes, from " in said


def test_a_server_without_ranges_begins_anew(tmp_path: Path, server: FileServer) -> None:
    server.put("/set.bin", CONTENT, cuts=[1000, 5000], ranges=False)
    fetch(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set", sha256=SHA256)
    assert len(server.requests) == 3


def test_without_a_version_nothing_is_gone_on_with(tmp_path: Path, server: FileServer) -> None:
    for number, etag in enumerate([None, 'W/"weak"']):
        server.put(f"/{number}", CONTENT, cuts=[1000], etag=etag)
        fetch(f"{server.url}/{number}", tmp_path / str(number), what="the set", sha256=SHA256)
    assert ranges(server) == [None] * 4


@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_changes_between_two_tries_is_begun_anew(
    tmp_path: Path, server: FileServer, heeds: bool
) -> None:
    address, target = f"{server.url}/set.bin", tmp_path / "set.bin"
    server.put("/set.bin", b"old" * 9000, cuts=[5000, 0, 0])
    with pytest.raises(DownloadError, match="ended after 5000 of 27000 bytes"):
        fetch(address, target, what="the set")
    server.put("/set.bin", CONTENT, etag='"2"', heeds_if_range=heeds)
    fetch(address, target, what="the set")
    assert target.read_bytes() == CONTENT
    assert ranges(server)[3:] == (["bytes=4999-"] if heeds else ["bytes=4999-", None])


def test_a_file_that_has_become_shorter(tmp_path: Path, server: FileServer) -> None:
    address, target = f"{server.url}/set.bin", tmp_path / "set.bin"
    server.put("/set.bin", CONTENT, cuts=[5000, 0, 0])
    with pytest.raises(DownloadError):
        fetch(address, target, what="the set")
    server.put("/set.bin", b"short", etag='"2"', heeds_if_range=False)
    fetch(address, target, what="the set")
    assert target.read_bytes() == b"short"


@pytest.mark.parametrize("note", [None, "[]", "{", '{"url": "http://other/", "version": "1"}'])
def test_a_part_of_something_else_is_not_gone_on_with(
    tmp_path: Path, server: FileServer, note: str | None
) -> None:
    server.put("/set.bin", CONTENT)
    part, noted = part_files(tmp_path / "set.bin")
    part.write_bytes(b"other" * 100)
    if note is not None:
        noted.write_text(note)
    fetch(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    assert ranges(server) == [None]


def test_a_damaged_part_is_thrown_away(tmp_path: Path, server: FileServer) -> None:
    address = f"{server.url}/set.bin"
    server.put("/set.bin", CONTENT)
    part, note = part_files(tmp_path / "set.bin")
    part.write_bytes(bytes(len(CONTENT)))
    note.write_text(json.dumps({"url": address, "version": '"1"'}))
    fetch(address, tmp_path / "set.bin", what="the set", sha256=SHA256)
    assert ranges(server) == [f"bytes={len(CONTENT) - 1}-", None]
    assert [path.name for path in tmp_path.iterdir()] == ["set.bin"]


# lies and refusals


def test_what_is_something_else_never_takes_its_name(tmp_path: Path, server: FileServer) -> None:
    target = tmp_path / "set.bin"

    def check(part: Path) -> None:
        assert not target.exists()
        if part.read_bytes() != CONTENT:
            raise InputError("it is a login page")

    served = server.put("/set.bin", b"<html>")
    with pytest.raises(DownloadError, match=r"^it is a login page$"):
        fetch(f"{server.url}/set.bin", target, what="the set", check=check)
    assert list(tmp_path.iterdir()) == []
    served.content, served.etag = CONTENT, '"2"'
    fetch(f"{server.url}/set.bin", target, what="the set", check=check)
    assert [path.name for path in tmp_path.iterdir()] == ["set.bin"]


def test_a_length_that_is_too_long(tmp_path: Path, server: FileServer) -> None:
    server.put("/set.bin", CONTENT, announced=len(CONTENT) + 9, ranges=False)
    with pytest.raises(DownloadError, match="ended after 102400 of 102409 bytes"):
        fetch(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set")
    assert len(server.requests) == 3
    assert not (tmp_path / "set.bin").exists()


def test_a_length_that_is_too_short_shows_in_the_checksum(
    tmp_path: Path, server: FileServer
) -> None:
    server.put("/set.bin", CONTENT, announced=100)
    with pytest.raises(DownloadError, match="its sha256 is"):
        fetch(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set", sha256=SHA256)
    assert len(server.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_no_length_is_no_harm(tmp_path: Path, server: FileServer) -> None:
    server.put("/set.bin", CONTENT, announced=0)
    fetch(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(("tail", "fits"), [(b"", True), (b"!", False)])
def test_googles_checksum_is_compared(
    tmp_path: Path, server: FileServer, tail: bytes, fits: bool
) -> None:
    md5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    headers = {"x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"}
    server.put("/set.bin", CONTENT + tail, headers=headers)
    address, target = f"{server.url}/set.bin", tmp_path / "set.bin"
    if fits:
        fetch(address, target, what="the set")
    else:
        with pytest.raises(DownloadError, match=f"its md5 is .*, expected {MD5}"):
            fetch(address, target, what="the set")
    assert target.exists() == fits


def test_a_checksum_that_is_none_is_not_compared(tmp_path: Path, server: FileServer) -> None:
    server.put("/set.bin", CONTENT, headers={"x-goog-hash": "md5=?"})
    fetch(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set")
    assert (tmp_path / "set.bin").exists()


@pytest.mark.parametrize(
    ("status", "tries", "message"),
    [
        (403, 1, r"the server answered 403 \(Forbidden\)"),
        (404, 1, r"the server answered 404 \(Not Found\)"),
        (429, 3, r"the server answered 429 \(Too Many Requests\)"),
        (500, 3, r"the server answered 500 \(Internal Server Error\)"),
        (503, 3, r"the server answered 503 \(Service Unavailable\)"),
    ],
)
def test_refusals(
    tmp_path: Path, server: FileServer, status: int, tries: int, message: str
) -> None:
    server.put("/set.bin", status=status)
    with pytest.raises(DownloadError, match=f"^{message}$") as caught:
        fetch(f"{server.url}/set.bin", tmp_path / "new" / "set.bin", what="the set")
    assert caught.value.status == status
    assert len(server.requests) == tries
    assert not list((tmp_path / "new").iterdir())


def test_a_server_that_recovers(tmp_path: Path, server: FileServer) -> None:
    served = server.put("/set.bin", CONTENT, status=502)
    original = server.find

    def find(path: str) -> Any:
        served.status = 200 if len(server.requests) > 2 else 502
        return original(path)

    server.find = find  # type: ignore[method-assign]
    fetch(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


def test_redirects_are_followed(tmp_path: Path, server: FileServer) -> None:
    server.put("/old", status=302, headers={"Location": "/middle"})
    server.put("/middle", status=308, headers={"Location": f"{server.url}/set.bin"})
    server.put("/set.bin", CONTENT, cuts=[1000])
    fetch(f"{server.url}/old", tmp_path / "set.bin", what="the set")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    assert server.requests[-1][1:] == ("/set.bin", server.requests[-1][2])
    assert server.requests[-1][2]["range"] == "bytes=999-"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("ftp://127.0.0.1/set.bin", "leads on to ftp://127.0.0.1/set.bin, where it is not safe"),
        ("file:///etc/passwd", r"302 .*Redirection to url 'file:///etc/passwd' is not allowed"),
        ("/old", "302 .*infinite loop"),
    ],
)
def test_redirects_that_are_not_followed(
    tmp_path: Path, server: FileServer, target: str, message: str
) -> None:
    server.put("/old", status=302, headers={"Location": target})
    with pytest.raises(DownloadError, match=f"(?s){message}"):
        fetch(f"{server.url}/old", tmp_path / "set.bin", what="the set")
    assert not list(tmp_path.iterdir())


def test_from_https_to_http_is_not_followed() -> None:
    import urllib.request
    from email.message import Message

    request = urllib.request.Request("https://a.invalid/x")
    handler = module._Redirects()
    for target, followed in (("https://b.invalid/x", True), ("http://a.invalid/x", False)):
        arguments = (request, open(os.devnull, "rb"), 302, "Found", Message(), target)  # noqa: PTH123, SIM115
        with arguments[1]:
            if followed:
                assert handler.redirect_request(*arguments) is not None
            else:
                with pytest.raises(DownloadError, match="not safe to follow"):
                    handler.redirect_request(*arguments)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/x", "no connection to 127.0.0.1:1: Connection refused"),
        ("http://none.invalid/x", "no connection to none.invalid: .*known|.*resolution"),
        ("http:///x", "not an address|no connection"),
        ("http://a b/x", "not an address"),
        ("no address", "not an address that begins with https://"),
        ("file:///etc/passwd", "not an address that begins with https://"),
        ("ftp://127.0.0.1/x", "not an address that begins with https://"),
    ],
)
def test_no_connection(
    tmp_path: Path, url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(InputError, match=f"^could not download the set from {url}: ") as caught:
        download(url, tmp_path / "x", what="the set", by_hand=tmp_path / "y")
    with pytest.raises(DownloadError, match=message):
        fetch(url, tmp_path / "x", what="the set")
    assert str(caught.value).endswith(f"save it as {tmp_path / 'y'}")


def test_a_server_that_does_not_answer(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    server.put("/set.bin", CONTENT, stop_at=0)
    with pytest.raises(DownloadError, match=r"the connection broke \(.*timed out\)"):
        fetch(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set")
    assert len(server.requests) == 3


# the disk


def test_too_little_room_is_said_before(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=2000))
    server.put("/set.bin", CONTENT)
    message = rf"{tmp_path} has no room for it: 102 kB are needed, 2\.0 kB are free"
    with pytest.raises(DownloadError, match=message):
        fetch(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_fills_up(tmp_path: Path, server: FileServer) -> None:
    part_files(tmp_path / "set.bin")[0].symlink_to("/dev/full")
    server.put("/set.bin", CONTENT)
    with pytest.raises(DownloadError, match=f"the disk that holds {tmp_path} is full"):
        fetch(f"{server.url}/set.bin", tmp_path / "set.bin", what="the set")


def test_a_folder_that_cannot_be_made(tmp_path: Path, server: FileServer) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"file.* cannot be written: Not a directory|exists"):
        fetch(f"{server.url}/set.bin", tmp_path / "file" / "set.bin", what="the set")
    assert not server.requests


# processes


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_fetch_once(tmp_path: Path, server: FileServer) -> None:
    served = server.put("/set.bin", CONTENT, stop_at=1000)
    command = [sys.executable, "-c", FETCH, f"{server.url}/set.bin", str(tmp_path / "set.bin")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = []
    wait_until(lambda: server.requests)
    lines = {process.stderr: "" for process in processes}
    for stream in lines:  # one says that it downloads, the other that it waits
        assert stream is not None
        said.append(stream.readline())
    served.go_on.set()
    for process in processes:
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
    assert sorted(text.split()[0] for text in said) == ["Downloading", "Waiting"]
    assert server.count() == {"/set.bin": 1}
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["set.bin"]


def test_a_killed_process_is_gone_on_with(tmp_path: Path, server: FileServer) -> None:
    address, target = f"{server.url}/set.bin", tmp_path / "set.bin"
    served = server.put("/set.bin", CONTENT, stop_at=50_000)
    part, _ = part_files(target)
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH, address, str(target)], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: part.exists() and part.stat().st_size == 50_000)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    served.go_on.set()
    assert not target.exists()
    fetch(address, target, what="the set", sha256=SHA256)
    assert ranges(server) == [None, "bytes=49999-"]
    assert [path.name for path in tmp_path.iterdir()] == ["set.bin"]


# the small ones


def test_check_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    check_file(path, sha256=SHA256, md5=MD5)
    with pytest.raises(InputError, match="its md5 is"):
        check_file(path, sha256=SHA256, md5="1" * 32)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1234, "1.2 kB"), (412e6, "412 MB"), (2.5e9, "2.5 GB")],
)
def test_size_text(size: float, text: str) -> None:
    assert size_text(int(size)) == text
