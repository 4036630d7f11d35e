"""How arrays of other libraries are laid out: the transforms that rows of key tables name."""

import torch.nn.functional as F
from torch import Tensor

from vit_lightning.checkpoints.keymap import Transform


def _over_one_another(parts: tuple[Tensor, ...]) -> Tensor:
    """Concatenated along the first axis.

    As ``torch.cat`` does, which on ``meta`` would import sympy: two seconds and 75 MiB.
    """
    whole = parts[0].new_empty(sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    start = 0
    for part in parts:
        if part.shape[1:] != whole.shape[1:]:
            raise ValueError(f"{tuple(part.shape)} does not go with {tuple(parts[0].shape)}")
        whole[start : start + part.shape[0]] = part
        start += part.shape[0]
    return whole


# Flax: (in, out); torch: (out, in).
DENSE = Transform(lambda x: x[0].T, lambda t, heads: (t.T,))
# Flax: (height, width, in, out); torch: (out, in, height, width).
CONV = Transform(lambda x: x[0].permute(3, 2, 0, 1), lambda t, heads: (t.permute(2, 3, 1, 0),))
# Early Flax wrote the scale and bias of a GroupNorm as (1, 1, 1, C).
FLAT = Transform(lambda x: x[0].reshape(-1), lambda t, heads: (t,), ignores_leading_ones=True)
# Query, key and value, each (hidden, heads, head_dim), over one another as rows of one matrix.
QKV_KERNEL = Transform(
    lambda x: _over_one_another(tuple(part.reshape(part.shape[0], -1).T for part in x)),
    lambda t, heads: tuple(part.T.reshape(t.shape[1], heads, -1) for part in t.chunk(3)),
)
QKV_BIAS = Transform(
    lambda x: _over_one_another(tuple(part.reshape(-1) for part in x)),
    lambda t, heads: tuple(part.reshape(heads, -1) for part in t.chunk(3)),
)
# (heads, head_dim, hidden).
OUT_KERNEL = Transform(
    lambda x: x[0].reshape(-1, x[0].shape[-1]).T,
    lambda t, heads: (t.T.reshape(heads, -1, t.shape[0]),),
)
# Query, key and value as torch's linear layers have them, over one another.
STACKED = Transform(_over_one_another, lambda t, heads: t.chunk(3))
# big_vision gives positions to the patches alone: to the class token it adds nothing.
PATCH_POSITIONS = Transform(
    lambda x: F.pad(x[0], (0, 0, 1, 0)),
    lambda t, heads: (t[:, 1:],),
)
