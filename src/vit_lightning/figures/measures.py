"""What an evaluation measured: confusion matrix, ROC and precision-recall curves."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from vit_lightning.figures.sheet import INK, new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_NAMES = 120  # names along an axis that can still be read
_MAX_COUNTS = 20  # classes up to which a confusion matrix shows its numbers
_MAX_CURVES = 10  # classes up to which each curve has a colour and a name

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]  # across, up and area
_Corner = Literal["lower left", "lower right"]


def confusion_figure(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> "Figure":
    """The confusion matrix: labels down, predictions across.

    Colours are shares of the row, and a row without pictures is grey; with 20 classes or fewer
    the counts are written too.

    Args:
        confusion: C rows of C counts.
        classes: C names.
    """
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    counts = np.asarray(confusion, dtype=np.int64)
    totals = np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape)
    shares = np.ma.masked_array(counts / np.maximum(totals, 1), totals == 0)
    names = [short_name(name) for name in classes]
    cell = min(0.9, max(0.5, 3.0 / len(names)), 10.0 / len(names))  # inches
    font = min(9.0, max(4.5, cell * 50))
    side = cell * len(names) + max(map(len, names)) * font * 0.6 / 72
    figure = new_figure(max(side + 1.9, 4.6), max(side + 0.9, 3.4))
    axes = figure.add_subplot()
    colours = colormaps["Blues"].with_extremes(bad="0.88")
    # Without numbers a rare confusion must show by its colour alone.
    scale = PowerNorm(1.0 if len(names) <= _MAX_COUNTS else 0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, norm=scale, cmap=colours, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.75, aspect=25)
    bar.set_label("share of the label's pictures", color=INK)
    bar.outline.set_visible(False)
    _name_ticks(axes, names, font)
    if len(names) <= _MAX_COUNTS:
        _write_counts(axes, counts, shares.filled(0.0), cell)
    axes.set_xlabel("prediction", color=INK)
    axes.set_ylabel("label", color=INK)
    axes.set_title(f"{int(np.trace(counts)):,} of {int(counts.sum()):,} right", fontsize=11)
    return figure


def roc_figure(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]],
    classes: Sequence[str],
) -> "Figure":
    """ROC curves of each class against the rest.

    Up to 10 classes each have a colour; with more, the mean curve, the best and the worst stand
    before all others in grey.

    Args:
        logits: (N, C), finite.
        labels: (N,), indices of the true classes.
        classes: C names.
    """
    curves = _roc_curves(logits, labels)
    figure = new_figure(6.0, 5.6)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
    if not curves:
        axes.text(0.5, 0.6, "no curve: all pictures are of one class", ha="center", color=INK)
    _draw_curves(axes, curves, classes, "area under the curve", "lower right")
    axes.set_xlabel("false positives, share of the other classes", color=INK)
    axes.set_ylabel("true positives, share of the class", color=INK)
    axes.set_title("ROC, one class against the rest", fontsize=11)
    return figure


def precision_recall_figure(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]],
    classes: Sequence[str],
) -> "Figure":
    """Precision over recall of each class, where pictures have any number of labels.

    As many classes are drawn as by :func:`roc_figure`. The curves are steps, whose area is the
    average precision.

    Args:
        logits: (N, C), finite.
        labels: (N, C), 1 for the classes of a picture, else 0.
        classes: C names.
    """
    curves = _precision_recall_curves(logits, labels)
    figure = new_figure(6.0, 5.6)
    axes = figure.add_subplot()
    if not curves:
        axes.text(0.5, 0.6, "no curve: no picture has a label", ha="center", color=INK)
    _draw_curves(axes, curves, classes, "average precision", "lower left")
    axes.set_xlabel("recall, share of the class that is found", color=INK)
    axes.set_ylabel("precision, share of what is found that is of the class", color=INK)
    axes.set_title("Precision and recall of each class", fontsize=11)
    return figure


def _name_ticks(axes: "Axes", names: Sequence[str], font: float) -> None:
    ticks = range(0, len(names), math.ceil(len(names) / _MAX_NAMES))
    shown = [names[i] for i in ticks]
    crowded = max(map(len, shown)) > 6 or len(names) > _MAX_COUNTS
    turned: dict[str, Any] = {"rotation": 90, "va": "top"} if crowded else {}
    axes.set_xticks(ticks, shown, fontsize=font, parse_math=False, **turned)
    axes.set_yticks(ticks, shown, fontsize=font, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _write_counts(
    axes: "Axes",
    counts: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
    cell: float,
) -> None:
    digits = len(f"{counts.max():,}")
    font = min(12.0, cell * 72 * 0.9 / (0.64 * max(digits, 3)))
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "0.15" if count else "0.75"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=font)


def _roc_curves(
    logits: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]]
) -> dict[int, Curve]:
    """Class → its curve, for the classes that have one."""
    from sklearn.metrics import auc, roc_curve

    scores = torch.from_numpy(logits.astype(np.float64)).softmax(dim=1).numpy()
    curves: dict[int, Curve] = {}
    for index in range(scores.shape[1]):
        positive = labels == index
        if positive.any() and not positive.all():
            false_rate, true_rate, _ = roc_curve(positive, scores[:, index])
            curves[index] = false_rate, true_rate, float(auc(false_rate, true_rate))
    return curves


def _precision_recall_curves(
    logits: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]]
) -> dict[int, Curve]:
    """Class → its steps from recall 0 to 1, for the classes that have pictures."""
    from sklearn.metrics import precision_recall_curve

    curves: dict[int, Curve] = {}
    for index in range(logits.shape[1]):
        if labels[:, index].any():
            precision, recall, _ = precision_recall_curve(labels[:, index], logits[:, index])
            precision, recall = precision[-2::-1], recall[::-1]  # its last point is no threshold's
            area = float((np.diff(recall) * precision).sum())
            curves[index] = np.repeat(recall, 2)[1:-1], np.repeat(precision, 2), area
    return curves


def _draw_curves(
    axes: "Axes", curves: dict[int, Curve], classes: Sequence[str], measure: str, corner: _Corner
) -> None:
    """All curves, in a square from 0 to 1 with a legend that gives their areas.

    Args:
        axes: where to.
        curves: class → its curve.
        classes: names.
        measure: what the area is called.
        corner: where the legend stands.
    """
    names = [short_name(name) for name in classes]
    if curves:
        draw = _draw_each_curve if len(names) <= _MAX_CURVES else _draw_mean_curve
        lines, texts = draw(axes, curves, names)
        legend = axes.legend(lines, texts, loc=corner, fontsize=8, title=measure, frameon=True)
        legend.get_title().set_fontsize(8)
        for text in legend.get_texts():
            text.set_parse_math(False)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.93")
    axes.set_axisbelow(True)


def _draw_each_curve(
    axes: "Axes", curves: dict[int, Curve], names: Sequence[str]
) -> tuple[list[Any], list[str]]:
    """Every class in a colour; the lines and what to say of them."""
    lines, texts = [], []
    for index, name in enumerate(names):
        across, up, area = curves.get(index, ([], [], math.nan))
        lines += axes.plot(across, up, color=f"C{index}", linewidth=1.8)
        texts.append(f"{name}: {area:.3f}" if index in curves else f"{name}: no pictures")
    return lines, texts


def _draw_mean_curve(
    axes: "Axes", curves: dict[int, Curve], names: Sequence[str]
) -> tuple[list[Any], list[str]]:
    """The mean, the best and the worst before the others in grey; likewise."""
    rates = np.linspace(0, 1, 501)
    for across, up, _ in curves.values():
        axes.plot(across, up, color="0.5", linewidth=0.6, alpha=0.3)
    areas = {index: area for index, (_, _, area) in curves.items()}
    best, worst = max(areas, key=areas.__getitem__), min(areas, key=areas.__getitem__)
    mean = np.mean([np.interp(rates, x, y) for x, y, _ in curves.values()], axis=0)
    lines = axes.plot(rates, mean, color="C0", linewidth=2.4)
    lines += axes.plot(*curves[best][:2], color="C2", linewidth=1.6)
    lines += axes.plot(*curves[worst][:2], color="C3", linewidth=1.6)
    average = sum(areas.values()) / len(areas)
    texts = [
        f"mean of {len(areas)} classes: {average:.3f}",
        f"best, {names[best]}: {areas[best]:.3f}",
        f"worst, {names[worst]}: {areas[worst]:.3f}",
    ]
    return lines, texts
