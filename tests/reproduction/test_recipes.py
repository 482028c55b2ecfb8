# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Steps of training by each recipe against the published code's arithmetic, written anew in plain PyTorch: what is summed
and what averaged, the norm that gradients are clipped to, the optimizer, and when the learning rate drops.
"""

import pytest
import torch
from conftest import ROOT
from torch.nn.functional import cross_entropy, log_softmax, one_hot

from hf_focal import CalibrationTrainer, create_image_classifier
from hf_focal.cli import run_image, run_text
from hf_focal.cli.arguments import TrainArguments, parse_arguments
from hf_focal.models.create import create_text_classifier
from hf_focal.reproduction.grid import read_grid, words


CLASSES, BATCH, STEPS = 10, 24, 3


def true_log_p(logits, labels):
    return log_softmax(logits, dim=1)[torch.arange(len(labels)), labels]


def focal(gamma_of):
    """Focal loss of each sample, whose gamma is a constant of its probability."""

    def loss(logits, labels):
        log_p = true_log_p(logits, labels)
        return -((1 - log_p.exp()) ** gamma_of(log_p.exp().detach()) * log_p)

    return loss


def smoothed(logits, labels):
    """Over the other classes alone: 0.05 for each of them in equal parts."""
    target = one_hot(labels, CLASSES).float()
    target = 0.95 * target + 0.05 * (1 - target) / (CLASSES - 1)
    return -(target * log_softmax(logits, dim=1)).sum(dim=1)


def brier(logits, labels):
    return ((logits.softmax(dim=1) - one_hot(labels, CLASSES)) ** 2).sum(dim=1)


def mmce(logits, labels):
    """The weighted form as it was released: means of the three parts, divided by their numbers of pairs once more."""
    confidence, answer = logits.softmax(dim=1).max(dim=1)
    right, wrong = confidence[answer == labels], confidence[answer != labels]

    def part(first, second, scale_first, scale_second):
        kernel = torch.exp(-(first[:, None] - second[None]).abs() / 0.4)
        return (scale_first[:, None] * scale_second[None] * kernel).mean()

    count_right, count_wrong = len(right), len(wrong)
    both = part(right, right, 1 - right, 1 - right) / (count_right**2 + 1e-5)
    both = both + part(wrong, wrong, wrong, wrong) / (count_wrong**2 + 1e-5)
    both = both - 2 * part(right, wrong, 1 - right, wrong) / (count_right * count_wrong + 1e-5)
    return torch.sqrt(both + 1e-10)


def stepped(p):
    return torch.where(p < 0.2, 5.0, 3.0)


def three_steps(p):
    return torch.where(p < 0.2, 5.0, torch.where(p < 0.5, 3.0, 2.0))


def constant(gamma):
    return lambda p: torch.full_like(p, gamma)


# What is minimised for a batch of the image recipes: sums but for the Brier score; MMCE times the size of the batch.
IMAGES = {
    "cross_entropy": lambda z, y: cross_entropy(z, y, reduction="sum"),
    "flsd-53": lambda z, y: focal(stepped)(z, y).sum(),
    "flsd-532": lambda z, y: focal(three_steps)(z, y).sum(),
    "focal-1": lambda z, y: focal(constant(1.0))(z, y).sum(),
    "focal-2": lambda z, y: focal(constant(2.0))(z, y).sum(),
    "focal-3": lambda z, y: focal(constant(3.0))(z, y).sum(),
    "flsc-531": lambda z, y: focal(constant(5.0))(z, y).sum(),  # in the first epochs
    "flsc-532": lambda z, y: focal(constant(5.0))(z, y).sum(),
    "label_smoothing": lambda z, y: smoothed(z, y).sum(),
    "brier": lambda z, y: brier(z, y).mean(),
    "mmce": lambda z, y: len(y) * (cross_entropy(z, y) + 2 * mmce(z, y)),
}


def told(name):
    return lambda text: f"{name}: {text}"


def cell_of(table, loss):
    (cell,) = [
        cell
        for one in read_grid(ROOT / "configs" / "grid" / "gpu.yaml", "data")
        for cell in one.cells
        if (cell.table, cell.loss) == (table, loss) and cell.model.endswith(("resnet50", "cnn"))
    ]
    return cell


def arguments(script, cell, folder, **changed):
    """Of a cell of the preset for a GPU, on a CPU."""
    flags = {**cell.flags, **cell.places, "output_dir": str(folder), "use_cpu": True, "disable_tqdm": True}
    flags |= {"bf16": False, "torch_compile": False, "channels_last": False, "dataloader_num_workers": 0, **changed}
    if cell.script == "run_text":
        flags.pop("channels_last")
    types = [script.ModelArguments, script.DataArguments, TrainArguments]
    return parse_arguments(types, words(flags))[-1]


FAST = ("cross_entropy", "flsd-53", "label_smoothing", "brier", "mmce")


@pytest.mark.parametrize(
    "loss", [*FAST, *(pytest.param(one, marks=pytest.mark.slow) for one in IMAGES if one not in FAST)]
)
def test_three_steps_on_images_are_those_of_the_published_code(loss, tmp_path, monkeypatch):
    """
    SGD with momentum 0.9 and a decay of 5e-4 on all weights, at 0.1, after the gradient is clipped to norm 2. The
    third step is made at a tenth of the rate, as the schedule has it once its milestone is reached.
    """
    monkeypatch.chdir(ROOT)
    changed = {"per_device_train_batch_size": BATCH, "num_train_epochs": STEPS, "lr_milestones": [2]}
    changed |= {"save_strategy": "no", "loss_kwargs": {"milestones": [3 - 1, 3]}} if loss.startswith("flsc") else {}
    args = arguments(run_image, cell_of("cifar10", loss), tmp_path, **changed, track_dynamics=False)
    args.save_strategy = args.eval_strategy = "no"
    torch.manual_seed(0)
    model, _ = create_image_classifier("cifar_resnet8", [*"abcdefghij"], from_scratch=True)
    pixels, labels = torch.randn(BATCH, 3, 8, 8), torch.arange(BATCH) % CLASSES
    with torch.no_grad():  # so that some answers are right, and probabilities lie on both sides of the thresholds
        model.timm_model.fc.weight.mul_(1 if loss == "brier" else 8)
    start = {name: value.clone() for name, value in model.state_dict().items()}

    model.train()
    velocity = [torch.zeros_like(parameter) for parameter in model.parameters()]
    norms, spans = [], []
    for step in range(STEPS):
        logits = model(pixel_values=pixels).logits
        p = true_log_p(logits, labels).exp()
        spans.append((p.min().item(), p.max().item()))
        gradients = torch.autograd.grad(IMAGES[loss](logits, labels), list(model.parameters()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        norms.append(norm.item())
        with torch.no_grad():
            for parameter, gradient, speed in zip(model.parameters(), gradients, velocity, strict=True):
                gradient = gradient * min(1.0, 2 / (norm.item() + 1e-6)) + 5e-4 * parameter
                speed.mul_(0.9).add_(gradient)
                parameter -= (0.1 if step < 2 else 0.01) * speed
    expected = {name: value.detach().clone() for name, value in model.named_parameters()}
    if loss == "brier":
        assert max(norms) < 2  # the mean is not clipped
    else:
        assert min(norms) > 2  # sums are, in each step
        assert spans[0][0] < 0.2 < 0.5 < spans[0][1]

    model.load_state_dict(start)
    data = [{"pixel_values": image, "labels": int(label)} for image, label in zip(pixels, labels, strict=True)]
    CalibrationTrainer(model=model, args=args, train_dataset=data).train()
    found = dict(model.named_parameters())
    # Sums have another order of their terms in each pass, which some weights feel more than others.
    off, moved = (
        torch.cat([(one[name] - expected[name]).flatten() for name in expected]).norm() for one in (found, start)
    )
    assert off < 0.01 * moved


def test_the_released_schedule_drops_one_epoch_early(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    rates = {}
    for released in (False, True):
        tables = read_grid("configs/grid/gpu.yaml", "data", released)
        cell = tables[0].cells[0]
        args = arguments(run_image, cell, tmp_path, eval_strategy="no")
        model, _ = create_image_classifier("cifar_resnet8", ["a", "b"], from_scratch=True)
        trainer = CalibrationTrainer(model=model, args=args)
        trainer.create_optimizer_and_scheduler(350)
        rates[released] = []
        for _ in range(350):
            rates[released].append(trainer.optimizer.param_groups[0]["lr"])
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
    # `scheduler.step()` at the start of each epoch, of a MultiStepLR with the paper's milestones.
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[150, 250])
    published = []
    for _ in range(350):
        optimizer.step()
        schedule.step()
        published.append(optimizer.param_groups[0]["lr"])
    assert rates[True] == pytest.approx(published)
    assert rates[False] == pytest.approx([0.1] * 150 + [0.01] * 100 + [0.001] * 100)


# Of the texts: means of a batch, but for label smoothing's sum; no clipping.
TEXTS = {
    "cross_entropy": lambda z, y: cross_entropy(z, y),
    "flsd-53": lambda z, y: focal(stepped)(z, y).mean(),
    "brier": lambda z, y: brier(z, y).mean(),
    "mmce": lambda z, y: cross_entropy(z, y) + 2 * mmce(z, y),
}


@pytest.mark.parametrize("loss", TEXTS)
def test_steps_on_newsgroups_are_those_of_the_published_code(loss, tmp_path, monkeypatch):
    """Adam at 0.001, on means."""
    monkeypatch.chdir(ROOT)
    changed = {"per_device_train_batch_size": BATCH, "num_train_epochs": 2}
    args = arguments(run_text, cell_of("newsgroups", loss), tmp_path, **changed)
    args.save_strategy = args.eval_strategy = "no"
    args.load_best_model_at_end = False
    generator = torch.Generator().manual_seed(0)
    texts = [
        " ".join(f"w{int(word)}" for word in torch.randint(0, 40, (30,), generator=generator)) for _ in range(BATCH)
    ]
    settings = {"embedding_size": 8, "hidden_size": 12, "dropout": 0.0}
    torch.manual_seed(0)
    model, tokenizer = create_text_classifier(
        "global-pooling-cnn", [*"abcdefghij"], texts=texts, max_seq_length=30, model_kwargs=settings
    )
    with torch.no_grad():
        model.classifier.weight.mul_(8)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():  # some right, some wrong
        answers = model(**inputs).logits.argmax(dim=1)
    labels = torch.where(torch.arange(BATCH) % 2 == 0, answers, torch.arange(BATCH) % CLASSES)

    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        TEXTS[loss](model(**inputs).logits, labels).backward()
        optimizer.step()
    expected = {name: value.detach().clone() for name, value in model.named_parameters()}

    model.load_state_dict(start)
    data = [
        {**{key: values[row] for key, values in inputs.items()}, "labels": int(labels[row])} for row in range(BATCH)
    ]
    CalibrationTrainer(model=model, args=args, train_dataset=data).train()
    moved = [(value - start[name]).abs().max().item() for name, value in model.named_parameters()]
    assert max(moved) > 1e-3
    for name, value in model.named_parameters():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-4, atol=1e-4, msg=lambda text, at=name: f"{at}: {text}"
        )
