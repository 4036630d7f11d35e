from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_lightning.data.leave_out import without_classes
from vit_lightning.data.pictures import ArrayPictures, Labels
from vit_lightning.data.sources import open_dataset
from vit_lightning.data.splits import Splits
from vit_lightning.errors import InputError

CLASSES = ("ant", "bee", "cat")


def of_labels(labels: Labels) -> Splits:
    pictures = ArrayPictures(
        np.arange(len(labels) * 4, dtype=np.uint8).reshape(-1, 2, 2), labels, "x"
    )
    return Splits(CLASSES, pictures, pictures, None, ("as found",))


def test_pictures_and_numbers_of_the_class_are_gone() -> None:
    splits = without_classes(of_labels(np.array([0, 1, 2, 1, 0])), ["bee"])
    assert splits.classes == ("ant", "cat")
    assert splits.train.labels.tolist() == [0, 1, 0]
    assert [splits.train.name(index) for index in range(3)] == ["x/00000", "x/00002", "x/00004"]
    assert splits.notes == ("as found", "left out: bee and the 4 pictures that show them")
    assert splits.test is None


def test_pictures_of_several_labels_may_show_others_besides() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.uint8)
    splits = without_classes(of_labels(labels), ["bee"])
    assert splits.train.labels.tolist() == [[1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        (["bees"], "no class 'bees'; did you mean 'bee'"),
        (["ant", "bee"], "1 classes remain"),
    ],
)
def test_what_cannot_be_left_out(left_out: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        without_classes(of_labels(np.array([0, 1, 2])), left_out)


def test_a_split_keeps_pictures() -> None:
    splits = of_labels(np.array([0, 1, 2]))
    only_bees = ArrayPictures(np.zeros((2, 2, 2), dtype=np.uint8), np.array([1, 1]), "x")
    with pytest.raises(InputError, match="no picture remains"):
        without_classes(Splits(CLASSES, splits.train, only_bees, None, ()), ["bee"])


def test_folders_of_pictures(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / split / name / "a.png")
    splits = without_classes(open_dataset("folder", tmp_path, val_fraction=None, seed=0), ["ant"])
    assert [splits.val.name(index) for index in range(2)] == ["val/bee/a.png", "val/cat/a.png"]
    assert splits.val.labels.tolist() == [0, 1]
