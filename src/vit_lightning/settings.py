"""The parts of an experiment file: names, defaults, ranges and what each is for."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]  # so that products still fit an index
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Bundle = Literal[
    "paper",
    "augreg-light1",
    "augreg-light2",
    "augreg-medium1",
    "augreg-medium2",
    "augreg-strong1",
    "augreg-strong2",
    "deit",
]
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


def _augreg(magnitude: int, mixup: float) -> dict[str, Any]:
    return {
        "crop": "paper",
        "flip": True,
        "randaugment": {"num_ops": 2, "magnitude": magnitude},
        "mixup": mixup,
    }


class RandAugmentSettings(Settings):
    """RandAugment (Cubuk et al. 2020): a few random operations of one strength."""

    num_ops: Annotated[PositiveInt, Field(description="operations on each picture")] = 2
    magnitude: Annotated[float, Field(ge=0.0, le=30.0, description="strength, of nominally 10")] = (
        10.0
    )
    magnitude_std: Annotated[
        float, Field(ge=0.0, le=10.0, description="spread of the strength, normal")
    ] = 0.0
    levels: Annotated[
        Literal["original", "increasing"],
        Field(
            description="original: TensorFlow's, in which posterize and solarize weaken with the "
            "magnitude; increasing: timm's, in which everything grows"
        ),
    ] = "original"


# What a name in `augmentation.bundle` stands for. AugReg: Steiner et al. 2022, appendix, (l, m, α)
# of RandAugment's operations and magnitude and of Mixup; dropout is the model's. DeiT: Touvron et
# al. 2021, table 9, and the command line of its code.
BUNDLES: dict[str, dict[str, Any]] = {
    "paper": {"crop": "paper", "flip": True},
    "augreg-light1": _augreg(magnitude=0, mixup=0.0),
    "augreg-light2": _augreg(magnitude=10, mixup=0.2),
    "augreg-medium1": _augreg(magnitude=15, mixup=0.2),
    "augreg-medium2": _augreg(magnitude=15, mixup=0.5),
    "augreg-strong1": _augreg(magnitude=20, mixup=0.5),
    "augreg-strong2": _augreg(magnitude=20, mixup=0.8),
    "deit": {
        "crop": "modern",
        "flip": True,
        "randaugment": {"magnitude": 9, "magnitude_std": 0.5, "levels": "increasing"},
        "erasing": 0.25,
        "mixup": 0.8,
        "cutmix": 1.0,
        "repeats": 3,
    },
}


class AugmentationSettings(Settings):
    """What happens to a training picture; each null or 0 is off."""

    bundle: Annotated[
        Bundle | None, Field(description="several at once; what is set beside it goes before")
    ] = None
    crop: Annotated[
        Literal["paper", "modern", "none"] | None,
        Field(description="null: paper where pictures are preprocessed so, else modern"),
    ] = None
    min_crop_area: Annotated[
        float,
        Field(gt=0.0, le=1.0, description="smallest share of the picture in a modern crop"),
    ] = 0.08
    flip: Annotated[bool, Field(description="left-right, with probability one half")] = True
    degrees: Annotated[float, Field(ge=0.0, le=180.0, description="rotation up to")] = 0.0
    translate: Annotated[Fraction, Field(description="shift up to this fraction")] = 0.0
    scale: Annotated[float, Field(ge=0.0, le=0.9, description="zoom by 1 - scale to 1 + scale")] = (
        0.0
    )
    randaugment: RandAugmentSettings | None = None
    trivialaugment: Annotated[
        bool, Field(description="one random operation of random strength (Müller & Hutter 2021)")
    ] = False
    color_jitter: Annotated[
        Fraction, Field(description="brightness, contrast, saturation by 1 - x to 1 + x")
    ] = 0.0
    erasing: Annotated[
        Probability, Field(description="of filling a random rectangle with noise")
    ] = 0.0
    mixup: Annotated[
        float, Field(ge=0.0, le=10.0, description="alpha of Mixup's Beta distribution")
    ] = 0.0
    cutmix: Annotated[
        float, Field(ge=0.0, le=10.0, description="alpha; with mixup each takes half the pairs")
    ] = 0.0
    mix_probability: Annotated[Probability, Field(description="of mixing a pair at all")] = 1.0
    repeats: Annotated[
        PositiveInt, Field(description="times that a batch holds each of its pictures")
    ] = 1

    @model_validator(mode="before")
    @classmethod
    def _fill_from_bundle(cls, values: Any) -> Any:
        name = values.get("bundle") if isinstance(values, dict) else None
        if not isinstance(name, str) or name not in BUNDLES:
            return values
        filled = BUNDLES[name] | values
        usual, given = BUNDLES[name].get("randaugment"), values.get("randaugment")
        if isinstance(usual, dict) and isinstance(given, dict):  # its settings one by one, too
            filled["randaugment"] = usual | given
        return filled

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        if self.randaugment is not None and self.trivialaugment:
            raise ValueError("take randaugment or trivialaugment, not both")
        return self


class CacheSettings(Settings):
    """Decoded pictures kept on disk, so that later epochs need not decode them."""

    shorter_side: Annotated[
        PositiveInt | None,
        Field(
            description="pictures are scaled down to this, in pixels, before they are kept; null: "
            "as they are, which changes nothing"
        ),
    ] = None
    max_gb: Annotated[
        float,
        Field(
            gt=0.0, le=1e6, description="most that all caches of the folder may take, in 10^9 bytes"
        ),
    ] = 50.0
    folder: Annotated[str | None, Field(description="null: the user's cache folder")] = None


class DataSettings(Settings):
    """Which pictures, how many at once, and what is done to them."""

    name: Annotated[
        Literal[
            "folder", "manifest", "huggingface", "hymenoptera", "cifar10", "cifar100", "digits"
        ],
        Field(
            description="folder: your own pictures, a folder for each class; manifest: a table of "
            "path, label and perhaps split; huggingface: a data set of the Hub"
        ),
    ] = "folder"
    root: Annotated[
        str | None,
        Field(
            description="the folder; of a manifest the .csv, .tsv or .parquet file; of huggingface "
            "the id or folder; not needed by digits"
        ),
    ] = None
    label_separator: Annotated[
        str | None,
        Field(
            min_length=1,
            description="between the labels of one picture in a .csv or .tsv manifest, such as |; "
            "null: every picture has exactly one",
        ),
    ] = None
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
    decoding: Annotated[
        Literal["full", "fast"],
        Field(
            description="fast decodes JPEGs at a reduced scale where the result is smaller still; "
            "on average over photographs of 0.2 megapixels values differ by less than 0.1 of 255 "
            "at 224 px and by 0.5 at 32 px, in some by more; not with preprocessing paper"
        ),
    ] = "full"
    cache: Annotated[
        CacheSettings | None, Field(description="keep decoded pictures; {} for the defaults")
    ] = None
    on_bad_image: Annotated[
        Literal["error", "skip"],
        Field(description="error: all unreadable pictures are told; skip: they are left out"),
    ] = "error"
    sampling: Annotated[
        Literal["uniform", "balanced"],
        Field(description="balanced: every class equally often in an epoch"),
    ] = "uniform"
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
    loss: Annotated[
        Literal["cross_entropy", "binary_cross_entropy", "focal"] | None,
        Field(
            description="null: binary_cross_entropy where pictures have several labels, else "
            "cross_entropy"
        ),
    ] = None
    focal_gamma: Annotated[float, Field(ge=0.0, description="focusing of the focal loss")] = 2.0
    class_weights: Annotated[
        Literal["balanced"] | dict[str, Annotated[float, Field(ge=0.0)]] | None,
        Field(description="balanced: the inverse of a class' share; or class → weight; null: 1"),
    ] = None


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
