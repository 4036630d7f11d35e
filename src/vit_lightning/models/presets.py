"""Official name → configuration, a row each (original ``vit_jax/configs/models.py``)."""

import difflib
import re

from vit_lightning.errors import InputError
from vit_lightning.models.config import Pool, ResNetConfig, ViTConfig

# Sizes of the paper's table 1 and of "How to train your ViT?" (AugReg), table 2.
_SIZES: dict[str, dict[str, int]] = {
    "Ti": {"embed_dim": 192, "depth": 12, "num_heads": 3, "mlp_dim": 768},
    "S": {"embed_dim": 384, "depth": 12, "num_heads": 6, "mlp_dim": 1536},
    "B": {"embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072},
    "L": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096},
    "H": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "mlp_dim": 5120},
}


def _vit(
    size: str,
    patch: int,
    *,
    pool: Pool = "token",
    dropout: float = 0.0,
    stages: tuple[int, ...] | None = None,
) -> ViTConfig:
    return ViTConfig(
        **_SIZES[size],  # type: ignore[arg-type]  # mypy matches the row against every field
        patch_size=(patch, patch),
        pool=pool,
        dropout=dropout,
        resnet=None if stages is None else ResNetConfig(stages),
    )


# The dropout of 0.1 stands in the original's configuration of these four models.
PRESETS: dict[str, ViTConfig] = {
    "ViT-Ti_16": _vit("Ti", 16),
    "ViT-S_16": _vit("S", 16),
    "ViT-S_32": _vit("S", 32),
    "ViT-B_8": _vit("B", 8),
    "ViT-B_16": _vit("B", 16),
    "ViT-B_32": _vit("B", 32),
    "ViT-L_16": _vit("L", 16, dropout=0.1),
    "ViT-L_32": _vit("L", 32),
    "ViT-H_14": _vit("H", 14, dropout=0.1),
    "ViT-S_16-gap-norep": _vit("S", 16, pool="gap"),
    "ViT-S_32-gap-norep": _vit("S", 32, pool="gap"),
    "ViT-B_16-gap-norep": _vit("B", 16, pool="gap"),
    "ViT-B_32-gap-norep": _vit("B", 32, pool="gap"),
    "R+ViT-Ti_16": _vit("Ti", 8, stages=()),
    "R26+ViT-S_32": _vit("S", 1, stages=(2, 2, 2, 2)),
    "R26+ViT-B_32": _vit("B", 1, stages=(2, 2, 2, 2)),
    "R50+ViT-B_16": _vit("B", 1, stages=(3, 4, 9), dropout=0.1),
    "R50+ViT-L_32": _vit("L", 1, stages=(3, 4, 6, 3), dropout=0.1),
}


def preset_name(name: str) -> str:
    """The canonical name of a preset, from it or an alias.

    Aliases: ``R50-ViT-B_16`` (the PyTorch ports), ``Ti_16``, ``R_Ti_16``, ``R26_S_32`` (AugReg's
    files), and any of them with ``-224``, a resolution rather than another model.

    Raises:
        InputError: no such preset; the message offers the nearest.
    """
    plain = name.removesuffix("-224")
    if match := re.fullmatch(r"(R\d*)[-_+](?:ViT-)?(\w+_\d+)", plain):
        plain = f"{match[1]}+ViT-{match[2]}"
    elif re.fullmatch(r"(Ti|S|B|L|H)_\d+", plain):
        plain = f"ViT-{plain}"
    if plain in PRESETS:
        return plain
    if "mixer" in name.lower():
        raise InputError(
            f"{name!r} is an MLP-Mixer, not a Vision Transformer; this package has no Mixer. "
            f"Known models: {', '.join(PRESETS)}"
        )
    near = difflib.get_close_matches(plain, PRESETS, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown model {name!r}.{hint} Known: {', '.join(PRESETS)}")


def preset(name: str) -> ViTConfig:
    """The configuration of a preset at 224 px with 1,000 classes; see :func:`preset_name`."""
    return PRESETS[preset_name(name)]
