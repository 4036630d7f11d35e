import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vit_lightning.data.download import check_file, download
from vit_lightning.errors import InputError

CONTENT = b"pictures" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def address(tmp_path: Path, serve: Callable[[Path], str]) -> str:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "set.bin").write_bytes(CONTENT)
    return serve(folder)


@pytest.mark.parametrize("checksums", [{}, {"sha256": SHA256}, {"md5": MD5}])
def test_a_file_is_fetched(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str], checksums: dict[str, str]
) -> None:
    target = tmp_path / "new" / "folder" / "set.bin"
    download(f"{address}/set.bin", target, what="the set", **checksums)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["set.bin"]
    assert f"Downloading the set (0 MB) from {address}/set.bin" in capsys.readouterr().err


def test_a_terminal_sees_a_progress_bar(
    tmp_path: Path,
    address: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download(f"{address}/set.bin", tmp_path / "set.bin", what="the set")
    assert "Downloading the set: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "checksums", "message"),
    [
        ("/none.bin", {}, "HTTP Error 404"),
        ("/set.bin", {"sha256": "0" * 64}, f"its sha256 is {SHA256}, expected 0000"),
        ("/set.bin", {"md5": "0" * 32}, f"its md5 is {MD5}, expected 0000"),
        ("/short", {}, "ended after 10 of 1000 bytes"),
    ],
)
def test_what_cannot_be_had_leaves_nothing(
    tmp_path: Path, address: str, path: str, checksums: dict[str, str], message: str
) -> None:
    target = tmp_path / "new" / "set.bin"
    with pytest.raises(InputError) as caught:
        download(address + path, target, what="the set", **checksums)
    assert message in str(caught.value)
    assert f"could not download the set from {address}{path}" in str(caught.value)
    assert f"save it as {target}" in str(caught.value)
    assert list(target.parent.iterdir()) == []


def test_a_failed_download_leaves_the_old_file(tmp_path: Path, address: str) -> None:
    target = tmp_path / "set.bin"
    target.write_text("old")
    with pytest.raises(InputError):
        download(f"{address}/set.bin", target, md5="0" * 32, what="the set")
    assert target.read_text() == "old"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://none.invalid/x", "no address"])
def test_no_network(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(InputError, match="could not download the set") as caught:
        download(url, tmp_path / "x", what="the set", by_hand=tmp_path / "y")
    assert str(caught.value).endswith(f"save it as {tmp_path / 'y'}")


def test_check_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    check_file(path, sha256=SHA256, md5=MD5)
    with pytest.raises(InputError, match="its md5 is"):
        check_file(path, sha256=SHA256, md5="1" * 32)
