"""The experiment file: one JSON, one run.

Names, defaults and the text of every error. Nothing here imports torch, so that a bad file is
answered at once.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from vit_lightning.errors import InputError
from vit_lightning.json_file import read_json
from vit_lightning.overrides import apply_overrides
from vit_lightning.settings import (
    AdaptSettings,
    DataSettings,
    ModelSettings,
    OptimSettings,
    Settings,
    TrainerSettings,
)


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
    adapt: AdaptSettings = AdaptSettings()
    optim: OptimSettings = OptimSettings()
    trainer: TrainerSettings
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    loggers: tuple[Literal["tensorboard", "csv", "wandb", "mlflow"], ...] = ("tensorboard", "csv")
    runs_dir: Annotated[str, Field(description="where runs keep everything")] = "runs"
    checkpoint_dir: Annotated[str, Field(description="where the best checkpoint is copied")] = (
        "checkpoint"
    )

    @model_validator(mode="after")
    def _classes_are_balanced_once(self) -> Self:
        if self.data.sampling == "balanced" and self.optim.class_weights == "balanced":
            raise ValueError(
                "data.sampling and optim.class_weights are both balanced, which corrects the "
                "classes' shares twice: take one of them"
            )
        return self

    @model_validator(mode="after")
    def _averages_are_fine_enough(self) -> Self:
        if self.optim.ema_decay is not None and self.trainer.precision == "bf16-true":
            raise ValueError(
                "optim.ema_decay moves the average by less than the weights of "
                "trainer.precision bf16-true can express: take bf16-mixed or 32"
            )
        return self

    @model_validator(mode="after")
    def _what_is_kept_was_learnt(self) -> Self:
        if self.adapt.needs_weights and self.model.weights is None:
            raise ValueError(
                "adapt keeps weights as they are, and with model.weights null they are random: "
                "name weights, or take adapt.method full without head_first_steps"
            )
        return self

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


def short_values(experiment: Experiment) -> dict[str, Any]:
    """An experiment as a file would say it, without what is as by default."""
    return experiment.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, exclude={"schema_"}
    )


def _location(detail: dict[str, Any]) -> list[int | str]:
    """Where an error is; an unknown key is a word of the file, whatever it looks like."""
    parts = list(detail["loc"])
    key = [parts.pop()] if detail["type"] == "extra_forbidden" else []
    before = [None, *parts]
    shown = [
        part
        for part, previous in zip(parts, before, strict=False)
        # What follows the branch for dictionaries is a key of one, and as free.
        if str(previous).startswith("dict[") or not _is_union_branch(part)
    ]
    return shown + key


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
