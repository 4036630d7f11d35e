"""The Lightning task: model, loss and metrics, nothing else."""

from collections.abc import Sequence
from typing import Any

import lightning as L  # the project's own convention for its import
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from vit_lightning.errors import InputError
from vit_lightning.models.lora import merged_state
from vit_lightning.models.vit import VisionTransformer
from vit_lightning.settings import AdaptSettings, OptimSettings
from vit_lightning.training.adaptation import (
    Adaptation,
    logits_of_head_alone,
    with_zero_gradients,
)
from vit_lightning.training.averaging import averaged_copy, update_average
from vit_lightning.training.compiling import CompiledForward
from vit_lightning.training.losses import Loss
from vit_lightning.training.optim import build_optimizer, default_warmup, learning_rate
from vit_lightning.training.scores import correct
from vit_lightning.training.validation import ValidationScores

Batch = tuple[Tensor, Tensor]
_FACTORS = "lora"  # in a checkpoint: weights and factors behind merged ones


def step_is_complete(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether this micro-batch was the last of its optimizer step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def log_is_due(trainer: L.Trainer, steps: int) -> bool:
    """Whether the trainer logs the optimizer step with which so many are complete."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by its connector
    return steps % every == 0


class VisionTask(L.LightningModule):
    """Fine-tunes a :class:`VisionTransformer` as the original does.

    Works with any loader of ``(images, targets)`` batches, images (B, C, height, width) in
    [-1, 1], under any Lightning ``Trainer``: clipping, schedule and optimizer are its own. The
    trainer's ``accumulate_grad_batches`` and ranks are respected. Targets are labels, (B,)
    integers; in training also soft, (B, classes) shares that sum to one. Where pictures have
    several labels they are (B, classes), 0 or 1, in training also between.

    Logged per optimizer step: ``train/loss``, ``train/accuracy``, ``train/lr``,
    ``train/grad_norm`` (before clipping); per validation: ``val/loss``, ``val/accuracy``, and with
    several labels ``val/mean_average_precision``, exact for any number of ranks; the same with
    ``val/ema_`` for the averaged weights, if the recipe has an ``ema_decay``. Accuracy is the
    share of pictures whose largest logit is at the largest target, with several labels the share
    for which every class is told right. ``train/loss`` is the recipe's; ``val/loss`` compares over
    recipes: the cross-entropy, with several labels the binary one summed over the classes.

    Args:
        model: the network.
        optim: the recipe; the paper's by default.
        adapt: what of the network is trained; all by default. It is changed in place: parameters
            are frozen, and layers get low-rank updates, which
            :func:`~vit_lightning.models.lora.merge_lora` puts into their weights.
        total_steps: optimizer steps of the run, for the schedule.
        batch_size: pictures of an optimizer step over all ranks and micro-batches. With it every
            picture weighs the same however the step is cut; without it each batch's mean counts.
        seed: what dropout and drop_path draw is a function of (seed, step, micro-batch, rank).
        classes: class names, stored in checkpoints.
        class_counts: training pictures of each class, for balanced class weights.
        multi_label: whether a picture has any number of labels instead of one.
        preprocessing: what was done to the pictures, stored in checkpoints.
        origin: the run and the data set, so that a copied checkpoint tells where it came from;
            plain JSON types.

    Raises:
        InputError: the recipe's loss does not go with the labels, or its weights with the classes;
            or what is to be trained not with the network or with ``total_steps``.
    """

    def __init__(
        self,
        model: VisionTransformer,
        optim: OptimSettings | None = None,
        *,
        adapt: AdaptSettings | None = None,
        total_steps: int,
        batch_size: int | None = None,
        seed: int = 0,
        classes: tuple[str, ...] | None = None,
        class_counts: Sequence[int] | None = None,
        multi_label: bool = False,
        preprocessing: dict[str, Any] | None = None,
        origin: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.adaptation = Adaptation(model, adapt or AdaptSettings(), total_steps, seed)
        self.optim = optim or OptimSettings()
        self.total_steps = total_steps
        self.batch_size = batch_size
        self.seed = seed
        self.classes = classes
        self.multi_label = multi_label
        self.preprocessing = preprocessing
        self.origin = origin
        self.scores = ValidationScores(multi_label=multi_label)
        if self.optim.ema_decay is not None:
            self.averaged = averaged_copy(model)
            self.averaged_scores = ValidationScores(multi_label=multi_label)
        self._loss = Loss(self.optim, classes=classes, counts=class_counts, multi_label=multi_label)
        self.compiled: CompiledForward | None = None  # what the training step computes with
        self.also_logged: dict[str, float] = {}  # what callbacks add to the values of a step
        self._grad_norm = torch.zeros(())
        self._validated = 0  # pictures of this rank in the running validation
        self._sums: Tensor | None = None  # of a step to be logged: loss, correct, pictures

    @property
    def score_name(self) -> str:
        """The logged value that models are chosen by; the larger, the better."""
        score = "mean_average_precision" if self.multi_label else "accuracy"
        return f"val/{score}" if self.optim.ema_decay is None else f"val/ema_{score}"

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, height, width) → (B, classes)."""
        return self.model(images)  # type: ignore[no-any-return]

    # Training

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make the model's modes and draws independent of what ran before, for a resumed run."""
        self.adaptation.set_modes(self.global_step)
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        if micro_batch == 0:  # a step that was broken off, its memory full, may have left some
            self._sums = None
        key = (self.seed, self.global_step, micro_batch, self.global_rank)
        _seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]), self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The share of this micro-batch in the step's mean loss."""
        images, targets = batch
        alone = self.adaptation.trains_head_alone(self.global_step)
        forward = self.compiled or self
        logits = (logits_of_head_alone(self.model, images) if alone else forward(images)).float()
        losses = self._loss(logits, targets)
        if log_is_due(self.trainer, self.global_step + 1):
            self._add_to_sums(losses.detach(), logits.detach(), targets)
        loss = self._share_of_step(losses)
        if alone and self.trainer.world_size > 1:
            loss = with_zero_gradients(loss, self.adaptation.waiting())
        return loss

    def _add_to_sums(self, losses: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a micro-batch to what is logged of the running step."""
        right = correct(logits, targets, multi_label=self.multi_label).sum()
        seen = torch.tensor(float(len(targets)), device=losses.device)
        sums = torch.stack([losses.sum(), right.float(), seen])
        self._sums = sums if self._sums is None else self._sums + sums

    def _share_of_step(self, losses: Tensor) -> Tensor:
        if self.batch_size is None:
            return losses.mean()
        # Lightning divides by the micro-batches and averages over ranks: undo both, so that the
        # gradient is that of the mean over the whole step also when the cuts are uneven.
        cuts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return losses.sum() * (cuts / self.batch_size)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log what belongs to the whole optimizer step, when it is due."""
        if self._sums is None or not step_is_complete(self.trainer, batch_idx):
            return
        total = self.trainer.strategy.reduce(self._sums, reduce_op="sum")
        self._sums = None
        loss, right, seen = total.tolist()
        self._refuse_divergence("loss", loss)
        values = {
            "train/loss": loss / seen,
            "train/accuracy": right / seen,
            "train/lr": self._rate(self.global_step - 1),  # the update has been counted already
            "train/grad_norm": float(self._grad_norm),
        }
        self._log_step(values | self.also_logged)

    def _log_step(self, values: dict[str, float]) -> None:
        """Hand the values of a step to the loggers.

        Not by ``self.log``, which for each value does work that these, being plain numbers of the
        whole step, do not need: most of what logging took. It has the loss, for callbacks.
        """
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.global_step - 1)
        self.log("train/loss", values["train/loss"], on_step=True, on_epoch=False, logger=False)

    def check_finite(self) -> None:
        """Check that the last update can have left finite weights.

        Raises:
            InputError: the gradient was not finite; with precision 16-mixed such steps are left
                out by the scaler, and nothing is wrong.
        """
        if self.trainer.precision != "16-mixed":
            self._refuse_divergence("gradient's norm", float(self._grad_norm))

    def _refuse_divergence(self, what: str, value: float) -> None:
        if not np.isfinite(value):
            raise InputError(
                f"the {what} is {value} at step {self.global_step}: the training has diverged. "
                f"Lower optim.lr (now {self.optim.lr:g}), lengthen optim.warmup_steps, or keep "
                f"optim.clip_norm on; with precision 16-mixed try bf16-mixed or 32"
            )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave what waits for the head alone, also without decay and count of updates."""
        if self.adaptation.trains_head_alone(self.global_step):
            for parameter in self.adaptation.waiting():
                parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the global norm, as the original does before the momentum, and keep the norm."""
        limit = self.optim.clip_norm
        self._grad_norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), float("inf") if limit is None else limit
        )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the weights and their average, before any callback may write a checkpoint."""
        super().optimizer_step(*args, **kwargs)
        if self.optim.ema_decay is not None:
            # The step is counted only when this has returned.
            update_average(self.averaged, self.model, self.optim.ema_decay, self.global_step + 1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer and per-step schedule of the recipe."""
        optimizer = build_optimizer(
            self.model,
            self.optim,
            str(self.trainer.precision),
            self.adaptation.rate_scale,
            self.adaptation.waits,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self._rate(step) / self.optim.lr
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        warmup = self.optim.warmup_steps
        return learning_rate(
            step,
            base=self.optim.lr,
            total_steps=self.total_steps,
            warmup_steps=default_warmup(self.total_steps) if warmup is None else warmup,
            decay=self.optim.decay,
        )

    # Evaluation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the validation's sums."""
        images, labels = batch
        self._validated += len(labels)
        self._validate("val/", self.scores, self(images), labels)
        if self.optim.ema_decay is not None:
            self._validate("val/ema_", self.averaged_scores, self.averaged(images), labels)

    def _validate(
        self, prefix: str, scores: ValidationScores, logits: Tensor, labels: Tensor
    ) -> None:
        for name, metric in scores.update(logits.float(), labels).items():
            self.log(prefix + name, metric, batch_size=len(labels))

    def on_validation_epoch_end(self) -> None:
        """Refuse to choose weights by no pictures at all.

        Raises:
            InputError: every picture was left out.
        """
        seen = torch.tensor(float(self._validated), device=self.device)
        self._validated = 0
        if not self.trainer.strategy.reduce(seen, reduce_op="sum"):
            raise InputError("none of the pictures to validate on can be read: vit check tells why")

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) in float32 and the labels as they came, on the CPU."""
        images, labels = batch
        return self(images).float().cpu(), labels.cpu()

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes the checkpoint a model of its own: shape, classes, preprocessing.

        Low-rank updates are in its weights, whoever reads them; beside stands what they are made
        of, for :meth:`on_load_checkpoint`.
        """
        plain, factors = merged_state(self, checkpoint["state_dict"])
        if factors:
            checkpoint["state_dict"], checkpoint[_FACTORS] = plain, factors
        checkpoint["vit_lightning"] = {
            "config": self.model.config.to_dict(),
            "classes": None if self.classes is None else list(self.classes),
            "preprocessing": self.preprocessing,
            "origin": self.origin,
            "multi_label": self.multi_label,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take low-rank updates out of the weights again, bit for bit."""
        checkpoint["state_dict"] |= checkpoint.get(_FACTORS, {})


def _seed(seed: int, device: torch.device) -> None:
    """Seed what draws on the CPU and on a device.

    ``torch.manual_seed`` seeds every kind of device, which takes some 0.3 ms, most of
    it for noting where it was called in case that CUDA is used later.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
