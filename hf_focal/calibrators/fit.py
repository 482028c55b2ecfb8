# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The fit of a calibrator on held-out data, and the guard that takes it only where it helps."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import leave_out_masked, to_numpy
from ..checks import IGNORED, check_logits, check_n_bins, check_outputs, refuse_masked_labels
from ..metrics import measure
from .auto import choose, choose_for_outputs
from .base import (
    AUTO,
    CALIBRATORS,
    CRITERIA,
    NONE,
    SIGMOID,
    SIGMOID_CALIBRATORS,
    SOFTMAX,
    Calibrator,
    calibrator_class,
    check_method,
)
from .guard import dependence, how_few, is_better, least_gain, what_is_lacking
from .held_out import HeldBack, HeldOut, scored_of
from .structured import check_intercept


DEFAULT = "temperature"  # what `auto` takes unless another is better
FEW_SAMPLES = 200


@dataclass(frozen=True)
class Fit:
    """
    A fitted calibrator and what it did to the data it was fitted on.

    Attributes:
        calibrator ([`Calibrator`]): What was fitted.
        criterion (`str`): `"ece"` or `"nll"`.
        n_samples (`int`): Size of the data set it was fitted on.
        before, after (`dict[str, float]`): Every metric on that data set without and with the calibrator.
        helped (`bool`): Whether these data show that it lowers the NLL, by the rule that [`fit_temperature`] tells.
            Under the guard a calibrator that does not is replaced by the neutral one, of temperature 1.
        why (`str`): Where it did not help, the reason, as a sentence.
        at_end (`bool`): Whether it lies at an end of the range that was searched, so that it is none to fold.
    """

    calibrator: Calibrator
    criterion: str
    n_samples: int
    before: dict[str, float]
    after: dict[str, float]
    helped: bool = True
    why: str = ""
    at_end: bool = False

    @property
    def method(self) -> str:
        return self.calibrator.method

    @property
    def temperature(self) -> float:
        """What logits are divided by: above 1 softens, below 1 sharpens; 1 for a method without a temperature."""
        return getattr(self.calibrator, "temperature", 1.0)

    @property
    def gamma(self) -> float:
        """The gamma of the bias of focal loss that is undone, or 0."""
        return getattr(self.calibrator, "gamma", 0.0)

    @property
    def unchanged(self) -> bool:
        """Whether the probabilities were left alone, for the reason `why`."""
        return not self.helped and self.after == self.before

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        return self.calibrator.probabilities(logits)


TemperatureFit = Fit


def fit_calibrator(
    logits: ArrayLike, labels: ArrayLike, method: str = "auto", criterion: str = "nll", n_bins: int = 15,
    guard: bool | None = None, **options: Any,
) -> Fit:  # fmt: skip
    """
    Fit a calibrator on held-out data.

    Args:
        logits (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
            Raw scores on data that the model was not trained on: finite, or -inf for a class that is masked.
        labels (`np.ndarray` or `torch.Tensor` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`. Of a head whose labels each have a probability of their own, by a
            sigmoid, they have the shape of the logits: 1 where a label is right, 0 where it is not, -100 or NaN where
            that is not known; of a single logit `(num_samples,)` will do.
        method (`str`, *optional*, defaults to `"auto"`):
            A name in `hf_focal.CALIBRATORS`, `"none"`, or `"auto"`, which chooses among none, a temperature, a vector
            and, for at most 100 classes, a matrix. It takes a temperature, or none where the guard below keeps it
            off, unless a vector or a matrix has a smaller NLL on folds that their fits have not seen. For sigmoids a
            name in `hf_focal.SIGMOID_CALIBRATORS`: `"temperature"`, one for all labels, and `"platt"`, a scale and a
            shift of each, shrunk towards those that all share; `"auto"` chooses among none and these.
        criterion (`str`, *optional*, defaults to `"nll"`):
            What is to be small. `"nll"` is for models that are to be used: it looks at all probabilities and wastes no
            data. `"ece"` is the paper's, to compare with its numbers. A method that knows but one is fitted by it, and
            `"auto"` by the NLL.
        n_bins (`int`, *optional*, defaults to `15`):
            Bins of the ECE, in the criterion and in the metrics before and after.
        guard (`bool`, *optional*):
            Take the calibrator only where the data show that it helps, see [`fit_temperature`], and else the neutral
            one. By default on for `"nll"`, where the method has a neutral one, and off for `"ece"`. The rule for
            `"bias"`, `"vector"` and `"matrix"` looks at folds that the fits have not seen: the summed NLL has to fall
            by four times what it has to for a temperature, and its mean by half a standard error, and the accuracy
            must not fall beyond noise. That for `"platt"` is the same, but for the accuracy, where the labels of a
            sample, which depend on each other, count as one; and within it each label has to gain by its own scale
            and shift on such folds, by half a standard error, or has those that all share, or none.
        options: Of the method, such as `gamma` of `"focal"`, or `intercept=False` of `"vector"`, `"matrix"`,
            `"platt"` and `"auto"`, for heads without a bias, or `shared=True` of `"platt"`, for one scale and one
            shift for all labels.

    Raises:
        ValueError: If the criterion, the method or an option is unknown, shapes disagree, logits are NaN or +inf,
            labels are out of range or of a masked class, there are too few for the method or of one class alone, a
            guard is asked for that the method does not have, or the method is for heads of the other kind; for
            one-hot labels too, which a head of sigmoids may have: `method="platt"` tells that it is one.
        TypeError: If `n_bins` is not a whole number.

    Warns:
        UserWarning: If there are fewer than 200 samples, a fit without guard is at an end of the range searched, or
            the logits look like probabilities.

    Example:
    >>> logits, labels = np.array([[3.0, 0.0]] * 300), np.array([0] * 200 + [1] * 100)
    >>> print(fit_calibrator(logits, labels, guard=False).calibrator)  # 3 / log(200 / 100)
    T = 4.328
    """
    return _fit(logits, labels, method, criterion, n_bins, guard, options)


def fit_temperature(
    logits: ArrayLike, labels: ArrayLike, criterion: str = "nll", n_bins: int = 15, method: str = "temperature",
    gamma: float | None = None, guard: bool | None = None,
) -> Fit:  # fmt: skip
    """
    Fit the temperature of `softmax(logits / T)` on held-out data (Guo et al., 2017; Mukhoti et al., 2020, Section 5).

    It is [`fit_calibrator`] for the methods with a temperature. The criterion `"nll"` takes the minimiser of the
    negative log-likelihood over [0.01, 100], to machine precision, where the data show that it helps. `"ece"` takes
    the temperature of smallest ECE among 0.1, 0.2, ..., 10, the smallest one where several tie: the paper's procedure,
    for its numbers, which may well make the NLL of new data worse. The method `"focal"` is focal temperature scaling
    (Komisarenko and Kull, 2024), a temperature and then [`focal_recalibration`], for models of focal loss: it cannot
    be folded into a model, and may overfit small sets where gamma is fitted too.

    The guard. The temperature is taken only if it lowers the NLL, summed over all samples, by more than 0.4 + 60 / m,
    or 1 where that is less (Akaike's price of a fitted number), or 10 where it is more; m is the number of right or
    wrong predictions, whichever are fewer, and at least three; and only if no class is missing of which the model
    expects more than log(100 K) samples among them. Else T is 1, `helped` is false and `why` says which it was. Where
    gamma is fitted as well, the gain must be twice that. `benchmarks/guard.py` measures what this spares and costs.

    Without the guard the temperature is returned whatever it does, and `helped` says what the rule finds of it. At an
    end of the range searched there is a warning that tells whether the data determine none or the best is outside.

    Args:
        logits, labels, criterion, n_bins, method, guard: As for [`fit_calibrator`].
        gamma (`float`, *optional*): Of `"focal"`: that of training. By default it is fitted with the temperature, in
            [0, 10] and by the NLL; the criterion `"ece"` then chooses the temperature anew.

    Raises:
        ValueError: As [`fit_calibrator`], and if gamma is negative or not for this method.

    Example:
    >>> generator = np.random.default_rng(0)
    >>> logits = generator.normal(size=(2000, 3))
    >>> labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from softmax(logits)
    >>> fit = fit_temperature(2 * logits, labels)
    >>> fit.helped, 0.9 < fit.temperature / 2 < 1.1
    (True, True)
    >>> fit_temperature(logits, labels).temperature
    1.0
    """
    return _fit(logits, labels, method, criterion, n_bins, guard, {} if gamma is None else {"gamma": gamma})


def fit_for_model(
    logits: ArrayLike, labels: ArrayLike, method: str, criterion: str, n_bins: int, guard: bool | None, **options: Any
) -> Fit:
    """As [`fit_calibrator`], for a model to keep: what is at an end of its range is replaced by the neutral one."""
    return _fit(logits, labels, method, criterion, n_bins, guard, options, for_model=True)


def _fit(
    logits: ArrayLike, labels: ArrayLike, method: str, criterion: str, n_bins: int, guard: bool | None,
    options: dict[str, Any], for_model: bool = False,
) -> Fit:  # fmt: skip
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}.")
    activation = _activation(logits, labels, check_method(method), for_model)
    check_method(method, activation)
    for option, value in options.items():
        if option not in _options(method, activation):
            methods = SIGMOID_CALIBRATORS if activation == SIGMOID else CALIBRATORS
            takers = [f"method={name!r}" for name in methods if option in _options(name, activation)]
            whose = f"is for {' and '.join(takers)} alone" if takers else "is an option of no method"
            raise ValueError(f"{option}={value!r} {whose}, got method={method!r}.")
    check_intercept(options.get("intercept", True))
    n_bins = check_n_bins(n_bins)
    array, indices = _checked(logits, labels, activation)
    cls = calibrator_class(DEFAULT if method == AUTO else method, activation)
    if lacking := cls.too_few(array.shape[1], indices):
        raise ValueError(lacking)
    if method == AUTO:
        criterion = "nll"
    if len(cls.criteria) == 1:
        (criterion,) = cls.criteria
    guard = _check_guard(guard, criterion, cls, array.shape[1])
    few = f"The {'calibrator' if method == AUTO else cls.noun} is fitted on {len(array)} samples; with fewer than "
    few += f"{FEW_SAMPLES} "
    if len(array) < FEW_SAMPLES and not guard and method != NONE:
        warnings.warn(f"{few}it is mostly noise.", UserWarning, stacklevel=3)
    own = {} if method == AUTO else options
    fit = _fitted(cls, array, indices, criterion, n_bins, guard, not for_model, own)
    if method == AUTO:
        fit = _chosen(fit, array, indices, n_bins, guard, options)
    if len(array) < FEW_SAMPLES and guard and method != NONE:
        outcome = "it is rough." if fit.helped else f"only a large gain is told from noise. {fit.why}"
        warnings.warn(f"{few}{outcome}", UserWarning, stacklevel=3)
    return fit


def _activation(logits: ArrayLike, labels: ArrayLike, method: str, for_model: bool) -> str:
    """
    What kind of head these are of. One-hot labels may be of either: only a method or a model tells. One logit of which
    all labels are 0 may be a softmax of one class, and no sigmoid can be fitted to it either.
    """
    logits, labels = leave_out_masked(logits=logits, labels=labels)
    array, given = to_numpy("logits", logits), to_numpy("labels", labels)
    if array.ndim == 2 and array.shape[1] == 1:
        return SIGMOID if for_model or given.ndim == 2 or given.any() else SOFTMAX
    if given.ndim != 2 or given.shape != array.shape:
        return SOFTMAX
    if for_model or (method in SIGMOID_CALIBRATORS and method not in CALIBRATORS):
        return SIGMOID
    one_hot = (given == 1).sum(axis=1) + (given == 0).sum(axis=1) == given.shape[1]
    return SOFTMAX if (one_hot & ((given == 1).sum(axis=1) == 1)).all() else SIGMOID


def _checked(logits: ArrayLike, labels: ArrayLike, activation: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The arrays, with the rows of sigmoids of which anything is known."""
    if activation == SOFTMAX:
        array, indices = check_logits(logits, labels)
        refuse_masked_labels(array, indices)
        return array, indices
    array, outputs = check_outputs(logits, labels)
    known = (outputs != IGNORED).any(axis=1)
    if not known.any():
        raise ValueError(f"labels are all {IGNORED}: nothing is known of any of the {len(array)} samples.")
    return (array, outputs) if known.all() else (array[known], outputs[known])


def _chosen(
    fit: Fit, logits: NDArray[Any], labels: NDArray[np.int64], n_bins: int, guard: bool, options: dict[str, Any]
) -> Fit:
    """What is to be taken: this fit of a temperature, none, or something better."""
    scored, none = scored_of(logits, labels), calibrator_class(NONE, fit.calibrator.activation)
    if guard and not fit.helped:
        why = fit.why.removeprefix(f"{type(fit.calibrator).stays}: ")
        fit = replace(fit, calibrator=none.fit(logits, labels, criterion="nll", n_bins=n_bins))
        fit = replace(fit, why=f"{none.stays}: {why[:-1]}, and no other map is known to help.")
    lacking = what_is_lacking(scored)
    choice = choose_for_outputs if labels.ndim == 2 else choose
    better = None if lacking else choice(scored, logits, labels, fit.calibrator, **options)
    if better is None:
        return fit
    return Fit(better, "nll", len(labels), fit.before, measure(scored_of(logits, labels, better), n_bins))


def _fitted(
    cls: type[Calibrator], logits: NDArray[Any], labels: NDArray[np.int64], criterion: str, n_bins: int, guard: bool,
    keep_ends: bool, options: dict[str, Any],
) -> Fit:  # fmt: skip
    """The fit of checked arrays, and what the guard says of it."""
    scored, count, neutral = scored_of(logits, labels), len(labels), cls.neutral(logits.shape[1])
    before = measure(scored, n_bins)
    left_alone = Fit(neutral, criterion, count, before, dict(before), helped=False) if neutral else None
    if left_alone and cls.method == NONE:
        return replace(left_alone, why=f"{cls.stays}: no calibrator was asked for.")
    calibrator, rows = _fit_to(cls, logits, labels, criterion, n_bins, options)
    lacking = what_is_lacking(scored)
    if guard and left_alone and lacking:
        return replace(left_alone, why=f"{cls.stays}: {lacking}")
    if end := calibrator.end_of_range(logits, labels, criterion, **options):
        sentence = f"{end[0].upper()}{end[1:]}"
        if left_alone and (guard or not keep_ends):
            if not guard:
                warnings.warn(f"{sentence[:-1]}; the model is left as it is.", UserWarning, stacklevel=4)
            return replace(left_alone, why=f"{cls.stays}: {end}")
        warnings.warn(sentence, UserWarning, stacklevel=4)
        after = measure(scored_of(logits, labels, calibrator), n_bins)
        return Fit(calibrator, criterion, count, before, after, helped=False, why=sentence, at_end=True)
    mapped = scored_of(logits, labels, calibrator)
    after = measure(mapped, n_bins)
    change, enough = _change(before["nll"] - after["nll"]), False
    if rows is None:
        price = least_gain(scored, calibrator.numbers(**options), dependence(mapped))
        enough = len(scored) * (before["nll"] - after["nll"]) > price
    else:
        untouched = HeldOut.of(scored, count)
        change, enough = _change_held_out(rows, untouched), is_better(rows, untouched, scored)
    helped = enough and not lacking
    if guard and left_alone and not helped:
        few = f", and {how_few(scored)}" if how_few(scored) else ""
        return replace(left_alone, why=f"{cls.stays}: the best one, {calibrator}, would {change}{few}.")
    why = "" if helped else _why_not(calibrator, neutral, criterion, lacking, change)
    return Fit(calibrator, criterion, count, before, after, helped, why)


def _fit_to(
    cls: type[Calibrator], logits: NDArray[Any], labels: NDArray[np.int64], criterion: str, n_bins: int,
    options: dict[str, Any],
) -> tuple[Calibrator, HeldOut | None]:  # fmt: skip
    """The calibrator, with what it does to held-out data where that is what it is judged by."""
    if issubclass(cls, HeldBack):
        return cls.with_rows(logits, labels, **options)
    return cls.fit(logits, labels, criterion=criterion, n_bins=n_bins, **options), None


def _why_not(calibrator: Calibrator, neutral: Calibrator | None, criterion: str, lacking: str, change: str) -> str:
    """What the guard has against a calibrator that is taken all the same."""
    if calibrator == neutral:
        return f"{calibrator.stays}: it is the best one by the {criterion.upper()}."
    if lacking:
        return f"Whether {calibrator} helps is not known: {lacking}"
    return f"{calibrator} is not known to help: it would {change}."


def _change(gain: float) -> str:
    """What a map does to the NLL, where that is too little."""
    change = f"the validation NLL by {abs(gain):.2g}"
    return f"lower {change}, which chance alone may explain" if gain > 0 else f"raise {change}"


def _change_held_out(rows: HeldOut, untouched: HeldOut) -> str:
    """What a map does to the NLL of data that its fit has not seen, where that is too little."""
    gain, folds = rows.gain(untouched), "of validation data that it is not fitted on"
    if gain > 0 and rows.costs_accuracy(untouched):
        return f"lower the NLL {folds} by {gain:.2g}, but also the accuracy, beyond noise"
    change = f"the NLL {folds} by {abs(gain):.2g}"
    return f"lower {change}, which chance alone may explain" if gain > 0 else f"raise {change}"


def _check_guard(guard: Any, criterion: str, cls: type[Calibrator], num_labels: int) -> bool:
    """Whether the guard is on."""
    if not isinstance(guard, bool | None):
        raise ValueError(f"guard must be True, False or None, got {guard!r}.")
    guarded = cls.neutral(num_labels) is not None
    if guard and not guarded:
        raise ValueError(f"guard=True is not for method={cls.method!r}, which names no neutral calibrator to keep.")
    return (criterion == "nll" and guarded) if guard is None else guard


def takes_intercept(method: str, activation: str = SOFTMAX) -> bool:
    """Whether a method can be fitted without a shift, for a head without a bias."""
    return "intercept" in _options(method, activation)


def _options(method: str, activation: str = SOFTMAX) -> set[str]:
    """What the fit of a method takes beside data, criterion and bins."""
    if method == AUTO:
        return {"intercept"}
    cls = calibrator_class(method, activation)
    return {*inspect.signature(cls.fit).parameters} - {"logits", "labels", "criterion", "n_bins"}
