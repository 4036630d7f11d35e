"""What the attention layers look at, computed beside the model.

Every attention layer forms, for each head, a table of probabilities

    P = softmax(Q Kᵀ / √d),        Q, K: (N, d),        P: (N, N), each row sums to 1;

row i says from which tokens token i draws. The model computes P inside torch's fused kernel and
never returns it. Here a hook on each layer that makes Q, K and V reads them there, and forms P from
them a second time: the forward pass stays as it is, fused and without a flag.

*Attention rollout* (Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers") follows
the flow through all layers. With the heads averaged, a block passes to each token the mixture P of
all tokens and, past it on the residual branch, the token itself:

    A_l = (mean over heads of P_l + I) / 2,        R = A_L · … · A_2 · A_1.

The rows of A_l sum to 1, so those of R do: R[i, j] is the share of input token j in output token i,
were each block only this mixing. The row of the class token over the patches, scaled to a largest
value of 1, is the map of the ViT paper's figure 6.

What rollout is not: an explanation of the answer. It knows neither the class asked about, nor the
values that attention moves, nor the MLPs, nor the true proportion of branch and residual, taken
as one half; a head that the next layer ignores counts as much as one that decides. It shows where
information could have come from, not that it was used.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vit_lightning.errors import InputError
from vit_lightning.models.vit import Attention, VisionTransformer


def attention_maps(model: VisionTransformer, images: Tensor) -> Tensor:
    """The attention probabilities of every layer and head.

    All of them are held at once: 12 layers, 12 heads and 197 tokens make 22 MB a picture.

    Args:
        model: used in evaluation mode and left as it was.
        images: (B, in_channels, height, width) in [-1, 1]; moved to the model's device and dtype.

    Returns:
        (layers, B, heads, N, N) in [0, 1], rows sum to 1; token order is the model's, the class
        token first. At least float32, on the model's device.

    Raises:
        InputError: pictures of a shape or type that the model does not take.
    """
    layers: list[Tensor] = []
    _run(model, images, layers.append)
    return torch.stack(layers)


def attention_rollout(model: VisionTransformer, images: Tensor) -> Tensor:
    """Where the model's output draws from, by attention rollout; see the module's text.

    The map belongs to what enters the head: the class token's row, or with ``pool="gap"`` or
    without a class token the mean over the patches' rows. One layer is held at a time.

    Args:
        model: used in evaluation mode and left as it was.
        images: (B, in_channels, height, width) in [-1, 1]; moved to the model's device and dtype.

    Returns:
        (B, grid height, grid width) in [0, 1], the largest of each picture is 1.

    Raises:
        InputError: pictures of a shape or type that the model does not take, or attention that is
            not finite.
    """
    config = model.config
    flow: Tensor | None = None

    def follow(probabilities: Tensor) -> None:
        nonlocal flow
        mixing = probabilities.mean(dim=1)  # B N N
        mixing = mixing + torch.eye(mixing.shape[-1], dtype=mixing.dtype, device=mixing.device)
        mixing = mixing / mixing.sum(dim=-1, keepdim=True)
        flow = mixing if flow is None else torch.bmm(mixing, flow)

    _run(model, images, follow)
    assert flow is not None  # a model has at least one block
    prefix = config.num_prefix_tokens
    reads_patches = config.pool == "gap" or not config.class_token
    rows = flow[:, prefix:] if reads_patches else flow[:, :1]
    shares = rows[:, :, prefix:].mean(dim=1)  # B, patches
    if not bool(torch.isfinite(shares).all()):
        raise InputError(
            "the model's attention is not finite: its weights or the pictures hold NaN or "
            "infinity; if it was trained here, train again with a smaller learning rate"
        )
    return (shares / shares.amax(dim=1, keepdim=True)).view(-1, *config.grid_size)


def _run(model: VisionTransformer, images: Tensor, receive: Callable[[Tensor], None]) -> None:
    """One pass of the encoder; ``receive`` gets each layer's (B, heads, N, N), first to last."""
    if not images.is_floating_point():
        raise InputError(
            f"the model takes pictures as floating-point numbers in [-1, 1], got {images.dtype}; "
            f"for pixels in 0..255 use (pixels - 127.5) / 127.5"
        )
    with torch.no_grad(), _evaluating(model), _watching(model, receive):
        # Not model(...): the head is not needed, and a compiled model might not see the hooks.
        model.forward_features(images.to(model.pos_embed))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; after it every sub-module has its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _watching(model: VisionTransformer, receive: Callable[[Tensor], None]) -> Iterator[None]:
    """Hooks on what enters attention, gone afterwards, also on an error."""
    with ExitStack() as handles:
        for layer in model.modules():
            if isinstance(layer, Attention):  # in the order of the blocks

                def hook(_: nn.Module, __: Any, made: Tensor, heads: int = layer.num_heads) -> None:
                    receive(_probabilities(made, heads))

                handles.enter_context(layer.qkv.register_forward_hook(hook))
        yield


def _probabilities(made: Tensor, num_heads: int) -> Tensor:
    """Queries, keys and values (B, N, 3 D) → attention probabilities (B, heads, N, N)."""
    parts = made.view(*made.shape[:2], 3, num_heads, -1)
    query, key, _ = parts.permute(2, 0, 3, 1, 4).unbind(0)
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(made.device.type, enabled=False):  # bfloat16 scores would be too coarse
        query = query.to(dtype) / math.sqrt(query.shape[-1])
        return (query @ key.to(dtype).transpose(-2, -1)).softmax(dim=-1)
