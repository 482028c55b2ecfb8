# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Callbacks for a `Trainer`: how NLL, entropy, weights and gradients develop during training; the best model by several
criteria.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy.special import entr, log_softmax
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.modeling_outputs import SequenceClassifierOutput

from .calibration import fit_temperature
from .folding import evaluating, find_head
from .inputs import check_count, check_n_bins
from .losses import CalibrationLoss, CrossEntropyLoss, extract_logits
from .metrics import (
    METRIC_KEYS,
    calibration_metrics_from_logits,
    expected_calibration_error,
    flatten_predictions,
)
from .report import BEST
from .training_args import lower_is_better
from .training_plots import DYNAMICS


_PARTS = ("", "_correct", "_incorrect")
_NUMBERS = [f"{name}{part}" for name in ("nll", "entropy") for part in _PARTS] + ["error", "ece", "weight_norm"]
_SCHEMA = pa.schema(
    [("epoch", pa.float64()), ("step", pa.int64()), ("split", pa.string()), ("loss", pa.string())]
    + [("n_samples", pa.int64())]
    + [(name, pa.float64()) for name in _NUMBERS]
    + [("gradient_norms", pa.list_(pa.float32()))]
)


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

    Of a token classifier each token with a label is a sample.

    A batch-coupled loss (MMCE) has no gradient per sample: there, $\delta_i$ is `num_samples` times the gradient of
    the loss of the data set as one batch.

    Args:
        trainer (`transformers.Trainer`):
            A [`CalibrationTrainer`] or plain `Trainer`; then `trainer.add_callback(callback)`.
        datasets (`Mapping[str, Dataset]`):
            Name to labelled data, such as `{"train": ..., "test": ...}`, without augmentation.
        every (`int`, *optional*, defaults to `1`):
            Epochs from one measurement to the next; the last is always measured.
        gradient_epochs (`Sequence[int]`, *optional*, defaults to `()`):
            Epochs, counted from 1, after which the gradients are measured too. A `compute_loss_func` that is no
            [`CalibrationLoss`] must then return the mean over `num_items_in_batch`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins of ECE.

    Raises:
        ValueError: If there are no data sets or `every < 1`; when training starts, if the model has no single last
            linear layer, does not give one row of logits per label, weights are sharded over processes, or an epoch
            of `gradient_epochs` does not come.

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
        _refuse_sharded(self.trainer)
        late = [epoch for epoch in self.gradient_epochs if epoch > state.num_train_epochs]
        if late:
            raise ValueError(f"gradient_epochs names {late}, but training ends after {state.num_train_epochs} epochs.")
        heads = find_head(self.trainer.model, None)
        if len(heads) != 1 or not isinstance(heads[0], nn.Linear):
            raise ValueError(
                "Training dynamics need a model whose logits come from one last torch.nn.Linear, found "
                f"{', '.join(type(head).__name__ for head in heads)}."
            )
        self._head = heads[0]
        self._loaders = {name: self.trainer.get_test_dataloader(data) for name, data in self.datasets.items()}
        self._file = Path(args.output_dir, DYNAMICS)
        self._rows = pq.read_table(self._file).to_pylist() if state.global_step and self._file.is_file() else []
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
        for name, loader in self._loaders.items():
            with _untouched(self.trainer.model):
                logits, labels, lengths = self._predict(loader)
            numbers = self._numbers(logits.numpy(), labels.numpy())
            logs |= {f"{name}_{key}": value for key, value in numbers.items() if value is not None}
            norms = None
            if gradients:
                loss = self.trainer.compute_loss_func or CrossEntropyLoss()
                norms = gradient_norms(loss, logits, labels, lengths).float().numpy()
                logs[f"{name}_gradient_norm"] = float(norms.mean())
            place = {"epoch": epoch, "step": self.trainer.state.global_step, "split": name, "loss": self._loss_label()}
            self._rows.append({**place, "n_samples": len(labels), **numbers, "gradient_norms": norms})
        for name in self._loaders:  # one layer, one norm
            logs["weight_norm"] = logs.pop(f"{name}_weight_norm")
        if self.trainer.is_world_process_zero():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            whole = self._file.with_suffix(".tmp")
            pq.write_table(pa.Table.from_pylist(self._rows, schema=_SCHEMA), whole)
            os.replace(whole, self._file)
        self.trainer.log(logs)

    @torch.no_grad()
    def _predict(self, loader: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, labels and the norms of what enters the head, from all processes in the order of the data."""
        accelerator = self.trainer.accelerator
        gathered: list[list[Tensor]] = []
        entered: list[Tensor] = []
        hook = self._head.register_forward_hook(lambda module, inputs, output: entered.append(inputs[0]))
        try:
            for batch in loader:
                entered.clear()
                logits = extract_logits(
                    self.trainer.model(**{key: value for key, value in batch.items() if key != "labels"})
                )
                labels, shape = batch["labels"], logits.shape[:-1]
                if labels.shape != shape or len(entered) != 1 or entered[0].shape[:-1] != shape:
                    raise ValueError(
                        "Training dynamics need one row of logits per label, from one row of features in the last "
                        f"layer. Found labels of shape {tuple(labels.shape)}, logits of shape {tuple(logits.shape)} "
                        f"and features of shape {', '.join(str(tuple(features.shape)) for features in entered)}."
                    )
                squares = entered[0].float().square().sum(-1) + (self._head.bias is not None)
                values = (logits.float(), labels, squares.sqrt())
                if labels.ndim == 2:  # sentences, as long as the longest of their batch
                    values = accelerator.pad_across_processes(values, dim=1, pad_index=-100)
                logits, labels, lengths = accelerator.gather_for_metrics(values)
                kept = labels != -100
                gathered.append([value[kept].cpu() for value in (logits, labels, lengths)])
        finally:
            hook.remove()
        logits, labels, lengths = (torch.cat(parts) for parts in zip(*gathered, strict=True))
        return logits.double(), labels, lengths.double()

    def _numbers(self, logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, float | None]:
        log_probabilities = log_softmax(logits, axis=1)
        probabilities = np.exp(log_probabilities)
        correct = probabilities.argmax(axis=1) == labels
        numbers: dict[str, float | None] = {}
        values = {
            "nll": -log_probabilities[np.arange(len(labels)), labels],
            "entropy": entr(probabilities).sum(axis=1),
        }
        for key, of_samples in values.items():
            for part, chosen in zip(_PARTS, (slice(None), correct, ~correct), strict=True):
                numbers[key + part] = float(of_samples[chosen].mean()) if of_samples[chosen].size else None
        numbers["error"] = float(1 - correct.mean())
        numbers["ece"] = expected_calibration_error(probabilities, labels, self.n_bins)
        numbers["weight_norm"] = float(self._head.weight.detach().double().norm())
        return numbers

    def _loss_label(self) -> str:
        loss = self.trainer.compute_loss_func
        if loss is None:
            return "cross_entropy"
        name = getattr(self.trainer, "loss_name", getattr(loss, "__name__", type(loss).__name__))
        return f"{name} (gamma {loss.gamma:g})" if name in ("focal", "FocalLoss") else str(name)


def gradient_norms(loss: Callable, logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
    """
    Norm of the gradient of each sample's loss in the weight (and bias) of the last linear layer.

    Args:
        loss ([`CalibrationLoss`] or `Callable`):
            As for `compute_loss_func`; a mean over `num_items_in_batch` if it is no [`CalibrationLoss`].
        logits (`torch.Tensor` of shape `(num_samples, num_labels)`):
            What the layer gave.
        labels (`torch.Tensor` of shape `(num_samples,)`):
            Class indices.
        lengths (`torch.Tensor` of shape `(num_samples,)`):
            Norm of what entered the layer, with a 1 appended if it has a bias.

    Returns:
        `torch.Tensor` of shape `(num_samples,)`: Not negative.
    """
    logits = logits.detach().requires_grad_()
    with torch.enable_grad():
        if isinstance(loss, CalibrationLoss):
            total = loss.compute(logits, labels, "sum")
        else:
            outputs = SequenceClassifierOutput(logits=logits)
            total = loss(outputs, labels, num_items_in_batch=len(labels)) * len(labels)
        (slopes,) = torch.autograd.grad(total, logits)
    return slopes.norm(dim=1) * lengths


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


class KeepBestCallback(TrainerCallback):
    """
    Keep the best model by each of several criteria in one run, as if it had been stopped early by that criterion
    (Mukhoti et al., 2020, Appendix J).

    Whenever an evaluation during training improves a criterion, the model is saved to `best-<criterion>` in the output
    folder, with `best.json` beside it: the value, the epoch and the step. The earliest of equal values is kept. A
    resumed run goes on from what is there, a new one starts anew.

    Args:
        trainer (`transformers.Trainer`):
            A [`CalibrationTrainer`], or a `Trainer` whose `compute_metrics` gives the criteria; then
            `trainer.add_callback(callback)`.
        criteria (`Sequence[str]`, *optional*, defaults to `("ece", "nll", "accuracy")`):
            Metrics of the validation data: accuracy (the highest is best), NLL, Brier score or a calibration error.

    Raises:
        ValueError: If there is no criterion or one is unknown; when training starts, if there is no single evaluation
            data set, no evaluation during training, or weights are sharded over processes; if an evaluation lacks a
            criterion.
    """

    trainer: Any

    def __init__(self, trainer: Trainer, criteria: Sequence[str] = ("ece", "nll", "accuracy")) -> None:
        unknown = [criterion for criterion in criteria if criterion not in METRIC_KEYS]
        if unknown or not criteria:
            raise ValueError(f"criteria must be some of {', '.join(METRIC_KEYS)}, got {list(criteria)}.")
        self.trainer = trainer
        self.criteria = list(dict.fromkeys(criteria))
        self.best: dict[str, dict[str, float]] = {}

    def folder(self, criterion: str) -> Path:
        """Where the best model by that criterion is."""
        return Path(self.trainer.args.output_dir, f"best-{criterion}")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _refuse_sharded(self.trainer)
        data = self.trainer.eval_dataset
        if data is None or isinstance(data, dict) or args.eval_strategy == "no":
            raise ValueError(
                "The best model is found by evaluation during training: give the trainer one eval_dataset (no dict of "
                'them), and its arguments eval_strategy="epoch".'
            )
        files = {criterion: self.folder(criterion) / BEST for criterion in self.criteria if state.global_step}
        self.best = {key: json.loads(path.read_text("utf-8")) for key, path in files.items() if path.is_file()}

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.trainer.is_in_train:
            return
        metrics = kwargs["metrics"]
        for criterion in self.criteria:
            if f"eval_{criterion}" not in metrics:
                raise ValueError(f"The evaluation gives no eval_{criterion}, but {', '.join(metrics)}.")
            value, sign = metrics[f"eval_{criterion}"], -1 if lower_is_better(criterion) else 1
            if criterion not in self.best or sign * value > sign * self.best[criterion]["value"]:
                self.best[criterion] = {"value": value, "epoch": state.epoch, "step": state.global_step}
                self._save(criterion)

    def _save(self, criterion: str) -> None:
        if not self.trainer.args.should_save:
            return
        folder = self.folder(criterion)
        unfinished = folder.with_name(f"{folder.name}.tmp")
        self.trainer.save_model(str(unfinished), _internal_call=True)
        (unfinished / BEST).write_text(json.dumps(self.best[criterion], indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)

    def restore(self, criterion: str) -> None:
        """Load the best weights by that criterion into the trainer's model."""
        self.trainer.accelerator.wait_for_everyone()
        state = self.trainer.state
        chosen, state.best_model_checkpoint = state.best_model_checkpoint, str(self.folder(criterion))
        try:
            self.trainer._load_best_model()
        finally:
            state.best_model_checkpoint = chosen

    def compare(self, validation: Any, test: Any) -> dict[str, dict[str, float]]:
        """
        Measure the best models, and the one that training ended with, which the trainer has again afterwards.

        Args:
            validation (`Dataset`):
                Labelled data that each model's own temperature is fitted on.
            test (`Dataset`):
                Labelled data to measure on, before and after that temperature.

        Returns:
            `dict[str, dict[str, float]]`: Criterion, or `last`, to `epoch`, `step`, `value` (of the criterion),
            `temperature`, and `test_before_<metric>` and `test_after_<metric>`.

        Raises:
            ValueError: If nothing was kept.
        """
        if not self.best:
            raise ValueError("No model was kept yet: compare after training.")
        state, model = self.trainer.state, self.trainer.model
        last = {name: value.clone() for name, value in model.state_dict().items()}
        compared = {"last": {"epoch": state.epoch, "step": state.global_step, **self._measure(validation, test)}}
        for criterion, found in self.best.items():
            self.restore(criterion)
            compared[criterion] = {**found, **self._measure(validation, test)}
        model.load_state_dict(last)
        return compared

    def _measure(self, validation: Any, test: Any) -> dict[str, float]:
        args = self.trainer.args
        fit = fit_temperature(
            *flatten_predictions(self.trainer.predict(validation)),
            criterion=getattr(args, "temperature_criterion", "ece"),
            n_bins=getattr(args, "n_bins", 15),
        )
        logits, labels = flatten_predictions(self.trainer.predict(test))
        numbers = {"temperature": fit.temperature}
        for moment, temperature in (("before", 1.0), ("after", fit.temperature)):
            metrics = calibration_metrics_from_logits(logits, labels, getattr(args, "n_bins", 15), temperature)
            numbers |= {f"test_{moment}_{key}": value for key, value in metrics.items()}
        return numbers


def stopping_table(compared: Mapping[str, Mapping[str, float]]) -> str:
    """
    What [`KeepBestCallback.compare`] found, as text: percent, and NLL in nats.

    Args:
        compared (`Mapping[str, Mapping[str, float]]`):
            As returned by `compare`.

    Returns:
        `str`: One line per criterion.
    """
    lines = [
        f"{'best by':<16}{'epoch':>6}{'T':>7}{'error':>9}{'ECE before':>12}{'after':>9}{'NLL before':>12}{'after':>9}"
    ]
    for criterion, row in compared.items():
        lines.append(
            f"{criterion:<16}{row['epoch']:>6.4g}{row['temperature']:>7.3g}{1 - row['test_before_accuracy']:>9.2%}"
            f"{row['test_before_ece']:>12.2%}{row['test_after_ece']:>9.2%}"
            f"{row['test_before_nll']:>12.4f}{row['test_after_nll']:>9.4f}"
        )
    return "\n".join(lines)


def _refuse_sharded(trainer: Any) -> None:
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError("This callback needs whole weights in every process, but here they are sharded over them.")
