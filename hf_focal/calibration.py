# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Temperature scaling: fit a temperature on held-out logits, and fold it into a model's classification head.

A model says in `config.calibration` whether it is calibrated: probabilities are `softmax(logits)` where `folded` is
true and `softmax(logits / temperature)` where it is false. Nothing else ever divides.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import softmax

from .bins import bin_indices
from .inputs import check_logits, check_n_bins
from .metrics import calibration_metrics_from_logits


if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


CRITERIA = ("ece", "nll")
GRID = np.arange(1, 101) / 10  # the paper's: (0, 10] in steps of 0.1
NLL_BOUNDS = (0.01, 100.0)
FEW_SAMPLES = 200
ADAPTER_RECORD = "calibration.json"  # beside an adapter of PEFT, which is saved without the config
_TEMPERATURE_RANGE = (1e-3, 1e3)
_CHUNK = 1 << 18  # logits handled at a time by the fits: their scratch memory stays in the cache


# ---- Fitting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TemperatureFit:
    """
    A fitted temperature and what it did to the data it was fitted on.

    Attributes:
        temperature (`float`):
            What to divide logits by: above 1 softens an over-confident model, below 1 sharpens an under-confident one.
        criterion (`str`):
            `"ece"` or `"nll"`.
        n_samples (`int`):
            Size of the data set it was fitted on.
        before, after (`dict[str, float]`):
            Every metric on that data set at temperature 1 and at the fitted one.
    """

    temperature: float
    criterion: str
    n_samples: int
    before: dict[str, float]
    after: dict[str, float]

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """
        Calibrated probabilities, `softmax(logits / temperature)`.

        Args:
            logits (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
                Raw scores of the same model, finite.

        Returns:
            `np.ndarray` of shape `(num_samples, num_labels)`: float64; rows sum to 1.
        """
        array, _ = check_logits(logits)
        return softmax(array.astype(np.float64) / self.temperature, axis=1)


def fit_temperature(logits: ArrayLike, labels: ArrayLike, criterion: str = "ece", n_bins: int = 15) -> TemperatureFit:
    """
    Fit the temperature of `softmax(logits / T)` on held-out data (Guo et al., 2017; Mukhoti et al., 2020, Section 5).

    Args:
        logits (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
            Raw scores on data that the model was not trained on, finite.
        labels (`np.ndarray` or `torch.Tensor` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        criterion (`str`, *optional*, defaults to `"ece"`):
            `"ece"`: the temperature of smallest ECE among 0.1, 0.2, ..., 10, the smallest one where several tie (the
            paper's choice). `"nll"`: the minimiser of the negative log-likelihood over [0.01, 100], to machine
            precision, found as the zero of the derivative, which is monotone in 1 / T.
        n_bins (`int`, *optional*, defaults to `15`):
            Bins of the ECE, in the criterion and in the metrics before and after.

    Returns:
        [`TemperatureFit`]

    Raises:
        ValueError: If the criterion is unknown, shapes disagree, logits are not finite, or labels are out of range.
        TypeError: If `n_bins` is not a whole number.

    Warns:
        UserWarning: If the optimum lies at an end of its range, or there are fewer than 200 samples.

    Example:
    >>> generator = np.random.default_rng(0)
    >>> logits = generator.normal(size=(2000, 3))
    >>> labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from softmax(logits)
    >>> 0.9 < fit_temperature(2 * logits, labels, criterion="nll").temperature / 2 < 1.1
    True
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}.")
    n_bins = check_n_bins(n_bins)
    array, indices = check_logits(logits, labels)
    array = array.astype(np.float64)
    if len(array) < FEW_SAMPLES:
        warnings.warn(
            f"The temperature is fitted on {len(array)} samples; with fewer than {FEW_SAMPLES} it is mostly noise.",
            UserWarning,
            stacklevel=2,
        )
    if criterion == "ece":
        temperature, ends = _fit_ece(array, indices, n_bins), (GRID[0], GRID[-1])
    else:
        temperature, ends = _fit_nll(array, indices), NLL_BOUNDS
    if temperature in ends:
        warnings.warn(
            f"The best temperature, {temperature:g}, is at the end of the range searched, [{ends[0]:g}, {ends[1]:g}]: "
            "the data do not determine it. More validation data, or a model that makes some mistakes on it, would.",
            UserWarning,
            stacklevel=2,
        )
    return TemperatureFit(
        temperature=temperature,
        criterion=criterion,
        n_samples=len(array),
        before=calibration_metrics_from_logits(array, indices, n_bins),
        after=calibration_metrics_from_logits(array, indices, n_bins, temperature),
    )


def _margins(logits: NDArray[np.float64]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Blocks of rows with each row's maximum taken off."""
    rows = max(1, _CHUNK // logits.shape[1])
    for start in range(0, len(logits), rows):
        block = slice(start, start + rows)
        yield block, logits[block] - logits[block].max(axis=1, keepdims=True)


def _fit_ece(logits: NDArray[np.float64], labels: NDArray[np.int64], n_bins: int) -> float:
    correct = logits.argmax(axis=1) == labels
    gaps = np.zeros((len(GRID), n_bins))
    for block, margins in _margins(logits):
        hits = correct[block].astype(np.float64)
        scaled = np.empty_like(margins)
        for row, temperature in zip(gaps, GRID, strict=True):
            np.exp(np.divide(margins, temperature, out=scaled), out=scaled)
            confidences = 1 / scaled.sum(axis=1)
            row += np.bincount(bin_indices(confidences, n_bins), confidences - hits, n_bins)
    errors = np.abs(gaps).sum(axis=1) / len(labels)
    # Sums that differ by rounding alone tie, and argmin takes the first, so the smallest tied temperature wins.
    return float(GRID[np.argmax(errors <= errors.min() + 1e-14)])


def _fit_nll(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    def slope(log_inverse: float) -> float:
        """Derivative of the summed NLL with respect to 1 / T: expected logit minus the logit of the true class."""
        inverse, total = math.exp(log_inverse), 0.0
        for block, margins in _margins(logits):
            true = np.take_along_axis(margins, labels[block][:, None], axis=1)
            weights = np.exp(inverse * margins)
            total += float(np.sum(np.einsum("ij,ij->i", weights, margins) / weights.sum(axis=1) - true[:, 0]))
        return total

    low, high = -math.log(NLL_BOUNDS[1]), -math.log(NLL_BOUNDS[0])
    if slope(low) >= 0:  # even the flattest softmax is too sharp
        return NLL_BOUNDS[1]
    if slope(high) <= 0:
        return NLL_BOUNDS[0]
    return float(math.exp(-brentq(slope, low, high, xtol=1e-12)))


def describe_confidence(logits: ArrayLike, labels: ArrayLike, temperature: float) -> str:
    """
    One sentence on whether a model is over- or under-confident, and what the temperature does about it.

    Args:
        logits (`np.ndarray` of shape `(num_samples, num_labels)`):
            Raw scores before scaling.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices.
        temperature (`float`):
            The fitted temperature.
    """
    array, indices = check_logits(logits, labels)
    confidence = softmax(array.astype(np.float64), axis=1).max(axis=1).mean()
    share = np.mean(array.argmax(axis=1) == indices)
    if abs(confidence - share) < 0.005:
        verdict = "neither over- nor under-confident on average"
    else:
        verdict = "over-confident" if confidence > share else "under-confident"
    effect = "sharpens" if temperature < 1 else "softens" if temperature > 1 else "leaves alone"
    return (
        f"Before scaling the model is {verdict}: its mean confidence is {confidence:.1%} and it is right "
        f"{share:.1%} of the time. The temperature {temperature:.4g} {effect} its probabilities."
    )


# ---- The record in a model's config ---------------------------------------------------------------------------------


def check_temperature(value: Any, name: str = "temperature") -> float:
    """The value as a float if it can be a temperature, or a `ValueError`."""
    low, high = _TEMPERATURE_RANGE
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}.")
    return float(value)


def calibration_record(model: PreTrainedModel) -> dict[str, Any] | None:
    """A checked copy of `model.config.calibration`, or `None` for a model that was never calibrated."""
    record = getattr(getattr(model, "config", None), "calibration", None)
    if record is None:
        return None
    if not isinstance(record, Mapping) or not isinstance(record.get("folded"), bool):
        raise ValueError(
            "config.calibration must be a dict with 'temperature' (a number) and 'folded' (true or false), "
            f"got {record!r}."
        )
    check_temperature(record.get("temperature"), "config.calibration['temperature']")
    return dict(record)


def pending_temperature(model: PreTrainedModel) -> float:
    """What the logits of this model still have to be divided by: 1 unless it has an unfolded temperature."""
    record = calibration_record(model)
    return 1.0 if record is None or record["folded"] else float(record["temperature"])


# ---- Folding --------------------------------------------------------------------------------------------------------


def fold_temperature(
    model: PreTrainedModel,
    temperature: float,
    *,
    inputs: Mapping[str, Any] | None = None,
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


def unfold_temperature(model: PreTrainedModel, *, inputs: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """
    Undo [`fold_temperature`]: multiply the head by the recorded temperature and set `folded` to false.

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


def _scale_head(model: PreTrainedModel, factor: float, inputs: Mapping[str, Any] | None) -> None:
    import torch

    check_single_label(model)
    heads = _find_head(model, inputs)
    with torch.no_grad():
        _scale(heads, factor)


def _scale(modules: list[nn.Module], factor: float) -> None:
    for module in modules:
        for parameter in module.parameters(recurse=False):
            parameter.mul_(factor)


def _find_head(model: PreTrainedModel, inputs: Mapping[str, Any] | None) -> list[nn.Module]:
    """
    The linear modules whose common scale is the scale of the logits: halving them halves the logits of a probe batch.

    Random weights stand in meanwhile, in every module that might belong to the head: trained or fresh weights may be
    so small that the logits prove nothing, or that one head of two seems to be all.
    """
    import torch

    probe = {}
    for name, value in (inputs or _probe_inputs(model)).items():
        probe[name] = value.to(model.device, model.dtype if value.is_floating_point() else None)
    candidates = [heads for heads in _head_candidates(model) if heads]
    modules = list(dict.fromkeys(module for heads in candidates for module in heads))
    with torch.no_grad(), _evaluating(model), _random_weights(modules):
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
    raise ValueError(
        f"Cannot fold a temperature into {type(model).__name__}: {reason} "
        "Or keep the temperature in the config instead (fold=False in CalibrationTrainer.calibrate)."
    )


def has_adapter(model: Any) -> bool:
    """Whether saving this model saves an adapter of PEFT alone."""
    return bool(getattr(model, "peft_config", None))


def _head_candidates(model: Any) -> Iterator[list[nn.Module]]:
    from torch import nn

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
    import torch

    parameters = [parameter for module in modules for parameter in module.parameters(recurse=False)]
    originals = [parameter.clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(0)
    try:
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
        yield
    finally:
        for parameter, original in zip(parameters, originals, strict=True):
            parameter.copy_(original)


def _probe_logits(model: PreTrainedModel, probe: Mapping[str, Any]) -> Any:
    try:
        outputs = model(**probe)
    except Exception as error:
        shapes = ", ".join(f"{name} of shape {tuple(value.shape)}" for name, value in probe.items())
        raise ValueError(
            f"{type(model).__name__} fails on the batch that its head is tried on, {shapes}: {error}\n"
            "Pass one batch of inputs that it takes to fold_temperature as inputs=..., or keep the temperature in the "
            "config (fold=False in CalibrationTrainer.calibrate)."
        ) from error
    logits = outputs.logits if hasattr(outputs, "logits") else outputs[0]
    return logits.double()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _probe_inputs(model: PreTrainedModel) -> dict[str, Any]:
    import torch

    config, name = model.config, model.main_input_name
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
    raise ValueError(
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
