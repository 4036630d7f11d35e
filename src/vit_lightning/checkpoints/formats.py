"""Which kind of weights file a path is, told by its first bytes and never by its suffix."""

import zipfile
from pathlib import Path
from typing import Literal

from vit_lightning.errors import InputError

Format = Literal["npz", "safetensors", "torch"]

GET_AGAIN = "copy or download it again and compare its size with the source's"
_READABLE = "a .npz in Google's layout, a .safetensors, or a .ckpt, .pth or .bin of torch"
# How torch.save began its files before it wrote zip archives (2020): a pickled number.
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Numbers hardly compress; a head of zeros does. A hundredfold, nothing but zeros would.
_MOST_UNPACKED, _SMALL = 20, 1 << 26
_NUMPY_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def file_format(path: str | Path) -> Format:
    """The kind of weights file at ``path``.

    Raises:
        InputError: nothing is there, or something no reader of this package takes.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such weights file")
    if not path.is_file():
        raise InputError(f"{path} is no file; name the weights file")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if start.startswith(b"PK"):
        return _zip_format(path)
    if start.startswith(_LEGACY_TORCH):
        return "torch"
    size = path.stat().st_size
    # A safetensors file opens with the length of its JSON header in eight bytes.
    if len(start) > 8 and start[8:9] == b"{":
        if 8 + int.from_bytes(start[:8], "little") > size:
            raise InputError(f"{path} ends inside its header: it is cut short; {GET_AGAIN}")
        return "safetensors"
    raise InputError(f"{path} {_what_else(start)}. Expected {_READABLE}")


def require_format(path: str | Path, wanted: Format) -> None:
    """Refuse a file that is not of the ``wanted`` kind.

    Raises:
        InputError: nothing is there, or a file of another kind.
    """
    found = file_format(path)
    if found != wanted:
        raise InputError(f"{path} is a {found} file, expected {wanted}; load_model reads either")


def _zip_format(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is cut short or damaged ({error}); {GET_AGAIN}") from error
    names = [member.filename for member in members]
    if any(name.endswith(".npy") for name in names):
        _refuse_bomb(path, members)
        return "npz"
    if any(name.endswith("data.pkl") for name in names):
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise InputError(
                f"{path} is compressed, which torch.save never does; save the weights again"
            )
        return "torch"
    raise InputError(
        f"{path} is a zip archive without arrays or tensors "
        f"(it holds {', '.join(names[:3]) or 'nothing'}). Expected {_READABLE}"
    )


def _refuse_bomb(path: Path, members: list[zipfile.ZipInfo]) -> None:
    # Of other methods all that is read is unpacked at once, however much that may be.
    if any(member.compress_type not in _NUMPY_METHODS for member in members):
        raise InputError(
            f"{path} is packed by a method that NumPy does not use, so it was not opened; save "
            f"the weights again"
        )
    unpacked, size = sum(member.file_size for member in members), path.stat().st_size
    if unpacked > max(_MOST_UNPACKED * size, _SMALL):
        raise InputError(
            f"{path} would grow from {size} to {unpacked} bytes when unpacked; weights do not "
            f"compress like that, so it was not opened"
        )


def _what_else(start: bytes) -> str:
    """Completes the sentence "the file ..." for what people hand in by mistake."""
    if not start:
        return f"is empty; {GET_AGAIN}"
    if start.startswith(b"\x80"):
        return (
            "is a bare pickle (an old torch.save or pickle.dump). Reading one can run any code, "
            "so it was not opened"
        )
    if start.startswith(b"\x93NUMPY"):
        return "is a single array (.npy), not a set of weights"
    if start.startswith(b"version https://git-lfs"):
        return 'is a Git LFS pointer, not the file itself; fetch it with "git lfs pull"'
    if start.startswith(b"\x08") and b"pytorch" in start[:16]:
        return "is an exported program (.onnx), not weights; name the model that it was made from"
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page or a server's error message, saved in place of the weights"
    if b"\x00" not in start:
        return f"is a text file, beginning with {start[:40].decode('utf-8', 'replace')!r}"
    return "is no weights file"
