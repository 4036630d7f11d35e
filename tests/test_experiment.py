import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vit_lightning.errors import InputError
from vit_lightning.experiment import Experiment, json_schema, load_experiment, parse_experiment
from vit_lightning.settings import AugmentationSettings, RandAugmentSettings

EXPERIMENTS = Path(__file__).parents[1] / "experiments"

SMALLEST: dict[str, Any] = {
    "name": "it",
    "data": {"name": "digits"},
    "trainer": {"max_steps": 3},
}


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Write the smallest experiment with parts replaced, or any text."""

    def write(text: str | None = None, **parts: Any) -> Path:
        path = tmp_path / "it.json"
        path.write_text(json.dumps(SMALLEST | parts) if text is None else text, encoding="utf-8")
        return path

    return write


def _error(values: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        parse_experiment(values, "it.json")
    return str(caught.value)


# What is right


def test_defaults_are_the_papers_recipe() -> None:
    experiment = parse_experiment(SMALLEST, "it.json")
    assert experiment.model.name == "ViT-B_16"
    assert experiment.optim.model_dump() == {
        "name": "sgd",
        "lr": 0.03,
        "momentum": 0.9,
        "momentum_dtype": "float32",
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
        "warmup_steps": None,
        "decay": "cosine",
        "clip_norm": 1.0,
        "ema_decay": None,
        "label_smoothing": 0.0,
        "loss": None,  # cross-entropy, for one label a picture
        "focal_gamma": 2.0,  # of the focal loss alone
        "class_weights": None,
    }
    assert experiment.trainer.precision == "auto"
    assert experiment.data.preprocessing is None  # the weights', which for Google's is the paper's
    assert experiment.loggers == ("tensorboard", "csv")


def test_written_and_read_again_it_is_the_same(file: Callable[..., Path]) -> None:
    experiment = load_experiment(
        file(
            model={"name": "R50+ViT-B_16", "image_size": [224, 160]},
            optim={"name": "adamw", "betas": [0.9, 0.95]},
            **{"$schema": "./schema.json"},
        )
    )
    again = load_experiment(file(experiment.to_json()))
    assert again == experiment
    assert again.to_json() == experiment.to_json()
    assert json.loads(experiment.to_json())["$schema"] == "./schema.json"
    assert again.model.image_size == (224, 160)


def test_it_cannot_be_changed() -> None:
    experiment = parse_experiment(SMALLEST, "it.json")
    with pytest.raises(ValidationError, match="frozen"):
        experiment.optim.lr = 1.0  # type: ignore[misc]


def test_changes_are_what_the_file_says_of_the_models_shape() -> None:
    model = {"name": "ViT-B_16", "image_size": 32, "weights": "w.npz", "depth": 2, "dropout": 0.1}
    experiment = parse_experiment(SMALLEST | {"model": model}, "it.json")
    assert experiment.model.changes() == {"depth": 2, "dropout": 0.1}


def test_the_shipped_schema_is_current() -> None:
    shipped = (EXPERIMENTS / "schema.json").read_text(encoding="utf-8")
    assert shipped == json_schema(), (
        "experiments/schema.json is out of date; write it anew with\n"
        'python -c "from vit_lightning.experiment import json_schema; '
        "print(json_schema(), end='')\" > experiments/schema.json"
    )


def test_the_schema_knows_every_part() -> None:
    schema = json.loads(json_schema())
    assert set(schema["required"]) == {"name", "data", "trainer"}
    assert not schema["additionalProperties"]
    assert "$schema" in schema["properties"]
    assert "peak learning rate" in schema["$defs"]["OptimSettings"]["properties"]["lr"].values()


# What is wrong with the values


@pytest.mark.parametrize(
    ("parts", "place", "text"),
    [
        ({"optm": {}}, "optm", 'unknown key; did you mean "optim"?'),
        ({"zzz": 1}, "zzz", "unknown key; known: $schema, name, description, expected, model,"),
        ({"optim": {"momentun": 1}}, "optim.momentun", 'did you mean "momentum"?'),
        ({"data": {"name": "digits", "batch-size": 1}}, "data.batch-size", '"batch_size"?'),
        ({"model": {"str": 1}}, "model.str", "unknown key"),
        (
            {"data": {"name": "digits", "augmentation": {"flp": True}}},
            "data.augmentation.flp",
            'did you mean "flip"?',
        ),
        (
            {"model": {"resnet": {"stage_depths": [1], "widht": 64}}},
            "model.resnet.widht",
            'did you mean "width"?',
        ),
    ],
)
def test_unknown_key_is_answered_with_the_nearest(
    parts: dict[str, Any], place: str, text: str
) -> None:
    message = _error(SMALLEST | parts)
    assert message.startswith(f"it.json: {place}: unknown key; ")
    assert text in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("part", "values", "line"),
    [
        ("optim", {"lr": "0.1"}, 'optim.lr: input should be a valid number (got "0.1")'),
        ("optim", {"lr": 0}, "optim.lr: input should be greater than 0 (got 0)"),
        ("optim", {"lr": float("inf")}, "optim.lr: input should be a finite number (got Infinity)"),
        (
            "optim",
            {"name": "adam"},
            "optim.name: input should be 'sgd', 'adamw' or 'muon' (got \"adam\")",
        ),
        ("optim", {"betas": [0.9, 1]}, "optim.betas.1: input should be less than 1 (got 1)"),
        ("optim", [], "optim: input should be an object (got [])"),
        ("model", {"depth": 2.0}, "model.depth: input should be a valid integer (got 2.0)"),
        ("model", {"keep_head": 1}, "model.keep_head: input should be a valid boolean (got 1)"),
        ("model", {"in_channels": 2}, "model.in_channels: input should be 1 or 3 (got 2)"),
        ("seed", True, "seed: input should be a valid integer (got true)"),
        ("loggers", ["tb"], "loggers.0: input should be 'tensorboard', 'csv', 'wandb' or 'mlflow'"),
        ("trainer", {"max_steps": 10**30}, "trainer.max_steps: input should be less than 2147483"),
        ("name", "../up", "name: string should match pattern"),
        (
            "optim",
            {"name": "für"},
            "optim.name: input should be 'sgd', 'adamw' or 'muon' (got \"für\")",
        ),
    ],
)
def test_wrong_value_is_named_with_what_was_expected(part: str, values: Any, line: str) -> None:
    message = _error(SMALLEST | {part: values})
    assert message.startswith(f"it.json: {line}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("part", "values", "line"),
    [
        (
            "model",
            {"image_size": "224"},
            "model.image_size: input should be a valid integer or should be a valid array "
            '(got "224")',
        ),
        (
            "trainer",
            {"max_steps": 1, "devices": "all"},
            "trainer.devices: input should be a valid integer or should be 'auto' (got \"all\")",
        ),
        (
            "data",
            {"name": "digits", "preprocessing": "crop"},
            "data.preprocessing: input should be 'paper' or 'modern' (got \"crop\")",
        ),
        # An error about a part of a value says more than one about the whole.
        (
            "model",
            {"image_size": [224, 0]},
            "model.image_size.1: input should be greater than 0 (got 0)",
        ),
    ],
)
def test_alternatives_of_a_field_are_one_error(
    part: str, values: dict[str, Any], line: str
) -> None:
    assert _error(SMALLEST | {part: values}) == f"it.json: {line}"


def test_long_values_are_cut() -> None:
    message = _error(SMALLEST | {"seed": "x" * 500})
    assert message.endswith("xxx...)")
    assert len(message) < 150


def test_all_errors_come_at_once_in_the_order_of_the_fields() -> None:
    wrong = {
        "data": {"name": "digits", "batch_size": 0},
        "optim": {"lr": "x"},
        "trainer": {"max_stps": 3},
        "colour": "red",
    }
    assert [line.split(": ")[1] for line in _error(wrong).splitlines()] == [
        "name",
        "data.batch_size",
        "optim.lr",
        "trainer.max_stps",
        "colour",
    ]


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"trainer": {}}, "trainer: give exactly one of max_steps and max_epochs"),
        (
            {"trainer": {"max_steps": 1, "max_epochs": 1}},
            "trainer: give exactly one of max_steps and max_epochs",
        ),
        (
            {"trainer": {"max_steps": 1, "val_every_steps": 1, "val_every_epochs": 1}},
            "trainer: give at most one of val_every_steps and val_every_epochs",
        ),
        (
            {"trainer": {"max_steps": 1, "precision": "16-mixed", "accelerator": "cpu"}},
            "trainer: precision 16-mixed is for GPUs; on a CPU take 32 or bf16-mixed",
        ),
        ({"data": {}}, 'data: "folder" needs a root, the folder with the pictures'),
        (
            {"model": {"name": None, "depth": 1, "mlp_dim": 8}},
            "model: without a name and weights the shape must be given; missing: "
            "['patch_size', 'embed_dim', 'num_heads']",
        ),
        (
            {
                "data": {"root": "p", "sampling": "balanced"},
                "optim": {"class_weights": "balanced"},
            },
            "the file: data.sampling and optim.class_weights are both balanced, which corrects the "
            "classes' shares twice: take one of them",
        ),
    ],
)
def test_settings_that_do_not_go_together(parts: dict[str, Any], line: str) -> None:
    assert _error(SMALLEST | parts) == f"it.json: {line}"


# What is wrong with the file


def test_missing_file_is_answered_with_the_nearest(
    file: Callable[..., Path], tmp_path: Path
) -> None:
    path = file()
    with pytest.raises(InputError) as caught:
        load_experiment(tmp_path / "itt.json")
    assert str(caught.value) == (
        f"{tmp_path / 'itt.json'}: there is no such experiment file; did you mean {path}?"
    )
    with pytest.raises(InputError, match=r"there is no such experiment file$"):
        load_experiment(tmp_path / "nowhere" / "it.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "it",}', "line 1, column 15: not valid JSON"),
        ("{\n  \"name\": 'it'\n}", "line 2, column 11: not valid JSON: Expecting value"),
        ("", "line 1, column 1: not valid JSON"),
        ("[1]", "the experiment must be a JSON object, in braces { }"),
        ('{"name": "a", "name": "b"}', 'the key "name" stands twice in one object'),
        ('{"optim": {"lr": 1, "lr": 2}}', 'the key "lr" stands twice in one object'),
        ("[" * 100_000, "cannot be read as a JSON text file"),
        ('{"seed": ' + "9" * 5000 + "}", "cannot be read as a JSON text file"),
    ],
)
def test_file_that_is_no_experiment(file: Callable[..., Path], text: str, expected: str) -> None:
    path = file(text)
    with pytest.raises(InputError) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(f"{path}: {expected}")


def test_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_bytes(b"\xff\xfe{")
    for wrong in (path, tmp_path):
        with pytest.raises(InputError, match="cannot be read as a JSON text file"):
            load_experiment(wrong)


def test_byte_order_mark_does_no_harm(file: Callable[..., Path]) -> None:
    text = json.dumps(SMALLEST)
    assert load_experiment(file("\ufeff" + text)) == load_experiment(file(text))


# Overrides


def test_overrides_are_json_or_strings(file: Callable[..., Path]) -> None:
    path = file(model={"resnet": None}, optim={"lr": 1.0})
    experiment = load_experiment(
        path,
        [
            "optim.lr=0.5",
            "optim.lr=0.01",
            "model.image_size=[32, 48]",
            "model.weights=checkpoint/a=b.npz",
            "model.resnet.stage_depths=[1]",
            "data.augmentation.flip=false",
            'description="two words"',
            "optim.clip_norm=null",
            "trainer.precision=32",
        ],
    )
    assert experiment.optim.lr == 0.01  # the last one counts
    assert experiment.model.image_size == (32, 48)
    assert experiment.model.weights == "checkpoint/a=b.npz"
    assert experiment.model.resnet is not None
    assert experiment.model.resnet.stage_depths == [1]
    assert experiment.data.augmentation.flip is False
    assert experiment.description == "two words"
    assert experiment.optim.clip_norm is None
    assert experiment.trainer.precision == "32"


def test_an_override_can_fill_what_the_file_lacks(file: Callable[..., Path]) -> None:
    path = file('{"name": "it"}')
    experiment = load_experiment(path, ["data.name=digits", "trainer.max_steps=7"])
    assert experiment == parse_experiment(SMALLEST | {"trainer": {"max_steps": 7}}, "it.json")


@pytest.mark.parametrize("text", ["optim.lr", "=3", ".lr=3", "optim..lr=3"])
def test_text_that_is_no_override(file: Callable[..., Path], text: str) -> None:
    with pytest.raises(InputError) as caught:
        load_experiment(file(), [text])
    assert str(caught.value) == (
        f"command line: {text!r} is no override; write part.name=value, such as optim.lr=0.01"
    )


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optim.lr=0", "command line: optim.lr: input should be greater than 0 (got 0)"),
        ("optim.lrr=1", 'command line: optim.lrr: unknown key; did you mean "lr"?'),
        ("model.image_size=[9,0]", "command line: model.image_size.1: input should be greater"),
        ("data=3", "command line: data: input should be an object (got 3)"),
        ("optm.lr=1", '{file} with the command line: optm: unknown key; did you mean "optim"?'),
        ("data.name=folder", '{file} with the command line: data: "folder" needs a root'),
        ("optim.lr=" + "9" * 5000, "command line: optim.lr: input should be a valid number (got "),
    ],
)
def test_error_of_an_override_says_where_it_comes_from(
    file: Callable[..., Path], override: str, line: str
) -> None:
    path = file()
    with pytest.raises(InputError) as caught:
        load_experiment(path, [override])
    assert str(caught.value).startswith(line.format(file=path))


def test_errors_of_file_and_command_line_stand_side_by_side(file: Callable[..., Path]) -> None:
    path = file(optim={"momentum": 2}, seed=-1)
    with pytest.raises(InputError) as caught:
        load_experiment(path, ["optim.lr=x"])
    assert str(caught.value).splitlines() == [
        'command line: optim.lr: input should be a valid number (got "x")',
        f"{path}: optim.momentum: input should be less than 1 (got 2)",
        f"{path}: seed: input should be greater than or equal to 0 (got -1)",
    ]


@pytest.mark.parametrize(
    ("inside", "override", "max_steps", "max_epochs"),
    [
        ({"max_epochs": 25}, "trainer.max_steps=200", 200, None),
        ({"max_steps": 200}, "trainer.max_epochs=25", None, 25),
        ({"max_epochs": 25}, "trainer.max_steps=null", None, 25),
    ],
)
def test_override_of_the_length_replaces_the_files(
    file: Callable[..., Path],
    inside: dict[str, int],
    override: str,
    max_steps: int | None,
    max_epochs: int | None,
) -> None:
    trainer = load_experiment(file(trainer=inside), [override]).trainer
    assert (trainer.max_steps, trainer.max_epochs) == (max_steps, max_epochs)


def test_override_of_the_validations_replaces_the_files(file: Callable[..., Path]) -> None:
    path = file(trainer={"max_steps": 3, "val_every_epochs": 2})
    trainer = load_experiment(path, ["trainer.val_every_steps=5"]).trainer
    assert (trainer.val_every_steps, trainer.val_every_epochs) == (5, None)


def test_both_lengths_on_the_command_line_are_refused(file: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="with the command line: trainer: give exactly one"):
        load_experiment(file(), ["trainer.max_steps=5", "trainer.max_epochs=2"])


def test_experiment_may_be_made_in_python() -> None:
    experiment = Experiment.model_validate(SMALLEST)
    assert experiment == parse_experiment(SMALLEST, "it.json")


# Bundles of augmentation


def _augmentation(**values: Any) -> AugmentationSettings:
    data = SMALLEST["data"] | {"augmentation": values}
    return parse_experiment(SMALLEST | {"data": data}, "it.json").data.augmentation


def test_what_is_set_beside_a_bundle_goes_before_it() -> None:
    deit = _augmentation(bundle="deit")
    assert deit.randaugment == RandAugmentSettings(
        magnitude=9, magnitude_std=0.5, levels="increasing"
    )
    changed = _augmentation(bundle="deit", mixup=0.2, randaugment={"magnitude": 7})
    assert (changed.mixup, changed.cutmix, changed.repeats) == (0.2, 1.0, 3)
    assert changed.randaugment == RandAugmentSettings(
        magnitude=7, magnitude_std=0.5, levels="increasing"
    )
    assert _augmentation(bundle="deit", randaugment=None).randaugment is None


def test_a_bundle_of_the_command_line_starts_anew(file: Callable[..., Path]) -> None:
    data = SMALLEST["data"] | {"augmentation": {"bundle": "augreg-medium1"}}
    first = load_experiment(file(data=data))
    stored = file(first.to_json())  # as in a run's folder: everything is stated
    second = load_experiment(stored, ["data.augmentation.bundle=deit", "data.augmentation.mixup=0"])
    assert second.data.augmentation == _augmentation(bundle="deit", mixup=0.0)
    plain = load_experiment(stored, ["data.augmentation.bundle=null"])
    assert plain.data.augmentation == AugmentationSettings()


@pytest.mark.parametrize("bundle", ["augreg", [], {}, 3])
def test_a_bundle_that_is_none_is_refused(bundle: Any) -> None:
    data = SMALLEST["data"] | {"augmentation": {"bundle": bundle}}
    assert "data.augmentation.bundle: " in _error(SMALLEST | {"data": data})


def test_a_class_keeps_its_name_in_errors() -> None:
    optim = {"class_weights": {"sea-lion [old]": -1.0}}
    assert "optim.class_weights.sea-lion [old]: " in _error(SMALLEST | {"optim": optim})


def test_an_average_needs_finer_weights_than_bfloat16() -> None:
    values = {
        "name": "x",
        "description": "x",
        "data": {"name": "digits"},
        "optim": {"ema_decay": 0.99},
        "trainer": {"max_steps": 1, "precision": "bf16-true"},
    }
    with pytest.raises(ValidationError, match="take bf16-mixed or 32"):
        Experiment.model_validate(values)
