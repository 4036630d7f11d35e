"""Dense layers by oneDNN, on the CPU: the one place that knows torch's private operators for it.

They have no gradient, and know nothing of autocast: who calls them takes care of both. Where this
torch has no such operators, torch's own computes the same, so that every call gives an answer.
"""

from typing import Literal, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_lightning.errors import InputError

Activation = Literal["gelu_tanh", "gelu"]

_ALGORITHMS = {"gelu": "none", "gelu_tanh": "tanh"}
# Private operators may change; one that takes other arguments is not called.
_ARGUMENTS = {
    "_linear_pointwise": ["X", "W", "B", "attr", "scalars", "algorithm"],
    "_reorder_linear_weight": ["self", "batch_size"],
}


def available(dtype: torch.dtype = torch.float32) -> bool:
    """Whether oneDNN computes dense layers of this type here."""
    operators = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    for name, arguments in _ARGUMENTS.items():
        operator = getattr(getattr(operators, name, None), "default", None)
        if operator is None or [one.name for one in operator._schema.arguments] != arguments:
            return False
    if dtype == torch.bfloat16:
        has_bfloat16 = getattr(operators, "_is_mkldnn_bf16_supported", lambda: False)
        return bool(has_bfloat16())
    return dtype == torch.float32


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation | None = None
) -> Tensor:
    """What ``F.linear`` computes, and an activation behind it; without a gradient.

    Args:
        x: (..., inputs).
        weight: (outputs, inputs), plain.
        bias: (outputs,).
        activation: exact GELU or its approximation by tanh.

    Returns:
        (..., outputs).
    """
    if available(x.dtype):
        return _by_onednn(x, weight, bias, activation)
    return _by_torch(x, weight, bias, activation)


class Pack:
    """The weight and bias of a dense layer in oneDNN's own layout, a copy that nothing changes.

    Copies of it are itself; it cannot be pickled.

    Args:
        weight: (outputs, inputs), on the CPU.
        bias: (outputs,) or None.
        rows: as many as the layer will usually see, which decide on the layout; any others can
            be computed too.
        dtype: to compute in; by default the weight's.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        rows: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dtype = dtype or weight.dtype
        self._packed = available(self.dtype)
        weight = weight.detach().to(self.dtype)
        if self._packed:
            pack = torch.ops.mkldnn._reorder_linear_weight
            self._weight: Tensor = pack(weight.contiguous(), rows)
        else:
            self._weight = weight.clone()
        self._bias = None if bias is None else bias.detach().to(self.dtype, copy=True)

    def linear(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        """(..., inputs) of any floating-point type → (..., outputs) in the pack's."""
        compute = _by_onednn if self._packed else _by_torch
        return compute(x.to(self.dtype), self._weight, self._bias, activation)

    def __deepcopy__(self, memo: dict[int, object]) -> "Pack":
        return self

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "packed weights cannot be pickled: their layout is this machine's and this moment's; "
            "pickle or save the model that they were made from"
        )


def _by_onednn(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation | None
) -> Tensor:
    kind, algorithm = ("none", "") if activation is None else ("gelu", _ALGORITHMS[activation])
    compute = torch.ops.mkldnn._linear_pointwise
    return compute(x, weight, bias, kind, [], algorithm)  # type: ignore[no-any-return]


def _by_torch(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation | None
) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        y = F.linear(x, weight, bias)
    return y if activation is None else F.gelu(y, approximate=_ALGORITHMS[activation])
