# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What the stock `Trainer` should do: each method says what goes wrong without it, and a test of the same name fails once
transformers mends it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer
from transformers.models.timm_wrapper import TimmWrapperImageProcessor
from transformers.utils import SAFE_WEIGHTS_NAME

from ..hub.push import check_access, plain_errors
from ..online import clean_token, online


logger = logging.getLogger(__name__)


class BaseTrainer(Trainer):
    """A `Trainer` that measures every sample, resumes every model, saves no pickle and pushes nothing half-made."""

    # The Trainer allows for more than is of use here: a model without a config, no output folder.
    model: Any
    args: Any
    lr_scheduler: Any

    # The last batch of validation and test data is dropped along with that of training.

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As `Trainer.get_eval_dataloader`; `args.dataloader_drop_last` is about training alone."""
        with self._whole():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As `Trainer.get_test_dataloader`; `args.dataloader_drop_last` is about training alone."""
        with self._whole():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        dropped, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = dropped

    # There is no schedule of steps, and decay passes over biases and normalisations.

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """As `Trainer.create_scheduler`; with `args.lr_milestones` the learning rate falls in steps."""
        milestones = getattr(self.args, "lr_milestones", None)
        if milestones and self.lr_scheduler is None:
            steps = [math.ceil(epoch * num_training_steps / self.args.num_train_epochs) for epoch in milestones]
            scheduled: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.MultiStepLR(scheduled, steps, gamma=0.1)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """As `Trainer.get_decay_parameter_names`; with `args.decay_all_parameters` these are all."""
        if getattr(self.args, "decay_all_parameters", False):
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    # transformers saves some models (ViT, for one) under names of an earlier version, and the Trainer loads its
    # checkpoints without translating them back: training would go on from random weights, with no more than a warning
    # (https://github.com/huggingface/transformers/issues/43701). `from_pretrained` does translate.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        if not self._load_translated(resume_from_checkpoint, model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._load_translated(str(self.state.best_model_checkpoint), self.model):
            super()._load_best_model()

    def _load_translated(self, checkpoint: str, model: Any) -> bool:
        """Load a checkpoint whose names of weights are not the model's; false where the Trainer can do it."""
        weights = Path(checkpoint, SAFE_WEIGHTS_NAME)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or not isinstance(model, PreTrainedModel):
            return False
        if not weights.is_file():
            return False
        with safe_open(weights, framework="pt") as stored:
            if set(stored.keys()) == set(model.state_dict()):
                return False
        model.load_state_dict(type(model).from_pretrained(checkpoint).state_dict())
        return True

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # A pickle of the arguments, which nothing reads back, lies in every saved model. Of timm's image processor,
        # which is in the config, a warning says that it cannot be saved.
        processor = self.processing_class
        if isinstance(processor, TimmWrapperImageProcessor):
            self.processing_class = None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.processing_class = processor
        Path(output_dir or self.args.output_dir, "training_args.bin").unlink(missing_ok=True)

    # Saving pushes at once, whatever is still to come, and that a token may not write is found out last.

    def ready_to_push(self) -> bool:
        """Whether a model that is saved may go to the Hub."""
        return True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`, which pushes too under `push_to_hub`: not before the model is ready for it."""
        if self.args.push_to_hub and not _internal_call and not self.ready_to_push():
            logger.warning("Saved but not pushed: the model is not calibrated yet. push_to_hub() pushes it as it is.")
            _internal_call = True
        super().save_model(output_dir, _internal_call)

    @online
    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As `Trainer.init_hf_repo`; that the token may write is found out here, before any training."""
        cleaned: Any = clean_token(token or self.args.hub_token)
        with plain_errors(self.args.hub_model_id or Path(self.args.output_dir).absolute().name):
            super().init_hf_repo(cleaned, private)
            if self.is_world_process_zero():
                check_access(str(self.hub_model_id), cleaned)
