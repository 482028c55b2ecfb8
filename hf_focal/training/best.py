# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Early stopping in hindsight: the best model of a run by each of several criteria, and how they compare."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer, TrainerCallback

from ..calibrators import fit_temperature
from ..calibrators.fit import fit_for_model
from ..files import room
from ..metrics import ALL_METRICS, measure, scored_logits
from ..metrics.noise import floor_of
from ..models.record import calibration_record
from ..names import suggestion
from ..predictions import Predictions
from ..results.replace import BEST, publish
from ..results.report import LEVEL
from ..results.tables import PERCENT, cell, text_table, with_noise
from .arguments import REFINEMENT, lower_is_better
from .base_trainer import load_weights
from .dynamics import refuse_sharded
from .evaluation import MeasuringTrainer


class KeepBestCallback(TrainerCallback):
    """
    Keep the best model by each of several criteria in one run, as if it had been stopped early by that criterion
    (Mukhoti et al., 2020, Appendix J).

    Whenever an evaluation during training improves a criterion, the model is saved to `best-<criterion>` in the output
    folder, with `best.json` beside it: the value, the epoch and the step. The earliest of equal values is kept, NaN
    is never the best. A resumed run goes on from what is there, a new one starts anew.

    Args:
        trainer (`transformers.Trainer`):
            A [`CalibrationTrainer`], or a `Trainer` whose `compute_metrics` gives the criteria; then
            `trainer.add_callback(callback)`.
        criteria (`Sequence[str]`, *optional*, defaults to `("ece", "nll", "accuracy")`):
            Metrics of the validation data: accuracy (the highest is best), NLL, Brier score or a calibration error; or
            `"refinement"`, the NLL after a temperature that is fitted to these data (of a [`CalibrationTrainer`]).

    Raises:
        ValueError: If there is no criterion or one is unknown; when training starts, if there is no single evaluation
            data set, no evaluation during training, `load_best_model_at_end` is set, or weights are sharded over
            processes; if an evaluation lacks a criterion.
    """

    trainer: Any

    def __init__(self, trainer: Trainer, criteria: Sequence[str] = ("ece", "nll", "accuracy")) -> None:
        known = [*ALL_METRICS, REFINEMENT]
        unknown = [criterion for criterion in criteria if criterion not in known]
        if unknown or not criteria:
            near = suggestion(unknown[0], known) if unknown else ""
            raise ValueError(f"criteria must be some of {', '.join(known)}, got {list(criteria)}.{near}")
        if REFINEMENT in criteria and isinstance(trainer, MeasuringTrainer):
            trainer.measures_refinement = True
        self.trainer = trainer
        self.criteria = list(dict.fromkeys(criteria))
        self.best: dict[str, dict[str, float]] = {}

    def folder(self, criterion: str) -> Path:
        """Where the best model by that criterion is."""
        return Path(self.trainer.args.output_dir, f"best-{criterion}")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        refuse_sharded(self.trainer)
        data = self.trainer.eval_dataset
        if data is None or isinstance(data, dict) or args.eval_strategy == "no":
            raise ValueError(
                "The best model is found by evaluation during training: give the trainer one eval_dataset (no dict of "
                'them), and its arguments eval_strategy="epoch".'
            )
        if args.load_best_model_at_end:
            raise ValueError(
                "load_best_model_at_end would replace the last model, which the best ones are compared with: leave it "
                "False. Each of the best models is kept in a folder of its own."
            )
        self.best = {}
        with args.main_process_first(local=False):
            for criterion in self.criteria if state.global_step else ():
                # It was killed before it replaced the model.
                if args.should_save and (self._unfinished(criterion) / BEST).is_file():
                    self._replace(criterion)
                if (self.folder(criterion) / BEST).is_file():
                    self.best[criterion] = json.loads((self.folder(criterion) / BEST).read_text("utf-8"))
            for criterion in self.criteria if args.should_save else ():
                shutil.rmtree(self._unfinished(criterion), ignore_errors=True)  # of a run that died

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics = kwargs["metrics"]
        if not self.trainer.is_in_train or not any(key.startswith("eval_") for key in metrics):
            return
        for criterion in self.criteria:
            if f"eval_{criterion}" not in metrics:
                raise ValueError(f"The evaluation gives no eval_{criterion}, but {', '.join(metrics)}.")
            value, sign = metrics[f"eval_{criterion}"], -1 if lower_is_better(criterion) else 1
            if math.isnan(value):
                continue
            if criterion not in self.best or sign * value > sign * self.best[criterion]["value"]:
                self.best[criterion] = {"value": value, "epoch": state.epoch, "step": state.global_step}
                self._save(criterion)

    def _save(self, criterion: str) -> None:
        if not self.trainer.args.should_save:
            return
        unfinished = self._unfinished(criterion)
        shutil.rmtree(unfinished, ignore_errors=True)
        with room(self.folder(criterion), "go on from the newest checkpoint"):
            self.trainer.save_model(str(unfinished), _internal_call=True)
            (unfinished / BEST).write_text(json.dumps(self.best[criterion], indent=2) + "\n", encoding="utf-8")
        self._replace(criterion)

    def _unfinished(self, criterion: str) -> Path:
        """Where a model is written; it is complete once its record is there."""
        return Path(f"{self.folder(criterion)}.tmp")

    def _replace(self, criterion: str) -> None:
        publish(self._unfinished(criterion), self.folder(criterion))

    def restore(self, criterion: str) -> None:
        """Load the best weights by that criterion into the trainer's model."""
        self.trainer.accelerator.wait_for_everyone()
        model = self.trainer.model
        if isinstance(model, PreTrainedModel):  # the Trainer itself passes over weights of other names in the file
            load_weights(model, self.folder(criterion))
            return
        state = self.trainer.state
        chosen, state.best_model_checkpoint = state.best_model_checkpoint, str(self.folder(criterion))
        try:
            self.trainer._load_best_model()  # noqa: SLF001  (there is no public way to load weights)
        finally:
            state.best_model_checkpoint = chosen

    def compare(self, validation: Any, test: Any) -> dict[str, dict[str, float]]:
        """
        Measure the best models, and the one that training ended with, which the trainer has again afterwards.

        Args:
            validation (`Dataset`):
                Labelled data that each model's own temperature is fitted on, as `args.temperature_criterion` says.
            test (`Dataset`):
                Labelled data to measure on, before and after that temperature.

        Returns:
            `dict[str, dict[str, float]]`: Criterion, or `last`, to `epoch`, `step`, `value` (of the criterion),
            `temperature`, `test_before_<metric>` and `test_after_<metric>`, and `test_before_ece_by_chance` and
            `test_after_ece_by_chance`, the upper end of the [`noise_floor`] of the ECE.

        Raises:
            ValueError: If nothing was kept, or the model was calibrated in the meantime.
        """
        if not self.best:
            raise ValueError("No model was kept yet: compare after training.")
        if calibration_record(self.trainer.model) is not None:
            raise ValueError("Compare the models before calibrate() gives the last one a temperature.")
        state, model = self.trainer.state, self.trainer.model
        last = {name: value.clone() for name, value in model.state_dict().items()}
        compared = {"last": {"epoch": state.epoch, "step": state.global_step, **self._measure(validation, test)}}
        for criterion, found in self.best.items():
            self.restore(criterion)
            compared[criterion] = {**found, **self._measure(validation, test)}
        model.load_state_dict(last)
        return compared

    def _measure(self, validation: Any, test: Any) -> dict[str, float]:
        args, held_out = self.trainer.args, self._predictions(validation)
        n_bins, criterion = getattr(args, "n_bins", 15), getattr(args, "temperature_criterion", "nll")
        guard = getattr(args, "temperature_guard", None)
        if held_out.is_sigmoid:  # whatever the labels look like
            fit = fit_for_model(held_out.logits, held_out.labels, "temperature", "nll", n_bins, guard)
        else:
            fit = fit_temperature(held_out.logits, held_out.labels, criterion, n_bins, guard=guard)
        del held_out
        seen = self._predictions(test)
        numbers = {"temperature": fit.temperature}
        for moment, calibrator in (("before", None), ("after", fit.calibrator)):
            scored = scored_logits(seen.logits, seen.labels, calibrator)
            numbers |= {f"test_{moment}_{key}": value for key, value in measure(scored, n_bins).items()}
            numbers[f"test_{moment}_ece_by_chance"] = floor_of(ALL_METRICS["ece"], scored, n_bins, LEVEL).high
        return numbers

    def _predictions(self, dataset: Any) -> Predictions:
        trainer = self.trainer
        if isinstance(trainer, MeasuringTrainer):
            return trainer.predictions_of(dataset)
        return Predictions.flatten(trainer.predict(dataset))


def stopping_table(compared: Mapping[str, Mapping[str, float]], short: bool = False) -> str:
    """
    What [`KeepBestCallback.compare`] found, as text, one line per criterion: NLL in nats, else percent, and whether
    the ECE is within noise; a `short` one, of 80 columns, says that by `~`.
    """
    header = ["best by", "epoch", "T", "error", "NLL before", "after", "ECE before", "after"]
    styles = {
        "epoch": ".4g",
        "temperature": ".3g",
        "error": PERCENT,
        "test_before_nll": ".4f",
        "test_after_nll": ".4f",
    }
    rows = []
    for criterion, row in compared.items():
        numbers = {**row, "error": 1 - row["test_before_accuracy"]}
        errors = ((row[f"test_{moment}_ece"], row[f"test_{moment}_ece_by_chance"]) for moment in ("before", "after"))
        cells = [cell(numbers[key], style) for key, style in styles.items()]
        rows.append([criterion, *cells, *(with_noise(*pair, short=short) for pair in errors)])
    table = text_table(header, rows, numbers=True)
    return f"{table}\n~: no more than chance alone would show." if " ~" in table else table
