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
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import softmax

from .bins import bin_indices, equal_width
from .inputs import check_gamma, check_logits, check_n_bins, row_blocks
from .metrics import calibration_metrics_from_logits
from .scaling import focal_log_probabilities, focal_recalibration


if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


CRITERIA = ("ece", "nll")
METHODS = ("temperature", "focal")
GRID = np.arange(1, 101) / 10  # the paper's: (0, 10] in steps of 0.1
NLL_BOUNDS = (0.01, 100.0)
GAMMA_GRID = np.arange(11.0)  # where the fit of focal temperature scaling looks first
FEW_SAMPLES = 200
ADAPTER_RECORD = "calibration.json"  # beside an adapter of PEFT, which is saved without the config
_TEMPERATURE_RANGE = (1e-3, 1e3)
_CHUNK = 1 << 17  # logits handled at a time by the fits: their scratch memory stays in the cache


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
        method (`str`, *optional*, defaults to `"temperature"`):
            `"temperature"`, or `"focal"` where the bias of focal loss is undone after scaling.
        gamma (`float`, *optional*, defaults to `0.0`):
            The gamma of that bias.
    """

    temperature: float
    criterion: str
    n_samples: int
    before: dict[str, float]
    after: dict[str, float]
    method: str = "temperature"
    gamma: float = 0.0

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """
        Calibrated probabilities: `softmax(logits / temperature)`, or [`focal_recalibration`] if `method` is `"focal"`.

        Args:
            logits (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
                Raw scores of the same model, finite.

        Returns:
            `np.ndarray` of shape `(num_samples, num_labels)`: float64; rows sum to 1.
        """
        if self.method == "focal":
            return focal_recalibration(logits, self.gamma, self.temperature)
        array, _ = check_logits(logits)
        return softmax(array.astype(np.float64) / self.temperature, axis=1)


def fit_temperature(
    logits: ArrayLike,
    labels: ArrayLike,
    criterion: str = "ece",
    n_bins: int = 15,
    method: str = "temperature",
    gamma: float | None = None,
) -> TemperatureFit:
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
        method (`str`, *optional*, defaults to `"temperature"`):
            `"focal"` is focal temperature scaling (Komisarenko and Kull, 2024): a temperature, and then
            [`focal_recalibration`]. It serves models trained with focal loss, cannot be folded into a model, and may
            overfit small sets where gamma is fitted too.
        gamma (`float`, *optional*):
            Of method `"focal"`: the gamma that the model was trained with. By default it is fitted along with the
            temperature, in [0, 10] and by the NLL; the criterion `"ece"` then chooses the temperature anew.

    Returns:
        [`TemperatureFit`]

    Raises:
        ValueError: If the criterion or method is unknown, gamma is negative or not for this method, shapes disagree,
            logits are not finite, or labels are out of range.
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
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    if gamma is not None and method != "focal":
        raise ValueError(f"gamma={gamma!r} is for method='focal' alone, got method={method!r}.")
    gamma = check_gamma(gamma) if gamma is not None else None
    n_bins = check_n_bins(n_bins)
    array, indices = check_logits(logits, labels)
    if len(array) < FEW_SAMPLES:
        warnings.warn(
            f"The temperature is fitted on {len(array)} samples; with fewer than {FEW_SAMPLES} it is mostly noise.",
            UserWarning,
            stacklevel=2,
        )
    ends = (GRID[0], GRID[-1]) if criterion == "ece" else NLL_BOUNDS
    if method == "focal":
        wide = array.astype(np.float64)
        if criterion == "ece":
            temperature, gamma = _fit_focal_ece(wide, indices, gamma, n_bins)
        else:
            temperature, gamma = _fit_focal_nll(wide, indices, gamma)
    elif criterion == "ece":
        temperature = _fit_ece(_margin_blocks(array, indices), array.argmax(axis=1) == indices, n_bins)
    else:
        temperature = _fit_nll(_margin_blocks(array, indices))
    if any(math.isclose(temperature, end, rel_tol=1e-4) for end in ends):
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
        after=calibration_metrics_from_logits(array, indices, n_bins, temperature, gamma or 0.0),
        method=method,
        gamma=gamma or 0.0,
    )


_Blocks = list[tuple[NDArray[np.float64], NDArray[np.int64], int]]


def _margin_blocks(logits: NDArray[Any], labels: NDArray[np.int64]) -> _Blocks:
    """Blocks of rows with each row's maximum taken off, their labels, and the axis of the classes."""
    blocks = []
    for block, values, axis in row_blocks(logits, np.float64, _CHUNK):
        blocks.append((values - values.max(axis=axis, keepdims=True), labels[block], axis))
    return blocks


def _true_margins(margins: NDArray[np.float64], labels: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
    rows = np.arange(len(labels))
    return margins[rows, labels] if axis else margins[labels, rows]


def _fit_ece(blocks: _Blocks, correct: NDArray[np.bool_], n_bins: int) -> float:
    errors, biases = np.full(len(GRID), np.inf), np.zeros(len(GRID))

    def bias(i: int) -> float:
        """Mean confidence less accuracy at one temperature of the grid, whose ECE is noted down."""
        if np.isinf(errors[i]):
            gaps, start = np.zeros(n_bins), 0
            for margins, labels, axis in blocks:
                confidences = 1 / np.add.reduce(np.exp(margins / GRID[i]), axis=axis)
                hits = correct[start : start + len(labels)]
                gaps += np.bincount(bin_indices(confidences, n_bins), confidences - hits, n_bins)
                start += len(labels)
            errors[i], biases[i] = np.abs(gaps).sum() / len(correct), gaps.sum() / len(correct)
        return float(biases[i])

    # The ECE is at least the size of the bias, and the bias falls as the temperature rises. So the search starts where
    # the bias changes sign and goes either way until the bias alone is worse than the best ECE so far.
    middle = bisect_left(range(len(GRID)), True, key=lambda i: bias(i) <= 0)
    for steps in (range(middle, len(GRID)), range(middle - 1, -1, -1)):
        for i in steps:
            if abs(bias(i)) > errors.min() + 1e-12:
                break
    # Sums that differ by rounding alone tie, and argmax takes the first, so the smallest tied temperature wins.
    return float(GRID[np.argmax(errors <= errors.min() + 1e-14)])


def _fit_nll(blocks: _Blocks) -> float:
    total_true = sum(float(_true_margins(*block).sum()) for block in blocks)

    def derivatives(inverse: float) -> tuple[float, float]:
        """
        First and second derivative of the summed NLL with respect to 1 / T, in which it is convex: the expected logit
        less the logit of the true class, and the variance of the logit.
        """
        slope, curvature = -total_true, 0.0
        for margins, _, axis in blocks:
            weights = np.exp(inverse * margins)
            sums = np.add.reduce(weights, axis=axis)
            weights *= margins
            means = np.add.reduce(weights, axis=axis) / sums
            weights *= margins
            slope += float(means.sum())
            curvature += float((np.add.reduce(weights, axis=axis) / sums - means**2).sum())
        return slope, curvature

    # Newton's method between two ends that close in; the ends of the range are tried before anything is halved.
    ends = 1 / NLL_BOUNDS[1], 1 / NLL_BOUNDS[0]
    low, high = ends
    untried, inverse = set(ends), 1.0
    for _ in range(200):
        slope, curvature = derivatives(inverse)
        untried.discard(inverse)
        rising = (
            slope < 0 or slope == curvature == 0
        )  # flat: every sample right beyond doubt, and more of it is no harm
        if inverse == ends[1] and rising:
            return NLL_BOUNDS[0]
        if inverse == ends[0] and not rising:  # even the flattest softmax is too sharp
            return NLL_BOUNDS[1]
        low, high = (inverse, high) if rising else (low, inverse)
        target = inverse - slope / curvature if curvature > 0 else math.inf if rising else 0.0
        if not low < target < high:
            end = high if rising else low
            target = end if end in untried else math.sqrt(low * high)
        if abs(target - inverse) <= 1e-13 * inverse or high - low <= 1e-13 * high:
            break
        inverse = target
    return 1 / target


def _fit_focal_ece(
    logits: NDArray[np.float64], labels: NDArray[np.int64], gamma: float | None, n_bins: int
) -> tuple[float, float]:
    correct = logits.argmax(axis=1) == labels
    gamma = _fit_focal_nll(logits, labels, None)[1] if gamma is None else gamma

    def error(temperature: float) -> float:
        confidences = np.exp(focal_log_probabilities(logits / temperature, gamma).max(axis=1))
        return equal_width(confidences, correct, n_bins).expected_error()

    errors = np.array([error(temperature) for temperature in GRID])
    return float(GRID[np.argmax(errors <= errors.min() + 1e-14)]), gamma


def _fit_focal_nll(logits: NDArray[np.float64], labels: NDArray[np.int64], gamma: float | None) -> tuple[float, float]:
    rows = np.arange(len(labels))
    bounds = (math.log(NLL_BOUNDS[0]), math.log(NLL_BOUNDS[1]))

    def nll(log_temperature: float, gamma: float) -> float:
        return -float(focal_log_probabilities(logits / math.exp(log_temperature), gamma)[rows, labels].mean())

    def best(gamma: float) -> tuple[float, float, float]:
        fit = minimize_scalar(nll, bounds=bounds, args=(gamma,), method="bounded", options={"xatol": 1e-7})
        return float(fit.fun), float(fit.x), gamma

    if gamma is None:
        _, start, gamma = min(best(float(g)) for g in GAMMA_GRID)
        limits = [bounds, (float(GAMMA_GRID[0]), float(GAMMA_GRID[-1]))]
        fit = minimize(
            lambda x: nll(*x),
            [start, gamma],
            bounds=limits,
            method="Nelder-Mead",
            options={"xatol": 1e-7, "fatol": 1e-12},
        )
        return float(math.exp(fit.x[0])), float(fit.x[1])
    return float(math.exp(best(gamma)[1])), gamma


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
    if isinstance(value, bool) or not isinstance(value, Real) or not value <= high or value < low:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}.")
    return float(value)


def calibration_record(model: PreTrainedModel) -> dict[str, Any] | None:
    """A checked copy of `model.config.calibration`, or `None` for a model that was never calibrated."""
    return check_record(getattr(getattr(model, "config", None), "calibration", None))


def check_record(record: Any) -> dict[str, Any] | None:
    """A checked copy of what a config holds as `calibration`. Keys that are not known are kept."""
    if record is None:
        return None
    if not isinstance(record, Mapping) or not isinstance(record.get("folded"), bool):
        raise ValueError(
            "config.calibration must be a dict with 'temperature' (a number) and 'folded' (true or false), "
            f"got {record!r}."
        )
    check_temperature(record.get("temperature"), "config.calibration['temperature']")
    if record.get("method") == "focal":
        try:
            check_gamma(record.get("gamma"))
        except (ValueError, OverflowError):
            raise ValueError(
                f"config.calibration['gamma'] must be a number of at least 0, got {record.get('gamma')!r}."
            ) from None
        if record["folded"]:
            raise ValueError(f"config.calibration of method 'focal' cannot be folded, got {record!r}.")
    return dict(record)


def pending_scaling(model: PreTrainedModel) -> tuple[float, float]:
    """
    Temperature and gamma that the logits of this model still need: 1 and 0 unless it has an unfolded record that its
    forward does not apply itself ([`apply_temperature`]).
    """
    record = calibration_record(model)
    if record is None or record["folded"] or applies_temperature(model):
        return 1.0, 0.0
    return float(record["temperature"]), float(record["gamma"]) if record.get("method") == "focal" else 0.0


def pending_temperature(model: PreTrainedModel) -> float:
    """
    What the logits of this model still have to be divided by: 1 unless it has an unfolded temperature. A model whose
    record is of method `"focal"` is refused: dividing is not all that it needs.
    """
    temperature, gamma = pending_scaling(model)
    if gamma:
        raise ValueError("This model is calibrated by method 'focal', which is more than a temperature.")
    return temperature


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


def unfold_temperature(model: PreTrainedModel, *, inputs: Mapping[str, Any] | None = None) -> PreTrainedModel:
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
        "Or keep the temperature in the config instead (fold=False in CalibrationTrainer.calibrate, "
        "--no_fold_temperature of the scripts)."
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
    if "children" in inspect.signature(model.forward).parameters:  # trees
        return model.dummy_inputs
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


def _calibrated(logits: Any, record: Mapping[str, Any]) -> Any:
    scaled = logits / record["temperature"]
    if record.get("method") != "focal":
        return scaled
    rows = scaled.detach().double().cpu().reshape(-1, scaled.shape[-1]).numpy()
    return logits.new_tensor(focal_log_probabilities(rows, float(record["gamma"]))).reshape(logits.shape)
