"""What a model sees and where it looks: batches, attention, position embeddings."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vit_lightning.figures.sheet import INK, new_figure, short_name
from vit_lightning.models.config import Size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_PICTURES = 16
_MAX_PANELS = 7  # position-embedding maps down and across, as in the ViT paper


def as_pictures(images: Tensor) -> npt.NDArray[np.uint8]:
    """Pictures (B, C, height, width) in [0, 1] as (B, height, width, C) pixels."""
    pixels = (images.detach().float().cpu() * 255).round().clamp(0, 255)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).numpy()


def batch_figure(images: Tensor, labels: Tensor, classes: Sequence[str]) -> "Figure":
    """The first 16 pictures of a batch as the model gets them, augmented and named.

    Args:
        images: (B, C, height, width) in [0, 1]; other than 3 channels are shown as their mean.
        labels: (B,), indices of classes; or (B, classes), the shares of mixed pictures or 1 for
            each of several labels.
        classes: names.
    """
    pixels = as_pictures(images[:_MAX_PICTURES])
    height, width = pixels.shape[1:3]
    columns = math.ceil(math.sqrt(len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    cell = max(width, round(height / 1.5))  # a very tall picture leaves some empty
    caption, gap = max(1, round(0.13 * cell)), max(1, round(0.03 * cell))
    # One image: axes for each picture would take a second to draw, before the second step.
    shape = (rows * (caption + height), columns * (cell + gap) - gap, 3)
    sheet = np.full(shape, 255, dtype=np.uint8)
    figure = new_figure(1.9 * shape[1] / cell, 1.9 * shape[0] / cell, constrained=False)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for index, (picture, label) in enumerate(zip(pixels, labels, strict=False)):
        top = index // columns * (caption + height) + caption
        left = index % columns * (cell + gap) + (cell - width) // 2
        sheet[top : top + height, left : left + width] = _coloured(picture)
        text = _label_text(label, classes)
        where = {"x": left + (width - 1) / 2, "y": top - 0.5 - 0.2 * caption}
        axes.text(**where, s=text, ha="center", va="bottom", fontsize=8, parse_math=False)
    axes.imshow(sheet)
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
    figure = new_figure(
        max(sheet.shape[1] * long_side, 2.2) + 1.6, max(sheet.shape[0] * long_side, 2.2) + 0.9
    )
    axes = figure.add_subplot()
    colours = colormaps["viridis"].with_extremes(bad="white")
    image = axes.imshow(np.ma.masked_invalid(sheet), vmin=-1, vmax=1, cmap=colours)
    _panel_ticks(axes, rows, columns, (height + gap, width + gap), grid_size)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25)
    bar.set_label("cosine similarity", color=INK)
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
    figure = new_figure(panel * sum(widths) * 1.03, total, constrained=False)
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


def _label_text(label: Tensor, classes: Sequence[str]) -> str:
    """A picture's class; of several the strongest two, with their shares where these are not 1."""
    if label.ndim == 0:
        return short_name(classes[int(label)], 24)
    shares = label.double()
    present = [int(index) for index in shares.argsort(descending=True) if shares[index] > 0]
    width = 24 if len(present) == 1 else 14
    texts = [
        short_name(classes[index], width)
        + ("" if shares[index] == 1 else f" {float(shares[index]):.2f}")
        for index in present[:2]
    ]
    more = len(present) - len(texts)
    return ", ".join(texts) + (f", +{more}" if more else "") or "no label"


def _aspect(size: Sequence[int]) -> float:
    """Height by width of the place for a picture; a very long or tall one leaves some empty."""
    return min(max(size[0] / size[1], 0.3), 1.5)


def _draw_picture(axes: "Axes", picture: npt.NDArray[np.uint8]) -> None:
    axes.imshow(_coloured(picture))
    axes.set_anchor("NW")


def _coloured(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(height, width, 3) pixels; other than three channels are shown as their mean, in grey."""
    if picture.ndim == 3 and picture.shape[2] == 3:
        return picture
    return np.repeat(_grey(picture)[..., None], 3, axis=2)


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
    axes.set_ylabel("patch row", color=INK)
    axes.set_xlabel("patch column", color=INK)
