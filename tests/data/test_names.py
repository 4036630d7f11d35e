import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from vit_lightning.data.names import PackedNames, names_in_file
from vit_lightning.errors import InputError

ODD = [
    "a/b.jpg",
    "Käse/日本.png",
    os.fsdecode(b"broken/\xff\xfe.jpg"),
    "two\nlines.jpg",
    "",
    "x" * 255,
]


def test_names_come_back() -> None:
    names = PackedNames.pack(ODD)
    assert list(names) == ODD
    assert [names[i] for i in range(len(ODD))] == ODD
    assert names[-1] == ODD[-1]
    assert sorted(names) == sorted(ODD)
    assert ODD[2] in names
    with pytest.raises(IndexError):
        names[len(ODD)]


def test_no_names() -> None:
    names = PackedNames.pack([])
    assert (len(names), list(names), list(names.chunks())) == (0, [], [])


def test_subsets_of_subsets() -> None:
    every = [f"{i}.jpg" for i in range(100)]
    names = PackedNames.pack(every)
    indices = np.random.default_rng(0).permutation(40)[:20]
    for part in (names[10:50], names[90:10:-2]):
        chosen = part.subset(indices)
        again = chosen.subset(np.array([3, 3, 0]))
        assert list(chosen) == [list(part)[i] for i in indices]
        assert list(again) == [chosen[3], chosen[3], chosen[0]]
        assert [every[again.position(i)] for i in range(3)] == list(again)
        assert list(again.whole) == every
    assert b"".join(names[10:50].chunks()) == "".join(f"{i}.jpg\0" for i in range(10, 50)).encode()


def test_many_names_in_pieces() -> None:
    every = [f"{i:x}" for i in range(150_000)]
    names = PackedNames.pack(every)
    backwards = np.arange(len(every))[::-1]
    assert list(names) == every
    assert list(names.subset(backwards)) == every[::-1]
    assert b"".join(names.chunks()) == ("\0".join(every) + "\0").encode()


@pytest.mark.parametrize("name", ["nul\0inside", "\ud800"])
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="the name of a picture"):
        PackedNames.pack(["fine", name])


def unpickled(pickled: bytes) -> PackedNames:
    names: PackedNames = pickle.loads(pickled)  # noqa: S301  # made in this test
    return names


def in_file(path: Path, names: list[str]) -> PackedNames:
    packed = PackedNames.pack(names)
    offsets = packed.offsets + 8 + packed.offsets.nbytes
    content = b"".join(packed.chunks())
    path.write_bytes(b"abcd\1\0\0\0" + offsets.astype("<i8").tobytes() + content)
    return names_in_file(path, 8, len(names), 1)


def test_names_in_a_file_are_handed_over_as_their_place(tmp_path: Path) -> None:
    every = [f"{i:040}" for i in range(10_000)]
    names = in_file(tmp_path / "names", every)[10:9_000]
    pickled = pickle.dumps(names)
    assert len(pickled) < 500
    assert list(unpickled(pickled)) == every[10:9_000] == list(names)
    plain = PackedNames.pack(ODD)[1:4]
    assert list(unpickled(pickle.dumps(plain))) == ODD[1:4]


def test_names_of_a_file_that_changed_are_not_taken_for_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "names"
    pickled = pickle.dumps(in_file(path, ODD))
    path.write_bytes(path.read_bytes().replace(b"abcd\1", b"abcd\2"))
    with pytest.raises(InputError, match="made anew"):
        unpickled(pickled)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="made anew"):
        unpickled(pickled)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(tmp_path: Path, method: str) -> None:
    names = in_file(tmp_path / "names", ODD).subset(np.array([5, 2, 0]))
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(list, (names,)) == [ODD[5], ODD[2], ODD[0]]
