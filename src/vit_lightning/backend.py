"""What computes the dense layers on a CPU: torch's own ``linear``, or oneDNN where that is faster.

On processors with AVX-512 oneDNN can take half the time of torch's ``linear``, on others more than
that, and the name of a processor does not tell. So a block of the model is timed once in each way,
and what was found is kept in the user's cache folder.
"""

import contextlib
import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vit_lightning import onednn
from vit_lightning.dense import computed_by_onednn
from vit_lightning.errors import InputError
from vit_lightning.files import cache_folder
from vit_lightning.hardware import describe_hardware
from vit_lightning.inference import for_inference, pack_block, why_not
from vit_lightning.json_file import read_json, write_json
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.vit import Block, VisionTransformer

Purpose = Literal["inference", "training"]
Backend = Literal["torch", "onednn", "onednn with gelu"]  # the last with GELU in the product

# Packing takes the time of a few pictures, and what it saves may be a twentieth of each.
PICTURES_WORTH_PACKING = 64

_MARGIN = 1.05  # of less than this the measurement knows nothing
_SMALLEST = 128  # embed_dim; below it calls cost more than products
_SECONDS = 0.5
_FEWEST_TURNS = 3
_MOST_TOKENS = 256
_MOST_PICTURES = 8


def choose_backend(
    fixed: Literal["auto", "torch", "onednn"],
    purpose: Purpose,
    config: ViTConfig,
    *,
    on_cpu: bool,
    dtype: torch.dtype = torch.float32,
) -> Backend:
    """What to compute a model's dense layers with.

    Args:
        fixed: what is wanted; "auto" for what is faster here by at least a twentieth, measured in
            about a second the first time.
        purpose: oneDNN packs the weights for inference, and takes them as they are in training.
        config: the model's.
        on_cpu: where it is computed; elsewhere it is torch.
        dtype: of the products.

    Raises:
        InputError: oneDNN is wanted where it cannot be had.
    """
    possible = on_cpu and onednn.available(dtype)
    possible = possible and (purpose == "inference" or dtype == torch.float32)
    if fixed == "onednn":
        if not possible:
            raise InputError(_impossible(purpose, dtype, on_cpu=on_cpu))
        return "onednn"
    if fixed == "torch" or not possible or config.embed_dim < _SMALLEST:
        return "torch"
    return _kept_or_measured(purpose, config, dtype)


def with_backend(
    model: VisionTransformer,
    backend: Backend,
    *,
    dtype: torch.dtype = torch.float32,
    in_place: bool = False,
) -> VisionTransformer:
    """A model for inference by a backend: itself, or its snapshot with packed weights.

    Args:
        model: the model; one that cannot be packed stays as it is.
        backend: what was chosen.
        dtype: what the dense layers compute in, if packed.
        in_place: whether the model may become the snapshot, so that no weight is held twice.
    """
    if backend == "torch" or why_not(model) is not None:
        return model
    fuse_gelu = backend == "onednn with gelu"
    return for_inference(model, dtype=dtype, fuse_gelu=fuse_gelu, in_place=in_place)


def _impossible(purpose: Purpose, dtype: torch.dtype, *, on_cpu: bool) -> str:
    if not on_cpu:
        why = "it computes on the CPU, and this runs on another device; set trainer.accelerator=cpu"
    elif purpose == "training" and dtype != torch.float32:
        why = "it trains in float32 only; set trainer.precision=32"
    elif onednn.available():
        why = f"this processor or this torch has no {dtype} for it; compute in float32"
    else:
        why = "this torch has not the operators for it"
    return f"trainer.linear: onednn cannot be used: {why}, or take trainer.linear=auto"


def _kept_or_measured(purpose: Purpose, config: ViTConfig, dtype: torch.dtype) -> Backend:
    """The answer in the cache, else a new one, which is put there."""
    hardware = describe_hardware()
    machine = {name: hardware[name] for name in ("cpu", "cpu_capability", "torch_threads")}
    key = {
        "purpose": purpose,
        **machine,
        "torch": torch.__version__,
        "dtype": str(dtype),
        "embed_dim": config.embed_dim,
        "mlp_dim": config.mlp_dim,
        "activation": config.activation,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / "backends" / f"{digest}.json"
    ratios = _kept(path, key)
    if ratios is None:
        ratios = measure(purpose, config, dtype)
        with contextlib.suppress(OSError):  # it is measured again the next time
            write_json(path, key | {"times_faster": ratios})
    best = max(ratios, key=ratios.__getitem__)
    return best if ratios[best] >= _MARGIN else "torch"


def _kept(path: Path, key: dict[str, Any]) -> dict[Backend, float] | None:
    """What was measured under ``key``; None if that is not known, or the file is damaged."""
    try:
        kept = read_json(path, "measurement")
    except InputError:
        return None
    ratios = kept.pop("times_faster", None)
    if kept != key or not isinstance(ratios, dict) or not ratios:
        return None
    whole = all(
        name in get_args(Backend) and type(ratio) is float and math.isfinite(ratio)
        for name, ratio in ratios.items()
    )
    return ratios if whole else None


def measure(purpose: Purpose, config: ViTConfig, dtype: torch.dtype) -> dict[Backend, float]:
    """How many times faster than by torch a block of the model is by each backend, here and now.

    Args:
        purpose: a forward pass, or a forward and a backward one.
        config: the model's; more than 256 tokens are not needed to know.
        dtype: of the products; bfloat16 is mixed precision.
    """
    with torch.random.fork_rng(devices=[]):  # a run's draws do not depend on what is cached
        torch.manual_seed(0)
        block = Block(config, drop_path=0.0)
        tokens = torch.randn(1, min(config.num_tokens, _MOST_TOKENS), config.embed_dim)
        if purpose == "training":
            return _times_faster(_training_ways(block, tokens))
        with torch.inference_mode():
            return _times_faster(_inference_ways(block.eval(), tokens, dtype))


def _times_faster(ways: Mapping[Backend, Callable[[], None]]) -> dict[Backend, float]:
    """How many times faster each way is than the first.

    They take turns, so that what else the machine does meets all of them alike. Of the median over
    the turns and the quotient of the fastest the smaller counts: what it meets by chance tells on
    one of them.
    """
    spent: dict[Backend, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    base, *_ = spent.values()
    end = time.perf_counter() + _SECONDS
    while len(base) < _FEWEST_TURNS or time.perf_counter() < end:
        for name, run in ways.items():
            spent[name].append(_seconds(run))
    return {
        name: min(
            median(one / other for one, other in zip(base, turns, strict=True)),
            min(base) / min(turns),
        )
        for name, turns in spent.items()
    }


def _inference_ways(
    block: Block, tokens: Tensor, dtype: torch.dtype
) -> dict[Backend, Callable[[], None]]:
    def by_torch() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            block(tokens)

    tokens = _enough(tokens, by_torch)
    packed, fused = copy.deepcopy(block), copy.deepcopy(block)
    rows = tokens.shape[:2].numel()
    pack_block(packed, rows=rows, dtype=dtype)
    pack_block(fused, rows=rows, dtype=dtype, fuse_gelu=True)
    return {
        "torch": by_torch,
        "onednn": lambda: packed(tokens),
        "onednn with gelu": lambda: fused(tokens),
    }


def _training_ways(block: Block, tokens: Tensor) -> dict[Backend, Callable[[], None]]:
    def by_torch() -> None:
        block(tokens).sum().backward()

    def by_onednn() -> None:
        with computed_by_onednn(block):
            block(tokens).sum().backward()

    tokens = _enough(tokens, by_torch).requires_grad_()
    return {"torch": by_torch, "onednn": by_onednn}


def _enough(tokens: Tensor, run: Callable[[], None]) -> Tensor:
    """The tokens of so many pictures that a run takes some hundredths of a second."""
    run()
    count = int(_SECONDS / 12 / _seconds(run))
    return tokens.repeat(min(max(count, 1), _MOST_PICTURES), 1, 1)


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
