"""The report's files and its block for the terminal."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vit_lightning.errors import InputError
from vit_lightning.evaluation.metrics import Metrics, compute_metrics
from vit_lightning.evaluation.multi_label import compute_multi_label_metrics
from vit_lightning.evaluation.report import refuse_zero_head, summary_text, write_report
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import VisionTransformer

ODD_NAMES = [
    'a "quoted", picture.jpg',
    "line\nbreak.png",
    "蜂/bee.jpg",
    "not utf-8 \udcff.jpg",
    "=1+1.jpg",
]


def write(
    folder: Path, num_classes: int, header: dict[str, str] | None = None
) -> tuple[dict[str, Path], Metrics, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(len(ODD_NAMES), num_classes)).astype(np.float32)
    labels = np.arange(len(ODD_NAMES)) % num_classes
    classes = [f"class {k}" for k in range(num_classes)]
    metrics = compute_metrics(logits, labels, classes)
    paths = write_report(
        folder,
        metrics=metrics,
        logits=logits,
        labels=labels,
        names=ODD_NAMES,
        classes=classes,
        header=header or {},
    )
    return paths, metrics, logits, labels


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    paths, metrics, _, _ = write(folder, 3, header={"model": "ViT-Ä", "split": "val"})
    assert sorted(path.name for path in folder.iterdir()) == [
        "confusion_matrix.png",
        "metrics.json",
        "predictions.csv",
        "roc_curves.png",
    ]
    assert set(paths.values()) == set(folder.iterdir())
    content = json.loads(paths["metrics"].read_text("utf-8"))
    assert list(content)[:3] == ["model", "split", "num_images"]
    assert content["model"] == "ViT-Ä"
    assert content["top1"] == metrics.top1
    for name in ("confusion_matrix", "roc_curves"):
        with Image.open(paths[name]) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 300


def test_predictions_hold_every_probability(tmp_path: Path) -> None:
    paths, _, logits, labels = write(tmp_path, 3)
    rows = rows_of(paths["predictions"])
    assert [row["picture"] for row in rows] == [
        *ODD_NAMES[:3],
        "not utf-8 \\udcff.jpg",
        ODD_NAMES[4],
    ]
    expected = torch.from_numpy(logits).double().softmax(1).numpy()
    for row, label, probabilities in zip(rows, labels, expected, strict=True):
        written = [float(row[f"p(class {k})"]) for k in range(3)]
        assert written == pytest.approx(probabilities, rel=1e-5)
        guess = int(np.argmax(probabilities))
        assert row["label"] == f"class {label}"
        assert row["prediction"] == f"class {guess}"
        assert row["correct"] == ("true" if guess == label else "false")
        assert float(row["confidence"]) == max(written)


def test_predictions_of_many_classes_hold_five(tmp_path: Path) -> None:
    paths, _, logits, _ = write(tmp_path, 21)
    row = rows_of(paths["predictions"])[0]
    assert [key for key in row if key.startswith(("top", "p("))] == [f"top{k}" for k in range(1, 6)]
    best = np.argsort(-logits[0])[:5]
    assert [row[f"top{k}"].split(":")[0] for k in range(1, 6)] == [f"class {k}" for k in best]
    assert row["top1"] == f"{row['prediction']}:{row['confidence']}"


def test_summary() -> None:
    labels = np.array([0] * 9 + [1])
    logits = np.zeros((10, 3), np.float32)
    logits[:, 0] = 1
    metrics = compute_metrics(logits, labels, ["ants", "bees", "a name\nwith a break " + "x" * 60])
    lines = summary_text(metrics, ["ants", "bees", "x"]).split("\n")
    assert lines[0] == "top-1      90.00%   9 of 10 right, 95 % interval 59.58% to 98.21%"
    assert not any(line.startswith("top-5") for line in lines)
    table = {line.split()[0]: line.split()[1:] for line in lines[-3:]}
    assert table["ants"] == ["9", "0.900", "1.000", "0.947"]
    assert table["bees"] == ["1", "–", "0.000", "0.000"]
    assert lines[-1].split()[-4:] == ["0", "–", "–", "–"]
    assert max(map(len, lines)) < 100


def test_summary_of_many_classes_names_the_worst() -> None:
    labels = np.arange(60) % 30
    logits = np.eye(30, dtype=np.float32)[labels]
    logits[labels == 17] = np.eye(30, dtype=np.float32)[3]
    classes = [f"class{k}" for k in range(30)]
    text = summary_text(compute_metrics(logits, labels, classes), classes)
    assert "top-5" in text
    table = text.split("lowest recall:\n")[1].split("\n")
    assert len(table) == 21
    assert table[1].split() == ["class17", "2", "–", "0.000", "0.000"]


def several(num_images: int, num_classes: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    draw = np.random.default_rng(4)
    labels = (draw.random((num_images, num_classes)) < 0.4).astype(np.uint8)
    logits = (draw.normal(size=labels.shape) + labels).astype(np.float32)
    return logits, labels, [f"class {k}" for k in range(num_classes)]


@pytest.mark.parametrize("num_classes", [3, 21])
def test_files_of_several_labels(tmp_path: Path, num_classes: int) -> None:
    logits, labels, classes = several(5, num_classes)
    labels[1], logits[1] = 0, -1
    metrics = compute_multi_label_metrics(logits, labels, classes)
    about = {"names": ODD_NAMES, "classes": classes, "header": {"split": "val"}}
    paths = write_report(tmp_path, metrics=metrics, logits=logits, labels=labels, **about)
    assert set(paths) == {"metrics", "predictions", "precision_recall_curves"}
    assert set(paths.values()) == set(tmp_path.iterdir())
    content = json.loads(paths["metrics"].read_text("utf-8"))
    assert content == {"split": "val"} | metrics.to_dict()
    with Image.open(paths["precision_recall_curves"]) as picture:
        assert min(picture.size) > 300
    rows = rows_of(paths["predictions"])
    assert len(rows) == 5
    for row, own, scores in zip(rows, labels, logits, strict=True):
        present = [classes[k] for k in range(num_classes) if own[k]]
        called = [classes[k] for k in range(num_classes) if scores[k] >= 0]
        assert row["labels"] == "|".join(present)
        assert row["predictions"] == "|".join(called)
        assert row["correct"] == ("true" if present == called else "false")
        p = 1 / (1 + np.exp(-scores.astype(float)))
        if num_classes == 3:
            assert [float(row[f"p({name})"]) for name in classes] == pytest.approx(p, rel=1e-5)
        else:
            name, _, value = row["top1"].partition(":")
            assert name == classes[scores.argmax()]
            assert float(value) == pytest.approx(p.max(), rel=1e-5)
    assert rows[1]["labels"] == rows[1]["predictions"] == ""
    assert rows[1]["correct"] == "true"


def test_summary_of_several_labels() -> None:
    logits, labels, classes = several(40, 3)
    labels[:, 2] = 0
    metrics = compute_multi_label_metrics(logits, labels, classes)
    lines = summary_text(metrics, classes).split("\n")
    low, high = metrics.mean_average_precision_interval
    assert lines[0] == (
        f"mAP        {metrics.mean_average_precision:.4f}   95 % interval {low:.4f} to {high:.4f}, "
        f"without 1 classes that have no pictures"
    )
    wrong = int(((logits >= 0) != labels).sum())
    assert lines[5] == f"Hamming    {wrong / 120:.4f}   {wrong} of 120 answers wrong"
    assert lines[-4].split() == ["class", "pictures", "precision", "recall", "F1", "AP"]
    assert lines[-3].split()[-1] == f"{metrics.average_precision[0]:.3f}"
    assert lines[-1].split()[-1] == "–"
    assert max(map(len, lines)) < 100


def test_summary_of_many_classes_of_several_labels_names_the_worst() -> None:
    logits, labels, classes = several(60, 30)
    logits[:, 17] = -1.0 * labels[:, 17]
    text = summary_text(compute_multi_label_metrics(logits, labels, classes), classes)
    table = text.split("The 20 of 30 classes with the lowest average precision:\n")[1].split("\n")
    assert len(table) == 21
    assert table[1].startswith("class 17 ")


def test_zero_head_is_refused() -> None:
    size = {"image_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 1}
    model = VisionTransformer(ViTConfig(**size, mlp_dim=8, num_classes=3))
    with pytest.raises(InputError, match=r"head is all zeros.*train the model first"):
        refuse_zero_head(model)
    with torch.no_grad():
        model.head.weight[1, 2] = 1e-6
    refuse_zero_head(model)
    with pytest.raises(InputError, match="no head"):
        refuse_zero_head(VisionTransformer(ViTConfig(**size, mlp_dim=8, num_classes=0)))


def test_a_model_of_every_token_is_refused() -> None:
    config = ViTConfig(image_size=16, embed_dim=12, depth=1, num_heads=2, mlp_dim=8, pool="none")
    with pytest.raises(InputError, match="logits for every token"):
        refuse_zero_head(VisionTransformer(config))
