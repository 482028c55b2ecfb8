# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a metric is, and the registry of them; all sum in float64."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_gamma, check_n_bins, check_positive
from ..gamma import focal_log_probabilities
from .bins import BinStatistics
from .gaps import Floats, GapError, TopCells
from .output_cells import of_labels
from .output_sums import OutputSums
from .outputs import ScoredOutputs, are_of_outputs, are_one_hot, scored_logits, scored_probabilities
from .scored import SIGMOID, SOFTMAX, LogitMap, Scored, of_probabilities


Value = Callable[[Scored, int], float]
Statistic = Callable[[NDArray[np.int64]], float]  # of the rows of a resample
Function = TypeVar("Function", bound=Callable[..., Any])
BIN_SUMS = ("counts", "confidence_sums", "correct_sums")  # of [`BinStatistics`], added up under these names


class Sums:
    """What was added up over batches: bins of equal width, and what metrics themselves add up, by name."""

    n_bins: int
    arrays: dict[str, NDArray[Any]]

    @property
    def num_samples(self) -> int:
        return int(self.arrays["counts"].sum())

    @property
    def bins(self) -> BinStatistics:
        return BinStatistics(np.arange(self.n_bins + 1) / self.n_bins, *(self.arrays[name] for name in BIN_SUMS))


@dataclass(frozen=True)
class Metric:
    """
    An entry of `METRICS`: all that trainers, tables, intervals and cards know of a metric.

    Attributes:
        key, title (`str`): What it is called in results (`eval_<key>`), and in tables.
        value (`Callable[[Scored, int], float]`): The metric itself, with a number of bins: of a softmax, or of a
            single label of a sigmoid head. Of several it is the mean over labels, see [`Metric.of`].
        heads (`tuple[str, ...]`): What it is for: `"softmax"`, `"sigmoid"` or, unless it says otherwise, both.
        style (`str`): How tables format it.
        complement (`str`, *optional*): Title of one minus the metric, where tables show that: `"Error"` for accuracy.
        rank (`int`): Tables of results list metrics by it, and within it in the order of `METRICS`.
        lower_is_better, binned (`bool`): The direction, and whether it depends on the number of bins.
        bounds (`tuple[float, float]`): The least and the most that it can be.
        whole_rows (`bool`): Whether it goes through [`Scored.blocks`], beyond what is known of each row. It is then
            measured first, and not resampled in reports where that takes minutes.
        function (`Callable`, *optional*): The public function of probabilities, by which it is known as well.
        resampled (`Callable[[Scored, int], Callable[[np.ndarray], float]]`, *optional*): A function of the rows of a
            resample that gives `value(scored.take(rows), n_bins)`, but faster.
        running (`Callable[[Sums], float]`, *optional*): The metric of all samples, from sums over batches.
        added (`Callable[[Scored, int], dict[str, ArrayLike]]`, *optional*): What a batch adds to the sums, by name,
            beside the bins of equal width. It is asked of no rows as well; what is by class has the classes first.
        gaps ([`GapError`], *optional*): How a calibration error follows from gaps. Of a binned metric without, it is
            found out by asking its value for other bins than those observed, see [`Metric.gap_error`].
        interval (`Callable[[Scored, float, np.ndarray | None], tuple[float, float]]`, *optional*): The ends of the
            interval of that level, with the number of each sample's group, where a formula is better than a bootstrap.
        error_bound (`Callable[[Sums], float]`, *optional*): How far from exact `running` may be.
        sums ([`OutputSums`], *optional*): How it follows from sums over samples of a sigmoid head, by label.
    """

    key: str
    title: str
    value: Value
    style: str = ".2%"
    complement: str | None = None
    rank: int = 0
    lower_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    binned: bool = True
    whole_rows: bool = False
    function: Callable[..., float] | None = None
    resampled: Callable[[Scored, int], Statistic] | None = None
    running: Callable[[Sums], float] | None = None
    added: Callable[[Scored, int], dict[str, Any]] = lambda scored, n_bins: {}
    error_bound: Callable[[Sums], float] | None = None
    gaps: GapError | None = None
    interval: Callable[[Scored, float, NDArray[np.int64] | None], tuple[float, float]] | None = None
    heads: tuple[str, ...] = (SOFTMAX, SIGMOID)
    sums: OutputSums | None = None

    def of(self, scored: Scored, n_bins: int) -> float:
        """
        The metric of a head of either kind: of several labels the mean of what it is of each, by how many of its
        values are known, where it does not follow from sums.
        """
        if not isinstance(scored, ScoredOutputs):
            return self.value(scored, n_bins)
        if self.sums is not None:
            return float(self.sums.of(scored))
        if scored.num_outputs == 1:
            return self.value(scored, n_bins)
        ones = [one for _, one in scored.each.values()]
        return float(np.average([self.value(one, n_bins) for one in ones], weights=[len(one) for one in ones]))

    def is_added_up(self, head: str) -> bool:
        """Whether it follows from sums over batches of such a head."""
        return self.running is not None or (head == SIGMOID and self.sums is not None)

    def gap_error(self, scored: Scored, n_bins: int) -> GapError | None:
        """How it follows from gaps between what is said and what comes true, or `None` where it does not."""
        if isinstance(scored, ScoredOutputs) and scored.num_outputs > 1:
            of_one = self.gap_error(next(iter(scored.each.values()))[1], n_bins)
            return None if of_one is None else of_labels(of_one)
        if self.gaps is not None or not self.binned:
            return self.gaps
        bins = scored.bins(n_bins)
        perfect = BinStatistics(bins.edges, bins.counts, bins.confidence_sums, bins.confidence_sums)
        try:
            alike = self._of_bins(bins) == self.value(scored, n_bins)
            error = alike and abs(self._of_bins(perfect)) < 1e-9
        except AttributeError:  # it wants more of the samples than their bins
            return None
        return GapError(cells=TopCells, value=self._of_gaps) if error else None

    def _of_bins(self, bins: BinStatistics) -> float:
        return self.value(cast(Scored, _OnlyBins(bins)), len(bins.counts))

    def _of_gaps(self, gaps: Floats, cells: Floats) -> Floats:
        counts, mean = cells
        edges, numbers, said = np.arange(len(counts) + 1) / len(counts), counts.astype(int), counts * mean
        values = [self._of_bins(BinStatistics(edges, numbers, said, said + one)) for one in np.atleast_2d(gaps)]
        return np.array(values).reshape(gaps.shape[:-1])

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
        if isinstance(scored, ScoredOutputs):
            return lambda rows: self.of(scored.take(rows), n_bins)
        if self.resampled is not None:
            return self.resampled(scored, n_bins)
        return lambda rows: self.value(scored.take(rows), n_bins)


class _OnlyBins:
    """Stands for samples of which nothing is known but what was counted in bins."""

    def __init__(self, bins: BinStatistics) -> None:
        self._bins = bins

    def __len__(self) -> int:
        return int(self._bins.counts.sum())

    def bins(self, n_bins: int, adaptive: bool = False) -> BinStatistics:
        if adaptive:
            raise AttributeError("Only bins of equal width are known.")
        return self._bins


METRICS: dict[str, Metric] = {}  # of a softmax; most of them are for sigmoid heads as well
SIGMOID_METRICS: dict[str, Metric] = {}  # for sigmoid heads alone
ALL_METRICS: Mapping[str, Metric] = ChainMap(SIGMOID_METRICS, METRICS)


def metrics_of(head: str) -> dict[str, Metric]:
    """The metrics that are for a kind of head, `"softmax"` or `"sigmoid"`, by key."""
    return {key: metric for key, metric in ALL_METRICS.items() if head in metric.heads}


def register_metric(key: str, *, title: str, **details: Any) -> Callable[[Function], Function]:
    """
    Make a function the metric of that name, everywhere: in evaluations, tables, intervals, cards and comparisons.

    Args:
        key, title (`str`):
            Its names in results, such as `"ece"`, and in tables, such as `"ECE"`.
        details (*optional*):
            Further attributes of [`Metric`]: `style`, `lower_is_better`, `bounds` and so on. A metric is for heads of
            both kinds: of a sigmoid head it is asked of each label by itself, as of two classes, no and yes, and the
            mean is taken. `heads=("softmax",)` keeps it from those; `heads=("sigmoid",)` makes it one for them alone,
            which stands in `SIGMOID_METRICS` in place of `METRICS`.

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
    if key in ALL_METRICS:
        raise ValueError(f"There is a metric {key!r} already; choose another name.")
    heads = details.get("heads", Metric.heads)
    if isinstance(heads, str) or not heads or not {*heads} <= {SOFTMAX, SIGMOID}:
        raise ValueError(f"heads must hold {SOFTMAX!r}, {SIGMOID!r} or both, got {heads!r}.")

    def register(value: Function) -> Function:
        registry = METRICS if SOFTMAX in heads else SIGMOID_METRICS
        registry[key] = Metric(key, title, value, **details)
        return value

    return register


def mean_of(values: NDArray[np.float64]) -> Statistic:
    """The resampled form of a mean over samples."""
    return lambda rows: float(values.take(rows).mean() + 0.0)


def whole_rows_first(metrics: Iterable[Metric]) -> list[Metric]:
    """The metrics in the order to work them out: going through all probabilities leaves behind what others need."""
    return sorted(metrics, key=lambda metric: not metric.whole_rows)


def measure(scored: Scored, n_bins: int = 15) -> dict[str, float]:
    """Every registered metric of such heads, in the order in which they were registered."""
    metrics = metrics_of(scored.head)
    values = {metric.key: metric.of(scored, n_bins) for metric in whole_rows_first(metrics.values())}
    return {key: values[key] for key in metrics}


@of_probabilities
def bin_statistics(
    probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15, adaptive: bool = False
) -> BinStatistics:
    """
    Count, confidence and accuracy per bin of confidence.

    Args:
        adaptive (`bool`, *optional*, defaults to `False`):
            Bins of equal mass, as in [`adaptive_calibration_error`], in place of equal width.
    """
    return scored_probabilities(probabilities, labels).bins(check_n_bins(n_bins), bool(adaptive))


@of_probabilities
def calibration_metrics(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = 15) -> dict[str, float]:
    """
    Every metric of `METRICS`.

    Labels of the shape of the probabilities, 1, 0, and -100 where nothing is known, are of a sigmoid head: each column
    is the probability of a label of its own. Calibration errors are then the mean of those of the labels, each of how
    often it comes true where it has a probability; accuracy, NLL and Brier score are means over all that is known, and
    `f1_micro` and `f1_macro` join them. [`multilabel_calibration_metrics`] gives them of each label.

    Returns:
        `dict[str, float]`: `accuracy`, `nll`, `brier`, `ece`, `mce`, `adaptive_ece`, `classwise_ece`, and what
        else was registered.

    Example:
    >>> metrics = calibration_metrics([[0.9, 0.2], [0.8, 0.4]], [[1, 0], [0, 1]])
    >>> round(metrics["ece"], 3), round(metrics["brier"], 4), metrics["f1_macro"]
    (0.425, 0.2625, 0.3333333333333333)
    """
    return measure(scored_probabilities(probabilities, labels), check_n_bins(n_bins))


@of_probabilities
def calibration_metrics_from_logits(
    logits: ArrayLike, labels: ArrayLike, n_bins: int = 15, temperature: float = 1.0, gamma: float = 0.0
) -> dict[str, float]:
    """
    As [`calibration_metrics`], of `softmax(logits / temperature)` in float64, with the NLL from the logits; with
    labels of the shape of the logits, of their sigmoid.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            What the logits are divided by; positive.
        gamma (`float`, *optional*, defaults to `0.0`):
            Above 0: undo the bias of focal loss of this gamma, see [`focal_recalibration`].

    Returns:
        `dict[str, float]`: As [`calibration_metrics`].

    Raises:
        ValueError: If the temperature is not positive, or gamma is negative.
    """
    scaling: LogitMap | None = scaling_of(temperature, gamma)
    if are_of_outputs(logits, labels):
        if are_one_hot(labels):
            raise ValueError(
                "labels of the shape of the logits are of a sigmoid head, but here each row holds a single 1, as of a "
                "softmax: give it class indices, labels.argmax(axis=1). Of a sigmoid head, whose labels may be so by "
                "chance, give calibration_metrics the probabilities."
            )
        scaling = output_scaling_of(temperature, gamma)
    return measure(scored_logits(logits, labels, scaling), check_n_bins(n_bins))


@dataclass(frozen=True)
class _OneScale:
    """Logits of a sigmoid head divided by one temperature."""

    temperature: float

    def calibrated_logits(self, logits: NDArray[Any]) -> NDArray[Any]:
        return logits / self.temperature


@dataclass(frozen=True)
class _Scaling:
    temperature: float
    gamma: float

    def calibrated_logits(self, logits: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):  # margins, so that a tiny temperature makes nothing but the largest one count
            scaled = (logits - logits.max(axis=1, keepdims=True)) / self.temperature
        return focal_log_probabilities(scaled, self.gamma) if self.gamma else scaled


def scaling_of(temperature: float, gamma: float) -> _Scaling | None:
    """A temperature, and then the gamma of [`focal_recalibration`]; `None` where they change nothing."""
    temperature, gamma = check_positive("temperature", temperature), check_gamma(gamma)
    return None if temperature == 1 and gamma == 0 else _Scaling(temperature, gamma)


def output_scaling_of(temperature: float = 1.0, gamma: float = 0.0) -> _OneScale | None:
    """The same of a sigmoid head, for which there is no such gamma."""
    if check_gamma(gamma):
        raise ValueError(f"gamma={gamma} undoes what focal loss does to a softmax, but these are of a sigmoid head.")
    return None if check_positive("temperature", temperature) == 1 else _OneScale(temperature)
