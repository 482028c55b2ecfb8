# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a calibrator is, the registry of methods, and their fit. What a model does with one is in `models`."""

from __future__ import annotations

import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from ..arrays import check_groups, leave_out_masked
from ..checks import check_logits, check_n_bins, refuse_masked_labels
from ..metrics import Scored, measure
from ..metrics.scored import ScoredLogits
from ..names import suggestion
from .guard import how_few, least_gain, what_is_lacking


if TYPE_CHECKING:
    from torch import Tensor


CRITERIA = ("ece", "nll")
FEW_SAMPLES = 200


class UnfoldableError(ValueError):
    """A calibrator that no head can do, or a model without a head that could. Its weights are as they were."""


class Affine(NamedTuple):
    """
    The map `scale @ z + shift` of the logits `z` of a sample, which a linear layer can do as well.

    Attributes:
        scale (`float` or `np.ndarray` of shape `(num_labels,)` or `(num_labels, num_labels)`):
            One factor for all logits, one for each, or a matrix.
        shift (`np.ndarray` of shape `(num_labels,)`, *optional*): What is added.
    """

    scale: float | NDArray[np.float64] = 1.0
    shift: NDArray[np.float64] | None = None

    def __call__(self, logits: NDArray[Any]) -> NDArray[Any]:
        """The logits of shape `(num_samples, num_labels)`, mapped. What is -inf stays, and tells on no other class."""
        masked = logits == -np.inf
        if any_masked := bool(masked.any()):
            logits = np.where(masked, 0.0, logits)
        mapped = logits @ np.transpose(self.scale) if np.ndim(self.scale) == 2 else logits * self.scale
        mapped = mapped if self.shift is None else mapped + self.shift
        return np.where(masked, -np.inf, mapped) if any_masked else mapped

    def inverse(self) -> Affine:
        """The map that undoes this one, or an [`UnfoldableError`]."""
        try:
            with np.errstate(divide="raise"):
                scale: Any = np.linalg.inv(self.scale) if np.ndim(self.scale) == 2 else np.true_divide(1, self.scale)
        except (np.linalg.LinAlgError, FloatingPointError) as error:
            raise UnfoldableError(f"A map with the scale {self.scale} cannot be undone: {error}.") from error
        return Affine(scale, None if self.shift is None else -Affine(scale)(self.shift[None])[0])


@dataclass(frozen=True)
class Calibrator(ABC):
    """
    A fitted map from logits to logits whose softmax is calibrated. It knows no model and needs no torch.

    A method is a frozen dataclass under [`register_calibrator`], whose fields are what it fits: floats, or tuples of
    them. It must have `method`, `fit`, and one of `affine` (which can be folded into a model) and `calibrated_logits`.
    A field may bring a check of its own, `check(value, name)`, in its metadata; else it need only be finite.

    Attributes:
        method (`str`): Its name, which the record in `config.calibration` holds.
        noun (`str`, *optional*, defaults to `"calibrator"`): What sentences call it.
        criteria (`tuple[str, ...]`, *optional*, defaults to `("ece", "nll")`):
            What it can be fitted by. A method with one alone is fitted by that one, whatever is asked for.
        stays (`str`, *optional*): How a sentence begins that says why the neutral one was kept.
    """

    method: ClassVar[str]
    noun: ClassVar[str] = "calibrator"
    criteria: ClassVar[tuple[str, ...]] = CRITERIA
    stays: ClassVar[str] = "The logits stay as they are"

    def __post_init__(self) -> None:
        for one in fields(self):
            if "check" in one.metadata:
                object.__setattr__(self, one.name, one.metadata["check"](getattr(self, one.name), one.name))

    @classmethod
    @abstractmethod
    def fit(cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int) -> Calibrator:
        """Fit it on checked arrays, see [`fit_calibrator`]. Further keyword arguments are options of the method."""

    @classmethod
    def neutral(cls, num_labels: int) -> Calibrator | None:
        """The one that leaves probabilities alone, which the guard keeps. `None`, the default: there is no guard."""
        return None

    def numbers(self, **options: Any) -> int:
        """How many numbers the fit chose, with these options: by default all of its fields."""
        return sum(np.size(getattr(self, one.name)) for one in fields(self))

    def end_of_range(self, logits: NDArray[Any], labels: NDArray[np.int64], criterion: str, **options: Any) -> str:
        """That it is at an end of the range that the fit searched, as the end of a sentence; else `""`."""
        return ""

    def calibrated_logits(self, logits: NDArray[Any]) -> NDArray[Any]:
        """
        Logits of shape `(num_samples, num_labels)`; each row depends on its own row alone. They are finite, or -inf
        for a class that is masked, which has to stay -inf.
        """
        return self.affine(logits.shape[1])(logits)

    def affine(self, num_labels: int) -> Affine:
        """The map as an affine one, for a head of so many labels, or an [`UnfoldableError`] with the reason."""
        raise UnfoldableError(
            f"method={self.method!r} cannot be folded: it is not linear in the logits, so no head can do it. Keep it "
            "in config.calibration with folded=False, or fit a plain temperature, method='temperature'."
        )

    @classmethod
    def foldable(cls) -> bool:
        """Whether the method says how it is affine."""
        return cls.affine is not Calibrator.affine

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probabilities, float64, of logits of shape `(num_samples, num_labels)`, NumPy or torch."""
        array, _ = check_logits(logits)
        return softmax(self.calibrated_logits(array.astype(np.float64)), axis=1)

    def on_tensor(self, logits: Tensor) -> Tensor:
        """Calibrated logits of any shape `(..., num_labels)`; by default through NumPy, without a gradient."""
        rows = logits.detach().double().cpu().reshape(-1, logits.shape[-1]).numpy()
        return logits.new_tensor(self.calibrated_logits(rows)).reshape(logits.shape)

    def to_record(self) -> dict[str, Any]:
        """What JSON has to hold of it, but for its method: by default its fields."""
        return {field.name: np.asarray(getattr(self, field.name)).tolist() for field in fields(self)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], name: str = "config.calibration") -> Calibrator:
        """The calibrator of such a record, which may hold more; one that is malformed is refused by its name."""
        values = {}
        for one in fields(cls):
            check = one.metadata.get("check", _check_finite)
            values[one.name] = check(record.get(one.name), f"{name}[{one.name!r}]")
        return cls(**values)

    @property
    def softens(self) -> bool | None:
        """Whether it lowers every confidence (true) or raises it (false); `None`, the default: neither, or unknown."""
        return None

    @property
    def named(self) -> str:
        """Its noun and value, for a sentence."""
        return f"{self.noun} {self}"

    @property
    def words(self) -> str:
        """One sentence on what it does to the probabilities."""
        return f"The {self.named} is applied to its logits."

    def by_hand(self, place: str) -> str:
        """How to apply it to logits, as the end of a sentence that names them. `place` is where the record is."""
        call = "`hf_focal.calibrator_of(record).probabilities(logits)`"
        return f", and {call}, with the record in {place}, turns them into these probabilities."

    def __str__(self) -> str:
        return self.method


def _check_finite(value: Any, name: str) -> Any:
    """The numbers of JSON, with tuples for lists, or a `ValueError`."""
    with suppress(TypeError, ValueError, OverflowError):
        if np.isfinite(np.asarray(value, np.float64)).all():
            return _frozen(value)
    raise ValueError(f"{name} must hold finite numbers, got {value!r}.")


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


C = TypeVar("C", bound=Calibrator)
CALIBRATORS: dict[str, type[Calibrator]] = {}


def register_calibrator(cls: type[C]) -> type[C]:
    """Class decorator that adds a frozen dataclass to `CALIBRATORS` by its `method`; a taken name is refused."""
    if cls.method in CALIBRATORS:
        raise ValueError(f"There is a calibrator {cls.method!r} already, {CALIBRATORS[cls.method]}.")
    CALIBRATORS[cls.method] = cls
    return cls


def calibrator_class(method: str) -> type[Calibrator]:
    """The method of that name, or a `ValueError`."""
    if method not in CALIBRATORS:
        near = suggestion(method, CALIBRATORS)
        raise ValueError(f"method must be one of {', '.join(CALIBRATORS)}, got {method!r}.{near}")
    return CALIBRATORS[method]


def is_known(record: Mapping[str, Any]) -> bool:
    """Whether the method of a record is registered here; a record without one is of a temperature."""
    method = record.get("method", "temperature")
    return isinstance(method, str) and method in CALIBRATORS


def calibrator_of(record: Mapping[str, Any], name: str = "config.calibration") -> Calibrator:
    """
    The [`Calibrator`] that a record tells of.

    Args:
        record (`Mapping[str, Any]`): Such as `config.calibration` of a model, or what lies beside an adapter.
        name (`str`, *optional*, defaults to `"config.calibration"`): What errors call it.

    Raises:
        ValueError: If the record is malformed, or of a method that is not registered.
    """
    if not is_known(record):
        raise ValueError(
            f"{name} is of the method {record['method']!r}, which is none of those registered here, "
            f"{', '.join(CALIBRATORS)}. Import the file that registers it (register_calibrator); scripts: --plugin."
        )
    return CALIBRATORS[record.get("method", "temperature")].from_record(record, name)


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
    logits: ArrayLike, labels: ArrayLike, method: str = "temperature", criterion: str = "nll", n_bins: int = 15,
    guard: bool | None = None, **options: Any,
) -> Fit:  # fmt: skip
    """
    Fit a calibrator on held-out data.

    Args:
        logits (`np.ndarray` or `torch.Tensor` of shape `(num_samples, num_labels)`):
            Raw scores on data that the model was not trained on: finite, or -inf for a class that is masked.
        labels (`np.ndarray` or `torch.Tensor` of shape `(num_samples,)`):
            Class indices in `[0, num_labels)`.
        method (`str`, *optional*, defaults to `"temperature"`): A name in `hf_focal.CALIBRATORS`.
        criterion (`str`, *optional*, defaults to `"nll"`):
            What is to be small. `"nll"` is for models that are to be used: it looks at all probabilities and wastes no
            data. `"ece"` is the paper's, to compare with its numbers. A method that knows but one is fitted by it.
        n_bins (`int`, *optional*, defaults to `15`):
            Bins of the ECE, in the criterion and in the metrics before and after.
        guard (`bool`, *optional*):
            Take the calibrator only where the data show that it helps, see [`fit_temperature`], and else the neutral
            one. By default on for `"nll"`, where the method has a neutral one, and off for `"ece"`.
        options: Of the method, such as `gamma` of `"focal"`.

    Raises:
        ValueError: If the criterion, the method or an option is unknown, shapes disagree, logits are NaN or +inf,
            labels are out of range or of a masked class, or a guard is asked for that the method does not have.
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
    return _fit(logits, labels, method, criterion, n_bins, guard, options, keep_ends=False)


def _fit(
    logits: ArrayLike, labels: ArrayLike, method: str, criterion: str, n_bins: int, guard: bool | None,
    options: dict[str, Any], keep_ends: bool = True,
) -> Fit:  # fmt: skip
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}.")
    cls = calibrator_class(method)
    for option, value in options.items():
        if option not in _options(cls):
            takers = [f"method={name!r}" for name, other in CALIBRATORS.items() if option in _options(other)]
            whose = f"is for {' and '.join(takers)} alone" if takers else "is an option of no method"
            raise ValueError(f"{option}={value!r} {whose}, got method={method!r}.")
    if len(cls.criteria) == 1:
        (criterion,) = cls.criteria
    n_bins = check_n_bins(n_bins)
    array, indices = check_logits(logits, labels)
    refuse_masked_labels(array, indices)
    guard = _check_guard(guard, criterion, cls, array.shape[1])
    few = f"The {cls.noun} is fitted on {len(array)} samples; with fewer than {FEW_SAMPLES} "
    if len(array) < FEW_SAMPLES and not guard:
        warnings.warn(f"{few}it is mostly noise.", UserWarning, stacklevel=3)
    fit = _fitted(cls, array, indices, criterion, n_bins, guard, keep_ends, options)
    if len(array) < FEW_SAMPLES and guard:
        outcome = "it is rough." if fit.helped else f"only a large gain is told from noise. {fit.why}"
        warnings.warn(f"{few}{outcome}", UserWarning, stacklevel=3)
    return fit


def _fitted(
    cls: type[Calibrator], logits: NDArray[Any], labels: NDArray[np.int64], criterion: str, n_bins: int, guard: bool,
    keep_ends: bool, options: dict[str, Any],
) -> Fit:  # fmt: skip
    """The fit of checked arrays, and what the guard says of it."""
    scored, count, neutral = ScoredLogits(logits, labels), len(labels), cls.neutral(logits.shape[1])
    before = measure(scored, n_bins)
    left_alone = Fit(neutral, criterion, count, before, dict(before), helped=False) if neutral else None
    calibrator = cls.fit(logits, labels, criterion=criterion, n_bins=n_bins, **options)
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
        after = measure(ScoredLogits(logits, labels, calibrator), n_bins)
        return Fit(calibrator, criterion, count, before, after, helped=False, why=sentence, at_end=True)
    after = measure(ScoredLogits(logits, labels, calibrator), n_bins)
    gain = before["nll"] - after["nll"]
    helped = not lacking and count * gain > least_gain(scored, calibrator.numbers(**options))
    if guard and left_alone and not helped:
        few = f", and {how_few(scored)}" if how_few(scored) else ""
        return replace(left_alone, why=f"{cls.stays}: the best one, {calibrator}, would {_change(gain)}{few}.")
    why = "" if helped else _why_not(calibrator, neutral, criterion, lacking, gain)
    return Fit(calibrator, criterion, count, before, after, helped, why)


def _why_not(calibrator: Calibrator, neutral: Calibrator | None, criterion: str, lacking: str, gain: float) -> str:
    """What the guard has against a calibrator that is taken all the same."""
    if calibrator == neutral:
        return f"{calibrator.stays}: it is the best one by the {criterion.upper()}."
    if lacking:
        return f"Whether {calibrator} helps is not known: {lacking}"
    return f"{calibrator} is not known to help: it would {_change(gain)}."


def _change(gain: float) -> str:
    """What a map does to the NLL, where that is too little."""
    change = f"the validation NLL by {abs(gain):.2g}"
    return f"lower {change}, which chance alone may explain" if gain > 0 else f"raise {change}"


def _check_guard(guard: Any, criterion: str, cls: type[Calibrator], num_labels: int) -> bool:
    """Whether the guard is on."""
    if not isinstance(guard, bool | None):
        raise ValueError(f"guard must be True, False or None, got {guard!r}.")
    guarded = cls.neutral(num_labels) is not None
    if guard and not guarded:
        raise ValueError(f"guard=True is not for method={cls.method!r}, which names no neutral calibrator to keep.")
    return (criterion == "nll" and guarded) if guard is None else guard


def _options(cls: type[Calibrator]) -> set[str]:
    """What the fit of a method takes beside data, criterion and bins."""
    return {*inspect.signature(cls.fit).parameters} - {"logits", "labels", "criterion", "n_bins"}


def describe_confidence(
    logits: ArrayLike, labels: ArrayLike, temperature: float | Calibrator | Fit, groups: ArrayLike | None = None
) -> str:
    """
    A sentence on whether a model is over- or under-confident, and one on what its calibrator does about it.

    It is called neither where mean confidence and accuracy differ by less than 1.645 standard errors. Where the
    calibrator, which was fitted on other data, does the opposite of what these would ask for, that is said.

    Args:
        logits, labels: As for [`fit_calibrator`].
        temperature (`float`, [`Calibrator`] or [`Fit`]): What was fitted.
        groups (`np.ndarray` of shape `(num_samples,)`, *optional*): What samples that depend on one another belong to.
    """
    if not isinstance(temperature, Calibrator | Fit):
        temperature = calibrator_of({"temperature": temperature}, "temperature")
    logits, labels, groups = leave_out_masked(logits=logits, labels=labels, groups=groups)
    scored = Scored.from_logits(logits, labels)
    return describe(scored, temperature, None if groups is None else check_groups(groups, len(scored)))


def describe(before: Scored, fitted: Calibrator | Fit, groups: ArrayLike | None = None) -> str:
    """[`describe_confidence`] of probabilities before calibration."""
    calibrator = fitted if isinstance(fitted, Calibrator) else fitted.calibrator
    confidence, share = float(before.confidences.mean()), float(before.correct.mean())
    seen = f"its mean confidence is {confidence:.1%} and it is right {share:.1%} of the time."
    over = confidence > share
    clear = abs(confidence - share) > 1.645 * _standard_error(before, groups)
    if isinstance(fitted, Fit) and fitted.unchanged:
        head, words = "The model is", fitted.why
    else:
        head, words = "Before scaling the model is", calibrator.words
        if clear and calibrator.softens is (not over):
            by = f" by the {fitted.criterion.upper()}" if isinstance(fitted, Fit) else ""
            seen = f"the mean confidence of the model is {confidence:.1%} and it is right {share:.1%} of the time."
            why = f"it was fitted{by} on validation data, to all of their probabilities and not to these means."
            return f"Before scaling {seen} {words[:-1]} all the same: {why}"
    verdict = ("over-confident" if over else "under-confident") if clear else "neither over- nor under-confident"
    return f"{head} {verdict}{'' if clear else ' beyond noise'}: {seen} {words}"


def _standard_error(scored: Scored, groups: ArrayLike | None) -> float:
    """Of mean confidence less accuracy: as the samples or groups spread, or by chance alone if that is more."""
    count = len(scored)
    chance = np.sqrt((scored.confidences * (1 - scored.confidences)).sum()) / count
    gaps = scored.confidences - scored.correct
    gaps = gaps - gaps.mean()
    if groups is not None:
        gaps = np.bincount(check_groups(groups, count), gaps)
    if len(gaps) == 1:
        return math.inf
    return max(float(chance), math.sqrt((gaps**2).sum() * len(gaps) / (len(gaps) - 1)) / count)
