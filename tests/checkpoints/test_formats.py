"""What a file is, by its first bytes."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from vit_lightning.checkpoints import formats
from vit_lightning.checkpoints.formats import file_format, require_format
from vit_lightning.checkpoints.native import save_safetensors
from vit_lightning.errors import InputError
from vit_lightning.models.config import ViTConfig


def test_formats_are_told_by_content_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    with path.open("wb") as file:
        np.savez(file, a=np.ones(2))
    assert file_format(path) == "npz"
    torch.save({"a": torch.ones(2)}, path)
    assert file_format(path) == "torch"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert file_format(path) == "torch"
    save_safetensors(path, {"a": torch.ones(2)}, ViTConfig())
    assert file_format(path) == "safetensors"
    with pytest.raises(InputError, match=r"is a safetensors file, expected npz"):
        require_format(path, "npz")


def _npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.ones(2))
    return out.getvalue()


def _zip(**members: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"hello", "is a text file, beginning with 'hello'"),
        ("päth\n".encode(), "is a text file"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "server's error"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (pickle.dumps({"a": 1}), "is a bare pickle"),
        (_npy(), r"is a single array \(\.npy\)"),
        (b"\x00\x01\x02\x03" * 10, "is no weights file"),
        (b"PK\x03\x04 and nothing more", "is cut short or damaged"),
        (_zip(readme="hello"), r"is a zip archive without arrays or tensors \(it holds readme\)"),
        (_zip(), "it holds nothing"),
        ((10**6).to_bytes(8, "little") + b'{"a":', "ends inside its header"),
    ],
)
def test_anything_else_is_refused_by_what_it_is(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        file_format(path)
    assert str(path) in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.npz: there is no such weights file"):
        file_format(tmp_path / "x.npz")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file; name the weights file") as error:
        file_format(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(InputError, match="is no file"):
        file_format(tmp_path / "x")


class TestUnpacking:
    """What an archive becomes in memory is known before anything of it is unpacked."""

    def test_a_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(formats, "_SMALL", 1 << 20)
        path = tmp_path / "x.npz"
        np.savez_compressed(path, a=np.zeros(1 << 19, np.float32))
        size = path.stat().st_size
        with pytest.raises(InputError, match=rf"x\.npz would grow from {size} to 2097\d+ bytes"):
            file_format(path)

    def test_a_head_of_zeros_is_no_bomb(self, tmp_path: Path) -> None:
        """Which compresses a hundredfold beside the rest, that hardly does."""
        rng = np.random.default_rng(0)
        weights = rng.standard_normal(1 << 16).astype(np.float32)
        np.savez_compressed(tmp_path / "x.npz", a=weights, head=np.zeros(1 << 16, np.float32))
        assert file_format(tmp_path / "x.npz") == "npz"

    def test_a_compressed_torch_file(self, tmp_path: Path) -> None:
        """Reading one would unpack it whole, whatever it becomes."""
        torch.save({"a": torch.zeros(1000)}, tmp_path / "x.pth")
        with (
            zipfile.ZipFile(tmp_path / "x.pth") as archive,
            zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as packed,
        ):
            for name in archive.namelist():
                packed.writestr(name, archive.read(name))
        with pytest.raises(InputError, match=r"y\.pth is compressed, which torch\.save never doe"):
            file_format(tmp_path / "y.pth")
