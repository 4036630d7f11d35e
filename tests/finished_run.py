"""What the fixture ``finished`` hands out."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vit_lightning.run import TrainResult


@dataclass(frozen=True)
class Finished:
    """A finished run of two validations on the digits: its file, its result, what it printed."""

    experiment: Path
    result: "TrainResult"
    output: str
