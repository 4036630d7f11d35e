"""Bars of a result of ``models.py``: what share of the limit each side reaches.

    python -m benchmarks chart RESULT.json [RESULT.json ...]

Writes an SVG beside each. The text stays text, in a grey that can be read on light and on dark.
"""

import argparse
import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vit_lightning.files import write_text
from vit_lightning.json_file import read_json

OWN = "vit-lightning"
LIMIT = "limit"
INK, OWN_COLOUR, PEER_COLOUR, ON_BARS = "#808080", "#b45309", "#5b7590", "#ffffff"

WIDTH, BAR, HEAD = 7.2, 0.27, 0.85  # inches: of a page, of a bar with its gap, of what is around
NARROW = 25  # percent: figures stand behind bars that are shorter

SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vit-lightning",  # the same file for the same figures
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 10,
}


def draw(result: dict[str, Any]) -> Figure:
    """One panel for each batch; bars in the order of the result, the best rate at 100 %."""
    counts = [len(measured["sides"]) - 1 for measured in result["batches"]]
    height = BAR * sum(counts) + HEAD * len(counts)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(len(counts), 1, squeeze=False, height_ratios=[n + 1 for n in counts])
    for panel, measured in zip(panels[:, 0], result["batches"], strict=True):
        _draw_batch(panel, measured["sides"])
        panel.set_title(
            f"{result['model']}, {result['image_size']} px, {result['mode']}, "
            f"{result['precision']}, batch {measured['batch']}",
            loc="left",
            fontsize=10,
        )
    panels[-1, 0].set_xlabel(
        f"% of the speed of the dense layers alone on this "
        f"{'GPU' if result.get('device') == 'cuda' else 'CPU'}; longer is better"
    )
    return figure


def _draw_batch(axes: Axes, sides: dict[str, dict[str, Any]]) -> None:
    names = [name for name in sides if name != LIMIT]
    shares = [100 * sides[name]["of_the_limit"] for name in names]
    colours = [OWN_COLOUR if name.startswith(OWN) else PEER_COLOUR for name in names]
    axes.barh(names, shares, color=colours, height=0.72)
    axes.axvline(100, color=INK, linewidth=1, linestyle=":")
    for row, (name, share) in enumerate(zip(names, shares, strict=True)):
        inside = share >= NARROW
        axes.text(
            share,
            row,
            f" {share:.0f} %, {sides[name]['ms']:,.4g} ms ",
            color=ON_BARS if inside else INK,
            ha="right" if inside else "left",
            va="center_baseline",
            fontsize=9,
        )
    axes.set_xlim(0, max(102, *shares))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def write_chart(path: Path) -> Path:
    """Draw the result in a file; the chart lies beside it."""
    target = path.with_suffix(".svg")
    text = io.StringIO()
    with rc_context(SETTINGS):
        draw(read_json(path, "result")).savefig(
            text, format="svg", transparent=True, metadata={"Date": None}
        )
    write_text(target, text.getvalue())
    return target


def main() -> None:
    """Draw what is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT.json")
    for path in parser.parse_args().results:
        print(write_chart(path))


if __name__ == "__main__":
    main()
