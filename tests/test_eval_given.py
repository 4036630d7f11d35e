"""An evaluation on pictures that are given by their path: a folder of classes, or a table."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vit_lightning.assess import evaluate
from vit_lightning.cli import main, main_by_mode
from vit_lightning.errors import InputError
from vit_lightning.evaluation.metrics import Metrics
from vit_lightning.evaluation.multi_label import MultiLabelMetrics
from vit_lightning.evaluation.report import summary_text
from vit_lightning.factory import create_model, save_model

Write = Callable[..., Path]
CLASSES = ("bird", "cat", "dog", "mouse")
ABSENT = "without 2 of 4 classes, which have no pictures"


def _save_model(path: Path, *, multi_label: bool = False) -> Path:
    """Weights that call dark pictures cats and bright ones dogs, and nothing anything else."""
    torch.manual_seed(0)
    model = create_model("ViT-Ti_16", num_classes=4, image_size=16, depth=1).eval()
    with torch.no_grad():
        grey = torch.tensor([-0.5, 0.5]).view(2, 1, 1, 1).expand(2, 3, 16, 16)
        dark, bright = model.pool(model.forward_features(grey))
        apart = bright - dark
        middle = apart @ (bright + dark) / 2
        nothing = torch.zeros_like(apart)
        model.head.weight.copy_(torch.stack([nothing, -apart, apart, nothing]))
        model.head.bias.copy_(
            torch.stack([-middle.abs() - 99, middle, -middle, -middle.abs() - 99])
        )
    save_model(model, path, CLASSES, multi_label=multi_label)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return _save_model(tmp_path / "model.safetensors")


@pytest.fixture
def unused(tiny: dict[str, Any], write: Write) -> Path:
    """An experiment whose own pictures are nowhere: only its settings are of use."""
    return write(tiny, data={"root": "nowhere", "cache": {"shorter_side": 8}})


@pytest.fixture
def table(tmp_path: Path, pictures: Path) -> Path:
    """Rows of all splits, of which a training could use none: dogs before the only cats."""
    rows = [f"{pictures}/val/dog/{n}.png,dog,test" for n in range(3)]
    rows += [f"{pictures}/train/cat/{n}.png,cat,whatever" for n in range(2)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["path,label,split", *rows, ""]))
    return path


def test_a_folder_of_classes_through_both_doors(
    unused: Path, model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(pictures / "val")]
    for door, arguments in (
        (main, ["eval", str(unused), "--ckpt-path", str(model), *given]),
        (
            main_by_mode,
            ["--mode", "eval", "--expt", str(unused), "--ckpt_path", str(model), *given],
        ),
    ):
        assert door(arguments) == 0
        printed = capsys.readouterr().out
        assert f"on {pictures / 'val'}: 6 pictures" in printed
        assert ABSENT in printed
        of, folder = printed.splitlines()[-1].removeprefix("report of ").split(": ")
        assert of == str(pictures / "val")
        report = json.loads((Path(folder) / "metrics.json").read_text())
        assert (report["data"], report["split"], report["caution"]) == (of, "data", None)
        assert report["confusion"] == [[0] * 4, [0, 3, 0, 0], [0, 0, 3, 0], [0] * 4]
        assert report["experiment"]["data"]["cache"] is None
        assert (Path(folder) / "confusion_matrix.png").is_file()
        assert (
            (Path(folder) / "predictions.csv").read_text().splitlines()[1].startswith("cat/0.png")
        )


def test_classes_without_pictures_are_no_part_of_means(
    unused: Path, model: Path, pictures: Path, tmp_path: Path
) -> None:
    only = tmp_path / "only"
    shutil.copytree(pictures / "val" / "dog", only / "dog")
    shutil.copy(pictures / "val" / "cat" / "0.png", only / "dog" / "dark.png")
    (only / "thumbnails").mkdir()
    metrics = evaluate(unused, model, data=only).metrics
    assert isinstance(metrics, Metrics)
    assert metrics.confusion == ((0,) * 4, (0,) * 4, (0, 1, 3, 0), (0,) * 4)
    assert metrics.macro_f1 == pytest.approx(6 / 7)  # of dogs: all so called are, one is not found
    assert metrics.roc_auc is None
    cat = metrics.per_class[1]
    assert (cat.support, cat.precision, cat.recall) == (0, 0.0, None)
    text = summary_text(metrics, CLASSES)
    assert "macro F1   0.8571   without 3 of 4 classes, which have no pictures" in text


def test_all_rows_of_a_table_in_any_order(
    unused: Path, model: Path, table: Path, few_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = ["data.decoding=fast", "data.preprocessing=modern"]
    metrics = evaluate(unused, model, overrides=fast, data=table).metrics
    assert isinstance(metrics, Metrics)
    assert metrics.confusion == ((0,) * 4, (0, 2, 0, 0), (0, 0, 3, 0), (0,) * 4)
    printed = capsys.readouterr()
    assert "columns not used: split" in printed.err
    assert "have 2 of the model's 4 classes: mapped by name" in printed.out


def test_a_table_of_several_labels(
    unused: Path, table: Path, pictures: Path, tmp_path: Path
) -> None:
    several = _save_model(tmp_path / "several.safetensors", multi_label=True)
    with table.open("a") as file:
        file.write(f"{pictures}/val/cat/0.png,mouse|cat,\n{pictures}/val/cat/1.png,,\n")
    result = evaluate(unused, several, None, ["data.label_separator=|"], data=table)
    metrics = result.metrics
    assert isinstance(metrics, MultiLabelMetrics)
    assert [row.support for row in metrics.per_class] == [0, 3, 3, 1]
    assert [row.recall for row in metrics.per_class] == [None, 1.0, 1.0, 0.0]
    assert metrics.average_precision[0] is None
    assert metrics.exact_match == pytest.approx(5 / 7)
    assert metrics.macro_f1 == pytest.approx((6 / 7 + 1 + 0) / 3)
    assert "without 1 of 4 classes, which have no pictures" in summary_text(metrics, CLASSES)
    assert (result.folder / "precision_recall_curves.png").is_file()
    with pytest.raises(InputError, match=r"any number of classes .* data\.label_separator decides"):
        evaluate(unused, several, data=pictures / "val")


def test_what_cannot_be_evaluated_is_refused(
    unused: Path, model: Path, table: Path, pictures: Path, tmp_path: Path
) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(pictures / "val" / "dog", strange / "doge")
    empty = tmp_path / "empty"
    (empty / "dog").mkdir(parents=True)
    bare = tmp_path / "bare.csv"
    bare.write_text("path,label\n")
    again = tmp_path / "again.csv"
    again.write_text(table.read_text() + table.read_text().splitlines()[1])
    for path, message in (
        (
            strange,
            f"{model}: the pictures have classes that the model was not trained on: doge "
            "(the nearest is dog)",
        ),
        (empty, f"{empty}: no pictures ("),
        (pictures / "val" / "dog", "expected a folder of pictures for each class"),
        (
            pictures,
            f"{pictures} holds splits (train, val), not classes: name one of them, such as "
            f"{pictures / 'val'}",
        ),
        (tmp_path / "none", f"{tmp_path / 'none'}: no such folder or table"),
        (bare, "has no rows below its header"),
        (again, "1 rows with a picture that the same split has already"),
        (model, "is no manifest: expected a file in .csv, .tsv, .parquet"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            evaluate(unused, model, data=path)
    with pytest.raises(InputError, match="evaluated as a whole: name no split, got 'val'"):
        evaluate(unused, model, "val", data=table)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("door", "arguments", "message"),
    [
        (
            main,
            ["eval", "x.json", "--ckpt-path", "x", "--split", "val"],
            "not allowed with argument",
        ),
        (main_by_mode, ["--mode", "train", "--expt", "x.json"], "--data are for --mode eval"),
    ],
)
def test_what_data_does_not_go_with(
    door: Callable[[list[str]], int],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        door([*arguments, "--data", "pictures"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_table_without_any_label(
    unused: Path, pictures: Path, tmp_path: Path, few_figures: None
) -> None:
    several = _save_model(tmp_path / "several.safetensors", multi_label=True)
    table = tmp_path / "bare.tsv"
    table.write_text(f"path\tlabel\n{pictures}/val/cat/0.png\t\n")
    metrics = evaluate(unused, several, None, ["data.label_separator=|"], data=table).metrics
    assert isinstance(metrics, MultiLabelMetrics)
    assert metrics.mean_average_precision is None
    assert metrics.hamming_loss == 0.25  # the cat that is called


def test_a_class_may_be_called_as_a_split_is(
    unused: Path, pictures: Path, tmp_path: Path, few_figures: None
) -> None:
    shutil.copytree(pictures / "val" / "dog", tmp_path / "given" / "train")
    torch.manual_seed(0)
    vehicles = create_model("ViT-Ti_16", num_classes=2, image_size=16, depth=1)
    torch.nn.init.normal_(vehicles.head.weight)
    save_model(vehicles, tmp_path / "vehicles.safetensors", ["car", "train"])
    metrics = evaluate(unused, tmp_path / "vehicles.safetensors", data=tmp_path / "given").metrics
    assert [row.support for row in metrics.per_class] == [0, 3]
