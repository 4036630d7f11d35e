import io
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_lightning.data.huggingface import HubPictures, open_huggingface
from vit_lightning.data.pictures import Pictures
from vit_lightning.data.sources import open_dataset
from vit_lightning.data.splits import Splits
from vit_lightning.errors import InputError

COLOURS = ["red", "lime", "blue", "white", "black", "yellow", "cyan", "gray"]


@pytest.fixture
def hf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "png")
    return file.getvalue()


def cells(count: int) -> list[dict[str, Any]]:
    return [{"bytes": png(colour), "path": None} for colour in COLOURS[:count]]


def saved(folder: Path, hf: Any, splits: dict[str, dict[str, Any]], **features: Any) -> str:
    kinds = hf.Features({"image": hf.Image(), **features})
    parts = {name: hf.Dataset.from_dict(rows, features=kinds) for name, rows in splits.items()}
    hf.DatasetDict(parts).save_to_disk(folder / "saved")
    return str(folder / "saved")


def opened(root: str | Path, fraction: float | None = None) -> Splits:
    return open_huggingface(str(root), val_fraction=fraction, seed=0)


def names(pictures: Pictures) -> list[str]:
    return [pictures.name(index) for index in range(len(pictures))]


def test_saved_with_splits(tmp_path: Path, hf: Any) -> None:
    rows = {"image": cells(3), "kind": [1, 0, 1], "caption": ["x", "y", "z"]}
    root = saved(
        tmp_path,
        hf,
        {"validation": rows, "train": rows, "test": rows | {"kind": [-1] * 3}, "extra": rows},
        kind=hf.ClassLabel(names=["dog", "ant"]),
        caption=hf.Value("string"),
    )
    splits = opened(root)
    assert splits.classes == ("dog", "ant")
    assert names(splits.train) == ["train/00000000", "train/00000001", "train/00000002"]
    assert splits.val.labels.tolist() == [1, 0, 1]
    assert splits.val.labels.dtype == np.int64
    assert splits.val.load(1).getpixel((0, 0)) == (0, 255, 0)
    assert splits.val.open(2).size == (4, 4)
    assert splits.test is None
    assert splits.notes[-2:] == (
        "test is not used: none of its pictures has a label",
        "splits not used: extra",
    )


def test_one_split_is_divided(tmp_path: Path, hf: Any) -> None:
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["a", "b"])})
    part = hf.Dataset.from_dict({"image": cells(8), "label": [0, 1] * 4}, features=features)
    part.select([7, 6, 5, 4, 3, 2, 1, 0]).save_to_disk(tmp_path / "one")
    splits = opened(tmp_path / "one", 0.25)
    assert np.bincount(splits.val.labels).tolist() == [1, 1]
    assert len({*names(splits.train), *names(splits.val)}) == 8
    shown = {splits.train.load(i).getpixel((0, 0)) for i in range(6)}
    shown |= {splits.val.load(i).getpixel((0, 0)) for i in range(2)}
    assert len(shown) == 8
    row = int(names(splits.val)[0].split("/")[1])
    assert splits.val.load(0).tobytes() == Image.new("RGB", (4, 4), COLOURS[7 - row]).tobytes()


def test_several_labels(tmp_path: Path, hf: Any) -> None:
    rows = {"image": cells(3), "tags": [[0, 2], [], [1]]}
    kind = hf.Sequence(hf.ClassLabel(names=["sky", "sea", "boat"]))
    splits = opened(saved(tmp_path, hf, {"train": rows, "val": rows}, tags=kind))
    assert splits.multi_label
    assert splits.train.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert splits.train.labels.dtype == np.uint8


def test_strings_are_classes_in_the_order_of_their_names(tmp_path: Path, hf: Any) -> None:
    rows = {"image": cells(3), "label": ["cat", "ant ", "cat"], "caption": ["x", "y", "z"]}
    text = hf.Value("string")
    splits = opened(saved(tmp_path, hf, {"train": rows, "dev": rows}, label=text, caption=text))
    assert splits.classes == ("ant", "cat")
    assert splits.val.labels.tolist() == [1, 0, 1]


def test_folder_of_pictures(tmp_path: Path, hf: Any) -> None:
    for name in ("train/ant/1.png", "train/bee/2.png", "validation/bee/3.png"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(png("red"))
    splits = opened(tmp_path / "pictures")
    assert splits.classes == ("ant", "bee")
    assert (splits.train.labels.tolist(), splits.val.labels.tolist()) == ([0, 1], [1])
    assert splits.val.load(0).getpixel((3, 3)) == (255, 0, 0)


def test_folder_of_parquet_files(tmp_path: Path, hf: Any) -> None:
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["a", "b"])})
    part = hf.Dataset.from_dict({"image": cells(4), "label": [0, 1] * 2}, features=features)
    (tmp_path / "files").mkdir()
    part.to_parquet(tmp_path / "files" / "train-00000-of-00001.parquet")
    splits = open_dataset("huggingface", tmp_path / "files", val_fraction=0.5, seed=0)
    assert splits.classes == ("a", "b")
    assert len(splits.train) == 2
    assert splits.train.load(0).size == (4, 4)


def _first_pixel(pictures: Pictures, answers: Any) -> None:
    answers.put(pictures.load(1).getpixel((0, 0)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_read_it(tmp_path: Path, hf: Any, method: str) -> None:
    rows = {"image": cells(2), "label": [0, 1]}
    kind = hf.ClassLabel(names=["a", "b"])
    pictures = opened(saved(tmp_path, hf, {"train": rows, "val": rows}, label=kind)).train
    context: Any = multiprocessing.get_context(method)
    answers = context.Queue()
    worker = context.Process(target=_first_pixel, args=(pictures, answers))
    worker.start()
    assert answers.get(timeout=60) == (0, 255, 0)
    worker.join()


def test_bad_pictures_are_named(tmp_path: Path, hf: Any) -> None:
    gone = str(tmp_path / "gone.jpg")
    bad = [{"bytes": b"none", "path": "dog.jpg"}, {"bytes": None, "path": gone}, None]
    features = hf.Features({"image": hf.Image(decode=False)})
    column = hf.Dataset.from_dict({"image": bad}, features=features)
    pictures = HubPictures(column, "val", np.zeros(3, np.int64), np.arange(3))
    for index, message in enumerate(
        [
            r"val/00000000 \(dog\.jpg\): cannot be read as a picture",
            r"gone\.jpg: no such picture",
            "val/00000002: this row of the data set has no picture",
        ]
    ):
        with pytest.raises(InputError, match=message):
            pictures.load(index)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ["cover"],
            r"several columns of labels .*: colour, shape; the columns are cover \(Image\)",
        ),
        (["cover", "back", "colour"], "several columns of pictures .Image.: cover, back"),
        (["colour"], "no column of pictures .Image.; the columns are colour .ClassLabel."),
        (["cover", "size"], r"no column of labels .*cover \(Image\), size \(int64\)"),
    ],
)
def test_columns_that_are_not_clear(
    tmp_path: Path, hf: Any, columns: list[str], message: str
) -> None:
    kind = hf.ClassLabel(names=["a", "b"])
    every = {"cover": hf.Image(), "back": hf.Image(), "colour": kind, "shape": kind}
    every["size"] = hf.Value("int64")
    wanted = columns if len(columns) > 1 or columns == ["colour"] else ["cover", "colour", "shape"]
    content = {name: cells(2) if name in ("cover", "back") else [0, 1] for name in wanted}
    features = hf.Features({name: every[name] for name in wanted})
    hf.Dataset.from_dict(content, features=features).save_to_disk(tmp_path / "unclear")
    with pytest.raises(InputError, match=message):
        opened(tmp_path / "unclear", 0.5)


def test_labels_that_do_not_fit(tmp_path: Path, hf: Any) -> None:
    rows = {"image": cells(2), "label": ["a", None]}
    other = {"image": cells(2), "label": ["a", "c"]}
    root = saved(tmp_path, hf, {"train": rows, "val": other}, label=hf.Value("string"))
    with pytest.raises(InputError) as caught:
        opened(root)
    assert "train has one class (a)" in str(caught.value)
    assert "val has labels that train lacks: 'c'" in str(caught.value)
    assert "1 of 2 pictures of train have no label" in str(caught.value)


def test_splits_and_folders_that_are_refused(tmp_path: Path, hf: Any) -> None:
    kind = hf.ClassLabel(names=["a", "b"])
    rows = {"image": cells(2), "label": [0, 1]}
    with pytest.raises(InputError, match=r"no pictures for train.*the splits are 'test'"):
        opened(saved(tmp_path, hf, {"test": rows}, label=kind), 0.5)
    with pytest.raises(InputError, match=r"set data\.val_fraction"):
        opened(saved(tmp_path, hf, {"train": rows}, label=kind))
    with pytest.raises(InputError, match="nowhere at all: no such folder, and no id"):
        opened(tmp_path / "nowhere at all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be opened as a Hugging Face data set"):
        opened(tmp_path / "empty")


def test_nothing_of_a_data_set_is_executed(tmp_path: Path, hf: Any) -> None:
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(InputError):
        opened(folder)
    assert not (tmp_path / "ran").exists()


def test_the_hub_is_asked_for_id_and_config(hf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*names: Any) -> Any:
        asked.append(names)
        raise ConnectionError("there is no network\nat all")

    monkeypatch.setattr(hf, "load_dataset", load)
    for root in ("org/name", "org/name:small"):
        with pytest.raises(InputError, match="Hugging Face data set: there is no network"):
            opened(root)
    assert asked == [("org/name", None), ("org/name", "small")]


def test_the_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match=r'pip install "vit-lightning\[datasets\]"'):
        opened("org/name")
