# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""How a run ends: calibrated on validation data, measured on test data, and all that there is to keep written down."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..calibrators import UnfoldableError
from ..results.folder import put_in_place, save_run, start_afresh
from ..results.report import Report
from .trainer import CalibrationTrainer


logger = logging.getLogger(__name__)


def finish_run(
    trainer: CalibrationTrainer,
    validation: Any,
    test: Any,
    *,
    dataset_name: str,
    task: str,
    results: Mapping[str, Any] | None = None,
    base_model: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    split: str = "validation",
    test_split: str = "test",
    pair: tuple[str, str] | None = None,
) -> Report:
    """
    Calibrate a model on `validation`, measure it on `test`, and write all there is to keep into
    `trainer.args.output_dir`. Nothing is pushed; `trainer.push_to_hub()` does that.

    It leaves the weights, with the calibrator folded in unless `trainer.args.fold_temperature` is off or there is no
    head to fold it into, the config with its record, the image processor or tokenizer, `predictions.safetensors`
    (logits before calibration, and labels; of token classifiers those of the tokens with a label, and the number of
    each token's sentence), `all_results.json`, `reliability.png` and the model card. No pickle is among them. What is
    there is replaced once all of these are written.

    Args:
        trainer ([`CalibrationTrainer`]):
            After `train()`, or with a model to calibrate as it is. An earlier calibration of the model is undone.
        validation, test (`Dataset`):
            Labelled data that the model was not trained on.
        dataset_name (`str`):
            For the model card.
        task (`str`):
            Pipeline task, such as `"image-classification"`.
        results (`Mapping[str, Any]`, *optional*):
            Further entries of `all_results.json`.
        base_model (`str`, *optional*):
            Hub id of the checkpoint that was fine-tuned.
        dataset_config, dataset_revision (`str`, *optional*):
            Configuration and revision of the data set, for the model card.
        split, test_split (`str`, *optional*, defaults to `"validation"` and `"test"`):
            What the two are called in the data set, for the record and the model card.
        pair (`tuple[str, str]`, *optional*):
            Of pairs of texts, what the columns of first and second texts are called, for the model card.

    Returns:
        [`Report`]: Printed, it is the table before and after.
    """
    trainer.task_name = task
    with trainer.kept_on_error():
        trainer.forget_temperature("Calibrating anew", validation)
        held_out, measured = trainer.predictions_of(validation, split), trainer.predictions_of(test, test_split)
        try:
            trainer.calibrate(validation, predictions=held_out, split=split)
        except UnfoldableError as error:
            logger.warning("%s\nThe calibrator is kept in the config alone.", error)
            trainer.calibrate(validation, predictions=held_out, split=split, fold=False)
    parts = {"validation": held_out, "test": measured}
    report = trainer.report_on(measured)
    trainer.about = {
        "task": task,
        "dataset": dataset_name,
        "dataset_config": dataset_config,
        "dataset_revision": dataset_revision,
        "base_model": base_model,
        "pair": pair,
    }
    asked = getattr(trainer.args, "calibrator", None) or trainer.method_for()
    facts = {**(results or {}), "calibrator_asked_for": asked}
    if trainer.state.global_step:
        facts |= {"loss": trainer.loss_name, "loss_parameters": trainer.loss.hyperparameters()}
    else:
        start_afresh(trainer.args)
    with trainer.replacing("results") as staged:
        trainer.save_model(str(staged), _internal_call=True)  # not pushed yet: there is no card
        if trainer.is_world_process_zero():
            save_run(staged, report, parts, trainer.model.config.id2label, facts, trainer.card_id)
            trainer.write_card(staged)
    put_in_place(trainer.args)
    trainer.accelerator.wait_for_everyone()
    return report
