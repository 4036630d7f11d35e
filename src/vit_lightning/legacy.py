"""Experiment files of the predecessor: recognised, and answered with today's equivalent."""

import json
import re
from collections.abc import Mapping
from typing import Any

from vit_lightning.overrides import put

_TYPICAL = {"model_type", "pretrained_dir", "train_batch_size", "img_size", "local_rank"}

# Old flat name → path in today's file.
_RENAMED = {
    "name": "name",
    "model_type": "model.name",
    "pretrained_dir": "model.weights",
    "img_size": "model.image_size",
    "patch_size": "model.patch_size",
    "hidden_size": "model.embed_dim",
    "mlp_dim": "model.mlp_dim",
    "num_heads": "model.num_heads",
    "num_layers": "model.depth",
    "dataset": "data.name",
    "train_batch_size": "data.batch_size",
    "eval_batch_size": "data.eval_batch_size",
    "num_workers": "data.workers",
    "learning_rate": "optim.lr",
    "weight_decay": "optim.weight_decay",
    "max_epochs": "trainer.max_epochs",
    "logdir": "runs_dir",
}
# The number of classes comes from the pictures, the rank from the launcher.
_DROPPED = {"num_classes", "local_rank", "pretrained"}


def is_legacy(values: Mapping[str, Any]) -> bool:
    """Whether a JSON object is one of the predecessor's flat experiment files."""
    return len(_TYPICAL & set(values)) >= 2 and not {"model", "data", "trainer"} & set(values)


def convert_legacy(values: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Today's file for a predecessor's one.

    Args:
        values: the flat JSON object.

    Returns:
        The new file's text, and the old keys that have no place in it.
    """
    new: dict[str, Any] = {
        "name": "experiment",
        "description": "Converted from a flat experiment file of the predecessor.",
        "model": {},
        "data": {"name": "hymenoptera"},
        "optim": {},
        "trainer": {},
    }
    unknown = []
    for key, value in values.items():
        if key in _RENAMED:
            put(new, _RENAMED[key], value)
        elif key not in _DROPPED:
            unknown.append(key)
    if str(values.get("model_type", "")).startswith("R"):
        new["model"].pop("patch_size", None)  # pixels there, cells of the stem's output here
    new["data"] |= _data(str(new["data"]["name"]))
    new["name"] = re.sub(r"[^A-Za-z0-9._+-]+", "_", str(new["name"])).strip("._+-") or "experiment"
    if values.get("pretrained") is True:
        new["model"].setdefault("weights", f"checkpoint/{values.get('model_type', 'ViT-B_16')}.npz")
    if values.get("pretrained") is False:
        new["model"]["weights"] = None
    new["trainer"].setdefault("max_epochs", 25)
    return json.dumps(new, indent=2) + "\n", unknown


def _data(dataset: str) -> dict[str, str]:
    """Name and root of a data set of the predecessor; an unknown one is a folder of pictures."""
    name = dataset.lower().replace("-", "").removesuffix("_data")
    if name == "hymenoptera":
        return {"name": name, "root": "data/hymenoptera_data"}
    if name in {"cifar10", "cifar100"}:
        return {"name": name, "root": f"data/{name}"}
    return {"name": "folder", "root": f"data/{dataset}"}
