"""The drawings: what they show, that nothing is cut off and no warning raised."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from vit_lightning.figures import (
    attention_figure,
    batch_figure,
    confusion_figure,
    figure_array,
    pos_embed_figure,
    precision_recall_figure,
    roc_figure,
    save_figure,
    short_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONG = ["the first of two very long names of classes", "a $ sign, a \\backslash and 蜂", "_under"]


def texts(axes: "Axes") -> list[str]:
    return [text.get_text() for text in axes.texts]


def assert_inside(figure: "Figure") -> None:
    """All that is drawn lies on the sheet."""
    figure_array(figure)
    box, sheet = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= sheet[0] + 0.01
    assert box.y1 <= sheet[1] + 0.01


def outputs(num_images: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    labels = np.arange(num_images) % num_classes
    logits = draw.normal(size=(num_images, num_classes)).astype(np.float32)
    logits[np.arange(num_images), labels] += 1
    return logits, labels


def test_matplotlib_comes_late_and_without_pyplot() -> None:
    code = (
        "import sys, vit_lightning.figures as figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "figures.figure_array(figures.confusion_figure([[1, 0], [0, 1]], ['a', 'b']))\n"
        "assert 'matplotlib' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_save_and_array_agree(tmp_path: Path) -> None:
    save_figure(
        confusion_figure([[3, 1], [0, 4]], ["ants", "bees"]), tmp_path / "new" / "figure.png"
    )
    array = figure_array(confusion_figure([[3, 1], [0, 4]], ["ants", "bees"]))
    assert array.dtype == np.uint8
    assert array.shape[2] == 3
    with Image.open(tmp_path / "new" / "figure.png") as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), array)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["figure.png"]


def test_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figure = confusion_figure([[1]], ["a"])
    figure.savefig = lambda *args, **kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        save_figure(figure, path)
    assert path.read_bytes() == b"old"


def test_short_name() -> None:
    assert short_name(" a\tname\n") == "a name"
    assert short_name("x" * 28) == "x" * 28
    shortened = short_name("beginning" + "-" * 40 + "end")
    assert len(shortened) == 27
    assert shortened.startswith("beginning")
    assert shortened.endswith("end")


def test_confusion_shows_counts_and_shares() -> None:
    figure = confusion_figure([[3, 1, 0], [0, 0, 0], [0, 0, 12345]], LONG)
    axes = figure.axes[0]
    assert texts(axes) == ["3", "1", "0", "0", "0", "0", "0", "0", "12,345"]
    shares = axes.images[0].get_array()
    assert shares[0].tolist() == [0.75, 0.25, 0]
    assert shares.mask[1].all()
    assert not shares.mask[[0, 2]].any()
    assert axes.get_title() == "12,348 of 12,349 right"
    assert_inside(figure)


def test_confusion_of_a_hundred_classes_is_legible() -> None:
    figure = confusion_figure(np.eye(100, dtype=int), [f"some flower {k}" for k in range(100)])
    assert_inside(figure)
    axes = figure.axes[0]
    assert not axes.texts
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert len(boxes) == 100
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))


def test_confusion_of_a_thousand_classes_names_some() -> None:
    figure = confusion_figure(np.eye(1000, dtype=int), [f"n{k:08}" for k in range(1000)])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) <= 120
    assert labels[1] == "n00000009"


def test_roc_of_few_classes() -> None:
    logits, labels = outputs(60, 2)
    figure = roc_figure(np.pad(logits, ((0, 0), (0, 1))), labels, LONG)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(legend) == 3
    assert legend[2] == "_under: no pictures"
    assert legend[0].startswith(short_name(LONG[0]))
    assert_inside(figure)


def test_roc_of_a_perfect_model() -> None:
    labels = np.arange(12) % 3
    figure = roc_figure(np.eye(3)[labels], labels, list("abc"))
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["a: 1.000", "b: 1.000", "c: 1.000"]
    rates = np.stack(figure.axes[0].lines[1].get_data())
    assert rates[1][rates[0] == 0].max() == 1


def test_roc_of_many_classes() -> None:
    logits, labels = outputs(240, 12)
    logits[:, 7] = -logits[:, 7]
    figure = roc_figure(logits, labels, [f"class {k}" for k in range(12)])
    axes = figure.axes[0]
    assert len(axes.lines) == 1 + 12 + 3
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend[0].startswith("mean of 12 classes: ")
    assert legend[2].startswith("worst, class 7: ")
    false_rate, mean = axes.lines[13].get_data()
    assert np.trapezoid(mean, false_rate) == pytest.approx(float(legend[0][-5:]), abs=0.01)
    assert_inside(figure)


def test_roc_of_one_class_says_so() -> None:
    figure = roc_figure(np.zeros((2, 2)), np.array([1, 1]), ["a", "b"])
    assert "no curve" in texts(figure.axes[0])[0]
    assert_inside(figure)


@pytest.mark.parametrize("num_classes", [3, 30])
def test_precision_over_recall_encloses_the_average_precision(num_classes: int) -> None:
    logits, _ = outputs(60, num_classes)
    labels = (logits + np.random.default_rng(1).normal(size=logits.shape) > 1).astype(np.uint8)
    labels[:, 2] = 0
    figure = precision_recall_figure(logits, labels, [*LONG, *map(str, range(3, num_classes))])
    assert_inside(figure)
    (axes,) = figure.axes
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    expected = [
        average_precision_score(labels[:, k], logits[:, k]) for k in range(num_classes) if k != 2
    ]
    if num_classes == 30:
        assert legend[0] == f"mean of 29 classes: {np.mean(expected):.3f}"
        return
    assert [text.rpartition(": ")[2] for text in legend] == [
        *(f"{area:.3f}" for area in expected),
        "no pictures",
    ]
    for line, area in zip(axes.lines, expected, strict=False):
        recall, precision = line.get_data()
        assert np.trapezoid(precision, recall) == pytest.approx(area)


def test_precision_without_labels_says_so() -> None:
    figure = precision_recall_figure(
        np.zeros((4, 2), np.float32), np.zeros((4, 2), int), ["a", "b"]
    )
    assert texts(figure.axes[0]) == ["no curve: no picture has a label"]


def test_batch_of_mixed_pictures_and_of_several_labels() -> None:
    labels = torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    figure = batch_figure(torch.rand(4, 3, 8, 8), labels, ["ant", "bee", "a fairly long name"])
    assert texts(figure.axes[0]) == ["ant 0.70, bee 0.30", "bee", "ant, bee, +1", "no label"]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_batch(channels: int) -> None:
    images = torch.linspace(0, 1, 20).view(20, 1, 1, 1).expand(20, channels, 6, 8)
    figure = batch_figure(images, torch.arange(20) % 3, LONG)
    (axes,) = figure.axes
    sheet = axes.images[0].get_array()
    assert sheet.shape == (4 * (1 + 6), 4 * (8 + 1) - 1, 3)
    assert int(sheet[0].min()) == 255  # of captions
    assert {int(value) for value in sheet[1:7, :8].flat} == {0}
    assert {int(value) for value in sheet[15:21, 18:26].flat} == {134}  # the eleventh of 16
    captions = texts(axes)
    assert len(captions) == 16
    assert captions[2] == "_under"
    assert axes.texts[5].get_position() == (9 + 3.5, 8 - 0.5 - 0.2)
    assert_inside(figure)


@pytest.mark.parametrize("size", [(64, 2), (2, 64), (1, 1)])
def test_batch_of_long_pictures(size: tuple[int, int]) -> None:
    figure = batch_figure(torch.zeros(3, 3, *size), torch.arange(3), LONG)
    assert_inside(figure)
    assert max(figure.get_size_inches()) < 8


def test_pos_embed_similarity() -> None:
    draw = torch.Generator().manual_seed(0)
    embedding = torch.randn(1, 1 + 9 * 4, 12, generator=draw)
    figure = pos_embed_figure(embedding, (9, 4), 1)
    axes = figure.axes[0]
    sheet = axes.images[0].get_array()
    assert sheet.shape == (7 * 10 - 1, 4 * 5 - 1)
    rows = [int(label.get_text()) for label in axes.get_yticklabels()]
    assert rows == [0, 1, 3, 4, 5, 7, 8]
    patches = embedding[0, 1:]
    panel = sheet[2 * 10 : 2 * 10 + 9, 1 * 5 : 1 * 5 + 4]  # of row 3, column 1
    expected = torch.cosine_similarity(patches[3 * 4 + 1], patches, dim=1).view(9, 4)
    assert np.abs(panel - expected.numpy()).max() < 1e-6
    assert panel[3, 1] == pytest.approx(1)
    assert sheet.mask[9].all()
    assert_inside(figure)


def test_pos_embed_of_zeros_and_of_one_patch() -> None:
    assert_inside(pos_embed_figure(torch.zeros(1, 4, 8), (2, 2), 0))
    assert_inside(pos_embed_figure(torch.ones(1, 1, 8), (1, 1), 0))


def test_attention_is_bright_where_the_map_is_high() -> None:
    picture = np.full((60, 90, 3), 200, np.uint8)
    heat = np.full((2, 3), 0.5)
    heat[1, 2] = 0.6
    figure = attention_figure([picture], [heat], ["a picture"])
    lit = figure.axes[1]
    array = figure_array(figure)

    def brightness(x: float, y: float) -> float:
        column, row = lit.transData.transform((x, y))
        return float(array[array.shape[0] - round(row), round(column)].mean())

    assert brightness(84, 54) > 180  # the corner of the last patch
    assert brightness(5, 5) < 60
    assert brightness(5, 54) < 60
    assert_inside(figure)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_attention_of_odd_pictures(count: int) -> None:
    pictures = [
        np.zeros((30, 40, 3), np.uint8),
        np.zeros((300, 20, 1), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((20, 300, 3), np.uint8),
        np.zeros((40, 30, 3), np.uint8),
    ]
    maps = [np.ones((4, 4)), np.eye(3), np.eye(8), np.zeros((1, 1)), np.eye(2)]
    captions = ["long " * 60, *LONG, "last"]
    figure = attention_figure(pictures[:count], maps[:count], captions[:count])
    assert sum(bool(axes.images) for axes in figure.axes) == 3 * count
    assert_inside(figure)
