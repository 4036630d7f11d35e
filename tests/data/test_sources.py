from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_lightning.data.pictures import Pictures
from vit_lightning.data.sources import open_dataset
from vit_lightning.data.splits import Splits
from vit_lightning.errors import InputError


def fill(root: Path, tree: list[str]) -> None:
    """Make one small picture for every path of ``tree``."""
    for name in tree:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".txt", ".md", ""):
            path.write_text("words")
        else:
            Image.new("RGB", (4, 4)).save(path, format="PNG")


def names(pictures: Pictures) -> list[str]:
    return [pictures.name(index) for index in range(len(pictures))]


def folder(root: Path, val_fraction: float | None = None, seed: int = 0) -> Splits:
    return open_dataset("folder", root, val_fraction=val_fraction, seed=seed)


def test_folder_with_splits(tmp_path: Path) -> None:
    fill(
        tmp_path,
        [
            "train/cat/b.jpg",
            "train/cat/a.PNG",
            "train/cat/old/deep/c.tiff",
            "train/cat/.hidden.jpg",
            "train/cat/notes.txt",
            "train/ant/z.webp",
            "train/.cache/x.jpg",
            "train/loose.jpg",
            "val/cat/1.jpg",
            "test/ant/2.jpg",
            "test/cat/3.jpg",
            "readme.md",
        ],
    )
    splits = folder(tmp_path)
    assert splits.classes == ("ant", "cat")
    assert names(splits.train) == [
        "train/ant/z.webp",
        "train/cat/a.PNG",
        "train/cat/b.jpg",
        "train/cat/old/deep/c.tiff",
    ]
    assert splits.train.labels.tolist() == [0, 1, 1, 1]
    assert splits.train.labels.dtype == np.int64
    assert names(splits.val) == ["val/cat/1.jpg"]
    assert splits.val.labels.tolist() == [1]
    assert splits.test is not None
    assert names(splits.test) == ["test/ant/2.jpg", "test/cat/3.jpg"]
    assert splits.train.load(0).size == (4, 4)
    assert splits.notes == (
        "train: 4 pictures (ant: 1, cat: 3)",
        "val: 1 pictures (ant: 0, cat: 1)",
        "test: 2 pictures (ant: 1, cat: 1)",
        f"skipped in {tmp_path / 'train'}, as no pictures of a class: 1 .txt, "
        "1 files outside a class folder",
        "val has no pictures of 1 class: ant",
    )


def test_folder_without_val_holds_out_by_class(tmp_path: Path) -> None:
    fill(tmp_path, [f"{label}/{i}.png" for label in ("a", "b") for i in range(10)])
    fill(tmp_path, ["c/only.png"])
    splits, again, other = (folder(tmp_path, 0.3, seed) for seed in (0, 0, 1))
    assert np.bincount(splits.val.labels, minlength=3).tolist() == [3, 3, 0]
    assert np.bincount(splits.train.labels).tolist() == [7, 7, 1]
    assert len({*names(splits.train), *names(splits.val)}) == 21
    assert names(splits.val) == names(again.val)
    assert names(splits.val) != names(other.val)
    assert splits.test is None
    assert "held out for val: 0.3 of every class, chosen by seed 0" in splits.notes
    assert "val has no pictures of 1 class: c" in splits.notes


def test_train_without_val_holds_out_and_leaves_test_alone(tmp_path: Path) -> None:
    fill(tmp_path, [f"train/{label}/{i}.png" for label in ("a", "b") for i in range(4)])
    fill(tmp_path, ["test/a/x.png", "test/b/x.png"])
    splits = folder(tmp_path, 0.5)
    assert (len(splits.train), len(splits.val)) == (4, 4)
    assert splits.test is not None
    assert len(splits.test) == 2


def test_val_folder_wins_over_the_fraction(tmp_path: Path) -> None:
    fill(tmp_path, ["train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png"])
    splits = folder(tmp_path, 0.5)
    assert len(splits.train) == 2
    assert any("val_fraction is not used" in note for note in splits.notes)


def test_all_problems_of_a_folder_are_named_at_once(tmp_path: Path) -> None:
    fill(tmp_path, ["train/a/1.png", "train/b/words.txt", "val/a/1.png", "val/d/1.png"])
    (tmp_path / "train" / "c").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError) as caught:
        folder(tmp_path, 1.5)
    message = str(caught.value)
    train, val = tmp_path / "train", tmp_path / "val"
    assert f"{train / 'b'} holds no pictures" in message
    assert f"{train / 'c'} holds no pictures" in message
    assert f"{val / 'd'}: this class is not in {train}" in message
    assert f"{tmp_path / 'test'} holds no class folders" in message
    assert "val_fraction must lie between 0 and 1, got 1.5" in message


@pytest.mark.parametrize(
    ("tree", "fraction", "message"),
    [
        ([], 0.2, "holds no class folders"),
        (["a/1.png", "b/1.png"], None, "set data.val_fraction"),
        (["train/a/1.png", "train/b/1.png"], None, "set data.val_fraction"),
        (["a/1.png", "b/1.png"], 0.2, "every class has a single picture"),
        (["set/a/1.png", "set/b/1.png"], 0.5, r"holds one class \(set\)"),
        (["val/a/1.png", "val/b/1.png"], 0.5, "there is val but no train"),
        (["a/1.png", "b/1.png"], float("nan"), "between 0 and 1"),
    ],
)
def test_folder_refusals(
    tmp_path: Path, tree: list[str], fraction: float | None, message: str
) -> None:
    fill(tmp_path, tree)
    with pytest.raises(InputError, match=message):
        folder(tmp_path, fraction)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        folder(tmp_path / "nowhere", 0.2)


def test_system_errors_become_input_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(InputError, match=r"cannot be used: .*Permission denied"):
        folder(tmp_path, 0.2)


@pytest.mark.parametrize(
    ("name", "root", "fraction", "message"),
    [
        ("cifar1", "here", None, "did you mean 'cifar10'"),
        ("imagenet", "here", None, "must be one of folder"),
        ("hymenoptera", None, None, r"data\.root is missing"),
        ("hymenoptera", "here", 0.2, "has its own split"),
        ("digits", None, 0.2, "has its own split"),
    ],
)
def test_open_dataset_refusals(
    name: str, root: str | None, fraction: float | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(name, root and Path(root), val_fraction=fraction, seed=0)


def test_digits_hold_out_a_fifth_of_every_class() -> None:
    splits, again, other = (
        open_dataset("digits", None, val_fraction=None, seed=seed) for seed in (0, 0, 1)
    )
    assert splits.classes == tuple("0123456789")
    assert (len(splits.train), len(splits.val), splits.test) == (1438, 359, None)
    total = np.bincount(splits.train.labels) + np.bincount(splits.val.labels)
    assert np.array_equal(np.bincount(splits.val.labels), np.round(total / 5))
    everything = {*names(splits.train), *names(splits.val)}
    assert everything == {f"digits/{i:05d}" for i in range(1797)}
    assert names(splits.val) == names(again.val)
    assert names(splits.val) != names(other.val)


def test_digits_are_scaled_to_white() -> None:
    splits = open_dataset("digits", None, val_fraction=None, seed=0)
    picture = splits.train.load(0)
    assert (picture.mode, picture.size) == ("RGB", (8, 8))
    # Grey levels 0..16 become 0..255.
    assert set(np.unique(np.asarray(picture)).tolist()) <= {
        round(level * 255 / 16) for level in range(17)
    }
    assert np.asarray(picture).max() >= 207
