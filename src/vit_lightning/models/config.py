"""What a model is: one frozen dataclass that refuses what cannot be."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from vit_lightning.errors import InputError

Pool = Literal["token", "gap", "none"]
Activation = Literal["gelu_tanh", "gelu"]
Size = tuple[int, int]


def as_size(value: int | tuple[int, int] | list[int], name: str = "image_size") -> Size:
    """``224`` or ``(height, width)`` as a ``(height, width)`` tuple of positive integers."""
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise InputError(
            f"{name} must be a positive integer or a pair (height, width), got {value!r}"
        )
    return pair


@dataclass(frozen=True)
class ResNetConfig:
    """The convolutional stem of a hybrid (ViT paper, section 3.1; original ``models_resnet.py``).

    Args:
        stage_depths: residual units of each stage; ``()`` is the root block alone (R+ViT-Ti_16).
        width: channels of the root block; 64 times the original's ``width_factor``.
        norm_eps: epsilon of every GroupNorm; 1e-5 in timm's hybrids.
        weight_eps: keeps the standardisation of filters from dividing by zero.
        eps_under_root: (w - mean) / sqrt(variance + weight_eps), as timm has it with 1e-8, instead
            of the original's (w - mean) / (standard deviation + weight_eps).
    """

    stage_depths: tuple[int, ...]
    width: int = 64
    norm_eps: float = 1e-6
    weight_eps: float = 1e-5
    eps_under_root: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage_depths", tuple(self.stage_depths))
        if any(type(depth) is not int or depth < 1 for depth in self.stage_depths):
            raise InputError(
                f"resnet.stage_depths must be positive integers, got {self.stage_depths}"
            )
        if type(self.width) is not int or self.width < 32 or self.width % 32:
            raise InputError(
                f"resnet.width must be a multiple of 32, the number of groups of every GroupNorm, "
                f"got {self.width}"
            )
        for name in ("norm_eps", "weight_eps"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise InputError(f"resnet.{name} must lie in (0, 1), got {getattr(self, name)!r}")
        if type(self.eps_under_root) is not bool:
            raise InputError(f"resnet.eps_under_root must be a truth value, got {self!r}")

    @property
    def structure(self) -> tuple[tuple[int, ...], int]:
        """What arrays tell of a stem; the rest is how it computes with them."""
        return self.stage_depths, self.width

    @property
    def num_halvings(self) -> int:
        """How often the stem halves the picture: root, max-pool, every stage but the first."""
        return 2 + max(len(self.stage_depths) - 1, 0)

    @property
    def out_channels(self) -> int:
        """Channels of the stem's output."""
        if not self.stage_depths:
            return self.width
        return int(self.width * 2 ** (len(self.stage_depths) - 1) * 4)


@dataclass(frozen=True)
class ViTConfig:
    """A Vision Transformer or hybrid, completely.

    Sizes are ``(height, width)`` in pixels; an integer stands for a square. What a patch does not
    cover at the right and bottom edge is dropped, as the original does.

    Args:
        image_size: pixels the model takes.
        patch_size: pixels of a patch; with ``resnet``, cells of the stem's output.
        in_channels: channels of the picture.
        embed_dim: width of a token ("hidden size" in the paper).
        depth: number of encoder blocks.
        num_heads: attention heads; divides ``embed_dim``.
        mlp_dim: width of a block's hidden layer.
        num_classes: outputs of the head; 0 for none, the model then returns features.
        pool: what enters the head: the class token, the mean over the patches, or every token.
        class_token: whether a class token stands before the patches; by default ``pool != "gap"``.
        representation_size: width of the ``pre_logits`` layer (Dense and tanh), or None.
        dropout: after the position embedding, attention and both MLP layers, in [0, 1).
        attention_dropout: on the attention probabilities, in [0, 1).
        drop_path: probability of dropping a residual branch in the last block; it grows linearly
            from 0 in the first (Huang et al. 2016), in [0, 1).
        activation: tanh-approximated GELU as the original's, or the exact one.
        norm_eps: epsilon of every LayerNorm.
        resnet: the convolutional stem of a hybrid, or None.

    Raises:
        InputError: the values contradict each other.
    """

    image_size: Size = (224, 224)
    patch_size: Size = (16, 16)
    in_channels: int = 3
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    num_classes: int = 1000
    pool: Pool = "token"
    class_token: bool | None = None
    representation_size: int | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    activation: Activation = "gelu_tanh"
    norm_eps: float = 1e-6
    resnet: ResNetConfig | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", as_size(self.image_size))
        object.__setattr__(self, "patch_size", as_size(self.patch_size, "patch_size"))
        if self.class_token is None:
            object.__setattr__(self, "class_token", self.pool != "gap")
        self._check_counts()
        self._check_choices()
        if min(self.grid_size) < 1:
            raise InputError(
                f"an image of {self.image_size[0]} x {self.image_size[1]} pixels is smaller than "
                f"one patch of {self._patch_pixels()}; enlarge image_size or take a smaller patch"
            )

    def _check_counts(self) -> None:
        for name in ("in_channels", "embed_dim", "depth", "num_heads", "mlp_dim"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        if type(self.num_classes) is not int or self.num_classes < 0:
            raise InputError(f"num_classes must be 0 or more, got {self.num_classes!r}")
        if self.representation_size is not None and (
            type(self.representation_size) is not int or self.representation_size < 1
        ):
            raise InputError(
                f"representation_size must be positive or null, got {self.representation_size!r}"
            )
        if self.embed_dim % self.num_heads:
            raise InputError(
                f"embed_dim ({self.embed_dim}) must be divisible by num_heads ({self.num_heads})"
            )

    def _check_choices(self) -> None:
        for name, allowed in (("pool", get_args(Pool)), ("activation", get_args(Activation))):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        for name in ("dropout", "attention_dropout", "drop_path"):
            rate = getattr(self, name)
            if not isinstance(rate, int | float) or not 0.0 <= rate < 1.0:
                raise InputError(f"{name} must lie in [0, 1), got {rate!r}")
        if not isinstance(self.norm_eps, int | float) or not 0.0 < self.norm_eps < 1.0:
            raise InputError(f"norm_eps must lie in (0, 1), got {self.norm_eps!r}")
        if type(self.class_token) is not bool:
            raise InputError(f"class_token must be a truth value or null, got {self.class_token!r}")
        if not isinstance(self.resnet, ResNetConfig | None):
            raise InputError(f"resnet must be a table of the stem's sizes, got {self.resnet!r}")
        if self.pool == "token" and not self.class_token:
            raise InputError('pool "token" reads the class token: class_token cannot be false')

    def _patch_pixels(self) -> str:
        shrink = 2**self.resnet.num_halvings if self.resnet else 1
        return f"{self.patch_size[0] * shrink} x {self.patch_size[1] * shrink}"

    @property
    def grid_size(self) -> Size:
        """Patches down and across."""
        height, width = self._cells
        return height // self.patch_size[0], width // self.patch_size[1]

    @property
    def _cells(self) -> Size:
        """What patches are cut from: the picture's pixels, or the places of the stem's output."""
        height, width = self.image_size
        for _ in range(self.resnet.num_halvings if self.resnet else 0):
            height, width = -(-height // 2), -(-width // 2)  # "SAME" convolutions round up
        return height, width

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: 1 with a class token, else 0."""
        return int(bool(self.class_token))

    @property
    def num_tokens(self) -> int:
        """Length of the token sequence."""
        return self.grid_size[0] * self.grid_size[1] + self.num_prefix_tokens

    @property
    def dropped_pixels(self) -> Size:
        """Rows at the bottom and columns at the right that no patch covers.

        In a hybrid patches are cut from the stem's output, each place of which stands for
        ``2 ** num_halvings`` pixels and has seen its neighbours'.
        """
        pixels = 2**self.resnet.num_halvings if self.resnet else 1
        height, width = self._cells
        return height % self.patch_size[0] * pixels, width % self.patch_size[1] * pixels

    @property
    def head_features(self) -> int:
        """Width of what enters the head."""
        return self.representation_size or self.embed_dim

    def replace(self, **changes: Any) -> "ViTConfig":
        """A copy with some fields changed, checked again.

        ``class_token`` follows a changed ``pool`` unless it is given too.
        """
        if "pool" in changes and changes["pool"] != "none":
            changes.setdefault("class_token", None)
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as stored beside weights."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ViTConfig":
        """The inverse of :meth:`to_dict`, also after a trip through JSON.

        Raises:
            InputError: an unknown field, or values that contradict each other.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"unknown model fields {', '.join(unknown)}; known: {sorted(known)}")
        values = dict(values)
        if isinstance(values.get("resnet"), Mapping):
            values["resnet"] = ResNetConfig(**values["resnet"])
        return cls(**values)
