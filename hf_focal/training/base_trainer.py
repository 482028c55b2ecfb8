# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What the stock `Trainer` should do: each method says what goes wrong without it, and a test of the same name fails once
transformers mends it.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer
from transformers.integrations import TensorBoardCallback
from transformers.models.timm_wrapper import TimmWrapperImageProcessor
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..files import room
from ..hub.push import check_access, plain_errors
from ..online import clean_token, online
from ..results.folder import (
    find_best_checkpoint,
    home_of,
    incomplete,
    last_complete_checkpoint,
    put_in_place,
    start_afresh,
)
from ..results.replace import SAVING, checkpoints_of, publish, remove, replacing
from .streams import CountedStream, check_dataset, is_stream


logger = logging.getLogger(__name__)


def _stored_names(folder: Path) -> set[str] | None:
    """What the weights are called in the files of a saved model; `None` where it holds no weights of a whole model."""
    weights, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if weights.is_file():
        with safe_open(weights, framework="pt") as stored:
            return set(stored.keys())
    return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"]) if index.is_file() else None


def load_weights(model: PreTrainedModel, folder: str | Path) -> None:
    """
    Load a saved model into a model of the same modules, which may be others than its config tells of: a head that was
    replaced is loaded like the rest.

    Args:
        model (`transformers.PreTrainedModel`):
            Whose weights are set.
        folder (`str` or `Path`):
            Where `save_pretrained` wrote a model of the same modules.

    Raises:
        ValueError: If the files lack weights of the model, or hold weights of other shapes. The model is as it was.
    """
    plain: Any = type(model)
    # `from_pretrained` makes a model from the config: a copy of this one is made in its place. Its class is the
    # model's own, so that nothing is initialised.
    copied: Any = type(plain.__name__, (plain,), {"__new__": lambda cls, *args, **kwargs: copy.deepcopy(model)})
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    loaded, info = copied.from_pretrained(folder, **options)
    lacking = sorted(info["missing_keys"]) or sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise ValueError(
            f"{folder} was saved of a model with other weights than this {plain.__name__}: {shown} cannot be loaded. "
            "Build the model as it was when it was saved, its head included."
        )
    model.load_state_dict(loaded.state_dict())


def plain_module(model: Any) -> Any:
    """
    A model itself where `torch.compile` wrapped it, compiled in place: the wrapper hides what the model takes and
    would save it under other names of weights.
    """
    inner = getattr(model, "_orig_mod", None)
    if inner is None:
        return model
    inner._compiled_call_impl = model.dynamo_ctx(inner._call_impl)  # noqa: SLF001  (`nn.Module.compile` does that)
    return inner


def _layers(model: Any) -> list[str]:
    """The classes of layers that are not to be split, but for those around the embeddings."""
    try:
        embeddings = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # of models of images
        embeddings = None
    names = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    return sorted({type(one).__name__ for one in layers if all(part is not embeddings for part in one.modules())})


class BaseTrainer(Trainer):
    """A `Trainer` that measures every sample, resumes every model, saves no pickle and pushes nothing half-made."""

    # The Trainer allows for more than is of use here: a model without a config, no output folder.
    model: Any
    args: Any
    lr_scheduler: Any

    # The last batch of validation and test data is dropped along with that of training. In several processes one of
    # them waits for ever for the others where batches need not be even (`even_batches=False`), or where a stream has
    # as many shards as there are processes; and with `dispatch_batches=False` the samples that fill up the last batch
    # of a stream are counted (https://github.com/huggingface/accelerate/issues/3013).

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As `Trainer.get_eval_dataloader`, of every sample once; `args.dataloader_drop_last` is about training."""
        known: Any = self.eval_dataset
        data = known if eval_dataset is None else eval_dataset
        data = known[data] if isinstance(data, str) and isinstance(known, dict) else data
        if data is None:
            raise ValueError("There is nothing to evaluate on: give the trainer an eval_dataset, or pass one.")
        return self._whole_loader(super().get_eval_dataloader, data, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As `Trainer.get_test_dataloader`, of every sample once; `args.dataloader_drop_last` is about training."""
        return self._whole_loader(super().get_test_dataloader, test_dataset, test_dataset)

    def _whole_loader(self, load: Callable[[Any], DataLoader], data: Any, given: Any) -> DataLoader:
        check_dataset(data)
        alone = self.accelerator.num_processes == 1 or self.accelerator.dispatch_batches is not False
        if alone or not is_stream(data):
            with self._whole():
                return load(given)
        if self.args.dataloader_num_workers:
            raise ValueError(
                "With dispatch_batches=False the last batch of a stream can only be counted without workers: set "
                "dataloader_num_workers=0, or leave dispatch_batches unset."
            )
        stream = CountedStream(data)
        with self._whole():
            stream.loader = load(stream)
        return stream.loader

    @contextmanager
    def _whole(self) -> Iterator[None]:
        dropped, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        even, self.accelerator.even_batches = self.accelerator.even_batches, True
        try:
            yield
        finally:
            self.args.dataloader_drop_last, self.accelerator.even_batches = dropped, even

    # An error leaves progress bars open, which write over its message when they are closed in the end.

    @contextmanager
    def _closed_bars(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for callback in self.callback_handler.callbacks:
                for name in ("prediction_bar", "training_bar"):
                    if (bar := getattr(callback, name, None)) is not None:
                        bar.close()
                        setattr(callback, name, None)
            raise

    # FSDP2 shards the embeddings of a model apart, and fails where they are in a layer that is sharded as a whole; and
    # of a model whose state is kept in parts nothing is saved that `from_pretrained` could load.

    def _wrap_model(self, model: Any, training: bool = True, dataloader: DataLoader | None = None) -> Any:
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.fsdp_version == 2 and plugin.transformer_cls_names_to_wrap is None:
            plugin.transformer_cls_names_to_wrap = _layers(model)
        return super()._wrap_model(model, training, dataloader)

    @contextmanager
    def _whole_state(self) -> Iterator[None]:
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is None or "FULL" in str(plugin.state_dict_type):
            yield
            return
        known = plugin.state_dict_type
        plugin.set_state_dict_type("FULL_STATE_DICT")
        try:
            yield
        finally:
            plugin.set_state_dict_type(known)

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
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or not isinstance(model, PreTrainedModel):
            return False
        names = _stored_names(Path(checkpoint))
        if names is None or names == set(model.state_dict()):
            return False
        load_weights(model, checkpoint)
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
        if self.args.should_save:
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
        try:
            with room(folder, "go on from the checkpoint before, by --resume_from_checkpoint last"):
                super()._save_checkpoint(model, trial)
        except OSError:
            shutil.rmtree(written, ignore_errors=True)  # what is left of it takes room
            raise
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
            with self._whole_state():
                super().save_model(output_dir, True)
            return
        with self.replacing("model", output_dir) as staged, self._whole_state():
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

    @online
    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As `Trainer.init_hf_repo`; that the token may write is found out here, before any training."""
        cleaned: Any = clean_token(token or self.args.hub_token)
        with plain_errors(self.args.hub_model_id or Path(self.args.output_dir).absolute().name):
            super().init_hf_repo(cleaned, private)
            if self.is_world_process_zero():
                check_access(str(self.hub_model_id), cleaned)
