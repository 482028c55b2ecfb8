# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Classes that a logit of -inf, or the lowest of its dtype, rules out: the loss is that of those that are left."""

import inspect
import math

import pytest
import torch

from hf_focal import LOSSES, AdaFocalLoss, create_loss, focal_loss, label_smoothing_loss


ROWS, CLASSES = 40, 20
MASKS = {"inf": -math.inf, "lowest": None}


def loss_of(name, **parameters):
    loss = create_loss(name, **parameters)
    loss.set_progress(fraction=0.5, epoch=0.5)
    return loss


def masked_rows(dtype=torch.float32, mask=-math.inf):
    """Logits of which each row has other classes masked, labels of classes that are not, and what is masked."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    masked = torch.rand(ROWS, CLASSES, generator=generator) < 0.5
    masked[torch.arange(ROWS), labels] = False
    masked[0] = torch.arange(CLASSES) != labels[0]  # the true class is all that is left
    logits = (2 * torch.randn(ROWS, CLASSES, generator=generator)).to(dtype)
    return logits.masked_fill(masked, torch.finfo(dtype).min if mask is None else mask), labels, masked


def with_gradient(loss, logits, labels):
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels)
    return value.detach(), torch.autograd.grad(value.sum(), logits)[0]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith("mmce")])
def test_each_row_has_the_loss_and_gradient_of_the_classes_that_are_left(name, dtype, mask):
    logits, labels, masked = masked_rows(dtype, MASKS[mask])
    loss = loss_of(name, reduction="none")
    values, slopes = with_gradient(loss, logits, labels)
    assert (slopes[masked] == 0).all()
    rough = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-3}
    assert values[0] == pytest.approx(0, abs=1e-6) and (slopes[0].float().abs() < 1e-6).all()
    for row in range(1, ROWS):
        left = ~masked[row]
        label = left[: labels[row]].sum()[None]
        value, slope = with_gradient(loss, logits[row][left][None], label)
        torch.testing.assert_close(values[row], value[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(slopes[row][left], slope[0], **rough)


@pytest.mark.parametrize("name", LOSSES)
def test_a_column_that_is_masked_changes_nothing_traced_or_not_and_to_the_second_derivative(name):
    generator = torch.Generator().manual_seed(1)
    free, labels = 2 * torch.randn(ROWS, 3, generator=generator), torch.randint(0, 3, (ROWS,), generator=generator)
    loss = loss_of(name)
    value, slopes = with_gradient(loss, free, labels)
    for mask in (-math.inf, torch.finfo(free.dtype).min):
        wide = torch.cat([free, torch.full((ROWS, 1), mask)], dim=1)
        torch._dynamo.reset()  # noqa: SLF001
        for called in (loss, torch.compile(loss, backend="eager"))[: 1 + (mask == -math.inf)]:
            found, wide_slopes = with_gradient(called, wide, labels)
            torch.testing.assert_close(found, value)
            torch.testing.assert_close(wide_slopes, torch.nn.functional.pad(slopes, (0, 1)), rtol=1e-4, atol=1e-6)
        seconds = []
        for logits in (free.clone().requires_grad_(), wide.clone().requires_grad_()):
            (slope,) = torch.autograd.grad(loss(logits, labels), logits, create_graph=True)
            seconds.append(torch.autograd.grad(slope.square().sum(), logits)[0])
        torch.testing.assert_close(seconds[1], torch.nn.functional.pad(seconds[0], (0, 1)), rtol=1e-3, atol=1e-6)


def test_label_smoothing_spreads_over_the_classes_that_are_left():
    """By hand: of four classes one is masked, so that each of two others gets alpha / 2."""
    logits, alpha = torch.tensor([[1.0, -math.inf, 0.5, -0.3]], dtype=torch.float64), 0.2
    log_p = torch.log_softmax(torch.tensor([1.0, 0.5, -0.3], dtype=torch.float64), 0)
    expected = -(1 - alpha) * log_p[0] - alpha / 2 * (log_p[1] + log_p[2])
    assert label_smoothing_loss(logits, torch.tensor([0]), smoothing=alpha).item() == pytest.approx(expected.item())
    # A mask that is but a low number is one to be smoothed into, as in PyTorch.
    low = logits.clamp(min=-9999.0)
    expected = torch.nn.functional.cross_entropy(low, torch.tensor([0]), label_smoothing=alpha * 4 / 3)
    assert label_smoothing_loss(low, torch.tensor([0]), smoothing=alpha).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "label_smoothing", "flsd-53", "dual-focal", "mmce"])
def test_a_label_whose_class_is_masked_has_an_infinite_loss(name):
    logits = torch.tensor([[0.0, -math.inf, 1.0], [0.0, 1.0, 2.0]])
    assert loss_of(name)(logits, torch.tensor([1, 0])) == math.inf


@pytest.mark.parametrize("name", LOSSES)
def test_parameters_too_large_to_compute_with_are_refused(name):
    accepted = inspect.signature(LOSSES[name]).parameters
    found = [one for one in ("gamma", "lam", "gammas", "class_weights") if one in accepted]
    for parameter in found:
        many = len(getattr(loss_of(name), "gammas", (1, 1, 1)))
        for value in (1e308, 10**400):
            given = value if parameter in ("gamma", "lam") else [value] * many
            with pytest.raises(ValueError, match=r"1e\+06"):
                create_loss(name, **{parameter: given})


@pytest.mark.parametrize("gamma", [50.0, 1e4, 999_999.0])
def test_a_large_gamma_is_a_limit_without_nan(gamma):
    """All that is left is the loss of samples whose p_y is below 1 / gamma; the rest has neither loss nor slope."""
    logits = torch.tensor([[0.0, 40.0], [0.0, 0.0], [40.0, 0.0], [200.0, 0.0]])
    value, slopes = with_gradient(
        lambda z, y: focal_loss(z, y, gamma=gamma, reduction="none"), logits, torch.zeros(4).long()
    )
    assert value[0] == pytest.approx(40.0) and value[1:].abs().max() < 1e-12
    torch.testing.assert_close(slopes[0], torch.tensor([-1.0, 1.0]))
    assert slopes[1:].abs().max() < 1e-12


def test_adafocal_survives_a_rate_that_underflows_its_factor():
    loss = AdaFocalLoss(n_bins=1, lam=1e5)
    loss.update_from_validation(torch.zeros(10, 2), torch.zeros(10).long())  # never sure, always right
    assert loss.gammas.tolist() == pytest.approx([-loss.SWITCH])
    loss.update_from_validation(torch.zeros(10, 2), torch.zeros(10).long())
    assert loss.gammas.tolist() == pytest.approx([loss.LOWEST])
