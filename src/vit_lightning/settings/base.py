"""What the parts of an experiment file have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]  # so that products still fit an index
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(BaseModel):
    """A part of the file: frozen, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
