"""Weights of one configuration made to fit another, and an account of what became of each."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vit_lightning.errors import InputError
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.pos_embed import resize_pos_embed

Action = Literal["kept", "resized", "dropped", "new", "reset", "converted"]

# What no adaptation bridges: other shapes, or another function of the same arrays.
_STRUCTURE = (
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_dim",
    "class_token",
    "activation",
    "norm_eps",
    "resnet",
)
# "blocks.3.attn..." and its like are one line of the table.
_BLOCK = re.compile(r"(.*?blocks)\.(\d+)\.")
_ORDER: tuple[Action, ...] = ("kept", "resized", "converted", "reset", "new", "dropped")


@dataclass(frozen=True)
class LoadRow:
    """What became of one tensor.

    Args:
        name: in our state dict, or in the file where we have no name for it.
        action: ``kept`` as it was; ``resized`` to another grid; ``converted`` to other input
            channels; ``reset`` to zeros; ``new``, also zeros, where the file had none;
            ``dropped``, not in the model.
        detail: shapes, before and after.
        parameters: numbers that the model holds for it; 0 for what was dropped.
    """

    name: str
    action: Action
    detail: str
    parameters: int


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a file; ``str()`` makes a table of it.

    Args:
        rows: a tensor each.
        notes: what else is to be known of the weights, such as what a mirror of them lacks.
    """

    rows: tuple[LoadRow, ...]
    notes: tuple[str, ...] = ()

    def with_dropped(self, names: Iterable[str], why: str) -> "LoadReport":
        """The report with more rows, for arrays of the file that were never weights."""
        dropped = tuple(LoadRow(name, "dropped", why, 0) for name in names)
        return replace(self, rows=self.rows + dropped)

    def __str__(self) -> str:
        lines = self._lines()
        width = max((len(name) for name, _, _ in lines), default=0)
        table = [f"{name:<{width}}  {action:<9}  {detail}" for name, action, detail in lines]
        return "\n".join([*table, self._summary(), *self.notes])

    def _lines(self) -> list[tuple[str, str, str]]:
        """(name, action, detail), rows of a group and action gathered in one."""
        groups: dict[tuple[str, str], list[LoadRow]] = {}
        for row in self.rows:
            groups.setdefault((_group(row.name), row.action), []).append(row)
        return [_line(group, action, rows) for (group, action), rows in groups.items()]

    def _summary(self) -> str:
        counts = {action: sum(row.action == action for row in self.rows) for action in _ORDER}
        said = ", ".join(f"{count} {action}" for action, count in counts.items() if count)
        parameters = sum(row.parameters for row in self.rows)
        return f"{len(self.rows)} tensors: {said}; {parameters:,} parameters in the model"


def check_compatible(source: ViTConfig, target: ViTConfig) -> None:
    """Refuse weights that no adaptation fits to a model.

    Raises:
        InputError: naming every field in which they differ.
    """
    fields = [name for name in _STRUCTURE if getattr(source, name) != getattr(target, name)]
    # A missing layer is left out of the model, but never made up.
    if target.representation_size not in (None, source.representation_size):
        fields.append("representation_size")
    if fields:
        holds, asked = (
            ", ".join(f"{name} {getattr(config, name)}" for name in fields)
            for config in (source, target)
        )
        raise InputError(f"the weights are of {holds}; the model asked for has {asked}")


def adapt(
    state: dict[str, Tensor], source: ViTConfig, target: ViTConfig, *, reset_head: bool
) -> tuple[dict[str, Tensor], LoadReport]:
    """Make the weights of ``source`` fit ``target``, as the original's fine-tuning does.

    The position grid is resized (the class token's position stays as it is), ``pre_logits`` is
    dropped unless ``target`` has it, the head is set to zeros if asked, and the first
    convolution is made to take other input channels: summed for one, else tiled and scaled by
    source channels / target channels, so that its response to a grey picture stays.

    Args:
        state: key → tensor of ``source``; it is not changed.
        source: the configuration of the weights.
        target: the configuration of the model.
        reset_head: zeros in place of the head, also when the number of classes agrees.

    Returns:
        The state dict of ``target``, sharing what was kept, and what became of every tensor.

    Raises:
        InputError: the configurations differ in what cannot be adapted, or a head that is to be
            kept has another number of classes or another input.
    """
    check_compatible(source, target)
    rows = {name: _row(name, "kept", tensor) for name, tensor in state.items()}
    result = dict(state)
    changes = [
        _adapt_pre_logits(result, source, target),
        _adapt_positions(result, source, target),
        _adapt_channels(result, source, target),
        _adapt_head(result, source, target, reset_head),
    ]
    for changed in changes:
        rows |= {row.name: row for row in changed}
    return result, LoadReport(tuple(rows.values()))


def _adapt_pre_logits(
    state: dict[str, Tensor], source: ViTConfig, target: ViTConfig
) -> list[LoadRow]:
    if source.representation_size is None or target.representation_size is not None:
        return []
    names = ("pre_logits.weight", "pre_logits.bias")
    return [_dropped(name, state.pop(name)) for name in names]


def _adapt_positions(
    state: dict[str, Tensor], source: ViTConfig, target: ViTConfig
) -> list[LoadRow]:
    if source.grid_size == target.grid_size:
        return []
    old = state["pos_embed"]
    new = resize_pos_embed(old, source.grid_size, target.grid_size, source.num_prefix_tokens)
    state["pos_embed"] = new
    detail = f"grid {_by(source.grid_size)} → {_by(target.grid_size)}, {_shapes(old, new)}"
    return [LoadRow("pos_embed", "resized", detail, new.numel())]


def _adapt_channels(
    state: dict[str, Tensor], source: ViTConfig, target: ViTConfig
) -> list[LoadRow]:
    have, want = source.in_channels, target.in_channels
    if have == want:
        return []
    name = "patch_embed.backbone.stem.conv.weight" if source.resnet else "patch_embed.proj.weight"
    old = state[name]
    if want == 1:
        new, how = old.sum(dim=1, keepdim=True), "summed"
    else:
        new = old.repeat(1, -(-want // have), 1, 1)[:, :want] * (have / want)
        how = f"tiled × {have}/{want}"
    state[name] = new
    detail = f"{have} → {want} input channels, {how}, {_shapes(old, new)}"
    return [LoadRow(name, "converted", detail, new.numel())]


def _adapt_head(
    state: dict[str, Tensor], source: ViTConfig, target: ViTConfig, reset: bool
) -> list[LoadRow]:
    names = ("head.weight", "head.bias")
    if not target.num_classes:
        return [_dropped(name, state.pop(name)) for name in names if name in state]
    if not reset:
        _check_head(source, target)
        return []
    rows = []
    like = state["pos_embed"]
    for name, shape in zip(
        names, ((target.num_classes, target.head_features), (target.num_classes,)), strict=True
    ):
        old = state.get(name)
        state[name] = new = torch.zeros(shape, dtype=like.dtype, device=like.device)
        row = _row(name, "new" if old is None else "reset", new)
        detail = f"zeros {tuple(shape)}" if old is None else f"{_shapes(old, new)}, zeros"
        rows.append(replace(row, detail=detail))
    return rows


def _check_head(source: ViTConfig, target: ViTConfig) -> None:
    if source.num_classes != target.num_classes:
        holds = f"a head of {source.num_classes} classes" if source.num_classes else "no head"
        raise InputError(
            f"the weights have {holds}, the model asked for has {target.num_classes}: "
            f"the head cannot be kept; let it be reset, or ask for the same number"
        )
    if {source.pool, target.pool} == {"token", "gap"}:
        raise InputError(
            f"the head of the weights reads pool {source.pool!r}, the model asked for has "
            f"{target.pool!r}: the head cannot be kept; let it be reset, or keep the pool"
        )
    if source.representation_size != target.representation_size:
        raise InputError(
            "the head of the weights reads the pre_logits layer: to keep it, keep that too"
        )


def _row(name: str, action: Action, tensor: Tensor) -> LoadRow:
    return LoadRow(name, action, f"{tuple(tensor.shape)}", tensor.numel())


def _dropped(name: str, tensor: Tensor) -> LoadRow:
    return LoadRow(name, "dropped", f"{tuple(tensor.shape)}", 0)


def _line(group: str, action: str, rows: list[LoadRow]) -> tuple[str, str, str]:
    """One line of the table for the rows of a group."""
    blocks = {match[2] for row in rows if (match := _BLOCK.match(row.name))}
    if blocks:
        parameters = sum(row.parameters for row in rows)
        detail = f"{len(rows)} tensors, {parameters:,} parameters"
        return f"{len(blocks)} × {group}", action, detail
    if group.endswith("*"):
        return group, action, f"{len(rows)} arrays, {rows[0].detail}"
    return group, action, rows[0].detail


def _group(name: str) -> str:
    """What a tensor is gathered under; its own name if it stands alone."""
    if match := _BLOCK.match(name):
        return f"{match[1]}.*"
    return f"{name.split('/')[0]}/*" if "/" in name else name


def _shapes(old: Tensor, new: Tensor) -> str:
    if old.shape == new.shape:
        return f"{tuple(old.shape)}"
    return f"{tuple(old.shape)} → {tuple(new.shape)}"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
