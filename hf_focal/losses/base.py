# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What every loss is: a class with its parameters and the loss of each row; its function and name follow from it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Protocol, TypeAlias, TypedDict, TypeVar, cast

import torch
from torch import Tensor, nn

from ..checks import LARGEST
from ..names import suggestion
from .rows import Rows, extract_logits, is_traced, widen


if TYPE_CHECKING:
    from transformers import TrainerCallback


REDUCTIONS = ("mean", "sum", "none")
COMMON = {"reduction": "mean", "ignore_index": -100, "gather": False}  # what goes without saying
LOSSES: dict[str, Callable[..., CalibrationLoss]] = {}

ClassWeights: TypeAlias = "Sequence[float] | Tensor | None"
P = ParamSpec("P")
Class = TypeVar("Class", bound="type[CalibrationLoss]")


class Options(TypedDict, total=False):
    """The parameters that every loss takes."""

    reduction: str
    ignore_index: int


def check_reduction(reduction: str) -> str:
    """The reduction, if there is one of that name."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}.")
    return reduction


def check_number(name: str, value: Any, low: float = 0.0, below: float = LARGEST) -> float:
    """The value as a float in `[low, below)`, or a `ValueError`; by default what single precision can compute with."""
    if isinstance(value, bool) or not isinstance(value, Real) or value < low or not value < below:
        raise ValueError(f"{name} must be a number in [{low:g}, {below:g}), got {value!r}.")
    return float(value)


def check_steps(gammas: Sequence[float], steps: Sequence[float], steps_name: str) -> tuple[float, ...]:
    """The gammas: one more than the steps between them, which increase."""
    values = tuple(check_number("each of gammas", gamma) for gamma in gammas)
    if len(values) != len(steps) + 1:
        raise ValueError(f"gammas must hold one value more than {steps_name}, got {len(values)} and {len(steps)}.")
    if any(later <= earlier for earlier, later in zip(steps[:-1], steps[1:], strict=True)):
        raise ValueError(f"{steps_name} must increase strictly, got {tuple(steps)}.")
    return values


class CalibrationLoss(nn.Module):
    """
    Base of the losses: a loss defines `of_rows` and keeps each of its parameters in the attribute of that name.

    It is called as `loss(logits, labels)`, logits of shape `(N, K)` or `(N, T, K)`, or handed to a `Trainer` as
    `compute_loss_func`. Of a sigmoid head, with logits and labels of one shape `(N, L)` or a single logit `(N, 1)`,
    each output is a case of two classes, and a mean is over all outputs that are known.

    Half precision is computed and returned in float32. NaN or +inf among the logits gives a loss that is not finite (a
    gradient scaler relies on it), while -inf rules a class out: the loss is that of the other classes, and infinite
    where the label is such a class. A mean over no label at all is NaN, as in `torch.nn.functional.cross_entropy`.

    Args:
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` over the labels that count, `"sum"`, or `"none"` (shape of the labels, 0 where ignored).
        ignore_index (`int`, *optional*, defaults to `-100`):
            Label that counts for nothing. (A `Trainer` counts every label but -100.)
    """

    learns_from_validation: ClassVar[bool] = False  # that `update_from_validation` is called after each evaluation
    validation_callback: ClassVar[str] = "ValidationCallback"  # checkpoints keep the state of the loss under this name
    batch_coupled: ClassVar[bool] = False  # that a row's loss depends on the others: micro-batches do not add up
    always_shown: ClassVar[tuple[str, ...]] = ()  # parameters that `loss_label` names even where they are the usual
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # That of `__init__`, with the parameters of the base in the place of its `**options`.
        found: dict[str, inspect.Parameter] = {}
        for base in (base for base in cls.__mro__ if "__init__" in vars(base)):
            own = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            named = [one for one in own if one.kind is not one.VAR_KEYWORD]
            found |= {one.name: one for one in named if one.name not in found}
            if named == own:
                break
        cls.__signature__ = inspect.Signature(list(found.values()))

    def __init__(self, *, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__()
        self.title = type(self).__name__  # what to call the loss where it has no name in `LOSSES`
        self.reduction = check_reduction(reduction)
        self.ignore_index = ignore_index
        self.weigh_by(None)

    def weigh_by(self, class_weights: ClassWeights) -> None:
        """Multiply the losses of each class's samples: for the `__init__` of a loss that takes `class_weights`."""
        weights = class_weights.clone() if isinstance(class_weights, Tensor) else None
        # As with labels, values are not looked at on an accelerator, nor while they are traced.
        if class_weights is not None and (weights is None or weights.device.type == "cpu" and not is_traced()):
            values = list(class_weights) if weights is None else weights.tolist()
            if not all(isinstance(value, Real) and value < LARGEST and not value < 0 for value in values):
                raise ValueError(
                    f"class_weights must be finite numbers, not negative and below {LARGEST:g}, one per class, got "
                    f"{class_weights!r}."
                )
            weights = torch.tensor(values, dtype=torch.float32) if weights is None else weights
        # A buffer, so that it follows the module, but a parameter and no state of training.
        self.register_buffer("class_weights", weights, persistent=False)

    def of_rows(self, rows: Rows) -> Tensor:
        """The loss of each row of [`Rows`], `(M,)`; whatever it is where the label is ignored."""
        raise NotImplementedError(f"{type(self).__name__} must define of_rows(rows).")

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        """The loss of a batch, with another reduction than that of the module."""
        rows = Rows.of(logits, labels, self.ignore_index)
        return rows.reduced(self.of_rows(rows), reduction, labels.shape, self._buffers["class_weights"])

    def forward(self, outputs: Any, labels: Tensor | None, num_items_in_batch: int | Tensor | None = None) -> Tensor:
        """
        Args:
            outputs (`torch.Tensor`, `ModelOutput`, `Mapping` or `tuple`):
                The logits, or what holds them.
            labels (`torch.Tensor` of shape `(N,)` or `(N, T)`, or that of the logits):
                Class indices, or `ignore_index`; of a sigmoid head 0 and 1, and `ignore_index` or NaN where unknown.
            num_items_in_batch (`int` or 0-d `torch.Tensor`, *optional*):
                Labels that count in the accumulated batch: what a mean divides by, so that micro-batches add up.

        Returns:
            `torch.Tensor`: A scalar, or one value per label for `reduction="none"`.
        """
        logits = extract_logits(outputs)
        if labels is None:
            raise ValueError(
                "The loss got no labels. The batches must hold class indices, or 0 and 1 of each output, under the "
                "key 'labels' (the Trainer's default collator renames a 'label' column)."
            )
        if num_items_in_batch is None:
            return self.compute(logits, labels, self.reduction)
        if self.reduction == "none":
            raise ValueError("reduction='none' gives no scalar to train on: use 'mean' or 'sum' with a Trainer.")
        if isinstance(num_items_in_batch, Tensor):
            if num_items_in_batch.numel() != 1:
                raise ValueError(
                    f"num_items_in_batch must be one number, got shape {tuple(num_items_in_batch.shape)}. "
                    "torch.nn.DataParallel is not supported: start one process per device with `accelerate launch`."
                )
            num_items_in_batch = num_items_in_batch.reshape(()).to(logits.device)
        total = self.compute(logits, labels, "sum")
        return total if self.reduction == "sum" else total / num_items_in_batch

    def set_progress(self, *, fraction: float | None = None, epoch: float | None = None) -> None:
        """For a loss that changes with training: what share of its steps, and how many epochs, are already done."""

    def update_from_validation(self, logits: Any, labels: Any) -> None:
        """For a loss that learns from validation data: logits and labels, as when called, as tensors or arrays."""

    def callback(self, evaluate: bool = True) -> TrainerCallback:
        """
        What keeps this loss informed in a plain `Trainer`: of progress and, if it learns from validation data, of the
        logits after each evaluation (the model runs once more, if `evaluate`); checkpoints keep its state.
        """
        from .callbacks import ProgressCallback, ValidationCallback  # Here: a loss alone does not load transformers.

        learning = type(self.validation_callback, (ValidationCallback,), {})
        return (learning if self.learns_from_validation else ProgressCallback)(self, evaluate)

    def hyperparameters(self) -> dict[str, Any]:
        """The parameters of the loss for JSON and [`create_loss`], without those of `COMMON` and None by default."""
        own = inspect.signature(type(self)).parameters
        found = {name: _plain(getattr(self, name, None)) for name in own}
        return _without_common({name: one for name, one in found.items() if (one, own[name].default) != (None, None)})

    def extra_repr(self) -> str:
        shown = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in shown if getattr(self, name, None) is not None)


def _plain(value: Any) -> Any:
    """A parameter in the types of JSON; a float32 in as few digits as tell it."""
    return json.loads(json.dumps(value, default=_jsonable))


def _jsonable(value: Any) -> Any:
    if isinstance(value, Tensor):
        array = widen(value.detach()).cpu().numpy()
        return (array.astype(str).astype(float) if value.is_floating_point() else array).tolist()
    if isinstance(value, (Mapping, range)):
        return dict(value) if isinstance(value, Mapping) else list(value)
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else str(value)


def _without_common(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in COMMON or value != COMMON[name]}


class FunctionLoss(CalibrationLoss):
    """A `compute_loss_func` of the user, which takes the mean over `num_items_in_batch`, as a loss."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__(reduction="sum" if getattr(function, "reduction", None) == "sum" else "mean")
        self.function = function
        self.title = getattr(function, "__name__", type(function).__name__)

    def forward(self, outputs: Any, labels: Tensor | None, num_items_in_batch: int | Tensor | None = None) -> Tensor:
        return self.function(outputs, labels, num_items_in_batch=num_items_in_batch)

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        from transformers.modeling_outputs import SequenceClassifierOutput

        if reduction == "none":
            raise ValueError(f"The loss {self.title} is a function of the user's, which gives no loss of each label.")
        mean = self(SequenceClassifierOutput(logits=cast(Any, logits)), labels, num_items_in_batch=labels.numel())
        return mean * labels.numel() if reduction == "sum" else mean

    def hyperparameters(self) -> dict[str, Any]:
        return {}


def as_loss(function: Callable[..., Tensor]) -> CalibrationLoss:
    """A `compute_loss_func` as a loss: itself if it is one."""
    return function if isinstance(function, CalibrationLoss) else FunctionLoss(function)


class LossFunction(Protocol[P]):
    """The function of a loss: its tensors, then the parameters of the class."""

    def __call__(self, logits: Tensor, labels: Tensor, *args: P.args, **kwargs: P.kwargs) -> Tensor: ...


_ARGUMENTS = """\
Args:
    logits (`torch.Tensor` of shape `(N, K)` or `(N, T, K)`, of a sigmoid head `(N, L)`):
        Raw scores.
    labels (`torch.Tensor` of shape `(N,)` or `(N, T)`, of a sigmoid head `(N, L)`):
        Class indices in `[0, K)`, or `ignore_index`; of a sigmoid head 0 and 1, and `ignore_index` or NaN where
        unknown.
"""
_RESULTS = """

Returns:
    `torch.Tensor`: A scalar, or one value per label for `reduction="none"`.

Raises:
    ValueError: If a parameter is out of range, or shapes, dtypes or (for CPU tensors) labels are wrong.
"""


def as_function(cls: Callable[P, CalibrationLoss]) -> LossFunction[P]:
    """The function of a loss without a state, bound beside its class: `focal_loss = as_function(FocalLoss)`."""
    modules: dict[Any, CalibrationLoss] = {}

    def function(logits: Tensor, labels: Tensor, **parameters: Any) -> Tensor:
        key = _typed(tuple(parameters.items()))
        try:
            loss = modules.get(key)
        except TypeError:  # not hashable: a list, say
            key = loss = None
        if loss is None:
            loss = make(**parameters)
            # The values of a tensor are no part of the key, and what is traced is not kept.
            if key is not None and not torch.compiler.is_compiling() and next(loss.buffers(), None) is None:
                if len(modules) >= 64:
                    modules.clear()
                modules[key] = loss
        return loss.compute(logits, labels, loss.reduction)

    make = cast(Callable[..., CalibrationLoss], cls)
    tensors = list(inspect.signature(function).parameters.values())[:2]
    signature = inspect.Signature([*tensors, *inspect.signature(cls).parameters.values()], return_annotation="Tensor")
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", make.__name__).lower()
    shown: Any = function
    shown.__name__ = shown.__qualname__ = name
    shown.__module__, shown.__signature__ = cls.__module__, signature
    shown.__doc__ = inspect.cleandoc(cls.__doc__ or "").replace("Args:\n", _ARGUMENTS, 1) + _RESULTS
    return shown


def _typed(value: Any) -> Any:
    """The value with its type, since 1 and True are one key and two parameters."""
    return (type(value), *map(_typed, value)) if type(value) is tuple else (type(value), value)


def register_loss(name: str, **defaults: Any) -> Callable[[Class], Class]:
    """
    Put a loss into `LOSSES`, where every script, the trainer and [`create_loss`] find it by its name.

    Args:
        name (`str`):
            What to call it; not taken yet.
        defaults:
            Parameters of the class under this name. Of several decorators the lowest registers first.

    Returns:
        `Callable`: A decorator of a subclass of [`CalibrationLoss`], which it returns unchanged.

    Raises:
        ValueError: If the name is taken.

    Example:
    ```python
    @register_loss("poly1")
    class Poly1Loss(CalibrationLoss):
        def __init__(self, *, epsilon: float = 1.0, **options):
            super().__init__(**options)
            self.epsilon = epsilon

        def of_rows(self, rows):
            nll = rows.nll()
            return nll + self.epsilon * (1 - torch.exp(-nll))
    ```
    """

    def register(cls: Class) -> Class:
        if name in LOSSES:
            raise ValueError(f"There is a loss of the name {name!r} already: choose another for {cls.__name__}.")
        LOSSES[name] = partial(cls, **defaults) if defaults else cls
        return cls

    return register


def create_loss(name: str, **parameters: Any) -> CalibrationLoss:
    """
    Build the loss of that name.

    Args:
        name (`str`):
            A key of `LOSSES`.
        parameters:
            What the loss takes: `gamma`, `lam`, `smoothing`, `reduction`, ...

    Returns:
        [`CalibrationLoss`]: The module.

    Raises:
        ValueError: If the name is unknown or the loss does not take a parameter.

    Example:
    >>> create_loss("focal", gamma=2.0)
    FocalLoss(gamma=2.0, reduction='mean', ignore_index=-100)
    """
    if name not in LOSSES:
        raise ValueError(f"Unknown loss {name!r}.{suggestion(name, LOSSES)} Valid names: {', '.join(LOSSES)}.")
    accepted = list(inspect.signature(LOSSES[name]).parameters)
    for parameter in parameters:
        if parameter not in accepted:
            near = suggestion(parameter, accepted)
            raise ValueError(f"The loss {name!r} takes no {parameter!r}; it takes {', '.join(accepted)}.{near}")
    try:
        loss = LOSSES[name](**parameters)
    except TypeError as error:
        raise ValueError(f"The loss {name!r} cannot take {parameters}: {error}") from error
    forgotten = [parameter for parameter in accepted if not hasattr(loss, parameter)]
    if forgotten:  # its results could not say what it was
        raise ValueError(f"{type(loss).__name__} must keep each parameter as an attribute: {', '.join(forgotten)}.")
    return loss


def loss_label(name: str, parameters: Mapping[str, Any] | None = None) -> str:
    """
    A loss in words: its name, and the parameters that differ from those of that name (of an unknown name, all).

    Example:
    >>> loss_label("label_smoothing", {"smoothing": 0.05}), loss_label("label_smoothing", {"smoothing": 0.5})
    ('label_smoothing', 'label_smoothing (smoothing 0.5)')
    """
    given = {key: _plain(value) for key, value in (parameters or {}).items()}
    try:
        usual = create_loss(name)
    except (TypeError, ValueError):  # not known here, or nothing without parameters
        shown = {key: value for key, value in _without_common(given).items() if value is not None}
    else:
        default = {**dict.fromkeys(inspect.signature(type(usual)).parameters), **COMMON, **usual.hyperparameters()}
        hidden = {key: value for key, value in default.items() if key not in usual.always_shown}
        shown = {key: value for key, value in {**default, **given}.items() if (key, value) not in hidden.items()}
    listed = ", ".join(f"{key} {_words(value)}" for key, value in shown.items())
    return f"{name} ({listed})" if listed else name


def _words(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_words, value))}]"
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)
