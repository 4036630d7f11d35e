"""Which kind of weights file a path is, told by its first bytes and never by its suffix."""

import zipfile
from pathlib import Path
from typing import Literal

from vit_lightning.errors import InputError

Format = Literal["npz", "safetensors", "torch"]

_READABLE = "a .npz in Google's layout, a .safetensors of this package or a Lightning .ckpt"
_GET_AGAIN = "copy or download it again and compare its size with the source's"


def missing_weights_message(path: str | Path) -> str:
    """What to tell someone whose weights file is not there."""
    if Path(path).suffix in (".ckpt", ".safetensors"):  # made here, not downloaded
        return (
            f"{path}: there is no such weights file. A training run puts its best weights at "
            f"checkpoint/<experiment name>.ckpt and in its own folder under runs/"
        )
    return (
        f"{path}: there is no such weights file.\n"
        "Google's bucket (https://storage.googleapis.com/vit_models/...) has answered 403 "
        "(forbidden) to anonymous users since February 2026. Any copy of the .npz in Google's "
        "layout will do: put it at this path. The Hugging Face Hub has the same weights "
        "(google/vit-base-patch16-224-in21k, timm/vit_base_patch16_224.augreg_in21k), but in "
        "other layouts, which are not read here.\n"
        "Meanwhile train from scratch with model.weights=null, or start with "
        "experiments/quickstart.json."
    )


def file_format(path: str | Path) -> Format:
    """The kind of weights file at ``path``.

    Raises:
        InputError: nothing is there, or something no reader of this package takes.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(missing_weights_message(path))
    if not path.is_file():
        raise InputError(f"{path} is a folder, not a weights file; name the file inside it")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if start.startswith(b"PK"):
        return _zip_format(path)
    size = path.stat().st_size
    # A safetensors file opens with the length of its JSON header in eight bytes.
    if len(start) > 8 and start[8:9] == b"{":
        if 8 + int.from_bytes(start[:8], "little") > size:
            raise InputError(f"{path} ends inside its header: it is cut short; {_GET_AGAIN}")
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
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is cut short or damaged ({error}); {_GET_AGAIN}") from error
    if any(name.endswith(".npy") for name in names):
        return "npz"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    raise InputError(
        f"{path} is a zip archive without arrays or tensors "
        f"(it holds {', '.join(names[:3]) or 'nothing'}). Expected {_READABLE}"
    )


def _what_else(start: bytes) -> str:
    """Completes the sentence "the file ..." for what people hand in by mistake."""
    if not start:
        return f"is empty; {_GET_AGAIN}"
    if start.startswith(b"\x80"):
        return (
            "is a bare pickle (an old torch.save or pickle.dump). Reading one can run any code, "
            "so it was not opened"
        )
    if start.startswith(b"\x93NUMPY"):
        return "is a single array (.npy), not a set of weights"
    if start.startswith(b"version https://git-lfs"):
        return 'is a Git LFS pointer, not the file itself; fetch it with "git lfs pull"'
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page or a server's error message, saved in place of the weights"
    if b"\x00" not in start:
        return f"is a text file, beginning with {start[:40].decode('utf-8', 'replace')!r}"
    return "is no weights file"
