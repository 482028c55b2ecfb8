# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What holds of every loss in the registry, and of one that a plugin puts there."""

import copy
import inspect
import json
import math
import pickle
import sys

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from hf_focal import LOSSES, CalibrationLoss, create_loss, register_loss
from hf_focal.losses import as_function, loss_label


class Poly1Loss(CalibrationLoss):
    """
    Cross-entropy plus a multiple of the probability that the true class lacks.

    Args:
        epsilon (`float`, *optional*, defaults to `1.0`):
            The multiple.
        class_weights, reduction, ignore_index:
            As in [`CrossEntropyLoss`].
    """

    def __init__(self, *, epsilon: float = 1.0, class_weights=None, **options):
        super().__init__(**options)
        self.epsilon = epsilon
        self.weigh_by(class_weights)

    def of_rows(self, rows):
        nll = rows.nll()
        return nll + self.epsilon * (2 - torch.exp(-nll))  # not 0 where a label is ignored: that is the base's affair


poly1_loss = as_function(Poly1Loss)
NAMES = [*LOSSES, "poly1", "poly1-half"]
FOR_EACH_LOSS = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True, scope="module")
def plugin():
    register_loss("poly1-half", epsilon=0.5)(register_loss("poly1")(Poly1Loss))
    yield
    del LOSSES["poly1"], LOSSES["poly1-half"]


def class_of(name):
    return getattr(LOSSES[name], "func", LOSSES[name])


def function_of(name):
    """The derived function beside the class, or None."""
    cls = class_of(name)
    return getattr(sys.modules[cls.__module__], as_function(cls).__name__, None)


def ready(name, **parameters):
    """As in the middle of training."""
    loss = create_loss(name, **parameters)
    loss.set_progress(fraction=0.5, epoch=1.0)
    return loss


def inputs(n=12, k=4, dtype=torch.float64, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, k, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, k, (n,), generator=generator)
    labels[::2] = logits.argmax(1)[::2]  # half of them right
    return logits.to(dtype).requires_grad_(), labels


def others(name):
    """Other parameters than those of the name: each number halved."""
    parameters = create_loss(name).hyperparameters()
    changed = {key: value / 2 for key, value in parameters.items() if isinstance(value, float)}
    changed |= {key: [one / 2 for one in value] for key, value in parameters.items() if isinstance(value, list)}
    takes = inspect.signature(LOSSES[name]).parameters
    weights = {"class_weights": [0.1, 1.0, 0.0, 1 / 3]} if "class_weights" in takes else {}
    return {**changed, **weights, "reduction": "sum", "ignore_index": 2}


def weights_in_single(given):
    """Class weights are kept in float32, in as few digits as tell them."""
    return {"class_weights": [0.1, 1.0, 0.0, 0.33333334]} if "class_weights" in given else {}


# ---- What is computed -----------------------------------------------------------------------------------------------


@FOR_EACH_LOSS
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_reductions_ignored_labels_and_tokens_agree(name, ignore_index):
    logits, labels = inputs()
    labels = torch.where(labels == ignore_index, 0, labels)
    marked = labels.clone()
    marked[[1, 6]] = ignore_index
    kept = marked != ignore_index
    none, total, mean = (
        ready(name, reduction=reduction, ignore_index=ignore_index) for reduction in ("none", "sum", "mean")
    )
    losses = none(logits, marked)
    assert losses.shape == (12,) and losses.dtype == torch.float64
    assert losses[~kept].tolist() == [0.0, 0.0] and (losses[kept] > 0).all()
    torch.testing.assert_close(total(logits, marked), losses.sum())
    torch.testing.assert_close(mean(logits, marked), losses.sum() / 10)
    torch.testing.assert_close(losses[kept], none(logits[kept], labels[kept]))
    tokens = logits.reshape(3, 4, 4), marked.reshape(3, 4)
    assert none(*tokens).shape == (3, 4)
    torch.testing.assert_close(none(*tokens).flatten(), losses)
    torch.testing.assert_close(mean(*tokens), mean(logits, marked))
    (gradient,) = torch.autograd.grad(total(logits, marked), logits)
    assert not gradient[~kept].any() and gradient[kept].any(dim=1).all()
    nothing = torch.full_like(marked, ignore_index)
    assert total(logits, nothing).item() == 0 and math.isnan(mean(logits, nothing).item())
    assert torch.equal(none(logits, marked.int()), losses)


@FOR_EACH_LOSS
def test_gradcheck_holds_in_double_precision(name):
    logits, labels = inputs(6)
    labels[3] = -100
    for loss in (ready(name), ready(name, **others(name)), ready(name, reduction="none")):
        ignored = labels if loss.ignore_index == -100 else labels.clamp(min=0)
        assert torch.autograd.gradcheck(lambda z, loss=loss, ignored=ignored: loss(z, ignored), (logits,))


@FOR_EACH_LOSS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single_and_stays_finite(name, dtype):
    for scale in (1.0, 500.0):
        logits, labels = inputs(dtype=dtype, scale=scale)
        loss = ready(name)(logits, labels)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.dtype == torch.float32 and gradient.dtype == dtype
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
        assert torch.equal(loss, ready(name)(logits.detach().float(), labels))


@FOR_EACH_LOSS
def test_one_batch_of_eight_is_two_of_four(name):
    logits, labels = inputs(8)
    labels[5] = -100
    loss = ready(name)
    whole = loss(logits, labels)
    parts = sum(
        loss(*part, num_items_in_batch=torch.tensor(7)) for part in zip(logits.split(4), labels.split(4), strict=True)
    )
    if loss.batch_coupled:
        assert abs(parts / whole - 1) > 1e-3
        return
    torch.testing.assert_close(parts, whole)
    expected, actual = (torch.autograd.grad(value, logits)[0] for value in (whole, parts))
    torch.testing.assert_close(actual, expected)


@FOR_EACH_LOSS
@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nan_and_infinite_logits_give_a_loss_that_is_not_finite(name, value, column, dtype):
    logits = torch.tensor([[0.5, 0.0, 1.0], [0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], dtype=dtype)
    logits[0, column] = value
    loss = ready(name)
    labels = torch.tensor([0, 1, 0])
    assert torch.isfinite(loss(torch.nan_to_num(logits, 0.0, 0.0, 0.0), labels))
    assert not torch.isfinite(loss(logits, labels))
    assert not torch.isfinite(loss(logits, labels, num_items_in_batch=torch.tensor(3.0)))


@FOR_EACH_LOSS
def test_compiles_without_graph_breaks(name):
    torch.compiler.reset()
    logits, labels = inputs()
    labels[3] = -100
    loss = ready(name)
    expected = loss(logits, labels)
    actual = torch.compile(loss, backend="aot_eager", fullgraph=True)(logits, labels)
    torch.testing.assert_close(actual, expected)
    slopes = [torch.autograd.grad(value, logits)[0] for value in (actual, expected)]
    torch.testing.assert_close(*slopes)
    if function_of(name) is not None:
        parameters = {key: value for key, value in others(name).items() if not isinstance(value, list)}
        for function in (as_function(class_of(name)), function_of(name)):  # made while it is traced, or found made
            expected = function_of(name)(logits, labels.clamp(min=0), **parameters)
            compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
            torch.testing.assert_close(compiled(logits, labels.clamp(min=0), **parameters), expected)


# ---- The class and its function -------------------------------------------------------------------------------------


@FOR_EACH_LOSS
def test_the_function_is_the_module(name):
    function, cls = function_of(name), class_of(name)
    own = list(inspect.signature(LOSSES[name]).parameters.values())
    assert {one.kind for one in own} == {inspect.Parameter.KEYWORD_ONLY}
    if function is None:
        assert cls.__name__ in ("ScheduledFocalLoss", "AdaFocalLoss")  # which have a state
        return
    logits, labels = inputs()
    for parameters in (
        create_loss(name).hyperparameters(),
        others(name),
        {"reduction": "none", "ignore_index": 2},
        {"reduction": "mean", "ignore_index": 2},
    ):
        for _ in range(2):  # the second time the module is there
            assert torch.equal(function(logits, labels, **parameters), cls(**parameters)(logits, labels))
    assert torch.equal(function(logits=logits, labels=labels), cls()(logits, labels))
    own = list(inspect.signature(cls).parameters.values())
    assert list(inspect.signature(function).parameters) == ["logits", "labels", *(one.name for one in own)]
    assert own[-2:] == list(inspect.signature(CalibrationLoss).parameters.values())
    assert pickle.loads(pickle.dumps(function)) is function
    assert function.__doc__.startswith(inspect.cleandoc(cls.__doc__).splitlines()[0])
    for part in ("logits (`torch.Tensor`", "labels (`torch.Tensor`", "Returns:", "Raises:"):
        assert function.__doc__.count(part) == 1
    with pytest.raises(TypeError):
        function(logits, labels, "sum")
    with pytest.raises(TypeError):
        function(logits, labels, sigma=1.0)


@FOR_EACH_LOSS
def test_copies_and_pickles_are_the_loss(name):
    logits, labels = inputs()
    loss = ready(name, **others(name))
    for other in (copy.copy(loss), copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(logits, labels), loss(logits, labels)) and repr(other) == repr(loss)
    assert list(loss.parameters()) == [] and list(loss.state_dict()) == [
        key for key in ("gammas", "edges") if loss.learns_from_validation
    ]


@FOR_EACH_LOSS
def test_hyperparameters_in_json_make_the_loss_again(name):
    logits, labels = inputs()
    for given in ({}, others(name)):
        loss = ready(name, **given)
        found = loss.hyperparameters()
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        again = ready(name, **json.loads(json.dumps(found)))
        assert repr(again) == repr(loss) and again.hyperparameters() == found
        assert torch.equal(again(logits, labels), loss(logits, labels))
        assert {key: found[key] for key in given} == {**given, **weights_in_single(given)}
    assert "reduction" not in create_loss(name).hyperparameters()


@FOR_EACH_LOSS
def test_a_label_is_that_of_the_loss_however_much_of_it_is_written(name):
    usual = loss_label(name)
    assert usual.startswith(name)
    assert loss_label(name, {"reduction": "mean"}) == loss_label(name, create_loss(name).hyperparameters()) == usual
    labels = {usual}
    for key, value in others(name).items():
        if key != "class_weights":
            labels.add(loss_label(name, {key: value}))
            whole = create_loss(name, **{key: value}).hyperparameters()
            assert loss_label(name, {key: value}) == loss_label(name, json.loads(json.dumps(whole)))
    assert len(labels) == 1 + len(others(name).keys() - {"class_weights"})


@FOR_EACH_LOSS
def test_every_parameter_is_documented(name):
    words = class_of(name).__doc__
    assert words and "Args:" in words
    for parameter in inspect.signature(LOSSES[name]).parameters:
        assert f"{parameter} (`" in words or f"{parameter}," in words or f"{parameter}:" in words


@FOR_EACH_LOSS
def test_the_trainer_may_tell_any_loss_of_progress_and_validation(name):
    loss = create_loss(name)
    callback = loss.callback()
    assert isinstance(callback, TrainerCallback)
    callback.on_step_begin(None, TrainerState(global_step=2, max_steps=4, epoch=1.0), TrainerControl())
    logits, labels = inputs()
    before = loss(logits, labels)
    loss.update_from_validation(logits.detach().numpy(), labels.numpy())
    assert torch.equal(loss(logits, labels), before) != loss.learns_from_validation


# ---- Registry, label and function, each by itself -------------------------------------------------------------------


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="a loss of the name 'focal' already.*Poly1Loss"):
        register_loss("focal")(Poly1Loss)
    assert LOSSES["focal"] is not Poly1Loss


def test_a_plugin_takes_the_options_of_the_base():
    assert repr(create_loss("poly1-half", reduction="sum")) == (
        "Poly1Loss(epsilon=0.5, reduction='sum', ignore_index=-100)"
    )
    with pytest.raises(ValueError, match="'poly1' takes no 'gamma'; it takes epsilon, class_weights, red"):
        create_loss("poly1", gamma=1.0)
    logits, labels = inputs()
    weights = [0.5, 2.0, 0.0, 1.0]
    weighted = poly1_loss(logits, labels, class_weights=weights, reduction="none")
    expected = poly1_loss(logits, labels, reduction="none") * torch.tensor(weights)[labels]
    torch.testing.assert_close(weighted, expected)


def test_a_loss_that_forgets_a_parameter_or_a_row_is_refused():
    class Forgetful(CalibrationLoss):
        def __init__(self, *, alpha: float = 1.0, **options):
            super().__init__(**options)

        def of_rows(self, rows):
            return rows.nll().mean()

    register_loss("forgetful")(Forgetful)
    try:
        with pytest.raises(ValueError, match="Forgetful must keep each parameter as an attribute: alpha"):
            create_loss("forgetful")
    finally:
        del LOSSES["forgetful"]
    with pytest.raises(ValueError, match=r"of_rows must give 12 losses, one a row, got shape \(\)"):
        Forgetful()(*inputs())


def test_labels_of_known_and_unknown_losses():
    assert loss_label("focal") == "focal (gamma 3)" and loss_label("focal", {"gamma": 2}) == "focal (gamma 2)"
    assert loss_label("label_smoothing", {"smoothing": 0.5}) == "label_smoothing (smoothing 0.5)"
    assert loss_label("flsd-532", {"gammas": [5, 3, 2]}) == "flsd-532"
    assert loss_label("flsd-532", {"gammas": [5, 3, 1.5]}) == "flsd-532 (gammas [5, 3, 1.5])"
    assert loss_label("brier", {"reduction": "sum"}) == "brier (reduction sum)"
    gone = {"b": 2.0, "a": [1, 0.25], "reduction": "mean", "ignore_index": -100, "c": None}
    assert loss_label("gone", gone) == "gone (b 2, a [1, 0.25])" and loss_label("gone") == "gone"
    assert loss_label("focal", {"gamma": 2.0000001}) == "focal (gamma 2.0000001)"
    assert loss_label("focal", {"unheard_of": "x"}) == "focal (gamma 3, unheard_of x)"


def test_a_kept_module_is_one_of_the_same_values_and_types():
    function = as_function(Poly1Loss)
    logits, labels = inputs()
    for epsilon in (1, 1.0, True, 0.0, 2.0):
        assert torch.equal(function(logits, labels, epsilon=epsilon), Poly1Loss(epsilon=epsilon)(logits, labels))
    smooth = sys.modules["hf_focal"].label_smoothing_loss
    smooth(logits, labels, smoothing=0)
    with pytest.raises(ValueError, match="smoothing must be a number"):
        smooth(logits, labels, smoothing=False)
    flsd = sys.modules["hf_focal"].sample_dependent_focal_loss
    flsd(logits, labels, gammas=(1, 0))
    with pytest.raises(ValueError, match="each of gammas must be a number"):
        flsd(logits, labels, gammas=(True, 0))
    weights = torch.ones(4)
    before = function(logits, labels, class_weights=weights)
    weights.mul_(2)
    torch.testing.assert_close(function(logits, labels, class_weights=weights), 2 * before)
    for number in range(200):  # kept within bounds, and right all the same
        assert function(logits, labels, epsilon=float(number)) > number
    (kept,) = (cell.cell_contents for cell in function.__closure__ if isinstance(cell.cell_contents, dict))
    assert len(kept) <= 64


# ---- Kinds of labels, and none at all -------------------------------------------------------------------------------


@FOR_EACH_LOSS
def test_labels_of_any_integer_dtype_are_the_same_labels(name):
    """156 is -100 modulo 256: as uint8 it must not be taken for `ignore_index`."""
    logits, labels = (
        torch.randn(5, 200, generator=torch.Generator().manual_seed(0)),
        torch.tensor([156, 0, 199, 156, 3]),
    )
    loss = ready(name, reduction="none")
    expected = loss(logits, labels)
    assert (expected > 0).all()
    for dtype in (torch.uint8, torch.uint16, torch.int16, torch.int32):
        assert torch.equal(loss(logits, labels.to(dtype)), expected)
    torch._dynamo.reset()  # noqa: SLF001
    torch.testing.assert_close(torch.compile(loss, backend="eager")(logits, labels.to(torch.uint8)), expected)


@FOR_EACH_LOSS
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (4, 3)], ids=str)
def test_a_batch_in_which_nothing_counts_is_that_of_torch(name, shape):
    """No rows, or labels that are all ignored: a NaN mean, a sum of 0, and gradients that are so too."""
    for reduction in ("mean", "sum", "none"):
        found, expected = (torch.zeros(shape).requires_grad_() for _ in range(2))
        labels = torch.full(shape[:-1], -100)
        value = ready(name, reduction=reduction)(found, labels)
        reference = torch.nn.functional.cross_entropy(expected.reshape(-1, 3), labels.reshape(-1), reduction=reduction)
        assert torch.equal(value.isnan(), reference.isnan().reshape(value.shape)) and not value.nan_to_num().any()
        value.sum().backward()
        reference.sum().backward()
        assert torch.equal(found.grad.isnan(), expected.grad.isnan()) and not found.grad.nan_to_num().any()
