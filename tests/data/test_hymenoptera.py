import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vit_lightning.data import hymenoptera
from vit_lightning.data.sources import open_dataset
from vit_lightning.data.splits import Splits
from vit_lightning.download import file_hash
from vit_lightning.errors import InputError

Serve = Callable[[Path], str]

FILES = {
    "train/ants/1.jpg": b"one",
    "train/bees/2.jpeg": b"two",
    "val/ants/3.jpg": b"three",
    "val/bees/4.jpg": b"four",
}


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A set of four files in the place of the real one."""
    checksums = {}
    for name, content in FILES.items():
        path = tmp_path / "content"
        path.write_bytes(content)
        checksums[name] = file_hash(path)
    monkeypatch.setattr(hymenoptera, "read_manifest", lambda: checksums)
    return checksums


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)


def inside(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"hymenoptera_data/{name}": content for name, content in files.items()}


def write_folder(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def open_hymenoptera(root: Path) -> Splits:
    return open_dataset("hymenoptera", root, val_fraction=None, seed=0)


def test_the_manifest_lists_the_published_set() -> None:
    names = list(hymenoptera.read_manifest())
    assert names == sorted(names)
    counts = {part: sum(name.startswith(part) for name in names) for part in ("train", "val")}
    assert counts == {"train": 244, "val": 153}
    assert sum(name.endswith(".jpeg") for name in names) == 1
    assert {name.rpartition(".")[2] for name in names} == {"jpg", "jpeg"}
    assert {len(checksum) for checksum in hymenoptera.read_manifest().values()} == {64}


@pytest.mark.skipif("VIT_LIGHTNING_DATA" not in os.environ, reason="VIT_LIGHTNING_DATA is not set")
def test_the_real_set() -> None:
    root = Path(os.environ["VIT_LIGHTNING_DATA"]) / "hymenoptera_data"
    splits = open_hymenoptera(root)
    assert splits.classes == ("ants", "bees")
    assert np.bincount(splits.train.labels).tolist() == [123, 121]
    assert np.bincount(splits.val.labels).tolist() == [70, 83]
    assert splits.test is None
    assert "imageNotFound.gif" in splits.notes[-1]
    assert splits.train.load(0).mode == "RGB"


def test_a_whole_folder_is_taken(tmp_path: Path, manifest: dict[str, str]) -> None:
    root = tmp_path / "set"
    write_folder(root, {**FILES, "train/ants/imageNotFound.gif": b"GIF89a"})
    splits = open_hymenoptera(root)
    assert splits.train.labels.tolist() == [0, 1]
    assert splits.val.name(1) == "val/bees/4.jpg"
    assert splits.notes[-1] == "not part of the set and not used: train/ants/imageNotFound.gif"


def test_missing_and_differing_files_are_named(tmp_path: Path, manifest: dict[str, str]) -> None:
    root = tmp_path / "set"
    write_folder(root, {**FILES, "val/ants/3.jpg": b"changed"})
    (root / "train/ants/1.jpg").unlink()
    with pytest.raises(InputError) as caught:
        open_hymenoptera(root)
    message = str(caught.value)
    assert "2 of 4 files" in message
    assert "train/ants/1.jpg (missing), val/ants/3.jpg (differs)" in message
    assert "Delete the folder" in message


def test_at_most_five_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {f"train/ants/{i}.jpg": "0" * 64 for i in range(9)}
    with pytest.raises(InputError, match=r"9 of 9 .*ants/4\.jpg \(missing\), …") as caught:
        hymenoptera.verify(tmp_path, wanted)
    assert "ants/5.jpg" not in str(caught.value)


@pytest.mark.parametrize("empty_root", [False, True])
def test_the_zip_is_downloaded_checked_and_unpacked(
    tmp_path: Path,
    manifest: dict[str, str],
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    empty_root: bool,
) -> None:
    write_zip(tmp_path / "served.zip", inside(FILES))
    monkeypatch.setattr(hymenoptera, "URL", serve(tmp_path) + "/served.zip")
    root = tmp_path / "data" / "hymenoptera_data"
    if empty_root:
        root.mkdir(parents=True)
    splits = open_hymenoptera(root)
    assert (len(splits.train), len(splits.val)) == (2, 2)
    assert (root / "train/bees/2.jpeg").read_bytes() == b"two"
    assert [path.name for path in root.parent.iterdir()] == ["hymenoptera_data"]


def test_a_zip_brought_by_hand_is_used_and_kept(
    tmp_path: Path, manifest: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hymenoptera, "URL", "http://127.0.0.1:1/none.zip")
    write_zip(tmp_path / "hymenoptera_data.zip", inside(FILES))
    assert len(open_hymenoptera(tmp_path / "set").train) == 2
    assert (tmp_path / "hymenoptera_data.zip").is_file()


def test_no_path_of_the_zip_leads_out_of_the_folder(
    tmp_path: Path, manifest: dict[str, str]
) -> None:
    outside = {"../evil.txt": b"!", "hymenoptera_data/../../evil.txt": b"!", "/evil.txt": b"!"}
    write_zip(tmp_path / "bad.zip", inside(FILES) | outside)
    target = tmp_path / "deep" / "set"
    hymenoptera.unpack(tmp_path / "bad.zip", target, manifest)
    written = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert written == set(FILES)
    assert not list(tmp_path.rglob("evil.txt"))


def test_links_in_the_zip_are_not_made(tmp_path: Path, manifest: dict[str, str]) -> None:
    link = zipfile.ZipInfo("hymenoptera_data/train/ants/1.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    others = {name: content for name, content in FILES.items() if name != "train/ants/1.jpg"}
    write_zip(tmp_path / "links.zip", inside(others))
    with zipfile.ZipFile(tmp_path / "links.zip", "a") as zipped:
        zipped.writestr(link, "/etc/passwd")
    hymenoptera.unpack(tmp_path / "links.zip", tmp_path / "set", manifest)
    assert not (tmp_path / "set/train/ants/1.jpg").is_symlink()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (inside({**FILES, "val/ants/3.jpg": b"other"}), r"3\.jpg \(differs\)"),
        ({"other/1.jpg": b"one"}, "it has no hymenoptera_data/train/ants/1.jpg"),
    ],
)
def test_another_zip_is_refused_and_nothing_is_left(
    tmp_path: Path, manifest: dict[str, str], files: dict[str, bytes], message: str
) -> None:
    write_zip(tmp_path / "hymenoptera_data.zip", files)
    with pytest.raises(InputError, match=message):
        open_hymenoptera(tmp_path / "set")
    assert {path.name for path in tmp_path.iterdir()} == {"hymenoptera_data.zip", "content"}


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path, manifest: dict[str, str]) -> None:
    (tmp_path / "hymenoptera_data.zip").write_text("<html>not found</html>")
    with pytest.raises(InputError, match="is not the Hymenoptera archive: File is not a zip file"):
        open_hymenoptera(tmp_path / "set")


def test_without_a_network_the_message_says_what_to_do(
    tmp_path: Path, manifest: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hymenoptera, "URL", "http://127.0.0.1:1/set.zip")
    with pytest.raises(InputError) as caught:
        open_hymenoptera(tmp_path / "data" / "set")
    message = str(caught.value)
    assert "could not download the Hymenoptera pictures from http://127.0.0.1:1/set.zip" in message
    assert f"save it as {tmp_path / 'data' / 'hymenoptera_data.zip'}" in message
    assert list((tmp_path / "data").iterdir()) == []


def test_another_process_may_be_quicker(tmp_path: Path, manifest: dict[str, str]) -> None:
    write_zip(tmp_path / "hymenoptera_data.zip", inside(FILES))
    write_folder(tmp_path / "set", FILES)
    hymenoptera.fetch(tmp_path / "set", manifest)
    assert (tmp_path / "set/val/bees/4.jpg").read_bytes() == b"four"
