"""What models and weights are, in words and figures."""

from pathlib import Path

from vit_lightning.checkpoints.weights import WeightsFile, open_weights
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.download import file_hash
from vit_lightning.errors import InputError
from vit_lightning.factory import skeleton
from vit_lightning.models.config import Size, ViTConfig
from vit_lightning.models.flops import count_flops
from vit_lightning.models.presets import PRESETS, preset, preset_name

_MOST_CLASSES = 12


def count_parameters(config: ViTConfig) -> int:
    """Parameters of a model, which is not built for it."""
    return sum(parameter.numel() for parameter in skeleton(config).parameters())


def preset_table() -> str:
    """Every preset with its sizes and parameter count at 224 px and 1,000 classes."""
    lines = [f"{'model':<20} {'dim':>5} {'depth':>5} {'heads':>5} {'tokens':>6} {'parameters':>12}"]
    for name, config in PRESETS.items():
        lines.append(
            f"{name:<20} {config.embed_dim:>5} {config.depth:>5} {config.num_heads:>5} "
            f"{config.num_tokens:>6} {count_parameters(config):>12,}"
        )
    return "\n".join(lines)


def describe_preset(name: str, image_size: Size | None = None) -> str:
    """A preset's configuration, a line for each field.

    Raises:
        InputError: no such preset, or it cannot take pictures of this size.
    """
    config = preset(name)
    if image_size is not None:
        config = config.replace(image_size=image_size)
    return "\n".join([preset_name(name), *_figures(config), *_fields(config)])


def describe_weights(weights: str | Path, image_size: Size | None = None) -> str:
    """What weights are, by the headers of their file and what stands beside it.

    No weight is read, though the file is, for its hash.

    Args:
        weights: as for :func:`vit_lightning.load_model`.
        image_size: pixels for the operations counted; by default those of the weights. A file
            whose grid is not square may need it to be understood.

    Raises:
        InputError: there are no such weights, or they cannot be used.
    """
    file = open_weights(weights, image_size)
    config = file.config
    sized = config if image_size is None else config.replace(image_size=image_size)
    path = file.located.path
    lines = [
        f"{file.source}: weights in the layout of {file.dialect}",
        f"  file: {path}, {path.stat().st_size:,} bytes",
        f"  sha256: {file_hash(path)}",
        *_figures(sized),
        f"  preprocessing: {_preprocessing(file)}",
        f"  classes: {_classes(file)}",
        *_fields(config),
        *(f"  note: {note}" for note in file.notes),
    ]
    return "\n".join(lines)


def _figures(config: ViTConfig) -> list[str]:
    height, width = config.image_size
    flops = count_flops(config) / 1e9
    return [
        f"  parameters: {count_parameters(config):,}",
        f"  computation: {flops:.4g} GFLOPs ({flops / 2:.4g} G multiply-adds) for a picture of "
        f"{height} x {width}",
    ]


def _fields(config: ViTConfig) -> list[str]:
    return [f"  {name}: {value}" for name, value in config.to_dict().items()]


def _preprocessing(file: WeightsFile) -> str:
    values, config = file.description.preprocessing, file.config
    if values is None:
        return f"{Preprocessing('paper', config.image_size, config.in_channels)} (the original's)"
    size = {"image_size": config.image_size, "in_channels": config.in_channels}
    try:
        return str(Preprocessing.from_dict({**values, **size}))
    except InputError as error:
        raise InputError(f"{file.source}: {error}") from error


def _classes(file: WeightsFile) -> str:
    count, names = file.config.num_classes, file.description.classes
    several = ", any number in a picture" if file.description.multi_label else ""
    if names is None:
        return f"{count}{several}, not named" if count else "none, the model gives features"
    more = ", ..." if len(names) > _MOST_CLASSES else ""
    between = "; " if any("," in name for name in names) else ", "
    return f"{count}{several}: {between.join(names[:_MOST_CLASSES])}{more}"
