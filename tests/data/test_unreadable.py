from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_lightning.data.pictures import PictureError, PictureFiles
from vit_lightning.data.unreadable import all_unreadable, find_unreadable


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, PictureFiles]:
    """Two splits of 20 and 2 pictures, of which 3 are broken."""
    for index in range(22):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / f"{index:02d}.png")
    for broken in ("03.png", "17.png", "21.png"):
        (tmp_path / broken).write_bytes(b"")
    names = [f"{index:02d}.png" for index in range(22)]
    return {
        "train": PictureFiles(tmp_path, names[:20], np.zeros(20, dtype=np.int64)),
        "val": PictureFiles(tmp_path, names[20:], np.zeros(2, dtype=np.int64)),
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_all_are_found(splits: dict[str, PictureFiles], workers: int) -> None:
    found, read = find_unreadable(splits, workers)
    assert [Path(message.split(":")[0]).name for message in found] == ["03.png", "17.png", "21.png"]
    assert read == 22


def test_the_error_lists_them_and_the_ways_out(splits: dict[str, PictureFiles]) -> None:
    message = str(all_unreadable(PictureError("03.png"), splits, 0))
    head, *lines = message.split("\n  ")
    assert head.startswith("3 pictures of 22 cannot be read; ")
    assert "data.on_bad_image=skip" in head
    assert len(lines) == 3
    assert all("cannot be read as a picture" in line for line in lines)


def test_no_time_is_said(splits: dict[str, PictureFiles]) -> None:
    found, read = find_unreadable(splits, 0, seconds=-1.0)
    assert (found, read) == ([], 0)


def test_a_picture_that_came_back_is_told_all_the_same(splits: dict[str, PictureFiles]) -> None:
    message = str(all_unreadable(PictureError("gone.png: no such picture"), {}, 0))
    assert "gone.png: no such picture" in message
