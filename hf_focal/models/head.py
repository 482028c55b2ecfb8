# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The classification head of a model: found by experiment, with random weights in it, on a probe batch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..calibrators.base import Affine, UnfoldableError
from ..losses import extract_logits
from ..networks.zero_shot import BIAS, SCALE, has_scale, probe_batch, scores_of
from ..tasks import task_of
from .apply import unapplied
from .record import has_adapter
from .scores import for_scores, scale_of_scores, shift_of_scores
from .sharded import is_sharded, precisions, put, reshard, whole
from .sigmoid import is_sigmoid


def check_classifier(model: PreTrainedModel) -> int:
    """The number of outputs of a classifier, of a softmax or of sigmoids; or a refusal of what is none."""
    return check_labels(getattr(model, "config", None), type(model).__name__)


def check_single_label(model: PreTrainedModel, what: str) -> int:
    """[`check_classifier`] that also refuses sigmoid heads, `what` being for one softmax over the classes."""
    num_labels = check_classifier(model)
    if is_sigmoid(model.config):
        raise ValueError(
            f"{what} need one label per sample, of a softmax over at least 2 classes. Found: num_labels={num_labels}, "
            f"problem_type={model.config.problem_type!r}, a head whose labels each have a probability of their own."
        )
    return num_labels


def check_labels_of_head(config: Any, shape: Sequence[int]) -> None:
    """Refuse labels of samples that are those of the other kind of head, which they would train and measure."""
    count, kind = config.num_labels, f"(problem_type={config.problem_type!r})"
    several = tuple(shape[1:]) == (count,)
    if count == 1 or several == is_sigmoid(config):
        return
    if several:
        raise ValueError(
            f"The labels, of shape {tuple(shape)}, say of each of the {count} outputs whether it is right, and the "
            f"model has one softmax over them {kind}. Give it class indices, of shape {tuple(shape[:1])}, or set "
            "model.config.problem_type = 'multi_label_classification' before the trainer is made."
        )
    if len(shape) == 1:
        raise ValueError(
            f"The labels, of shape {tuple(shape)}, are one a sample, and the model gives each of its {count} outputs "
            f"a probability of its own {kind}. Give it 0 or 1 for each, of shape {(*shape, count)}, or set "
            "model.config.problem_type = 'single_label_classification' before the trainer is made."
        )


def check_labels(config: Any, name: str) -> int:
    """[`check_classifier`] by the config of a model of that name."""
    num_labels = getattr(config, "num_labels", None)
    if not isinstance(num_labels, int):
        raise ValueError(
            f"{name} has no config.num_labels. Supported: transformers classifiers; a timm network "
            "goes through AutoModelForImageClassification (TimmWrapper)."
        )
    if getattr(config, "problem_type", None) == "regression" or num_labels < 1:
        raise ValueError(
            f"Supported: classification, of one label per sample or of several. Found: num_labels={num_labels}, "
            f"problem_type={getattr(config, 'problem_type', None)!r}. A regression has no probabilities to calibrate; "
            "a single logit that tells yes from no is a classifier with problem_type='multi_label_classification'."
        )
    return num_labels


MASKED = -9e3  # lower than any logit of a model's own: -9999, -1e9, the lowest of a dtype and -inf mask a class


@dataclass(frozen=True)
class Head:
    """
    The linear modules that make the logits.

    Attributes:
        modules (`list[nn.Module]`): One, or several whose outputs are averaged or summed.
        share (`float`): What part of a shift of the logits each bias takes: 1 of an average, 1 / 2 of a sum of two.
    """

    modules: list[nn.Module]
    share: float = 1.0

    def weights(self) -> list[dict[str, Tensor]]:
        """Copies of the weights of each module, on the CPU."""
        return [
            {name: whole(one.detach()).cpu().clone() for name, one in module.named_parameters(recurse=False)}
            for module in self.modules
        ]

    def set(self, weights: list[dict[str, Tensor]]) -> None:
        """Change the modules in place."""
        for module, values in zip(self.modules, weights, strict=True):
            for name, parameter in module.named_parameters(recurse=False):
                put(parameter, values[name])

    def mapped(self, affine: Affine) -> list[dict[str, Tensor]]:
        """Weights by which the logits are `affine` of what they are."""
        return [map_weights(weights, affine, self.share) for weights in self.weights()]


def map_weights(weights: Mapping[str, Tensor], affine: Affine, share: float) -> dict[str, Tensor]:
    """Weights of a linear module whose outputs are `affine` of those of one with these, rounded once."""
    mapped = {}
    for name, tensor in weights.items():
        values = tensor.double()
        if name == SCALE:  # the logarithm of a factor of all scores
            values = values + math.log(scale_of_scores(affine))
        elif name == BIAS:
            values = values * scale_of_scores(affine) + shift_of_scores(affine)
        elif is_common_scale(affine):
            values = values * float(affine.scale)
        else:
            scale, rows = torch.as_tensor(affine.scale, dtype=values.dtype), values.reshape(len(values), -1)
            rows = scale @ rows if scale.dim() == 2 else scale.reshape(-1, 1) * rows
            if name == "bias" and affine.shift is not None:
                rows = rows + share * torch.as_tensor(affine.shift, dtype=values.dtype)[:, None]
            values = rows.reshape(values.shape)
        mapped[name] = values.to(tensor.dtype)
    return mapped


@torch.no_grad()
def find_head(
    model: PreTrainedModel, inputs: Mapping[str, Tensor] | None,
    affine: Affine = Affine(), noun: str = "temperature",  # noqa: B008  (a tuple)
) -> Head:  # fmt: skip
    """The linear modules that can do an affine map of the logits."""
    # Random weights stand in meanwhile, in every module that might belong to the head: trained or fresh weights may be
    # so small that the logits prove nothing, or that one head of two seems to be all. Random numbers stand in for
    # those of the map, too.
    if has_scale(model):
        for_scores(model, affine, noun)
        return Head([model])
    probe = probe_of(model, inputs)
    candidates = [heads for heads in _head_candidates(model) if heads]
    modules = list(dict.fromkeys(module for heads in candidates for module in heads))
    generator = np.random.default_rng(0)
    scale = generator.normal(size=np.shape(affine.scale)) if np.ndim(affine.scale) else 0.5
    trial = Affine(scale, None if affine.shift is None else generator.normal(size=affine.shift.shape))
    with evaluating(model), restored(modules):
        draws = torch.Generator().manual_seed(0)
        for parameter in _parameters(modules):
            put(parameter, torch.randn(parameter.shape, generator=draws) / parameter.shape[1:].numel() ** 0.5)
        whole = probe_logits(model, probe)
        if 0 < np.abs(np.where(whole < MASKED, 0.0, whole)).max() < np.inf:
            for heads in candidates if is_common_scale(affine) else filter(_is_plain, candidates):
                share = 1.0 if affine.shift is None else _share(model, probe, heads, whole)
                if share is not None and try_head(model, probe, Head(heads, share), trial, whole)[0]:
                    return Head(heads, share)
    reason = _why_no_head(model, candidates, affine)
    raise UnfoldableError(
        f"Cannot fold a {noun} into {type(model).__name__}: {reason} "
        f"Or keep the {noun} in the config instead (fold=False in CalibrationTrainer.calibrate, "
        "--no_fold_temperature of the scripts)."
    )


def _why_no_head(model: Any, candidates: list[list[nn.Module]], affine: Affine) -> str:
    """Why none of these modules can do a map of the logits."""
    if candidates and affine.shift is not None and not _have_bias(candidates):
        reason = "its last linear layer has no bias, which a shift needs. Vectors and matrices can do without one: "
        reason += "fit_calibrator(..., intercept=False)."
    elif candidates and is_common_scale(affine):
        reason = "none of its linear layers with as many outputs as labels scales the logits."
    elif candidates:
        reason = "no linear layers with as many outputs as labels give the logits as they are, or their mean or sum."
    elif has_adapter(model):
        reason = (
            "its adapter is saved without a head to divide. Name the head in the adapter's modules_to_save, or call "
            "merge_and_unload() first."
        )
    else:
        reason = f"it has no linear layer with {model.config.num_labels} floating point outputs."
    return reason


def _have_bias(candidates: list[list[nn.Module]]) -> bool:
    return any(getattr(one, "bias", None) is not None for heads in candidates for one in heads)


def is_common_scale(affine: Affine) -> bool:
    """Whether the map multiplies all logits by one number."""
    return np.ndim(affine.scale) == 0 and affine.shift is None


def _is_plain(heads: list[nn.Module]) -> bool:
    """Whether these modules have nothing but a weight and a bias."""
    return all({name for name, _ in head.named_parameters(recurse=False)} <= {"weight", "bias"} for head in heads)


def _share(
    model: PreTrainedModel, probe: Mapping[str, Tensor], heads: list[nn.Module], whole: NDArray[Any]
) -> float | None:
    """What part of a shift of the logits each bias is to take: what a step of all of them does tells it."""
    biases: list[Any] = [bias for head in heads if (bias := getattr(head, "bias", None)) is not None]
    if not biases:
        return None
    with restored(heads):
        for bias in biases:
            bias.add_(1)
        step = (probe_logits(model, probe) - whole)[whole >= MASKED].mean()
    exact = Fraction(float(step)).limit_denominator(len(heads)) if np.isfinite(step) else Fraction(0)
    return float(1 / exact) if 0 < exact <= len(heads) else None


def try_head(
    model: PreTrainedModel, probe: Mapping[str, Tensor], head: Head, affine: Affine, before: NDArray[Any]
) -> tuple[bool, float]:
    """Whether these modules do the map to the logits of a batch, and how far off they are; no weight is changed."""
    with restored(head.modules):
        head.set(head.mapped(affine))
        after = probe_logits(model, probe)
    # What is masked is there for good, whatever the map does to it: those numbers prove nothing, and drown the others.
    kept = ~(before < MASKED)
    if not kept.any():
        return False, np.inf
    after, expected, before = after[kept], affine(before)[kept], before[kept]
    off = np.abs(after - expected).max()
    size = max(np.abs(expected).max(), np.abs(before).max() * np.abs(affine.scale).max())
    # Half precision rounds all factors but powers of 2.
    rounding = max((torch.finfo(dtype).eps for dtype in precisions(model, head.modules)), default=0.0)
    exact = is_common_scale(affine) and affine.scale == 0.5
    return bool(off <= (1e-4 if exact else max(1e-4, 8 * rounding)) * size), off


def _head_candidates(model: Any) -> Iterator[list[nn.Module]]:
    if has_scale(model):  # a number of its own
        yield [model]
        return

    def is_head(module: Any) -> bool:
        outputs = getattr(module, "out_features", getattr(module, "out_channels", None))
        return (
            isinstance(module, (nn.Linear, nn.Conv2d))
            and outputs == model.config.num_labels
            and all(p.is_floating_point() and p.device.type != "meta" for p in module.parameters(recurse=False))
        )

    if hasattr(model, "timm_model") and not has_adapter(model):
        classifier = model.timm_model.get_classifier()
        yield list(filter(is_head, classifier if isinstance(classifier, (tuple, list)) else [classifier]))
    # An adapter is saved with the heads that it trains, and with no other weight of the model.
    part = ".modules_to_save." if has_adapter(model) else ""
    heads = [module for name, module in model.named_modules() if is_head(module) and part in name]
    for head in reversed(heads):
        yield [head]
    if len(heads) > 1:
        yield heads[-2:]
        yield heads


def likely_heads(model: Any) -> list[nn.Module]:
    """The modules that might belong to the head."""
    return list(dict.fromkeys(module for heads in _head_candidates(model) for module in heads))


def _parameters(modules: list[nn.Module]) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters(recurse=False)]


@contextmanager
def restored(modules: list[nn.Module]) -> Iterator[None]:
    """Weights that are put back at the end."""
    parameters = _parameters(modules)
    originals = [whole(parameter.detach()).clone() for parameter in parameters]
    try:
        yield
    finally:
        for parameter, original in zip(parameters, originals, strict=True):
            put(parameter, original)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and each module's own again at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    reshard(model)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def probe_of(model: PreTrainedModel, inputs: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """A batch on the model's device, in its precision: the inputs given, or some made from the config."""
    given = (_probe_inputs(model) if inputs is None else inputs).items()
    return {name: one.to(model.device, model.dtype if one.is_floating_point() else None) for name, one in given}


def probe_logits(model: PreTrainedModel, probe: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """What its weights alone give on the batch, in float64: of no calibrator that a hook applies."""
    try:
        outputs = _forward(model, probe)
    except Exception as error:
        shapes = ", ".join(f"{name} of shape {tuple(value.shape)}" for name, value in probe.items())
        raise UnfoldableError(
            f"{type(model).__name__} fails on the batch that its head is tried on, {shapes}: {error}\n"
            "Pass one batch of inputs that it takes, without labels, to fold_temperature as inputs=..., or keep the "
            "temperature in the config (fold=False in CalibrationTrainer.calibrate)."
        ) from error
    if has_scale(model):
        return scores_of(outputs).double().cpu().numpy()
    unnamed = isinstance(outputs, ModelOutput) and "logits" not in outputs  # PPLCNet gives hidden states of classes
    return extract_logits(outputs[0] if unnamed else outputs).double().cpu().numpy()


def _forward(model: Any, probe: Mapping[str, Tensor]) -> Any:
    if not is_sharded(model):
        return model.forward(**probe)
    with unapplied(model):  # the hooks of FSDP gather the weights
        outputs = model(**probe)
    reshard(model)
    return outputs


def _probe_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    if has_scale(model):
        return probe_batch(model)
    config, name, task = model.config, model.main_input_name, task_of(model)
    if task is not None and (probe := task.probe(model)) is not None:
        return probe
    generator = torch.Generator().manual_seed(0)
    if name == "pixel_values":
        channels, height, width = _image_shape(model)
        if "spatial_shapes" in inspect.signature(model.forward).parameters:  # images cut into patches beforehand
            patch = getattr(config, "vision_config", config).patch_size
            more = {"pixel_attention_mask": torch.ones(2, 4).long(), "spatial_shapes": torch.full((2, 2), 2)}
            return {name: torch.randn(2, 4, channels * patch**2, generator=generator), **more}
        return {name: torch.randn(2, channels, height, width, generator=generator)}
    if name == "input_ids":
        # One sequence: models without a padding token refuse more.
        vocab_size = getattr(config.get_text_config(), "vocab_size", 128)  # models of characters have none
        tokens = torch.randint(0, vocab_size, (1, 8), generator=generator)
        eos = getattr(config, "eos_token_id", None)
        if isinstance(eos, int) and 0 <= eos < vocab_size:
            tokens[tokens == eos] = (eos + 1) % vocab_size
            tokens[0, -1] = eos  # encoder-decoder classifiers read their representation there
        return {name: tokens, "attention_mask": torch.ones_like(tokens)}
    raise UnfoldableError(
        f"Cannot make a probe batch for {type(model).__name__}, whose main input is {name!r}. Pass one batch of its "
        "inputs to fold_temperature as inputs=..., or keep the temperature in the config (fold=False in "
        "CalibrationTrainer.calibrate)."
    )


def _image_shape(model: Any) -> tuple[int, int, int]:
    config = model.config
    if hasattr(model, "timm_model"):
        arguments = config.model_args or {}
        pretrained_cfg = {**model.timm_model.pretrained_cfg, **(getattr(config, "pretrained_cfg", None) or {})}
        channels, *size = pretrained_cfg["input_size"]
        channels, size = arguments.get("in_chans", channels), arguments.get("img_size", size)
    else:
        vision = getattr(config, "vision_config", config)
        channels = getattr(vision, "num_channels", 3)
        size = getattr(vision, "image_size", None) or 224  # convolutional networks take any size and name none
    height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width
