"""The data's part of an experiment file."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vit_lightning.settings.augmentation import AugmentationSettings
from vit_lightning.settings.base import PositiveInt, Settings


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


class OnDeviceSettings(Settings):
    """Training pictures held where the model is, and augmented there."""

    side: Annotated[
        PositiveInt | None,
        Field(
            description="height and width, in pixels, that every picture is scaled to; crops keep "
            "its own aspect ratio; null: all have one size and are held as they are"
        ),
    ] = None


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
    leave_out: Annotated[
        tuple[str, ...],
        Field(description="classes to leave out, with every picture that shows them"),
    ] = ()
    class_names: Annotated[
        str | None,
        Field(
            description="a .tsv or .csv of two columns without a header: a class as it is found, "
            "and what to call it; null: as found"
        ),
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
    on_device: Annotated[
        OnDeviceSettings | None,
        Field(
            description="hold the training pictures where the model is, as one array of 8 bits, "
            "and augment them there; {} for the defaults"
        ),
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
