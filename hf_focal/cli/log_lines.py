# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a terminal shows during training: a line for each log, in place of a dictionary of some 300 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import ProgressCallback, Trainer

from ..metrics import ALL_METRICS
from ..results.report import PROPER
from ..results.tables import cell, fill
from .terminal import columns, is_terminal


_SHOWN = ("accuracy", *PROPER, "ece")
_KEPT = ("epoch", "grad_norm", "learning_rate", "weight_norm")  # in files alone, as all is
_OF_A_RUN = ("_correct", "_incorrect", "runtime", "samples_per_second", "steps_per_second", "flos")


class LogLines(ProgressCallback):
    """The bar of transformers, with lines that a person can read."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write what was logged above the bar."""
        bar: Any = self.training_bar
        if state.is_world_process_zero and bar is not None and (line := log_line(logs or {})):
            bar.write(fill(line, columns(), indent="  "))


def use_log_lines(trainer: Trainer) -> None:
    """In a terminal, where there is a bar at all."""
    if is_terminal() and any(type(one) is ProgressCallback for one in trainer.callback_handler.callbacks):
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(LogLines())


def log_line(logs: Mapping[str, Any]) -> str:
    """One line, such as `epoch 2: error 9.19%, NLL 0.4648, Brier 0.1994, ECE 19.66%`."""
    epoch = logs.get("epoch")
    head = "" if epoch is None else f"epoch {epoch:.4g}: "
    if "train_runtime" in logs:
        return f"{head}trained in {logs['train_runtime']:,.0f} s"
    return head + ", ".join(_told(logs))


def _told(logs: Mapping[str, Any]) -> Iterator[str]:
    known = [key for key in _SHOWN if f"eval_{key}" in logs]
    for key in known:
        metric = ALL_METRICS[key]
        yield f"{metric.shown.lower() if key == 'accuracy' else metric.shown} " + cell(
            metric.show(logs[f"eval_{key}"]), metric.style
        )
    for key, value in logs.items():
        rest = key not in _KEPT and not key.endswith(_OF_A_RUN) and "entropy" not in key
        if rest and isinstance(value, int | float) and not (known and key.startswith("eval_")):
            yield f"{key.replace('_', ' ')} {value:.4g}"
