# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""How a trainer measures: every sample once, on the logits alone, as a calibrator that is not folded makes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, PredictionOutput, denumpify_detensorize

from ..calibrators.base import Calibrator
from ..losses import CalibrationLoss, extract_logits, replace_logits
from ..metrics import BatchMetrics, measure, metrics_of, scored_logits
from ..metrics import compute_metrics as our_metrics
from ..metrics.scored import SIGMOID, SOFTMAX
from ..models.apply import pending_calibrator
from ..models.head import check_labels_of_head, check_single_label
from ..models.sigmoid import is_sigmoid
from ..names import suggestion
from ..networks.masking import mask_classes, masked_indices, refuse_masked
from ..networks.zero_shot import one_hot
from ..predictions import IGNORED, Predictions
from ..results.gain import temperature_refinement
from ..tasks import TASKS, Task, task_of
from ..tasks.base import canonical_task
from .arguments import LABELS, REFINEMENT
from .base_trainer import BaseTrainer
from .collecting import Collector
from .divergence import DivergenceWatch
from .streams import NO_SAMPLE, is_stream, reading


COLLECTING = "Collecting"  # what an evaluation is for that measures nothing


def _calibrated(logits: Any, calibrator: Calibrator | None) -> Any:
    """Logits of any shape `(..., num_labels)`, or of each batch, as a calibrator maps them, if there is one."""
    if calibrator is None:
        return logits
    if isinstance(logits, (list, tuple)):
        return [_calibrated(batch, calibrator) for batch in logits]
    if isinstance(logits, Tensor):
        return calibrator.on_tensor(logits)
    return calibrator.calibrated_logits(logits.reshape(-1, logits.shape[-1])).reshape(logits.shape)


class MeasuringTrainer(BaseTrainer):
    """A `Trainer` whose losses and metrics are those of calibrated logits, and whose predictions are those before."""

    loss: CalibrationLoss
    task_name: str | None
    measures_refinement = False  # whether evaluations give it though no checkpoint is chosen by it
    _pending: Calibrator | None = None  # what the metrics of ours are to heed
    _watch: DivergenceWatch | None = None  # of the training that goes on
    _inputs: dict[str, Any] | None = None  # the first batch of an evaluation

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            columns: Any = self._signature_columns
            columns += self.args.label_names or ()

    def _mask_classes(self) -> None:
        """Of the model at hand, which `model_init` makes anew and merging an adapter replaces."""
        masked = getattr(self.args, "masked_classes", None)
        if masked or getattr(self.model.config, "masked_classes", None):
            check_single_label(self.model, "Masked classes")
        mask_classes(self.model, masked)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        prepared: Any = super()._prepare_inputs(inputs)
        if isinstance(prepared.get(LABELS), Tensor):
            prepared[LABELS] = one_hot(self.model, prepared[LABELS])
        return prepared

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """
        As `Trainer.evaluation_loop`. Evaluation during training updates a loss that learns from it. For the metrics
        of ours the rows whose labels count are kept as by [`~CalibrationTrainer.predictions_of`], and are what is
        returned; under `batch_eval_metrics` the logits of all samples are never held. A prediction keeps its logits
        whatever `args.prediction_loss_only` says.

        Raises:
            ValueError: If there is no sample, or training has diverged.
        """
        self._mask_classes()
        if description == "Prediction":
            prediction_loss_only = False
        self._batch_metrics = BatchMetrics(getattr(self.args, "n_bins", 15))  # forgets one that was broken off
        self._inputs = None
        batches, seen = reading(self.accelerator.num_processes), None
        own = self.compute_metrics == self._metrics and not self.args.batch_eval_metrics
        collecting = self._collecting() if own and description == "Evaluation" else nullcontext()
        with self._closed_bars(), batches, collecting as collector, self._heeding(pending_calibrator(self.model)):
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            if collector:
                seen = self._counted(collector.predictions("test"))
                output = self._with_metrics(output, seen, metric_key_prefix)
        if self._inputs is None:
            raise ValueError(NO_SAMPLE)
        measured = description not in ("Prediction", COLLECTING)
        if measured and f"{metric_key_prefix}_loss" not in (output.metrics or {}):
            raise ValueError(f"The data to evaluate on have no {LABELS!r}, but {', '.join(self._inputs)}.")
        self._check_logits()  # where no metrics were asked for
        if not is_stream(getattr(dataloader, "dataset", None)):
            self._inputs = {}  # others can be read again
        if self.is_in_train and metric_key_prefix == "eval" and self.loss.learns_from_validation:
            seen = self.flatten(output) if seen is None else seen
            self.loss.update_from_validation(seen.logits, seen.labels)
        return output

    @contextmanager
    def _collecting(self) -> Iterator[Collector]:
        """Let an evaluation keep the rows whose labels count, and nothing else."""
        kept, counted = (self.compute_metrics, self.args.batch_eval_metrics), self.task or Predictions
        collector = Collector(counted.flatten)
        self.compute_metrics, self.args.batch_eval_metrics = collector, True
        try:
            yield collector
        finally:
            self.compute_metrics, self.args.batch_eval_metrics = kept

    def _with_metrics(self, output: EvalLoopOutput, seen: Predictions, prefix: str) -> EvalLoopOutput:
        """What an evaluation gave that collected rows, with these and their metrics."""
        found: Any = denumpify_detensorize(self._metrics(seen))
        metrics = {**(output.metrics or {}), **{f"{prefix}_{key}": value for key, value in found.items()}}
        return output._replace(predictions=seen.logits, label_ids=seen.labels, metrics=metrics)

    @contextmanager
    def _heeding(self, calibrator: Calibrator | None) -> Iterator[None]:
        """Let losses and metrics see what a calibrator makes of the logits, which are predicted as they are."""
        loss: Any = self.compute_loss_func
        metrics: Any = self.compute_metrics
        preprocess: Any = self.preprocess_logits_for_metrics
        self._pending = calibrator if preprocess is None else None
        own = metrics == self._metrics or isinstance(metrics, Collector)
        pending = None if own else self._pending  # those of ours heed it by themselves

        def heeding_loss(outputs: Any, labels: Tensor | None, num_items_in_batch: Any = None) -> Tensor:
            outputs = replace_logits(outputs, _calibrated(extract_logits(outputs), calibrator))
            return loss(outputs, labels, num_items_in_batch=num_items_in_batch)

        def heeding_preprocess(logits: Tensor, labels: Tensor) -> Any:
            return preprocess(_calibrated(logits, calibrator), labels)

        def heeding_metrics(prediction: EvalPrediction, **kwargs: Any) -> dict[str, float]:
            self._check_logits()
            logits = _calibrated(prediction.predictions, pending)
            return metrics(
                EvalPrediction(logits, prediction.label_ids, prediction.inputs, prediction.losses), **kwargs
            )

        if metrics is not None:
            self.compute_metrics = heeding_metrics
        if calibrator is not None:
            self.compute_loss_func = heeding_loss
            self.preprocess_logits_for_metrics = None if preprocess is None else heeding_preprocess
        try:
            yield
        finally:
            self.compute_loss_func, self.compute_metrics = loss, metrics
            self.preprocess_logits_for_metrics, self._pending = preprocess, None

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        # Of a sigmoid head what is not known may be NaN, which the Trainer would count.
        for batch in batch_samples:
            labels = batch.get(LABELS)
            if isinstance(labels, Tensor) and labels.is_floating_point():
                batch[LABELS] = torch.where(labels.isnan(), IGNORED, labels)
        return super()._get_num_items_in_batch(batch_samples, device)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """As `Trainer.prediction_step`; of what a model returns the logits alone, with or without labels."""
        if self._inputs is None:
            self._inputs = {name: value for name, value in inputs.items() if name != LABELS}
        if inputs.get(LABELS) is not None:
            loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
            if self.is_in_train and self._watch is not None and isinstance(logits, Tensor):
                self._watch.see_logits(logits, inputs[LABELS])
            return loss, logits, labels
        inputs = self._prepare_inputs({name: value for name, value in inputs.items() if name != LABELS})
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = self._logits(model(**inputs)).detach()
        return None, None if prediction_loss_only else logits, None

    def _loss_of_samples(self, loss: Tensor, outputs: Any, labels: Tensor | None) -> Tensor:
        """
        The loss of a batch of an evaluation as one process would give it: by its own labels, whatever others have, and
        without the samples that fill up the last batch of several processes, which come twice.
        """
        if self.accelerator.num_processes == 1 or labels is None:
            return loss

        def of(rows: int) -> Tensor:
            kept: Any = labels[:rows]
            own = replace_logits(outputs, extract_logits(outputs)[:rows])
            counted: Any = self.compute_loss_func
            return counted(own, kept, num_items_in_batch=(kept != -100).sum())

        state, rows = self.accelerator.gradient_state, len(labels)
        if not state.end_of_dataloader or state.remainder <= 0:
            return of(rows)
        real = min(max(state.remainder - self.accelerator.process_index * rows, 0), rows)
        share = of(real).detach().double() * real if real else loss.new_zeros((), dtype=torch.float64)
        total: Any = self.accelerator.reduce(torch.stack([share, torch.full_like(share, real)]), "sum")
        return (total[0] / total[1]).to(loss.dtype)

    def _logits(self, outputs: Any) -> Tensor:
        """The logits in what the model returned, one column for each class."""
        logits, num_labels = extract_logits(outputs), self.model.config.num_labels
        if logits.shape[-1:] != (num_labels,):
            raise ValueError(
                f"The model has config.num_labels = {num_labels}, but what it returns as logits has shape "
                f"{tuple(logits.shape)}. Needed are (..., {num_labels}), as `logits` of an object or mapping, or "
                "first in a tuple. Of a head that was replaced by one of other classes, set config.num_labels too."
            )
        return logits

    def _check_logits(self) -> None:
        if self.is_in_train and self._watch is not None:
            self._watch.check_logits(self.state.global_step)

    def _metrics(self, eval_prediction: Any, compute_result: bool | None = None) -> dict[str, float]:
        if compute_result is None:
            seen = self._labelled(eval_prediction)
            scored = scored_logits(seen.logits, seen.labels, self._pending)
            values = measure(scored, getattr(self.args, "n_bins", 15))
            if self.measures_refinement or (self.args.metric_for_best_model or "").endswith(REFINEMENT):
                values[REFINEMENT] = temperature_refinement(seen.logits, seen.labels)
            return values
        return self._batch_metrics(eval_prediction, compute_result, calibrator=self._pending)

    def _check_best_metric(self) -> None:
        """Refuse a `metric_for_best_model` that no evaluation gives, as far as that is known before the first one."""
        args, chosen = self.args, self.args.metric_for_best_model
        changed = type(self).evaluate is not BaseTrainer.evaluate or any(
            type(one).on_evaluate is not TrainerCallback.on_evaluate
            for one in self.callback_handler.callbacks
            if type(one).__module__.partition(".")[0] not in ("transformers", "hf_focal")
        )
        if chosen is None or args.eval_strategy == "no" or changed:
            return
        name = chosen.removeprefix("eval_")
        given = [f"{one}_" for one in self.eval_dataset] if isinstance(self.eval_dataset, dict) else [""]
        known = ["loss", "runtime", "samples_per_second", "steps_per_second"]
        if self.compute_metrics in (self._metrics, our_metrics) and not args.prediction_loss_only:
            config = getattr(self.model, "config", None)
            head = SIGMOID if config is not None and is_sigmoid(config) else SOFTMAX
            every = metrics_of(head).items()
            known += [key for key, one in every if one.is_added_up(head) or not args.batch_eval_metrics]
            if self.compute_metrics == self._metrics and not args.batch_eval_metrics:  # it needs all logits at once
                known.append(REFINEMENT)
        elif not args.prediction_loss_only:  # a function of the user's gives what it gives
            known += [name.removeprefix(part) for part in given if name.startswith(part)]
        keys = [part + key for part in given for key in known]
        if name not in keys:
            of_first = [key for key in keys if key.endswith(f"_{name}")][:1]
            near = suggestion(name, of_first or keys, cutoff=0.0)
            alone = " With prediction_loss_only=True they give the loss alone."
            raise ValueError(
                f"metric_for_best_model={chosen!r} is nothing that the evaluations of this trainer give."
                f"{alone if args.prediction_loss_only else near}"
            )

    def predictions_of(self, dataset: Any, split: str = "test") -> Predictions:
        """
        As `flatten` of what [`~Trainer.predict`] gives, in less memory: of each batch no more is kept than the rows
        whose labels count, and what does not fit into memory lies in a temporary file until it is no longer used
        (`TMPDIR` sets the folder), of which the logits are a `np.memmap`.

        Args:
            dataset (`Dataset`):
                Labelled data.
            split (`str`, *optional*, defaults to `"test"`):
                What they are called.

        Returns:
            [`Predictions`]: Before any calibration that is not folded; for [`~CalibrationTrainer.calibrate`] and
                [`~CalibrationTrainer.report_on`].

        Raises:
            ValueError: If the data have no samples or labels.
            OSError: If the temporary file has no room.
        """
        if getattr(self.predict, "__func__", None) is not BaseTrainer.predict:  # of somebody's own
            return self.flatten(self._predict_without_metrics(dataset), split)
        preprocess, self.preprocess_logits_for_metrics = self.preprocess_logits_for_metrics, None
        try:
            loader = self.get_test_dataloader(dataset)
            with self._collecting() as collector:
                output = self.evaluation_loop(loader, COLLECTING, prediction_loss_only=False, metric_key_prefix="test")
        finally:
            self.preprocess_logits_for_metrics = preprocess
        self.callback_handler.on_predict(self.args, self.state, self.control, output.metrics)
        return self._counted(collector.predictions(split))

    def _predict_without_metrics(self, dataset: Any) -> PredictionOutput:
        kept = self.compute_metrics, self.preprocess_logits_for_metrics
        self.compute_metrics = self.preprocess_logits_for_metrics = None
        try:
            return self.predict(dataset, metric_key_prefix="calibration")
        finally:
            self.compute_metrics, self.preprocess_logits_for_metrics = kept

    @property
    def task(self) -> Task | None:
        """The registered task of that name, or of the model."""
        return TASKS.get(canonical_task(self.task_name or "")) or task_of(self.model)

    def flatten(self, output: Any, split: str = "test") -> Predictions:
        """The rows of what [`~Trainer.predict`] gave, as the task counts them."""
        return self._counted((self.task or Predictions).flatten(output, split))

    def _counted(self, rows: Predictions) -> Predictions:
        """The same rows, none of which is of a class that is masked."""
        config = self.model.config
        check_labels_of_head(config, rows.labels.shape)
        refuse_masked(rows.labels, masked_indices(config), config.id2label, rows.split)
        return rows

    def _labelled(self, output: Any, split: str = "test") -> Predictions:
        """As `flatten`, of data of which at least one label counts."""
        seen = output if isinstance(output, Predictions) else self.flatten(output, split)
        if not len(seen):
            raise ValueError("No sample of the data has a label that counts: all of them are -100.")
        return seen
