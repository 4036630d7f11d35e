"""The optimizer's and the loss' part of an experiment file."""

from typing import Annotated, Literal

from pydantic import Field

from vit_lightning.settings.base import Fraction, Settings


class OptimSettings(Settings):
    """How the weights are changed; the defaults are the paper's fine-tuning recipe."""

    name: Annotated[
        Literal["sgd", "adamw", "muon"],
        Field(
            description="muon: adamw, but the blocks' matrices move by orthogonalised steps; the "
            "quicker learner from scratch. The default lr is for sgd: from scratch adamw takes "
            "about 0.001, muon 0.004"
        ),
    ] = "sgd"
    lr: Annotated[float, Field(gt=0.0, description="peak learning rate")] = 0.03
    momentum: Annotated[Fraction, Field(description="of sgd")] = 0.9
    momentum_dtype: Annotated[
        Literal["float32", "bfloat16"],
        Field(description="bfloat16 halves the buffer, the original's default"),
    ] = "float32"
    betas: Annotated[
        tuple[Fraction, Fraction], Field(description="of adamw, and of its part in muon")
    ] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0.0, description="on matrices and filters alone")] = 0.0
    warmup_steps: Annotated[
        int | None, Field(ge=0, description="null: 500, at most a tenth of the run")
    ] = None
    decay: Literal["cosine", "linear"] = "cosine"
    clip_norm: Annotated[
        float | None, Field(gt=0.0, description="global gradient norm; null: no clipping")
    ] = 1.0
    ema_decay: Annotated[
        Fraction | None,
        Field(
            description="of an exponential moving average of the weights, validated beside them "
            "and kept as the model; null: none"
        ),
    ] = None
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
