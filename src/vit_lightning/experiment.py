"""The experiment file: one JSON, one run.

Names, defaults and the text of every error. Nothing here imports torch, so that a bad file is
answered at once.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vit_lightning.errors import InputError
from vit_lightning.json_file import read_json
from vit_lightning.overrides import apply_overrides

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]  # so that products still fit an index
ImageSize = PositiveInt | tuple[PositiveInt, PositiveInt]


class Settings(BaseModel):
    """A part of the file: frozen, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ResNetSettings(Settings):
    """The convolutional stem of a hybrid."""

    stage_depths: Annotated[
        list[PositiveInt], Field(description="residual units of each stage; [] is the root alone")
    ]
    width: Annotated[int, Field(gt=0, multiple_of=32, description="channels of the root")] = 64


class ModelSettings(Settings):
    """Which model, from which weights, and what differs from the preset."""

    name: Annotated[
        str | None, Field(description="a preset; null: as in the weights, or as given below")
    ] = "ViT-B_16"
    weights: Annotated[
        str | None,
        Field(
            description="a file or folder, an official name (imagenet21k/ViT-B_16), a Hub id "
            "(timm/vit_base_patch16_224.augreg_in21k) or an address; null: from scratch"
        ),
    ] = None
    keep_head: Annotated[
        bool, Field(description="keep the weights' head instead of starting from zeros")
    ] = False
    keep_pre_logits: Annotated[
        bool, Field(description="keep the weights' pre_logits layer instead of dropping it")
    ] = False
    image_size: Annotated[
        ImageSize | None, Field(description="pixels, one side or [height, width]")
    ] = None
    in_channels: Annotated[
        Literal[1, 3] | None, Field(description="1 is grey; null: the weights', else 3")
    ] = None
    patch_size: ImageSize | None = None
    embed_dim: PositiveInt | None = None
    depth: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    mlp_dim: PositiveInt | None = None
    pool: Literal["token", "gap"] | None = None
    representation_size: PositiveInt | None = None
    dropout: Fraction | None = None
    attention_dropout: Fraction | None = None
    drop_path: Fraction | None = None
    activation: Literal["gelu_tanh", "gelu"] | None = None
    norm_eps: Annotated[float, Field(gt=0.0)] | None = None
    resnet: ResNetSettings | None = None

    @model_validator(mode="after")
    def _shape_is_known(self) -> Self:
        shape = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_dim")
        missing = [name for name in shape if getattr(self, name) is None]
        if self.name is None and self.weights is None and missing:
            raise ValueError(
                f"without a name and weights the shape must be given; missing: {missing}"
            )
        return self

    def changes(self) -> dict[str, Any]:
        """The fields of the model's configuration that the file states."""
        apart = {"name", "weights", "keep_head", "keep_pre_logits", "image_size", "in_channels"}
        return self.model_dump(exclude=apart, exclude_none=True)


class AugmentationSettings(Settings):
    """What happens to a training picture; each null or 0 is off."""

    crop: Annotated[
        Literal["paper", "modern", "none"] | None,
        Field(description="null: paper where pictures are preprocessed so, else modern"),
    ] = None
    flip: Annotated[bool, Field(description="left-right, with probability one half")] = True
    degrees: Annotated[float, Field(ge=0.0, le=180.0, description="rotation up to")] = 0.0
    translate: Annotated[Fraction, Field(description="shift up to this fraction")] = 0.0
    scale: Annotated[float, Field(ge=0.0, le=0.9, description="zoom by 1 - scale to 1 + scale")] = (
        0.0
    )


class DataSettings(Settings):
    """Which pictures, how many at once, and what is done to them."""

    name: Annotated[
        Literal["folder", "hymenoptera", "cifar10", "cifar100", "digits"],
        Field(description="folder: your own pictures, a folder for each class"),
    ] = "folder"
    root: Annotated[str | None, Field(description="the folder; not needed by digits")] = None
    val_fraction: Annotated[
        float | None,
        Field(gt=0.0, lt=1.0, description="held out of train/ where there is no val/"),
    ] = None
    batch_size: Annotated[
        PositiveInt, Field(description="pictures of one optimizer step, over all ranks")
    ] = 10
    eval_batch_size: Annotated[
        PositiveInt, Field(description="pictures of an evaluation batch, for each rank")
    ] = 32
    workers: Annotated[
        int | None, Field(ge=0, description="loading processes; null: by the number of cores")
    ] = None
    preprocessing: Annotated[
        Literal["paper", "modern"] | None,
        Field(
            description="modern is antialiased and keeps the aspect ratio; null: the weights' own, "
            "else paper. Mean and std are the weights' in any case"
        ),
    ] = None
    augmentation: AugmentationSettings = AugmentationSettings()

    @model_validator(mode="after")
    def _has_root(self) -> Self:
        if self.name != "digits" and self.root is None:
            raise ValueError(f'"{self.name}" needs a root, the folder with the pictures')
        return self


class OptimSettings(Settings):
    """How the weights are changed; the defaults are the paper's fine-tuning recipe."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0.0, description="peak learning rate")] = 0.03
    momentum: Annotated[Fraction, Field(description="of sgd")] = 0.9
    momentum_dtype: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="bfloat16 halves the buffer, the original's default"),
    ] = "float32"
    betas: Annotated[tuple[Fraction, Fraction], Field(description="of adamw")] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0.0, description="on matrices and filters alone")] = 0.0
    warmup_steps: Annotated[
        int | None, Field(ge=0, description="null: 500, at most a tenth of the run")
    ] = None
    decay: Literal["cosine", "linear"] = "cosine"
    clip_norm: Annotated[
        float | None, Field(gt=0.0, description="global gradient norm; null: no clipping")
    ] = 1.0
    label_smoothing: Fraction = 0.0


class TrainerSettings(Settings):
    """How long, on what, how exactly."""

    max_steps: PositiveInt | None = None
    max_epochs: PositiveInt | None = None
    val_every_steps: PositiveInt | None = None
    val_every_epochs: PositiveInt | None = None
    checkpoint_every_steps: Annotated[
        PositiveInt, Field(description="last.ckpt; it is also written after each validation")
    ] = 500
    patience: Annotated[
        PositiveInt | None,
        Field(description="stop after this many validations without improvement"),
    ] = None
    micro_batch: Annotated[
        PositiveInt | None, Field(description="most pictures in memory at once, for each rank")
    ] = None
    precision: Annotated[
        Literal["auto", "32", "bf16-mixed", "16-mixed", "bf16-true"],
        BeforeValidator(lambda value: "32" if value == 32 else value),  # trainer.precision=32
        Field(description="auto: bf16-mixed on a GPU that has it, else 32"),
    ] = "auto"
    eval_precision: Annotated[
        Literal["32", "bf16-mixed"], Field(description="of the evaluation after the training")
    ] = "32"
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: PositiveInt | Literal["auto"] = "auto"
    num_nodes: PositiveInt = 1
    strategy: Annotated[
        Literal["auto", "ddp"], Field(description="auto: ddp for more than one device")
    ] = "auto"
    activation_checkpointing: Annotated[
        bool, Field(description="recompute blocks in the backward pass to save memory")
    ] = False
    deterministic: Annotated[
        bool, Field(description="let torch refuse operations that are not")
    ] = False
    log_every_steps: Annotated[PositiveInt, Field(description="steps between log lines")] = 10

    @model_validator(mode="after")
    def _one_of_each_pair(self) -> Self:
        if (self.max_steps is None) == (self.max_epochs is None):
            raise ValueError("give exactly one of max_steps and max_epochs")
        if self.val_every_steps is not None and self.val_every_epochs is not None:
            raise ValueError("give at most one of val_every_steps and val_every_epochs")
        if self.precision == "16-mixed" and self.accelerator == "cpu":
            raise ValueError("precision 16-mixed is for GPUs; on a CPU take 32 or bf16-mixed")
        return self


class Experiment(Settings):
    """A whole experiment file."""

    schema_: Annotated[str | None, Field(alias="$schema")] = None
    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$",
            description="names the run's folder and its checkpoint",
        ),
    ]
    description: Annotated[str, Field(description="for words, as JSON has no comments")] = ""
    expected: Annotated[str, Field(description="what the run is expected to give")] = ""
    model: ModelSettings = ModelSettings()
    data: DataSettings
    optim: OptimSettings = OptimSettings()
    trainer: TrainerSettings
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    loggers: list[Literal["tensorboard", "csv", "wandb", "mlflow"]] = ["tensorboard", "csv"]
    runs_dir: Annotated[str, Field(description="where runs keep everything")] = "runs"
    checkpoint_dir: Annotated[str, Field(description="where the best checkpoint is copied")] = (
        "checkpoint"
    )

    def to_json(self) -> str:
        """The file that stands for this experiment, defaults and all."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2) + "\n"


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and apply ``part.name=value`` overrides.

    Args:
        path: the JSON file.
        overrides: such as ``optim.lr=0.01``; values are JSON, or a string where they are not.

    Raises:
        InputError: no such file, no JSON, or settings that cannot be; all of them at once, each
            as ``file: path.to.field: what is wrong (got ...)``.
    """
    values = read_json(path)
    given = apply_overrides(values, overrides)
    return parse_experiment(values, str(path), given)


def resolve_experiment(
    experiment: Experiment | str | Path, overrides: Sequence[str] = ()
) -> Experiment:
    """An experiment as it is, or from a file with overrides; see :func:`load_experiment`.

    Raises:
        InputError: overrides for an experiment that is no file.
    """
    if not isinstance(experiment, Experiment):
        return load_experiment(Path(experiment), overrides)
    if overrides:
        raise InputError("overrides are for experiment files; change the Experiment itself")
    return experiment


def parse_experiment(
    values: Mapping[str, Any], source: str, overridden: Sequence[str] = ()
) -> Experiment:
    """Validate plain values as an experiment.

    Args:
        values: what the JSON file holds.
        source: what to call it in errors.
        overridden: dotted names that came from the command line, named so in errors.

    Raises:
        InputError: every error at once.
    """
    try:
        # JSON has no tuples: strict validation of JSON text takes its arrays for them.
        return Experiment.model_validate_json(json.dumps(values))
    except ValidationError as error:
        lines = [
            f"{_origin(dotted, source, overridden)}: {dotted}: {text}"
            for dotted, text in _describe_all([dict(item) for item in error.errors()]).items()
        ]
        raise InputError("\n".join(lines)) from None


def json_schema() -> str:
    """The JSON Schema of the file, for editors."""
    return json.dumps(Experiment.model_json_schema(by_alias=True), indent=2) + "\n"


def _origin(dotted: str, source: str, overridden: Sequence[str]) -> str:
    """Whose an error is: the file's, the command line's, or that of both together."""
    if any(f"{dotted}.".startswith(f"{name}.") for name in overridden):
        return "command line"
    if any(name.startswith(f"{dotted}.") for name in overridden):
        return f"{source} with the command line"
    return source


def _describe_all(details: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Pydantic's errors as path.to.field → what is wrong, in the order of the fields.

    The alternatives of a union each bring an error: those of one field are joined, and one about
    a whole value gives way to one about a part of it.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for detail in details:
        location = _location(detail)
        dotted = ".".join(str(part) for part in location) or "the file"
        found.setdefault(dotted, []).append(detail | {"loc": location})
    return {
        dotted: _describe(alternatives)
        for dotted, alternatives in found.items()
        if not any(other.startswith(f"{dotted}.") for other in found)
    }


def _describe(alternatives: Sequence[dict[str, Any]]) -> str:
    """What is wrong with one field: ``what is wrong (got ...)``."""
    detail = alternatives[0]
    if detail["type"] == "extra_forbidden":
        location = detail["loc"]
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known)}"
        return f"unknown key; {hint}"
    messages = [item["msg"].removeprefix("Value error, ") for item in alternatives]
    text = " or ".join([messages[0], *(message.removeprefix("Input ") for message in messages[1:])])
    text = text[:1].lower() + text[1:]
    if detail["type"] in {"missing", "value_error"}:
        return text
    got = json.dumps(detail["input"], default=repr, ensure_ascii=False)
    return f"{text} (got {got if len(got) <= 60 else got[:57] + '...'})"


def _location(detail: dict[str, Any]) -> list[int | str]:
    """Where an error is; an unknown key is a word of the file, whatever it looks like."""
    parts = list(detail["loc"])
    key = [parts.pop()] if detail["type"] == "extra_forbidden" else []
    return [part for part in parts if not _is_union_branch(part)] + key


def _is_union_branch(part: int | str) -> bool:
    """Pydantic names the tried alternative of a union in the path; a reader has no use for it."""
    return isinstance(part, str) and ("[" in part or "-" in part or part in {"int", "str", "float"})


def _known_keys(location: Sequence[int | str]) -> list[str]:
    settings: type[BaseModel] = Experiment
    for part in location:
        annotation = settings.model_fields[str(part)].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        settings = next(
            item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)
        )
    return [field.alias or name for name, field in settings.model_fields.items()]
