"""CIFAR-10 and CIFAR-100 from the publisher's binary archives (Krizhevsky 2009).

The binary version is a plain table of bytes; the Python version is a pickle, which could run code.
"""

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vit_lightning.data.pictures import ArrayPictures
from vit_lightning.data.splits import Splits, count_notes
from vit_lightning.download import check_file, download
from vit_lightning.errors import InputError

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


@dataclass(frozen=True)
class CifarArchive:
    """Where one of the sets is and how its archive is laid out.

    Args:
        title: the set's name for people.
        url: the publisher's address.
        md5: the publisher's checksum; no other is given.
        train: members with the training records.
        test: the member with the test records.
        names: the member with the class names, one a line.
        label_bytes: bytes before the pixels of a record; the last is the (fine) label.
    """

    title: str
    url: str
    md5: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int


CIFAR = {
    "cifar10": CifarArchive(
        title="CIFAR-10",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        train=tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
        test="cifar-10-batches-bin/test_batch.bin",
        names="cifar-10-batches-bin/batches.meta.txt",
        label_bytes=1,
    ),
    "cifar100": CifarArchive(
        title="CIFAR-100",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        train=("cifar-100-binary/train.bin",),
        test="cifar-100-binary/test.bin",
        names="cifar-100-binary/fine_label_names.txt",
        label_bytes=2,  # coarse, fine
    ),
}


def open_cifar(name: str, root: Path) -> Splits:
    """Open ``cifar10`` or ``cifar100``, whose archive lies in ``root`` or is downloaded there.

    Raises:
        InputError: the archive could not be had, or is not the published one.
    """
    archive = CIFAR[name]
    path = root / archive.url.rpartition("/")[2]
    if not path.is_file():
        download(archive.url, path, md5=archive.md5, what=archive.title)
    return read_cifar(name, archive, path)


def read_cifar(name: str, archive: CifarArchive, path: Path) -> Splits:
    """Read a local archive, after checking it against ``archive.md5``.

    Trains on the first 98 % of the training records and holds out the last 2 %, as the original
    does; the test records are the test split. Pictures are named ``name/train/00000``.
    """
    try:
        check_file(path, md5=archive.md5)
        with tarfile.open(path) as tar:
            classes = tuple(_member(tar, archive.names).decode().split())
            train = [_records(archive, _member(tar, member)) for member in archive.train]
            test = _records(archive, _member(tar, archive.test))
        _check_labels([*train, test], classes)
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(
            f"{path} is not the published {archive.title} archive: {error}\n"
            "  Delete it to download it again"
        ) from None
    everything = _pictures(f"{name}/train", np.concatenate(train))
    order = np.arange(len(everything))
    kept = len(everything) * 98 // 100
    splits = {
        "train": everything.subset(order[:kept]),
        "val": everything.subset(order[kept:]),
        "test": _pictures(f"{name}/test", test),
    }
    notes = count_notes(classes, **splits)
    notes.append("held out for val: the last 2 % of the training pictures, as the original does")
    return Splits(classes, splits["train"], splits["val"], splits["test"], tuple(notes))


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    try:
        file = tar.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise InputError(f"it has no file {name}")
    return file.read()


def _records(archive: CifarArchive, data: bytes) -> NDArray[np.uint8]:
    """(N, 1 + 3072): the label that is used, then the pixels."""
    length = archive.label_bytes + _PIXELS
    if not data or len(data) % length:
        raise InputError(f"{len(data)} bytes are no whole number of records of {length}")
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, length)
    return records[:, archive.label_bytes - 1 :]


def _check_labels(records: list[NDArray[np.uint8]], classes: tuple[str, ...]) -> None:
    highest = max(int(part[:, 0].max()) for part in records)
    if highest >= len(classes):
        raise InputError(f"it has a label {highest}, but names {len(classes)} classes")


def _pictures(prefix: str, records: NDArray[np.uint8]) -> ArrayPictures:
    planes = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE)  # red, green, blue
    pixels = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return ArrayPictures(pixels, records[:, 0].astype(np.int64), prefix)
