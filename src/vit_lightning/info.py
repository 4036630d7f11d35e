"""What the models are, in words and figures."""

from pathlib import Path

import torch

from vit_lightning.checkpoints.weights import open_weights
from vit_lightning.models.config import ViTConfig
from vit_lightning.models.presets import PRESETS, preset, preset_name
from vit_lightning.models.vit import VisionTransformer


def count_parameters(config: ViTConfig) -> int:
    """Parameters of a model, which is not built for it."""
    with torch.device("meta"):
        model = VisionTransformer(config)
    return sum(parameter.numel() for parameter in model.parameters())


def preset_table() -> str:
    """Every preset with its sizes and parameter count at 224 px and 1,000 classes."""
    lines = [f"{'model':<20} {'dim':>5} {'depth':>5} {'heads':>5} {'tokens':>6} {'parameters':>12}"]
    for name, config in PRESETS.items():
        lines.append(
            f"{name:<20} {config.embed_dim:>5} {config.depth:>5} {config.num_heads:>5} "
            f"{config.num_tokens:>6} {count_parameters(config):>12,}"
        )
    return "\n".join(lines)


def describe_preset(name: str) -> str:
    """A preset's configuration, a line for each field."""
    config = preset(name)
    title = f"{preset_name(name)}: {count_parameters(config):,} parameters"
    return "\n".join([title, *_fields(config)])


def describe_file(path: Path) -> str:
    """What a weights file holds, by its headers: the weights are not read."""
    file = open_weights(path)
    config = file.config
    lines = [f"{path}: {count_parameters(config):,} parameters", *_fields(config)]
    if file.classes is not None:
        lines.append(f"  classes: {', '.join(file.classes)}")
    if file.preprocessing is not None:
        lines.append(f"  preprocessing: {file.preprocessing}")
    return "\n".join(lines)


def _fields(config: ViTConfig) -> list[str]:
    return [f"  {name}: {value}" for name, value in config.to_dict().items()]
