"""The augmentation's part of an experiment file."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vit_lightning.settings.base import Fraction, PositiveInt, Probability, Settings

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

USUAL_CROP_AREA = 0.08
"""The smallest share of a picture in a modern crop, unless another is given."""


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
    ] = USUAL_CROP_AREA
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
        if self.min_crop_area != USUAL_CROP_AREA and self.crop in {"paper", "none"}:
            raise ValueError(f"min_crop_area is for crop modern, and crop is {self.crop}")
        return self
