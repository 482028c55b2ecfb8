# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What the stock `Trainer` should do: each method says what goes wrong without it, and a test of the same name fails once
transformers mends it.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput
from transformers.utils import SAFE_WEIGHTS_NAME

from ..hub.push import check_access, plain_errors
from ..results.folder import (
    find_best_checkpoint,
    home_of,
    incomplete,
    last_complete_checkpoint,
    put_in_place,
    start_afresh,
)
from ..results.replace import SAVING, checkpoints_of, publish, remove, replacing


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
        # A pickle of the arguments, which nothing reads back, lies in every saved model.
        super()._save(output_dir, state_dict)
        Path(output_dir or self.args.output_dir, "training_args.bin").unlink(missing_ok=True)

    # A checkpoint is written in place, so that a killed run goes on from half of one; and whatever is called
    # "checkpoint-..." is taken for one of the run, and removed in its turn.

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As `Trainer.train`; `True` resumes from the newest checkpoint that was written to its end."""
        folder = Path(self.args.output_dir)
        if resume_from_checkpoint is True:
            if (checkpoint := last_complete_checkpoint(folder)) is None:
                raise ValueError(f"There is no checkpoint in {folder} that was written to its end.")
            resume_from_checkpoint = str(checkpoint)
        elif resume_from_checkpoint and (reason := incomplete(Path(resume_from_checkpoint))):
            raise ValueError(f"{resume_from_checkpoint} {reason}.")
        elif not resume_from_checkpoint or Path(resume_from_checkpoint).resolve().parent != folder.resolve():
            start_afresh(self.args)
        if resume_from_checkpoint and self.args.should_save:
            find_best_checkpoint(Path(resume_from_checkpoint))
        self.accelerator.wait_for_everyone()
        for callback in self.callback_handler.callbacks if home_of(folder) != folder else ():
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:  # logs replace none
                name = f"{datetime.now():%b%d_%H-%M-%S}_{socket.gethostname()}"
                callback.logging_dir = str(home_of(folder) / "runs" / name)
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _run_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial)

    def _get_output_dir(self, trial: Any) -> str:
        # Asked for where a checkpoint is written, and where those to be removed are.
        return os.path.join(self._run_dir(trial), f"{SAVING}checkpoint")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        written, folder = Path(self._get_output_dir(trial)), Path(self._run_dir(trial))
        if self.args.should_save:
            shutil.rmtree(written, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        name, best = f"checkpoint-{self.state.global_step}", f"checkpoint-{self.state.best_global_step}"
        if best == name or (folder / best).is_dir():
            self.state.best_model_checkpoint = str(folder / best)
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        self.state.save_to_json(str(written / name / TRAINER_STATE_NAME))
        publish(written / name, folder / name)
        shutil.rmtree(written)
        if limit := self.args.save_total_limit or 0:
            kept = {name, Path(str(self.state.best_model_checkpoint)).name}
            found = checkpoints_of(folder)
            older = [path for path in found if path.name not in kept]
            for path in older[: max(len(found) - limit, 0)]:
                remove(path)

    # Saving pushes at once, whatever is still to come, and that a token may not write is found out last.

    def ready_to_push(self) -> bool:
        """Whether a model that is saved may go to the Hub."""
        return True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        As `Trainer.save_model`, which pushes too under `push_to_hub`: not before the model is ready for it. The files
        of a model that is there are replaced once all of the new ones are written.
        """
        if self.args.push_to_hub and not _internal_call and not self.ready_to_push():
            logger.warning("Saved but not pushed: the model is not calibrated yet. push_to_hub() pushes it as it is.")
            _internal_call = True
        if output_dir is not None and _internal_call:  # whoever calls moves it to its place
            super().save_model(output_dir, True)
            return
        with self.replacing("model", output_dir) as staged:
            super().save_model(str(staged), True)
        if output_dir is None:
            put_in_place(self.args)
            self.accelerator.wait_for_everyone()
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    @contextmanager
    def replacing(self, kind: str, output_dir: str | None = None) -> Iterator[Path]:
        """A folder for all processes to write into, see [`~results.replace.replacing`]."""
        with replacing(output_dir or self.args.output_dir, kind, self.args.should_save) as staged:
            self.accelerator.wait_for_everyone()
            yield staged
            self.accelerator.wait_for_everyone()
        self.accelerator.wait_for_everyone()

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As `Trainer.init_hf_repo`; that the token may write is found out here, before any training."""
        token = token or self.args.hub_token
        with plain_errors(self.args.hub_model_id or Path(self.args.output_dir).absolute().name, token):
            super().init_hf_repo(token, private)
            if self.is_world_process_zero():
                check_access(str(self.hub_model_id), token)
