# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a trainer tells of its model, saves and pushes: a report, the card, the record, what makes the inputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy

from ..calibrators import Fit
from ..calibrators.base import AUTO
from ..hub.push import upload_run
from ..metrics.promise import Promise
from ..models.original import save_original
from ..models.record import calibration_record, has_adapter, rounding_words, stated_record, write_adapter_record
from ..networks.masking import masked_names
from ..predictions import Predictions
from ..results.card import About
from ..results.folder import CARD, home_of, save_card
from ..results.gain import best_fit, same
from ..results.replace import SAVING, replacing
from ..results.report import Report, make_report
from ..tasks import Task
from .evaluation import MeasuringTrainer
from .facts import data_facts, earlier_facts, model_facts, version_facts


logger = logging.getLogger(__name__)


class SharingTrainer(MeasuringTrainer):
    """A [`MeasuringTrainer`] that writes cards, and pushes named files with plain errors."""

    fit: Fit | None
    report: Report | None
    about: dict[str, Any]
    _held_out: Predictions | None
    _asked = ""  # the method that was asked for
    _trained: dict[str, str]
    _known_loss: dict[str, Any]
    _auto_options: Mapping[str, Any] = {}  # what `auto` would be fitted with, for the head at hand
    _card_for: str | None
    _lack_told = False  # that what makes the inputs is not saved with the model

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        calibration_record(self.model)  # of another head, it is forgotten first
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        self._warn_without_processor(folder)
        if self.args.should_save:
            save_original(self.model, folder)
            if has_adapter(self.model):
                write_adapter_record(self.model, folder)

    def _warn_without_processor(self, folder: Path) -> None:
        """Once: whoever loads a model of texts alone gets a made-up tokenizer."""
        if self._lack_told or self.task is None or has_adapter(self.model) or not self.is_world_process_zero():
            return
        place = folder.parent if folder.name.startswith(SAVING) else folder  # where others lie already
        if not any(self.task.has_processor(self.model.config, one) for one in {folder, place}):
            self._lack_told = True
            logger.warning("%s", self.task.without_processor(self.args.output_dir))

    def ready_to_push(self) -> bool:
        """Whether the model is calibrated."""
        return calibration_record(self.model) is not None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Push weights, config, image processor or tokenizer, model card and reliability diagram.

        Args:
            commit_message, blocking, token, revision, private:
                As for `Trainer.push_to_hub`.
            kwargs:
                Passed on to [`~CalibrationTrainer.create_model_card`]. Without them a `README.md` that was edited
                after it was written stays as it is.

        Returns:
            `huggingface_hub.CommitInfo`, or a future of it if not `blocking`.

        Raises:
            OSError: If the push failed. The output folder is complete all the same.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        folder = Path(self.args.output_dir)
        # Of a model that was neither calibrated nor trained here, the card that is there knows more.
        known = self._card_for == self.hub_model_id or not (self.fit or self.about or self.state.global_step)
        if kwargs or not known or not (folder / CARD).is_file():
            self.create_model_card(**kwargs)
        self._finish_current_push()
        options: dict[str, Any] = {
            "token": token,
            "private": self.args.hub_private_repo if private is None else private,
            "revision": revision or self.args.hub_revision,
            "push_predictions": getattr(self.args, "push_predictions", False),
            "commit_message": commit_message or "End of training",
        }
        if blocking:
            return upload_run(folder, str(self.hub_model_id), **options)
        return HfApi().run_as_future(upload_run, folder, str(self.hub_model_id), **options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and self.args.hub_strategy == HubStrategy.EVERY_SAVE:
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            message = f"Training in progress, step {self.state.global_step}"
            options = {"token": self.args.hub_token, "revision": self.args.hub_revision, "commit_message": message}
            try:
                upload_run(checkpoint_folder, str(self.hub_model_id), **options)
            except OSError as error:  # no reason to stop training
                logger.warning("%s", error)

    def report_on(self, predictions: Predictions) -> Report:
        """
        Measure the fitted calibrator; the model card then tells of these data. What the best map known would leave of
        their NLL is told with it, unless they are those of the fit, or finding that map would take long.

        Args:
            predictions ([`Predictions`]):
                Before calibration, of data that it was not fitted on.

        Raises:
            ValueError: If nothing was fitted yet.
        """
        if self.fit is None:
            raise ValueError("No calibrator was fitted yet: call calibrate() first.")
        counted = self.task or Task
        n_bins, held_out = getattr(self.args, "n_bins", 15), self._held_out
        best = None
        if held_out is not None and not counted.calibrators(self.model) and not same(held_out, predictions):
            best = self.fit if self._asked == AUTO else best_fit(held_out, n_bins, **self._auto_options)
        promise = Promise.from_record((stated_record(self.model) or {}).get("threshold"))
        about: Any = {"unit": counted.unit, "group": counted.group}
        if predictions.is_sigmoid:
            about["label_names"] = list(self.model.config.id2label.values())
        report = make_report(predictions, self.fit, n_bins=n_bins, **about, best=best, promise=promise)
        rounded = rounding_words(stated_record(self.model))
        self.report = replace(report, words=" ".join(filter(None, (report.words, rounded))))
        self._card_for = None
        return self.report

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """
        Write our model card and the reliability diagram into the output folder, from what `calibrate` measured; a
        model that was never calibrated gets a card that says so. The arguments are those of
        `Trainer.create_model_card`, and `dataset_args` the configuration of the data set.
        """

        def first(value: str | list[str] | None) -> str | None:
            return value[0] if isinstance(value, list) and value else str(value) if value else None

        given = {
            "language": language,
            "license": license,
            "tags": [tags] if isinstance(tags, str) else tags,
            "model_name": model_name,
            "base_model": finetuned_from,
            "task": first(tasks),
            "dataset": first(dataset_tags) or first(dataset),
            "dataset_config": first(dataset_args),
        }
        if not self.is_world_process_zero():
            return
        self.about |= {key: value for key, value in given.items() if value is not None}
        with replacing(self.args.output_dir, "card") as staged:
            self.write_card(staged)

    def write_card(self, folder: Path) -> None:
        """Write card and diagram into a folder that is put in place later."""
        if self.report is None and self._held_out is not None:
            self.report_on(self._held_out)
        save_card(folder, self._about(), self.report, self.card_id)
        self._card_for = self.hub_model_id

    @property
    def card_id(self) -> str:
        """What the model card loads the model by: its repository, or its folder."""
        return str(self.hub_model_id or home_of(self.args.output_dir))

    def _about(self) -> About:
        config = self.model.config
        known = {
            "model_name": Path(self.card_id).absolute().name,
            "task": None if self.task is None else self.task.name,
            "calibration": calibration_record(self.model),
            "architecture": getattr(config, "architecture", config.model_type),
            "model_type": config.model_type,
            "facts": self._facts(),
            "labels": [name for _, name in sorted(config.id2label.items())],
            "masked": masked_names(config),
            "adapter": has_adapter(self.model),
            "base_model": config._name_or_path if has_adapter(self.model) else None,
        }
        return About(**{**known, **{key: value for key, value in self.about.items() if value is not None}})

    def _facts(self) -> dict[str, str]:
        trained = self._trained if self.state.global_step else earlier_facts(self._known_loss)
        return {**model_facts(self), **trained, **data_facts(self), **version_facts(self.model)}
