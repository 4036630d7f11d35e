"""What a model computes on the way, stage by stage, and how two accounts of it compare.

Stages are named as the modules of this package are: ``stem.conv``, ``stem.norm`` and ``stages.0``,
``stages.1``, ... of a hybrid's stem, (B, height, width, channels); ``embedding``, the tokens with
their positions, ``blocks.0``, ``blocks.1``, ... and ``encoded``, the tokens after the last norm,
(B, N, D); ``pre_logits``, what enters the head; ``logits``, if there is a head.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_lightning.errors import InputError

Stages = Mapping[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Stage:
    """How far one stage is from what it should be.

    Args:
        name: see the module's text.
        delta: largest absolute difference from the reference; not finite where either is not.
        scale: largest absolute value of the reference.
        bound: the difference that is allowed.
    """

    name: str
    delta: float
    scale: float
    bound: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within what is allowed; never for what is not finite."""
        return math.isfinite(self.delta) and math.isfinite(self.scale) and self.delta <= self.bound


@dataclass(frozen=True)
class ParityReport:
    """A model against something that computes the same; ``str()`` makes a table of it.

    Args:
        source: the weights.
        against: what they were compared with.
        inputs: on which pictures.
        stages: in the order in which they are computed.
        notes: what is to be known of how the weights were found and understood.
    """

    source: str
    against: str
    inputs: str
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    @property
    def first_departure(self) -> Stage | None:
        """The first stage that differs by more than is allowed; where the fault is to be sought."""
        return next((stage for stage in self.stages if not stage.agrees), None)

    @property
    def agrees(self) -> bool:
        """Whether every stage is within what is allowed."""
        return self.first_departure is None

    def __str__(self) -> str:
        width = max(len("stage"), *(len(stage.name) for stage in self.stages))
        lines = [f"{self.source}", f"against {self.against}", f"on {self.inputs}"]
        lines += [*(f"note: {note}" for note in self.notes), ""]
        lines.append(f"{'stage':<{width}}  largest difference  allowed  largest value")
        for stage in self.stages:
            mark = "" if stage.agrees else "  departs"
            lines.append(
                f"{stage.name:<{width}}  {stage.delta:>18.1e}  {stage.bound:>7.1e}"
                f"  {stage.scale:>13.4g}{mark}"
            )
        return "\n".join([*lines, "", self._verdict()])

    def _verdict(self) -> str:
        first = self.first_departure
        if first is None:
            return "They agree: no stage differs by more than is allowed."
        if not (math.isfinite(first.delta) and math.isfinite(first.scale)):
            return f"They depart first at {first.name}, which holds what is no finite number."
        return (
            f"They depart first at {first.name}, by {first.delta:.1e} where {first.bound:.1e} is "
            f"allowed: what is computed between the stage before and this one differs."
        )


def watched_stages(
    run: Callable[[Tensor], object],
    modules: Mapping[str, nn.Module],
    head: nn.Module,
    pictures: Tensor,
) -> Stages:
    """Run a model and keep what some of its modules put out; the model is left as it was.

    Args:
        run: the model in evaluation mode, or what runs it.
        modules: name of a stage → the module whose output it is.
        head: its input is the stage ``pre_logits``, its output, unless it is an ``Identity``, the
            stage ``logits``.
        pictures: (B, channels, height, width).
    """
    seen: dict[str, Tensor] = {}

    def keeping(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[name] = output

        return keep

    def keep_head(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen["pre_logits"] = inputs[0]
        if not isinstance(module, nn.Identity):
            seen["logits"] = output

    with ExitStack() as hooks, torch.inference_mode():
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(keeping(name)).remove)
        hooks.callback(head.register_forward_hook(keep_head).remove)
        run(pictures)
    return {name: as_array(tensor) for name, tensor in seen.items()}


def as_array(tensor: Tensor) -> NDArray[np.floating[Any]]:
    """A stage as an array; a map (B, C, H, W) becomes (B, H, W, C)."""
    array: NDArray[np.floating[Any]] = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def largest_difference(
    name: str, one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]
) -> float:
    """The largest absolute difference of a stage, in float64; NaN where anything is NaN.

    Raises:
        InputError: arrays of different shapes.
    """
    if one.shape != other.shape:
        raise InputError(
            f"{name} is an array of {one.shape} here and of {other.shape} in what it is compared "
            f"with: these are different models, or the same at different image sizes"
        )
    with np.errstate(invalid="ignore"):  # infinity less infinity
        return float(np.abs(one.astype(np.float64) - other).max())
