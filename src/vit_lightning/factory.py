"""Where weights and modules meet: making, loading and saving models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vit_lightning.checkpoints.adapt import LoadReport, adapt, check_compatible
from vit_lightning.checkpoints.dialects import GOOGLE
from vit_lightning.checkpoints.keymap import Shape, write_state
from vit_lightning.checkpoints.limits import LIMITS
from vit_lightning.checkpoints.locate import Located
from vit_lightning.checkpoints.native import save_safetensors
from vit_lightning.checkpoints.npz import write_npz
from vit_lightning.checkpoints.weights import WeightsFile, open_weights
from vit_lightning.errors import InputError
from vit_lightning.models.config import Pool, Size, ViTConfig, as_size
from vit_lightning.models.lora import merged_state
from vit_lightning.models.presets import PRESETS, preset, preset_name
from vit_lightning.models.vit import VisionTransformer

# Where a preset meets weights, these are the weights' to say: what the function computes beyond
# its sizes, and what the file was made for.
_WEIGHTS_DECIDE = ("image_size", "in_channels", "activation", "norm_eps")


@dataclass(frozen=True)
class ModelBundle:
    """A model and what came with it.

    Args:
        model: the model.
        classes: name of each output of its head, if known.
        preprocessing: how pictures become its input, if known; plain JSON types.
        report: what became of every tensor of the weights; None for a fresh model.
        origin: the run and the data set it was trained on, if known; plain JSON types.
        source: what the weights were called, or the preset's name or "config" for a fresh model.
        located: where the weights were found; None for a fresh model.
        dialect: whose names and layout they had; None for a fresh model.
        multi_label: whether a picture has any number of classes, each a yes or no by the sigmoid
            of its output, instead of one by the softmax over all.
    """

    model: VisionTransformer
    classes: tuple[str, ...] | None
    preprocessing: dict[str, Any] | None
    origin: dict[str, Any] | None
    report: LoadReport | None
    source: str
    located: Located | None = None
    dialect: str | None = None
    multi_label: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of how the weights were found and understood."""
        return () if self.report is None else self.report.notes


def load_model(
    weights: str | Path | Located, image_size: int | Size | None = None, pool: Pool | None = None
) -> VisionTransformer:
    """The model in weights, ready to predict; see :func:`load_bundle`."""
    return load_bundle(weights, image_size, pool).model


def load_bundle(
    weights: str | Path | Located, image_size: int | Size | None = None, pool: Pool | None = None
) -> ModelBundle:
    """The model in weights as it is, head and ``pre_logits`` included, in eval mode.

    Args:
        weights: a file (``.npz``, ``.safetensors``, ``.ckpt``, ``.pth``, ``.bin``; the contents
            decide, not the suffix), a folder in Hugging Face's layout, an official name such as
            ``imagenet21k+imagenet2012/ViT-B_16-224``, a Hub id such as
            ``timm/vit_base_patch16_224.augreg_in21k``, or an https address.
        image_size: pixels the model shall take; by default those of the file, else the position
            grid is resized. Needed for a ``.npz`` whose grid is not square, which cannot say so.
        pool: how tokens become logits, if not as in the file; ``"none"`` for per-token logits.

    Raises:
        InputError: the weights are not there, damaged, of another kind or of another model.
    """
    file = open_weights(weights, image_size, pool)
    target = file.config
    if image_size is not None:
        target = target.replace(image_size=image_size)
    bundle = _load(file, target, reset_head=False)
    bundle.model.eval()
    return bundle


def create_model(
    name_or_config: str | ViTConfig | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    image_size: int | Size | None = None,
    in_channels: int | None = None,
    *,
    keep_head: bool = False,
    keep_pre_logits: bool = False,
    **changes: Any,
) -> VisionTransformer:
    """A model to train, fresh or from weights; see :func:`create_bundle`."""
    return create_bundle(
        name_or_config,
        weights,
        num_classes,
        image_size,
        in_channels,
        keep_head=keep_head,
        keep_pre_logits=keep_pre_logits,
        **changes,
    ).model


def create_bundle(
    name_or_config: str | ViTConfig | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    image_size: int | Size | None = None,
    in_channels: int | None = None,
    *,
    keep_head: bool = False,
    keep_pre_logits: bool = False,
    **changes: Any,
) -> ModelBundle:
    """A model to train, in training mode.

    Without weights it is initialised as the original. With weights they are adapted: the head is
    set to zeros, ``pre_logits`` dropped, the position grid resized and the filters converted to
    other input channels.

    Args:
        name_or_config: a preset's name or alias, or a configuration; None for the weights' own.
        weights: as for :func:`load_bundle`; they must be of this very model. With a preset,
            their grid, input channels, activation and epsilons are taken over unless given here.
        num_classes: outputs of the head; 0 for none. By default the configuration's; with a
            preset and weights that have a head, theirs.
        image_size: pixels the model takes. For a ``.npz`` whose grid is not square it must be
            the one of the file.
        in_channels: channels of the pictures.
        keep_head: keep the head of the weights; the number of classes must agree.
        keep_pre_logits: keep the ``pre_logits`` layer of the weights.
        **changes: other fields of :class:`~vit_lightning.models.config.ViTConfig`, such as
            ``dropout`` or ``drop_path``.

    Raises:
        InputError: values that contradict each other, an unknown preset or field, or weights
            that are not there, damaged, or of another model.
    """
    given = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
    changes |= {name: value for name, value in given.items() if value is not None}
    if "image_size" in changes:
        changes["image_size"] = as_size(changes["image_size"])
    _check_fields(changes)
    name = preset_name(name_or_config) if isinstance(name_or_config, str) else None
    config = preset(name) if name else name_or_config
    assert not isinstance(config, str)
    if weights is None:
        return _fresh(name, config, changes, keeps=keep_head or keep_pre_logits)
    own_size = config.image_size if config is not None and name is None else None
    heads = changes.get("num_heads", None if config is None else config.num_heads)
    file = open_weights(weights, changes.get("image_size", own_size), num_heads=heads)
    if config is None:
        config = file.config.replace(representation_size=None)
    elif name:
        changes = _said_by_weights(file.config, config) | changes
    if keep_pre_logits:
        _check_pre_logits(file)
        changes["representation_size"] = file.config.representation_size
    bundle = _load(file, _fit(config, changes, file), reset_head=not keep_head)
    bundle.model.train()
    return bundle


def _fresh(
    name: str | None, config: ViTConfig | None, changes: dict[str, Any], *, keeps: bool
) -> ModelBundle:
    """A model without weights."""
    if keeps:
        raise InputError("keep_head and keep_pre_logits keep parts of weights: give weights")
    if config is None:
        raise InputError("neither a model nor weights are named: give one of them")
    model = VisionTransformer(config.replace(**changes))
    return ModelBundle(model, None, None, None, None, name or "config")


def save_model(
    model: VisionTransformer,
    path: str | Path,
    classes: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
    *,
    multi_label: bool = False,
) -> None:
    """Write a model, whole or not at all, in the format of the suffix; low-rank updates merged.

    Args:
        model: the model.
        path: ``.safetensors`` for our own format, which keeps everything; ``.npz`` for Google's
            layout, which has the weights alone.
        classes: name of each output of the head.
        preprocessing: how pictures become the model's input; plain JSON types.
        origin: the run and the data set it was trained on; plain JSON types; not in a ``.npz``.
        multi_label: whether a picture has any number of classes.

    Raises:
        InputError: another suffix, more or fewer class names than classes, or what a
            ``.npz`` cannot say.
    """
    path = Path(path)
    config = model.config
    if classes is not None and len(classes) != config.num_classes:
        raise InputError(f"{len(classes)} class names for a model of {config.num_classes} classes")
    state, _ = merged_state(model, model.state_dict())
    if path.suffix == ".safetensors":
        told = (classes, preprocessing, origin)
        save_safetensors(path, state, config, *told, multi_label=multi_label)
    elif path.suffix == ".npz":
        _check_sayable(config, classes, preprocessing, multi_label=multi_label)
        pairs = write_state(GOOGLE.rows, state, config.num_heads)
        write_npz(path, ((key, _to_numpy(tensor)) for key, tensor in pairs))
    else:
        raise InputError(f"cannot write {path}: the suffix must be .safetensors or .npz")


def _load(file: WeightsFile, target: ViTConfig, *, reset_head: bool) -> ModelBundle:
    """Read, adapt and assign; the model never holds memory of its own for the weights."""
    try:
        own, model = skeleton(file.config), skeleton(target)
    except InputError as error:
        raise InputError(f"{file.source}: {error}") from error
    state = file.read(_shapes(own))
    try:
        state, report = adapt(state, file.config, target, reset_head=reset_head)
    except InputError as error:
        raise InputError(f"{file.source}: {error}") from error
    model.load_state_dict(state, assign=True)
    report = report.with_dropped(file.training_state, "training state, not weights")
    description = file.description
    headed = not reset_head and bool(target.num_classes)
    return ModelBundle(
        model,
        description.classes if headed else None,
        description.preprocessing,
        description.origin,
        replace(report, notes=(*file.notes, *_about_channels(file, target))),
        file.source,
        file.located,
        file.dialect,
        headed and description.multi_label,
    )


def _about_channels(file: WeightsFile, target: ViTConfig) -> tuple[str, ...]:
    """What is approximate where weights for colour see pictures of other channels."""
    view = file.description.preprocessing or {}
    # Anything may stand in a file; what is no preprocessing is refused when one is needed.
    told = [value for name in ("mean", "std") if isinstance(value := view.get(name), list | tuple)]
    uneven = any(number != numbers[0] for numbers in told for number in numbers)
    if target.in_channels == file.config.in_channels or not uneven:
        return ()
    return (
        "the weights normalise each colour by a mean and deviation of its own; with other channels "
        "all have their average, which is near and not the same",
    )


def _fit(config: ViTConfig, changes: dict[str, Any], file: WeightsFile) -> ViTConfig:
    """The configuration with its changes, refused before reading if the weights cannot fit.

    The image size comes last: one that suits the weights may be too small for another model,
    and that the models differ is the better message.
    """
    size = changes.pop("image_size", config.image_size)
    config = config.replace(**changes)
    try:
        check_compatible(file.config, config)
    except InputError as error:
        raise InputError(f"{file.source}{_looks_like(file.config)}: {error}") from error
    return config.replace(image_size=size)


def _looks_like(config: ViTConfig) -> str:
    """A remark that names the preset of this structure, or nothing."""
    for name, candidate in PRESETS.items():
        try:
            check_compatible(config, candidate.replace(**_said_by_weights(config, candidate)))
        except InputError:
            continue
        return f" (it looks like {name})"
    return ""


def skeleton(config: ViTConfig) -> VisionTransformer:
    """The modules without memory behind their parameters.

    Raises:
        InputError: sizes beyond what torch can count, as a damaged description may have.
    """
    try:
        with torch.device("meta"), _NoRandomInit():
            return VisionTransformer(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise InputError(f"no machine can hold a model of such sizes: {config}") from error


class _NoRandomInit(TorchFunctionMode):
    """Skips random initialisation.

    Without memory it does nothing, but on ``meta`` it would import sympy: two seconds and 75 MiB.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_")):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _shapes(model: VisionTransformer) -> dict[str, Shape]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _said_by_weights(found: ViTConfig, preset: ViTConfig) -> dict[str, Any]:
    """The fields of a preset that weights decide."""
    said = {name: getattr(found, name) for name in _WEIGHTS_DECIDE}
    if found.resnet and preset.resnet and found.resnet.structure == preset.resnet.structure:
        said["resnet"] = found.resnet
    return said | ({"num_classes": found.num_classes} if found.num_classes else {})


def _check_fields(changes: Mapping[str, Any]) -> None:
    known = {field.name for field in fields(ViTConfig)}
    if unknown := sorted(set(changes) - known):
        raise InputError(
            f"unknown model fields {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )


def _check_pre_logits(file: WeightsFile) -> None:
    if file.config.representation_size is None:
        raise InputError(f"{file.source} has no pre_logits layer to keep; drop keep_pre_logits")


def _check_sayable(
    config: ViTConfig,
    classes: Sequence[str] | None,
    preprocessing: Mapping[str, Any] | None,
    *,
    multi_label: bool,
) -> None:
    """Refuse to write a ``.npz`` that would be read as another model."""
    google = LIMITS["google"]
    read_as = google.nearest(config)
    unsaid = google.impossible(config) + [
        f"{name} {getattr(config, name)}"
        for name in ("activation", "norm_eps", "resnet")
        if getattr(config, name) != getattr(read_as, name)
    ]
    height, width = config.grid_size
    if height != width and int((height * width) ** 0.5) ** 2 == height * width:
        unsaid.append(f"a grid of {height} x {width}, which would be taken for a square")
    if config.pool == "none":
        unsaid.append("pool 'none', which would be taken for that of the class token")
    unsaid += ["class names"] if classes is not None else []
    unsaid += ["preprocessing"] if preprocessing is not None else []
    unsaid += ["that a picture has any number of classes"] if multi_label else []
    if unsaid:
        raise InputError(
            f"Google's .npz layout cannot say {', '.join(unsaid)}; write a .safetensors"
        )


def _to_numpy(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return tensor.detach().to("cpu", torch.float32).numpy()
