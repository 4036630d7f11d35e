"""What happens beside the training: checkpoints, throughput, pictures for TensorBoard."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L  # the project's own convention for its import
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor

from vit_lightning import figures
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.training.loggers import add_figure
from vit_lightning.training.task import VisionTask, log_is_due, step_is_complete


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``: written every so many steps and after each validation.

    Only between optimizer steps, and at a step that is about to be validated only once that is
    done, so that a resumed run neither repeats nor misses anything. A checkpoint callback, which
    Lightning runs after all others: the best score of this validation is in it.

    Args:
        path: where to.
        every_steps: optimizer steps between two writes.
        val_every_steps: optimizer steps between two validations.

    Attributes:
        settled: when memory was full, whether all was as the last complete step had left it.
        in_validation: whether the training ended in a validation.
    """

    def __init__(self, path: Path, every_steps: int, val_every_steps: int) -> None:
        self.path = path
        self.every_steps = every_steps
        self.val_every_steps = val_every_steps
        self.settled = self.in_validation = False
        self._updating = -1, 0  # the step of the last update begun, what it was to change

    def on_before_optimizer_step(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Note what an update finds, so that it shows whether it has changed anything."""
        self._updating = trainer.global_step, _changes(optimizer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Keep what a training has done when its memory is full; several ranks cannot meet here."""
        self.in_validation = trainer.validating
        if is_out_of_memory(exception) and trainer.world_size == 1:
            self.settled = self._is_settled(trainer)
            if self.settled and trainer.global_step:
                self._write(trainer)

    def _is_settled(self, trainer: L.Trainer) -> bool:
        """Whether all is as the last complete step, or its validation, left it."""
        counts: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if not trainer.training or counts.processed > counts.completed:
            return False
        step, before = self._updating
        return step != trainer.global_step or before == _changes(trainer.optimizers[0])

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write when a step is complete and due."""
        step = trainer.global_step
        due = step % self.every_steps == 0 and step % self.val_every_steps != 0
        if due and step_is_complete(trainer, batch_idx):
            self._write(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to choose or keep weights that are no numbers."""
        if trainer.state.fn == "fit":
            self._task(trainer).check_finite()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write after a validation inside the training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._write(trainer)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make a checkpoint fit how this process cuts its steps, and where its run lies now.

        Lightning counts micro-batches, of which a step may have had another number, and keeps the
        best checkpoint only if it finds the folder by its old name.
        """
        step, loops = checkpoint["global_step"], checkpoint["loops"]["fit_loop"]
        done = step * trainer.accumulate_grad_batches
        progress, logged = loops["epoch_loop.batch_progress"], loops["epoch_loop.state_dict"]
        # One written inside a later step, when memory was full, as the others: before Lightning
        # counts the step as logged.
        inside_next = logged["_batches_that_stepped"] == step
        logged["_batches_that_stepped"] = step - 1
        loops["state_dict"]["combined_loader"] = [{"step": step}]
        progress["is_last_batch"] = False
        for counts in (progress["total"], progress["current"]):
            under_way = inside_next or counts["processed"] - counts["completed"]
            counts |= {"ready": done, "started": done, "processed": done}
            counts["completed"] = done - under_way
        folder = self.path.parent.resolve()
        for key, state in checkpoint["callbacks"].items():
            if key.startswith("ModelCheckpoint"):
                _move(state, folder)

    @staticmethod
    def _task(trainer: L.Trainer) -> VisionTask:
        task = trainer.lightning_module
        assert isinstance(task, VisionTask)
        return task

    def _write(self, trainer: L.Trainer) -> None:
        self._task(trainer).check_finite()
        for logger in trainer.loggers:
            logger.save()  # TensorBoard's holds events back, a killed run would lose them
        trainer.save_checkpoint(self.path)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could have no more memory, of a GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _changes(optimizer: torch.optim.Optimizer) -> int:
    """How often the weights of an optimizer and its state have been written to in place."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = [value for values in optimizer.state.values() for value in values.values()]
    tensors = [tensor for tensor in (*weights, *state) if isinstance(tensor, Tensor)]
    # Fused kernels are not counted; AdamW counts its steps before, and SGD keeps its first momentum
    # after it. Later they need no memory.
    first = sum("momentum_buffer" in values for values in optimizer.state.values())
    return first + sum(tensor._version for tensor in tensors)


def _move(state: dict[str, Any], folder: Path) -> None:
    """Name the checkpoints in a ModelCheckpoint's state as files of ``folder``."""
    state["dirpath"] = str(folder)
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        if state[name]:
            state[name] = str(folder / Path(state[name]).name)
    best = state["best_k_models"]
    state["best_k_models"] = {str(folder / Path(path).name): best[path] for path in best}


class Throughput(Callback):
    """Logs pictures per second, the share of time spent waiting for data, and peak memory.

    ``train/images_per_second``, ``train/data_wait_share`` (0 to 1; with this package's loader)
    and ``train/peak_memory_gb`` (of the GPU, or of the main process on a CPU), averaged over the
    steps between two log lines, validation left out.

    Args:
        batch_size: pictures of an optimizer step over all ranks.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.images_per_second = 0.0
        self._restart()

    def _restart(self, waited: float = 0.0) -> None:
        self._start = time.perf_counter()
        self._steps = 0
        self._waited = waited

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._restart()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock anew: validation is no training time."""
        self._restart(self._loader_waited(trainer))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count a step; log when the trainer does."""
        if not step_is_complete(trainer, batch_idx):
            return
        self._steps += 1
        if not log_is_due(trainer, trainer.global_step):
            return
        elapsed = time.perf_counter() - self._start
        waited = self._loader_waited(trainer)
        self.images_per_second = self._steps * self.batch_size / elapsed
        assert isinstance(pl_module, VisionTask)
        pl_module.also_logged |= {
            "train/images_per_second": self.images_per_second,
            "train/data_wait_share": min((waited - self._waited) / elapsed, 1.0),
            "train/peak_memory_gb": peak_memory_gb(pl_module.device),
        }
        self._restart(waited)

    @staticmethod
    def _loader_waited(trainer: L.Trainer) -> float:
        return float(getattr(trainer.train_dataloader, "waited", 0.0))


def peak_memory_gb(device: torch.device) -> float:
    """Most memory used so far, in GB (10^9 bytes): the GPU's, or this process' on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class PictureLog(Callback):
    """Pictures for TensorBoard: what the model sees, where it looks, how positions relate.

    The first training batch as the model sees it; after each validation the attention rollout
    over a few fixed validation pictures and the similarity of the position embeddings.

    Args:
        classes: class names.
        unnormalised: what the model takes, (B, C, height, width) → the same in [0, 1].
        draw_attention: draws a model's attention over a few fixed validation pictures.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        unnormalised: Callable[[Tensor], Tensor],
        draw_attention: Callable[[VisionTransformer], Figure],
    ) -> None:
        self.classes = classes
        self.unnormalised = unnormalised
        self.draw_attention = draw_attention

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Draw the first batch, once its step has shown that all is well."""
        if batch_idx == 0 and self._is_wanted(trainer):
            images, labels = (part.cpu() for part in batch)
            figure = figures.batch_figure(self.unnormalised(images), labels, self.classes)
            add_figure(trainer.loggers, "train/batch", figure, 0)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw attention and positions."""
        if trainer.state.fn != "fit" or not self._is_wanted(trainer):
            return
        assert isinstance(pl_module, VisionTask)
        # Lightning counts scalars from 0: of a validation, a resumed run keeps both or neither.
        model, step = pl_module.model, trainer.global_step - 1
        add_figure(trainer.loggers, "val/attention", self.draw_attention(model), step)
        config, positions = model.config, model.pos_embed.detach().cpu()
        similarity = figures.pos_embed_figure(positions, config.grid_size, config.num_prefix_tokens)
        add_figure(trainer.loggers, "model/position_embedding", similarity, step)

    @staticmethod
    def _is_wanted(trainer: L.Trainer) -> bool:
        has_board = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        return trainer.is_global_zero and has_board
