"""Hymenoptera: 244 + 153 photographs of ants and bees, the data set of PyTorch's tutorial."""

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np

from vit_lightning.data.pictures import PictureFiles
from vit_lightning.data.splits import Splits, count_notes
from vit_lightning.download import download, file_hash
from vit_lightning.errors import InputError

URL = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
CLASSES = ("ants", "bees")
_ARCHIVE_FOLDER = "hymenoptera_data"  # the folder inside the zip


def open_hymenoptera(root: Path) -> Splits:
    """Open the set at ``root``, downloading it first if there is no such folder, or an empty one.

    Every file is checked against the manifest that comes with the package.

    Raises:
        InputError: files are missing or differ, or the download failed.
    """
    manifest = read_manifest()
    if root.is_dir() and any(root.iterdir()):
        verify(root, manifest)
    else:
        fetch(root, manifest)
    labels = [CLASSES.index(path.split("/")[1]) for path in manifest]
    everything = PictureFiles(root, list(manifest), np.array(labels, dtype=np.int64))
    train, val = (_split(everything, name) for name in ("train", "val"))
    notes = count_notes(CLASSES, train=train, val=val) + _unused_notes(root, manifest)
    return Splits(CLASSES, train, val, None, tuple(notes))


def read_manifest() -> dict[str, str]:
    """Path below the root → sha256 of every picture of the set, in the order of the paths."""
    text = resources.files("vit_lightning.data").joinpath("hymenoptera.sha256").read_text("utf-8")
    pairs = (line.split("  ", maxsplit=1) for line in text.splitlines())
    return {path: checksum for checksum, path in pairs}


def verify(root: Path, manifest: Mapping[str, str]) -> None:
    """InputError unless every file of the manifest is below ``root`` with its checksum."""
    wrong = _misfits(root, manifest)
    if wrong:
        raise InputError(
            f"{root} is not the Hymenoptera set: {wrong}\n  Delete the folder to download it "
            'again, or set data.name to "folder" to train on a selection of your own'
        )


def _misfits(root: Path, manifest: Mapping[str, str]) -> str:
    """What is wrong with the files below ``root``, in words; empty if nothing is."""
    wrong = [
        f"{path} ({'differs' if (root / path).is_file() else 'missing'})"
        for path, checksum in manifest.items()
        if not (root / path).is_file() or file_hash(root / path) != checksum
    ]
    if not wrong:
        return ""
    listed = ", ".join(wrong[:5]) + (", …" if len(wrong) > 5 else "")
    return f"{len(wrong)} of {len(manifest)} files are not as expected: {listed}"


def fetch(root: Path, manifest: Mapping[str, str]) -> None:
    """Make ``root`` from the published zip, which is downloaded unless it lies beside it.

    ``root`` appears only when it is complete and verified; the downloaded zip is not kept.
    """
    root = root.absolute()  # "." has no name
    archive = root.with_name("hymenoptera_data.zip")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".hymenoptera-") as folder:
        pictures = Path(folder) / "pictures"
        if not archive.is_file():
            downloaded = Path(folder) / archive.name
            download(URL, downloaded, what="the Hymenoptera pictures", by_hand=archive)
            archive = downloaded
        try:
            unpack(archive, pictures, manifest)
            wrong = _misfits(pictures, manifest)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, InputError) as error:
            wrong = str(error)
        if wrong:
            raise InputError(
                f"{archive.name} is not the Hymenoptera archive: {wrong}\n"
                f"  Fetch {URL} again, and save it as {root.with_name(archive.name)}"
            )
        _move(pictures, root, manifest)


def _move(pictures: Path, root: Path, manifest: Mapping[str, str]) -> None:
    try:
        pictures.rename(root)
    except OSError:
        if not root.is_dir():
            raise
        verify(root, manifest)  # another process of the same run was quicker


def unpack(archive: Path, folder: Path, manifest: Mapping[str, str]) -> None:
    """Copy the files of the manifest, and no others, from the zip into ``folder``.

    No path is taken from the archive, so none can lead out of ``folder``.
    """
    with zipfile.ZipFile(archive) as zipped:
        present = set(zipped.namelist())
        for path in manifest:
            member = f"{_ARCHIVE_FOLDER}/{path}"
            if member not in present:
                raise InputError(f"it has no {member}")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with zipped.open(member) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)


def _split(everything: PictureFiles, name: str) -> PictureFiles:
    belongs = [path.startswith(f"{name}/") for path in everything.names]
    return everything.subset(np.flatnonzero(belongs))


def _unused_notes(root: Path, manifest: Mapping[str, str]) -> list[str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    names = (path.relative_to(root).as_posix() for path in files)
    unused = [name for name in names if name not in manifest]
    if not unused:
        return []
    shown = ", ".join(unused[:5]) + (", …" if len(unused) > 5 else "")
    return [f"not part of the set and not used: {shown}"]
