"""What all figures stand on: the sheet, its file, its pixels, names that fit."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vit_lightning.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "0.3"
"""The grey of what accompanies the data."""

_DPI = 110


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_write(path) as temporary, any_script():
        figure.savefig(temporary, format="png", dpi=figure.dpi)


def figure_array(figure: "Figure") -> npt.NDArray[np.uint8]:
    """The drawn figure as (height, width, 3) pixels, for TensorBoard with ``"HWC"``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # untyped in matplotlib
    with any_script():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()


def short_name(name: str, limit: int = 28) -> str:
    """One printable line; the middle of a long name is left out, as the ends tell names apart."""
    name = "".join(c if c.isprintable() else " " for c in name)
    name = " ".join(name.split())
    if len(name) <= limit:
        return name
    return f"{name[: limit * 2 // 3 - 1]}…{name[-(limit // 3) :]}"


def new_figure(width: float, height: float, *, constrained: bool = True) -> "Figure":
    """An empty figure, in inches; ``constrained`` makes room for what stands beside the axes."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08) if constrained else None
    return Figure(figsize=(width, height), dpi=_DPI, layout=layout, facecolor="white")


@contextmanager
def any_script() -> Iterator[None]:
    """Without the warning that names in a script unknown to the font are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
