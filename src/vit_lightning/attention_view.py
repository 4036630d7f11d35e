"""Pictures beside what a model attends to in them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from vit_lightning.attention import attention_rollout
from vit_lightning.data.pictures import PictureError, Pictures
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.figures import attention_figure
from vit_lightning.models.vit import VisionTransformer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN_PICTURES = 4


def draw_attention(
    model: VisionTransformer,
    preprocessing: Preprocessing,
    captioned: Iterable[tuple[Image.Image, str]],
) -> "Figure":
    """Draw pictures as people see them, and the model's attention rollout over them.

    Args:
        model: on any device.
        preprocessing: of the model.
        captioned: each picture with its caption.
    """
    pictures, maps, captions = [], [], []
    device = model.pos_embed.device
    for picture, caption in captioned:
        rollout = attention_rollout(model, preprocessing(picture)[None].to(device))
        maps.append(rollout[0].cpu().numpy())
        pictures.append(preprocessing.shown(picture))
        captions.append(caption)
    return attention_figure(pictures, maps, captions)


def draw_some_attention(
    model: VisionTransformer,
    preprocessing: Preprocessing,
    pictures: Pictures,
    classes: Sequence[str],
) -> "Figure":
    """Draw the attention over a few pictures of a split, always the same ones, evenly chosen."""
    return draw_attention(model, preprocessing, _some(pictures, classes))


def _some(pictures: Pictures, classes: Sequence[str]) -> Iterator[tuple[Image.Image, str]]:
    """Pictures with their classes; for one that cannot be read the next is taken."""
    size = len(pictures)
    count = min(_SHOWN_PICTURES, size)
    for i in range(count):
        first = int((i + 0.5) * size / count)
        for index in range(first, int((i + 1.5) * size / count)):
            try:
                picture = pictures.load(index % size)
            except PictureError:
                continue
            yield picture, _caption(pictures.labels[index % size], classes)
            break


def _caption(label: Any, classes: Sequence[str]) -> str:
    if label.ndim == 0:
        return classes[int(label)]
    return ", ".join(classes[int(i)] for i in label.nonzero()[0])
