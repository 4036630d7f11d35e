"""A model to predict with, whose dense layers hold packed copies of their weights."""

import copy
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from vit_lightning.dense import OneDNNLinear
from vit_lightning.errors import InputError
from vit_lightning.models.vit import Attention, Block, VisionTransformer
from vit_lightning.onednn import Activation, Pack

_PICTURES = 16  # of a usual batch


class InferenceModel(VisionTransformer):
    """A snapshot of a model for inference; see :func:`for_inference`, which makes it.

    It is in eval mode for good, has no gradients, no state to save or load, and stays on the CPU
    in its type. A deep copy is another snapshot with the same packs. Pickling, and whatever else
    needs the weights, is refused with an ``InputError``: it is a matter for the original.
    """

    def train(self, mode: bool = True) -> "InferenceModel":
        """Stay in eval mode.

        Raises:
            InputError: training mode is asked for.
        """
        if mode:
            _refuse("cannot be trained")
        super().train(False)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: the weights are packed.

        Raises:
            InputError: always.
        """
        _refuse("has no weights to save")

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("cannot take other weights")

    def _apply(self, fn: Any, recurse: bool = True) -> "InferenceModel":
        probe = torch.empty(0, dtype=self.pos_embed.dtype)
        if (moved := fn(probe)).device != probe.device or moved.dtype != probe.dtype:
            _refuse(f"stays on the CPU in {probe.dtype}")
        return self


class PackedLinear(nn.Module):
    """A dense layer on a :class:`~vit_lightning.onednn.Pack`; it has no ``weight``.

    Args:
        weight: (outputs, inputs).
        bias: (outputs,).
        rows: as many as it will usually see.
        dtype: to compute in; by default the weight's.
        activation: behind the product.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        rows: int,
        dtype: torch.dtype | None = None,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._pack = Pack(weight, bias, rows=rows, dtype=dtype)
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) → (..., outputs).

        Raises:
            InputError: a gradient is asked for.
        """
        if x.requires_grad and torch.is_grad_enabled():
            _refuse("computes no gradients")
        return self._pack.linear(x, self._activation)


class _FirstQueries(Attention):
    """Attention on two packs: queries can be had of the first tokens alone."""

    query: PackedLinear
    key_value: PackedLinear

    def query_key_value(
        self, x: Tensor, wanted: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        (query,) = self._by_head(self.query(x[:, :wanted]))
        key, value = self._by_head(self.key_value(x))
        return query, key, value


def for_inference(
    model: VisionTransformer,
    *,
    dtype: torch.dtype | None = None,
    fuse_gelu: bool = False,
    in_place: bool = False,
) -> InferenceModel:
    """A snapshot of a model, for inference on the CPU, with the blocks' weights packed for oneDNN.

    Whether that is faster depends on the processor; :mod:`vit_lightning.backend` measures it.
    The snapshot computes what the model does, within 1e-5 of the largest output in float32.
    Training the model on, or loading other weights into it, does not reach the snapshot: make
    another. Hooks on the layers that are packed, and with them attention maps, torch.compile and
    export, need the original.

    Args:
        model: on the CPU; low-rank updates have to be merged.
        dtype: what the packed layers compute in; by default what their weights are in. The rest
            stays as it is, so bfloat16 for a float32 model is mixed precision.
        fuse_gelu: compute the activation with the layer before it.
        in_place: make of the model itself its snapshot, releasing each weight as it is packed,
            instead of leaving the model as it is and holding its weights twice.

    Returns:
        The snapshot, in eval mode; it can be called from several threads.

    Raises:
        InputError: the model is no VisionTransformer, or a snapshot already, or is not on the
            CPU, or its dense layers are not plain.
    """
    if (reason := why_not(model)) is not None:
        raise InputError(reason)
    if not in_place:
        # The dense weights are packed from where they are: copied, they would be held thrice.
        shared = {id(layer.weight): layer.weight for _, layer in _dense_layers(model)}
        model = copy.deepcopy(model, shared)
    rows = _PICTURES * model.config.num_tokens
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        ends = index == len(model.blocks) - 1 and model.config.pool == "token"
        pack_block(block, rows=rows, dtype=dtype, fuse_gelu=fuse_gelu, first_queries=ends)
    model.__class__ = _snapshot_class(type(model))
    assert isinstance(model, InferenceModel)
    return model.requires_grad_(False).eval()


def _snapshot_class(kind: type[VisionTransformer]) -> type[InferenceModel]:
    """A snapshot of a model whose forward pass is its own keeps that."""
    if kind is VisionTransformer:
        return InferenceModel
    return type(f"Inference{kind.__name__}", (InferenceModel, kind), {})


def pack_block(
    block: Block,
    *,
    rows: int,
    dtype: torch.dtype | None = None,
    fuse_gelu: bool = False,
    first_queries: bool = False,
) -> None:
    """Replace the dense layers of a block by packed ones, one after the other.

    Args:
        block: changed in place.
        rows: tokens of a usual batch.
        dtype: as in :func:`for_inference`.
        fuse_gelu: likewise.
        first_queries: pack the queries apart, for who wants those of the first tokens only.
    """

    def packed(layer: nn.Linear, part: slice = slice(None), **options: Any) -> PackedLinear:
        bias = None if layer.bias is None else layer.bias[part]
        return PackedLinear(layer.weight[part], bias, rows=rows, dtype=dtype, **options)

    attention, mlp = block.attn, block.mlp
    if first_queries:
        attention.__class__ = _FirstQueries
        assert isinstance(attention, _FirstQueries)
        dim = attention.qkv.in_features
        attention.query = packed(attention.qkv, slice(dim))
        attention.key_value = packed(attention.qkv, slice(dim, None))
        del attention.qkv
    else:
        attention.add_module("qkv", packed(attention.qkv))
    attention.add_module("proj", packed(attention.proj))
    if fuse_gelu:
        exact = mlp.act.approximate == "none"
        mlp.add_module("fc1", packed(mlp.fc1, activation="gelu" if exact else "gelu_tanh"))
        mlp.add_module("act", nn.Identity())
    else:
        mlp.add_module("fc1", packed(mlp.fc1))
    mlp.add_module("fc2", packed(mlp.fc2))


def _dense_layers(model: VisionTransformer) -> list[tuple[str, nn.Linear]]:
    return [
        (name, module)
        for name, module in model.blocks.named_modules(prefix="blocks")
        if isinstance(module, nn.Linear)
    ]


def why_not(model: nn.Module) -> str | None:
    """Why no snapshot can be made of a model; None if one can."""
    if isinstance(model, InferenceModel):
        return "the model is a snapshot for inference already"
    if not isinstance(model, VisionTransformer):
        return f"for_inference takes a VisionTransformer, got a {type(model).__name__}"
    for index, block in enumerate(model.blocks):
        if type(block) is not Block or type(block.attn) is not Attention:
            return f"blocks.{index} is not a plain block, which alone can be packed"
    for name, layer in _dense_layers(model):
        if type(layer) not in (nn.Linear, OneDNNLinear):
            return (
                f"{name} is a {type(layer).__name__}, and only plain dense layers can be packed; "
                f"merge its updates first"
            )
        if layer.weight.device.type != "cpu":
            return (
                f"the model is on {layer.weight.device}, and weights are packed for the CPU; on "
                f"other devices use the model as it is"
            )
    return None


def _refuse(what: str) -> NoReturn:
    raise InputError(
        f"a snapshot for inference {what}; use the model it was made from, and make another "
        f"snapshot with for_inference when that has changed"
    )
