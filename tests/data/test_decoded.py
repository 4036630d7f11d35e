import errno
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vit_lightning.data import decoded_caches, decoded_store
from vit_lightning.data.decoded import CachedPictures, KeptPicture, build, open_cache
from vit_lightning.data.decoded_caches import list_caches, remove_cache
from vit_lightning.data.decoded_store import RECORD_BYTES, Stamp
from vit_lightning.data.folder import open_folder
from vit_lightning.data.manifest import open_manifest
from vit_lightning.data.pictures import ArrayPictures, PictureError, PictureFiles
from vit_lightning.errors import InputError
from vit_lightning.settings import CacheSettings

COUNT = 12


@pytest.fixture
def files(tmp_path: Path) -> PictureFiles:
    """JPEGs of different sizes, one grey, one to be turned, and one that is none."""
    generator = np.random.default_rng(0)
    root = tmp_path / "set"
    root.mkdir()
    names = [f"{i}.jpg" for i in range(COUNT)]
    for i, name in enumerate(names):
        pixels = generator.integers(0, 256, (20 + i, 31, 3), np.uint8)
        Image.fromarray(pixels).save(root / name, exif=Image.Exif())
    Image.fromarray(pixels[..., 0]).save(root / names[1])
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(pixels).save(root / names[2], exif=turned)
    return PictureFiles(root, names, np.arange(COUNT))


@pytest.fixture
def cache(tmp_path: Path, files: PictureFiles) -> Callable[..., CachedPictures]:
    """Open the cache; each time as if in a process of its own."""

    def open_it(pictures: PictureFiles = files, **settings: object) -> CachedPictures:
        values = {"folder": str(tmp_path / "cache")} | settings
        cached = open_cache(pictures, CacheSettings(**values))  # type: ignore[arg-type]
        assert isinstance(cached, CachedPictures)
        return cached

    return open_it


def everything(pictures: CachedPictures | PictureFiles) -> list[NDArray[np.uint8]]:
    return [np.asarray(pictures.load(i)) for i in range(len(pictures))]


def same(first: CachedPictures | PictureFiles, second: CachedPictures | PictureFiles) -> bool:
    pairs = zip(everything(first), everything(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def kept(pictures: CachedPictures) -> list[int]:
    return [i for i in range(len(pictures)) if pictures.pixels(i) is not None]


def test_pictures_are_the_same_with_and_without(
    files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    cached = cache()
    assert kept(cached) == []
    for _ in range(2):
        assert same(cached, files)
    assert kept(cached) == list(range(COUNT))
    again = cache()
    assert same(again, files)
    assert again.labels is files.labels
    assert [again.name(i) for i in range(COUNT)] == list(files.names)
    assert f"{COUNT} of {COUNT} are kept in {again.folder}" in again.note()


def test_a_part_shows_the_same_and_rows_read_no_more(
    files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    cached = cache()
    first, later = cached.open(5), cached.open(5)
    assert isinstance(later, KeptPicture)
    assert first.size == later.size == (25, 31)
    wanted = (2.5, 10.25, 20.0, 14.5)
    # Resizing looks beyond a region by its filter: one that has just been decoded and one that
    # is kept would differ if one of them had no more than its rows.
    parts = [picture.part(wanted, (8, 8)) for picture in (first, later)]
    assert all(np.array_equal(picture, parts[0][0]) and at == wanted for picture, at in parts)
    assert np.array_equal(
        first.resized(wanted, (8, 8), "bicubic"), later.resized(wanted, (8, 8), "bicubic")
    )
    pixels, region = later.rows(wanted)
    assert region == (2.5, 0.25, 20.0, 4.5)
    assert np.array_equal(pixels, np.asarray(files.load(5))[10:15])
    rows = later.kept.rows(24, 25)
    assert rows.shape == (1, 31, 3)
    assert rows.flags.writeable


def test_what_is_kept_is_not_decoded_again(
    files: PictureFiles, cache: Callable[..., CachedPictures], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything(cache())
    monkeypatch.setattr("vit_lightning.data.pictures.open_picture", None)
    assert len(everything(cache())) == COUNT


def test_pictures_are_scaled_down_once(
    files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    cached = cache(shorter_side=24)
    first, later = everything(cached), everything(cached)
    assert [a.shape for a in first] == [b.shape for b in later]
    assert all(np.array_equal(a, b) for a, b in zip(first, later, strict=True))
    shapes = [np.asarray(files.load(i)).shape[:2] for i in range(COUNT)]
    for (height, width), pixels in zip(shapes, first, strict=True):
        scale = min(24 / min(height, width), 1)
        assert pixels.shape == (round(height * scale), round(width * scale), 3)
    full = cache(shorter_side=None, max_gb=1e-9)  # without room: decoded each time, and the same
    assert same(full, files)
    nothing = cache(shorter_side=24, max_gb=1e-9)
    assert full.folder != nothing.folder == cached.folder


def test_without_room_pictures_are_scaled_all_the_same(
    cache: Callable[..., CachedPictures], tmp_path: Path
) -> None:
    roomy = cache(shorter_side=22)
    narrow = cache(shorter_side=22, folder=str(tmp_path / "other"), max_gb=1e-9)
    assert same(roomy, narrow)
    assert kept(narrow) == []


def test_splits_and_seeds_share_a_cache(
    tmp_path: Path, files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    for label in "ab":
        (files.root / label).mkdir()
    for i, name in enumerate(files.names):
        (files.root / name).rename(files.root / "ab"[i % 2] / name)
    folders = set()
    for seed in (0, 1):
        splits = open_folder(files.root, val_fraction=0.25, seed=seed)
        for part in (splits.train, splits.val):
            assert isinstance(part, PictureFiles)
            cached = cache(part)
            assert same(cached, part)
            folders.add(cached.folder)
        assert splits.each(cache).fingerprint() == splits.fingerprint()
    (folder,) = folders
    sizes = [
        np.asarray(part.load(i)).size
        for part in (splits.train, splits.val)
        for i in range(len(part))
    ]
    assert (folder / "pixels").stat().st_size == sum(sizes)


def test_the_splits_of_a_manifest_share_a_cache_of_its_name(
    tmp_path: Path, files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    splits = ["train", "test", "val"]
    rows = [f"set/{name},{i % 2},{splits[i // 2 % 3]}" for i, name in enumerate(files.names)]
    table = tmp_path / "my birds.csv"
    table.write_text("\n".join(["path,label,split", *rows]))
    opened = open_manifest(table, val_fraction=None, seed=0)
    folders = set()
    for part in (opened.train, opened.val, opened.test):
        assert isinstance(part, PictureFiles)
        cached = cache(part)
        assert same(cached, part)
        folders.add(cached.folder)
    (folder,) = folders
    assert folder.name.startswith("my_birds.")
    assert f"{COUNT} of {COUNT} are kept" in cached.note()
    assert [entry.about["count"] for entry in list_caches(folder.parent)] == [COUNT]


def test_a_picture_that_changed_is_decoded_again(
    files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    everything(cache())
    Image.new("RGB", (7, 9), "red").save(files.root / "3.jpg")
    os.utime(files.root / "4.jpg", ns=(1, 1))
    cached = cache()
    assert kept(cached) == [i for i in range(COUNT) if i not in (3, 4)]
    assert cached.load(3).size == (7, 9)
    assert same(cached, files)
    assert kept(cache()) == list(range(COUNT))


def test_pictures_that_cannot_be_read_are_told_as_without(
    files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    (files.root / "3.jpg").write_bytes(b"nothing")
    everything(cache(files.subset(np.array([5]))))
    (files.root / "5.jpg").unlink()
    cached = cache()
    for index, message in ((3, "3.jpg: cannot be read"), (5, "5.jpg: no such picture")):
        for _ in range(2):
            with pytest.raises(PictureError, match=message):
                cached.open(index)
    assert kept(cached) == []


def test_pictures_in_memory_stay_as_they_are() -> None:
    pictures = ArrayPictures(np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64), "digits")
    assert open_cache(pictures, CacheSettings()) is pictures


def test_the_bound_is_kept_and_told_once(
    tmp_path: Path,
    files: PictureFiles,
    cache: Callable[..., CachedPictures],
    capfd: pytest.CaptureFixture[str],
) -> None:
    bound = COUNT * RECORD_BYTES + 8_000
    for _ in range(2):
        cached = cache(max_gb=bound / 1e9)
        assert same(cached, files)
        assert 0 < len(kept(cached)) < COUNT
        assert same(cache(max_gb=bound / 1e9), files)  # another process of the same run
        size = sum(path.stat().st_size for path in cached.folder.glob("[pr]*"))
        assert size <= bound
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) <= 4
    assert f"of {COUNT} decoded pictures are kept, the others are decoded each time" in lines[0]


def test_caches_that_nobody_uses_make_room(
    tmp_path: Path, files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    parts = [
        files.subset(np.arange(COUNT)),
        *(PictureFiles(files.root, [files.name(i)], np.zeros(1, np.int64)) for i in range(3)),
    ]
    olds = [cache(part) for part in parts[1:]]
    for i, old in enumerate(olds):
        everything(old)
        used = time.time() - (0 if i == 1 else 10_000 - i)
        os.utime(old.folder / "used", (used, used))
    bound = COUNT * RECORD_BYTES + 3 * 2_500 + 8_000
    new = cache(parts[0], max_gb=bound / 1e9)
    everything(new)
    assert not olds[0].folder.exists()
    assert olds[1].folder.exists()  # in use
    assert sum(entry.size for entry in list_caches(tmp_path / "cache")) <= bound
    assert same(olds[0], parts[1])  # whoever has it open goes on


def test_other_folders_are_left_alone(tmp_path: Path, cache: Callable[..., CachedPictures]) -> None:
    precious = tmp_path / "cache" / "photos"
    precious.mkdir(parents=True)
    (precious / "pixels").write_bytes(b"x" * 100)
    everything(cache(max_gb=1e-9))
    assert [entry.folder.name for entry in list_caches(tmp_path / "cache")] != ["photos"]
    with pytest.raises(InputError, match="no decoded pictures 'photos'"):
        remove_cache(tmp_path / "cache", "photos")
    assert (precious / "pixels").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_ends_the_keeping_and_nothing_else(
    files: PictureFiles,
    cache: Callable[..., CachedPictures],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: int,
) -> None:
    real, calls = os.pwrite, []

    def write(file: int, content: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 9:
            raise OSError(number, os.strerror(number))
        return real(file, content[:1000], offset)  # a system may also write less than asked

    monkeypatch.setattr(decoded_store.os, "pwrite", write)
    cached = cache()
    assert same(cached, files)
    assert same(cached, files)
    assert len(calls) == 10
    monkeypatch.undo()
    assert 0 < len(kept(cached)) < COUNT
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert ("full" if number == errno.ENOSPC else "cannot be written to") in lines[0]
    assert same(cache(), files)
    assert len(kept(cache())) == COUNT


def test_a_folder_that_can_only_be_read(
    files: PictureFiles, cache: Callable[..., CachedPictures], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything(cache(files.subset(np.arange(6))))
    real = os.open

    def opened(path: Path, flags: int, *rest: int, **options: int) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(decoded_store, "_boot", lambda: 1)  # after a restart of the machine
    cached = cache()
    assert same(cached, files)
    assert kept(cached) == list(range(6))


def test_a_folder_that_cannot_be_made(
    tmp_path: Path,
    files: PictureFiles,
    cache: Callable[..., CachedPictures],
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    for part in (files, files.subset(np.arange(3)), files.subset(np.arange(1))):
        assert same(cache(part, folder=str(tmp_path / "file")), part)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("note: data.cache.folder: decoded pictures are not kept")
    assert str(tmp_path / "file") in line


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("offset", [0, 20, 27, RECORD_BYTES - 1])
def test_a_damaged_record_is_no_record(
    files: PictureFiles, cache: Callable[..., CachedPictures], offset: int
) -> None:
    cached = cache()
    everything(cached)
    flip(cached.folder / "records", 4 * RECORD_BYTES + offset)
    assert kept(cache()) == [i for i in range(COUNT) if i != 4]
    assert same(cache(), files)


def test_a_record_of_another_place_is_no_record(
    files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    cached = cache()
    everything(cached)
    records = cached.folder / "records"
    content = records.read_bytes()
    records.write_bytes(content[RECORD_BYTES:] + content[:RECORD_BYTES])
    assert kept(cache()) == []
    assert same(cache(), files)


def test_pixels_that_a_crash_of_the_machine_lost_are_decoded_again(
    files: PictureFiles, cache: Callable[..., CachedPictures], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = cache()
    everything(cached)
    size = (cached.folder / "pixels").stat().st_size
    flip(cached.folder / "pixels", 100)
    os.truncate(cached.folder / "pixels", size - 1)
    monkeypatch.setattr(decoded_store, "_boot", lambda: 1)
    assert kept(cache()) == list(range(1, COUNT - 1))
    assert same(cache(), files)
    monkeypatch.setattr(decoded_store.zlib, "crc32", lambda *_: 7)
    assert kept(cache()) == []  # as no record has this sum


def test_pixels_are_checked_once_after_a_start_of_the_machine(
    cache: Callable[..., CachedPictures], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything(cache())
    checked: list[int] = []
    real = decoded_store.zlib.crc32

    def count(data: bytes, *start: int) -> int:
        checked.extend([len(data)] * (len(data) > RECORD_BYTES or not isinstance(data, bytes)))
        return real(data, *start)

    monkeypatch.setattr(decoded_store.zlib, "crc32", count)
    monkeypatch.setattr(decoded_store, "_boot", lambda: 1)
    for expected in (COUNT, COUNT):
        assert len(kept(cache())) == COUNT
        assert len(checked) == expected


def test_a_file_cut_off_while_it_is_read_is_an_input_error(
    cache: Callable[..., CachedPictures],
) -> None:
    cached = cache()
    everything(cached)
    picture = cached.open(COUNT - 1)
    os.truncate(cached.folder / "pixels", 10)
    with pytest.raises(InputError, match="vit data remove"):
        picture.part((0, 0, 4, 4), (4, 4))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_pixels_that_were_cut_off_are_decoded_again(
    files: PictureFiles, cache: Callable[..., CachedPictures], share: float
) -> None:
    cached = cache()
    everything(cached)
    size = (cached.folder / "pixels").stat().st_size
    os.truncate(cached.folder / "pixels", int(size * share))
    # In another order, so that the first ones are written where others have been.
    again = cache()
    for i in reversed(range(COUNT)):
        assert np.array_equal(again.load(i), files.load(i))
    for opened in (cache(), again, cached):  # the last has them open since before
        assert kept(opened) == list(range(COUNT))
        assert same(opened, files)


def test_pixels_of_another_process_that_were_cut_off_are_noticed(
    files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    first, second = cache(), cache()
    for i in range(4):
        first.load(i)
    size = (first.folder / "pixels").stat().st_size
    for i in range(4, COUNT):
        second.load(i)
    # No shorter than the first has ever seen it.
    os.truncate(first.folder / "pixels", size + 10)
    for i in reversed(range(COUNT)):
        first.keep(i)
    assert kept(first) == list(range(COUNT))
    assert same(first, files)
    assert same(cache(), files)


def test_pixels_replaced_while_they_are_read_are_an_input_error(
    files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    cached = cache()
    everything(cached)
    pictures = [cached.open(i) for i in (0, COUNT - 1)]
    os.truncate(cached.folder / "pixels", 0)
    build(cache(), 0, lambda _: None)
    for picture in pictures:
        with pytest.raises(InputError, match=r"cut off.*vit data remove"):
            picture.part((0, 0, 4, 4), (4, 4))
    assert same(cached, files)


def test_a_lost_length_does_not_hide_what_was_cut_off(
    files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    cached = cache()
    everything(cached)
    os.truncate(cached.folder / "pixels", 5_000)
    with (cached.folder / "records").open("r+b") as records:  # as a crash of the machine may do
        records.seek(COUNT * RECORD_BYTES)
        records.write(bytes(16))
    build(cache(), 0, lambda _: None)
    assert same(cache(), files)
    assert kept(cache()) == list(range(COUNT))


@pytest.mark.parametrize("name", ["records", "pixels", "about.json"])
def test_a_folder_that_is_not_whole_is_made_anew(
    files: PictureFiles, cache: Callable[..., CachedPictures], name: str
) -> None:
    cached = cache()
    everything(cached)
    if name == "records":
        os.truncate(cached.folder / name, 5)
    else:
        (cached.folder / name).unlink()
    assert kept(cache()) == []
    assert same(cache(), files)


def test_a_cache_that_is_removed_while_it_is_used(
    tmp_path: Path, files: PictureFiles, cache: Callable[..., CachedPictures]
) -> None:
    cached = cache()
    everything(cached.pictures)
    cached.load(0)
    assert remove_cache(tmp_path / "cache", cached.folder.name) > 0
    assert same(cached, files)
    assert kept(cached) == [0]
    assert list_caches(tmp_path / "cache") == []


def _read(cached: CachedPictures, start: int) -> list[NDArray[np.uint8]]:
    order = [(start + i) % COUNT for i in range(COUNT)]
    found = {i: np.asarray(cached.load(i)) for i in order}
    return [found[i] for i in range(COUNT)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_several_processes_at_once(
    files: PictureFiles, cache: Callable[..., CachedPictures], method: str
) -> None:
    cached = cache()
    cached.load(0)  # what this process has open is not what the others have
    assert len(pickle.dumps(cached)) < 3_000
    expected = everything(files)
    with multiprocessing.get_context(method).Pool(2) as pool:
        for found in pool.starmap(_read, [(cached, start) for start in (0, 0, 3, 9)], 1):
            assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert (cached.folder / "pixels").stat().st_size == sum(pixels.size for pixels in expected)
    assert kept(cached) == list(range(COUNT))


_FILL = """
import sys
from pathlib import Path
import numpy as np
from vit_lightning.data.decoded_store import Stamp, Store

store = Store(Path(sys.argv[1]), 100_000, 10**9)
print("begun", flush=True)
for i in range(100_000):
    store.put(i, Stamp(1, i), np.full((50 + i % 7, 40, 3), i % 251, np.uint8))
"""


def test_a_process_killed_at_any_instant_leaves_a_cache_that_is_right(tmp_path: Path) -> None:
    folder = tmp_path / "x.000000000000.decoded"
    decoded_caches.prepare(folder, {"count": 100_000}, decoded_store.records_bytes(100_000))
    chance = random.Random(0)
    for _ in range(4):
        command = [sys.executable, "-c", _FILL, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            time.sleep(chance.uniform(0.01, 0.1))
            process.send_signal(signal.SIGKILL)
    store = decoded_store.Store(folder, 100_000, 10**9)
    found = 0
    for i in range(100_000):
        kept = store.get(i, Stamp(1, i))
        if kept is not None:
            found += 1
            assert kept.size == (50 + i % 7, 40)
            assert (kept.whole() == i % 251).all()
    assert 0 < found == store.kept() < 100_000
    assert store.put(found, Stamp(1, 0), np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize("workers", [0, 2])
def test_all_are_kept_ahead(
    files: PictureFiles, cache: Callable[..., CachedPictures], workers: int
) -> None:
    (files.root / "3.jpg").write_bytes(b"nothing")
    done: list[int] = []
    (message,) = build(cache(), workers, done.append)
    assert "3.jpg: cannot be read" in message
    assert sum(done) == COUNT
    assert kept(cache()) == [i for i in range(COUNT) if i != 3]
    build(cache(shorter_side=4, max_gb=1e-9), workers, done.append)
    assert sum(done) == COUNT  # nothing more, as there is no room
