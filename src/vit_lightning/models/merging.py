"""Token merging (Bolya et al. 2023, "Token Merging: Your ViT But Faster").

Behind the attention of every block the ``r`` pairs of tokens that are most alike become one token
each, so that the blocks behind have less to compute. No weight is added or changed.

*Bipartite soft matching* (section 3.2 of the paper): the tokens are dealt alternately to two sets,
each of the first set finds its most similar one of the second, by the cosine of their keys averaged
over the heads, and the ``r`` most similar pairs are merged. The class token is never merged.

*Proportional attention* (section 3.3): a token that stands for s patches has to count as s of them.
Merged tokens are averages weighted by s, and log s is added to every score of such a key:
softmax(Q Kᵀ / √d + log s). Patches that were alike then give what they gave before. It is used in
training too: weights trained with merging serve without it, or with another ``r``, and the reverse.

The log goes to torch's fused kernel as a mask of one row for each picture. On a CPU attention takes
1.03 to 1.08 of the time without a mask, and 1.2 to 1.8 with the log as one more dimension of the
queries and keys instead.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vit_lightning.errors import InputError
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import Block, VisionTransformer


class MergingTransformer(VisionTransformer):
    """A VisionTransformer that merges tokens on its way to the logits; see :func:`merge_tokens`.

    ``forward`` merges. ``forward_features``, whose tokens have a place in the picture each, does
    not, nor does what is computed with it, such as attention maps.
    """

    merged_tokens: int  # pairs in each block

    def representation(self, x: Tensor) -> Tensor:
        """Pictures (B, C, height, width) → what enters the head (B, head_features)."""
        x = self.embed(x)
        sizes = torch.ones(x.shape[:2], device=x.device)  # B N
        for block, left in zip(self.blocks, self._counts(), strict=True):
            arguments = (block, x, sizes, left, self.config.num_prefix_tokens)
            if self.activation_checkpointing == "full" and block.training:
                x, sizes = checkpoint(_block, *arguments, use_reentrant=False)
            else:
                x, sizes = _block(*arguments)
        return self.before_head(self._pooled(self.norm(x), sizes))

    def _counts(self) -> list[int]:
        """Tokens to compute behind each block."""
        counts = list(token_counts(self.config, self.merged_tokens))
        if self.config.pool == "token":
            counts[-1] = self.config.num_prefix_tokens
        return counts

    def _pooled(self, tokens: Tensor, sizes: Tensor) -> Tensor:
        """Tokens (B, N, D) of sizes (B, N) → (B, D), with "gap" the mean over all patches."""
        if self.config.pool == "token":
            return tokens[:, 0]
        prefix = self.config.num_prefix_tokens
        shares = sizes[:, prefix:] / (self.config.num_tokens - prefix)
        return (tokens[:, prefix:] * shares[..., None]).sum(dim=1).to(tokens.dtype)


def merge_tokens(model: VisionTransformer, r: int) -> VisionTransformer:
    """Let a model merge tokens, which makes it faster and a little less exact.

    The model is changed in place; its weights, configuration and ``state_dict`` stay as they are,
    and what is saved of it is the plain model.

    Args:
        model: a class token or the mean over patches enters its head.
        r: pairs of tokens that each block merges, at most half of the patches that it has; 0 makes
            the model the plain one again.

    Returns:
        The model.

    Raises:
        InputError: ``r`` is negative, or tokens of this model cannot be merged.
    """
    if type(r) is not int or r < 0:
        raise InputError(f"the number of tokens to merge in each block is 0 or more, got {r!r}")
    if type(model) not in (VisionTransformer, MergingTransformer):
        raise InputError(
            f"tokens are merged in a VisionTransformer, got {type(model).__name__}; one that is "
            f"compiled, packed or wrapped has to be told before"
        )
    if r and model.config.pool == "none":
        raise InputError(
            'tokens of a model with pool "none" cannot be merged: each has logits of its own'
        )
    if isinstance(model, MergingTransformer):
        del model.merged_tokens
    model.__class__ = MergingTransformer if r else VisionTransformer
    if r:
        cast(MergingTransformer, model).merged_tokens = r
    return model


def token_counts(config: ViTConfig, r: int) -> tuple[int, ...]:
    """How many tokens, with the class token, are left behind each block that merges ``r`` pairs.

    At most half of the tokens that may be merged can be: the others are their partners.
    """
    count = config.num_tokens
    counts: list[int] = []  # list[int]() is no call that torch.compile knows
    for _ in range(config.depth):
        count -= min(r, (count - config.num_prefix_tokens) // 2)
        counts.append(count)
    return tuple(counts)


def describe_merging(config: ViTConfig, r: int) -> str:
    """What merging does to a model of this configuration, for a person."""
    left = token_counts(config, r)[-1]
    return f"{r} pairs of tokens merged in each block, from {config.num_tokens} to {left}"


def match_tokens(keys: Tensor, count: int, num_prefix_tokens: int) -> Tensor:
    """Bipartite soft matching: where each token goes when the most similar pairs are merged.

    The even tokens look for partners among the odd ones. First come the even tokens that stay, then
    the odd ones, both in their order; so a class token, the first and even, stays the first.

    Args:
        keys: (B, N, d), by which tokens are compared; their lengths do not matter.
        count: pairs to merge, in [1, (N - num_prefix_tokens) / 2].
        num_prefix_tokens: 1 where the first token is a class token, which stays alone, else 0.

    Returns:
        (B, N) of int64 in [0, N - count): the new place of each token; a pair has the same.
    """
    dtype = torch.promote_types(keys.dtype, torch.float32)
    with torch.no_grad(), torch.autocast(keys.device.type, enabled=False):
        keys = F.normalize(keys.to(dtype), dim=-1)
        scores = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)  # B even odd
        similarity, partner = scores[:, num_prefix_tokens:].max(dim=-1)
        chosen = similarity.topk(count, dim=1).indices
        leaves = torch.zeros_like(partner, dtype=torch.bool).scatter(1, chosen, value=True)
        leaves = F.pad(leaves, (num_prefix_tokens, 0))
        partner = F.pad(partner, (num_prefix_tokens, 0))
        odd = torch.arange(scores.shape[2], device=keys.device) + scores.shape[1] - count
        even = torch.where(leaves, odd[partner], (~leaves).cumsum(dim=1) - 1)
        places = even.new_empty(keys.shape[:2])
        places[:, ::2], places[:, 1::2] = even, odd
    return places


def merge_matched(x: Tensor, sizes: Tensor, places: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """Tokens (B, N, D) of sizes (B, N) → their means by place (B, left, D), sizes (B, left).

    A size is the number of patches that a token stands for, and its weight in the mean.
    """
    batch, _, dim = x.shape
    sums = sizes.new_zeros(batch, left).scatter_add(1, places, sizes)
    # Whole rows are added, in a quarter of the time that scatter_add takes for numbers.
    rows = (places + left * torch.arange(batch, device=x.device)[:, None]).flatten()
    weighted = (x * sizes[..., None]).flatten(0, 1)  # B*N D
    means = weighted.new_zeros(batch * left, dim).index_add(0, rows, weighted)
    means = means.view(batch, left, dim) / sums[..., None]
    return means.to(x.dtype), sums


def _block(
    block: nn.Module, x: Tensor, sizes: Tensor, left: int, num_prefix_tokens: int
) -> tuple[Tensor, Tensor]:
    """``Block.forward`` with merging between attention and MLP, so that ``left`` tokens remain.

    Where only the prefix is to remain it is computed alone: nothing is merged into it.
    """
    assert isinstance(block, Block)
    wanted = left if left == num_prefix_tokens else None
    query, key, value = block.attn.query_key_value(block.norm1(x), wanted)
    bias = sizes.log().to(query.dtype)[:, None, None]  # B 1 1 N
    attended = block.attn.attend(query, key, value, bias)
    x = x[:, :wanted] + block.drop_path(block.dropout(attended))
    if wanted is None and left < x.shape[1]:
        places = match_tokens(key.mean(dim=1), x.shape[1] - left, num_prefix_tokens)
        x, sizes = merge_matched(x, sizes, places, left)
    return x + block.drop_path(block.mlp(block.norm2(x))), sizes
