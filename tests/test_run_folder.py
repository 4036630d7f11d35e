import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vit_lightning import run_folder
from vit_lightning.errors import InputError
from vit_lightning.experiment import parse_experiment
from vit_lightning.json_file import write_json
from vit_lightning.run_folder import (
    checkpoint_step,
    describe_environment,
    find_run,
    flatten,
    make_folder,
    new_run_folder,
    refuse_other_experiment,
)

SMALLEST: dict[str, Any] = {
    "name": "it",
    "data": {"name": "digits"},
    "trainer": {"max_steps": 3},
}


def _run(parent: Path, name: str, *files: str) -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).touch()
    return folder


# New folders


def test_folders_of_the_same_second_are_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Clock":
            return cls(2026, 2, 3, 4, 5, 6)

    monkeypatch.setattr(run_folder.datetime, "datetime", Clock)
    made = [new_run_folder(tmp_path / "runs" / "it") for _ in range(3)]
    made.append(new_run_folder(tmp_path / "runs" / "it", "-eval-val"))
    assert [folder.name for folder in made] == [
        "2026-02-03_04-05-06",
        "2026-02-03_04-05-06.1",
        "2026-02-03_04-05-06.2",
        "2026-02-03_04-05-06-eval-val",
    ]
    assert all(folder.is_dir() and not list(folder.iterdir()) for folder in made)


def test_folder_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(InputError, match=r"runs/it: cannot be made .* another with runs_dir"):
        new_run_folder(tmp_path / "runs" / "it")
    with pytest.raises(InputError, match=r"runs: cannot be made .* another with checkpoint_dir"):
        make_folder(tmp_path / "runs", "checkpoint_dir")


# The run to go on with


def test_auto_is_the_newest_unfinished_run(tmp_path: Path) -> None:
    _run(tmp_path, "2026-01-01_00-00-00", "last.ckpt")
    expected = _run(tmp_path, "2026-01-01_00-00-02", "last.ckpt")
    _run(tmp_path, "2026-01-01_00-00-03", "last.ckpt", "result.json")
    _run(tmp_path, "2026-01-01_00-00-04", "experiment.json")  # killed before a checkpoint
    _run(tmp_path, "2026-01-01_00-00-05-eval-val", "metrics.json")
    assert find_run(tmp_path, "auto") == expected


def test_auto_is_nothing_where_all_is_finished(tmp_path: Path) -> None:
    _run(tmp_path, "2026-01-01_00-00-03", "last.ckpt", "result.json")
    assert find_run(tmp_path, "auto") is None
    assert find_run(tmp_path / "none", "auto") is None


def test_run_by_its_folder(tmp_path: Path) -> None:
    run = _run(tmp_path, "a", "last.ckpt")
    assert find_run(tmp_path, str(run)) == run
    empty = _run(tmp_path, "b")
    with pytest.raises(InputError, match=r"b: holds no last\.ckpt.*or --resume auto"):
        find_run(tmp_path, str(empty))
    finished = _run(tmp_path, "c", "last.ckpt", "result.json")
    with pytest.raises(InputError, match=r"this run is finished; .* model\.weights is .*c/model"):
        find_run(tmp_path, str(finished))


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    begun = parse_experiment(SMALLEST, "it.json")
    (tmp_path / "experiment.json").write_text(begun.to_json())
    other = parse_experiment(
        SMALLEST
        | {
            "optim": {"lr": 0.5, "betas": [0.9, 0.99]},
            "model": {"image_size": [32, 32], "resnet": {"stage_depths": [1]}},
            "data": {"name": "digits", "workers": 2},
        },
        "it.json",
    )
    with pytest.raises(InputError) as caught:
        refuse_other_experiment(tmp_path, other)
    first, *differences, last = str(caught.value).splitlines()
    assert first == f"{tmp_path}: this run was started with other settings:"
    assert [line.split(":")[0].strip() for line in differences] == [
        "model.image_size",
        "model.resnet.stage_depths",
        "model.resnet.width",
        "optim.betas",
        "optim.lr",
    ]
    assert differences[-1] == "  optim.lr: 0.03 there, 0.5 here"
    assert str(tmp_path / "experiment.json") in last


def test_settings_that_do_not_change_the_result_are_free(tmp_path: Path) -> None:
    begun = parse_experiment(SMALLEST, "it.json")
    (tmp_path / "experiment.json").write_text(begun.to_json())
    other = parse_experiment(
        SMALLEST
        | {
            "$schema": "schema.json",
            "description": "other words",
            "data": {"name": "digits", "workers": 2, "eval_batch_size": 7, "root": "elsewhere"},
            "trainer": {
                "max_steps": 3,
                "devices": 2,
                "accelerator": "cpu",
                "micro_batch": 1,
                "checkpoint_every_steps": 1,
            },
            "loggers": ["csv"],
        },
        "it.json",
    )
    refuse_other_experiment(tmp_path, other)
    assert flatten(other.model_dump())["trainer.devices"] == 2


@pytest.mark.parametrize(
    ("there", "here", "goes_on"),
    [
        ("paper", None, True),  # as null was written down before it had a meaning of its own
        ("modern", None, True),
        (None, "paper", False),
        ("paper", "modern", False),
    ],
)
def test_preprocessing_that_is_not_said_is_the_runs(
    tmp_path: Path, there: str | None, here: str | None, goes_on: bool
) -> None:
    begun, other = (
        parse_experiment(SMALLEST | {"data": {"name": "digits", "preprocessing": mode}}, "it.json")
        for mode in (there, here)
    )
    (tmp_path / "experiment.json").write_text(begun.to_json())
    if goes_on:
        refuse_other_experiment(tmp_path, other)
    else:
        with pytest.raises(InputError, match=rf"data\.preprocessing: '?{there}'? there, '{here}'"):
            refuse_other_experiment(tmp_path, other)


# What is written


def test_flatten_names_by_dots() -> None:
    assert flatten({"a": 1, "b": {"c": [2], "d": {"e": None}}}) == {
        "a": 1,
        "b.c": [2],
        "b.d.e": None,
    }


def test_json_without_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1.5, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_step_of_a_checkpoint(tmp_path: Path) -> None:
    torch.save({"global_step": 12, "state_dict": {"w": torch.zeros(3)}}, tmp_path / "a.ckpt")
    assert checkpoint_step(tmp_path / "a.ckpt") == 12


def test_environment_tells_versions_hardware_and_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = json.loads(json.dumps(describe_environment()))
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["hardware"]["cores"] >= 1
    assert environment["hardware"]["cpu"]
    assert datetime.datetime.fromisoformat(environment["started"]).tzinfo is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_environment()["git"] is None
    monkeypatch.setenv("PATH", "")
    assert describe_environment()["git"] is None
