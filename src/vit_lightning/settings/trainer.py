"""The trainer's part of an experiment file."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from vit_lightning.settings.base import PositiveInt, Settings


def _as_a_choice(value: object) -> object:
    return ("none", "full")[value] if isinstance(value, bool) else value


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
        PositiveInt | Literal["auto"],
        BeforeValidator(lambda value: "auto" if value is None else value),  # as runs kept it once
        Field(
            description="most pictures in memory at once, for each rank; auto: as many as its free "
            "memory is measured to hold, and fewer where that was too much"
        ),
    ] = "auto"
    precision: Annotated[
        Literal["auto", "32", "bf16-mixed", "16-mixed", "bf16-true"],
        BeforeValidator(lambda value: "32" if value == 32 else value),  # trainer.precision=32
        Field(description="auto: bf16-mixed on a GPU that has it, else 32"),
    ] = "auto"
    eval_precision: Annotated[
        Literal["32", "bf16-mixed"], Field(description="of the evaluation after the training")
    ] = "32"
    linear: Annotated[
        Literal["auto", "torch", "onednn"],
        Field(description="dense layers on a CPU; auto: what a short measurement says"),
    ] = "auto"
    compile: Annotated[
        bool | Literal["auto"],
        Field(
            description="the training step by torch.compile; auto: on a GPU, for runs of more than "
            "about a quarter of an hour"
        ),
    ] = "auto"
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: PositiveInt | Literal["auto"] = "auto"
    num_nodes: PositiveInt = 1
    strategy: Annotated[
        Literal["auto", "ddp"], Field(description="auto: ddp for more than one device")
    ] = "auto"
    activation_checkpointing: Annotated[
        Literal["auto", "none", "selective", "full"],
        # As runs kept it once.
        BeforeValidator(_as_a_choice),
        Field(
            description="what the backward pass computes again to save memory: nothing, the "
            "activations inside the MLPs (selective), or whole blocks (full); auto: the "
            "activations on a CPU, where that costs next to nothing"
        ),
    ] = "auto"
    merge_tokens: Annotated[
        int,
        Field(
            ge=0,
            lt=2**31,
            description="pairs of tokens that each block merges, for speed, in training and "
            "evaluation",
        ),
    ] = 0
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
