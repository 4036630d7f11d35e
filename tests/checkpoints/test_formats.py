"""What a file is, by its first bytes."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B_16.npz", r"(?s)storage\.googleapis\.com.*model\.weights=null"),
        (
            "your_model.ckpt",
            r"checkpoint/<experiment name>\.ckpt and in its own folder under runs/",
        ),
    ],
)
def test_a_missing_file_says_where_to_find_one(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        file_format(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        file_format(tmp_path)
