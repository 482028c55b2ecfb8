# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What every loss is: a class with its parameters and the loss of each row. Its function and its name follow from it.

    @register_loss("focal")
    class FocalLoss(CalibrationLoss): ...

    focal_loss = as_function(FocalLoss)

What all of them share: logits of shape `(N, K)` or `(N, T, K)`; half precision is computed and returned in float32;
labels equal to `ignore_index` count for nothing; NaN or +inf among the logits gives a loss that is not finite (a
gradient scaler relies on it), while -inf rules a class out; a mean over no label at all is NaN, as in
`torch.nn.functional.cross_entropy`. Class weights multiply the losses of the samples and never enter their
probabilities; a mean is over the labels that count, where `torch.nn.functional.cross_entropy` would divide by the sum
of their weights.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Protocol, TypeAlias, TypedDict, TypeVar, cast

import torch
from torch import Tensor, nn

from .batch import Rows, reduced_losses
from .outputs import extract_logits
from .rows import is_traced, widen


if TYPE_CHECKING:
    from transformers import TrainerCallback


REDUCTIONS = ("mean", "sum", "none")
COMMON = {"reduction": "mean", "ignore_index": -100}  # what goes without saying
LOSSES: dict[str, Callable[..., CalibrationLoss]] = {}

ClassWeights: TypeAlias = "Sequence[float] | Tensor | None"
P = ParamSpec("P")
Class = TypeVar("Class", bound="type[CalibrationLoss]")


class Options(TypedDict, total=False):
    """What every loss takes."""

    reduction: str
    ignore_index: int


# ---- Checks of parameters -------------------------------------------------------------------------------------------


def check_reduction(reduction: str) -> str:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}.")
    return reduction


def check_number(name: str, value: Any, low: float = 0.0, below: float = float("inf")) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) < below:
        raise ValueError(f"{name} must be a number in [{low:g}, {below:g}), got {value!r}.")
    return float(value)


def check_steps(gammas: Sequence[float], steps: Sequence[float], steps_name: str) -> tuple[float, ...]:
    """The gammas: one more than the steps between them, which increase."""
    values = tuple(check_number("each of gammas", gamma) for gamma in gammas)
    if len(values) != len(steps) + 1:
        raise ValueError(f"gammas must hold one value more than {steps_name}, got {len(values)} and {len(steps)}.")
    if any(later <= earlier for earlier, later in zip(steps, steps[1:], strict=False)):
        raise ValueError(f"{steps_name} must increase strictly, got {tuple(steps)}.")
    return values


def _check_class_weights(class_weights: Sequence[float] | Tensor) -> Tensor:
    if isinstance(class_weights, Tensor) and (class_weights.device.type != "cpu" or is_traced()):
        return class_weights.clone()  # as with labels, its values are not looked at
    values = class_weights.tolist() if isinstance(class_weights, Tensor) else list(class_weights)
    if not all(isinstance(value, Real) and 0 <= float(value) < float("inf") for value in values):
        raise ValueError(f"class_weights must be finite numbers, not negative, one per class, got {class_weights!r}.")
    return class_weights.clone() if isinstance(class_weights, Tensor) else torch.tensor(values, dtype=torch.float32)


# ---- The class ------------------------------------------------------------------------------------------------------


class CalibrationLoss(nn.Module):
    """
    Base of the losses: a loss defines `of_rows` and keeps each of its parameters in the attribute of that name.

    It is called as `loss(logits, labels)` or handed to a `Trainer` as `compute_loss_func`. With `num_items_in_batch`
    (the labels that count in the whole accumulated batch) a mean becomes `sum / num_items_in_batch`, so that splitting
    a batch into micro-batches changes nothing.

    Args:
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` over the labels that count, `"sum"`, or `"none"` (shape of the labels, 0 where ignored).
        ignore_index (`int`, *optional*, defaults to `-100`):
            Label that counts for nothing. (A `Trainer` counts every label but -100.)
    """

    class_weights: Tensor | None
    # Whether `update_from_validation` is to be called after each evaluation during training.
    learns_from_validation: ClassVar[bool] = False
    # Whether the loss of a row depends on the others, so that micro-batches do not add up to the whole batch.
    batch_coupled: ClassVar[bool] = False
    # Parameters that `loss_label` names even where they are those of the name.
    always_shown: ClassVar[tuple[str, ...]] = ()
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = _whole_signature(cls)

    def __init__(self, *, reduction: str = "mean", ignore_index: int = -100) -> None:
        super().__init__()
        self.reduction = check_reduction(reduction)
        self.ignore_index = ignore_index
        self.weigh_by(None)

    def weigh_by(self, class_weights: ClassWeights) -> None:
        """Multiply the losses of each class's samples: for the `__init__` of a loss that takes `class_weights`."""
        weights = None if class_weights is None else _check_class_weights(class_weights)
        # A buffer, so that it follows the module, but a parameter and no state of training.
        self.register_buffer("class_weights", weights, persistent=False)

    def of_rows(self, rows: Rows) -> Tensor:
        """The loss of each row, `(M,)`; whatever it is where the label is ignored."""
        raise NotImplementedError(f"{type(self).__name__} must define of_rows(rows).")

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        """The loss of a batch, with another reduction than that of the module."""
        weights = self._buffers["class_weights"]
        return reduced_losses(self.of_rows, logits, labels, reduction, self.ignore_index, weights)

    def forward(self, outputs: Any, labels: Tensor | None, num_items_in_batch: int | Tensor | None = None) -> Tensor:
        """
        Args:
            outputs (`torch.Tensor`, `ModelOutput`, `Mapping` or `tuple`):
                The logits, or what holds them.
            labels (`torch.Tensor` of shape `(N,)` or `(N, T)`):
                Class indices, or `ignore_index`.
            num_items_in_batch (`int` or 0-d `torch.Tensor`, *optional*):
                How many labels count in the whole accumulated batch. A mean becomes `sum / num_items_in_batch`; a sum
                stays the plain sum.

        Returns:
            `torch.Tensor`: A scalar, or one value per label for `reduction="none"`.
        """
        logits = extract_logits(outputs)
        if labels is None:
            raise ValueError(
                "The loss got no labels. The batches must hold class indices under the key 'labels' (the Trainer's "
                "default collator renames a 'label' column)."
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
        """
        Tell the loss how far training has come: for a loss that changes with it.

        Args:
            fraction (`float`, *optional*):
                Share of the training steps already done.
            epoch (`float`, *optional*):
                Epochs already done, from 0.
        """

    def update_from_validation(self, logits: Any, labels: Any) -> None:
        """
        Show the loss validation data: for a loss that learns from it (`learns_from_validation`).

        Args:
            logits (`torch.Tensor` or `np.ndarray` of shape `(N, K)` or `(N, T, K)`):
                Raw scores, not probabilities.
            labels (`torch.Tensor` or `np.ndarray` of shape `(N,)` or `(N, T)`):
                Class indices, or `ignore_index`.
        """

    def callback(self, evaluate: bool = True) -> TrainerCallback:
        """
        A `TrainerCallback` that keeps this loss informed in a plain `Trainer`: of progress and, if it learns from
        validation data, of the logits after each evaluation during training; its state is kept in the checkpoints.

        Args:
            evaluate (`bool`, *optional*, defaults to `True`):
                Run the model over the evaluation data once more to update the loss. With `False` the callback keeps
                the state alone: `CalibrationTrainer` has the logits at hand.
        """
        from .callbacks import ProgressCallback, ValidationCallback

        return ValidationCallback(self, evaluate) if self.learns_from_validation else ProgressCallback(self)

    @property
    def title(self) -> str:
        """What to call the loss where it has no name in `LOSSES`."""
        return type(self).__name__

    def hyperparameters(self) -> dict[str, Any]:
        """
        The parameters of the loss as JSON has them: `create_loss` of its name with these is the same loss.

        Returns:
            `dict[str, Any]`: In the order of the signature; without a reduction to the mean, an `ignore_index` of -100
            and what is None by default.
        """
        found = {}
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name, None)
            if value is not None or parameter.default is not None:
                found[name] = _plain(value)
        return _without_common(found)

    def extra_repr(self) -> str:
        shown = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in shown if getattr(self, name, None) is not None)


def _whole_signature(cls: type) -> inspect.Signature:
    """That of `__init__`, with the parameters of the base in the place of its `**options`."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    own = dict(list(inspect.signature(vars(owner)["__init__"]).parameters.items())[1:])
    options = [name for name, one in own.items() if one.kind is one.VAR_KEYWORD]
    if options:
        del own[options[0]]
        rest = _whole_signature(owner.__mro__[1]).parameters
        own |= {name: one for name, one in rest.items() if name not in own}
    return inspect.Signature(list(own.values()))


def _plain(value: Any) -> Any:
    """A parameter in the types of JSON; a float32 in as few digits as tell it."""
    if isinstance(value, Tensor) and value.ndim == 0:
        return float(str(widen(value.detach()).cpu().numpy())) if value.is_floating_point() else value.item()
    if isinstance(value, (Tensor, list, tuple, range)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if value is None or isinstance(value, (bool, str)):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else str(value)


def _without_common(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in COMMON or value != COMMON[name]}


class FunctionLoss(CalibrationLoss):
    """
    A function of the user as a loss; [`as_loss`] makes it.

    Args:
        function (`Callable`):
            As for the `compute_loss_func` of a `Trainer`: called with the outputs of the model, the labels and
            `num_items_in_batch`, over which it takes the mean.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__(reduction="sum" if getattr(function, "reduction", None) == "sum" else "mean")
        self.function = function

    def forward(self, outputs: Any, labels: Tensor | None, num_items_in_batch: int | Tensor | None = None) -> Tensor:
        """What the function gives."""
        return self.function(outputs, labels, num_items_in_batch=num_items_in_batch)

    def compute(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        """The mean over the labels, or the sum of which it is the mean."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        if reduction == "none":
            raise ValueError(f"The loss {self.title} is a function of the user's, which gives no loss of each label.")
        outputs = SequenceClassifierOutput(logits=cast(Any, logits))
        mean = self(outputs, labels, num_items_in_batch=labels.numel())
        return mean * labels.numel() if reduction == "sum" else mean

    @property
    def title(self) -> str:
        """The name of the function."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def hyperparameters(self) -> dict[str, Any]:
        """Nothing is known of a function's parameters."""
        return {}


def as_loss(function: Callable[..., Tensor]) -> CalibrationLoss:
    """A `compute_loss_func` as a loss: itself if it is one, else a [`FunctionLoss`] of it."""
    return function if isinstance(function, CalibrationLoss) else FunctionLoss(function)


# ---- The function ---------------------------------------------------------------------------------------------------


class LossFunction(Protocol[P]):
    """The function of a loss: logits, labels, and the parameters of its class by keyword."""

    def __call__(self, logits: Tensor, labels: Tensor, *args: P.args, **kwargs: P.kwargs) -> Tensor: ...


_KEPT = 64  # modules of one function
_ARGUMENTS = """\
Args:
    logits (`torch.Tensor` of shape `(N, K)` or `(N, T, K)`):
        Raw scores.
    labels (`torch.Tensor` of shape `(N,)` or `(N, T)`):
        Class indices in `[0, K)`, or `ignore_index`.
"""
_RESULTS = """

Returns:
    `torch.Tensor`: A scalar, or one value per label for `reduction="none"`.

Raises:
    ValueError: If a parameter is out of range, or shapes, dtypes or (for CPU tensors) labels are wrong.
"""


def as_function(cls: Callable[P, CalibrationLoss]) -> LossFunction[P]:
    """
    The pure function of a loss, such as `focal_loss` of `FocalLoss`: it takes the parameters of the class by keyword.

    Args:
        cls (`type[CalibrationLoss]`):
            A loss without a state. The function is to be bound, in the module of the class, to its name in snake case.

    Returns:
        `Callable`: `function(logits, labels, **parameters)`.
    """
    modules: dict[Any, CalibrationLoss] = {}

    def function(logits: Tensor, labels: Tensor, **parameters: Any) -> Tensor:
        key: Any = None
        try:
            key = tuple([(name, _typed(value)) for name, value in parameters.items()]) if parameters else ()
            loss = modules.get(key)
        except TypeError:  # not hashable: a list, say
            key = loss = None
        if loss is None:
            loss = make(**parameters)
            # The values of a tensor are no part of the key, and what is traced is not kept.
            if key is not None and not torch.compiler.is_compiling() and next(loss.buffers(), None) is None:
                if len(modules) >= _KEPT:
                    modules.clear()
                modules[key] = loss
        return loss.compute(logits, labels, loss.reduction)

    make = cast(Callable[..., CalibrationLoss], cls)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    tensors = [inspect.Parameter(name, kind, annotation="Tensor") for name in ("logits", "labels")]
    signature = inspect.Signature([*tensors, *inspect.signature(cls).parameters.values()], return_annotation="Tensor")
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", make.__name__).lower()
    words = inspect.cleandoc(cls.__doc__ or "")
    words = words if "\nArgs:\n" in words else f"{words}\n\nArgs:\n"
    shown: Any = function
    shown.__name__ = shown.__qualname__ = name
    shown.__module__, shown.__signature__ = cls.__module__, signature
    shown.__doc__ = words.replace("Args:\n", _ARGUMENTS, 1).rstrip() + _RESULTS
    return shown


def _typed(value: Any) -> Any:
    """The value with its type, since 1 and True are one key and two parameters."""
    return (type(value), *map(_typed, value)) if type(value) is tuple else (type(value), value)


# ---- The registry ---------------------------------------------------------------------------------------------------


def register_loss(name: str, **defaults: Any) -> Callable[[Class], Class]:
    """
    Put a loss into `LOSSES`, where every script, the trainer and [`create_loss`] find it by its name.

    Args:
        name (`str`):
            What to call it; not taken yet.
        defaults:
            Parameters that differ from those of the class under this name. Several names of one class are several
            decorators, of which the lowest registers first.

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
        raise ValueError(f"Unknown loss {name!r}. Valid names: {', '.join(LOSSES)}.")
    accepted = list(inspect.signature(LOSSES[name]).parameters)
    for parameter in parameters:
        if parameter not in accepted:
            raise ValueError(f"The loss {name!r} takes no {parameter!r}; it takes {', '.join(accepted)}.")
    loss = LOSSES[name](**parameters)
    forgotten = [parameter for parameter in accepted if not hasattr(loss, parameter)]
    if forgotten:  # its results could not say what it was
        raise ValueError(f"{type(loss).__name__} must keep each parameter as an attribute: {', '.join(forgotten)}.")
    return loss


def loss_label(name: str, parameters: Mapping[str, Any] | None = None) -> str:
    """
    A loss in words, for tables and pictures: its name, and the parameters that differ from those of that name. Two
    runs have the same words if they have the same loss, whether all parameters are given or those that were set.

    Args:
        name (`str`):
            A key of `LOSSES`. With any other, of a plugin that is not loaded, say, all parameters are named.
        parameters (`Mapping[str, Any]`, *optional*):
            As of [`~CalibrationLoss.hyperparameters`], or those that were set.

    Returns:
        `str`: Such as `"focal (gamma 2)"`.

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
        shown = {
            key: value
            for key, value in {**default, **given}.items()
            if key in usual.always_shown or key not in default or value != default[key]
        }
    listed = ", ".join(f"{key} {_words(value)}" for key, value in shown.items())
    return f"{name} ({listed})" if listed else name


def _words(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_words, value))}]"
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)
