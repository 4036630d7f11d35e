import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from vit_lightning.data import listing
from vit_lightning.data.folder import open_folder
from vit_lightning.data.listing import index_path, list_indices, list_split
from vit_lightning.data.sources import open_dataset
from vit_lightning.data.splits import Splits
from vit_lightning.errors import InputError

TREE = [f"{split}/{label}/{i}.png" for split in ("train", "val") for label in "ab" for i in "012"]


def fill(root: Path, tree: list[str]) -> None:
    for name in tree:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data set for which an index is kept."""
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "WORTH_KEEPING", 1)
    monkeypatch.setattr(listing, "_TICK", -(10**12))  # what was changed a moment ago is settled
    monkeypatch.setattr(listing, "_COARSE_TICK", -(10**12))
    fill(tmp_path / "set", TREE)
    return tmp_path / "set"


def names(root: Path) -> list[str]:
    splits = opened(root)
    return [*splits.train.names, *splits.val.names]  # type: ignore[attr-defined]


def opened(root: Path) -> Splits:
    return open_dataset("folder", root, val_fraction=None, seed=0)


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The class folders that are read, as they are."""
    seen: list[str] = []
    real = os.scandir

    def scan(folder: Path) -> object:
        seen.append(str(folder))
        return real(folder)

    monkeypatch.setattr(listing.os, "scandir", scan)
    return seen


def test_an_unchanged_folder_is_not_read_again(tree: Path, scans: list[str]) -> None:
    fill(tree, ["train/a/words.txt", "train/b/deep/er/x.jpg"])
    (tree / "train" / "a" / "back").symlink_to(tree / "train")
    first = opened(tree)
    assert len(scans) == 6
    again = opened(tree)
    assert len(scans) == 6
    assert again.notes == first.notes
    assert any("1 .txt" in note for note in first.notes)
    assert any("train/a/back" in note for note in first.notes)
    assert again.fingerprint() == first.fingerprint()
    assert again.train.labels.tolist() == first.train.labels.tolist() == [0] * 3 + [1] * 4
    assert names(tree) == sorted([*TREE, "train/b/deep/er/x.jpg"])


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "train/a/new.png").touch(),
        lambda root: (root / "train/a/0.png").unlink(),
        lambda root: (root / "train/a/0.png").rename(root / "train/b/00.png"),
        lambda root: fill(root, ["train/c/0.png"]),
        lambda root: fill(root, ["train/a/inner/0.png"]),
        lambda root: fill(root, ["test/a/0.png"]),
        lambda root: [path.unlink() for path in root.glob("train/b/[12].png")],
    ],
)
def test_every_change_is_seen(tree: Path, change: Callable[[Path], None]) -> None:
    opened(tree)
    change(tree)
    found = opened(tree)
    count = sum(len(part) for part in (found.train, found.val, found.test or ()))
    expected = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*.png"))
    assert count == len(expected)
    assert [name for name in expected if "test" not in name] == names(tree)


def test_a_folder_that_changed_a_moment_ago_is_not_trusted(
    tree: Path, scans: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_TICK", 10**12)
    monkeypatch.setattr(listing, "_COARSE_TICK", 10**12)
    for expected in (4, 8):
        opened(tree)
        assert len(scans) == expected


def damaged(content: bytes, how: str) -> bytes:
    """The content of an index with something wrong."""
    if how == "empty":
        return b""
    if how == "foreign":
        return b"PK\3\4" + content
    if how == "cut":
        return content[:-3]
    if how == "longer":
        return content + b"x\0"
    if how == "flipped":
        return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    if how == "header":
        return content.replace(b'"count": 12', b'"count": 11')
    start = content.index(b"{")
    length = int.from_bytes(content[start - 4 : start], "little")
    header = json.loads(content[start : start + length])
    begin = listing._start(length)
    body = content[begin:]
    if how == "leads out":
        body = body.replace(b"train/a/0.png", b"train/../0.pn")
    elif how == "other version":
        return content.replace(b"listing 2\n", b"listing 0\n")
    elif how == "other types":
        header["splits"] = {"train": {"folder": "train"}, "val": {"folder": "val"}}
    elif how == "other counts":
        header["splits"]["train"]["classes"][0][1] += 1
    elif how == "no object":
        header = []
    encoded = json.dumps(header).encode()
    mark = zlib.crc32(body, zlib.crc32(encoded)).to_bytes(4, "little")
    head = content[: start - 4] + len(encoded).to_bytes(4, "little") + encoded
    return head.ljust(listing._start(len(encoded)) - 4, b"\0") + mark + body


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "foreign",
        "cut",
        "longer",
        "flipped",
        "header",
        "leads out",
        "other version",
        "other types",
        "other counts",
        "no object",
    ],
)
def test_an_index_that_is_not_right_is_made_anew(tree: Path, scans: list[str], how: str) -> None:
    opened(tree)
    path = index_path(tree)
    content = path.read_bytes()
    path.write_bytes(damaged(content, how))
    assert path.read_bytes() != content
    assert names(tree) == TREE
    assert len(scans) == 8
    assert path.read_bytes() == content


def test_the_index_of_another_folder_is_not_taken(tree: Path, tmp_path: Path) -> None:
    opened(tree)
    other = tmp_path / "other"
    fill(other, [name.replace("a/", "c/") for name in TREE])
    index_path(other).write_bytes(index_path(tree).read_bytes())
    assert (index_path(tree), str(tree)) in list_indices()
    assert names(other)[0] == "train/b/0.png"
    assert names(tree) == TREE


def test_a_cache_folder_that_cannot_be_written_to_is_no_error(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "file"))
    assert names(tree) == TREE
    assert list_indices() == []


def test_few_pictures_are_worth_no_index(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "WORTH_KEEPING", 13)
    assert names(tree) == TREE
    assert not index_path(tree).exists()


def test_odd_names_survive(tree: Path) -> None:
    odd = [os.fsdecode(b"\xff.png"), "two\nlines.png", "日本.png", "x" * 251 + ".png"]
    fill(tree, [f"train/a/{name}" for name in odd])
    expected = sorted([*TREE, *(f"train/a/{name}" for name in odd)])
    assert names(tree) == expected
    assert names(tree) == expected  # from the index
    digests = {str(opened(tree).fingerprint()) for _ in range(2)}
    index_path(tree).unlink()
    assert {str(opened(tree).fingerprint())} == digests


def test_circles_of_links_end(tmp_path: Path) -> None:
    fill(tmp_path, ["train/a/1.png", "train/a/z/2.png", "train/b/1.png", "val/a/1.png"])
    fill(tmp_path, ["elsewhere/3.png"])
    a = tmp_path / "train" / "a"
    (a / "self").symlink_to("self")
    (a / "again").symlink_to(a)
    (a / "up").symlink_to(tmp_path)
    (a / "first").symlink_to(a / "z")
    (a / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(a / "z")
    (tmp_path / "train" / "c").symlink_to(tmp_path / "elsewhere")
    splits = open_folder(tmp_path, val_fraction=None, seed=0)
    assert [splits.train.name(i) for i in range(len(splits.train))] == [
        "train/a/1.png",
        "train/a/other/3.png",
        "train/a/z/2.png",  # by its own name, not by that of a link
        "train/b/1.png",
        "train/c/3.png",
        "train/c/back/2.png",
    ]
    notes = [note for note in splits.notes if note.startswith("not followed")]
    assert len(notes) == 1
    for link in ("a/again", "a/up", "a/first", "a/other/back"):
        assert f"train/{link}" in notes[0]


def test_all_folders_that_cannot_be_read_are_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scan(folder: Path) -> object:
        if folder.name == "a":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(listing.os, "scandir", scan)
    with pytest.raises(InputError) as caught:
        opened(tree)
    for split in ("train", "val"):
        assert f"{tree / split / 'a'}: Permission denied" in str(caught.value)
    with pytest.raises(InputError, match="Permission denied"):
        list_split(tree, tree / "train")
    assert not index_path(tree).exists()
