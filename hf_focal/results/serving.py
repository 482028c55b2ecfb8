# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What servers make of a checkpoint: whether each gives calibrated probabilities, and the line that starts it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..calibrators.base import Calibrator, UnfoldableError
from ..networks import MODEL_TYPES
from ..tasks import TASKS
from ..tasks.base import PROCESSORS, TIMM


# Read in their sources of 2026: what has a classification head there, by task and model type. Decoders become
# classifiers of vLLM by conversion.
_DECODERS = ("gemma", "gemma2", "gpt2", "llama", "mistral", "phi3", "qwen2", "qwen3")
_ENCODERS = ("bert", "modernbert", "roberta", "xlm-roberta")
_TEI = {"text-classification": (*_ENCODERS, "camembert", "distilbert")}
_VLLM = {"text-classification": (*_ENCODERS, *_DECODERS), "token-classification": ("bert", "modernbert")}
_BY_SOURCE = "by its source (not tried)"
_NOT_APPLIED = "no: it does not heed `config.calibration`."
_VLLM_TOKENS = "token-classification"  # which has a pooling task, and so an endpoint, of its own


@dataclass(frozen=True)
class Checkpoint:
    """
    A whole model as servers find it.

    Attributes:
        model_id (`str`): Its repository, or its folder.
        task, model_type (`str`): The pipeline of transformers, and `config.model_type`.
        plain (`bool`): Whether the softmax of its logits, or their sigmoids, are what is to come out.
        factor (`float`, *optional*): What the logits are still to be divided by, where that is all there is to it.
        own (`str`, *optional*): What `import hf_focal.networks` has to register first.
        sigmoids (`int`, *optional*): Of a sigmoid head how many labels it has, 0 where that is not known; `None` of a
            softmax.
    """

    model_id: str
    task: str
    model_type: str
    plain: bool
    factor: float | None = None
    own: str | None = None
    sigmoids: int | None = None

    @property
    def activation(self) -> str:
        """What makes probabilities of its logits."""
        return "softmax" if self.sigmoids is None else "sigmoid"

    @property
    def quoted(self) -> str:
        """The id as JSON, Python, JavaScript and the shell take it; nothing in it ends a code span."""
        return json.dumps(re.sub(r"[`<>|]", "", self.model_id))


def common_factor(calibrator: Calibrator) -> float | None:
    """What a map divides all logits by, where it does nothing else to their softmax."""
    try:
        affine = calibrator.affine(2)
    except UnfoldableError:
        return None
    shifted = affine.shift is not None and np.ptp(affine.shift) > 0
    return None if shifted or np.ndim(affine.scale) else float(f"{1 / affine.scale:.12g}")


def servers(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Names of servers, and what is to be said of each, in Markdown."""
    python = ("transformers", "yes, by the lines above." if checkpoint.plain else _NOT_APPLIED)
    runtimes = ("ONNX Runtime, Triton", _onnx(checkpoint))
    if checkpoint.own:
        exported = [runtimes] if export_lines(checkpoint) else []
        return [python, *exported, ("Others", f"do not know `{checkpoint.own}`.")]
    made = [("text-embeddings-inference", _tei(checkpoint)), ("vLLM", _vllm(checkpoint))]
    return [python, *_together(made), runtimes, ("transformers.js", _javascript(checkpoint))]


def _together(made: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """One entry for all of which the same is said."""
    (first, said), (second, other) = made
    return [(f"{first}, {second}", said)] if said == other else made


def _not_served(checkpoint: Checkpoint, known: Mapping[str, Sequence[str]]) -> str:
    if checkpoint.task not in known:
        return f"no models for {checkpoint.task}."
    if checkpoint.model_type and checkpoint.model_type not in known[checkpoint.task]:
        return f"not known to serve classifiers of the type `{checkpoint.model_type}`."
    return ""


def _tei(checkpoint: Checkpoint) -> str:
    if refused := _not_served(checkpoint, _TEI):
        return refused
    start = f"`text-embeddings-router --model-id {checkpoint.quoted}`, then `/predict`"
    if checkpoint.plain and checkpoint.sigmoids not in (None, 1):
        return (
            f"no, {_BY_SOURCE}: it takes the softmax over several labels, whatever the config says. {start} with "
            '`"raw_scores": true` gives the logits, of which whoever asks takes the sigmoid.'
        )
    if checkpoint.plain:
        return f"yes, {_BY_SOURCE}. {start}."
    return f'no. {start} with `"raw_scores": true` gives the logits before it.'


def _vllm(checkpoint: Checkpoint) -> str:
    if refused := _not_served(checkpoint, _VLLM):
        return refused
    tokens = checkpoint.task == _VLLM_TOKENS
    options: dict[str, object] = {"task": "token_classify"} if tokens else {}
    if not checkpoint.plain:
        if checkpoint.factor is None:
            return "no: it can divide all logits by one number, and do no more."
        options |= {"logit_sigma": checkpoint.factor, "logit_mean": 0.0}
    pooler = f" --pooler-config '{json.dumps(options)}'" if options else ""
    answer = f"yes, {_BY_SOURCE}" if checkpoint.plain else f"yes, with the number, {_BY_SOURCE}"
    endpoint = "/pooling" if tokens else "/classify"
    return f"{answer}. `vllm serve {checkpoint.quoted} --runner pooling{pooler}`, then `{endpoint}`."


def _onnx(checkpoint: Checkpoint) -> str:
    if not checkpoint.plain:
        return "no: an export gives the logits before it."
    if not export_lines(checkpoint):
        return f"yes, in the logits of an export, of which whoever asks takes the {checkpoint.activation}; not tried."
    return f"yes: the export below gives logits, of which whoever asks takes the {checkpoint.activation}."


def _javascript(checkpoint: Checkpoint) -> str:
    if checkpoint.model_type == TIMM:
        return "does not know models of timm."
    if not checkpoint.plain:
        return _NOT_APPLIED
    start = f'`await pipeline("{checkpoint.task}", {checkpoint.quoted}, {{ dtype: "fp32" }})`'
    if not export_lines(checkpoint):
        return f"not tried. {start} needs an export as `onnx/model.onnx` in the repository."
    return f"yes. {start}, with the export below in the repository as `onnx/model.onnx`."


def export_lines(checkpoint: Checkpoint) -> str:
    """Python that exports the checkpoint to ONNX; `""` where there is no use in it, or it was not tried."""
    return "\n".join(_export(checkpoint))


def _export(checkpoint: Checkpoint) -> Iterator[str]:
    task = TASKS.get(checkpoint.task)
    if task is None or not task.batch or not checkpoint.plain or checkpoint.own in MODEL_TYPES:
        return
    loaders = task.auto_class.__name__, PROCESSORS[task.processor][0].__name__
    sizes = ", ".join(f"{axis}: {json.dumps(name)}" for axis, name in task.varying.items())
    yield "import torch"
    yield from task.batch_imports
    yield f"from transformers import {', '.join(sorted(loaders))}"
    yield ""
    if checkpoint.own:
        yield f"import hf_focal.networks  # registers {checkpoint.own}"
        yield ""
    yield f"model = {loaders[0]}.from_pretrained({checkpoint.quoted}).eval()"
    yield f'inputs = dict({loaders[1]}.from_pretrained({checkpoint.quoted})({task.batch}, return_tensors="pt"))'
    yield f"sizes = {{name: {{{sizes}}} for name in inputs}}"
    yield 'options = {"kwargs": inputs, "output_names": ["logits"], "dynamic_shapes": sizes, "external_data": False}'
    yield 'torch.onnx.export(model, (), "model.onnx", **options)'
