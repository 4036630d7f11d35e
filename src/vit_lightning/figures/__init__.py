"""The drawings of training and evaluation.

Every function returns a ``matplotlib.figure.Figure`` of its own; nothing touches pyplot or other
global state, so all of them are safe in callbacks. matplotlib is imported only when drawing.
Names are shortened in the middle where they would not fit.
"""

from vit_lightning.figures.measures import (
    confusion_figure,
    precision_recall_figure,
    roc_figure,
)
from vit_lightning.figures.pictures import (
    as_pictures,
    attention_figure,
    batch_figure,
    pos_embed_figure,
)
from vit_lightning.figures.sheet import figure_array, save_figure, short_name

__all__ = [
    "as_pictures",
    "attention_figure",
    "batch_figure",
    "confusion_figure",
    "figure_array",
    "pos_embed_figure",
    "precision_recall_figure",
    "roc_figure",
    "save_figure",
    "short_name",
]
