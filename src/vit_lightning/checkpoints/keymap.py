"""Names and layouts of weights: a table of rows for each dialect, read in both directions.

A row says which arrays of a file make one of our tensors, and how. Reading goes from the keys
of our model to those of the file, writing the same way; so a table needs no list of conditions:
what the model does not have is not looked for, and what is left over in the file is an error.
The tables themselves are in :mod:`.dialects`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from vit_lightning.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Transform:
    """How arrays of a file become one of our tensors, and back.

    Both directions work on ``meta`` tensors too, which is how shapes are found without reading.

    Args:
        to_ours: arrays of the file, in the row's order → our tensor.
        to_theirs: our tensor and the number of attention heads → the arrays.
        ignores_leading_ones: whether (1, 1, 1, C) in the file is as good as (C,).
    """

    to_ours: Callable[[tuple[Tensor, ...]], Tensor]
    to_theirs: Callable[[Tensor, int], tuple[Tensor, ...]]
    ignores_leading_ones: bool = False


SAME = Transform(lambda x: x[0], lambda t, heads: (t,))


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        theirs: keys in the file, with placeholders.
        ours: key in our state dict. Placeholders: ``{block}``, ``{stage}``, ``{unit}``, ``{n}``
            are numbers (``{stage+1}`` is its successor), ``{p}`` is "weight" or "bias",
            ``{name}`` is anything.
        transform: from the one to the other.
    """

    theirs: tuple[str, ...]
    ours: str
    transform: Transform = SAME

    def match(self, key: str) -> tuple[str, ...] | None:
        """The keys in the file for one of ours, or None if the row is not about it."""
        found = _pattern(self.ours).fullmatch(key)
        if found is None:
            return None
        values = {name: found[name] for name in found.re.groupindex}
        values |= {f"{k}+1": str(int(v) + 1) for k, v in values.items() if k not in _MEANINGS}
        return tuple(_fill(theirs, values) for theirs in self.theirs)

    def match_theirs(self, key: str) -> str | None:
        """Our key for one in the file, or None if the row is not about it."""
        for theirs in self.theirs:
            if found := _pattern(theirs).fullmatch(key):
                values = {name: found[name] for name in found.re.groupindex}
                values |= {
                    name.removesuffix("_next"): str(int(value) - 1)
                    for name, value in values.items()
                    if name.endswith("_next")
                }
                return _fill(self.ours, values)
        return None


_PLACEHOLDER = re.compile(r"\{([a-z]+(?:\+1)?)\}")
_MEANINGS = {"name": ".+", "p": "weight|bias"}
_MOST_LAYERS = 1000
_WEIGHTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NUMBER = "[0-9]{1,9}"  # Python refuses to convert thousands of digits


def _fill(template: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda m: values[m[1]], template)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = _PLACEHOLDER.split(template)  # text, placeholder, text, ...
    parts[::2] = [re.escape(text) for text in parts[::2]]
    parts[1::2] = [
        f"(?P<{name.replace('+1', '_next')}>{_MEANINGS.get(name, _NUMBER)})" for name in parts[1::2]
    ]
    return re.compile("".join(parts), re.ASCII)


class Arrays(Protocol):
    """What the readers of files hand out: shapes at once, arrays (or tensors) on access."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Key → shape."""
        ...

    def __getitem__(self, key: str, /) -> Any:
        """The array or tensor of a key."""
        ...


@dataclass(frozen=True)
class Renamed:
    """The arrays under ``prefix``, without it.

    Args:
        arrays: the file.
        prefix: what stands before every name, such as ``module.``; "" for nothing.
    """

    arrays: Arrays
    prefix: str

    @property
    def shapes(self) -> dict[str, Shape]:
        """Key without the prefix → shape, of those that have it."""
        start = len(self.prefix)
        shapes = self.arrays.shapes
        return {key[start:]: shapes[key] for key in shapes if key.startswith(self.prefix)}

    def __getitem__(self, key: str) -> Any:
        return self.arrays[self.prefix + key]


class Unstacked:
    """Arrays in which the layers of a scan, one array for all, stand as ``name[0]``, ``name[1]``.

    Args:
        arrays: the file.
        prefix: what the names of stacked arrays begin with; their first axis is the layer.
    """

    def __init__(self, arrays: Arrays, prefix: str):
        self._arrays = arrays
        self._kept: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}
        for key, shape in arrays.shapes.items():
            if not key.startswith(prefix):
                self.shapes[key] = shape
            elif not shape or shape[0] > _MOST_LAYERS:
                raise InputError(f"{key} has shape {tuple(shape)}; its first axis is no layer's")
            else:
                self.shapes |= {f"{key}[{layer}]": shape[1:] for layer in range(shape[0])}

    def __getitem__(self, key: str) -> Any:
        name, bracket, layer = key.partition("[")
        if not bracket:
            return self._arrays[key]
        if name not in self._kept:
            if len(self._kept) == 3:  # query, key and value are read together
                del self._kept[next(iter(self._kept))]
            self._kept[name] = self._arrays[name]
        return self._kept[name][int(layer.removesuffix("]"))]


def our_shapes(rows: Sequence[Row], shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes that a file's arrays have as tensors of ours, without reading one.

    Keys that no row is about, and tensors of which an array is missing, are left out: reading
    names them.

    Raises:
        InputError: arrays whose shapes do not go with one another, or with their names.
    """
    found: dict[str, Shape] = {}
    for key in shapes:
        for row in rows:
            ours = row.match_theirs(key)
            if ours is None:
                continue
            theirs = row.match(ours)
            if ours not in found and theirs is not None and all(name in shapes for name in theirs):
                found[ours] = _shape_of(row, theirs, shapes)
            break
    return found


def _shape_of(row: Row, theirs: tuple[str, ...], shapes: Mapping[str, Shape]) -> Shape:
    try:
        arrays = tuple(torch.empty(shapes[key], device="meta") for key in theirs)
        return tuple(row.transform.to_ours(arrays).shape)
    except (RuntimeError, IndexError, TypeError, ValueError, OverflowError) as error:
        described = ", ".join(f"{key} {tuple(shapes[key])}" for key in theirs)
        raise InputError(f"arrays of shapes that no Vision Transformer has: {described}") from error


def read_state(
    rows: Sequence[Row], arrays: Arrays, shapes: Mapping[str, Shape], num_heads: int
) -> dict[str, Tensor]:
    """A file's arrays as our state dict, float32, read one after the other.

    Args:
        rows: the dialect of the file.
        arrays: the file.
        shapes: key → shape of our state dict.
        num_heads: attention heads of the model.

    Raises:
        InputError: arrays that are missing, left over, of another shape, or hold what is no
            finite number; named.
    """
    plan = {ours: row_for(rows, ours) for ours in shapes}
    found = arrays.shapes
    _check_complete({key for _, theirs in plan.values() for key in theirs}, set(found))
    for ours, (row, theirs) in plan.items():
        _check_shapes(row, theirs, found, shapes[ours], num_heads)
    # Row by row, so that layers stacked in one array of the file are cut from it together.
    order = sorted(plan, key=lambda ours: rows.index(plan[ours][0]))
    read = {ours: _read_tensor(plan[ours][0], plan[ours][1], arrays) for ours in order}
    return {ours: read[ours] for ours in plan}


def write_state(
    rows: Sequence[Row], state: Mapping[str, Tensor], num_heads: int
) -> Iterator[tuple[str, Tensor]]:
    """Our state dict as (key, tensor) pairs of another dialect, made one after the other."""
    for ours, tensor in state.items():
        row, theirs = row_for(rows, ours)
        yield from zip(theirs, row.transform.to_theirs(tensor, num_heads), strict=True)


def row_for(rows: Sequence[Row], ours: str) -> tuple[Row, tuple[str, ...]]:
    """The row about one of our keys, and the keys of the file.

    Raises:
        InputError: the dialect has no name for it.
    """
    for row in rows:
        if (theirs := row.match(ours)) is not None:
            return row, theirs
    raise InputError(f"this layout has no name for {ours}")


def _read_tensor(row: Row, theirs: tuple[str, ...], arrays: Arrays) -> Tensor:
    tensors = []
    for key in theirs:
        tensor = torch.as_tensor(arrays[key])
        if tensor.dtype not in _WEIGHTS:
            raise InputError(
                f"{key} is of type {tensor.dtype}; weights are floating-point, of 16 bits or more"
            )
        tensor = tensor.float()
        if not _is_finite(tensor):
            raise InputError(
                f"{key} holds values that are no finite numbers (NaN or infinity): the training "
                f"that made these weights diverged, or the file is damaged; take an earlier one"
            )
        tensors.append(tensor)
    return row.transform.to_ours(tuple(tensors)).contiguous()


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are; the least and the largest tell, and need no memory."""
    return not tensor.numel() or all(bool(t.isfinite()) for t in tensor.aminmax())


def _check_complete(wanted: set[str], found: set[str]) -> None:
    problems = [
        f"{label}: {_some(sorted(keys))}"
        for label, keys in (("missing", wanted - found), ("left over", found - wanted))
        if keys
    ]
    if problems:
        raise InputError(f"the arrays are not those of one model; {'; '.join(problems)}")


def _check_shapes(
    row: Row,
    theirs: tuple[str, ...],
    found: Mapping[str, Shape],
    ours: Shape,
    num_heads: int,
) -> None:
    expected = row.transform.to_theirs(torch.empty(ours, device="meta"), num_heads)
    for key, like in zip(theirs, expected, strict=True):
        want, have = tuple(like.shape), tuple(found[key])
        extra = len(have) - len(want)
        if row.transform.ignores_leading_ones and extra > 0 and set(have[:extra]) == {1}:
            have = have[extra:]
        if have != want:
            raise InputError(f"{key} has shape {tuple(found[key])}, the model takes {want}")


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
    return ", ".join(keys[:6]) + more
