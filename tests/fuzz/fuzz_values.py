"""Other values in the place of those that JSON, descriptions and sets of arrays hold."""

import argparse
import copy
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from random import Random
from typing import Any

import torch
from fuzz_seeds import donors
from torch import Tensor


def _nested(depth: int, kind: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = kind(value)
    return value


JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, 10**30, 10**4000),
    *(1e308, float("inf"), float("-inf"), float("nan"), 0.5, -0.5, 1e-320, 16.0),
    *("", "x", "224", "gelu", "x" * 20_000, "🐝", "\ud800", "\x1b[31m\x00", "../../etc/passwd"),
    *(
        [],
        {},
        [[]],
        [None] * 3,
        ["a", "b", "c"],
        [0, 0],
        [3, 8, 8],
        [8, 10**18],
        [float("nan")] * 3,
    ),
    *({"a": 1}, {"0": "x"}, {"height": 0, "width": 0}, {"shortest_edge": 10**400}, {"": {}}),
    *(list(range(5000)), [1] * 1000, _nested(60), _nested(60, lambda inner: {"a": inner})),
)
"""Plain values that stand where another type, or another size, is expected."""

KEYS = ("", "x", "config", "resnet", "depth", "image_size", "num_heads", "mean", "classes", "🐝")


def change_value(values: Any, rng: Random, junk: tuple[Any, ...] = JUNK) -> Any:
    """A copy with one value, at any depth, replaced, removed, added or put elsewhere."""
    values = copy.deepcopy(values)
    places = list(_places(values))
    if not places or rng.random() < 0.03:
        return copy.deepcopy(rng.choice(junk))
    holder, key = rng.choice(places)
    action = rng.random()
    if action < 0.65:
        holder[key] = copy.deepcopy(rng.choice(junk))
    elif action < 0.8:
        del holder[key]
    elif action < 0.9:
        holder[key] = copy.deepcopy(rng.choice(places)[0])
    elif isinstance(holder, dict):
        holder[rng.choice(KEYS)] = copy.deepcopy(rng.choice(junk))
    else:
        holder.extend([copy.deepcopy(rng.choice(junk))] * rng.choice((1, 3, 1000)))
    return values


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in plain values."""
    if isinstance(values, list):
        keys: Iterable[Any] = range(len(values))
    else:
        keys = values if isinstance(values, dict) else ()
    for key, value in ((key, values[key]) for key in keys):
        yield values, key
        yield from _places(value)


def change_json(data: bytes, rng: Random) -> bytes:
    """JSON text with other values in it, or no longer quite JSON."""
    if rng.random() < 0.75:
        values = json.loads(data)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            values = change_value(values, rng)
        return json.dumps(values).encode("utf-8", "surrogatepass")
    text = data.decode()
    at = rng.choice([index for index, sign in enumerate(text) if sign in '{[:,"'])
    change = rng.choice(_TEXT_CHANGES)
    return change(text, at).encode("utf-8" if rng.random() < 0.9 else "utf-16")


def _insert(new: str) -> Callable[[str, int], str]:
    return lambda text, at: text[: at + 1] + new + text[at + 1 :]


_TEXT_CHANGES: tuple[Callable[[str, int], str], ...] = (
    *(_insert(new) for new in ("[" * 100_000, '{"a":' * 100_000, '"a": 1, "a": 2,', "9" * 5000)),
    *(_insert(new) for new in ("NaN", "Infinity", "1e999", "-", "\\ud800", "\x00", "//", ",", "[")),
    lambda text, at: "\ufeff" + text,
    lambda text, at: text[:at],
    lambda text, at: text + text[at:],
    lambda text, at: "[" + text + "]",
    lambda text, at: text.replace('"', "'"),
    lambda text, at: "{" + ",".join(f'"a{i}":0' for i in range(20_000)) + ',"a1":0}',
)

Arrays = dict[str, Tensor]
_NAMES = (
    *("", "x", "head", "cls", "blocks.7.attn.qkv.weight", "blocks.0.ls1.gamma", "dist_token"),
    *("norm_pre.weight", "state_dict", "module.x", "blocks.99999999999999999999.norm1.weight"),
    *(
        "Transformer/encoderblock_999999999/LayerNorm_0/scale",
        "x" * 5000,
        "block0/unit0/conv1/kernel",
    ),
    *("patch_embed.backbone.stem.conv.weight", "pre_logits.weight", "blocks.-1.x", "pos_embed[0]"),
)


def change_arrays(arrays: Arrays, rng: Random) -> Arrays:
    """A copy of named arrays, of which one or more have other values, shapes, types or names."""
    arrays = dict(arrays)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        key = rng.choice(list(arrays) or [""])
        change = rng.random()
        if change < 0.6 and key in arrays:
            arrays[key] = rng.choice(_ARRAY_CHANGES)(arrays[key])
        else:
            arrays = rng.choice(_SET_CHANGES)(arrays, key, rng)
    return arrays


def _with_first(value: float) -> Callable[[Tensor], Tensor]:
    def change(array: Tensor) -> Tensor:
        changed = array.clone(memory_format=torch.contiguous_format)
        changed = changed if array.is_floating_point() else changed.double()
        changed.view(-1)[:1] = value
        return changed

    return change


_ARRAY_CHANGES: tuple[Callable[[Tensor], Tensor], ...] = (
    *(_with_first(value) for value in (float("nan"), float("inf"), float("-inf"), 3e38, 0.0)),
    *(lambda a, t=dtype: a.to(t) for dtype in (torch.int64, torch.bool, torch.float64, torch.half)),
    lambda a: a.flatten(),
    lambda a: a.unsqueeze(0),
    lambda a: a.reshape(*a.shape, 1, 1, 1),
    lambda a: a.T if a.ndim == 2 else a.transpose(0, -1) if a.ndim else a,
    lambda a: a[..., :-1] if a.ndim else a,
    lambda a: a[:0] if a.ndim else a,
    lambda a: torch.cat([a, a]) if a.ndim else a,
    lambda a: a.sum(),
    lambda a: a.new_zeros(0),
    lambda a: a.new_zeros(0, 2**40),
    lambda a: a.new_zeros(*(1,) * 30),
    lambda a: a.new_zeros(3, 64, 64),
    lambda a: (a * 1e4).half(),
)


def _mixed(arrays: Arrays, _: str, rng: Random) -> Arrays:
    other = rng.choice(donors())
    part = rng.sample(sorted(other), rng.choice((1, 5, len(other))))
    return arrays | {key: other[key] for key in part}


def _renamed(arrays: Arrays, key: str, rng: Random) -> Arrays:
    new = rng.choice((rng.choice(_NAMES), key[:-1], key + "x", key.upper(), "a." + key))
    return {new if name == key else name: array for name, array in arrays.items()}


def _exchanged(arrays: Arrays, key: str, rng: Random) -> Arrays:
    other = rng.choice(list(arrays) or [""])
    swap = {key: other, other: key}
    return {swap.get(name, name): array for name, array in arrays.items()}


_SET_CHANGES: tuple[Callable[[Arrays, str, Random], Arrays], ...] = (
    lambda arrays, key, rng: {name: a for name, a in arrays.items() if name != key},
    lambda arrays, key, rng: arrays | {rng.choice(_NAMES): torch.ones(3)},
    lambda arrays, key, rng: arrays | {key + rng.choice((".x", "x", "[0]")): torch.ones(3)},
    lambda arrays, key, rng: {f"module.{name}": a for name, a in arrays.items()},
    lambda arrays, key, rng: {name.partition(".")[2]: a for name, a in arrays.items()},
    lambda arrays, key, rng: {},
    lambda arrays, key, rng: (
        arrays | {f"blocks.{i}.norm1.bias": torch.ones(24) for i in range(999)}
    ),
    _mixed,
    _mixed,
    _renamed,
    _exchanged,
)


@cache
def pickled_junk() -> tuple[Any, ...]:
    """What a pickle can hold beside plain JSON values, weights where none belong included."""
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    laughs: Any = ["ha"] * 10
    for _ in range(9):  # a thousand million of them when written out
        laughs = [laughs] * 10
    bag = argparse.Namespace(config=1)
    bag.self = bag
    sparse = torch.ones(2, 2).to_sparse()
    quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    attributed = torch.ones(3)
    attributed.clone = attributed.is_floating_point = attributed.float = 3  # type: ignore[method-assign,assignment]
    return (
        *(cyclic, laughs, bag, sparse, quantised, attributed, b"x", {1, 2}, 1j, (1, (2,))),
        *(torch.float16, torch.device("cpu"), torch.Size((2, 3)), 10**500, {1: 2, None: 3}),
        *(torch.ones(2), torch.ones(1).expand(10**12), torch.ones(2, device="meta")),
        *(torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.uint16)),
        *(torch.nn.Parameter(torch.ones(2)), torch.ones(2).to(torch.float8_e4m3fn)),
        *(torch.nn.Linear(1, 1), {"state_dict": {}}, {"model": {"x": torch.ones(1)}}),
    )
