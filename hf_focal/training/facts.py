# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What is known of a model and of its training, in words: the facts of its card. Nothing is made up."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from ..models.record import stated_record
from ..models.sigmoid import is_sigmoid
from ..tasks import Task
from ..tasks.base import TIMM
from ..version import __version__


_PACKAGES = ("transformers", "torch", "datasets")


def model_facts(trainer: Any) -> dict[str, str]:
    """Of any model that a trainer holds: what it is, how large, and what it takes."""
    model: Any = trainer.model
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = model.config
    backbone = getattr(config, "architecture", None) or config.model_type
    task, processor = trainer.task, trainer.processing_class
    size = "" if task is None or processor is None else task.size(processor)
    parts = [f"{type(inner).__name__} ({backbone})", f"{sum(one.numel() for one in model.parameters()):,} parameters"]
    return {"architecture": ", ".join(filter(None, [*parts, _outputs(config), size]))}


def _outputs(config: Any) -> str:
    if not is_sigmoid(config):
        return f"{config.num_labels:,} classes"
    return "1 logit" if config.num_labels == 1 else f"{config.num_labels:,} labels, a sigmoid each"


def training_facts(trainer: Any) -> dict[str, str]:
    """Of a training that has just ended."""
    args, state = trainer.args, trainer.state
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    lasted = f"{state.epoch or 0:.4g} epochs, {state.global_step:,} steps of {batch:,} {_rows(trainer)}"
    if args.load_best_model_at_end and state.best_global_step:
        lasted += f"; the weights are those of step {state.best_global_step:,}"
    facts = {
        "training": lasted,
        "optimizer": _optimizer(trainer),
        "seed": str(args.seed),
        "precision": _precision(trainer),
    }
    if adapter := _adapter(trainer.model):
        facts["adapter"] = adapter
    return facts


def earlier_facts(known_loss: Mapping[str, Any]) -> dict[str, str]:
    """Of a model that was not trained here, of which an earlier record may tell the loss."""
    return {"training": f"elsewhere: {'no more than the loss' if known_loss else 'nothing'} is known of it here"}


def data_facts(trainer: Any) -> dict[str, str]:
    """How much data was used, and for what."""
    parts = []
    if trainer.state.global_step and (count := _length(trainer.train_dataset)) is not None:
        parts.append(f"{count:,} {_rows(trainer)} to train")
    unit, record = (trainer.task or Task).unit, stated_record(trainer.model) or {}
    if trainer.fit is not None:
        parts.append(f"{trainer.fit.n_samples:,} {unit} of {record.get('split', 'validation')} to calibrate")
    if trainer.report is not None:
        parts.append(f"{trainer.report.n_samples:,} {unit} of {trainer.report.split} to measure")
    return {"data": ", ".join(parts)} if parts else {}


def version_facts(model: Any) -> dict[str, str]:
    """The software that this ran with."""
    of_timm = getattr(model.config, "model_type", None) == TIMM
    names = [*_PACKAGES, *(["timm"] if of_timm else []), *(["peft"] if hasattr(model, "peft_config") else [])]
    found = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return {"versions": ", ".join([f"hf_focal {__version__}", *found, f"Python {platform.python_version()}"])}


def _rows(trainer: Any) -> str:
    """What a data set has of: sentences, where their tokens are counted."""
    task = trainer.task or Task
    return f"{task.group}s" if task.group else task.unit


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:  # a stream
        return None


def _optimizer(trainer: Any) -> str:
    """The optimizer as it was, with its schedule; other than the arguments say where it was passed to the trainer."""
    optimizer: Any = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    groups = getattr(optimizer, "param_groups", None) or []
    if not groups:  # none was made, or it does not tell
        return f"learning rate {trainer.args.learning_rate:g}"
    rates = _values(group.get("initial_lr", group["lr"]) for group in groups)
    words = [type(optimizer).__name__, f"learning rate {rates}", _schedule(trainer)]
    for key in ("momentum", "weight_decay"):
        if any(group.get(key) for group in groups):
            words.append(f"{key.replace('_', ' ')} {_values(group[key] for group in groups if group.get(key))}")
    return ", ".join(filter(None, words))


def _values(numbers: Iterable[Any]) -> str:
    return " and ".join(f"{float(one):g}" for one in sorted({*numbers}))


def _schedule(trainer: Any) -> str:
    args: TrainingArguments = trainer.args
    if not trainer._created_lr_scheduler:  # noqa: SLF001  (there is no public way to tell)
        return f"by {type(getattr(trainer.lr_scheduler, 'scheduler', trainer.lr_scheduler)).__name__}"
    words = SchedulerType(args.lr_scheduler_type).value
    warmup = args.get_warmup_steps(trainer.state.max_steps)
    milestones = getattr(args, "lr_milestones", None)
    if milestones:
        words += f", divided by 10 after epochs {', '.join(f'{one:g}' for one in milestones)}"
    return words + (f" after {warmup:,} steps of warm-up" if warmup else "")


def _precision(trainer: Any) -> str:
    kinds = sorted(
        {str(one.dtype).removeprefix("torch.") for one in trainer.model.parameters() if one.is_floating_point()}
    )
    mixed = "bfloat16" if trainer.args.bf16 else "float16" if trainer.args.fp16 else ""
    return " and ".join(kinds) + (f" weights, {mixed} arithmetic" if mixed else "")


def _adapter(model: Any) -> str:
    """The adapter of PEFT that was trained."""
    adapters: Mapping[str, Any] = getattr(model, "peft_config", None) or {}
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    for config in adapters.values():
        rank = f" of rank {config.r}" if getattr(config, "r", None) else ""
        kind = getattr(config.peft_type, "value", config.peft_type)
        return f"{kind}{rank}, {trained:,} parameters trained with the head"
    return ""
