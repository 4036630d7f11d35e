"""How much memory a step of training takes, told without taking it."""

from dataclasses import dataclass

from torch import nn

from vit_lightning.models.vit import VisionTransformer
from vit_lightning.settings import OptimSettings
from vit_lightning.training.muon import hidden_matrices


@dataclass(frozen=True)
class Footprint:
    """Bytes of a training step at its peak, beside the weights.

    Args:
        fixed: whatever the number of pictures: gradients, the optimizer's state.
        per_picture: of each picture of a micro-batch.
    """

    fixed: int
    per_picture: int

    def most_pictures(self, free: int) -> int:
        """How many pictures fit into some bytes; less than one if none does."""
        return (free - self.fixed) // max(self.per_picture, 1)


def bound_footprint(model: VisionTransformer, optim: OptimSettings) -> Footprint | None:
    """More than a step can keep, told at once; None for a hybrid, whose stem is not counted.

    In float32, everything that a block computes and its gradients beside each other.
    """
    config = model.config
    if config.resnet is not None:
        return None
    dim, tokens = config.embed_dim, config.num_tokens
    height, width = config.image_size
    of_block = tokens * (16 * dim + 4 * config.mlp_dim)
    if config.attention_dropout:  # no fused kernel: the probabilities are kept
        of_block += 6 * config.num_heads * tokens**2
    beside = 4 * tokens * dim + 4 * config.in_channels * height * width + 4 * config.num_classes
    return Footprint(_fixed(model, optim), 4 * 2 * (config.depth * of_block + beside))


def measure_footprint(model: VisionTransformer, optim: OptimSettings, precision: str) -> Footprint:
    """What a forward and a backward pass keep at most, over their operations.

    Takes about a second, and as long again to import what it needs.

    Args:
        model: as it is trained, on the CPU; it is left as it is.
        optim: the recipe.
        precision: of the training, in Lightning's words.
    """
    from vit_lightning.training.live_bytes import live_bytes  # slow to import

    two, four = (live_bytes(model, count, precision) for count in (2, 4))
    per_picture = max(more - less for less, more in zip(two, four, strict=True)) // 2
    return Footprint(_fixed(model, optim), per_picture)


def _fixed(model: nn.Module, optim: OptimSettings) -> int:
    """Gradients and the optimizer's state."""
    return round(
        sum(
            parameter.nbytes * (1 + _state_share(optim, name, parameter))
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        )
    )


def _state_share(optim: OptimSettings, name: str, parameter: nn.Parameter) -> float:
    """The optimizer's state, in multiples of the weight it updates."""
    if optim.name == "muon" and hidden_matrices(name, parameter):
        return 1.0
    if optim.name in ("adamw", "muon"):
        return 2.0
    return 0.5 if optim.momentum_dtype == "bfloat16" else 1.0
