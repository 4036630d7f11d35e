"""A training run before its first step: everything found or made, and said."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.figure import Figure

from vit_lightning.account import say_plan
from vit_lightning.assemble import (
    Plan,
    model_for,
    open_splits,
    plan_steps,
    preprocessing_for,
    train_data,
)
from vit_lightning.attention_view import draw_some_attention
from vit_lightning.console import is_main_process, say
from vit_lightning.data.datamodule import TrainData
from vit_lightning.data.splits import Splits, class_counts
from vit_lightning.data.transforms import Preprocessing
from vit_lightning.errors import InputError
from vit_lightning.experiment import Experiment
from vit_lightning.factory import ModelBundle, load_bundle
from vit_lightning.files import write_text
from vit_lightning.json_file import write_json
from vit_lightning.models.merging import merge_tokens
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.precision import product_type
from vit_lightning.run.choices import Choices, choose
from vit_lightning.run.micro_batch import choose_micro_batch, describe_micro_batch
from vit_lightning.run_folder import (
    BEST_CHECKPOINT,
    DATA_FILE,
    EXPERIMENT_FILE,
    LAST_CHECKPOINT,
    checkpoint_step,
    describe_environment,
    find_run,
    make_folder,
    new_run_folder,
    newest_environment,
    refuse_other_data,
    refuse_other_experiment,
)
from vit_lightning.training.compiling import CompiledForward, repays_compiling
from vit_lightning.training.loggers import require_loggers
from vit_lightning.training.task import VisionTask
from vit_lightning.training.trainer import build_trainer


@dataclass(frozen=True, eq=False)
class Run:
    """A prepared run: everything that fitting and concluding need."""

    experiment: Experiment
    folder: Path
    plan: Plan
    choices: Choices
    data: TrainData
    task: VisionTask
    best: ModelCheckpoint
    start: Path | None  # checkpoint to go on from
    unreadable: dict[str, list[str]] = field(default_factory=dict)  # split → pictures left out

    @property
    def start_step(self) -> int:
        """Optimizer steps made before this process."""
        return checkpoint_step(self.start) if self.start else 0

    @property
    def last(self) -> Path:
        """The checkpoint of the newest weights."""
        return self.folder / LAST_CHECKPOINT

    @property
    def best_path(self) -> Path:
        """The checkpoint of the best weights."""
        return self.folder / BEST_CHECKPOINT

    def draw_attention(self, model: VisionTransformer) -> Figure:
        """Where a model looks in a few fixed validation pictures."""
        splits, preprocessing = self.data.splits, self.data.preprocessing
        return draw_some_attention(model, preprocessing, splits.val, splits.classes)


def prepare(experiment: Experiment, resume: str | None) -> Run:
    """Find or make everything before the first step, and say what will be done."""
    parent = Path(experiment.runs_dir).expanduser() / experiment.name
    old = find_run(parent, resume) if resume else None
    if old is not None:
        refuse_other_experiment(old, experiment)
    splits = open_splits(experiment)
    fingerprint = splits.fingerprint()
    if old is not None:
        refuse_other_data(old, fingerprint)
    plan = plan_steps(experiment, len(splits.train))
    start = old / LAST_CHECKPOINT if old else None
    bundle = (
        load_bundle(start)
        if start
        else model_for(experiment, splits.classes, multi_label=splits.multi_label)
    )
    choices = choose(experiment, bundle.model.config)
    preprocessing = preprocessing_for(experiment, bundle)
    data = train_data(experiment, splits, preprocessing, plan.total_steps)
    require_loggers(experiment.loggers)
    task = _task(experiment, splits, plan, bundle, preprocessing)
    task.model.activation_checkpointing = choices.activation_checkpointing
    # A Trainer to ask: what the devices do not allow is said before a folder is made.
    trainer = build_trainer(experiment.trainer, precision=choices.precision)
    data.check_ranks(trainer.world_size)
    data.micro_batch = choose_micro_batch(experiment, task, data, trainer, old)
    cut = describe_micro_batch(data.micro_batch, experiment.data.batch_size)
    compiles = _compiles(experiment, plan, task, data.micro_batch, trainer, old)
    if compiles:
        task.compiled = CompiledForward(task.model, fixed=experiment.trainer.compile is True)
    choices = replace(choices, micro_batch=cut, compile="on" if compiles else "off")
    say_plan(experiment, plan, str(choices), bundle, preprocessing, splits.notes)
    make_folder(checkpoint_copy(experiment).parent, "checkpoint_dir")  # not after the training
    _refuse_to_overwrite_weights(experiment)
    folder = _open_folder(experiment, old, asdict(choices), fingerprint)
    task.origin = {"run": str(folder), "data": fingerprint}
    best = ModelCheckpoint(
        dirpath=folder,
        filename=Path(BEST_CHECKPOINT).stem,
        monitor=task.score_name,
        mode="max",
        enable_version_counter=False,
    )
    return Run(experiment, folder, plan, choices, data, task, best, start)


def _refuse_to_overwrite_weights(experiment: Experiment) -> None:
    """A run ends by writing its best checkpoint: not over the file that it starts from."""
    weights, copy = experiment.model.weights, checkpoint_copy(experiment)
    if (
        weights is not None
        and copy.exists()
        and Path(weights).expanduser().resolve() == copy.resolve()
    ):
        raise InputError(
            f"the run would write its best checkpoint over the weights it starts from, {weights}: "
            f"give the experiment another name (now {experiment.name}) or another checkpoint_dir"
        )


def _compiles(
    experiment: Experiment,
    plan: Plan,
    task: VisionTask,
    micro_batch: int,
    trainer: Trainer,
    old: Path | None,
) -> bool:
    """Whether to compile: as the experiment says, else as the run did before, else if it pays."""
    wanted = experiment.trainer.compile
    if wanted != "auto":
        return wanted
    before = {} if old is None else newest_environment(old)
    if "compile" in before:  # its rounding is another
        return bool(before["compile"] == "on")
    pictures = plan.total_steps * experiment.data.batch_size // trainer.world_size
    dtype, device = product_type(str(trainer.precision)), trainer.strategy.root_device
    return repays_compiling(task.model.config, pictures, micro_batch, dtype, device)


def _task(
    experiment: Experiment,
    splits: Splits,
    plan: Plan,
    bundle: ModelBundle,
    preprocessing: Preprocessing,
) -> VisionTask:
    """What is trained."""
    return VisionTask(
        merge_tokens(bundle.model.train(), experiment.trainer.merge_tokens),
        experiment.optim,
        adapt=experiment.adapt,
        total_steps=plan.total_steps,
        batch_size=experiment.data.batch_size,
        seed=experiment.seed,
        classes=splits.classes,
        class_counts=class_counts(splits.train.labels, len(splits.classes)).tolist(),
        multi_label=splits.multi_label,
        preprocessing=preprocessing.to_dict(),
    )


def _open_folder(
    experiment: Experiment,
    old: Path | None,
    environment: dict[str, Any],
    fingerprint: dict[str, Any],
) -> Path:
    """The folder of a run, new or gone on with; the main process keeps the surroundings in it."""
    parent = Path(experiment.runs_dir).expanduser() / experiment.name
    if not is_main_process():
        return old or parent  # the name is told when the processes are connected
    environment |= describe_environment()
    if old is not None:
        step = checkpoint_step(old / LAST_CHECKPOINT)
        say(f"run        {old}, from step {step}\n")
        write_json(old / f"environment-from-{step}.json", environment)
        return old
    folder = new_run_folder(parent)
    say(f"run        {folder}\n")
    # The schema's path is relative to the file that the experiment came from.
    kept = experiment.model_copy(update={"schema_": None})
    write_text(folder / EXPERIMENT_FILE, kept.to_json())
    write_json(folder / DATA_FILE, fingerprint)
    write_json(folder / "environment.json", environment)
    return folder


def checkpoint_copy(experiment: Experiment) -> Path:
    """Where a finished run puts a copy of its best checkpoint."""
    return Path(experiment.checkpoint_dir).expanduser() / f"{experiment.name}.ckpt"
