"""One way into every weights file: which model it holds, and its tensors under our names."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from vit_lightning.checkpoints.companions import Hints, read_hints
from vit_lightning.checkpoints.dialects import GOOGLE, NATIVE, Dialect, find_dialect
from vit_lightning.checkpoints.formats import file_format
from vit_lightning.checkpoints.infer import infer_config
from vit_lightning.checkpoints.keymap import (
    Arrays,
    Renamed,
    Row,
    Shape,
    Unstacked,
    our_shapes,
    read_state,
    row_for,
)
from vit_lightning.checkpoints.locate import Located, locate_weights
from vit_lightning.checkpoints.native import (
    AVERAGED_PREFIX,
    DESCRIPTION_KEY,
    HASH_KEY,
    STATE_PREFIX,
    Description,
    describe,
    describe_safetensors,
    has_our_names,
)
from vit_lightning.checkpoints.npz import open_npz
from vit_lightning.checkpoints.tensors import open_safetensors, open_torch
from vit_lightning.download import file_hash
from vit_lightning.errors import InputError
from vit_lightning.json_file import read_json
from vit_lightning.models.config import Pool, Size, ViTConfig

# Of so many layers it is not said that arrays are missing, but which; none has fewer than nine.
_USUAL_LAYERS, _ARRAYS_OF_LAYER = 100, 9
_MOST_WORDS = 2000  # characters of a message
_QKV = "blocks.0.attn.qkv.weight"
_SCANNED = "Transformer/encoderblock/"  # big_vision's blocks, when they are scanned over


@dataclass(frozen=True)
class WeightsFile:
    """A weights file of any kind, understood but not yet read.

    Args:
        located: where it is, and how it was found.
        description: its model, class names and preprocessing.
        arrays: its arrays, read on access.
        rows: its key table.
        dialect: whose names and layout these are, for people.
        training_state: names of what it holds beside weights.
        notes: what is to be known of how it was found and understood.
    """

    located: Located
    description: Description
    arrays: Arrays
    rows: tuple[Row, ...]
    dialect: str
    training_state: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def config(self) -> ViTConfig:
        """The model in the file."""
        return self.description.config

    @property
    def source(self) -> str:
        """What to call it: the file, or the name it was found by."""
        return self.located.source

    def read(self, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
        """All weights under our names, float32, read one after the other.

        Args:
            shapes: key → shape of the state dict of a model of :attr:`config`.

        Raises:
            InputError: arrays that are missing, left over, of another shape, or damaged.
        """
        try:
            return read_state(self.rows, self.arrays, shapes, self.config.num_heads)
        except InputError as error:
            raise _at(self.located.path, error) from error


def open_weights(
    weights: str | Path | Located,
    image_size: int | Size | None = None,
    pool: Pool | None = None,
    num_heads: int | None = None,
) -> WeightsFile:
    """Find weights, open them, and understand which model they are.

    Args:
        weights: a file, a folder, an official name, a Hub id or an address; see
            :func:`~.locate.locate_weights`. A file's contents decide what it is, not its suffix.
        image_size: what arrays cannot tell; see :func:`~.infer.infer_config`.
        pool: likewise; files that say so themselves are overruled.
        num_heads: likewise, for the layouts that do not show it; used where nothing else says it.

    Raises:
        InputError: there are no such weights, or they cannot be used; the message says why.
    """
    located = weights if isinstance(weights, Located) else locate_weights(weights)
    try:
        opened, notes = _open(located)
        if opened.native is not None and opened.description is not None:
            description = _read_as(opened.description, opened.native, pool)
            return WeightsFile(
                located, description, opened.native, NATIVE, "vit-lightning", (), notes
            )
        dialect, arrays = find_dialect(opened.arrays)
        if opened.description is not None:
            description = _read_as(opened.description, arrays, pool)
        else:
            told = _Told(image_size, pool, num_heads)
            description, assumed = _understand(located, dialect, arrays.shapes, told)
            notes += assumed
        rest = opened.training_state
        return WeightsFile(located, description, arrays, dialect.rows, dialect.name, rest, notes)
    except InputError as error:
        raise _at(located.path, error) from error


def describes_itself(weights: str | Path | Located) -> bool:
    """Whether weights, or what stands beside them, say completely which model they are.

    Raises:
        InputError: there are no such weights, or they cannot be used.
    """
    located = weights if isinstance(weights, Located) else locate_weights(weights)
    if "config.json" in located.companions:
        return True
    try:
        return _open(located)[0].description is not None
    except InputError as error:
        raise _at(located.path, error) from error


@dataclass(frozen=True)
class _Opened:
    """A file whose names are not yet understood.

    ``description`` is what it says of itself in our words, ``native`` the arrays under our names
    if that is what they are.
    """

    arrays: Arrays
    description: Description | None = None
    native: Arrays | None = None
    training_state: tuple[str, ...] = ()


def _open_npz(path: Path) -> _Opened:
    file = open_npz(path)
    return _Opened(Unstacked(file, _SCANNED), training_state=file.training_state)


def _open_safetensors(path: Path) -> _Opened:
    metadata, tensors = open_safetensors(path)
    description = describe_safetensors(path, metadata)
    ours = description is not None and has_our_names(metadata)
    return _Opened(tensors, description, tensors if ours else None)


def _open_torch(path: Path) -> _Opened:
    file = open_torch(path)
    values = file.beside.get(DESCRIPTION_KEY)
    if values is None:
        return _Opened(file.tensors, training_state=tuple(file.beside))
    try:
        plain = json.loads(json.dumps(values))  # no other types, whose methods could be anything
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its description of the model is damaged ({error})") from error
    if not isinstance(plain, dict):
        raise InputError(f"{path}: its description of the model is damaged")
    averaged = any(key.startswith(AVERAGED_PREFIX) for key in file.tensors.shapes)
    prefix = AVERAGED_PREFIX if averaged else STATE_PREFIX
    return _Opened(file.tensors, describe(path, plain), Renamed(file.tensors, prefix))


_OPENERS: dict[str, Callable[[Path], _Opened]] = {
    "npz": _open_npz,
    "safetensors": _open_safetensors,
    "torch": _open_torch,
}


def _open(located: Located) -> tuple[_Opened, tuple[str, ...]]:
    """The file with its description, its own or that beside it, and the notes on how it was had."""
    opened = _OPENERS[file_format(located.path)](located.path)
    beside = located.companions.get("vit.json")
    if opened.description is not None or beside is None:
        return opened, located.notes
    values = read_json(beside, "description")
    description = values.get(DESCRIPTION_KEY)
    if not isinstance(description, dict):  # somebody else's
        return opened, located.notes
    if values.get(HASH_KEY) != file_hash(located.path):
        note = f"{beside} describes another file than {located.path.name}: passed over"
        return opened, (*located.notes, note)
    return replace(opened, description=describe(beside, description)), located.notes


def _read_as(description: Description, arrays: Arrays, pool: Pool | None) -> Description:
    """A file's description, with another reading of the tokens if asked for."""
    config = description.config
    _check_layers(config, len(arrays.shapes))
    if pool is None:
        return description
    return replace(description, config=config.replace(pool=pool, class_token=config.class_token))


def _check_layers(config: ViTConfig, arrays: int) -> None:
    """Refuse more layers than the arrays can be of, which would take forever to build."""
    layers = config.depth + sum(config.resnet.stage_depths if config.resnet else ())
    if layers > max(_USUAL_LAYERS, arrays // _ARRAYS_OF_LAYER):
        raise InputError(f"it describes {layers} layers, but holds {arrays} tensors")


@dataclass(frozen=True)
class _Told:
    """What the caller knows of weights; see :func:`open_weights`."""

    image_size: int | Size | None
    pool: Pool | None
    num_heads: int | None


def _understand(
    located: Located, dialect: Dialect, shapes: Mapping[str, Shape], told: _Told
) -> tuple[Description, tuple[str, ...]]:
    """A description from shapes, from what stands beside the file, and from how its library is.

    Also what is to be said of the last, which was taken for granted.
    """
    hints = read_hints(located.companions)
    said = {"activation": dialect.activation, "norm_eps": dialect.norm_eps, **hints.fields}
    if located.official is not None:  # Google's weights, whoever keeps the copy
        said |= {"activation": GOOGLE.activation, "norm_eps": GOOGLE.norm_eps}
    said_heads, said_pool = said.pop("num_heads", None), said.pop("pool", None)
    config = infer_config(
        our_shapes(dialect.rows, shapes),
        told.image_size,
        told.pool or said_pool,
        file_size=hints.image_size,
        num_heads=_heads(dialect, shapes) or said_heads or told.num_heads,
        name_of=lambda ours: row_for(dialect.rows, ours)[1][0],
        **said,
    )
    _check_layers(config, len(shapes))
    if config.resnet is not None and located.official is None:
        config = config.replace(resnet=replace(config.resnet, **dialect.stem))
    view = hints.preprocessing or dialect.preprocessing
    preprocessing = None
    if view and located.official is None:
        size = {"image_size": list(config.image_size), "in_channels": config.in_channels}
        preprocessing = {**view, **size}
    names, several = _names(hints, config), hints.multi_label
    description = Description(config, names, preprocessing, multi_label=several)
    if located.official is not None or dialect.activation == GOOGLE.activation:
        return description, hints.notes
    # A config.json that does not say them names a model that has the usual ones.
    known = _heads(dialect, shapes) or said_heads or told.num_heads
    guessed = not known and "config.json" not in located.companions
    return description, hints.notes + _assumed(located, hints, dialect, description, guessed)


def _names(hints: Hints, config: ViTConfig) -> tuple[str, ...] | None:
    """Class names, unless they are those of a head that was cut off or replaced."""
    fits = hints.classes is not None and len(hints.classes) == config.num_classes
    return hints.classes if fits else None


def _assumed(
    located: Located,
    hints: Hints,
    dialect: Dialect,
    description: Description,
    guessed_heads: bool,
) -> tuple[str, ...]:
    """What is said where nothing beside weights of another library tells what it does."""
    notes = []
    config = description.config
    if "config.json" not in located.companions:
        notes.append(
            f"no config.json stands beside the weights: computed as {dialect.name} does by "
            f"default, with {config.activation} and norm_eps {config.norm_eps:g}"
        )
    if hints.preprocessing is None:
        view = description.preprocessing or {"mode": "paper", "mean": [0.5, 0.5, 0.5]}
        notes.append(
            f"nothing beside the weights tells a preprocessing that is had here: taken for mode "
            f"{view['mode']}, mean {', '.join(f'{value:g}' for value in view['mean'])}"
        )
    if guessed_heads:
        notes.append(
            f"nothing tells the number of attention heads: taken for {config.num_heads}, that of "
            f"published models {config.embed_dim} wide"
        )
    return tuple(notes)


def _heads(dialect: Dialect, shapes: Mapping[str, Shape]) -> int | None:
    """The attention heads, where the layout shows them: Google's has an axis for them."""
    query = row_for(dialect.rows, _QKV)[1][0]
    shape = shapes.get(query, ())
    return shape[1] if len(shape) == 3 else None


def _at(path: Path, error: InputError) -> InputError:
    """The error with the file's name before it, once, and what it quotes of the file cut short."""
    words = str(error) if str(path) in str(error) else f"{path}: {error}"
    return InputError(words if len(words) <= _MOST_WORDS else f"{words[:_MOST_WORDS]} ...")
