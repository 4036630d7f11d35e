"""The Vision Transformer (Dosovitskiy et al. 2021; original ``vit_jax/models_vit.py``).

Shapes: B batch, N tokens (class token first, then the grid row by row), D embed_dim,
H heads, d = D / H. Parameters carry the names timm, DeiT and DINO gave theirs.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_lightning.errors import InputError
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.lora import LoRALinear
from vit_lightning.models.recompute import Recomputed, keep_input_alone
from vit_lightning.models.resnet import ResNet


class PatchEmbed(nn.Module):
    """Picture → patch tokens; in a hybrid the patches are cut from the stem's output."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        channels = config.in_channels
        self.backbone: nn.Module = nn.Identity()
        if config.resnet is not None:
            self.backbone = ResNet(config.resnet, config.in_channels)
            channels = config.resnet.out_channels
        # A kernel as large as its stride: pixels that fill no patch are dropped.
        self.proj = nn.Conv2d(channels, config.embed_dim, config.patch_size, config.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, height, width) → (B, grid, D)."""
        return self._projected(self.backbone(x))

    def _projected(self, x: Tensor) -> Tensor:
        """The convolution as the matrix product it is, which takes up to a third less time."""
        height, width = self.proj.kernel_size
        rows, columns = x.shape[2] // height, x.shape[3] // width
        x = x[:, :, : rows * height, : columns * width]
        patches = x.reshape(*x.shape[:2], rows, height, columns, width)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Multi-head self-attention, always through torch's fused kernel."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_dropout = config.attention_dropout
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def query_key_value(
        self, x: Tensor, wanted: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) → three of (B, H, N, d), the first of the first ``wanted`` tokens."""
        if wanted is None:
            query, key, value = self._by_head(self.qkv(x))
        else:
            dim = x.shape[2]
            (query,) = self._by_head(_part(self.qkv, x[:, :wanted], slice(dim)))
            key, value = self._by_head(_part(self.qkv, x, slice(dim, None)))
        return query, key, value

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Three of (B, H, N, d) → (B, N, D); ``bias`` is added to the scores (B, H, N, N)."""
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, bias, dropout)  # B H N d
        return self.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def forward(self, x: Tensor, wanted: int | None = None) -> Tensor:
        """(B, N, D) → (B, N, D), or (B, wanted, D) of the first tokens."""
        return self.attend(*self.query_key_value(x, wanted))

    def _by_head(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, N, P * D) → P of (B, H, N, d)."""
        dim = self.proj.in_features
        parts = x.view(*x.shape[:2], x.shape[2] // dim, self.num_heads, dim // self.num_heads)
        return parts.permute(2, 0, 3, 1, 4).unbind(0)


def _part(layer: nn.Linear, x: Tensor, rows: slice) -> Tensor:
    """(..., inputs) → (..., those of a layer's outputs alone)."""
    if isinstance(layer, LoRALinear):
        return layer.part(x, rows)
    return F.linear(x, layer.weight[rows], layer.bias[rows])


class Mlp(nn.Module):
    """Two dense layers with a GELU between, dropout after each."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.embed_dim, config.mlp_dim)
        self.act = nn.GELU(approximate="tanh" if config.activation == "gelu_tanh" else "none")
        self.fc2 = nn.Linear(config.mlp_dim, config.embed_dim)
        self.recomputes_act = False
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        x = self.fc1(x)
        if self.recomputes_act and self.training:
            # A low-rank layer may drop of its input too.
            draws = self.dropout.p > 0 or isinstance(self.fc2, LoRALinear)
            x = keep_input_alone(self._narrowed, x, draws=draws)
        else:
            x = self._narrowed(x)
        return self.dropout(x)  # type: ignore[no-any-return]

    def _narrowed(self, x: Tensor) -> Tensor:
        """(B, N, mlp_dim) → (B, N, D)."""
        return self.fc2(self.dropout(self.act(x)))  # type: ignore[no-any-return]


class DropPath(nn.Module):
    """Drops a residual branch for whole samples (stochastic depth, Huang et al. 2016)."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D), kept samples scaled so that the mean stays."""
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        return x * x.new_empty(x.shape[0], 1, 1).bernoulli_(keep).div_(keep)


class Block(nn.Module):
    """One encoder block: attention and MLP, each normalised before and added to its input."""

    def __init__(self, config: ViTConfig, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, wanted: int | None = None) -> Tensor:
        """(B, N, D) → (B, N, D), or (B, wanted, D) of the first tokens."""
        attended = self.attn(self.norm1(x), wanted)
        x = x[:, :wanted] + self.drop_path(self.dropout(attended))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Picture → logits.

    Takes float pictures (B, in_channels, height, width) in [-1, 1] of exactly
    ``config.image_size``; returns (B, num_classes), (B, N, num_classes) with ``pool="none"``, or
    features in the place of classes with ``num_classes=0``. Initialised as the original: the head
    and class token at zero, position embedding N(0, 0.02), Xavier in the blocks.

    Args:
        config: the model's description, kept as ``model.config``.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self._recomputed: Recomputed = "none"
        self.patch_embed = PatchEmbed(config)
        if config.class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_tokens, config.embed_dim))
        self.dropout = nn.Dropout(config.dropout)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        if config.representation_size is not None:
            self.pre_logits = nn.Linear(config.embed_dim, config.representation_size)
        self.head: nn.Module = nn.Identity()
        if config.num_classes:
            self.head = nn.Linear(config.head_features, config.num_classes)
        self.apply(_init_weights)
        self._init_tokens()

    @property
    def activation_checkpointing(self) -> Recomputed:
        """What the backward pass of a training computes again, to save memory: "none", "selective"
        (the activations inside the MLPs) or "full" (whole blocks).
        """
        return self._recomputed

    @activation_checkpointing.setter
    def activation_checkpointing(self, recomputed: Recomputed) -> None:
        self._recomputed = recomputed
        for block in self.blocks:
            assert isinstance(block, Block)
            block.mlp.recomputes_act = recomputed == "selective"

    @torch.no_grad()
    def _init_tokens(self) -> None:
        nn.init.normal_(self.pos_embed, std=0.02)
        if self.config.class_token:
            nn.init.zeros_(self.cls_token)
        _lecun_normal_(self.patch_embed.proj.weight)
        if self.config.representation_size is not None:
            _lecun_normal_(self.pre_logits.weight)
        self.reset_head()

    @torch.no_grad()
    def reset_head(self) -> None:
        """Set the head to zeros, where the original starts fine-tuning."""
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def embed(self, x: Tensor) -> Tensor:
        """Pictures (B, C, height, width) → tokens with positions (B, N, D)."""
        expected = (self.config.in_channels, *self.config.image_size)
        if tuple(x.shape[1:]) != expected:
            raise InputError(
                f"the model takes pictures of (channels, height, width) {expected}, got "
                f"{tuple(x.shape[1:])}; resize them, or make the model for another image_size"
            )
        tokens = self.patch_embed(x)
        if self.config.class_token:
            tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], dim=1)
        return self.dropout(tokens + self.pos_embed)  # type: ignore[no-any-return]

    def forward_features(self, x: Tensor) -> Tensor:
        """Pictures (B, C, height, width) → all tokens after the last norm (B, N, D)."""
        return self._encoded(x, None)

    def _encoded(self, x: Tensor, wanted: int | None) -> Tensor:
        """Pictures → the first ``wanted`` tokens after the last norm, all by default."""
        x = self.embed(x)
        for index, block in enumerate(self.blocks):
            # The others are of no use behind the last block.
            part = wanted if index == len(self.blocks) - 1 else None
            if self.activation_checkpointing == "full" and block.training:
                x = keep_input_alone(block, x, part)
            else:
                x = block(x, part)
        return self.norm(x)  # type: ignore[no-any-return]

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) → (B, D), or unchanged with ``pool="none"``."""
        if self.config.pool == "token":
            return tokens[:, 0]
        if self.config.pool == "gap":
            return tokens[:, self.config.num_prefix_tokens :].mean(dim=1)
        return tokens

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) → logits."""
        return self.head(self.before_head(self.pool(tokens)))  # type: ignore[no-any-return]

    def before_head(self, x: Tensor) -> Tensor:
        """Pooled tokens (B, D) → what enters the head (B, head_features)."""
        if self.config.representation_size is not None:
            x = torch.tanh(self.pre_logits(x))
        return x

    def representation(self, x: Tensor) -> Tensor:
        """Pictures (B, C, height, width) → what enters the head (B, head_features).

        Where the head reads the class token alone, the last block and the last norm compute it
        alone.
        """
        wanted = self.config.num_prefix_tokens if self.config.pool == "token" else None
        return self.before_head(self.pool(self._encoded(x, wanted)))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, C, height, width) → logits; see the class.

        ``forward_head(forward_features(x))`` computes all tokens, for the same logits.
        """
        return self.head(self.representation(x))  # type: ignore[no-any-return]


@torch.no_grad()
def _init_weights(module: nn.Module) -> None:
    """The original's initialisers for the layers inside blocks and stem."""
    if isinstance(module, Attention):
        # Query, key and value are matrices of their own in the original: Xavier sees D x D.
        bound = math.sqrt(6.0 / (2 * module.qkv.in_features))
        nn.init.uniform_(module.qkv.weight, -bound, bound)
        nn.init.xavier_uniform_(module.proj.weight)
        nn.init.zeros_(module.qkv.bias)
        nn.init.zeros_(module.proj.bias)
    elif isinstance(module, Mlp):
        for layer in (module.fc1, module.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)
    elif isinstance(module, nn.Conv2d):
        _lecun_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _lecun_normal_(weight: Tensor) -> None:
    """Flax's default: a normal truncated at two standard deviations, variance 1 / fan-in."""
    std = math.sqrt(1.0 / weight[0].numel()) / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
