"""vit-lightning: the Vision Transformer in PyTorch and Lightning.

Everything public is imported from here; nothing heavy is loaded before it is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vit_lightning.assess import EvaluateResult, evaluate
    from vit_lightning.attention import attention_maps, attention_rollout
    from vit_lightning.convert import Conversion, convert_model
    from vit_lightning.errors import InputError
    from vit_lightning.experiment import Experiment, load_experiment
    from vit_lightning.export import Export, export_onnx
    from vit_lightning.factory import (
        ModelBundle,
        create_bundle,
        create_model,
        load_bundle,
        load_model,
        save_model,
    )
    from vit_lightning.inference import for_inference
    from vit_lightning.models.config import ResNetConfig, ViTConfig
    from vit_lightning.models.merging import merge_tokens
    from vit_lightning.models.presets import PRESETS
    from vit_lightning.models.vit import VisionTransformer
    from vit_lightning.parity.stages import ParityReport
    from vit_lightning.parity.verify import verify
    from vit_lightning.prediction import Prediction, predict
    from vit_lightning.probe.run import BaselineResult, baseline
    from vit_lightning.publish.push import Pushed, push
    from vit_lightning.run import TrainResult, train
    from vit_lightning.training.task import VisionTask

_HOMES = {
    "EvaluateResult": "assess",
    "evaluate": "assess",
    "attention_maps": "attention",
    "attention_rollout": "attention",
    "Conversion": "convert",
    "convert_model": "convert",
    "InputError": "errors",
    "Experiment": "experiment",
    "OptimSettings": "settings",
    "load_experiment": "experiment",
    "Export": "export",
    "export_onnx": "export",
    "ModelBundle": "factory",
    "create_bundle": "factory",
    "create_model": "factory",
    "load_bundle": "factory",
    "load_model": "factory",
    "save_model": "factory",
    "for_inference": "inference",
    "ResNetConfig": "models.config",
    "ViTConfig": "models.config",
    "merge_tokens": "models.merging",
    "PRESETS": "models.presets",
    "VisionTransformer": "models.vit",
    "ParityReport": "parity.stages",
    "verify": "parity.verify",
    "Prediction": "prediction",
    "predict": "prediction",
    "BaselineResult": "probe.run",
    "baseline": "probe.run",
    "Pushed": "publish.push",
    "push": "publish.push",
    "TrainResult": "run",
    "train": "run",
    "VisionTask": "training.task",
}

__all__ = [  # noqa: RUF022  # in the order of a user's way, not of the alphabet
    "create_model",
    "create_bundle",
    "load_model",
    "load_bundle",
    "save_model",
    "convert_model",
    "Conversion",
    "export_onnx",
    "Export",
    "verify",
    "ParityReport",
    "push",
    "Pushed",
    "ModelBundle",
    "for_inference",
    "merge_tokens",
    "PRESETS",
    "ViTConfig",
    "ResNetConfig",
    "VisionTransformer",
    "Experiment",
    "load_experiment",
    "baseline",
    "BaselineResult",
    "train",
    "TrainResult",
    "evaluate",
    "EvaluateResult",
    "predict",
    "Prediction",
    "attention_maps",
    "attention_rollout",
    "VisionTask",
    "OptimSettings",
    "InputError",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
