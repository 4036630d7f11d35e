"""Position embeddings for another grid."""

import torch.nn.functional as F
from torch import Tensor, cat

from vit_lightning.models.config import Size


def resize_pos_embed(pos_embed: Tensor, old: Size, new: Size, num_prefix_tokens: int) -> Tensor:
    """Resize the grid part of a position embedding; prefix tokens stay as they are.

    Bilinear with the corner samples of both grids aligned and no anti-aliasing, which is what
    the original computes with ``scipy.ndimage.zoom(order=1)`` (``vit_jax/checkpoint.py``). For
    some pairs of sizes (28 → 48 among them) scipy returns a last row and column of zeros, a
    rounding artefact that is not copied here.

    Args:
        pos_embed: (1, prefix + old height * old width, dim), the grid row by row.
        old: grid (height, width) of ``pos_embed``.
        new: grid (height, width) wanted.
        num_prefix_tokens: tokens before the grid.

    Returns:
        (1, prefix + new height * new width, dim), in the type of ``pos_embed``.
    """
    prefix, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    picture = grid.reshape(1, *old, -1).permute(0, 3, 1, 2).double()  # 1 D h w
    picture = F.interpolate(picture, size=new, mode="bilinear", align_corners=True)
    grid = picture.permute(0, 2, 3, 1).flatten(1, 2).to(pos_embed.dtype)  # 1 h*w D
    return cat([prefix, grid], dim=1)
