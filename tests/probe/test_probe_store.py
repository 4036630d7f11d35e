"""Features on disk: found again, never wrong."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_lightning.data.pictures import ArrayPictures, PictureFiles
from vit_lightning.probe import store
from vit_lightning.probe.store import (
    FeatureStore,
    features_folder,
    list_features,
    picture_keys,
    remove_features,
)

KEYS = [bytes([number]) * 16 for number in range(5)]
VALUES = np.arange(15, dtype=np.float32).reshape(5, 3)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIT_LIGHTNING_CACHE", str(tmp_path / "kept"))


def _store(**about: Any) -> FeatureStore:
    return FeatureStore({"weights": "abc"} | about, "some/w.npz", 3)


def test_what_is_put_is_got_by_another() -> None:
    _store().put(KEYS[:2], VALUES[:2])
    _store().put(KEYS[2:4], VALUES[2:4])
    values, known = _store().get([*KEYS[::-1], KEYS[1]])
    assert known.tolist() == [False, True, True, True, True, True]
    np.testing.assert_array_equal(values[1:], VALUES[[3, 2, 1, 0, 1]])
    assert not values[0].any()


def test_other_weights_and_sizes_know_nothing_of_it() -> None:
    _store().put(KEYS, VALUES)
    assert not _store(weights="abd").get(KEYS)[1].any()
    assert not _store(preprocessing={"mode": "crop"}).get(KEYS)[1].any()
    assert FeatureStore({"weights": "abc"}, "renamed/w.npz", 3).get(KEYS)[1].all()


@pytest.mark.parametrize("place", [0, 100, -5, -60])
def test_a_changed_byte_costs_what_it_is_in(place: int) -> None:
    _store().put(KEYS, VALUES)
    (path,) = _store().folder.glob("*.npy")
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    values, known = _store().get(KEYS)
    assert not known.all()
    np.testing.assert_array_equal(values[known], VALUES[known])
    _store().put(KEYS, VALUES)
    assert _store().get(KEYS)[1].all()


@pytest.mark.parametrize("length", [0, 7, 90, 200])
def test_a_cut_file_is_none(length: int) -> None:
    _store().put(KEYS, VALUES)
    (path,) = _store().folder.glob("*.npy")
    path.write_bytes(path.read_bytes()[:length])
    assert not _store().get(KEYS)[1].any()
    assert not path.exists()


def test_pickles_are_not_opened() -> None:
    _store().put(KEYS, VALUES)
    (path,) = _store().folder.glob("*.npy")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert not _store().get(KEYS)[1].any()


def test_what_was_used_longest_ago_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("old", "new")):
        own = _store(weights=name)
        own.put(KEYS, VALUES)
        os.utime(own.folder / "about.json", (number + 1, number + 1))
    size = list_features()[0].size
    monkeypatch.setattr(store, "_MOST_BYTES", 2 * size)
    _store(weights="third").put(KEYS, VALUES)
    assert len(list_features()) == 2
    assert not _store(weights="old").get(KEYS)[1].any()
    assert _store(weights="new").get(KEYS)[1].all()
    assert _store(weights="third").get(KEYS)[1].all()


def test_what_is_too_large_is_not_kept_and_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "_MOST_BYTES", 10)
    own = _store()
    own.put(KEYS, VALUES)
    own.put(KEYS, VALUES)
    assert capsys.readouterr().err.count("features are not kept in") == 1
    assert not own.get(KEYS)[1].any()


def test_a_folder_that_cannot_be_is_no_reason_to_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").write_text("a file")
    own = _store()
    assert not own.get(KEYS)[1].any()
    own.put(KEYS, VALUES)
    assert "features are not kept" in capsys.readouterr().err


def test_the_list_and_removal() -> None:
    assert list_features() == []
    _store().put(KEYS, VALUES)
    (kept,) = list_features()
    assert kept.name.startswith("w_npz.")
    assert kept.title == "some/w.npz"
    assert kept.size > VALUES.nbytes
    (kept.folder / "about.json").write_text("[")
    assert list_features()[0].title == "damaged"
    remove_features(kept)
    assert list_features() == []
    assert list(features_folder().iterdir()) == []


def test_keys_tell_files_and_their_changes_apart(tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    files = PictureFiles(tmp_path, ["a.png", "b.png", "missing.png"], np.zeros(3, np.int64))
    before = picture_keys(files)
    assert before is not None
    assert len(set(before)) == 3
    assert before == picture_keys(files)
    os.utime(tmp_path / "b.png", ns=(1, 1))
    after = picture_keys(files)
    assert after is not None
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_keys_of_pictures_in_memory_are_their_pixels() -> None:
    pixels = np.zeros((3, 4, 5), np.uint8)
    pixels[2, 0, 0] = 1
    keys = picture_keys(ArrayPictures(pixels, np.zeros(3, np.int64), "x"))
    turned = picture_keys(ArrayPictures(pixels.reshape(3, 5, 4), np.zeros(3, np.int64), "x"))
    assert keys is not None
    assert turned is not None
    assert keys[0] == keys[1] != keys[2]
    assert keys[0] != turned[0]
