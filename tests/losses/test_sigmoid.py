# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Losses of sigmoid heads: every loss is that of two classes, output by output."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from hf_focal import LOSSES, brier_loss, create_loss, cross_entropy_loss, focal_loss, label_smoothing_loss
from hf_focal import sample_dependent_focal_loss as flsd_loss
from hf_focal.losses.callbacks import _predict


FOR_EACH_LOSS = pytest.mark.parametrize("name", list(LOSSES))


def data(samples=7, outputs=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(samples, outputs, generator=generator, dtype=dtype)
    return logits.requires_grad_(), torch.randint(0, 2, (samples, outputs), generator=generator)


def ready(name, **parameters):
    loss = create_loss(name, **parameters)
    loss.set_progress(fraction=0.5, epoch=1.0)
    return loss


@FOR_EACH_LOSS
def test_every_loss_is_that_of_two_classes(name):
    logits, labels = data()
    pairs = torch.stack([torch.zeros_like(logits), logits], dim=-1).detach().reshape(-1, 2).requires_grad_()
    expected = ready(name, reduction="none")(pairs, labels.reshape(-1))
    (slope,) = torch.autograd.grad(expected.sum(), pairs)
    for given in (labels, labels.float(), labels.bool()):
        losses = ready(name, reduction="none")(logits, given)
        torch.testing.assert_close(losses, expected.reshape(labels.shape))
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        torch.testing.assert_close(gradient, slope[:, 1].reshape(labels.shape))
    mean, total = (ready(name, reduction=reduction)(logits, labels) for reduction in ("mean", "sum"))
    torch.testing.assert_close(mean, expected.mean())
    torch.testing.assert_close(total, expected.sum())


@FOR_EACH_LOSS
def test_gradients_are_those_of_finite_differences(name):
    logits, labels = data(3, 2)
    (gradient,) = torch.autograd.grad(ready(name, reduction="sum")(logits, labels), logits)
    for index in range(logits.numel()):
        step = torch.zeros_like(logits).reshape(-1)
        step[index] = 1e-6
        ends = [
            ready(name, reduction="sum")((logits + sign * step.reshape(logits.shape)).detach(), labels)
            for sign in (1, -1)
        ]
        assert gradient.reshape(-1)[index].item() == pytest.approx(((ends[0] - ends[1]) / 2e-6).item(), abs=1e-6)


def test_against_torch_and_torchvision():
    logits, labels = data(64, 9)
    target = labels.double()
    bce = F.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(cross_entropy_loss(logits, labels), bce)
    for gamma, alpha in ((2.0, 0.25), (3.0, 0.8), (0.5, None), (0.0, None)):
        theirs = sigmoid_focal_loss(logits, target, -1 if alpha is None else alpha, gamma, "none")
        ours = focal_loss(logits, labels, gamma=gamma, alpha=alpha, reduction="none")
        torch.testing.assert_close(ours, theirs)
        slopes = [torch.autograd.grad(losses.sum(), logits, retain_graph=True)[0] for losses in (ours, theirs)]
        torch.testing.assert_close(*slopes)
    p = torch.sigmoid(logits)
    torch.testing.assert_close(brier_loss(logits, labels), 2 * ((p - target) ** 2).mean())
    smooth = F.binary_cross_entropy_with_logits(logits, 0.9 * target + 0.1 * (1 - target))
    torch.testing.assert_close(label_smoothing_loss(logits, labels, smoothing=0.1), smooth)
    of_label = torch.where(labels == 1, p, 1 - p)
    gamma = torch.where(of_label < 0.2, 5.0, 3.0)
    torch.testing.assert_close(flsd_loss(logits, labels), ((1 - of_label) ** gamma * -of_label.log()).mean())


def test_what_is_not_known_is_left_out():
    logits, labels = data()
    marked = labels.clone()
    marked[0, 1] = marked[3, 4] = -100
    unknown = torch.where(marked == -100, math.nan, marked.double())
    kept = marked != -100
    own = cross_entropy_loss(logits, labels, reduction="none")
    for given in (marked, marked.float(), unknown):
        losses = cross_entropy_loss(logits, given, reduction="none")
        assert losses[~kept].tolist() == [0.0, 0.0]
        torch.testing.assert_close(losses[kept], own[kept])
        torch.testing.assert_close(cross_entropy_loss(logits, given), own[kept].mean())
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert (gradient[~kept] == 0).all() and gradient.isfinite().all()


def test_one_logit_takes_labels_of_either_shape():
    logits, labels = data(6, 1)
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], labels[:, 0].double(), reduction="none")
    torch.testing.assert_close(cross_entropy_loss(logits, labels[:, 0], reduction="none"), expected)
    torch.testing.assert_close(cross_entropy_loss(logits, labels.float(), reduction="none")[:, 0], expected)


def test_micro_batches_add_up():
    logits, labels = data(8, 3)
    labels[5, 1] = -100
    loss, count = ready("focal"), (labels != -100).sum()
    parts = sum(loss(logits[part], labels[part], num_items_in_batch=count) for part in (slice(0, 3), slice(3, 8)))
    torch.testing.assert_close(parts, loss(logits, labels))


def test_weights_are_those_of_the_outputs():
    logits, labels = data(4, 3)
    weights = torch.tensor([0.5, 0.0, 2.0])
    losses = cross_entropy_loss(logits, labels, class_weights=weights, reduction="none")
    torch.testing.assert_close(losses, cross_entropy_loss(logits, labels, reduction="none") * weights)
    with pytest.raises(ValueError, match="each of the 3 labels"):
        cross_entropy_loss(logits, labels, class_weights=weights[:2])


def test_extreme_logits_have_exact_losses():
    logits = torch.tensor([[90.0, -90.0], [800.0, -800.0]], dtype=torch.float64, requires_grad=True)
    wrong, right = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[1, 0], [1, 0]])
    assert cross_entropy_loss(logits, wrong, reduction="none").tolist() == [[90.0, 90.0], [800.0, 800.0]]
    assert cross_entropy_loss(logits, right, reduction="none")[0, 0].item() == pytest.approx(math.exp(-90))
    for name in LOSSES:
        (gradient,) = torch.autograd.grad(ready(name, reduction="sum")(logits, wrong), logits)
        assert gradient.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    logits, labels = data(5, 4, torch.float32)
    half = logits.detach().to(dtype).requires_grad_()
    loss = focal_loss(half, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, focal_loss(half.detach().float(), labels))
    loss.backward()
    assert half.grad.dtype == dtype


def test_transformed_and_twice_differentiated():
    logits, labels = data(5, 4)
    slopes = torch.func.grad(lambda z: focal_loss(z, labels))(logits.detach())
    (gradient,) = torch.autograd.grad(focal_loss(logits, labels), logits)
    torch.testing.assert_close(slopes, gradient)
    for loss in (cross_entropy_loss, focal_loss, brier_loss):
        assert torch.autograd.gradgradcheck(lambda z, loss=loss: loss(z, labels), (logits,)), loss


@pytest.mark.slow
@pytest.mark.parametrize("name", ["focal", "brier", "label_smoothing", "dual-focal"])
def test_compiled(name):
    logits, labels = data(5, 4)
    loss = ready(name)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True)(logits, labels), loss(logits, labels))


def test_infinite_logits():
    z = torch.tensor([[-math.inf, 1.0]], requires_grad=True)
    for name in LOSSES:  # ruled out, and rightly so: nothing is lost there
        losses = ready(name, reduction="none")(z, torch.tensor([[0, 1]]))
        (gradient,) = torch.autograd.grad(losses[0, 1], z)
        assert losses.isfinite().all() and gradient.isfinite().all(), name
    assert cross_entropy_loss(z, torch.tensor([[1, 1]]), reduction="none")[0].tolist()[0] == math.inf
    for labels in ([[0]], [[1]]):  # overflow, which a gradient scaler has to see
        assert not cross_entropy_loss(torch.tensor([[math.inf]]), torch.tensor(labels)).isfinite()


def test_single_precision_keeps_small_losses():
    logits, labels = torch.tensor([[12.0, -25.0, 30.0]], requires_grad=True), torch.tensor([[1.0, 0.0, 1.0]])
    losses = cross_entropy_loss(logits, labels, reduction="none")
    torch.testing.assert_close(losses, (-logits.abs()).double().exp().log1p().float(), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    p = torch.special.expit(-logits.abs().double()).float()
    torch.testing.assert_close(gradient, torch.where(labels == 1, -p, p), rtol=1e-6, atol=0)


def test_adafocal_learns_from_outputs_as_from_two_classes():
    logits, labels = data(40, 5)
    labels[0, 0] = -100
    of_head, of_rows = create_loss("adafocal"), create_loss("adafocal")
    of_head.update_from_validation(logits, labels)
    kept = labels != -100
    pairs = torch.stack([torch.zeros_like(logits), logits], dim=-1)[kept]
    of_rows.update_from_validation(pairs, labels[kept])
    assert torch.equal(of_head.gammas, of_rows.gammas) and of_head.gammas.unique().numel() > 1
    torch.testing.assert_close(of_head(logits, labels), of_rows(pairs, labels[kept]))


def test_a_plain_trainer_hands_a_loss_the_labels_of_each_output():
    logits, labels = data(6, 3)

    class Model(torch.nn.Module):
        def forward(self, rows):
            return {"logits": logits[rows]}

    batches = [{"rows": rows, "labels": labels[rows]} for rows in (torch.arange(4), torch.arange(4, 6))]
    seen = _predict(Model(), batches)
    assert torch.equal(seen[0], logits.float()) and torch.equal(seen[1], labels)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(3, 4).long(), r"labels must have shape \(3,\)"),
        (torch.full((3, 2), 0.5), "got 0.5. Soft labels"),
        (torch.full((3, 2), 2), r"must lie in \[0, 1\]"),
        (torch.zeros(3, 2, dtype=torch.complex64), "must be 0 or 1"),
        (torch.zeros(3), r"have the shape of the logits, \(3, 2\), and hold 0 and 1"),
    ],
)
def test_other_labels_are_refused(labels, words):
    with pytest.raises(ValueError, match=words):
        cross_entropy_loss(torch.zeros(3, 2), labels)


def test_alpha_is_for_sigmoid_heads():
    with pytest.raises(ValueError, match="alpha is for sigmoid heads"):
        focal_loss(torch.zeros(3, 4), torch.zeros(3).long(), alpha=0.25)
    for alpha in (-0.1, 1.5, True):
        with pytest.raises(ValueError, match="alpha must be a number"):
            create_loss("focal", alpha=alpha)
