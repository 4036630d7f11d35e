"""The drawings of training and evaluation.

Every function returns a ``matplotlib.figure.Figure`` of its own; nothing touches pyplot or other
global state, so all of them are safe in callbacks. matplotlib is imported only when drawing.
Names are shortened in the middle where they would not fit.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vit_lightning.files import atomic_write
from vit_lightning.models.config import Size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110
_INK = "0.3"  # the grey of what accompanies the data
_MAX_NAMES = 120  # names along an axis that can still be read
_MAX_COUNTS = 20  # classes up to which a confusion matrix shows its numbers
_MAX_CURVES = 10  # classes up to which each ROC curve has a colour and a name
_MAX_PICTURES = 16
_MAX_PANELS = 7  # position-embedding maps down and across, as in the ViT paper

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]  # rates and area


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_write(path) as temporary, _any_script():
        figure.savefig(temporary, format="png", dpi=figure.dpi)


def figure_array(figure: "Figure") -> npt.NDArray[np.uint8]:
    """The drawn figure as (height, width, 3) pixels, for TensorBoard with ``"HWC"``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # untyped in matplotlib
    with _any_script():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()


def short_name(name: str, limit: int = 28) -> str:
    """One printable line; the middle of a long name is left out, as the ends tell names apart."""
    name = "".join(c if c.isprintable() else " " for c in name)
    name = " ".join(name.split())
    if len(name) <= limit:
        return name
    return f"{name[: limit * 2 // 3 - 1]}…{name[-(limit // 3) :]}"


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
    figure = _figure(max(side + 1.9, 4.6), max(side + 0.9, 3.4))
    axes = figure.add_subplot()
    colours = colormaps["Blues"].with_extremes(bad="0.88")
    # Without numbers a rare confusion must show by its colour alone.
    scale = PowerNorm(1.0 if len(names) <= _MAX_COUNTS else 0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, norm=scale, cmap=colours, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.75, aspect=25)
    bar.set_label("share of the label's pictures", color=_INK)
    bar.outline.set_visible(False)
    _name_ticks(axes, names, font)
    if len(names) <= _MAX_COUNTS:
        _write_counts(axes, counts, shares.filled(0.0), cell)
    axes.set_xlabel("prediction", color=_INK)
    axes.set_ylabel("label", color=_INK)
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
    figure = _figure(6.0, 5.6)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
    if not curves:
        axes.text(0.5, 0.6, "no curve: all pictures are of one class", ha="center", color=_INK)
    elif len(classes) <= _MAX_CURVES:
        _draw_each_curve(axes, curves, [short_name(name) for name in classes])
    else:
        _draw_mean_curve(axes, curves, [short_name(name) for name in classes])
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    axes.set_xlabel("false positives, share of the other classes", color=_INK)
    axes.set_ylabel("true positives, share of the class", color=_INK)
    axes.set_title("ROC, one class against the rest", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    return figure


def as_pictures(images: Tensor) -> npt.NDArray[np.uint8]:
    """Pictures (B, C, height, width) in [0, 1] as (B, height, width, C) pixels."""
    pixels = (images.detach().float().cpu() * 255).round().clamp(0, 255)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).numpy()


def batch_figure(images: Tensor, labels: Tensor, classes: Sequence[str]) -> "Figure":
    """The first 16 pictures of a batch as the model gets them, augmented and named.

    Args:
        images: (B, C, height, width) in [0, 1]; other than 3 channels are shown as their mean.
        labels: (B,), indices of classes.
        classes: names.
    """
    pixels = as_pictures(images[:_MAX_PICTURES])
    columns = math.ceil(math.sqrt(len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    aspect = _aspect(pixels.shape[1:3])
    figure = _figure(columns * 1.9, rows * (1.9 * aspect + 0.25))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, label in zip(grid.flat, pixels, labels.tolist(), strict=False):
        _draw_picture(axes, picture)
        axes.set_title(short_name(classes[label], 24), fontsize=8, parse_math=False)
    return figure


def pos_embed_figure(pos_embed: Tensor, grid_size: Size, num_prefix_tokens: int) -> "Figure":
    """How alike the position embeddings are, as in figure 7 of the ViT paper.

    One panel for each patch: the cosine similarity of its embedding with those of all patches.
    Large grids show 7 rows and columns of panels, evenly chosen.

    Args:
        pos_embed: (1, N, D).
        grid_size: patches down and across.
        num_prefix_tokens: embeddings before the patches', left out.
    """
    from matplotlib import colormaps

    height, width = grid_size
    patches = F.normalize(pos_embed.detach().double().cpu()[0, num_prefix_tokens:], dim=1)
    similarity = (patches @ patches.T).view(height, width, height, width).numpy()
    rows, columns = _evenly(height), _evenly(width)
    gap = max(1, round(max(grid_size) / 10))
    sheet = np.full((len(rows) * (height + gap) - gap, len(columns) * (width + gap) - gap), np.nan)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width] = similarity[row, column]
    long_side = 5.6 / max(sheet.shape)
    figure = _figure(
        max(sheet.shape[1] * long_side, 2.2) + 1.6, max(sheet.shape[0] * long_side, 2.2) + 0.9
    )
    axes = figure.add_subplot()
    colours = colormaps["viridis"].with_extremes(bad="white")
    image = axes.imshow(np.ma.masked_invalid(sheet), vmin=-1, vmax=1, cmap=colours)
    _panel_ticks(axes, rows, columns, (height + gap, width + gap), grid_size)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25)
    bar.set_label("cosine similarity", color=_INK)
    bar.outline.set_visible(False)
    axes.set_title("Position embedding similarity", fontsize=11)
    return figure


def attention_figure(
    pictures: Sequence[npt.NDArray[np.uint8]],
    maps: Sequence[npt.NDArray[np.floating[Any]]],
    captions: Sequence[str],
) -> "Figure":
    """Each picture, the same lit by its attention map, and the map itself laid over it.

    Light and colour run from the map's smallest to its largest value: the figure shows where,
    not how strongly.

    Args:
        pictures: one or more, (height, width, channels) or (height, width) pixels each.
        maps: one (h, w) each that covers the whole picture, of any resolution.
        captions: a text each, one line.
    """
    abreast = 1 if len(pictures) <= 4 else 2  # sets of three panels in a row
    panel, caption = (2.9, 0.3) if abreast == 1 else (2.1, 0.3)  # inches
    heights = [panel * _aspect(picture.shape[:2]) for picture in pictures]
    rows = [max(heights[i : i + abreast]) for i in range(0, len(heights), abreast)]
    widths = ([1.0, 1.0, 1.0, 0.1] * abreast)[:-1]
    total = sum(rows) + len(rows) * caption
    figure = _figure(panel * sum(widths) * 1.03, total, constrained=False)
    spaces = {"left": 0.005, "right": 0.995, "bottom": 0.004, "top": 1 - caption / total}
    spaces |= {"wspace": 0.03, "hspace": caption * len(rows) / sum(rows)}
    ratios = {"width_ratios": widths, "height_ratios": rows}
    grid = figure.subplots(len(rows), len(widths), squeeze=False, gridspec_kw=ratios | spaces)
    for axes in grid.flat:
        axes.axis("off")
    for i, (picture, heat, text) in enumerate(zip(pictures, maps, captions, strict=True)):
        first = i % abreast * 4
        plain, lit, heated = grid[i // abreast, first : first + 3]
        line = short_name(text, round(panel * 38))
        plain.set_title(line, loc="left", fontsize=9, pad=4, parse_math=False)
        _draw_picture(plain, picture)
        _draw_lit(lit, picture, _stretched(heat))
        _draw_heat(heated, picture, _stretched(heat))
    return figure


def _figure(width: float, height: float, *, constrained: bool = True) -> "Figure":
    """An empty figure, in inches; ``constrained`` makes room for what stands beside the axes."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08) if constrained else None
    return Figure(figsize=(width, height), dpi=_DPI, layout=layout, facecolor="white")


@contextmanager
def _any_script() -> Iterator[None]:
    """Without the warning that names in a script unknown to the font are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _aspect(size: Sequence[int]) -> float:
    """Height by width of the place for a picture; a very long or tall one leaves some empty."""
    return min(max(size[0] / size[1], 0.3), 1.5)


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


def _draw_each_curve(axes: "Axes", curves: dict[int, Curve], names: Sequence[str]) -> None:
    lines, texts = [], []
    for index, name in enumerate(names):
        false_rate, true_rate, area = curves.get(index, ([], [], math.nan))
        lines += axes.plot(false_rate, true_rate, color=f"C{index}", linewidth=1.8)
        texts.append(f"{name}: {area:.3f}" if index in curves else f"{name}: no pictures")
    _legend(axes, lines, texts)


def _draw_mean_curve(axes: "Axes", curves: dict[int, Curve], names: Sequence[str]) -> None:
    rates = np.linspace(0, 1, 501)
    for false_rate, true_rate, _ in curves.values():
        axes.plot(false_rate, true_rate, color="0.5", linewidth=0.6, alpha=0.3)
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
    _legend(axes, lines, texts)


def _legend(axes: "Axes", lines: Sequence[Any], texts: Sequence[str]) -> None:
    legend = axes.legend(
        lines, texts, loc="lower right", fontsize=8, title="area under the curve", frameon=True
    )
    legend.get_title().set_fontsize(8)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_picture(axes: "Axes", picture: npt.NDArray[np.uint8]) -> None:
    """In colour with three channels, else the mean of the channels in grey."""
    shown = picture if picture.ndim == 3 and picture.shape[2] == 3 else _grey(picture)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
    axes.set_anchor("NW")


def _draw_lit(axes: "Axes", picture: npt.NDArray[np.uint8], heat: npt.NDArray[np.float64]) -> None:
    """The picture times its map, in the shadows a little less: all dark would hide the scene."""
    _draw_picture(axes, picture)
    shade = np.zeros((*heat.shape, 4))
    shade[..., 3] = 0.8 * (1 - np.sqrt(heat))
    axes.imshow(shade, interpolation="bicubic", extent=_extent(picture))


def _draw_heat(axes: "Axes", picture: npt.NDArray[np.uint8], heat: npt.NDArray[np.float64]) -> None:
    """The map in colour over the picture in grey."""
    _draw_picture(axes, _grey(picture))
    style: dict[str, Any] = {"cmap": "magma", "vmin": 0, "vmax": 1, "alpha": 0.6}
    axes.imshow(heat, interpolation="bicubic", extent=_extent(picture), **style)


def _grey(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return picture if picture.ndim == 2 else picture.mean(axis=2).round().astype(np.uint8)


def _extent(picture: npt.NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """What makes matplotlib stretch a map of any resolution over the whole picture."""
    return -0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5


def _stretched(heat: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """From the smallest to the largest value as 0 to 1; a level map is 1 everywhere."""
    spread = float(heat.max() - heat.min())
    if spread == 0:
        return np.ones(heat.shape)
    return np.asarray((heat - heat.min()) / spread, dtype=np.float64)


def _evenly(count: int) -> list[int]:
    """At most seven indices of ``range(count)``, evenly spaced, both ends among them."""
    return [round(x) for x in np.linspace(0, count - 1, min(count, _MAX_PANELS)).tolist()]


def _panel_ticks(
    axes: "Axes", rows: Sequence[int], columns: Sequence[int], pitch: Size, panel: Size
) -> None:
    axes.set_yticks([i * pitch[0] + (panel[0] - 1) / 2 for i in range(len(rows))], map(str, rows))
    axes.set_xticks(
        [j * pitch[1] + (panel[1] - 1) / 2 for j in range(len(columns))], map(str, columns)
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("patch row", color=_INK)
    axes.set_xlabel("patch column", color=_INK)
