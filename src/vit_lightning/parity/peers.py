"""The same weights in another library: timm or transformers, which only this needs."""

import importlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vit_lightning.convert import CannotExpressError, Target, convert_model
from vit_lightning.errors import InputError
from vit_lightning.factory import ModelBundle
from vit_lightning.json_file import read_json
from vit_lightning.parity.stages import Stages, as_array, watched_stages


@dataclass(frozen=True)
class Peer:
    """A model in another library.

    Args:
        name: the library, its version, and where the weights came from.
        stages: pictures (B, C, H, W) → stages.
    """

    name: str
    stages: Callable[[Tensor], Stages]


@dataclass(frozen=True)
class _Library:
    """How a library is used.

    Args:
        layout: its name in ``convert_model``.
        signature: the key that its ``config.json`` has, and the other's has not.
        load: the library and a directory → its model.
        stages: its model and pictures → stages.
    """

    layout: Target
    signature: str
    load: Callable[[Any, Path], Any]
    stages: Callable[[Any, Tensor], Stages]


def load_peer(library: str, bundle: ModelBundle, *, as_stored: bool) -> Peer:
    """A model of ours in another library.

    Args:
        library: one of :data:`LIBRARIES`.
        bundle: the model.
        as_stored: whether it is as its file has it; then a directory in the library's own layout
            is read by the library itself. Else it reads what :func:`convert_model` writes.

    Raises:
        InputError: the library is not there or does not work, or cannot express the model.
    """
    module, how = _import(library), _LIBRARIES[library]
    directory = _own_directory(bundle, how.signature) if as_stored else None
    with tempfile.TemporaryDirectory() as folder:
        if directory is None:
            origin, readable = "which read these weights converted", Path(folder) / "model"
            try:
                convert_model(bundle, readable, to=how.layout)
            except CannotExpressError as error:
                raise InputError(
                    f"{error.reason}: there is nothing to compare with; verify without --against"
                ) from error
        else:
            origin, readable = f"which read {directory} itself", directory
        try:
            model = how.load(module, readable).to("cpu", torch.float32).eval()
        # What another library raises has no bounds.
        except Exception as error:
            raise InputError(f"{library} cannot read {readable}: {error}") from error
    return Peer(
        f"{library} {module.__version__}, {origin}", lambda pictures: how.stages(model, pictures)
    )


def _import(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise InputError(
            f"{library} cannot be imported ({error}): install it, with pip install {library}"
        ) from error
    except RuntimeError as error:
        raise InputError(
            f"{library} cannot be imported ({error}): it uses torchvision, and the torchvision "
            f"that is installed was built for another torch; install the one that belongs to "
            f"torch {torch.__version__}"
        ) from error


def _own_directory(bundle: ModelBundle, signature: str) -> Path | None:
    """The directory that the weights came in, if it is in the layout of a library.

    None for an official name, also where a library's directory answered it: such weights are read
    with the original's numerics, which are not those that the library would take from there.
    """
    located = bundle.located
    if located is None or located.official is not None:
        return None
    config = located.companions.get("config.json")
    if config is None or config.parent != located.path.parent:
        return None
    return config.parent if signature in read_json(config, "configuration") else None


def _load_timm(timm: Any, directory: Path) -> Any:
    return timm.create_model(f"local-dir:{directory}", pretrained=True)


def _timm_stages(model: Any, pictures: Tensor) -> Stages:
    modules: dict[str, nn.Module] = {"embedding": model.pos_drop}
    if (backbone := getattr(model.patch_embed, "backbone", None)) is not None:
        modules["stem.conv"] = getattr(backbone, "stem", backbone).conv
        stages = getattr(backbone, "stages", ())
        modules |= {f"stages.{index}": stage for index, stage in enumerate(stages)}
    modules |= {f"blocks.{index}": block for index, block in enumerate(model.blocks)}
    if not isinstance(model.norm, nn.Identity):
        modules["encoded"] = model.norm
    return watched_stages(model, modules, model.head, pictures)


def _load_transformers(transformers: Any, directory: Path) -> Any:
    names = read_json(directory / "config.json", "configuration").get("architectures") or []
    classifies = any(str(name).endswith("ForImageClassification") for name in names)
    auto = transformers.AutoModelForImageClassification if classifies else transformers.AutoModel
    with _silent(transformers.utils.logging):
        model, found = auto.from_pretrained(
            directory, local_files_only=True, output_loading_info=True
        )
    missing = {key for key in found["missing_keys"] if not key.startswith("pooler.")}
    if missing:
        raise InputError(f"these weights are missing: {', '.join(sorted(missing))}")
    if found["missing_keys"]:
        model.pooler = None  # it was made up
    return model


@contextmanager
def _silent(logging: Any) -> Iterator[None]:
    """Without the progress bar and notes of transformers."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _transformers_stages(model: Any, pictures: Tensor) -> Stages:
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        embedding, *blocks = output.hidden_states
        seen["embedding"] = embedding
        seen.update({f"blocks.{index}": block for index, block in enumerate(blocks)})
        seen["encoded"] = output.last_hidden_state
        if output.pooler_output is not None:
            seen["pre_logits"] = output.pooler_output

    handle = model.base_model.register_forward_hook(keep)
    try:
        with torch.inference_mode():
            output = model(pictures, output_hidden_states=True, return_dict=True)
    finally:
        handle.remove()
    if "logits" in output:
        seen |= {"pre_logits": seen["encoded"][:, 0], "logits": output.logits}
    return {name: as_array(tensor) for name, tensor in seen.items()}


_LIBRARIES = {
    "timm": _Library("timm", "architecture", _load_timm, _timm_stages),
    "transformers": _Library("huggingface", "model_type", _load_transformers, _transformers_stages),
}

LIBRARIES = tuple(_LIBRARIES)
"""What a model can be compared with."""
