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
from scipy.special import softmax

from ..checks import check_logits
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
    A fitted map from logits to logits whose softmax is calibrated. It knows no model and needs no torch.

    A method is a frozen dataclass under [`register_calibrator`], whose fields are what it fits: floats, or tuples of
    them. It must have `method`, `fit`, and one of `affine` (which can be folded into a model) and `calibrated_logits`.
    A field may bring a check of its own, `check(value, name)`, in its metadata; else it need only be finite.

    Attributes:
        method (`str`): Its name, which the record in `config.calibration` holds.
        noun (`str`, *optional*, defaults to `"calibrator"`): What sentences call it.
        fitted (`bool`, *optional*, defaults to `True`): Whether it is fitted to data, and so stands in `CALIBRATORS`.
        criteria (`tuple[str, ...]`, *optional*, defaults to `("ece", "nll")`):
            What it can be fitted by. A method with one alone is fitted by that one, whatever is asked for.
        stays (`str`, *optional*): How a sentence begins that says why the neutral one was kept.
    """

    method: ClassVar[str]
    noun: ClassVar[str] = "calibrator"
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
        array, _ = check_logits(logits)
        return softmax(self.calibrated_logits(array.astype(np.float64)), axis=1)

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
        """What JSON has to hold of it, but for its method: by default its fields."""
        return {field.name: np.asarray(getattr(self, field.name)).tolist() for field in fields(self)}

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
_OTHERS: dict[str, type[Calibrator]] = {}  # what a record may hold beside them


def register_calibrator(cls: type[C]) -> type[C]:
    """Class decorator that adds a frozen dataclass to `CALIBRATORS` by its `method`; a taken name is refused."""
    for known in (CALIBRATORS, _OTHERS):
        if cls.method in known:
            raise ValueError(f"There is a calibrator {cls.method!r} already, {known[cls.method]}.")
    (CALIBRATORS if cls.fitted else _OTHERS)[cls.method] = cls
    return cls


def check_method(method: str) -> str:
    """The name of a method that is fitted, `"none"`, or `"auto"`; else a `ValueError`."""
    known = (AUTO, NONE, *CALIBRATORS)
    if method not in known:
        raise ValueError(f"method must be one of {', '.join(known)}, got {method!r}.{suggestion(method, known)}")
    return method


def calibrator_class(method: str) -> type[Calibrator]:
    """The method of that name, one of [`check_method`] but `"auto"`."""
    return _OTHERS[NONE] if method == NONE else CALIBRATORS[method]


def _class_of(record: Any) -> type[Calibrator] | None:
    method = record.get("method", "temperature") if isinstance(record, Mapping) else None
    return CALIBRATORS.get(method) or _OTHERS.get(method) if isinstance(method, str) else None


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
        raise ValueError(
            f"{name} is of the method {short(record['method'])}, which is none of those registered here, "
            f"{', '.join(CALIBRATORS)}. Import the file that registers it (register_calibrator); scripts: --plugin."
        )
    first, steps = cls.from_record(record, name), record.get("then")
    if steps is None:
        return first
    place = f"{name}['then']"
    if not isinstance(steps, list) or not 0 < len(steps) <= _MOST_STEPS:
        raise ValueError(f"{place} must be a list of 1 to {_MOST_STEPS} records, got {short(steps)}.")
    if not all(isinstance(step, Mapping) and "then" not in step for step in steps):
        raise ValueError(f"{place} must hold records without a 'then' of their own, got {short(steps)}.")
    return Chain.of(first, *(calibrator_of(step, place) for step in steps))


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
