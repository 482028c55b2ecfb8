# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Who divides the logits: the classification head, into which a temperature is folded, or the forward pass.

A model says in `config.calibration` whether it is calibrated: probabilities are `softmax(logits)` where `folded` is
true and `softmax(logits / temperature)` where it is false. Nothing else ever divides.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..calibrators.base import METHODS
from ..checks import check_gamma
from ..gamma import focal_log_probabilities
from ..tasks import task_of


if TYPE_CHECKING:
    from transformers import PreTrainedModel


# Beside an adapter of PEFT, which is saved without the config: `config.calibration`, and the names of the labels.
ADAPTER_RECORD = "calibration.json"
_TEMPERATURE_RANGE = (1e-3, 1e3)


# ---- The record in a model's config ---------------------------------------------------------------------------------


def check_temperature(value: Any, name: str = "temperature") -> float:
    """The value as a float if it can be a temperature, or a `ValueError`."""
    low, high = _TEMPERATURE_RANGE
    if isinstance(value, bool) or not isinstance(value, Real) or not value <= high or value < low:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}.")
    return float(value)


def calibration_record(model: PreTrainedModel) -> dict[str, Any] | None:
    """A checked copy of `model.config.calibration`, or `None` for a model that was never calibrated."""
    record = getattr(getattr(model, "config", None), "calibration", None)
    return None if record is None else check_record(record)


def check_record(record: Any, name: str = "config.calibration") -> dict[str, Any]:
    """A checked copy of what a config holds as `calibration`. Keys that are not known are kept."""
    if not isinstance(record, Mapping) or not isinstance(record.get("folded"), bool):
        raise ValueError(
            f"{name} must be a dict with 'temperature' (a number) and 'folded' (true or false), got {record!r}."
        )
    check_temperature(record.get("temperature"), f"{name}['temperature']")
    if record.get("method") == "focal":
        try:
            check_gamma(record.get("gamma"))
        except (ValueError, OverflowError):
            raise ValueError(f"{name}['gamma'] must be a number of at least 0, got {record.get('gamma')!r}.") from None
        if record["folded"]:
            raise ValueError(f"{name} of method 'focal' cannot be folded, got {record!r}.")
    return dict(record)


def pending_scaling(model: PreTrainedModel) -> tuple[float, float]:
    """
    Temperature and gamma that the logits of this model still need: 1 and 0 unless it has an unfolded record that its
    forward does not apply itself ([`apply_temperature`]).
    """
    record = calibration_record(model)
    if record is None or record["folded"] or applies_temperature(model):
        return 1.0, 0.0
    return recorded_scaling(record)


def recorded_scaling(record: Mapping[str, Any]) -> tuple[float, float]:
    """Temperature and gamma of a checked record; gamma is 0 unless the method is `"focal"`."""
    return float(record["temperature"]), float(record["gamma"]) if record.get("method") == "focal" else 0.0


# ---- Folding --------------------------------------------------------------------------------------------------------


class UnfoldableError(ValueError):
    """A model has no head that a temperature could be folded into. Its weights are as they were."""


def fold_temperature(
    model: PreTrainedModel,
    temperature: float,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    record: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """
    Divide the classification head by the temperature, so that the model's plain softmax is calibrated.

    The head is found, tried on a probe batch with random weights in it (and restored), and divided in place. Half
    precision heads are rounded to their own precision. With an adapter of PEFT it is the head in its `modules_to_save`
    that is divided: it is saved with the adapter, and stays in the model after `merge_and_unload()`.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`):
            A classifier with one label per sample (or token), of at least two classes.
        temperature (`float`):
            What to divide by, as fitted by [`fit_temperature`].
        inputs (`Mapping[str, torch.Tensor]`, *optional*):
            A batch for the probe; by default one is made from the config, for images and text. A model of other
            inputs needs it.
        record (`Mapping[str, Any]`, *optional*):
            What else to write into `config.calibration`: `criterion`, `loss`, `split`, `n_samples`.

    Returns:
        `transformers.PreTrainedModel`: The same model, with `config.calibration` set and `folded` true.

    Raises:
        ValueError: If the model is folded already, has no head that scales its logits, cannot take the probe batch,
            or the temperature is not a positive number. The weights are then as they were.
    """
    temperature = check_temperature(temperature)
    known = calibration_record(model)
    if "focal" in ((record or {}).get("method"), (known or {}).get("method")):
        raise ValueError(
            "Focal recalibration (method='focal') cannot be folded: it is not linear in the logits, so no head can do "
            "it. Keep it in config.calibration with folded=False, or fit a plain temperature, method='temperature'."
        )
    if known is not None and known["folded"]:
        raise ValueError(
            f"This model is calibrated already: its head is divided by temperature {known['temperature']:g}. "
            "Call unfold_temperature(model) before folding another one."
        )
    _scale_head(model, 1 / temperature, inputs)
    if record is None and known is not None and known["temperature"] == temperature:
        record = known
    model.config.calibration = {"method": "temperature", **(record or {}), "temperature": temperature, "folded": True}
    return model


def unfold_temperature(model: PreTrainedModel, *, inputs: Mapping[str, Tensor] | None = None) -> PreTrainedModel:
    """
    Undo [`fold_temperature`]: multiply the head by the recorded temperature and set `folded` to false. Where
    [`apply_temperature`] was called, that is undone too.

    Args:
        model (`transformers.PreTrainedModel`):
            A folded model.
        inputs (`Mapping[str, torch.Tensor]`, *optional*):
            A batch for the probe; by default one is made from the config.

    Returns:
        `transformers.PreTrainedModel`: The same model; its logits are those before scaling, up to rounding.

    Raises:
        ValueError: If the model is not folded.
    """
    record = calibration_record(model)
    if record is None or not record["folded"]:
        raise ValueError("This model has no folded temperature: config.calibration['folded'] is not true.")
    _scale_head(model, record["temperature"], inputs)
    for key, hook in list(getattr(model, "_forward_hooks", {}).items()):
        if hook is _divide_logits:
            del model._forward_hooks[key]
    model.config.calibration = {**record, "folded": False}
    return model


def check_single_label(model: PreTrainedModel) -> None:
    """Refuse models whose outputs are not one softmax over at least two classes."""
    config = getattr(model, "config", None)
    num_labels = getattr(config, "num_labels", None)
    if not isinstance(num_labels, int):
        raise ValueError(
            f"{type(model).__name__} has no config.num_labels. Supported: transformers classifiers; a timm network "
            "goes through AutoModelForImageClassification (TimmWrapper)."
        )
    problem_type = getattr(config, "problem_type", None)
    if num_labels < 2 or problem_type in ("regression", "multi_label_classification"):
        raise ValueError(
            f"Supported: classification with one label per sample and at least 2 classes. Found: num_labels="
            f"{num_labels}, problem_type={problem_type!r}. Multi-label, regression and one-output heads have no "
            "softmax to calibrate."
        )


def _scale_head(model: PreTrainedModel, factor: float, inputs: Mapping[str, Tensor] | None) -> None:
    check_single_label(model)
    heads = find_head(model, inputs)
    with torch.no_grad():
        _scale(heads, factor)


def _scale(modules: list[nn.Module], factor: float) -> None:
    for parameter in _parameters(modules):
        parameter.mul_(factor)


def _parameters(modules: list[nn.Module]) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters(recurse=False)]


@torch.no_grad()
def find_head(model: PreTrainedModel, inputs: Mapping[str, Tensor] | None) -> list[nn.Module]:
    """
    The linear modules whose common scale is the scale of the logits: halving them halves the logits of a probe batch.

    Random weights stand in meanwhile, in every module that might belong to the head: trained or fresh weights may be
    so small that the logits prove nothing, or that one head of two seems to be all.
    """
    probe = {}
    for name, value in (_probe_inputs(model) if inputs is None else inputs).items():
        probe[name] = value.to(model.device, model.dtype if value.is_floating_point() else None)
    candidates = [heads for heads in _head_candidates(model) if heads]
    modules = list(dict.fromkeys(module for heads in candidates for module in heads))
    with evaluating(model), _random_weights(modules):
        whole = _probe_logits(model, probe)
        size = whole.abs().max()
        if 0 < size < math.inf:
            for heads in candidates:
                _scale(heads, 0.5)
                half = _probe_logits(model, probe)
                _scale(heads, 2.0)
                if (2 * half - whole).abs().max() <= 1e-4 * size:
                    return heads
    if candidates:
        reason = "none of its linear layers with as many outputs as labels scales the logits."
    elif has_adapter(model):
        reason = (
            "its adapter is saved without a head to divide. Name the head in the adapter's modules_to_save, or call "
            "merge_and_unload() first."
        )
    else:
        reason = f"it has no linear layer with {model.config.num_labels} floating point outputs."
    raise UnfoldableError(
        f"Cannot fold a temperature into {type(model).__name__}: {reason} "
        "Or keep the temperature in the config instead (fold=False in CalibrationTrainer.calibrate, "
        "--no_fold_temperature of the scripts)."
    )


def has_adapter(model: Any) -> bool:
    """Whether saving this model saves an adapter of PEFT alone."""
    return bool(getattr(model, "peft_config", None))


def _head_candidates(model: Any) -> Iterator[list[nn.Module]]:
    def is_head(module: Any) -> bool:
        outputs = getattr(module, "out_features", getattr(module, "out_channels", None))
        return (
            isinstance(module, (nn.Linear, nn.Conv2d))
            and outputs == model.config.num_labels
            and all(p.is_floating_point() and p.device.type != "meta" for p in module.parameters(recurse=False))
        )

    if hasattr(model, "timm_model") and not has_adapter(model):
        classifier = model.timm_model.get_classifier()
        modules = classifier if isinstance(classifier, (tuple, list)) else [classifier]
        yield [module for module in modules if is_head(module)]
    linear = [(name, module) for name, module in model.named_modules() if is_head(module)]
    if has_adapter(model):  # it is saved with the heads that it trains, and with no other weight of the model
        linear = [(name, module) for name, module in linear if ".modules_to_save." in name]
    heads = [module for _, module in linear]
    for head in reversed(heads):
        yield [head]
    if len(heads) > 1:
        yield heads[-2:]
        yield heads


@contextmanager
def _random_weights(modules: list[nn.Module]) -> Iterator[None]:
    parameters = _parameters(modules)
    originals = [parameter.clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(0)
    try:
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
        yield
    finally:
        for parameter, original in zip(parameters, originals, strict=True):
            parameter.copy_(original)


def _probe_logits(model: PreTrainedModel, probe: Mapping[str, Tensor]) -> Tensor:
    try:
        outputs = model(**probe)
    except Exception as error:
        shapes = ", ".join(f"{name} of shape {tuple(value.shape)}" for name, value in probe.items())
        raise UnfoldableError(
            f"{type(model).__name__} fails on the batch that its head is tried on, {shapes}: {error}\n"
            "Pass one batch of inputs that it takes, without labels, to fold_temperature as inputs=..., or keep the "
            "temperature in the config (fold=False in CalibrationTrainer.calibrate)."
        ) from error
    logits = outputs.logits if hasattr(outputs, "logits") else outputs[0]
    return logits.double()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _probe_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    config, name, task = model.config, model.main_input_name, task_of(model)
    if task is not None and (probe := task.probe(model)) is not None:
        return probe
    generator = torch.Generator().manual_seed(0)
    if name == "pixel_values":
        channels, height, width = _image_shape(model)
        if "spatial_shapes" in inspect.signature(model.forward).parameters:  # images cut into patches beforehand
            patch = getattr(config, "vision_config", config).patch_size
            patches = torch.randn(2, 4, channels * patch**2, generator=generator)
            shapes = torch.full((2, 2), 2)
            return {name: patches, "pixel_attention_mask": torch.ones(2, 4).long(), "spatial_shapes": shapes}
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


# ---- Dividing in the forward pass -----------------------------------------------------------------------------------


def apply_temperature(model: PreTrainedModel) -> PreTrainedModel:
    """
    Let a model divide its own logits by the temperature in its config, if that is not folded into the head.

    A forward hook does it, which changes no weight: what `save_pretrained` writes is as before. It follows
    `config.calibration` at every call, so that the logits are divided once whatever happens to the model: not at all
    after folding, by the new temperature after calibrating anew. Calling this twice is calling it once. A loss that
    the model computes itself, from `labels`, is that of the undivided logits. With method `"focal"` the logits become
    logarithms of the probabilities, without a gradient.

    Args:
        model (`transformers.PreTrainedModel`):
            A classifier; without `config.calibration` nothing is divided.

    Returns:
        `transformers.PreTrainedModel`: The same model.

    Raises:
        ValueError: If `config.calibration` is malformed, or unfolded and of an unknown method.
    """
    record = calibration_record(model)
    method = "temperature" if record is None or record["folded"] else record.get("method", "temperature")
    if method not in METHODS:
        raise ValueError(f"config.calibration['method'] must be one of {', '.join(METHODS)}, got {method!r}.")
    if not applies_temperature(model):
        model.register_forward_hook(_divide_logits)
    return model


def applies_temperature(model: Any) -> bool:
    """Whether [`apply_temperature`] was called on this model."""
    return _divide_logits in getattr(model, "_forward_hooks", {}).values()


def _divide_logits(model: Any, inputs: Any, outputs: Any) -> Any:
    record = calibration_record(model)
    if record is None or record["folded"]:
        return outputs
    if isinstance(outputs, tuple):  # return_dict=False: the logits come first, or after the loss, which is a scalar
        index = 0 if outputs[0].dim() else 1
        return (*outputs[:index], _calibrated(outputs[index], record), *outputs[index + 1 :])
    outputs["logits"] = _calibrated(outputs["logits"], record)
    return outputs


def _calibrated(logits: Tensor, record: Mapping[str, Any]) -> Tensor:
    scaled = logits / record["temperature"]
    if record.get("method") != "focal":
        return scaled
    rows = scaled.detach().double().cpu().reshape(-1, scaled.shape[-1]).numpy()
    return logits.new_tensor(focal_log_probabilities(rows, float(record["gamma"]))).reshape(logits.shape)
