"""Whether weights compute here what they should, shown stage by stage.

What is allowed is what rounding costs, and little more. float32 keeps 24 bits: in a plain model of
real size every stage is within some 1e-6 of its largest value. 2e-5 of that value is allowed, or
2e-5 as it is where it is below 1; of logits 2e-5 as it is up to 5, their usual size, and in
proportion beyond. Two libraries round alike: 1e-5 is allowed between them. The stem of a hybrid
amplifies rounding, a hundredfold and more; by how much depends on weights and picture. So it is
measured, as the difference that a stem in float64 makes to each stage, and four times that is
allowed where it is more. A wrong convention costs more, wherever it can be seen at all: the exact
GELU for the original's 1e-4 to 1e-3 of a logit, another epsilon up to 0.1.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_lightning.checkpoints.dialects import GOOGLE
from vit_lightning.checkpoints.formats import file_format
from vit_lightning.checkpoints.keymap import write_state
from vit_lightning.checkpoints.npz import NpzFile, open_npz
from vit_lightning.data.pictures import open_picture
from vit_lightning.errors import InputError
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.models.config import Pool, Size, ViTConfig, as_size
from vit_lightning.models.resnet import ResNet
from vit_lightning.models.vit import PatchEmbed, VisionTransformer
from vit_lightning.parity.oracle import Numerics, forward
from vit_lightning.parity.peers import LIBRARIES, load_peer
from vit_lightning.parity.stages import (
    ParityReport,
    Stage,
    Stages,
    as_array,
    largest_difference,
    watched_stages,
)
from vit_lightning.precision import exact_convolutions
from vit_lightning.prediction import preprocessing_of

_SEED = 0
_RANDOM_PICTURES = 2
_ALLOWED = 2e-5
_ALLOWED_BETWEEN_LIBRARIES = 1e-5
_USUAL_LOGIT = 5.0
_TIMES_ROUNDING = 4.0

_POSITIONS = "Transformer/posembed_input/pos_embedding"
# Stages by their names in recorded outputs, whose io files the oracle follows.
_RECORDED = {
    "conv_root": "stem.conv",
    "gn_root": "stem.norm",
    "posembed_input": "embedding",
    "encoded": "encoded",
    "pre_logits": "pre_logits",
    "logits": "logits",
}


@dataclass(frozen=True)
class _Reference:
    """What a model is held against: pictures (B, C, H, W) → stages, and what is allowed."""

    name: str
    stages: Callable[[Tensor], Stages]
    allowed: float


def verify(
    weights: str | Path | ModelBundle,
    against: str | Path | None = None,
    pictures: Sequence[str | Path] = (),
    image_size: int | Size | None = None,
) -> ParityReport:
    """Compare a model's float32 forward pass on the CPU with another of the same weights.

    Args:
        weights: what :func:`vit_lightning.load_bundle` takes, or what it returned.
        against: None for an independent forward pass in float64, which takes its arrays straight
            from a ``.npz`` in Google's layout; ``"timm"`` or ``"transformers"`` for that library,
            which reads the weights itself where they came in a directory of its own layout, and
            else what ``vit convert`` makes of them; or a ``.npz`` of recorded outputs, with
            ``input`` (B, height, width, channels) and what there is of ``conv_root``,
            ``gn_root``, ``block1``, ..., ``posembed_input``, ``block_outputs`` (blocks, B, tokens,
            hidden), ``encoded``, ``pre_logits`` and ``logits``.
        pictures: files to compare on as well, beside two random pictures (seed 0).
        image_size: pixels the model shall take, as for :func:`vit_lightning.load_bundle`; by
            default those of the weights, or of the recorded input.

    Raises:
        InputError: weights, pictures or recorded outputs that cannot be used or do not belong
            together, a library that is not installed or does not work, or a model that it cannot
            express.
    """
    if against is not None and str(against) not in LIBRARIES:
        if pictures:
            raise InputError(f"{against} holds outputs for its own input: give it no pictures")
        return _against_record(weights, Path(against), image_size)
    bundle = _bundle(weights, image_size)
    as_stored = not isinstance(weights, ModelBundle)
    if against is None:
        reference = _independent(bundle, as_stored=as_stored)
    else:
        peer = load_peer(str(against), bundle, as_stored=as_stored and image_size is None)
        reference = _Reference(peer.name, peer.stages, _ALLOWED_BETWEEN_LIBRARIES)
    inputs = f"{_RANDOM_PICTURES} random pictures"
    inputs += f" and {len(pictures)} given" if pictures else ""
    stages = _compare(bundle.model, reference, _batches(bundle, pictures))
    return ParityReport(bundle.source, reference.name, inputs, stages, bundle.notes)


def _against_record(
    weights: str | Path | ModelBundle, path: Path, image_size: int | Size | None
) -> ParityReport:
    record = _open_record(path)
    pictures = torch.from_numpy(record["input"]).permute(0, 3, 1, 2)
    size: Size = (pictures.shape[2], pictures.shape[3])
    if image_size is not None and as_size(image_size) != size:
        raise InputError(f"{path} has an input of {size} pixels: leave image_size out")
    # A .npz does not say that the head reads every token; outputs for every token do.
    unpooled = len(record.shapes.get("logits", ())) == 3
    bundle = _bundle(weights, size, "none" if unpooled else None)
    stages = _renamed(record)
    reference = _Reference(str(path), lambda pictures: stages, _ALLOWED)
    compared = _compare(bundle.model, reference, iter([pictures]))
    inputs = "the input recorded there"
    return ParityReport(bundle.source, reference.name, inputs, compared, bundle.notes)


def _bundle(
    weights: str | Path | ModelBundle, image_size: int | Size | None, pool: Pool | None = None
) -> ModelBundle:
    """The model in evaluation mode, float32 and on the CPU; one that was handed in stays as is."""
    if not isinstance(weights, ModelBundle):
        return load_bundle(weights, image_size, pool)
    config = weights.model.config
    if image_size is not None and as_size(image_size) != config.image_size:
        raise InputError(
            f"the model takes pictures of {config.image_size}, not of {as_size(image_size)}: load "
            f"its weights for that image_size"
        )
    model = copy.deepcopy(weights.model).to("cpu", torch.float32).eval()
    return replace(weights, model=model)


def _batches(bundle: ModelBundle, pictures: Sequence[str | Path]) -> Iterator[Tensor]:
    """Random pictures, then those given, one by one: (B, C, H, W)."""
    config = bundle.model.config
    shape = (_RANDOM_PICTURES, config.in_channels, *config.image_size)
    random = np.random.default_rng(_SEED).uniform(-1, 1, shape).astype(np.float32)
    yield torch.from_numpy(random)
    if pictures:
        preprocessing = preprocessing_of(bundle)
        for path in pictures:
            yield preprocessing(open_picture(Path(path)))[None]


def _independent(bundle: ModelBundle, *, as_stored: bool) -> _Reference:
    arrays, numerics = _arrays(bundle, as_stored=as_stored), _numerics(bundle.model.config)

    def stages(pictures: Tensor) -> Stages:
        with np.errstate(all="ignore"):  # what is not finite shows in the report
            return _renamed(forward(arrays, pictures.permute(0, 2, 3, 1).numpy(), numerics))

    return _Reference("an independent forward pass in float64", stages, _ALLOWED)


def _numerics(config: ViTConfig) -> Numerics:
    plain = Numerics(config.activation, config.norm_eps, config.pool)
    if config.resnet is None:
        return plain
    return replace(
        plain,
        group_norm_eps=config.resnet.norm_eps,
        weight_eps=config.resnet.weight_eps,
        weight_eps_under_root=config.resnet.eps_under_root,
    )


def _arrays(bundle: ModelBundle, *, as_stored: bool) -> Mapping[str, NDArray[np.float32]]:
    """The weights in Google's layout, straight from the file where that is what it holds."""
    model = bundle.model
    pairs = write_state(GOOGLE.rows, model.state_dict(), model.config.num_heads)
    written = {key: tensor.numpy() for key, tensor in pairs}
    if not as_stored or bundle.located is None or file_format(bundle.located.path) != "npz":
        return written
    stored = open_npz(bundle.located.path)
    if set(stored) != set(written):  # big_vision's names
        return written
    if stored.shapes[_POSITIONS] == written[_POSITIONS].shape:
        return stored
    return {**stored, _POSITIONS: written[_POSITIONS]}  # resized for another image_size


def _open_record(path: Path) -> NpzFile:
    if not path.exists():
        raise InputError(
            f"{path}: there is no such file of recorded outputs; compare with one, or with "
            f"{' or '.join(LIBRARIES)}"
        )
    record = open_npz(path)
    shape = record.shapes.get("input", ())
    if len(shape) != 4 or 0 in shape:
        raise InputError(
            f"{path} has no array 'input' of shape (pictures, height, width, channels): outputs "
            f"are recorded beside the input they are for"
        )
    return record


def _renamed(outputs: Mapping[str, NDArray[Any]]) -> Stages:
    """Stages under our names, from their names in the reference's io files."""
    stages = {ours: outputs[theirs] for theirs, ours in _RECORDED.items() if theirs in outputs}
    number = 1
    while f"block{number}" in outputs:
        stages[f"stages.{number - 1}"] = outputs[f"block{number}"]
        number += 1
    if "block_outputs" in outputs:
        blocks = np.atleast_1d(outputs["block_outputs"])
        stages |= {f"blocks.{index}": block for index, block in enumerate(blocks)}
    return stages


def _compare(
    model: VisionTransformer, reference: _Reference, batches: Iterator[Tensor]
) -> tuple[Stage, ...]:
    """Every stage that both sides have, in our order, at its worst over all batches."""
    twin = _with_exact_stem(model) if model.config.resnet else None
    worst: dict[str, NDArray[np.float64]] = {}
    for pictures in batches:
        with exact_convolutions():
            ours = _model_stages(model, pictures)
            exact = ours if twin is None else _model_stages(twin, pictures)
        theirs = reference.stages(pictures)
        if beyond := sorted(set(theirs) - set(ours)):
            raise InputError(
                f"{reference.name} has {', '.join(beyond)}, which the model has not: these are "
                f"different models"
            )
        for name in (name for name in ours if name in theirs):
            delta = largest_difference(name, ours[name], theirs[name])
            rounding = largest_difference(name, ours[name], exact[name])
            found = np.array([delta, np.abs(theirs[name]).max(), rounding])
            worst[name] = np.maximum(worst.get(name, found), found)  # NaN stays
    if not worst:
        raise InputError(f"{reference.name} has no stage to compare with")
    return tuple(_stage(name, reference.allowed, *row.tolist()) for name, row in worst.items())


def _model_stages(model: VisionTransformer, pictures: Tensor) -> Stages:
    """The stages of a model of this package, in the order in which they are computed."""
    modules: dict[str, nn.Module] = {}
    backbone = model.patch_embed.backbone
    if isinstance(backbone, ResNet):
        modules |= {"stem.conv": backbone.stem.conv, "stem.norm": backbone.stem.norm}
        modules |= {f"stages.{index}": stage for index, stage in enumerate(backbone.stages)}
    modules["embedding"] = model.dropout  # does nothing in evaluation, and stands nowhere else
    modules |= {f"blocks.{index}": block for index, block in enumerate(model.blocks)}
    modules["encoded"] = model.norm

    def run(pictures: Tensor) -> Tensor:
        return model.forward_head(model.forward_features(pictures))

    stages = watched_stages(run, modules, model.head, pictures)
    with torch.inference_mode():  # without the tokens that the head does not read, as users run it
        logits = as_array(model(pictures))
    return {**stages, "logits": logits} if "logits" in stages else stages


def _stage(name: str, allowed: float, delta: float, scale: float, rounding: float) -> Stage:
    proportion = max(1.0, scale / (_USUAL_LOGIT if name == "logits" else 1.0))
    return Stage(name, delta, scale, max(allowed * proportion, _TIMES_ROUNDING * rounding))


class _ExactPatches(nn.Module):
    """A ``patch_embed`` in float64, from float32 to float32."""

    def __init__(self, patch_embed: PatchEmbed):
        super().__init__()
        self.inner = copy.deepcopy(patch_embed).double()
        self.backbone = self.inner.backbone

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, C, height, width) → (B, grid, D)."""
        return self.inner(pictures.double()).float()  # type: ignore[no-any-return]


def _with_exact_stem(model: VisionTransformer) -> VisionTransformer:
    """The model, its parameters shared, with a stem in float64."""
    twin = copy.deepcopy(model, memo={id(tensor): tensor for tensor in model.parameters()})
    twin.patch_embed = _ExactPatches(model.patch_embed)  # type: ignore[assignment]
    return twin
