"""The part of an experiment file that says what of a model is trained, and how fast."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from vit_lightning.settings.base import Fraction, PositiveInt, Settings

_METHOD = r"^(full|linear|lora|last-[1-9][0-9]{0,3})$"


def _known_method(method: str) -> str:
    if re.fullmatch(_METHOD, method) is None:
        raise ValueError(
            f'there is no method "{method}": take full, linear, lora, or last-N with the number '
            f"of blocks to train, such as last-2"
        )
    return method


class LoRASettings(Settings):
    """Low-rank updates of dense layers (Hu et al. 2021)."""

    rank: Annotated[PositiveInt, Field(description="of each update")] = 8
    alpha: Annotated[float, Field(gt=0.0, description="an update counts alpha / rank times")] = 16.0
    targets: Annotated[
        tuple[Literal["qkv", "proj", "fc1", "fc2"], ...],
        Field(
            min_length=1,
            description="layers of every block: qkv and proj of the attention, fc1 and fc2 of "
            "the MLP",
        ),
    ] = ("qkv", "proj")
    dropout: Annotated[Fraction, Field(description="of what enters an update")] = 0.0

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.targets)) < len(self.targets):
            raise ValueError("targets: each layer can be named once")
        return self


class AdaptSettings(Settings):
    """Which weights are trained; all others stay as they are, bit for bit."""

    method: Annotated[
        str,
        AfterValidator(_known_method),
        Field(
            json_schema_extra={"pattern": _METHOD},
            description="full: all; linear: the head alone; last-N: the last N blocks, the last "
            "norm, pre_logits and the head; lora: low-rank updates and the head",
        ),
    ] = "full"
    lora: Annotated[
        LoRASettings | None, Field(description="of method lora; null: its defaults")
    ] = None
    layer_decay: Annotated[
        float,
        Field(
            gt=0.0,
            le=1.0,
            description="the learning rate of each layer is this times that of the next; the "
            "head's is optim.lr",
        ),
    ] = 1.0
    head_first_steps: Annotated[
        int,
        Field(ge=0, description="optimizer steps at the start in which the head alone is trained"),
    ] = 0

    @property
    def last_blocks(self) -> int | None:
        """N of last-N; None with other methods."""
        name, _, number = self.method.partition("-")
        return int(number) if name == "last" else None

    @property
    def needs_weights(self) -> bool:
        """Whether something keeps the values that the model begins with, for a while or always."""
        return self.method != "full" or self.head_first_steps > 0

    @model_validator(mode="after")
    def _parts_belong_together(self) -> Self:
        if self.lora is not None and self.method != "lora":
            raise ValueError(
                f"lora is of method lora, and the method is {self.method}: set adapt.method to "
                f"lora, or adapt.lora to null"
            )
        if self.method == "linear" and (self.layer_decay < 1.0 or self.head_first_steps):
            raise ValueError(
                "linear trains the head alone, to the end: layer_decay and head_first_steps are "
                "for the other methods"
            )
        return self
