# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a calibrator is, and the registry of methods. What a model does with one is in `models`."""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax

from ..checks import check_logits, check_outputs
from ..metrics.scored import SIGMOID, SOFTMAX
from ..names import suggestion


if TYPE_CHECKING:
    from torch import Tensor


CRITERIA = ("ece", "nll")
_SINGULAR = 1e-12  # of the largest factor of a map: what is smaller is as good as 0
_MOST_ROWS = 1000  # of a matrix in a record
_MOST_NUMBERS = 100_000  # of a vector
_MOST_STEPS = 100  # of a chain in a record
AUTO, NONE = "auto", "none"  # the method that the data choose, and no map at all


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
        """The logits of shape `(..., num_labels)`, mapped. What is -inf stays, and tells on no other class."""
        for values in (np.asarray(self.scale), np.asarray(self.shift)):
            if values.ndim and len(values) != logits.shape[-1]:
                raise ValueError(f"This map is for {len(values)} classes, got logits of {logits.shape[-1]}.")
        masked = logits == -np.inf
        if any_masked := bool(masked.any()):
            logits = np.where(masked, 0.0, logits)
        mapped = logits @ np.transpose(self.scale) if np.ndim(self.scale) == 2 else logits * self.scale
        mapped = mapped if self.shift is None else mapped + self.shift
        return np.where(masked, -np.inf, mapped) if any_masked else mapped

    @property
    def is_identity(self) -> bool:
        """Whether it leaves all logits as they are."""
        neutral = np.eye(len(np.asarray(self.scale))) if np.ndim(self.scale) == 2 else 1.0
        return np.array_equal(self.scale, np.broadcast_to(neutral, np.shape(self.scale))) and not np.any(self.shift)

    def on_tensor(self, logits: Tensor) -> Tensor:
        """As for arrays: logits of shape `(..., num_labels)`, on their device; those of half precision in float32."""
        import torch

        dtype = torch.promote_types(logits.dtype, torch.float32)
        scale = torch.as_tensor(self.scale, dtype=dtype, device=logits.device)
        masked = logits == -torch.inf
        mapped = logits.to(dtype).masked_fill(masked, 0)
        if scale.dim() == 2:
            with torch.autocast(logits.device.type, enabled=False):
                mapped = mapped @ scale.T
        else:
            mapped = mapped * scale
        if self.shift is not None:
            mapped = mapped + torch.as_tensor(self.shift, dtype=dtype, device=logits.device)
        return mapped.masked_fill(masked, -torch.inf).to(logits.dtype)

    def after(self, first: Affine) -> Affine:
        """The map that does `first`, and then this one, or an [`UnfoldableError`] where they are of other classes."""
        sizes = {len(one) for part in (self, first) for one in part if np.ndim(one)}  # type: ignore[arg-type]
        if len(sizes) > 1:
            raise UnfoldableError(
                f"Maps of {' and '.join(map(str, sorted(sizes)))} classes cannot follow one another."
            )
        if np.ndim(self.scale) == 2 and np.ndim(first.scale) == 2:
            scale: Any = np.matmul(self.scale, first.scale)
        elif np.ndim(self.scale) == 1 and np.ndim(first.scale) == 2:
            scale = np.asarray(self.scale)[:, None] * first.scale
        else:
            scale = np.multiply(self.scale, first.scale)
        if first.shift is None:
            return Affine(scale, self.shift)
        shift = np.matmul(self.scale, first.shift) if np.ndim(self.scale) == 2 else self.scale * first.shift
        return Affine(scale, shift if self.shift is None else shift + self.shift)

    def inverse(self) -> Affine:
        """The map that undoes this one, or an [`UnfoldableError`]."""
        sizes = np.linalg.svd(self.scale, compute_uv=False) if np.ndim(self.scale) == 2 else np.abs(self.scale)
        if np.min(sizes) <= _SINGULAR * np.max(sizes):
            raise UnfoldableError(
                f"A map that takes different logits to the same ones cannot be undone: factors from {np.min(sizes):g} "
                f"to {np.max(sizes):g}."
            )
        scale: Any = np.linalg.inv(self.scale) if np.ndim(self.scale) == 2 else np.true_divide(1, self.scale)
        return Affine(scale, None if self.shift is None else -Affine(scale)(self.shift[None])[0])


@dataclass(frozen=True)
class Calibrator(ABC):
    """
    A fitted map from logits to logits whose softmax, or sigmoids, are calibrated. It knows no model and no torch.

    A method is a frozen dataclass under [`register_calibrator`], whose fields are what it fits: floats, or tuples of
    them. It must have `method`, `fit`, and one of `affine` (which can be folded into a model) and `calibrated_logits`.
    A field may bring a check of its own, `check(value, name)`, in its metadata; else it need only be finite.

    Attributes:
        method (`str`): Its name, which the record in `config.calibration` holds.
        noun (`str`, *optional*, defaults to `"calibrator"`): What sentences call it.
        activation (`str`, *optional*, defaults to `"softmax"`):
            What makes probabilities of its logits: one softmax over the classes, or `"sigmoid"`, for heads whose
            labels each have a probability of their own. A record holds the latter.
        fitted (`bool`, *optional*, defaults to `True`): Whether it is fitted to data, and so stands in `CALIBRATORS`,
            or in `SIGMOID_CALIBRATORS`.
        criteria (`tuple[str, ...]`, *optional*, defaults to `("ece", "nll")`):
            What it can be fitted by. A method with one alone is fitted by that one, whatever is asked for.
        stays (`str`, *optional*): How a sentence begins that says why the neutral one was kept.
    """

    method: ClassVar[str]
    noun: ClassVar[str] = "calibrator"
    activation: ClassVar[str] = SOFTMAX
    fitted: ClassVar[bool] = True
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
    def too_few(cls, num_labels: int, labels: NDArray[np.int64]) -> str:
        """Why it cannot be fitted to so many classes and such labels, as a sentence; `""`, the default: it can."""
        return ""

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
        return self._map(logits.shape[1])(logits)

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

    @property
    def is_affine(self) -> bool:
        """Whether this one is."""
        return self.foldable()

    def _map(self, num_labels: int) -> Affine:
        """[`affine`], made once."""
        known: dict[int, Affine] = self.__dict__.setdefault("_maps", {})
        if num_labels not in known:
            known[num_labels] = self.affine(num_labels)
        return known[num_labels]

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probabilities, float64, of logits of shape `(num_samples, num_labels)`, NumPy or torch."""
        array, _ = check_outputs(logits) if self.is_sigmoid else check_logits(logits)
        calibrated = self.calibrated_logits(array.astype(np.float64))
        return expit(calibrated) if self.is_sigmoid else softmax(calibrated, axis=1)

    @property
    def is_sigmoid(self) -> bool:
        """Whether each logit becomes a probability of its own, rather than all of them those of one softmax."""
        return self.activation == SIGMOID

    def on_tensor(self, logits: Tensor) -> Tensor:
        """
        Calibrated logits of any shape `(..., num_labels)`, with a gradient where this one is affine; else by default
        through NumPy, without one.
        """
        if self.is_affine:
            return self._map(logits.shape[-1]).on_tensor(logits)
        rows = logits.detach().double().cpu().reshape(-1, logits.shape[-1]).numpy()
        return logits.new_tensor(self.calibrated_logits(rows)).reshape(logits.shape)

    def to_record(self) -> dict[str, Any]:
        """What JSON has to hold of it, but for its method: by default its fields, and an activation of sigmoids."""
        record = {field.name: np.asarray(getattr(self, field.name)).tolist() for field in fields(self)}
        return {**record, "activation": self.activation} if self.is_sigmoid else record

    @classmethod
    def from_record(cls, record: Mapping[str, Any], name: str = "config.calibration") -> Calibrator:
        """The calibrator of such a record, which may hold more; one that is malformed is refused by its name."""
        values = {}
        for one in fields(cls):
            check = one.metadata.get("check", _check_finite)
            values[one.name] = check(record.get(one.name), f"{name}[{one.name!r}]")
        try:
            return cls(**values)
        except ValueError as error:  # of fields that do not go together
            raise ValueError(f"{name} is malformed: {error}") from error

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


def short(value: Any) -> str:
    """What a stranger wrote, however long or nested it is."""
    return reprlib.repr(value)[:200]


def _check_finite(value: Any, name: str) -> Any:
    """The numbers of JSON, with tuples for lists, or a `ValueError`."""
    with suppress(TypeError, ValueError, OverflowError):
        array = np.asarray(value)
        if array.dtype.kind in "iuf" and np.isfinite(array).all():
            return _frozen(value)
    raise ValueError(f"{name} must hold finite numbers, got {short(value)}.")


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def check_vector(value: Any, name: str) -> tuple[float, ...]:
    """Finite numbers, or a `ValueError`."""
    if isinstance(value, list | tuple) and len(value) > _MOST_NUMBERS:
        raise ValueError(f"{name} must hold at most {_MOST_NUMBERS} numbers, got {len(value)}.")
    if isinstance(value, list | tuple) and all(isinstance(one, Real) and not isinstance(one, bool) for one in value):
        return tuple(map(float, _check_finite(list(value), name)))
    raise ValueError(f"{name} must be a list of numbers, got {short(value)}.")


def check_matrix(value: Any, name: str) -> tuple[tuple[float, ...], ...]:
    """Rows of finite numbers, as many as there are columns, or a `ValueError`."""
    rows = len(value) if isinstance(value, list | tuple) else 0
    if rows > _MOST_ROWS:
        raise ValueError(f"{name} must have at most {_MOST_ROWS} rows, got {short(value)}.")
    if not rows or any(not isinstance(row, list | tuple) or len(row) != rows for row in value):
        raise ValueError(f"{name} must be a list of as many rows as columns, got {short(value)}.")
    return tuple(check_vector(row, name) for row in value)


C = TypeVar("C", bound=Calibrator)
CALIBRATORS: dict[str, type[Calibrator]] = {}
SIGMOID_CALIBRATORS: dict[str, type[Calibrator]] = {}
_OTHERS: dict[str, type[Calibrator]] = {}  # what a record may hold beside them
_SIGMOID_OTHERS: dict[str, type[Calibrator]] = {}


def _registries(activation: str) -> tuple[dict[str, type[Calibrator]], dict[str, type[Calibrator]]]:
    """The methods for heads of that kind that are fitted, and the others."""
    return (SIGMOID_CALIBRATORS, _SIGMOID_OTHERS) if activation == SIGMOID else (CALIBRATORS, _OTHERS)


def register_calibrator(cls: type[C]) -> type[C]:
    """
    Class decorator that adds a frozen dataclass by its `method` to `CALIBRATORS`, or to `SIGMOID_CALIBRATORS` where
    its `activation` is `"sigmoid"`; a taken name is refused.
    """
    fitted, others = _registries(cls.activation)
    for known in (fitted, others):
        if cls.method in known:
            raise ValueError(f"There is a calibrator {cls.method!r} already, {known[cls.method]}.")
    (fitted if cls.fitted else others)[cls.method] = cls
    return cls


def check_method(method: str, activation: str | None = None) -> str:
    """
    The name of a method that is fitted, `"none"`, or `"auto"`; else a `ValueError`. With an activation it has to be
    one for heads of that kind.
    """
    known = (AUTO, NONE, *dict.fromkeys([*SIGMOID_CALIBRATORS, *CALIBRATORS]))
    if method not in known:
        raise ValueError(f"method must be one of {', '.join(known)}, got {method!r}.{suggestion(method, known)}")
    if activation is None or method in (AUTO, NONE) or method in _registries(activation)[0]:
        return method
    heads = "one softmax over the classes", "heads whose labels each have a probability of their own (sigmoids)"
    own, other = heads if activation == SOFTMAX else heads[::-1]
    takes = ", ".join((AUTO, NONE, *_registries(activation)[0]))
    raise ValueError(f"method={method!r} is for {other}. For {own} there are {takes}.")


def calibrator_class(method: str, activation: str = SOFTMAX) -> type[Calibrator]:
    """The method of that name for that activation, one of [`check_method`] but `"auto"`."""
    fitted, others = _registries(activation)
    return others[NONE] if method == NONE else fitted[method]


def _class_of(record: Any) -> type[Calibrator] | None:
    if not isinstance(record, Mapping):
        return None
    method, activation = record.get("method", "temperature"), record.get("activation", SOFTMAX)
    if not isinstance(method, str) or not isinstance(activation, str) or activation not in (SOFTMAX, SIGMOID):
        return None
    fitted, others = _registries(activation)
    return fitted.get(method) or others.get(method)


def for_activation(calibrator: Calibrator, activation: str) -> Calibrator:
    """The same map for a head of that activation, where its method is known there; else an [`UnfoldableError`]."""
    steps = calibrator.steps if isinstance(calibrator, Chain) else (calibrator,)
    mapped = []
    for step in steps:
        cls = _class_of({"method": step.method, "activation": activation})
        if step.activation != activation and cls is None:
            heads = {SOFTMAX: "one softmax over the classes", SIGMOID: "labels with a probability each (sigmoids)"}
            raise UnfoldableError(
                f"The {step.named} is for a head of {heads[step.activation]}, and this one is of {heads[activation]}. "
                "config.problem_type tells them apart: 'multi_label_classification' is of sigmoids."
            )
        mapped.append(step if step.activation == activation or cls is None else cls.from_record(step.to_record()))
    return Chain.of(*mapped)


def is_known(record: Mapping[str, Any]) -> bool:
    """Whether the methods of a record are registered here; a record without one is of a temperature."""
    steps = record.get("then")
    found = [one for one in steps if isinstance(one, Mapping)] if isinstance(steps, list) else []
    return all(_class_of(one) is not None for one in (record, *found))


def calibrator_of(record: Mapping[str, Any], name: str = "config.calibration") -> Calibrator:
    """
    The [`Calibrator`] that a record tells of.

    Args:
        record (`Mapping[str, Any]`): Such as `config.calibration` of a model, or what lies beside an adapter.
        name (`str`, *optional*, defaults to `"config.calibration"`): What errors call it.

    Raises:
        ValueError: If the record is malformed, or of a method that is not registered.
    """
    cls = _class_of(record)
    if cls is None:
        activation = record.get("activation", SOFTMAX)
        if not isinstance(activation, str) or activation not in (SOFTMAX, SIGMOID):
            raise ValueError(f"{name}['activation'] must be {SOFTMAX!r} or {SIGMOID!r}, got {short(activation)}.")
        raise ValueError(
            f"{name} is of the method {short(record.get('method'))}, which is none of those registered here, "
            f"{', '.join(_registries(activation)[0])}. Import the file that registers it (register_calibrator); "
            "scripts: --plugin."
        )
    first, steps = cls.from_record(record, name), record.get("then")
    if steps is None:
        return first
    place = f"{name}['then']"
    if not isinstance(steps, list) or not 0 < len(steps) <= _MOST_STEPS:
        raise ValueError(f"{place} must be a list of 1 to {_MOST_STEPS} records, got {short(steps)}.")
    if not all(isinstance(step, Mapping) and "then" not in step for step in steps):
        raise ValueError(f"{place} must hold records without a 'then' of their own, got {short(steps)}.")
    others = [calibrator_of(step, place) for step in steps]
    if any(one.activation != first.activation for one in others):
        raise ValueError(f"{place} must hold records of the activation {first.activation!r}, as the first.")
    return Chain.of(first, *others)


@dataclass(frozen=True)
class Chain(Calibrator):
    """
    Calibrators one after the other: what was fitted to a model, and what was put on top of it.

    The record of such a one is that of the first, with those of the others, in order, as its entry `"then"`.
    """

    method: ClassVar[str] = "chain"
    fitted: ClassVar[bool] = False
    steps: tuple[Calibrator, ...]

    @classmethod
    def of(cls, *steps: Calibrator) -> Calibrator:
        """One calibrator in place of several, of which some may be chains."""
        flat = tuple(one for step in steps for one in (step.steps if isinstance(step, Chain) else (step,)))
        return flat[0] if len(flat) == 1 else cls(flat)

    @classmethod
    def fit(cls, logits: NDArray[Any], labels: NDArray[np.int64], *, criterion: str, n_bins: int) -> Calibrator:
        raise ValueError("A chain is not fitted: fit its steps.")

    def calibrated_logits(self, logits: NDArray[Any]) -> NDArray[Any]:
        for step in self.steps:
            logits = step.calibrated_logits(logits)
        return logits

    def on_tensor(self, logits: Tensor) -> Tensor:
        if self.is_affine:
            return super().on_tensor(logits)
        for step in self.steps:
            logits = step.on_tensor(logits)
        return logits

    def affine(self, num_labels: int) -> Affine:
        whole = Affine()
        for step in self.steps:
            whole = step.affine(num_labels).after(whole)
        return whole

    @property
    def is_affine(self) -> bool:
        return all(step.is_affine for step in self.steps)

    @property
    def is_sigmoid(self) -> bool:
        return self.steps[0].is_sigmoid if self.steps else super().is_sigmoid

    def to_record(self) -> dict[str, Any]:
        first, *others = ({"method": step.method, **step.to_record()} for step in self.steps)
        return {**first, "then": others}

    @property
    def named(self) -> str:
        first, *others = (step.named for step in self.steps)
        return ", then ".join([first, *others])

    @property
    def words(self) -> str:
        return " ".join(step.words for step in self.steps)

    def __str__(self) -> str:
        return ", then ".join(map(str, self.steps))
