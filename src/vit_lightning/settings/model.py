"""The model's part of an experiment file."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vit_lightning.settings.base import Fraction, PositiveInt, Settings

ImageSize = PositiveInt | tuple[PositiveInt, PositiveInt]


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
