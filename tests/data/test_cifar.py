import dataclasses
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vit_lightning.data.cifar import CIFAR, CifarArchive, open_cifar, read_cifar
from vit_lightning.data.sources import open_dataset
from vit_lightning.download import file_hash
from vit_lightning.errors import InputError


def write_archive(
    path: Path, name: str, *, records: int = 100, change: dict[str, bytes] | None = None
) -> tuple[CifarArchive, dict[str, bytes]]:
    """An archive laid out as the published one, with few random pictures."""
    archive, rng = CIFAR[name], np.random.default_rng(0)
    members = {}
    for member in (*archive.train, archive.test):
        count = records // len(archive.train)
        labels = rng.integers(0, 10, (count, archive.label_bytes))
        pixels = rng.integers(0, 256, (count, 3072))
        members[member] = np.hstack([labels, pixels]).astype(np.uint8).tobytes()
    members[archive.names] = "\n".join(f"class_{i}" for i in range(10)).encode() + b"\n\n"
    members |= change or {}
    with tarfile.open(path, "w:gz") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return dataclasses.replace(archive, md5=file_hash(path, "md5")), members


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_splits_and_pixels(tmp_path: Path, name: str) -> None:
    archive, members = write_archive(tmp_path / "set.tar.gz", name)
    splits = read_cifar(name, archive, tmp_path / "set.tar.gz")
    assert splits.test is not None
    expected = (98, 2, 100 // len(archive.train))
    assert (len(splits.train), len(splits.val), len(splits.test)) == expected
    assert splits.classes == tuple(f"class_{i}" for i in range(10))
    length = archive.label_bytes + 3072
    last = np.frombuffer(members[archive.train[-1]], np.uint8)[-length:]
    assert splits.val.labels[1] == last[archive.label_bytes - 1]
    picture = np.asarray(splits.val.load(1))
    assert np.array_equal(picture.transpose(2, 0, 1).ravel(), last[archive.label_bytes :])
    assert splits.val.name(1) == f"{name}/train/00099"
    assert splits.test.name(0) == f"{name}/test/00000"
    assert splits.train.labels.dtype == np.int64


def test_the_archive_is_found_in_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, _ = write_archive(tmp_path / "cifar-10-binary.tar.gz", "cifar10")
    monkeypatch.setitem(CIFAR, "cifar10", archive)
    splits = open_dataset("cifar10", tmp_path, val_fraction=None, seed=0)
    assert len(splits.train) == 98


def test_the_archive_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Path], str]
) -> None:
    served = tmp_path / "served"
    served.mkdir()
    archive, _ = write_archive(served / "cifar-100-binary.tar.gz", "cifar100")
    url = f"{serve(served)}/cifar-100-binary.tar.gz"
    monkeypatch.setitem(CIFAR, "cifar100", dataclasses.replace(archive, url=url))
    assert len(open_cifar("cifar100", tmp_path / "data").train) == 98
    assert (tmp_path / "data" / "cifar-100-binary.tar.gz").is_file()


def test_another_file_is_refused_by_its_checksum(tmp_path: Path) -> None:
    write_archive(tmp_path / "cifar-10-binary.tar.gz", "cifar10")
    with pytest.raises(InputError, match="expected c32a1d4ab5d03f1284b67883e8d87530"):
        open_cifar("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cifar-10-batches-bin/test_batch.bin": b"\0" * 3072}, "3072 bytes are no whole number"),
        ({"cifar-10-batches-bin/test_batch.bin": b""}, "0 bytes are no whole number"),
        ({"cifar-10-batches-bin/test_batch.bin": b"\xff" * 3073}, "label 255"),
        ({"cifar-10-batches-bin/batches.meta.txt": b"\xff\xfe"}, "decode"),
    ],
)
def test_impossible_contents_are_refused(
    tmp_path: Path, change: dict[str, bytes], message: str
) -> None:
    path = tmp_path / "set.tar.gz"
    archive, _ = write_archive(path, "cifar10", change=change)
    with pytest.raises(InputError, match=message):
        read_cifar("cifar10", archive, path)


def test_broken_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.tar.gz"
    archive, _ = write_archive(path, "cifar10")
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"not an archive" * 100):
        path.write_bytes(broken)
        same = dataclasses.replace(archive, md5=file_hash(path, "md5"))
        with pytest.raises(InputError, match="is not the published CIFAR-10 archive"):
            read_cifar("cifar10", same, path)


def test_an_archive_without_a_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.tar.gz"
    archive, _ = write_archive(path, "cifar10")
    with pytest.raises(InputError, match=r"it has no file other\.bin"):
        read_cifar("cifar10", dataclasses.replace(archive, test="other.bin"), path)
