# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The fast forms of the losses against plain ones; dual focal loss, AdaFocal, class weights."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import arguments, build, flat, samples
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_focal import (
    AdaFocalLoss,
    CalibrationLoss,
    CalibrationTrainer,
    CrossEntropyLoss,
    FocalLoss,
    SampleDependentFocalLoss,
    adafocal_loss,
    brier_loss,
    cross_entropy_loss,
    dual_focal_loss,
    focal_loss,
    label_smoothing_loss,
    mmce_loss,
    sample_dependent_focal_loss,
)
from hf_focal.losses import mmce
from hf_focal.losses import rows as row_losses


GAMMAS, EDGES = torch.tensor([4.0, -1.5, 0.3, 2.0]), torch.tensor([0.1, 0.3, 0.7])
FUNCTIONS = {
    "cross_entropy": cross_entropy_loss,
    "brier": brier_loss,
    "focal": focal_loss,
    "focal-0.5": partial(focal_loss, gamma=0.5),
    "flsd-53": sample_dependent_focal_loss,
    "adafocal": partial(adafocal_loss, gammas=GAMMAS, edges=EDGES),
    "mmce": mmce_loss,
    "label_smoothing": label_smoothing_loss,
    "dual-focal": dual_focal_loss,
    "dual-focal-0.5": partial(dual_focal_loss, gamma=0.5),
    "weighted-focal": partial(focal_loss, class_weights=[0.5, 1.0, 2.0, 0.0, 3.0, 1.5, 1.0]),
}
FOR_EACH_FUNCTION = pytest.mark.parametrize("name", FUNCTIONS)
REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


@pytest.fixture(params=[0, 2**60], ids=["recomputed", "kept"])
def blockwise(monkeypatch, request):
    """The closed form in blocks of three rows, whatever the size of the logits, with the softmax kept or not."""
    monkeypatch.setattr(row_losses, "KEPT_UP_TO", request.param)
    monkeypatch.setattr(row_losses, "_block_rows", lambda logits: 3)


def inputs(n=11, k=7, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, k, (n,), generator=generator)
    logits[0, labels[0]] = 60.0  # saturated: p rounds to 1
    logits[1, labels[1]] = -80.0
    return logits.to(dtype).requires_grad_(), labels


def outcome(function, logits, labels, scale=None):
    loss = function(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits, scale if loss.ndim else None)
    return loss.detach(), gradient


# ---- In blocks ------------------------------------------------------------------------------------------------------


@REDUCTIONS
@pytest.mark.parametrize("ignore_index", [-100, 2])
@FOR_EACH_FUNCTION
def test_blocks_give_the_value_and_gradient_of_the_plain_form(name, ignore_index, reduction, blockwise, monkeypatch):
    function = partial(FUNCTIONS[name], reduction=reduction, ignore_index=ignore_index)
    logits, labels = inputs()
    labels[[3, 4, 5]] = ignore_index
    scale = torch.randn(len(labels), dtype=torch.float64)  # slopes that come in differ from sample to sample
    actual = outcome(function, logits, labels, scale)
    monkeypatch.setattr(row_losses, "is_traced", lambda: True)
    expected = outcome(function, logits, labels, scale)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_blocks_agree_with_definitions_in_numpy(blockwise):
    tensor, labels = inputs()
    z, y = tensor.detach().numpy(), labels.numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    hot = np.eye(p.shape[1])[y]
    nll = -(z[np.arange(len(y)), y] - z.max(1) - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)))
    rest = (p * (1 - hot)).sum(1)
    p_y = p[np.arange(len(y)), y]
    ratio = rest**3 + 3 * p_y * rest**2 * nll
    errors = p - hot
    smooth, count = 0.05, p.shape[1] - 1
    target = (1 - smooth) * hot + smooth / count * (1 - hot)
    log_p = z - z.max(1, keepdims=True) - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True))
    cases = {
        "cross_entropy": (nll, p - hot),
        "focal": (rest**3 * nll, ratio[:, None] * (p - hot)),
        "label_smoothing": (-(target * log_p).sum(1), p - target),
        "brier": ((errors**2).sum(1), 2 * p * (errors - (p * errors).sum(1, keepdims=True))),
    }
    for name, (values, slopes) in cases.items():
        losses, gradient = outcome(partial(FUNCTIONS[name], reduction="none"), tensor, labels, torch.ones(len(y)))
        np.testing.assert_allclose(losses.numpy(), values, rtol=0, atol=1e-12)
        np.testing.assert_allclose(gradient.numpy(), slopes, rtol=0, atol=1e-12)


@REDUCTIONS
@FOR_EACH_FUNCTION
def test_gradcheck_holds_once_and_twice_in_blocks(name, reduction, blockwise):
    logits, labels = inputs(5, 7)
    logits = logits.detach().clamp(-4, 4).requires_grad_()
    labels[3] = -100
    function = partial(FUNCTIONS[name], labels=labels, reduction=reduction)
    assert torch.autograd.gradcheck(function, (logits,))
    assert torch.autograd.gradgradcheck(function, (logits,))


@FOR_EACH_FUNCTION
def test_a_second_backward_pass_gives_the_same_gradient(name, blockwise):
    logits, labels = inputs()
    loss = FUNCTIONS[name](logits, labels)
    loss.backward(retain_graph=True)
    first = logits.grad.clone()
    loss.backward()
    assert torch.equal(logits.grad, 2 * first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@FOR_EACH_FUNCTION
def test_half_precision_in_blocks_is_computed_in_single(name, dtype, blockwise):
    logits, labels = inputs(dtype=dtype)
    loss, gradient = outcome(FUNCTIONS[name], logits, labels)
    single, slopes = outcome(FUNCTIONS[name], logits.detach().float().requires_grad_(), labels)
    assert loss.dtype == torch.float32 and torch.equal(loss, single)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, slopes.to(dtype))


@FOR_EACH_FUNCTION
def test_strided_and_token_logits_in_blocks(name, blockwise):
    function = partial(FUNCTIONS[name], reduction="none")
    logits, labels = inputs(12)
    losses, gradient = outcome(function, logits, labels, torch.ones(12))
    strided = logits.detach().T.contiguous().T.requires_grad_()
    assert not strided.is_contiguous()
    tokens = logits.detach().reshape(3, 4, 7).requires_grad_()
    for other, others_labels in ((strided, labels), (tokens, labels.reshape(3, 4))):
        value, slopes = outcome(function, other, others_labels, torch.ones(others_labels.shape))
        torch.testing.assert_close(value.flatten(), losses, rtol=1e-14, atol=0)
        torch.testing.assert_close(slopes.reshape(12, 7), gradient, rtol=1e-13, atol=1e-15)


@FOR_EACH_FUNCTION
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_blocks_give_a_loss_that_is_not_finite_for_logits_that_are_not(name, value, blockwise):
    logits, labels = inputs()
    labels[5] = 1
    logits = logits.detach()
    logits[5, 3] = value
    assert not torch.isfinite(FUNCTIONS[name](logits, labels))


@FOR_EACH_FUNCTION
def test_all_labels_ignored_in_blocks_is_nan_for_the_mean_and_zero_for_the_sum(name, blockwise):
    logits, labels = inputs()
    labels[:] = -100
    assert math.isnan(FUNCTIONS[name](logits, labels).item())
    total, gradient = outcome(partial(FUNCTIONS[name], reduction="sum"), logits, labels)
    assert total == 0 and not gradient.any()


def test_micro_batches_in_blocks_add_up(blockwise):
    logits, labels = inputs()
    labels[4] = -100
    for loss in (FocalLoss(class_weights=range(7)), SampleDependentFocalLoss(), CrossEntropyLoss()):
        whole, gradient = outcome(loss, logits, labels)
        count = (labels != -100).sum()
        parts = zip(logits.split(4), labels.split(4), strict=True)
        total = sum(loss(*part, num_items_in_batch=count) for part in parts)
        torch.testing.assert_close(total.detach(), whole, rtol=1e-13, atol=0)
        torch.testing.assert_close(torch.autograd.grad(total, logits)[0], gradient, rtol=1e-12, atol=1e-14)


class _LargeTensors(TorchDispatchMode):
    """Counts the tensors of at least `size` elements that operations make, views and in-place results apart."""

    def __init__(self, size):
        super().__init__()
        self.size, self.kept = size, {}

    @property
    def storages(self):
        return set(self.kept)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.numel() >= self.size:
                storage = tensor.untyped_storage()  # kept alive, so that no address is used, and counted, again
                self.kept[storage.data_ptr()] = storage
        return out


@pytest.mark.parametrize("kept_up_to", [0, 2**60], ids=["recomputed", "kept"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["cross_entropy", "label_smoothing", "focal", "flsd-53", "brier", "dual-focal", "adafocal"]
)
def test_large_logits_take_one_buffer_of_their_size_and_evaluation_none(name, dtype, kept_up_to, monkeypatch):
    monkeypatch.setattr(row_losses, "KEPT_UP_TO", kept_up_to)
    monkeypatch.setattr(row_losses, "_block_rows", lambda logits: 100)
    logits = torch.randn(512, 4000).to(dtype).requires_grad_()
    labels = torch.randint(0, 4000, (512,))
    before = logits.untyped_storage().data_ptr()
    with _LargeTensors(logits.numel()) as seen:
        with torch.no_grad():
            FUNCTIONS[name](logits, labels)
        assert seen.storages <= {before}
        FUNCTIONS[name](logits, labels).backward()
        # Where its softmax is kept, the Brier score takes a second one.
        assert len(seen.storages - {before}) == (2 if (name, dtype) == ("brier", torch.float32) and kept_up_to else 1)
    logits.grad = None
    with _LargeTensors(logits.numel()) as stock:
        F.cross_entropy(logits, labels).backward()
    assert len(stock.storages - {before}) == 3  # so the count does count


# ---- Transforms and compilation -------------------------------------------------------------------------------------


@FOR_EACH_FUNCTION
def test_transforms_of_large_logits_take_the_plain_form(name, blockwise):
    function = FUNCTIONS[name]
    logits, labels = inputs(12)
    _, expected = outcome(function, logits, labels)
    gradient = torch.func.grad(lambda z: function(z, labels))(logits.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-13)
    batches = logits.detach().reshape(3, 4, 7), labels.reshape(3, 4)
    losses = torch.func.vmap(function)(*batches)
    torch.testing.assert_close(losses, torch.stack([function(*pair) for pair in zip(*batches, strict=True)]))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_losses_compile_without_graph_breaks(name, backend):
    torch.compiler.reset()
    logits, labels = inputs(dtype=torch.float32)
    labels[5] = -100
    expected = outcome(FUNCTIONS[name], logits, labels)
    actual = outcome(torch.compile(FUNCTIONS[name], backend=backend, fullgraph=True), logits, labels)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


# ---- MMCE by sorting ------------------------------------------------------------------------------------------------


def kernel_forms_by_pairs(confidences, weights):
    kernel = torch.exp(-(confidences.unsqueeze(0) - confidences.unsqueeze(1)).abs() / 0.4)
    return weights @ kernel @ weights.T


CONFIDENCES = {
    "random": torch.rand(300, dtype=torch.float64),
    "tied": torch.randint(0, 7, (300,)).double() / 6,
    "all equal": torch.full((50,), 0.7, dtype=torch.float64),
    "both ends": torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64),
    "close": 0.5 + 1e-15 * torch.arange(40, dtype=torch.float64),
    "one": torch.tensor([0.3], dtype=torch.float64),
}


@pytest.mark.parametrize("case", CONFIDENCES)
def test_the_kernel_by_sorting_is_that_of_all_pairs_with_its_gradients(case):
    confidences = CONFIDENCES[case].clone().requires_grad_()
    weights = torch.randn(2, len(confidences), dtype=torch.float64) / len(confidences)
    weights.requires_grad_()
    chosen = torch.tensor([[1.0, -0.5], [-1.5, 2.0]], dtype=torch.float64)
    expected, actual = kernel_forms_by_pairs(confidences, weights), mmce._kernel_forms(confidences, weights)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad((actual * chosen).sum(), (confidences, weights)),
        torch.autograd.grad((expected * chosen).sum(), (confidences, weights)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def mmce_by_pairs(logits, labels, weighted, released):
    """The square of the term (of the released unweighted form the term itself)."""
    confidences, predictions = logits.softmax(1).max(1)
    correct = (predictions == labels).double()
    if not weighted:
        residuals = (correct - confidences).unsqueeze(0)
        return kernel_forms_by_pairs(confidences, residuals)[0, 0] / len(labels) ** 2
    m, n = correct.sum(), (1 - correct).sum()
    forms = kernel_forms_by_pairs(
        confidences, torch.stack([correct * (1 - confidences) / m, (1 - correct) * confidences / n])
    )
    if not released:
        return forms[0, 0] + forms[1, 1] - 2 * forms[0, 1]
    parts = forms[0, 0] / (m * m + 1e-5) + forms[1, 1] / (n * n + 1e-5)
    return parts - 2 * forms[0, 1] / (m * n + 1e-5) + 1e-10


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_square_of_mmce_is_that_of_all_pairs_with_its_gradient(weighted, released, ties):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (200,), generator=generator)
    labels[:80] = logits[:80].argmax(1)
    if ties:
        logits[20:70], logits[100:150] = logits[20:21], logits[20:21]
    logits.requires_grad_()
    kept = torch.ones(200, dtype=torch.bool)
    term = mmce._mmce(logits, labels, kept, weighted, released)
    squared = term if released and not weighted else term**2
    expected = mmce_by_pairs(logits, labels, weighted, released)
    torch.testing.assert_close(squared, expected, rtol=0, atol=1e-12)
    (ours,), (theirs,) = (torch.autograd.grad(value, logits) for value in (squared, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_mmce_of_a_hundred_thousand_samples_keeps_no_pairs():
    logits, labels = torch.randn(100_000, 3, requires_grad=True), torch.randint(0, 3, (100_000,))
    with _LargeTensors(20 * 100_000) as seen:
        loss, gradient = outcome(mmce_loss, logits, labels)
    assert not seen.storages
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_an_ignored_row_of_nan_leaves_mmce_finite():
    logits, labels = inputs()
    logits = logits.detach()
    logits[4], labels[4] = math.nan, -100
    assert torch.isfinite(mmce_loss(logits, labels))


# ---- Dual focal loss ------------------------------------------------------------------------------------------------


def dual_by_hand(logits, labels, gamma):
    losses = []
    for row, label in zip(logits, labels, strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        below = [value for value, score in zip(p, row, strict=True) if score < row[label]]
        losses.append(-((1 - p[label] + max(below, default=0.0)) ** gamma) * np.log(p[label]))
    return np.array(losses)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
def test_dual_focal_is_its_definition_and_gradcheck_holds(gamma):
    generator = np.random.default_rng(1)
    logits, labels = 2 * generator.normal(size=(20, 5)), generator.integers(0, 5, 20)
    labels[0], labels[1] = logits[0].argmin(), logits[1].argmax()  # nothing below p_y; all below
    logits[2] = 0.0  # equal probabilities are not below
    tensor = torch.tensor(logits, requires_grad=True)
    function = partial(dual_focal_loss, labels=torch.tensor(labels), gamma=gamma)
    losses = function(tensor, reduction="none")
    np.testing.assert_allclose(losses.detach().numpy(), dual_by_hand(logits, labels, gamma), rtol=1e-12)
    smooth = tensor.detach()[[0, 1, 3, 4, 5]].requires_grad_()
    smooth_labels = torch.tensor(labels)[[0, 1, 3, 4, 5]]
    function = partial(dual_focal_loss, labels=smooth_labels, gamma=gamma)
    assert torch.autograd.gradcheck(function, (smooth,))
    assert torch.autograd.gradgradcheck(function, (smooth,))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 5.0])
def test_dual_focal_is_finite_where_p_rounds_to_one_or_zero(gamma):
    logits = torch.tensor([[1000.0, 0.0, 0.0], [0.0, 1000.0, 0.0]], requires_grad=True)
    for label, value in ((0, 0.0), (2, 1000.0)):
        loss, gradient = outcome(partial(dual_focal_loss, gamma=gamma), logits, torch.tensor([label, 1]))
        assert loss == value / 2 and torch.isfinite(gradient).all()


def test_dual_focal_ignores_labels_and_serves_tokens_and_half_precision():
    logits, labels = inputs(12)
    labels[5] = -100
    kept = labels != -100
    expected = dual_focal_loss(logits[kept], labels[kept])
    torch.testing.assert_close(dual_focal_loss(logits, labels), expected)
    torch.testing.assert_close(dual_focal_loss(logits.reshape(3, 4, 7), labels.reshape(3, 4)), expected)
    assert dual_focal_loss(logits.bfloat16(), labels).dtype == torch.float32


# ---- AdaFocal -------------------------------------------------------------------------------------------------------


def test_adafocal_takes_the_gamma_of_the_bin_of_p_and_inverts_where_it_is_negative():
    p = torch.tensor([0.05, 0.11, 0.29, 0.5, 0.71, 0.95], dtype=torch.float64)
    labels = torch.zeros(6, dtype=torch.long)
    losses = adafocal_loss(two_class_logits(p), labels, gammas=GAMMAS, edges=EDGES, reduction="none")
    gammas = [4.0, -1.5, -1.5, GAMMAS[2].item(), 2.0, 2.0]
    expected = [
        ((1 - q) ** g if g > 0 else (1 + q) ** -g) * -math.log(q) for q, g in zip(p.tolist(), gammas, strict=True)
    ]
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_adafocal_before_any_update_is_focal_loss():
    logits, labels = inputs()
    torch.testing.assert_close(AdaFocalLoss(start=3.0)(logits, labels), focal_loss(logits, labels), rtol=1e-13, atol=0)


def two_class_logits(confidences):
    p = torch.as_tensor(confidences, dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log()], 1)


def test_an_update_moves_each_gamma_by_the_gap_of_its_bin_of_equal_mass():
    confidences = [0.55, 0.6, 0.65, 0.8, 0.85, 0.9]
    labels = torch.tensor([1, 1, 0, 0, 0, 0])  # the first bin is over-confident, the second under-confident
    loss = AdaFocalLoss(n_bins=2, lam=2.0)
    loss.update_from_validation(two_class_logits(confidences), labels)
    gaps = [0.6 - 1 / 3, 0.85 - 1.0]
    np.testing.assert_allclose(loss.gammas.numpy(), np.exp([2 * gap for gap in gaps]), rtol=1e-6)
    np.testing.assert_allclose(loss.edges.numpy(), [0.8], rtol=1e-6)
    loss.gammas.copy_(torch.tensor([-1.0, 0.21]))
    loss.update_from_validation(two_class_logits(confidences).numpy(), labels.numpy())
    np.testing.assert_allclose(loss.gammas.numpy(), [-math.exp(-2 * gaps[0]), -0.2], rtol=1e-6)
    loss.gammas.copy_(torch.tensor([-0.21, -1.9]))  # near the switch from below, and near the lowest
    loss.update_from_validation(two_class_logits(confidences), labels)
    np.testing.assert_allclose(loss.gammas.numpy(), [0.2, -2.0], rtol=1e-6)
    loss.gammas.copy_(torch.tensor([19.0, 1.0]))
    loss.update_from_validation(two_class_logits(confidences), labels)
    assert loss.gammas[0] == 20.0


def test_an_update_does_not_depend_on_the_order_and_empty_bins_keep_their_gamma():
    confidences = torch.tensor([0.6] * 30 + [0.9] * 30)
    labels = (torch.arange(60) % 4 == 0).long()
    first, second = AdaFocalLoss(), AdaFocalLoss()
    order = torch.randperm(60)
    first.update_from_validation(two_class_logits(confidences), labels)
    second.update_from_validation(two_class_logits(confidences[order]), labels[order])
    torch.testing.assert_close(first.gammas, second.gammas)
    assert (first.gammas != 1).sum() == 2


def test_an_update_leaves_ignored_labels_out_and_refuses_what_it_cannot_use():
    logits, labels = inputs(40)
    logits = logits.detach()
    plain, padded = AdaFocalLoss(), AdaFocalLoss()
    plain.update_from_validation(logits, labels)
    padding = torch.full((8, 7), math.nan, dtype=torch.float64)
    padded.update_from_validation(
        torch.cat([logits, padding]).reshape(4, 12, 7), torch.cat([labels, torch.full((8,), -100)]).reshape(4, 12)
    )
    assert torch.equal(plain.gammas, padded.gammas) and torch.equal(plain.edges, padded.edges)
    with pytest.raises(ValueError, match="none that counts"):
        plain.update_from_validation(logits, torch.full((40,), -100))
    with pytest.raises(ValueError, match="must be finite"):
        plain.update_from_validation(logits * math.nan, labels)
    with pytest.raises(ValueError, match="labels must have shape"):
        plain.update_from_validation(logits, labels[:3])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"n_bins": 0}, "n_bins"), ({"lam": -1}, "lam"), ({"start": 0.1}, "start"), ({"start": 21.0}, "start")],
)
def test_bad_parameters_of_adafocal_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        AdaFocalLoss(**parameters)


def test_the_state_of_adafocal_is_in_its_state_dict():
    logits, labels = inputs(40)
    loss, other = AdaFocalLoss(), AdaFocalLoss()
    loss.update_from_validation(logits, labels)
    other.load_state_dict(loss.state_dict())
    assert set(loss.state_dict()) == {"gammas", "edges"}
    assert torch.equal(loss(logits, labels), other(logits, labels))
    assert not torch.equal(loss(logits, labels), AdaFocalLoss()(logits, labels))


def adafocal_run(folder, plain, kind, resume=None):
    model = build(kind)
    options = {
        "num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 3,
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    data = {"train_dataset": samples(kind, 16), "eval_dataset": samples(kind, 32, seed=1)}
    if plain:
        loss = AdaFocalLoss(lam=5.0)
        args = arguments(folder, TrainingArguments, **options)
        trainer = Trainer(model=model, args=args, compute_loss_func=loss, callbacks=[loss.callback()], **data)
    else:
        args = arguments(folder, loss="adafocal", loss_kwargs={"lam": 5.0}, **options)
        trainer = CalibrationTrainer(model=model, args=args, **data)
        loss = trainer.loss
    seen = {}

    class Recorder(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen[state.global_step] = loss.gammas.tolist()

    trainer.add_callback(Recorder())
    trainer.train(resume_from_checkpoint=resume)
    return seen, flat(model), loss, trainer


# (A plain Trainer does not load back the weights of a ViT, see CalibrationTrainer.)
@pytest.mark.parametrize(
    ("plain", "kind"), [(False, "vit"), (True, "bert")], ids=["CalibrationTrainer", "Trainer with the callback"]
)
def test_a_resumed_run_with_adafocal_equals_an_undisturbed_one(tmp_path, plain, kind):
    seen, weights, loss, trainer = adafocal_run(tmp_path, plain, kind)
    assert seen[1] == seen[2] == [1.0] * 15  # epochs of two steps
    assert seen[3] == seen[4] != seen[2] and seen[5] != seen[4]
    resumed, resumed_weights, resumed_loss, _ = adafocal_run(tmp_path, plain, kind, str(tmp_path / "checkpoint-3"))
    assert resumed == {step: gammas for step, gammas in seen.items() if step > 3}
    assert torch.equal(resumed_weights, weights)
    assert "AdaFocalCallback" in trainer.state.stateful_callbacks  # the name in older checkpoints
    assert torch.equal(resumed_loss.gammas, loss.gammas) and torch.equal(resumed_loss.edges, loss.edges)
    after = loss.gammas.clone()
    trainer.evaluate()  # after training the loss stays as it is
    assert torch.equal(loss.gammas, after)


class Counting(CalibrationLoss):
    """Cross-entropy that counts what it is told, as a plugin's loss may."""

    learns_from_validation = True

    def __init__(self, **options):
        super().__init__(**options)
        self.register_buffer("updates", torch.zeros(2))

    def of_rows(self, rows):
        return rows.nll()

    def update_from_validation(self, logits, labels):
        self.updates += torch.tensor([1.0, len(labels)])


@pytest.mark.parametrize("plain", [False, True])
def test_any_loss_may_learn_from_validation_data(tmp_path, plain):
    loss = Counting()
    options = {"num_train_epochs": 2, "eval_strategy": "epoch"}
    data = {"train_dataset": samples("vit", 8), "eval_dataset": samples("vit", 12, seed=1)}
    if plain:
        args = arguments(tmp_path, TrainingArguments, **options)
        trainer = Trainer(model=build(), args=args, compute_loss_func=loss, callbacks=[loss.callback()], **data)
    else:
        args = arguments(tmp_path, **options)
        trainer = CalibrationTrainer(model=build(), args=args, compute_loss_func=loss, **data)
    trainer.train()
    assert loss.updates.tolist() == [2.0, 24.0]
    assert "ValidationCallback" in trainer.state.stateful_callbacks


def test_adafocal_by_callback_equals_the_trainer_of_ours(tmp_path):
    ours, theirs = adafocal_run(tmp_path / "a", False, "vit"), adafocal_run(tmp_path / "b", True, "vit")
    assert ours[0] == theirs[0] and torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({}, {"eval_strategy": "no"}, "eval_dataset"),
        ({"eval_dataset": "samples"}, {"eval_strategy": "no"}, "eval_strategy"),
        ({"eval_dataset": "dict"}, {"eval_strategy": "epoch"}, "no dict"),
        ({"eval_dataset": "samples"}, {"eval_strategy": "epoch", "prediction_loss_only": True}, "logits"),
    ],
)
def test_adafocal_without_validation_data_is_refused_at_construction(tmp_path, data, options, message):
    sets = {"samples": samples("vit", 8), "dict": {"a": samples("vit", 8)}}
    data = {key: sets[value] for key, value in data.items()}
    with pytest.raises(ValueError, match=message):
        CalibrationTrainer(model=build(), args=arguments(tmp_path, loss="adafocal", **options), **data)


# ---- Class weights --------------------------------------------------------------------------------------------------

WEIGHTS = [0.5, 1.0, 2.0, 0.0, 3.0, 1.5, 1.0]


def test_class_weights_of_cross_entropy_are_those_of_torch_up_to_the_divisor():
    logits, labels = inputs()
    labels[4] = -100
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    for reduction in ("sum", "none"):
        expected = F.cross_entropy(logits, labels, weight=weight, reduction=reduction)
        actual = cross_entropy_loss(logits, labels, class_weights=WEIGHTS, reduction=reduction)
        torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)
    mean = cross_entropy_loss(logits, labels, class_weights=WEIGHTS)
    torch.testing.assert_close(mean, F.cross_entropy(logits, labels, weight=weight, reduction="sum") / 10)


@pytest.mark.parametrize("cls", [CrossEntropyLoss, FocalLoss, SampleDependentFocalLoss])
def test_class_weights_multiply_the_loss_and_never_enter_the_probability(cls):
    logits, labels = inputs()
    labels[4] = -100
    factors = torch.tensor([0.0 if label < 0 else WEIGHTS[label] for label in labels.tolist()], dtype=torch.float64)
    plain, weighted = cls(reduction="none"), cls(reduction="none", class_weights=WEIGHTS)
    expected = plain(logits, labels) * factors
    torch.testing.assert_close(weighted(logits, labels), expected, rtol=1e-13, atol=0)
    assert "class_weights" in repr(weighted) and "class_weights" not in repr(plain)
    assert not weighted.state_dict()


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, math.nan], [[1.0, 1.0]], [math.inf, 1.0]])
def test_bad_class_weights_are_refused(weights):
    with pytest.raises(ValueError, match="class_weights"):
        FocalLoss(class_weights=weights)
    with pytest.raises(ValueError, match="class_weights"):
        focal_loss(torch.zeros(2, 2), torch.tensor([0, 1]), class_weights=weights)


def test_class_weights_of_another_length_are_refused():
    with pytest.raises(ValueError, match="each of the 3 classes"):
        FocalLoss(class_weights=[1.0, 2.0])(torch.zeros(2, 3), torch.tensor([0, 1]))


def test_class_weights_are_a_parameter_of_the_trainer(tmp_path):
    args = arguments(tmp_path, loss="focal", loss_kwargs={"class_weights": [1.0, 2.0, 1.0, 0.0, 1.0]})
    trainer = CalibrationTrainer(model=build(), args=args, train_dataset=samples("vit", 8))
    trainer.train()
    assert trainer.loss.class_weights.tolist() == [1.0, 2.0, 1.0, 0.0, 1.0]
