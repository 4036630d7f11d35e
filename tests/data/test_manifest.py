import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_lightning.data.draws import hold_out
from vit_lightning.data.manifest import open_manifest
from vit_lightning.data.pictures import Pictures
from vit_lightning.data.sources import open_dataset
from vit_lightning.data.splits import Splits
from vit_lightning.errors import InputError

FILES = [f"img/{name}.png" for name in "abcdefgh"]


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    for name in FILES:
        Image.new("RGB", (2, 2), "red").save(tmp_path / name)


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table(folder: Path, *rows: str, header: str = "path,label", name: str = "table.csv") -> Path:
    return write(folder, "\n".join([header, *rows]) + "\n", name)


def manifest(path: Path, fraction: float | None = None, separator: str | None = None) -> Splits:
    return open_manifest(path, val_fraction=fraction, seed=0, label_separator=separator)


def refusal(path: Path, fraction: float | None = 0.5, separator: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        manifest(path, fraction, separator)
    return str(caught.value)


def names(pictures: Pictures | None) -> list[str]:
    assert pictures is not None
    return [pictures.name(index) for index in range(len(pictures))]


def test_splits_of_the_table(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "img/a.png,cat,train,9",
        "img/b.png, bee ,Train,9",
        "",
        f"{tmp_path / 'img/c.png'},bee,validation,9",
        "img/d.png,cat,valid,9",
        '"img/e.png",cat,test,9',
        header="path, label,split,width",
    )
    splits = manifest(path)
    assert splits.classes == ("bee", "cat")
    assert not splits.multi_label
    assert names(splits.train) == ["img/a.png", "img/b.png"]
    assert splits.train.labels.tolist() == [1, 0]
    assert splits.train.labels.dtype == np.int64
    assert names(splits.val) == [str(tmp_path / "img/c.png"), "img/d.png"]
    assert names(splits.test) == ["img/e.png"]
    assert splits.val.load(0).getpixel((0, 0)) == (255, 0, 0)
    assert splits.notes == (
        "train: 2 pictures (bee: 1, cat: 1)",
        "val: 2 pictures (bee: 1, cat: 1)",
        "test: 1 pictures (bee: 0, cat: 1)",
        "test has no pictures of 1 class: bee",
        "columns not used: width",
    )


def test_without_val_the_fraction_is_held_out_by_class(tmp_path: Path) -> None:
    rows = [f"{name},{'ant' if i < 4 else 'bee'}" for i, name in enumerate(FILES)]
    splits = manifest(table(tmp_path, *rows), 0.25)
    again = manifest(table(tmp_path, *rows), 0.25)
    assert np.bincount(splits.val.labels).tolist() == [1, 1]
    assert sorted(names(splits.train) + names(splits.val)) == FILES
    assert names(splits.val) == names(again.val)
    assert "held out for val: 0.25 of every class, chosen by seed 0" in splits.notes


def test_the_same_table_in_every_form(tmp_path: Path) -> None:
    rows = [
        ("img/a.png", "café"),
        ("img/b.png", "x,y"),
        ("img/c.png", "café"),
        ("img/d.png", "x,y"),
    ]
    comma = "path,label\r\n" + "".join(f'{name},"{label}"\r\n' for name, label in rows)
    tab = "path\tlabel\n" + "".join(f"{name}\t{label}\n" for name, label in rows)
    paths = [
        write(tmp_path, comma.encode("utf-8-sig"), "bom.csv"),  # as spreadsheets save it
        write(tmp_path, comma, "PLAIN.CSV"),
        write(tmp_path, tab, "table.tsv"),
    ]
    opened = [manifest(path, 0.5) for path in paths]
    assert {splits.classes for splits in opened} == {("café", "x,y")}
    assert len({str(splits.fingerprint()) for splits in opened}) == 1


def test_several_labels(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "img/a.png,sky|sea,train",
        "img/b.png,,train",
        "img/c.png, sea | sea,train",
        "img/d.png,boat,train",
        "img/e.png,sky,val",
        header="path,label,split",
    )
    splits = manifest(path, separator="|")
    assert splits.multi_label
    assert splits.classes == ("boat", "sea", "sky")
    assert splits.train.labels.dtype == np.uint8
    assert splits.train.labels.tolist() == [[0, 1, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert splits.val.labels.tolist() == [[0, 0, 1]]
    assert splits.notes[0] == "train: 4 pictures (boat: 1, sea: 2, sky: 1; without any: 1)"
    assert splits.notes[-1] == "val has no pictures of 2 classes: boat, sea"


def test_several_labels_are_held_out_by_the_rarest() -> None:
    labels = np.zeros((64, 3), dtype=np.uint8)
    labels[:60, 0] = 1  # common
    labels[:20, 1] = 1
    labels[:4, 2] = 1  # rare; 60 to 64 have none
    kept, held = hold_out(labels, 0.5, seed=0)
    assert sorted([*kept, *held]) == list(range(64))
    assert labels[held].sum(axis=0).tolist() == [30, 10, 2]
    assert np.count_nonzero(held >= 60) == 2
    assert hold_out(labels, 0.5, seed=1)[1].tolist() != held.tolist()
    assert len(hold_out(np.zeros((4, 2), np.uint8), 0.5, seed=0)[1]) == 2


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "img/a.png,cat,train",
        "img/none.png,cat,train",
        "img/b.png,,train",
        "img/c.png,cat,practice",
        "img/./a.png,cat,train",
        f"{tmp_path}/img//a.png,cat,val",
        "img/d.png,cat",
        '"img/e.png","c\nat",val',
        "https://example.org/x.png,cat,train",
        ",cat,train",
        "img,cat,train",
        "img/h.png,dog,test",
        header="path,label,split",
    )
    problems = refusal(path, 1.5).split("\n  ")
    assert problems[0] == f"{path} cannot be used as a data set:"
    expected = [
        "1 rows with more or fewer columns than the header's 3: line 8 has 2",
        "1 rows of an unknown split, where train, val or test was expected: line 5 'practice'",
        "2 rows whose path is no file: line 3 'img/none.png', line 13 'img'",
        "1 rows with an empty label: line 4",
        "1 rows with a picture that the same split has already; keep one row of each: "
        "line 6 'img/./a.png' (first in line 2)",
        "1 rows with a picture that another split has already, which would be tested on what was "
        f"learnt; keep each picture in one split: line 7 {str(tmp_path) + '/img//a.png'!r} "
        "(first in line 2)",
        "1 rows with an address for a path: download the pictures, and give the files: "
        "line 11 'https://example.org/x.png'",
        "1 rows without a path: line 12 ''",
        "2 rows with a label that no picture of train has; add some there, or remove these: "
        "line 9 'c\\nat', line 14 'dog'",
        "data.val_fraction must lie between 0 and 1, got 1.5",
        "train has one class (cat), two are the least",
    ]
    assert sorted(problems[1:]) == sorted(expected)


def test_of_many_problems_the_first_are_shown(tmp_path: Path) -> None:
    message = refusal(table(tmp_path, *(f"{i}.png,{'x' * 500}" for i in range(5000))))
    assert "5000 rows whose path is no file: line 2 '0.png'" in message
    assert "line 5 '3.png', …" in message
    assert len(message) < 1500


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,lable", r"there is no column 'label' \(is it 'lable'\?\); found 'path', 'lable'"),
        ("Path,label", r"no column 'path' \(is it 'Path'\?\)"),
        ("file,class", "no column 'path'; there is no column 'label'"),
        ("path,label,label", "there are 2 columns 'label'"),
        ("path;label", "is separated by semicolons, but a .csv file by commas"),
        ("path\tlabel\tsplit", "is separated by tabs, but a .csv file by commas"),
        ("", "is empty; expected the columns path and label"),
        ("path,label", "has no rows below its header"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        manifest(write(tmp_path, header and header + "\n"), 0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\na.png,café\n".encode("latin-1"), "line 2: not written in UTF-8 .byte 0xe9"),
        ("path,label\nimg/a.png,cat\n".encode("utf-16"), "written in UTF-16; save it as UTF-8"),
        (b"path,label\nimg/a.png,c\0at\n", "line 2: a NUL character"),
        (b'path,label\nimg/a.png,"cat\nimg/b.png,dog\n', "line 2: unexpected end of data"),
        (b'path,label\nimg/a.png,cat\n"img"/b.png,dog\n', "line 3: .* double quotes"),
        (b"path,label\nimg/a.png," + b"x" * 200_000, "line 2: field larger than"),
    ],
)
def test_text_that_is_no_table(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        manifest(write(tmp_path, content), 0.5)


def test_other_refusals(tmp_path: Path) -> None:
    rows = ["img/a.png,cat", "img/b.png,dog"]
    path = table(tmp_path, *rows)
    assert "set data.val_fraction (0.2, say)" in refusal(path, None)
    assert "every class has a single picture" in refusal(path, 0.5)
    assert "holds what separates the columns" in refusal(path, 0.5, ",")
    assert "no such file; expected a manifest" in refusal(tmp_path / "none.csv")
    assert "expected a file in .csv, .tsv, .parquet" in refusal(write(tmp_path, "", "table.txt"))
    (tmp_path / "folder.csv").mkdir()
    assert "no such file" in refusal(tmp_path / "folder.csv")
    only_test = table(tmp_path, "img/a.png,cat,test", header="path,label,split")
    assert "there are no pictures for train" in refusal(only_test)
    empty = table(tmp_path, "img/a.png,cat|", "img/b.png,dog", "img/c.png,dog")
    assert "1 rows with an empty label: line 2" in refusal(empty, 0.5, "|")


def test_files_that_are_none_count_as_missing(tmp_path: Path) -> None:
    (tmp_path / "img/loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "img/fifo.png")
    (tmp_path / "img/link.png").symlink_to("a.png")
    odd = ["img/loop.png,cat", "img/fifo.png,cat", "../" + "x" * 300 + ".png,cat", "no/a.png,cat"]
    good = ["img/link.png,cat", "img/b.png,dog"]
    assert "4 rows whose path is no file: line 2 'img/loop.png'" in refusal(
        table(tmp_path, *odd, *good)
    )


def test_too_many_classes_for_several_labels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vit_lightning.data.partition._MOST_LABEL_BYTES", 15)
    rows = [f"{name},{name}|all" for name in FILES]
    assert "9 classes for 8 pictures" in refusal(table(tmp_path, *rows), 0.5, "|")


def test_by_name(tmp_path: Path) -> None:
    path = table(tmp_path, *(f"{name},{i % 2}|x" for i, name in enumerate(FILES)))
    splits = open_dataset("manifest", path, val_fraction=0.5, seed=0, label_separator="|")
    assert splits.classes == ("0", "1", "x")
    assert not open_dataset("manifest", path, val_fraction=0.5, seed=0).multi_label
    with pytest.raises(InputError, match=r"label_separator is for data\.name manifest, not folder"):
        open_dataset("folder", tmp_path, val_fraction=0.5, seed=0, label_separator="|")


def arrow() -> Any:
    pytest.importorskip("pyarrow", reason="pyarrow, which reads Parquet, is not installed")
    import pyarrow
    import pyarrow.parquet

    return pyarrow


def parquet(folder: Path, **columns: Any) -> Path:
    pa = arrow()
    pa.parquet.write_table(pa.table(columns), folder / "table.parquet")
    return folder / "table.parquet"


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert 'pip install "vit-lightning[parquet]"' in refusal(write(tmp_path, b"", "t.parquet"))


def test_parquet_with_one_label(tmp_path: Path) -> None:
    pa = arrow()
    label = pa.array(["cat", "dog", "cat", "dog"]).dictionary_encode()
    split = ["train", "train", "val", "test"]
    splits = manifest(parquet(tmp_path, path=FILES[:4], label=label, split=split, size=[1] * 4))
    assert splits.classes == ("cat", "dog")
    assert names(splits.train) == FILES[:2]
    assert splits.val.labels.tolist() == [0]
    assert splits.notes[-1] == "columns not used: size"
    numbers = manifest(parquet(tmp_path, path=FILES, label=[2, 10] * 4), 0.5)
    assert numbers.classes == ("10", "2")


def test_parquet_with_several_labels(tmp_path: Path) -> None:
    labels = [["sky", "sea"], [], None, ["sky"]]
    splits = manifest(
        parquet(tmp_path, path=FILES[:4], label=labels, split=["train"] * 3 + ["val"])
    )
    assert splits.classes == ("sea", "sky")
    assert splits.train.labels.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert splits.val.labels.tolist() == [[0, 1]]


def test_parquet_refusals(tmp_path: Path) -> None:
    path = parquet(tmp_path, path=["a\0b", None, "img/a.png"], label=["x", None, "y"])
    message = refusal(path)
    assert r"1 rows with a NUL character in the path: row 1 'a\x00b'" in message
    assert "1 rows without a path: row 2 ''" in message
    assert "1 rows with an empty label: row 2" in message
    assert "data.label_separator is for .csv" in refusal(path, 0.5, "|")
    assert "label is a column of double" in refusal(parquet(tmp_path, path=FILES, label=[0.5] * 8))
    assert "no column 'label'" in refusal(parquet(tmp_path, path=FILES))
    path.write_bytes(path.read_bytes()[:100])
    assert "is no Parquet file that can be read" in refusal(path)


@pytest.mark.parametrize(
    ("joined", "expected"),
    [
        ("cat|bee", ["the class 'cat|bee' looks like several labels: if it is, set "]),
        ("cat, bee", ["the class 'cat, bee' looks like several labels: if it is, set "]),
        ("dog|cow", []),  # may be a name
    ],
)
def test_labels_that_may_be_several_are_noted(
    tmp_path: Path, joined: str, expected: list[str]
) -> None:
    rows = ["img/a.png,cat", "img/b.png,bee", f'img/c.png,"{joined}"', f'img/d.png,"{joined}"']
    notes = manifest(table(tmp_path, *rows, "img/e.png,cat", "img/f.png,bee"), 0.5).notes
    found = [note for note in notes if "several labels" in note]
    assert [note.partition("data.label_separator")[0] for note in found] == expected
