"""Where the time of a step goes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from vit_lightning.machine_limits import wait_for
from vit_lightning.models.vit import VisionTransformer

REST = "rest"
_ATTENTION = "attention"
_QKV = "qkv"

# The last word of a module's name → the part that it is.
_PARTS = {
    "patch_embed": "patches",
    "norm": "norms",
    "norm1": "norms",
    "norm2": "norms",
    "attn": _ATTENTION,
    "qkv": _QKV,
    "query": _QKV,  # of a packed last block, in pieces
    "key_value": _QKV,
    "proj": "proj",
    "fc1": "fc1",
    "act": "GELU",
    "fc2": "fc2",
    "pre_logits": "head",
    "head": "head",
}
PARTS = (*dict.fromkeys(_PARTS.values()), "backward", "optimizer", REST)
"""In the order of a step. The rest is what stands between: additions, copies, the loss."""


class Stopwatch:
    """Charges every moment of a step to the innermost part that it lies in.

    On a GPU the moments are those at which it comes there itself, not the program that leads it.

    Args:
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._moments: list[tuple[str, Any]] = []
        self._within = [REST]

    @property
    def part(self) -> str:
        """The innermost part now."""
        return self._within[-1]

    def switch(self, part: str) -> None:
        """Go over to another part."""
        self._within[-1] = part
        self._note()

    def enter(self, part: str) -> None:
        """Begin a part that lies in the present one."""
        self._within.append(part)
        self._note()

    def leave(self) -> None:
        """End the innermost part."""
        self._within.pop()
        self._note()

    def seconds(self) -> dict[str, float]:
        """Of each part, once the step is over; they sum to the whole step."""
        wait_for(self._device)
        spent: defaultdict[str, float] = defaultdict(float)
        following = self._moments[1:]
        for (part, start), (_, end) in zip(self._moments, following, strict=False):
            spent[part] += end - start if self._device == "cpu" else start.elapsed_time(end) / 1e3
        return dict(spent)

    def _note(self) -> None:
        moment: Any
        if self._device == "cpu":
            moment = time.perf_counter()
        else:
            moment = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            moment.record()
        self._moments.append((self.part, moment))


def seconds_of_parts(
    model: VisionTransformer, step: Callable[[Stopwatch], None], device: str
) -> dict[str, float]:
    """Seconds of each of ``PARTS`` in one step.

    Args:
        model: that the step runs.
        step: run once.
        device: that the model is on.
    """
    watch = Stopwatch(device)
    wait_for(device)
    with _watched(model, watch), _LastQueries(watch):
        watch.switch(REST)
        step(watch)
        watch.switch(REST)
    spent = watch.seconds()
    return {part: spent[part] for part in PARTS if part in spent}


class _LastQueries(TorchFunctionMode):
    """Watches a last block's qkv that computes in pieces, past its layer's ``forward``."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.linear or self._watch.part != _ATTENTION:
            return func(*args, **(kwargs or {}))
        self._watch.enter(_QKV)
        result = func(*args, **(kwargs or {}))
        self._watch.leave()
        return result


@contextmanager
def _watched(model: VisionTransformer, watch: Stopwatch) -> Iterator[None]:
    """Tell a stopwatch when each module begins and ends."""

    def entering(part: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: watch.enter(part)

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        watch.leave()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            part = _PARTS.get(name.rpartition(".")[2])
            if part is not None and not name.startswith("patch_embed."):  # with all that it holds
                hooks.callback(module.register_forward_pre_hook(entering(part)).remove)
                hooks.callback(module.register_forward_hook(leave).remove)
        yield
