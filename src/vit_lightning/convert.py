"""A model written in the layout of another library, or refused with the reason."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vit_lightning.checkpoints.companions import (
    huggingface_config,
    huggingface_processor,
    timm_config,
)
from vit_lightning.checkpoints.dialects import (
    GOOGLE,
    HUGGINGFACE,
    HUGGINGFACE_BACKBONE,
    TIMM,
    TIMM_ROOT,
    TORCHVISION,
    Dialect,
)
from vit_lightning.checkpoints.keymap import write_state
from vit_lightning.checkpoints.limits import LIMITS, TIMM_HYBRIDS
from vit_lightning.checkpoints.native import (
    DESCRIPTION_KEY,
    HASH_KEY,
    describe_as,
    save_safetensors,
)
from vit_lightning.checkpoints.npz import write_npz
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.download import file_hash
from vit_lightning.errors import InputError
from vit_lightning.factory import ModelBundle, skeleton
from vit_lightning.files import atomic_write
from vit_lightning.json_file import write_json
from vit_lightning.models.config import ResNetConfig, ViTConfig
from vit_lightning.models.difference import largest_difference
from vit_lightning.models.vit import VisionTransformer

Target = Literal["google", "timm", "huggingface", "torchvision", "safetensors"]

WEIGHTS_FILE = "model.safetensors"
"""The weights in a folder for timm or Hugging Face."""

_TIMM_PLAIN = "vit_base_patch16_224"


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Args:
        path: the file, or the folder.
        losses: what the target cannot express, and what stands in its place.
        delta: what that moves, at most, on two random pictures: a logit, or a feature of the last
            tokens where the heads are not the same; None without losses.
        notes: what is otherwise to be known.
    """

    path: Path
    losses: tuple[str, ...]
    delta: float | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [str(self.path), *self.notes, *(f"lost: {loss}" for loss in self.losses)]
        if self.delta is not None:
            lines.append(f"measured: what is kept of the outputs moves by up to {self.delta:.1e}")
        return "\n".join(lines)


class CannotExpressError(InputError):
    """The target has no place for something of a model, or would compute it otherwise.

    Args:
        reason: what, as a clause.
        advice: what to do.
    """

    def __init__(self, reason: str, advice: str):
        super().__init__(f"{reason}; {advice}")
        self.reason = reason


def convert_model(
    bundle: ModelBundle, path: str | Path, to: Target, *, lossy: bool = False, half: bool = False
) -> Conversion:
    """Write a model for another library.

    Args:
        bundle: the model, and what travels with it.
        path: what to write, which must not be there: for google a ``.npz``, for torchvision a
            ``.pth``, each with a ``.json`` beside it of what these layouts have no place for; for
            timm and huggingface a folder, with the configuration that makes the model there; for
            safetensors this package's own format.
        to: the library.
        lossy: write also what the target cannot express exactly, and measure what that costs.
        half: for safetensors, store every weight in 16 bits (float16), and measure what that costs.

    Raises:
        CannotExpressError: the target cannot express the model.
        InputError: ``path`` cannot be written, or the weights not in 16 bits.
    """
    path, target = Path(path), _target(to)
    _check_path(path, to, target)
    if half:
        return _convert_to_half(bundle, path, to)
    config = bundle.model.config
    if impossible := LIMITS[to].impossible(config):
        raise CannotExpressError(f"{to} cannot express {_and(impossible)}", _ELSEWHERE)
    nearest = LIMITS[to].nearest(config)
    losses = _differences(config, nearest)
    if losses and not lossy:
        raise CannotExpressError(
            f"{to} would compute something else: {_and(losses)}",
            f"{_ELSEWHERE}, or ask for it all the same with --lossy (lossy=True), which measures "
            f"the difference",
        )
    written = bundle
    if losses:
        written = replace(bundle, model=_as_written(bundle.model, nearest))
        if nearest.num_classes != config.num_classes:
            written = replace(written, classes=None)
    _write(target, written, path)
    delta = largest_difference(bundle.model, written.model) if losses else None
    return Conversion(path, tuple(losses), delta, target.notes(bundle))


def _convert_to_half(bundle: ModelBundle, path: Path, to: Target) -> Conversion:
    if to != "safetensors":
        raise InputError(f"--half is for safetensors; what {to} reads is written in 32 bits")
    state = {key: tensor.half() for key, tensor in bundle.model.state_dict().items()}
    if beyond := [key for key, tensor in state.items() if not tensor.isfinite().all()]:
        raise InputError(f"--half: {beyond[0]} has values beyond 65504, the largest of float16")
    twin = skeleton(bundle.model.config)
    twin.load_state_dict(state, assign=True)
    _write_safetensors(replace(bundle, model=twin), path)
    delta = largest_difference(bundle.model, twin.float().eval())
    return Conversion(path, ("the last 13 bits of each weight, stored in 16",), delta, ())


_ELSEWHERE = "write a .safetensors, which keeps everything"


@dataclass(frozen=True)
class _Target:
    """How a library keeps models.

    Args:
        suffix: of its file; None for a folder.
        write: who writes it.
        beside: whether a file beside it has what it has no place for.
        notes: what is to be known of what was written.
    """

    suffix: str | None
    write: Callable[[ModelBundle, Path], None]
    beside: bool = False
    notes: Callable[[ModelBundle], tuple[str, ...]] = lambda bundle: ()


def _target(to: str) -> _Target:
    if to not in _TARGETS:
        raise InputError(f"--to must be one of {', '.join(get_args(Target))}, got {to!r}")
    return _TARGETS[to]


def _check_path(path: Path, to: str, target: _Target) -> None:
    suffix = target.suffix
    if suffix is not None and path.suffix != suffix:
        raise InputError(f"{path}: the file for {to} is a {suffix}; give it that suffix")
    if suffix is None and path.suffix in {".npz", ".pth", ".safetensors", ".bin", ".ckpt"}:
        raise InputError(
            f"{path}: for {to} a folder is written, with {WEIGHTS_FILE} and config.json; name one"
        )
    if path.is_dir() and suffix is None and path.name and not any(path.iterdir()):
        return
    for there in (path, _beside(path)) if target.beside else (path,):
        if there.exists():
            raise InputError(f"{there} is already there; remove it, or name another")


def _beside(path: Path) -> Path:
    """Where a file of the same name and ``.json`` has what its layout has no place for."""
    return path.parent / f"{path.name}.json"


def _write(target: _Target, bundle: ModelBundle, path: Path) -> None:
    """Write all that belongs to a target, or leave nothing."""
    target.write(bundle, path)
    if not target.beside:
        return
    description = describe_as(
        bundle.model.config,
        bundle.classes,
        bundle.preprocessing,
        bundle.origin,
        multi_label=bundle.multi_label,
    )
    try:
        values = {DESCRIPTION_KEY: description, HASH_KEY: file_hash(path)}
        write_json(_beside(path), values)
    except BaseException:
        path.unlink()
        raise


def _differences(config: ViTConfig, nearest: ViTConfig) -> list[str]:
    """What is lost from the one to the other, in words."""
    words = []
    if nearest.num_classes != config.num_classes:
        words.append("the head, which reads pre_logits, is left out")
    if nearest.representation_size != config.representation_size:
        words.append("pre_logits is left out")
    for name in ("activation", "norm_eps"):
        own, other = getattr(config, name), getattr(nearest, name)
        if own != other:
            words.append(f"{name} is {other} instead of {own}")
    if nearest.resnet is not None and config.resnet is not None and nearest.resnet != config.resnet:
        own, other = _stem_words(config.resnet), _stem_words(nearest.resnet)
        words.append(f"the stem has {other} instead of {own}")
    return words


def _stem_words(stem: ResNetConfig) -> str:
    where = "under the root" if stem.eps_under_root else "beside the deviation"
    return f"GroupNorms of epsilon {stem.norm_eps:g} and filters of {stem.weight_eps:g} {where}"


def _as_written(model: VisionTransformer, nearest: ViTConfig) -> VisionTransformer:
    """The model as the target computes it; it shares the weights."""
    twin = skeleton(nearest)
    twin.load_state_dict(
        {key: value for key, value in model.state_dict().items() if key in twin.state_dict()},
        assign=True,
    )
    return twin.eval()


def _state(bundle: ModelBundle, dialect: Dialect) -> dict[str, Tensor]:
    model = bundle.model
    pairs = write_state(dialect.rows, model.state_dict(), model.config.num_heads)
    return {key: tensor.detach().cpu().contiguous() for key, tensor in pairs}


def _write_google(bundle: ModelBundle, path: Path) -> None:
    model = bundle.model
    pairs = write_state(GOOGLE.rows, model.state_dict(), model.config.num_heads)
    write_npz(path, ((key, tensor.detach().cpu().float().numpy()) for key, tensor in pairs))


def _write_torchvision(bundle: ModelBundle, path: Path) -> None:
    with atomic_write(path) as temporary:
        torch.save(_state(bundle, TORCHVISION), temporary)


def _write_safetensors(bundle: ModelBundle, path: Path) -> None:
    model = bundle.model
    save_safetensors(
        path,
        model.state_dict(),
        model.config,
        bundle.classes,
        bundle.preprocessing,
        bundle.origin,
        multi_label=bundle.multi_label,
    )


def _write_timm(bundle: ModelBundle, path: Path) -> None:
    config = bundle.model.config
    stages = None if config.resnet is None else config.resnet.stage_depths
    dialect = TIMM_ROOT if stages == () else TIMM
    architecture = _TIMM_PLAIN if stages is None else TIMM_HYBRIDS[stages]
    view = _library_view(bundle)
    files = {"config.json": timm_config(config, bundle.classes, view, architecture)}
    _write_folder(bundle, path, dialect, "timm", files)


def _write_huggingface(bundle: ModelBundle, path: Path) -> None:
    config = bundle.model.config
    dialect = HUGGINGFACE if config.num_classes else HUGGINGFACE_BACKBONE
    view = _library_view(bundle)
    files = {
        "config.json": huggingface_config(config, bundle.classes, multi_label=bundle.multi_label),
        "preprocessor_config.json": huggingface_processor(config, view),
    }
    _write_folder(bundle, path, dialect, "huggingface", files)


def _write_folder(
    bundle: ModelBundle,
    path: Path,
    dialect: Dialect,
    layout: str,
    files: Mapping[str, Mapping[str, Any]],
) -> None:
    """Weights and their configuration files, the folder whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        save_safetensors(
            temporary / WEIGHTS_FILE,
            _state(bundle, dialect),
            bundle.model.config,
            bundle.classes,
            bundle.preprocessing,
            bundle.origin,
            layout=layout,
            multi_label=bundle.multi_label,
        )
        for name, values in files.items():
            write_json(temporary / name, values)
        if path.is_dir():
            path.rmdir()  # it is empty, or this fails
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _library_view(bundle: ModelBundle) -> dict[str, Any]:
    """A preprocessing as libraries have it; the original's becomes the nearest to it.

    Raises:
        InputError: what travels with the model describes none.
    """
    size = {"image_size": bundle.model.config.image_size, "in_channels": 3}
    given = Preprocessing.from_dict({"mode": "paper", **(bundle.preprocessing or {}), **size})
    return {
        "mode": {"paper": "squash", "modern": "crop"}.get(given.mode, given.mode),
        "mean": list(given.mean),
        "std": list(given.std),
        "interpolation": given.interpolation,
        "crop_fraction": given.crop_fraction,
    }


def _about_timm(bundle: ModelBundle) -> tuple[str, ...]:
    if not bundle.multi_label:
        return _about_timms_view(bundle)
    return (
        *_about_timms_view(bundle),
        "a picture has any number of classes, which timm's configuration cannot say: the sigmoid "
        "of each output is its probability, not the softmax over all",
    )


def _about_timms_view(bundle: ModelBundle) -> tuple[str, ...]:
    mode = (bundle.preprocessing or {}).get("mode", "paper")
    if mode != "paper":
        return ()
    return (
        "preprocessing: the original's resizing without anti-aliasing is not had there; the "
        "configuration names the nearest, bilinear with it",
    )


def _about_huggingfaces_view(bundle: ModelBundle) -> tuple[str, ...]:
    height, width = bundle.model.config.image_size
    if height == width or _library_view(bundle)["mode"] != "crop":
        return _about_timms_view(bundle)
    return (
        "preprocessing: only squares are cut out of pictures there; the configuration names the "
        "nearest, which changes their proportions",
    )


def _and(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]


_TARGETS: dict[str, _Target] = {
    "google": _Target(".npz", _write_google, beside=True),
    "timm": _Target(None, _write_timm, notes=_about_timm),
    "huggingface": _Target(None, _write_huggingface, notes=_about_huggingfaces_view),
    "torchvision": _Target(".pth", _write_torchvision, beside=True),
    "safetensors": _Target(".safetensors", _write_safetensors),
}
