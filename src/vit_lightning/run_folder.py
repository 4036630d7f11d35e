"""The folder of a run: its name, what is known of its surroundings, and how to find it again."""

import datetime
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vit_lightning.errors import InputError
from vit_lightning.experiment import Experiment, parse_experiment
from vit_lightning.hardware import describe_hardware
from vit_lightning.json_file import read_json

EXPERIMENT_FILE = "experiment.json"
DATA_FILE = "data.json"
RESULT_FILE = "result.json"
LAST_CHECKPOINT = "last.ckpt"
BEST_CHECKPOINT = "best.ckpt"
MODEL_FILE = "model.safetensors"
ATTENTION_FILE = "attention.png"

_PACKAGES = ("vit-lightning", "torch", "lightning", "torchmetrics", "numpy", "pillow")

# What a resumed run may do otherwise: where it computes and what it writes, not what it computes.
_FREE_ON_RESUME = {
    "$schema",
    "description",
    "expected",
    "loggers",
    "runs_dir",
    "checkpoint_dir",
    "model.weights",  # they were read when the run began
    "data.root",
    "data.workers",
    "data.eval_batch_size",
    "data.on_bad_image",
    "data.cache.folder",
    "data.cache.max_gb",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.linear",
    "trainer.compile",
    "trainer.micro_batch",
    "trainer.activation_checkpointing",
    "trainer.checkpoint_every_steps",
    "trainer.log_every_steps",
}
# Null is what the weights know, and those of a resumed run know what the run has done so far.
_KEPT_WHERE_NULL = {"data.preprocessing"}


def new_run_folder(parent: Path, suffix: str = "") -> Path:
    """Make ``parent/<timestamp><suffix>``, a folder that was not there before."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    make_folder(parent, "runs_dir")
    for number in range(1000):
        folder = parent / f"{stamp}{f'.{number}' if number else ''}{suffix}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise InputError(f"{parent}: a thousand runs have started this very second")


def make_folder(folder: Path, setting: str) -> None:
    """Make a folder that may be there already.

    Raises:
        InputError: it cannot be made; ``setting`` is what to change.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({error.strerror}); free the place, or choose another with "
            f"{setting}"
        ) from None


def find_run(parent: Path, resume: str) -> Path | None:
    """The run to go on with.

    Args:
        parent: the experiment's folder of runs.
        resume: "auto" for the newest unfinished run of the experiment, or a run's folder.

    Returns:
        The run's folder; None if "auto" finds none, so that a first start can say "auto" too.

    Raises:
        InputError: the folder named is no run, or has no checkpoint to go on from.
    """
    if resume == "auto":
        runs = [path.parent for path in parent.glob(f"*/{LAST_CHECKPOINT}")]
        unfinished = [run for run in runs if not (run / RESULT_FILE).exists()]
        return max(unfinished, default=None)
    run = Path(resume)
    if not (run / LAST_CHECKPOINT).is_file():
        raise InputError(
            f"{run}: holds no {LAST_CHECKPOINT}, so there is nothing to go on from; give a run's "
            f"folder, such as {parent}/<timestamp>, or --resume auto"
        )
    if (run / RESULT_FILE).exists():
        raise InputError(
            f"{run}: this run is finished; its result is in {run / RESULT_FILE}. To train longer, "
            f"start a run whose model.weights is {run / MODEL_FILE}"
        )
    return run


def refuse_other_experiment(run: Path, experiment: Experiment) -> None:
    """Check that ``experiment`` computes what ``run`` began.

    Raises:
        InputError: settings differ that change the result; each is named.
    """
    stored = run / EXPERIMENT_FILE
    old = flatten(parse_experiment(read_json(stored), str(stored)).model_dump(by_alias=True))
    new = flatten(experiment.model_dump(by_alias=True))
    differences = [
        f"  {key}: {old.get(key)!r} there, {new.get(key)!r} here"
        for key in sorted(set(old) | set(new))
        if key not in _FREE_ON_RESUME
        and old.get(key) != new.get(key)
        and not (key in _KEPT_WHERE_NULL and new.get(key) is None)
    ]
    if differences:
        raise InputError(
            f"{run}: this run was started with other settings:\n"
            + "\n".join(differences)
            + f"\nGive the run's own file ({stored}), or start a new run without --resume"
        )


def refuse_other_data(run: Path, fingerprint: dict[str, Any]) -> None:
    """Check that the pictures are those that ``run`` began with.

    Raises:
        InputError: classes or pictures differ; the message says which.
    """
    stored = read_json(run / DATA_FILE)
    differences = [name for name in fingerprint if stored.get(name) != fingerprint[name]]
    if differences:
        raise InputError(
            f"{run}: the pictures have changed since this run was started ({run / DATA_FILE} "
            f"differs in: {', '.join(differences)}). Bring back the pictures it knows, or start "
            f"a new run without --resume"
        )


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def checkpoint_step(path: Path) -> int:
    """The number of optimizer steps behind a Lightning checkpoint; the weights stay on disk.

    Raises:
        InputError: the file is damaged.
    """
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(checkpoint["global_step"])
    except Exception as error:  # whatever a damaged file makes torch raise
        raise InputError(
            f"{path}: is no whole checkpoint ({type(error).__name__}); remove it, and the run goes "
            f"on without it"
        ) from None


def describe_environment() -> dict[str, Any]:
    """Versions, hardware and git state, as JSON."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "command": sys.argv,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions,
        "hardware": describe_hardware(),
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the working directory, and whether files differ from it; None outside of git."""
    try:
        commit, status = (
            subprocess.run(
                ["git", *arguments], capture_output=True, text=True, check=True, timeout=10
            ).stdout
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "modified": bool(status.strip())}


def newest_environment(run: Path) -> dict[str, Any]:
    """What a run computed with when it was last started; empty if it does not say."""
    records = {path: _first_step(path) for path in run.glob("environment*.json")}
    return read_json(max(records, key=records.__getitem__)) if records else {}


def _first_step(environment: Path) -> int:
    """Where a file ``environment-from-<step>.json`` begins; before all others without a step."""
    found = re.fullmatch(r"environment-from-(\d+)", environment.stem)
    return int(found[1]) + 1 if found else 0
