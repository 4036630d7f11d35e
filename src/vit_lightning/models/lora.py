"""Low-rank adaptation of dense layers (Hu et al. 2021, section 4; original ``loralib/layers.py``).

A layer W of outputs x inputs stays as it is and learns an update of rank r, so of few parameters:

    y = W x + b + (alpha / r) B A x,        A: (r, inputs), B: (outputs, r).

B begins at zero, so the first step sees the layer as it was; A is uniform with the bound
1 / sqrt(inputs). Once trained, the update is added to W, and the layer is a plain one again.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_lightning.errors import InputError

# Where the layers that can be adapted are in a block.
_PLACES = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_A, _B = "lora_a", "lora_b"


class LoRALinear(nn.Linear):
    """A dense layer with a low-rank update; its own ``weight`` and ``bias`` keep their names.

    Args:
        layer: whose weight and bias to take over, not to copy.
        rank: of the update.
        alpha: the update counts ``alpha / rank`` times.
        dropout: of what enters the update, in training.
        generator: A is drawn with it.
    """

    def __init__(
        self,
        layer: nn.Linear,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        nn.Module.__init__(self)  # Linear's own would make and draw a weight, for nothing
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        first = torch.empty(rank, layer.in_features)  # drawn on the CPU, alike for every device
        nn.init.kaiming_uniform_(first, a=math.sqrt(5.0), generator=generator)
        self.lora_a = nn.Parameter(first.to(layer.weight))
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) → (..., outputs)."""
        return super().forward(x) + self._update(x, self.lora_b)

    def part(self, x: Tensor, rows: slice) -> Tensor:
        """(..., inputs) → (..., those of the outputs alone)."""
        y = F.linear(x, self.weight[rows], self.bias[rows])
        return y + self._update(x, self.lora_b[rows])

    def _update(self, x: Tensor, lora_b: Tensor) -> Tensor:
        return F.linear(F.linear(self.dropout(x), self.lora_a) * self.scale, lora_b)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """The weight of the plain layer that computes the same, in at least float32."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        weight, lora_a, lora_b = (
            tensor.to(dtype) for tensor in (self.weight, self.lora_a, self.lora_b)
        )
        return torch.addmm(weight, lora_b, lora_a, alpha=self.scale)


def add_lora(
    blocks: nn.ModuleList,
    targets: Sequence[str],
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    seed: int = 0,
) -> None:
    """Give layers of every block a low-rank update, in place.

    Args:
        blocks: of a :class:`~vit_lightning.models.vit.VisionTransformer`.
        targets: which layers: "qkv", "proj", "fc1", "fc2".
        rank: of the updates.
        alpha: they count ``alpha / rank`` times.
        dropout: of what enters them, in training.
        seed: of their first values.

    Raises:
        InputError: the rank is larger than a side of a layer.
    """
    generator = torch.Generator().manual_seed(seed)
    for block in blocks:
        for target in targets:
            place, _, name = _PLACES[target].partition(".")
            parent = block.get_submodule(place)
            layer = parent.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            most = min(layer.in_features, layer.out_features)
            if rank > most:
                raise InputError(
                    f"a low-rank update of {target}, {layer.out_features} x {layer.in_features}, "
                    f"has at most rank {most}, got {rank}; lower the rank"
                )
            adapted = LoRALinear(
                layer, rank=rank, alpha=alpha, dropout=dropout, generator=generator
            )
            setattr(parent, name, adapted)


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Make every adapted layer of a model a plain one that computes the same, in place."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, LoRALinear):
                weight = layer.weight
                plain = nn.Linear(layer.in_features, layer.out_features).to(weight)
                plain.weight.copy_(layer.merged_weight())
                plain.bias = layer.bias
                setattr(parent, name, plain.train(layer.training))


def is_factor(key: str) -> bool:
    """Whether a parameter's name is that of an A or B."""
    return key.rpartition(".")[2] in {_A, _B}


def merged_state(
    module: nn.Module, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state dict in which adapted layers are plain ones, and what this took out of it.

    Args:
        module: whose state it is.
        state: key → tensor.

    Returns:
        The plain state dict, merged weights in at least float32; and the weights and factors
        behind them, bit for bit: ``plain | factors`` is ``state``.
    """
    merged = {
        f"{name}.weight": layer.merged_weight()
        for name, layer in module.named_modules()
        if isinstance(layer, LoRALinear)
    }
    plain = {key: tensor for key, tensor in state.items() if not is_factor(key)}
    factors = {key: tensor for key, tensor in state.items() if is_factor(key) or key in merged}
    return plain | merged, factors
