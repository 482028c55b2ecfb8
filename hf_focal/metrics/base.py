# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What a metric is, and the registry of them.

Public functions take probabilities, never logits, as arrays, lists or tensors, and sum in float64. Confidence is the
largest probability of a row and the prediction is its class, the lowest one where several tie.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_gamma, check_n_bins, check_positive
from ..gamma import focal_log_probabilities
from .bins import BinStatistics
from .scored import Scored


Value = Callable[[Scored, int], float]
Statistic = Callable[[NDArray[np.int64]], float]  # of the rows of a resample
AnyValue = TypeVar("AnyValue", bound=Value)
Function = TypeVar("Function", bound=Callable[..., Any])
_MANY = 1 << 24  # probabilities: above, going through them for every resample takes minutes


@dataclass(frozen=True)
class Sums:
    """
    What was added up over batches.

    Attributes:
        arrays (`dict[str, np.ndarray]`): The bins, and the arrays that the metrics themselves add up, by name.
        n_bins, num_labels (`int`): Number of bins and of classes.
    """

    arrays: Mapping[str, NDArray[Any]]
    n_bins: int
    num_labels: int

    @property
    def num_samples(self) -> int:
        """How many samples there were."""
        return int(self.arrays["counts"].sum())

    @property
    def bins(self) -> BinStatistics:
        """What [`Scored.bins`] is of all samples."""
        names = ("counts", "confidence_sums", "correct_sums")
        return BinStatistics(np.arange(self.n_bins + 1) / self.n_bins, *(self.arrays[name] for name in names))


@dataclass(frozen=True)
class Running:
    """
    How a metric is told from sums over batches. Bins of equal width are always summed; what else it needs it adds up.

    Attributes:
        compute (`Callable[[Sums], float]`):
            The metric of all samples.
        add (`Callable[[Scored, int], dict[str, ArrayLike]]`, *optional*):
            What a batch adds, by name, for a number of bins.
        shapes (`Mapping[str, tuple]`, *optional*):
            The shapes of that, in numbers and the words `"n_bins"` and `"num_labels"`.
        error_bound (`Callable[[Sums], float]`, *optional*):
            How far from the exact value that of `compute` may be; without it they are equal.
    """

    compute: Callable[[Sums], float]
    add: Callable[[Scored, int], dict[str, Any]] = lambda scored, n_bins: {}
    shapes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    error_bound: Callable[[Sums], float] | None = None


@dataclass(frozen=True)
class Metric:
    """
    An entry of `METRICS`: all that trainers, tables, intervals and cards know of a metric.

    Attributes:
        key (`str`): What it is called in results: `eval_<key>`.
        title (`str`): What it is called in tables.
        value (`Callable[[Scored, int], float]`): The metric itself, with a number of bins.
        style (`str`): How tables format it.
        complement (`str`, *optional*): Title of one minus the metric, where tables show that: `"Error"` for accuracy.
        lower_is_better (`bool`): The direction.
        bounds (`tuple[float, float]`): The least and the most that it can be.
        binned (`bool`): Whether it depends on the number of bins.
        whole_rows (`bool`):
            Whether it goes through all probabilities by [`Scored.blocks`], more than the one or two of each row that
            are known without. It is then measured first, and not resampled in reports where that takes minutes.
        function (`Callable`, *optional*):
            The public function of probabilities and labels, by which it is known as well.
        resampled (`Callable[[Scored, int], Callable[[np.ndarray], float]]`, *optional*):
            A function of the rows of a resample that gives `value(scored.take(rows), n_bins)`, but faster.
        running ([`Running`], *optional*): How it is added up over batches.
    """

    key: str
    title: str
    value: Value
    style: str = ".2%"
    complement: str | None = None
    lower_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    binned: bool = True
    whole_rows: bool = False
    function: Callable[..., float] | None = None
    resampled: Callable[[Scored, int], Statistic] | None = None
    running: Running | None = None

    @property
    def shown(self) -> str:
        """Its title in a table of results."""
        return self.complement or self.title

    def show(self, value: float) -> float:
        """The number that goes there."""
        return value if self.complement is None else 1 - value

    def facts(self) -> dict[str, Any]:
        """What results keep of it, so that they can be read where it is not known."""
        return {"title": self.title, "style": self.style, "lower_is_better": self.lower_is_better}

    def statistic(self, scored: Scored, n_bins: int) -> Statistic:
        """The metric as a function of the rows of a resample."""
        if self.resampled is not None:
            return self.resampled(scored, n_bins)
        return lambda rows: self.value(scored.take(rows), n_bins)

    def slow_to_resample(self, scored: Scored) -> bool:
        """Whether hundreds of resamples take minutes."""
        return self.whole_rows and len(scored) * scored.num_labels > _MANY


def mean_of(values: NDArray[np.float64]) -> Statistic:
    """The resampled form of a mean over samples."""
    return lambda rows: float(values.take(rows).mean() + 0.0)


METRICS: dict[str, Metric] = {}


def register_metric(key: str, *, title: str, **details: Any) -> Callable[[AnyValue], AnyValue]:
    """
    Make a function the metric of that name, everywhere: in evaluations, tables, intervals, cards and comparisons.

    Args:
        key (`str`):
            Its name in results, such as `"ece"`.
        title (`str`):
            Its name in tables, such as `"ECE"`.
        details (*optional*):
            Further attributes of [`Metric`]: `style`, `lower_is_better`, `bounds` and so on.

    Returns:
        `Callable`: A decorator of a function `(scored, n_bins) -> float`, which it returns as it is.

    Raises:
        ValueError: If there is a metric of that name already, or the name is no identifier.

    Example:
    >>> @register_metric("rmsce", title="RMSCE")
    ... def rmsce(scored, n_bins):
    ...     bins = scored.bins(n_bins)
    ...     gaps = (bins.correct_sums - bins.confidence_sums) / np.maximum(bins.counts, 1)
    ...     return float(np.sqrt((bins.counts * gaps**2).sum() / len(scored)))
    >>> round(calibration_metrics([[0.9, 0.1], [0.6, 0.4]], [0, 1])["rmsce"], 2)
    0.43
    >>> _ = METRICS.pop("rmsce")
    """
    if not key.isidentifier():
        raise ValueError(f"The name of a metric must be an identifier, such as 'ece', got {key!r}.")
    if key in METRICS:
        raise ValueError(f"There is a metric {key!r} already; choose another name.")

    def register(value: AnyValue) -> AnyValue:
        METRICS[key] = Metric(key, title, value, **details)
        return value

    return register


def whole_rows_first(metrics: Iterable[Metric]) -> list[Metric]:
    """The metrics in the order to work them out: going through all probabilities leaves behind what others need."""
    return sorted(metrics, key=lambda metric: not metric.whole_rows)


def measure(scored: Scored, n_bins: int = 15) -> dict[str, float]:
    """Every registered metric, in the order in which they were registered."""
    values = {metric.key: metric.value(scored, n_bins) for metric in whole_rows_first(METRICS.values())}
    return {key: values[key] for key in METRICS}


# ---- Docstrings -----------------------------------------------------------------------------------------------------

_ARGS = """\
Args:
    probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
        Softmax outputs; each row sums to 1.
    labels (`np.ndarray` of shape `(num_samples,)`):
        Class indices in `[0, num_labels)`.
"""
_BINS = """\
    n_bins (`int`, *optional*, defaults to `15`):
        Number of bins.
"""
_RAISES = """\
Raises:
    ValueError: If shapes disagree, values are no probabilities, or labels are out of range.
"""
_RAISES_BINS = """\
Raises:
    ValueError: If shapes disagree, values are no probabilities, labels are out of range, or `n_bins < 1`.
    TypeError: If `n_bins` is not a whole number.
"""


def of_probabilities(function: Function) -> Function:
    """
    Complete the docstring of a function of probabilities, labels and perhaps `n_bins`: what all of them say of these
    arguments, and of the errors, comes before and after its Returns.
    """
    doc = inspect.cleandoc(function.__doc__ or "")
    binned = "n_bins" in inspect.signature(function).parameters
    before, returns, after = doc.partition("Returns:\n")
    result, gap, rest = after.partition("\n\n")
    raises = _RAISES_BINS if binned else _RAISES
    function.__doc__ = f"{before}{_ARGS}{_BINS if binned else ''}\n{returns}{result}\n\n{raises}{gap[:1]}{rest}"
    return function


# ---- All of them ----------------------------------------------------------------------------------------------------


def bin_statistics(
    probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15, adaptive: bool = False
) -> BinStatistics:
    """
    Count, confidence and accuracy per bin of confidence.

    Args:
        probabilities (`np.ndarray` of shape `(num_samples, num_labels)`):
            Softmax outputs; each row sums to 1.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
        adaptive (`bool`, *optional*, defaults to `False`):
            Bins of equal mass, as in [`adaptive_calibration_error`], in place of equal width.

    Returns:
        [`BinStatistics`]

    Raises:
        ValueError: If shapes disagree, values are no probabilities, labels are out of range, or `n_bins < 1`.
        TypeError: If `n_bins` is not a whole number.
    """
    n_bins, scored = check_n_bins(n_bins), Scored(probabilities, labels)
    return scored.mass_bins(n_bins) if adaptive else scored.bins(n_bins)


@of_probabilities
def calibration_metrics(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> dict[str, float]:
    """
    Every metric of `METRICS`.

    Returns:
        `dict[str, float]`: `accuracy`, `nll`, `brier`, `ece`, `mce`, `adaptive_ece`, `classwise_ece`, and what
        else was registered.
    """
    n_bins = check_n_bins(n_bins)
    return measure(Scored(probabilities, labels), n_bins)


def calibration_metrics_from_logits(
    logits: ArrayLike, labels: ArrayLike, n_bins: int = 15, temperature: float = 1.0, gamma: float = 0.0
) -> dict[str, float]:
    """
    As [`calibration_metrics`], of `softmax(logits / temperature)` in float64, with the NLL from the logits.

    Args:
        logits (`np.ndarray` of shape `(num_samples, num_labels)`):
            Raw scores, finite.
        labels (`np.ndarray` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        n_bins (`int`, *optional*, defaults to `15`):
            Number of bins.
        temperature (`float`, *optional*, defaults to `1.0`):
            What the logits are divided by; positive.
        gamma (`float`, *optional*, defaults to `0.0`):
            Above 0: undo the bias of focal loss of this gamma, see [`focal_recalibration`].

    Returns:
        `dict[str, float]`: As [`calibration_metrics`].

    Raises:
        ValueError: If shapes disagree, logits are not finite, labels are out of range, the temperature is not
            positive, gamma is negative, or `n_bins < 1`.
        TypeError: If `n_bins` is not a whole number.
    """
    n_bins, scaling = check_n_bins(n_bins), scaling_of(temperature, gamma)
    return measure(Scored.from_logits(logits, labels, scaling), n_bins)


@dataclass(frozen=True)
class _Scaling:
    temperature: float
    gamma: float

    def calibrated_logits(self, logits: NDArray[Any]) -> NDArray[Any]:
        scaled = logits / self.temperature
        return focal_log_probabilities(scaled, self.gamma) if self.gamma else scaled


def scaling_of(temperature: float, gamma: float) -> _Scaling | None:
    """A temperature, and then the gamma of [`focal_recalibration`]; `None` where they change nothing."""
    temperature, gamma = check_positive("temperature", temperature), check_gamma(gamma)
    return None if temperature == 1 and gamma == 0 else _Scaling(temperature, gamma)
