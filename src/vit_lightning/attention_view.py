"""Pictures beside what a model attends to in them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from PIL import Image

from vit_lightning.attention import attention_rollout
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.figures import attention_figure
from vit_lightning.models.vit import VisionTransformer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
