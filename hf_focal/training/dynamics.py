# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A callback for a `Trainer`: how NLL, entropy, weights and gradients develop during training."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr, log_softmax
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from ..calibrators.base import UnfoldableError
from ..checks import check_count, check_n_bins
from ..losses import CrossEntropyLoss, as_loss, extract_logits, loss_label
from ..metrics import METRICS, ScoredOutputs
from ..metrics.ece import expected_calibration_error
from ..models.head import evaluating, find_head, is_sigmoid
from ..networks.masking import mask_logits, masked_indices, refuse_masked
from ..results.dynamics_file import DYNAMICS, PARTS, read_rows, write_rows
from .divergence import are_scores, divergence


class TrainingDynamicsCallback(TrainerCallback):
    r"""
    Measure a model after every epoch, as in Section 3 of Mukhoti et al. (2020).

    On each of `datasets`: NLL and entropy of the softmax (in nats), over all samples and over those classified rightly
    and wrongly; error and ECE; and the Frobenius norm of the weight of the last linear layer, without its bias. After
    the epochs `gradient_epochs` also, for every sample, the norm of the gradient of its loss in the last linear layer:
    its loss has the gradient $\delta_i$ in the logits and $h_i$ enters the layer, so with the bias that norm is
    $\lVert \delta_i \rVert \sqrt{\lVert h_i \rVert^2 + 1}$ and no backward pass through the network is needed.

    The numbers are logged by the trainer, as `<name>_nll` and so on, and kept in `training_dynamics.parquet` in its
    output folder, one row per epoch and data set, the norms of the gradients included. Epoch 0 is before training. A
    resumed run goes on with the rows up to its checkpoint. Training is not affected: the random states and the modes
    of the modules are put back.

    Of a token classifier each token with a label is a sample. Of a sigmoid head NLL, entropy and error are means over
    the labels of all samples, the ECE is the mean over labels, and the gradient is that of a sample.

    A batch-coupled loss (MMCE) has no gradient per sample: there, $\delta_i$ is `num_samples` times the gradient of
    the loss of the data set as one batch.

    Args:
        trainer (`transformers.Trainer`):
            A [`CalibrationTrainer`] or plain `Trainer`; then `trainer.add_callback(callback)`.
        datasets (`Mapping[str, Dataset]`):
            Name to labelled data, such as `{"train": ..., "test": ...}`, without augmentation. Samples with the label
            -100 are left out, as in evaluation.
        every (`int`, *optional*, defaults to `1`):
            Epochs from one measurement to the next; the last of a run is measured too, unless another callback stops
            training before its time.
        gradient_epochs (`Sequence[int]`, *optional*, defaults to `()`):
            Epochs, counted from 1, after which the gradients are measured too. A `compute_loss_func` that is no
            [`CalibrationLoss`] must then return the mean over `num_items_in_batch`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins of ECE.

    Raises:
        ValueError: If there are no data sets or `every < 1`; when training starts, if a data set has no samples or no
            labels, the model has no single last linear layer, does not give one row of logits per label, weights are
            sharded over processes, an epoch of `gradient_epochs` does not come, or logits are changed after the last
            layer and gradients are asked for; during training, if logits are not finite.

    Example:
    ```python
    trainer.add_callback(TrainingDynamicsCallback(trainer, {"train": train, "test": test}, gradient_epochs=[1, 10]))
    ```
    """

    trainer: Any  # a Trainer allows for having no model

    def __init__(
        self,
        trainer: Trainer,
        datasets: Mapping[str, Any],
        *,
        every: int = 1,
        gradient_epochs: Sequence[int] = (),
        n_bins: int = 15,
    ) -> None:
        if not datasets:
            raise ValueError("datasets holds no data set: give at least one, such as {'test': test}.")
        self.trainer = trainer
        self.datasets = dict(datasets)
        self.every = check_count("every", every)
        self.gradient_epochs = sorted({check_count("an epoch of gradient_epochs", epoch) for epoch in gradient_epochs})
        self.n_bins = check_n_bins(n_bins)
        if gradient_epochs and trainer.compute_loss_func is None and trainer.args.label_smoothing_factor > 0:
            raise ValueError(
                "The gradients of label_smoothing_factor are not known here: use LabelSmoothingLoss as "
                "compute_loss_func, and label_smoothing_factor=0."
            )
        self._rows: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        refuse_sharded(self.trainer)
        late = [epoch for epoch in self.gradient_epochs if epoch > state.num_train_epochs]
        if late:
            raise ValueError(f"gradient_epochs names {late}, but training ends after {state.num_train_epochs} epochs.")
        self._head = _last_linear_layer(self.trainer.model)
        config: Any = getattr(self.trainer.model, "config", None)
        self._of_outputs = config is not None and is_sigmoid(config)
        self._loss = _label(self.trainer)
        self._loaders = {name: self.trainer.get_test_dataloader(data) for name, data in self.datasets.items()}
        self._file = Path(args.output_dir, DYNAMICS)
        self._rows = read_rows(self._file) if state.global_step and self._file.is_file() else []
        self._rows = [row for row in self._rows if row["step"] <= state.global_step]
        if not state.global_step:
            self._measure(epoch=0.0, gradients=False)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        number = math.ceil(state.epoch)
        gradients = number in self.gradient_epochs
        last = control.should_training_stop or state.global_step >= state.max_steps
        if number % self.every == 0 or gradients or last:
            # The trainer takes its own log of this epoch as written once anything is logged.
            should_log = control.should_log
            self._measure(epoch=float(state.epoch), gradients=gradients)
            control.should_log = should_log

    def _measure(self, epoch: float, gradients: bool) -> None:
        logs: dict[str, float] = {}
        for name in self._loaders:
            with _untouched(self.trainer.model):
                logits, labels, lengths = self._predict(name)
            if not are_scores(logits).all():
                if step := self.trainer.state.global_step:
                    raise divergence(step, f"the logits of {name!r} are not finite", self.trainer.args)
                raise ValueError(f"The model's logits on {name!r} are not finite, before any training.")
            config: Any = getattr(self.trainer.model, "config", None)
            masked = masked_indices(config)
            if masked and not self._of_outputs:
                refuse_masked(labels.numpy(), masked, config.id2label, name)
            numbers = self._numbers(mask_logits(logits, masked).numpy(), labels.numpy())
            logs |= {f"{name}_{key}": value for key, value in numbers.items() if value is not None}
            norms = None
            if gradients:
                loss = self.trainer.compute_loss_func or CrossEntropyLoss()
                norms = gradient_norms(loss, logits, labels, lengths).float().numpy()
                logs[f"{name}_gradient_norm"] = float(norms.mean())
            place = {"epoch": epoch, "step": self.trainer.state.global_step, "split": name, "loss": self._loss}
            self._rows.append({**place, "n_samples": len(labels), **numbers, "gradient_norms": norms})
        for name in self._loaders:  # one layer, one norm
            logs["weight_norm"] = logs.pop(f"{name}_weight_norm")
        if self.trainer.is_world_process_zero():
            write_rows(self._file, self._rows)
        self.trainer.log(logs)

    @torch.no_grad()
    def _predict(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, labels and the norms of what enters the head, from all processes in the order of the data."""
        accelerator = self.trainer.accelerator
        gathered: list[list[Tensor]] = []
        seen: list[tuple[Tensor, Tensor]] = []
        hook = self._head.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
        try:
            for batch in self._loaders[name]:
                if "labels" not in batch:
                    raise ValueError(f"The data set {name!r} has no labels, but {', '.join(batch)}.")
                seen.clear()
                logits = extract_logits(
                    self.trainer.model(**{key: value for key, value in batch.items() if key != "labels"})
                )
                labels = batch["labels"].reshape(logits.shape) if self._of_outputs else batch["labels"]
                squares = self._squared_lengths(seen, logits, labels[:, 0] if self._of_outputs else labels)
                if self.gradient_epochs:  # training sees the classes that are masked, too
                    logits = seen[0][1]
                values = (logits.float(), labels, squares.sqrt())
                if logits.ndim == 3:  # sentences, as long as the longest of their batch
                    values = accelerator.pad_across_processes(values, dim=1, pad_index=-100)
                values = accelerator.gather_for_metrics(values)
                kept = values[1] != -100
                kept = (kept & ~values[1].isnan()).any(dim=1) if self._of_outputs else kept
                gathered.append([value[kept].cpu() for value in values])
        finally:
            hook.remove()
        if not any(len(labels) for _, labels, _ in gathered):
            raise ValueError(f"The data set {name!r} holds no sample (or none whose label counts).")
        logits, labels, lengths = (torch.cat(parts) for parts in zip(*gathered, strict=True))
        return logits.double(), labels, lengths.double()

    def _squared_lengths(self, seen: list[tuple[Tensor, Tensor]], logits: Tensor, labels: Tensor) -> Tensor:
        """Of what entered the head, a 1 for its bias included."""
        shape = logits.shape[:-1]
        if labels.shape != shape or len(seen) != 1 or seen[0][0].shape[:-1] != shape:
            raise ValueError(
                "Training dynamics need one row of logits per label, from one row of features in the last layer. "
                f"Found labels of shape {tuple(labels.shape)}, logits of shape {tuple(logits.shape)} and features of "
                f"shape {', '.join(str(tuple(features.shape)) for features, _ in seen)}."
            )
        ((features, output),) = seen
        output = mask_logits(output.float(), masked_indices(getattr(self.trainer.model, "config", None)))
        if self.gradient_epochs and not torch.allclose(output, logits.float(), 0, 0, equal_nan=True):
            raise ValueError(
                "The gradients can only be measured of a model whose logits are what its last layer gives, but here "
                "they are changed afterwards. A calibrator that was not folded is to be removed before training: del "
                "model.config.calibration."
            )
        return features.float().square().sum(-1) + (self._head.bias is not None)

    def _numbers(self, logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, float | None]:
        numbers: dict[str, float | None] = {}
        values, correct, ece = (_of_outputs if self._of_outputs else _of_softmax)(logits, labels, self.n_bins)
        chosen_of: tuple[Any, ...] = (slice(None), correct, ~correct)
        for key, of_samples in values.items():
            for part, chosen in zip(PARTS, chosen_of, strict=True):
                numbers[key + part] = float(of_samples[chosen].mean()) if of_samples[chosen].size else None
        numbers["error"] = float(1 - correct.mean())
        numbers["ece"] = ece
        numbers["weight_norm"] = float(self._head.weight.detach().double().norm())
        return numbers


def _of_softmax(
    logits: NDArray[Any], labels: NDArray[Any], n_bins: int
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_], float]:
    """NLL and entropy of each sample, whether it is right, and the ECE."""
    log_probabilities = log_softmax(logits, axis=1)
    probabilities = np.exp(log_probabilities)
    nll, entropy = -log_probabilities[np.arange(len(labels)), labels], entr(probabilities).sum(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    return {"nll": nll, "entropy": entropy}, correct, expected_calibration_error(probabilities, labels, n_bins)


def _of_outputs(
    logits: NDArray[Any], labels: NDArray[Any], n_bins: int
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_], float]:
    """The same of each label of each sample."""
    scored = ScoredOutputs.of_logits(logits, labels)
    entropy = entr(scored.confidences) + entr(1 - scored.confidences)
    return {"nll": scored.nll, "entropy": entropy}, scored.correct, METRICS["ece"].of(scored, n_bins)


def gradient_norms(loss: Callable, logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
    """
    For each sample the norm of the gradient of its loss in weight and bias of the last linear layer, which gave the
    logits; `lengths` are the norms of what entered it, with a 1 for the bias.
    """
    logits = logits.detach().requires_grad_()
    with torch.enable_grad():
        total = as_loss(loss).compute(logits, labels, "sum")
        (slopes,) = torch.autograd.grad(total, logits)
    return slopes.norm(dim=1) * lengths


def _label(trainer: Any) -> str:
    """The loss that a trainer of ours or a plain one trains with."""
    if trainer.compute_loss_func is None:
        factor = trainer.args.label_smoothing_factor
        return loss_label("label_smoothing", {"label_smoothing_factor": factor}) if factor > 0 else "cross_entropy"
    loss, name = as_loss(trainer.compute_loss_func), getattr(trainer, "loss_name", "custom")
    return loss_label(loss.title if name == "custom" else name, loss.hyperparameters())


def _last_linear_layer(model: Any) -> nn.Linear:
    try:
        heads = find_head(model, None).modules
    except UnfoldableError:
        heads = []
    if len(heads) != 1 or not isinstance(heads[0], nn.Linear):
        raise ValueError(
            "Training dynamics need a model whose logits come from one last torch.nn.Linear, found "
            f"{', '.join(type(head).__name__ for head in heads) or 'none'} in {type(model).__name__}."
        )
    return heads[0]


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and random states (a data loader draws from them) that are put back."""
    python, array = random.getstate(), np.random.get_state()
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    try:
        with torch.random.fork_rng(devices), evaluating(model):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)


def refuse_sharded(trainer: Any) -> None:
    """Refuse a trainer whose processes hold parts of the weights (FSDP, DeepSpeed)."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError("This callback needs whole weights in every process, but here they are sharded over them.")
